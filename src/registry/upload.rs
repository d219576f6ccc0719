//! What is pushed: blobs that are missing, then manifests.
//!
//! A blob is announced, and sent in one request. When that breaks off, the registry is asked how
//! far it came; if it says so, the rest is sent, else all of it again.
//!
//! Source: OCI distribution specification 1.1, "Push".

use super::RegistryError;
use super::auth::encoded;
use super::client::Remote;
use super::host::Host;
use super::transport::{Address, Failed, Payload, Request, Response, resolve};
use crate::oci::{Descriptor, Digest};
use std::io::{self, Read};
use ureq::http::Method;

/// Receives how many bytes of a blob the registry has been sent.
pub type UploadReport<'r> = &'r (dyn Fn(u64) + Sync);

/// Opens what is uploaded, at an offset in bytes.
pub type Open<'o> = &'o (dyn Fn(u64) -> io::Result<Box<dyn Read + Send>> + Sync);

/// How an upload began.
enum Begun {
    /// The registry has the blob now: from another repository.
    Mounted,
    /// It is to be sent to this address.
    At(String),
}

impl Remote {
    /// Says whether the repository has a blob.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] where the registry says neither yes nor no.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let (host, path) = self.own();
        let doing = format!("look for blob {digest} in {}", self.repository());
        let url = format!("{}/v2/{path}/blobs/{digest}", host.base(&self.shared)?);
        let request = Request::new(Method::HEAD, url);
        let response = host.send(&self.shared, &request, path, &[push_scope(path)], &doing)?;
        match response.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(host.refusal(response, path, "repository", &doing)),
        }
    }

    /// Says whether the repository has a manifest under a tag or digest: that digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] where the registry says neither yes nor no.
    pub fn has_manifest(&self, digest: &Digest, accept: &str) -> Result<bool, RegistryError> {
        let (host, path) = self.own();
        let doing = format!("look for manifest {digest} in {}", self.repository());
        let url = self.manifest_url(host, path, &digest.to_string())?;
        let request = Request::new(Method::HEAD, url).header("Accept", accept);
        let response = host.send(&self.shared, &request, path, &[push_scope(path)], &doing)?;
        match response.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(host.refusal(response, path, "repository", &doing)),
        }
    }

    /// Puts a blob into the repository: from the repository `from` of the same registry where it
    /// has it, else by sending what `open` gives. Returns whether bytes were sent.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; the registry shows nothing of the blob then.
    pub fn upload(
        &self,
        blob: &Descriptor,
        from: Option<&str>,
        open: Open<'_>,
        report: UploadReport<'_>,
    ) -> Result<bool, RegistryError> {
        let (host, path) = self.own();
        let doing = format!("push blob {} to {}", blob.digest, self.repository());
        let upload = Upload { remote: self, host, path, blob, open, report, doing: &doing };
        upload.run(from)
    }

    /// Puts a manifest or index under a tag, or under its own digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`], for example where the registry misses a blob of it.
    pub fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let (host, path) = self.own();
        let doing = format!("push {}", self.named(reference));
        let url = format!("{}/v2/{path}/manifests/{reference}", host.base(&self.shared)?);
        let request = Request::new(Method::PUT, url)
            .header("Content-Type", media_type)
            .payload(Payload::Bytes(bytes));
        let response = host.send(&self.shared, &request, path, &[push_scope(path)], &doing)?;
        if !matches!(response.status, 200..=202) {
            return Err(host.refusal(response, path, "repository", &doing));
        }
        let expected = Digest::of(bytes);
        match response.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok())
        {
            Some(actual) if actual != expected => Err(RegistryError::BadAnswer {
                doing,
                host: response.host,
                what: format!("it took {actual} for {expected}"),
            }),
            _ => Ok(()),
        }
    }

    /// Removes a tag, or by its digest a manifest with all its tags. Says whether the registry does
    /// such a thing.
    ///
    /// # Errors
    ///
    /// [`RegistryError`], for example where there is no such manifest.
    pub fn delete_manifest(&self, reference: &str) -> Result<bool, RegistryError> {
        let (host, path) = self.own();
        let what = self.named(reference);
        let doing = format!("delete {what}");
        let url = self.manifest_url(host, path, reference)?;
        let scopes = [format!("repository:{path}:pull,push,delete")];
        let request = Request::new(Method::DELETE, url);
        let response = host.send(&self.shared, &request, path, &scopes, &doing)?;
        match response.status {
            200 | 202 | 204 => Ok(true),
            400 | 405 | 501 => Ok(false),
            _ => Err(host.refusal(response, path, &what, &doing)),
        }
    }
}

/// The scope that writing to a repository needs.
fn push_scope(path: &str) -> String {
    format!("repository:{path}:pull,push")
}

/// One blob on its way to a registry.
struct Upload<'a> {
    remote: &'a Remote,
    host: &'a Host,
    path: &'a str,
    blob: &'a Descriptor,
    open: Open<'a>,
    report: UploadReport<'a>,
    doing: &'a str,
}

