//! Images brought to a size.

use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::DynamicImage;

use super::{Filter, Fit, Preprocess};

/// Where an image goes: a part of it is scaled to a part of the result.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Placement {
    /// Left, top, width and height of the part of the image, in its pixels.
    from: [f64; 4],
    /// Left, top, width and height of the part of the result.
    to: [u32; 4],
}

impl Preprocess {
    /// Pixels of the image at this height and width, row by row, with so many bytes for each: three, or one if it is to be grey.
    /// `None` if it has no pixels.
    pub(super) fn resized(
        &self,
        image: DynamicImage,
        height: u32,
        width: u32,
        channels: usize,
    ) -> Option<Vec<u8>> {
        let (columns, rows) = (image.width(), image.height());
        let pixels = if channels == 1 { grey(image) } else { image.into_rgb8().into_raw() };
        let placement = self.placement(rows, columns, height, width);
        let pixel_type = if channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
        let source = Image::from_vec_u8(columns, rows, pixels, pixel_type).ok()?;
        let ([left, top, w, h], [x, y, part_width, part_height]) = (placement.from, placement.to);
        let options = ResizeOptions::new().resize_alg(self.algorithm()).use_alpha(false);
        // First along rows, then along columns, as Pillow does: what is beyond 0 or 255 in between is cut off there.
        let mut narrow = Image::new(part_width, rows, pixel_type);
        let mut part = Image::new(part_width, part_height, pixel_type);
        let mut resizer = Resizer::new();
        resizer.resize(&source, &mut narrow, &options.crop(left, 0.0, w, f64::from(rows))).ok()?;
        drop(source);
        resizer.resize(&narrow, &mut part, &options.crop(0.0, top, f64::from(part_width), h)).ok()?;
        let part = part.into_vec();
        if (part_width, part_height) == (width, height) {
            return Some(part);
        }
        let row = width as usize * channels;
        let mut all = vec![self.fill; row * height as usize];
        let lines = all.chunks_mut(row).skip(y as usize);
        for (line, part) in lines.zip(part.chunks(part_width as usize * channels)) {
            line.iter_mut().skip(x as usize * channels).zip(part).for_each(|(to, from)| *to = *from);
        }
        Some(all)
    }

    fn algorithm(&self) -> ResizeAlg {
        match self.filter {
            Filter::Nearest => ResizeAlg::Nearest,
            Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
            Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
            Filter::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
        }
    }

    fn placement(&self, rows: u32, columns: u32, height: u32, width: u32) -> Placement {
        let whole = [0.0, 0.0, f64::from(columns), f64::from(rows)];
        match self.fit {
            Fit::Stretch => Placement { from: whole, to: [0, 0, width, height] },
            Fit::Crop => {
                let scaled = |side: u32| (f64::from(side) / self.share).round() as u64;
                let (all_rows, all_columns) = covering(rows, columns, scaled(height), scaled(width));
                let (top, h) = middle(rows, all_rows, height);
                let (left, w) = middle(columns, all_columns, width);
                Placement { from: [left, top, w, h], to: [0, 0, width, height] }
            }
            Fit::Pad => {
                let scale = (f64::from(height) / f64::from(rows)).min(f64::from(width) / f64::from(columns));
                let side = |side: u32, most: u32| ((f64::from(side) * scale).round() as u32).clamp(1, most);
                let (h, w) = (side(rows, height), side(columns, width));
                Placement { from: whole, to: [(width - w) / 2, (height - h) / 2, w, h] }
            }
        }
    }
}

/// Height and width of an image that is scaled until it covers a rectangle, as torchvision rounds them.
fn covering(rows: u32, columns: u32, height: u64, width: u64) -> (u64, u64) {
    let (rows, columns) = (u64::from(rows).max(1), u64::from(columns).max(1));
    if columns * height <= rows * width {
        ((rows * width / columns).max(height), width)
    } else {
        (height, (columns * height / rows).max(width))
    }
}

/// Where the middle `part` of a side that was scaled from `before` to `after` begins before, and how long it is there.
fn middle(before: u32, after: u64, part: u32) -> (f64, f64) {
    let scale = f64::from(before) / after as f64;
    let start = (after.saturating_sub(u64::from(part)) / 2) as f64 * scale;
    (start, (f64::from(part) * scale).min(f64::from(before) - start))
}

/// One byte for each pixel: its brightness as ITU-R BT.601 weighs colours, which is what Pillow takes.
fn grey(image: DynamicImage) -> Vec<u8> {
    let brightness = |rgb: &[u8]| match rgb {
        [r, g, b] => {
            ((u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471 + 0x8000) >> 16) as u8
        }
        _ => 0,
    };
    image.into_rgb8().into_raw().chunks(3).map(brightness).collect()
}
