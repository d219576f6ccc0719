//! Compressed streams, told by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Not at all, or in a way nobody here knows.
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

/// The largest zstd window a decoder allocates, as a power of two: 128 MiB, what `zstd --long` makes
/// and what containerd takes. A frame that asks for more is refused.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The most memory an xz decoder may take: enough for `xz -9`, which needs 65 MiB.
const XZ_MEMORY_MAX: u64 = 128 * 1024 * 1024;

/// Tells the compression from the first bytes of a stream; six are enough.
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
/// # Errors
///
/// Where a decoder cannot be made.
pub fn decompress_as<'r>(
    format: Format,
    input: impl BufRead + Send + 'r,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    Ok(match format {
        Format::Plain => Box::new(input),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        Format::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY_MAX,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
    })
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
    fn each_format_is_told_by_its_first_bytes() {
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
