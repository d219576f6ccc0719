//! What `builder build` takes, in three groups: what is built, how steps run, where the result goes.
//!
//! `explain` has the first two, `check` the first. Both take the others too, hidden and without
//! effect, so that `build` can be replaced by them in a command line as it stands.

use super::attestations::AttestationArgs;
use super::neighbours::NeighbourArgs;
use super::on_error::OnErrorFlag;
use super::policy::PolicyArgs;
use crate::cli::check::Call;
use crate::cli::emulators::EmulatorArgs;
use crate::cli::limits::LimitArgs;
use crate::cli::parse_args;
use crate::cli::run::volume::{self, Volume};
use crate::cli::security::SecurityArgs;
use crate::job::PullPolicy;
use crate::oci::Platform;
use crate::progress::Mode;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::marker::PhantomData;
use std::path::PathBuf;

/// `builder build`: where to build, and how.
#[derive(Debug, Clone, Args)]
pub struct BuildCommand {
    /// Directory, git repository or archive to build from; - for a Dockerfile or a tar on standard
    /// input
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: String,
    /// What to do instead of building: check, outline or targets, as check,format=json
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub call: Call,
    /// Look for likely mistakes instead of building: --call=check
    #[arg(long, conflicts_with = "call")]
    pub check: bool,
    /// Form of the image in the store
    #[arg(long, hide = true, value_name = "oci|docker", value_parser = ["oci", "docker"])]
    pub format: Option<String>,
    /// What no other command does.
    #[command(flatten)]
    pub conduct: ConductArgs,
    /// What is built.
    #[command(flatten)]
    pub source: SourceArgs,
    /// The names of the result.
    #[command(flatten)]
    pub names: NameArgs,
    /// Where the result goes.
    #[command(flatten)]
    pub output: OutputArgs,
    /// How steps run.
    #[command(flatten)]
    pub steps: StepArgs,
    /// Flags of other programs.
    #[command(flatten)]
    pub neighbours: NeighbourArgs,
}

/// How a build is conducted.
#[derive(Debug, Clone, Args)]
pub struct ConductArgs {
    /// When to ask registries for base images: always (the default of --pull alone), missing, newer
    /// or never
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true, default_value = "missing", hide_default_value = true, default_missing_value = "always", value_parser = parse_args::pull_policy)]
    pub pull: PullPolicy,
    /// How to show progress: auto, tty, plain, rawjson, quiet or none
    #[arg(long, value_name = "MODE", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: Mode,
    /// Print nothing but the image's digest
    #[arg(short, long)]
    pub quiet: bool,
    /// What a RUN step that fails leaves: nothing (fail), a shell in its files, or an image of them
    /// (keep)
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub on_error: OnErrorFlag,
}

/// What is built.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What is built")]
pub struct SourceArgs {
    /// Dockerfile [default: PATH/Dockerfile]; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Ignore file, in place of .dockerignore
    #[arg(long, hide = true, value_name = "FILE")]
    pub ignorefile: Option<PathBuf>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value of an ARG; the environment's where no value is given
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Directory, image or OCI layout to be had under a name
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_args::full_pair)]
    pub build_context: Vec<(String, String)>,
    /// Platforms to build for, as linux/amd64,linux/arm64; several make an index
    #[arg(long, value_name = "PLATFORM", env = "DOCKER_DEFAULT_PLATFORM")]
    pub platform: Vec<String>,
    /// Architecture to build for
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "platform")]
    pub arch: Option<String>,
    /// Operating system to build for
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "platform")]
    pub os: Option<String>,
    /// Variant of the architecture to build for
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "platform")]
    pub variant: Option<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_args::pair)]
    pub label: Vec<(String, String)>,
    /// Secret for RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=PATH|,env=NAME]", value_parser = parse_args::secret)]
    pub secret: Vec<parse_args::SecretFlag>,
    /// Agent or keys for RUN --mount=type=ssh
    #[arg(long, value_name = "default|ID[=SOCKET|KEY[,KEY]]", value_parser = parse_args::ssh)]
    pub ssh: Vec<parse_args::SshFlag>,
    /// Leave write permission of group and others out of the modes of context files
    #[arg(long)]
    pub normalize_modes: bool,
    /// Time of the image, in seconds since 1970, and the latest time of files in its new layers
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<i64>,
    /// Rules on what is read from elsewhere.
    #[command(flatten)]
    pub policy: PolicyArgs,
}

