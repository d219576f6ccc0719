//! Names of members: cleaned, taken apart, and refused beyond the limits.

use crate::layer::LayerError;

/// Longest path of a member, in bytes. Paths beyond `PATH_MAX` (4096) can be made, entered and
/// removed, and no build makes longer ones than this.
const PATH_MAX: usize = 256 << 10;

/// Deepest path of a member, in components.
const DEPTH_MAX: usize = 16_384;

/// Says whether Go's `path.Clean` makes `.` of a name: a relative one that ends where it begins.
pub(super) fn is_dot(name: &[u8]) -> bool {
    let mut depth = 0_u32;
    !name.starts_with(b"/")
        && name.split(|&b| b == b'/').all(|part| match part {
            b"" | b"." => true,
            b".." => depth.checked_sub(1).map(|above| depth = above).is_some(),
            _ => {
                depth += 1;
                true
            }
        })
        && depth == 0
}

/// Splits a path into its directory and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Refuses paths beyond the documented limits.
pub(super) fn check_path(path: &[u8]) -> Result<(), LayerError> {
    if path.len() > PATH_MAX {
        return Err(LayerError::malformed("a path is longer than 256 KiB", path));
    }
    if memchr::memchr_iter(b'/', path).count() >= DEPTH_MAX {
        return Err(LayerError::malformed("a path is deeper than 16384 directories", path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_dot;

    #[test]
    fn a_dot_and_the_root_are_different_names() {
        for (name, is) in [
            (".", true),
            ("./", true),
            ("", true),
            ("a/..", true),
            ("a/./..//", true),
            ("/", false),
            ("/.", false),
            ("..", false),
            ("a/../..", false),
            ("a", false),
        ] {
            assert_eq!(is_dot(name.as_bytes()), is, "{name}");
        }
    }
}
