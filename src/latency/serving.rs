//! The inputs that models are timed on: as they will be served, made of calibration samples.

use crate::{
    calibration::{CalibrationError, Input, Samples},
    tensor::Tensor,
};

use super::Feed;

/// Elements that one input may have: what is more is a typing error.
const ELEMENTS: usize = 1 << 30;

/// The shapes at which a model is served. Inputs that are not named have those of the calibration samples, and as many samples as
/// the others; one, if none is named.
///
/// Values are those of calibration samples, repeated or cut to the shape: made-up numbers, such as zeros, can take another time,
/// by denormal results for one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Serving(pub Vec<(String, Vec<usize>)>);

/// Why a model cannot be served so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    /// There is no such input.
    #[error("`{name}` is no input of the model; its inputs are {}", inputs.join(", "))]
    NoInput {
        /// What was named.
        name: String,
        /// The inputs that there are.
        inputs: Vec<String>,
    },
    /// The input has another number of axes, or an axis has no extent, or far too large a one.
    #[error(
        "the input `{name}` cannot be served as {}: its samples have the shape {}",
        by(asked),
        by(sample)
    )]
    Shape {
        /// The input.
        name: String,
        /// What was asked for.
        asked: Vec<usize>,
        /// The shape of one sample.
        sample: Vec<usize>,
    },
    /// Inputs are to be served with different numbers of samples.
    #[error("the inputs are to be served with {first} samples and with {second}: give them the same number")]
    Batches {
        /// Samples of one input.
        first: usize,
        /// Samples of another.
        second: usize,
    },
    /// The model runs on one number of samples alone.
    #[error("the model takes {fixed} samples at a time, and cannot be served with {asked}")]
    Fixed {
        /// What it takes.
        fixed: usize,
        /// What was asked for.
        asked: usize,
    },
    /// The samples could not be read.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
}

/// A shape as people write it.
fn by(shape: &[usize]) -> String {
    shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
}

impl Serving {
    /// How many samples are served at a time.
    ///
    /// # Errors
    /// When shapes contradict each other or the model.
    pub fn batch(&self, samples: &Samples) -> Result<usize, ServingError> {
        let inputs = samples.inputs();
        let mut asked = None;
        for (name, shape) in &self.0 {
            let Some(input) = inputs.iter().find(|input| input.name == *name) else {
                let inputs = inputs.into_iter().map(|input| input.name).collect();
                return Err(ServingError::NoInput { name: name.clone(), inputs });
            };
            check(input, shape)?;
            let Some(&second) = shape.first().filter(|_| input.batched) else { continue };
            let first = *asked.get_or_insert(second);
            if first != second {
                return Err(ServingError::Batches { first, second });
            }
        }
        match (samples.fixed_batch(), asked) {
            (Some(fixed), Some(asked)) if fixed != asked => Err(ServingError::Fixed { fixed, asked }),
            (fixed, asked) => Ok(asked.or(fixed).unwrap_or(1)),
        }
    }

    /// What the model is fed.
    ///
    /// # Errors
    /// When shapes contradict each other or the model, or samples cannot be read.
    pub fn feed(&self, samples: &Samples) -> Result<Feed, ServingError> {
        let batch = self.batch(samples)?;
        let numbers: Vec<usize> = (0..batch).map(|number| number % samples.len()).collect();
        let mut feed = samples.select(&numbers)?;
        for (name, tensor) in &mut feed {
            if let Some((_, shape)) = self.0.iter().find(|(asked, _)| asked == name) {
                *tensor = fitted(tensor, shape);
            }
        }
        Ok(feed)
    }
}

/// Whether an input can be of this shape.
fn check(input: &Input, shape: &[usize]) -> Result<(), ServingError> {
    let elements = shape.iter().try_fold(1usize, |product, extent| product.checked_mul(*extent));
    let sizes = elements.is_some_and(|elements| (1..=ELEMENTS).contains(&elements));
    let filled = input.shape.iter().all(|extent| *extent > 0);
    if sizes && filled && shape.len() == input.shape.len() {
        return Ok(());
    }
    let mut sample = input.shape.clone();
    if let Some(extent) = sample.first_mut().filter(|_| input.batched) {
        *extent = 1;
    }
    Err(ServingError::Shape { name: input.name.clone(), asked: shape.to_vec(), sample })
}

/// A tensor of another shape with the same values: repeated along axes that are longer, cut along others.
fn fitted(tensor: &Tensor, shape: &[usize]) -> Tensor {
    let mut fitted = tensor.clone();
    for (axis, (&extent, &old)) in shape.iter().zip(tensor.shape()).enumerate() {
        if extent != old {
            let entries: Vec<usize> = (0..extent).map(|entry| entry % old).collect();
            fitted = fitted.select(axis, &entries);
        }
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_repeated_and_cut() {
        let tensor = Tensor::f32(&[2, 2], vec![1.0, 2.0, 3.0, 4.0]).unwrap();
        let expected = Tensor::f32(&[1, 3], vec![1.0, 2.0, 1.0]).unwrap();
        assert_eq!(fitted(&tensor, &[1, 3]), expected);
    }
}
