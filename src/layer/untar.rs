//! Reading tars that nobody vouches for.
//!
//! The `tar` crate decodes the fields of headers; which headers belong together is decided here,
//! strictly: PAX records and GNU long names apply to the next member only, sizes come from PAX where
//! PAX gives one, and whatever this reader does not understand (sparse members, volumes) is an error,
//! not a guess.
//!
//! Source: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format"; Go archive/tar for what is accepted
//! at the end of an archive.

use super::LayerError;
use super::header::BLOCK;
use std::borrow::Cow;
use std::io::{self, BufRead};
use tar::Header;

/// The most bytes of one PAX header or GNU long name; Go's reader has the same limit.
const SPECIAL_MAX: u64 = 1024 * 1024;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

/// A member of a tar, as it stands there: nothing in it can be trusted.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) kind: MemberKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u32,
    /// Bytes of content that follow; 0 for all but files.
    pub(super) size: u64,
    pub(super) link: Vec<u8>,
    pub(super) major: u32,
    pub(super) minor: u32,
    /// The value of `SCHILY.xattr.security.capability`.
    pub(super) capability: Option<Vec<u8>>,
}

/// PAX records, global or of one member.
#[derive(Debug, Clone, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    capability: Option<Vec<u8>>,
}

/// Reads members one after the other.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    input: R,
    /// Content of the current member not yet read, and the padding after it.
    left: u64,
    padding: u64,
    global: Records,
    /// The current member's path, for errors.
    path: Vec<u8>,
}

