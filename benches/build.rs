//! Whole builds as a user sees them, from process start to its end: `cargo bench --bench build [-- NAME…]`.
//!
//! | name | what |
//! |---|---|
//! | `runs` | 50 distinct `RUN true` on busybox, cold: the cost of a step, as root and as a user with subordinate ids; beside it 50 `runc run` of the same |
//! | `cached` | 20 steps over a small context, all cached: the cost of looking |
//! | `copy` | COPY of 20,000 files of 1 to 8 KB, without output and to an image in the store: cold, cached, one changed |
//!
//! Each line has the best and the median of its runs, the processor time and the peak memory of the
//! largest process, and below it, where `strace` is here, how many system calls a run takes: those
//! don't depend on the neighbours. Nothing here fails for being slow.
//!
//! As root the store stands on an ext4 of its own in a loop file: file systems without a journal, and
//! ones where much was deleted, make files several times slower.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark's results go to the terminal, and it is told what to do by its arguments"
)]

#[macro_use]
#[path = "../tests/kit/skip.rs"]
mod skip;

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::{Kit, Run, host};
use nix::sys::resource::{UsageWho, getrusage};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The argument that makes this program run another and tell what it took.
const MEASURE: &str = "--measure";

fn main() {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|argument| argument == MEASURE).is_some() {
        measure(Command::new(arguments.next().unwrap()).args(arguments));
        return;
    }
    let names = arguments.filter_map(|argument| argument.into_string().ok());
    let names = names.filter(|name| !name.starts_with('-')).collect::<Vec<_>>();
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);

    let work = tempfile::tempdir().unwrap();
    own_file_system(work.path());
    println!("{:36} {:>9} {:>9} {:>9} {:>9}", "", "best", "median", "cpu", "peak");
    if is_wanted("runs") {
        runs(work.path());
        runs_by_runc(work.path());
    }
    if is_wanted("cached") {
        cached(work.path());
    }
    if is_wanted("copy") {
        copy(work.path());
    }
}

/// Puts an ext4 of our own over a directory, in a mount namespace that ends with us.
fn own_file_system(directory: &Path) {
    let image = directory.with_extension("ext4");
    let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_ok() && {
        host::tool(&["mount", "--make-rprivate", "/"]);
        fs::File::create(&image).unwrap().set_len(6 << 30).unwrap();
        let (image, directory) = (image.to_str().unwrap(), directory.to_str().unwrap());
        host::tool(&["mkfs.ext4", "-q", image]);
        host::tool(&["mount", "-o", "loop", image, directory]);
        true
    };
    // The mount keeps the file.
    fs::remove_file(&image).ok();
    println!(
        "store on {}",
        if made { "an ext4 of its own" } else { "the directory of temporary files" }
    );
}

/// What one run took.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    peak_kb: u64,
}

/// Runs a program and prints its wall time, processor time (in microseconds) and peak memory.
fn measure(command: &mut Command) {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap();
    let wall = start.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let cpu = micros(usage.user_time()) + micros(usage.system_time());
    println!("{} {cpu} {}", wall.as_micros(), usage.max_rss());
}

/// Measures a run in a process of its own, so that the peak is that of this run alone.
fn cost(run: Run) -> Cost {
    cost_of(&run.into_command())
}

/// As [`cost`], of any program.
fn cost_of(command: &Command) -> Cost {
    let wrapped = wrap(command, &[std::env::current_exe().unwrap().to_str().unwrap(), MEASURE]);
    let numbers =
        wrapped.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<u64>>();
    Cost {
        wall: Duration::from_micros(numbers[0]),
        cpu: Duration::from_micros(numbers[1]),
        peak_kb: numbers[2],
    }
}

/// Runs it behind some other words and returns what those printed.
fn wrap(run: &Command, words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(run.get_program()).args(run.get_args()).env_clear();
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Prints the line of some runs; `steps` adds the cost of one.
fn report(name: &str, mut costs: Vec<Cost>, steps: Option<u32>) {
    costs.sort_by_key(|cost| cost.wall);
    let (best, median) = (costs[0], costs[costs.len() / 2]);
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let peak = format!("{:.1} MB", best.peak_kb as f64 / 1024.0);
    let each = steps.map_or(String::new(), |steps| format!("  {} a step", ms(best.wall / steps)));
    println!(
        "{name:36} {:>9} {:>9} {:>9} {peak:>9}{each}",
        ms(best.wall),
        ms(median.wall),
        ms(best.cpu)
    );
}

/// Prints how many system calls a run takes.
fn report_calls(run: Run) {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("    (no counts: strace is missing)");
        return;
    }
    let table = tempfile::NamedTempFile::new().unwrap();
    wrap(
        &run.into_command(),
        &["strace", "-f", "-qq", "-c", "-S", "calls", "-o", table.path().to_str().unwrap()],
    );
    let table = fs::read_to_string(table.path()).unwrap();
    let rows = table.lines().filter_map(|line| {
        let words = line.split_whitespace().collect::<Vec<_>>();
        Some((*words.last()?, words.get(3)?.parse::<u64>().ok()?))
    });
    let (total, calls): (Vec<_>, Vec<_>) = rows.partition(|row| row.0 == "total");
    let shown = calls.iter().take(8).map(|(name, count)| format!("{name} {count}"));
    let total = total.first().map_or(0, |row| row.1);
    println!("    {total} calls: {} …", shown.collect::<Vec<_>>().join(", "));
}

