//! `--output`: what is to become of an image, as people write it.
//!
//! Source: Docker's `buildx build --output` (comma-separated fields, its short forms); BuildKit's
//! exporters for the fields' names.

use super::annotation::{Annotation, AnnotationError, AnnotationTarget};
use crate::oci::{Platform, Reference};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// What to make.
    pub kind: OutputKind,
    /// Where to put it; `None` for the store, and for the Docker or Podman that is here.
    pub dest: Option<Dest>,
    /// Names for the image besides those of the build.
    pub names: Vec<Reference>,
    /// How to store its layers.
    pub layers: LayerOptions,
    /// Whether an OCI or Docker output is a tar or a directory.
    pub form: Form,
    /// Whether files go into a directory named after the platform, as `linux_amd64`; `None` where
    /// that is for the number of platforms to decide.
    pub is_split: Option<bool>,
    /// Whether, and how, an image goes to the registries of its names.
    pub push: Push,
    /// Whether the store keeps the image under its names.
    pub is_stored: bool,
    /// The name, before `@` and its digest, of an image that has no other.
    pub dangling_name: Option<Reference>,
    /// Annotations; of two for the same place, the last one counts.
    pub annotations: Vec<Annotation>,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970; filled in by the command line. Trees get it as
    /// the time of all files, images as the latest time of files where times are rewritten.
    pub epoch: Option<i64>,
}

/// What becomes of an image's names at their registries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Push {
    /// Whether it is pushed.
    pub is_wanted: bool,
    /// Whether it is pushed by its digest only, so that no tag moves.
    pub by_digest: bool,
    /// Whether the store has it by `name@digest` as well.
    pub has_canonical_name: bool,
}

/// What an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputKind {
    /// An OCI layout.
    Oci,
    /// What `docker load` reads.
    Docker,
    /// The files of the last stage, in a directory.
    Local,
    /// The files of the last stage, as a tar.
    Tar,
    /// An image of the store.
    Image,
    /// The cache only.
    CacheOnly,
}

impl OutputKind {
    /// Returns the name `type=` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::Docker => "docker",
            Self::Local => "local",
            Self::Tar => "tar",
            Self::Image => "image",
            Self::CacheOnly => "cacheonly",
        }
    }
}

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// The standard output.
    Stdout,
    /// A file or directory.
    Path(PathBuf),
}

/// Whether a layout is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One file.
    Tar,
    /// A directory.
    Dir,
}

/// How layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerOptions {
    /// The compression; `None` leaves it to the output's default.
    pub compression: Option<Compression>,
    /// Its level; `None` for its default one.
    pub level: Option<i32>,
    /// Whether layers that came compressed are made anew.
    pub is_forced: bool,
    /// Whether media types are OCI's; `None` leaves it to the output.
    pub oci_media_types: Option<bool>,
    /// Whether times of files after `SOURCE_DATE_EPOCH` are set to it; `None` where nothing was
    /// said.
    pub rewrites_times: Option<bool>,
}

/// A compression of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// None.
    Uncompressed,
    /// gzip, level 0 to 9.
    Gzip,
    /// zstd, level 0 to 22.
    Zstd,
    /// gzip in the form of eStargz, which some runtimes read file by file; level 0 to 9.
    Estargz,
}

