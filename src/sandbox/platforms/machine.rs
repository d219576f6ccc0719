//! Processors: how their programs are recognised, which emulator runs them, and a program of each
//! to try with.
//!
//! Source: elf(5); syscall(2), "Architecture calling conventions"; the kernel's
//! `Documentation/admin-guide/binfmt-misc.rst`.

use std::fmt::Write as _;

use crate::oci::Platform;

/// A processor that programs are for.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// Go's name, as platforms have it.
    pub architecture: &'static str,
    /// QEMU's name: `aarch64` of `qemu-aarch64`.
    pub qemu: &'static str,
    /// `e_machine` of its programs.
    number: u16,
    /// 1 for 32 bits, 2 for 64.
    class: u8,
    is_big_endian: bool,
    /// `e_flags` of its programs.
    flags: u32,
    /// Instructions that end a program; its status is the number of its arguments.
    ends: &'static [u8],
    /// An instruction that jumps to itself.
    spins: &'static [u8],
}

const fn machine(
    (architecture, qemu): (&'static str, &'static str),
    (number, class, is_big_endian, flags): (u16, u8, bool, u32),
    ends: &'static [u8],
    spins: &'static [u8],
) -> Machine {
    Machine { architecture, qemu, number, class, is_big_endian, flags, ends, spins }
}

/// All that are known.
pub static MACHINES: [Machine; 7] = [
    machine(
        ("amd64", "x86_64"),
        (62, 2, false, 0),
        // mov edi, [rsp]; mov eax, 60; syscall
        &[0x8b, 0x3c, 0x24, 0xb8, 60, 0, 0, 0, 0x0f, 0x05],
        &[0xeb, 0xfe],
    ),
    machine(
        ("386", "i386"),
        (3, 1, false, 0),
        // mov ebx, [esp]; mov eax, 1; int 0x80
        &[0x8b, 0x1c, 0x24, 0xb8, 1, 0, 0, 0, 0xcd, 0x80],
        &[0xeb, 0xfe],
    ),
    machine(
        ("arm64", "aarch64"),
        (183, 2, false, 0),
        // ldr x0, [sp]; mov x8, #93; svc #0
        &[0xe0, 0x03, 0x40, 0xf9, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4],
        &[0, 0, 0, 0x14],
    ),
    machine(
        ("arm", "arm"),
        (40, 1, false, 0x0500_0000),
        // ldr r0, [sp]; mov r7, #1; svc #0
        &[0, 0, 0x9d, 0xe5, 1, 0x70, 0xa0, 0xe3, 0, 0, 0, 0xef],
        &[0xfe, 0xff, 0xff, 0xea],
    ),
    machine(
        ("riscv64", "riscv64"),
        (243, 2, false, 0),
        // ld a0, 0(sp); li a7, 93; ecall
        &[0x03, 0x35, 1, 0, 0x93, 8, 0xd0, 5, 0x73, 0, 0, 0],
        &[0x6f, 0, 0, 0],
    ),
    machine(
        ("ppc64le", "ppc64le"),
        (21, 2, false, 2),
        // ld r3, 0(r1); li r0, 1; sc
        &[0, 0, 0x61, 0xe8, 1, 0, 0, 0x38, 2, 0, 0, 0x44],
        &[0, 0, 0, 0x48],
    ),
    machine(
        ("s390x", "s390x"),
        (22, 2, true, 0),
        // lg %r2, 0(%r15); svc 1
        &[0xe3, 0x20, 0xf0, 0, 0, 0x04, 0x0a, 1],
        &[0xa7, 0xf4, 0, 0],
    ),
];

/// Where programs are loaded.
const ADDRESS: u64 = 0x10_0000;

/// Bytes of a program's beginning that say which machine it is for.
pub(super) const HEAD: usize = 20;

