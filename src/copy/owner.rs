//! `--chown`: names looked up in the target's own passwd and group files.

use super::CopyError;
use crate::sys::rooted;
use rustix::fs::OFlags;
use std::io::Read;
use std::os::fd::BorrowedFd;

/// Longest passwd or group file that is read, in bytes.
const USER_FILE_MAX: u64 = 16 << 20;

/// A numeric owner. As with chown(2), an id of `u32::MAX` leaves what a file has: root where it is
/// new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// Root and its group.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Id(u32),
    Name(&'a str),
}

fn part(text: &str) -> Part<'_> {
    // An empty part, as in `5:` or `:5`, is 0 in BuildKit's protocol, where a user has a name or
    // else a number.
    if matches!(text, "root" | "") {
        return Part::Id(0);
    }
    match text.parse::<i32>() {
        // Negative ids wrap in BuildKit and reach chown(2), which leaves the owner for -1.
        Ok(id) => Part::Id(id as u32),
        Err(_) => Part::Name(text),
    }
}

/// Looks up the value of `--chown`, `USER[:GROUP]` of names or numbers.
///
/// A number alone is also the group. A name alone takes its group from passwd. A colon with nothing
/// after it means group 0, one with nothing before it user 0. A name that is not found is root:
/// surprising, but what BuildKit does and images rely on. `root` is 0 without a look-up. `root` is
/// `None` where nothing is below the copy (`--link`, or the first step of `FROM scratch`).
///
/// # Errors
///
/// [`CopyError::OwnerNeedsFiles`] for a name without a `root`, or a file that cannot be read.
pub fn lookup_owner(root: Option<BorrowedFd<'_>>, spec: &str) -> Result<Owner, CopyError> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let mut owner = Owner::default();
    match part(user) {
        Part::Id(id) => owner = Owner { uid: id, gid: id },
        Part::Name(name) => {
            let root = root.ok_or_else(|| CopyError::OwnerNeedsFiles { spec: spec.to_owned() })?;
            if let Some(fields) = find_line(root, b"etc/passwd", name)? {
                owner = Owner { uid: number(fields.get(2)), gid: number(fields.get(3)) };
            }
        }
    }
    match group.map(part) {
        Some(Part::Id(id)) => owner.gid = id,
        Some(Part::Name(name)) => {
            let root = root.ok_or_else(|| CopyError::OwnerNeedsFiles { spec: spec.to_owned() })?;
            if let Some(fields) = find_line(root, b"etc/group", name)? {
                owner.gid = number(fields.get(2));
            }
        }
        None => {}
    }
    Ok(owner)
}

/// Returns the names of a `--chown` that the image's files do not have, each with what it is: those
/// that count as root. What cannot be read has none.
pub fn unknown_names(root: BorrowedFd<'_>, spec: &str) -> Vec<(&'static str, String)> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let parts = [("user", "etc/passwd", Some(user)), ("group", "etc/group", group)];
    let unknown = parts.into_iter().filter_map(|(what, file, text)| match part(text?) {
        Part::Id(_) => None,
        Part::Name(name) => match find_line(root, file.as_bytes(), name) {
            Ok(None) => Some((what, name.to_owned())),
            _ => None,
        },
    });
    unknown.collect()
}

fn number(field: Option<&String>) -> u32 {
    field.and_then(|f| f.parse().ok()).unwrap_or(0)
}

/// Finds the line whose first field is `name`.
fn find_line(
    root: BorrowedFd<'_>,
    path: &[u8],
    name: &str,
) -> Result<Option<Vec<String>>, CopyError> {
    let failed = |source: std::io::Error| CopyError::io("read", path, source);
    let file = match rooted::open_in_root(root, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => std::fs::File::from(fd),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(USER_FILE_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let found = text.lines().map(str::trim).find(|line| line.split(':').next() == Some(name));
    Ok(found
        .filter(|line| !line.is_empty())
        .map(|line| line.split(':').map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn owners_are_found_as_buildkit_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:501:502::/:/bin/sh\nbad:x:y:z\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nwww:x:503:\nweb:x:502:\n")
            .unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        const CASES: [(&str, u32, u32); 21] = [
            ("1", 1, 1),
            ("5:", 5, 0),
            ("web:", 501, 0),
            (":", 0, 0),
            (":web", 0, 502),
            ("+7", 7, 7),
            ("-1", u32::MAX, u32::MAX),
            ("-1:5", u32::MAX, 5),
            ("-2", u32::MAX - 1, u32::MAX - 1),
            ("2147483648", 0, 0),
            ("1:2:3", 1, 1),
            ("1:2", 1, 2),
            ("web", 501, 502),
            ("web:www", 501, 503),
            ("web:77", 501, 77),
            ("12:www", 12, 503),
            (":7", 0, 7),
            ("root", 0, 0),
            ("nosuchuser", 0, 0),
            ("nosuchuser:www", 0, 503),
            ("bad", 0, 0),
        ];
        for (spec, uid, gid) in CASES {
            assert_eq!(
                lookup_owner(Some(root.as_fd()), spec).unwrap(),
                Owner { uid, gid },
                "{spec}"
            );
        }
    }

    #[test]
    fn a_name_needs_files_but_numbers_and_root_do_not() {
        assert_eq!(lookup_owner(None, "3:4").unwrap(), Owner { uid: 3, gid: 4 });
        assert_eq!(lookup_owner(None, "root:root").unwrap(), Owner::ROOT);
        assert!(matches!(lookup_owner(None, "web"), Err(CopyError::OwnerNeedsFiles { .. })));
        assert!(matches!(lookup_owner(None, "1:web"), Err(CopyError::OwnerNeedsFiles { .. })));
    }

    #[test]
    fn missing_user_files_find_no_user() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(lookup_owner(Some(root.as_fd()), "web:www").unwrap(), Owner::ROOT);
    }
}
