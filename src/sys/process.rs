//! Processes: fork in a single-threaded process, clone into namespaces, wait with usage.

#![expect(unsafe_code, reason = "clone3, wait4 and similar calls have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::thread::{CapabilitySet, CapabilitySets};

/// Above the 32 bits that libc gives its flags.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that the process has one thread, which makes fork as safe as any other call: no lock can
/// be held by a thread that the child lacks.
#[derive(Debug, Clone, Copy)]
pub struct SingleThreaded(());

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent(Child),
}

/// A process just started.
#[derive(Debug)]
pub struct Child {
    /// Its number in this process's pid namespace.
    pub pid: i32,
    /// A descriptor of it, readable when it has ended.
    pub pidfd: OwnedFd,
}

/// What a process used before it was waited for, its own waited-for children included.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChildUsage {
    /// CPU time in user mode, in microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, in microseconds.
    pub system_us: u64,
    /// Most memory resident in any one process, in bytes.
    pub max_rss: u64,
    /// Bytes read from storage.
    pub io_read: u64,
    /// Bytes written to storage.
    pub io_written: u64,
}

/// A child that ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its number.
    pub pid: i32,
    /// Exit status; 128 + signal number where a signal ended it.
    pub status: i32,
    /// What it used.
    pub usage: ChildUsage,
}

impl SingleThreaded {
    /// Looks whether this process has one thread.
    ///
    /// The holder must start none afterwards; children of [`SingleThreaded::clone_process`] inherit
    /// the proof.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read, or there are more threads.
    pub fn prove() -> io::Result<Self> {
        let tasks = std::fs::read_dir("/proc/self/task")?.count();
        if tasks == 1 {
            Ok(Self(()))
        } else {
            Err(io::Error::other(format!("{tasks} threads run where one was expected")))
        }
    }

    /// Forks, the child into the new namespaces that `flags` (`CLONE_NEW…`) name and, where
    /// `cgroup` is given, into that version 2 control group.
    ///
    /// # Errors
    ///
    /// What clone3(2) says.
    pub fn clone_process(self, flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
        let mut pidfd: libc::c_int = -1;
        // SAFETY: all-zero is a valid `clone_args`: no stack, no tls, no flags.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = (flags | libc::CLONE_PIDFD) as u64;
        args.pidfd = (&raw mut pidfd) as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        // SAFETY: `args` outlives the call and its size is the one passed. Without CLONE_VM the
        // child has a copy of the memory and goes on where the parent does; `self` proves that no
        // other thread can hold a lock in that copy.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
        };
        let pid = match pid {
            // Filters of containers refuse clone3, whose flags they cannot see. Its predecessor
            // does all of it but the control group.
            -1 if cgroup.is_none()
                && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) =>
            {
                let flags = libc::c_long::from(flags | libc::CLONE_PIDFD | libc::SIGCHLD);
                // SAFETY: as above; no stack means a copy of ours. The third argument is where the
                // kernel stores the pidfd, the last two are unused without their flags.
                unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) }
            }
            pid => pid,
        };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(Forked::Child),
            pid => {
                // SAFETY: the kernel stored a new descriptor there, which nothing else owns.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok(Forked::Parent(Child { pid: pid as i32, pidfd }))
            }
        }
    }
}

