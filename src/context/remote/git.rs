//! Git repositories, by running `git`.
//!
//! Git runs without prompts, hooks, templates and the machine's configuration, and talks only the
//! protocols that an address may name. What it is given is never mistaken for a flag.
//!
//! Source: BuildKit, source/git; git(1), "Environment variables".

use super::access::Proof;
use super::{Access, RemoteError};
use crate::dockerfile::address::{Address, redact};
use crate::dockerfile::git_url::GitUrl;
use crate::sys::cancel::Cancel;
use crate::sys::rooted;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tracing::debug;

/// Protocols that a repository and its submodules may use.
const PROTOCOLS: &str = "http:https:ssh:git";

/// Seconds that a server may send nothing.
const STALL_SECONDS: u32 = 60;

/// Bytes of git's messages that an error quotes.
const SAID_MAX: usize = 2_000;

/// Starts git. Standard input is the file with credentials, if there are any; git and what it
/// starts have it as another descriptor, because a command line or an environment can be read by
/// others.
const SCRIPT: &str = "umask 022 && exec 9<&0 </dev/null && exec git \"$@\"";

/// Makes git read the credentials.
const INCLUDE: &str = "include.path=/proc/self/fd/9";

/// The helper that gives git the password: the comments of the file that [`INCLUDE`] names. Git
/// appends the word `get`.
const HELPER: &str = "!sed -n s/^#//p /proc/self/fd/9 && :";

/// Removes the entries of that name in a directory for git and in those of its submodules.
fn remove_each(dir: &Path, name: &str) -> std::io::Result<()> {
    for entry in walkdir::WalkDir::new(dir).contents_first(true) {
        let entry = entry.map_err(std::io::Error::from)?;
        let is_ref = entry.path().strip_prefix(dir).is_ok_and(|path| path.starts_with("refs"));
        if entry.file_name() != name || is_ref {
            continue;
        }
        if entry.file_type().is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Gives everything in a checkout, git's own files excepted, one time.
fn set_times(dir: &Path, seconds: i64) -> std::io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let tree = walkdir::WalkDir::new(dir).contents_first(true).into_iter();
    for entry in tree {
        let entry = entry.map_err(std::io::Error::from)?;
        if entry.path().strip_prefix(dir).is_ok_and(|path| path.starts_with(".git")) {
            continue;
        }
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, entry.path(), &times, flags)?;
    }
    Ok(())
}

/// How to check a repository out.
#[derive(Debug, Clone, Copy)]
pub struct GitOptions<'a> {
    /// `--keep-git-dir`, unless the address says otherwise.
    pub keep_git_dir: bool,
    /// An existing empty directory of the session.
    pub into: &'a Path,
    /// Whether files get the time of the commit, whatever the address says.
    pub sets_commit_time: bool,
    /// Credentials of the build.
    pub access: &'a Access,
    /// True lets repositories be directories of this machine: for tests.
    pub allows_local: bool,
}

/// A checked-out commit.
#[derive(Debug)]
pub struct GitCheckout {
    /// The directory that was asked for: the repository's, or a directory in it.
    pub root: OwnedFd,
    /// The commit, in full.
    pub commit: String,
    /// Its time, in seconds since 1970.
    pub seconds: i64,
}

struct Git<'a> {
    url: &'a GitUrl,
    options: &'a GitOptions<'a>,
    cancel: &'a Cancel,
    dir: PathBuf,
}

impl GitUrl {
    /// Fetches the commit that the address means, and no other where the server can do that.
    ///
    /// # Errors
    ///
    /// [`RemoteError`].
    pub fn check_out(
        &self,
        options: &GitOptions<'_>,
        cancel: &Cancel,
    ) -> Result<GitCheckout, RemoteError> {
        let git = Git { url: self, options, cancel, dir: options.into.join("tree") };
        git.run()
    }
}

