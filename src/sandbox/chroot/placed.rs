//! What a command sees besides the files of the image, put into its tree and taken out again.
//!
//! Nothing can be mounted, so that a directory or a file of ours takes the place of what the tree has
//! there, which waits in a directory beside the tree. Afterwards both go back, and the directory
//! around them gets the time that it had, or that the command gave it: a layer shows no trace.

mod readonly;

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, UTIME_OMIT, makedev,
    mkdirat, mknodat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::super::fault::{Doing, Fault};
use super::super::mounts::{LINKS, NODES, check_place, depth};
use super::super::spec::{MountKind, RunSpec};
use super::super::{SandboxError, Source};
use crate::layer::owner;
use crate::snapshot::{self, TreeState};
use crate::store::remove_tree;
use crate::sys::cancel::Cancel;
use crate::sys::remove::remove_tree as remove_tree_at;
use crate::sys::rooted::{open_beneath, open_in_root, resolve_in_root};

/// Directories in which a machine shows itself: an image has them empty.
const OWN: [&str; 3] = ["dev", "proc", "sys"];

/// What was being done where the store is mounted with nodev, so that its devices serve nothing.
pub(in super::super) const OPENING: &str =
    "devices in the store, which may not be mounted with nodev";

/// To hold a thing without opening it.
const HELD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Things of ours in a tree. Dropping it takes them out.
#[derive(Debug)]
pub(in super::super) struct Placed {
    root: OwnedFd,
    /// Where what they replace waits.
    stash: PathBuf,
    aside: OwnedFd,
    put: Vec<Put>,
    /// Devices of `/dev`.
    nodes: Vec<(&'static str, OwnedFd)>,
    /// Whether a supervisor stands between the command and all files.
    is_emulated: bool,
}

/// One thing that was put.
#[derive(Debug)]
struct Put {
    parent: OwnedFd,
    name: Vec<u8>,
    /// The name of what it replaces, in the stash.
    replaced: Option<String>,
    /// The directory that what is in it goes back to.
    back: Option<OwnedFd>,
    /// A mount point that goes only if nothing is in it.
    is_stub: bool,
    /// Times of the directory around it, before and right after.
    times: (Timespec, Timespec),
    /// What was put, whatever becomes of its name.
    made: Option<OwnedFd>,
    /// Whether it is to be read only.
    is_read_only: bool,
    /// What it was before the command ran, where nothing keeps the command from changing it.
    before: Option<TreeState>,
}

impl Placed {
    /// Puts all that a command is to see into the tree. Returns with it the sockets of its agents.
    pub(in super::super) fn new(
        root: BorrowedFd<'_>,
        spec: &RunSpec,
        sources: &[Source<'_>],
        (hosts, resolv_conf): (&str, &str),
        is_emulated: bool,
        cancel: &Cancel,
    ) -> Result<(Self, Vec<OwnedFd>), SandboxError> {
        let copy = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| SandboxError::io("cannot copy a descriptor", error))
        };
        let stash = beside(root)
            .map_err(|error| SandboxError::io("cannot find the directory of the tree", error))?;
        std::fs::create_dir(&stash)
            .map_err(|error| SandboxError::io(format!("cannot make {}", stash.display()), error))?;
        let aside = openat(CWD, &stash, DIR, Mode::empty())
            .map_err(|error| SandboxError::io("cannot open what was just made", error))?;
        let mut placed = Self {
            root: copy(root)?,
            stash,
            aside,
            put: Vec::new(),
            nodes: Vec::new(),
            is_emulated,
        };
        let agents = placed.all(spec, sources, hosts, resolv_conf, cancel).map_err(of_fault)?;
        Ok((placed, agents))
    }

