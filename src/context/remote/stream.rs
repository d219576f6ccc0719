//! A context on standard input, or behind an address: a tar, compressed or not, or a Dockerfile.

use super::RemoteError;
use crate::layer::{self, Format, LayerError};
use crate::sys::cancel::Cancel;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::Path;

/// Bytes that are looked at to recognise a stream.
const START: u64 = 64 * 1024;

/// Longest Dockerfile that is read from a stream, in bytes.
pub const DOCKERFILE_MAX: u64 = 16 << 20;

/// What a stream held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamContext {
    /// A tar, now extracted.
    Tree,
    /// A Dockerfile without a context.
    Dockerfile(Vec<u8>),
}

/// Reads a context from a stream; a tar is extracted into the empty directory `into`.
///
/// What is compressed, or begins with the header of a tar, is a tar; all else is a Dockerfile.
/// Extracted files keep the owners that the archive gives them.
///
/// # Errors
///
/// [`RemoteError::Extract`] for a broken or foreign archive, [`RemoteError::TooLong`] for a
/// Dockerfile beyond [`DOCKERFILE_MAX`], [`RemoteError::Io`] for the stream itself.
pub fn read_stream(
    mut stream: impl Read + Send,
    name: &str,
    into: &Path,
    cancel: &Cancel,
) -> Result<StreamContext, RemoteError> {
    let failed = |source: io::Error| RemoteError::Io { doing: "read", path: name.into(), source };
    let mut start = Vec::new();
    stream.by_ref().take(START).read_to_end(&mut start).map_err(failed)?;
    let is_tar = layer::detect(&start) != Format::Plain || layer::is_archive(start.as_slice());
    if !is_tar {
        let rest = DOCKERFILE_MAX + 1 - start.len() as u64;
        stream.take(rest).read_to_end(&mut start).map_err(failed)?;
        if start.len() as u64 > DOCKERFILE_MAX {
            return Err(RemoteError::TooLong { name: name.to_owned() });
        }
        return Ok(StreamContext::Dockerfile(start));
    }
    let dir = File::open(into).map_err(|source| RemoteError::Io {
        doing: "open",
        path: into.to_owned(),
        source,
    })?;
    layer::extract_archive(start.chain(stream), dir.as_fd(), None, cancel).map_err(|source| {
        match source {
            LayerError::Cancelled => RemoteError::Cancelled,
            source => RemoteError::Extract { name: name.to_owned(), source },
        }
    })?;
    Ok(StreamContext::Tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_size(2);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, "d/f", b"hi".as_slice()).unwrap();
        builder.into_inner().unwrap()
    }

    fn read(bytes: &[u8]) -> (Result<StreamContext, RemoteError>, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (read_stream(bytes, "standard input", dir.path(), &Cancel::new()), dir)
    }

    #[test]
    fn privileged_tars_are_extracted_whatever_they_are_compressed_with() {
        needs_root!();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar()).unwrap();
        let zstd = zstd::encode_all(tar().as_slice(), 1).unwrap();
        for bytes in [tar(), gzip.finish().unwrap(), zstd] {
            let (result, dir) = read(&bytes);
            assert!(matches!(result, Ok(StreamContext::Tree)));
            assert_eq!(std::fs::read(dir.path().join("d/f")).unwrap(), b"hi");
        }
    }

    #[test]
    fn anything_else_is_a_dockerfile() {
        for text in ["", "FROM scratch\n", &"# long\n".repeat(20_000)] {
            let (result, dir) = read(text.as_bytes());
            assert_eq!(result.unwrap(), StreamContext::Dockerfile(text.into()));
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        let long = vec![b'#'; DOCKERFILE_MAX as usize + 1];
        assert!(matches!(read(&long).0, Err(RemoteError::TooLong { .. })));
    }

    #[test]
    fn a_broken_tar_is_an_error() {
        let bytes = tar();
        assert!(matches!(read(&bytes[..513]).0, Err(RemoteError::Extract { .. })));
    }
}
