//! ADD of an http(s) address: download, revalidate, verify.
//!
//! Downloads are kept by content in a directory that the caller names, beside what the server said
//! of them by address:
//!
//! ```text
//! sha256-<hex>        the bytes, mode 0600, mtime as the server gave it
//! url-<hex>.json      of the address: its ETag, Last-Modified and the digest of the bytes
//! ```
//!
//! Both are replaced by rename, and bytes are hashed again before they are used, so a torn or
//! damaged file is a download, never a wrong file.
//!
//! Source: BuildKit, source/http; RFC 9110, "Conditional Requests".

use super::{Access, RemoteError};
use crate::copy::FileTime;
use crate::dockerfile::address::Address;
use crate::oci::Digest;
use crate::registry::resolve_location;
use crate::sys::cancel::{Cancel, Stoppable};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use tracing::debug;

/// How long a server may say nothing.
const STALL: Duration = Duration::from_mins(1);

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(30);

/// Interval at which a wait for the server looks at the cancel flag.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Redirects followed; Go's client follows as many.
const REDIRECTS: u32 = 10;

/// Decoded bytes that any encoded body may have.
const DECODED_MAX: u64 = 256 << 20;

/// Decoded bytes beyond that for each byte received.
const DECODED_RATIO: u64 = 100;

/// How to download.
#[derive(Debug, Clone)]
pub struct HttpOptions<'a> {
    /// Name of the file; see [`file_name_of`].
    pub file_name: &'a str,
    /// Credentials of the build.
    pub access: &'a Access,
    /// `--checksum`.
    pub checksum: Option<Digest>,
    /// Directory for downloads that later builds may revalidate; made if missing.
    pub cache: &'a Path,
    /// An existing directory of the session that gets the file and nothing else.
    pub into: &'a Path,
}

/// A file that was downloaded, or was here already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The directory that holds it: to be opened as a source, and the file selected with
    /// [`exact`](crate::context::SelectOptions::exact).
    pub dir: PathBuf,
    /// Its name there.
    pub name: String,
    /// The sha256 of its bytes.
    pub digest: Digest,
    /// Bytes in it.
    pub size: u64,
    /// Its time: Last-Modified, or the beginning of 1970.
    pub mtime: FileTime,
    /// True when no byte had to be transferred.
    pub is_cached: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
    digest: Digest,
}

/// Returns the name that a file at `url` gets: the last part of its path, decoded, else
/// `__unnamed__`.
pub fn file_name_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut bytes = last.bytes();
    let mut name = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digits = (byte == b'%').then(|| {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            Some((digit(ahead.next())? * 16 + digit(ahead.next())?) as u8)
        });
        match digits.flatten() {
            Some(decoded) => {
                name.push(decoded);
                bytes = ahead;
            }
            None => name.push(byte),
        }
    }
    let name = String::from_utf8_lossy(&name).into_owned();
    // An escaped slash ends the name as a plain one does.
    match name.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => "__unnamed__".to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RemoteError {
    let path = path.to_owned();
    move |source| RemoteError::Io { doing, path, source }
}

/// Parses an HTTP date; anything else counts as none.
fn parse_date(text: Option<&str>) -> FileTime {
    let seconds = text
        .and_then(|text| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok())
        .map_or(0, jiff::Timestamp::as_second);
    FileTime { seconds, nanoseconds: 0 }
}

