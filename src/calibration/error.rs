//! What can be wrong with calibration data.

use std::{fmt, path::PathBuf};

use zip::result::ZipError;

use crate::{
    calibration::{NpyError, Origin, PreprocessError},
    onnx::OnnxError,
    tensor::DType,
};

/// Why there are no samples to calibrate with.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CalibrationError {
    /// All inputs are constants.
    #[error("the model has no inputs, so there is nothing to calibrate")]
    NoInputs,
    /// Sequences, maps, optionals and strings cannot be fed.
    #[error("model input `{input}` is not a tensor of numbers or truth values, which is all that can be fed")]
    UnsupportedInput { input: String },
    /// The number of axes is unknown.
    #[error("the model does not declare the shape of its input `{input}`: give one, such as 1x3x224x224")]
    UnknownRank { input: String },
    /// A shape was given for something that is not an input.
    #[error("a shape was given for `{name}`, which is not an input of the model (inputs: {})", inputs.join(", "))]
    UnknownShape { name: String, inputs: Vec<String> },
    /// A given shape contradicts the model, or has an empty axis.
    #[error("the shape {given:?} given for input `{input}` does not fit the shape {declared} in the model")]
    ShapeConflict { input: String, given: Vec<usize>, declared: String },
    /// There are no data, and none may be made up.
    #[error(
        "there are no calibration data, and scores of made-up inputs mean nothing: give samples, as a .npz file \
         with the arrays {inputs}{}",
        beside.as_ref().map_or(String::new(), |path| format!(", or put that file beside the model as `{}`", path.display()))
    )]
    NoData { inputs: String, beside: Option<PathBuf> },
    /// The user asked for none.
    #[error("zero samples were asked for, and calibration needs at least one")]
    ZeroSamples,
    /// More samples than noise is worth.
    #[error("{asked} made-up samples were asked for; more than {most} tell no more than {most} do")]
    TooMany { asked: usize, most: usize },
    /// Random inputs of this shape take more memory than they may.
    #[error(
        "made-up values for input `{input}` of shape {shape:?} take more than 1 GiB: ask for fewer samples, \
         or for a smaller shape"
    )]
    TooLarge { input: String, shape: Vec<usize> },

    /// The operating system refused.
    #[error("cannot read `{path}`: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// There is a folder, a device or a pipe.
    #[error("`{path}` is not a regular file, so no calibration data can be read from it")]
    NotAFile { path: PathBuf },
    /// The file name says nothing known.
    #[error("`{path}` is in no known format: give {known}")]
    UnknownFormat { path: PathBuf, known: String },
    /// The file is no NumPy archive.
    #[error("cannot read `{path}` as a NumPy archive: {problem} ({source})")]
    Npz { path: PathBuf, problem: &'static str, source: ZipError },
    /// The file is no collection of tensors.
    #[error("cannot read `{path}` as safetensors: {problem}")]
    Safetensors { path: PathBuf, problem: String },
    /// An array is damaged.
    #[error("cannot read the array `{array}` of `{path}`: {source}")]
    Array { path: PathBuf, array: String, source: NpyError },
    /// The array is of a type without a counterpart in ONNX, such as objects or dates.
    #[error(
        "the array `{array}` of `{path}` has elements of the NumPy type {found}, which cannot be fed: \
         store booleans, integers or floats"
    )]
    ArrayType { path: PathBuf, array: String, found: String },
    /// A `.npy` file has no names in it.
    #[error(
        "`{path}` holds one array without a name, but the model has the inputs {}: use a .npz file",
        inputs.join(", ")
    )]
    Unnamed { path: PathBuf, inputs: Vec<String> },
    /// No `input_I.pb` where they were looked for.
    #[error("the folder `{path}` holds neither test_data_set_N folders nor input_I.pb files")]
    NoTestData { path: PathBuf },
    /// Nothing can be made of images for this model.
    #[error(
        "`{path}` holds images, and {problem}: the model has the inputs {inputs}; give arrays, in a .npz file made by \
         numpy.savez"
    )]
    NotForImages { path: PathBuf, problem: &'static str, inputs: String },
    /// Images cannot be preprocessed as was said.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// An image is damaged, too large, or of another format.
    #[error("cannot read the image `{path}`: {source}; remove or replace it")]
    Image { path: PathBuf, source: image::ImageError },
    /// A folder with more files than anybody calibrates with.
    #[error("`{path}` holds more than {most} images: give a folder with fewer")]
    TooManyImages { path: PathBuf, most: usize },
    /// Lines that are no samples of text.
    #[error("cannot read `{path}`: line {line} {problem}")]
    Text { path: PathBuf, line: u64, problem: String },
    /// Nothing splits texts into tokens.
    #[error(
        "`{path}` holds text, and there is no tokenizer.json beside the model or the text: put the model's tokenizer there, or \
         name it"
    )]
    NoTokenizer { path: PathBuf },
    /// A tokenizer that cannot be read or used.
    #[error("cannot use the tokenizer `{path}`: {problem}")]
    Tokenizer { path: PathBuf, problem: String },
    /// An input that text does not tell how to fill.
    #[error(
        "`{path}` holds text, which does not tell how to fill the model input {input}: {problem}; give arrays, in a .npz file made \
         by numpy.savez"
    )]
    NotForText { path: PathBuf, input: String, problem: &'static str },
    /// The file is no serialized tensor.
    #[error("cannot read `{path}` as a TensorProto: {source}")]
    Protobuf { path: PathBuf, source: prost::DecodeError },
    /// The tensor inside is damaged.
    #[error("cannot read the tensor in `{path}`: {source}")]
    Tensor { path: PathBuf, source: OnnxError },
    /// More `input_I.pb` files than inputs.
    #[error("`{path}` is for input number {index}, but the model has {inputs} inputs, counted from 0")]
    SurplusInput { path: PathBuf, index: usize, inputs: usize },
    /// Two sets cannot be put into one array.
    #[error("input `{input}` is {first} but {second}: apart from the batch axis, all sets must agree")]
    SetsDiffer { input: String, first: Box<SetTensor>, second: Box<SetTensor> },
    /// An input without a batch axis can have one value only.
    #[error(
        "input `{input}` has no batch axis, so it must be the same in all sets, \
         but it differs between `{first}` and `{second}`"
    )]
    WholeDiffers { input: String, first: PathBuf, second: PathBuf },

    /// The data were read but do not suit the model.
    #[error("{origin}: {problem}")]
    Unsuitable { origin: Origin, problem: Box<CalibrationError> },
    /// An input got no array.
    #[error(
        "there is no array for the model input `{input}`: there are the arrays {}, and the model has the inputs {inputs}; give \
         the arrays the names of the inputs",
        if found.is_empty() { "(none)".into() } else { found.join(", ") }
    )]
    MissingInput { input: String, found: Vec<String>, inputs: String },
    /// The number of axes is wrong.
    #[error("input `{input}` must have the {} axes {expected}, but the array has shape {found:?}", rank)]
    Rank { input: String, rank: usize, expected: String, found: Vec<usize> },
    /// An extent is not what the model declares.
    #[error("axis {axis} of input `{input}` must have extent {expected}, but the array has shape {found:?}")]
    Extent { input: String, axis: usize, expected: usize, found: Vec<usize> },
    /// An array without elements.
    #[error("the array for input `{input}` is empty: its shape is {found:?}")]
    Empty { input: String, found: Vec<usize> },
    /// The element type is wrong and no conversion keeps the meaning.
    #[error("input `{input}` must be {expected}, but the array is {found}{}", advice(*expected, *found))]
    ElementType { input: String, expected: DType, found: DType },
    /// Some integer is outside the range of the input's type.
    #[error("input `{input}` must be {expected}, and some values of the {found} array do not fit that type")]
    DoesNotFit { input: String, expected: DType, found: DType },
    /// NaN or infinity.
    #[error("input `{input}` must be finite, but holds {value} at {position:?}")]
    NotFinite { input: String, value: f64, position: Vec<usize> },
    /// An index points beyond its table.
    #[error(
        "input `{input}` indexes a table that has room for ids below {rows}, but holds {id} at {position:?}"
    )]
    IdOutOfRange { input: String, rows: usize, id: i64, position: Vec<usize> },
    /// Leading axes disagree.
    #[error("input `{first}` has {first_count} samples but input `{second}` has {second_count}")]
    Counts { first: String, first_count: usize, second: String, second_count: usize },
    /// There are none.
    #[error("there are no samples")]
    NoSamples,
    /// A source gave fewer or more samples than it was asked for.
    #[error("input `{input}` has {found} samples where {asked} were asked for")]
    Miscounted { input: String, asked: usize, found: usize },
    /// Samples are not of one shape.
    #[error(
        "input `{input}` has the shape {first:?} in the first sample, but {found:?} from sample {sample} on"
    )]
    ShapesDiffer { input: String, first: Vec<usize>, sample: usize, found: Vec<usize> },
    /// An input without a batch axis comes with other elements.
    #[error(
        "input `{input}` has no batch axis, so it must be the same for all samples, but it is another from sample {sample} on"
    )]
    WholeVaries { input: String, sample: usize },
    /// A source of the caller's own failed.
    #[error("the samples cannot be read: {source}")]
    Source { source: Box<dyn std::error::Error + Send + Sync> },
    /// Not even one batch.
    #[error("the model runs on batches of exactly {batch}, but there are only {count} samples")]
    LessThanABatch { batch: usize, count: usize },
    /// A caller asked for samples that are not there, or for a batch the model does not run on.
    #[error(
        "samples {start}..{end} are no batch: there are {count} samples{}",
        fixed.map_or(String::new(), |n| format!(", and the model runs on batches of exactly {n}"))
    )]
    NoSuchBatch { start: usize, end: usize, count: usize, fixed: Option<usize> },
}

