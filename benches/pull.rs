//! A pull from a registry of this machine, against what the usual tools take for the same bytes:
//! `cargo bench --bench pull [-- FOLDER] [COMPRESSION]`. Needs docker-registry, curl, gzip, zstd and tar, and root.
//!
//! Without a directory one is made: 30,000 files, about 500 MB, as in `benches/layers.rs`. Each line tells
//! the best of three runs into an empty store or directory. A pull ends when all is on the disk, so a
//! machine that others write to at the same time tells little: compare lines of one quiet run.

#![expect(clippy::print_stdout, reason = "a benchmark's results go to the terminal")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BUILDER: &str = env!("CARGO_BIN_EXE_builder");
const FILES: u64 = 30_000;

/// A generator good enough for test data (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn make_tree(root: &Path) {
    let mut random = Random(42);
    let words: Vec<String> = (0..2000).map(|_| format!("{:x} ", random.next() >> 40)).collect();
    for i in 0..FILES {
        let dir = root.join(format!("d{}/s{}", i % 50, i % 600));
        fs::create_dir_all(&dir).expect("make a directory");
        let size = (1024 + random.next() % (1024 << (random.next() % 7))) as usize;
        let bytes: Vec<u8> = if i % 2 == 0 {
            (0..=size / 8).flat_map(|_| random.next().to_le_bytes()).take(size).collect()
        } else {
            let mut text = String::with_capacity(size + 8);
            while text.len() < size {
                text += &words[(random.next() % 2000) as usize];
            }
            text.truncate(size);
            text.into_bytes()
        };
        fs::write(dir.join(format!("file-{i}")), bytes).expect("write a file");
    }
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stderr(Stdio::inherit()).output().expect("a command starts");
    assert!(output.status.success(), "{command:?}: {}", output.status);
    output.stdout
}

fn shell(script: &str) -> Vec<u8> {
    run(Command::new("bash").args(["-o", "pipefail", "-ec", script]))
}

/// Debian's registry, on a port of its own.
fn registry(dir: &Path) -> (Child, String) {
    let config = format!(
        "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
        dir.join("registry").display()
    );
    fs::write(dir.join("config.yml"), config).expect("write the configuration");
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(dir.join("config.yml"))
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("docker-registry starts");
    let mut said = BufReader::new(child.stderr.take().expect("piped above"));
    let mut line = String::new();
    let host = loop {
        line.clear();
        assert!(said.read_line(&mut line).expect("its log") > 0, "docker-registry ended");
        if let Some((_, rest)) = line.split_once("listening on ") {
            break rest.split([',', '"']).next().unwrap_or_default().trim().to_owned();
        }
    };
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    (child, host)
}

/// The best of three runs, each after everything before has reached the disk.
fn best(place: &Path, mut work: impl FnMut(&Path)) -> Duration {
    let once = || {
        let _ = fs::remove_dir_all(place);
        fs::create_dir_all(place).expect("make a directory");
        rustix::fs::sync();
        let start = Instant::now();
        work(place);
        start.elapsed()
    };
    std::iter::repeat_with(once).take(3).min().expect("three runs")
}

fn main() {
    let (directories, rows): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).filter(|arg| arg != "--bench").partition(|arg| arg.contains('/'));
    let given = directories.into_iter().next().map(PathBuf::from);
    let dir = tempfile::tempdir().expect("make a temporary directory");
    let tree = given.unwrap_or_else(|| {
        let tree = dir.path().join("tree");
        make_tree(&tree);
        tree
    });
    let path = |name: &str| dir.path().join(name);
    let builder = |store: &Path| {
        let mut command = Command::new(BUILDER);
        command.env("HOME", dir.path()).arg("--root").arg(store);
        command
    };
    let tar = path("tree.tar");
    run(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg("."));
    let (mut server, host) = registry(dir.path());
    let first = path("first");
    run(builder(&first).arg("import").arg(&tar).arg("tree"));
    fs::write(path("Dockerfile"), "FROM tree\n").expect("write the Dockerfile");
    for compression in ["gzip", "zstd"] {
        if !rows.is_empty() && !rows.iter().any(|row| row == compression) {
            continue;
        }
        let output = format!(
            "type=registry,name={host}/tree:{compression},compression={compression},force-compression=true"
        );
        let mut build = builder(&first);
        build.args(["build", "--progress=quiet", "-o", &output]).arg(dir.path());
        run(&mut build);
        let name = format!("{host}/tree:{compression}");
        let raw = run(builder(&first).args(["inspect", "--raw", &name]));
        let manifest: serde_json::Value = serde_json::from_slice(&raw).expect("a manifest");
        let (layer, size) = (&manifest["layers"][0]["digest"], &manifest["layers"][0]["size"]);
        let url = format!("http://{host}/v2/tree/blobs/{}", layer.as_str().expect("a digest"));
        let ours = best(&path("store"), |store| {
            run(builder(store).args(["pull", "--progress=quiet", &name]));
        });
        let theirs = best(&path("files"), |files| {
            shell(&format!("curl -sSf {url} | {compression} -d | tar -x -C {}", files.display()));
        });
        // The store keeps the blob and its files, and both are on the disk when the pull ends.
        let durable = best(&path("files"), |files| {
            let blob = path("blob");
            shell(&format!(
                "curl -sSf {url} | tee {} | {compression} -d | tar -x -C {} && sync -f {}",
                blob.display(),
                files.display(),
                files.display()
            ));
        });
        println!(
            "{compression}: {size} bytes; builder pull {:.2} s; curl | {compression} -d | tar x {:.2} s (ratio {:.2}); \
             with the blob kept and synced {:.2} s (ratio {:.2})",
            ours.as_secs_f64(),
            theirs.as_secs_f64(),
            ours.as_secs_f64() / theirs.as_secs_f64(),
            durable.as_secs_f64(),
            ours.as_secs_f64() / durable.as_secs_f64(),
        );
    }
    let _ = server.kill();
    let _ = server.wait();
}