/// Downloads `url`, unless what is here already is asked for or is still current.
///
/// With a checksum that is here, the server is not asked. `progress` hears the bytes so far and the
/// total, if the server sent one. `Content-Encoding: gzip` is undone, as Go's client does, and
/// digests are of the decoded bytes. No redirect carries credentials on.
///
/// # Errors
///
/// [`RemoteError`]; then nothing is in [`HttpOptions::into`].
pub fn download(
    address: &Address,
    options: &HttpOptions<'_>,
    progress: &mut dyn FnMut(u64, Option<u64>),
    cancel: &Cancel,
) -> Result<Download, RemoteError> {
    let url = address.text.as_str();
    fs::create_dir_all(options.cache).map_err(failed("create", options.cache))?;
    let cache = Cache { dir: options.cache };
    let known = cache.known(url).filter(|known| options.checksum.is_none_or(|c| c == known.digest));
    let body = known.as_ref().and_then(|known| Some((known, cache.body(&known.digest, cancel)?)));
    if cancel.is_cancelled() {
        return Err(RemoteError::Cancelled);
    }
    if let (Some((known, body)), Some(_)) = (&body, options.checksum) {
        return place(body, known, options, true, cancel);
    }
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        // Followed by `fetch`: ureq panics over a redirect whose chunked body is cut off.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(STALL))
        .timeout_recv_response(Some(STALL))
        .user_agent(concat!("builder/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("gzip")
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let known = body.as_ref().map(|(known, _)| *known);
    let exchange = || cache.fetch(&agent, address, known, options, progress, cancel);
    let fetched = until_cancelled(&agent, cancel, exchange);
    debug!(address = url, is_known = known.is_some(), is_ok = fetched.is_ok(), "download");
    if cancel.is_cancelled() {
        return Err(RemoteError::Cancelled);
    }
    match (fetched?, &body) {
        (Some((known, file)), _) => {
            if let Some(expected) = options.checksum
                && expected != known.digest
            {
                let url = url.to_owned();
                return Err(RemoteError::Checksum { url, expected, actual: known.digest });
            }
            let body = cache.keep(url, &known, file)?;
            place(&body, &known, options, false, cancel)
        }
        (None, Some((known, body))) => place(body, known, options, true, cancel),
        (None, None) => Err(RemoteError::Status { url: url.to_owned(), status: NOT_MODIFIED }),
    }
}

/// The status of an answer that what is known is current.
const NOT_MODIFIED: u16 = 304;

/// Calls `exchange`, whose waits for the server end when it is cancelled.
fn until_cancelled<T>(agent: &ureq::Agent, cancel: &Cancel, exchange: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (at_end, end) = std::sync::mpsc::channel::<()>();
        let watch = move || {
            while end.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if cancel.is_cancelled() {
                    agent.clone().shutdown();
                    return;
                }
            }
        };
        // Without a thread a wait ends with the server's next byte, or its silence.
        let _ = std::thread::Builder::new().name("download".to_owned()).spawn_scoped(scope, watch);
        let _at_end = at_end;
        exchange()
    })
}

/// Puts a kept file where the session wants it.
fn place(
    body: &Path,
    known: &Known,
    options: &HttpOptions<'_>,
    is_cached: bool,
    cancel: &Cancel,
) -> Result<Download, RemoteError> {
    let target = options.into.join(options.file_name);
    // A link would share its time with every other address of the same content.
    let mut from = File::open(body).map_err(failed("open", body))?;
    let mut file = File::create(&target).map_err(failed("create", &target))?;
    cancel.copy(&mut from, &mut file).map_err(|e| match cancel.is_cancelled() {
        true => RemoteError::Cancelled,
        false => failed("write", &target)(e),
    })?;
    let mtime = parse_date(known.last_modified.as_deref());
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600))
        .and_then(|()| {
            let time = rustix::fs::Timespec { tv_sec: mtime.seconds, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(&file, &times)
        })
        .map_err(|e| failed("set the time of", &target)(e.into()))?;
    let size = file.metadata().map_err(failed("look at", &target))?.len();
    Ok(Download {
        dir: options.into.to_owned(),
        name: options.file_name.to_owned(),
        digest: known.digest,
        size,
        mtime,
        is_cached,
    })
}

/// Counts the bytes that were read.
struct Counted<'a, R> {
    inner: R,
    count: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

struct Cache<'a> {
    dir: &'a Path,
}