/// An `--output` that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Malformed CSV.
    #[error("invalid output `{text}`: a quote is not closed")]
    Quote {
        /// What was given.
        text: String,
    },
    /// A part without `=`.
    #[error("invalid output field `{field}`: expected key=value")]
    NotAField {
        /// The part.
        field: String,
    },
    /// No `type=`.
    #[error(
        "output has no type: expected type=oci, docker, local, tar, image, registry or cacheonly"
    )]
    NoType,
    /// A `type=` we do not have.
    #[error(
        "unknown output type `{name}`: expected oci, docker, local, tar, image, registry or cacheonly"
    )]
    UnknownType {
        /// What was given.
        name: String,
    },
    /// A field we do not have.
    #[error("unknown field `{key}` for an output of type {kind}")]
    UnknownField {
        /// The field.
        key: String,
        /// The output's type.
        kind: &'static str,
    },
    /// A value that is no such thing.
    #[error("invalid value `{value}` for output field `{key}`: expected {expected}")]
    BadValue {
        /// The field.
        key: String,
        /// What was given.
        value: String,
        /// What would do.
        expected: String,
    },
    /// `dest=` is needed.
    #[error("output type {kind} needs dest=PATH")]
    NoDest {
        /// The output's type.
        kind: &'static str,
    },
    /// `dest=-` for a directory.
    #[error("output type {kind} cannot go to stdout: it is a directory")]
    DirectoryToStdout {
        /// The output's type.
        kind: &'static str,
    },
    /// An annotation that cannot be meant.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// Something that Docker's media types have no word for.
    #[error("{what} needs oci-mediatypes=true")]
    NeedsOci {
        /// What was asked for.
        what: &'static str,
    },
    /// An annotation of an index that is not made.
    #[error(
        "output type {kind} makes no index to annotate: an image of one platform has a manifest alone"
    )]
    NoIndex {
        /// The output's type.
        kind: &'static str,
    },
    /// Something that is not there yet.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
}

impl OutputSpec {
    /// Makes an output of a kind with every default.
    pub fn new(kind: OutputKind, dest: Option<Dest>) -> Self {
        Self {
            kind,
            dest,
            names: Vec::new(),
            layers: LayerOptions {
                compression: None,
                level: None,
                is_forced: false,
                oci_media_types: None,
                rewrites_times: None,
            },
            form: Form::Tar,
            push: Push::default(),
            is_stored: true,
            dangling_name: None,
            is_split: None,
            annotations: Vec::new(),
            epoch: None,
        }
    }

