//! Distances between the features, or the outputs, of two runs.

use ndarray::{Array2, ArrayD, ArrayView2, ArrayViewD, Axis};

use super::{Head, Output, probe::TINY};

/// Manifold distance of one sample's tokens `[tokens, features]`: with tokens normalised to unit length, the mean of
/// `(T Tᵀ − S Sᵀ)²` over all pairs of tokens (OPTIN, equation 2).
pub fn manifold(dense: ArrayView2<'_, f32>, masked: ArrayView2<'_, f32>) -> f64 {
    let difference = unit_gram(dense) - unit_gram(masked);
    let pairs = difference.len().max(1) as f64;
    difference.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>() / pairs
}

/// Products of all pairs of tokens `[tokens, features]`, normalised to unit length.
pub fn unit_gram(tokens: ArrayView2<'_, f32>) -> Array2<f32> {
    let mut unit = tokens.to_owned();
    for mut token in unit.axis_iter_mut(Axis(0)) {
        let norm = token.iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm > 0.0 {
            token.mapv_inplace(|x| x / norm);
        }
    }
    unit.dot(&unit.t())
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
pub fn output_distance(output: Output, dense: ArrayViewD<'_, f32>, other: ArrayViewD<'_, f32>) -> f64 {
    let relative = |dense: ArrayViewD<'_, f32>, other: ArrayViewD<'_, f32>| -> f64 {
        let samples = dense.shape().first().copied().unwrap_or(1).max(1);
        let pairs = dense.outer_iter().zip(other.outer_iter());
        pairs.map(|(a, b)| relative_l2(a, b)).sum::<f64>() / samples as f64
    };
    if output.head == Head::Embedding {
        return relative(dense, other);
    }
    let logits = |x| centred_logits(classes_last(output, x), output.head == Head::Probabilities);
    divergence(output, dense.view(), other.view()) + relative(logits(dense).view(), logits(other).view())
}

/// The divergence of class scores in nats; for other outputs [`relative_l2`].
pub fn divergence(output: Output, dense: ArrayViewD<'_, f32>, other: ArrayViewD<'_, f32>) -> f64 {
    let (dense, other) = (classes_last(output, dense), classes_last(output, other));
    match output.head {
        Head::Logits => kullback_leibler(dense, other, false),
        Head::Probabilities => kullback_leibler(dense, other, true),
        Head::Embedding => relative_l2(dense, other),
    }
}

/// The output with its classes on the last axis.
fn classes_last(output: Output, mut x: ArrayViewD<'_, f32>) -> ArrayViewD<'_, f32> {
    if let Some(last) = x.ndim().checked_sub(1).filter(|last| output.classes < *last) {
        x.swap_axes(output.classes, last);
    }
    x
}

/// Logits less their mean over classes, which are on the last axis: a softmax does not see that.
fn centred_logits(x: ArrayViewD<'_, f32>, normalised: bool) -> ArrayD<f32> {
    let mut logits = if normalised { x.mapv(|p| (p + TINY).ln()) } else { x.to_owned() };
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
}
