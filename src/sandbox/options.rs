//! What a build's sandboxes have in common, and what of the host they take over.

use super::confinement::Confinement;
use super::idmap::IdMap;
use super::network::NetworkOptions;
use super::platforms::Emulators;
use std::path::PathBuf;

/// What a build's sandboxes have in common.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Program run to be the spawner: this one.
    pub program: PathBuf,
    /// Directory for leases of control groups, in the store.
    pub leases: PathBuf,
    /// How ids inside map to the host's; `None` for a command that has the builder's own.
    pub idmap: Option<IdMap>,
    /// How strongly commands are confined.
    pub confinement: Confinement,
    /// Text of the host's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// What the private network lets through.
    pub network: NetworkOptions,
    /// Where emulators for other processors are looked for.
    pub emulators: Emulators,
}

impl SandboxOptions {
    /// Returns the usual: this program, ids as they are, the host's resolver settings.
    pub fn new(leases: PathBuf) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            leases,
            idmap: None,
            confinement: Confinement::default(),
            resolv_conf: host_resolv_conf(),
            network: NetworkOptions::default(),
            emulators: Emulators::default(),
        }
    }
}

/// Reads the host's resolver settings; where a local stub stands in for the real servers, theirs.
fn host_resolv_conf() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let usual = read("/etc/resolv.conf");
    let mut servers = usual.lines().filter_map(|line| line.strip_prefix("nameserver "));
    if servers.next().map(str::trim) == Some("127.0.0.53") && servers.next().is_none() {
        // systemd-resolved keeps what it knows here.
        let real = read("/run/systemd/resolve/resolv.conf");
        if !real.is_empty() {
            return real;
        }
    }
    usual
}

/// Reads what a helper on the host would resolve names by, with the servers that stand behind a
/// stub.
pub(super) fn host_resolver() -> String {
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let real = host_resolv_conf();
    if own == real { own } else { own + &real }
}