    /// Parses one `--output`: `type=oci,dest=out.tar`, a directory, or `-` for a tar on stdout.
    ///
    /// # Errors
    ///
    /// [`SpecError`] naming the field at fault.
    ///
    /// # Examples
    ///
    /// ```
    /// use builder::export::{OutputKind, OutputSpec};
    /// let spec = OutputSpec::parse("type=oci,dest=out.tar,compression=zstd")?;
    /// assert_eq!(spec.kind, OutputKind::Oci);
    /// # Ok::<(), builder::export::SpecError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.trim().is_empty() {
            return Err(SpecError::NoType);
        }
        let fields = split_csv(text)?;
        if let [one] = fields.as_slice()
            && !one.contains('=')
        {
            return Ok(match one.as_str() {
                "-" => Self::new(OutputKind::Tar, Some(Dest::Stdout)),
                dir => Self::new(OutputKind::Local, Some(Dest::Path(dir.into()))),
            });
        }
        let mut pairs = Vec::with_capacity(fields.len());
        for field in &fields {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| SpecError::NotAField { field: field.clone() })?;
            pairs.push((key.trim().to_ascii_lowercase(), key.trim(), value));
        }
        let name = pairs.iter().find(|(key, ..)| key == "type").map(|(.., value)| *value);
        let kind = match name.ok_or(SpecError::NoType)? {
            "oci" => OutputKind::Oci,
            "docker" => OutputKind::Docker,
            "local" => OutputKind::Local,
            "tar" => OutputKind::Tar,
            "image" | "registry" => OutputKind::Image,
            "cacheonly" => OutputKind::CacheOnly,
            other => return Err(SpecError::UnknownType { name: other.to_owned() }),
        };
        let mut spec = Self::new(kind, None);
        // BuildKit: an image that is pushed, by another name.
        spec.push.is_wanted = name == Some("registry");
        for (key, written, value) in &pairs {
            spec.field(key, written, value)?;
        }
        spec.check()?;
        Ok(spec)
    }

    fn field(&mut self, key: &str, written: &str, value: &str) -> Result<(), SpecError> {
        let is_image =
            matches!(self.kind, OutputKind::Oci | OutputKind::Docker | OutputKind::Image);
        match key {
            "type" => {}
            "dest" if self.kind != OutputKind::CacheOnly && !value.is_empty() => {
                self.dest =
                    Some(if value == "-" { Dest::Stdout } else { Dest::Path(value.into()) });
            }
            "name" if is_image => {
                for name in value.split(',').filter(|name| !name.is_empty()) {
                    let parsed = name.parse::<Reference>().ok().filter(|n| n.digest().is_none());
                    let name = parsed.ok_or_else(|| bad_value(key, name, "a name of an image"))?;
                    self.names.push(name.or_latest());
                }
            }
            "tar" if matches!(self.kind, OutputKind::Oci | OutputKind::Docker) => {
                self.form = if flag(key, value)? { Form::Tar } else { Form::Dir };
            }
            "platform-split" if matches!(self.kind, OutputKind::Local | OutputKind::Tar) => {
                self.is_split = Some(flag(key, value)?);
            }
            "compression" if is_image => {
                self.layers.compression = Some(match value {
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "uncompressed" => Compression::Uncompressed,
                    "estargz" => Compression::Estargz,
                    _ => return Err(bad_value(key, value, "gzip, zstd, estargz or uncompressed")),
                });
            }
            "compression-level" if is_image => {
                let level = value.parse().map_err(|_| bad_value(key, value, "a number"))?;
                self.layers.level = Some(level);
            }
            "force-compression" if is_image => self.layers.is_forced = flag(key, value)?,
            "oci-mediatypes" if is_image => {
                self.layers.oci_media_types = Some(flag(key, value)?);
            }
            // Images of the store are unpacked when a command needs their files.
            "unpack" if self.kind == OutputKind::Image => drop(flag(key, value)?),
            "store" if self.kind == OutputKind::Image => self.is_stored = flag(key, value)?,
            "dangling-name-prefix" if self.kind == OutputKind::Image => {
                let name = value.parse::<Reference>().ok();
                let name = name.filter(|name| name.tag().is_none() && name.digest().is_none());
                let name = name.ok_or_else(|| bad_value(key, value, "a name without a tag"))?;
                self.dangling_name = Some(name);
            }
            "push" if self.kind == OutputKind::Image => self.push.is_wanted = flag(key, value)?,
            "push-by-digest" if self.kind == OutputKind::Image => {
                self.push.by_digest = flag(key, value)?;
            }
            "name-canonical" if self.kind == OutputKind::Image => {
                self.push.has_canonical_name = flag(key, value)?;
            }
            "rewrite-timestamp" if is_image => {
                self.layers.rewrites_times = Some(flag(key, value)?);
            }
            _ if key.starts_with("annotation") && is_image => {
                let annotation = Annotation::of_field(written, value);
                self.annotations.push(annotation.ok_or_else(|| self.unknown(written))??);
            }
            _ => return Err(self.unknown(written)),
        }
        Ok(())
    }

    fn unknown(&self, key: &str) -> SpecError {
        SpecError::UnknownField { key: key.to_owned(), kind: self.kind.name() }
    }

    fn check(&mut self) -> Result<(), SpecError> {
        // As buildx: an archive without a place goes to stdout.
        let is_archive = matches!(self.kind, OutputKind::Oci | OutputKind::Tar);
        if self.dest.is_none() && is_archive && self.form == Form::Tar {
            self.dest = Some(Dest::Stdout);
        }
        let kind = self.kind.name();
        let is_directory = self.kind == OutputKind::Local || self.form == Form::Dir;
        // Docker's goes into the engine that is here, where no place is named.
        let is_loaded = self.kind == OutputKind::Docker && self.form == Form::Tar;
        let needs_dest =
            !is_loaded && !matches!(self.kind, OutputKind::Image | OutputKind::CacheOnly);
        match &self.dest {
            None if needs_dest => return Err(SpecError::NoDest { kind }),
            Some(Dest::Stdout) if is_directory => {
                return Err(SpecError::DirectoryToStdout { kind });
            }
            _ => {}
        }
        if let Some(level) = self.layers.level {
            let most = match self.layers.compression.unwrap_or(Compression::Gzip) {
                Compression::Gzip | Compression::Estargz => 9,
                Compression::Zstd => 22,
                Compression::Uncompressed => 0,
            };
            if !(0..=most).contains(&level) {
                let expected = format!("0 to {most}");
                return Err(bad_value("compression-level", &level.to_string(), &expected));
            }
        }
        self.check_media_types()?;
        Ok(())
    }

    /// Fills in the family of media types where the rest of the output leaves no choice.
    fn check_media_types(&mut self) -> Result<(), SpecError> {
        let what = match self.layers.compression {
            Some(Compression::Zstd) => "compression=zstd",
            Some(Compression::Estargz) => "compression=estargz",
            _ if !self.annotations.is_empty() => "an annotation",
            _ => return Ok(()),
        };
        match self.layers.oci_media_types.replace(true) {
            Some(false) => Err(SpecError::NeedsOci { what }),
            _ => Ok(()),
        }
    }

    /// Returns the platforms whose images are annotated by name, each once.
    pub fn annotated_platforms(&self) -> BTreeSet<&Platform> {
        self.annotations.iter().filter_map(|annotation| annotation.platform.as_ref()).collect()
    }

    /// Checks that what is said of an index is said where there is one; `has_index` says whether
    /// the image itself is one. An archive has one in any case: its own.
    ///
    /// # Errors
    ///
    /// [`SpecError::NoIndex`].
    pub fn check_index(&self, has_index: bool) -> Result<(), SpecError> {
        let has_own = matches!(self.kind, OutputKind::Oci | OutputKind::Docker);
        let is_lost = |annotation: &Annotation| match annotation.target {
            AnnotationTarget::Manifest | AnnotationTarget::ManifestDescriptor => false,
            AnnotationTarget::Index => !has_own,
            AnnotationTarget::IndexDescriptor => true,
        };
        match !has_index && self.annotations.iter().any(is_lost) {
            true => Err(SpecError::NoIndex { kind: self.kind.name() }),
            false => Ok(()),
        }
    }

    /// Adds annotations to an output that takes them.
    ///
    /// # Errors
    ///
    /// [`SpecError`] where the output's media types or its kind do not allow it.
    pub fn annotate(&mut self, annotations: &[Annotation]) -> Result<(), SpecError> {
        if matches!(self.kind, OutputKind::Local | OutputKind::Tar | OutputKind::CacheOnly) {
            return Ok(());
        }
        self.annotations.extend_from_slice(annotations);
        self.check()
    }
}

