//! Distances between the features, or the outputs, of two runs.

use ndarray::{Array2, ArrayD, ArrayView1, ArrayView2, ArrayViewD, Axis};

use super::{Output, OutputKind, cotangents::TINY};
use crate::numbers::DEAD;

/// Manifold distance of one sample's tokens `[tokens, features]`: with tokens normalised to unit length, the mean of
/// `(T Tᵀ − S Sᵀ)²` over all pairs of tokens (OPTIN, equation 2). Tokens that are next to zero in the dense model have no
/// direction, and are zero in both.
pub fn manifold(dense: ArrayView2<'_, f32>, masked: ArrayView2<'_, f32>) -> f64 {
    let norms: Vec<f32> = dense.outer_iter().map(norm).collect();
    let floor = DEAD * norms.iter().sum::<f32>() / norms.len().max(1) as f32;
    let unit = |tokens: ArrayView2<'_, f32>| {
        let mut tokens = tokens.to_owned();
        let dead = tokens.outer_iter_mut().zip(&norms).filter(|(_, norm)| **norm <= floor);
        dead.for_each(|(mut token, _)| token.fill(0.0));
        unit_gram(tokens.view())
    };
    let difference = unit(dense) - unit(masked);
    let pairs = difference.len().max(1) as f64;
    difference.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>() / pairs
}

/// Products of all pairs of tokens `[tokens, features]`, normalised to unit length.
pub fn unit_gram(tokens: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut unit = tokens.to_owned();
    for mut token in unit.axis_iter_mut(Axis(0)) {
        let norm = norm(token.view());
        if norm > 0.0 {
            token.mapv_inplace(|x| x / norm);
        }
    }
    unit.dot(&unit.t())
}

fn norm(token: ArrayView1<'_, f32>) -> f32 {
    token.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// `KL(p ‖ q)` in nats, averaged over rows; classes are on the last axis. `normalised` says that these are probabilities
/// already, else they are logits.
fn kullback_leibler(dense: ArrayViewD<'_, f32>, masked: ArrayViewD<'_, f32>, normalised: bool) -> f64 {
    let classes = dense.shape().last().copied().unwrap_or(1).max(1);
    let (p, q): (Vec<f32>, Vec<f32>) = (dense.iter().copied().collect(), masked.iter().copied().collect());
    let rows = (p.len() / classes).max(1) as f64;
    let log = if normalised { log_of } else { log_softmax };
    let divergence = |(p, q): (&[f32], &[f32])| -> f64 {
        let (p, q) = (log(p), log(q));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    p.chunks(classes).zip(q.chunks(classes)).map(divergence).sum::<f64>() / rows
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().fold(f64::NEG_INFINITY, |m, x| m.max(f64::from(*x)));
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - largest).exp()).sum();
    row.iter().map(|x| f64::from(*x) - largest - sum.ln()).collect()
}

/// Logarithms of probabilities, which rounding may have taken to zero.
fn log_of(row: &[f32]) -> Vec<f64> {
    row.iter().map(|x| f64::from(*x + TINY).ln()).collect()
}

/// How far an output lies from the dense one: [`relative_l2`] of each sample, to which class scores add their [`divergence`].
///
/// The divergence alone is next to nothing where a model is certain, however far its logits move, until they cross: too
/// late for many small removals that each look harmless.
///
/// Samples of which the dense output says nothing, as it is zero, or the same for all classes but for rounding, are left out of
/// the relative error.
pub fn output_distance(output: Output, dense: ArrayViewD<'_, f32>, other: ArrayViewD<'_, f32>) -> f64 {
    let relative = |dense: ArrayViewD<'_, f32>, other: ArrayViewD<'_, f32>, floors: &[f64]| -> f64 {
        let samples = dense.shape().first().copied().unwrap_or(1).max(1);
        let pairs = dense.outer_iter().zip(other.outer_iter()).zip(floors);
        let live = pairs.filter(|((a, _), floor)| length(a.view()) > **floor + f64::from(TINY));
        live.map(|((a, b), _)| relative_l2(a, b)).sum::<f64>() / samples as f64
    };
    if output.kind == OutputKind::Embedding {
        let floors = vec![0.0; dense.shape().first().copied().unwrap_or(0)];
        return relative(dense, other, &floors);
    }
    let divergence = divergence(output, dense.view(), other.view());
    let logits = |x| logits(classes_last(output, x), output.kind == OutputKind::Probabilities);
    let (dense, other) = (logits(dense), logits(other));
    let floors: Vec<f64> = dense.outer_iter().map(|z| f64::from(DEAD) * length(z)).collect();
    divergence + relative(centred(dense).view(), centred(other).view(), &floors)
}

