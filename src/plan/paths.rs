//! Path arithmetic on image paths, which are always Unix paths and never touch a disk.
//!
//! Source: Go `path.Clean`, BuildKit `util/system.NormalizePath`.

use crate::text::path::clean;

/// Joins and cleans.
pub(crate) fn join(parent: &str, path: &str) -> String {
    clean(&format!("{parent}/{path}"))
}

/// The new working directory: an absolute `path` as it stands, another below `current`.
pub(super) fn workdir(current: &str, path: &str) -> String {
    let parent = if current.starts_with('/') { current.to_owned() } else { join("/", current) };
    match path {
        "" => parent,
        _ if path.starts_with('/') => path.to_owned(),
        _ => join(&parent, path),
    }
}

/// The destination of a copy: absolute, with a trailing `/` or `/.` kept, since it means a
/// directory.
pub(super) fn destination(workdir: &str, path: &str) -> String {
    let path = if matches!(path, "" | ".") { "./" } else { path };
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut joined = join(workdir, path);
    if !joined.starts_with('/') {
        joined.insert(0, '/');
    }
    if path.ends_with('/') && !joined.ends_with('/') {
        joined.push('/');
    } else if path.ends_with("/.") {
        if joined != "/" {
            joined.push('/');
        }
        joined.push('.');
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_directory_is_absolute() {
        for (current, path, want) in [
            ("/", "a", "/a"),
            ("/a", "b/../c", "/a/c"),
            ("/a", "/b/../c", "/b/../c"),
            ("", "x", "/x"),
            ("/a", "", "/a"),
        ] {
            assert_eq!(workdir(current, path), want, "{current:?} {path:?}");
        }
    }

    #[test]
    fn a_destination_keeps_its_trailing_slash() {
        for (workdir, path, want) in [
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "./x/.", "/w/x/."),
            ("/w", "/a/", "/a/"),
            ("/", "", "/"),
        ] {
            assert_eq!(destination(workdir, path), want, "{workdir:?} {path:?}");
        }
    }
}