impl SourceArgs {
    /// Returns the platform that `--os`, `--arch` and `--variant` name, if any of them is given.
    pub(super) fn platform_of_parts(&self) -> Option<String> {
        let given = [&self.os, &self.arch, &self.variant];
        if given.iter().all(|part| part.is_none()) {
            return None;
        }
        let host = Platform::host();
        let os = self.os.clone().unwrap_or(host.os);
        // A variant belongs to an architecture: that of another does not.
        let architecture = self.arch.clone().unwrap_or(host.architecture);
        let variant = self.variant.iter().map(|variant| format!("/{variant}"));
        Some(format!("{os}/{architecture}{}", variant.collect::<String>()))
    }
}

/// How steps run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "How steps run")]
pub struct StepArgs {
    /// Network of RUN steps: default, none or host; default:host-loopback reaches the host's
    /// loopback at 10.0.2.2
    #[arg(long, value_name = "MODE", default_value = "default", value_parser = parse_args::network)]
    pub network: parse_args::NetworkFlag,
    /// Run every step, whatever the cache has
    #[arg(long)]
    pub no_cache: bool,
    /// Run every step of these stages
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Keep what is in cache mounts, which --no-cache and --no-cache-filter empty
    #[arg(long)]
    pub keep_cache_mounts: bool,
    /// Line for /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = parse_args::host)]
    pub add_host: Vec<(String, String)>,
    /// Host name in RUN steps
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Directory or file of this machine to mount in every RUN; what commands read there is no part
    /// of cache keys
    #[arg(short, long, value_name = "SRC:DST[:ro]", value_parser = volume::volume)]
    pub volume: Vec<Volume>,
    /// What steps may ask for: network.host, security.insecure
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// How many steps may run at once
    #[arg(long, visible_alias = "jobs", value_name = "NUMBER")]
    pub max_parallelism: Option<usize>,
    /// Memory of all RUN steps that run at once: each reserves its --memory, or all without one
    #[arg(long, value_name = "BYTES", value_parser = parse_args::bytes)]
    pub build_memory: Option<u64>,
    /// Cache of another machine to look steps up in: type=local,src=DIR
    #[arg(long, value_name = "SPEC")]
    pub cache_from: Vec<String>,
    /// What runs programs of other processors
    #[command(flatten)]
    pub emulators: EmulatorArgs,
    /// Limits of each step
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Confinement of each step
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// The names of the result.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Where the result goes")]
pub struct NameArgs {
    /// Name of the image, as name:tag; may be repeated
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Name of an index, which is made for a single platform too
    #[arg(long, value_name = "NAME")]
    pub manifest: Option<String>,
}

/// Where the result goes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Where the result goes")]
pub struct OutputArgs {
    /// Annotation of the image, or of another part of an output:
    /// [index:|manifest-descriptor:]NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Where the result goes: type=oci|docker|local|tar,dest=…; a directory, or - for a tar
    #[arg(short, long, value_name = "SPEC")]
    pub output: Vec<String>,
    /// Load the image into the Docker or Podman that is here: --output type=docker
    #[arg(long)]
    pub load: bool,
    /// Push the image to the registries of its names: short for -o type=registry
    #[arg(long)]
    pub push: bool,
    /// Where to keep the cache for other machines: type=local,dest=DIR[,mode=max]
    #[arg(long, value_name = "SPEC")]
    pub cache_to: Vec<String>,
    /// File to write the image's digest to
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// File to write facts about the build to, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Export the image even where a secret's value is found in it
    #[arg(long)]
    pub allow_secret_in_image: bool,
    /// Attestations.
    #[command(flatten)]
    pub attestations: AttestationArgs,
}

/// Flags of `build` that mean nothing to a command: taken, with values that are checked, and not
/// shown.
#[derive(Debug, Clone)]
pub struct Unused<T>(PhantomData<T>);

impl<T: Args> Args for Unused<T> {
    fn augment_args(command: Command) -> Command {
        let group = T::augment_args(Command::new(""));
        command.args(group.get_arguments().map(|arg| arg.clone().hide(true)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T> FromArgMatches for Unused<T> {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(PhantomData))
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Ok(())
    }
}
