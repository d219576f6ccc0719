//! Compressed streams, recognised by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Not at all, or in an unknown way.
    Plain,
    /// gzip, possibly of several members.
    Gzip,
    /// Zstandard, possibly of several frames.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

/// The largest zstd window a decoder allocates, as a power of two: 128 MiB, what `zstd --long`
/// makes and what containerd takes. A frame that asks for more is refused.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The most memory an xz decoder may take: enough for `xz -9`, which needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 128 * 1024 * 1024;

/// Returns the compression, by the first bytes of a stream; six are enough.
///
/// Source: RFC 1952 2.3.1, RFC 8878 3.1.1 and 3.1.2, the formats of bzip2 and xz.
pub fn detect(start: &[u8]) -> Format {
    match start {
        [0x1f, 0x8b, 8, ..] => Format::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Format::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
        _ => Format::Plain,
    }
}

/// Returns a reader of what `input` holds, decompressed where its first bytes say so.
///
/// # Errors
///
/// Whatever reading the first bytes gives. Damage shows up when the result is read.
pub fn decompress<'r>(input: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    // The first read of a pipe may be short.
    let mut start = Vec::new();
    input.by_ref().take(6).read_to_end(&mut start)?;
    let format = detect(&start);
    let input = BufReader::with_capacity(256 * 1024, io::Cursor::new(start).chain(input));
    decompress_as(format, input)
}

/// Returns a reader of what `input` holds, which is compressed by `format`.
///
/// What follows the last member, frame or stream and does not begin another is not part of the
/// content: tools pad streams, and append line ends and signatures.
///
/// # Errors
///
/// Where a decoder cannot be made.
pub fn decompress_as<'r>(
    format: Format,
    input: impl BufRead + Send + 'r,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    let input = Peek { head: Vec::new(), at: 0, input };
    Ok(match format {
        Format::Plain => Box::new(input),
        _ => Box::new(Members { format, current: Member::begin(format, input)? }),
    })
}

/// The most bytes that identify a format.
const MAGIC_MAX: usize = 6;

/// Members, frames or streams of one format, one after the other.
struct Members<R: BufRead> {
    format: Format,
    current: Member<R>,
}

enum Member<R: BufRead> {
    Gzip(flate2::bufread::GzDecoder<Peek<R>>),
    Zstd(zstd::stream::read::Decoder<'static, Peek<R>>),
    Bzip2(bzip2::bufread::BzDecoder<Peek<R>>),
    Xz(liblzma::bufread::XzDecoder<Peek<R>>),
    End,
}

impl<R: BufRead> Member<R> {
    fn begin(format: Format, input: Peek<R>) -> io::Result<Self> {
        Ok(match format {
            Format::Plain => Self::End,
            Format::Gzip => Self::Gzip(flate2::bufread::GzDecoder::new(input)),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Self::Zstd(decoder)
            }
            Format::Bzip2 => Self::Bzip2(bzip2::bufread::BzDecoder::new(input)),
            Format::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX, 0)
                    .map_err(io::Error::other)?;
                Self::Xz(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
        })
    }

    fn into_input(self) -> Option<Peek<R>> {
        Some(match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
            Self::Bzip2(decoder) => decoder.into_inner(),
            Self::Xz(decoder) => decoder.into_inner(),
            Self::End => return None,
        })
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            let count = match &mut self.current {
                Member::Gzip(decoder) => decoder.read(out)?,
                Member::Zstd(decoder) => decoder.read(out)?,
                Member::Bzip2(decoder) => decoder.read(out)?,
                Member::Xz(decoder) => decoder.read(out)?,
                Member::End => 0,
            };
            if count > 0 {
                return Ok(count);
            }
            let Some(mut input) = std::mem::replace(&mut self.current, Member::End).into_input()
            else {
                return Ok(0);
            };
            if self.format == Format::Xz {
                input.skip_zeros()?;
            }
            if detect(input.peek()?) != self.format {
                return Ok(0);
            }
            self.current = Member::begin(self.format, input)?;
        }
    }
}

/// An input whose next bytes can be looked at, also where they come in pieces.
struct Peek<R> {
    head: Vec<u8>,
    at: usize,
    input: R,
}

impl<R: BufRead> Peek<R> {
    /// Returns the next [`MAGIC_MAX`] bytes, fewer at the end of the input.
    fn peek(&mut self) -> io::Result<&[u8]> {
        self.head.drain(..self.at);
        self.at = 0;
        let missing = MAGIC_MAX.saturating_sub(self.head.len());
        self.input.by_ref().take(missing as u64).read_to_end(&mut self.head)?;
        Ok(&self.head)
    }

    fn skip_zeros(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.fill_buf()?;
            let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
            let is_done = bytes.is_empty() || zeros < bytes.len();
            self.consume(zeros);
            if is_done {
                return Ok(());
            }
        }
    }
}

impl<R: BufRead> Read for Peek<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.head.len() {
            return self.input.read(out);
        }
        let length = (&self.head[self.at..]).read(out)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Peek<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.head.len() { self.input.fill_buf() } else { Ok(&self.head[self.at..]) }
    }

    fn consume(&mut self, length: usize) {
        if self.at == self.head.len() {
            self.input.consume(length);
        } else {
            self.at += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn text(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(input)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    #[test]
    fn each_format_is_reported_by_its_first_bytes() {
        let long = vec![b'x'; 100_000];
        let bzip2 = {
            let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            out.write_all(&long).unwrap();
            out.finish().unwrap()
        };
        let xz = {
            let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
            out.write_all(&long).unwrap();
            out.finish().unwrap()
        };
        let zstd = zstd::encode_all(long.as_slice(), 1).unwrap();
        for (bytes, format) in [
            (gzip(&long), Format::Gzip),
            (bzip2, Format::Bzip2),
            (xz, Format::Xz),
            (zstd, Format::Zstd),
            (long.clone(), Format::Plain),
        ] {
            assert_eq!(detect(&bytes), format);
            assert_eq!(text(&bytes).unwrap(), long, "{format:?}");
            if format != Format::Plain {
                assert!(text(&bytes[..bytes.len() - 5]).is_err(), "truncated {format:?}");
            }
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let two = [gzip(b"one"), gzip(b"two")].concat();
        assert_eq!(text(&two).unwrap(), b"onetwo");
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        let frames = [skippable.to_vec(), frame(b"one"), frame(b"two")].concat();
        assert_eq!(text(&frames).unwrap(), b"onetwo");
    }

    fn all(mut reader: impl Read) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_does_not_begin_another_member_is_not_content() {
        let one = [
            gzip(b"one"),
            zstd::encode_all(&b"one"[..], 1).unwrap(),
            all(bzip2::read::BzEncoder::new(&b"one"[..], bzip2::Compression::fast())),
            all(liblzma::read::XzEncoder::new(&b"one"[..], 1)),
        ];
        for bytes in one {
            for tail in [&b"\n"[..], b"-----BEGIN SIGNATURE-----", &[0; 700], &bytes[..1]] {
                assert_eq!(text(&[&bytes, tail].concat()).unwrap(), b"one");
            }
            assert_eq!(text(&[&bytes[..], &bytes].concat()).unwrap(), b"oneone");
        }
    }

    #[test]
    fn short_and_empty_streams_are_plain() {
        assert_eq!(text(b"").unwrap(), b"");
        assert_eq!(text(b"\x1f").unwrap(), b"\x1f");
    }

    #[test]
    fn a_huge_zstd_window_is_refused() {
        // Magic, then a frame header with no single segment and window exponent 31.
        let bomb = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
        assert!(text(&bomb).is_err());
    }
}
