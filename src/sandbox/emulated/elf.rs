//! Programs as files: what is mapped where, and the first words of a script.
//!
//! What is read here, a step has written. A file that lies can only harm the process that executes it.
//!
//! Source: elf(5); `fs/binfmt_elf.c`, `fs/binfmt_script.c`.

use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use crate::sys::loader::ZERO;

const PAGE: u64 = if cfg!(target_arch = "aarch64") { 65_536 } else { 4096 };

/// Most segments that are looked at.
const SEGMENTS_MAX: u16 = 512;

/// Highest address that a program may ask for.
pub(super) const ADDRESS_MAX: u64 = 1 << 47;

const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
const HEADERS: u32 = 6;
const STACK: u32 = 0x6474_e551;

/// An operation of the loader.
pub(super) type Operation = [u64; 7];

#[derive(Debug, Clone, Copy)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
    alignment: u64,
}

/// A program's headers.
#[derive(Debug)]
pub(super) struct Elf {
    entry: u64,
    headers_at: u64,
    pub count: u16,
    is_fixed: bool,
    segments: Vec<Segment>,
}

/// Where a program is put.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// What is added to its addresses.
    pub base: u64,
    pub entry: u64,
    pub headers: u64,
}

impl Elf {
    /// Reads the headers of a program.
    ///
    /// # Errors
    ///
    /// `ENOEXEC` for what is not a program of this machine with 64 bits.
    pub(super) fn read(file: &File) -> Result<Self, Errno> {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0).map_err(|_| Errno::NOEXEC)?;
        let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let is_native = head.starts_with(b"\x7fELF") && head[4] == 2 && head[5] == 1;
        let kind = half(16);
        if !is_native || !matches!(kind, 2 | 3) || half(18) != MACHINE || half(54) != 56 {
            return Err(Errno::NOEXEC);
        }
        let (headers_at, count) = (long(&head, 32), half(56));
        if count == 0 || count > SEGMENTS_MAX {
            return Err(Errno::NOEXEC);
        }
        let mut bytes = vec![0; usize::from(count) * 56];
        file.read_exact_at(&mut bytes, headers_at).map_err(|_| Errno::NOEXEC)?;
        let segments = bytes.chunks_exact(56).map(|bytes| Segment {
            kind: word(bytes, 0),
            flags: word(bytes, 4),
            offset: long(bytes, 8),
            address: long(bytes, 16),
            in_file: long(bytes, 32),
            in_memory: long(bytes, 40),
            alignment: long(bytes, 48),
        });
        let segments: Vec<_> = segments.collect();
        let is_sane = |segment: &Segment| {
            let ends = [
                segment.address.checked_add(segment.in_memory),
                segment.offset.checked_add(segment.in_file),
            ];
            ends.iter().all(|end| end.is_some_and(|end| end < ADDRESS_MAX))
                && segment.in_file <= segment.in_memory
                && segment.address % PAGE.min(4096) == segment.offset % PAGE.min(4096)
        };
        let mut loaded = segments.iter().filter(|segment| segment.kind == LOAD).peekable();
        if loaded.peek().is_none() || !loaded.all(is_sane) {
            return Err(Errno::NOEXEC);
        }
        Ok(Self { entry: long(&head, 24), headers_at, count, is_fixed: kind == 2, segments })
    }

    /// Reads the path of its interpreter, if it has one.
    pub(super) fn interpreter(&self, file: &File) -> Result<Option<Vec<u8>>, Errno> {
        let Some(segment) = self.segments.iter().find(|segment| segment.kind == INTERPRETER) else {
            return Ok(None);
        };
        if segment.in_file < 2 || segment.in_file > 4096 {
            return Err(Errno::NOEXEC);
        }
        let mut path = vec![0; segment.in_file as usize];
        file.read_exact_at(&mut path, segment.offset).map_err(|_| Errno::IO)?;
        if path.pop() != Some(0) {
            return Err(Errno::NOEXEC);
        }
        Ok(Some(path))
    }

    /// Says whether it wants a stack that can be executed.
    pub(super) fn executes_stack(&self) -> bool {
        self.segments.iter().any(|segment| segment.kind == STACK && segment.flags & 1 != 0)
    }

    /// Says where it goes, about at an address unless it says itself, and what maps it from a
    /// descriptor.
    pub(super) fn place(&self, about: u64, file: i32) -> (Placed, Vec<Operation>) {
        let loaded = || self.segments.iter().filter(|segment| segment.kind == LOAD);
        let alignment = loaded().map(|segment| segment.alignment).filter(|a| a.is_power_of_two());
        let alignment = alignment.max().unwrap_or(PAGE).clamp(PAGE, 1 << 30);
        let lowest = loaded().map(|segment| down(segment.address)).min().unwrap_or(0);
        let base = match self.is_fixed {
            true => 0,
            false => (about & !(alignment - 1)).wrapping_sub(lowest & !(alignment - 1)),
        };
        let mut operations = Vec::new();
        for segment in loaded() {
            operations.extend(segment.operations(base, file));
        }
        let stated = self.segments.iter().find(|segment| segment.kind == HEADERS);
        let headers = stated.map(|segment| segment.address).or_else(|| {
            loaded()
                .find(|segment| {
                    segment.offset <= self.headers_at
                        && self.headers_at < segment.offset + segment.in_file
                })
                .map(|segment| segment.address + (self.headers_at - segment.offset))
        });
        let headers = headers.map_or(0, |headers| base.wrapping_add(headers));
        (Placed { base, entry: base.wrapping_add(self.entry), headers }, operations)
    }
}

