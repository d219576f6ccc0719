//! Where a build's Dockerfile and contexts come from: folders, standard input, web addresses, git.

use super::Environment;
use super::build::cannot;
use super::failure::{self, Class, Failure};
use super::resolve::NamedContext;
use crate::context::Source;
use crate::context::remote::{
    self, GitOptions, GitUrl, HttpOptions, RemoteError, StreamContext, file_name_of,
};
use crate::dockerfile::ignore::Matcher;
use crate::store::Store;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The largest Dockerfile read, in bytes.
const DOCKERFILE_MAX: u64 = 16 << 20;

/// What a build reads before anything is planned.
pub(super) struct Inputs {
    /// The main context.
    pub(super) context: Context,
    /// How the history and messages name it.
    pub(super) context_name: String,
    /// How messages name the Dockerfile.
    pub(super) dockerfile_name: String,
    /// Its bytes.
    pub(super) dockerfile: Vec<u8>,
    /// How messages name the ignore file, where the context may have one.
    pub(super) ignore_name: Option<String>,
}

/// A main context.
pub(super) enum Context {
    /// Nothing: only a Dockerfile was given.
    Nothing,
    /// A folder of the user's.
    Folder {
        /// Its absolute path.
        dir: PathBuf,
        /// What its ignore file hides.
        ignore: Option<Matcher>,
    },
    /// A folder of this session, which nobody else changes.
    Fetched {
        /// The folder.
        root: OwnedFd,
        /// What its ignore file hides.
        ignore: Option<Matcher>,
    },
}

impl Context {
    /// What the ignore file hides.
    pub(super) fn ignore(&self) -> Option<&Matcher> {
        match self {
            Self::Nothing => None,
            Self::Folder { ignore, .. } | Self::Fetched { ignore, .. } => ignore.as_ref(),
        }
    }
}

/// Reads the Dockerfile and finds the context. A context that is a git repository keeps its `.git` where
/// `keeps_git_dir` or its address says so.
pub(super) fn read(
    path: &str,
    file: Option<&str>,
    keeps_git_dir: bool,
    store: &Store,
    environment: &Environment,
) -> Result<Inputs, Failure> {
    if path == "-" {
        if file == Some("-") {
            return Err(Failure::new(
                Class::Usage,
                "standard input cannot be both the context and the Dockerfile",
            ));
        }
        let dir = fresh(store)?;
        return match remote::read_stream(io::stdin(), "standard input", &dir, &environment.cancel)
            .map_err(|error| remote_failure(&error))?
        {
            StreamContext::Dockerfile(dockerfile) => Ok(Inputs {
                context: Context::Nothing,
                context_name: "-".to_owned(),
                dockerfile_name: "-".to_owned(),
                dockerfile,
                ignore_name: None,
            }),
            StreamContext::Tree => fetched(&dir, "-", file),
        };
    }
    match NamedContext::parse(path) {
        NamedContext::Remote(address) => {
            let dir = fetch(&address, keeps_git_dir, store, environment)?;
            match dir {
                Fetched::Tree(dir) => fetched(&dir, &address, file),
                Fetched::Checkout(root) => {
                    let dir = PathBuf::from(format!(
                        "/proc/self/fd/{}",
                        std::os::fd::AsRawFd::as_raw_fd(&root)
                    ));
                    fetched(&dir, &address, file)
                }
                Fetched::Dockerfile(dockerfile) => Ok(Inputs {
                    context: Context::Nothing,
                    context_name: address.clone(),
                    dockerfile_name: address,
                    dockerfile,
                    ignore_name: None,
                }),
            }
        }
        _ => folder(path, file),
    }
}

/// Opens the main context.
pub(super) fn open(context: &Context, store: &Store) -> Result<Source, Failure> {
    let failed = |error| Failure::of(Class::Environment, &error);
    match context {
        Context::Nothing => Source::dir(&fresh(store)?, None, None).map_err(failed),
        Context::Folder { dir, ignore } => {
            Source::dir(dir, ignore.clone(), Some(index_of(dir, store))).map_err(failed)
        }
        Context::Fetched { root, ignore } => {
            let path =
                PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(root)));
            Source::dir(&path, ignore.clone(), None).map_err(failed)
        }
    }
}

