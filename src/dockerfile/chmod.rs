//! `--chmod`: octal and symbolic modes.
//!
//! Source: chmod(1) of the BSDs, which is the form BuildKit's parser takes. There is no umask.

/// A value of `--chmod` that is not a mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not a mode: expected octal digits up to 07777, or clauses such as u=rwX,go=rX"
)]
pub struct ChmodError {
    /// The value.
    pub value: String,
}

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;
/// All that `=` clears when no class of users is named: everything but the sticky bit.
const STANDARD: u32 = SETUID | SETGID | 0o777;

/// A parsed `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChmodSpec(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Octal(u32),
    Symbolic(Vec<Change>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Clear(u32),
    Set(u32),
    /// Sets these execute bits on directories and on what any class of users could execute before.
    SetIfExecutable(u32),
    /// Combines the rwx bits of one class (its shift) into the classes of a mask.
    CopyClass {
        from: u32,
        classes: u32,
        sign: u8,
    },
}

impl ChmodSpec {
    /// Parses `0755`, `4711`, `u=rwX,go=rX`, `a+x`, `g=u`, `+t` and the like.
    ///
    /// # Errors
    ///
    /// [`ChmodError`] for anything else, and for octal numbers above `07777`.
    pub fn parse(text: &str) -> Result<Self, ChmodError> {
        let bad = || ChmodError { value: text.to_owned() };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| bad())?;
            return if mode > 0o7777 { Err(bad()) } else { Ok(Self(Form::Octal(mode))) };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause.as_bytes(), &mut changes).ok_or_else(bad)?;
        }
        Ok(Self(Form::Symbolic(changes)))
    }

    /// Returns what a file of `mode` gets.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let changes = match &self.0 {
            Form::Octal(octal) => return *octal,
            Form::Symbolic(changes) => changes,
        };
        let mut new = mode & 0o7777;
        for change in changes {
            match *change {
                Change::Clear(bits) => new &= !bits,
                Change::Set(bits) => new |= bits,
                Change::SetIfExecutable(bits) => {
                    if is_dir || mode & EXECUTE != 0 {
                        new |= bits;
                    }
                }
                Change::CopyClass { from, classes, sign } => {
                    let value = (((new >> from) & 7) * 0o111) & classes;
                    match sign {
                        b'+' => new |= value,
                        b'-' => new &= !value,
                        _ => new = (new & !classes) | value,
                    }
                }
            }
        }
        new
    }

    /// Returns the mode of directories that the copy creates above its destination: an octal mode
    /// without its special bits, and 0755 under a symbolic one.
    pub fn implied_dir_mode(&self) -> u32 {
        match self.0 {
            Form::Octal(octal) => octal & 0o777,
            Form::Symbolic(_) => 0o755,
        }
    }
}

/// Appends what one clause between commas does; `None` when it is malformed.
fn parse_clause(clause: &[u8], changes: &mut Vec<Change>) -> Option<()> {
    let mut at = 0;
    let mut who = 0;
    while let Some(bits) = clause.get(at).and_then(|class| match class {
        b'a' => Some(STANDARD),
        b'u' => Some(SETUID | 0o700),
        b'g' => Some(SETGID | 0o070),
        b'o' => Some(0o007),
        _ => None,
    }) {
        who |= bits;
        at += 1;
    }
    if at == clause.len() {
        return None;
    }
    while at < clause.len() {
        let sign = clause[at];
        if !matches!(sign, b'+' | b'-' | b'=') {
            return None;
        }
        at += 1;
        at += parse_permissions(&clause[at..], sign, &mut who, changes);
    }
    Some(())
}

