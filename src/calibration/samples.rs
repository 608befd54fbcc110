//! Arrays checked against the model and cut into batches.

use std::{fmt, ops::Range, path::PathBuf};

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    calibration::{
        CalibrationError,
        cast::{cast, first_non_finite, position},
        roles::InputRole,
        spec::{Dim, InputSpec, InputSpecs},
    },
    onnx::proto::ModelProto,
    tensor::{DType, Tensor},
};

/// Where samples come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A `.npz` or `.npy` file.
    File(PathBuf),
    /// A folder in the layout of the ONNX model zoo: `test_data_set_N/input_I.pb`, or one such set.
    TestData(PathBuf),
    /// Drawn at random.
    Synthetic,
    /// Given by the caller of the library.
    Memory,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::TestData(path) => path.display().fmt(f),
            Self::Synthetic => f.write_str("synthetic inputs"),
            Self::Memory => f.write_str("given arrays"),
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

/// Inputs for a model, at least one sample of each, that are known to fit it.
///
/// The leading axis counts samples in every input with a batch axis. Inputs without one (scalars, or a table of positions
/// that all samples share) have one value, which goes with every batch.
#[derive(Clone, Debug)]
pub struct Samples {
    inputs: Vec<(String, Tensor)>,
    batched: Vec<bool>,
    count: usize,
    fixed_batch: Option<usize>,
    origin: Origin,
    notes: Vec<Note>,
}

impl Samples {
    /// Checks `arrays`, one for each input of the model by name, in any order.
    ///
    /// Types are converted where the meaning stays: among integers (and bool) when all values fit, among floats with
    /// rounding. Anything else that does not suit the model is an error, which names the input, what was expected and what
    /// was found.
    pub fn new(model: &ModelProto, arrays: Vec<(String, Tensor)>) -> Result<Self, CalibrationError> {
        Self::assemble(&InputSpecs::new(model, &[])?, arrays, Origin::Memory, Vec::new())
    }

    pub(super) fn assemble(
        specs: &InputSpecs,
        mut arrays: Vec<(String, Tensor)>,
        origin: Origin,
        mut notes: Vec<Note>,
    ) -> Result<Self, CalibrationError> {
        let mut inputs = Vec::with_capacity(specs.inputs.len());
        for spec in &specs.inputs {
            let Some(index) = arrays.iter().position(|(name, _)| *name == spec.name) else {
                let ignored = notes.into_iter().filter_map(|note| match note {
                    Note::Ignored { array } => Some(array),
                    _ => None,
                });
                let names = inputs.into_iter().chain(arrays).map(|(name, _)| name);
                let found = names.chain(ignored).collect();
                let (input, inputs) = (spec.name.clone(), specs.declared());
                return Err(CalibrationError::MissingInput { input, found, inputs });
            };
            let (name, array) = arrays.remove(index);
            inputs.push((name, conform(spec, array, &mut notes)?));
        }
        notes.extend(arrays.into_iter().map(|(array, _)| Note::Ignored { array }));
        let batched: Vec<bool> = specs.inputs.iter().map(|spec| spec.batched).collect();
        let count = count(&inputs, &batched)?;
        let mut samples = Self { inputs, batched, count, fixed_batch: specs.fixed_batch, origin, notes };
        samples.drop_remainder()?;
        Ok(samples)
    }

    /// All samples of every input, in graph order.
    pub fn inputs(&self) -> &[(String, Tensor)] {
        &self.inputs
    }

    /// Number of samples; at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether an input's first axis counts samples.
    pub fn is_batched(&self, input: &str) -> bool {
        self.inputs.iter().zip(&self.batched).any(|((name, _), batched)| *batched && name == input)
    }

    /// The batch size if the model fixes it, by a static extent of the batch axis or as [`Self::fix_batch`] was told: it
    /// runs on nothing else, and the number of samples is a multiple of it.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    /// Where the samples come from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What was done to the data on the way.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The samples in batches of `size` (at least 1), the last one possibly smaller; of [`Self::fixed_batch`] whatever
    /// `size` says. Each range is one to call [`Self::batch`] with.
    pub fn ranges(&self, size: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (count, size) = (self.count, self.fixed_batch.unwrap_or(size).max(1));
        (0..count).step_by(size).map(move |start| start..count.min(start.saturating_add(size)))
    }

    /// The samples `start..end`, ready to be fed. Errors when there are no such samples, or when the model fixes the batch
    /// size and this is not it.
    pub fn batch(&self, start: usize, end: usize) -> Result<Vec<(String, Tensor)>, CalibrationError> {
        let fits = self.fixed_batch.is_none_or(|n| end.checked_sub(start) == Some(n));
        if start >= end || end > self.count || !fits {
            return Err(CalibrationError::NoSuchBatch {
                start,
                end,
                count: self.count,
                fixed: self.fixed_batch,
            });
        }
        Ok(self.pick(|tensor| tensor.narrow(0, start, end)))
    }

    /// At most `n` samples, chosen at random without replacement since files are often sorted by class, in their original
    /// order. For one seed, a larger choice contains every smaller one. Cut down to whole batches (at least one) when the
    /// model fixes their size.
    pub fn take(mut self, n: usize, seed: u64) -> Self {
        let batch = self.fixed_batch.unwrap_or(1);
        if n > self.count {
            self.notes.push(Note::Fewer { asked: n, used: self.count });
        }
        let n = (n - n % batch).max(batch);
        if n >= self.count {
            return self;
        }
        let mut chosen: Vec<usize> = (0..self.count).collect();
        chosen.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        chosen.truncate(n);
        chosen.sort_unstable();
        self.inputs = self.pick(|tensor| tensor.select(0, &chosen));
        self.count = n;
        self
    }

