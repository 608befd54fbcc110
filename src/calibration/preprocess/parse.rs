//! Preprocessing as people write it: `imagenet`, or `size=224,mean=0.5/0.5/0.5,std=0.5/0.5/0.5,scale=1/255`, or both.

use std::{ops::RangeInclusive, path::PathBuf, str::FromStr};

use super::{Preprocess, PreprocessError, Preprocessing, Preset};
use crate::named::Named;

/// The settings, for people.
const KEYS: &str = "size, fit, share, fill, filter, scale, mean, std, order, layout";
/// The longest side that images may be brought to.
pub(super) const LARGEST: u32 = 8192;
/// Shares of an image that cropping may leave.
pub(super) const SHARES: RangeInclusive<f64> = 0.01..=1.0;

impl FromStr for Preprocessing {
    type Err = PreprocessError;

    /// A preset, settings that go before those of a preset or of `raw`, or else the path of a file.
    fn from_str(text: &str) -> Result<Self, PreprocessError> {
        let (first, rest) = text.split_once(',').unwrap_or((text, ""));
        let (preset, settings) = match Preset::named(first) {
            Ok(preset) => (preset, rest),
            Err(_) if first.contains('=') => (Preset::Raw, text),
            Err(_) if !rest.contains('=') => return Ok(Self::Config(PathBuf::from(text))),
            Err(_) => return Err(unknown(text)),
        };
        let mut preprocess = preset.settings();
        for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once('=').ok_or_else(|| unknown(setting))?;
            preprocess.set(key.trim(), value.trim())?;
        }
        Ok(Self::Said(Box::new(preprocess)))
    }
}

/// The error of a text that says nothing known.
pub(super) fn unknown(text: &str) -> PreprocessError {
    let presets: Vec<&str> = Preset::ALL.iter().map(|(_, name, _)| *name).collect();
    PreprocessError::Unknown { text: text.to_owned(), presets: presets.join(", ") }
}

impl Preprocess {
    fn set(&mut self, key: &str, value: &str) -> Result<(), PreprocessError> {
        let wrong = |expected: &str| PreprocessError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        let finite = || number(value).ok_or_else(|| wrong("a number such as 0.5 or 1/255 is expected"));
        let list = || numbers(value).ok_or_else(|| wrong("numbers such as 0.485/0.456/0.406 are expected"));
        match key {
            "size" => {
                self.size = Some(size(value).ok_or_else(|| wrong("a size is 224 or 48x320, height first"))?)
            }
            "fit" => self.fit = choice(key, value)?,
            "share" => {
                self.share = finite()?;
                if !SHARES.contains(&self.share) {
                    return Err(wrong("a share is from 0.01 to 1"));
                }
            }
            "fill" => self.fill = value.parse().map_err(|_| wrong("a pixel is from 0 to 255"))?,
            "filter" => self.filter = choice(key, value)?,
            "scale" => self.scale = finite()?,
            "mean" => self.mean = list()?,
            "std" => {
                self.std = list()?;
                if self.std.iter().any(|std| *std <= 0.0) {
                    return Err(wrong("deviations are above 0"));
                }
            }
            "order" => self.order = choice(key, value)?,
            "layout" => self.layout = Some(choice(key, value)?),
            _ => return Err(PreprocessError::Key { key: key.to_owned(), known: KEYS }),
        }
        Ok(())
    }
}

fn choice<T: Named>(key: &str, value: &str) -> Result<T, PreprocessError> {
    T::named(value).map_err(|error| PreprocessError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        expected: format!("there are {}", error.known.join(", ")),
    })
}

/// A finite number, or a quotient of two.
fn number(text: &str) -> Option<f64> {
    let number = match text.split_once('/') {
        Some((a, b)) => a.trim().parse::<f64>().ok()? / b.trim().parse::<f64>().ok()?,
        None => text.parse().ok()?,
    };
    number.is_finite().then_some(number)
}

fn numbers(text: &str) -> Option<Vec<f64>> {
    let finite = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    text.split('/').map(finite).collect()
}

/// Height and width of a square or a rectangle.
fn size(text: &str) -> Option<(u32, u32)> {
    let side = |text: &str| text.trim().parse().ok().filter(|side| (1..=LARGEST).contains(side));
    match text.split_once(['x', 'X']) {
        Some((height, width)) => Some((side(height)?, side(width)?)),
        None => side(text).map(|side| (side, side)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Preprocess {
        match text.parse::<Preprocessing>() {
            Ok(Preprocessing::Said(said)) => *said,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (preset, ..) in Preset::ALL {
            let settings = said(preset.name());
            let again = said(&settings.to_string());
            assert_eq!(again, Preprocess { usual: None, share: again.share, fill: again.fill, ..settings });
        }
        let long = said("size=48x320,fit=pad,fill=0,mean=0.5/0.25/0,std=2,scale=1/255,order=bgr,layout=nhwc");
        assert_eq!((long.size, long.mean.len(), long.fill), (Some((48, 320)), 3, 0));
        assert_eq!(said("imagenet,order=bgr").mean, said("imagenet").mean);
        assert_eq!("a/b.json".parse::<Preprocessing>().unwrap(), Preprocessing::Config("a/b.json".into()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "size=0",
            "size=99999",
            "size=224x",
            "fit=zoom",
            "share=0",
            "share=2",
            "share=NaN",
            "fill=256",
            "scale=1/0",
            "mean=",
            "mean=a/b",
            "std=0",
            "std=-1",
            "order=grb",
            "layout=chw",
            "colour=red",
            "imagenet,size",
            "clop,size=2",
        ] {
            assert!(text.parse::<Preprocessing>().is_err(), "{text}");
        }
    }
}