impl SingleThreaded {
    /// Moves this process into new namespaces (`CLONE_NEW…`).
    ///
    /// # Errors
    ///
    /// What unshare(2) says.
    pub fn unshare(self, flags: i32) -> io::Result<()> {
        // SAFETY: a plain number. With one thread there is none that keeps another view of shared
        // descriptors or directories.
        let status = unsafe { libc::unshare(flags) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Ends the process at once: no destructors, no buffers flushed.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any number and does not return.
    unsafe { libc::_exit(status) }
}

/// Waits for any child, or returns `None` at once when `block` is false and none has ended. A thread
/// that is still traced, and stands still, has not ended: it is let go.
///
/// # Errors
///
/// `ECHILD` when there are no children; `EINTR`.
pub fn wait_any(block: bool) -> io::Result<Option<Ended>> {
    let mut status: libc::c_int = 0;
    // SAFETY: all-zero is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let options = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    let pid = loop {
        // SAFETY: both pointers are to live locals of the right types.
        let pid = unsafe { libc::wait4(-1, &raw mut status, options, &raw mut usage) };
        match pid {
            0 => return Ok(None),
            ..0 => return Err(io::Error::last_os_error()),
            pid if libc::WIFSTOPPED(status) => super::trace::let_go(pid, status),
            pid => break pid,
        }
    };
    let status = exit_status(status);
    let micros = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    let usage = ChildUsage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss: usage.ru_maxrss as u64 * 1024,
        // Block counts are in units of 512 bytes whatever the device's block size.
        io_read: usage.ru_inblock as u64 * 512,
        io_written: usage.ru_oublock as u64 * 512,
    };
    Ok(Some(Ended { pid, status, usage }))
}

/// Returns the exit status in what wait(2) reports of an end: 128 + signal number where a signal was it.
pub(super) fn exit_status(waited: i32) -> i32 {
    if libc::WIFSIGNALED(waited) { 128 + libc::WTERMSIG(waited) } else { libc::WEXITSTATUS(waited) }
}

/// Says whether a process is a child that has not been waited for.
#[must_use]
pub fn is_child(pid: i32) -> bool {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Pid::from_raw(pid).is_some_and(|pid| waitid(WaitId::Pid(pid), options).is_ok())
}

/// Gives every signal its default disposition and unblocks all: what a new program expects.
pub fn reset_signals() {
    // The kernel's own structure, all of it zero: default handler, no flags, empty mask. libc's
    // functions will not touch the two signals it uses itself, which may be ignored by inheritance.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: `default` is as large as the kernel's sigaction on every architecture and lives
        // through the call, which only reads it; 8 is the size of the kernel's signal set. SIGKILL
        // and SIGSTOP refuse.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8,
            )
        };
    }
    // SAFETY: the set is a live local, emptied before use; a null old set is allowed.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Lets the kernel reap this process's children by itself.
