#![no_main]

#[path = "../invariants.rs"]
#[allow(dead_code, reason = "each target checks one kind of input")]
mod invariants;

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::peers::program(data));
