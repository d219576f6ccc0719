//! Arguments, variables and auxiliary values of a program, as they lie on its stack.
//!
//! The process whose memory that is may have written it itself.

use rustix::io::Errno;

use super::elf::ADDRESS_MAX;

/// Longest list of arguments, variables and auxiliary values, in bytes.
const VECTORS_MAX: usize = 8 << 20;

/// Bytes that there are below a stack, for what is put there.
const ROOM: u64 = 1 << 20;

/// What the kernel has put at the end of a new stack: arguments, variables, auxiliary values.
#[derive(Debug)]
pub(super) struct Vectors {
    words: Vec<u64>,
    count: usize,
    /// Index of the first auxiliary value.
    values: usize,
}

impl Vectors {
    /// Reads it from the memory of a process, at the address where its stack begins.
    ///
    /// # Errors
    ///
    /// `EFAULT` for what the kernel does not put there, `E2BIG`, and what reading says.
    pub(super) fn read(
        stack: u64,
        mut read: impl FnMut(&mut [u8], u64) -> Result<(), Errno>,
    ) -> Result<Self, Errno> {
        // Where the kernel puts it; whole words come out of whole pages. There is room for what is put
        // below.
        if !stack.is_multiple_of(16) || !(ROOM..ADDRESS_MAX).contains(&stack) {
            return Err(Errno::FAULT);
        }
        let mut words: Vec<u64> = Vec::new();
        let mut piece = vec![0; 4096];
        let mut zeros = (0, 0);
        let (mut at, mut pair) = (1, 0);
        loop {
            // Up to the end of a page: the next may not be there.
            let from = stack.checked_add(8 * words.len() as u64).ok_or(Errno::FAULT)?;
            let length = 4096 - (from % 4096) as usize;
            read(&mut piece[..length], from)?;
            words.extend(
                piece[..length]
                    .chunks_exact(8)
                    .map(|word| word.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte))),
            );
            while at < words.len() && zeros.1 == 0 {
                if words[at] == 0 {
                    zeros = if zeros.0 == 0 { (at, 0) } else { (zeros.0, at) };
                }
                at += 1;
            }
            if zeros.1 != 0 {
                let values = zeros.1 + 1;
                pair = pair.max(values);
                while pair + 1 < words.len() && words[pair] != 0 {
                    pair += 2;
                }
                if pair + 1 < words.len() {
                    words.truncate(pair + 2);
                    let count = usize::try_from(words[0]).map_err(|_| Errno::FAULT)?;
                    if count.checked_add(1) != Some(zeros.0) {
                        return Err(Errno::FAULT);
                    }
                    return Ok(Self { words, count, values });
                }
            }
            if words.len() * 8 > VECTORS_MAX {
                return Err(Errno::TOOBIG);
            }
        }
    }

    /// Sets the auxiliary values of a kind.
    pub(super) fn set(&mut self, kind: u64, value: u64) {
        let mut at = self.values;
        while at + 1 < self.words.len() {
            if self.words[at] == kind {
                self.words[at + 1] = value;
            }
            at += 2;
        }
    }

    /// Lays them out anew with what a program was called by and, of a script, what comes in the place of
    /// the first argument, so that they end where they did. Returns the bytes, the address at which
    /// they begin, and that of the name of the process.
    pub(super) fn with(
        mut self,
        called: &[u8],
        arguments: Option<&[Vec<u8>]>,
        stack: u64,
    ) -> (Vec<u8>, u64, u64) {
        let end = stack + 8 * self.words.len() as u64;
        let mut strings: Vec<u8> = Vec::new();
        let mut places = Vec::new();
        let name = called.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let comm: &[u8] = &name[..name.len().min(15)];
        let words = arguments.into_iter().flatten().map(Vec::as_slice);
        for text in [comm, called].into_iter().chain(words) {
            places.push(strings.len() as u64);
            strings.extend_from_slice(text);
            strings.push(0);
        }
        let strings_at = (end - strings.len() as u64) & !15;
        let at = |index: usize| strings_at + places[index];
        self.set(libc::AT_EXECFN, at(1));
        if let Some(arguments) = arguments {
            let first: Vec<u64> = (0..arguments.len()).map(|index| at(index + 2)).collect();
            let skipped = self.count.min(1);
            self.words.splice(1..=skipped, first);
            self.words[0] = (self.count - skipped + arguments.len()) as u64;
        }
        let begins = (strings_at - 8 * self.words.len() as u64) & !15;
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize((strings_at - begins) as usize, 0);
        bytes.extend_from_slice(&strings);
        (bytes, begins, at(0))
    }
}

/// Asserts what must hold for the memory of any process. For fuzzing.
pub(in super::super) fn probe(memory: &[u8], called: &[u8], arguments: Option<&[Vec<u8>]>) {
    const STACK: u64 = 0x7ffd_0000_0010;
    let read_from = |memory: &[u8], stack: u64| {
        Vectors::read(stack, |bytes, at| {
            // What comes after it is as empty as a new stack.
            let from = usize::try_from(at - stack).map_err(|_| Errno::FAULT)?;
            if from > memory.len() + 8192 {
                return Err(Errno::FAULT);
            }
            bytes.fill(0);
            let rest = memory.get(from..).unwrap_or_default();
            let length = rest.len().min(bytes.len());
            bytes[..length].copy_from_slice(&rest[..length]);
            Ok(())
        })
    };
    let Ok(mut vectors) = read_from(memory, STACK) else { return };
    vectors.set(libc::AT_PHNUM, 7);
    let (count, end) = (vectors.count, STACK + 8 * vectors.words.len() as u64);
    let (bytes, stack, comm) = vectors.with(called, arguments, STACK);
    let room = end.checked_sub(stack + bytes.len() as u64);
    assert!(stack.is_multiple_of(16) && room.is_some_and(|room| room < 16), "another end");
    let text_at = |address: u64| {
        let from = usize::try_from(address.checked_sub(stack)?).ok()?;
        bytes.get(from..)?.split(|&byte| byte == 0).next()
    };
    assert!(text_at(comm).is_some_and(|comm| comm.len() <= 15), "no name");
    // Strings that have a zero in them end there, as they do for the kernel.
    let ends = |text: &[u8]| text.split(|&byte| byte == 0).next().map(<[u8]>::to_vec);
    let again = read_from(&bytes, stack).map(|again| (again.count, again.words));
    let (now, words) = again.unwrap_or_default();
    let first = arguments.map_or(count, |words| count - count.min(1) + words.len());
    assert_eq!(now, first, "arguments are lost");
    for (index, argument) in arguments.unwrap_or_default().iter().enumerate() {
        let text = words.get(index + 1).and_then(|address| text_at(*address));
        assert_eq!(text.map(<[u8]>::to_vec), ends(argument), "another argument");
    }
}
