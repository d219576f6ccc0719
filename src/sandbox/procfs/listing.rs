//! Directories of `/proc`, as directories of the tree that are made when one is opened.
//!
//! The tree's own `/proc` has the directories that a process can make its working directory, and
//! nothing in them. A listing is a directory beside them, under a name that says nothing: links with
//! the texts of the links that it lists, directories, and links to the paths of files. What a process
//! looks up in it is answered as if it were the directory that it stands for ([`Listings::meaning`]).

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, mkdirat, openat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::route::{COMMON, DIRECTORIES, Directory, Kind, LINKS, OF_PROCESS, Route, Who};
use super::{Caller, Found, Procfs, c_string};
use crate::sys::remove::remove_tree;

/// Directories that processes can enter. Below others nothing is looked up by relative paths.
const SKELETON: [&str; 9] = [
    "self",
    "self/fd",
    "self/fdinfo",
    "self/task",
    "self/ns",
    "self/net",
    "sys",
    "net",
    "thread-self",
];

/// Most listings at one time; the first one goes when there are more.
const KEPT_MAX: usize = 256;

const DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The tree's own `/proc`.
#[derive(Debug)]
pub(super) struct Listings {
    dir: OwnedFd,
    /// Names of listings, and the paths that they stand for.
    made: VecDeque<(String, Vec<u8>)>,
    next: u64,
    /// When a program was linked to last.
    linked: Option<Instant>,
}

/// How long a link to a program stays for the process that asked for it: the kernel looks it up as soon
/// as that process runs again. Only then may another program take its place.
const LINK_KEPT: Duration = Duration::from_millis(50);

/// What a name stands for in a listing.
enum Entry {
    Directory,
    Link(Vec<u8>),
}

impl Listings {
    pub(super) fn new(root: &OwnedFd) -> Result<Self, Errno> {
        let dir = openat(root, "proc", DIR, Mode::empty())?;
        for name in SKELETON {
            make_directories(dir.as_fd(), name)?;
        }
        Ok(Self { dir, made: VecDeque::new(), next: 0, linked: None })
    }

    /// Returns the path that a listing stands for, or one in it.
    pub(super) fn meaning(&self, path: &[u8]) -> Option<Vec<u8>> {
        let below = path.strip_prefix(b"/proc/")?;
        let end = below.iter().position(|&byte| byte == b'/').unwrap_or(below.len());
        let (name, rest) = below.split_at(end);
        let (_, meaning) = self.made.iter().find(|(made, _)| made.as_bytes() == name)?;
        Some([meaning.as_slice(), rest].concat())
    }

    /// Puts a link to a program where `/proc/self/exe` is looked up.
    pub(super) fn link_to_program(&mut self, text: &[u8]) -> Result<(), Errno> {
        let own = openat(&self.dir, "self", DIR, Mode::empty())?;
        let before = self.linked.replace(Instant::now());
        if rustix::fs::readlinkat(&own, "exe", Vec::new()).is_ok_and(|old| old.as_bytes() == text) {
            return Ok(());
        }
        if let Some(rest) = before.and_then(|before| LINK_KEPT.checked_sub(before.elapsed())) {
            std::thread::sleep(rest);
        }
        let fresh = format!("exe.{}", self.next);
        unlinkat(&own, &fresh, AtFlags::empty()).ok();
        symlinkat(c_string(text)?, &own, &fresh)?;
        rustix::fs::renameat(&own, &fresh, &own, "exe")
    }

    /// Makes a directory of a process, for one that is about to enter it.
    pub(super) fn enter(&self, route: &Route, caller: &Caller) {
        let path = meaning(route, caller);
        let Some(path) = path.strip_prefix("/proc/") else { return };
        // Where the command has put something else, it finds that.
        make_directories(self.dir.as_fd(), path).ok();
    }

