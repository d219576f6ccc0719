use super::*;
use crate::layer::{Compression, Effort, compress};
use crate::oci::Digest;
use crate::store::KnownBlocks;
use crate::sys::cancel::Cancel;
use serde_json::Value;
use std::io::Read as _;

fn member(blob: &[u8], offset: u64) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&blob[offset as usize..]).read_to_end(&mut out).unwrap();
    out
}

fn made() -> (Vec<u8>, crate::layer::Compressed, Vec<u8>) {
    let big: Vec<u8> = (0..2 * CHUNK as u32 + 1000).map(|i| (i >> 7) as u8).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_mode(0o640);
        header.set_mtime(1_500_000_000);
        header.set_uid(7);
        header.set_size(bytes.len() as u64);
        if kind.is_symlink() {
            header.set_link_name("big").unwrap();
        }
        header.set_cksum();
        tar.append(&header, bytes).unwrap();
    };
    add("big", tar::EntryType::Regular, &big);
    add("d/", tar::EntryType::Directory, b"");
    add("d/empty", tar::EntryType::Regular, b"");
    add("d/link", tar::EntryType::Symlink, b"");
    let long = format!("d/{}", "x".repeat(200));
    add(
        "PaxHeaders.0/x",
        tar::EntryType::XHeader,
        &pax(&[(b"SCHILY.xattr.security.capability", b"\x01\x00\xff"), (b"path", long.as_bytes())]),
    );
    add("short", tar::EntryType::Regular, b"small");
    let tar = tar.into_inner().unwrap();
    let known = KnownBlocks::default();
    let effort = Effort { threads: 2, known: &known };
    let mut blob = Vec::new();
    let facts =
        compress(&tar[..], &mut blob, Compression::Estargz(1), effort, &Cancel::new()).unwrap();
    (big, facts, blob)
}

fn pax(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in pairs {
        let rest = [b" ".as_slice(), key, b"=", value, b"\n"].concat();
        let length = (rest.len() + 1..rest.len() + 20)
            .find(|n| n.to_string().len() + rest.len() == *n)
            .unwrap();
        out.extend(length.to_string().as_bytes());
        out.extend(rest);
    }
    out
}

#[test]
fn readers_find_each_piece_of_each_file() {
    let (big, facts, blob) = made();
    assert_eq!(facts.digest, Digest::of(&blob));
    let end = &blob[blob.len() - 51..];
    assert_eq!(member(end, 0), b"");
    let offset = std::str::from_utf8(&end[16..32]).unwrap();
    assert_eq!(&end[32..38], b"STARGZ");
    let table = member(&blob, u64::from_str_radix(offset, 16).unwrap());
    let mut table = tar::Archive::new(&table[..]);
    let mut entry = table.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(entry.path().unwrap().to_str(), Some(TABLE));
    let mut json = Vec::new();
    entry.read_to_end(&mut json).unwrap();
    assert_eq!(facts.annotations[TOC_DIGEST], Digest::of(&json).to_string());
    let table: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(table["version"], 1);

    let items = table["entries"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    let long = format!("d/{}", "x".repeat(200));
    assert_eq!(names, ["big", "big", "big", "d/", "d/empty", "d/link", &long]);
    let mut whole = Vec::new();
    for item in &items[0..3] {
        let at = whole.len();
        assert_eq!(item["chunkOffset"].as_u64().unwrap_or(0), at as u64);
        let size = item["chunkSize"].as_u64().unwrap_or(big.len() as u64 - at as u64) as usize;
        let bytes = member(&blob, item["offset"].as_u64().unwrap());
        assert_eq!(item["chunkDigest"], Digest::of(&bytes[..size]).to_string());
        whole.extend_from_slice(&bytes[..size]);
    }
    assert!(whole == big);
    assert_eq!(items[0]["digest"], Digest::of(&big).to_string());
    assert_eq!((&items[0]["type"], &items[2]["type"]), (&"reg".into(), &"chunk".into()));
    assert_eq!((&items[0]["uid"], &items[0]["mode"]), (&7.into(), &0o640.into()));
    assert_eq!(items[0]["modtime"], "2017-07-14T02:40:00Z");
    assert_eq!(items[5]["linkName"], "big");
    assert_eq!(items[4]["digest"], Digest::of(b"").to_string());
    assert_eq!(items[6]["xattrs"]["security.capability"], "AQD/");
    let bytes = member(&blob, items[6]["offset"].as_u64().unwrap());
    assert_eq!(&bytes[..5], b"small");
}

#[test]
fn the_blob_is_an_ordinary_layer_too() {
    let (_, facts, blob) = made();
    let mut tar = Vec::new();
    crate::layer::decompress(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
    assert_eq!(facts.tar.diff_id, Digest::of(&tar));
    assert_eq!(facts.annotations[TAR_SIZE], tar.len().to_string());
    let mut archive = tar::Archive::new(&tar[..]);
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().chars().take(22).collect())
        .collect::<Vec<String>>();
    let long = format!("d/{}", "x".repeat(20));
    assert_eq!(
        names,
        ["big", "d/", "d/empty", "d/link", &long].map(|n| n.chars().take(22).collect::<String>())
    );
}

#[test]
fn a_layer_without_entries_has_a_table_too() {
    let known = KnownBlocks::default();
    let effort = Effort { threads: 1, known: &known };
    let mut blob = Vec::new();
    compress(&[0; 1024][..], &mut blob, Compression::Estargz(1), effort, &Cancel::new()).unwrap();
    let mut tar = Vec::new();
    crate::layer::decompress(&blob[..]).unwrap().read_to_end(&mut tar).unwrap();
    assert_eq!(tar[..1024], END);
    assert!(tar[1024..].starts_with(TABLE.as_bytes()));
}
