//! A program loader of a few instructions, for processes whose kernel cannot find their programs.
//!
//! Where a step's files are not at the paths that the step knows, execve(2) can open neither a program
//! nor its interpreter. There a process executes this loader instead, which asks for a list of
//! operations by one call, [`ASK`], that a supervisor answers: system calls that map the program and
//! its interpreter, and then a jump. All that takes thought is done by the supervisor.
//!
//! | number of an operation | arguments |
//! |---|---|
//! | of a system call | its six arguments; one that fails ends the process with status 127 |
//! | [`ZERO`] | address and length of what is filled with zeros |
//! | [`JUMP`] | stack pointer and address of what runs next |
//!
//! Only x86-64 has been run; the instructions for AArch64 are the same, one by one.
//!
//! Source: elf(5); the System V ABI of both architectures.

#![expect(unsafe_code, reason = "instructions of its own are outside of the language")]

use rustix::fs::MemfdFlags;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

/// First argument of the prctl(2) by which the loader asks; the second is its stack pointer. It
/// returns the address of the first operation.
pub const ASK: u32 = 0x4255_4c44;

/// Length of an operation: its number and six arguments, 64 bits each.
pub const OPERATION: usize = 56;

/// Number of the operation that jumps.
pub const JUMP: u64 = u64::MAX;

/// Number of the operation that fills with zeros.
pub const ZERO: u64 = u64::MAX - 1;

/// Address of the loader: out of the way of programs, with room for a heap above.
const BASE: u64 = if cfg!(target_arch = "aarch64") { 0x54_0000_0000 } else { 0x5500_0000_0000 };

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.builder_loader, \"a\"",
    ".globl builder_loader_start",
    ".globl builder_loader_end",
    "builder_loader_start:",
    "mov eax, 157", // prctl
    "mov edi, {ask}",
    "mov rsi, rsp",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "syscall",
    "test rax, rax",
    "js 5f",
    "mov r12, rax",
    "2:",
    "mov rax, [r12]",
    "mov rdi, [r12 + 8]",
    "mov rsi, [r12 + 16]",
    "cmp rax, -1",
    "je 4f",
    "cmp rax, -2",
    "je 3f",
    "mov rdx, [r12 + 24]",
    "mov r10, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "mov r9, [r12 + 48]",
    "syscall",
    "cmp rax, -4095",
    "jae 5f",
    "add r12, 56",
    "jmp 2b",
    "3:",
    "mov rcx, rsi",
    "xor eax, eax",
    "cld",
    "rep stosb",
    "add r12, 56",
    "jmp 2b",
    "4:",
    "mov rsp, rdi",
    "mov r11, rsi",
    "xor eax, eax",
    "xor ebx, ebx",
    "xor ecx, ecx",
    "xor edx, edx",
    "xor esi, esi",
    "xor edi, edi",
    "xor ebp, ebp",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r12d, r12d",
    "jmp r11",
    "5:",
    "mov edi, 127",
    "mov eax, 231", // exit_group
    "syscall",
    "ud2",
    "builder_loader_end:",
    ".popsection",
    ask = const ASK,
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.builder_loader, \"a\"",
    ".globl builder_loader_start",
    ".globl builder_loader_end",
    ".balign 4",
    "builder_loader_start:",
    "mov w0, {low}",
    "movk w0, {high}, lsl #16",
    "mov x1, sp",
    "mov x2, #0",
    "mov x3, #0",
    "mov x4, #0",
    "mov x8, #167", // prctl
    "svc #0",
    "tbnz x0, #63, 6f",
    "mov x19, x0",
    "2:",
    "ldr x8, [x19]",
    "ldp x0, x1, [x19, #8]",
    "cmn x8, #1",
    "b.eq 5f",
    "cmn x8, #2",
    "b.eq 3f",
    "ldp x2, x3, [x19, #24]",
    "ldp x4, x5, [x19, #40]",
    "svc #0",
    "cmn x0, #4095",
    "b.hs 6f",
    "4:",
    "add x19, x19, #56",
    "b 2b",
    "3:",
    "cbz x1, 4b",
    "strb wzr, [x0], #1",
    "sub x1, x1, #1",
    "b 3b",
    "5:",
    "mov sp, x0",
    "mov x16, x1",
    "mov x0, #0",
    "mov x1, #0",
    "mov x2, #0",
    "mov x3, #0",
    "mov x4, #0",
    "mov x5, #0",
    "mov x8, #0",
    "mov x19, #0",
    "mov x29, #0",
    "mov x30, #0",
    "br x16",
    "6:",
    "mov x0, #127",
    "mov x8, #94", // exit_group
    "svc #0",
    "udf #0",
    "builder_loader_end:",
    ".popsection",
    low = const ASK & 0xffff,
    high = const ASK >> 16,
);

unsafe extern "C" {
    static builder_loader_start: u8;
    static builder_loader_end: u8;
}

/// Returns the instructions.
fn instructions() -> &'static [u8] {
    let (start, end) = (&raw const builder_loader_start, &raw const builder_loader_end);
    let length = end.addr() - start.addr();
    // SAFETY: both symbols are in one piece of read-only data of this program, the end after the
    // start, and nothing writes there.
    unsafe { std::slice::from_raw_parts(start, length) }
}

/// Returns the loader as a static program.
fn program() -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    let code = instructions();
    let start = HEADER + 2 * SEGMENT;
    let size = start + code.len() as u64;
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut put = |number: &[u8]| bytes.extend_from_slice(number);
    put(&2_u16.to_le_bytes());
    put(&machine.to_le_bytes());
    put(&1_u32.to_le_bytes());
    for word in [BASE + start, HEADER, 0] {
        put(&word.to_le_bytes());
    }
    put(&0_u32.to_le_bytes());
    for half in [HEADER as u16, SEGMENT as u16, 2, 64, 0, 0] {
        put(&half.to_le_bytes());
    }
    // All of the file, to be read and executed; then a stack that is not to be executed.
    let (load, stack) = (1_u32, 0x6474_e551_u32);
    for (kind, flags, words) in
        [(load, 5_u32, [0, BASE, BASE, size, size, 0x1_0000]), (stack, 6, [0, 0, 0, 0, 0, 16])]
    {
        put(&kind.to_le_bytes());
        put(&flags.to_le_bytes());
        for word in words {
            put(&word.to_le_bytes());
        }
    }
    bytes.extend_from_slice(code);
    bytes
}

/// Makes the loader, as a file in memory.
///
/// # Errors
///
/// What memfd_create(2) and write(2) say.
pub fn make() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux before 6.3 does not know that a file may say that it is a program.
    let file = rustix::fs::memfd_create("loader", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("loader", flags))?;
    let mut file = std::fs::File::from(file);
    file.write_all(&program())?;
    // What one process of a step could change, all would execute.
    use rustix::fs::SealFlags;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}