    /// Makes a directory with these entries and opens it.
    fn make(&mut self, meaning: Vec<u8>, entries: Vec<(String, Entry)>) -> Result<OwnedFd, Errno> {
        while self.made.len() >= KEPT_MAX {
            if let Some((name, _)) = self.made.pop_front() {
                remove_tree(self.dir.as_fd(), &c_string(name.as_bytes())?).ok();
            }
        }
        let name = format!(".{}", self.next);
        self.next += 1;
        mkdirat(&self.dir, &name, Mode::from(0o755))?;
        self.made.push_back((name.clone(), meaning));
        let dir = openat(&self.dir, &name, DIR, Mode::empty())?;
        for (name, entry) in entries {
            match entry {
                Entry::Directory => mkdirat(&dir, &name, Mode::from(0o555))?,
                Entry::Link(text) => symlinkat(c_string(&text)?, &dir, &name)?,
            }
        }
        Ok(dir)
    }
}

impl Procfs {
    /// Makes a listing of a directory and opens it.
    pub(super) fn list(
        &mut self,
        found: &Found,
        at: Directory,
        caller: &Caller,
    ) -> Result<OwnedFd, Errno> {
        let meaning = meaning(&found.route, caller);
        let entries = match at {
            Directory::Top => self.top()?,
            Directory::Process | Directory::Thread => self.process(found, at, caller, &meaning),
            _ => self.others(found, at, caller, &meaning)?,
        };
        self.listings.make(meaning.into_bytes(), entries)
    }

