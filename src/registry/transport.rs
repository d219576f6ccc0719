//! One HTTP request: which agent makes it, where redirects may lead, what is worth another try.

use super::error::said;
use super::pace::{Pace, Paced};
use super::settings::Settings;
use super::{RegistryError, is_loopback, tls};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;
use ureq::http::{self, HeaderMap, Method, Uri};
use ureq::{Agent, BodyReader, Proxy, SendBody};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(30);

/// How long a registry may take over a blob that it has been sent: some copy it to other storage
/// first.
const PATIENCE: Duration = Duration::from_mins(10);

/// Redirects followed; Go's client follows as many.
const REDIRECTS_MAX: usize = 10;

/// How much of an error's body is read, in bytes.
const ERROR_BODY_MAX: u64 = 64 << 10;

/// What a request carries.
#[derive(Clone, Copy)]
pub(super) enum Payload<'p> {
    None,
    Bytes(&'p [u8]),
    Stream {
        /// Opens what is sent. Called once per try.
        open: &'p dyn Fn() -> io::Result<Box<dyn Read + Send>>,
        /// Its length in bytes.
        length: u64,
        /// Receives how many bytes have been sent.
        report: &'p dyn Fn(u64),
    },
}

/// A request, before credentials are chosen for it.
#[derive(Clone)]
pub(super) struct Request<'p> {
    pub(super) method: Method,
    /// Scheme, host, path and query.
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'p>,
}

impl<'p> Request<'p> {
    pub(super) fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), payload: Payload::None }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn payload(mut self, payload: Payload<'p>) -> Self {
        self.payload = payload;
        self
    }
}

/// A response whose body has not been read.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Paced<BodyReader<'static>>,
    /// The host that gave it, which a redirect may have led to.
    pub(super) host: String,
    /// The address that gave it.
    pub(super) url: String,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Reads at most `max` bytes; `None` where there are more.
    pub(super) fn read(self, max: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        self.body.take(max + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() as u64 <= max).then_some(bytes))
    }

    /// Returns what the server says about an error.
    pub(super) fn said(self) -> String {
        let mut bytes = Vec::new();
        // What cannot be read is not said.
        let _ = self.body.take(ERROR_BODY_MAX).read_to_end(&mut bytes);
        said(&bytes)
    }
}

/// Why a request has no answer.
pub(super) enum Failed {
    /// What may pass: the text says what happened.
    Passing(String),
    /// What will not.
    Lasting(RegistryError),
}

impl From<RegistryError> for Failed {
    fn from(error: RegistryError) -> Self {
        Self::Lasting(error)
    }
}

/// Reports how much was read of what is sent, and gives up on a peer that takes it too slowly.
struct Reported<'p> {
    reader: Box<dyn Read + Send>,
    sent: u64,
    report: &'p dyn Fn(u64),
    pace: Pace,
    /// When the last piece was handed on, and how large it was.
    last: Option<(Instant, usize)>,
}

impl Read for Reported<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some((begun, count)) = self.last.take() {
            self.pace.passed(begun.elapsed(), count)?;
        }
        let count = self.reader.read(buffer)?;
        self.sent += count as u64;
        (self.report)(self.sent);
        self.last = Some((Instant::now(), count));
        Ok(count)
    }
}

/// Makes requests. One agent per host, since each has TLS settings of its own; connections are kept
/// between requests.
pub(super) struct Transport {
    settings: Settings,
    agents: Mutex<Agents>,
}

#[derive(Default)]
struct Agents {
    by_host: BTreeMap<(bool, String), Agent>,
    is_stopped: bool,
}