impl Machine {
    /// Returns the machine of a platform; `None` of one whose programs no Linux runs, or that is not
    /// known.
    pub fn of(platform: &Platform) -> Option<&'static Self> {
        let is_it = |machine: &&Self| machine.architecture == platform.architecture;
        MACHINES.iter().find(is_it).filter(|_| platform.os == "linux")
    }

    /// Returns the machine that a program is for, by its first [`HEAD`] bytes.
    pub fn of_program(head: &[u8]) -> Option<&'static Self> {
        let head = head.get(..HEAD)?;
        MACHINES.iter().find(|machine| {
            let (magic, mask) = machine.magic();
            head.iter().zip(magic.iter().zip(mask)).all(|(a, (b, mask))| (a ^ b) & mask == 0)
        })
    }

    /// Says whether a processor is one that this program was compiled for.
    pub fn is_host(&self) -> bool {
        self.architecture == Platform::host().architecture
    }

    /// Says whether the kernel of this machine may run its programs without an emulator.
    pub fn is_of_family(&self) -> bool {
        let host = Platform::host().architecture;
        self.is_host() || matches!((&*host, self.architecture), ("amd64", "386") | ("arm64", "arm"))
    }

    /// Returns the machine whose emulator a file is by its name: `qemu-aarch64-static`.
    pub fn of_emulator(name: &str) -> Option<&'static Self> {
        let name = name.strip_prefix("qemu-")?;
        let name = name.strip_suffix("-static").unwrap_or(name);
        MACHINES.iter().find(|machine| machine.qemu == name)
    }

    /// Returns the names that its emulator may have, the preferred one first.
    pub fn emulators(&self) -> [String; 2] {
        [format!("qemu-{}-static", self.qemu), format!("qemu-{}", self.qemu)]
    }

    /// The first bytes of its programs, and which bits of them count. The kernel that runs a program
    /// natively looks at no others either.
    fn magic(&self) -> ([u8; HEAD], [u8; HEAD]) {
        let (mut magic, mut mask) = ([0; HEAD], [0; HEAD]);
        let order = u8::from(self.is_big_endian) + 1;
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', self.class, order, 1]);
        mask[..7].fill(0xff);
        // ET_EXEC and ET_DYN, 2 and 3.
        magic[16..18].copy_from_slice(&self.half(2));
        mask[16..18].copy_from_slice(&self.half(0xfffe));
        magic[18..].copy_from_slice(&self.half(self.number));
        mask[18..].fill(0xff);
        (magic, mask)
    }

    /// Says whether its programs have 64 bits.
    pub(super) fn is_wide(&self) -> bool {
        self.class == 2
    }

    fn half(&self, value: u16) -> [u8; 2] {
        if self.is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    /// Returns the rule that binfmt_misc takes, up to the interpreter.
    pub(super) fn rule(&self) -> String {
        let escaped = |bytes: [u8; HEAD]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "\\x{byte:02x}");
                text
            })
        };
        let (magic, mask) = self.magic();
        format!(":qemu-{}:M::{}:{}:", self.qemu, escaped(magic), escaped(mask))
    }

    /// Returns a program that ends at once; its status is the number of its arguments, its own name
    /// among them. An emulator that does not understand what it is given counts others.
    pub fn program(&self) -> Vec<u8> {
        self.file(self.ends)
    }

    /// Returns a program that runs until it is killed.
    pub(super) fn endless(&self) -> Vec<u8> {
        self.file(self.spins)
    }

    /// Returns the file of a program: an ELF header, one segment of all of it, the code.
    fn file(&self, code: &[u8]) -> Vec<u8> {
        let is_wide = self.is_wide();
        let (header, segment): (u16, u16) = if is_wide { (64, 56) } else { (52, 32) };
        let start = u64::from(header + segment);
        let size = start + code.len() as u64;
        let mut out = self.magic().0[..16].to_vec();
        let mut put = |value: u64, bytes: usize| {
            let all = value.to_be_bytes();
            let wanted = &all[8 - bytes..];
            match self.is_big_endian {
                true => out.extend_from_slice(wanted),
                false => out.extend(wanted.iter().rev()),
            }
        };
        let word = if is_wide { 8 } else { 4 };
        put(2, 2);
        put(u64::from(self.number), 2);
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
        out.extend_from_slice(code);
        out
    }
}

/// Returns what the processor of this machine lacks for a variant of its own architecture; nothing
/// for other architectures, and for variants that cannot be asked for.
///
/// Source: System V ABI, AMD64 supplement, "Microarchitecture levels".
pub(super) fn lacking(platform: &Platform) -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! features {
            ($($name:tt),*) => { [$(($name, std::arch::is_x86_feature_detected!($name))),*] };
        }
        let level = match (&*platform.architecture, &*platform.variant) {
            ("amd64", "v2") => 2,
            ("amd64", "v3") => 3,
            ("amd64", "v4") => 4,
            _ => return Vec::new(),
        };
        let second = features!("cmpxchg16b", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2");
        let third =
            features!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave");
        let fourth = features!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
        let levels = [&second[..], &third, &fourth];
        let needed = levels.into_iter().take(level - 1).flatten();
        needed.filter(|(_, is_there)| !is_there).map(|(name, _)| *name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = platform;
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_program_of_this_machine_counts_its_arguments() {
        let machine = Machine::of(&Platform::host()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, machine.program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        for count in 0..3 {
            // Another test's child may have the file open for writing for a moment.
            let ran = loop {
                match std::process::Command::new(&path).args(vec!["x"; count]).status() {
                    Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                    other => break other.unwrap(),
                }
            };
            assert_eq!(ran.code(), Some(count as i32 + 1));
        }
    }

    #[test]
    fn programs_are_known_by_their_first_bytes() {
        for machine in &MACHINES {
            for file in [machine.program(), machine.endless()] {
                assert_eq!(Machine::of_program(&file), Some(machine));
            }
            let mut library = machine.program();
            // An ABI that is marked, and a program that can be loaded anywhere.
            library[7] = 3;
            library[if machine.is_big_endian { 17 } else { 16 }] = 3;
            assert_eq!(Machine::of_program(&library), Some(machine));
            library[if machine.is_big_endian { 17 } else { 16 }] = 1;
            assert_eq!(Machine::of_program(&library), None, "an object file");
            let platform = Platform::new("linux", machine.architecture, "");
            assert_eq!(Machine::of(&platform), Some(machine));
        }
        assert_eq!(Machine::of_program(b"#!/bin/sh"), None);
        assert_eq!(Machine::of(&Platform::new("windows", "amd64", "")), None);
    }

    #[test]
    fn emulators_are_known_by_their_names() {
        let of = |name| Machine::of_emulator(name).map(|machine| machine.architecture);
        assert_eq!(of("qemu-aarch64-static"), Some("arm64"));
        assert_eq!(of("qemu-arm"), Some("arm"));
        assert_eq!(of("qemu-x86_64"), Some("amd64"));
        for other in ["qemu-system-arm", "qemu-img", "box64", "qemu-"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn rules_have_the_form_that_the_kernel_reads() {
        let arm64 = Machine::of(&Platform::new("linux", "arm64", "")).unwrap();
        assert_eq!(
            arm64.rule(),
            r":qemu-aarch64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff:"
        );
    }

    #[test]
    fn what_this_processor_has_is_not_lacking() {
        assert!(lacking(&Platform::host()).is_empty());
        assert!(lacking(&Platform::new("linux", "arm64", "v9")).is_empty());
    }
}
