//! Flags of docker, buildah and podman that are taken so that their command lines work as they
//! stand.
//!
//! Those that can mean nothing here have no effect on the image; each that is given is reported
//! once. Those that would change the image or who can reach the machine are not here: they have an
//! effect, or are refused. `docs/compat.md` has a row for each.
//!
//! Source: docker build, docker buildx build, buildah build and podman build, their reference
//! pages.

use crate::cli::parse_args;
use crate::job::PullPolicy;

/// Flags of other programs, none of which changes what is built. Only `build` takes them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct NeighbourArgs {
    /// Remove intermediate containers: there are none
    #[arg(long, hide = true)]
    pub rm: bool,
    /// Remove intermediate containers always: there are none
    #[arg(long, hide = true)]
    pub force_rm: bool,
    /// Compress the context on its way to the daemon: there is no daemon
    #[arg(long, hide = true)]
    pub compress: bool,
    /// Stream the context to the daemon: there is no daemon
    #[arg(long, hide = true)]
    pub stream: bool,
    /// How steps are set apart
    #[arg(long, hide = true, value_name = "KIND")]
    pub isolation: Option<String>,
    /// Do not verify signatures: none are verified
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
    /// Builder instance: there is one
    #[arg(long, hide = true, value_name = "NAME")]
    pub builder: Option<String>,
    /// Parent control group of steps
    #[arg(long, hide = true, value_name = "GROUP")]
    pub cgroup_parent: Option<String>,
    /// Keep a layer for each instruction: they always are
    #[arg(long, hide = true)]
    pub layers: bool,
    /// Merge the new layers into one
    #[arg(long, hide = true)]
    pub squash: bool,
    /// Merge all layers into one
    #[arg(long, hide = true)]
    pub squash_all: bool,
    /// Leave out stages that the target does not need: they always are
    #[arg(long, hide = true)]
    pub skip_unused_stages: bool,
    /// Ask registries for base images always, as --pull=always
    #[arg(long, hide = true, conflicts_with_all = ["pull", "pull_never"])]
    pub pull_always: bool,
    /// Ask registries for base images never, as --pull=never
    #[arg(long, hide = true, conflicts_with = "pull")]
    pub pull_never: bool,
    /// How often a pull is tried again
    #[arg(long, hide = true, value_name = "NUMBER")]
    pub retry: Option<u32>,
    /// How long until a pull is tried again
    #[arg(long, hide = true, value_name = "DURATION")]
    pub retry_delay: Option<String>,
    /// Program that runs steps
    #[arg(long, hide = true, value_name = "PATH")]
    pub runtime: Option<String>,
    /// Flag of the program that runs steps
    #[arg(long, hide = true, value_name = "FLAG")]
    pub runtime_flag: Vec<String>,
    /// Pass the proxies of the environment to steps
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_args::truth)]
    pub http_proxy: Option<bool>,
    /// Check certificates of registries
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_args::truth)]
    pub tls_verify: Option<bool>,
}

impl NeighbourArgs {
    /// Returns the policy that buildah's flags name.
    pub(super) fn pull(&self) -> Option<PullPolicy> {
        match self {
            Self { pull_always: true, .. } => Some(PullPolicy::Always),
            Self { pull_never: true, .. } => Some(PullPolicy::Never),
            _ => None,
        }
    }

    /// Returns a sentence for each flag that is given and changes nothing.
    pub(super) fn notices(&self) -> Vec<String> {
        const NO_CONTAINERS: &str = "there are no intermediate containers";
        let isolation = self.isolation.as_deref();
        let is_other_isolation =
            isolation.is_some_and(|kind| !matches!(kind, "" | "default" | "oci" | "rootless"));
        let given = [
            (self.rm, "--rm", NO_CONTAINERS),
            (self.force_rm, "--force-rm", NO_CONTAINERS),
            (self.compress, "--compress", "the context is read where it is"),
            (self.stream, "--stream", "the context is read where it is"),
            (is_other_isolation, "--isolation", "steps run in namespaces of their own"),
            (
                self.disable_content_trust,
                "--disable-content-trust",
                "signatures of images are not verified",
            ),
            (
                self.builder.as_deref().is_some_and(|name| !matches!(name, "" | "default")),
                "--builder",
                "there are no builder instances",
            ),
            (
                self.cgroup_parent.is_some(),
                "--cgroup-parent",
                "steps have control groups below that of this program",
            ),
            (self.squash, "--squash", "the layers stay apart"),
            (self.squash_all, "--squash-all", "the layers stay apart"),
            (self.retry.is_some(), "--retry", "registries.toml says how often a pull is tried"),
            (
                self.retry_delay.is_some(),
                "--retry-delay",
                "registries.toml says how often a pull is tried",
            ),
            (self.runtime.is_some(), "--runtime", "this program runs the steps itself"),
            (!self.runtime_flag.is_empty(), "--runtime-flag", "this program runs the steps itself"),
            (
                self.http_proxy == Some(false),
                "--http-proxy=false",
                "proxies of the environment are not passed to steps anyhow",
            ),
        ];
        let given = given.into_iter().filter(|(is_given, ..)| *is_given);
        given.map(|(_, flag, why)| format!("{flag} has no effect: {why}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_reported_once_and_defaults_are_not() {
        let args = NeighbourArgs {
            rm: true,
            isolation: Some("default".into()),
            builder: Some("default".into()),
            layers: true,
            http_proxy: Some(true),
            ..NeighbourArgs::default()
        };
        assert_eq!(args.notices(), ["--rm has no effect: there are no intermediate containers"]);
    }
}