impl Transport {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, agents: Mutex::default() }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    fn agents(&self) -> MutexGuard<'_, Agents> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks off everything that is under way, from another thread.
    pub(super) fn stop(&self) {
        let mut agents = self.agents();
        agents.is_stopped = true;
        for agent in std::mem::take(&mut agents.by_host).into_values() {
            agent.shutdown();
        }
    }

    fn agent(&self, is_tls: bool, authority: &str) -> Result<Agent, RegistryError> {
        let mut agents = self.agents();
        if agents.is_stopped {
            return Err(RegistryError::Cancelled);
        }
        let key = (is_tls, authority.to_owned());
        if let Some(agent) = agents.by_host.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = self.settings.proxies.of(is_tls, authority);
        let proxy = proxy
            .map(Proxy::new)
            .transpose()
            .map_err(|_| RegistryError::Proxy { host: authority.to_owned() })?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .tls_config(tls::config(&self.settings.roots, &self.settings.host(authority))?)
            .timeout_connect(Some(CONNECT.min(self.settings.stall)))
            .timeout_per_read(Some(self.settings.stall))
            .timeout_per_write(Some(self.settings.stall))
            .timeout_recv_response(Some(self.settings.stall))
            .user_agent(concat!("builder/", env!("CARGO_PKG_VERSION")))
            // A proxy that packs a blob again would change what its digest is of.
            .accept_encoding("identity")
            .max_idle_connections_per_host(8)
            .build();
        let agent = Agent::new_with_config(config);
        agents.by_host.insert(key, agent.clone());
        Ok(agent)
    }

    /// Makes a request and follows redirects of GET and HEAD. `authorization` goes to the first
    /// host only. Any status is an answer.
    pub(super) fn request(
        &self,
        request: &Request<'_>,
        authorization: Option<&str>,
        doing: &str,
    ) -> Result<Response, Failed> {
        let mut request = request.clone();
        let origin = Address::parse(&request.url, doing)?;
        for _ in 0..=REDIRECTS_MAX {
            let at = Address::parse(&request.url, doing)?;
            let authorization = authorization.filter(|_| at.is_same_host(&origin));
            let response = self.once(&request, &at, authorization, doing)?;
            let is_redirect = matches!(response.status, 301 | 302 | 303 | 307 | 308);
            let follows = matches!(request.method, Method::GET | Method::HEAD);
            if !is_redirect || !follows {
                return Ok(response);
            }
            let Some(location) = response.header("location") else { return Ok(response) };
            let refused = |to: &str, why| RegistryError::Redirect {
                doing: doing.to_owned(),
                host: at.authority.clone(),
                to: to.to_owned(),
                why,
            };
            let Some(next) = resolve(&request.url, location) else {
                return Err(refused("no address", "it makes no sense").into());
            };
            let Ok(to) = Address::parse(&next, doing) else {
                let scheme = next.split(':').next().unwrap_or_default();
                return Err(refused(scheme, "its scheme is neither https nor http").into());
            };
            if let Some(why) = at.forbids(&to) {
                return Err(refused(&to.shown(), why).into());
            }
            request.url = next;
        }
        Err(RegistryError::Redirect {
            doing: doing.to_owned(),
            host: origin.authority.clone(),
            to: "another address".to_owned(),
            why: "there were too many",
        }
        .into())
    }

    fn once(
        &self,
        request: &Request<'_>,
        at: &Address,
        authorization: Option<&str>,
        doing: &str,
    ) -> Result<Response, Failed> {
        let agent = self.agent(at.is_tls, &at.authority)?;
        let mut built = http::Request::builder().method(request.method.clone()).uri(&request.url);
        for (name, value) in &request.headers {
            built = built.header(*name, value);
        }
        if let Some(authorization) = authorization {
            built = built.header("Authorization", authorization);
        }
        let makes_no_sense = |what: String| RegistryError::BadAnswer {
            doing: doing.to_owned(),
            host: at.authority.clone(),
            what,
        };
        let result = match request.payload {
            Payload::None
                if matches!(request.method, Method::POST | Method::PUT | Method::PATCH) =>
            {
                let built = built.body(&[][..]).map_err(|e| makes_no_sense(e.to_string()))?;
                agent.run(built)
            }
            Payload::None => {
                let built = built.body(()).map_err(|e| makes_no_sense(e.to_string()))?;
                agent.run(built)
            }
            Payload::Bytes(bytes) => {
                let built = built.body(bytes).map_err(|e| makes_no_sense(e.to_string()))?;
                agent.run(built)
            }
            Payload::Stream { open, length, report } => {
                let reader = open().map_err(|e| RegistryError::Local {
                    what: "what is to be sent".to_owned(),
                    why: e.to_string(),
                })?;
                let pace = Pace::new(self.settings.limit());
                let mut reader = Reported { reader, sent: 0, report, pace, last: None };
                let built = built
                    .header("Content-Length", length.to_string())
                    .body(SendBody::from_reader(&mut reader))
                    .map_err(|e| makes_no_sense(e.to_string()))?;
                let patience = PATIENCE.max(self.settings.stall);
                let built = agent
                    .configure_request(built)
                    .timeout_per_read(Some(patience))
                    .timeout_recv_response(Some(patience))
                    .build();
                agent.run(built)
            }
        };
        // Without its query, which may hold a token.
        let address = request.url.split('?').next().unwrap_or_default();
        let status = result.as_ref().ok().map(|response| response.status().as_u16());
        let is_authorized = authorization.is_some();
        debug!(method = %request.method, address, is_authorized, status, "request");
        match result {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                Ok(Response {
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    body: Paced::new(body.into_reader(), self.settings.limit()),
                    host: at.authority.clone(),
                    url: request.url.clone(),
                })
            }
            Err(error) => Err(self.failed(error, &at.authority, doing)),
        }
    }

    fn failed(&self, error: ureq::Error, host: &str, doing: &str) -> Failed {
        if self.agents().is_stopped {
            return RegistryError::Cancelled.into();
        }
        let connection = |what: String| RegistryError::Connection {
            doing: doing.to_owned(),
            host: host.to_owned(),
            what,
        };
        match error {
            ureq::Error::Io(e) if is_certificate(&e) && is_alert(&e) => {
                let is_shown = self.settings.host(host).keypair.is_some();
                let what = match is_shown {
                    true => "it refuses our certificate",
                    false => "it wants a certificate of ours",
                };
                connection(what.to_owned()).into()
            }
            ureq::Error::Io(e) if is_certificate(&e) || is_unknown_name(&e) => {
                connection(e.to_string()).into()
            }
            // Nothing listens on this machine: waiting would not change that.
            ureq::Error::Io(e)
                if e.kind() == io::ErrorKind::ConnectionRefused && is_loopback(host) =>
            {
                connection(e.to_string()).into()
            }
            ureq::Error::Io(e) => Failed::Passing(e.to_string()),
            ureq::Error::Timeout(_) => Failed::Passing("it does not answer in time".to_owned()),
            ureq::Error::ConnectionFailed => Failed::Passing("no connection".to_owned()),
            ureq::Error::BodyStalled => Failed::Passing("it sends nothing any more".to_owned()),
            ureq::Error::HostNotFound => connection("its name is not known".to_owned()).into(),
            ureq::Error::ConnectProxyFailed(what) => Failed::Passing(format!("the proxy: {what}")),
            ureq::Error::LargeResponseHeader(..) => {
                connection("its headers are too large".to_owned()).into()
            }
            ureq::Error::Protocol(what) => {
                connection(format!("it does not speak HTTP: {what}")).into()
            }
            ureq::Error::BadUri(_) => connection("its address makes no sense".to_owned()).into(),
            other => connection(other.to_string()).into(),
        }
    }

    /// Finds out whether a host speaks TLS: a handshake is tried, and any request will do.
    pub(super) fn speaks_tls(&self, authority: &str) -> Result<bool, RegistryError> {
        let agent = self.agent(true, authority)?;
        match agent.get(format!("https://{authority}/v2/")).call() {
            Ok(_) => Ok(true),
            Err(ureq::Error::Io(e)) if is_certificate(&e) => Ok(true),
            Err(ureq::Error::Io(e)) => Ok(!matches!(
                e.kind(),
                io::ErrorKind::InvalidData
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
            )),
            Err(ureq::Error::Rustls(_)) => Ok(false),
            Err(_) => Ok(true),
        }
    }
}

