//! The fuzz targets' invariants on any compiler: samples, changed at random.
//!
//! A fixed seed, so that a failure is one again. `FUZZ_ROUNDS` sets how many
//! inputs are tried; `FUZZ_SEED` where they begin.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test program: failing is its job, and its length is the caller's to choose"
)]

#[path = "../fuzz/invariants.rs"]
mod invariants;

use std::panic::catch_unwind;
use std::path::Path;

/// Inputs of each kind that are tried where nobody says how many.
const ROUNDS: u64 = 2_000;

/// Longest input.
const LENGTH_MAX: usize = 4096;

/// What Dockerfiles, words and ignore files are made of.
const TOKENS: &[&str] = &[
    "FROM ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "CMD ",
    "SHELL ",
    "LABEL ",
    "VOLUME ",
    "AS ",
    "--from=",
    "--mount=type=",
    "--link",
    "--",
    "<<EOF",
    "<<-'E'",
    "\nEOF\n",
    "\n",
    "\r\n",
    "\\\n",
    "`\n",
    "# escape=`\n",
    "#",
    "# syntax=",
    "[\"",
    "\", \"",
    "\"]",
    "${",
    "}",
    ":-",
    ":?",
    "##",
    "%%",
    "//",
    "$",
    "'",
    "\"",
    "\\",
    "`",
    "=",
    " ",
    "\t",
    ",",
    "**/",
    "!",
    "*",
    "?",
    "[^a-",
    "]",
    "\u{feff}",
    "\u{a0}",
    "é",
    "\0",
    "0",
    "AAAAAAAAAAAAAAAA",
];

/// A generator that needs nothing: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Changes an input once.
    fn change(&mut self, input: &mut Vec<u8>, samples: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(40) + 1);
        match self.below(7) {
            0 => drop(input.splice(at..at, self.pick(TOKENS).bytes())),
            1 => drop(input.splice(at..end, self.pick(TOKENS).bytes())),
            2 => drop(input.drain(at..end)),
            3 => {
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            4 => {
                let other = self.pick(samples);
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1).min(200);
                input.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                let token = self.pick(TOKENS).repeat(self.below(64));
                input.splice(at..at, token.bytes());
            }
            _ => {
                let byte = self.next() as u8;
                if let Some(old) = input.get_mut(at) {
                    *old = byte;
                }
            }
        }
        input.truncate(LENGTH_MAX);
    }
}

/// The files of a directory of samples.
fn samples(directory: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(directory);
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|end| end != "snap"));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[track_caller]
fn try_all(samples: &[Vec<u8>], check: fn(&[u8])) {
    try_rounds(samples, check, number("FUZZ_ROUNDS", ROUNDS));
}

/// As [`try_all`], of inputs that take a store or a server each.
#[track_caller]
fn try_some(samples: &[Vec<u8>], check: fn(&[u8])) {
    try_rounds(samples, check, number("FUZZ_ROUNDS", ROUNDS / 10));
}

#[track_caller]
fn try_rounds(samples: &[Vec<u8>], check: fn(&[u8]), rounds: u64) {
    let mut random = Random(number("FUZZ_SEED", 1));
    for round in 0..rounds {
        let mut input = random.pick(samples).clone();
        for _ in 0..=random.below(6) {
            random.change(&mut input, samples);
        }
        let is_kept = catch_unwind(|| check(&input)).is_ok();
        assert!(is_kept, "round {round}: {:?}\n{input:?}", String::from_utf8_lossy(&input));
    }
    for sample in samples {
        let is_kept = catch_unwind(|| check(sample)).is_ok();
        assert!(is_kept, "sample: {:?}\n{sample:?}", String::from_utf8_lossy(sample));
    }
    println!("{rounds} inputs of {} samples", samples.len());
}

#[test]
fn any_dockerfile_is_read_or_refused() {
    try_all(&samples("dockerfile"), invariants::dockerfile);
}

