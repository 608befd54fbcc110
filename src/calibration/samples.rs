//! Samples checked against the model and cut into batches.

use std::{ops::Range, sync::Arc};

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    calibration::{
        CalibrationError, Note, Origin, Source,
        arrays::Arrays,
        check,
        readers::Opened,
        spec::{InputSpec, InputSpecs},
        survey::Seen,
    },
    onnx::proto::ModelProto,
    tensor::{DType, Tensor},
    warning::Warning,
};

/// Tensors by the names of inputs.
type Feed = Vec<(String, Tensor)>;

/// One input of the model, with the samples that there are for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Extent of every axis, with all samples along the first if that counts them.
    pub shape: Vec<usize>,
    /// Whether its first axis counts samples.
    pub batched: bool,
}

/// How many samples are used of those that there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// No more than this.
    pub at_most: usize,
    /// Seed of the choice.
    pub seed: u64,
}

/// An input and what every batch must have of it.
#[derive(Clone, Debug)]
struct Slot {
    spec: InputSpec,
    /// The shape of one sample, or of the whole.
    shape: Vec<usize>,
    /// Its value, if it has no batch axis.
    whole: Option<Tensor>,
}

/// Inputs for a model, at least one sample of each, that are known to fit it.
///
/// The leading axis counts samples in every input with a batch axis. Inputs without one (scalars, or a table of positions
/// that all samples share) have one value, which goes with every batch.
///
/// Samples are read from a [`Source`] when they are asked for. All that are used have been read and checked once before this
/// is made; what is read later is checked anew.
#[derive(Clone, Debug)]
pub struct Samples {
    source: Arc<dyn Source>,
    slots: Vec<Slot>,
    /// The number in the source of every sample that is used, ascending.
    numbers: Vec<usize>,
    /// What is known of each of those, once they have been looked at.
    seen: Vec<Seen>,
    fixed_batch: Option<usize>,
    origin: Origin,
    notes: Vec<Note>,
    /// What was to be said before any sample was looked at.
    warnings: Vec<Warning>,
}

impl Samples {
    /// Checks `arrays`, one for each input of the model by name, in any order.
    ///
    /// Types are converted where the meaning stays: among integers (and bool) when all values fit, among floats with
    /// rounding.
    ///
    /// # Errors
    /// When anything does not suit the model: the error names the input, what was expected and what was found.
    pub fn new(model: &ModelProto, arrays: Vec<(String, Tensor)>) -> Result<Self, CalibrationError> {
        let specs = InputSpecs::new(model, &[])?;
        let source = Arc::new(Arrays::held(&specs, arrays)?);
        Self::assemble(&specs, Opened::of(source), Origin::Memory, None)
    }

    /// Reads all samples of `source` once, a few at a time, and checks them as [`Self::new`] does.
    ///
    /// # Errors
    /// When the source fails, and when its samples do not suit the model or are not of one shape.
    pub fn from_source(model: &ModelProto, source: Arc<dyn Source>) -> Result<Self, CalibrationError> {
        let specs = InputSpecs::new(model, &[])?;
        Self::assemble(&specs, Opened::of(source), Origin::Source, None)
    }

    /// Samples that are chosen first and looked at then: of those that are not used, but the first is ever read.
    pub(super) fn assemble(
        specs: &InputSpecs,
        opened: Opened,
        origin: Origin,
        choice: Option<Choice>,
    ) -> Result<Self, CalibrationError> {
        let mut samples =
            Self::open(specs, opened, origin.clone()).map_err(|error| error.found_in(&origin))?;
        samples.drop_remainder().map_err(|error| error.found_in(&origin))?;
        if let Some(Choice { at_most, seed }) = choice {
            samples = samples.take(at_most, seed);
        }
        samples.seen = samples.survey()?;
        Ok(samples)
    }

    /// What the first sample tells.
    fn open(specs: &InputSpecs, opened: Opened, origin: Origin) -> Result<Self, CalibrationError> {
        let Opened { source, mut notes, warnings, .. } = opened;
        let names = source.names();
        check_names(specs, &names, &notes)?;
        if source.len() == 0 {
            return Err(CalibrationError::NoSamples);
        }
        let mut feed = source.batch(0..1)?;
        let mut slots = Vec::with_capacity(specs.inputs.len());
        for spec in &specs.inputs {
            let (slot, found) = Slot::open(spec, taken(&mut feed, spec)?)?;
            if found != spec.dtype {
                notes.push(Note::Converted { input: spec.name.clone(), from: found, to: spec.dtype });
            }
            slots.push(slot);
        }
        let is_input = |name: &String| specs.inputs.iter().any(|spec| spec.name == *name);
        let ignored = names.into_iter().filter(|name| !is_input(name));
        notes.extend(ignored.map(|array| Note::Ignored { array }));
        let count = if slots.iter().any(|slot| slot.spec.batched) { source.len() } else { 1 };
        let (numbers, fixed_batch) = ((0..count).collect(), specs.fixed_batch);
        Ok(Self { source, slots, numbers, seen: Vec::new(), fixed_batch, origin, notes, warnings })
    }

