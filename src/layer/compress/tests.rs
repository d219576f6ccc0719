use super::*;
use crate::layer::block_cut::LARGE as BLOCK;
use crate::layer::decompress;
use crate::store::Store;
use std::os::fd::AsFd as _;

const ALL: &[Compression] = &[
    Compression::Uncompressed,
    Compression::Gzip(0),
    Compression::Gzip(1),
    Compression::Gzip(6),
    Compression::Gzip(9),
    Compression::Zstd(1),
    Compression::Zstd(3),
];

/// Bytes that compress somewhat, and refer back across blocks.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(length + 64);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(3) && out.len() > 40_000 {
            let back = out.len() - 1 - (state >> 8) as usize % 32_000;
            let copy = out[back..(back + 40).min(out.len())].to_vec();
            out.extend(copy);
        } else {
            out.extend(format!("{:x} line\n", state >> 44).into_bytes());
        }
    }
    out.truncate(length);
    out
}

fn with(threads: usize) -> Effort<'static> {
    static NONE: std::sync::LazyLock<KnownBlocks> = std::sync::LazyLock::new(KnownBlocks::default);
    Effort { threads, known: &NONE }
}

fn packed(bytes: &[u8], compression: Compression, threads: usize) -> (Compressed, Vec<u8>) {
    let mut out = Vec::new();
    let facts = compress(bytes, &mut out, compression, with(threads), &Cancel::new()).unwrap();
    assert_eq!(facts.tar, TarFacts { diff_id: Digest::of(bytes), size: bytes.len() as u64 });
    assert_eq!((facts.digest, facts.size), (Digest::of(&out), out.len() as u64));
    (facts, out)
}

#[test]
fn every_format_reads_back_at_every_length() {
    let long = sample(3 * BLOCK + 5);
    for length in [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, long.len()] {
        for &compression in ALL {
            let (_, out) = packed(&long[..length], compression, 2);
            let mut back = Vec::new();
            decompress(out.as_slice()).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == long[..length], "{compression} {length}");
        }
    }
}

#[test]
fn the_number_of_threads_and_the_pieces_do_not_show() {
    /// Hands out a few bytes at a time.
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let length = out.len().min(7919).min(self.0.len());
            out[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }
    let bytes = sample(5 * BLOCK + 77);
    for &compression in ALL {
        let (one, _) = packed(&bytes, compression, 1);
        for threads in [2, 3, 8] {
            assert_eq!(packed(&bytes, compression, threads).0, one, "{compression} {threads}");
        }
        let mut out = Vec::new();
        let drip = compress(Drip(&bytes), &mut out, compression, with(2), &Cancel::new()).unwrap();
        assert_eq!(drip, one);
    }
}

#[test]
fn the_bytes_are_those_of_the_last_release() {
    let bytes = sample(2 * BLOCK + 1000);
    let mut tar = tar::Builder::new(Vec::new());
    for i in 0..60 {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("usr/lib/file-{i}")).unwrap();
        header.set_size(50_000 + i);
        header.set_cksum();
        tar.append(&header, &bytes[i as usize..][..50_000 + i as usize]).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let line = |bytes: &[u8], compression: Compression| {
        let facts = packed(bytes, compression, 2).0;
        let blocks = facts.blocks.len();
        format!("{compression} {blocks} {} {}", facts.size, &facts.digest.to_hex()[..16])
    };
    let digests = ALL.iter().map(|&compression| line(&bytes, compression));
    let of_tar = [Compression::GZIP, Compression::ZSTD].map(|compression| line(&tar, compression));
    let digests: Vec<_> = digests.chain(of_tar).collect();
    insta::assert_snapshot!(digests.join("\n"), @r"
    uncompressed 0 2098152 9125fa3813ab4d45
    gzip:0 3 2098381 99adb1013fc511a1
    gzip:1 3 441809 091bbe08cd7723ad
    gzip:6 3 381827 6f111637264cb436
    gzip:9 3 367129 fa282e273ef6e080
    zstd:1 3 447365 8008eb47b8d70183
    zstd:3 3 445517 1e209add63f3fab6
    gzip:1 3 901265 274c33d9390e6246
    zstd:3 3 30983 f3b5a4ef16f3b8e2
    ");
}

#[test]
fn gzip_members_have_no_time_name_or_system() {
    let (facts, out) = packed(&sample(3 * BLOCK), Compression::Gzip(6), 2);
    assert_eq!(facts.blocks.len(), 3);
    for block in facts.blocks {
        let member = &out[block.offset as usize..][..block.length as usize];
        assert_eq!((&member[..8], member[9]), (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..], 255));
        let mut one = flate2::read::GzDecoder::new(member);
        let mut back = Vec::new();
        one.read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), BLOCK);
    }
}