#[test]
fn any_word_has_a_value_or_none() {
    let words =
        ["a$A${E:-b}'c'\"d\\\"$A\"", "${A#*/}${A%%b*}${A/a/\\/}${A//b/$0}", "`$A${U:?m}<< EOF"];
    try_all(&words.map(|word| word.as_bytes().to_vec()), invariants::word);
}

#[test]
fn any_ignore_file_is_read_or_refused() {
    let files =
        ["# c\n*.log\n!a/**/b[a-z]\n/x/\n", "**\n!src\nsrc/**/*.o\n\0src/a.o", "a\\*\n[^x]?\n"];
    let mut all = samples("fuzz/ignore");
    all.extend(files.map(|file| file.as_bytes().to_vec()));
    try_all(&all, invariants::ignore);
}

#[test]
fn any_document_of_an_image_is_read_or_refused() {
    try_all(&samples("fuzz/document"), invariants::document);
}

#[test]
fn any_archive_is_read_or_refused() {
    try_all(&samples("fuzz/archive"), invariants::archive);
}

#[test]
fn any_layout_is_read_or_refused() {
    try_all(&samples("fuzz/layout"), invariants::layout);
}

#[test]
fn any_address_is_read_or_refused() {
    try_all(&samples("fuzz/address"), invariants::address);
}

#[test]
fn any_record_of_a_copy_is_read_or_refused() {
    try_all(&samples("fuzz/record"), invariants::record);
}

#[test]
fn any_challenge_of_a_registry_is_read_or_refused() {
    try_all(&samples("fuzz/challenge"), invariants::challenge);
}

#[test]
fn any_text_is_shown_without_commands_to_the_terminal() {
    try_all(&samples("fuzz/shown"), invariants::shown);
}

#[test]
fn any_message_of_the_sandboxs_protocol_is_taken_or_refused() {
    try_all(&samples("fuzz/message"), invariants::peers::message);
}

#[test]
fn any_request_of_a_command_reaches_the_ssh_agent_or_fails() {
    try_all(&samples("fuzz/ssh_agent"), invariants::peers::ssh_agent);
}

#[test]
fn any_system_call_is_the_deputys_or_the_kernels() {
    try_all(&samples("fuzz/call"), invariants::peers::call);
}

#[test]
fn any_program_of_a_step_is_mapped_in_whole_pages_or_refused() {
    try_all(&samples("fuzz/program"), invariants::peers::program);
}

#[test]
fn any_stack_of_a_step_keeps_its_arguments_or_is_refused() {
    try_all(&samples("fuzz/vectors"), invariants::peers::vectors);
}

#[test]
fn any_user_of_an_image_is_found_or_refused() {
    try_all(&samples("fuzz/user"), invariants::peers::user);
}

#[test]
fn any_seccomp_profile_is_a_filter_or_refused() {
    try_all(&samples("fuzz/profile"), invariants::peers::profile);
}

#[test]
fn any_answer_of_a_registry_is_taken_or_refused() {
    try_some(&samples("fuzz/registry"), invariants::peers::registry);
}

#[test]
fn any_answer_to_a_download_is_taken_or_refused() {
    try_some(&samples("fuzz/downloaded"), invariants::peers::downloaded);
}

#[test]
fn any_change_of_a_store_is_found_or_harmless() {
    try_some(&samples("fuzz/store"), invariants::places::store);
}

#[test]
fn any_layout_with_images_and_caches_is_loaded_or_refused() {
    try_some(&samples("fuzz/load"), invariants::places::load);
}

#[test]
fn any_saved_image_is_loaded_or_refused() {
    try_some(&samples("fuzz/saved"), invariants::places::saved);
}

#[test]
fn any_compressed_stream_is_read_or_refused() {
    try_all(&samples("fuzz/stream"), invariants::places::stream);
}

#[test]
fn any_exported_cache_mount_is_put_together_or_refused() {
    try_all(&samples("fuzz/mount"), invariants::places::mount);
}
