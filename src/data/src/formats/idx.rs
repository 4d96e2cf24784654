//! The IDX format of MNIST and its relatives, gzipped or plain: unsigned bytes only.
//!
//! Sizes come from the header, but memory is only allocated as bytes arrive, so a forged header
//! cannot claim more than the file holds.

use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::GzDecoder;

use crate::error::Error;
use crate::files;

/// An array of bytes and its shape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Idx {
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Size limit far above any data set in this format; it stops a decompression bomb.
const MAX_BYTES: usize = 4 << 30;

/// Reads a whole file of the given rank.
pub(crate) fn read(path: &Path, rank: usize) -> Result<Idx, Error> {
    let file = BufReader::new(files::open(path)?);
    let reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "gz") {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    };
    parse(reader, rank).map_err(|reason| Error::malformed(path, reason))
}

/// Reads gzipped bytes that are part of the program.
pub(crate) fn embedded(bytes: &[u8], rank: usize) -> Idx {
    parse(GzDecoder::new(bytes), rank).expect("the embedded digits are well-formed")
}

fn parse(mut reader: impl Read, rank: usize) -> Result<Idx, String> {
    let mut header = vec![0; 4 + 4 * rank];
    reader
        .read_exact(&mut header)
        .map_err(|error| format!("its header cannot be read: {error}"))?;
    if header[..2] != [0, 0] {
        return Err("it does not begin like an IDX file".to_owned());
    }
    if header[2] != 8 {
        return Err(format!(
            "its values have type {:#04x}; only unsigned bytes (0x08) are read",
            header[2]
        ));
    }
    if usize::from(header[3]) != rank {
        return Err(format!(
            "it has {} dimensions, {rank} were expected",
            header[3]
        ));
    }
    let side = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    let shape: Vec<usize> = header[4..].chunks_exact(4).map(side).collect();
    let expected = shape
        .iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side));
    let expected = expected
        .filter(|&count| count <= MAX_BYTES)
        .ok_or_else(|| format!("its shape {shape:?} is absurd"))?;
    let mut bytes = Vec::new();
    // One extra byte reveals a file that is too long.
    let limited = reader
        .by_ref()
        .take(expected as u64 + 1)
        .read_to_end(&mut bytes);
    limited.map_err(|error| {
        format!(
            "it ends early or is corrupt after {} of {expected} values: {error}",
            bytes.len()
        )
    })?;
    match bytes.len() {
        length if length < expected => {
            Err(format!("it is truncated: {length} of {expected} values"))
        }
        length if length > expected => Err(format!(
            "it holds more than the {expected} values of its header"
        )),
        _ => Ok(Idx { shape, bytes }),
    }
}

/// Writes and gzips the same format, for stand-in files and tests.
pub(crate) fn encode(shape: &[u32], bytes: &[u8]) -> Vec<u8> {
    let header = [0, 0, 8, shape.len() as u8];
    let sides = shape.iter().flat_map(|side| side.to_be_bytes());
    let plain: Vec<u8> = header
        .into_iter()
        .chain(sides)
        .chain(bytes.iter().copied())
        .collect();
    let mut packed = Vec::new();
    let read = flate2::read::GzEncoder::new(&plain[..], flate2::Compression::fast())
        .read_to_end(&mut packed);
    read.expect("memory can be read");
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_arrays_are_read_back() {
        let file = encode(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let idx = parse(GzDecoder::new(&file[..]), 3).unwrap();
        assert_eq!(
            idx,
            Idx {
                shape: vec![2, 1, 3],
                bytes: vec![1, 2, 3, 4, 5, 6]
            }
        );
    }

    #[test]
    fn malformed_files_have_distinct_errors() {
        let reason = |bytes: &[u8], rank| parse(bytes, rank).unwrap_err();
        assert!(reason(&[0, 0, 8], 1).contains("header"));
        assert!(reason(&[1, 0, 8, 1, 0, 0, 0, 0], 1).contains("IDX"));
        assert!(reason(&[0, 0, 13, 1, 0, 0, 0, 0], 1).contains("0x0d"));
        assert!(
            reason(&[0, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 3).contains("1 dimensions")
        );
        assert!(reason(&[0, 0, 8, 1, 0, 0, 0, 2, 9], 1).contains("truncated: 1 of 2"));
        assert!(reason(&[0, 0, 8, 1, 0, 0, 0, 1, 9, 9], 1).contains("more than"));
        assert!(
            reason(&[0, 0, 8, 2, 255, 255, 255, 255, 255, 255, 255, 255], 2).contains("absurd")
        );
    }

    #[test]
    fn a_corrupt_gzip_is_an_error() {
        let mut file = encode(&[4], &[1, 2, 3, 4]);
        let checksum = file.len() - 6;
        file[checksum] ^= 1;
        assert!(parse(GzDecoder::new(&file[..]), 1).is_err());
    }
}
