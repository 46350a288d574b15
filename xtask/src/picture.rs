//! What is on the screen of an X server without one (`Xvfb -fbdir`), as a PNG file.
//!
//! The server keeps its screen in a file in the format of `xwd`: a header of 32-bit numbers, the most significant byte first, a
//! name, a table of colours, and the pixels. Read is what `Xvfb` writes: 24 bits of true colour in 32.

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, Crc, write::ZlibEncoder};
use std::io::Write as _;

/// The header's numbers that matter, by their place.
const HEADER_SIZE: usize = 0;
const VERSION: usize = 1;
const DEPTH: usize = 3;
const WIDTH: usize = 4;
const HEIGHT: usize = 5;
const BYTE_ORDER: usize = 7;
const BITS_PER_PIXEL: usize = 11;
const BYTES_PER_LINE: usize = 12;
const COLORS: usize = 19;
/// The format's only version.
const XWD: u32 = 7;
/// An entry of the table of colours.
const COLOR_BYTES: usize = 12;
const PNG: [u8; 8] = [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a];

/// A picture: red, green and blue of each pixel, line after line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a screen.
    pub(crate) fn of_xwd(bytes: &[u8]) -> Result<Self> {
        let number = |place: usize| -> Result<usize> {
            let word =
                bytes.get(4 * place..4 * place + 4).context("the file ends in its header")?;
            Ok(u32::from_be_bytes(word.try_into()?) as usize)
        };
        ensure!(number(VERSION)? == XWD as usize, "no screen of an X server");
        ensure!(
            number(DEPTH)? == 24 && number(BITS_PER_PIXEL)? == 32,
            "the screen has another depth than 24 in 32 bits"
        );
        let (width, height, line) = (number(WIDTH)?, number(HEIGHT)?, number(BYTES_PER_LINE)?);
        let least_first = number(BYTE_ORDER)? == 0;
        let start = number(HEADER_SIZE)? + number(COLORS)? * COLOR_BYTES;
        let mut pixels = Vec::with_capacity(width * height);
        for y in 0..height {
            let from = start + y * line;
            let row = bytes.get(from..from + 4 * width).context("the file ends in its pixels")?;
            pixels.extend(row.chunks_exact(4).map(|pixel| {
                if least_first {
                    [pixel[2], pixel[1], pixel[0]]
                } else {
                    [pixel[1], pixel[2], pixel[3]]
                }
            }));
        }
        Ok(Picture { width, height, pixels })
    }

    /// Without the black around the only window, which lies in the upper left corner.
    pub(crate) fn cropped(&self) -> Self {
        let is_window = |pixel: &[u8; 3]| *pixel != [0; 3];
        let lines = || self.pixels.chunks_exact(self.width.max(1));
        let height = lines().rposition(|line| line.iter().any(is_window)).map_or(0, |it| it + 1);
        let right = lines().filter_map(|line| line.iter().rposition(is_window)).max();
        let width = right.map_or(0, |it| it + 1);
        let pixels = lines().take(height).flat_map(|line| line[..width].to_vec()).collect();
        Picture { width, height, pixels }
    }

    /// How many different colours there are.
    pub(crate) fn colors(&self) -> usize {
        self.pixels.iter().collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Whether every pixel is a shade of grey.
    pub(crate) fn is_grey(&self) -> bool {
        self.pixels.iter().all(|[red, green, blue]| red == green && green == blue)
    }

    /// As a PNG file.
    pub(crate) fn png(&self) -> Result<Vec<u8>> {
        let mut header = Vec::new();
        header.extend(u32::try_from(self.width)?.to_be_bytes());
        header.extend(u32::try_from(self.height)?.to_be_bytes());
        // Eight bits each of red, green and blue; the format's only compression and filter; not interlaced.
        header.extend([8, 2, 0, 0, 0]);
        let mut pixels = ZlibEncoder::new(Vec::new(), Compression::best());
        for line in self.pixels.chunks_exact(self.width.max(1)) {
            // Not filtered.
            pixels.write_all(&[0])?;
            pixels.write_all(&line.concat())?;
        }
        let mut file = PNG.to_vec();
        chunk(&mut file, *b"IHDR", &header)?;
        chunk(&mut file, *b"IDAT", &pixels.finish()?)?;
        chunk(&mut file, *b"IEND", &[])?;
        Ok(file)
    }
}

fn chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) -> Result<()> {
    let mut sum = Crc::new();
    sum.update(&kind);
    sum.update(data);
    file.extend(u32::try_from(data.len())?.to_be_bytes());
    file.extend(kind);
    file.extend(data);
    file.extend(sum.sum().to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::ZlibDecoder;
    use std::io::Read as _;

    /// A screen of 4 by 3 pixels with one colour in its table and lines that are longer than their pixels.
    fn screen() -> Vec<u8> {
        let mut numbers = [0_u32; 25];
        (numbers[HEADER_SIZE], numbers[VERSION], numbers[2]) = (108, XWD, 2);
        (numbers[DEPTH], numbers[WIDTH], numbers[HEIGHT]) = (24, 4, 3);
        (numbers[BITS_PER_PIXEL], numbers[BYTES_PER_LINE], numbers[COLORS]) = (32, 20, 1);
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|it| it.to_be_bytes()).collect();
        bytes.extend([b'X'; 8]);
        bytes.extend([7; COLOR_BYTES]);
        let mut pixels = [[0_u8; 20]; 3];
        pixels[0][..4].copy_from_slice(&[3, 2, 1, 0]);
        pixels[1][4..8].copy_from_slice(&[9, 9, 9, 0]);
        bytes.extend(pixels.concat());
        bytes
    }

    #[test]
    fn a_screen_is_read_cropped_and_written() {
        let whole = Picture::of_xwd(&screen()).unwrap();
        assert_eq!((whole.width, whole.height), (4, 3));
        let window = whole.cropped();
        assert_eq!((window.width, window.height), (2, 2));
        assert_eq!(window.pixels, [[1, 2, 3], [0; 3], [0; 3], [9; 3]]);
        assert_eq!((window.colors(), window.is_grey()), (3, false));
        let file = window.png().unwrap();
        assert_eq!(file[..8], PNG);
        assert_eq!(&file[12..16], b"IHDR");
        let at = file.windows(4).position(|part| part == b"IDAT").unwrap();
        let length = u32::from_be_bytes(file[at - 4..at].try_into().unwrap()) as usize;
        let mut lines = Vec::new();
        ZlibDecoder::new(&file[at + 4..at + 4 + length]).read_to_end(&mut lines).unwrap();
        assert_eq!(lines, [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9]);
        // Of an empty chunk of that name the sum is known to everybody who writes PNG.
        assert_eq!(file[file.len() - 4..], [0xae, 0x42, 0x60, 0x82]);
    }

    #[test]
    fn what_is_no_screen_is_refused() {
        assert!(Picture::of_xwd(b"short").is_err());
        let mut cut = screen();
        cut.truncate(150);
        assert!(Picture::of_xwd(&cut).is_err());
        let mut other = screen();
        other[15] = 16;
        assert!(Picture::of_xwd(&other).is_err());
    }
}