    fn all(
        &mut self,
        spec: &RunSpec,
        sources: &[Source<'_>],
        hosts: &str,
        resolv_conf: &str,
        cancel: &Cancel,
    ) -> Result<Vec<OwnedFd>, Fault> {
        for name in OWN {
            self.own(name)?;
        }
        self.devices().doing(|| "making the devices of /dev")?;
        if self.is_emulated {
            self.close_proc().doing(|| "making /proc")?;
        } else {
            let null =
                openat(&self.root, "dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            null.doing(|| OPENING)?;
        }
        self.file("/etc/hosts", hosts.as_bytes(), 0o644, (0, 0))?;
        self.file("/etc/resolv.conf", resolv_conf.as_bytes(), 0o644, (0, 0))?;
        let mut agents = Vec::new();
        let mut mounts: Vec<_> = spec.mounts.iter().collect();
        mounts.sort_by_key(|mount| depth(&mount.target));
        for mount in mounts {
            let target = mount.target.as_str();
            let doing = || format!("putting what is to be at {target} there");
            let place = resolve_in_root(self.root.as_fd(), target.as_bytes()).doing(doing)?;
            if !matches!(mount.kind, MountKind::Writable) {
                check_place(target, &place.path)?;
            }
            match &mount.kind {
                MountKind::Writable => {}
                MountKind::Tmpfs { mode, .. } => {
                    let there = self.mode_at(target);
                    let mode = mode.or(there).unwrap_or(0o1777);
                    self.directory(target, mode, (0, 0))?;
                }
                MountKind::Bind { source, subpath, readonly } => match sources.get(*source) {
                    Some(Source::Tree(from)) if !*readonly => {
                        let from = part(*from, subpath).doing(doing)?;
                        self.moved(target, from)?;
                    }
                    Some(Source::Tree(from) | Source::Detached(from)) => {
                        self.copied(target, *from, subpath, cancel)?;
                        self.mark_last(*readonly);
                    }
                    _ => return Err(Fault::Refused("a descriptor is missing".into())),
                },
                MountKind::Secret { source, mode, uid, gid } => {
                    let Some(Source::File(from)) = sources.get(*source) else {
                        return Err(Fault::Refused("a descriptor is missing".into()));
                    };
                    let from = from.try_clone_to_owned().doing(doing)?;
                    let mut bytes = Vec::new();
                    io::Read::read_to_end(&mut std::fs::File::from(from), &mut bytes)
                        .doing(doing)?;
                    self.file(target, &bytes, *mode, (*uid, *gid))?;
                    self.mark_last(true);
                }
                MountKind::Ssh { mode, uid, gid, .. } => {
                    agents.push(self.socket(target, *mode, (*uid, *gid))?);
                }
            }
        }
        if !self.is_emulated {
            self.look().doing(|| "looking at what is to be read only")?;
        }
        Ok(agents)
    }

    /// Replaces a directory of the machine's by an empty one; where the image has none, an empty one
    /// stays in the layer, as with mounts.
    fn own(&mut self, name: &str) -> Result<(), Fault> {
        match statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {
                mkdirat(&self.root, name, Mode::from(0o755)).doing(|| format!("making /{name}"))?;
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => {}
            Ok(_) => {
                return Err(Fault::Refused(format!(
                    "/{name} of the image is a link or a file: a command can run only where it is a directory"
                )));
            }
            Err(error) => return Err(error).doing(|| format!("looking at /{name}")),
        }
        self.directory(&format!("/{name}"), 0o755, (0, 0))
    }

    fn devices(&mut self) -> io::Result<()> {
        let dev = openat(&self.root, "dev", DIR, Mode::empty())?;
        for (name, major, minor) in NODES {
            let mode = Mode::from(0o666);
            if self.is_emulated {
                // The supervisor knows it by its inode.
                mknodat(&dev, name, FileType::RegularFile, mode, 0)?;
            } else {
                mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor))?;
            }
            rustix::fs::chmodat(&dev, name, mode, AtFlags::empty())?;
            self.nodes.push((name, openat(&dev, name, HELD, Mode::empty())?));
        }
        for (name, target) in LINKS {
            symlinkat(target, &dev, name)?;
        }
        for (name, mode) in [("pts", 0o755), ("shm", 0o1777)] {
            mkdirat(&dev, name, Mode::from(mode))?;
            rustix::fs::chmodat(&dev, name, Mode::from(mode), AtFlags::empty())?;
        }
        Ok(())
    }

    /// Closes the empty `/proc` to this very process, which so learns that a path leads there.
    fn close_proc(&self) -> io::Result<()> {
        let proc = openat(&self.root, "proc", DIR, Mode::empty())?;
        Ok(rustix::fs::fchmod(&proc, Mode::empty())?)
    }

