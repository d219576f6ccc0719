//! Arithmetic on Unix paths that touches no disk.
//!
//! Source: Go, `path.Clean`, which `filepath.Clean` equals on Unix.

/// Cleans a path as Go does: no empty, `.` or inner `..` parts, none that leads above the root;
/// empty becomes `.`.
pub fn clean(path: &str) -> String {
    text(clean_bytes(path.as_bytes()))
}

/// As [`clean`], of bytes.
pub fn clean_bytes(path: &[u8]) -> Vec<u8> {
    let is_rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(&last) if last != b".." => {
                    parts.pop();
                }
                _ if is_rooted => {}
                _ => parts.push(part),
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (is_rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// Cleans a path beneath a root as Go does to `/` and the path, and returns it without the leading
/// slash: nothing leads above the root, which itself is empty.
pub fn clean_below(path: &str) -> String {
    text(clean_bytes_below(path.as_bytes()))
}

/// As [`clean_below`], of bytes.
pub fn clean_bytes_below(path: &[u8]) -> Vec<u8> {
    clean_bytes(&[b"/", path].concat()).split_off(1)
}

fn text(cleaned: Vec<u8>) -> String {
    String::from_utf8(cleaned).expect("whole parts of a text are text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, want, below) in [
            ("", ".", ""),
            ("/", "/", ""),
            (".", ".", ""),
            ("a//b/./c/", "a/b/c", "a/b/c"),
            ("./a//b/", "a/b", "a/b"),
            ("/../a", "/a", "a"),
            ("../a", "../a", "a"),
            ("../../a", "../../a", "a"),
            ("a/../..", "..", ""),
            ("a/..", ".", ""),
            ("/a/b/../c", "/a/c", "a/c"),
            ("ä/../ö", "ö", "ö"),
        ] {
            assert_eq!(clean(path), want, "{path:?}");
            assert_eq!(clean_below(path), below, "{path:?}");
        }
        assert_eq!(clean_bytes(b"\xff/./\xfe"), b"\xff/\xfe");
    }
}