    /// The inputs of the model, in graph order.
    pub fn inputs(&self) -> Vec<Input> {
        let input = |Slot { spec, shape, .. }: &Slot| {
            let mut shape = shape.clone();
            if let Some(extent) = shape.first_mut().filter(|_| spec.batched) {
                *extent = self.len();
            }
            Input { name: spec.name.clone(), dtype: spec.dtype, shape, batched: spec.batched }
        };
        self.slots.iter().map(input).collect()
    }

    /// Number of samples; at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether an input's first axis counts samples.
    pub fn is_batched(&self, input: &str) -> bool {
        self.slots.iter().any(|Slot { spec, .. }| spec.batched && spec.name == input)
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
        let (count, size) = (self.len(), self.fixed_batch.unwrap_or(size).max(1));
        (0..count).step_by(size).map(move |start| start..count.min(start.saturating_add(size)))
    }

    /// The samples `start..end`, read and ready to be fed.
    ///
    /// # Errors
    /// When there are no such samples, when the model fixes the batch size and this is not it, and when they cannot be read.
    pub fn batch(&self, start: usize, end: usize) -> Result<Feed, CalibrationError> {
        let fits = self.fixed_batch.is_none_or(|n| end.checked_sub(start) == Some(n));
        match self.numbers.get(start..end) {
            Some(numbers) if fits && !numbers.is_empty() => self.read(numbers),
            _ => {
                Err(CalibrationError::NoSuchBatch { start, end, count: self.len(), fixed: self.fixed_batch })
            }
        }
    }

    /// At most `n` samples, chosen at random without replacement since files are often sorted by class, in their original
    /// order. For one seed, a larger choice contains every smaller one. Cut down to whole batches (at least one) when the
    /// model fixes their size.
    pub fn take(mut self, n: usize, seed: u64) -> Self {
        let (batch, count) = (self.fixed_batch.unwrap_or(1), self.len());
        if n > count {
            self.notes.push(Note::Fewer { asked: n, used: count });
        }
        let n = (n - n % batch).max(batch);
        if n >= count {
            return self;
        }
        let mut chosen: Vec<usize> = (0..count).collect();
        chosen.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        chosen.truncate(n);
        chosen.sort_unstable();
        self.numbers = chosen.iter().filter_map(|i| self.numbers.get(*i).copied()).collect();
        self.seen = chosen.iter().filter_map(|i| self.seen.get(*i).cloned()).collect();
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

    /// The samples with these numbers, at least one, as one batch of any size; a number may come several times.
    ///
    /// # Errors
    /// When there are no such samples, and when they cannot be read.
    pub fn select(&self, numbers: &[usize]) -> Result<Feed, CalibrationError> {
        let chosen: Vec<usize> = numbers.iter().filter_map(|i| self.numbers.get(*i).copied()).collect();
        if chosen.len() != numbers.len() || chosen.is_empty() {
            let (start, end) = (numbers.iter().min(), numbers.iter().max());
            let (start, end) = (start.map_or(0, |n| *n), end.map_or(0, |n| n.saturating_add(1)));
            return Err(CalibrationError::NoSuchBatch { start, end, count: self.len(), fixed: None });
        }
        self.read(&chosen)
    }

    fn drop_remainder(&mut self) -> Result<(), CalibrationError> {
        let (Some(batch), count) = (self.fixed_batch, self.len()) else { return Ok(()) };
        let dropped = count % batch;
        if dropped == count {
            return Err(CalibrationError::LessThanABatch { batch, count });
        }
        if dropped > 0 {
            self.numbers.truncate(count - dropped);
            self.seen.truncate(count - dropped);
            self.notes.push(Note::Remainder { dropped, batch });
        }
        Ok(())
    }

    /// What was to be said before any sample was looked at.
    pub(super) fn said(&self) -> &[Warning] {
        &self.warnings
    }

    /// What was seen of each sample.
    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// The number in the source of every sample, from 0 on.
    pub fn numbers(&self) -> &[usize] {
        &self.numbers
    }

    /// The value of an input that has no batch axis.
    pub(super) fn whole(&self, input: &str) -> Option<&Tensor> {
        self.slots.iter().find(|slot| slot.spec.name == input)?.whole.as_ref()
    }

    /// Bytes that one sample takes.
    pub(super) fn sample_bytes(&self) -> usize {
        let batched = self.slots.iter().filter(|slot| slot.spec.batched);
        let bytes = batched.map(|slot| slot.shape.iter().product::<usize>() * slot.spec.dtype.size());
        bytes.sum()
    }

    /// The samples with these numbers in the source, as one batch.
    pub(super) fn read(&self, numbers: &[usize]) -> Result<Feed, CalibrationError> {
        let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        let runs = runs.filter_map(|run| Some(*run.first()?..run.last()? + 1));
        let mut parts = vec![Vec::new(); self.slots.len()];
        for run in runs {
            let mut feed = self.source.batch(run.clone())?;
            for (slot, parts) in self.slots.iter().zip(&mut parts) {
                let part = taken(&mut feed, &slot.spec).and_then(|array| slot.part(array, &run));
                parts.push(part.map_err(|error| error.found_in(&self.origin))?);
            }
        }
        self.slots
            .iter()
            .zip(parts)
            .map(|(slot, parts)| Ok((slot.spec.name.clone(), slot.join(parts)?)))
            .collect()
    }
}

impl Slot {
    /// What the first batch has of an input, and the type of elements that it came with.
    fn open(spec: &InputSpec, array: Tensor) -> Result<(Self, DType), CalibrationError> {
        check::shape(spec, array.shape())?;
        let found = array.dtype();
        let tensor = check::convert(spec, array)?;
        let mut slot = Self { spec: spec.clone(), shape: tensor.shape().to_vec(), whole: None };
        if !spec.batched {
            check::values(spec, &tensor, 0)?;
            slot.whole = Some(tensor);
        }
        Ok((slot, found))
    }