impl CalibrationError {
    /// The same, with the name of the files where it is their contents that do not suit the model.
    pub(super) fn found_in(self, origin: &Origin) -> Self {
        let contents = matches!(
            self,
            Self::MissingInput { .. }
                | Self::Rank { .. }
                | Self::Extent { .. }
                | Self::Empty { .. }
                | Self::ElementType { .. }
                | Self::DoesNotFit { .. }
                | Self::NotFinite { .. }
                | Self::IdOutOfRange { .. }
                | Self::Counts { .. }
                | Self::NoSamples
                | Self::Miscounted { .. }
                | Self::ShapesDiffer { .. }
                | Self::WholeVaries { .. }
                | Self::LessThanABatch { .. }
        );
        match origin {
            Origin::File(_) | Origin::Folder(_) | Origin::Synthetic if contents => {
                Self::Unsuitable { origin: origin.clone(), problem: Box::new(self) }
            }
            _ => self,
        }
    }
}

/// A tensor as it is in a set of test data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetTensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// The folder of the set.
    pub set: PathBuf,
}

impl fmt::Display for SetTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} in `{}`", self.dtype, self.shape, self.set.display())
    }
}

/// What to do about elements of the wrong kind.
fn advice(expected: DType, found: DType) -> &'static str {
    match (expected.is_float(), found) {
        (true, DType::U8) => {
            ": apply the preprocessing the model was trained with (scale, mean, deviation) first"
        }
        (true, _) => ": integers are not taken for features; convert them as the model expects",
        (false, _) => ": floats are not rounded to integers",
    }
}
