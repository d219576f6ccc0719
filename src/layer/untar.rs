//! Reading tars from untrusted sources.
//!
//! The `tar` crate decodes the fields of headers; which headers belong together is decided here, as
//! in Go's reader, which all other builders use: PAX records and GNU long names apply to the next
//! member only, a long name wins over a record, the records of a second PAX header replace those of
//! a first, global records are read and have no effect. Sparse members of PAX archives are
//! expanded. The type of a member is not judged here: the caller that takes members refuses those
//! of [`MemberKind::Other`].
//!
//! Source: POSIX.1-2017 pax; GNU tar manual, "Basic Tar Format"; Go archive/tar for what is
//! accepted.

use super::LayerError;
use super::header::BLOCK;
use super::sparse::{self, BAD_MAP, Map, MapReader, Region};
use std::borrow::Cow;
use std::io::{self, BufRead};

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
    /// A type that is not supported; see [`MemberKind::refusal`].
    Other(u8),
}

impl MemberKind {
    /// Explains why a member of this kind cannot be unpacked; `None` where it can.
    pub(super) fn refusal(self) -> Option<&'static str> {
        let Self::Other(flag) = self else { return None };
        Some(match flag {
            b'S' => {
                "sparse members of the old GNU format are not supported, those that \
                 `tar --format=posix --sparse` writes are"
            }
            b'V' => "volume labels are not supported",
            b'D' => "members of incremental dumps (`tar --listed-incremental`) are not supported",
            b'M' => "archives of several volumes are not supported",
            b'7' => "contiguous files (type 7) are not supported",
            _ => "its type is not supported",
        })
    }
}

/// Content of a member, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    Bytes(&'a [u8]),
    /// So many zero bytes that the archive does not hold.
    Hole(u64),
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
    /// Size of the file in bytes, holes included; 0 for all but files.
    pub(super) size: u64,
    pub(super) link: Vec<u8>,
    pub(super) major: u32,
    pub(super) minor: u32,
    /// The value of `SCHILY.xattr.security.capability`.
    pub(super) capability: Option<Vec<u8>>,
}

/// PAX records of one member.
#[derive(Debug, Clone, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    mtime: Option<(i64, u32)>,
    capability: Option<Vec<u8>>,
    sparse: sparse::Records,
}

/// The headers before a member's own.
#[derive(Debug, Default)]
struct Extension {
    records: Records,
    /// GNU's long name and long link target.
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    /// What is wrong with the records, reported when the member's name is known.
    problem: Option<&'static str>,
}

/// Reads members one after the other.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    input: R,
    /// Content of the current member not yet read, and the padding after it.
    left: u64,
    padding: u64,
    /// Data regions of the current member, where it is sparse, and its size.
    sparse: Option<(Vec<Region>, u64)>,
    /// The current member's path, for errors.
    path: Vec<u8>,
}

