//! Lays out the directory of a case: the context, what lies beside it, and the servers it needs.

use crate::format::{Commit, Member, Op, TarForm};
use crate::kit::{self, base, host};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// 2020-01-01T00:00:00Z: the time of every file that has no time of its own.
const MTIME: i64 = 1_577_836_800;

/// A case's directory. The context is `context`; names that start with `_` lie beside it.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    /// Times that a case gives, by path.
    times: BTreeMap<PathBuf, i64>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("oracle-").tempdir().expect("a directory");
        kit::make_dir(&dir.path().join("context"));
        Self { dir, times: BTreeMap::new() }
    }

    /// The directory that holds the context.
    pub(crate) fn beside(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        let parent = if path.starts_with(b"_") { self.dir.path().into() } else { self.context() };
        parent.join(OsStr::from_bytes(path))
    }

    /// Carries out changes. What is written by the `round`th build has a time of its own, in minutes after
    /// the fixed one, so that an edit shows.
    pub(crate) fn apply(&mut self, ops: &[Op], round: usize) {
        for op in ops {
            if let Some(written) = self.apply_one(op)
                && round > 0
            {
                self.times.insert(written, MTIME + 60 * round as i64);
            }
        }
        for entry in walkdir::WalkDir::new(self.dir.path()).contents_first(true) {
            let path = entry.expect("an entry").into_path();
            // A store lies here as well.
            if path.strip_prefix(self.dir.path()).is_ok_and(|path| path.starts_with("store")) {
                continue;
            }
            let seconds = self.times.get(&path).copied().unwrap_or(MTIME);
            let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags).expect("set a time");
        }
    }

    /// Carries out one change; returns the path whose content it wrote.
    fn apply_one(&mut self, op: &Op) -> Option<PathBuf> {
        let place = |path: &[u8]| {
            let path = self.path(path);
            let parent = path.parent().expect("a parent");
            if !parent.is_dir() {
                kit::make_dir(parent);
            }
            path
        };
        let set_mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        match op {
            Op::File { path, mode, content } => {
                let path = place(path);
                fs::write(&path, content).expect("write a file");
                set_mode(&path, *mode);
                Some(path)
            }
            Op::Dir { path, mode } => {
                let path = place(path);
                kit::make_dir(&path);
                set_mode(&path, *mode);
                Some(path)
            }
            Op::Symlink { path, target } => {
                let path = place(path);
                if path.symlink_metadata().is_ok() {
                    fs::remove_file(&path).expect("remove what the link replaces");
                }
                symlink(OsStr::from_bytes(target), &path).expect("symlink");
                Some(path)
            }
            Op::HardLink { path, target } => {
                fs::hard_link(self.path(target), place(path)).expect("link");
                None
            }
            Op::Device { path, is_char, major, minor } => {
                use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
                let kind = if *is_char { FileType::CharacterDevice } else { FileType::BlockDevice };
                let (path, device) = (place(path), makedev(*major, *minor));
                mknodat(CWD, &path, kind, Mode::from_raw_mode(0o644), device).expect("mknod");
                set_mode(&path, 0o644);
                None
            }
            Op::Chmod { path, mode } => {
                set_mode(&self.path(path), *mode);
                None
            }
            Op::Chown { path, owner: (uid, gid) } => {
                lchown(self.path(path), Some(*uid), Some(*gid)).expect("chown");
                None
            }
            Op::Mtime { path, seconds } => {
                self.times.insert(self.path(path), *seconds);
                None
            }
            Op::Xattr { path, name, value } => {
                let flags = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(self.path(path), name.as_str(), value, flags)
                    .expect("setxattr");
                None
            }
            Op::Sparse { path, size, chunks } => {
                use std::os::unix::fs::FileExt as _;
                let path = place(path);
                let file = fs::File::create(&path).expect("create a file");
                file.set_len(*size).expect("set its length");
                for (at, bytes) in chunks {
                    file.write_all_at(bytes, *at).expect("write a piece");
                }
                set_mode(&path, 0o644);
                Some(path)
            }
            Op::Tar { path, form, members } => {
                let path = place(path);
                fs::write(&path, archive(form, members)).expect("write an archive");
                set_mode(&path, 0o644);
                Some(path)
            }
            Op::Git { path, commits } => {
                repository(&place(path), commits);
                None
            }
            Op::Remove { path } => {
                let path = self.path(path);
                if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir_all(&path).expect("remove a directory");
                } else {
                    fs::remove_file(&path).expect("remove a file");
                }
                None
            }
            Op::Rename { path, to } => {
                let (from, to) = (self.path(path), self.path(to));
                fs::rename(&from, &to).expect("rename");
                if let Some(time) = self.times.remove(&from) {
                    self.times.insert(to, time);
                }
                None
            }
        }
    }
}

