//! Registries from the command line: where their settings and credentials are.
//!
//! How pulls and pushes are shown, and what their errors mean: [`crate::job::transfers`].

use super::Environment;
use super::failure::{Class, Failure, cannot};
use super::parse_args;
use crate::job::transfers::failure_of_registry;
use crate::progress::Progress;
use crate::registry::{
    Client, Containers, Credentials, Keychain, Notify, Proxies, RegistryError, Roots, Settings,
    SettingsError,
};
use crate::sys::foreign;
use std::path::{Path, PathBuf};

/// Settings for all users.
const SYSTEM_SETTINGS: &str = "/etc/builder/registries.toml";

/// The largest `registries.toml`, in bytes.
const SETTINGS_MAX: u64 = 4 << 20;

/// Where docker and podman keep certificates for hosts, below `/etc` and the user's configuration.
const HOST_DIRECTORIES: [&str; 2] = ["docker/certs.d", "containers/certs.d"];

/// Reads `registries.toml`, the system's and then the user's, and what the environment says.
pub(super) fn settings(environment: &Environment) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    settings.proxies = proxies(environment);
    settings.roots = roots(environment);
    let config = environment
        .directory("XDG_CONFIG_HOME")
        .or_else(|| environment.directory("HOME").map(|home| home.join(".config")));
    let etc = Some(PathBuf::from("/etc"));
    settings.host_directories = [&config, &etc]
        .into_iter()
        .flatten()
        .flat_map(|base| HOST_DIRECTORIES.map(|directory| base.join(directory)))
        .collect();
    let own = config.map(|config| config.join("builder/registries.toml"));
    for path in [Some(PathBuf::from(SYSTEM_SETTINGS)), own].into_iter().flatten() {
        match foreign::read_at(&path, SETTINGS_MAX) {
            Ok(text) => settings
                .add(&String::from_utf8_lossy(&text), &path)
                .map_err(|error| Failure::new(Class::Usage, error.to_string()))?,
            Err(e) if foreign::is_out_of_reach(&path, &e) => {}
            Err(e) => return Err(cannot("read", &path, &e)),
        }
    }
    settings
        .add(&environment.registries, Path::new("the command line"))
        .map_err(|error| Failure::new(Class::Usage, error.to_string()))?;
    add_containers(&mut settings, environment)?;
    add_policy(&mut settings.containers, environment)?;
    Ok(settings)
}

/// Checks that the machine's or the user's `policy.json` lets an image of a layout or archive be
/// read. `transport` is a name of containers-policy.json(5).
///
/// # Errors
///
/// The failure to show.
pub(super) fn check_place(
    environment: &Environment,
    transport: &str,
    path: &Path,
) -> Result<(), Failure> {
    let mut containers = Containers::default();
    add_policy(&mut containers, environment)?;
    // A scope is a path without links.
    #[expect(clippy::disallowed_methods, reason = "a path of the caller's own, from its own root")]
    let whole = std::fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned());
    match containers.ban_of_place(transport, &whole) {
        Some(ban) => {
            let shown = format!("{transport}:{}", path.display());
            Err(failure_of_registry(RegistryError::forbidden(&shown, ban)))
        }
        None => Ok(()),
    }
}

/// Reads the files of podman and buildah that say which registries are used and trusted.
fn add_containers(settings: &mut Settings, environment: &Environment) -> Result<(), Failure> {
    let read = read_if_there;
    let wrong = |error: SettingsError| Failure::new(Class::Usage, error.to_string());
    let given = ["CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH"]
        .into_iter()
        .find_map(|name| environment.variable(name).filter(|path| !path.is_empty()));
    let directories = containers_directories(environment);
    // The first file that is there, and then all of the directories' in the order of their names.
    let mains: Vec<PathBuf> = match &given {
        Some(path) => vec![PathBuf::from(path)],
        None => directories.iter().map(|directory| directory.join("registries.conf")).collect(),
    };
    for path in mains {
        if let Some(text) = read(&path)? {
            settings.containers.add_registries(&text, &path).map_err(wrong)?;
            break;
        }
    }
    for directory in directories.iter().rev().filter(|_| given.is_none()) {
        let parts = directory.join("registries.conf.d");
        let Ok(entries) = std::fs::read_dir(&parts) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "conf")) {
            if let Some(text) = read(path)? {
                settings.containers.add_registries(&text, path).map_err(wrong)?;
            }
        }
    }
    Ok(())
}

/// Reads the first `policy.json` that is there.
fn add_policy(containers: &mut Containers, environment: &Environment) -> Result<(), Failure> {
    for directory in containers_directories(environment) {
        let path = directory.join("policy.json");
        if let Some(text) = read_if_there(&path)? {
            return containers
                .set_policy(&text, &path)
                .map_err(|error| Failure::new(Class::Usage, error.to_string()));
        }
    }
    Ok(())
}