impl<R: BufRead> TarReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, sparse: None, path: Vec::new() }
    }

    /// Returns the next member, after skipping what was not read of the one before; `None` at the
    /// end mark, or where the input ends between two headers.
    pub(super) fn next(&mut self) -> Result<Option<Member>, LayerError> {
        loop {
            match self.header()? {
                Some(Header::Member(member)) => return Ok(Some(*member)),
                Some(Header::Global) => {}
                None => return Ok(None),
            }
        }
    }

    /// Says whether the input begins with a header of a tar, of whatever type, that is sound with
    /// all that extends it.
    pub(super) fn has_header(&mut self) -> bool {
        matches!(self.header(), Ok(Some(_)))
    }

    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        self.skip_content()?;
        let mut extension = Extension::default();
        loop {
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Ok(None);
            }
            if block == [0; BLOCK] {
                // One zero block is taken for the end where the input ends, as Go does.
                if self.block(&mut block)? && block != [0; BLOCK] {
                    return Err(self.malformed("a header follows a zero block"));
                }
                return Ok(None);
            }
            let header = tar::Header::from_byte_slice(&block);
            self.check(header)?;
            let size = header
                .entry_size()
                .map_err(|_| self.next_malformed("the size in the next header is not a number"))?;
            match header.as_bytes()[156] {
                b'x' => {
                    let text = self.special(size)?;
                    let mut records = Records::default();
                    extension.problem = parse_records(&text, &mut records).err();
                    extension.records = records;
                }
                b'g' => {
                    let text = self.special(size)?;
                    return match parse_records(&text, &mut Records::default()) {
                        Ok(()) => Ok(Some(Header::Global)),
                        Err(_) => Err(self.next_malformed("the next global header is malformed")),
                    };
                }
                b'L' => extension.path = Some(self.long_name(size)?),
                b'K' => extension.link = Some(self.long_name(size)?),
                _ => {
                    let member = self.member(header, extension)?;
                    return Ok(Some(Header::Member(Box::new(member))));
                }
            }
        }
    }

    /// Hands the content of the current member to `write`, piece by piece.
    pub(super) fn pieces(
        &mut self,
        mut write: impl FnMut(Piece<'_>) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let Some((regions, size)) = self.sparse.take() else {
            return self.content(u64::MAX, |bytes| write(Piece::Bytes(bytes)));
        };
        let mut at = 0;
        for region in regions {
            if region.offset > at {
                write(Piece::Hole(region.offset - at))?;
            }
            if self.left < region.length {
                return Err(self.malformed("its sparse map names more data than it has"));
            }
            self.content(region.length, |bytes| write(Piece::Bytes(bytes)))?;
            at = region.offset + region.length;
        }
        if self.left > 0 {
            return Err(self.malformed("it has data that its sparse map does not name"));
        }
        if at < size { write(Piece::Hole(size - at)) } else { Ok(()) }
    }

    /// Hands up to `most` bytes of what the archive holds of the current member to `write`.
    fn content(
        &mut self,
        most: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        let end = self.left.saturating_sub(most);
        while self.left > end {
            let bytes = match self.input.fill_buf() {
                Ok([]) => return Err(self.truncated()),
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(LayerError::Input { source }),
            };
            let length = bytes.len().min(usize::try_from(self.left - end).unwrap_or(usize::MAX));
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
        self.sparse = None;
        self.content(u64::MAX, |_| Ok(()))?;
        self.left = std::mem::take(&mut self.padding);
        // Some writers leave out the padding of the last member; the next header will be missed.
        match self.content(u64::MAX, |_| Ok(())) {
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
    fn check(&self, header: &tar::Header) -> Result<(), LayerError> {
        let bytes = header.as_bytes();
        let blanked = |i: usize| if (148..156).contains(&i) { b' ' } else { bytes[i] };
        let unsigned: i64 = (0..BLOCK).map(|i| i64::from(blanked(i))).sum();
        let signed: i64 = (0..BLOCK).map(|i| i64::from(blanked(i).cast_signed())).sum();
        match header.cksum() {
            Ok(sum) if i64::from(sum) == unsigned || i64::from(sum) == signed => Ok(()),
            _ => Err(self.next_malformed("the checksum of the next header is wrong")),
        }
    }

    fn special(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > SPECIAL_MAX {
            return Err(self.next_malformed("the next extended header is larger than 1 MiB"));
        }
        let mut text = Vec::with_capacity(size as usize);
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        self.content(u64::MAX, |bytes| {
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

    fn member(&mut self, header: &tar::Header, extension: Extension) -> Result<Member, LayerError> {
        let Extension { records, path, link, problem } = extension;
        let sparse = records.sparse.read();
        self.path = path.or(records.path).unwrap_or_else(|| header.path_bytes().into_owned());
        if let Ok(Some(sparse::Sparse { name: Some(name), .. })) = &sparse {
            self.path.clone_from(name);
        }
        if let Some(problem) = problem {
            return Err(self.malformed(problem));
        }
        let sparse = sparse.map_err(|problem| self.malformed(problem))?;
        let wrong = |what| self.malformed(what);
        let old = header.as_old();
        let kind = match header.as_bytes()[156] {
            // Before POSIX, directories were files whose names end in a slash.
            0 if self.path.ends_with(b"/") => MemberKind::Dir,
            b'0' | 0 => MemberKind::File,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::Char,
            b'4' => MemberKind::Block,
            b'5' => MemberKind::Dir,
            b'6' => MemberKind::Fifo,
            other => MemberKind::Other(other),
        };
        let size = match records.size {
            Some(size) => size,
            None => or_blank(&old.size, header.entry_size())
                .map_err(|_| wrong("its size is not a number"))?,
        };
        // Only files have content; what others claim is a length without bytes, as Go reads it.
        let held = if matches!(kind, MemberKind::File | MemberKind::Other(_)) { size } else { 0 };
        let id = |pax: Option<i64>, field: io::Result<u64>, what| {
            let value = match pax {
                Some(value) => value,
                None => {
                    field.ok().and_then(|id| i64::try_from(id).ok()).ok_or_else(|| wrong(what))?
                }
            };
            // Negative ids wrap, and so reach chown(2), which leaves the owner for -1.
            u32::try_from(value)
                .or_else(|_| i32::try_from(value).map(i32::cast_unsigned))
                .map_err(|_| wrong(what))
        };
        let (mtime, mtime_nsec) = match records.mtime {
            Some(time) => time,
            // Base-256 numbers below zero come out of the crate as their two's complement.
            None => {
                let time = or_blank(&old.mtime, header.mtime());
                (time.map_err(|_| wrong("its time is not a number"))? as i64, 0)
            }
        };
        let device = |field: io::Result<Option<u32>>| {
            if matches!(kind, MemberKind::Char | MemberKind::Block) {
                Ok(field.map_err(|_| wrong("its device is not a number"))?.unwrap_or(0))
            } else {
                Ok(0)
            }
        };
        let mut member = Member {
            path: self.path.clone(),
            kind,
            mode: or_blank(&old.mode, header.mode())
                .map_err(|_| wrong("its mode is not a number"))?
                & 0o7777,
            uid: id(records.uid, or_blank(&old.uid, header.uid()), "its owner is out of range")?,
            gid: id(records.gid, or_blank(&old.gid, header.gid()), "its group is out of range")?,
            mtime,
            mtime_nsec,
            size: if kind == MemberKind::File { size } else { 0 },
            link: match link.or(records.link) {
                Some(link) => link,
                None => header.link_name_bytes().map_or_else(Vec::new, Cow::into_owned),
            },
            major: device(header.device_major())?,
            minor: device(header.device_minor())?,
            capability: records.capability,
        };
        self.left = held;
        self.padding = (BLOCK as u64 - held % BLOCK as u64) % BLOCK as u64;
        if let Some(sparse) = sparse {
            if kind != MemberKind::File {
                return Err(self.malformed("only a file can be sparse"));
            }
            member.size = sparse.size.unwrap_or(member.size);
            let regions = match sparse.map {
                Map::Known(regions) => regions,
                Map::InContent => self.map()?,
            };
            if !sparse::are_sound(&regions, member.size) {
                return Err(self.malformed(BAD_MAP));
            }
            self.sparse = Some((regions, member.size));
        }
        Ok(member)
    }

    /// Reads the sparse map at the beginning of the content.
    fn map(&mut self) -> Result<Vec<Region>, LayerError> {
        let mut reader = MapReader::default();
        loop {
            if self.left < BLOCK as u64 {
                return Err(self.malformed(BAD_MAP));
            }
            let mut block = Vec::with_capacity(BLOCK);
            self.content(BLOCK as u64, |bytes| {
                block.extend_from_slice(bytes);
                Ok(())
            })?;
            if let Some(map) = reader.block(&block).map_err(|problem| self.malformed(problem))? {
                return Ok(map);
            }
        }
    }

    fn truncated(&self) -> LayerError {
        LayerError::truncated(&self.path)
    }

    /// A problem of the header after the current member.
    fn next_malformed(&self, what: &'static str) -> LayerError {
        LayerError::malformed_next(what, &self.path)
    }

    fn malformed(&self, what: &'static str) -> LayerError {
        LayerError::malformed(what, &self.path)
    }
}

/// A header with all that extends it.
#[derive(Debug)]
enum Header {
    Member(Box<Member>),
    /// Global PAX records, which have no effect.
    Global,
}

/// Parses PAX records into `into`. A record without a value leaves what the header says.
///
/// # Errors
///
/// What is wrong with the first malformed record.
fn parse_records(text: &[u8], into: &mut Records) -> Result<(), &'static str> {
    const WRONG: &str = "a PAX record is malformed";
    let mut rest = text;
    while !rest.is_empty() {
        let space = rest.iter().take(20).position(|&b| b == b' ').ok_or(WRONG)?;
        let length = number(&rest[..space]).and_then(|n| usize::try_from(n).ok()).ok_or(WRONG)?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return Err(WRONG);
        }
        let record = &rest[space + 1..length - 1];
        rest = &rest[length..];
        let equals = record.iter().position(|&b| b == b'=').ok_or(WRONG)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(WRONG);
        }
        let id = || match value {
            [] => Ok(None),
            [b'-', digits @ ..] => number(digits).map(|id| Some(-(id as i64))).ok_or(WRONG),
            digits => number(digits).map(|id| Some(id as i64)).ok_or(WRONG),
        };
        let bytes = || match value.contains(&0) {
            true => Err(WRONG),
            false => Ok((!value.is_empty()).then(|| value.to_vec())),
        };
        match key {
            b"path" => into.path = bytes()?,
            b"linkpath" => into.link = bytes()?,
            b"size" if value.is_empty() => into.size = None,
            b"size" => into.size = Some(number(value).ok_or(WRONG)?),
            b"uid" => into.uid = id()?,
            b"gid" => into.gid = id()?,
            b"mtime" if value.is_empty() => into.mtime = None,
            b"mtime" => into.mtime = Some(pax_time(value).ok_or(WRONG)?),
            b"SCHILY.xattr.security.capability" => {
                into.capability = (!value.is_empty()).then(|| value.to_vec());
            }
            key => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    into.sparse.take(key, value).ok_or(BAD_MAP)?;
                }
            }
        }
    }
    Ok(())
}

fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&number: &u64| i64::try_from(number).is_ok())
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
