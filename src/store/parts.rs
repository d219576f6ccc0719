//! The directories and files of a store: each one's name, format, purpose and garbage collection
//! class, in one place.
//!
//! A path in a store starts from a [`StorePart`]; no other file spells these names. The table of
//! `docs/store.md` lists the same, which a test compares.

use super::Store;
use std::path::{Path, PathBuf};

/// A directory or file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorePart {
    /// The store's own format.
    Version,
    /// How layers say what overlay and owners need.
    LayerForm,
    /// What makes it an OCI image layout.
    OciLayout,
    /// Names of images.
    Index,
    /// Documents and packed layers.
    Blobs,
    /// Block indexes of compressed layers.
    Blocks,
    /// Unpacked layers.
    Layers,
    /// Layers by `diff_id`.
    Diffs,
    /// Layers by chain id.
    Chains,
    /// Results of steps.
    Records,
    /// Listings of what COPY read.
    Trees,
    /// What COPY took last.
    Copies,
    /// Fingerprints of contexts.
    Fingerprints,
    /// Downloaded sources.
    Downloads,
    /// What tags of registries meant.
    Remotes,
    /// Which repositories have a blob.
    Origins,
    /// The history.
    Builds,
    /// Cache mounts of RUN.
    Mounts,
    /// What repairs set aside.
    Damaged,
    /// The size of the cache.
    Usage,
    /// Work in progress.
    Tmp,
    /// Lock files.
    Locks,
}

/// When garbage collection removes what is in a part of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcClass {
    /// Never.
    Kept,
    /// Once the process that made it is gone.
    Session,
    /// The least recently used first, unless a named image reaches it.
    Result,
    /// Only where everything is asked for; then as results.
    OnRequest,
    /// With the layer that it leads to.
    Pointer,
    /// 30 days after its last use.
    Evidence,
    /// All but the newest 200 builds, and those after 90 days.
    History,
}

impl StorePart {
    /// All parts, in the order of the documentation.
    pub const ALL: [Self; 22] = [
        Self::Version,
        Self::LayerForm,
        Self::OciLayout,
        Self::Index,
        Self::Blobs,
        Self::Blocks,
        Self::Layers,
        Self::Diffs,
        Self::Chains,
        Self::Records,
        Self::Trees,
        Self::Copies,
        Self::Fingerprints,
        Self::Downloads,
        Self::Remotes,
        Self::Origins,
        Self::Builds,
        Self::Mounts,
        Self::Damaged,
        Self::Usage,
        Self::Tmp,
        Self::Locks,
    ];

