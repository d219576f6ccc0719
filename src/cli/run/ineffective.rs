//! Flags of `docker run` and `podman run` that are taken so that their command lines work as they
//! stand, although what they ask for has no meaning for a command that leaves no container behind.

use clap::Args;

/// Flags without effect; hidden in the help.
#[derive(Debug, Clone, Args)]
pub struct IneffectiveArgs {
    /// Label of the container
    #[arg(short, long, hide = true, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// File of labels
    #[arg(long, hide = true, value_name = "FILE")]
    label_file: Vec<String>,
    /// Annotation for the runtime
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Where an engine keeps the output
    #[arg(long, hide = true, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// How an engine keeps the output
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// Streams to attach
    #[arg(short, long, hide = true, value_name = "STREAM")]
    attach: Vec<String>,
    /// Pass signals on
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: Option<String>,
    /// Do not check the container's health
    #[arg(long, hide = true)]
    no_healthcheck: bool,
    /// How to check the container's health
    #[arg(long, hide = true, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Ports that the command listens on
    #[arg(long, hide = true, value_name = "PORT")]
    expose: Vec<String>,
    /// Name in a network of an engine
    #[arg(long, visible_alias = "net-alias", hide = true, value_name = "NAME")]
    network_alias: Vec<String>,
    /// Control group above that of the command
    #[arg(long, hide = true, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Program that runs the command
    #[arg(long, hide = true, value_name = "NAME")]
    runtime: Option<String>,
    /// Kind of isolation on Windows
    #[arg(long, hide = true, value_name = "KIND")]
    isolation: Option<String>,
    /// Verify the image's signature
    #[arg(long, hide = true)]
    disable_content_trust: bool,
}

impl IneffectiveArgs {
    /// Returns a sentence for each flag that is given and changes nothing.
    pub(super) fn notices(&self) -> Vec<String> {
        const NO_CONTAINER: &str = "the command leaves no container behind";
        const NO_HEALTH: &str = "health is not checked";
        let given = [
            (!self.label.is_empty(), "--label", NO_CONTAINER),
            (!self.label_file.is_empty(), "--label-file", NO_CONTAINER),
            (!self.annotation.is_empty(), "--annotation", NO_CONTAINER),
            (self.log_driver.is_some(), "--log-driver", "output goes to this terminal alone"),
            (!self.log_opt.is_empty(), "--log-opt", "output goes to this terminal alone"),
            (!self.attach.is_empty(), "--attach", "stdout and stderr always are, stdin with -i"),
            (self.sig_proxy.is_some(), "--sig-proxy", "signals always reach the command"),
            (self.no_healthcheck, "--no-healthcheck", NO_HEALTH),
            (self.health_cmd.is_some(), "--health-cmd", NO_HEALTH),
            (!self.expose.is_empty(), "--expose", "--publish makes a port reachable"),
            (!self.network_alias.is_empty(), "--network-alias", "there are no named networks"),
            (
                self.cgroup_parent.is_some(),
                "--cgroup-parent",
                "the command has a control group below that of this program",
            ),
            (self.runtime.is_some(), "--runtime", "this program runs the command itself"),
            (
                self.isolation.as_deref().is_some_and(|kind| !matches!(kind, "" | "default")),
                "--isolation",
                "the command runs in namespaces of its own",
            ),
            (
                self.disable_content_trust,
                "--disable-content-trust",
                "signatures of images are not verified",
            ),
        ];
        let given = given.into_iter().filter(|(is_given, ..)| *is_given);
        given.map(|(_, flag, why)| format!("{flag} has no effect: {why}")).collect()
    }
}