impl Cache<'_> {
    fn url_path(&self, url: &str) -> PathBuf {
        self.dir.join(format!("url-{}.json", blake3::hash(url.as_bytes()).to_hex()))
    }

    fn body_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("sha256-{}", digest.to_hex()))
    }

    fn known(&self, url: &str) -> Option<Known> {
        serde_json::from_slice(&fs::read(self.url_path(url)).ok()?).ok()
    }

    /// Returns the kept bytes of that digest, if they still have it; `None` too when cancelled.
    fn body(&self, digest: &Digest, cancel: &Cancel) -> Option<PathBuf> {
        let path = self.body_path(digest);
        let mut file = Stoppable::new(File::open(&path).ok()?, cancel);
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer).ok()? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        (Digest::from_bytes(hasher.finalize().into()) == *digest).then_some(path)
    }

    /// Asks the server; `None` where what is known is current.
    fn fetch(
        &self,
        agent: &ureq::Agent,
        address: &Address,
        known: Option<&Known>,
        options: &HttpOptions<'_>,
        progress: &mut dyn FnMut(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<Option<(Known, tempfile::NamedTempFile)>, RemoteError> {
        let url = address.text.as_str();
        let failed = |e| RemoteError::Http { url: url.to_owned(), source: Box::new(e) };
        let mut at = url.to_owned();
        let mut authorization = options.access.http_header(address);
        let mut redirects = 0;
        let mut response = loop {
            let mut request = agent.get(&at);
            if let Some(header) = authorization.take() {
                request = request.header("Authorization", header);
            }
            if let Some(known) = known {
                if let Some(etag) = &known.etag {
                    request = request.header("If-None-Match", etag);
                } else if let Some(time) = &known.last_modified {
                    request = request.header("If-Modified-Since", time);
                }
            }
            let response = request.call().map_err(failed)?;
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            match location.and_then(|location| resolve_location(&at, location)) {
                Some(next) if is_redirect => at = next,
                _ => break response,
            }
            redirects += 1;
            if redirects > REDIRECTS {
                return Err(failed(ureq::Error::TooManyRedirects));
            }
        };
        let status = response.status().as_u16();
        if status == NOT_MODIFIED && known.is_some() {
            return Ok(None);
        }
        if !(200..300).contains(&status) {
            return Err(RemoteError::Status { url: url.to_owned(), status });
        }
        let header = |name| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (etag, last_modified) = (header("etag"), header("last-modified"));
        let total = header("content-length").and_then(|length| length.parse().ok());
        let is_gzip = header("content-encoding").is_some_and(|it| it.eq_ignore_ascii_case("gzip"));
        let received = Cell::new(0);
        let body = Counted { inner: response.body_mut().as_reader(), count: &received };
        let limit = || match is_gzip {
            true => DECODED_MAX.saturating_add(received.get().saturating_mul(DECODED_RATIO)),
            false => u64::MAX,
        };
        let (digest, file) = match is_gzip {
            true => {
                let mut body = flate2::read::MultiGzDecoder::new(body);
                self.receive(url, &mut body, &limit, None, progress, cancel)?
            }
            false => {
                let mut body = body;
                self.receive(url, &mut body, &limit, total, progress, cancel)?
            }
        };
        Ok(Some((Known { url: url.to_owned(), etag, last_modified, digest }, file)))
    }

    fn receive(
        &self,
        url: &str,
        body: &mut dyn Read,
        limit: &dyn Fn() -> u64,
        total: Option<u64>,
        progress: &mut dyn FnMut(u64, Option<u64>),
        cancel: &Cancel,
    ) -> Result<(Digest, tempfile::NamedTempFile), RemoteError> {
        let mut file = tempfile::Builder::new()
            .prefix(".download-")
            .tempfile_in(self.dir)
            .map_err(failed("create a file in", self.dir))?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut done = 0;
        loop {
            if cancel.is_cancelled() {
                return Err(RemoteError::Cancelled);
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let source = Box::new(ureq::Error::Io(e));
                    return Err(RemoteError::Http { url: url.to_owned(), source });
                }
            };
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(failed("write to", self.dir))?;
            done += count as u64;
            let limit = limit();
            if done > limit {
                return Err(RemoteError::TooLarge { url: url.to_owned(), limit });
            }
            progress(done, total);
        }
        Ok((Digest::from_bytes(hasher.finalize().into()), file))
    }

    fn keep(
        &self,
        url: &str,
        known: &Known,
        file: tempfile::NamedTempFile,
    ) -> Result<PathBuf, RemoteError> {
        let body = self.body_path(&known.digest);
        file.persist(&body).map_err(|e| failed("write", &body)(e.error))?;
        let json = serde_json::to_vec(known).expect("strings and digests can be written as JSON");
        let path = self.url_path(url);
        let mut file = tempfile::Builder::new()
            .prefix(".url-")
            .tempfile_in(self.dir)
            .map_err(failed("create a file in", self.dir))?;
        file.write_all(&json).map_err(failed("write to", self.dir))?;
        file.persist(&path).map_err(|e| failed("write", &path)(e.error))?;
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::os::unix::fs::MetadataExt as _;

    /// A server that gives each answer to one request, and the requests' texts at the end.
    fn serve(answers: Vec<String>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut text = String::new();
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap();
                    if line.is_empty() {
                        break;
                    }
                    text.push_str(&line.to_lowercase());
                    text.push('\n');
                }
                requests.push(text);
                stream.write_all(answer.as_bytes()).unwrap();
            }
            requests
        });
        (url, thread)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        )
    }

    fn get(
        url: &str,
        cache: &Path,
        checksum: Option<Digest>,
    ) -> (Result<Download, RemoteError>, tempfile::TempDir) {
        let into = tempfile::tempdir().unwrap();
        let options = HttpOptions {
            file_name: "f",
            access: &Access::default(),
            checksum,
            cache,
            into: into.path(),
        };
        let result = download(&url.into(), &options, &mut |_, _| {}, &Cancel::new());
        (result, into)
    }

    /// Downloads from a server that sends `start` and nothing more, and cancels it then.
    fn interrupted(start: &str) -> RemoteError {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/f", listener.local_addr().unwrap());
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            let (cancel, into) = (&cancel, dir.path().join("into"));
            fs::create_dir(&into).unwrap();
            let cache = dir.path().join("cache");
            let client = scope.spawn(move || {
                let options = HttpOptions {
                    file_name: "f",
                    access: &Access::default(),
                    checksum: None,
                    cache: &cache,
                    into: &into,
                };
                download(&url.as_str().into(), &options, &mut |_, _| {}, cancel).unwrap_err()
            });
            let (mut stream, _) = listener.accept().unwrap();
            let asked = stream.read(&mut [0; 4096]).unwrap();
            assert!(asked > 0);
            stream.write_all(start.as_bytes()).unwrap();
            cancel.cancel();
            // The connection stays open until the client has gone.
            client.join().unwrap()
        })
    }

    #[test]
    fn redirects_are_followed_however_their_bodies_end() {
        for (redirect, want) in [
            (answer("302 Found", "Location: /b\r\n", "moved"), Some("hello")),
            (answer("308 x", "Location: b?c#d\r\n", ""), Some("hello")),
            // The body is cut off after its last chunk.
            (
                "HTTP/1.1 301 x\r\nLocation: /b\r\nTransfer-Encoding: chunked\r\n\r\n0;x\r\n"
                    .to_owned(),
                Some("hello"),
            ),
            (answer("302 Found", "", ""), None),
            (answer("302 Found", "Location: file:///etc/passwd\r\n", ""), None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (url, server) = serve(vec![redirect.clone(), answer("200 OK", "", "hello")]);
            let (result, into) = get(&url, dir.path(), None);
            match want {
                Some(text) => {
                    assert_eq!(fs::read_to_string(into.path().join("f")).unwrap(), text);
                    assert_eq!(server.join().unwrap().len(), 2, "{redirect}");
                }
                None => assert!(result.is_err(), "{redirect}"),
            }
        }
    }

    #[test]
    fn redirects_without_an_end_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let answers = vec![answer("302 Found", "Location: /again\r\n", ""); 11];
        let (url, server) = serve(answers);
        let error = get(&url, dir.path(), None).0.unwrap_err();
        assert!(matches!(error, RemoteError::Http { .. }), "{error:?}");
        assert_eq!(server.join().unwrap().len(), 11);
    }

    #[test]
    fn a_silent_server_does_not_delay_an_interruption() {
        for start in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome"] {
            assert!(matches!(interrupted(start), RemoteError::Cancelled), "{start:?}");
        }
    }

    #[test]
    fn names_come_from_the_path() {
        const CASES: [(&str, &str); 9] = [
            ("http://h/a/f.txt", "f.txt"),
            ("http://h/f?x=1", "f"),
            ("http://h/f%20g#y", "f g"),
            ("http://h/d/", "d"),
            ("http://h/", "__unnamed__"),
            ("http://h", "__unnamed__"),
            ("http://h/..", "__unnamed__"),
            ("http://h/a%2Fb", "b"),
            ("http://h/100%", "100%"),
        ];
        for (url, name) in CASES {
            assert_eq!(file_name_of(url), name, "{url}");
        }
    }

    #[test]
    fn a_file_is_downloaded_once_while_its_etag_holds() {
        let cache = tempfile::tempdir().unwrap();
        let date = "Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\nETag: \"v1\"\r\n";
        let (url, server) = serve(vec![
            answer("200 OK", date, "one"),
            answer("304 Not Modified", "", ""),
            answer("200 OK", "", "two"),
        ]);
        let url = format!("{url}/f");
        let (first, into) = get(&url, cache.path(), None);
        let first = first.unwrap();
        assert_eq!((first.size, first.is_cached), (3, false));
        assert_eq!(first.digest, Digest::of(b"one"));
        let facts = fs::metadata(into.path().join("f")).unwrap();
        assert_eq!((facts.mode() & 0o7777, facts.mtime()), (0o600, 1_577_836_800));
        let second = get(&url, cache.path(), None).0.unwrap();
        assert!(second.is_cached);
        assert_eq!((second.digest, second.mtime), (first.digest, first.mtime));
        // Damaged bytes are downloaded again, without asking whether they changed.
        let body = cache.path().join(format!("sha256-{}", first.digest.to_hex()));
        fs::write(body, "bad").unwrap();
        let third = get(&url, cache.path(), None).0.unwrap();
        assert_eq!((third.digest, third.mtime.seconds), (Digest::of(b"two"), 0));
        let requests = server.join().unwrap();
        assert!(!requests[0].contains("if-none-match"));
        assert!(requests[1].contains("if-none-match: \"v1\""), "{}", requests[1]);
        assert!(!requests[2].contains("if-none-match"));
    }

    #[test]
    fn a_checksum_is_verified_and_saves_the_request() {
        let cache = tempfile::tempdir().unwrap();
        let (url, server) = serve(vec![answer("200 OK", "", "one"), answer("200 OK", "", "one")]);
        let url = format!("{url}/f");
        let wrong = get(&url, cache.path(), Some(Digest::of(b"other"))).0;
        assert!(matches!(wrong, Err(RemoteError::Checksum { .. })), "{wrong:?}");
        assert!(!get(&url, cache.path(), Some(Digest::of(b"one"))).0.unwrap().is_cached);
        assert!(get(&url, cache.path(), Some(Digest::of(b"one"))).0.unwrap().is_cached);
        assert_eq!(server.join().unwrap().len(), 2);
    }

    #[test]
    fn errors_of_the_server_are_errors() {
        let cache = tempfile::tempdir().unwrap();
        let (url, server) = serve(vec![answer("404 Not Found", "", "no")]);
        let result = get(&format!("{}/f", url.replace("//", "//u:secret@")), cache.path(), None).0;
        match result {
            Err(RemoteError::Status { url, status: 404 }) => {
                assert!(!url.contains("secret"), "{url}");
            }
            other => panic!("{other:?}"),
        }
        server.join().unwrap();
        let (url, server) = serve(vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".into()]);
        let result = get(&format!("{url}/f"), cache.path(), None).0;
        assert!(matches!(result, Err(RemoteError::Http { .. })), "{result:?}");
        server.join().unwrap();
    }
}
