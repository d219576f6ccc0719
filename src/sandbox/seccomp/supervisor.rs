//! What is handed to the supervisor.

use crate::sys::process::LIMIT_LOCKS;

use super::profile::{Action, Argument, Comparison, Rule};

/// Calls of users without subordinate ids that would show that there is one id only.
const APPEARANCES: &str = "
    chown fchown lchown fchownat chown32 fchown32 lchown32
    stat lstat fstat newfstatat statx stat64 lstat64 fstat64 fstatat64
    creat mkdir mkdirat symlink symlinkat mknod mknodat
    getuid geteuid getresuid setuid setreuid setresuid setfsuid
    getgid getegid getresgid setgid setregid setresgid setfsgid
    getuid32 geteuid32 getresuid32 setuid32 setreuid32 setresuid32 setfsuid32
    getgid32 getegid32 getresgid32 setgid32 setregid32 setresgid32 setfsgid32
    getgroups setgroups getgroups32 setgroups32";

/// Calls that name a file that may be one of `/proc`.
const PATHS: &str = "
    open openat openat2 creat
    stat lstat newfstatat statx stat64 lstat64 fstatat64
    readlink readlinkat access faccessat faccessat2 statfs
    getxattr lgetxattr listxattr llistxattr
    chdir execve";

/// All calls that name a file.
pub(super) fn paths() -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        PATHS.split_whitespace().map(|name| notify(name, Vec::new())).collect();
    // By a limit of its processor time a process of the same user ends: the builder.
    rules.push(Rule {
        names: vec!["prlimit64".to_owned()],
        action: Action::Errno(libc::EPERM as u16),
        arguments: vec![argument(0, Comparison::NotEqual, 0), argument(2, Comparison::NotEqual, 0)],
    });
    rules
}

/// Nodes that no process can make in a user namespace.
pub(super) fn devices() -> Vec<Rule> {
    let kinds = [libc::S_IFCHR, libc::S_IFBLK];
    let rules = [("mknod", 1), ("mknodat", 2)].into_iter().flat_map(|(name, index)| {
        kinds.map(|kind| notify(name, vec![masked(index, libc::S_IFMT.into(), kind.into())]))
    });
    rules.collect()
}

/// Owners and users, and all that makes files.
pub(super) fn appearances() -> Vec<Rule> {
    let creation = libc::O_CREAT as u64;
    let mut rules: Vec<Rule> =
        APPEARANCES.split_whitespace().map(|name| notify(name, Vec::new())).collect();
    for (name, index) in [("open", 1), ("openat", 2)] {
        rules.push(notify(name, vec![masked(index, creation, creation)]));
    }
    let keeps = argument(0, Comparison::Equal, libc::PR_SET_KEEPCAPS as u64);
    rules.push(notify("prctl", vec![keeps]));
    // Who a process is is kept in a limit without meaning, see `supervisor::people`: setting it
    // succeeds.
    let locks = |index| argument(index, Comparison::Equal, LIMIT_LOCKS.into());
    for (name, arguments) in [
        ("setrlimit", vec![locks(0)]),
        ("prlimit64", vec![locks(1), argument(2, Comparison::NotEqual, 0)]),
    ] {
        rules.push(Rule { names: vec![name.to_owned()], action: Action::Errno(0), arguments });
    }
    rules
}

fn notify(name: &str, arguments: Vec<Argument>) -> Rule {
    Rule { names: vec![name.to_owned()], action: Action::Notify, arguments }
}

fn masked(index: u8, mask: u64, wanted: u64) -> Argument {
    Argument { index, comparison: Comparison::MaskedEqual, value: mask, second: wanted }
}

fn argument(index: u8, comparison: Comparison, value: u64) -> Argument {
    Argument { index, comparison, value, second: 0 }
}
