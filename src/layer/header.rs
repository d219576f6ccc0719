//! The headers of tar entries, as bytes.
//!
//! ustar, with a PAX header in front where a value does not fit, because that is what Docker and
//! containerd write. The `tar` crate would write GNU records (`././@LongLink`, base-256 numbers)
//! into ustar headers instead (tar-rs#318).
//!
//! A PAX header holds only what the ustar header cannot: `path` and `linkpath` that are long or not
//! ASCII, `size` from 8 GiB, `uid` and `gid` from 2^21, `mtime` before 1970 or after 2242, and file
//! capabilities as `SCHILY.xattr.security.capability`. Times of layers are whole seconds. Names
//! that are no UTF-8 stand in `path` as they are, without the `hdrcharset` that POSIX asks for: Go,
//! Python and GNU tar all take the bytes, and the last warns about the keyword.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".

use super::walk::{LayerEntry, LayerEntryKind};
use super::{OPAQUE_MARKER, WHITEOUT_PREFIX};

/// The unit of a tar.
pub(super) const BLOCK: usize = 512;

/// What an entry's name in the tar is: directories end in `/`, whiteouts are files of a certain
/// name.
pub(super) fn tar_name(entry: &LayerEntry<'_>, out: &mut Vec<u8>) {
    out.clear();
    match entry.kind {
        LayerEntryKind::Whiteout => {
            let name = entry.path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
            out.extend(&entry.path[..name]);
            out.extend(WHITEOUT_PREFIX);
            out.extend(&entry.path[name..]);
        }
        LayerEntryKind::Opaque => {
            out.extend(entry.path);
            if !entry.path.is_empty() {
                out.push(b'/');
            }
            out.extend(OPAQUE_MARKER);
        }
        LayerEntryKind::Dir => {
            out.extend(entry.path);
            out.push(b'/');
        }
        _ => out.extend(entry.path),
    }
}

/// Appends the header of `entry`, PAX header included, to `out`.
///
/// `name` is its [`tar_name`], `mtime` its time in seconds since 1970, and nanoseconds on top,
/// which layers do not have.
pub(super) fn append(
    out: &mut Vec<u8>,
    entry: &LayerEntry<'_>,
    name: &[u8],
    (mtime, nanoseconds): (i64, u32),
) {
    let mut header = Header::new();
    let mut pax = Vec::new();

    let typeflag = match (entry.hard_link, entry.kind) {
        (Some(_), _) => b'1',
        (None, LayerEntryKind::File { .. } | LayerEntryKind::Whiteout | LayerEntryKind::Opaque) => {
            b'0'
        }
        (None, LayerEntryKind::Symlink { .. }) => b'2',
        (None, LayerEntryKind::Char { .. }) => b'3',
        (None, LayerEntryKind::Block { .. }) => b'4',
        (None, LayerEntryKind::Dir) => b'5',
        (None, LayerEntryKind::Fifo) => b'6',
    };
    header.0[156] = typeflag;
    header.octal(100..108, u64::from(entry.mode));

    // Records go in the order of their keys.
    let size = if let (None, LayerEntryKind::File { size }) = (entry.hard_link, entry.kind) {
        size
    } else {
        0
    };
    let link: &[u8] = match (entry.hard_link, entry.kind) {
        (Some(first), _) => first,
        (None, LayerEntryKind::Symlink { target }) => target,
        _ => b"",
    };
    // Hard links repeat it, as Docker's do: who applies their owner loses the capability.
    if !entry.capability.is_empty() {
        record(&mut pax, "SCHILY.xattr.security.capability", entry.capability);
    }
    let whole = header.number(116..124, u64::from(entry.gid));
    if !whole {
        record(&mut pax, "gid", entry.gid.to_string().as_bytes());
    }
    let names_fit = header.name(name);
    let link_fits = link.is_ascii() && link.len() <= 100;
    if link_fits {
        header.0[157..157 + link.len()].copy_from_slice(link);
    } else {
        header.short(157..257, link);
        record(&mut pax, "linkpath", link);
    }
    let is_written = u64::try_from(mtime).is_ok_and(|seconds| header.number(136..148, seconds));
    if !is_written || nanoseconds != 0 {
        record(&mut pax, "mtime", decimal(mtime, nanoseconds).as_bytes());
    }
    if !names_fit {
        header.short(0..100, name);
        record(&mut pax, "path", name);
    }
    if !header.number(124..136, size) {
        record(&mut pax, "size", size.to_string().as_bytes());
    }
    if !header.number(108..116, u64::from(entry.uid)) {
        record(&mut pax, "uid", entry.uid.to_string().as_bytes());
    }
    let (major, minor) = match (entry.hard_link, entry.kind) {
        (None, LayerEntryKind::Char { major, minor } | LayerEntryKind::Block { major, minor }) => {
            (major, minor)
        }
        _ => (0, 0),
    };
    // Linux has 12 bits of major and 20 of minor: both fit 21.
    header.number(329..337, u64::from(major));
    header.number(337..345, u64::from(minor));

    if !pax.is_empty() {
        let mut extended = Header::new();
        let file = name.strip_suffix(b"/").unwrap_or(name);
        let file = &file[file.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1)..];
        let mut title = b"PaxHeaders.0/".to_vec();
        title.extend(file);
        extended.short(0..100, &title);
        extended.0[156] = b'x';
        extended.octal(100..108, 0);
        extended.octal(108..116, 0);
        extended.octal(116..124, 0);
        extended.number(124..136, pax.len() as u64);
        extended.octal(136..148, 0);
        extended.finish(out);
        out.extend(&pax);
        pad(out, pax.len() as u64);
    }
    header.finish(out);
}

