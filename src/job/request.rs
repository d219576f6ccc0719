//! What is asked of a job: what is built, how steps run, where the result goes.
//!
//! Plain data. A front end makes it of what its user said: values are checked, the environment has
//! been read, defaults are filled in. Paths that messages repeat are as the user wrote them, and
//! relative ones start at the working directory.

use super::on_error::OnError;
use super::resolve::NamedContext;
use crate::context::remote::Access;
use crate::dockerfile::address::{Address, Login};
use crate::export::{CacheFrom, CacheTo, OutputKind, OutputSpec};
use crate::oci::{Platform, Reference};
use crate::plan::{Mount, NoCache};
use crate::policy::Policies;
use crate::sandbox::{
    self, Agent, Confinement, Emulators, IdMap, NetworkMode, NetworkOptions, SandboxPolicy,
};
use crate::solve::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A build as it is meant.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// What is built.
    pub source: SourceSpec,
    /// How steps run.
    pub steps: StepSpec,
    /// Where the result goes.
    pub delivery: DeliverySpec,
    /// Whether registries must prove who they are: false for any certificate, and plain HTTP.
    pub verifies_tls: bool,
}

impl BuildRequest {
    /// Asks for a build of `context` as `docker build` would do it: of its Dockerfile, for this
    /// machine's platform, with the cache, into the store, without a name.
    pub fn new(context: impl Into<String>) -> Self {
        Self {
            source: SourceSpec::new(context),
            steps: StepSpec::default(),
            delivery: DeliverySpec::default(),
            verifies_tls: true,
        }
    }
}

/// When registries are asked for base images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// For what the store does not have.
    #[default]
    Missing,
    /// For all.
    Always,
    /// Never: what the store does not have is an error.
    Never,
}

/// What is built.
#[derive(Debug, Clone, Default)]
pub struct SourceSpec {
    /// A directory, or the address of a git repository or an archive; `-` for a Dockerfile or an
    /// archive on standard input.
    pub context: String,
    /// The Dockerfile: a path, an address, or `-` for standard input. `None` for the context's own.
    pub dockerfile: Option<String>,
    /// The ignore file, in place of the context's and the Dockerfile's.
    pub ignore_file: Option<PathBuf>,
    /// Values of ARG.
    pub build_args: BTreeMap<String, String>,
    /// Further contexts and images by the names under which they are looked up: see
    /// [`context_name`](super::resolve::context_name).
    pub contexts: BTreeMap<String, NamedContext>,
    /// The stage to build; `None` for the last.
    pub target: Option<String>,
    /// What to build for, each once; none for this machine.
    pub platforms: Vec<Platform>,
    /// Whether the result is an index: always where there are several platforms.
    pub has_index: bool,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// When registries are asked for base images.
    pub pull: PullPolicy,
    /// Whether a context that is a git repository keeps its `.git`.
    pub keeps_git_dir: bool,
    /// Whether write permission of group and others is left out of the modes of context files.
    pub normalizes_modes: bool,
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// Credentials of git and http sources.
    pub access: Access,
    /// Rules on what is read from elsewhere.
    pub policies: Policies,
    /// Whether a policy in Rego beside the Dockerfile is passed over; it cannot be evaluated.
    pub ignores_rego: bool,
    /// Ssh agents by their ids.
    pub ssh: BTreeMap<String, Agent>,
    /// `SOURCE_DATE_EPOCH`: the time of the image, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Whether the time of the image is that of the context; see
    /// [`Loaded::epoch`](super::Loaded::epoch).
    pub has_epoch_of_context: bool,
    /// What the git repository around a context that is a directory says of the build.
    pub git: GitFacts,
    /// The build's name in the history; `None` for one that its context gives it.
    pub build_name: Option<String>,
}

/// What is taken from the git repository around a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GitFacts {
    /// Whether the image gets labels: commit, repository, Dockerfile.
    pub sets_labels: bool,
    /// Whether the history has repository and commit.
    pub is_recorded: bool,
    /// Whether it is looked for changes that are not committed.
    pub checks_dirty: bool,
}

impl Default for GitFacts {
    /// As buildx without its variables.
    fn default() -> Self {
        Self { sets_labels: false, is_recorded: true, checks_dirty: false }
    }
}

impl SourceSpec {
    /// The Dockerfile of a context, with nothing else given.
    pub fn new(context: impl Into<String>) -> Self {
        Self { context: context.into(), ..Self::default() }
    }

    /// Returns the credentials that stand in the addresses of contexts and proxies: where, and the
    /// secret.
    pub(super) fn credentials(&self) -> Vec<(String, String)> {
        let mut addresses = vec![Address::parse(&self.context)];
        addresses.extend(self.contexts.values().filter_map(|context| match context {
            NamedContext::Remote(address) => Some(address.clone()),
            _ => None,
        }));
        let is_proxy = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
        let proxies = self.build_args.iter().filter(|(name, _)| is_proxy(name));
        addresses.extend(proxies.map(|(_, value)| Address::parse(value)));
        let mut all = Vec::new();
        for Address { text, login } in addresses {
            let secrets = login.iter().flat_map(Login::secrets);
            all.extend(secrets.map(|secret| (text.clone(), secret)));
        }
        all
    }
}

