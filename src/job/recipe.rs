//! The Dockerfile and the ignore file of a build: where they are, and reading them.
//!
//! | context | Dockerfile | ignore file |
//! |---|---|---|
//! | directory, `-f` inside it or not given | inside the context; links are followed as if it were the root | `<Dockerfile>.dockerignore`, else `.dockerignore`, inside too |
//! | directory, `-f` elsewhere | the user's own word: links, pipes | beside it, else the context's |
//! | directory, `-f -` | standard input | the context's `.dockerignore` |
//! | archive, repository | inside, as above | none: BuildKit applies one to local directories only |
//!
//! Where there is no `.dockerignore`, podman's `.containerignore` counts.
//!
//! So nothing in a context can make the build read, or quote in an error message, a file outside
//! it.

use super::Caller;
use super::failure::{self, Class, Failure, cannot};
use crate::dockerfile::ignore::Matcher;
use crate::sys::foreign::{self, Given, Links};
use crate::text::path;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// The largest Dockerfile or ignore file, in bytes.
pub(super) const DOCKERFILE_MAX: u64 = 16 << 20;

/// Names of ignore files, and what they end in beside a Dockerfile: docker's goes before podman's.
const IGNORE_FILES: [&str; 2] = [".dockerignore", ".containerignore"];

/// What was read.
pub(super) struct Recipe {
    /// How messages name the Dockerfile.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) ignore: Option<Matcher>,
    /// The build policy beside the Dockerfile, by the name that messages have for it.
    pub(super) policy: Option<String>,
}

/// Reads the Dockerfile and ignore file of the directory `dir`, an absolute path that the user
/// typed as `typed`.
pub(super) fn of_directory(
    dir: &Path,
    typed: &str,
    file: Option<&str>,
    caller: &dyn Caller,
) -> Result<Recipe, Failure> {
    let root = open_dir(dir).map_err(|e| cannot("read build context", typed, &e))?;
    let place = match file {
        Some("-") => {
            let bytes = caller
                .stdin()?
                .read_to_limit(DOCKERFILE_MAX)
                .map_err(|e| cannot("read", "standard input", &e))?;
            let ignore = context_ignore(root.as_fd(), dir)?;
            return Ok(Recipe { name: "-".to_owned(), bytes, ignore, policy: None });
        }
        // As docker build: relative to where we are, else to the context.
        Some(file) if std::fs::symlink_metadata(file).is_ok() => PathBuf::from(file),
        Some(file) => dir.join(file),
        None => dir.join(default_name(root.as_fd())),
    };
    let Some(inside) = inside(&place, dir, &root) else {
        let bytes = Given::open(&place, caller.cancel())
            .and_then(|given| given.read_to_limit(DOCKERFILE_MAX))
            .map_err(|e| unread(cannot("read", &place, &e)))?;
        let name = place.display().to_string();
        let policy = policy_at(CWD, &place);
        let mut ignore = None;
        for end in IGNORE_FILES {
            let own = with_suffix(&place, end);
            match foreign::read_at(&own, DOCKERFILE_MAX) {
                Ok(text) => ignore = Some(parse(&own, &own, &text)?),
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(cannot("read", &own, &e)),
            }
            break;
        }
        if ignore.is_none() {
            ignore = context_ignore(root.as_fd(), dir)?;
        }
        return Ok(Recipe { name, bytes, ignore, policy });
    };
    let bytes = read_inside(root.as_fd(), &inside, &dir.join(&inside))?;
    let name = inside.display().to_string();
    let own = IGNORE_FILES.map(|end| with_suffix(&inside, end));
    let ignore = match first_ignore_file(root.as_fd(), &own, dir)? {
        Some(matcher) => Some(matcher),
        None => context_ignore(root.as_fd(), dir)?,
    };
    let policy = policy_at(root.as_fd(), &inside);
    Ok(Recipe { name, bytes, ignore, policy })
}

/// Reads the Dockerfile of a tree that was fetched; `name` is its address, without credentials.
pub(super) fn of_tree(
    root: BorrowedFd<'_>,
    file: Option<&str>,
    name: &str,
) -> Result<Recipe, Failure> {
    let file = file.unwrap_or_else(|| default_name(root));
    let inside = PathBuf::from(path::clean_below(file));
    let shown = match name {
        "-" => format!("{file} in the archive on standard input"),
        name => format!("{file} in {name}"),
    };
    let bytes = read_inside(root, &inside, Path::new(&shown))?;
    let policy = policy_at(root, &inside);
    Ok(Recipe { name: file.to_owned(), bytes, ignore: None, policy })
}

