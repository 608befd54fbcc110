//! Which batch sizes a model supports. Exporters leave the batch axis symbolic and yet write the batch of their example into
//! shapes: such a file mixes samples, or fails, at any other size.

use std::collections::BTreeSet;

use crate::{
    calibration::{CalibrationError, Samples},
    graph::{Graph, ValueId},
    onnx::proto::ModelProto,
    runtime::Engine,
    tensor::Tensor,
};

/// Differences up to this share of an output's largest value are rounding.
const ROUNDING: f32 = 1e-3;

/// The largest batch that is tried.
const LARGEST: usize = 16;

/// The graph inputs whose first axis counts samples, of whatever number.
pub fn batched_inputs(graph: &Graph, samples: &Samples) -> BTreeSet<ValueId> {
    let symbolic = samples.fixed_batch().is_none();
    let inputs = graph.inputs().iter().copied();
    inputs.filter(|input| symbolic && samples.is_batched(&graph.value(*input).name)).collect()
}

/// The only batch size at which results of a sample do not depend on the rest of the batch; `None` when batches of one and two
/// agree, or when that holds at no size that was tried.
///
/// A sample is run alone, in a batch with another, and in a batch of copies of itself. A result that depends on its neighbours, or that another batch
/// size changes, tells that shapes in the file hold a batch size.
///
/// # Errors
/// When samples cannot be read. That the model does not run on them is none.
pub fn fixed_batch(
    engine: &dyn Engine,
    model: &ModelProto,
    samples: &Samples,
) -> Result<Option<usize>, CalibrationError> {
    if samples.fixed_batch().is_some() || samples.len() < 2 {
        return Ok(None);
    }
    let Ok(mut session) = engine.load(model) else { return Ok(None) };
    let mut run = |order: &[usize]| samples.select(order).map(|feed| session.run(&feed).ok());
    let (alone, pair) = (run(&[0])?, run(&[0, 1])?);
    if let (Some(alone), Some(pair)) = (&alone, &pair)
        && agree((alone, 1), (pair, 2))
    {
        return Ok(None);
    }
    // Parts of the size that shapes hold may keep samples independent, too, and mix positions instead: the largest counts.
    let mut independent = alone.map(|_| 1);
    let sizes = std::iter::successors(Some(2), |size| Some(2 * size));
    for size in sizes.take_while(|size| *size <= samples.len().min(LARGEST)) {
        let others: Vec<usize> = (0..size).collect();
        if let (Some(a), Some(b)) = (run(&others)?, run(&vec![0; size])?)
            && agree((&a, size), (&b, size))
        {
            independent = Some(size);
        }
    }
    Ok(independent)
}

/// Whether the first sample has the same results in two runs of so many samples, where an output has an entry per sample.
fn agree((a, m): (&[Tensor], usize), (b, n): (&[Tensor], usize)) -> bool {
    a.iter().zip(b).all(|(x, y)| match (x.shape(), y.shape()) {
        ([i, inner @ ..], [j, outer @ ..]) if *i == m && *j == n && inner == outer => {
            close(&x.narrow(0, 0, 1), &y.narrow(0, 0, 1))
        }
        _ => true,
    })
}

fn close(x: &Tensor, y: &Tensor) -> bool {
    let (Some(x), Some(y)) = (x.to_f32(), y.to_f32()) else { return true };
    let largest = x.iter().filter(|v| v.is_finite()).fold(0f32, |m, v| m.max(v.abs()));
    let same = |x: f32, y: f32| x == y || (x - y).abs() <= ROUNDING * largest || x.is_nan() && y.is_nan();
    x.iter().zip(&y).all(|(x, y)| same(*x, *y))
}
