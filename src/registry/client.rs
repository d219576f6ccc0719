//! The client, and a repository as it is seen through it.

use super::auth::encoded;
use super::blob::BlobReader;
use super::host::Host;
use super::settings::Location;
use super::transport::{Request, Response, Transport};
use super::{Credentials, Keychain, RegistryError, Repository, Settings};
use crate::oci::{Descriptor, Digest, Reference};
use crate::store::DOCUMENT_MAX;
use crate::sys::cancel::Cancel;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;
use ureq::http::Method;

/// Receives a line for each retry: what is tried again, and why.
pub type Notify = Box<dyn Fn(&str) + Send + Sync>;

/// The most tags of a repository that are listed.
const TAGS_MAX: usize = 1000;

/// How often the wish to stop is looked at.
const TICK: Duration = Duration::from_millis(50);

/// A client of registries. Clones share connections, tokens and what was learnt of the hosts.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) transport: Transport,
    keychain: Keychain,
    /// Credentials to use for a host instead of the keychain's.
    given: Option<(String, Credentials)>,
    cancel: Cancel,
    notify: Notify,
    hosts: Mutex<BTreeMap<(String, bool), Arc<Host>>>,
    watching: Once,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Makes a client; no connection is made before it is needed.
    pub fn new(settings: Settings, keychain: Keychain, cancel: &Cancel, notify: Notify) -> Self {
        Self::with(settings, keychain, None, cancel, notify)
    }

    /// As [`new`](Self::new), with credentials that count for `host` whatever the keychain has.
    pub fn with_credentials(
        settings: Settings,
        host: &str,
        credentials: Credentials,
        cancel: &Cancel,
        notify: Notify,
    ) -> Self {
        let given = Some((host.to_owned(), credentials));
        Self::with(settings, Keychain::default(), given, cancel, notify)
    }

    fn with(
        settings: Settings,
        keychain: Keychain,
        given: Option<(String, Credentials)>,
        cancel: &Cancel,
        notify: Notify,
    ) -> Self {
        let shared = Shared {
            transport: Transport::new(settings),
            keychain,
            given,
            cancel: cancel.clone(),
            notify,
            hosts: Mutex::default(),
            watching: Once::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the repository of an image that is to be pulled.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Forbidden`] where a file of the machine's or the user's forbids that.
    pub fn remote_of(&self, image: &Reference) -> Result<Remote, RegistryError> {
        if let Some(ban) = self.shared.transport.settings().containers.ban(image) {
            return Err(RegistryError::forbidden(&image.to_string(), ban));
        }
        let (repository, is_digest) = (image.repository(), image.digest().is_some());
        let places = self.shared.transport.settings().places_to_pull(&repository, is_digest);
        Ok(self.reached(&repository, places))
    }

    /// Returns what a name without a registry stands for, by the files of the machine and the user;
    /// `None` for docker.io.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Forbidden`] where several registries could be meant.
    pub fn long_name(&self, typed: &str) -> Result<Option<String>, RegistryError> {
        let containers = &self.shared.transport.settings().containers;
        containers.long_name(typed).map_err(|ban| RegistryError::forbidden(typed, ban))
    }

    /// Returns a repository as it is reached: through mirrors where settings name some.
    pub fn remote(&self, repository: &Repository) -> Remote {
        let places = self.shared.transport.settings().places(repository, false);
        self.reached(repository, places)
    }

    fn reached(&self, repository: &Repository, places: Vec<Location>) -> Remote {
        Shared::watch(&self.shared);
        let places = places
            .into_iter()
            .map(|place| (self.shared.host(&place.name, place.is_plain), place.path))
            .collect();
        Remote {
            shared: Arc::clone(&self.shared),
            repository: repository.clone(),
            places,
            preferred: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Checks that a registry lets us in.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unauthorized`] where it does not take the credentials.
    pub fn log_in(&self, host: &str) -> Result<(), RegistryError> {
        Shared::watch(&self.shared);
        let shared = &self.shared;
        let host = shared.host(host, false);
        let doing = format!("log in to {}", host.name);
        let request = Request::new(Method::GET, format!("{}/v2/", host.base(shared)?));
        let response = host.send(shared, &request, "", &[], &doing)?;
        match response.status {
            200 => Ok(()),
            _ => Err(host.refusal(response, "", "registry", &doing)),
        }
    }
}

impl Shared {
    pub(super) fn notify(&self, text: &str) {
        (self.notify)(text);
    }

    pub(super) fn check_cancelled(&self) -> Result<(), RegistryError> {
        if self.cancel.is_cancelled() { Err(RegistryError::Cancelled) } else { Ok(()) }
    }

    pub(super) fn sleep(&self, wait: Duration) -> Result<(), RegistryError> {
        let mut left = wait;
        while !left.is_zero() {
            self.check_cancelled()?;
            let step = left.min(TICK);
            std::thread::sleep(step);
            left -= step;
        }
        self.check_cancelled()
    }

    pub(super) fn credentials(
        &self,
        host: &str,
        path: &str,
    ) -> Result<Option<Credentials>, RegistryError> {
        match &self.given {
            Some((given, credentials)) if given == host => Ok(Some(credentials.clone())),
            _ => self.keychain.find(host, path),
        }
    }

    fn host(&self, name: &str, is_plain: bool) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts
            .entry((name.to_owned(), is_plain))
            .or_insert_with(|| Arc::new(Host::new(self, name, is_plain)));
        Arc::clone(host)
    }

    /// Breaks off what blocks when the user interrupts the program. The thread ends with the
    /// client.
    fn watch(this: &Arc<Self>) {
        this.watching.call_once(|| {
            let (cancel, shared) = (this.cancel.clone(), Arc::downgrade(this));
            // Without the thread an interruption waits for the server's next byte: no error.
            let _ = std::thread::Builder::new().name("registry".to_owned()).spawn(move || {
                while shared.strong_count() > 0 {
                    if cancel.is_cancelled() {
                        if let Some(shared) = shared.upgrade() {
                            shared.transport.stop();
                        }
                        return;
                    }
                    std::thread::sleep(TICK);
                }
            });
        });
    }
}

/// A repository of a registry. Clones share which mirror served last.
#[derive(Clone)]
pub struct Remote {
    pub(super) shared: Arc<Shared>,
    repository: Repository,
    /// Hosts with the repository's path there, in the order they are asked; the last is its own.
    pub(super) places: Vec<(Arc<Host>, String)>,
    preferred: Arc<AtomicUsize>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("repository", &self.repository).finish_non_exhaustive()
    }
}

impl Remote {
    /// Returns the name it was made with.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Asks what a tag or digest names: media type, digest and size of a manifest or index.
    /// `accept` lists the media types that will do, separated by commas. Costs one request, two
    /// if the server does not send the digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] of the repository's own place, where no mirror has it.
    pub fn resolve(&self, reference: &str, accept: &str) -> Result<Descriptor, RegistryError> {
        let what = self.named(reference);
        let doing = format!("look up {what}");
        self.anywhere(|host, path| {
            let url = self.manifest_url(host, path, reference)?;
            let scopes = [pull_scope(path)];
            let request = Request::new(Method::HEAD, url.clone()).header("Accept", accept);
            let response = host.send(&self.shared, &request, path, &scopes, &doing)?;
            match response.status {
                200 => {
                    if let Some(descriptor) = described(&response) {
                        return Ok(descriptor);
                    }
                }
                405 | 501 => {}
                _ => return Err(host.refusal(response, path, &what, &doing)),
            }
            let (bytes, media_type) = self.get(host, path, &url, accept, &what, &doing)?;
            // Without a type the document itself says what it is.
            let media_type = media_type.unwrap_or_default();
            Ok(Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64))
        })
    }

    /// Fetches a manifest or index by its digest, and verifies it.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] of the repository's own place, where no mirror has it.
    pub fn manifest(&self, digest: &Digest, accept: &str) -> Result<Vec<u8>, RegistryError> {
        let what = self.named(&digest.to_string());
        let doing = format!("fetch {what}");
        self.anywhere(|host, path| {
            let url = self.manifest_url(host, path, &digest.to_string())?;
            let (bytes, _) = self.get(host, path, &url, accept, &what, &doing)?;
            let actual = Digest::of(&bytes);
            if actual == *digest {
                return Ok(bytes);
            }
            let (doing, host) = (doing.clone(), host.authority.clone());
            Err(RegistryError::WrongDigest { doing, host, expected: *digest, actual })
        })
    }

    /// Lists tags of the repository, as far as the first answer goes: at most [`TAGS_MAX`], in the
    /// server's order. For hints only: it is asked once and not waited for long.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] where the registry lists none.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Listed {
            tags: Option<Vec<String>>,
        }
        let what = format!("tags of {}", self.repository);
        let doing = format!("list the {what}");
        self.anywhere(|host, path| {
            let base = host.base(&self.shared)?;
            let url = format!("{base}/v2/{path}/tags/list?n={TAGS_MAX}");
            let (bytes, _) = self.get(host, path, &url, "application/json", &what, &doing)?;
            let listed: Option<Listed> = serde_json::from_slice(&bytes).ok();
            let mut tags = listed.and_then(|listed| listed.tags).unwrap_or_default();
            tags.truncate(TAGS_MAX);
            Ok(tags)
        })
    }

    /// Opens a blob. What it gives is of the descriptor's size; the digest is for the caller to
    /// verify.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; of foreign layers, that of the registry and not of their own addresses.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<BlobReader, RegistryError> {
        BlobReader::open(self.clone(), descriptor.clone())
    }

    fn get(
        &self,
        host: &Host,
        path: &str,
        url: &str,
        accept: &str,
        what: &str,
        doing: &str,
    ) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let request = Request::new(Method::GET, url).header("Accept", accept);
        let mut attempt = 1;
        loop {
            let response = host.send(&self.shared, &request, path, &[pull_scope(path)], doing)?;
            if response.status != 200 {
                return Err(host.refusal(response, path, what, doing));
            }
            let media_type = media_type(&response);
            let at = response.host.clone();
            match response.read(DOCUMENT_MAX) {
                Ok(Some(bytes)) => return Ok((bytes, media_type)),
                Ok(None) => {
                    return Err(RegistryError::TooLarge { doing: doing.to_owned(), host: at });
                }
                Err(e) if attempt < self.shared.transport.settings().tries => {
                    self.shared.pause(&at, &e.to_string(), attempt, None)?;
                    attempt += 1;
                }
                Err(e) => {
                    let (doing, what) = (doing.to_owned(), e.to_string());
                    return Err(RegistryError::Connection { doing, host: at, what });
                }
            }
        }
    }

    /// Asks the places in turn, the one that answered last first.
    pub(super) fn anywhere<T>(
        &self,
        ask: impl Fn(&Host, &str) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let last = self.places.len() - 1;
        for place in first..=last {
            let (host, path) = &self.places[place];
            match ask(host, path) {
                Ok(found) => {
                    self.preferred.store(place, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
                Err(error) if place == last => return Err(error),
                Err(error) => self.shared.notify(&format!("{error}; asking elsewhere")),
            }
        }
        unreachable!("the last place's answer is returned")
    }

    /// Returns the place that is asked first.
    pub(super) fn first_place(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// Returns the repository's own place, which takes what is pushed.
    pub(super) fn own(&self) -> (&Host, &str) {
        let (host, path) = self.places.last().expect("a repository has a place");
        (host, path)
    }

    pub(super) fn manifest_url(
        &self,
        host: &Host,
        path: &str,
        reference: &str,
    ) -> Result<String, RegistryError> {
        // A mirror gets the name of the registry, as containerd does.
        let is_mirror = self.places.last().is_none_or(|(own, _)| own.name != host.name);
        let namespace = match is_mirror {
            true => format!("?ns={}", encoded(&self.repository.host)),
            false => String::new(),
        };
        Ok(format!("{}/v2/{path}/manifests/{reference}{namespace}", host.base(&self.shared)?))
    }

    /// Returns what people call a tag or digest of this repository.
    pub(super) fn named(&self, reference: &str) -> String {
        let joint = if reference.contains(':') { '@' } else { ':' };
        format!("{}{joint}{reference}", self.repository)
    }
}

/// The scope that reading a repository needs.
pub(super) fn pull_scope(path: &str) -> String {
    format!("repository:{path}:pull")
}

/// Returns the media type of an answer, without parameters.
fn media_type(response: &Response) -> Option<String> {
    let text = response.header("content-type")?.split(';').next()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Reads a descriptor from the headers of an answer to HEAD; `None` where one is missing, or where
/// the length is that of the answer and not of the manifest.
fn described(response: &Response) -> Option<Descriptor> {
    let digest = response.header("docker-content-digest")?.parse().ok()?;
    let size = response.header("content-length")?.parse().ok().filter(|size| *size > 0)?;
    Some(Descriptor::new(media_type(response)?, digest, size))
}
