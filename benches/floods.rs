//! Input that is long, deep or endless: `cargo bench --bench floods`.
//!
//! Each line tells one size of one kind, the best of three runs, the time of one unit of it (a member, a line, a
//! mebibyte), and the most memory that this process had until then. The time of a unit must not grow with the size,
//! nor, for output, the memory.

#![expect(clippy::print_stdout, reason = "a benchmark's results go to the terminal")]

use builder::dockerfile::parse;
use builder::layer::{extract_archive, read_archive};
use builder::oci::{Config, Digest, Platform};
use builder::plan::{NoCache, Plan, PlanRequest, Resolved, Resolver, plan};
use builder::progress::{LogLimits, Looks, Mode, Outcome, Output, Progress, Stream, Vertex};
use builder::sys::cancel::Cancel;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// Prints a result: what `run` did `count` units of.
fn report(what: &str, unit: &str, count: usize, mut run: impl FnMut()) {
    let times = (0..3).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    let time = times.min().unwrap_or(Duration::ZERO);
    let each = time.as_secs_f64() * 1e6 / count as f64;
    println!(
        "{what:<28} {count:>8} {:>10.1} ms {each:>10.2} us a {unit}, peak {} MiB",
        time.as_secs_f64() * 1e3,
        peak_mib()
    );
}

/// The most memory that this process had so far.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}

/// Takes output and forgets it.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A step prints so many mebibytes of short lines.
fn print(mode: Mode, limits: LogLimits, mebibytes: usize) {
    let output = Output {
        writer: Box::new(Nowhere),
        size: None,
        is_coloured: false,
        looks: Looks::default(),
    };
    let progress = Progress::new(mode, output, jiff::Timestamp::UNIX_EPOCH).with_log_limits(limits);
    let vertex = Vertex::step(Digest::of(b"step"), Vec::new(), "[1/1] RUN yes");
    let digest = vertex.digest;
    progress.started(vertex);
    let piece = "y\n".repeat(32 << 10);
    for _ in 0..mebibytes * 16 {
        progress.log(digest, Stream::Stdout, piece.as_bytes());
    }
    progress.done(digest, Outcome::Ran);
    progress.finish();
}

/// A tar of directories in each other, a file in each, with the paths of the whole way.
fn nested(depth: usize) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut path = String::new();
    for _ in 0..depth {
        path.push_str("d/");
        for (name, kind) in [
            (path.clone(), tar::EntryType::Directory),
            (format!("{path}f"), tar::EntryType::Regular),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            // Long names go into a record of their own.
            if header.set_path(&name).is_err() {
                let record = record("path", &name);
                let mut extended = tar::Header::new_ustar();
                extended.set_entry_type(tar::EntryType::XHeader);
                extended.set_size(record.len() as u64);
                extended.set_cksum();
                archive.append(&extended, record.as_bytes()).expect("a tar in memory");
            }
            header.set_cksum();
            archive.append(&header, std::io::empty()).expect("a tar in memory");
        }
    }
    archive.into_inner().expect("a tar in memory")
}

fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

struct Nothing;

impl Resolver for Nothing {
    fn resolve(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Resolved, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Resolved::Image { image: 0, name: name.to_owned(), config: Config::empty(platform) })
    }
}

fn planned(text: &str) -> Plan {
    let file = parse(text.as_bytes()).expect("the sample parses");
    let request = PlanRequest {
        dockerfile: &file,
        build_args: BTreeMap::new(),
        target: None,
        platform: None,
        names_platforms: false,
        build_platform: Platform::new("linux", "amd64", ""),
        labels: BTreeMap::new(),
        named_contexts: BTreeSet::new(),
        no_cache: NoCache::Never,
    };
    plan(&request, &mut Nothing).expect("the sample can be planned")
}

fn main() {
    for mebibytes in [64, 256, 1024] {
        report("output, plain", "MiB", mebibytes, || {
            print(Mode::Plain, LogLimits::UNLIMITED, mebibytes);
        });
    }
    for mebibytes in [64, 256, 1024] {
        let limits = LogLimits { size: Some(2 << 20), speed: None };
        report("output, 2 MiB of it shown", "MiB", mebibytes, || {
            print(Mode::Plain, limits, mebibytes);
        });
    }
    for depth in [500, 1_000, 2_000, 4_000] {
        let tar = nested(depth);
        report("unpacking, nested", "member", 2 * depth, || {
            let dir = tempfile::tempdir().expect("make a temporary directory");
            let root = File::open(dir.path()).expect("open the directory");
            let done = extract_archive(tar.as_slice(), root.as_fd(), None, &Cancel::new());
            assert_eq!(done.expect("it unpacks").entries, 2 * depth as u64);
            let top = dir.path().join("d");
            builder::store::remove_tree(&top).expect("remove the directory");
        });
    }
    for count in [10_000, 40_000] {
        let tar = nested(1);
        let all = tar[..tar.len() - 1024].repeat(count / 2);
        report("reading members", "member", count, || {
            let mut seen = 0;
            let done = read_archive(all.as_slice(), &Cancel::new(), |_, _| {
                seen += 1;
                Ok::<_, builder::layer::LayerError>(None)
            });
            assert!(done.is_ok() && seen == count, "{seen} members");
        });
    }
    for (what, line) in [
        ("ENV lines", "ENV V%=x%\n"),
        ("ENV lines that expand", "ENV V%=x$V1\n"),
        ("ARG lines", "ARG V%=x%\n"),
        ("LABEL lines", "LABEL v%=x%\n"),
        ("stages", "FROM scratch AS s%\n"),
    ] {
        for count in [50_000, 100_000, 200_000] {
            let lines = (1..=count).map(|number: usize| line.replace('%', &number.to_string()));
            let text = format!("FROM scratch\n{}", lines.collect::<String>());
            report(what, "line", count, || {
                let plan = planned(&text);
                assert!(plan.steps.len() <= count, "steps of instructions that run nothing");
            });
        }
    }
}
