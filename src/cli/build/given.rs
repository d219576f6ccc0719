//! Secrets and agents that the command line gives a build.

use crate::cli::Environment;
use crate::cli::failure::{Class, Failure, cannot};
use crate::cli::parse_args::{SecretFlag, SshFlag};
use crate::cli::run::volume::Volume;
use crate::context::remote::Access;
use crate::plan::{Mount, MountKind};
use crate::sandbox::{Agent, KeyError, Keyring, connect_to_agent};
use crate::solve::{SECRET_MAX, Secret};
use crate::sys::foreign::Given;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest file of a private key, in bytes, as in BuildKit.
const KEY_MAX: u64 = 100 * 1024;

/// Reads `--secret`s: those of the build by id, and what authenticates its sources.
///
/// An id without `src` and `env` is the name of an environment variable or, if that is not set, of
/// a file, as in BuildKit.
///
/// # Errors
///
/// A failure of class usage for a secret that is not there.
pub(super) fn secrets(
    flags: &[SecretFlag],
    environment: &Environment,
) -> Result<(BTreeMap<String, Secret>, Access), Failure> {
    let usage = |message: String| Failure::new(Class::Usage, message);
    let mut secrets = BTreeMap::new();
    let mut access = Access::default();
    for flag in flags {
        let id = &flag.id;
        let file = |path: &str| {
            let path = std::path::absolute(path).map_err(|e| cannot("resolve", path, &e))?;
            given_secret(path, environment)
        };
        let secret = match (&flag.src, &flag.env) {
            (Some(path), _) => file(path)?,
            (None, Some(name)) => match environment.variable(name) {
                Some(value) => Secret::Value(value.into_bytes()),
                None => {
                    let message = format!("secret {id}: environment variable {name} is not set");
                    return Err(usage(message));
                }
            },
            (None, None) => match environment.variable(id) {
                Some(value) => Secret::Value(value.into_bytes()),
                None => file(id).map_err(|failure| {
                    let message = format!(
                        "secret {id}: environment variable {id} is not set, and {}",
                        failure.message
                    );
                    usage(message).with_hint(format!("name its file: --secret id={id},src=FILE"))
                })?,
            },
        };
        if Access::concerns(id) {
            let value =
                secret.read(&environment.cancel).map_err(|e| cannot("read secret", id, &e))?;
            access.add(id, &value);
        }
        // Without an id the file's path is the id, and its name is one, too.
        if flag.src.as_ref() == Some(id)
            && let Some(name) = Path::new(id).file_name().and_then(|name| name.to_str())
            && flags.iter().all(|other| other.id != name)
        {
            secrets.insert(name.to_owned(), secret.clone());
        }
        secrets.insert(id.clone(), secret);
    }
    Ok((secrets, access))
}

/// Reads the `--volume`s, with absolute paths.
///
/// # Errors
///
/// A failure of class usage for what is not there.
pub(super) fn volumes(volumes: &[Volume]) -> Result<Vec<Mount>, Failure> {
    let mount = |volume: &Volume| match volume {
        Volume::Bind { source, target, is_read_only } => {
            let path = std::path::absolute(source).map_err(|e| cannot("resolve", source, &e))?;
            fs::symlink_metadata(&path).map_err(|e| cannot("mount", &path, &e))?;
            let source = path.into_os_string().into_string().map_err(|path| {
                let message = format!("cannot mount {}: it is not valid UTF-8", path.display());
                Failure::new(Class::Usage, message)
            })?;
            let kind = MountKind::Host { source, is_read_only: *is_read_only };
            Ok(Mount { target: target.clone(), kind })
        }
        Volume::Tmpfs { .. } => unreachable!("--volume mounts what is there"),
    };
    volumes.iter().map(mount).collect()
}

/// Takes a secret's file as it is. What can be read only once, such as a pipe, is read now.
fn given_secret(path: PathBuf, environment: &Environment) -> Result<Secret, Failure> {
    let failed = |e: std::io::Error| cannot("read secret", &path, &e);
    let kind = fs::metadata(&path).map_err(failed)?;
    if kind.is_file() {
        return Ok(Secret::File(path));
    }
    let given = Given::open(&path, &environment.cancel);
    given.and_then(|given| given.read_to_limit(SECRET_MAX)).map(Secret::Value).map_err(failed)
}

/// Finds the agents of `--ssh`, and reads the keys it names.
///
/// # Errors
///
/// A failure of class usage for an agent that does not answer to a connection, and for a file that
/// is not a key or one that only another agent can use.
pub(super) fn agents(
    flags: &[SshFlag],
    environment: &Environment,
) -> Result<BTreeMap<String, Agent>, Failure> {
    let usage = |message: String| Failure::new(Class::Usage, message);
    let mut agents = BTreeMap::new();
    for SshFlag { id, paths } in flags {
        if agents.contains_key(id) {
            return Err(usage(format!("ssh agent {id} is given twice"))
                .with_hint(format!("name all keys in one flag: --ssh {id}=KEY,KEY")));
        }
        let paths = match paths.as_slice() {
            [] => {
                let socket = environment.variable("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
                vec![socket.ok_or_else(|| {
                    let message = format!("ssh agent {id}: SSH_AUTH_SOCK is not set");
                    let hint = "start an agent, or name its socket or a key";
                    usage(message).with_hint(format!("{hint}: --ssh {id}=PATH"))
                })?]
            }
            paths => paths.to_vec(),
        };
        let mut keyring = Keyring::default();
        let mut socket = None;
        for path in paths.iter().map(PathBuf::from) {
            let facts = fs::metadata(&path)
                .map_err(|e| cannot(&format!("use ssh agent {id},"), &path, &e))?;
            if facts.file_type().is_socket() {
                socket = Some(path);
            } else {
                add_key(&mut keyring, id, &path, environment)?;
            }
        }
        let agent = match socket {
            Some(_) if paths.len() > 1 => {
                return Err(usage(format!("ssh agent {id}: a socket stands alone"))
                    .with_hint(format!("name one socket, or keys only: --ssh {id}=KEY,KEY")));
            }
            Some(path) => {
                connect_to_agent(&path).map_err(|e| {
                    usage(format!("ssh agent {id}: cannot connect to {}: {e}", path.display()))
                        .with_hint(format!("start an agent, or name a key: --ssh {id}=KEY"))
                })?;
                Agent::Socket(path)
            }
            None => Agent::Keys(Arc::new(keyring)),
        };
        agents.insert(id.clone(), agent);
    }
    Ok(agents)
}

/// Reads a file of `--ssh` that is not a socket.
fn add_key(
    keyring: &mut Keyring,
    id: &str,
    path: &Path,
    environment: &Environment,
) -> Result<(), Failure> {
    let read = Given::open(path, &environment.cancel).and_then(|file| file.read_to_limit(KEY_MAX));
    let content = read.map_err(|e| cannot(&format!("read ssh key of {id},"), path, &e))?;
    keyring.add(&content).map_err(|error| {
        let shown = path.display();
        let failure = Failure::new(Class::Usage, format!("ssh agent {id}: {shown}: {error}"));
        match error {
            _ if error.is_for_an_agent() => failure.with_hint(format!(
                "use an agent: eval $(ssh-agent) && ssh-add {shown}, then --ssh {id}"
            )),
            KeyError::Public => match path.extension() {
                Some(extension) if extension == "pub" => failure.with_hint(format!(
                    "name the other half: --ssh {id}={}",
                    path.with_extension("").display()
                )),
                _ => failure,
            },
            _ => failure.with_hint(format!("name a socket or a private key: --ssh {id}=PATH")),
        }
    })
}
