//! Sparse members of PAX archives: which parts of a file an archive holds.
//!
//! GNU tar has written three forms. In each, the content of the member is the data regions one
//! after the other, and the file has holes between them.
//!
//! | form | where the map is |
//! |---|---|
//! | 0.0 | records `GNU.sparse.offset` and `GNU.sparse.numbytes`, in turn |
//! | 0.1 | the record `GNU.sparse.map`, with commas |
//! | 1.0 | at the beginning of the content, one decimal number a line, filled up to a block |
//!
//! Source: GNU tar manual, "Storing Sparse Files"; Go archive/tar for what is accepted.

/// Most bytes of a map inside the content. Go's reader has the same limit.
pub(super) const MAP_MAX: usize = 1024 * 1024;

/// A run of data: where it is in the file, and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Where the map of a sparse member is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// In the records.
    Known(Vec<Region>),
    /// In the content.
    InContent,
}

/// The `GNU.sparse.` records of one member; an empty value counts as none.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    major: Vec<u8>,
    minor: Vec<u8>,
    name: Vec<u8>,
    size: Vec<u8>,
    real_size: Vec<u8>,
    count: Vec<u8>,
    map: Vec<u8>,
    /// The values of `offset` and `numbytes` in turn.
    pairs: Vec<Vec<u8>>,
}

/// What the records say of a member that is sparse.
#[derive(Debug)]
pub(super) struct Sparse {
    /// The member's name, where it is not the header's.
    pub(super) name: Option<Vec<u8>>,
    /// Size of the file in bytes, where it is not the header's.
    pub(super) size: Option<u64>,
    pub(super) map: Map,
}

impl Records {
    /// Takes the record `GNU.sparse.KEY`; `None` when it may not stand there.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let field = match key {
            b"major" => &mut self.major,
            b"minor" => &mut self.minor,
            b"name" => &mut self.name,
            b"size" => &mut self.size,
            b"realsize" => &mut self.real_size,
            b"numblocks" => &mut self.count,
            b"map" => &mut self.map,
            b"offset" | b"numbytes" => {
                let is_turn = self.pairs.len().is_multiple_of(2) == (key == b"offset");
                if !is_turn || value.contains(&b',') {
                    return None;
                }
                self.pairs.push(value.to_vec());
                return Some(());
            }
            _ => return Some(()),
        };
        *field = value.to_vec();
        Some(())
    }

    /// Says what the records mean; `None` for a member that is not sparse, as are those of unknown
    /// versions.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(super) fn read(&self) -> Result<Option<Sparse>, &'static str> {
        let map = self.joined();
        let is_in_content = match (&*self.major, &*self.minor) {
            (b"0", b"0" | b"1") => false,
            (b"1", b"0") => true,
            (b"", b"") if !map.is_empty() => false,
            _ => return Ok(None),
        };
        let size = if self.size.is_empty() { &self.real_size } else { &self.size };
        let size = match &**size {
            [] => None,
            size => Some(number(size).ok_or("the size of its sparse file is not a number")?),
        };
        let map = match is_in_content {
            true => Map::InContent,
            false => Map::Known(from_record(&map, &self.count).ok_or(BAD_MAP)?),
        };
        let name = (!self.name.is_empty()).then(|| self.name.clone());
        Ok(Some(Sparse { name, size, map }))
    }

    /// Returns the map of form 0.1, also where the records are of form 0.0.
    fn joined(&self) -> Vec<u8> {
        if self.pairs.is_empty() { self.map.clone() } else { self.pairs.join(&b',') }
    }
}

pub(super) const BAD_MAP: &str = "its sparse map is malformed";

fn from_record(map: &[u8], count: &[u8]) -> Option<Vec<Region>> {
    let count = number(count)?;
    let numbers: Vec<&[u8]> = match map {
        [] => Vec::new(),
        map => map.split(|&byte| byte == b',').collect(),
    };
    if numbers.len() as u64 != count.checked_mul(2)? {
        return None;
    }
    numbers
        .chunks_exact(2)
        .map(|pair| Some(Region { offset: number(pair[0])?, length: number(pair[1])? }))
        .collect()
}

/// A map in the content, read block by block.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    text: Vec<u8>,
    /// Line ends in `text`.
    ends: u64,
}

