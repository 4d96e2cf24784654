//! Facts in an image file's frame: the end of a JPEG, and the camera's orientation (Exif).
//!
//! The image library could read the orientation too, through an interface that compiles five
//! decoders into this crate. Damaged frames yield nothing: the decoder decides whether a file is
//! sound.

use image::ImageFormat;
use image::metadata::Orientation;

/// The part of a file that is one image, and the operation that turns it upright.
pub(crate) struct Frame<'a> {
    /// Without any data after the end of a JPEG: phones append films, and other programs notes of
    /// their own.
    pub(crate) image: &'a [u8],
    pub(crate) orientation: Orientation,
}

/// Reads the frame of a file, or returns `None` for a JPEG without an end.
pub(crate) fn frame(bytes: &[u8], format: ImageFormat) -> Option<Frame<'_>> {
    let (image, exif) = match format {
        ImageFormat::Jpeg => jpeg(bytes).map(|(length, exif)| (&bytes[..length], exif))?,
        ImageFormat::Png => (bytes, png_exif(bytes)),
        ImageFormat::WebP => (bytes, webp_exif(bytes)),
        _ => (bytes, None),
    };
    let orientation =
        exif.and_then(|exif| Orientation::from_exif_chunk(exif.strip_prefix(EXIF).unwrap_or(exif)));
    Some(Frame {
        image,
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
    })
}

const EXIF: &[u8] = b"Exif\0\0";

/// Returns the length of a JPEG up to its end-of-image marker, and its Exif segment. Decoders fill
/// missing parts with grey, which must not be trained on; so the markers are followed from the
/// first to the last one. Anything else between segments and inside of a scan is skipped.
fn jpeg(bytes: &[u8]) -> Option<(usize, Option<&[u8]>)> {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    let (mut at, mut exif, mut has_scan) = (2, None, false);
    loop {
        let rest = bytes.get(at..)?;
        let found = rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff))?;
        let marker = rest[found + 1];
        at += found + 2;
        match marker {
            END => return has_scan.then_some((at, exif)),
            // Restarts and similar markers have no length.
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let length =
                    usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
                let segment = bytes.get(at + 2..at + length)?;
                if marker == 0xe1 && segment.starts_with(EXIF) {
                    exif = exif.or(Some(segment));
                }
                has_scan |= marker == SCAN;
                at += length;
            }
        }
    }
}

fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let (length, kind) = (number(rest.get(..4)?, true), rest.get(4..8)?);
        let data = rest.get(8..8usize.checked_add(length)?)?;
        if kind == b"eXIf" {
            return Some(data);
        }
        rest = rest.get(8 + length + 4..)?;
    }
}

fn webp_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(12..)?;
    loop {
        let (kind, length) = (rest.get(..4)?, number(rest.get(4..8)?, false));
        let data = rest.get(8..8usize.checked_add(length)?)?;
        if kind == b"EXIF" {
            return Some(data);
        }
        rest = rest.get(8 + length + length % 2..)?;
    }
}

/// Facts about an image in the head of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The file has no colours; false where its format does not show it.
    pub(crate) is_grey: bool,
}

impl Head {
    pub(crate) fn shorter_side(self) -> u32 {
        self.width.min(self.height)
    }
}

/// Reads the head of an image's file. `None`: it is no image, or its head is incomplete.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let short = |at: usize| {
        Some(u32::from(u16::from_le_bytes([
            *bytes.get(at)?,
            *bytes.get(at + 1)?,
        ])))
    };
    let long =
        |at: usize, big_endian: bool| Some(number(bytes.get(at..at + 4)?, big_endian) as u32);
    let (width, height, is_grey) = match image::guess_format(bytes).ok()? {
        ImageFormat::Jpeg => jpeg_head(bytes)?,
        // Colour types 0 and 4 are grey without and with an alpha channel.
        ImageFormat::Png => (
            long(16, true)?,
            long(20, true)?,
            matches!(bytes.get(25)?, 0 | 4),
        ),
        ImageFormat::Gif => (short(6)?, short(8)?, false),
        // Negative heights mark images whose first row is at the top.
        ImageFormat::Bmp => (
            long(18, false)?,
            (long(22, false)? as i32).unsigned_abs(),
            false,
        ),
        ImageFormat::WebP => match bytes.get(12..16)? {
            b"VP8X" => (
                (long(24, false)? & 0xff_ffff) + 1,
                (long(26, false)? >> 8) + 1,
                false,
            ),
            b"VP8L" => {
                let packed = long(21, false)?;
                ((packed & 0x3fff) + 1, (packed >> 14 & 0x3fff) + 1, false)
            }
            _ => (short(26)? & 0x3fff, short(28)? & 0x3fff, false),
        },
        _ => return None,
    };
    (width > 0 && height > 0).then_some(Head {
        width,
        height,
        is_grey,
    })
}

/// Returns width, height, and whether there is one component alone, from the first segment that
/// begins a frame.
fn jpeg_head(bytes: &[u8]) -> Option<(u32, u32, bool)> {
    let mut at = 2;
    loop {
        let rest = bytes.get(at..)?;
        at += rest
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff))?
            + 2;
        let big = |at: usize| {
            Some(u32::from(u16::from_be_bytes([
                *bytes.get(at)?,
                *bytes.get(at + 1)?,
            ])))
        };
        match bytes[at - 1] {
            0xc4 | 0xc8 | 0xcc => at += big(at)? as usize,
            0xc0..=0xcf => return Some((big(at + 5)?, big(at + 3)?, *bytes.get(at + 7)? == 1)),
            0x01 | 0xd0..=0xd8 => {}
            0xd9 | 0xda => return None,
            _ => at += big(at)? as usize,
        }
    }
}

fn number(bytes: &[u8], big_endian: bool) -> usize {
    let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
    (if big_endian {
        u32::from_be_bytes(bytes)
    } else {
        u32::from_le_bytes(bytes)
    }) as usize
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns Exif with only this orientation, 1..=8.
    pub(crate) fn exif(orientation: u8) -> Vec<u8> {
        [
            b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
            &[orientation],
            b"\0\0\0\0\0\0",
        ]
        .concat()
    }

    /// Returns a JPEG with an Exif segment inserted after its first marker.
    pub(crate) fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
        let exif = [EXIF, &exif(orientation)].concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
    }

    #[test]
    fn damaged_frames_end() {
        let ends = [
            b"\xff\xd8".to_vec(),
            b"\xff\xd8\xff\xd9".to_vec(),
            b"\xff\xd8\xff\xe1\0\0\xff\xda\0\x02\xff\xd9".to_vec(),
            b"\xff\xd8\xff\xe1\xff\xff".to_vec(),
            b"\xff\xd8\xff\xda\0\x02 scan \xff\0 \xff\xd0 more".to_vec(),
        ];
        for bytes in &ends {
            assert!(frame(bytes, ImageFormat::Jpeg).is_none(), "{bytes:?}");
        }
        let whole = b"\xff\xd8\xff\xda\0\x02 scan \xff\0 \xff\xd0 more\xff\xd9".to_vec();
        for trailer in [
            &b"\xff\xda"[..],
            b"\xff\xd8\xff\xe1",
            b"ftypmp42 a film",
            b"\0\0\0",
        ] {
            let long = [&whole, trailer].concat();
            assert_eq!(
                frame(&long, ImageFormat::Jpeg)
                    .expect("it has an end")
                    .image,
                whole
            );
        }
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            for length in 0..40 {
                assert!(frame(&vec![0xff; length], format).is_some());
            }
        }
    }
}