/// Parses the letters after a sign and returns how many there were.
fn parse_permissions(text: &[u8], sign: u8, who: &mut u32, changes: &mut Vec<Change>) -> usize {
    let names_only_others = *who != 0 && *who & !0o007 == 0;
    let mut pending = Pending { sign, ..Pending::default() };
    let mut at = 0;
    while let Some(letter) = text.get(at) {
        match letter {
            b'r' => pending.bits |= READ,
            b'w' => pending.bits |= WRITE,
            b'x' => pending.bits |= EXECUTE,
            b'X' if sign == b'-' => pending.bits |= EXECUTE,
            b'X' => pending.if_executable |= EXECUTE,
            b's' | b't' if names_only_others => {}
            b's' => pending.bits |= SETUID | SETGID,
            b't' => {
                *who |= if *who == 0 { 0 } else { STICKY };
                pending.bits |= STICKY;
            }
            b'u' | b'g' | b'o' => {
                if pending.bits != 0 {
                    pending.flush(*who, changes);
                }
                // A class copied with `=` replaces by itself, so nothing is cleared for it.
                pending.is_cleared = true;
                pending.flush_conditional(*who, changes);
                let from = match letter {
                    b'u' => 6,
                    b'g' => 3,
                    _ => 0,
                };
                let classes = if *who == 0 { 0o777 } else { *who & 0o777 };
                changes.push(Change::CopyClass { from, classes, sign });
            }
            _ => break,
        }
        at += 1;
    }
    if pending.bits != 0 || sign == b'=' && !pending.is_cleared {
        pending.flush(*who, changes);
    }
    pending.flush_conditional(*who, changes);
    at
}

/// The letters read since the last change was written down.
#[derive(Default)]
struct Pending {
    sign: u8,
    bits: u32,
    if_executable: u32,
    is_cleared: bool,
}

impl Pending {
    fn flush(&mut self, who: u32, changes: &mut Vec<Change>) {
        if self.sign == b'=' {
            changes.push(Change::Clear(if who == 0 { STANDARD } else { who }));
            self.is_cleared = true;
        }
        let bits = std::mem::take(&mut self.bits) & if who == 0 { u32::MAX } else { who };
        changes.push(if self.sign == b'-' { Change::Clear(bits) } else { Change::Set(bits) });
    }

    fn flush_conditional(&mut self, who: u32, changes: &mut Vec<Change>) {
        let bits = std::mem::take(&mut self.if_executable);
        if bits != 0 {
            changes.push(Change::SetIfExecutable(bits & if who == 0 { u32::MAX } else { who }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_what_chmod_makes_them() {
        const CASES: [(&str, u32, bool, u32); 27] = [
            ("0640", 0o755, false, 0o640),
            ("755", 0o600, true, 0o755),
            ("4711", 0o644, false, 0o4711),
            ("1777", 0o755, true, 0o1777),
            ("0", 0o755, false, 0),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o755, false, 0o700),
            ("-w", 0o666, false, 0o444),
            ("g=u", 0o750, false, 0o770),
            ("o=g", 0o754, false, 0o755),
            ("g+u", 0o640, false, 0o660),
            ("g-u", 0o770, false, 0o700),
            ("u=rwx,g=rx,o=", 0o4777, false, 0o750),
            ("=", 0o4777, false, 0),
            ("=rx", 0o777, false, 0o555),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o755, true, 0o1755),
            ("a=", 0o1777, true, 0o1000),
            ("u+x-w", 0o644, false, 0o544),
            ("a-X", 0o755, false, 0o644),
            ("u=rg", 0o060, false, 0o660),
        ];
        for (text, mode, is_dir, expected) in CASES {
            let spec = ChmodSpec::parse(text).unwrap();
            assert_eq!(spec.apply(mode, is_dir), expected, "{text} on {mode:o}");
        }
    }

    #[test]
    fn malformed_modes_are_refused() {
        for text in ["", "99999", "10000", "8", "0x1", "u", "u=rwx,", "rwx", "u~x", "u=q", "7 5"] {
            assert!(matches!(ChmodSpec::parse(text), Err(ChmodError { .. })), "{text}");
        }
    }

    #[test]
    fn implied_directories_take_octal_permissions_only() {
        assert_eq!(ChmodSpec::parse("1700").unwrap().implied_dir_mode(), 0o700);
        assert_eq!(ChmodSpec::parse("u=rx").unwrap().implied_dir_mode(), 0o755);
    }
}
