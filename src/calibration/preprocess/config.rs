//! `preprocessor_config.json`, as image processors of Hugging Face's transformers write it.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    ChannelOrder, Filter, Fit, Preprocess, PreprocessError, Preset,
    parse::{LARGEST, SHARES, unknown},
};
use crate::limits;

/// What such files are called.
pub(in crate::calibration) const NAME: &str = "preprocessor_config.json";

/// Processors to which a size of one number is that of the shorter side. To the others it is that of both.
const BY_SHORTER_SIDE: &[&str] =
    &["CLIP", "ConvNext", "Levit", "MobileNet", "MobileViT", "PoolFormer", "Bit", "ViTHybrid", "VideoMAE"];

impl Preprocess {
    /// What the file at `path` says.
    pub(in crate::calibration) fn from_config(path: &Path) -> Result<Self, PreprocessError> {
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => unknown(&path.display().to_string()),
            _ => PreprocessError::Io { path: path.into(), source },
        };
        let wrong = |problem: String| PreprocessError::Config { path: path.into(), problem };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() || metadata.len() > limits::CONFIG_BYTES {
            return Err(wrong("it is no file of a few lines".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let config = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Config(&config).read().map_err(wrong)
    }
}

/// The entries of such a file. Those that are absent have the default that image processors give them.
struct Config<'a>(&'a Map<String, Value>);

impl Config<'_> {
    fn read(&self) -> Result<Preprocess, String> {
        let mut preprocess = Preset::Raw.settings();
        self.geometry(&mut preprocess)?;
        if self.truth("do_rescale", true)? {
            preprocess.scale = self.number("rescale_factor")?.unwrap_or(1.0 / 255.0);
        }
        if self.truth("do_normalize", true)? {
            preprocess.mean = self.numbers("image_mean")?.unwrap_or(vec![0.5]);
            preprocess.std = self.numbers("image_std")?.unwrap_or(vec![0.5]);
            if preprocess.std.iter().any(|std| *std <= 0.0) {
                return Err("a deviation in `image_std` is not above 0".to_owned());
            }
        }
        if self.truth("do_flip_channel_order", false)? {
            preprocess.order = ChannelOrder::Bgr;
        }
        Ok(preprocess)
    }

    /// Size, and how images are brought to it.
    fn geometry(&self, preprocess: &mut Preprocess) -> Result<(), String> {
        preprocess.filter = match self.count("resample")? {
            Some(0) => Filter::Nearest,
            Some(1) => Filter::Lanczos,
            Some(3) => Filter::Bicubic,
            None | Some(2) => Filter::Bilinear,
            Some(other) => return Err(format!("`resample` is {other}, and only 0 to 3 are known")),
        };
        let size = if self.truth("do_resize", true)? { self.size("size")? } else { None };
        let crop = match self.truth("do_center_crop", self.0.contains_key("crop_size"))? {
            true => self.size("crop_size")?.map(Size::rectangle),
            false => None,
        };
        (preprocess.size, preprocess.fit) = (crop, Fit::Crop);
        match (size, crop) {
            (None, _) => {}
            (Some(Size::Both(rectangle)), None) => {
                (preprocess.size, preprocess.fit) = (Some(rectangle), Fit::Stretch);
            }
            (Some(Size::Shorter(side)), None) => {
                preprocess.size = Some((side, side));
                if let Some(share) = self.number("crop_pct")?.filter(|share| SHARES.contains(share)) {
                    // ConvNext: from 384 on, images are stretched.
                    (preprocess.share, preprocess.fit) =
                        if side < 384 { (share, Fit::Crop) } else { (1.0, Fit::Stretch) };
                }
            }
            (Some(Size::Shorter(side)), Some((height, width))) => {
                if height != width || height > side {
                    return Err(format!(
                        "a piece of {height}x{width} of images whose shorter side is {side}"
                    ));
                }
                preprocess.share = f64::from(height) / f64::from(side);
            }
            // What is cut off after stretching is not what is cut off before.
            (Some(Size::Both(both)), Some(crop)) if both != crop => {
                return Err("images are stretched first and cropped then".to_owned());
            }
            (Some(Size::Both(_)), Some(_)) => preprocess.fit = Fit::Stretch,
        }
        Ok(())
    }