fn bad_value(key: &str, value: &str, expected: &str) -> SpecError {
    SpecError::BadValue {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn flag(key: &str, value: &str) -> Result<bool, SpecError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(bad_value(key, value, "true or false")),
    }
}

/// Splits one line of CSV: fields may be quoted, a doubled quote within quotes is one.
///
/// # Errors
///
/// [`SpecError`] for a quote that is not closed, or one within a field.
pub fn split_csv(text: &str) -> Result<Vec<String>, SpecError> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut is_quoted = false;
    let mut is_start = true;
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted => {
                if chars.next_if_eq(&'"').is_some() {
                    field.push('"');
                } else {
                    is_quoted = false;
                }
            }
            '"' if is_start => is_quoted = true,
            ',' if !is_quoted => {
                fields.push(std::mem::take(&mut field));
                is_start = true;
                continue;
            }
            c => field.push(c),
        }
        is_start = false;
    }
    if is_quoted {
        return Err(SpecError::Quote { text: text.to_owned() });
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_a_directory_and_a_tar_on_stdout() {
        let local = OutputSpec::parse("out").unwrap();
        assert_eq!((local.kind, local.dest), (OutputKind::Local, Some(Dest::Path("out".into()))));
        let tar = OutputSpec::parse("-").unwrap();
        assert_eq!((tar.kind, tar.dest), (OutputKind::Tar, Some(Dest::Stdout)));
    }

    #[test]
    fn fields_are_read_as_docker_writes_them() {
        let spec = OutputSpec::parse(
            "type=docker,\"name=a:1,b:2\",dest=x.tar,compression=zstd,compression-level=22,\
             force-compression=1,oci-mediatypes=t,rewrite-timestamp=true,annotation.Org.X=y=z,annotation-index.k=v",
        )
        .unwrap();
        assert_eq!(spec.kind, OutputKind::Docker);
        assert_eq!(spec.names.iter().map(Reference::familiar).collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(
            spec.layers,
            LayerOptions {
                compression: Some(Compression::Zstd),
                level: Some(22),
                is_forced: true,
                oci_media_types: Some(true),
                rewrites_times: Some(true),
            }
        );
        let annotations = Annotation::parse("Org.X=y=z").unwrap().into_iter();
        let annotations: Vec<_> =
            annotations.chain(Annotation::parse("index:k=v").unwrap()).collect();
        assert_eq!(spec.annotations, annotations);
        let dir = OutputSpec::parse("type=oci,dest=d,tar=false").unwrap();
        assert_eq!(dir.form, Form::Dir);
        assert!(OutputSpec::parse("type=image").unwrap().dest.is_none());
        let pushed = OutputSpec::parse("type=registry,name=a.example/b,push-by-digest=true");
        let push = Push { is_wanted: true, by_digest: true, has_canonical_name: false };
        assert_eq!(pushed.unwrap().push, push);
        assert!(OutputSpec::parse("type=image,push=true").unwrap().push.is_wanted);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        const CASES: &[(&str, &str)] = &[
            ("type=local", "needs dest=PATH"),
            ("type=oci,tar=false", "needs dest=PATH"),
            ("type=local,dest=-", "cannot go to stdout"),
            ("type=oci,tar=false,dest=-", "cannot go to stdout"),
            ("dest=x", "no type"),
            ("type=ocii,dest=x", "unknown output type `ocii`"),
            ("type=oci,dest=x,compresion=gzip", "unknown field `compresion`"),
            ("type=local,dest=x,compression=gzip", "unknown field `compression`"),
            ("type=oci,dest=x,compression=lz4", "expected gzip, zstd, estargz or uncompressed"),
            (
                "type=docker,dest=x,compression=zstd,oci-mediatypes=0",
                "zstd needs oci-mediatypes=true",
            ),
            (
                "type=docker,dest=x,annotation.a=b,oci-mediatypes=0",
                "annotation needs oci-mediatypes",
            ),
            ("type=oci,dest=x,annotation-config.a=b", "cannot annotate `config`"),
            ("type=oci,dest=x,annotation-manifest[a/b/c/d].a=b", "expected a platform"),
            ("type=oci,dest=x,annotation-manifest=b", "unknown field"),
            ("type=image,name=UPPER", "expected a name of an image"),
            ("type=oci,dest=x,platform-split=true", "unknown field `platform-split`"),
            ("type=oci,dest=x,compression-level=10", "expected 0 to 9"),
            ("type=oci,dest=x,tar=maybe", "expected true or false"),
            ("type=oci,x", "expected key=value"),
            ("type=oci,\"dest=x", "quote"),
            ("type=registry,push-by-digest=x", "expected true or false"),
            ("type=oci,dest=x,push=true", "unknown field `push`"),
        ];
        for (text, what) in CASES {
            let error = OutputSpec::parse(text).expect_err(text).to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
        // An archive has an index of its own; that of a store or registry is the image's.
        for (text, has_index, is_meant) in [
            ("type=image,annotation-index.a=b", false, false),
            ("type=image,annotation-index.a=b", true, true),
            ("type=oci,dest=x,annotation-index.a=b", false, true),
            ("type=oci,dest=x,annotation-index-descriptor.a=b", false, false),
        ] {
            let spec = OutputSpec::parse(text).unwrap();
            assert_eq!(spec.check_index(has_index).is_ok(), is_meant, "{text}, {has_index}");
        }
    }
}