/// The length of a sample as one vector.
fn length(x: ArrayViewD<'_, f32>) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// The divergence of class scores in nats; for other outputs [`relative_l2`].
pub fn divergence(output: Output, dense: ArrayViewD<'_, f32>, other: ArrayViewD<'_, f32>) -> f64 {
    let (dense, other) = (classes_last(output, dense), classes_last(output, other));
    match output.kind {
        OutputKind::Logits => kullback_leibler(dense, other, false),
        OutputKind::Probabilities => kullback_leibler(dense, other, true),
        OutputKind::Embedding => relative_l2(dense, other),
    }
}

/// The share of rows of classes in which both give the same class the highest score; `None` for outputs without classes.
pub fn agreement(output: Output, dense: ArrayViewD<'_, f32>, other: ArrayViewD<'_, f32>) -> Option<f64> {
    if output.kind == OutputKind::Embedding {
        return None;
    }
    let (dense, other) = (classes_last(output, dense), classes_last(output, other));
    let last = Axis(dense.ndim().checked_sub(1)?);
    let pairs = dense.lanes(last).into_iter().zip(other.lanes(last));
    let (same, all) =
        pairs.fold((0, 0), |(same, all), (a, b)| (same + usize::from(highest(a) == highest(b)), all + 1));
    (all > 0).then(|| same as f64 / all as f64)
}

/// The place of the largest number, the first of several.
fn highest(row: ArrayView1<'_, f32>) -> usize {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|x| *x == largest).unwrap_or_default()
}

/// The output with its classes on the last axis.
fn classes_last(output: Output, mut x: ArrayViewD<'_, f32>) -> ArrayViewD<'_, f32> {
    if let Some(last) = x.ndim().checked_sub(1).filter(|last| output.classes < *last) {
        x.swap_axes(output.classes, last);
    }
    x
}

/// Logits, or those of probabilities.
fn logits(x: ArrayViewD<'_, f32>, normalised: bool) -> ArrayD<f32> {
    if normalised { x.mapv(|p| (p + TINY).ln()) } else { x.to_owned() }
}

/// Logits less their mean over classes, which are on the last axis: a softmax does not see that.
fn centred(mut logits: ArrayD<f32>) -> ArrayD<f32> {
    if let Some(last) = logits.ndim().checked_sub(1) {
        for mut row in logits.lanes_mut(Axis(last)) {
            let mean = row.mean().unwrap_or(0.0);
            row.mapv_inplace(|x| x - mean);
        }
    }
    logits
}

/// `‖a − b‖² / ‖a‖²`.
pub fn relative_l2(dense: ArrayViewD<'_, f32>, masked: ArrayViewD<'_, f32>) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (a, b) in dense.iter().zip(masked.iter()) {
        error += f64::from(a - b).powi(2);
        norm += f64::from(*a).powi(2);
    }
    if norm > 0.0 { error / norm } else { error }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn manifold_ignores_the_length_of_tokens() {
        let a = array![[1.0f32, 0.0], [0.0, 2.0]];
        let b = array![[3.0f32, 0.0], [0.0, 1.0]];
        assert!(manifold(a.view(), b.view()) < 1e-12);
        let c = array![[1.0f32, 0.0], [1.0, 0.0]];
        assert!((manifold(a.view(), c.view()) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn divergence_of_a_distribution_from_itself_is_zero() {
        let z = array![[1.0f32, 2.0, 3.0]].into_dyn();
        let w = array![[1.0f32, 2.0, 0.0]].into_dyn();
        assert_eq!(kullback_leibler(z.view(), z.view(), false), 0.0);
        assert!(kullback_leibler(z.view(), w.view(), false) > 0.1);
    }

    #[test]
    fn models_agree_where_the_largest_is_the_same() {
        let output = |kind, classes| Output { value: crate::graph::ValueId(0), kind, classes };
        // Two samples of three classes at two positions: [N, C, P].
        let a =
            array![[[1.0f32, 5.0], [2.0, 4.0], [0.0, 9.0]], [[7.0, 7.0], [7.0, 1.0], [0.0, 0.0]]].into_dyn();
        let mut b = a.clone();
        b[[0, 1, 0]] = -1.0;
        assert_eq!(agreement(output(OutputKind::Logits, 1), a.view(), a.view()), Some(1.0));
        assert_eq!(agreement(output(OutputKind::Logits, 1), a.view(), b.view()), Some(0.75));
        assert_eq!(agreement(output(OutputKind::Embedding, 1), a.view(), b.view()), None);
    }

    #[test]
    fn tokens_next_to_zero_have_no_direction() {
        let a = array![[1.0f32, 0.0], [1e-9, 0.0], [0.0, 0.0]];
        let b = array![[1.0f32, 0.0], [0.0, 1e-9], [0.0, 1.0]];
        assert_eq!(manifold(a.view(), b.view()), 0.0);
        // Among their like they are tokens.
        let small = array![[1e-9f32, 0.0], [0.0, 1e-9]];
        assert!((manifold(small.view(), array![[1e-9f32, 0.0], [1e-9, 0.0]].view()) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn outputs_that_say_nothing_are_left_out() {
        let output = |kind| Output { value: crate::graph::ValueId(0), kind, classes: 1 };
        let (dense, other) =
            (array![[0.0f32, 0.0], [3.0, 4.0]].into_dyn(), array![[1.0f32, 0.0], [3.0, 4.0]].into_dyn());
        assert_eq!(output_distance(output(OutputKind::Embedding), dense.view(), other.view()), 0.0);
        let flat = array![[7.0f32, 7.0], [0.0, 1.0]].into_dyn();
        let noisy = array![[7.0f32, 7.000_001], [0.0, 1.0]].into_dyn();
        assert!(output_distance(output(OutputKind::Logits), flat.view(), noisy.view()) < 1e-9);
    }
}
