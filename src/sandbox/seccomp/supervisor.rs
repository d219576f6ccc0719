//! What is handed to the supervisor.

use crate::sys::process::LIMIT_LOCKS;

use super::profile::{Action, Argument, Comparison, Rule};

/// A lease of a file or of a directory, since Linux 6.19.
const F_SETDELEG: i32 = 1040;

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
    chmod fchmodat fchmodat2 chown chown32 fchownat utimensat linkat
    chdir execve";

/// All calls that name a file.
pub(super) fn paths() -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        PATHS.split_whitespace().map(|name| notify(name, Vec::new())).collect();
    // By a limit of its processor time a process of the same user ends: the builder.
    let other = argument(0, Comparison::NotEqual, 0);
    rules.push(notify("prlimit64", vec![other, argument(2, Comparison::NotEqual, 0)]));
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

/// Calls that name files by paths, or show whose they are; the supervisor answers all of them.
const ALL_PATHS: &str = "
    open openat creat stat lstat fstat newfstatat statx access faccessat faccessat2
    readlink readlinkat getcwd chdir statfs truncate execve
    mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
    mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat
    utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr
    listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr
    bind connect
    getuid geteuid getresuid setuid setreuid setresuid setfsuid
    getgid getegid getresgid setgid setregid setresgid setfsgid
    getgroups setgroups";

/// Calls that would reach files or processes in ways that cannot be judged, and what they return.
const REFUSED: &[(&str, i32)] = &[
    (
        "openat2 io_uring_setup io_uring_enter io_uring_register statmount listmount \
         setxattrat getxattrat listxattrat removexattrat inotify_add_watch",
        libc::ENOSYS,
    ),
    ("name_to_handle_at", libc::EOPNOTSUPP),
    (
        "open_by_handle_at ptrace process_vm_readv process_vm_writev process_madvise \
         process_mrelease pidfd_getfd kcmp chroot mount umount umount2 pivot_root open_tree \
         open_tree_attr move_mount fsopen fspick fsconfig fsmount mount_setattr fanotify_init \
         fanotify_mark quotactl quotactl_fd acct swapon swapoff uselib setns unshare bpf \
         perf_event_open userfaultfd add_key request_key keyctl",
        libc::EPERM,
    ),
    // Capabilities are names here.
    ("capset", 0),
];

/// Sixth argument, which execveat(2) does not have, by which the supervisor marks those of its own: they
/// start a program that needs no path. A process that marks one itself can start no other, since no path can
/// be executed in the command's domain.
pub(in super::super) const MARK: u64 = 0x4255_494c;

/// All processes of a user, for ioprio_set(2).
const IOPRIO_USER: i32 = 3;

/// Flags of clone(2) that make namespaces. That of time shares its bits with the signal at the end.
const NAMESPACES: &[u64] = &[
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
];

/// No path, no other process.
pub(super) fn all_paths() -> Vec<Rule> {
    let rule =
        |name: &str, action, arguments| Rule { names: vec![name.to_owned()], action, arguments };
    let equal = |index, value| argument(index, Comparison::Equal, value);
    let mut rules: Vec<Rule> =
        ALL_PATHS.split_whitespace().map(|name| notify(name, Vec::new())).collect();
    for (names, errno) in REFUSED {
        let action = Action::Errno(*errno as u16);
        rules.extend(names.split_whitespace().map(|name| rule(name, action, Vec::new())));
    }
    let itself = equal(4, libc::AT_EMPTY_PATH as u64);
    rules.push(rule("execveat", Action::Allow, vec![equal(5, MARK), itself]));
    rules.push(rule("execveat", Action::Errno(libc::EACCES as u16), vec![equal(5, MARK)]));
    rules.push(notify("execveat", Vec::new()));
    let (unix, datagram) = (libc::AF_UNIX as u64, libc::SOCK_DGRAM as u64);
    let kinds = |kind| masked(1, 0xf, kind);
    // One that is not connected sends to any path, unseen.
    let refused = Action::Errno(libc::EPROTONOSUPPORT as u16);
    for name in ["socket", "socketpair"] {
        for kind in [datagram, libc::SOCK_RAW as u64] {
            rules.push(rule(
                name,
                refused,
                vec![masked(0, u64::from(u32::MAX), unix), kinds(kind)],
            ));
        }
    }
    rules.push(notify("socket", vec![masked(0, u64::from(u32::MAX), unix)]));
    let low = |index, value: i32| masked(index, u64::from(u32::MAX), u64::from(value as u32));
    let done = Action::Errno(0);
    rules.push(notify("prctl", vec![low(0, crate::sys::loader::ASK as i32)]));
    rules.push(notify("prctl", vec![low(0, libc::PR_SET_KEEPCAPS)]));
    for option in [libc::PR_SET_DUMPABLE, libc::PR_CAPBSET_DROP, libc::PR_SET_SECUREBITS] {
        rules.push(rule("prctl", done, vec![low(0, option)]));
    }
    // A lease makes others wait who open the file; a notice says what they do in a directory.
    for command in [libc::F_SETLEASE, F_SETDELEG, libc::F_NOTIFY] {
        rules.push(rule("fcntl", Action::Errno(libc::EINVAL as u16), vec![low(1, command)]));
    }
    rules.push(rule("setrlimit", done, vec![low(0, LIMIT_LOCKS as i32)]));
    // Limits of other processes, of which the builder is one: whose number it is, the supervisor says.
    let other = argument(0, Comparison::NotEqual, 0);
    rules.push(notify("prlimit64", vec![other]));
    let sets = argument(2, Comparison::NotEqual, 0);
    rules.push(rule("prlimit64", done, vec![low(1, LIMIT_LOCKS as i32), sets]));
    rules.push(rule("prlimit64", Action::Allow, Vec::new()));
    // Nor the order in which other processes run.
    let refused = Action::Errno(libc::EPERM as u16);
    for name in ["sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"] {
        rules.push(notify(name, vec![argument(0, Comparison::NotEqual, 0)]));
    }
    for (name, of_user) in [("setpriority", libc::PRIO_USER as i32), ("ioprio_set", IOPRIO_USER)] {
        rules.push(rule(name, refused, vec![low(0, of_user)]));
        rules.push(notify(name, vec![argument(1, Comparison::NotEqual, 0)]));
    }
    for flag in NAMESPACES {
        rules.push(rule("clone", refused, vec![masked(0, *flag, *flag)]));
    }
    rules.push(rule("clone3", Action::Errno(libc::ENOSYS as u16), Vec::new()));
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
