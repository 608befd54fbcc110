//! Arrays with a row per sample, in memory or in a file.

use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{
    calibration::{
        CalibrationError, NpyError, Source, check,
        npy::Rows,
        spec::{InputSpec, InputSpecs},
    },
    tensor::Tensor,
};

/// An array that may be the input of a model.
pub(super) enum Array {
    /// It is in memory.
    Held(Tensor),
    /// It is in a file.
    Filed(Filed),
}

/// An array in a file, of which only the rows that are asked for are in memory.
pub(super) struct Filed {
    /// The file's name, for errors.
    pub path: PathBuf,
    /// The array's name, for errors.
    pub name: String,
    /// Where rows are read, one batch at a time.
    pub file: Mutex<File>,
    /// The array in it.
    pub rows: Rows,
}

impl Filed {
    fn read(&self, rows: Range<usize>) -> Result<Tensor, CalibrationError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.rows.read(&*file, rows).map_err(|source| array_error(&self.path, &self.name, source))
    }
}

/// The error of an array in the file at `path`.
pub(super) fn array_error(path: &Path, array: &str, source: NpyError) -> CalibrationError {
    let (path, array) = (path.to_path_buf(), array.to_owned());
    match source {
        NpyError::Type(found) => CalibrationError::ArrayType { path, array, found },
        source => CalibrationError::Array { path, array, source },
    }
}

impl Array {
    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Held(tensor) => tensor.shape().to_vec(),
            Self::Filed(filed) => filed.rows.shape(),
        }
    }

    fn rows(&self, range: Range<usize>) -> Result<Tensor, CalibrationError> {
        match self {
            Self::Held(tensor) => Ok(tensor.narrow(0, range.start, range.end)),
            Self::Filed(filed) => filed.read(range),
        }
    }

    fn whole(&self) -> Result<Tensor, CalibrationError> {
        match self {
            Self::Held(tensor) => Ok(tensor.clone()),
            Self::Filed(filed) => filed.read(0..filed.rows.shape().first().copied().unwrap_or_default()),
        }
    }
}

/// A source of one array per input.
pub(super) struct Arrays {
    /// All names, of arrays that are no inputs too.
    names: Vec<String>,
    /// Those that are inputs, and whether their rows are samples.
    inputs: Vec<(String, Array, bool)>,
    count: usize,
}

impl Arrays {
    /// A source of these arrays, in any order.
    ///
    /// # Errors
    /// When the shape of one does not fit its input, or they have not equally many samples.
    pub fn new(specs: &InputSpecs, arrays: Vec<(String, Array)>) -> Result<Self, CalibrationError> {
        let names = arrays.iter().map(|(name, _)| name.clone()).collect();
        let spec_of = |name: &str| specs.inputs.iter().find(|spec| spec.name == name);
        let mut inputs = Vec::new();
        for (name, array) in arrays {
            let Some(spec) = spec_of(&name) else { continue };
            check::shape(spec, &array.shape())?;
            inputs.push((name, array, spec.batched));
        }
        let count = count(&specs.inputs, &inputs)?;
        Ok(Self { names, inputs, count })
    }

    /// The same, of arrays in memory.
    pub fn held(specs: &InputSpecs, arrays: Vec<(String, Tensor)>) -> Result<Self, CalibrationError> {
        let held = arrays.into_iter().map(|(name, tensor)| (name, Array::Held(tensor)));
        Self::new(specs, held.collect())
    }
}

impl Source for Arrays {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn len(&self) -> usize {
        self.count
    }

    fn batch(&self, range: Range<usize>) -> Result<Vec<(String, Tensor)>, CalibrationError> {
        let part = |(name, array, batched): &(String, Array, bool)| {
            let tensor = if *batched { array.rows(range.clone())? } else { array.whole()? };
            Ok((name.clone(), tensor))
        };
        self.inputs.iter().map(part).collect()
    }
}

/// The number of samples that all arrays with a batch axis agree on; 1 when there are none.
fn count(specs: &[InputSpec], inputs: &[(String, Array, bool)]) -> Result<usize, CalibrationError> {
    let counted = |spec: &InputSpec| {
        let (name, array, _) = inputs.iter().find(|(name, _, batched)| *batched && *name == spec.name)?;
        Some((name, *array.shape().first()?))
    };
    let mut counts = specs.iter().filter_map(counted);
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