impl<R: BufRead> TarReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, global: Records::default(), path: Vec::new() }
    }

    /// Returns the next member, after skipping what was not read of the one before; `None` at the
    /// end mark, or where the input ends between two members.
    pub(super) fn next(&mut self) -> Result<Option<Member>, LayerError> {
        self.skip_content()?;
        let mut records = self.global.clone();
        let mut has_special = false;
        loop {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return if has_special { Err(self.truncated()) } else { Ok(None) };
            }
            if block == [0; BLOCK] {
                // One zero block is taken for the end where the input ends, as Go does.
                if self.block(&mut block)? && block != [0; BLOCK] {
                    return Err(self.malformed("a header follows a zero block"));
                }
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            self.check(header)?;
            let size =
                header.entry_size().map_err(|_| self.malformed("a header's size is no number"))?;
            match header.as_bytes()[156] {
                b'x' => {
                    let text = self.special(size)?;
                    self.records(&text, &mut records)?;
                }
                b'g' => {
                    let text = self.special(size)?;
                    let mut global = std::mem::take(&mut self.global);
                    let result = self.records(&text, &mut global);
                    self.global = global;
                    result?;
                    records = self.global.clone();
                    // A global header alone may end an archive, as git makes them.
                    continue;
                }
                b'L' => records.path = Some(self.long_name(size)?),
                b'K' => records.link = Some(self.long_name(size)?),
                _ => return self.member(header, records).map(Some),
            }
            has_special = true;
        }
    }

    /// Hands the content of the current member to `write`, piece by piece.
    pub(super) fn content(
        &mut self,
        mut write: impl FnMut(&[u8]) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        while self.left > 0 {
            let bytes = match self.input.fill_buf() {
                Ok([]) => return Err(self.truncated()),
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(LayerError::Input { source }),
            };
            let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            write(&bytes[..length])?;
            self.input.consume(length);
            self.left -= length as u64;
        }
        Ok(())
    }

    /// Reads whatever follows the end mark, so that a hash of the input covers it.
    pub(super) fn drain(&mut self) -> Result<(), LayerError> {
        loop {
            match self.input.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(bytes) => {
                    let length = bytes.len();
                    self.input.consume(length);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Input { source }),
            }
        }
    }

    fn skip_content(&mut self) -> Result<(), LayerError> {
        self.content(|_| Ok(()))?;
        self.left = std::mem::take(&mut self.padding);
        // Some writers leave out the padding of the last member; the next header will be missed.
        match self.content(|_| Ok(())) {
            Err(LayerError::Truncated { .. }) => {
                self.left = 0;
                Ok(())
            }
            other => other,
        }
    }

    /// Fills `block`; says `false` at the end of the input.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, LayerError> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.truncated()),
                Ok(length) => filled += length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Input { source }),
            }
        }
        Ok(true)
    }

    /// Verifies the checksum, which some old writers took over signed bytes.
    fn check(&self, header: &Header) -> Result<(), LayerError> {
        let bytes = header.as_bytes();
        let blanked = |i: usize| if (148..156).contains(&i) { b' ' } else { bytes[i] };
        let unsigned: i64 = (0..BLOCK).map(|i| i64::from(blanked(i))).sum();
        let signed: i64 = (0..BLOCK).map(|i| i64::from(blanked(i).cast_signed())).sum();
        match header.cksum() {
            Ok(sum) if i64::from(sum) == unsigned || i64::from(sum) == signed => Ok(()),
            _ => Err(self.malformed("a header's checksum is wrong")),
        }
    }

    fn special(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > SPECIAL_MAX {
            return Err(self.malformed("an extended header is larger than 1 MiB"));
        }
        let mut text = Vec::with_capacity(size as usize);
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        self.content(|bytes| {
            text.extend(bytes);
            Ok(())
        })?;
        self.skip_content()?;
        Ok(text)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        let mut name = self.special(size)?;
        if let Some(end) = name.iter().position(|&b| b == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    /// Parses PAX records into `into`; an empty value takes a global one back.
    fn records(&self, text: &[u8], into: &mut Records) -> Result<(), LayerError> {
        let wrong = || self.malformed("a PAX record is malformed");
        let mut rest = text;
        while !rest.is_empty() {
            let space = rest.iter().take(20).position(|&b| b == b' ').ok_or_else(wrong)?;
            let length: usize = number(&rest[..space]).ok_or_else(wrong)? as usize;
            if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(wrong());
            }
            let record = &rest[space + 1..length - 1];
            rest = &rest[length..];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let numeric = || match value {
                [] => Ok(None),
                value => number(value).map(Some).ok_or_else(wrong),
            };
            let bytes = || {
                if value.contains(&0) {
                    return Err(wrong());
                }
                Ok((!value.is_empty()).then(|| value.to_vec()))
            };
            match key {
                b"path" => into.path = bytes()?,
                b"linkpath" => into.link = bytes()?,
                b"size" => into.size = numeric()?,
                b"uid" => into.uid = numeric()?,
                b"gid" => into.gid = numeric()?,
                b"mtime" => {
                    into.mtime = match value {
                        [] => None,
                        value => Some(pax_time(value).ok_or_else(wrong)?),
                    }
                }
                b"SCHILY.xattr.security.capability" => {
                    into.capability = (!value.is_empty()).then(|| value.to_vec());
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.malformed("sparse members are not supported"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn member(&mut self, header: &Header, records: Records) -> Result<Member, LayerError> {
        self.path = records.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let wrong = |what| self.malformed(what);
        let old = header.as_old();
        let kind = match header.as_bytes()[156] {
            // Before POSIX, folders were files whose name ends in a slash.
            b'0' | 0 | b'7' if self.path.ends_with(b"/") => MemberKind::Dir,
            b'0' | 0 | b'7' => MemberKind::File,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::Char,
            b'4' => MemberKind::Block,
            b'5' => MemberKind::Dir,
            b'6' => MemberKind::Fifo,
            b'S' => return Err(wrong("sparse members are not supported")),
            _ => return Err(wrong("its type is not supported")),
        };
        let size = match records.size {
            Some(size) => size,
            None => or_blank(&old.size, header.entry_size())
                .map_err(|_| wrong("its size is no number"))?,
        };
        // Only files have content; what others claim is a length without bytes, as Go reads it.
        let size = if kind == MemberKind::File { size } else { 0 };
        let id = |pax: Option<u64>, field: io::Result<u64>, what| {
            let value = match pax {
                Some(value) => value,
                None => field.map_err(|_| wrong(what))?,
            };
            u32::try_from(value).map_err(|_| wrong(what))
        };
        let (mtime, mtime_nsec) = match records.mtime {
            Some(time) => time,
            // Base-256 numbers below zero come out of the crate as their two's complement.
            None => {
                let time = or_blank(&old.mtime, header.mtime());
                (time.map_err(|_| wrong("its time is no number"))? as i64, 0)
            }
        };
        let device = |field: io::Result<Option<u32>>| {
            if matches!(kind, MemberKind::Char | MemberKind::Block) {
                Ok(field.map_err(|_| wrong("its device is no number"))?.unwrap_or(0))
            } else {
                Ok(0)
            }
        };
        let member = Member {
            path: self.path.clone(),
            kind,
            mode: or_blank(&old.mode, header.mode()).map_err(|_| wrong("its mode is no number"))?
                & 0o7777,
            uid: id(records.uid, or_blank(&old.uid, header.uid()), "its owner is out of range")?,
            gid: id(records.gid, or_blank(&old.gid, header.gid()), "its group is out of range")?,
            mtime,
            mtime_nsec,
            size,
            link: match records.link {
                Some(link) => link,
                None => header.link_name_bytes().map_or_else(Vec::new, Cow::into_owned),
            },
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
            capability: records.capability,
        };
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(member)
    }

    fn truncated(&self) -> LayerError {
        LayerError::truncated(&self.path)
    }

    fn malformed(&self, what: &'static str) -> LayerError {
        LayerError::malformed(what, &self.path)
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Parses `[-]seconds[.fraction]`, rounding towards the past.
fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        text => (false, text),
    };
    let dot = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(number(&text[..dot])?).ok()?;
    let fraction = text.get(dot + 1..).unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanos = 0;
    for place in 0..9 {
        nanos = nanos * 10 + fraction.get(place).map_or(0, |&b| u32::from(b - b'0'));
    }
    Some(match (is_negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

/// Reads a blank field as zero, as Go and GNU tar do; the crate calls it no number.
fn or_blank<T: Default>(field: &[u8], parsed: io::Result<T>) -> io::Result<T> {
    match field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        true => Ok(T::default()),
        false => parsed,
    }
}

#[cfg(test)]
mod tests {
    use super::pax_time;

    #[test]
    fn pax_times_round_towards_the_past() {
        assert_eq!(pax_time(b"12"), Some((12, 0)));
        assert_eq!(pax_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(pax_time(b"0.1234567899"), Some((0, 123_456_789)));
        for wrong in ["", "x", "1.x", "--1", "1e5", "99999999999999999999"] {
            assert_eq!(pax_time(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
