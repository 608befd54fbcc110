//! Calibration data: from a model and what the user has to samples that are ready to be fed.
//!
//! A [`Source`] gives samples as they are asked for: a file by one of the readers, inputs that are made up, or what a caller of
//! the library has. [`Samples`] checks them against the model and cuts them into batches, so that no more of them is in memory
//! than a batch. What valid data cannot tell is a warning ([`Samples::warnings`], [`Variation`]).

mod arrays;
mod cast;
mod check;
mod error;
mod note;
mod npy;
mod preprocess;
mod readers;
mod roles;
mod samples;
mod source;
mod spec;
mod survey;
mod synthetic;
mod tokens;
mod warnings;

use std::path::{Path, PathBuf};

pub use error::{CalibrationError, SetTensor};
pub use note::{Note, Origin};
pub use npy::NpyError;
pub use preprocess::{ChannelOrder, Filter, Fit, Layout, Preprocess, PreprocessError, Preprocessing, Preset};
pub use readers::{accepted, formats};
pub use roles::{InputRole, input_roles};
pub use samples::{Input, Samples};
pub use source::Source;
pub use warnings::Variation;

use crate::onnx::proto::ModelProto;
use arrays::Arrays;
use readers::{Opened, Request, test_data};
use samples::Choice;
use spec::InputSpecs;

/// When inputs are made up. They fit the model and mean nothing: good for shapes and proofs, not for scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synthetic {
    /// Never: it is an error that there are no data.
    #[default]
    Never,
    /// Where there are no data.
    WithoutData,
    /// Whatever data there are.
    Always,
}

/// What the user says about calibration data.
#[derive(Clone, Debug, Default)]
pub struct CalibrationOptions {
    /// A file or a folder in one of the formats that [`accepted`] lists, such as a `.npz` file (arrays by input name, samples
    /// along the first axis) or a folder of images.
    pub calib: Option<PathBuf>,
    /// Extents for dynamic axes by input name. The extent of a dynamic batch axis is not
    /// used.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// How many samples to use; by default all arrays of a file, 256 images or texts, or 8 synthetic ones.
    pub samples: Option<usize>,
    /// Seed of all random choices.
    pub seed: u64,
    /// When inputs are made up.
    pub synthetic: Synthetic,
    /// What becomes of images. `None`: what a `preprocessor_config.json` beside the model or the images says, or else, with a
    /// warning, what most classifiers were trained with.
    pub preprocess: Option<Preprocessing>,
    /// The `tokenizer.json` that splits text. `None`: one beside the model or the text.
    pub tokenizer: Option<PathBuf>,
    /// The most tokens of a text. `None`: as many as the model is fixed to, or else 128.
    pub max_length: Option<usize>,
}

impl CalibrationOptions {
    /// The same, with inputs made up where there are no data.
    pub fn or_synthetic(self) -> Self {
        let synthetic = match self.synthetic {
            Synthetic::Never => Synthetic::WithoutData,
            other => other,
        };
        Self { synthetic, ..self }
    }

    /// The data that are to be read: those that are named, or else, in this order, folders `test_data_set_N` beside the model or
    /// `<stem>.calib.npz` beside it. `None` where there are none, or none are wanted.
    pub fn data(&self, model_path: Option<&Path>) -> Option<Origin> {
        match &self.calib {
            _ if self.synthetic == Synthetic::Always => None,
            Some(path) if path.is_dir() => Some(Origin::Folder(path.clone())),
            Some(path) => Some(Origin::File(path.clone())),
            None => beside(model_path?),
        }
    }
}

/// Samples for `model`, which was read from `model_path`, if it was read from a file.
///
/// They come from [`CalibrationOptions::data`], or, where `options` allow it, from a random generator.
///
/// # Errors
/// When there are no data, when they cannot be read, and when they do not fit the model.
pub fn load(
    model: &ModelProto,
    model_path: Option<&Path>,
    options: &CalibrationOptions,
) -> Result<Samples, CalibrationError> {
    if options.samples == Some(0) {
        return Err(CalibrationError::ZeroSamples);
    }
    let specs = InputSpecs::new(model, &options.shapes)?;
    let origin = match options.data(model_path) {
        Some(origin) => origin,
        None if options.synthetic == Synthetic::Never => {
            let (inputs, beside) = (specs.declared(), model_path.map(calibration_file));
            return Err(CalibrationError::NoData { inputs, beside });
        }
        None => Origin::Synthetic,
    };
    let opened = match &origin {
        Origin::File(path) | Origin::Folder(path) => {
            let beside = model_path.map(folder);
            readers::open(path, &Request { specs: &specs, beside, options })
        }
        Origin::Synthetic | Origin::Memory | Origin::Source => made_up(&specs, options),
    };
    let mut opened = opened.map_err(|error| error.found_in(&origin))?;
    let at_most = options.samples.or_else(|| enough(&mut opened)).filter(|_| origin != Origin::Synthetic);
    let choice = at_most.map(|at_most| Choice { at_most, seed: options.seed });
    Samples::assemble(&specs, opened, origin, choice)
}

fn made_up(specs: &InputSpecs, options: &CalibrationOptions) -> Result<Opened, CalibrationError> {
    Ok(Opened::new(Arrays::held(specs, synthetic::draw(specs, options.samples, options.seed)?)?))
}

/// How many samples do where nobody says how many, if that is fewer than there are; with a note.
fn enough(opened: &mut Opened) -> Option<usize> {
    let of = opened.source.len();
    let used = opened.enough.filter(|used| *used < of)?;
    opened.notes.push(Note::Enough { used, of });
    Some(used)
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The data that lie beside the model.
fn beside(model_path: &Path) -> Option<Origin> {
    let folder = folder(model_path);
    if test_data::sets(folder).is_ok_and(|sets| !sets.is_empty()) {
        return Some(Origin::Folder(folder.into()));
    }
    let file = calibration_file(model_path);
    file.is_file().then_some(Origin::File(file))
}

/// Where the calibration data of a model are looked for.
fn calibration_file(model_path: &Path) -> PathBuf {
    model_path.with_extension("calib.npz")
}