/// The name of the Dockerfile where none is given: the first that is there, in BuildKit's order and
/// then Podman's.
fn default_name(root: BorrowedFd<'_>) -> &'static str {
    const NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];
    let is_there = |name: &&&str| statat(root, **name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    NAMES.iter().find(is_there).unwrap_or(&NAMES[0])
}

/// Reads the ignore file of a context whose Dockerfile is elsewhere.
pub(super) fn context_ignore_of(dir: &Path, typed: &str) -> Result<Option<Matcher>, Failure> {
    let root = open_dir(dir).map_err(|e| cannot("read build context", typed, &e))?;
    context_ignore(root.as_fd(), dir)
}

/// Reads the ignore file of a named context.
pub(super) fn ignore_of(dir: &Path) -> Result<Option<Matcher>, Failure> {
    let root = open_dir(dir).map_err(|e| cannot("read", dir, &e))?;
    context_ignore(root.as_fd(), dir)
}

fn context_ignore(root: BorrowedFd<'_>, dir: &Path) -> Result<Option<Matcher>, Failure> {
    first_ignore_file(root, &IGNORE_FILES.map(PathBuf::from), dir)
}

/// Reads the first of these ignore files that is there.
fn first_ignore_file(
    root: BorrowedFd<'_>,
    paths: &[PathBuf],
    dir: &Path,
) -> Result<Option<Matcher>, Failure> {
    for path in paths {
        if let Some(matcher) = ignore_file(root, path, &dir.join(path))? {
            return Ok(Some(matcher));
        }
    }
    Ok(None)
}

/// Reads the ignore file that the user named.
pub(super) fn ignore_at(path: &Path) -> Result<Matcher, Failure> {
    let text = foreign::read_at(path, DOCKERFILE_MAX).map_err(|e| cannot("read", path, &e))?;
    parse(path, path, &text)
}

/// Reads the Dockerfile at `path` inside a context; `shown` is how a message names it.
fn read_inside(root: BorrowedFd<'_>, path: &Path, shown: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = path.as_os_str().as_bytes();
    foreign::read(root, bytes, Links::InsideRoot, DOCKERFILE_MAX).map_err(|e| {
        let mut failure = unread(cannot("read", shown, &e));
        if is_absent(&e) && is_link(root, path) {
            failure.message = format!("{}: {LEADS_OUT}", failure.message);
        }
        failure
    })
}

/// Reads an ignore file inside a context; `None` where there is none.
fn ignore_file(
    root: BorrowedFd<'_>,
    path: &Path,
    shown: &Path,
) -> Result<Option<Matcher>, Failure> {
    match foreign::read(root, path.as_os_str().as_bytes(), Links::InsideRoot, DOCKERFILE_MAX) {
        Ok(text) => parse(path, shown, &text).map(Some),
        // Without it files would be copied that it hides.
        Err(e) if is_absent(&e) && is_link(root, path) => {
            let message = format!("cannot read {}: {LEADS_OUT}", shown.display());
            Err(Failure::new(Class::Dockerfile, message)
                .with_hint("put the file itself into the context"))
        }
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(cannot("read", shown, &e)),
    }
}

const LEADS_OUT: &str = "it is a link to a file that the context does not have";

fn is_link(root: BorrowedFd<'_>, path: &Path) -> bool {
    statat(root, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// Parses an ignore file: `path` is its name in the messages of steps, `shown` in those on the file
/// itself.
fn parse(path: &Path, shown: &Path, text: &[u8]) -> Result<Matcher, Failure> {
    let matcher = Matcher::parse(text).map_err(|error| {
        let message = format!("{}: {}", shown.display(), failure::chain(&error));
        Failure::new(Class::Dockerfile, message)
    })?;
    Ok(matcher.of_file(path.display().to_string()))
}

fn unread(mut failure: Failure) -> Failure {
    if failure.class == Class::Usage {
        failure.class = Class::Dockerfile;
        failure.hints.push("name the Dockerfile: builder build -f FILE PATH".to_owned());
    }
    failure
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut own = path.to_owned().into_os_string();
    own.push(suffix);
    own.into()
}

/// Finds the build policy of docker's beside a Dockerfile: `Dockerfile.rego`. One that is a link that
/// leads nowhere is one, too.
fn policy_at(root: BorrowedFd<'_>, dockerfile: &Path) -> Option<String> {
    let policy = with_suffix(dockerfile, ".rego");
    let is_there = statat(root, &policy, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    is_there.then(|| policy.display().to_string())
}

/// Returns the path of `place` relative to the context it lies in, by its name or by where its
/// directory really is; `None` for one that lies elsewhere.
fn inside(place: &Path, dir: &Path, root: &OwnedFd) -> Option<PathBuf> {
    let place = clean(&std::path::absolute(place).ok()?);
    if let Ok(inside) = place.strip_prefix(clean(dir)) {
        return Some(inside.to_owned());
    }
    let parent = open_dir(place.parent()?).ok()?;
    let inside = true_path(&parent)?.strip_prefix(true_path(root)?).ok()?.to_owned();
    Some(inside.join(place.file_name()?))
}

/// Cleans a path as Go does.
fn clean(path: &Path) -> PathBuf {
    OsString::from_vec(path::clean_bytes(path.as_os_str().as_bytes())).into()
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Returns where an open directory is, without links.
fn true_path(dir: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_inside_by_name_and_by_where_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let context = dir.path().join("context");
        std::fs::create_dir_all(context.join("sub")).unwrap();
        std::os::unix::fs::symlink(&context, dir.path().join("alias")).unwrap();
        std::os::unix::fs::symlink("/etc", context.join("out")).unwrap();
        let root = open_dir(&context).unwrap();
        for (place, want) in [
            ("context/Dockerfile", Some("Dockerfile")),
            ("context/sub/../x", Some("x")),
            ("alias/sub/x", Some("sub/x")),
            // A link of the context's is resolved inside it.
            ("context/out/passwd", Some("out/passwd")),
            ("context/../other", None),
            ("contexts/x", None),
        ] {
            let found = inside(&dir.path().join(place), &context, &root);
            assert_eq!(found.as_deref(), want.map(Path::new), "{place}");
        }
    }
}
