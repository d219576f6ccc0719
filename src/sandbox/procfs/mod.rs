//! `/proc` for a command in whose root directory nothing can be mounted: its own processes, and facts
//! about the machine, answered call by call.
//!
//! A supervisor that gets the calls asks [`Procfs`], which acts on the container's own `/proc` with
//! the ids, groups and capabilities of the caller, and hands descriptors in.
//!
//! # Invariants
//!
//! - What may be seen is a list ([`route`]). Of processes only those are there that have the root
//!   directory of the command: no other process has it but the keeper, which is left out.
//! - No directory of procfs is ever handed in. Its `..` would lead to the root of the container, and
//!   Landlock restricts neither walking nor changes of modes and owners. A listing is a directory
//!   made in the tree ([`listing`]).
//! - Files that are the same for all are handed in as copies: who holds a file of procfs may change
//!   its mode for the whole machine.
//! - A process is held by a descriptor of its directory before it is looked at, so that a number that
//!   is given out anew opens nothing. A link to what a process has open is opened once, looked at,
//!   and opened again by that descriptor.
//! - What a descriptor leads to is opened again only in the tree, or if it is a pipe, memory or a
//!   terminal of the command. A file of procfs is never opened again for writing.
//! - Nothing waits: pipes are opened without waiting for their other end.
//! - Of terminals there are those that the command made ([`terminals`]).

mod listing;
mod object;
mod route;
mod terminals;

pub(super) use route::{Named, named};

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use crate::sys::process::Standing;
use crate::sys::rooted::open_in_root;
use listing::Listings;
use object::Object;
use route::{Directory, Kind, Route, Who};
use terminals::Terminals;

/// Longest file of which a copy is handed out.
const COPY_MAX: u64 = 4 << 20;

/// To hold something without opening it.
const HELD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A thread that made a call, and its rights.
#[derive(Debug)]
pub(super) struct Caller {
    pub process: i32,
    pub thread: i32,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    capabilities: u64,
}

/// The service of one command.
#[derive(Debug)]
pub(super) struct Procfs {
    /// `/proc` of the container.
    proc: OwnedFd,
    root: OwnedFd,
    /// Path of the root directory.
    name: Vec<u8>,
    /// Which directory it is: device and inode.
    place: (u64, u64),
    /// The process that has the same root directory and is not the command's.
    keeper: i32,
    /// Whether it has a network to show.
    has_network: bool,
    listings: Listings,
    terminals: Terminals,
}

/// A change of a file that is named by a descriptor of its user.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Mode(u32),
    /// User and group; all ones leave one as it is.
    Owner(u32, u32),
    /// `None` for now.
    Times(Option<[(i64, i64); 2]>),
}

/// What a path of `/proc` leads to.
#[derive(Debug)]
pub(super) struct Found {
    /// Directory that the path of the route starts at.
    base: OwnedFd,
    route: Route,
    /// Whether it is the caller's own.
    is_own: bool,
}

impl Found {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.route.kind, Kind::Directory(_))
    }

    /// Says whether it is the program of the caller, by the name that means any caller's.
    pub(super) fn is_own_program(&self) -> bool {
        self.route.kind == Kind::Program && self.route.who == Some(Who::Caller)
    }
}

impl Procfs {
    /// Serves a command whose root directory is `root`, in which `/proc` is an empty directory of
    /// ours.
    ///
    /// # Errors
    ///
    /// What opening these says.
    pub(super) fn new(
        root: BorrowedFd<'_>,
        keeper: i32,
        has_network: bool,
    ) -> std::io::Result<Self> {
        let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let root = root.try_clone_to_owned()?;
        let name = rustix::fs::readlinkat(&proc, own_link(&root), Vec::new())?.into_bytes();
        let stat = rustix::fs::fstat(&root)?;
        let listings = Listings::new(&root)?;
        let place = (stat.st_dev, stat.st_ino);
        let terminals = Terminals::default();
        Ok(Self { proc, root, name, place, keeper, has_network, listings, terminals })
    }

