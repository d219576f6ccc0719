//! COPY of 20,000 files of 1 to 8 KB, end to end: `cargo bench --bench copy [-- FOLDER]`.
//!
//! FOLDER is where to work (a journaled file system of its own gives steadier numbers); by default a
//! temporary directory. Lines tell the best of three runs. As root the destination is an overlay mount
//! as in a build, else a plain directory.

#![expect(clippy::print_stdout, reason = "a benchmark's results go to the terminal")]

use builder::context::{SelectOptions, Selection, Source};
use builder::copy::{CopyRequest, CopySource, copy_into};
use builder::snapshot::{MountOptions, Upper, mount};
use builder::sys::cancel::Cancel;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILES: usize = 20_000;

fn make_tree(root: &Path) {
    for i in 0..FILES {
        let dir = root.join(format!("d{}/s{}", i % 20, i % 200));
        fs::create_dir_all(&dir).expect("make a directory");
        let text = format!("line {i}\n").repeat(100 + i * 7 % 600);
        fs::write(dir.join(format!("file-{i}")), text).expect("write a file");
    }
}

fn best<T>(mut prepare: impl FnMut() -> T, mut run: impl FnMut(T) -> String) {
    let runs = (0..3).map(|_| {
        let input = prepare();
        let start = Instant::now();
        let what = run(input);
        (start.elapsed(), what)
    });
    let (time, what): (Duration, String) = runs.min_by_key(|(time, _)| *time).expect("three runs");
    println!("{:>9.1} ms  {what}", time.as_secs_f64() * 1e3);
}

fn main() {
    let given = std::env::args_os().skip(1).find(|arg| arg != "--bench").map(PathBuf::from);
    let parent = given.unwrap_or_else(std::env::temp_dir);
    let work = tempfile::tempdir_in(parent).expect("make a temporary directory");
    let context = work.path().join("context");
    make_tree(&context);
    let index = work.path().join("index");
    let select = |source: &Source| -> Selection {
        source.select(&["."], &SelectOptions::default(), &Cancel::new()).expect("select")
    };
    best(
        || drop(fs::remove_file(&index)),
        |()| {
            let source = Source::dir(&context, None, Some(index.clone())).expect("open");
            select(&source).digest(false);
            source.flush().expect("flush");
            format!("fingerprint {} files", source.files_hashed())
        },
    );
    best(
        || (),
        |()| {
            let source = Source::dir(&context, None, Some(index.clone())).expect("open");
            let selection = select(&source);
            selection.digest(false);
            source.flush().expect("flush");
            format!(
                "select {} entries, {} hashed",
                selection.entries().len(),
                source.files_hashed()
            )
        },
    );
    let source = Source::dir(&context, None, Some(index.clone())).expect("open");
    let selection = select(&source);
    let mut number = 0;
    best(
        || {
            number += 1;
            let dir = work.path().join(format!("out-{number}"));
            let [fs, work, base] = ["fs", "work", "base"].map(|name| dir.join(name));
            for dir in [&fs, &work, &base] {
                fs::create_dir_all(dir).expect("make a directory");
            }
            let upper = Upper { fs: &fs, work: &work };
            (mount(&[base], Some(&upper), &MountOptions::detect()).ok(), fs)
        },
        |(mounted, fs)| {
            let plain = File::open(fs).expect("open");
            let root = mounted.as_ref().map_or(plain.as_fd(), |mounted| mounted.root());
            let request = CopyRequest {
                sources: vec![CopySource::Tree {
                    root: source.root(),
                    selection: &selection,
                    keep_owner: false,
                    unpack: false,
                }],
                dest: b"/x/",
                workdir: b"/",
                owner: None,
                mode: None,
                created: None,
                before: None,
            };
            let stats = copy_into(root, &request, &Cancel::new()).expect("copy");
            let place = if mounted.is_some() { "an overlay" } else { "a directory" };
            format!("copy {} files, {} bytes into {place}", stats.files, stats.bytes)
        },
    );
}
