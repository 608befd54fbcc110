//! What images become: the input of a model that reads them.

use std::fmt;

use image::DynamicImage;
use ndarray::{ArrayD, IxDyn};

use super::{ChannelOrder, Layout, Preprocess, PreprocessError, parse::LARGEST};
use crate::{
    calibration::{
        roles::InputRole,
        spec::{Dim, InputSpec},
    },
    tensor::{DType, Tensor},
};

/// An input that reads images, and how they become it.
#[derive(Debug)]
pub(in crate::calibration) struct Target {
    pub input: String,
    pub height: u32,
    pub width: u32,
    channels: usize,
    layout: Layout,
    /// The input takes pixels as bytes, whatever is said of numbers.
    bytes: bool,
    pub preprocess: Preprocess,
}

impl Target {
    /// Whether an input can read images: samples of one or three channels, before or behind height and width.
    pub fn reads_images(spec: &InputSpec) -> bool {
        let numbers = spec.dtype.is_float() || spec.dtype == DType::U8;
        spec.batched && spec.role == InputRole::Feature && numbers && axes(spec, None).is_some()
    }

    /// The input, as `preprocess` fills it.
    pub fn new(spec: &InputSpec, preprocess: Preprocess) -> Result<Self, PreprocessError> {
        let input = || spec.described();
        let Some(Axes { layout, height, width, channels }) = axes(spec, preprocess.layout) else {
            return Err(PreprocessError::Layout { input: input() });
        };
        let given = preprocess.mean.len().max(preprocess.std.len());
        if channels == 3
            && ![&preprocess.mean, &preprocess.std].iter().all(|list| matches!(list.len(), 1 | 3))
        {
            return Err(PreprocessError::Channels { given, channels, input: input() });
        }
        let usual = preprocess.usual.map(|side| (side, side));
        let (said, model) = (preprocess.size, (fixed(height), fixed(width)));
        let fits = |said: u32, model: Option<u32>| model.is_none_or(|model| model == said);
        if let Some(said) = said.filter(|said| !fits(said.0, model.0) || !fits(said.1, model.1)) {
            return Err(PreprocessError::Size { said, input: input() });
        }
        let other = said.or(usual);
        let (Some(height), Some(width)) = (model.0.or(other.map(|s| s.0)), model.1.or(other.map(|s| s.1)))
        else {
            return Err(PreprocessError::NoSize { input: input() });
        };
        let (input, bytes) = (spec.name.clone(), spec.dtype == DType::U8);
        Ok(Self { input, height, width, channels, layout, bytes, preprocess })
    }

    /// The pixels of an image at the input's size, row by row, in RGB or grey. `None` if it has none.
    pub fn pixels(&self, image: DynamicImage) -> Option<Vec<u8>> {
        self.preprocess.resized(image, self.height, self.width, self.channels)
    }

    /// Bytes of such pixels.
    pub fn bytes(&self) -> usize {
        self.height as usize * self.width as usize * self.channels
    }

    /// A batch of such pixels as the input reads it.
    pub fn tensor(&self, images: &[&[u8]]) -> Option<Tensor> {
        if self.bytes {
            let tables = vec![std::array::from_fn(|pixel| pixel as u8); self.channels];
            return self.arranged(images, &tables).map(Tensor::U8);
        }
        self.arranged(images, &self.tables()).map(Tensor::F32)
    }

    /// The number that each pixel becomes, by channel in the order of the model.
    fn tables(&self) -> Vec<[f32; 256]> {
        let Preprocess { scale, mean, std, .. } = &self.preprocess;
        // A model of grey images has one number of what was said for three colours: the mean.
        let of = |list: &[f64], channel: usize| match (list, self.channels) {
            ([one], _) => *one,
            (all, 1) => all.iter().sum::<f64>() / all.len().max(1) as f64,
            (all, _) => all.get(channel).copied().unwrap_or_default(),
        };
        let table = |channel| {
            let (mean, std) = (of(mean, channel), of(std, channel));
            std::array::from_fn(|pixel| ((pixel as f64 * scale - mean) / std) as f32)
        };
        (0..self.channels).map(table).collect()
    }

    /// The images with each pixel looked up, in the order of axes and channels that the model has.
    fn arranged<T: Copy>(&self, images: &[&[u8]], tables: &[[T; 256]]) -> Option<ArrayD<T>> {
        let (height, width, channels) = (self.height as usize, self.width as usize, self.channels);
        let source = |channel: usize| match self.preprocess.order {
            ChannelOrder::Bgr => channels - 1 - channel,
            ChannelOrder::Rgb => channel,
        };
        let mut elements = Vec::with_capacity(images.len() * self.bytes());
        for image in images {
            let mut add = |pixel: &[u8], channel: usize, table: &[T; 256]| {
                elements.extend(
                    pixel.get(source(channel)).and_then(|value| table.get(usize::from(*value))).copied(),
                );
            };
            match self.layout {
                Layout::Nchw => tables.iter().enumerate().for_each(|(channel, table)| {
                    image.chunks(channels).for_each(|pixel| add(pixel, channel, table));
                }),
                Layout::Nhwc => image.chunks(channels).for_each(|pixel| {
                    tables.iter().enumerate().for_each(|(channel, table)| add(pixel, channel, table));
                }),
            }
        }
        let shape = match self.layout {
            Layout::Nchw => [images.len(), channels, height, width],
            Layout::Nhwc => [images.len(), height, width, channels],
        };
        ArrayD::from_shape_vec(IxDyn(&shape), elements).ok()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { height, width, channels, layout, bytes, preprocess, .. } = self;
        write!(f, "{height}x{width}, {channels} channels, {layout}")?;
        if *bytes {
            return write!(f, ", pixels as they are: the input reads bytes");
        }
        write!(f, "; {preprocess}")
    }
}

/// The axes of an input that reads images.
struct Axes<'a> {
    layout: Layout,
    height: &'a Dim,
    width: &'a Dim,
    channels: usize,
}

/// The axes of an input, if they can be those of images in a layout, if one is said.
fn axes(spec: &InputSpec, said: Option<Layout>) -> Option<Axes<'_>> {
    let [_, a, b, c] = spec.dims.as_slice() else { return None };
    let channels = |dim: &Dim| match dim {
        Dim::Fixed(n @ (1 | 3)) => Some(*n),
        // Left open: colours.
        Dim::Symbol(_) | Dim::Free => Some(3),
        Dim::Fixed(_) => None,
    };
    let nchw = |n| Axes { layout: Layout::Nchw, height: b, width: c, channels: n };
    let nhwc = |n| Axes { layout: Layout::Nhwc, height: a, width: b, channels: n };
    let known = |dim: &Dim| matches!(dim, Dim::Fixed(1 | 3));
    let found = match said {
        Some(Layout::Nchw) => channels(a).map(nchw),
        Some(Layout::Nhwc) => channels(c).map(nhwc),
        None if known(c) && !known(a) => channels(c).map(nhwc),
        None => channels(a).map(nchw),
    };
    let small = |dim: &Dim| !matches!(dim, Dim::Fixed(side) if *side > LARGEST as usize);
    found.filter(|axes| small(axes.height) && small(axes.width))
}

fn fixed(dim: &Dim) -> Option<u32> {
    match dim {
        Dim::Fixed(n) => u32::try_from(*n).ok(),
        Dim::Symbol(_) | Dim::Free => None,
    }
}
