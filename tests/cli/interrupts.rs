//! The first signal ends a command, whatever it is busy with or waits for.
//!
//! What it is busy with has no end within the time of a test (a file of a tebibyte, a server that never answers, a
//! reader that never comes), so a test passes only if the signal ends it.

use crate::kit::running::{Running, Signal};
use crate::kit::wait::eventually;
use crate::kit::{Kit, Run};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// After this a test fails rather than hangs.
const LIMIT: Duration = Duration::from_mins(1);

/// Size of a file that no test reads to its end.
const ENDLESS: u64 = 1 << 40;

/// Bytes after which a command is surely reading that file: far more than it reads before.
const BUSY: u64 = 256 << 20;

/// Starts a command, sends it one signal when it is busy, and expects its end.
#[track_caller]
fn ends_at_first(run: Run, what: &str, is_busy: impl Fn(u32) -> bool) {
    let mut running = Running::start(run);
    let pid = running.child.id();
    eventually(what, || {
        assert_eq!(running.child.try_wait().unwrap(), None, "ended before: {what}");
        is_busy(pid)
    });
    running.signal(Signal::TERM);
    let mut status = None;
    eventually("its end", || {
        status = running.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(143), "{what}");
}

/// Bytes that a process has read so far.
fn bytes_read(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether a process has a file open whose path contains `part`.
fn has_open(pid: u32, part: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let paths = files.filter_map(|file| fs::read_link(file.path()).ok());
    paths.into_iter().any(|path| path.to_string_lossy().contains(part))
}

fn endless_file(path: &Path) {
    fs::File::create(path).unwrap().set_len(ENDLESS).unwrap();
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn hashing_a_file_of_the_context() {
    let kit = Kit::new();
    endless_file(&kit.path("big"));
    kit.dockerfile("FROM scratch\nCOPY big /\n");
    ends_at_first(kit.build(), "it reads the file", |pid| bytes_read(pid) > BUSY);
}

#[test]
fn hashing_a_file_that_a_step_made() {
    let kit = Kit::new();
    kit.dockerfile("FROM fixture/base\nRUN truncate -s 1099511627776 /big\n");
    ends_at_first(kit.build(), "it reads the file", |pid| bytes_read(pid) > BUSY);
}

#[test]
fn copying_and_hashing_a_blob_of_a_layout() {
    let kit = Kit::new();
    let layout = kit.out("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let hex = "0".repeat(64);
    endless_file(&blobs.join(&hex));
    let put = |name: &str, document: String| {
        let digest = builder::oci::Digest::of(document.as_bytes());
        fs::write(blobs.join(digest.to_hex()), &document).unwrap();
        let media_type = format!("application/vnd.oci.image.{name}+json");
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, document.len())
    };
    let config = put(
        "config.v1",
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{hex}"]}}}}"#
        ),
    );
    let manifest = put(
        "manifest.v1",
        format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{hex}","size":{ENDLESS}}}]}}"#
        ),
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#);
    fs::write(layout.join("index.json"), index).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    // Zeros are the end of a tar, so unpacking is over at once: it is hashing that goes on.
    kit.dockerfile("FROM base\nCOPY Dockerfile /\n");
    let base = format!("--build-context=base=oci-layout://{}", layout.display());
    ends_at_first(kit.build().arg(base), "it reads the blob", |pid| bytes_read(pid) > BUSY);
}

/// A server that answers a first request with `start`, and then with `more` for as long as it is read.
fn with_server(start: &'static str, more: &'static [u8], client: impl FnOnce(&str, &dyn Fn())) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (met, is_met) = channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
            stream.write_all(start.as_bytes()).unwrap();
            met.send(()).unwrap();
            while !more.is_empty() && stream.write_all(more).is_ok() {}
            // The client's end is what closes the connection.
            matches!(stream.read(&mut [0; 4096]), Ok(0) | Err(_))
        });
        client(&address, &|| is_met.recv_timeout(LIMIT).unwrap());
        assert!(server.join().unwrap(), "a process of the command's is still connected");
    });
}

#[test]
fn waiting_for_a_server() {
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
    for (start, more) in [("", &b""[..]), (endless, b""), (endless, &[7; 4096])] {
        with_server(start, more, |address, met| {
            let kit = Kit::new();
            kit.dockerfile(&format!("FROM scratch\nADD http://{address}/file /\n"));
            let mut running = Running::start(kit.build());
            met();
            running.signal(Signal::TERM);
            assert_eq!(running.end().code(), Some(143), "{start:?}");
        });
    }
}

