//! Second moments of what a layer reads and of what its result lacks: all that least squares needs to know of the samples.

use faer::{
    Accum, ColMut, Mat, Par,
    linalg::matmul::triangular::{BlockStructure, matmul},
};
use ndarray::{ArrayView1, ArrayView2, ArrayView3, Axis, s};

/// Sums over positions, per group of the layer: with `X` `[positions, entries]` what is read, extended by a column of
/// ones, and `E` `[positions, features]` what the result lacks.
#[derive(Clone, Debug)]
pub struct RegressionStats {
    /// Number of positions.
    pub rows: f64,
    /// `XᵀX`, `[entries + 1, entries + 1]`; it is symmetric, and only its lower triangle is kept.
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
    /// them, as they come, and, for a fit, about the mean, with a ridge, and factored, beside the best correction so far.
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

    /// Adds `XᵀX`, in strips from the top (`strips.rs`), and `EᵀX` of some positions, `[groups, …, …]`, both about the means of `X`
    /// `[groups, 1, entries]` and of `E`, and their errors `[positions, groups · features]`. The means are put back here, in double precision: in single, there
    /// are no digits left for deviations where means are large against them.
    ///
    /// Rows of these products are columns of the sums, as `XᵀX` is symmetric: all are read as they lie in memory. Of a row of
    /// `XᵀX`, what is right of the diagonal is read, which is there in whole rows as well as in strips.
    pub fn add_products(
        &mut self,
        gram: &[ArrayView3<'_, f32>],
        cross: ArrayView3<'_, f32>,
        means: ArrayView3<'_, f32>,
        errors: ArrayView2<'_, f32>,
    ) {
        let rows = errors.len_of(Axis(0)) as f64;
        self.rows += rows;
        self.energy += errors.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>();
        let sums = errors.axis_iter(Axis(1)).map(|column| column.iter().map(|e| f64::from(*e)).sum::<f64>());
        let mut sums = sums.collect::<Vec<_>>().into_iter();
        let totals = self.gram.iter_mut().zip(&mut self.cross);
        let products = cross.outer_iter().zip(means.outer_iter());
        for (group, ((gram_total, cross_total), (cross, means))) in totals.zip(products).enumerate() {
            let means: Vec<f64> = means.iter().map(|m| f64::from(*m)).collect();
            gram_total[(means.len(), means.len())] += rows;
            let strips: Vec<_> = gram.iter().map(|strip| strip.index_axis(Axis(0), group)).collect();
            let gram = strips.iter().flat_map(|strip| strip.outer_iter());
            let columns = gram_total.col_iter_mut().zip(gram).zip(&means);
            for (entry, ((total, row), mean)) in columns.enumerate() {
                let (_, total) = total.split_at_row_mut(entry);
                let right = (row.len() + entry).saturating_sub(means.len());
                add_column(total, row.slice(s![right..]), &means[entry..], rows * mean);
            }
            for (total, row) in cross_total.col_iter_mut().zip(cross.outer_iter()) {
                // `n x̄ ē`, of which the sum of the errors is `n ē`.
                add_column(total, row, &means, sums.next().unwrap_or(0.0));
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
            .map(|((gram, cross), delta)| inner(delta, cross) * 2.0 - quadratic(gram, delta))
            .sum();
        left(self.energy, gained)
    }

    /// The same of a correction that leaves weights as they are.
    pub fn error_of_biases(&self, correction: &Correction) -> f64 {
        let groups = self.cross.iter().zip(&correction.0);
        let gained: f64 = groups.map(|(cross, delta)| self.gained_by_biases(cross, delta)).sum();
        left(self.energy, gained)
    }

    fn gained_by_biases(&self, cross: &Mat<f64>, delta: &Mat<f64>) -> f64 {
        let ones = cross.nrows() - 1;
        let gained = |j: usize| delta[(ones, j)] * (2.0 * cross[(ones, j)] - self.rows * delta[(ones, j)]);
        (0..cross.ncols()).map(gained).sum()
    }
}

impl Correction {
    /// Whether all of it are numbers.
    pub fn is_finite(&self) -> bool {
        self.0.iter().flat_map(|group| group.col_iter()).all(|column| column.iter().all(|x| x.is_finite()))
    }
}

/// What is left of errors; what is no number must not pass for nothing.
fn left(energy: f64, gained: f64) -> f64 {
    let left = energy - gained;
    if left < 0.0 { 0.0 } else { left }
}

/// Adds products with some entries that were taken about means, with these put back; the last is the product with ones.
fn add_column(total: ColMut<'_, f64>, products: ArrayView1<'_, f32>, means: &[f64], scale: f64) {
    let mut total = total.iter_mut();
    if let Some(ones) = total.next_back() {
        *ones += scale;
    }
    let parts = products.iter().zip(means).map(|(product, mean)| f64::from(*product) + scale * mean);
    total.zip(parts).for_each(|(sum, part)| *sum += part);
}

/// `Σ Δ ∘ GΔ` for a symmetric `G`, of which the lower triangle is read.
fn quadratic(gram: &Mat<f64>, delta: &Mat<f64>) -> f64 {
    let mut fitted = Mat::zeros(delta.nrows(), delta.ncols());
    let (lower, whole) = (BlockStructure::StrictTriangularLower, BlockStructure::Rectangular);
    matmul(&mut fitted, whole, Accum::Replace, gram, lower, delta, whole, 2.0, Par::Seq);
    for (fitted, delta) in fitted.col_iter_mut().zip(delta.col_iter()) {
        let diagonal = gram.diagonal().column_vector();
        let own = diagonal.iter().zip(delta.iter()).map(|(g, x)| g * x);
        fitted.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
    }
    inner(delta, &fitted)
}

/// `Σ a ∘ b`.
fn inner(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    let columns = a.col_iter().zip(b.col_iter());
    columns.map(|(a, b)| a.iter().zip(b.iter()).map(|(a, b)| a * b).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis};

    use super::*;

    /// Moments of rows `x` and their errors `e`, measured as one batch about the means.
    fn moments(x: &Array2<f32>, e: &Array2<f32>) -> RegressionStats {
        let mean = |m: &Array2<f32>| m.mean_axis(Axis(0)).unwrap().insert_axis(Axis(0));
        let (means, centred, errors) = (mean(x), x - &mean(x), e - &mean(e));
        let group = |m: Array2<f32>| m.insert_axis(Axis(0));
        let (gram, cross) = (group(centred.t().dot(&centred)), group(errors.t().dot(&centred)));
        let mut moments = RegressionStats::zero(1, x.ncols(), e.ncols());
        moments.add_products(&[gram.view()], cross.view(), group(means).view(), e.view());
        moments
    }

    #[test]
    fn the_error_of_a_correction_is_that_of_its_positions() {
        let x = Array2::from_shape_fn((7, 3), |(i, j)| ((3 * i + 5 * j) % 7) as f32 + 2.0);
        let e = Array2::from_shape_fn((7, 2), |(i, j)| ((2 * i + 3 * j) % 5) as f32 - 1.0);
        let moments = moments(&x, &e);
        let weights = Mat::from_fn(4, 2, |i, j| 0.1 * (i as f64 + 1.0) - 0.2 * j as f64);
        let biases = Mat::from_fn(4, 2, |i, j| if i == 3 { 0.5 + j as f64 } else { 0.0 });
        for delta in [weights, biases.clone()] {
            let lacking = |i: usize, j: usize| {
                let read = (0..3).map(|k| f64::from(x[(i, k)]) * delta[(k, j)]).sum::<f64>() + delta[(3, j)];
                f64::from(e[(i, j)]) - read
            };
            let expected = (0..14).map(|at| lacking(at / 2, at % 2).powi(2)).sum::<f64>();
            let found = moments.error(&Correction(vec![delta.clone()]));
            assert!((found - expected).abs() < 1e-4 * expected, "{found} for {expected}");
        }
        let biases = Correction(vec![biases]);
        let (found, expected) = (moments.error_of_biases(&biases), moments.error(&biases));
        assert!((found - expected).abs() < 1e-9 * expected, "{found} for {expected}");
    }

    #[test]
    fn strips_hold_what_whole_rows_do() {
        let x = Array2::from_shape_fn((9, 5), |(i, j)| ((7 * i + 3 * j) % 11) as f32 - 4.0);
        let e = Array2::from_shape_fn((9, 2), |(i, j)| ((2 * i + 3 * j) % 5) as f32 - 1.0);
        let mean = |m: &Array2<f32>| m.mean_axis(Axis(0)).unwrap().insert_axis(Axis(0));
        let (means, x, errors) = (mean(&x), &x - &mean(&x), &e - &mean(&e));
        let group = |m: Array2<f32>| m.insert_axis(Axis(0));
        let (gram, cross) = (x.t().dot(&x), group(errors.t().dot(&x)));
        let strips =
            [(0, 2), (2, 4), (4, 5)].map(|(from, to)| group(gram.slice(s![from..to, from..]).to_owned()));
        let moments = |gram: &[ArrayView3<'_, f32>]| {
            let mut moments = RegressionStats::zero(1, 5, 2);
            moments.add_products(gram, cross.view(), group(means.clone()).view(), e.view());
            moments
        };
        let whole = moments(&[group(gram.clone()).view()]);
        let found = moments(&strips.each_ref().map(|strip| strip.view()));
        assert_eq!((&found.gram, &found.cross), (&whole.gram, &whole.cross));
    }

    #[test]
    fn the_estimate_covers_both_sets_of_samples_and_a_fit() {
        for (groups, entries, features) in [(1, 1, 1), (1, 300, 40), (4, 64, 128)] {
            let moments = RegressionStats::zero(groups, entries, features);
            let elements =
                |matrices: &[Mat<f64>]| matrices.iter().map(|m| m.nrows() * m.ncols()).sum::<usize>();
            let (gram, cross) = (elements(&moments.gram), elements(&moments.cross));
            // Two sets; single precision as the runtime makes it and as it comes; centred, with a ridge, and factored, beside
            // the solution and the best one before.
            let needed = 8 * 2 * (gram + cross) + 4 * 2 * (gram + cross) + 8 * (3 * gram + 3 * cross);
            let bytes = RegressionStats::bytes(groups, entries, features);
            assert!(bytes >= needed as u64 && bytes < 2 * needed as u64, "{bytes} for {needed}");
        }
    }
}