/// How steps run. None of it is part of a key, but what `no_cache` and `caches` say decides which
/// steps run.
#[derive(Debug, Clone)]
pub struct StepSpec {
    /// Network, limits and confinement of steps. Its network is what `--network=default` means.
    pub policy: SandboxPolicy,
    /// How ids inside map to the host's; `None` for commands that have the builder's own.
    pub idmap: Option<IdMap>,
    /// How strongly commands are confined.
    pub confinement: Confinement,
    /// What a private network lets through.
    pub network: NetworkOptions,
    /// Where emulators for other processors are looked for.
    pub emulators: Emulators,
    /// What steps may ask for: `network.host`, `security.insecure`.
    pub allow: BTreeSet<String>,
    /// What every RUN sees of this machine.
    pub volumes: Vec<Mount>,
    /// Which steps run whatever the cache has.
    pub no_cache: NoCache,
    /// Whether cache mounts of steps that must not be taken from the cache keep their contents.
    pub keeps_cache_mounts: bool,
    /// Caches of other machines to look steps up in, with absolute paths.
    pub caches: Vec<CacheFrom>,
    /// How many steps may run at once; `None` for four for each thread.
    pub parallelism: Option<usize>,
    /// How much memory the commands that run at one time may use together, in bytes.
    pub memory_budget: Option<u64>,
    /// What a RUN step that fails leaves.
    pub on_error: OnError,
    /// The `builder` program, which is started to run commands; `None` for the running program,
    /// which must then begin as [`crate::cli::main`] does.
    pub program: Option<PathBuf>,
    /// How much of the store's disk is left to others.
    pub disk: DiskPolicy,
}

impl Default for StepSpec {
    /// Docker's: a private network, ids of their own, the cache, nothing allowed beyond that.
    fn default() -> Self {
        let policy = SandboxPolicy { network: NetworkMode::Private, ..SandboxPolicy::default() };
        Self {
            policy,
            idmap: Some(sandbox::choose_map(None)),
            confinement: Confinement::default(),
            network: NetworkOptions::default(),
            emulators: Emulators::default(),
            allow: BTreeSet::new(),
            volumes: Vec::new(),
            no_cache: NoCache::Never,
            keeps_cache_mounts: false,
            caches: Vec::new(),
            parallelism: None,
            memory_budget: None,
            on_error: OnError::Fail,
            program: None,
            disk: DiskPolicy::default(),
        }
    }
}

/// How much of the store's disk builds leave to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPolicy {
    /// Whether cache is collected after a build.
    pub collects: bool,
    /// Bytes of cache that stay; `None` for a share of the disk.
    pub keep: Option<u64>,
    /// Bytes of the disk that stay free; `None` for a share of it.
    pub min_free: Option<u64>,
}

impl Default for DiskPolicy {
    fn default() -> Self {
        Self { collects: true, keep: None, min_free: None }
    }
}

/// Where the result goes.
#[derive(Debug, Clone)]
pub struct DeliverySpec {
    /// Names of the image, each with a tag.
    pub tags: Vec<Reference>,
    /// What to make of the image. Without any, it goes into the store.
    pub outputs: Vec<OutputSpec>,
    /// How the image goes into the store where no output says so.
    pub store_output: OutputSpec,
    /// Caches to write for other machines, with absolute paths.
    pub caches: Vec<CacheTo>,
    /// File to write the image's id to.
    pub id_file: Option<PathBuf>,
    /// File to write facts about the build to, as JSON.
    pub metadata_file: Option<PathBuf>,
    /// Whether that file has the warnings about the Dockerfile.
    pub metadata_has_warnings: bool,
    /// Whether the image is exported even if a secret's value is found in it.
    pub allows_secrets: bool,
    /// Whether the image's id is all that is shown: then it is made without a name too, and a
    /// warning that its platform is not the wanted one goes to [`Caller::warn`](super::Caller::warn).
    pub shows_only_id: bool,
}

impl Default for DeliverySpec {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            outputs: Vec::new(),
            store_output: OutputSpec::new(OutputKind::Image, None),
            caches: Vec::new(),
            id_file: None,
            metadata_file: None,
            metadata_has_warnings: false,
            allows_secrets: false,
            shows_only_id: false,
        }
    }
}

impl DeliverySpec {
    /// Returns what the image is put out as. Without any output, and for a name that no output
    /// gives it, it goes into the store.
    pub fn all_outputs(&self) -> impl Iterator<Item = &OutputSpec> {
        let wants_store = self.outputs.is_empty()
            || !self.tags.is_empty()
                && self.outputs.iter().all(|spec| spec.kind != OutputKind::Image);
        self.outputs.iter().chain(wants_store.then_some(&self.store_output))
    }

    /// Says whether there is an image to make. As docker, podman and buildah do, a build keeps what
    /// it made without a name, too; with `type=cacheonly` alone it keeps the cache.
    pub(super) fn wants_image(&self) -> bool {
        self.all_outputs().any(|spec| spec.kind != OutputKind::CacheOnly)
            || self.id_file.is_some()
            || self.metadata_file.is_some()
            || self.shows_only_id
    }
}