    fn size(&self, key: &str) -> Result<Option<Size>, String> {
        let wrong = || format!("`{key}` is no size from 1 to {LARGEST}");
        let side = |value: &Value| {
            let side = value.as_u64().and_then(|side| u32::try_from(side).ok());
            side.filter(|side| (1..=LARGEST).contains(side)).ok_or_else(wrong)
        };
        let Some(value) = self.0.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        if let Value::Object(sides) = value {
            return match (sides.get("height"), sides.get("width"), sides.get("shortest_edge")) {
                (Some(height), Some(width), _) => Ok(Some(Size::Both((side(height)?, side(width)?)))),
                (_, _, Some(shorter)) => Ok(Some(Size::Shorter(side(shorter)?))),
                _ => Err(wrong()),
            };
        }
        let side = side(value)?;
        let kind = ["image_processor_type", "feature_extractor_type"]
            .iter()
            .find_map(|key| self.0.get(*key)?.as_str());
        let shorter = kind.is_some_and(|kind| BY_SHORTER_SIDE.iter().any(|known| kind.starts_with(known)));
        Ok(Some(if shorter && key == "size" { Size::Shorter(side) } else { Size::Both((side, side)) }))
    }

    fn truth(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| format!("`{key}` is neither true nor false")),
        }
    }

    fn count(&self, key: &str) -> Result<Option<u64>, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("`{key}` is no whole number")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| format!("`{key}` is no number")),
        }
    }

    fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, String> {
        let wrong = || format!("`{key}` is no list of numbers");
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) if value.is_number() => Ok(value.as_f64().map(|number| vec![number])),
            Some(value) => {
                let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(wrong)?;
                list.iter()
                    .map(|number| number.as_f64().ok_or_else(wrong))
                    .collect::<Result<_, _>>()
                    .map(Some)
            }
        }
    }
}

/// What images are resized to.
#[derive(Clone, Copy)]
enum Size {
    /// Height and width.
    Both((u32, u32)),
    /// The shorter side; the other as it comes.
    Shorter(u32),
}

impl Size {
    fn rectangle(self) -> (u32, u32) {
        match self {
            Self::Both(rectangle) => rectangle,
            Self::Shorter(side) => (side, side),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Result<Preprocess, String> {
        Config(&serde_json::from_str(config).unwrap()).read()
    }

    #[test]
    fn processors_are_read_as_transformers_reads_them() {
        let vit = read(
            r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": 224, "feature_extractor_type": "ViTFeatureExtractor"}"#,
        );
        let vit = vit.unwrap();
        assert_eq!((vit.size, vit.fit, vit.filter), (Some((224, 224)), Fit::Stretch, Filter::Bilinear));
        assert_eq!(vit.scale, 1.0 / 255.0);
        let clip = read(
            r#"{"crop_size": 224, "do_center_crop": true, "size": 224, "resample": 3,
            "feature_extractor_type": "CLIPFeatureExtractor"}"#,
        );
        let clip = clip.unwrap();
        assert_eq!(
            (clip.size, clip.fit, clip.share, clip.filter),
            (Some((224, 224)), Fit::Crop, 1.0, Filter::Bicubic)
        );
        let dino =
            read(r#"{"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}}"#).unwrap();
        assert_eq!((dino.size, dino.fit, dino.share), (Some((224, 224)), Fit::Crop, 0.875));
        let convnext = read(r#"{"crop_pct": 0.875, "size": {"shortest_edge": 224}}"#).unwrap();
        assert_eq!((convnext.size, convnext.share), (Some((224, 224)), 0.875));
        let mobilevit = read(
            r#"{"do_flip_channel_order": true, "do_normalize": false, "size": {"height": 8, "width": 9}}"#,
        );
        let mobilevit = mobilevit.unwrap();
        assert_eq!((mobilevit.order, mobilevit.size), (ChannelOrder::Bgr, Some((8, 9))));
        assert_eq!((mobilevit.mean, mobilevit.std), (vec![0.0], vec![1.0]));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for config in [
            r#"{"size": -1}"#,
            r#"{"size": "large"}"#,
            r#"{"size": {}}"#,
            r#"{"image_std": [0]}"#,
            r#"{"image_mean": []}"#,
            r#"{"resample": 9}"#,
            r#"{"do_rescale": 3}"#,
            r#"{"size": 256, "crop_size": 224}"#,
            r#"{"size": {"shortest_edge": 8}, "crop_size": {"height": 4, "width": 6}}"#,
        ] {
            assert!(read(config).is_err(), "{config}");
        }
    }
}
