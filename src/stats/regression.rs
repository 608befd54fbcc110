//! Second moments of what a layer reads and of what its result lacks: all that least squares needs to know of the samples.

use faer::Mat;
use ndarray::{ArrayView2, ArrayView3, Axis};

/// Sums over positions, per group of the layer: with `X` `[positions, entries]` what is read, extended by a column of
/// ones, and `E` `[positions, features]` what the result lacks.
#[derive(Clone, Debug)]
pub struct RegressionStats {
    /// Number of positions.
    pub rows: f64,
    /// `XᵀX`, `[entries + 1, entries + 1]`.
    pub gram: Vec<Mat<f64>>,
    /// `XᵀE`, `[entries + 1, features]`.
    pub cross: Vec<Mat<f64>>,
    /// `ΣE²`, of all groups.
    pub energy: f64,
}

/// What is added to a layer's weights, per group: `[entries + 1, features]`, the bias in the last row.
#[derive(Clone, Debug)]
pub struct Correction(pub Vec<Mat<f64>>);

impl RegressionStats {
    /// Bytes that a layer's moments take while it is corrected: those of two sets of samples, a batch's as the runtime makes
    /// them, as they come, and, for a fit, about the mean, with a ridge, and factored.
    pub fn bytes(groups: usize, entries: usize, features: usize) -> u64 {
        let (rows, columns) = (entries as u64 + 1, features as u64);
        let (sets, runtime, fit) = (2, 1, 3);
        groups as u64 * rows * (rows + columns) * (sets + runtime + fit) * size_of::<f64>() as u64
    }

    /// Of no positions.
    pub fn zero(groups: usize, entries: usize, features: usize) -> Self {
        Self {
            rows: 0.0,
            gram: vec![Mat::zeros(entries + 1, entries + 1); groups],
            cross: vec![Mat::zeros(entries + 1, features); groups],
            energy: 0.0,
        }
    }

    /// Adds `XᵀX` and `XᵀE` of some positions, `[groups, …, …]`, both about the means of `X` `[groups, 1, entries]` and of `E`,
    /// and their errors `[positions, groups · features]`. The means are put back here, in double precision: in single, there
    /// are no digits left for deviations where means are large against them.
    pub fn add_products(
        &mut self,
        gram: ArrayView3<'_, f32>,
        cross: ArrayView3<'_, f32>,
        means: ArrayView3<'_, f32>,
        errors: ArrayView2<'_, f32>,
    ) {
        let rows = errors.len_of(Axis(0)) as f64;
        self.rows += rows;
        self.energy += errors.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>();
        let sums = errors.axis_iter(Axis(1)).map(|column| column.iter().map(|e| f64::from(*e)).sum::<f64>());
        let sums: Vec<f64> = sums.collect();
        let products = gram.outer_iter().zip(cross.outer_iter()).zip(means.outer_iter());
        for (group, ((gram, cross), means)) in products.enumerate() {
            let means: Vec<f64> = means.iter().map(|m| f64::from(*m)).chain([1.0]).collect();
            let (entries, features) = (means.len() - 1, cross.ncols());
            let part = |x: ArrayView2<'_, f32>, i, j| x.get((i, j)).map_or(0.0, |x| f64::from(*x));
            let total = &mut self.gram[group];
            for (i, j) in (0..=entries).flat_map(|i| (0..=entries).map(move |j| (i, j))) {
                total[(i, j)] += part(gram, i, j) + rows * means[i] * means[j];
            }
            let total = &mut self.cross[group];
            for (i, j) in (0..=entries).flat_map(|i| (0..features).map(move |j| (i, j))) {
                // `n x̄ ē`, of which the sum of the errors is `n ē`.
                total[(i, j)] += part(cross, i, j) + means[i] * sums[group * features + j];
            }
        }
    }

    /// Adds the errors of some positions `[positions, groups · features]`, where nothing is known of `X` but the ones.
    pub fn add_errors(&mut self, errors: ArrayView2<'_, f32>) {
        self.rows += errors.len_of(Axis(0)) as f64;
        self.energy += errors.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>();
        let sums = errors.axis_iter(Axis(1)).map(|column| column.iter().map(|e| f64::from(*e)).sum::<f64>());
        let mut sums = sums.collect::<Vec<_>>().into_iter();
        for (gram, cross) in self.gram.iter_mut().zip(&mut self.cross) {
            gram[(0, 0)] = self.rows;
            for feature in 0..cross.ncols() {
                cross[(0, feature)] += sums.next().unwrap_or(0.0);
            }
        }
    }

    /// Of the positions of both.
    pub fn plus(&self, other: &Self) -> Self {
        let sum = |a: &[Mat<f64>], b: &[Mat<f64>]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Self {
            rows: self.rows + other.rows,
            gram: sum(&self.gram, &other.gram),
            cross: sum(&self.cross, &other.cross),
            energy: self.energy + other.energy,
        }
    }

    /// `Σ(E − X·correction)²`: what is still lacking afterwards.
    pub fn error(&self, correction: &Correction) -> f64 {
        let gained: f64 = self
            .gram
            .iter()
            .zip(&self.cross)
            .zip(&correction.0)
            .map(|((gram, cross), delta)| {
                let fitted = gram * delta;
                inner(delta, cross) * 2.0 - inner(delta, &fitted)
            })
            .sum();
        let left = self.energy - gained;
        // What is no number must not pass for nothing.
        if left < 0.0 { 0.0 } else { left }
    }
}

impl Correction {
    /// Whether all of it are numbers.
    pub fn is_finite(&self) -> bool {
        self.0.iter().flat_map(|group| group.col_iter()).all(|column| column.iter().all(|x| x.is_finite()))
    }
}

/// `Σ a ∘ b`.
fn inner(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    let columns = a.col_iter().zip(b.col_iter());
    columns.map(|(a, b)| a.iter().zip(b.iter()).map(|(a, b)| a * b).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_covers_both_sets_of_samples_and_a_fit() {
        for (groups, entries, features) in [(1, 1, 1), (1, 300, 40), (4, 64, 128)] {
            let moments = RegressionStats::zero(groups, entries, features);
            let elements =
                |matrices: &[Mat<f64>]| matrices.iter().map(|m| m.nrows() * m.ncols()).sum::<usize>();
            let (gram, cross) = (elements(&moments.gram), elements(&moments.cross));
            // Two sets; single precision as the runtime makes it and as it comes; centred, with a ridge, and factored, beside
            // the solution.
            let needed = 8 * 2 * (gram + cross) + 4 * 2 * (gram + cross) + 8 * (3 * gram + 2 * cross);
            let bytes = RegressionStats::bytes(groups, entries, features);
            assert!(bytes >= needed as u64 && bytes < 2 * needed as u64, "{bytes} for {needed}");
        }
    }
}
