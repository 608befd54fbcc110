//! Random inputs for models that come without data: valid, reproducible, and of no meaning.

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng, distr::StandardUniform};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::{
    calibration::{
        CalibrationError,
        cast::from_ints,
        roles::InputRole,
        spec::{Dim, InputSpec, InputSpecs},
    },
    tensor::{DType, Tensor},
};

/// Samples drawn when the user does not say how many.
const SAMPLES: usize = 8;
/// Height and width of images: what most classifiers are trained at.
const IMAGE: usize = 224;
/// Any other dynamic extent, most of which are lengths of sequences.
const LENGTH: usize = 32;
/// The most samples that are drawn.
const MOST_SAMPLES: usize = 1024;
/// The most bytes that an input may take.
const MOST_BYTES: usize = 1 << 30;

/// Draws one array per input. `samples` (8 by default) is rounded up to whole batches when the model fixes their size.
///
/// Ids are uniform over the smallest table they index, masks are all ones, images of bytes are uniform, everything else is
/// standard normal. Each input has its own stream of one ChaCha8 generator and samples are drawn one after another, so
/// neither other inputs nor the number of samples change what a sample looks like.
pub(super) fn draw(
    specs: &InputSpecs,
    samples: Option<usize>,
    seed: u64,
) -> Result<Vec<(String, Tensor)>, CalibrationError> {
    let samples = samples.unwrap_or(SAMPLES);
    if samples > MOST_SAMPLES {
        return Err(CalibrationError::TooMany { asked: samples, most: MOST_SAMPLES });
    }
    let batch = specs.fixed_batch.unwrap_or(1);
    let samples = samples.checked_next_multiple_of(batch).unwrap_or(batch);
    let sizes = symbol_sizes(specs);
    let draw_input = |(index, input): (usize, &InputSpec)| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        let shape = shape(input, samples, &sizes);
        match tensor(input, &shape, &mut rng) {
            Some(tensor) => Ok((input.name.clone(), tensor)),
            None => Err(CalibrationError::TooLarge { input: input.name.clone(), shape }),
        }
    };
    specs.inputs.iter().enumerate().map(draw_input).collect()
}

/// One extent for each symbol: that of an image if it is one anywhere.
fn symbol_sizes(specs: &InputSpecs) -> BTreeMap<&str, usize> {
    let mut sizes = BTreeMap::new();
    for input in &specs.inputs {
        for (axis, dim) in input.dims.iter().enumerate() {
            if let Dim::Symbol(name) = dim {
                let size = sizes.entry(name.as_str()).or_insert(LENGTH);
                *size = (*size).max(default_extent(input, axis));
            }
        }
    }
    sizes
}

fn shape(input: &InputSpec, samples: usize, sizes: &BTreeMap<&str, usize>) -> Vec<usize> {
    let extent = |(axis, dim): (usize, &Dim)| match dim {
        _ if axis == 0 && input.batched => samples,
        Dim::Fixed(n) => *n,
        Dim::Symbol(name) => sizes.get(name.as_str()).copied().unwrap_or(LENGTH),
        Dim::Free => default_extent(input, axis),
    };
    input.dims.iter().enumerate().map(extent).collect()
}

/// Height and width of an image are the axes beside a channel axis of extent 1 or 3 (`NCHW` or `NHWC`).
fn default_extent(input: &InputSpec, axis: usize) -> usize {
    let channels = |dim: &Dim| matches!(dim, Dim::Fixed(1 | 3));
    let spatial = match input.dims.as_slice() {
        [_, c, _, _] if channels(c) => 2..4,
        [_, _, _, c] if channels(c) => 1..3,
        _ => 0..0,
    };
    if input.role == InputRole::Feature && spatial.contains(&axis) { IMAGE } else { LENGTH }
}

/// `None` when it takes more than it may.
fn tensor(input: &InputSpec, shape: &[usize], rng: &mut impl Rng) -> Option<Tensor> {
    if input.dtype.is_float() {
        let floats = fill(shape, || StandardNormal.sample(rng))?;
        return Tensor::f32(shape, floats)?.cast_float(input.dtype);
    }
    let ints = match input.role {
        InputRole::Ids { rows } => {
            let end = rows.unwrap_or(1).clamp(1, largest(input.dtype)) as i64;
            fill(shape, || rng.random_range(0..end))
        }
        InputRole::Mask => fill(shape, || 1),
        InputRole::Feature => fill(shape, || i64::from(rng.sample::<u8, _>(StandardUniform))),
    }?;
    from_ints(shape, ints, input.dtype)
}

fn fill<T>(shape: &[usize], mut element: impl FnMut() -> T) -> Option<Vec<T>> {
    let len = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n))?;
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > MOST_BYTES) {
        return None;
    }
    let mut data = Vec::new();
    data.try_reserve_exact(len).ok()?;
    data.extend((0..len).map(|_| element()));
    Some(data)
}

/// The number of ids that an integer type can tell apart.
fn largest(dtype: DType) -> usize {
    match dtype {
        DType::Bool => 2,
        DType::I8 => 1 << 7,
        DType::U8 => 1 << 8,
        DType::I16 => 1 << 15,
        DType::U16 => 1 << 16,
        _ => i32::MAX as usize,
    }
}