/// Where podman and buildah keep their files, the user's directory first. Podman looks below the
/// home directory, whatever `XDG_CONFIG_HOME` says, and so do we.
fn containers_directories(environment: &Environment) -> Vec<PathBuf> {
    let own = environment.directory("HOME").map(|home| home.join(".config/containers"));
    own.into_iter().chain([PathBuf::from("/etc/containers")]).collect()
}

fn read_if_there(path: &Path) -> Result<Option<String>, Failure> {
    match foreign::read_at(path, SETTINGS_MAX) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(e) if foreign::is_out_of_reach(path, &e) => Ok(None),
        Err(e) => Err(cannot("read", path, &e)),
    }
}

/// Returns what OpenSSL's variables say.
fn roots(environment: &Environment) -> Roots {
    let variable = |name| environment.variable(name).filter(|value| !value.is_empty());
    let directories = variable("SSL_CERT_DIR").unwrap_or_default();
    Roots {
        file: variable("SSL_CERT_FILE").map(PathBuf::from),
        directories: directories
            .split(':')
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .collect(),
    }
}

fn proxies(environment: &Environment) -> Proxies {
    let variable = |name: &str| {
        let either = environment.variable(name);
        let either = either.or_else(|| environment.variable(&name.to_ascii_uppercase()));
        either.filter(|value| !value.is_empty())
    };
    let all = variable("all_proxy");
    let exceptions = variable("no_proxy").unwrap_or_default();
    Proxies {
        http: variable("http_proxy").or_else(|| all.clone()),
        https: variable("https_proxy").or(all),
        exceptions: exceptions.split(',').map(str::trim).map(str::to_owned).collect(),
    }
}

/// Returns the path of docker's configuration.
pub(super) fn docker_config(environment: &Environment) -> Option<PathBuf> {
    let given = environment.variable("DOCKER_CONFIG").filter(|path| !path.is_empty());
    let dir = match given {
        Some(dir) => Some(PathBuf::from(dir)),
        None => environment.directory("HOME").map(|home| home.join(".docker")),
    };
    dir.map(|dir| dir.join("config.json"))
}

/// Finds the files with credentials: what `REGISTRY_AUTH_FILE` names, docker's, podman's.
pub(super) fn keychain(environment: &Environment) -> Keychain {
    let given = environment.variable("REGISTRY_AUTH_FILE").filter(|path| !path.is_empty());
    let given = given.map(PathBuf::from);
    let docker = docker_config(environment);
    let runtime =
        environment.directory("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
    let config = environment
        .directory("XDG_CONFIG_HOME")
        .or_else(|| environment.directory("HOME").map(|home| home.join(".config")))
        .map(|dir| dir.join("containers/auth.json"));
    Keychain {
        files: [given.clone(), docker.clone(), runtime, config].into_iter().flatten().collect(),
        target: given.or(docker),
    }
}

/// Whether registries must prove who they are.
#[derive(Debug, Clone, clap::Args)]
pub struct TlsArgs {
    /// Check certificates of registries; false takes any, and plain HTTP
    #[arg(long = "tls-verify", value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true", hide_default_value = true, default_missing_value = "true", value_parser = parse_args::truth)]
    pub verifies: bool,
}

/// Makes a client that reports retries to `progress`. Without `verifies_tls` it takes any
/// certificate, and plain HTTP where TLS is not spoken.
pub(super) fn client(
    environment: &Environment,
    verifies_tls: bool,
    progress: &Progress,
) -> Result<Client, Failure> {
    let settings = settings_with(environment, verifies_tls)?;
    Ok(Client::new(settings, keychain(environment), &environment.cancel, notify(progress)))
}

fn settings_with(environment: &Environment, verifies_tls: bool) -> Result<Settings, Failure> {
    let settings = settings(environment)?;
    Ok(if verifies_tls { settings } else { settings.unverified() })
}

/// As [`client`], with credentials of its own for one host.
pub(super) fn client_with(
    environment: &Environment,
    host: &str,
    credentials: Credentials,
    verifies_tls: bool,
    progress: &Progress,
) -> Result<Client, Failure> {
    let settings = settings_with(environment, verifies_tls)?;
    let (cancel, notify) = (&environment.cancel, notify(progress));
    Ok(Client::with_credentials(settings, host, credentials, cancel, notify))
}

fn notify(progress: &Progress) -> Notify {
    let progress = progress.clone();
    Box::new(move |text| progress.notice(text))
}

impl Environment {
    /// Reads a variable that names a directory; a relative one counts as unset.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| Path::is_absolute(path))
    }
}
