//! From images to what a model reads: how they are brought to its size, and what its numbers are made of pixels.
//!
//! No ONNX file says so. It is told by a name ([`Preset`]), by settings (`size=224,mean=0.5,std=0.5,scale=1/255`), or by the
//! `preprocessor_config.json` that Hugging Face keeps beside a model.

mod config;
mod geometry;
mod parse;
mod target;

use std::{fmt, path::PathBuf};

pub(super) use config::NAME as CONFIG;
pub(super) use target::Target;

use crate::named::named;

/// What is said of the preprocessing of images.
#[derive(Clone, Debug, PartialEq)]
pub enum Preprocessing {
    /// It is written here.
    Said(Box<Preprocess>),
    /// A `preprocessor_config.json`.
    Config(PathBuf),
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(said) => said.fmt(f),
            Self::Config(path) => path.display().fmt(f),
        }
    }
}

/// How an image is brought to the size of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Scaled until it covers the size; what is beyond is cut off on both sides.
    Crop,
    /// Scaled to the size, whatever its proportions.
    Stretch,
    /// Scaled until it fits in; the rest is filled on both sides.
    Pad,
}

named!(
    Fit,
    "a way to fit an image to a size",
    [
        (Crop, "crop", "Scaled until it covers the size; what is beyond is cut off."),
        (Stretch, "stretch", "Scaled to the size, whatever its proportions."),
        (Pad, "pad", "Scaled until it fits in; the rest is filled."),
    ]
);

/// How pixels are interpolated: as Pillow does, which averages where images shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

named!(
    Filter,
    "a way to interpolate",
    [
        (Nearest, "nearest", "The nearest pixel."),
        (Bilinear, "bilinear", "Linear in both directions."),
        (Bicubic, "bicubic", "Cubic in both directions."),
        (Lanczos, "lanczos", "Lanczos windows of three pixels."),
    ]
);

/// In which order the model reads the channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ChannelOrder {
    Rgb,
    Bgr,
}

named!(
    ChannelOrder,
    "an order of channels",
    [(Rgb, "rgb", "Red, green, blue."), (Bgr, "bgr", "Blue, green, red.")]
);

/// Which axis the channels are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Layout {
    Nchw,
    Nhwc,
}

named!(
    Layout,
    "an order of axes",
    [
        (Nchw, "nchw", "Samples, channels, height, width."),
        (Nhwc, "nhwc", "Samples, height, width, channels."),
    ]
);

/// Preprocessing that goes by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Preset {
    Imagenet,
    Clip,
    Inception,
    Yolo,
    Raw,
}

named!(
    Preset,
    "a preset of preprocessing",
    [
        (
            Imagenet,
            "imagenet",
            "As torchvision's classifiers and most of timm's: 7/8 of the middle, mean and deviation of ImageNet."
        ),
        (Clip, "clip", "As CLIP: the middle, bicubic, with the mean and deviation of its own data."),
        (Inception, "inception", "As TensorFlow's and MobileNet: 7/8 of the middle, from -1 to 1."),
        (Yolo, "yolo", "As Ultralytics': padded with grey, from 0 to 1."),
        (Raw, "raw", "Stretched, and the pixels as they are, from 0 to 255."),
    ]
);

/// How images become the input of a model. `x = (pixel · scale − mean) / std`, with pixels from 0 to 255.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Height and width, where they are said.
    size: Option<(u32, u32)>,
    /// Height and width where neither this nor the model says them.
    usual: Option<u32>,
    fit: Fit,
    /// The share of the scaled image's shorter side that [`Fit::Crop`] leaves.
    share: f64,
    /// The value of pixels that [`Fit::Pad`] adds.
    fill: u8,
    filter: Filter,
    scale: f64,
    /// One for all channels or one for each, in the order that the model reads them.
    mean: Vec<f64>,
    std: Vec<f64>,
    order: ChannelOrder,
    layout: Option<Layout>,
}

