//! Where a build's Dockerfile and contexts come from: directories, standard input, web addresses,
//! git.

use super::Caller;
use super::failure::{self, Class, Failure, cannot};
use super::recipe::{self, Recipe};
use super::resolve::NamedContext;
use crate::context::Source;
use crate::context::remote::{
    self, Access, Download, GitCheckout, GitOptions, HttpOptions, RemoteError, StreamContext,
    file_name_of,
};
use crate::dockerfile::address::{Address, redact};
use crate::dockerfile::git_url::GitUrl;
use crate::dockerfile::ignore::Matcher;
use crate::store::{Store, StorePart};
use crate::sys::foreign;
use std::borrow::Cow;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a build reads before anything is planned.
#[derive(Debug)]
pub struct Inputs {
    /// The main context.
    pub context: Context,
    /// How the history and messages name it.
    pub context_name: String,
    /// How messages name the Dockerfile.
    pub dockerfile_name: String,
    /// Its bytes.
    pub dockerfile: Vec<u8>,
    /// The build policy beside it, by the name that messages have for it.
    pub policy: Option<String>,
    /// The commit that the context is.
    pub origin: Option<Origin>,
    /// The time of the context, in seconds since 1970: that of the commit, of the download, or of
    /// the newest file in the archive. A directory has none.
    pub time: Option<i64>,
}

/// Where a context comes from, in a git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The repository's address, without credentials; empty where it is not known.
    pub repository: String,
    /// The commit; empty where there is none.
    pub revision: String,
}

/// A main context.
#[derive(Debug)]
pub enum Context {
    /// Nothing: only a Dockerfile was given.
    Nothing,
    /// A directory of the user's.
    Directory {
        /// Its absolute path.
        dir: PathBuf,
        /// What its ignore file hides.
        ignore: Option<Matcher>,
    },
    /// A directory of this session, which no other process changes.
    Fetched {
        /// The directory.
        root: OwnedFd,
        /// Whether files keep the owners they have: those of an archive.
        keeps_owners: bool,
    },
}

impl Context {
    /// What the ignore file hides.
    pub fn ignore(&self) -> Option<&Matcher> {
        match self {
            Self::Nothing | Self::Fetched { .. } => None,
            Self::Directory { ignore, .. } => ignore.as_ref(),
        }
    }
}

/// How a context that is a git repository is checked out, besides what its address says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checkouts {
    /// Whether it keeps its `.git`.
    pub(super) keeps_git_dir: bool,
    /// Whether its files get the time of the commit.
    pub(super) sets_commit_time: bool,
}

/// Reads the Dockerfile and finds the context.
pub(super) fn read(
    path: &str,
    file: Option<&str>,
    git: Checkouts,
    access: &Access,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Inputs, Failure> {
    if path == "-" {
        if file == Some("-") {
            return Err(Failure::new(
                Class::Usage,
                "standard input cannot be both the context and the Dockerfile",
            ));
        }
        let dir = fresh(store)?;
        return match remote::read_stream(caller.stdin()?, "standard input", &dir, caller.cancel())
            .map_err(|error| remote_failure(&error))?
        {
            StreamContext::Dockerfile(dockerfile) => Ok(Inputs {
                context: Context::Nothing,
                context_name: "-".to_owned(),
                dockerfile_name: "-".to_owned(),
                dockerfile,
                policy: None,
                origin: None,
                time: None,
            }),
            StreamContext::Tree => {
                let inputs = fetched(open_dir(&dir)?, "-", file, true)?;
                Ok(Inputs { time: newest(&dir), ..inputs })
            }
        };
    }
    let path = &*github(path);
    match NamedContext::parse(path) {
        NamedContext::Remote(address) => {
            let dir = fetch(&address, git, access, store, caller)?;
            match dir {
                Fetched::Tree(dir, time) => {
                    let inputs = fetched(open_dir(&dir)?, &address.text, file, true)?;
                    Ok(Inputs { time: time.or_else(|| newest(&dir)), ..inputs })
                }
                Fetched::Checkout(checkout) => {
                    let repository = address.text.split('#').next().unwrap_or_default().to_owned();
                    let origin = Origin { repository, revision: checkout.commit };
                    let inputs = fetched(checkout.root, &address.text, file, false)?;
                    Ok(Inputs { origin: Some(origin), time: Some(checkout.seconds), ..inputs })
                }
                Fetched::Dockerfile(dockerfile, time) => Ok(Inputs {
                    context: Context::Nothing,
                    context_name: address.text.clone(),
                    dockerfile_name: address.text,
                    dockerfile,
                    policy: None,
                    origin: None,
                    time,
                }),
            }
        }
        _ => directory(path, file, access, store, caller),
    }
}

/// Spells `github.com/OWNER/NAME` out, which docker takes for a repository where no directory has
/// that name.
pub(super) fn github(path: &str) -> Cow<'_, str> {
    if !path.starts_with("github.com/") || fs::symlink_metadata(path).is_ok() {
        return Cow::Borrowed(path);
    }
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (place, rest) = path.split_at(end);
    let suffix = if place.as_bytes().ends_with(b".git") { "" } else { ".git" };
    Cow::Owned(format!("https://{}{suffix}{rest}", place.trim_end_matches('/')))
}

