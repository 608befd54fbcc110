//! Where samples come from, and what was done to them on the way.

use std::{fmt, path::PathBuf};

use crate::tensor::DType;

/// Where samples come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// A folder: of images, or in the layout of the ONNX model zoo, `test_data_set_N/input_I.pb`.
    Folder(PathBuf),
    /// Drawn at random.
    Synthetic,
    /// Arrays of the caller of the library.
    Memory,
    /// A [`Source`](crate::calibration::Source) of the caller of the library.
    Source,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Folder(path) => path.display().fmt(f),
            Self::Synthetic => f.write_str("synthetic inputs"),
            Self::Memory => f.write_str("given arrays"),
            Self::Source => f.write_str("given source of samples"),
        }
    }
}

/// Something done to the data that its owner may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Note {
    /// The model has no input of this name.
    Ignored { array: String },
    /// The only array is that of the only input, whatever its name.
    Renamed { array: String, input: String },
    /// What was made of images.
    Preprocessed { input: String, how: String, said_by: String },
    /// What was made of text.
    Tokenized { tokenizer: PathBuf, length: usize, cut: usize },
    /// Only the beginning of a text is read.
    FirstTexts { read: usize },
    /// Nobody said how many samples to use, and there are more than are needed.
    Enough { used: usize, of: usize },
    /// There are fewer samples than were asked for.
    Fewer { asked: usize, used: usize },
    /// The array was not of the type of the input.
    Converted { input: String, from: DType, to: DType },
    /// The model is run on batches of this size only: at others it mixes samples, or fails.
    FixedBatch { batch: usize },
    /// Samples at the end that do not fill a batch of the size that the model fixes.
    Remainder { dropped: usize, batch: usize },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored { array } => {
                write!(f, "the array `{array}` is not used: the model has no such input")
            }
            Self::Renamed { array, input } => {
                write!(f, "the array `{array}` is taken for the only input of the model, `{input}`")
            }
            Self::Preprocessed { input, how, said_by } => {
                write!(f, "images for input `{input}`: {how} ({said_by})")
            }
            Self::Tokenized { tokenizer, length, cut } => {
                let tokenizer = tokenizer.display();
                write!(f, "texts were split into tokens by `{tokenizer}` and padded to {length}")?;
                match cut {
                    0 => Ok(()),
                    _ => write!(f, "; {cut} of them are longer and were cut"),
                }
            }
            Self::FirstTexts { read } => {
                write!(
                    f,
                    "only the first {read} texts of the file are read, as calibration needs some hundred"
                )
            }
            Self::Enough { used, of } => {
                write!(f, "{used} of {of} samples are used, chosen at random: that many are enough")
            }
            Self::Fewer { asked, used } => {
                write!(f, "{asked} samples were asked for, and there are {used}: all are used")
            }
            Self::Converted { input, from, to } => {
                write!(f, "input `{input}` was converted from {from} to {to}")
            }
            Self::FixedBatch { batch } => {
                write!(
                    f,
                    "the model runs on batches of exactly {batch}, which its shapes hold although its input leaves them \
                     open: at other sizes it fails or mixes samples"
                )
            }
            Self::Remainder { dropped, batch } => {
                write!(
                    f,
                    "the last {dropped} samples are not used: the model runs on batches of exactly {batch}"
                )
            }
        }
    }
}