/// Opens a context that `--build-context` names.
pub(super) fn named(
    name: &str,
    context: &NamedContext,
    store: &Store,
    environment: &Environment,
) -> Result<Source, Failure> {
    let failed = |error| Failure::of(Class::Environment, &error);
    match context {
        NamedContext::Dir(dir) => {
            let dir = std::path::absolute(dir).map_err(|e| cannot("resolve", dir, &e))?;
            fs::metadata(&dir)
                .map_err(|e| cannot(&format!("read build context {name},"), &dir, &e))?;
            let ignore = ignore_file(&dir.join(".dockerignore"))?;
            Source::dir(&dir, ignore, Some(index_of(&dir, store))).map_err(failed)
        }
        NamedContext::Remote(address) => match fetch(address, false, store, environment)? {
            Fetched::Tree(dir) => Source::dir(&dir, None, None).map_err(failed),
            Fetched::Checkout(root) => Ok(Source::checkout(root)),
            Fetched::Dockerfile(_) => {
                let message = format!("build context {name}: {address} is no archive");
                Err(Failure::new(Class::Usage, message))
            }
        },
        NamedContext::Image(_) | NamedContext::Layout(_) => {
            unreachable!("an image is no context")
        }
    }
}

/// Where the fingerprints of a folder are kept.
fn index_of(dir: &Path, store: &Store) -> PathBuf {
    let hash = blake3::hash(dir.as_os_str().as_encoded_bytes());
    store.root().join("context").join(&hash.to_hex()[..32])
}

/// An empty folder of the session.
fn fresh(store: &Store) -> Result<PathBuf, Failure> {
    store
        .session()
        .and_then(|session| session.new_work())
        .map_err(|error| Failure::of(Class::Environment, &error))
}

enum Fetched {
    Tree(PathBuf),
    Checkout(OwnedFd),
    Dockerfile(Vec<u8>),
}

/// Brings a git repository, a tar or a Dockerfile here.
fn fetch(
    address: &str,
    keeps_git_dir: bool,
    store: &Store,
    environment: &Environment,
) -> Result<Fetched, Failure> {
    let failed = |error: RemoteError| remote_failure(&error);
    let into = fresh(store)?;
    if let Some(url) = GitUrl::parse(address).map_err(failed)? {
        let options = GitOptions {
            keep_git_dir: url.keep_git_dir.unwrap_or(keeps_git_dir),
            into: &into,
            allows_local: false,
        };
        let checkout = url.check_out(&options, &environment.cancel).map_err(failed)?;
        return Ok(Fetched::Checkout(checkout.root));
    }
    let name = file_name_of(address);
    let options = HttpOptions {
        file_name: &name,
        checksum: None,
        cache: &store.root().join("context/http"),
        into: &into,
    };
    let file =
        remote::download(address, &options, &mut |_, _| {}, &environment.cancel).map_err(failed)?;
    let path = file.dir.join(&file.name);
    let stream = File::open(&path).map_err(|e| cannot("open", &path, &e))?;
    let dir = fresh(store)?;
    match remote::read_stream(stream, address, &dir, &environment.cancel).map_err(failed)? {
        StreamContext::Tree => Ok(Fetched::Tree(dir)),
        StreamContext::Dockerfile(dockerfile) => Ok(Fetched::Dockerfile(dockerfile)),
    }
}

fn remote_failure(error: &RemoteError) -> Failure {
    match error {
        RemoteError::Cancelled => Failure::new(Class::Interrupted, "interrupted"),
        error => {
            let mut failure = Failure::new(Class::Network, failure::chain(error));
            if matches!(error, RemoteError::Io { .. } | RemoteError::Extract { .. }) {
                failure.class = Class::Environment;
            }
            failure
        }
    }
}