/// Opens the main context.
pub(super) fn open(context: &Context, store: &Store) -> Result<Source, Failure> {
    let failed = |error| Failure::of(Class::Environment, &error);
    match context {
        Context::Nothing => Source::dir(&fresh(store)?, None, None).map_err(failed),
        Context::Directory { dir, ignore } => {
            Source::dir(dir, ignore.clone(), Some(index_of(dir, store))).map_err(failed)
        }
        Context::Fetched { root, keeps_owners } => {
            let root = root.try_clone().map_err(|e| cannot("open", "the context", &e))?;
            Ok(match keeps_owners {
                true => Source::extracted(root),
                false => Source::checkout(root),
            })
        }
    }
}

/// Opens a context that `--build-context` names.
pub(super) fn named(
    name: &str,
    context: &NamedContext,
    access: &Access,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Source, Failure> {
    let failed = |error| Failure::of(Class::Environment, &error);
    match context {
        NamedContext::Dir(dir) => {
            let dir = std::path::absolute(dir).map_err(|e| cannot("resolve", dir, &e))?;
            fs::metadata(&dir)
                .map_err(|e| cannot(&format!("read build context {name},"), &dir, &e))?;
            let ignore = recipe::ignore_of(&dir)?;
            Source::dir(&dir, ignore, Some(index_of(&dir, store))).map_err(failed)
        }
        NamedContext::Remote(address) => {
            let git = Checkouts { keeps_git_dir: false, sets_commit_time: false };
            if let Some(checkout) = check_out(address, git, access, store, caller)? {
                return Ok(Source::checkout(checkout.root));
            }
            // As BuildKit: one file, whatever it is.
            let file = download(address, Some("context"), access, store, caller)?;
            Source::dir(&file.dir, None, None).map_err(failed)
        }
        NamedContext::Image(_) | NamedContext::Layout(_) => {
            unreachable!("an image is not a context")
        }
    }
}

/// Where the fingerprints of a directory are kept.
fn index_of(dir: &Path, store: &Store) -> PathBuf {
    let hash = blake3::hash(dir.as_os_str().as_encoded_bytes());
    store.place(StorePart::Fingerprints).join(&hash.to_hex()[..32])
}

/// An empty directory of the session.
fn fresh(store: &Store) -> Result<PathBuf, Failure> {
    store
        .session()
        .and_then(|session| session.new_work())
        .map_err(|error| Failure::of(Class::Environment, &error))
}

/// What was brought here, with the time that the server gave it.
enum Fetched {
    Tree(PathBuf, Option<i64>),
    Checkout(GitCheckout),
    Dockerfile(Vec<u8>, Option<i64>),
}

/// Brings a git repository, a tar or a Dockerfile here.
fn fetch(
    address: &Address,
    git: Checkouts,
    access: &Access,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Fetched, Failure> {
    if let Some(checkout) = check_out(address, git, access, store, caller)? {
        return Ok(Fetched::Checkout(checkout));
    }
    let file = download(address, None, access, store, caller)?;
    let path = file.dir.join(&file.name);
    // A server that gives none stands for the beginning of 1970.
    let time = Some(file.mtime.seconds).filter(|seconds| *seconds != 0);
    let stream = File::open(&path).map_err(|e| cannot("open", &path, &e))?;
    let dir = fresh(store)?;
    match remote::read_stream(stream, &address.text, &dir, caller.cancel())
        .map_err(|error| remote_failure(&error))?
    {
        StreamContext::Tree => Ok(Fetched::Tree(dir, time)),
        StreamContext::Dockerfile(dockerfile) => Ok(Fetched::Dockerfile(dockerfile, time)),
    }
}

/// Checks a git repository out; `None` for another address.
fn check_out(
    address: &Address,
    git: Checkouts,
    access: &Access,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Option<GitCheckout>, Failure> {
    let failed = |error: RemoteError| remote_failure(&error);
    let Some(mut url) = GitUrl::parse(&address.text).map_err(|error| failed(error.into()))? else {
        return Ok(None);
    };
    url.login.clone_from(&address.login);
    let into = fresh(store)?;
    let options = GitOptions {
        keep_git_dir: url.keep_git_dir.unwrap_or(git.keeps_git_dir),
        sets_commit_time: git.sets_commit_time,
        into: &into,
        access,
        allows_local: false,
    };
    Ok(Some(url.check_out(&options, caller.cancel()).map_err(failed)?))
}

/// Returns the time of the newest file in a tree that was extracted.
fn newest(dir: &Path) -> Option<i64> {
    let entries = walkdir::WalkDir::new(dir).min_depth(1).into_iter().flatten();
    let files = entries.filter(|entry| !entry.file_type().is_dir());
    files.filter_map(|entry| entry.metadata().ok()).map(|facts| facts.mtime()).max()
}

/// Downloads a file, under the name it has in its address or another.
fn download(
    address: &Address,
    name: Option<&str>,
    access: &Access,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Download, Failure> {
    let into = fresh(store)?;
    let name = name.map_or_else(|| file_name_of(&address.text), str::to_owned);
    let options = HttpOptions {
        file_name: &name,
        access,
        checksum: None,
        cache: &store.place(StorePart::Downloads),
        into: &into,
    };
    remote::download(address, &options, &mut |_, _| {}, caller.cancel())
        .map_err(|error| remote_failure(&error))
}

fn open_dir(dir: &Path) -> Result<OwnedFd, Failure> {
    Ok(File::open(dir).map_err(|e| cannot("open", dir, &e))?.into())
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

/// A context in a directory of the session.
fn fetched(
    root: OwnedFd,
    name: &str,
    file: Option<&str>,
    keeps_owners: bool,
) -> Result<Inputs, Failure> {
    let name = redact(name);
    let recipe = recipe::of_tree(root.as_fd(), file, &name)?;
    Ok(Inputs {
        context: Context::Fetched { root, keeps_owners },
        context_name: name,
        dockerfile_name: recipe.name,
        dockerfile: recipe.bytes,
        policy: recipe.policy,
        origin: None,
        time: None,
    })
}

/// A context in a directory of the user's.
fn directory(
    path: &str,
    file: Option<&str>,
    access: &Access,
    store: &Store,
    caller: &dyn Caller,
) -> Result<Inputs, Failure> {
    let dir = std::path::absolute(path).map_err(|e| cannot("resolve", path, &e))?;
    match fs::metadata(&dir) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            let message = format!("the build context {path} is not a directory");
            return Err(Failure::new(Class::Usage, message));
        }
        Err(e) => return Err(cannot("read build context", path, &e)),
    }
    fs::read_dir(&dir).map_err(|e| cannot("read build context", path, &e))?;
    let recipe = match file {
        Some(file) if file.starts_with("http://") || file.starts_with("https://") => {
            let address = Address::parse(file);
            let download = download(&address, None, access, store, caller)?;
            let bytes =
                foreign::read_at(&download.dir.join(&download.name), recipe::DOCKERFILE_MAX)
                    .map_err(|e| cannot("read", &address.text, &e))?;
            let ignore = recipe::context_ignore_of(&dir, path)?;
            Recipe { name: address.text, bytes, ignore, policy: None }
        }
        file => recipe::of_directory(&dir, path, file, caller)?,
    };
    let context_name = dir.display().to_string();
    Ok(Inputs {
        context: Context::Directory { dir, ignore: recipe.ignore },
        context_name,
        dockerfile_name: recipe.name,
        dockerfile: recipe.bytes,
        policy: recipe.policy,
        origin: None,
        time: None,
    })
}