    fn top(&self) -> Result<Vec<(String, Entry)>, Errno> {
        let mut entries = Vec::new();
        for name in COMMON {
            if statat(&self.proc, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                entries
                    .push(((*name).to_owned(), Entry::Link(format!("/proc/{name}").into_bytes())));
            }
        }
        for name in ["self", "sys", "thread-self"] {
            entries.push((name.to_owned(), Entry::Directory));
        }
        for (name, text) in [("mounts", "self/mounts"), ("net", "self/net")] {
            entries.push((name.to_owned(), Entry::Link(text.as_bytes().to_vec())));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = openat(&self.proc, ".", flags, Mode::empty())?;
        for name in names(&listing)? {
            let Ok(number) = name.parse::<i32>() else { continue };
            let held = openat(&self.proc, &name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            if held.is_ok_and(|held| self.is_of_command(number, held.as_fd())) {
                entries.push((name, Entry::Directory));
            }
        }
        Ok(entries)
    }

    fn process(
        &self,
        found: &Found,
        at: Directory,
        caller: &Caller,
        meaning: &str,
    ) -> Vec<(String, Entry)> {
        let below = |name: &str| match found.route.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}/{name}"),
        };
        let is_there =
            |name: &str| statat(&found.base, below(name), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let mut entries = Vec::new();
        for name in OF_PROCESS.iter().chain(&["mountinfo", "mounts"]).filter(|name| is_there(name))
        {
            let text = format!("{meaning}/{name}").into_bytes();
            entries.push(((*name).to_owned(), Entry::Link(text)));
        }
        for (name, below) in DIRECTORIES {
            if !(at == Directory::Thread && below == Directory::Tasks) {
                entries.push((name.to_owned(), Entry::Directory));
            }
        }
        for (name, kind) in LINKS {
            let route = Route { who: found.route.who, path: below(name), kind };
            if let Ok(text) = self.text(found, route, caller) {
                entries.push((name.to_owned(), Entry::Link(text)));
            }
        }
        entries
    }

    /// Lists a directory as the kernel does, by what its names may be.
    fn others(
        &self,
        found: &Found,
        at: Directory,
        caller: &Caller,
        meaning: &str,
    ) -> Result<Vec<(String, Entry)>, Errno> {
        let path = found.route.path.as_str();
        let listing = {
            let _acting = Self::act(caller)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            openat(&found.base, path, flags, Mode::empty())?
        };
        let mut entries = Vec::new();
        for name in names(&listing)? {
            let file = Entry::Link(format!("{meaning}/{name}").into_bytes());
            let entry = match at {
                Directory::Descriptors | Directory::Namespaces => {
                    let kind = match at {
                        Directory::Descriptors => Kind::Descriptor,
                        _ => Kind::Namespace,
                    };
                    let path = format!("{path}/{name}");
                    let route = Route { who: found.route.who, path, kind };
                    match self.text(found, route, caller) {
                        Ok(text) => Entry::Link(text),
                        Err(_) => continue,
                    }
                }
                Directory::Tasks => Entry::Directory,
                Directory::Attributes if name != "current" => continue,
                Directory::Settings | Directory::Network => {
                    let stat = statat(&listing, &name, AtFlags::SYMLINK_NOFOLLOW);
                    let kind = stat.map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
                    match kind {
                        Ok(kind) if kind.is_dir() && at == Directory::Settings => Entry::Directory,
                        Ok(kind) if kind.is_file() => file,
                        _ => continue,
                    }
                }
                _ => file,
            };
            entries.push((name, entry));
        }
        if at == Directory::Descriptors && found.is_own {
            // The one that the list is read by.
            let taken: BTreeSet<usize> =
                entries.iter().filter_map(|(name, _)| name.parse().ok()).collect();
            let free = taken.iter().zip(0..).find(|(number, place)| *number != place);
            let free = free.map_or(taken.len(), |(_, place)| place);
            entries.push((free.to_string(), Entry::Link(meaning.as_bytes().to_vec())));
        }
        Ok(entries)
    }

    /// Reads a link of a process that was found.
    fn text(&self, found: &Found, route: Route, caller: &Caller) -> Result<Vec<u8>, Errno> {
        let base = found.base.try_clone().map_err(|_| Errno::MFILE)?;
        self.read_link(&Found { base, route, is_own: found.is_own }, caller)
    }
}

/// Makes the directories of a path. The command may put links in their places in the meantime, which
/// are not followed.
fn make_directories(top: BorrowedFd<'_>, path: &str) -> Result<(), Errno> {
    let mut above = top.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    for name in path.split('/') {
        match mkdirat(&above, name, Mode::from(0o555)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        above = openat(&above, name, DIR, Mode::empty())?;
    }
    Ok(())
}

/// Returns the path of a directory with the numbers of its process and thread.
fn meaning(route: &Route, caller: &Caller) -> String {
    let base = match route.who {
        None => "/proc".to_owned(),
        Some(Who::Caller) => format!("/proc/{}", caller.process),
        Some(Who::Thread) => format!("/proc/{}/task/{}", caller.process, caller.thread),
        Some(Who::Process(number)) => format!("/proc/{number}"),
    };
    if route.path.is_empty() { base } else { format!("{base}/{}", route.path) }
}

/// Lists the names in a directory.
fn names(listing: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(listing, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_stands_for_a_directory_of_proc() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let mut listings = Listings::new(&root).unwrap();
        let entries = vec![
            ("3".to_owned(), Entry::Link(b"pipe:[7]".to_vec())),
            ("task".to_owned(), Entry::Directory),
        ];
        let made = listings.make(b"/proc/9/fd".to_vec(), entries).unwrap();
        assert_eq!(names(&made).unwrap(), ["3", "task"]);
        let text = rustix::fs::readlinkat(&made, "3", Vec::new()).unwrap();
        assert_eq!(text.as_bytes(), b"pipe:[7]");
        assert_eq!(listings.meaning(b"/proc/.0/x").unwrap(), b"/proc/9/fd/x");
        assert_eq!(listings.meaning(b"/proc/.0").unwrap(), b"/proc/9/fd");
        assert_eq!(listings.meaning(b"/proc/.1"), None);
        assert_eq!(listings.meaning(b"/proc/self"), None);
        for number in 0..KEPT_MAX + 3 {
            listings.make(number.to_string().into_bytes(), Vec::new()).unwrap();
        }
        let count =
            names(&listings.dir).unwrap().iter().filter(|name| name.starts_with('.')).count();
        assert_eq!(count, KEPT_MAX, "old ones go");
        // Nothing is made where the command's links lead.
        let (proc, outside) = (dir.path().join("proc"), dir.path().join("outside"));
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, proc.join("7")).unwrap();
        std::fs::create_dir(proc.join("8")).unwrap();
        std::os::unix::fs::symlink("../../outside", proc.join("8/task")).unwrap();
        for path in ["7/fd", "7", "8/task/9", "8/task"] {
            make_directories(listings.dir.as_fd(), path).unwrap_err();
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        make_directories(listings.dir.as_fd(), "9/task/10").unwrap();
        assert!(proc.join("9/task/10").is_dir());
        listings.link_to_program(b"/bin/one").unwrap();
        listings.link_to_program(b"/bin/two").unwrap();
        let link = std::fs::read_link(dir.path().join("proc/self/exe")).unwrap();
        assert_eq!(link, std::path::Path::new("/bin/two"));
    }
}
