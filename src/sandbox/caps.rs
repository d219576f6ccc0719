//! Capabilities: Docker's default set, changed as the user asks.
//!
//! Source: capabilities(7); moby `oci/caps/defaults.go`, 14 names, mask `a80425fb`.

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Every capability the kernel has had so far, by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default set.
pub(super) const DEFAULT: u64 = 0xa804_25fb;

/// The one that lets mount.
pub(super) const SYS_ADMIN: u64 = 1 << 21;

/// The one that lets change the root directory.
pub(super) const SYS_CHROOT: u64 = 1 << 18;

/// The one that lets make devices.
pub(super) const MKNOD: u64 = 1 << 27;

/// The one that gives files away.
pub(super) const CHOWN: u64 = 1 << 0;

/// The one that changes files of others.
pub(super) const FOWNER: u64 = 1 << 3;

/// The one that keeps set-id bits.
pub(super) const FSETID: u64 = 1 << 4;

/// The one that gives files capabilities.
pub(super) const SETFCAP: u64 = 1 << 31;

/// The ones that the kernel asks for about files: `CHOWN`, `DAC_OVERRIDE`, `FOWNER`, `FSETID`,
/// `MKNOD`.
pub(super) const FILES: u64 = CHOWN | 1 << 1 | FOWNER | FSETID | MKNOD;

/// The ones that change users and groups: `SETGID`, `SETUID`.
pub(super) const SETGID: u64 = 1 << 6;
/// See [`SETGID`].
pub(super) const SETUID: u64 = 1 << 7;

/// All of them.
pub(super) const ALL: u64 = (1 << NAMES.len()) - 1;

/// Returns the bit of a capability written as `CAP_NET_ADMIN` or `net_admin`.
pub(super) fn parse(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|number| 1 << number)
}

/// Works out a set: `base`, without `drop`, with `add`. `ALL` is allowed in both; a name in both
/// stays, as Docker has it.
///
/// # Errors
///
/// The name that is not a capability.
pub(super) fn select(base: u64, add: &[String], drop: &[String]) -> Result<u64, String> {
    let bits = |names: &[String]| {
        names.iter().try_fold(0, |bits, name| {
            if name.eq_ignore_ascii_case("all") {
                return Ok(bits | ALL);
            }
            parse(name).map(|bit| bits | bit).ok_or_else(|| format!("unknown capability {name}"))
        })
    };
    let (add, drop) = (bits(add)?, bits(drop)?);
    // `--cap-add ALL --cap-drop X` means all but X; a single name in both stays.
    if add == ALL && drop != ALL { Ok(ALL & !drop) } else { Ok(base & !drop | add) }
}

/// Takes everything but `keep` out of the bounding set, as far as this process has it.
///
/// # Errors
///
/// What prctl(2) says.
pub(super) fn bound(keep: u64) -> rustix::io::Result<()> {
    for number in 0..64 {
        let bit = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(bit) {
            // Beyond the last one this kernel knows.
            Err(_) => break,
            Ok(true) if keep >> number & 1 == 0 => {
                rustix::thread::remove_capability_from_bounding_set(bit)?;
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Sets effective and permitted to `bits`, as far as they are permitted now; inheritable to none.
///
/// # Errors
///
/// What capset(2) says.
pub(super) fn hold(bits: u64) -> rustix::io::Result<()> {
    let permitted = rustix::thread::capabilities(None)?.permitted;
    let set = permitted & CapabilitySet::from_bits_retain(bits);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() },
    )
}

/// Makes all that is permitted effective again, after a change of ids took some away.
///
/// # Errors
///
/// What capset(2) says.
pub(super) fn raise() -> rustix::io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: now.permitted, ..now })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_default_set_is_what_its_names_say() {
        let names = [
            "CHOWN",
            "DAC_OVERRIDE",
            "FSETID",
            "FOWNER",
            "MKNOD",
            "NET_RAW",
            "SETGID",
            "SETUID",
            "SETFCAP",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "SYS_CHROOT",
            "KILL",
            "AUDIT_WRITE",
        ];
        let bits = names.iter().map(|name| parse(name).unwrap()).fold(0, |a, b| a | b);
        assert_eq!(bits, DEFAULT);
    }

    #[test]
    fn adding_and_dropping() {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let set = |add: &[&str], drop: &[&str]| select(DEFAULT, &list(add), &list(drop));
        assert_eq!(set(&[], &[]), Ok(DEFAULT));
        assert_eq!(set(&["cap_sys_admin"], &["all"]), Ok(1 << 21));
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]), Ok(ALL & !(1 << 21)));
        assert_eq!(set(&["SYS_ADMIN"], &["MKNOD"]), Ok(DEFAULT & !(1 << 27) | 1 << 21));
        assert!(set(&["NO_SUCH"], &[]).is_err());
    }
}