#[test]
fn blocks_that_are_known_are_not_made_again_and_do_not_show() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    let old = sample(8 * BLOCK + 100);
    let mut new = old.clone();
    new[5 * BLOCK + 9] ^= 1;
    for &compression in ALL {
        let Some(encoding) = compression.encoding() else { continue };
        let (before, blob) = packed(&old, compression, 2);
        store.put_blob(&blob).unwrap();
        store.note_blocks(&encoding, &before.digest, &before.blocks);
        let known = store.known_blocks(&encoding);
        let (fresh, bytes) = packed(&new, compression, 2);
        let is_known = |block: &&Block| known.get(&block.hash, &mut Vec::new()).is_some();
        assert_eq!(fresh.blocks.iter().filter(is_known).count(), fresh.blocks.len() - 1);
        let mut out = Vec::new();
        let effort = Effort { threads: 3, known: &known };
        let reused = compress(&new[..], &mut out, compression, effort, &Cancel::new()).unwrap();
        assert_eq!(reused, fresh, "{compression}");
        assert!(out == bytes, "{compression}");
    }
}

#[test]
fn a_full_disk_stops_every_stage_and_is_reported() {
    struct Disk(usize);
    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bytes = sample(30 * BLOCK);
    for &compression in ALL {
        let mut disk = Disk(2 * BLOCK / 10);
        let error = compress(bytes.as_slice(), &mut disk, compression, with(2), &Cancel::new());
        let error = error.unwrap_err();
        let LayerError::Output { source, .. } = &error else { panic!("{compression}: {error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{compression}");
    }
}

#[test]
fn a_source_that_fails_stops_every_stage() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(out.len()).ok_or(io::ErrorKind::ConnectionReset)?;
            out.fill(1);
            Ok(out.len())
        }
    }
    for &compression in ALL {
        let mut out = Vec::new();
        let error = compress(Broken(5 * BLOCK), &mut out, compression, with(2), &Cancel::new());
        assert!(matches!(error, Err(LayerError::Input { .. })), "{error:?}");
    }
    let cancel = Cancel::new();
    cancel.cancel();
    let error = compress(&[0; 10][..], &mut Vec::new(), Compression::GZIP, with(2), &cancel);
    assert!(matches!(error, Err(LayerError::Cancelled)));
}

#[test]
fn a_layer_and_its_tar_give_the_same_blob() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        std::fs::write(dir.path().join(format!("f{i}")), sample(150_000 + i)).unwrap();
    }
    let fs = std::fs::File::open(dir.path()).unwrap();
    let options = TarOptions::detect();
    let mut tar = Vec::new();
    crate::layer::write_tar(fs.as_fd(), &mut tar, &options, &Cancel::new()).unwrap();
    for &compression in ALL {
        let mut out = Vec::new();
        let cancel = Cancel::new();
        let facts = write_compressed(fs.as_fd(), &mut out, compression, &options, with(2), &cancel)
            .unwrap();
        assert_eq!(facts, packed(&tar, compression, 1).0);
    }
}

#[test]
fn names_and_levels_of_exports_are_understood() {
    assert_eq!(Compression::parse("gzip", None), Some(Compression::Gzip(1)));
    assert_eq!(Compression::parse("gzip", Some(12)), Some(Compression::Gzip(9)));
    assert_eq!(Compression::parse("zstd", Some(-1)), Some(Compression::Zstd(1)));
    assert_eq!(Compression::parse("uncompressed", Some(3)), Some(Compression::Uncompressed));
    assert_eq!(Compression::parse("lzma", None), None);
    assert_eq!(Compression::ZSTD.to_string(), "zstd:3");
}
