//! Tars that are deep, long or endless: what they cost is counted, and what is beyond the limits is
//! refused.

use super::*;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A header of `kind` (a type flag) with a PAX path where it is long.
fn member(out: &mut Vec<u8>, path: &str, kind: u8, size: u64, link: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(7);
    header.set_size(size);
    header.as_mut_bytes()[156] = kind;
    let mut records = Vec::new();
    for (key, value) in [("path", path), ("linkpath", link)] {
        if value.is_empty() {
            continue;
        }
        let mut length = key.len() + value.len() + 3;
        length += length.to_string().len();
        while length != format!("{length} {key}={value}\n").len() {
            length = format!("{length} {key}={value}\n").len();
        }
        records.extend(format!("{length} {key}={value}\n").bytes());
    }
    let mut pax = tar::Header::new_ustar();
    pax.set_size(records.len() as u64);
    pax.as_mut_bytes()[156] = b'x';
    pax.set_cksum();
    out.extend_from_slice(pax.as_bytes());
    let padding = records.len().next_multiple_of(512) - records.len();
    out.extend(records);
    out.extend(std::iter::repeat_n(0, padding));
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

fn applied(tar: &[u8], target: Target<'_>) -> Result<(Applied, tempfile::TempDir), LayerError> {
    let dir = tempfile::tempdir().unwrap();
    let root = File::open(dir.path()).unwrap();
    let result = apply(tar, root.as_fd(), target, &Cancel::new());
    // At any depth, which the drop of a temporary directory may not manage.
    let keep = result.map(|(applied, _)| applied);
    if keep.is_err() {
        clear(&dir);
    }
    keep.map(|applied| (applied, dir))
}

fn clear(dir: &tempfile::TempDir) {
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        crate::store::remove_tree(&entry.unwrap().path()).unwrap();
    }
}

const TARGETS: [Target<'static>; 3] = [
    Target::Layer { xattrs: XattrSpace::User, below: None },
    Target::Tree { owner: Some((0, 0)) },
    Target::Plain,
];

#[test]
fn privileged_a_member_costs_the_same_at_any_depth() {
    needs_root!();
    for depth in [100, 2_000] {
        let mut tar = Vec::new();
        let paths: Vec<String> = (1..=depth).map(|levels| vec!["d"; levels].join("/")).collect();
        for path in &paths {
            member(&mut tar, path, b'5', 0, "");
        }
        // On the way back up: a file in each, and a hard link to it.
        for path in paths.iter().rev() {
            member(&mut tar, &format!("{path}/f"), b'0', 0, "");
        }
        for path in &paths {
            member(&mut tar, &format!("{path}/g"), b'1', 0, &format!("{path}/f"));
        }
        let members = 3 * depth as u64;
        for target in TARGETS {
            let (applied, dir) = applied(&tar, target).unwrap();
            assert_eq!(applied.entries, members);
            // Once down and up for each of three passes, and the links' targets.
            assert!(applied.opened <= 4 * members, "{} for {members}", applied.opened);
            let deepest = File::open(dir.path()).unwrap();
            let path = format!("{}/g", paths[depth - 1]);
            let flags = rustix::fs::OFlags::RDONLY;
            assert!(
                crate::sys::rooted::open_beneath(deepest.as_fd(), path.as_bytes(), flags).is_ok()
            );
            clear(&dir);
        }
    }
}

#[test]
fn privileged_directories_that_no_member_describes_cost_the_same() {
    needs_root!();
    let mut tar = Vec::new();
    let depth = 3_000;
    member(&mut tar, &format!("{}/f", vec!["d"; depth].join("/")), b'0', 0, "");
    member(&mut tar, &format!("{}/g", vec!["d"; depth].join("/")), b'0', 0, "");
    for target in TARGETS {
        let (applied, dir) = applied(&tar, target).unwrap();
        assert!(applied.opened <= 3 * depth as u64, "{}", applied.opened);
        clear(&dir);
    }
}