impl MapReader {
    /// Takes the next block; returns the map if that was the last.
    ///
    /// # Errors
    ///
    /// What is wrong with the map.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<Option<Vec<Region>>, &'static str> {
        if self.text.len() + block.len() > MAP_MAX {
            return Err("its sparse map is larger than 1 MiB");
        }
        self.text.extend_from_slice(block);
        self.ends += memchr::memchr_iter(b'\n', block).count() as u64;
        if self.ends == 0 {
            return Ok(None);
        }
        let mut lines = self.text.split(|&byte| byte == b'\n');
        let mut next = || lines.next().and_then(number).ok_or(BAD_MAP);
        let count = next()?;
        // Two lines of at least two bytes each describe a region.
        if count > MAP_MAX as u64 / 4 {
            return Err(BAD_MAP);
        }
        if self.ends < count * 2 + 1 {
            return Ok(None);
        }
        let region = |_| Ok(Region { offset: next()?, length: next()? });
        (0..count).map(region).collect::<Result<_, _>>().map(Some)
    }
}

/// Says whether regions are in order, do not overlap, and lie within a file of `size` bytes.
pub(super) fn are_sound(regions: &[Region], size: u64) -> bool {
    let mut end = 0;
    regions.iter().all(|region| {
        let is_sound = region.offset >= end;
        match region.offset.checked_add(region.length) {
            Some(next) if next <= size => end = next,
            _ => return false,
        }
        is_sound
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&number| i64::try_from(number).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(offset: u64, length: u64) -> Region {
        Region { offset, length }
    }

    fn records(text: &[(&str, &str)]) -> Records {
        let mut records = Records::default();
        for (key, value) in text {
            records.take(key.as_bytes(), value.as_bytes()).unwrap();
        }
        records
    }

    #[test]
    fn maps_are_read_from_records_of_both_forms() {
        let pairs = [("size", "9"), ("numblocks", "2")];
        let old = [("offset", "1"), ("numbytes", "2"), ("offset", "5"), ("numbytes", "4")];
        for map in [&old[..], &[("map", "1,2,5,4")]] {
            let sparse = records(&[&pairs, map].concat()).read().unwrap().unwrap();
            assert_eq!(sparse.size, Some(9));
            assert_eq!(sparse.map, Map::Known(vec![region(1, 2), region(5, 4)]));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        assert!(Records::default().take(b"numbytes", b"1").is_none());
        assert!(Records::default().take(b"offset", b"1,2").is_none());
        for text in [
            &[("map", "1,2")][..],
            &[("map", "1,2"), ("numblocks", "2")],
            &[("map", "1,x"), ("numblocks", "1")],
            &[("map", "1,-2"), ("numblocks", "1")],
            &[("map", "1,2"), ("numblocks", "1"), ("size", "x")],
            &[("map", "1,2"), ("numblocks", "9223372036854775807")],
        ] {
            assert!(records(text).read().is_err(), "{text:?}");
        }
    }

    #[test]
    fn unknown_versions_and_records_without_a_map_are_ordinary_files() {
        for text in [
            &[][..],
            &[("size", "9"), ("numblocks", "0")],
            &[("major", "2"), ("minor", "0"), ("map", "1,2")],
        ] {
            assert!(records(text).read().unwrap().is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_map_in_the_content_ends_with_its_last_line() {
        let mut reader = MapReader::default();
        assert_eq!(reader.block(b"2\n1\n"), Ok(None));
        assert_eq!(reader.block(b"2\n50\n4\n\0\0"), Ok(Some(vec![region(1, 2), region(50, 4)])));
        assert_eq!(MapReader::default().block(b"0\n\0"), Ok(Some(vec![])));
        for text in ["x\n", "-1\n", "1\n5\n\n", "9223372036854775807\n"] {
            assert_eq!(MapReader::default().block(text.as_bytes()), Err(BAD_MAP), "{text:?}");
        }
        let endless = vec![b'1'; MAP_MAX + 1];
        assert!(MapReader::default().block(&endless).is_err());
    }

    #[test]
    fn regions_are_in_order_and_within_the_file() {
        assert!(are_sound(&[region(0, 3), region(3, 0), region(5, 2)], 7));
        assert!(are_sound(&[region(7, 0)], 7));
        assert!(!are_sound(&[region(5, 3)], 7));
        assert!(!are_sound(&[region(0, 3), region(2, 1)], 7));
        assert!(!are_sound(&[region(u64::MAX, 2)], u64::MAX));
    }
}