    /// From now on, only batches of `batch` samples are made.
    ///
    /// # Errors
    /// When there are fewer samples.
    pub fn fix_batch(&mut self, batch: usize) -> Result<(), CalibrationError> {
        self.fixed_batch = Some(batch);
        self.notes.push(Note::FixedBatch { batch });
        self.drop_remainder()
    }

    /// The samples with these numbers, as one batch of any size. Numbers must be less than [`Self::len`].
    pub fn select(&self, numbers: &[usize]) -> Vec<(String, Tensor)> {
        self.pick(|tensor| tensor.select(0, numbers))
    }

    fn drop_remainder(&mut self) -> Result<(), CalibrationError> {
        let Some(batch) = self.fixed_batch else { return Ok(()) };
        let dropped = self.count % batch;
        if dropped == self.count {
            return Err(CalibrationError::LessThanABatch { batch, count: self.count });
        }
        if dropped > 0 {
            self.count -= dropped;
            self.inputs = self.pick(|tensor| tensor.narrow(0, 0, self.count));
            self.notes.push(Note::Remainder { dropped, batch });
        }
        Ok(())
    }

    /// Which inputs have a batch axis, in the order of [`Self::inputs`].
    pub(super) fn batched(&self) -> &[bool] {
        &self.batched
    }

    /// All inputs, with `part` applied to those that have a batch axis.
    fn pick(&self, part: impl Fn(&Tensor) -> Tensor) -> Vec<(String, Tensor)> {
        let inputs = self.inputs.iter().zip(&self.batched);
        inputs
            .map(|((name, tensor), &batched)| {
                (name.clone(), if batched { part(tensor) } else { tensor.clone() })
            })
            .collect()
    }
}

/// The number of samples all batched inputs agree on; 1 when there are none.
fn count(inputs: &[(String, Tensor)], batched: &[bool]) -> Result<usize, CalibrationError> {
    let mut counts = inputs
        .iter()
        .zip(batched)
        .filter(|(_, batched)| **batched)
        .filter_map(|((name, tensor), _)| Some((name, *tensor.shape().first()?)));
    let Some((first, first_count)) = counts.next() else { return Ok(1) };
    match counts.find(|(_, count)| *count != first_count) {
        None => Ok(first_count),
        Some((second, second_count)) => Err(CalibrationError::Counts {
            first: first.clone(),
            first_count,
            second: second.clone(),
            second_count,
        }),
    }
}

/// The array as the model wants it, or why it is not fit.
fn conform(spec: &InputSpec, array: Tensor, notes: &mut Vec<Note>) -> Result<Tensor, CalibrationError> {
    check_shape(spec, array.shape())?;
    let found = array.dtype();
    let tensor = convert(spec, array)?;
    if found != spec.dtype {
        notes.push(Note::Converted { input: spec.name.clone(), from: found, to: spec.dtype });
    }
    check_values(spec, &tensor)?;
    Ok(tensor)
}

fn check_shape(spec: &InputSpec, found: &[usize]) -> Result<(), CalibrationError> {
    let input = || spec.name.clone();
    if found.len() != spec.dims.len() {
        let (rank, expected) = (spec.dims.len(), spec.declared());
        return Err(CalibrationError::Rank { input: input(), rank, expected, found: found.to_vec() });
    }
    for (axis, (dim, &n)) in spec.dims.iter().zip(found).enumerate().skip(usize::from(spec.batched)) {
        if let Dim::Fixed(expected) = *dim
            && n != expected
        {
            return Err(CalibrationError::Extent { input: input(), axis, expected, found: found.to_vec() });
        }
    }
    if found.contains(&0) {
        return Err(CalibrationError::Empty { input: input(), found: found.to_vec() });
    }
    Ok(())
}

fn convert(spec: &InputSpec, array: Tensor) -> Result<Tensor, CalibrationError> {
    let (input, expected, found) = (spec.name.clone(), spec.dtype, array.dtype());
    if expected.is_float() != found.is_float() {
        return Err(CalibrationError::ElementType { input, expected, found });
    }
    cast(array, expected).ok_or(CalibrationError::DoesNotFit { input, expected, found })
}

fn check_values(spec: &InputSpec, tensor: &Tensor) -> Result<(), CalibrationError> {
    if let Some((position, value)) = first_non_finite(tensor) {
        return Err(CalibrationError::NotFinite { input: spec.name.clone(), value, position });
    }
    let InputRole::Ids { rows: Some(rows) } = spec.role else { return Ok(()) };
    // Negative indices count from the end (ONNX specification of Gather).
    let valid = -(rows as i64)..rows as i64;
    let ids = tensor.to_ints().unwrap_or_default();
    match ids.iter().position(|id| !valid.contains(id)) {
        None => Ok(()),
        Some(flat) => {
            let position = position(tensor.shape(), flat);
            Err(CalibrationError::IdOutOfRange { input: spec.name.clone(), rows, id: ids[flat], position })
        }
    }
}
