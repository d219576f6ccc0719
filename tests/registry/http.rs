//! A small HTTP/1.1 server: a handler per request, one thread per connection, and answers that can
//! go wrong on purpose.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a client sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The length of its body, in bytes.
    pub(super) fn length(&self) -> usize {
        self.header("content-length").map_or(0, |text| text.parse().unwrap())
    }
}

/// What it gets.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) fault: Fault,
}

impl Answer {
    pub(super) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn broken(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// What goes wrong while an answer is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// The connection is reset after so many bytes of the body.
    CutAt(usize),
    /// The connection is reset before anything is answered.
    Reset,
    /// Nothing is ever answered.
    Silence,
    /// Nothing more is sent after so many bytes of the body, and the connection stays.
    StallAt(usize),
    /// The body comes in pieces of so many bytes.
    Drip(usize),
    /// The body comes byte by byte, ten in a second.
    Trickle,
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// What becomes of a request's body before the handler sees it.
type Gate = dyn Fn(&Request) -> Option<usize> + Send + Sync;

/// A server; it ends with this.
pub(super) struct Http {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    handler: Box<Handler>,
    /// Returns after how many bytes of its body a request's connection is reset.
    gate: Box<Gate>,
    /// Told of what came until then.
    cut: Box<dyn Fn(&Request) + Send + Sync>,
    requests: Mutex<Vec<Request>>,
    open: Mutex<Vec<TcpStream>>,
    is_over: AtomicBool,
}

impl Http {
    pub(super) fn serve(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve_gated(|_| None, handler)
    }

    pub(super) fn serve_gated(
        gate: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve_cutting(gate, |_| {}, handler)
    }

    pub(super) fn serve_cutting(
        gate: impl Fn(&Request) -> Option<usize> + Send + Sync + 'static,
        cut: impl Fn(&Request) + Send + Sync + 'static,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            handler: Box::new(handler),
            gate: Box::new(gate),
            cut: Box::new(cut),
            requests: Mutex::default(),
            open: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if shared.is_over.load(Ordering::Acquire) {
                    return;
                }
                let state = Arc::clone(&shared);
                state.open.lock().unwrap().push(stream.try_clone().unwrap());
                // A client that goes away in the middle is none of the server's business.
                thread::spawn(move || drop(state.talk(stream)));
            }
        });
        Self { address, state }
    }

    /// `127.0.0.1:PORT`.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// `METHOD PATH` of each request so far.
    pub(super) fn seen(&self) -> Vec<String> {
        let requests = self.state.requests.lock().unwrap();
        requests.iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Forgets the requests so far.
    pub(super) fn forget(&self) {
        self.state.requests.lock().unwrap().clear();
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl State {
    fn talk(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut out = stream;
        // What Go's server says to a TLS handshake.
        if reader.fill_buf()?.first() == Some(&0x16) {
            return out.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nno TLS here\n");
        }
        loop {
            let Some(mut request) = read_head(&mut reader)? else { return Ok(()) };
            self.requests.lock().unwrap().push(request.clone());
            let length = request.length();
            if let Some(bytes) = (self.gate)(&request) {
                let mut part = vec![0; bytes.min(length)];
                reader.read_exact(&mut part)?;
                request.body = part;
                (self.cut)(&request);
                return reset(&out);
            }
            request.body = vec![0; length];
            reader.read_exact(&mut request.body)?;
            let answer = (self.handler)(&request);
            if !send(&mut out, &answer, request.method == "HEAD")? {
                return Ok(());
            }
        }
    }
}

/// Reads a request up to its body; `None` at the end of the connection.
pub(super) fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        let Some((name, value)) = line.split_once(':') else { return Ok(Some(request)) };
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Returns what comes before an answer's body.
pub(super) fn head_of(answer: &Answer) -> String {
    let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_length =
        answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !has_length && answer.status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    head
}

/// Sends an answer; returns whether the connection can be used again.
fn send(out: &mut TcpStream, answer: &Answer, is_head: bool) -> std::io::Result<bool> {
    match answer.fault {
        Fault::Reset => {
            reset(out)?;
            return Ok(false);
        }
        Fault::Silence => {
            // Until the client gives up, or the server ends.
            while out.read(&mut [0])? > 0 {}
            return Ok(false);
        }
        _ => {}
    }
    out.write_all(head_of(answer).as_bytes())?;
    if is_head {
        return Ok(true);
    }
    let body = &answer.body;
    match answer.fault {
        Fault::None | Fault::Reset | Fault::Silence => out.write_all(body)?,
        Fault::CutAt(at) if at < body.len() => {
            out.write_all(&body[..at])?;
            reset(out)?;
            return Ok(false);
        }
        Fault::StallAt(at) if at < body.len() => {
            out.write_all(&body[..at])?;
            // Until the client gives up, or the server ends.
            let mut rest = [0; 1];
            while out.read(&mut rest)? > 0 {}
            return Ok(false);
        }
        Fault::CutAt(_) | Fault::StallAt(_) => out.write_all(body)?,
        Fault::Trickle => {
            for byte in body {
                out.write_all(&[*byte])?;
                thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        Fault::Drip(size) => {
            for piece in body.chunks(size) {
                out.write_all(piece)?;
                out.flush()?;
                thread::yield_now();
            }
        }
    }
    Ok(true)
}

/// Ends a connection as a broken network does.
fn reset(stream: &TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO))?;
    stream.shutdown(std::net::Shutdown::Both)
}

/// Makes one request and reads the whole answer.
pub(super) fn ask(host: &str, request: &Request) -> Answer {
    let mut stream = TcpStream::connect(host).unwrap();
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        if !["connection", "content-length"].contains(&name.to_ascii_lowercase().as_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("Connection: close\r\nContent-Length: {}\r\n\r\n", request.body.len()));
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&request.body).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split_whitespace().nth(1).expect("a status").parse().unwrap();
    let mut answer = Answer::new(status);
    let (mut length, mut is_chunked) = (None, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "connection" => continue,
            "transfer-encoding" => {
                is_chunked = true;
                continue;
            }
            "content-length" => length = value.parse::<usize>().ok(),
            _ => {}
        }
        answer.headers.push((name.to_owned(), value));
    }
    if request.method == "HEAD" || status == 204 || status == 304 {
        return answer;
    }
    match length {
        _ if is_chunked => loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece).unwrap();
            if size == 0 {
                break;
            }
            answer.body.extend_from_slice(&piece[..size]);
        },
        Some(length) => {
            answer.body = vec![0; length];
            reader.read_exact(&mut answer.body).unwrap();
        }
        None => drop(reader.read_to_end(&mut answer.body).unwrap()),
    }
    answer
}
