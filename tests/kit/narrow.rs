//! A 32-bit program for x86, made of its bytes: it makes the calls of a table, puts each result in the
//! place of the call's number, and goes on until a call ends it.

/// Where the file lies in memory.
const BASE: u32 = 0x0804_8000;

/// Address of the first call, and of its result; each takes 16 bytes.
pub const CALLS: u32 = BASE + 0x80;

/// Address of the text that calls refer to.
pub const TEXT: u32 = BASE + 0x800;

/// Address of 4096 bytes to write into.
pub const ROOM: u32 = BASE + 0x1000;

/// Ends the program.
pub const EXIT: [u32; 4] = [1, 0, 0, 0];

/// Writes memory to standard output.
pub fn write(address: u32, length: u32) -> [u32; 4] {
    [4, 1, address, length]
}

/// Returns an executable that makes calls, each a number and three arguments, by `int 0x80`.
pub fn program(calls: &[[u32; 4]], text: &[u8]) -> Vec<u8> {
    let mut code = vec![0xbe]; // mov esi, CALLS
    code.extend(CALLS.to_le_bytes());
    code.extend([0x8b, 0x06]); // mov eax, [esi]
    code.extend([0x8b, 0x5e, 4, 0x8b, 0x4e, 8, 0x8b, 0x56, 12]); // mov ebx, ecx, edx, [esi + …]
    code.extend([0xcd, 0x80, 0x89, 0x06]); // int 0x80; mov [esi], eax
    code.extend([0x83, 0xc6, 16, 0xeb, 0xec]); // add esi, 16; jmp back to the first mov eax

    let size = 0x1000_u32;
    let (header, segment) = (52_u16, 32_u16);
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2_u16, 3].iter().flat_map(|half| half.to_le_bytes())); // executable, i386
    let entry = BASE + u32::from(header + segment);
    for word in [1, entry, header.into(), 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    for half in [header, segment, 1, 40, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // One segment: the whole file and the room after it, readable, writable, executable.
    for word in [1, 0, BASE, BASE, size, 2 * size, 7, 0x1000] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(code);
    file.resize((CALLS - BASE) as usize, 0);
    file.extend(calls.iter().flatten().flat_map(|word| word.to_le_bytes()));
    assert!(file.len() <= (TEXT - BASE) as usize, "too many calls");
    file.resize((TEXT - BASE) as usize, 0);
    file.extend(text);
    file.resize(size as usize, 0);
    file
}

/// Says whether the machine's kernel runs 32-bit programs, after trying one in `dir`.
pub fn is_run_here(dir: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let probe = dir.join("narrow-probe");
    std::fs::write(&probe, program(&[EXIT], b"")).expect("write");
    std::fs::set_permissions(&probe, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let ends = std::process::Command::new(&probe).status().is_ok_and(|status| status.success());
    std::fs::remove_file(&probe).expect("remove");
    if !ends {
        cannot_run_here!(optional: "this kernel runs no 32-bit programs");
    }
    ends
}
