//! Owners of links and pipes, on which a user can put no attribute: in one of their directory.
//!
//! What is in a directory mostly has one owner, so the attribute has that of all links there, then
//! those that differ: `UID:GID`, and for each other a zero byte and `UID:GID/NAME`. A directory
//! without the attribute has root's alone.

use super::{entry, gone, has_attributes, parse};
use rustix::fs::{FileType, Mode, OFlags, RawDir, XattrFlags, openat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

const ATTRIBUTE: &str = "user.builder.links";

type Owner = (u32, u32);

/// The owners of the links of a directory.
#[derive(Debug, PartialEq, Eq)]
struct Owners {
    most: Owner,
    others: BTreeMap<Vec<u8>, Owner>,
}

impl Owners {
    fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = value.split(|&byte| byte == 0);
        let most = parse(parts.next()?)?;
        let other = |part: &[u8]| {
            let cut = part.iter().position(|&byte| byte == b'/')?;
            Some((part[cut + 1..].to_vec(), parse(&part[..cut])?))
        };
        Some(Self { most, others: parts.map(other).collect::<Option<_>>()? })
    }

    fn text(&self) -> Vec<u8> {
        let mut text = format!("{}:{}", self.most.0, self.most.1).into_bytes();
        for (name, (uid, gid)) in &self.others {
            text.extend_from_slice(format!("\0{uid}:{gid}/").as_bytes());
            text.extend_from_slice(name);
        }
        text
    }

    fn of(&self, name: &[u8]) -> Owner {
        self.others.get(name).copied().unwrap_or(self.most)
    }

    fn set(&mut self, name: &[u8], owner: Owner) {
        match owner == self.most {
            true => self.others.remove(name),
            false => self.others.insert(name.to_vec(), owner),
        };
    }
}

/// Splits a path of an entry into its directory and its name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (b".", path),
    }
}

fn known(dir: BorrowedFd<'_>, parent: &[u8]) -> Result<Option<Owners>, Errno> {
    let path = entry(dir, parent);
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::lgetxattr(path.as_slice(), ATTRIBUTE, value.as_mut_slice()) {
            Ok(length) => return Ok(Owners::parse(&value[..length])),
            Err(Errno::RANGE) if value.len() < 65_536 => value.resize(65_536, 0),
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Reads whose a link is; `None` where nothing is written down.
pub(super) fn read(dir: BorrowedFd<'_>, path: &[u8]) -> Option<Owner> {
    let (parent, name) = split(path);
    Some(known(dir, parent).ok()??.of(name))
}

/// Writes down whose a link is.
pub(super) fn write(dir: BorrowedFd<'_>, path: &[u8], owner: Owner) -> Result<(), Errno> {
    let (parent, name) = split(path);
    let owners = match known(dir, parent)? {
        None if owner == (0, 0) => return Ok(()),
        None => {
            let others = links_in(dir, parent)?.into_iter();
            let others = others.filter(|other| other != name).map(|other| (other, (0, 0)));
            Owners { most: owner, others: others.collect() }
        }
        Some(owners) if owners.of(name) == owner => return Ok(()),
        Some(mut owners) => {
            owners.set(name, owner);
            owners
        }
    };
    let place = entry(dir, parent);
    if owners.most == (0, 0) && owners.others.is_empty() {
        return gone(rustix::fs::lremovexattr(place.as_slice(), ATTRIBUTE));
    }
    rustix::fs::lsetxattr(place.as_slice(), ATTRIBUTE, &owners.text(), XattrFlags::empty())
}

/// Lists what of a directory can have no attribute of its own.
fn links_in(dir: BorrowedFd<'_>, parent: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(dir, parent, flags, Mode::empty())?;
    let mut buffer = vec![MaybeUninit::uninit(); 8 * 1024];
    let mut entries = RawDir::new(&fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let kind = entry.file_type();
        if !has_attributes(kind) && kind != FileType::Unknown {
            names.push(entry.file_name().to_bytes().to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_have_the_owner_that_was_written_down_whatever_the_others_have() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "with space"] {
            symlink("to", dir.path().join(name)).unwrap();
        }
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        symlink("to", dir.path().join("sub/deep")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let of = |name: &str| read(root.as_fd(), name.as_bytes());
        let set = |name: &str, owner| write(root.as_fd(), name.as_bytes(), owner).unwrap();
        assert_eq!(of("a"), None);
        set("a", (0, 0));
        assert_eq!(of("a"), None);
        set("b", (1000, 1001));
        assert_eq!((of("a"), of("b"), of("c")), (Some((0, 0)), Some((1000, 1001)), Some((0, 0))));
        set("with space", (1000, 1001));
        set("c", (7, 8));
        assert_eq!((of("with space"), of("c")), (Some((1000, 1001)), Some((7, 8))));
        set("sub/deep", (5, 6));
        assert_eq!((of("sub/deep"), of("a")), (Some((5, 6)), Some((0, 0))));
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_nothing() {
        let others = BTreeMap::from([(b"x y".to_vec(), (0, 0)), (b"z:1".to_vec(), (1, 2))]);
        let owners = Owners { most: (1000, 1001), others };
        assert_eq!(Owners::parse(&owners.text()), Some(owners));
        for wrong in [&b""[..], b"5", b"5:6\0", b"5:6\0name", b"5:6\x001:2"] {
            assert_eq!(Owners::parse(wrong), None, "{wrong:?}");
        }
    }
}