    /// Opens it again, wherever it is now, so that it can be removed.
    fn open_proc(&self) {
        use std::os::fd::AsRawFd as _;
        for put in self.put.iter().filter(|put| self.is_emulated && put.name == b"proc") {
            if let Some(made) = &put.made {
                let link = format!("/proc/self/fd/{}", made.as_raw_fd());
                rustix::fs::chmod(link, Mode::from(0o700)).ok();
            }
        }
    }

    fn mode_at(&self, path: &str) -> Option<u32> {
        let place = open_in_root(self.root.as_fd(), path.as_bytes(), OFlags::PATH).ok()?;
        let stat = rustix::fs::fstat(place).ok()?;
        FileType::from_raw_mode(stat.st_mode).is_dir().then_some(stat.st_mode & 0o7777)
    }

    /// Makes room at a path; what is missing of it is made. `make` is given the directory and the
    /// name.
    fn put(
        &mut self,
        path: &str,
        back: Option<OwnedFd>,
        make: impl FnOnce(BorrowedFd<'_>, &[u8]) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let run = |placed: &mut Self| -> io::Result<()> {
            let resolved = resolve_in_root(placed.root.as_fd(), path.as_bytes())?;
            let parts: Vec<&[u8]> = resolved.path.split(|&byte| byte == b'/').collect();
            let Some((name, above)) = parts.split_last().filter(|(name, _)| !name.is_empty())
            else {
                return Err(Errno::BUSY.into());
            };
            let existing = parts.len().saturating_sub(resolved.missing);
            for count in existing + 1..parts.len() {
                placed.stub(&parts[..count].join(&b'/'))?;
            }
            let parent = open_beneath(placed.root.as_fd(), &above.join(&b'/'), DIR)?;
            let before = time(&rustix::fs::fstat(&parent)?);
            let replaced = match resolved.missing {
                0 => {
                    let number = placed.put.len().to_string();
                    renameat(&parent, *name, &placed.aside, number.as_str())?;
                    Some(number)
                }
                _ => None,
            };
            let result = make(parent.as_fd(), name);
            let made = openat(&parent, *name, HELD, Mode::empty()).ok();
            let timed = set_time(&parent, before);
            placed.put.push(Put {
                parent,
                name: name.to_vec(),
                replaced,
                back,
                is_stub: false,
                times: (before, before),
                made,
                is_read_only: false,
                before: None,
            });
            result.and(timed)
        };
        run(self).doing(|| format!("putting what is to be at {path} there"))
    }

    /// Makes a directory that leads to a place.
    fn stub(&mut self, path: &[u8]) -> io::Result<()> {
        let cut = path.iter().rposition(|&byte| byte == b'/');
        let (above, name) = cut.map_or((&b""[..], path), |cut| (&path[..cut], &path[cut + 1..]));
        let parent = open_beneath(self.root.as_fd(), above, DIR)?;
        let before = time(&rustix::fs::fstat(&parent)?);
        mkdirat(&parent, name, Mode::from(0o755))?;
        let after = time(&rustix::fs::fstat(&parent)?);
        let name = name.to_vec();
        let times = (before, after);
        self.put.push(Put {
            parent,
            name,
            replaced: None,
            back: None,
            is_stub: true,
            times,
            made: None,
            is_read_only: false,
            before: None,
        });
        Ok(())
    }

    fn directory(&mut self, path: &str, mode: u32, owner: (u32, u32)) -> Result<(), Fault> {
        self.put(path, None, |dir, name| make_dir(dir, name, mode, owner))
    }

    fn file(
        &mut self,
        path: &str,
        bytes: &[u8],
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<(), Fault> {
        self.put(path, None, |dir, name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(dir, name, flags | OFlags::NOFOLLOW, Mode::from(0o600))?;
            let mut file = std::fs::File::from(file);
            file.write_all(bytes)?;
            owner::set_open(&file, uid, gid)?;
            Ok(owner::set_mode_open(&file, mode)?)
        })
    }