    /// Looks at a thread that calls.
    ///
    /// # Errors
    ///
    /// `ESRCH` where it is gone; `EPERM` where its ids are such that no other process can have its
    /// rights.
    pub(super) fn caller(&self, thread: i32) -> Result<Caller, Errno> {
        let mut bytes = Vec::new();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.proc, format!("{thread}/status"), flags, Mode::empty())
            .map_err(|_| Errno::SRCH)?;
        File::from(file).read_to_end(&mut bytes).map_err(|_| Errno::SRCH)?;
        // The name of a process may have any bytes.
        let text = String::from_utf8_lossy(&bytes);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        // Real, effective, saved, and that for files.
        let id = |name: &str| -> Result<u32, Errno> {
            let ids: Vec<&str> = field(name).ok_or(Errno::SRCH)?.split_whitespace().collect();
            let first = ids.first().ok_or(Errno::SRCH)?;
            match ids.iter().all(|id| id == first) {
                true => first.parse().map_err(|_| Errno::SRCH),
                false => Err(Errno::PERM),
            }
        };
        let process = field("Tgid:").and_then(|text| text.trim().parse().ok());
        let groups = field("Groups:").and_then(|text| {
            text.split_whitespace().map(|group| group.parse().ok()).collect::<Option<Vec<u32>>>()
        });
        let permitted = field("CapPrm:").and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        Ok(Caller {
            process: process.ok_or(Errno::SRCH)?,
            thread,
            uid: id("Uid:")?,
            gid: id("Gid:")?,
            groups: groups.ok_or(Errno::SRCH)?,
            capabilities: permitted.ok_or(Errno::SRCH)?,
        })
    }

    /// Takes the caller's rights, as long as the guard lives.
    ///
    /// # Errors
    ///
    /// `EPERM` where they cannot be taken.
    pub(super) fn act(caller: &Caller) -> Result<Standing, Errno> {
        let keep = CapabilitySet::from_bits_retain(caller.capabilities);
        Standing::take(caller.uid, caller.gid, &caller.groups, keep).map_err(|_| Errno::PERM)
    }

    /// Opens the memory of a thread for writing.
    ///
    /// # Errors
    ///
    /// What opening it says.
    pub(super) fn memory(&self, caller: &Caller) -> Result<File, Errno> {
        let _acting = Self::act(caller)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let path = format!("{}/mem", caller.thread);
        openat(&self.proc, path, flags, Mode::empty()).map(File::from)
    }

    /// Returns the absolute path, as the caller has it, at which its relative paths start.
    pub(super) fn base(&self, caller: &Caller, directory: i32) -> Option<Vec<u8>> {
        let _acting = Self::act(caller).ok()?;
        let path = match directory {
            libc::AT_FDCWD => format!("{}/cwd", caller.thread),
            number => format!("{}/fd/{number}", caller.thread),
        };
        let text = rustix::fs::readlinkat(&self.proc, path, Vec::new()).ok()?.into_bytes();
        let inside = self.inside(&text)?;
        Some(self.listings.meaning(inside).unwrap_or_else(|| inside.to_vec()))
    }

    /// Returns a path of the tree as the command has it.
    fn inside<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        match text.strip_prefix(self.name.as_slice())? {
            b"" => Some(b"/"),
            rest if rest.starts_with(b"/") => Some(rest),
            _ => None,
        }
    }

    /// Returns the text of a link at the end of an absolute path of the tree.
    pub(super) fn link_in_tree(&self, path: &[u8]) -> Option<Vec<u8>> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let held = openat2(&self.root, path, HELD, Mode::empty(), resolve).ok()?;
        // Of anything else the kernel has no text.
        Some(rustix::fs::readlinkat(&held, "", Vec::new()).ok()?.into_bytes())
    }

    /// Finds what names below `/proc` lead to; `None` where that is not in it.
    ///
    /// # Errors
    ///
    /// `ENOENT` for what is not there or not the command's, `EACCES` for what is refused.
    pub(super) fn find(
        &self,
        names: &[Vec<u8>],
        follows: bool,
        caller: &Caller,
    ) -> Result<Option<Found>, Errno> {
        let Some(route) = route::route(names, follows)? else { return Ok(None) };
        let is_network = route.path == "net" || route.path.starts_with("net/");
        if is_network && !self.has_network {
            return Err(Errno::NOENT);
        }
        let open = |name: &str| {
            openat(&self.proc, name, HELD | OFlags::DIRECTORY, Mode::empty())
                .map_err(|_| Errno::NOENT)
        };
        let (base, is_own) = match route.who {
            None => (open(".")?, false),
            Some(Who::Caller) => (open(&caller.process.to_string())?, true),
            Some(Who::Thread) => {
                let (process, thread) = (caller.process, caller.thread);
                (open(&format!("{process}/task/{thread}"))?, true)
            }
            Some(Who::Process(number)) if number == caller.process => {
                (open(&number.to_string())?, true)
            }
            Some(Who::Process(number)) => {
                let held = open(&number.to_string())?;
                if !self.is_of_command(number, held.as_fd()) {
                    return Err(Errno::NOENT);
                }
                (held, false)
            }
        };
        Ok(Some(Found { base, route, is_own }))
    }

    /// Says whether a process, of which the directory is given, has the command's root directory.
    fn is_of_command(&self, number: i32, process: BorrowedFd<'_>) -> bool {
        if number == self.keeper || number == rustix::process::getpid().as_raw_nonzero().get() {
            return false;
        }
        let Ok(stat) = rustix::fs::fstat(process) else { return false };
        // Only who has its ids may look.
        let Ok(_acting) = Standing::take(stat.st_uid, stat.st_gid, &[], CapabilitySet::all())
        else {
            return false;
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(process, "root", flags, Mode::empty());
        let stat = root.and_then(rustix::fs::fstat);
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.place)
    }

    /// Opens it with the flags of the caller.
    ///
    /// # Errors
    ///
    /// What open(2) says.
    pub(super) fn open(
        &mut self,
        found: &Found,
        caller: &Caller,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        // A descriptor without rights cannot be handed in: one to read takes its place.
        let flags = match flags.contains(OFlags::PATH) {
            true => flags & (OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC),
            false => flags,
        };
        let writes = flags.intersects(OFlags::RDWR | OFlags::WRONLY | OFlags::TRUNC);
        let Route { kind, path, who } = &found.route;
        if flags.contains(OFlags::CREATE | OFlags::EXCL) {
            return Err(Errno::EXIST);
        }
        match kind {
            Kind::Directory(at) => match Self::settings(found) {
                Some(FileType::RegularFile) => Self::copy(found, caller, flags),
                Some(_) if writes || flags.contains(OFlags::CREATE) => Err(Errno::ISDIR),
                Some(_) => self.list(found, *at, caller),
                None => Err(Errno::NOENT),
            },
            Kind::File { is_writable } => {
                let may = *is_writable && found.is_own && !matches!(who, Some(Who::Process(_)));
                if writes && !may {
                    return Err(Errno::ACCESS);
                }
                let _acting = Self::act(caller)?;
                regular(found.base.as_fd(), path, flags & KEPT)
            }
            Kind::Copy => Self::copy(found, caller, flags),
            Kind::Mounts | Kind::MountInfo if writes => Err(Errno::ACCESS),
            Kind::Mounts | Kind::MountInfo if flags.contains(OFlags::DIRECTORY) => {
                Err(Errno::NOTDIR)
            }
            Kind::Mounts | Kind::MountInfo => {
                in_memory(self.mounts(*kind == Kind::MountInfo).as_bytes())
            }
            Kind::Link => Err(Errno::LOOP),
            _ if flags.contains(OFlags::NOFOLLOW) && !matches!(kind, Kind::Beyond(_)) => {
                Err(Errno::LOOP)
            }
            Kind::Namespace => Err(Errno::ACCESS),
            Kind::Descriptor => self.object(found, caller)?.open(caller, flags),
            Kind::Program | Kind::Place if writes => Err(Errno::ACCESS),
            Kind::Program | Kind::Place => self.object(found, caller)?.open(caller, flags),
            Kind::Beyond(_) if writes || flags.contains(OFlags::CREATE) => Err(Errno::ACCESS),
            Kind::Beyond(rest) => {
                let path = self.beyond(found, rest, caller)?;
                let _acting = Self::act(caller)?;
                object::open_in(self.root.as_fd(), &path, flags)
            }
        }
    }

    /// Opens what a call looks at, without any right to it: a link itself unless it is followed.
    ///
    /// # Errors
    ///
    /// What stat(2) says.
    pub(super) fn hold(
        &self,
        found: &Found,
        caller: &Caller,
        follows: bool,
    ) -> Result<OwnedFd, Errno> {
        let Route { kind, path, .. } = &found.route;
        match kind {
            Kind::Beyond(rest) => {
                let path = self.beyond(found, rest, caller)?;
                let _acting = Self::act(caller)?;
                let flags = if follows { OFlags::PATH } else { HELD };
                open_in_root(self.root.as_fd(), &path, flags | OFlags::CLOEXEC)
                    .map_err(|error| errno(&error))
            }
            Kind::Descriptor | Kind::Program | Kind::Place if follows => {
                Ok(self.object(found, caller)?.into_held())
            }
            Kind::Copy if Self::common(found, caller).is_none() => Err(Errno::NOENT),
            _ => {
                let _acting = Self::act(caller)?;
                let path = if path.is_empty() { "." } else { path.as_str() };
                openat(&found.base, path, HELD, Mode::empty())
            }
        }
    }

    /// Reads a link.
    ///
    /// # Errors
    ///
    /// `EINVAL` for anything else.
    pub(super) fn read_link(&self, found: &Found, caller: &Caller) -> Result<Vec<u8>, Errno> {
        let Route { kind, path, .. } = &found.route;
        match kind {
            Kind::Link => Ok(match path.as_str() {
                "self" => caller.process.to_string().into_bytes(),
                "thread-self" => format!("{}/task/{}", caller.process, caller.thread).into_bytes(),
                name => format!("self/{name}").into_bytes(),
            }),
            Kind::Descriptor | Kind::Program | Kind::Place | Kind::Namespace => {
                let _acting = Self::act(caller)?;
                let text = rustix::fs::readlinkat(&found.base, path, Vec::new())?.into_bytes();
                Ok(self.inside(&text).map(<[u8]>::to_vec).unwrap_or(text))
            }
            Kind::Beyond(_) => {
                let held = self.hold(found, caller, false)?;
                match rustix::fs::readlinkat(&held, "", Vec::new()) {
                    Err(Errno::NOENT) => Err(Errno::INVAL),
                    text => Ok(text?.into_bytes()),
                }
            }
            _ => self.hold(found, caller, false).and(Err(Errno::INVAL)),
        }
    }

    /// Says whether the caller may do this with it, as access(2) asks.
    ///
    /// # Errors
    ///
    /// That it may not.
    pub(super) fn access(
        &self,
        found: &Found,
        caller: &Caller,
        mode: rustix::fs::Access,
    ) -> Result<(), Errno> {
        let held = self.hold(found, caller, true)?;
        let is_ours = matches!(
            found.route.kind,
            Kind::Directory(_) | Kind::Copy | Kind::Mounts | Kind::MountInfo
        );
        if is_ours && mode.contains(rustix::fs::Access::WRITE_OK) {
            return Err(Errno::ACCESS);
        }
        self.access_held(&held, caller, mode)
    }

    /// Says whether the caller may do this with something that is held.
    ///
    /// # Errors
    ///
    /// That it may not.
    pub(super) fn access_held(
        &self,
        held: &OwnedFd,
        caller: &Caller,
        mode: rustix::fs::Access,
    ) -> Result<(), Errno> {
        let _acting = Self::act(caller)?;
        rustix::fs::accessat(&self.proc, own_link(held), mode, AtFlags::EACCESS)
    }

    /// Changes what a descriptor leads to.
    ///
    /// # Errors
    ///
    /// `EPERM` for anything else.
    pub(super) fn change(
        &self,
        found: &Found,
        caller: &Caller,
        change: Change,
    ) -> Result<(), Errno> {
        match found.route.kind {
            Kind::Descriptor => self.object(found, caller)?.change(caller, change),
            _ => Err(Errno::PERM),
        }
    }

    /// Gives what a descriptor leads to, a file without a name perhaps, a name in the tree.
    ///
    /// # Errors
    ///
    /// What linkat(2) says.
    pub(super) fn link(&self, found: &Found, caller: &Caller, path: &[u8]) -> Result<(), Errno> {
        match found.route.kind {
            Kind::Descriptor => self.object(found, caller)?.link(caller, self.root.as_fd(), path),
            _ => Err(Errno::XDEV),
        }
    }

    /// Puts a link to the caller's program where the kernel will look for `/proc/self/exe`.
    ///
    /// # Errors
    ///
    /// What making the link says.
    pub(super) fn link_to_program(&mut self, found: &Found, caller: &Caller) -> Result<(), Errno> {
        let text = self.read_link(found, caller)?;
        self.listings.link_to_program(&text)
    }

    /// Makes a directory that a process is about to enter, where it is one of `/proc`.
    pub(super) fn enter(&self, found: &Found, caller: &Caller) {
        if matches!(found.route.kind, Kind::Directory(at) if at != Directory::Settings) {
            self.listings.enter(&found.route, caller);
        }
    }

    /// Opens what a link of a process leads to.
    fn object(&self, found: &Found, caller: &Caller) -> Result<Object<'_>, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let held = {
            let _acting = Self::act(caller)?;
            openat(&found.base, found.route.path.as_str(), flags, Mode::empty())?
        };
        let text = rustix::fs::readlinkat(&self.proc, own_link(&held), Vec::new())?;
        let is_inside = self.inside(text.as_bytes()).is_some();
        Ok(Object::new(self.proc.as_fd(), held, is_inside, text.as_bytes()))
    }

    /// Returns the path, from the root directory, of what is below where a link leads.
    fn beyond(&self, found: &Found, rest: &[u8], caller: &Caller) -> Result<Vec<u8>, Errno> {
        let text = {
            let _acting = Self::act(caller)?;
            rustix::fs::readlinkat(&found.base, found.route.path.as_str(), Vec::new())?
        };
        let mut path = self.inside(text.as_bytes()).ok_or(Errno::ACCESS)?.to_vec();
        path.push(b'/');
        path.extend_from_slice(rest);
        Ok(path)
    }

    /// Says what a path is that may be a setting of the kernel or a directory of them.
    fn settings(found: &Found) -> Option<FileType> {
        let path = match found.route.path.as_str() {
            "" => ".",
            path => path,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let held = openat2(&found.base, path, HELD, Mode::empty(), resolve).ok()?;
        Some(FileType::from_raw_mode(rustix::fs::fstat(held).ok()?.st_mode))
    }

    /// Opens a file that is the same for all, if every user of the container may read it.
    fn common(found: &Found, caller: &Caller) -> Option<OwnedFd> {
        let path = found.route.path.as_str();
        let _acting = Self::act(caller).ok()?;
        let file = regular(found.base.as_fd(), path, OFlags::NONBLOCK).ok()?;
        let mode = rustix::fs::fstat(&file).ok()?.st_mode;
        (mode & libc::S_IROTH != 0).then_some(file)
    }

    fn copy(found: &Found, caller: &Caller, flags: OFlags) -> Result<OwnedFd, Errno> {
        if flags.intersects(OFlags::RDWR | OFlags::WRONLY | OFlags::TRUNC) {
            return Err(if found.route.path.starts_with("sys/") {
                Errno::ROFS
            } else {
                Errno::ACCESS
            });
        }
        if flags.contains(OFlags::DIRECTORY) {
            return Err(Errno::NOTDIR);
        }
        let file = Self::common(found, caller).ok_or(Errno::NOENT)?;
        let mut bytes = Vec::new();
        // What some files show depends on who reads them.
        let _acting = Self::act(caller)?;
        File::from(file).take(COPY_MAX).read_to_end(&mut bytes).map_err(|error| errno(&error))?;
        in_memory(&bytes)
    }

    /// Returns what the mounts are: those of a container, though the root is a directory.
    fn mounts(&self, with_facts: bool) -> String {
        if !with_facts {
            return "overlay / overlay rw,relatime 0 0\n\
                    proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n"
                .to_owned();
        }
        let device = |stat: rustix::io::Result<rustix::fs::Stat>| {
            let device = stat.map_or(0, |stat| stat.st_dev);
            format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
        };
        let (root, proc) =
            (device(rustix::fs::fstat(&self.root)), device(rustix::fs::fstat(&self.proc)));
        format!(
            "21 20 {root} / / rw,relatime - overlay overlay rw\n\
             22 21 {proc} / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n"
        )
    }
}

/// Which flags of a caller go into the opening of a file of a process.
const KEPT: OFlags = OFlags::RWMODE.union(OFlags::NONBLOCK).union(OFlags::TRUNC);

/// Opens a regular file below a directory of procfs.
fn regular(base: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    // Looked at first: what a container hides behind a device is not opened.
    let held = openat2(base, path, HELD, Mode::empty(), resolve)?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode).is_file() {
        return Err(Errno::ACCESS);
    }
    openat2(base, path, flags, Mode::empty(), resolve)
}

/// Returns a file in memory of this content, at its beginning, which cannot be written by it.
fn in_memory(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let mut file = File::from(rustix::fs::memfd_create("proc", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes).map_err(|error| errno(&error))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), flags, Mode::empty())
}

/// Names a descriptor of ours in `/proc`.
fn own_link(file: &OwnedFd) -> String {
    format!("self/fd/{}", file.as_raw_fd())
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Turns a name into what calls take.
fn c_string(name: &[u8]) -> Result<CString, Errno> {
    CString::new(name).map_err(|_| Errno::INVAL)
}
