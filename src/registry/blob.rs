//! A blob on its way here: one stream, however often its connection breaks.

use super::client::{Remote, pull_scope};
use super::pace::Paced;
use super::transport::{Request, Response};
use super::{RegistryError, is_loopback};
use crate::oci::Descriptor;
use std::fmt;
use std::io::{self, Read};
use ureq::BodyReader;
use ureq::http::Method;

/// How much is read at most to reach the place where a server starts over, per read.
const SKIP: usize = 64 << 10;

/// Reads a blob. After a break it goes on where it stopped, with `Range`. What a server is to send
/// within [`Settings::stall`](super::Settings) sets the count of tries back, so that only one that
/// gives next to nothing ends it.
///
/// An error is final: every further read gives it again.
pub struct BlobReader {
    remote: Remote,
    descriptor: Descriptor,
    doing: String,
    body: Option<Paced<BodyReader<'static>>>,
    offset: u64,
    place: usize,
    /// Tries since there was progress worth the name.
    tries: u32,
    /// The bytes that came since the last try.
    came: u64,
    /// Who sends at the moment.
    host: String,
    failed: Option<RegistryError>,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = &self.descriptor.digest;
        f.debug_struct("BlobReader").field("digest", digest).finish_non_exhaustive()
    }
}

impl BlobReader {
    pub(super) fn open(remote: Remote, descriptor: Descriptor) -> Result<Self, RegistryError> {
        let doing = format!("fetch {}", remote.named(&descriptor.digest.to_string()));
        let place = remote.first_place();
        let mut reader = Self {
            remote,
            descriptor,
            doing,
            body: None,
            offset: 0,
            place,
            tries: 0,
            came: 0,
            host: String::new(),
            failed: None,
        };
        reader.connect()?;
        Ok(reader)
    }

    /// Opens the stream at the place where it broke off, at the next mirror where one has not got
    /// it.
    fn connect(&mut self) -> Result<(), RegistryError> {
        loop {
            match self.connect_here() {
                Ok(()) => return Ok(()),
                Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
                Err(error) if self.place + 1 == self.remote.places.len() => {
                    return self.elsewhere(error);
                }
                Err(error) => {
                    self.remote.shared.notify(&format!("{error}; asking elsewhere"));
                    self.place += 1;
                }
            }
        }
    }

    fn connect_here(&mut self) -> Result<(), RegistryError> {
        let (host, path) = &self.remote.places[self.place];
        let shared = &self.remote.shared;
        let url = format!("{}/v2/{path}/blobs/{}", host.base(shared)?, self.descriptor.digest);
        let request = self.ranged(Request::new(Method::GET, url));
        let response = host.send(shared, &request, path, &[pull_scope(path)], &self.doing)?;
        match response.status {
            200 | 206 => self.begin(response),
            _ => {
                let what = format!("blob {}", self.descriptor.digest);
                Err(host.refusal(response, path, &what, &self.doing))
            }
        }
    }

    /// Tries the addresses that a foreign layer brings along: they are HTTPS, elsewhere, and get no
    /// credentials.
    fn elsewhere(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if !matches!(error, RegistryError::NotFound { .. }) {
            return Err(error);
        }
        for url in self.descriptor.urls.clone() {
            let authority = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
            if authority.is_none_or(is_loopback) {
                continue;
            }
            let request = self.ranged(Request::new(Method::GET, url));
            let shared = &self.remote.shared;
            let host = authority_of(&request.url);
            let response = shared.persist(&self.doing, &host, || {
                shared.transport.request(&request, None, &self.doing)
            });
            if let Ok(response) = response
                && matches!(response.status, 200 | 206)
            {
                return self.begin(response);
            }
        }
        Err(error)
    }

    fn ranged<'c>(&self, request: Request<'c>) -> Request<'c> {
        match self.offset {
            0 => request,
            offset => request.header("Range", format!("bytes={offset}-")),
        }
    }

    fn begin(&mut self, response: Response) -> Result<(), RegistryError> {
        let bad = |what: String| RegistryError::BadAnswer {
            doing: self.doing.clone(),
            host: response.host.clone(),
            what,
        };
        let start = match response.status {
            206 => {
                let range = response.header("content-range").unwrap_or_default();
                let start =
                    range.strip_prefix("bytes ").and_then(|r| r.split('-').next()?.parse().ok());
                start.filter(|start| *start == self.offset).ok_or_else(|| {
                    bad(format!("asked for bytes from {}, it sends `{range}`", self.offset))
                })?
            }
            _ => 0,
        };
        let length = response.header("content-length").and_then(|text| text.parse::<u64>().ok());
        let expected = self.descriptor.size.saturating_sub(start);
        if let Some(length) = length.filter(|length| *length != expected) {
            return Err(bad(format!("{length} bytes instead of {expected}")));
        }
        self.host.clone_from(&response.host);
        let mut body = response.body;
        // A server that knows no ranges starts over: what is here already is passed over.
        let mut skip = self.offset - start;
        let mut buffer = vec![0; if skip == 0 { 0 } else { SKIP }];
        while skip > 0 {
            let most = (skip.min(SKIP as u64)) as usize;
            match body.read(&mut buffer[..most]) {
                Ok(0) | Err(_) => break,
                Ok(count) => skip -= count as u64,
            }
        }
        self.body = (skip == 0).then_some(body);
        Ok(())
    }

    /// Notes a break and connects again.
    fn again(&mut self, what: &str) -> Result<(), RegistryError> {
        self.body = None;
        let shared = &self.remote.shared;
        shared.check_cancelled()?;
        self.came = 0;
        self.tries += 1;
        if self.tries >= shared.transport.settings().tries {
            return Err(RegistryError::Connection {
                doing: self.doing.clone(),
                host: self.host.clone(),
                what: what.to_owned(),
            });
        }
        shared.pause(&self.host, what, self.tries, None)?;
        self.connect()
    }

    fn read_on(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        let left = self.descriptor.size - self.offset;
        if left == 0 {
            return self.end();
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        let most = (buffer.len() as u64).min(left) as usize;
        loop {
            self.remote.shared.check_cancelled()?;
            let what = match &mut self.body {
                None => "it starts over, and breaks off before anything new".to_owned(),
                Some(body) => match body.read(&mut buffer[..most]) {
                    Ok(0) => "it broke off".to_owned(),
                    Ok(count) => {
                        self.advance(count as u64);
                        return Ok(count);
                    }
                    Err(e) => e.to_string(),
                },
            };
            self.again(&what)?;
        }
    }

    fn advance(&mut self, count: u64) {
        self.offset += count;
        self.came += count;
        if self.came >= self.remote.shared.transport.settings().limit().bytes() {
            self.tries = 0;
        }
    }

    /// Sees to it that nothing follows, which also gives the connection back.
    fn end(&mut self) -> Result<usize, RegistryError> {
        let Some(mut body) = self.body.take() else { return Ok(0) };
        match body.read(&mut [0]) {
            Ok(1..) => Err(RegistryError::BadAnswer {
                doing: self.doing.clone(),
                host: self.host.clone(),
                what: format!("more than the {} bytes of the blob", self.descriptor.size),
            }),
            _ => Ok(0),
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into_io());
        }
        self.read_on(buffer).map_err(|error| {
            self.failed = Some(error.clone());
            error.into_io()
        })
    }
}

fn authority_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or_default().to_owned()
}