    fn socket(&mut self, path: &str, mode: u32, (uid, gid): (u32, u32)) -> Result<OwnedFd, Fault> {
        let mut listening = None;
        self.put(path, None, |dir, name| {
            use std::os::fd::AsRawFd as _;
            let raw = name;
            let name = String::from_utf8_lossy(name);
            let place = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
            let listener = UnixListener::bind(&place)?;
            owner::set(dir, raw, uid, gid)?;
            rustix::fs::chmodat(dir, name.as_ref(), Mode::from(mode), AtFlags::empty())?;
            listening = Some(listener.into());
            Ok(())
        })?;
        listening.ok_or_else(|| Fault::Refused("no socket was made".into()))
    }

    /// Moves what is in a directory of the store to the target, and back at the end.
    fn moved(&mut self, path: &str, from: OwnedFd) -> Result<(), Fault> {
        let mut stat =
            rustix::fs::fstat(&from).doing(|| format!("looking at what is for {path}"))?;
        owner::amend_open(&from, &mut stat);
        if self.put.iter().filter_map(|put| put.back.as_ref()).any(|back| {
            let is_same = |it: Stat| (it.st_dev, it.st_ino) == (stat.st_dev, stat.st_ino);
            rustix::fs::fstat(back).is_ok_and(is_same)
        }) {
            return Err(Fault::Refused(format!(
                "one cache mount at two targets, the second {path}, takes namespaces, which this place \
                 does not allow"
            )));
        }
        let source = from.try_clone().doing(|| "copying a descriptor")?;
        let (mode, owner) = (stat.st_mode & 0o7777, (stat.st_uid, stat.st_gid));
        self.put(path, Some(from), |dir, name| {
            make_dir(dir, name, mode, owner)?;
            let place = openat(dir, name, DIR, Mode::empty())?;
            move_all(source.as_fd(), place.as_fd())
        })
    }

    fn copied(
        &mut self,
        path: &str,
        from: BorrowedFd<'_>,
        subpath: &str,
        cancel: &Cancel,
    ) -> Result<(), Fault> {
        let from = from.try_clone_to_owned().doing(|| "copying a descriptor")?;
        let subpath = or_all(subpath).as_bytes().to_vec();
        self.put(path, None, |dir, name| {
            snapshot::copy_part(from.as_fd(), &subpath, dir, name, cancel)
        })
    }

    /// Takes all out again, the last first. Returns the paths of what was to be read only and was
    /// written to.
    ///
    /// # Errors
    ///
    /// The first thing that could not be taken out: the tree is to be given up then.
    pub(in super::super) fn take_out(mut self) -> Result<Vec<String>, SandboxError> {
        let moved = self.moved_by_the_command();
        let written_to = self.written_to();
        self.undo()
            .map_err(|error| SandboxError::io("cannot take out what a command was given", error))?;
        match moved {
            Some(path) => Err(SandboxError::Spec {
                message: format!("the command has moved or linked what it was given at {path}"),
            }),
            None => Ok(written_to),
        }
    }

    /// Leaves all as it is, for a tree that is given up while processes may still work in it: what
    /// is moved out of it could lead them out.
    pub(in super::super) fn abandon(mut self) {
        self.put.clear();
    }

    /// Returns the place of something that has another name now, which would stay in the layer.
    /// Where things are mounted, the kernel refuses that.
    fn moved_by_the_command(&self) -> Option<String> {
        let dev = openat(&self.root, "dev", DIR | OFlags::NOFOLLOW, Mode::empty()).ok();
        let nodes = self.nodes.iter().filter(|(name, held)| {
            is_elsewhere(held, dev.as_ref().map(AsFd::as_fd), name.as_bytes())
        });
        let put = self.put.iter().filter(|put| {
            let made = put.made.as_ref();
            made.is_some_and(|made| is_elsewhere(made, Some(put.parent.as_fd()), &put.name))
        });
        nodes
            .map(|(name, _)| format!("/dev/{name}"))
            .chain(put.map(|put| String::from_utf8_lossy(&put.name).into_owned()))
            .next()
    }

