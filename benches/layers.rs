//! Throughput of the layer room, end to end: `cargo bench --bench layers [-- FOLDER]`.
//!
//! Without a directory one is made: 30,000 files of 1 to 64 KiB, about 500 MB, half of it text-like and
//! half random. Each line tells the best of three runs, its rate over the tar's bytes, and what came
//! out. Rates of a shared machine vary; compare lines of one run.

#![expect(clippy::print_stdout, reason = "a benchmark's results go to the terminal")]

use builder::layer::{ScanOptions, TarOptions, scan, write_tar};
use builder::sys::cancel::Cancel;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
        // A long tail: the mean is about 17 KB.
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

fn best(mut run: impl FnMut() -> String) -> (Duration, String) {
    (0..3)
        .map(|_| {
            let start = Instant::now();
            let what = run();
            (start.elapsed(), what)
        })
        .min_by_key(|(time, _)| *time)
        .expect("three runs")
}

fn main() {
    let given = std::env::args_os().skip(1).find(|arg| arg != "--bench").map(PathBuf::from);
    let made = tempfile::tempdir().expect("make a temporary directory");
    let root = given.unwrap_or_else(|| {
        make_tree(made.path());
        made.path().to_owned()
    });
    let dir = File::open(&root).expect("open the directory");
    let cancel = Cancel::new();
    let facts = scan(dir.as_fd(), &ScanOptions::detect(true), &cancel).expect("scan");
    let size = facts.tar.expect("asked for").size;
    println!(
        "{} entries, {} MB of files, tar of {} MB",
        facts.entries,
        facts.bytes / 1_000_000,
        size / 1_000_000
    );
    let report = |name: &str, (time, what): (Duration, String)| {
        let rate = size as f64 / 1e6 / time.as_secs_f64();
        println!("{name:<24} {:>8.1} ms {rate:>7.0} MB/s  {what}", time.as_secs_f64() * 1e3);
    };
    for want_tar in [false, true] {
        let name = if want_tar { "scan with diff_id" } else { "scan" };
        report(
            name,
            best(|| {
                let facts = scan(dir.as_fd(), &ScanOptions::detect(want_tar), &cancel);
                facts.expect("scan").id.to_hex()[..12].to_owned()
            }),
        );
    }
    report(
        "write_tar",
        best(|| {
            let mut out = std::io::sink();
            let size = write_tar(dir.as_fd(), &mut out, &TarOptions::detect(), &cancel);
            size.expect("write").to_string()
        }),
    );
    let empty = tempfile::tempdir().expect("make a temporary directory");
    let empty = File::open(empty.path()).expect("open the directory");
    let (time, _) = best(|| {
        for _ in 0..100 {
            scan(empty.as_fd(), &ScanOptions::detect(true), &cancel).expect("scan");
        }
        String::new()
    });
    println!("{:<24} {:>8.1} us", "scan of nothing", time.as_secs_f64() * 1e4);
}