#[test]
fn waiting_for_git() {
    with_server("", b"", |address, met| {
        let kit = Kit::new();
        let mut running =
            Running::start(kit.builder(["build", &format!("http://{address}/app.git")]));
        met();
        running.signal(Signal::TERM);
        assert_eq!(running.end().code(), Some(143));
    });
}

#[test]
fn waiting_for_the_lock_of_a_cache_mount() {
    let kit = Kit::new();
    let step = |number: u32| {
        format!(
            "FROM fixture/base\nRUN --mount=type=cache,target=/c,sharing=locked touch /c/{number}; sleep 1000\n"
        )
    };
    kit.dockerfile(&step(1)).file("second", step(2));
    let mut first = Running::start(kit.build());
    let mounts = kit.store().join("mounts");
    eventually("the first has the mount", || {
        let mounts = fs::read_dir(&mounts).into_iter().flatten().flatten();
        mounts.into_iter().any(|mount| mount.path().join("fs/1").exists())
    });
    let second = kit.build().arg("-f").arg(kit.path("second"));
    ends_at_first(second, "it waits for the lock", |pid| has_open(pid, "/locks/mount-"));
    first.signal(Signal::INT);
    assert_eq!(first.end().code(), Some(130));
}

#[test]
fn waiting_for_another_export_into_one_directory() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nLABEL a=b\n");
    let cache = kit.out("cache");
    let blobs = cache.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let lock = fs::File::open(&blobs).unwrap();
    lock.lock().unwrap();
    let export = kit.build().arg(format!("--cache-to=type=local,dest={}", cache.display()));
    ends_at_first(export, "it waits for the lock", |pid| has_open(pid, "out/cache/blobs/sha256"));
}

#[test]
fn writing_to_a_pipe_without_a_reader() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nLABEL a=b\n");
    let pipe = kit.out("pipe");
    fifo(&pipe);
    let shown = pipe.display();
    for flag in [
        "--iidfile=",
        "--metadata-file=",
        "-otype=oci,dest=",
        "-otype=tar,dest=",
        "-otype=docker,dest=",
    ] {
        let run = kit.build().args(["-t", "named:1"]).arg(format!("{flag}{shown}"));
        let index = kit.store().join("index.json");
        ends_at_first(run, "it waits for a reader", |pid| {
            let has_image = fs::read_to_string(&index).is_ok_and(|text| text.contains("sha256:"));
            (has_image || flag.starts_with("-o")) && waits_for_a_reader(pid)
        });
    }
}

/// Whether a thread waits in open(2) for the other end of a FIFO.
fn waits_for_a_reader(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().any(|thread| {
        let call = fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        let number = call.split(' ').next().and_then(|number| number.parse::<i64>().ok());
        number == Some(libc::SYS_openat)
    })
}

#[test]
fn a_pipe_with_a_reader_gets_all_of_an_output() {
    let kit = Kit::new();
    kit.dockerfile("FROM scratch\nLABEL a=b\n");
    let pipe = kit.out("pipe");
    fifo(&pipe);
    let read = |flag: &str| -> Vec<u8> {
        let reader = Command::new("cat").arg(&pipe).stdout(Stdio::piped()).spawn().unwrap();
        kit.build().arg(format!("{flag}{}", pipe.display())).ok();
        reader.wait_with_output().unwrap().stdout
    };
    assert!(read("--iidfile=").starts_with(b"sha256:"));
    let metadata: serde_json::Value = serde_json::from_slice(&read("--metadata-file=")).unwrap();
    assert!(metadata["containerimage.digest"].is_string());
    assert!(read("-otype=oci,dest=").windows(10).any(|name| name == b"index.json"));
    // As a shell passes `>(command)`, and by name.
    let outcome = kit.build().args(["--iidfile", "/dev/stdout"]).ok();
    assert!(outcome.stdout().starts_with("sha256:"), "{}", outcome.text());
}

#[test]
fn a_step_that_waits_for_an_ssh_agent() {
    let kit = Kit::new();
    let socket: PathBuf = kit.out("agent");
    // It takes no connection, so nothing that asks it gets an answer.
    let _agent = UnixListener::bind(&socket).unwrap();
    kit.dockerfile(
        "FROM fixture/base\nRUN --mount=type=ssh --mount=type=cache,target=/c touch /c/up; sleep 1000 < /dev/null\n",
    );
    let run = kit.build().arg(format!("--ssh=default={}", socket.display()));
    let mounts = kit.store().join("mounts");
    ends_at_first(run, "the step runs", |_| {
        let mounts = fs::read_dir(&mounts).into_iter().flatten().flatten();
        mounts.into_iter().any(|mount| mount.path().join("fs/up").exists())
    });
}
