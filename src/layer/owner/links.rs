//! Owners of links and pipes, on which a user can put no attribute: in one of their directory.
//!
//! What is in a directory mostly has one owner, so the attribute has that of all links there, then
//! those that differ. A directory without the attribute has root's alone.
//!
//! | form | for | value |
//! |---|---|---|
//! | by name | few that differ | `UID:GID`, and for each other a zero byte and `UID:GID/NAME` |
//! | by inode | more of them | a byte 1 and numbers: the owner of most; then for each other owner its two ids and how many pieces of 64 inodes follow |
//!
//! File systems give the links of a directory inodes that follow each other, so that a few bytes hold
//! the owner of 64 of them, and the 4 KB that ext4 has for all attributes of a directory hold those of
//! some twenty thousand links with any mixture of two owners; where no two are within 64 inodes, of a
//! thousand that differ from most.

use super::{entry, gone, has_attributes, parse};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, XattrFlags, openat, statat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

const ATTRIBUTE: &str = "user.builder.links";

/// Longest value by name.
const NAMES_MAX: usize = 1024;

/// What a value by inode begins with.
const BY_INODE: u8 = 1;

/// Kinds of pieces of 64 inodes.
const ONE: u64 = 0;
const ALL: u64 = 1;
const SOME: u64 = 2;

type Owner = (u32, u32);

/// The owners of the links of a directory.
#[derive(Debug, PartialEq, Eq)]
enum Owners {
    ByName {
        most: Owner,
        others: BTreeMap<Vec<u8>, Owner>,
    },
    /// Bits of inodes, by the number of the piece.
    ByInode {
        most: Owner,
        others: BTreeMap<Owner, BTreeMap<u64, u64>>,
    },
}

impl Owners {
    fn parse(value: &[u8]) -> Option<Self> {
        if let Some(numbers) = value.strip_prefix(&[BY_INODE]) {
            return Self::parse_numbers(numbers);
        }
        let mut parts = value.split(|&byte| byte == 0);
        let most = parse(parts.next()?)?;
        let other = |part: &[u8]| {
            let cut = part.iter().position(|&byte| byte == b'/')?;
            Some((part[cut + 1..].to_vec(), parse(&part[..cut])?))
        };
        Some(Self::ByName { most, others: parts.map(other).collect::<Option<_>>()? })
    }

    fn parse_numbers(mut rest: &[u8]) -> Option<Self> {
        let most = owner(&mut rest)?;
        let mut others = BTreeMap::new();
        while !rest.is_empty() {
            let owner = owner(&mut rest)?;
            let mut pieces = BTreeMap::new();
            let mut piece = 0_u64;
            for _ in 0..number(&mut rest)? {
                let head = number(&mut rest)?;
                piece = piece.checked_add(head >> 2)?;
                let bits = match head & 3 {
                    ONE => {
                        let (bit, after) = rest.split_first()?;
                        rest = after;
                        1_u64.checked_shl((*bit).into())?
                    }
                    ALL => u64::MAX,
                    SOME => {
                        let (bits, after) = rest.split_first_chunk()?;
                        rest = after;
                        u64::from_le_bytes(*bits)
                    }
                    _ => return None,
                };
                pieces.insert(piece, bits);
            }
            others.insert(owner, pieces);
        }
        Some(Self::ByInode { most, others })
    }

    fn value(&self) -> Vec<u8> {
        match self {
            Self::ByName { most, others } => {
                let mut text = format!("{}:{}", most.0, most.1).into_bytes();
                for (name, (uid, gid)) in others {
                    text.extend_from_slice(format!("\0{uid}:{gid}/").as_bytes());
                    text.extend_from_slice(name);
                }
                text
            }
            Self::ByInode { most, others } => {
                let mut value = vec![BY_INODE];
                put(&mut value, most.0.into());
                put(&mut value, most.1.into());
                for (owner, pieces) in others {
                    put(&mut value, owner.0.into());
                    put(&mut value, owner.1.into());
                    put(&mut value, pieces.len() as u64);
                    let mut before = 0;
                    for (&piece, &bits) in pieces {
                        let kind = match bits {
                            u64::MAX => ALL,
                            _ if bits.is_power_of_two() => ONE,
                            _ => SOME,
                        };
                        put(&mut value, (piece - before) << 2 | kind);
                        match kind {
                            ONE => value.push(bits.trailing_zeros() as u8),
                            SOME => value.extend_from_slice(&bits.to_le_bytes()),
                            _ => {}
                        }
                        before = piece;
                    }
                }
                value
            }
        }
    }