/// Whether a handshake failed over a certificate: rustls shows it in the text of its errors only,
/// unless one links it.
fn is_certificate(error: &io::Error) -> bool {
    let text = error.to_string();
    text.contains("certificate") || text.contains("Certificate")
}

/// Whether it is the peer who ended a handshake, rather than we: `BadCertificate`,
/// `CertificateRequired`.
fn is_alert(error: &io::Error) -> bool {
    error.to_string().contains("received fatal alert")
}

/// Whether a resolver says that there is no such name, rather than that it does not know. The
/// standard library has the C library's text only: glibc's or musl's.
fn is_unknown_name(error: &io::Error) -> bool {
    let text = error.to_string();
    text.contains("Name or service not known") || text.contains("Name does not resolve")
}

/// Scheme and host of an address.
pub(super) struct Address {
    pub(super) is_tls: bool,
    pub(super) authority: String,
}

impl Address {
    /// Takes an address apart; only http and https will do.
    pub(super) fn parse(url: &str, doing: &str) -> Result<Self, RegistryError> {
        let bad = || RegistryError::BadAnswer {
            doing: doing.to_owned(),
            host: "the registry".to_owned(),
            what: "an address that is none".to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        // Credentials in an address are never passed on.
        if authority.as_str().contains('@') {
            return Err(bad());
        }
        Ok(Self { is_tls, authority: authority.as_str().to_ascii_lowercase() })
    }

    /// Says why what this host answers may not lead to another; `None` where it may.
    pub(super) fn forbids(&self, to: &Self) -> Option<&'static str> {
        if self.is_tls && !to.is_tls {
            return Some("it leaves encryption");
        }
        (is_loopback(&to.authority) && !is_loopback(&self.authority))
            .then_some("it leads to this machine")
    }