/// Makes an archive of members.
fn archive(form: &TarForm, members: &[Member]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for member in members {
        add(&mut tar, form, member);
    }
    let mut bytes = tar.into_inner().expect("a tar in memory");
    // Whole records, as tar(1) writes them.
    bytes.resize(bytes.len().next_multiple_of(10_240), 0);
    bytes.truncate(form.truncate.unwrap_or(usize::MAX));
    let compress = |program: &str| {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a compressor");
        let mut input = child.stdin.take().expect("its input");
        let bytes = bytes.clone();
        let writer = std::thread::spawn(move || input.write_all(&bytes).expect("it reads"));
        let output = child.wait_with_output().expect("its output").stdout;
        writer.join().expect("all was written");
        output
    };
    match form.compression.as_deref() {
        None => bytes,
        Some("gz") => compress("gzip"),
        Some("bz2") => compress("bzip2"),
        Some("xz") => compress("xz"),
        Some("zst") => compress("zstd"),
        Some(other) => panic!("no such compression: {other}"),
    }
}

fn add(tar: &mut tar::Builder<Vec<u8>>, form: &TarForm, member: &Member) {
    let mut header = if form.is_gnu { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
    let kind = match member.kind.as_str() {
        "file" => tar::EntryType::Regular,
        "dir" => tar::EntryType::Directory,
        "symlink" => tar::EntryType::Symlink,
        "hardlink" => tar::EntryType::Link,
        "fifo" => tar::EntryType::Fifo,
        "char" => tar::EntryType::Char,
        "block" => tar::EntryType::Block,
        other => panic!("no such member: {other}"),
    };
    header.set_entry_type(kind);
    let default = if member.kind == "dir" { 0o755 } else { 0o644 };
    header.set_mode(member.mode.unwrap_or(default));
    header.set_size(member.content.len() as u64);
    let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
    // Names are written byte for byte: those with `..` or a leading slash are what some cases are about.
    let short = |field: &mut [u8], key: &str, bytes: &[u8], pax: &mut Vec<_>| {
        let length = bytes.len().min(field.len());
        field[..length].copy_from_slice(&bytes[..length]);
        if bytes.len() > field.len() {
            pax.push((key.to_owned(), bytes.to_vec()));
        }
    };
    {
        let old = header.as_old_mut();
        short(&mut old.name, "path", &member.name, &mut pax);
        short(&mut old.linkname, "linkpath", &member.link, &mut pax);
    }
    let mtime = member.mtime.unwrap_or(MTIME);
    if (0..=0o77_777_777_777).contains(&mtime) {
        header.set_mtime(mtime as u64);
    } else {
        header.set_mtime(0);
        pax.push(("mtime".to_owned(), mtime.to_string().into_bytes()));
    }
    // Ids with more than seven octal digits.
    for (key, id) in [("uid", member.owner.0), ("gid", member.owner.1)] {
        if id > 0o7_777_777 {
            pax.push((key.to_owned(), id.to_string().into_bytes()));
        }
    }
    header.set_uid(if member.owner.0 > 0o7_777_777 { 0 } else { member.owner.0 });
    header.set_gid(if member.owner.1 > 0o7_777_777 { 0 } else { member.owner.1 });
    if matches!(member.kind.as_str(), "char" | "block") {
        header.set_device_major(member.device.0).expect("a header with devices");
        header.set_device_minor(member.device.1).expect("a header with devices");
    }
    // As tar(1) writes it: six digits, a zero byte and a space. Some cases copy an archive as it is.
    header.set_cksum();
    let sum = header.cksum().expect("a checksum");
    header.as_old_mut().cksum.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    pax.extend(member.pax.iter().cloned());
    if !pax.is_empty() {
        let records = pax.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        tar.append_pax_extensions(records).expect("a tar in memory");
    }
    tar.append(&header, member.content.as_slice()).expect("a tar in memory");
}

/// Makes a bare repository that a plain HTTP server can serve.
fn repository(path: &Path, commits: &[Commit]) {
    let work = path.with_extension("work");
    kit::make_dir(&work);
    let date = "2020-01-01T00:00:00Z";
    let git = |args: &[&OsStr]| {
        let status = Command::new("git")
            .args(args)
            .envs([("GIT_AUTHOR_DATE", date), ("GIT_COMMITTER_DATE", date)])
            .envs([("GIT_AUTHOR_NAME", "t"), ("GIT_AUTHOR_EMAIL", "t@example.com")])
            .envs([("GIT_COMMITTER_NAME", "t"), ("GIT_COMMITTER_EMAIL", "t@example.com")])
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_SYSTEM", "/dev/null")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("git runs");
        assert!(status.success(), "git {args:?}: {status}");
    };
    let at = |words: &[&str]| {
        let mut args = vec![OsStr::new("-C"), work.as_os_str()];
        args.extend(words.iter().map(OsStr::new));
        git(&args);
    };
    at(&["init", "-q", "-b", "main", "."]);
    for (number, commit) in commits.iter().enumerate() {
        for (name, content, is_executable) in &commit.files {
            let file = work.join(OsStr::from_bytes(name));
            kit::write_file(&file, content);
            let mode = if *is_executable { 0o755 } else { 0o644 };
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        at(&["add", "-A"]);
        at(&["commit", "-q", "--allow-empty", "-m", &format!("c{number}")]);
        for tag in &commit.tags {
            at(&["tag", tag]);
        }
        for branch in &commit.branches {
            at(&["branch", branch]);
        }
    }
    let words = ["clone", "-q", "--bare"].map(OsStr::new);
    git(&[&words[..], &[work.as_os_str(), path.as_os_str()]].concat());
    git(&[OsStr::new("--git-dir"), path.as_os_str(), OsStr::new("update-server-info")]);
    fs::remove_dir_all(work).expect("remove the work tree");
}

/// Serves the files of a directory over HTTP until the process ends, as a plain web server does.
///
/// Returns its address, without a final slash.
pub(crate) fn serve(dir: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let dir = dir.clone();
            std::thread::spawn(move || answer(stream, &dir));
        }
    });
    address
}