#[test]
fn paths_beyond_the_limits_are_refused_by_name() {
    let long = vec!["n".repeat(200); 1400].join("/");
    let deep = vec!["d"; 16_400].join("/");
    let huge = "h".repeat(900 << 10);
    for (path, link, what) in [
        (long.as_str(), "", "longer than 256 KiB"),
        (&deep, "", "deeper than 16384"),
        (&huge, "", "longer than 256 KiB"),
        ("x", &long, "longer than 256 KiB"),
        ("x", &deep, "deeper than 16384"),
    ] {
        let mut tar = Vec::new();
        let kind = if link.is_empty() { b'5' } else { b'1' };
        member(&mut tar, path, kind, 0, link);
        for target in TARGETS {
            let message = applied(&tar, target).unwrap_err().to_string();
            assert!(message.contains(what), "{message}");
            assert!(message.len() < 1000, "{} bytes", message.len());
        }
    }
    let mut tar = Vec::new();
    member(&mut tar, &"h".repeat(2 << 20), b'0', 0, "");
    let message = applied(&tar, Target::Plain).unwrap_err().to_string();
    assert!(message.contains("extended header is larger than 1 MiB"), "{message}");
}

#[test]
fn privileged_directories_replaced_under_another_name_are_found_again() {
    needs_root!();
    let mut tar = Vec::new();
    member(&mut tar, "a/x/y", b'5', 0, "");
    member(&mut tar, "link", b'2', 0, "a");
    member(&mut tar, "a/x/y/one", b'0', 0, "");
    member(&mut tar, "link/x", b'0', 0, "");
    member(&mut tar, "a/two", b'0', 0, "");
    member(&mut tar, "link/x", b'5', 0, "");
    member(&mut tar, "a/x/three", b'0', 0, "");
    member(&mut tar, "link/x/four", b'0', 0, "");
    for target in TARGETS {
        let (_, dir) = applied(&tar, target).unwrap();
        for file in ["a/two", "a/x/three", "a/x/four"] {
            assert!(dir.path().join(file).is_file(), "{file}");
        }
        assert!(!dir.path().join("a/x/y").exists());
    }
}

/// Gives zeros without end; asks to stop after `until` bytes, and counts.
struct Endless<'a> {
    head: &'a [u8],
    given: &'a AtomicU64,
    until: u64,
    cancel: &'a Cancel,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.head.is_empty() {
            return self.head.read(buffer);
        }
        buffer.fill(0);
        if self.given.fetch_add(buffer.len() as u64, Ordering::Relaxed) > self.until {
            self.cancel.cancel();
        }
        Ok(buffer.len())
    }
}

#[test]
fn an_interrupted_unpack_stops_within_a_few_buffers() {
    let mut head = Vec::new();
    member(&mut head, "big", b'0', 8 << 30, "");
    const UNTIL: u64 = 4 << 20;
    for how in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let (cancel, given) = (Cancel::new(), AtomicU64::new(0));
        let stream = Endless { head: &head, given: &given, until: UNTIL, cancel: &cancel };
        let options = UnpackOptions { xattrs: XattrSpace::User, below: None };
        let error = match how {
            0 => unpack_layer(stream, root.as_fd(), &options, &cancel).map(drop),
            1 => extract_archive(stream, root.as_fd(), None, &cancel).map(drop),
            _ => unpack_plain(io::BufReader::new(stream), root.as_fd(), &cancel).map(drop),
        };
        assert!(matches!(error, Err(LayerError::Cancelled)), "{error:?}");
        let given = given.load(Ordering::Relaxed);
        // What threads have read ahead, at most.
        assert!(given <= UNTIL + (24 * CHUNK) as u64, "{given} bytes");
    }
}

#[test]
fn an_interrupted_read_of_what_follows_an_archive_stops() {
    let dir = tempfile::tempdir().unwrap();
    let root = File::open(dir.path()).unwrap();
    let (cancel, given) = (Cancel::new(), AtomicU64::new(0));
    let head = [0; 1024];
    let stream = Endless { head: &head, given: &given, until: 1 << 20, cancel: &cancel };
    let result = unpack_plain(io::BufReader::new(stream), root.as_fd(), &cancel);
    assert!(matches!(result, Ok(_) | Err(LayerError::Cancelled)), "{result:?}");
    assert!(given.load(Ordering::Relaxed) <= 2 << 20);
}
