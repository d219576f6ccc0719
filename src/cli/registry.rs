//! Registries from the command line: where their settings and credentials are, how a pull shows.

use super::Environment;
use super::failure::{self, Class, Failure};
use crate::image::{
    self, Image, ImageError, Offline, Platform, PullProgress, Reference, ResolvedRef,
};
use crate::progress::{self, Event, Progress, Vertex};
use crate::registry::{
    Client, Credentials, Keychain, Notify, Proxies, RegistryError, Remote, Roots, Settings,
};
use crate::store::{Digest, Store};
use crate::sys::cancel::Cancel;
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
            Err(e) => return Err(super::build::cannot("read", &path, &e)),
        }
    }
    Ok(settings)
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

/// Makes a client that reports retries to `progress`.
pub(super) fn client(environment: &Environment, progress: &Progress) -> Result<Client, Failure> {
    Ok(Client::new(
        settings(environment)?,
        keychain(environment),
        &environment.cancel,
        notify(progress),
    ))
}

/// As [`client`], for one that takes any certificate, and plain HTTP where TLS is not spoken.
pub(super) fn unverified_client(
    environment: &Environment,
    progress: &Progress,
) -> Result<Client, Failure> {
    let settings = settings(environment)?.unverified();
    Ok(Client::new(settings, keychain(environment), &environment.cancel, notify(progress)))
}

/// As [`client`], with credentials of its own for one host.
pub(super) fn client_with(
    environment: &Environment,
    host: &str,
    credentials: Credentials,
    progress: &Progress,
) -> Result<Client, Failure> {
    let settings = settings(environment)?;
    let (cancel, notify) = (&environment.cancel, notify(progress));
    Ok(Client::with_credentials(settings, host, credentials, cancel, notify))
}

fn notify(progress: &Progress) -> Notify {
    let progress = progress.clone();
    Box::new(move |text| progress.notice(text))
}

/// Shows blobs as parts of a vertex.
pub(super) struct Shown<'a> {
    progress: &'a Progress,
    vertex: Digest,
    /// What is done to blobs: put in front of their digests.
    doing: &'static str,
}

impl<'a> Shown<'a> {
    pub(super) fn new(progress: &'a Progress, vertex: Digest, doing: &'static str) -> Self {
        Self { progress, vertex, doing }
    }
}

impl PullProgress for Shown<'_> {
    fn blob(&self, digest: &Digest, current: u64, total: u64, is_done: bool) {
        let id = match self.doing {
            "" => digest.to_string(),
            doing => format!("{doing} {digest}"),
        };
        let (vertex, total) = (self.vertex, Some(total));
        self.progress.emit(Event::Status { vertex, id, current, total, is_done });
    }
}

/// What a build needs to pull images.
#[derive(Debug)]
pub struct Pulls<'a> {
    /// The client.
    pub client: Client,
    /// Shows what is fetched.
    pub progress: &'a Progress,
    /// Whether the registry is asked even for what the store has: `--pull`.
    pub is_forced: bool,
}

/// A pull that failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PullFailed(#[from] pub ImageError);

impl Pulls<'_> {
    /// Brings an image into the store, showing how.
    ///
    /// # Errors
    ///
    /// [`PullFailed`].
    pub fn pull(
        &self,
        store: &Store,
        name: &Reference,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<(ResolvedRef, Image), PullFailed> {
        let remote = self.client.remote(&name.repository());
        let offline = if self.is_forced { Offline::Fail } else { Offline::UseLast };
        let shown = Vertex::internal(format!("[internal] load metadata for {name}"));
        let named = self.show(shown, |_| image::look_up(store, &remote, name, offline))?;
        if let Some(outage) = &named.outage {
            let last = named.descriptor.digest;
            self.progress.notice(format!("{outage}; using what {name} was before: {last}"));
        }
        let image = self.fetch(store, &remote, name, &named, platform, cancel)?;
        Ok((named, image))
    }

    fn fetch(
        &self,
        store: &Store,
        remote: &Remote,
        name: &Reference,
        named: &ResolvedRef,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<Image, PullFailed> {
        let descriptor = &named.descriptor;
        let full = match name.digest() {
            Some(_) => name.to_string(),
            None => format!("{name}@{}", descriptor.digest),
        };
        self.show(Vertex::internal(format!("[internal] pull {full}")), |vertex| {
            let watch = Shown::new(self.progress, vertex, "");
            image::pull(store, remote, name, descriptor, platform, &watch, cancel)
        })
    }

    fn show<T>(
        &self,
        vertex: Vertex,
        work: impl FnOnce(Digest) -> Result<T, ImageError>,
    ) -> Result<T, PullFailed> {
        show(self.progress, vertex, work).map_err(PullFailed)
    }
}

/// Shows a piece of work as a vertex of its own.
pub(super) fn show<T>(
    progress: &Progress,
    vertex: Vertex,
    work: impl FnOnce(Digest) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    let digest = vertex.digest;
    progress.started(vertex);
    let result = work(digest);
    let outcome = match &result {
        Ok(_) => progress::Outcome::Ran,
        Err(ImageError::Cancelled) => progress::Outcome::Cancelled,
        Err(error) => progress::Outcome::Failed(failure::chain(error)),
    };
    progress.done(digest, outcome);
    result
}

/// Makes a failure of what kept an image from being pulled or pushed.
pub(super) fn failure_of(error: &ImageError) -> Failure {
    let class = match error {
        ImageError::Cancelled => return Failure::new(Class::Interrupted, "interrupted"),
        error if error.is_remote() => Class::Network,
        _ => Class::Environment,
    };
    let failure = Failure::of(class, error);
    match error {
        ImageError::Registry(error) => with_hint(failure, error),
        _ => failure,
    }
}

/// Makes a failure of a registry's error.
pub(super) fn failure_of_registry(error: RegistryError) -> Failure {
    failure_of(&error.into())
}

/// Shows the end of a vertex.
pub(super) fn ended<T>(progress: &Progress, vertex: Digest, result: &Result<T, Failure>) {
    let outcome = match result {
        Ok(_) => progress::Outcome::Ran,
        Err(failure) if failure.class == Class::Interrupted => progress::Outcome::Cancelled,
        Err(failure) => progress::Outcome::Failed(failure.message.clone()),
    };
    progress.done(vertex, outcome);
}

/// Says whether a registry was not reached at all.
pub(super) fn is_unreachable(error: &ImageError) -> bool {
    matches!(error, ImageError::Registry(RegistryError::Connection { .. }))
}

fn with_hint(failure: Failure, error: &RegistryError) -> Failure {
    match error {
        RegistryError::Unauthorized { host, .. } => {
            let host = if host == "docker.io" { String::new() } else { format!(" {host}") };
            failure
                .with_hint(format!("log in: builder login{host}"))
                .with_hint("or check the name: registries answer so for what does not exist, too")
        }
        RegistryError::Connection { host, what, .. } if what.contains("certificate of ours") => failure
            .with_hint(format!(
                "name one in registries.toml: [registry.\"{host}\"] keypair = [{{ cert = \"FILE\", key = \"FILE\" }}]"
            )),
        RegistryError::Connection { host, what, .. } if what.contains("certificate") => failure
            .with_hint(format!(
                "name its certificate in registries.toml: [registry.\"{host}\"] ca = [\"FILE\"]"
            )),
        _ => failure,
    }
}

impl Environment {
    /// Reads a variable that names a directory; a relative one counts as unset.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| Path::is_absolute(path))
    }
}
