//! Layers with made-up content: the same bytes for the same seed, about as compressible as programs are.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};
use camino::Utf8Path;

/// Blocks that content is put together from.
const BLOCK: usize = 4096;
/// How many there are: more bytes than any compressor looks back to.
const BLOCKS: usize = 2048;
/// Tar's unit.
const RECORD: usize = 512;

/// A layer: a folder of equally big files.
pub(super) struct Layer<'a> {
    pub(super) folder: &'a str,
    pub(super) bytes: u64,
    /// Bytes of one file.
    pub(super) file: u64,
    /// What its content follows from.
    pub(super) seed: &'a str,
}

/// Random enough, and the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn of(seed: &str) -> Random {
        // FNV-1a: spreads a short text over 64 bits.
        let hash = seed.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(hash)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// What files are put together from. Copying blocks is quick also in a build without optimization.
pub(super) struct Pool(Vec<u8>);

impl Pool {
    /// One block in four is random, the others are words.
    pub(super) fn new() -> Pool {
        let mut random = Random::of("pool");
        let words: Vec<String> =
            (0..512).map(|_| format!("{:x} ", random.next() >> (8 * random.below(6)))).collect();
        let mut bytes = Vec::with_capacity(BLOCK * BLOCKS);
        for block in 0..BLOCKS {
            let end = (block + 1) * BLOCK;
            while bytes.len() < end {
                if block % 4 == 0 {
                    bytes.extend(random.next().to_le_bytes());
                } else {
                    bytes.extend(words[random.below(words.len())].as_bytes());
                }
            }
            bytes.truncate(end);
        }
        Pool(bytes)
    }

    fn block(&self, random: &mut Random) -> &[u8] {
        let start = random.below(BLOCKS) * BLOCK;
        &self.0[start..start + BLOCK]
    }

    /// Writes a layer as a tar archive.
    pub(super) fn write(&self, layer: &Layer<'_>, path: &Utf8Path) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
            let mut random = Random::of(layer.seed);
            header(&mut out, &format!("{}/", layer.folder), 0)?;
            for index in 0..(layer.bytes / layer.file).max(1) {
                let folder = format!("{}/part{:05}/", layer.folder, index / 25);
                if index % 25 == 0 {
                    header(&mut out, &folder, 0)?;
                }
                header(&mut out, &format!("{folder}module{:02}.py", index % 25), layer.file)?;
                self.file(&mut out, layer, index, &mut random)?;
            }
            out.write_all(&[0; 2 * RECORD])?;
            out.into_inner()?.sync_all()
        };
        write().with_context(|| format!("write {path}"))
    }

    fn file(
        &self,
        out: &mut impl Write,
        layer: &Layer<'_>,
        index: u64,
        random: &mut Random,
    ) -> std::io::Result<()> {
        let first = format!("# {} {index}\n", layer.seed);
        let mut left = layer.file as usize;
        let mut piece = first.as_bytes();
        while left > 0 {
            let n = piece.len().min(left);
            out.write_all(&piece[..n])?;
            left -= n;
            piece = self.block(random);
        }
        let over = layer.file as usize % RECORD;
        out.write_all(&[0; RECORD][..(RECORD - over) % RECORD])
    }
}

/// The header of a file, or of a folder where the name ends in a slash (POSIX ustar). All times are the same, for a layer's
/// digest covers them.
fn header(out: &mut impl Write, name: &str, size: u64) -> std::io::Result<()> {
    let is_folder = name.ends_with('/');
    let mut record = [0; RECORD];
    let mut put = |at: usize, text: &str| record[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if is_folder { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, &format!("{:011o}", 1_767_225_600));
    // The sum is made with blanks in its own place.
    put(148, "        ");
    put(156, if is_folder { "5" } else { "0" });
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(seed: &str, file: u64) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("layer.tar");
        Pool::new().write(&Layer { folder: "app", bytes: 300_000, file, seed }, &path).unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn a_layer_follows_from_its_seed() {
        assert!(tar("a", 10_000) == tar("a", 10_000));
        assert!(tar("a", 10_000) != tar("b", 10_000));
    }

    #[test]
    fn a_layer_is_a_tar_archive() {
        let bytes = tar("a", 10_001);
        assert_eq!(bytes.len() % RECORD, 0);
        let (mut at, mut files, mut folders) = (0, 0, 0);
        while bytes[at] != 0 {
            assert_eq!(&bytes[at + 257..at + 262], b"ustar", "at {at}");
            let size = std::str::from_utf8(&bytes[at + 124..at + 135]).unwrap();
            let size = usize::from_str_radix(size, 8).unwrap();
            match bytes[at + 156] {
                b'0' => files += 1,
                b'5' => folders += 1,
                other => panic!("an entry of type {other}"),
            }
            at += RECORD + size.div_ceil(RECORD) * RECORD;
        }
        assert_eq!((files, folders, bytes.len() - at), (29, 3, 2 * RECORD));
    }
}
