//! Affine transforms with bilinear sampling, by Pillow's conventions: the matrix maps output pixels
//! to input pixels, pixel centres lie at one half, and everything outside of the image is filled.

/// An image that operations change in place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PixelBuffer {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Number of channels, 1 or 3.
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
}

/// Applies `[a, b, c, d, e, f]`: the output pixel (x, y) shows the input at (a x + b y + c, d x + e
/// y + f).
pub(crate) fn transform(picture: &mut PixelBuffer, [a, b, c, d, e, f]: [f64; 6], fill: &[u8]) {
    let PixelBuffer {
        height,
        width,
        channels,
        ..
    } = *picture;
    let mut pixels = Vec::with_capacity(picture.pixels.len());
    for y in 0..height {
        for x in 0..width {
            let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
            let (sx, sy) = (a * x + b * y + c, d * x + e * y + f);
            let inside = (0.0..width as f64).contains(&sx) && (0.0..height as f64).contains(&sy);
            if inside {
                sample(picture, sx - 0.5, sy - 0.5, &mut pixels);
            } else {
                pixels.extend_from_slice(&fill[..channels]);
            }
        }
    }
    picture.pixels = pixels;
}

/// Samples bilinearly; neighbours beyond the border take the border's value.
fn sample(picture: &PixelBuffer, x: f64, y: f64, out: &mut Vec<u8>) {
    let (left, top) = (x.floor(), y.floor());
    let (right, down) = (x - left, y - top);
    let clamp = |position: f64, length: usize| (position.max(0.0) as usize).min(length - 1);
    let columns = (clamp(left, picture.width), clamp(left + 1.0, picture.width));
    let rows = (clamp(top, picture.height), clamp(top + 1.0, picture.height));
    for channel in 0..picture.channels {
        let at = |row: usize, column: usize| {
            f64::from(picture.pixels[(row * picture.width + column) * picture.channels + channel])
        };
        let upper = at(rows.0, columns.0) + (at(rows.0, columns.1) - at(rows.0, columns.0)) * right;
        let lower = at(rows.1, columns.0) + (at(rows.1, columns.1) - at(rows.1, columns.0)) * right;
        out.push((upper + (lower - upper) * down) as u8);
    }
}

/// Rotates counter-clockwise about the centre.
pub(crate) fn rotate(picture: &mut PixelBuffer, degrees: f64, fill: &[u8]) {
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let (x, y) = (picture.width as f64 / 2.0, picture.height as f64 / 2.0);
    let c = x - cos * x - sin * y;
    let f = y + sin * x - cos * y;
    transform(picture, [cos, sin, c, -sin, cos, f], fill);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(pixels: &[u8], width: usize) -> PixelBuffer {
        PixelBuffer {
            height: pixels.len() / width,
            width,
            channels: 1,
            pixels: pixels.to_vec(),
        }
    }

    #[test]
    fn translations_move_and_fill() {
        let mut moved = picture(&[1, 2, 3, 4], 4);
        transform(&mut moved, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], &[9]);
        assert_eq!(moved.pixels, [2, 3, 4, 9]);
        let mut half = picture(&[10, 20, 30, 40], 4);
        transform(&mut half, [1.0, 0.0, -0.5, 0.0, 1.0, 0.0], &[9]);
        assert_eq!(half.pixels, [10, 15, 25, 35]);
    }

    #[test]
    fn a_quarter_turn_is_counter_clockwise() {
        let mut turned = picture(&[1, 2, 3, 4], 2);
        rotate(&mut turned, 90.0, &[9]);
        assert_eq!(turned.pixels, [2, 4, 1, 3]);
        let mut same = picture(&[1, 2, 3, 4], 2);
        rotate(&mut same, 0.0, &[9]);
        assert_eq!(same.pixels, [1, 2, 3, 4]);
    }

    #[test]
    fn shearing_keeps_the_first_row_and_moves_the_last() {
        let mut sheared = picture(&[1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4], 4);
        transform(&mut sheared, [1.0, 0.5, -0.25, 0.0, 1.0, 0.0], &[9]);
        assert_eq!(sheared.pixels[..4], [1, 2, 3, 4]);
        assert_eq!(sheared.pixels[8..], [2, 3, 4, 9]);
    }
}