    fn of(&self, name: &[u8], inode: u64) -> Owner {
        match self {
            Self::ByName { most, others } => others.get(name).copied().unwrap_or(*most),
            Self::ByInode { most, others } => {
                let (piece, bit) = (inode / 64, 1 << (inode % 64));
                let has = |pieces: &BTreeMap<u64, u64>| {
                    pieces.get(&piece).is_some_and(|bits| bits & bit != 0)
                };
                let found = others.iter().find(|(_, pieces)| has(pieces));
                found.map_or(*most, |(owner, _)| *owner)
            }
        }
    }

    fn set(&mut self, name: &[u8], inode: u64, owner: Owner) {
        match self {
            Self::ByName { most, others } => {
                match owner == *most {
                    true => others.remove(name),
                    false => others.insert(name.to_vec(), owner),
                };
            }
            Self::ByInode { most, others } => {
                let (piece, bit) = (inode / 64, 1 << (inode % 64));
                for pieces in others.values_mut() {
                    if let Some(bits) = pieces.get_mut(&piece) {
                        *bits &= !bit;
                    }
                    pieces.retain(|_, bits| *bits != 0);
                }
                if owner != *most {
                    *others.entry(owner).or_default().entry(piece).or_default() |= bit;
                }
                others.retain(|_, pieces| !pieces.is_empty());
            }
        }
    }

    /// The same of the links that there are, by inode, in as few bytes as that takes.
    fn by_inode(&self, links: &[(Vec<u8>, u64)]) -> Self {
        let mut counts: BTreeMap<Owner, usize> = BTreeMap::new();
        for (name, inode) in links {
            *counts.entry(self.of(name, *inode)).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let most = most.map_or((0, 0), |(owner, _)| owner);
        let mut owners = Self::ByInode { most, others: BTreeMap::new() };
        for (name, inode) in links {
            let owner = self.of(name, *inode);
            if owner != most {
                owners.set(name, *inode, owner);
            }
        }
        owners
    }

    fn is_roots(&self) -> bool {
        match self {
            Self::ByName { most, others } => *most == (0, 0) && others.is_empty(),
            Self::ByInode { most, others } => *most == (0, 0) && others.is_empty(),
        }
    }
}

fn owner(rest: &mut &[u8]) -> Option<Owner> {
    Some((number(rest)?.try_into().ok()?, number(rest)?.try_into().ok()?))
}

/// Reads a number, seven bits a byte, the low ones first.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put(value: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        value.push(number as u8 | 0x80);
        number >>= 7;
    }
    value.push(number as u8);
}

/// Splits a path of an entry into its directory and its name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (b".", path),
    }
}

/// What is written down in a directory, as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Record(Option<Vec<u8>>);

/// Reads what is written down in a directory.
pub(super) fn record(dir: BorrowedFd<'_>, parent: &[u8]) -> Result<Record, Errno> {
    let path = entry(dir, parent);
    let mut value = vec![0; 1024];
    loop {
        match rustix::fs::lgetxattr(path.as_slice(), ATTRIBUTE, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Record(Some(value)));
            }
            Err(Errno::RANGE) if value.len() < 65_536 => value.resize(65_536, 0),
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(Record(None)),
            Err(error) => return Err(error),
        }
    }
}

/// Puts back what was written down in a directory.
pub(super) fn restore(dir: BorrowedFd<'_>, parent: &[u8], record: &Record) -> Result<(), Errno> {
    let place = entry(dir, parent);
    match &record.0 {
        None => gone(rustix::fs::lremovexattr(place.as_slice(), ATTRIBUTE)),
        Some(value) => {
            rustix::fs::lsetxattr(place.as_slice(), ATTRIBUTE, value, XattrFlags::empty())
        }
    }
}

fn known(dir: BorrowedFd<'_>, parent: &[u8]) -> Result<Option<Owners>, Errno> {
    Ok(record(dir, parent)?.0.and_then(|value| Owners::parse(&value)))
}

/// Reads whose a link is; `None` where nothing is written down.
pub(super) fn read(dir: BorrowedFd<'_>, path: &[u8], inode: u64) -> Option<Owner> {
    let (parent, name) = split(path);
    Some(known(dir, parent).ok()??.of(name, inode))
}