    fn is_same_host(&self, other: &Self) -> bool {
        self.is_tls == other.is_tls && self.authority == other.authority
    }

    fn shown(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

/// Resolves a `Location` against the address that gave it; `None` where it makes no sense.
pub fn resolve(base: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().unwrap_or_default().trim();
    let scheme_end = location.find("://").filter(|end| {
        location[..*end].bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    if scheme_end.is_some() {
        return Some(location.to_owned());
    }
    let (scheme, rest) = base.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    if let Some(network) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{network}"));
    }
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let path = rest[authority.len()..].split('?').next()?;
    if location.is_empty() || location.starts_with('?') {
        return Some(format!("{scheme}://{authority}{path}{location}"));
    }
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    Some(format!("{scheme}://{authority}{directory}/{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_as_browsers_do() {
        let base = "https://a.example:5/v2/x/blobs/uploads/?q=1";
        for (location, want) in [
            ("/v2/y?d=1", "https://a.example:5/v2/y?d=1"),
            ("http://b.example/z#frag", "http://b.example/z"),
            ("//c.example/z", "https://c.example/z"),
            ("z", "https://a.example:5/v2/x/blobs/uploads/z"),
            ("?w", "https://a.example:5/v2/x/blobs/uploads/?w"),
            ("file:///etc/passwd", "file:///etc/passwd"),
        ] {
            assert_eq!(resolve(base, location).as_deref(), Some(want), "{location}");
        }
    }

    #[test]
    fn nothing_leads_out_of_tls_or_back_to_this_machine() {
        let address = |url: &str| Address::parse(url, "d").unwrap();
        for (from, to, is_allowed) in [
            ("https://a.example/x", "https://b.example/y", true),
            ("https://a.example/x", "http://a.example/x", false),
            ("http://a.example/x", "https://b.example/y", true),
            ("http://a.example/x", "http://b.example/y", true),
            ("https://a.example/x", "https://127.0.0.1/y", false),
            ("https://a.example/x", "https://localhost:5000/y", false),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:2/y", true),
            ("http://127.0.0.1:1/x", "https://b.example/y", true),
        ] {
            assert_eq!(address(from).forbids(&address(to)).is_none(), is_allowed, "{from} {to}");
        }
    }

    #[test]
    fn only_http_and_https_without_passwords_are_addresses() {
        assert!(Address::parse("https://a.example/x", "d").is_ok_and(|a| a.is_tls));
        assert!(Address::parse("http://a.example:80", "d").is_ok_and(|a| !a.is_tls));
        for bad in ["file:///etc/passwd", "ftp://a/b", "https://u:p@a/b", "/x", "", "https://"] {
            assert!(Address::parse(bad, "d").is_err(), "{bad}");
        }
    }
}
