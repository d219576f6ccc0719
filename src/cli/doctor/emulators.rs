//! Emulators for programs of other machines, found by running one of each machine in a sandbox:
//! what `/proc` lists need not work there, and may work without being listed.

use super::{Check, Health};

/// The smallest programs that end with status 0, by the name of their platform.
///
/// Source: elf(5); syscall(2), "Architecture calling conventions".
const PROGRAMS: [Program; 7] = [
    // mov eax, 60; xor edi, edi; syscall
    Program::new("amd64", 62, 2, 0, &[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]),
    // mov eax, 1; xor ebx, ebx; int 0x80
    Program::new("386", 3, 1, 0, &[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80]),
    // mov x8, #93; mov x0, #0; svc #0
    Program::new("arm64", 183, 2, 0, &[0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0, 0xd4]),
    // mov r7, #1; mov r0, #0; svc #0
    Program::new(
        "arm",
        40,
        1,
        0x0500_0000,
        &[1, 0x70, 0xa0, 0xe3, 0, 0, 0xa0, 0xe3, 0, 0, 0, 0xef],
    ),
    // li a7, 93; li a0, 0; ecall
    Program::new("riscv64", 243, 2, 0, &[0x93, 8, 0xd0, 5, 0x13, 5, 0, 0, 0x73, 0, 0, 0]),
    // li r0, 1; li r3, 0; sc
    Program::new("ppc64le", 21, 2, 2, &[1, 0, 0, 0x38, 0, 0, 0x60, 0x38, 2, 0, 0, 0x44]),
    // lghi %r2, 0; svc 1
    Program::new("s390x", 22, 2, 0, &[0xa7, 0x29, 0, 0, 0x0a, 1]),
];

/// A program of one machine.
struct Program {
    platform: &'static str,
    machine: u16,
    /// 1 for 32 bits, 2 for 64.
    class: u8,
    flags: u32,
    code: &'static [u8],
}

/// Where programs are loaded.
const ADDRESS: u64 = 0x10_0000;

impl Program {
    const fn new(
        platform: &'static str,
        machine: u16,
        class: u8,
        flags: u32,
        code: &'static [u8],
    ) -> Self {
        Self { platform, machine, class, flags, code }
    }

    /// Returns the file: an ELF header, one segment of all of it, the code.
    fn file(&self) -> Vec<u8> {
        let is_wide = self.class == 2;
        let is_big = self.platform == "s390x";
        let (header, segment): (u16, u16) = if is_wide { (64, 56) } else { (52, 32) };
        let start = u64::from(header + segment);
        let size = start + self.code.len() as u64;
        let mut out = vec![0x7f, b'E', b'L', b'F', self.class, if is_big { 2 } else { 1 }, 1];
        out.resize(16, 0);
        let mut put = |value: u64, bytes: usize| {
            let all = value.to_be_bytes();
            let wanted = &all[8 - bytes..];
            match is_big {
                true => out.extend_from_slice(wanted),
                false => out.extend(wanted.iter().rev()),
            }
        };
        let word = if is_wide { 8 } else { 4 };
        put(2, 2);
        put(u64::from(self.machine), 2);
        put(1, 4);
        put(ADDRESS + start, word);
        put(u64::from(header), word);
        put(0, word);
        put(u64::from(self.flags), 4);
        for value in [header, segment, 1, 0, 0, 0] {
            put(u64::from(value), 2);
        }
        // PT_LOAD, readable and executable.
        put(1, 4);
        if is_wide {
            put(5, 4);
        }
        for value in [0, ADDRESS, ADDRESS, size, size] {
            put(value, word);
        }
        if !is_wide {
            put(5, 4);
        }
        put(0x1_0000, word);
        out.extend_from_slice(self.code);
        out
    }
}

/// Runs a program of each machine by `run`, which returns its status.
pub(super) fn check(run: impl Fn(&[u8]) -> Result<i32, String>) -> Check {
    let works = |program: &&Program| run(&program.file()) == Ok(0);
    let names: Vec<_> = PROGRAMS.iter().filter(works).map(|program| program.platform).collect();
    let found = match names.as_slice() {
        [] => "none".to_owned(),
        names => format!("programs of {} run", names.join(", ")),
    };
    // Nothing that a build for this machine needs.
    let means =
        "RUN steps for other platforms need an emulator, such as qemu-user-static with binfmt";
    Check::new("platforms", Health::Ok, found, means)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_program_of_this_machine_runs() {
        let name = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        let program = PROGRAMS.iter().find(|program| program.platform == name).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, program.file()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Another test's child may have the file open for writing for a moment.
        let ran = loop {
            match std::process::Command::new(&path).status() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                other => break other.unwrap(),
            }
        };
        assert!(ran.success(), "{ran}");
    }

    #[test]
    fn platforms_are_those_whose_programs_ran() {
        let arm = PROGRAMS[2].file();
        let check = check(|program| Ok(i32::from(program != arm)));
        assert_eq!(check.found, "programs of arm64 run");
        assert_eq!(super::check(|_| Err("no sandbox".to_owned())).found, "none");
    }
}