    fn undo(&mut self) -> io::Result<()> {
        self.open_proc();
        while let Some(put) = self.put.pop() {
            let now = time(&rustix::fs::fstat(&put.parent)?);
            if put.is_stub {
                match unlinkat(&put.parent, put.name.as_slice(), AtFlags::REMOVEDIR) {
                    // What is in it stays in the layer.
                    Err(Errno::NOTEMPTY | Errno::NOENT | Errno::NOTDIR) => continue,
                    result => result?,
                }
                let (before, after) = put.times;
                set_time(&put.parent, if same(now, after) { before } else { now })?;
                continue;
            }
            if let Some(back) = &put.back {
                match openat(
                    &put.parent,
                    put.name.as_slice(),
                    DIR | OFlags::NOFOLLOW,
                    Mode::empty(),
                ) {
                    Ok(place) => {
                        move_all(place.as_fd(), back.as_fd())?;
                        let mut stat = rustix::fs::fstat(&place)?;
                        owner::amend_open(&place, &mut stat);
                        like(back, &stat)?;
                    }
                    // The command has removed it.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let name = std::ffi::CString::new(put.name.as_slice())?;
            match remove_tree_at(put.parent.as_fd(), &name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if let Some(number) = &put.replaced {
                match renameat(&self.aside, number.as_str(), &put.parent, put.name.as_slice()) {
                    // The directory around it is gone.
                    Err(Errno::NOENT) => {}
                    result => result?,
                }
            }
            set_time(&put.parent, now)?;
        }
        remove_tree(&self.stash)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = self.undo();
    }
}

/// Returns a path beside a tree, at which nothing is.
fn beside(root: BorrowedFd<'_>) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
    let dir = path.parent().ok_or(Errno::INVAL)?;
    Ok(dir.join("aside"))
}

fn part(from: BorrowedFd<'_>, subpath: &str) -> io::Result<OwnedFd> {
    open_in_root(from, or_all(subpath).as_bytes(), DIR)
}

/// Returns the path of a part of a source, of all of it where none is named.
fn or_all(subpath: &str) -> &str {
    if subpath.is_empty() { "." } else { subpath }
}

fn of_fault(fault: Fault) -> SandboxError {
    match fault {
        Fault::Failed { doing, errno } => SandboxError::Setup { doing, errno },
        Fault::Refused(message) => SandboxError::Spec { message },
        Fault::UnmappedId { of, id, is_chosen } => SandboxError::UnmappedId { of, id, is_chosen },
    }
}

/// Says whether a thing that was at a name is at another, or has more than that one.
fn is_elsewhere(held: &OwnedFd, dir: Option<BorrowedFd<'_>>, name: &[u8]) -> bool {
    let Ok(stat) = rustix::fs::fstat(held) else { return false };
    // The command has removed it.
    if stat.st_nlink == 0 {
        return false;
    }
    let there = dir.and_then(|dir| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok());
    let is_there = there.is_some_and(|it| (it.st_dev, it.st_ino) == (stat.st_dev, stat.st_ino));
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    !is_there || !is_dir && stat.st_nlink > 1
}

/// Gives a directory the owner and the mode of another.
fn like(dir: &OwnedFd, stat: &Stat) -> io::Result<()> {
    owner::set_open(dir, stat.st_uid, stat.st_gid)?;
    Ok(owner::set_mode_open(dir, stat.st_mode & 0o7777)?)
}

fn make_dir(dir: BorrowedFd<'_>, name: &[u8], mode: u32, owner: (u32, u32)) -> io::Result<()> {
    mkdirat(dir, name, Mode::from(0o700))?;
    let made = openat(dir, name, DIR | OFlags::NOFOLLOW, Mode::empty())?;
    owner::set_open(&made, owner.0, owner.1)?;
    Ok(owner::set_mode_open(&made, mode)?)
}

/// Moves all entries of a directory into another of the same file system, over what is there.
fn move_all(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 16 * 1024];
    let listing = openat(from, ".", DIR, Mode::empty())?;
    let mut names = Vec::new();
    let mut entries = RawDir::new(&listing, &mut buffer);
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    for name in names {
        match renameat(from, &name, to, &name) {
            // Another build has put one there in the meantime; the last one counts.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR) => {
                remove_tree_at(to, &name)?;
                renameat(from, &name, to, &name)?;
            }
            result => result?,
        }
    }
    Ok(())
}

fn time(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 }
}

fn same(a: Timespec, b: Timespec) -> bool {
    (a.tv_sec, a.tv_nsec) == (b.tv_sec, b.tv_nsec)
}

fn set_time(dir: &OwnedFd, time: Timespec) -> io::Result<()> {
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access, last_modification: time };
    Ok(utimensat(dir, ".", &times, AtFlags::empty())?)
}