pub fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition of SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Joins a new session keyring of its own.
///
/// # Errors
///
/// `ENOSYS` without key support, `EDQUOT` over the user's quota, `EPERM` under a filter.
pub fn join_new_keyring() -> io::Result<()> {
    // SAFETY: the operation takes one pointer, null for an anonymous keyring.
    let status = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the ids that this thread makes files with, leaving all else. Returns the ones before.
pub fn set_fs_ids(uid: u32, gid: u32) -> (u32, u32) {
    // SAFETY: both take plain numbers, return the id before, and never fail in a way that matters
    // to memory.
    unsafe {
        let gid = libc::syscall(libc::SYS_setfsgid, gid);
        let uid = libc::syscall(libc::SYS_setfsuid, uid);
        (uid as u32, gid as u32)
    }
}

/// While it lives, this thread makes files as another user.
#[derive(Debug)]
pub struct FsIds {
    before: (u32, u32),
    capabilities: CapabilitySets,
}

impl FsIds {
    /// Becomes the user for files, with all capabilities this thread has.
    ///
    /// # Errors
    ///
    /// What capset(2) says.
    pub fn become_user(uid: u32, gid: u32) -> io::Result<Self> {
        Self::become_user_with(uid, gid, CapabilitySet::all())
    }

    /// As [`FsIds::become_user`], with no other capability in effect than these.
    ///
    /// # Errors
    ///
    /// What capset(2) says.
    pub fn become_user_with(uid: u32, gid: u32, keep: CapabilitySet) -> io::Result<Self> {
        let capabilities = rustix::thread::capabilities(None)?;
        let guard = Self { before: set_fs_ids(uid, gid), capabilities };
        // Leaving user 0 took the ones for files out of the effective set.
        let effective = capabilities.effective & keep;
        rustix::thread::set_capabilities(None, CapabilitySets { effective, ..capabilities })?;
        Ok(guard)
    }
}

impl Drop for FsIds {
    fn drop(&mut self) {
        set_fs_ids(self.before.0, self.before.1);
        rustix::thread::set_capabilities(None, self.capabilities).ok();
    }
}

/// While it lives, this thread is another user, in that user's groups, in all but its saved ids, which
/// are the way back, and no capability has effect but some.
#[derive(Debug)]
pub struct Standing {
    before: Option<(rustix::process::Uid, rustix::process::Gid)>,
    groups: Option<Vec<rustix::process::Gid>>,
    capabilities: CapabilitySets,
}

impl Standing {
    /// Becomes the user, in these groups. Takes `CAP_SETUID` and `CAP_SETGID` where that is another.
    ///
    /// # Errors
    ///
    /// What the calls say.
    pub fn take(uid: u32, gid: u32, groups: &[u32], keep: CapabilitySet) -> io::Result<Self> {
        use rustix::process::{Gid, Uid, getgid, getgroups, getuid};
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let capabilities = rustix::thread::capabilities(None)?;
        let own = (getuid(), getgid());
        let mut guard = Self { before: None, groups: None, capabilities };
        let (wanted, there): (Vec<Gid>, _) =
            (groups.iter().copied().map(Gid::from_raw).collect(), getgroups()?);
        if wanted != there {
            set_thread_groups(&wanted)?;
            guard.groups = Some(there);
        }
        if (own.0.as_raw(), own.1.as_raw()) != (uid, gid) {
            guard.before = Some(own);
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            set_thread_res_gid(gid, gid, own.1)?;
            set_thread_res_uid(uid, uid, own.0)?;
        }
        let effective = capabilities.permitted & keep;
        rustix::thread::set_capabilities(None, CapabilitySets { effective, ..capabilities })?;
        Ok(guard)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        if let Some((uid, gid)) = self.before {
            set_thread_res_uid(uid, uid, uid).ok();
            set_thread_res_gid(gid, gid, gid).ok();
        }
        rustix::thread::set_capabilities(None, self.capabilities).ok();
        if let Some(groups) = &self.groups {
            set_thread_groups(groups).ok();
        }
    }
}

/// Moves standard input to a descriptor of its own, closed on exec, and closes every other
/// descriptor but the three standard ones. Meant for the first lines of a program that was started
/// with descriptors it does not know.
///
/// # Errors
///
/// What dup3(2) says.
pub fn take_stdin_and_close_others(proof: SingleThreaded) -> io::Result<OwnedFd> {
    const NUMBER: i32 = 3;
    // SAFETY: plain numbers. Should descriptor 3 be open, it is one that the caller of this program
    // left open: nothing in this process knows it.
    if unsafe { libc::dup3(0, NUMBER, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and no other value owns it.
    let taken = unsafe { OwnedFd::from_raw_fd(NUMBER) };
    close_others(proof, &[taken.as_fd()])?;
    Ok(taken)
}

/// Closes every descriptor from 3 on but `keep`.
///
/// Values that own one of the others must not be used afterwards: it is for a process that is about
/// to resolve a path which an image or a user chose, and has let go of all it knows.
///
/// # Errors
///
/// When `/proc` cannot be read, before Linux 5.9.
pub fn close_others(_proof: SingleThreaded, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.push(u32::MAX);
    kept.sort_unstable();
    let mut first = 3_u32;
    for number in kept {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number.saturating_add(1));
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: plain numbers; see `close_others` for whose they are.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return Ok(());
    }
    // Linux before 5.9, or a filter that does not know the call: one by one, as `/proc` lists them.
    let listed: Vec<u32> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in listed.into_iter().filter(|number| (first..=last).contains(number)) {
        // SAFETY: as above. The listing's own descriptor is closed already, a second time does
        // nothing.
        unsafe { libc::close(number as i32) };
    }
    Ok(())
}

/// Marks every descriptor from `first` on to be closed by exec.
///
/// # Errors
///
/// What close_range(2) says.
pub fn close_on_exec_from(first: i32) -> io::Result<()> {
    // SAFETY: plain numbers; no descriptor is closed now.
    let status =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if status == 0 {
        return Ok(());
    }
    // Linux before 5.11 has no such flag: one by one, as `/proc` lists them.
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(number) = number.filter(|&number| number >= first) {
            // SAFETY: as above.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Sends `signal` to every process but the caller and process 1; meant for a process 1.
///
/// # Errors
///
/// `ESRCH` when there is none.
pub fn kill_all(signal: i32) -> io::Result<()> {
    assert_eq!(std::process::id(), 1, "only the init of a pid namespace kills all of it");
    // SAFETY: plain numbers; the check above keeps it inside the namespace.
    let status = unsafe { libc::kill(-1, signal) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends any signal, real-time ones too, to one process.
///
/// # Errors
///
/// `ESRCH` when it is gone, `EINVAL` for a number that is not a signal's.
pub fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    // Zero and below would mean groups of processes.
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: plain numbers.
    let status = unsafe { libc::kill(pid, signal) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `fd` appear under exactly the number `to`, not closed on exec.
///
/// # Errors
///
/// What dup2(2) says.
pub fn dup_to(fd: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    let status = if fd.as_raw_fd() == to {
        // SAFETY: plain numbers; the descriptor is borrowed, hence open.
        unsafe { libc::fcntl(to, libc::F_SETFD, 0) }
    } else {
        // SAFETY: as above. What had the number `to` is closed: callers use it for 0, 1 and 2,
        // which no descriptor object of theirs owns.
        unsafe { libc::dup2(fd.as_raw_fd(), to) }
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets a resource limit of a process, 0 for this one, by number; `u64::MAX` means unlimited.
///
/// # Errors
///
/// What prlimit(2) says.
pub fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let old = std::ptr::null_mut();
    // SAFETY: `limit` outlives the call, which only reads it; the old one is not asked for.
    let status = unsafe { libc::prlimit64(pid, resource as _, &raw const limit, old) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Number of `RLIMIT_LOCKS`, whose type differs between C libraries.
pub const LIMIT_LOCKS: u32 = 10;

/// Returns the soft and hard limit of another process's resource; with `soft`, sets that first.
///
/// # Errors
///
/// What prlimit(2) says.
pub fn limits_of(pid: i32, resource: u32, soft: Option<u64>) -> io::Result<(u64, u64)> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let call = |new: *const libc::rlimit64, old: *mut libc::rlimit64| {
        // SAFETY: each pointer is null, which the call allows, or to a live local that it reads or
        // writes as a whole.
        let status = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, old) };
        if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    call(std::ptr::null(), &raw mut now)?;
    if let Some(soft) = soft {
        now.rlim_cur = soft;
        call(&raw const now, std::ptr::null_mut())?;
    }
    Ok((now.rlim_cur, now.rlim_max))
}

/// Loads a system call filter of classic BPF instructions `(code, jt, jf, k)` on this thread.
///
/// # Errors
///
/// `EACCES` without CAP_SYS_ADMIN and no_new_privs, `EINVAL` for a filter the kernel refuses.
pub fn load_filter(program: &[(u16, u8, u8, u32)]) -> io::Result<()> {
    let filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let load = |flags: libc::c_ulong| {
        // SAFETY: `program` and the instructions it points to outlive the call, which copies them.
        unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const program,
            )
        }
    };
    // Without this flag kernels before 5.16 switch speculation mitigations on, which slow a
    // build down; Docker's runtime passes it too. Kernels before 4.17 do not know it.
    if load(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) < 0 && load(0) < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Brings the loopback interface of the current network namespace up.
///
/// # Errors
///
/// What socket(2) and the ioctl say.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: plain numbers in; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which `request` is.
    let status =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