/// A context in a folder of the session.
fn fetched(dir: &Path, name: &str, file: Option<&str>) -> Result<Inputs, Failure> {
    let file = file.unwrap_or("Dockerfile");
    let (dockerfile_name, dockerfile) = read_dockerfile(file, dir)?;
    let root = File::open(dir).map_err(|e| cannot("open", dir, &e))?.into();
    let ignore = read_ignore(dir, &dir.join(file))?;
    Ok(Inputs {
        context: Context::Fetched { root, ignore },
        context_name: name.to_owned(),
        dockerfile_name,
        dockerfile,
        ignore_name: Some(".dockerignore".to_owned()),
    })
}

/// A context in a folder of the user's.
fn folder(path: &str, file: Option<&str>) -> Result<Inputs, Failure> {
    let dir = std::path::absolute(path).map_err(|e| cannot("resolve", path, &e))?;
    match fs::metadata(&dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            let message = format!("the build context {path} is not a folder");
            return Err(Failure::new(Class::Usage, message));
        }
        Err(e) => return Err(cannot("read build context", path, &e)),
    }
    fs::read_dir(&dir).map_err(|e| cannot("read build context", path, &e))?;
    let (dockerfile_name, dockerfile, place) = match file {
        Some("-") => ("-".to_owned(), read_stdin()?, None),
        Some(file) => {
            // As docker build: relative to where we are, else to the context.
            let here = PathBuf::from(file);
            let place = if here.exists() { here } else { dir.join(file) };
            let (name, bytes) = read_dockerfile_at(&place, &dir)?;
            (name, bytes, Some(place))
        }
        None => {
            let place = dir.join("Dockerfile");
            let (name, bytes) = read_dockerfile_at(&place, &dir)?;
            (name, bytes, Some(place))
        }
    };
    let own = format!("{dockerfile_name}.dockerignore");
    let is_own = place.is_some() && (dir.join(&own).is_file() || Path::new(&own).is_file());
    let ignore_name = Some(if is_own { own } else { ".dockerignore".to_owned() });
    let ignore = match place {
        Some(place) => read_ignore(&dir, &place)?,
        None => ignore_file(&dir.join(".dockerignore"))?,
    };
    let context_name = dir.display().to_string();
    Ok(Inputs {
        context: Context::Folder { dir, ignore },
        context_name,
        dockerfile_name,
        dockerfile,
        ignore_name,
    })
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(DOCKERFILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| cannot("read", "standard input", &e))?;
    checked_size("-", bytes)
}

fn read_dockerfile(file: &str, dir: &Path) -> Result<(String, Vec<u8>), Failure> {
    let (_, bytes) = read_dockerfile_at(&dir.join(file), dir)?;
    Ok((file.to_owned(), bytes))
}

/// Reads a Dockerfile; its name is relative to the context where it lies in it.
fn read_dockerfile_at(path: &Path, context: &Path) -> Result<(String, Vec<u8>), Failure> {
    let bytes = fs::read(path).map_err(|e| {
        let mut failure = cannot("read", path, &e);
        if failure.class == Class::Usage {
            failure.class = Class::Dockerfile;
            failure.hints.push("name the Dockerfile: builder build -f FILE PATH".to_owned());
        }
        failure
    })?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let shown = absolute.strip_prefix(context).map_or(path, |inside| inside);
    let name = shown.display().to_string();
    let bytes = checked_size(&name, bytes)?;
    Ok((name, bytes))
}

fn checked_size(name: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if bytes.len() as u64 > DOCKERFILE_MAX {
        let message = format!("{name} is larger than {} MiB", DOCKERFILE_MAX >> 20);
        return Err(Failure::new(Class::Dockerfile, message));
    }
    Ok(bytes)
}

/// Finds the ignore file: `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore`.
fn read_ignore(context: &Path, dockerfile: &Path) -> Result<Option<Matcher>, Failure> {
    let mut own = dockerfile.to_owned().into_os_string();
    own.push(".dockerignore");
    let own = PathBuf::from(own);
    if own.is_file() { ignore_file(&own) } else { ignore_file(&context.join(".dockerignore")) }
}

fn ignore_file(path: &Path) -> Result<Option<Matcher>, Failure> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot("read", path, &e)),
    };
    Matcher::parse(&bytes).map(Some).map_err(|error| {
        let message = format!("{}: {}", path.display(), failure::chain(&error));
        Failure::new(Class::Dockerfile, message)
    })
}
