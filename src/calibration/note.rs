//! Where samples come from, and what was done to them on the way.

use std::{fmt, path::PathBuf};

use crate::tensor::DType;

/// Where samples come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A `.npz` or `.npy` file.
    File(PathBuf),
    /// A folder in the layout of the ONNX model zoo: `test_data_set_N/input_I.pb`, or one such set.
    TestData(PathBuf),
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
            Self::File(path) | Self::TestData(path) => path.display().fmt(f),
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
