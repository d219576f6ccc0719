//! A proxy in front of a registry, which breaks what a test tells it to.

use super::http::{Answer, Fault, Http, Request, ask};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the proxy does to a request.
#[derive(Debug, Clone)]
pub(super) enum Do {
    /// Carries it.
    Carry,
    /// Carries it, and breaks the answer.
    Break(Fault),
    /// Carries it, and changes a byte in the middle of the answer.
    Corrupt,
    /// Carries it, and leaves out the end of the answer, with a length that fits.
    Shorten,
    /// Carries it without one of its headers.
    Without(&'static str),
    /// Answers by itself.
    Answer(Answer),
}

/// Starts a proxy in front of `host`. `rule` sees each request with its number among those of the
/// same method and path, from 1.
pub(super) fn before(
    host: &str,
    rule: impl Fn(&Request, usize) -> Do + Send + Sync + 'static,
) -> Http {
    before_gated(host, |_, _| None, rule)
}

/// As [`before`]; `gate` returns after how many bytes of its body a request is cut off. What came
/// until then is not carried.
pub(super) fn before_gated(
    host: &str,
    gate: impl Fn(&Request, usize) -> Option<usize> + Send + Sync + 'static,
    rule: impl Fn(&Request, usize) -> Do + Send + Sync + 'static,
) -> Http {
    let (host, counts, gated) = (host.to_owned(), Counts::default(), Counts::default());
    let gate = move |request: &Request| gate(request, gated.next(request));
    Http::serve_gated(gate, move |request| {
        let number = counts.next(request);
        let rule = rule(request, number);
        if let Do::Answer(answer) = rule {
            return answer;
        }
        let mut carried = request.clone();
        if let Do::Without(name) = rule {
            carried.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        }
        let mut answer = ask(&host, &carried);
        match rule {
            Do::Break(fault) => answer.fault = fault,
            Do::Corrupt if !answer.body.is_empty() => {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 0x20;
            }
            Do::Shorten => {
                answer.body.pop();
                answer.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-length"));
            }
            _ => {}
        }
        answer
    })
}

/// Starts a proxy as companies have them: it takes CONNECT, wherever to, and leads to `host`. Returns its
/// address and what it was asked for.
pub(super) fn tunnel(host: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, host) = (Arc::new(Mutex::new(Vec::new())), host.to_owned());
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut client, host, seen) = (stream.unwrap(), host.clone(), Arc::clone(&seen));
            thread::spawn(move || -> std::io::Result<()> {
                // The client waits for the answer, so nothing of what it sends later is read here.
                let mut reader = BufReader::new(client.try_clone()?);
                let mut first = String::new();
                reader.read_line(&mut first)?;
                seen.lock().unwrap().push(first.trim_end().to_owned());
                let mut line = String::new();
                while reader.read_line(&mut line)? > 2 {
                    line.clear();
                }
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                let mut server = TcpStream::connect(host)?;
                let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
                thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
                std::io::copy(&mut server, &mut client).map(drop)
            });
        }
    });
    (address, asked)
}

/// Counts requests of the same method and path.
#[derive(Default)]
pub(super) struct Counts(Mutex<std::collections::BTreeMap<String, usize>>);

impl Counts {
    pub(super) fn next(&self, request: &Request) -> usize {
        let mut place = request.path.split('?').next().unwrap();
        // Uploads of one blob are at other addresses each time.
        if let Some((_, digest)) = request.path.split_once("digest=") {
            place = digest;
        }
        let key = format!("{} {place}", request.method);
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(key).or_default();
        *count += 1;
        *count
    }
}

/// Whether a request is for a blob.
pub(super) fn is_blob(request: &Request) -> bool {
    request.method == "GET" && request.path.contains("/blobs/sha256:")
}
