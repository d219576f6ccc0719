//! The flags of kaniko's executor, as its `README.md` and `cmd/executor/cmd/root.go` have them.

use crate::cli::parse_args;
use clap::Args;
use std::path::PathBuf;

/// What `builder kaniko` takes. `docs/kaniko.md` has a row for each flag.
#[derive(Debug, Clone, Default, Args)]
pub struct KanikoArgs {
    /// Context: a directory, dir://, tar:// (tar://stdin too), git:// or https://
    #[arg(short, long, value_name = "CONTEXT", default_value = "/workspace/")]
    pub context: String,
    /// Bucket with the context
    #[arg(short, long, hide = true, value_name = "BUCKET")]
    pub bucket: Option<String>,
    /// How much the program says: BUILDKIT_PROGRESS says how progress is shown
    #[arg(short, long, hide = true, value_name = "LEVEL")]
    pub verbosity: Option<String>,
    /// Directory within the context
    #[arg(long, value_name = "PATH")]
    pub context_sub_path: Option<String>,
    /// Dockerfile: a path, or one within the context
    #[arg(short = 'f', long, value_name = "FILE", default_value = "Dockerfile")]
    pub dockerfile: String,
    /// Name to push the image as, for each destination once
    #[arg(short, long, value_name = "NAME")]
    pub destination: Vec<String>,
    /// Build, and push nothing
    #[arg(long)]
    pub no_push: bool,
    /// Value of an ARG
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Platform to build for
    #[arg(long, alias = "customPlatform", value_name = "PLATFORM")]
    pub custom_platform: Option<String>,
    /// Write the image to this archive too
    #[arg(long, alias = "tarPath", value_name = "FILE")]
    pub tar_path: Option<String>,
    /// Write the image to this OCI layout too
    #[arg(long, value_name = "DIR")]
    pub oci_layout_path: Option<String>,
    /// Write the image's digest to this file
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// Write the image's name and digest to this file
    #[arg(long, value_name = "FILE")]
    pub image_name_with_digest_file: Option<PathBuf>,
    /// Write the image's name, tag and digest to this file
    #[arg(long, value_name = "FILE")]
    pub image_name_tag_with_digest_file: Option<PathBuf>,
    /// Leave all times out of the image
    #[arg(long)]
    pub reproducible: bool,
    /// Compression of new layers: gzip or zstd
    #[arg(long, value_name = "KIND")]
    pub compression: Option<String>,
    /// Level of the compression
    #[arg(long, value_name = "NUMBER")]
    pub compression_level: Option<i32>,
    /// Look steps up in the store's cache: they are, unless this is false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_args::truth)]
    pub cache: Option<bool>,
    /// Repository of cached layers
    #[arg(long, value_name = "NAME")]
    pub cache_repo: Option<String>,
    /// Branch and submodules of a git context, as branch=NAME,recurse-submodules=true
    #[arg(long, value_name = "OPTIONS")]
    pub git: Vec<String>,
    /// Registries, and how they are reached.
    #[command(flatten)]
    pub registries: RegistryArgs,
    /// What has no meaning here.
    #[command(flatten)]
    pub ineffective: IneffectiveArgs,
}

/// How registries are reached.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArgs {
    /// Take any certificate of the destinations' registries, and plain HTTP
    #[arg(long)]
    pub insecure: bool,
    /// Take any certificate of the destinations' registries
    #[arg(long)]
    pub skip_tls_verify: bool,
    /// Take any certificate of all registries, and plain HTTP
    #[arg(long)]
    pub insecure_pull: bool,
    /// Take any certificate of all registries
    #[arg(long)]
    pub skip_tls_verify_pull: bool,
    /// Registry of which any certificate is taken, and plain HTTP
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Registry of which any certificate is taken
    #[arg(long, value_name = "HOST")]
    pub skip_tls_verify_registry: Vec<String>,
    /// Certificate of a registry's authority
    #[arg(long, value_name = "HOST=FILE")]
    pub registry_certificate: Vec<String>,
    /// Certificate and key to show a registry
    #[arg(long, value_name = "HOST=CERT,KEY")]
    pub registry_client_cert: Vec<String>,
    /// Registry to ask for the images of docker.io first
    #[arg(long, value_name = "HOST", env = "KANIKO_REGISTRY_MIRROR")]
    pub registry_mirror: Vec<String>,
    /// Registry to ask for the images of another first, as docker.io=mirror.example;…
    #[arg(long, value_name = "HOST=HOST", env = "KANIKO_REGISTRY_MAP", value_delimiter = ';')]
    pub registry_map: Vec<String>,
    /// Ask mirrors only
    #[arg(long)]
    pub skip_default_registry_fallback: bool,
    /// How often a push is tried again
    #[arg(long, value_name = "NUMBER")]
    pub push_retry: Option<u32>,
    /// How often a pull is tried again
    #[arg(long, value_name = "NUMBER")]
    pub image_download_retry: Option<u32>,
}

/// Defines flags that are taken and change nothing, with a list of those that are given.
macro_rules! ineffective {
    ($($name:ident $(($alias:literal))?: $reason:literal;)+) => {
        /// Flags about kaniko's own way of working.
        #[derive(Debug, Clone, Default, Args)]
        pub struct IneffectiveArgs {
            $(
                #[arg(long, hide = true, num_args = 0..=1, require_equals = false, default_missing_value = "true" $(, alias = $alias)?)]
                $name: Option<String>,
            )+
        }

        impl IneffectiveArgs {
            /// Returns the flags that are given, each with why it changes nothing.
            pub(super) fn given(&self) -> Vec<(String, &'static str)> {
                let all = [$((self.$name.is_some(), stringify!($name), $reason)),+];
                let given = all.into_iter().filter(|(is_given, ..)| *is_given);
                given.map(|(_, name, reason)| (format!("--{}", name.replace('_', "-")), reason)).collect()
            }
        }
    };
}

ineffective! {
    cache_copy_layers: "all steps are cached";
    cache_dir: "base images are in the store";
    cache_run_layers: "all steps are cached";
    cache_ttl: "`builder prune --filter until=24h` removes what is old";
    cleanup: "the container's files are left alone";
    compressed_caching: "layers are cached as they are";
    credential_helpers: "docker's configuration names them";
    force: "the container's files are left alone";
    force_build_metadata: "metadata makes no layers";
    ignore_path: "a layer has what its step changed, and nothing of the container";
    ignore_var_run: "a layer has what its step changed, and nothing of the container";
    image_fs_extract_retry: "layers are unpacked once they are whole";
    kaniko_dir: "the store is --root";
    log_format: "BUILDKIT_PROGRESS says how progress is shown";
    log_timestamp: "BUILDKIT_PROGRESS says how progress is shown";
    no_push_cache: "no cached layers are pushed";
    push_ignore_immutable_tag_errors: "an error of a push ends the build";
    preserve_context: "the container's files are left alone";
    single_snapshot: "the layers of the steps stay apart";
    skip_push_permission_check: "a push is not tried before the build";
    skip_unused_stages: "stages that the target does not need are always left out";
    snapshot_mode ("snapshotMode"): "what a step changed is known without a search";
    use_new_run: "what a step changed is known without a search";
    whitelist_var_run: "a layer has what its step changed, and nothing of the container";
}