    /// What the model is fed of an array that holds the samples `run` of the source.
    fn part(&self, array: Tensor, run: &Range<usize>) -> Result<Tensor, CalibrationError> {
        let (input, sample) = (|| self.spec.name.clone(), run.start);
        check::shape(&self.spec, array.shape())?;
        let skipped = usize::from(self.spec.batched);
        if !array.shape().iter().skip(skipped).eq(self.shape.iter().skip(skipped)) {
            let (first, found) = (self.shape.clone(), array.shape().to_vec());
            return Err(CalibrationError::ShapesDiffer { input: input(), first, sample, found });
        }
        let rows = array.shape().first().copied().filter(|_| self.spec.batched);
        if let Some(found) = rows.filter(|rows| *rows != run.len()) {
            return Err(CalibrationError::Miscounted { input: input(), asked: run.len(), found });
        }
        let tensor = check::convert(&self.spec, array)?;
        check::values(&self.spec, &tensor, sample)?;
        match &self.whole {
            Some(whole) if *whole != tensor => Err(CalibrationError::WholeVaries { input: input(), sample }),
            _ => Ok(tensor),
        }
    }

    /// One batch of parts that were read apart.
    fn join(&self, mut parts: Vec<Tensor>) -> Result<Tensor, CalibrationError> {
        match (&self.whole, parts.len()) {
            (Some(whole), _) => Some(whole.clone()),
            (None, 1) => parts.pop(),
            // Parts are of one type and shape by now.
            (None, _) => Tensor::concat(&parts, 0),
        }
        .ok_or(CalibrationError::NoSamples)
    }
}

/// The array for an input among what a source gave.
fn taken(feed: &mut Feed, spec: &InputSpec) -> Result<Tensor, CalibrationError> {
    match feed.iter().position(|(name, _)| *name == spec.name) {
        Some(place) => Ok(feed.swap_remove(place).1),
        None => {
            let found = feed.iter().map(|(name, _)| name.clone()).collect();
            Err(CalibrationError::MissingInput { input: spec.name.clone(), found, inputs: spec.described() })
        }
    }
}

/// Whether there is an array for each input; `notes` know of arrays that were left unread.
fn check_names(specs: &InputSpecs, names: &[String], notes: &[Note]) -> Result<(), CalibrationError> {
    let Some(missing) = specs.inputs.iter().find(|spec| !names.contains(&spec.name)) else { return Ok(()) };
    let unread = notes.iter().filter_map(|note| match note {
        Note::Ignored { array } => Some(array),
        _ => None,
    });
    let found = names.iter().chain(unread).cloned().collect();
    Err(CalibrationError::MissingInput { input: missing.name.clone(), found, inputs: specs.declared() })
}
