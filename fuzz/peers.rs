// What another process sends: registries and other servers, a sandbox, a command in it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use builder::context::remote::{Access, HttpOptions, download};
use builder::oci::Digest;
use builder::registry::{Client, Keychain, Repository, Settings};
use builder::sandbox::probe;
use builder::sys::cancel::Cancel;

/// Ends an answer of a server.
const END: u8 = 0xff;

/// Answers beyond this count are left out.
const ANSWERS_MAX: usize = 8;

/// A message of the sandbox's protocol: requests, reports, orders.
pub(crate) fn message(data: &[u8]) {
    probe::message(data);
}

/// What a command sends to its ssh agent, then after 0xff what the agent answers.
pub(crate) fn ssh_agent(data: &[u8]) {
    let split = data.iter().position(|&b| b == END).unwrap_or(data.len());
    probe::ssh_agent(&data[..split], data.get(split + 1..).unwrap_or_default());
}

/// A system call of a command: architecture, number, arguments.
pub(crate) fn call(data: &[u8]) {
    let mut words = data.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    let mut next = || words.next().unwrap_or(0);
    let first = next();
    let arch = match first >> 32 {
        0 => 0xc000_003e,
        1 => 0x4000_0003,
        2 => 0xc000_00b7,
        other => other as u32,
    };
    probe::call(arch, first as u32, std::array::from_fn(|_| next()));
}

/// A file that a step executes.
pub(crate) fn program(data: &[u8]) {
    probe::program(data);
}

/// The stack of a process that executes a program: how many words a script puts in front, how long
/// what it is called by is, that, and the memory.
pub(crate) fn vectors(data: &[u8]) {
    let [words, length, rest @ ..] = data else { return };
    let (called, memory) = rest.split_at(rest.len().min(usize::from(*length)));
    let words = (*words % 8).checked_sub(1);
    let arguments = words.map(|count| vec![called.to_vec(); usize::from(count) + 1]);
    probe::vectors(memory, called, arguments.as_deref());
}

/// `USER` of an image, its `/etc/passwd` and its `/etc/group`, with NUL between them.
pub(crate) fn user(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default();
    probe::user(next(), next(), next());
}

/// A seccomp profile, and a call that is held against it.
pub(crate) fn profile(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for (number, argument) in [(0, 0), (62, u64::MAX), (435, 9), (u32::MAX >> 2, 1 << 32)] {
        probe::profile(&text, number, argument);
    }
}

/// A server on loopback that gives one answer for each connection, whatever is asked.
struct Server {
    address: String,
    answers: mpsc::Sender<Vec<u8>>,
    /// Dropped when the server is to forget what was not asked for.
    forget: mpsc::Sender<mpsc::Sender<()>>,
}

fn server() -> &'static Mutex<Server> {
    static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
    SERVER.get_or_init(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (answers, queue) = mpsc::channel::<Vec<u8>>();
        let (forget, forgotten) = mpsc::channel::<mpsc::Sender<()>>();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                while let Ok(done) = forgotten.try_recv() {
                    while queue.try_recv().is_ok() {}
                    let _ = done.send(());
                }
                answer(stream, &queue.try_recv().unwrap_or_default());
            }
        });
        Mutex::new(Server { address, answers, forget })
    })
}

fn answer(mut stream: TcpStream, bytes: &[u8]) {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => asked.extend_from_slice(&buffer[..count]),
        }
    }
    let _ = stream.write_all(bytes);
    // The port is free again at once, which the thousands of connections of a fuzzer need. Bytes that arrived are
    // read all the same.
    let _ = rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO));
}

/// Splits an input into answers. `PORT` stands for the server's address, `DIGEST` for the digest of the body of the
/// answer that follows.
fn answers(data: &[u8], address: &str) -> Vec<Vec<u8>> {
    let mut answers: Vec<Vec<u8>> = Vec::new();
    let parts: Vec<&[u8]> = data.split(|&b| b == END).take(ANSWERS_MAX).collect();
    let mut digest = Digest::of(b"").to_string();
    for part in parts.into_iter().rev() {
        let mut text = part.to_vec();
        for (name, value) in [(&b"PORT"[..], address), (b"DIGEST", &digest)] {
            while let Some(at) = text.windows(name.len()).position(|found| found == name) {
                text.splice(at..at + name.len(), value.bytes());
            }
        }
        let body = text.windows(4).position(|end| end == b"\r\n\r\n").map_or(0, |at| at + 4);
        digest = Digest::of(&text[body..]).to_string();
        answers.push(text);
    }
    answers.reverse();
    answers
}

/// Gives `client` a server with these answers.
fn with_server(data: &[u8], client: impl FnOnce(&str)) {
    let server = server().lock().unwrap_or_else(PoisonError::into_inner);
    for answer in answers(data, &server.address) {
        let _ = server.answers.send(answer);
    }
    client(&server.address);
    let (done, is_done) = mpsc::channel();
    let _ = server.forget.send(done);
    // Any connection makes it look.
    drop(TcpStream::connect(&server.address));
    let _ = is_done.recv();
}

/// The answers of a registry to a lookup, a manifest and a blob.
pub(crate) fn registry(data: &[u8]) {
    with_server(data, |address| {
        let mut settings = Settings::default();
        (settings.stall, settings.tries) = (Duration::from_secs(1), 2);
        settings.pause = Duration::ZERO;
        let plain = format!("[registry.\"{address}\"]\nhttp = true\n");
        settings.add(&plain, Path::new("/registries.toml")).expect("settings for the test");
        let cancel = Cancel::new();
        let waits = cancel.clone();
        // A server may ask for minutes of patience: they are not waited for here.
        let notify = move |text: &str| {
            if !text.ends_with("again in 0.0 s") {
                waits.cancel();
            }
        };
        let client = Client::new(settings, Keychain::default(), &cancel, Box::new(notify));
        let repository = Repository { host: address.to_owned(), path: "library/app".to_owned() };
        let remote = client.remote(&repository);
        let Ok(descriptor) = remote.resolve("latest", "application/json") else { return };
        if let Ok(bytes) = remote.manifest(&descriptor.digest, "application/json") {
            assert_eq!(Digest::of(&bytes), descriptor.digest);
        }
        if let Ok(blob) = remote.blob(&descriptor) {
            let mut read = 0;
            let mut buffer = [0; 4096];
            let mut blob = blob;
            while let Ok(count @ 1..) = blob.read(&mut buffer) {
                read += count as u64;
            }
            assert!(read <= descriptor.size, "more than was announced");
        }
    });
}

/// The answers of a server to ADD of an address, the second time with what is known from the first.
pub(crate) fn downloaded(data: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let (cache, into) = (dir.path().join("cache"), dir.path().join("into"));
    std::fs::create_dir(&into).expect("a directory for the test");
    with_server(data, |address| {
        let url = builder::dockerfile::address::Address::parse(&format!("http://{address}/a/file"));
        for _ in 0..2 {
            let options = HttpOptions {
                file_name: "file",
                access: &Access::default(),
                checksum: None,
                cache: &cache,
                into: &into,
            };
            let mut largest = 0;
            let mut progress = |bytes, _| largest = bytes;
            if let Ok(file) = download(&url, &options, &mut progress, &Cancel::new()) {
                let bytes = std::fs::read(into.join("file")).expect("it was downloaded");
                assert_eq!(Digest::of(&bytes), file.digest);
            }
        }
    });
    let names = std::fs::read_dir(&into).expect("it is there").count();
    assert!(names <= 1, "more than the file");
}