/// Writes down whose a link is, which may be on its way to that name.
pub(super) fn write(
    dir: BorrowedFd<'_>,
    path: &[u8],
    inode: u64,
    owner: Owner,
) -> Result<(), Errno> {
    let (parent, name) = split(path);
    let mut owners = match known(dir, parent)? {
        None if owner == (0, 0) => return Ok(()),
        None => {
            let others = links_in(dir, parent)?.into_iter();
            let others = others.filter(|other| other != name).map(|other| (other, (0, 0)));
            Owners::ByName { most: owner, others: others.collect() }
        }
        Some(owners) if owners.of(name, inode) == owner => return Ok(()),
        Some(mut owners) => {
            owners.set(name, inode, owner);
            owners
        }
    };
    let in_fewer_bytes = |owners: &Owners| -> Result<Owners, Errno> {
        let mut owners = owners.by_inode(&inodes_of(dir, parent, links_in(dir, parent)?)?);
        owners.set(name, inode, owner);
        Ok(owners)
    };
    if matches!(owners, Owners::ByName { .. }) && owners.value().len() > NAMES_MAX {
        owners = in_fewer_bytes(&owners)?;
    }
    let set = |owners: &Owners| {
        let value = if owners.is_roots() { None } else { Some(owners.value()) };
        restore(dir, parent, &Record(value))
    };
    match set(&owners) {
        // What is known of links that are gone takes room too.
        Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => set(&in_fewer_bytes(&owners)?),
        result => result,
    }
}

fn inodes_of(
    dir: BorrowedFd<'_>,
    parent: &[u8],
    names: Vec<Vec<u8>>,
) -> Result<Vec<(Vec<u8>, u64)>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(dir, parent, flags, Mode::empty())?;
    let inode = |name: Vec<u8>| {
        let stat = statat(&fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((name, stat.st_ino))
    };
    names.into_iter().map(inode).collect()
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
        let inode = |name: &str| statat(&root, name, AtFlags::SYMLINK_NOFOLLOW).unwrap().st_ino;
        let of = |name: &str| read(root.as_fd(), name.as_bytes(), inode(name));
        let set = |name: &str, owner| {
            write(root.as_fd(), name.as_bytes(), inode(name), owner).unwrap();
        };
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
    fn thousands_of_links_have_their_owners_in_any_mixture() {
        const LINKS: usize = 5000;
        let dir = tempfile::tempdir().unwrap();
        let name = |number: usize| format!("a-name-as-long-as-programs-have-{number}").into_bytes();
        let root = std::fs::File::open(dir.path()).unwrap();
        for number in 0..LINKS {
            rustix::fs::symlinkat("to", &root, name(number)).unwrap();
        }
        let names = (0..LINKS).map(name).collect();
        let links = inodes_of(root.as_fd(), b".", names).unwrap();
        let has = |of: &dyn Fn(usize) -> Owner| {
            for (number, (name, inode)) in links.iter().enumerate().step_by(37) {
                let found = read(root.as_fd(), name, *inode);
                assert_eq!(found.unwrap_or_default(), of(number), "{number}");
            }
        };
        let give = |which: &mut dyn Iterator<Item = usize>, owner| {
            for number in which {
                let (name, inode) = &links[number];
                write(root.as_fd(), name, *inode, owner).unwrap();
            }
        };
        give(&mut (0..LINKS).step_by(3), (1000, 1001));
        has(&|number| if number % 3 == 0 { (1000, 1001) } else { (0, 0) });
        give(&mut (1..LINKS).step_by(3), (7, u32::MAX));
        give(&mut (2..LINKS).step_by(3), (1000, 1001));
        has(&|number| if number % 3 == 1 { (7, u32::MAX) } else { (1000, 1001) });
        let before = record(root.as_fd(), b".").unwrap();
        give(&mut (0..LINKS), (0, 0));
        has(&|_| (0, 0));
        restore(root.as_fd(), b".", &before).unwrap();
        has(&|number| if number % 3 == 1 { (7, u32::MAX) } else { (1000, 1001) });
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_nothing() {
        let others = BTreeMap::from([(b"x y".to_vec(), (0, 0)), (b"z:1".to_vec(), (1, 2))]);
        let owners = Owners::ByName { most: (1000, 1001), others };
        assert_eq!(Owners::parse(&owners.value()), Some(owners));
        for wrong in [&b""[..], b"5", b"5:6\0", b"5:6\0name", b"5:6\x001:2"] {
            assert_eq!(Owners::parse(wrong), None, "{wrong:?}");
        }
        let mut owners = Owners::ByInode { most: (u32::MAX, 0), others: BTreeMap::new() };
        for inode in (64..128).chain([5, 200, 201, u64::MAX]) {
            owners.set(b"", inode, (1, 2));
        }
        owners.set(b"", 6, (u32::MAX, u32::MAX));
        let value = owners.value();
        assert_eq!(Owners::parse(&value).as_ref(), Some(&owners));
        assert_eq!((owners.of(b"", 127), owners.of(b"", 6)), ((1, 2), (u32::MAX, u32::MAX)));
        assert_eq!(owners.of(b"", 128), (u32::MAX, 0));
        for length in 1..value.len() {
            assert_ne!(Owners::parse(&value[..length]).as_ref(), Some(&owners), "{length}");
        }
        assert_eq!(Owners::parse(&[BY_INODE, 0x80]), None);
    }
}