impl Upload<'_> {
    fn run(&self, from: Option<&str>) -> Result<bool, RegistryError> {
        let shared = &self.remote.shared;
        let Begun::At(mut url) = self.begin(from)? else { return Ok(false) };
        let mut offset = 0;
        for attempt in 1.. {
            let what = match self.send(&url, offset) {
                Ok(response) if matches!(response.status, 201 | 204) => return Ok(true),
                Ok(response) if is_final(response.status) => {
                    return Err(self.host.refusal(response, self.path, "repository", self.doing));
                }
                Ok(response) => format!("it answered {}", response.status),
                Err(Failed::Lasting(error)) => return Err(error),
                Err(Failed::Passing(what)) => what,
            };
            if attempt >= shared.transport.settings().tries {
                return Err(RegistryError::Connection {
                    doing: self.doing.to_owned(),
                    host: self.host.authority.clone(),
                    what,
                });
            }
            shared.pause(&self.host.authority, &what, attempt, None)?;
            (url, offset) = match self.reached(&url)? {
                Some(reached) => reached,
                None => match self.begin(None)? {
                    Begun::Mounted => return Ok(false),
                    Begun::At(url) => (url, 0),
                },
            };
        }
        unreachable!("the last try returns")
    }

    fn begin(&self, from: Option<&str>) -> Result<Begun, RegistryError> {
        let shared = &self.remote.shared;
        let base = self.host.base(shared)?;
        let mut url = format!("{base}/v2/{}/blobs/uploads/", self.path);
        let mut scopes = vec![push_scope(self.path)];
        if let Some(from) = from {
            let digest = encoded(&self.blob.digest.to_string());
            url = format!("{url}?mount={digest}&from={}", encoded(from));
            scopes.push(super::client::pull_scope(from));
        }
        let request = Request::new(Method::POST, url);
        let sent = self.host.send(shared, &request, self.path, &scopes, self.doing);
        let response = match sent {
            // A token server may refuse what we need not have.
            Err(RegistryError::Unauthorized { .. }) if from.is_some() => return self.begin(None),
            other => other?,
        };
        match response.status {
            201 => Ok(Begun::Mounted),
            202 => Ok(Begun::At(self.location(&response)?)),
            _ if from.is_some() => self.begin(None),
            _ => Err(self.host.refusal(response, self.path, "repository", self.doing)),
        }
    }

    /// Sends the bytes from `offset` on and closes the upload.
    fn send(&self, url: &str, offset: u64) -> Result<Response, Failed> {
        let left = self.blob.size - offset;
        let (open, report) = (|| (self.open)(offset), |sent: u64| (self.report)(offset + sent));
        let body = Payload::Stream { open: &open, length: left, report: &report };
        let octets =
            |request: Request<'static>| request.header("Content-Type", "application/octet-stream");
        if offset == 0 {
            let whole = octets(Request::new(Method::PUT, self.closing(url)));
            return self.once(&Request { payload: body, ..whole });
        }
        let mut url = url.to_owned();
        if left > 0 {
            let range = format!("{offset}-{}", self.blob.size - 1);
            let rest = octets(Request::new(Method::PATCH, &url)).header("Content-Range", range);
            let response = self.once(&Request { payload: body, ..rest })?;
            if response.status != 202 {
                return Ok(response);
            }
            url = self.location(&response)?;
        }
        self.once(&octets(Request::new(Method::PUT, self.closing(&url))))
    }

    fn once(&self, request: &Request<'_>) -> Result<Response, Failed> {
        let scopes = [push_scope(self.path)];
        self.host.send_once(&self.remote.shared, request, self.path, &scopes, self.doing)
    }

    /// Adds the digest, which closes an upload.
    fn closing(&self, url: &str) -> String {
        let joint = if url.contains('?') { '&' } else { '?' };
        format!("{url}{joint}digest={}", encoded(&self.blob.digest.to_string()))
    }

    /// Asks how far a broken upload came; `None` where it must start over.
    fn reached(&self, url: &str) -> Result<Option<(String, u64)>, RegistryError> {
        let request = Request::new(Method::GET, url);
        let scopes = [push_scope(self.path)];
        let shared = &self.remote.shared;
        let response = match self.host.send(shared, &request, self.path, &scopes, self.doing) {
            Ok(response) => response,
            Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
            Err(_) => return Ok(None),
        };
        if response.status != 204 {
            return Ok(None);
        }
        let range = response.header("range").unwrap_or_default();
        let last = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-");
        let Some(last) = last.and_then(|last| last.parse::<u64>().ok()) else { return Ok(None) };
        let next = match response.header("location") {
            Some(_) => self.location(&response)?,
            None => url.to_owned(),
        };
        // `0-0` is what registries say of nothing, too; of one byte it costs nothing.
        let offset = if last == 0 { 0 } else { last + 1 };
        Ok((offset <= self.blob.size).then_some((next, offset)))
    }

    /// Returns where an upload goes on: at the registry itself, or at an encrypted place it names.
    fn location(&self, response: &Response) -> Result<String, RegistryError> {
        let bad = |what: &str| RegistryError::BadAnswer {
            doing: self.doing.to_owned(),
            host: self.host.authority.clone(),
            what: what.to_owned(),
        };
        let location =
            response.header("location").ok_or_else(|| bad("an upload without an address"))?;
        let url = resolve(&response.url, location)
            .ok_or_else(|| bad("an upload with an address that makes no sense"))?;
        let base = self.host.base(&self.remote.shared)?;
        let (to, own) = (Address::parse(&url, self.doing)?, Address::parse(&base, self.doing)?);
        match (to.is_tls, own.is_tls) {
            // A registry behind a proxy that does its TLS may not know that there is one.
            (false, true) if to.authority == own.authority => {
                Ok(url.replacen("http://", "https://", 1))
            }
            (false, true) => Err(bad("an upload that leaves encryption")),
            _ => Ok(url),
        }
    }
}

/// Whether an upload that got this answer need not be tried again.
fn is_final(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 404 | 408 | 416 | 429)
}