fn answer(mut stream: TcpStream, dir: &Path) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) if request.len() < 16 * 1024 => request.push(byte[0]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
    let path = target.split('?').next().unwrap_or("").trim_start_matches('/');
    let is_inside = !path.split('/').any(|part| part == "..");
    let file = is_inside.then(|| fs::read(dir.join(path)).ok()).flatten();
    let (status, body) = match &file {
        Some(bytes) => ("200 OK", bytes.as_slice()),
        None => ("404 Not Found", &b""[..]),
    };
    // The date that Python's server gives, which the recordings were made with.
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: application/octet-stream\r\n\
         Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if method == "HEAD" { &b""[..] } else { body };
    // A client may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// An ssh agent with one key, ended with this value.
pub(crate) struct Agent {
    dir: tempfile::TempDir,
    process: Child,
}

impl Agent {
    pub(crate) fn start() -> Option<Self> {
        if !host::has("ssh-agent", "openssh-client") {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let key = dir.path().join("key");
        let key_name = key.to_str().expect("UTF-8");
        host::tool(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key_name]);
        let socket = dir.path().join("agent");
        let mut process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ssh-agent starts");
        // Its first line comes when it listens.
        let mut line = [0];
        let read = process.stdout.as_mut().expect("its output").read(&mut line);
        assert_eq!(read.expect("it speaks"), 1);
        let status = Command::new("ssh-add")
            .arg("-q")
            .arg(&key)
            .env("SSH_AUTH_SOCK", &socket)
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("ssh-add runs").success());
        Some(Self { dir, process })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The root file system that the recordings were made on: busybox under all its names, and accounts.
pub(crate) fn busybox() -> Vec<u8> {
    const DIRS: [(&str, u32); 13] = [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("root", 0o700),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("usr/sbin", 0o755),
        ("var", 0o755),
        ("var/spool", 0o755),
        ("var/spool/mail", 0o755),
        ("var/tmp", 0o1777),
    ];
    const FILES: [(&str, &str); 3] = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\nnobody:x:65534:\n"),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
    ];
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode) in DIRS {
        base::append(&mut tar, Directory, name, mode, None, b"");
    }
    let program = fs::read(base::BUSYBOX).expect("busybox is there");
    base::append(&mut tar, Regular, "bin/busybox", 0o755, None, &program);
    let applets = host::tool(&[base::BUSYBOX, "--list"]);
    for applet in applets.lines().filter(|name| *name != "busybox") {
        base::append(&mut tar, Link, &format!("bin/{applet}"), 0o755, Some("bin/busybox"), b"");
    }
    for (name, text) in FILES {
        base::append(&mut tar, Regular, name, 0o644, None, text.as_bytes());
    }
    base::append(&mut tar, Symlink, "usr/bin/env", 0o777, Some("../../bin/env"), b"");
    tar.into_inner().expect("a tar in memory")
}
