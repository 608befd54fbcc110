//! Where samples are read from, as they are asked for.

use std::{fmt, ops::Range};

use crate::{calibration::CalibrationError, tensor::Tensor};

/// Calibration samples, which are read when they are asked for: a file, a folder, or whatever a caller of the library has.
///
/// Samples have numbers from 0 on. The same number gives the same sample whenever it is read, since samples are read several
/// times: once to look at all of them, and again by each stage. What is read need not fit the model:
/// [`Samples`](crate::calibration::Samples) checks and converts it.
///
/// ```
/// use optin_onnx::{
///     calibration::{CalibrationError, Source},
///     tensor::Tensor,
/// };
///
/// /// Sample `n` of the only input is the number `n`, four times.
/// struct Counting;
///
/// impl Source for Counting {
///     fn names(&self) -> Vec<String> {
///         vec!["x".to_owned()]
///     }
///
///     fn len(&self) -> usize {
///         64
///     }
///
///     fn batch(&self, range: std::ops::Range<usize>) -> Result<Vec<(String, Tensor)>, CalibrationError> {
///         let rows: Vec<f32> = range.clone().flat_map(|n| [n as f32; 4]).collect();
///         let tensor = Tensor::f32(&[range.len(), 4], rows).ok_or(CalibrationError::NoSamples)?;
///         Ok(vec![("x".to_owned(), tensor)])
///     }
/// }
/// ```
// A source without samples is an error where it is read, so nobody asks whether one is empty.
#[allow(clippy::len_without_is_empty)]
pub trait Source: Send + Sync {
    /// Names of the arrays that every batch has. Those that are no inputs of the model are not used.
    fn names(&self) -> Vec<String>;

    /// Number of samples.
    fn len(&self) -> usize;

    /// The samples with these numbers, of which there is at least one: an array for each name, in any order. Samples are counted
    /// by the leading axis of inputs that have a batch axis. The others come whole, the same with every batch.
    ///
    /// # Errors
    /// When they cannot be read. [`CalibrationError::Source`] takes errors of any kind.
    fn batch(&self, range: Range<usize>) -> Result<Vec<(String, Tensor)>, CalibrationError>;
}

impl fmt::Debug for dyn Source + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source of {} samples", self.len())
    }
}