impl Preset {
    /// What the name stands for.
    fn settings(self) -> Preprocess {
        let raw = Preprocess {
            size: None,
            usual: None,
            fit: Fit::Stretch,
            share: 1.0,
            fill: 114,
            filter: Filter::Bilinear,
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            order: ChannelOrder::Rgb,
            layout: None,
        };
        let scale = 1.0 / 255.0;
        match self {
            Self::Imagenet => Preprocess {
                usual: Some(224),
                fit: Fit::Crop,
                share: 0.875,
                scale,
                mean: vec![0.485, 0.456, 0.406],
                std: vec![0.229, 0.224, 0.225],
                ..raw
            },
            Self::Clip => Preprocess {
                usual: Some(224),
                fit: Fit::Crop,
                filter: Filter::Bicubic,
                scale,
                mean: vec![0.481_454_66, 0.457_827_5, 0.408_210_73],
                std: vec![0.268_629_54, 0.261_302_58, 0.275_777_11],
                ..raw
            },
            Self::Inception => Preprocess {
                usual: Some(299),
                fit: Fit::Crop,
                share: 0.875,
                scale,
                mean: vec![0.5],
                std: vec![0.5],
                ..raw
            },
            Self::Yolo => Preprocess { usual: Some(640), fit: Fit::Pad, scale, ..raw },
            Self::Raw => raw,
        }
    }
}

impl Preprocess {
    /// What is taken where nothing is said: as most classifiers were trained, or pixels for a model that reads bytes.
    pub(super) fn assumed(bytes: bool) -> Self {
        if bytes { Preset::Raw.settings() } else { Preset::Imagenet.settings() }
    }
}

impl fmt::Display for Preprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |numbers: &[f64]| numbers.iter().map(f64::to_string).collect::<Vec<_>>().join("/");
        if let Some((height, width)) = self.size {
            write!(f, "size={height}x{width},")?;
        }
        write!(f, "fit={},", self.fit)?;
        match self.fit {
            Fit::Crop => write!(f, "share={},", self.share)?,
            Fit::Pad => write!(f, "fill={},", self.fill)?,
            Fit::Stretch => {}
        }
        write!(f, "filter={},", self.filter)?;
        let unit = (self.scale * 255.0 - 1.0).abs() < 1e-9;
        let scale = if unit { "1/255".to_owned() } else { self.scale.to_string() };
        write!(f, "scale={scale},mean={},std={},order={}", list(&self.mean), list(&self.std), self.order)?;
        self.layout.map_or(Ok(()), |layout| write!(f, ",layout={layout}"))
    }
}

/// Why images cannot be preprocessed as was said.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PreprocessError {
    /// No preset, no file, no settings.
    #[error(
        "`{text}` is neither a preset ({presets}), nor settings such as size=224,mean=0.5,std=0.5, nor a file"
    )]
    Unknown { text: String, presets: String },
    /// There is no such setting.
    #[error("there is no setting `{key}` of preprocessing: there are {known}")]
    Key { key: String, known: &'static str },
    /// A setting has no such value.
    #[error("{key}={value} makes no sense: {expected}")]
    Value { key: String, value: String, expected: String },
    /// A configuration that cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A configuration that is none.
    #[error(
        "cannot read `{path}` as a preprocessor configuration: {problem}; say the preprocessing another way"
    )]
    Config { path: PathBuf, problem: String },
    /// The model is of another size.
    #[error("the preprocessing makes images of {}x{}, and the model input {input} reads others", said.0, said.1)]
    Size { said: (u32, u32), input: String },
    /// Nothing says how large images are to be.
    #[error("the model input {input} leaves the size of images open: say one, such as size=224")]
    NoSize { input: String },
    /// The axes are not as the model has them.
    #[error("the preprocessing puts channels where the model input {input} has none")]
    Layout { input: String },
    /// Means or deviations that fit no channels.
    #[error("{given} means or deviations were given for the {channels} channels of the model input {input}")]
    Channels { given: usize, channels: usize, input: String },
}