/// A kit whose base is already in the store.
fn warm(work: &Path) -> Kit {
    warmed(Kit::new_in(work))
}

fn warmed(kit: Kit) -> Kit {
    kit.dockerfile("FROM fixture/base\nRUN true # warm\n").build_showing("plain").ok();
    kit
}

fn runs(work: &Path) {
    let user = kit::users::with_ranges();
    let rows = [
        ("no network", "none", None),
        ("private network", "default", None),
        ("rootless, no network", "none", Some(&user)),
        ("rootless, default network", "default", Some(&user)),
    ];
    for (name, network, user) in rows {
        let costs = (0..3).map(|_| {
            let kit = user.map_or_else(|| Kit::new_in(work), |user| Kit::of_in(user.clone(), work));
            let kit = warmed(kit);
            let lines =
                (0..50).fold(String::new(), |text, step| text + &format!("RUN true # {step}\n"));
            kit.dockerfile(&format!("FROM fixture/base\n{lines}"));
            let run = kit.build_showing("plain").arg(format!("--network={network}"));
            match user {
                None => cost(run),
                Some(user) => cost_of(&become_user(user, &run.into_command())),
            }
        });
        report(&format!("50 RUN true, {name}"), costs.collect(), Some(50));
    }
}

/// The same command for a process that is still root: what measures it is not for others to read.
fn become_user(user: &kit::users::User, run: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
    command.arg("--clear-groups").arg(run.get_program()).args(run.get_args()).env_clear();
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// The same by runc, one container after another over one directory: no layers, nothing hashed or kept.
fn runs_by_runc(work: &Path) {
    if Command::new("runc").arg("--version").output().is_err() {
        println!("    (nothing to compare with: runc is missing)");
        return;
    }
    let bundle = work.join("bundle");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    tar::Archive::new(&kit::base::rootfs()[..]).unpack(bundle.join("rootfs")).unwrap();
    let name = bundle.to_str().unwrap();
    host::tool(&["runc", "spec", "--bundle", name]);
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    fs::write(&path, config.to_string()).unwrap();
    let script =
        "for n in $(seq 50); do runc run --bundle \"$0\" \"builder-bench-$$-$n\" || exit; done";
    let costs = (0..3).map(|_| {
        let mut command = Command::new("sh");
        command.args(["-c", script, name]).env("PATH", std::env::var_os("PATH").unwrap());
        cost_of(&command)
    });
    report("50 runc run true", costs.collect(), Some(50));
}

fn cached(work: &Path) {
    let kit = warm(work);
    for number in 0..200 {
        kit.file(&format!("src/f{number}"), format!("file {number}\n").repeat(50));
    }
    let lines = (0..10).fold(String::new(), |text, step| {
        text + &format!("COPY src/f{step} /f{step}\nRUN echo {step} > /r{step}\n")
    });
    kit.dockerfile(&format!("FROM fixture/base\n{lines}")).build_showing("plain").arg("-tit").ok();
    let again = || kit.build_showing("plain").arg("-tit");
    report("20 steps, all cached", (0..20).map(|_| cost(again())).collect(), None);
    report_calls(again());
}

fn copy(work: &Path) {
    let tree = tree(work);
    for (name, flags) in [("COPY of 20,000 files", &[][..]), ("the same, -t", &["-tit"])] {
        let build = |kit: &Kit| {
            kit.dockerfile("FROM fixture/base\nCOPY . /tree\n");
            kit.build_of(&tree).arg("-f").arg(kit.path("Dockerfile")).args(flags)
        };
        let costs = (0..3).map(|_| {
            let kit = warm(work);
            // What earlier runs left in the page cache is not this one's to write.
            rustix::fs::sync();
            cost(build(&kit))
        });
        report(&format!("{name}, cold"), costs.collect(), None);
        let kit = warm(work);
        build(&kit).ok();
        report(&format!("{name}, cached"), (0..5).map(|_| cost(build(&kit))).collect(), None);
        report_calls(build(&kit));
        let change = |text: &str| fs::write(place(&tree, 7047), text).unwrap();
        let costs = (0..5).map(|round| {
            change(&format!("changed {round}"));
            rustix::fs::sync();
            cost(build(&kit))
        });
        report(&format!("{name}, one changed"), costs.collect(), None);
        change("changed once more");
        report_calls(build(&kit));
    }
}

/// 20,000 files of 1 to 8 KB in 1,000 directories.
fn tree(work: &Path) -> PathBuf {
    let tree = work.join("tree");
    let mut state = 3_u64;
    for number in 0..20_000 {
        // xorshift: the same files in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let size = 1024 + (state % 7168) as usize;
        let text = format!("{state:x} ").repeat(size / 16 + 1);
        let directory = tree.join(format!("d{}/e{}", number % 40, number / 40 % 25));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(format!("f{number}")), &text.as_bytes()[..size.min(text.len())])
            .unwrap();
    }
    rustix::fs::sync();
    tree
}

fn place(tree: &Path, number: u32) -> PathBuf {
    tree.join(format!("d{}/e{}/f{number}", number % 40, number / 40 % 25))
}