    /// Returns the path from the store's root.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::LayerForm => "form",
            Self::OciLayout => "oci-layout",
            Self::Index => "index.json",
            Self::Blobs => "blobs/sha256",
            Self::Blocks => "blocks",
            Self::Layers => "layers",
            Self::Diffs => "diffs",
            Self::Chains => "chains",
            Self::Records => "records",
            Self::Trees => "trees",
            Self::Copies => "copies",
            Self::Fingerprints => "context",
            Self::Downloads => "context/http",
            Self::Remotes => "remotes",
            Self::Origins => "remotes/blobs",
            Self::Builds => "builds",
            Self::Mounts => "mounts",
            Self::Damaged => "damaged",
            Self::Usage => "usage",
            Self::Tmp => "tmp",
            Self::Locks => "locks",
        }
    }

    /// Returns the number of the newest format that this program reads and writes there.
    pub const fn version(self) -> u32 {
        match self {
            // Layers: 2 for those that are kept as a difference. Records: see `cache`.
            Self::Layers | Self::Records => 2,
            _ => 1,
        }
    }

    /// Says what is there, in a few words for people.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Version => "format and number of the store",
            Self::LayerForm => "how layers mark deletions and note owners",
            Self::OciLayout => "makes the store an OCI image layout",
            Self::Index => "names of images, and the manifests that they name",
            Self::Blobs => "manifests, configs, packed layers",
            Self::Blocks => "which blocks a compressed layer has: an export makes only new ones",
            Self::Layers => "layers, unpacked, with what is known of them",
            Self::Diffs => "the layer that a tar was unpacked to",
            Self::Chains => "the layer that completes a chain: interning",
            Self::Records => "results of steps, with their inputs and cost",
            Self::Trees => "listings of what COPY steps read",
            Self::Copies => "what a large COPY took last",
            Self::Fingerprints => "fingerprints of the files of contexts",
            Self::Downloads => "downloaded sources",
            Self::Remotes => "what the tags of registries meant last",
            Self::Origins => "repositories that have a blob",
            Self::Builds => "what each build did, for `builder explain`",
            Self::Mounts => "cache mounts of RUN",
            Self::Damaged => "what `builder store verify --repair` set aside",
            Self::Usage => "bytes of cache, as counted last",
            Self::Tmp => "work in progress",
            Self::Locks => "advisory locks and leases",
        }
    }

    /// Returns when garbage collection removes what is there.
    pub const fn class(self) -> GcClass {
        match self {
            Self::Version
            | Self::LayerForm
            | Self::OciLayout
            | Self::Index
            | Self::Usage
            | Self::Locks => GcClass::Kept,
            Self::Tmp => GcClass::Session,
            Self::Blobs | Self::Layers | Self::Damaged => GcClass::Result,
            Self::Mounts | Self::Downloads => GcClass::OnRequest,
            Self::Blocks | Self::Diffs | Self::Chains | Self::Copies => GcClass::Pointer,
            Self::Records | Self::Trees | Self::Fingerprints | Self::Remotes | Self::Origins => {
                GcClass::Evidence
            }
            Self::Builds => GcClass::History,
        }
    }

    /// Returns [`name`](Self::name) as a path.
    pub fn path(self) -> &'static Path {
        Path::new(self.name())
    }

    /// Returns the path of something in this directory, from the store's root.
    pub fn entry(self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Returns the path of something that is filed under hexadecimal digits, from the store's root:
    /// `<part>/<first two>/<all>`.
    pub fn fan_out(self, hex: &str) -> PathBuf {
        self.path().join(&hex[..2]).join(hex)
    }

    /// Returns the part's directory or file in a store that is not open.
    pub fn in_root(self, root: &Path) -> PathBuf {
        root.join(self.name())
    }

    /// Returns the first component of the name: what stands in the store's root.
    pub(super) fn top(self) -> &'static str {
        self.name().split('/').next().unwrap_or(self.name())
    }

    /// Whether other users' files there would be trusted: they run, and become images.
    pub(super) const fn is_trusted(self) -> bool {
        matches!(
            self,
            Self::Blobs
                | Self::Layers
                | Self::Diffs
                | Self::Chains
                | Self::Records
                | Self::Trees
                | Self::Tmp
                | Self::Mounts
        )
    }

    /// Whether a new store has the directory; the others are made when they are first needed.
    pub(super) const fn is_made_first(self) -> bool {
        matches!(
            self,
            Self::Blobs
                | Self::Layers
                | Self::Diffs
                | Self::Chains
                | Self::Records
                | Self::Trees
                | Self::Fingerprints
                | Self::Builds
                | Self::Mounts
                | Self::Tmp
                | Self::Locks
        )
    }
}

impl GcClass {
    /// Says when that is, as the documentation does.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Kept => "never",
            Self::Session => "when its process is gone",
            Self::Result => "least recently used first; what a named image reaches stays",
            Self::OnRequest => "by `prune --all`, least recently used first",
            Self::Pointer => "with the layer it leads to",
            Self::Evidence => "30 days after its last use",
            Self::History => "all but the newest 200 builds, and those after 90 days",
        }
    }
}

impl Store {
    /// Returns the absolute path of a part.
    pub fn place(&self, part: StorePart) -> PathBuf {
        part.in_root(self.root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(page: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap()
    }

    #[test]
    fn the_table_of_the_documentation_lists_the_parts_of_the_store() {
        let page = read("docs/store.md");
        let (_, section) = page.split_once("\n## Its parts\n").expect("store.md has the section");
        let rows = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let rows: Vec<&str> = rows.take_while(|line| line.starts_with('|')).collect();
        let expected = StorePart::ALL.map(|part| {
            let (name, class) = (part.name(), part.class().describe());
            format!("| `{name}` | {} | {} | {class} |", part.version(), part.purpose())
        });
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_drawing_of_the_architecture_page_has_every_part() {
        let page = read("docs/architecture.md");
        let (_, section) = page.split_once("\n## The store on disk\n").unwrap();
        let drawn: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("    "))
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.split('/').next())
            .collect();
        for part in StorePart::ALL {
            assert!(drawn.contains(&part.top()), "{} is not drawn", part.name());
        }
    }

    #[test]
    fn every_part_is_listed_once() {
        let mut names = StorePart::ALL.map(StorePart::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), StorePart::ALL.len());
    }
}
