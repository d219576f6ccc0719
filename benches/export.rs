//! A layer to an OCI archive, end to end, beside `tar` and a compressor of the system:
//! `cargo bench --bench export [-- FOLDER] [COMPRESSION…]`.
//!
//! The layer is a choice of about 30,000 files and 500 MB from FOLDER (`/usr`). Three lines for each
//! compression: into an empty store; again, with one file of the layer changed; and what a pipe of
//! tools takes for the tar alone. Beside the times stands what came out and, for ours, the processor
//! time of all threads and the most memory that was resident. Best of three runs; compare lines of one machine and one run.

#![expect(clippy::print_stdout, reason = "a benchmark's results go to the terminal")]

use builder::export::{self, Context, OutputSpec, Product};
use builder::image::{Image, ImageLayer};
use builder::layer::{ScanOptions, scan};
use builder::oci::{Config, Digest, Platform};
use builder::progress::Progress;
use builder::store::Store;
use builder::sys::cancel::Cancel;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FILES: usize = 30_000;
const BYTES: u64 = 500_000_000;
const RUNS: u32 = 3;

/// Copies about as many files as wanted, evenly chosen, into `tree`.
fn choose(directory: &Path, tree: &Path) {
    let walk = walkdir::WalkDir::new(directory).sort_by_file_name().same_file_system(true);
    let files: Vec<_> = walk
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file())
        .filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.into_path())))
        .filter(|(size, _)| *size < 20 << 20)
        .collect();
    let total: u64 = files.iter().map(|(size, _)| size).sum();
    // The large ones are thinned out until the mean fits.
    let mean = BYTES / FILES as u64;
    let mut excess = (total / files.len().max(1) as u64).saturating_sub(mean) as f64;
    let stride = (files.len() / FILES).max(1);
    let (mut taken, mut bytes, mut skip) = (0, 0, 0.0);
    for (size, path) in files.iter().step_by(stride) {
        if taken == FILES || bytes > BYTES {
            break;
        }
        if *size > 200_000 && skip > 0.0 {
            skip -= *size as f64;
            continue;
        }
        skip += excess;
        let place = tree.join(path.strip_prefix("/").unwrap_or(path));
        fs::create_dir_all(place.parent().expect("a file has a directory"))
            .expect("make a directory");
        if fs::copy(path, &place).is_ok() {
            taken += 1;
            bytes += size;
        }
        excess *= if bytes * FILES as u64 > BYTES * taken as u64 { 1.001 } else { 0.999 };
    }
    // Where the files of the directory are small, a few large ones make up for it.
    let mut largest: Vec<_> = files.iter().collect();
    largest.sort_by(|a, b| b.cmp(a));
    for (size, path) in largest {
        let place = tree.join(path.strip_prefix("/").unwrap_or(path));
        if bytes < BYTES && !place.exists() {
            fs::create_dir_all(place.parent().expect("a file has a directory"))
                .expect("a directory");
            if fs::copy(path, &place).is_ok() {
                taken += 1;
                bytes += size;
            }
        }
    }
    println!("{taken} files, {} MB", bytes / 1_000_000);
}

/// Makes an image of one layer, which shares its files with `tree`.
fn image(store: &Store, tree: &Path) -> Image {
    let work = store.session().expect("a session").new_work().expect("a directory");
    let fs = work.join("fs");
    let linked = Command::new("cp").arg("-al").arg(tree).arg(&fs).status().expect("run cp");
    assert!(linked.success());
    let facts =
        scan(File::open(&fs).expect("open").as_fd(), &ScanOptions::detect(false), &Cancel::new())
            .expect("scan");
    let layer = store.add_layer(&work, &facts.meta()).expect("add");
    let layers = vec![ImageLayer { diff_id: None, layer, descriptor: None }];
    Image { config: Config::empty(&Platform::host()), layers, manifest: None }
}

/// The processor time of this process so far, user and system, from `/proc/self/stat`.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks = |field: &str| field.parse::<u64>().expect("a number");
    // A second has 100 ticks.
    Duration::from_millis((ticks(fields[11]) + ticks(fields[12])) * 10)
}

fn export(store: &Store, image: &Image, spec: &str) -> [Duration; 2] {
    let (progress, cancel) = (Progress::quiet(), Cancel::new());
    let context = Context { store, progress: &progress, vertex: Digest::of(b""), cancel: &cancel };
    let spec = OutputSpec::parse(spec).expect("an output");
    let (start, used) = (Instant::now(), processor());
    export::export(&context, Product::Image(image), &[], &spec, &mut std::io::sink())
        .expect("export");
    [start.elapsed(), processor().saturating_sub(used)]
}

/// The most memory that was resident since the last call, in MB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    let peak = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1000;
    let _ = fs::write("/proc/self/clear_refs", "5");
    peak
}

fn main() {
    let (directories, rows): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).filter(|arg| arg != "--bench").partition(|arg| arg.contains('/'));
    let given = directories.into_iter().next().map(PathBuf::from);
    let dir = tempfile::tempdir().expect("make a temporary directory");
    let tree = dir.path().join("tree");
    choose(&given.unwrap_or_else(|| "/usr".into()), &tree);
    let archive = dir.path().join("out.tar");
    for (compression, tool) in [
        ("uncompressed", "cat"),
        ("gzip", "igzip -1"),
        ("gzip,compression-level=6", "pigz -6"),
        ("estargz", "igzip -1"),
        ("zstd", "zstd -q -3 -T0"),
    ] {
        if !rows.is_empty() && !rows.iter().any(|row| row == compression) {
            continue;
        }
        let mut best = [[Duration::MAX; 2]; 2];
        let mut most = 0;
        for run in 0..RUNS {
            let store = Store::open(&dir.path().join("store")).expect("a store");
            let spec = format!("type=oci,dest={},compression={compression}", archive.display());
            let first = image(&store, &tree);
            let _ = peak();
            best[0] = best[0].min(export(&store, &first, &spec));
            most = most.max(peak());
            // A file in the middle gets other content, as a new file: the layer's own is kept.
            let changed = walkdir::WalkDir::new(&tree).sort_by_file_name().into_iter();
            let mut changed = changed.filter_map(Result::ok).filter(|e| e.file_type().is_file());
            let path = changed.nth(FILES / 2).expect("a file").into_path();
            fs::remove_file(&path).expect("remove");
            fs::write(&path, format!("changed {compression} {run}\n").repeat(100)).expect("write");
            let second = image(&store, &tree);
            best[1] = best[1].min(export(&store, &second, &spec));
            drop(store);
            fs::remove_dir_all(dir.path().join("store")).expect("remove the store");
        }
        let size = fs::metadata(&archive).expect("the archive").len() / 1_000_000;
        for (what, time) in [("", best[0]), (", one file changed", best[1])] {
            let name = format!("{compression}{what}");
            let [wall, cpu] = time.map(|time| time.as_secs_f64());
            println!(
                "{name:<42} {wall:>6.2} s  {size} MB, {cpu:.2} s of processors, peak {most} MB"
            );
        }
        let time = (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                let script = format!("tar -c . | {tool} > '{}'", archive.display());
                let mut shell = Command::new("sh");
                shell.args(["-c", &script]).current_dir(&tree).stderr(Stdio::null());
                shell.status().expect("run sh");
                start.elapsed()
            })
            .min()
            .expect("several runs");
        let size = fs::metadata(&archive).map_or(0, |meta| meta.len()) / 1_000_000;
        let name = format!("  tar | {tool}");
        println!("{name:<42} {:>6.2} s  {size} MB", time.as_secs_f64());
    }
}