/// Writes a time as PAX does: `12`, `12.000000001`, `-0.5` for half a second before 1970.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000)
}

/// Appends the zeros that fill the last block of `size` bytes.
pub(super) fn pad(out: &mut Vec<u8>, size: u64) {
    let rest = (size % BLOCK as u64) as usize;
    if rest != 0 {
        out.resize(out.len() + BLOCK - rest, 0);
    }
}

/// Appends a PAX record: its own length in decimal, a space, key, `=`, value, newline.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    loop {
        let exact = rest + length.to_string().len();
        if exact == length {
            break;
        }
        length = exact;
    }
    out.extend(length.to_string().as_bytes());
    out.push(b' ');
    out.extend(key.as_bytes());
    out.push(b'=');
    out.extend(value);
    out.push(b'\n');
}

struct Header([u8; BLOCK]);

impl Header {
    fn new() -> Self {
        let mut header = [0; BLOCK];
        header[257..265].copy_from_slice(b"ustar\x0000");
        Self(header)
    }

    /// Writes `value` with leading zeros and a final NUL.
    fn octal(&mut self, field: std::ops::Range<usize>, value: u64) {
        let mut rest = value;
        for i in (field.start..field.end - 1).rev() {
            self.0[i] = b'0' + (rest & 7) as u8;
            rest >>= 3;
        }
    }

    /// Writes `value` where it fits, and 0 where it does not; says whether it did.
    fn number(&mut self, field: std::ops::Range<usize>, value: u64) -> bool {
        let digits = field.len() - 1;
        let fits = value >> (3 * digits) == 0;
        self.octal(field, if fits { value } else { 0 });
        fits
    }

    /// Writes an ASCII name, split between `prefix` and `name` if need be; says whether it fits.
    fn name(&mut self, name: &[u8]) -> bool {
        if !name.is_ascii() {
            return false;
        }
        if name.len() <= 100 {
            self.0[..name.len()].copy_from_slice(name);
            return true;
        }
        // The leftmost `/` that leaves at most 100 bytes; what is before it must fit 155, and what
        // is after it must not be empty, so the slash that ends a directory's name is none.
        let first = name.len() - 101;
        let Some(slash) = name[first..name.len() - 1].iter().position(|&b| b == b'/') else {
            return false;
        };
        let (prefix, rest) = (&name[..first + slash], &name[first + slash + 1..]);
        if prefix.is_empty() || prefix.len() > 155 {
            return false;
        }
        self.0[345..345 + prefix.len()].copy_from_slice(prefix);
        self.0[..rest.len()].copy_from_slice(rest);
        true
    }

    /// Writes as much of `value` as fits, other bytes than ASCII left out: for readers without PAX.
    fn short(&mut self, field: std::ops::Range<usize>, value: &[u8]) {
        let ascii = value.iter().copied().filter(u8::is_ascii).filter(|&b| b != 0);
        for (place, byte) in self.0[field].iter_mut().zip(ascii) {
            *place = byte;
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&b| u64::from(b)).sum();
        // Six digits, NUL, space: the checksum's own form.
        self.octal(148..155, sum);
        out.extend(&self.0);
    }
}