impl Segment {
    fn operations(&self, base: u64, file: i32) -> Vec<Operation> {
        let protection = [(4, libc::PROT_READ), (2, libc::PROT_WRITE), (1, libc::PROT_EXEC)];
        let protection = protection.iter().filter(|(flag, _)| self.flags & flag != 0);
        let protection = protection.fold(0, |all, (_, bit)| all | bit) as u64;
        let private = (libc::MAP_PRIVATE | libc::MAP_FIXED) as u64;
        let start = base.wrapping_add(self.address);
        let ahead = start % 4096;
        let data_end = start.wrapping_add(self.in_file);
        let end = up(start.wrapping_add(self.in_memory));
        let mut mapped = down(start);
        let mut operations = Vec::new();
        if self.in_file > 0 {
            operations.push([
                libc::SYS_mmap as u64,
                mapped,
                up(data_end) - mapped,
                protection,
                private,
                file as u64,
                self.offset - ahead.min(self.offset),
            ]);
            mapped = up(data_end);
            if self.in_memory > self.in_file && self.flags & 2 != 0 && mapped > data_end {
                operations.push([ZERO, data_end, mapped - data_end, 0, 0, 0, 0]);
            }
        }
        if end > mapped {
            operations.push([
                libc::SYS_mmap as u64,
                mapped,
                end - mapped,
                protection,
                private | libc::MAP_ANONYMOUS as u64,
                u64::MAX,
                0,
            ]);
        }
        operations
    }
}

/// The beginning of a page, of the size that mmap(2) takes everywhere that we have seen.
fn down(address: u64) -> u64 {
    address & !(4096 - 1)
}

fn up(address: u64) -> u64 {
    down(address.wrapping_add(4095))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Bytes of a file in which the kernel looks for an interpreter.
pub(super) const HEAD: usize = 256;

/// Returns the interpreter of a script and its one argument, from the first bytes.
pub(super) fn script(head: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let line = head.strip_prefix(b"#!")?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = line.iter().position(|&byte| matches!(byte, b'\n' | 0));
    let line = &line[..end.unwrap_or(line.len())];
    let line = &line[line.iter().position(|byte| !is_blank(byte))?..];
    let cut = line.iter().position(is_blank).unwrap_or(line.len());
    let (program, rest) = line.split_at(cut);
    let first = rest.iter().position(|byte| !is_blank(byte));
    let argument = first.map(|first| {
        let last = rest.iter().rposition(|byte| !is_blank(byte)).unwrap_or(first);
        rest[first..=last].to_vec()
    });
    Some((program.to_vec(), argument))
}

/// Asserts what must hold for any file that is executed. For fuzzing.
pub(in super::super) fn probe(file: &File) {
    let mut head = [0; HEAD];
    let length = file.read_at(&mut head, 0).unwrap_or_default();
    if let Some((program, argument)) = script(&head[..length]) {
        let is_blank = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | 0);
        assert!(!program.is_empty() && !program.into_iter().any(is_blank), "another program");
        assert!(argument.is_none_or(|argument| !argument.is_empty()), "an empty argument");
    }
    let Ok(elf) = Elf::read(file) else { return };
    if let Ok(Some(path)) = elf.interpreter(file) {
        assert!((1..4096).contains(&path.len()), "a path that is none");
    }
    let _ = elf.executes_stack();
    for about in [0x5600_0000_0000, 0x7800_0000_0000 + (1 << 39)] {
        let (_, operations) = elf.place(about, 7);
        for [number, at, length, _, flags, file, offset] in operations {
            let end = at.checked_add(length).filter(|end| *end <= 2 * ADDRESS_MAX);
            assert!(end.is_some() && length > 0, "{at:#x} and {length:#x}");
            if number == ZERO {
                assert!(length < 4096 && up(at) == at + length, "more than the rest of a page");
                continue;
            }
            assert_eq!(number, libc::SYS_mmap as u64);
            let is_file = flags & libc::MAP_ANONYMOUS as u64 == 0;
            assert!(at.is_multiple_of(4096) && offset.is_multiple_of(4096), "parts of pages");
            assert!(is_file == (file == 7) && flags & libc::MAP_FIXED as u64 != 0, "another file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_an_interpreter_and_one_argument() {
        for (head, expected) in [
            (&b"#!/bin/sh\necho"[..], Some((&b"/bin/sh"[..], None))),
            (b"#! \t/bin/sh  -e -x \n", Some((b"/bin/sh", Some(&b"-e -x"[..])))),
            (b"#!/bin/sh", Some((b"/bin/sh", None))),
            (b"#!\n/bin/sh", None),
            (b"\x7fELF", None),
        ] {
            let found = script(head);
            let found = found.as_ref().map(|(p, a)| (p.as_slice(), a.as_deref()));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn programs_are_mapped_as_their_headers_say() {
        let file = File::open("/proc/self/exe").unwrap();
        let elf = Elf::read(&file).unwrap();
        let (placed, operations) = elf.place(0x5600_0000_0000, 7);
        assert!(placed.headers > placed.base && operations.len() > 2);
        for operation in &operations {
            assert!(operation[0] == ZERO || operation[1] % 4096 == 0);
            assert!(operation[0] == ZERO || operation[6] % 4096 == 0);
        }
        let script = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Elf::read(script.as_file()).unwrap_err(), Errno::NOEXEC);
    }
}