impl Git<'_> {
    fn run(&self) -> Result<GitCheckout, RemoteError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| RemoteError::Io { doing, path, source }
        };
        fs::create_dir(&self.dir).map_err(io("create", &self.dir))?;
        self.git("prepare a directory for", &["init", "-q", "--template="])?;
        self.git("name", &["remote", "add", "--", "origin", &self.url.remote])?;
        let fetched = self.fetch()?;
        let name = format!("{fetched}^{{commit}}");
        let commit = self.git("resolve", &["rev-parse", "--verify", "-q", &name])?;
        let commit = commit.trim().to_owned();
        if let Some(expected) = &self.url.checksum
            && !commit.starts_with(expected.as_str())
        {
            return Err(RemoteError::Commit {
                url: redact(&self.url.remote),
                expected: expected.clone(),
                actual: commit,
            });
        }
        self.git("check out", &["checkout", "-q", "--detach", &commit])?;
        if self.url.submodules != Some(false) && self.dir.join(".gitmodules").exists() {
            let update = ["submodule", "update", "-q", "--init", "--recursive", "--depth=1"];
            self.git("fetch the submodules of", &update)?;
        }
        let seconds = self.git("read the time of", &["show", "-s", "--format=%ct", &commit])?;
        let seconds = seconds.trim().parse().unwrap_or(0);
        if self.url.commit_time || self.options.sets_commit_time {
            set_times(&self.dir, seconds).map_err(io("set the times in", &self.dir))?;
        }
        let keeps = self.url.keep_git_dir.unwrap_or(self.options.keep_git_dir);
        if !keeps || !self.url.subdir.is_empty() {
            let metadata = self.dir.join(".git");
            fs::remove_dir_all(&metadata).map_err(io("remove", &metadata))?;
        } else {
            // Where and when this was fetched: nothing of the repository's own.
            for name in ["FETCH_HEAD", "ORIG_HEAD", "logs"] {
                remove_each(&self.dir.join(".git"), name)
                    .map_err(io("remove the logs in", &self.dir))?;
            }
        }
        let dir = File::open(&self.dir).map_err(io("open", &self.dir))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // No link of the repository is followed, so the directory is one of the repository's own.
        let root =
            rooted::open_beneath(dir.as_fd(), self.url.subdir.as_bytes(), flags).map_err(|_| {
                RemoteError::NoSubdir {
                    url: redact(&self.url.remote),
                    subdir: self.url.subdir.clone(),
                }
            })?;
        Ok(GitCheckout { root, commit, seconds })
    }

    /// Fetches as little as the server allows, and returns the name that the commit then has.
    fn fetch(&self) -> Result<String, RemoteError> {
        let reference = match &self.url.checksum {
            Some(commit) if self.url.by_commit => commit,
            _ => self.url.reference.as_deref().unwrap_or("HEAD"),
        };
        let shallow = ["fetch", "-q", "--no-tags", "--depth=1", "--", "origin", reference];
        let fetched = "FETCH_HEAD".to_owned();
        let Err(error) = self.git("fetch", &shallow) else { return Ok(fetched) };
        if matches!(error, RemoteError::Cancelled | RemoteError::NoGit { .. }) {
            return Err(error);
        }
        // Plain file servers know no depth, and some others no commits that nothing points at.
        if self.git("fetch", &["fetch", "-q", "--no-tags", "--", "origin", reference]).is_ok() {
            return Ok(fetched);
        }
        let is_commit = reference.len() >= 7 && reference.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_commit {
            return Err(error);
        }
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        self.git("fetch", &["fetch", "-q", "--", "origin", all[0], all[1]])?;
        Ok(reference.to_owned())
    }

    /// A file in memory with git's configuration that authenticates us to the one server; `None`
    /// where there are no credentials.
    ///
    /// A password is in comments that a helper prints when the server asks, so that a redirect to
    /// another server does not carry it on. A header cannot be bound like that: with one, redirects
    /// are refused.
    fn credentials(&self) -> std::io::Result<Option<File>> {
        let address = Address { text: self.url.remote.clone(), login: self.url.login.clone() };
        let Some(proof) = self.options.access.git(&address) else { return Ok(None) };
        let server = address.text.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let text = match proof {
            Proof::Password(user, password) => {
                let mut servers = vec![server];
                // Servers send those who come unencrypted on to their encrypted port.
                servers.extend(
                    servers[0].strip_prefix("http://").map(|host| format!("https://{host}")),
                );
                let section = |server: &String| {
                    format!("[credential \"{}\"]\n\thelper = \"{HELPER}\"\n", quoted(server))
                };
                let sections: String = servers.iter().map(section).collect();
                format!("#username={user}\n#password={password}\n{sections}")
            }
            Proof::Header(header) => format!(
                "[http \"{}/\"]\n\textraHeader = \"Authorization: {}\"\n\tfollowRedirects = false\n",
                quoted(&server),
                quoted(&header)
            ),
        };
        let file = rustix::fs::memfd_create("git", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = File::from(file);
        file.write_all(text.as_bytes())?;
        Ok(Some(file))
    }

    /// Runs one git command and returns its output.
    fn git(&self, doing: &'static str, arguments: &[&str]) -> Result<String, RemoteError> {
        let url = redact(&self.url.remote);
        debug!(doing, %url, "runs git");
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| RemoteError::Io { doing, path, source }
        };
        let [out_path, err_path] = ["out", "err"].map(|name| self.options.into.join(name));
        let out = File::create(&out_path).map_err(io("create", &out_path))?;
        let err = File::create(&err_path).map_err(io("create", &err_path))?;
        let protocols =
            if self.options.allows_local { "file:http:https:ssh:git" } else { PROTOCOLS };
        let credentials = self.credentials().map_err(io("write the credentials for", &self.dir))?;
        // Modes of what is checked out must not depend on who builds; a child's umask can only be
        // set by the child.
        let mut command = Command::new("/bin/sh");
        forget_variables(&mut command);
        let child = command
            .args(["-c", SCRIPT, "git"])
            .args(credentials.iter().flat_map(|_| ["-c", INCLUDE]))
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
            .args(["-c", "init.defaultBranch=master", "-c", "advice.detachedHead=false"])
            .args([
                "-c",
                "http.lowSpeedLimit=1",
                "-c",
                &format!("http.lowSpeedTime={STALL_SECONDS}"),
            ])
            .args(["-c", "core.autocrlf=false", "-c", "core.symlinks=true"])
            .args(arguments)
            .current_dir(&self.dir)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("SSH_ASKPASS", "true")
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("LC_ALL", "C")
            .stdin(credentials.map_or_else(Stdio::null, Stdio::from))
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|source| RemoteError::NoGit { url: url.clone(), source })?;
        let status = wait(child, self.cancel).map_err(io("wait for git in", &self.dir))?;
        let Some(status) = status else { return Err(RemoteError::Cancelled) };
        if status.success() {
            return fs::read_to_string(&out_path).map_err(io("read", &out_path));
        }
        let said = fs::read(&err_path).unwrap_or_default();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(SAID_MAX)..]);
        let said = said.trim().replace(&self.url.remote, &url);
        if status.code() == Some(127) {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(RemoteError::NoGit { url, source });
        }
        Err(RemoteError::Git { doing, url, said })
    }
}

/// Keeps variables of a surrounding git, such as of one that runs us as a hook, from a command.
pub(super) fn forget_variables(command: &mut Command) {
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_COMMON_DIR",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_CONFIG_PARAMETERS",
        "GIT_CONFIG_COUNT",
    ] {
        command.env_remove(name);
    }
}

/// Waits for a child that leads a process group; `None` where the build was cancelled, which ends
/// the group.
pub(super) fn wait(mut child: Child, cancel: &Cancel) -> std::io::Result<Option<ExitStatus>> {
    let pid = rustix::process::Pid::from_child(&child);
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    let mut is_cancelled = false;
    if let Ok(handle) = handle {
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        loop {
            let mut fds = [PollFd::new(&handle, PollFlags::IN)];
            if poll(&mut fds, Some(&tick)).is_ok_and(|ready| ready > 0) {
                break;
            }
            if cancel.is_cancelled() {
                is_cancelled = true;
                // Its helpers are in its group. One that is gone already needs no signal.
                let signal = rustix::process::Signal::KILL;
                let _ = rustix::process::kill_process_group(pid, signal);
                break;
            }
        }
    }
    let status = child.wait()?;
    Ok((!is_cancelled).then_some(status))
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
