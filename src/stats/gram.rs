//! Second moments of what sums read, measured inside the runtime: only Gram matrices leave it.
//!
//! They are taken about the mean of each batch, which is put back in double precision: where means are large against deviations,
//! single precision has no digits left for these (Chan, Golub & LeVeque, 1983).

use faer::Mat;
use ndarray::{Ix1, Ix2};

use crate::{
    graph::{Expr, Patch, Tail},
    model::ModelView,
    runtime::Engine,
    score::ScoreError,
    tensor::{DType, Tensor},
    trajectory::{Padding, padding},
    widths::Place,
};

/// A place that is summed over.
pub(crate) struct Sum {
    pub place: Place,
    /// Another axis of the operand whose entries are told apart: the place's entries come once for each of them, and products
    /// are taken within each alone.
    pub outer: Option<usize>,
    /// Entries along both.
    pub entries: usize,
    /// Entries of which products are taken: all, or those of one entry of the outer axis.
    pub block: usize,
}

impl Sum {
    /// Bytes that the moments take while they are measured: here in double precision, and in single as the runtime makes them,
    /// as they come and as they are read.
    pub fn bytes(&self) -> u64 {
        let blocks = (self.entries / self.block.max(1)) as u64;
        blocks * square(self.block) * (size_of::<f64>() + 3 * size_of::<f32>()) as u64
    }
}

/// Sums over the positions of `X` `[positions, entries]`, padding left out.
pub(crate) struct GramStats {
    positions: f64,
    /// `[entries]`.
    sums: Vec<f64>,
    /// `XᵀX`, of which the blocks on the diagonal, one after another `[entries, block]`. Each is symmetric.
    gram: Mat<f64>,
}

impl GramStats {
    fn zero(entries: usize, block: usize) -> Self {
        Self { positions: 0.0, sums: vec![0.0; entries], gram: Mat::zeros(block, entries) }
    }

    /// The sum of products of two entries, which are of one block.
    fn product(&self, i: usize, j: usize) -> f64 {
        self.gram[(i % self.gram.nrows(), j)]
    }

    /// Adds what [`formulas`] gave of a batch.
    fn add(&mut self, parts: &[Tensor]) -> Option<()> {
        let [count, sums, centred] = parts else { return None };
        let sums = sums.to_f32()?.into_dimensionality::<Ix1>().ok()?.mapv(f64::from);
        let centred = centred.to_f32()?.into_dimensionality::<Ix2>().ok()?;
        let count = f64::from(count.to_f32()?.sum());
        self.positions += count;
        self.sums.iter_mut().zip(&sums).for_each(|(sum, x)| *sum += x);
        let block = self.gram.nrows();
        // Blocks are symmetric: rows of one are columns of the other.
        for (entry, (column, row)) in self.gram.col_iter_mut().zip(centred.outer_iter()).enumerate() {
            let mean = sums.get(entry)? / count.max(1.0);
            let partners = sums.iter().skip(entry - entry % block);
            let parts = row.iter().zip(partners).map(|(x, sum)| f64::from(*x) + sum * mean);
            column.iter_mut().zip(parts).for_each(|(sum, x)| *sum += x);
        }
        Some(())
    }

    /// The mean over positions of what products of some entries are.
    pub fn second(&self, places: &[usize]) -> Mat<f64> {
        let mean = |i, j| self.product(i, j) / self.positions.max(1.0);
        Mat::from_fn(places.len(), places.len(), |i, j| mean(places[i], places[j]))
    }

    /// The sum over positions of what some entries vary together, in units of their mean second moment, so that sums of
    /// several scales can be added. `None` where there is nothing.
    pub fn covariance(&self, places: &[usize]) -> Option<Mat<f64>> {
        let energy: f64 = places.iter().map(|i| self.product(*i, *i)).sum();
        if !(energy.is_finite() && energy > 0.0 && self.positions >= 1.0) {
            return None;
        }
        let scale = self.positions * places.len() as f64 / energy;
        let centred = |i: usize, j: usize| self.product(i, j) - self.sums[i] * self.sums[j] / self.positions;
        Some(Mat::from_fn(places.len(), places.len(), |i, j| centred(places[i], places[j]) * scale))
    }
}

/// Elements of a square matrix.
pub(crate) fn square(rows: usize) -> u64 {
    (rows as u64).saturating_pow(2)
}

/// The moments of every sum over all samples.
pub(crate) fn measure(
    engine: &dyn Engine,
    view: ModelView<'_>,
    sums: &[&Sum],
) -> Result<Vec<GramStats>, ScoreError> {
    let mut moments: Vec<GramStats> = sums.iter().map(|s| GramStats::zero(s.entries, s.block)).collect();
    let padding = padding(view.model, view.graph, view.facts, view.widths, view.samples);
    let tail = Tail::new(view.graph.opset(), "moments");
    let mut patch = Patch::default();
    patch.only_exposed();
    let measured: Vec<_> = sums.iter().map(|sum| formulas(view, &tail, padding.as_ref(), sum)).collect();
    measured.iter().flatten().flatten().for_each(|x| patch.expose(&x.name()));
    if measured.iter().all(Option::is_none) {
        return Ok(moments);
    }
    tail.append_to(&mut patch);
    let mut session = engine.load(&patch.apply(view.model))?;
    for range in view.samples.ranges(view.batch) {
        let results = session.run(&view.samples.batch(range.start, range.end)?)?;
        let known = moments.iter_mut().zip(&measured).filter(|(_, m)| m.is_some()).map(|(m, _)| m);
        for (moments, parts) in known.zip(results.chunks(3)) {
            moments.add(parts);
        }
    }
    Ok(moments)
}

/// The number of positions, the sum over them, and the blocks of `XᵀX` about their mean `[entries, block]`.
fn formulas<'t>(
    view: ModelView<'_>,
    tail: &'t Tail,
    padding: Option<&Padding>,
    sum: &Sum,
) -> Option<[Expr<'t>; 3]> {
    let operand = view.graph.node(sum.place.at.node).input(sum.place.at.slot)?;
    let fact = view.facts.get(operand)?;
    let mut x = tail.value(&view.graph.value(operand).name, fact.dtype).cast(DType::F32);
    let rank = fact.shape.len();
    let mut elements = x.num_elements();
    let mask = padding.and_then(|p| mask(view, tail, p, sum)).map(|mask| mask.expand_like(x));
    if let Some(mask) = mask {
        elements = mask.sum(&(0..rank).collect::<Vec<_>>(), false);
        x = x * mask;
    }
    let count = elements * (1.0 / sum.entries as f32);
    let apart: Vec<usize> = sum.outer.into_iter().chain([sum.place.axis]).collect();
    let order: Vec<usize> = (0..rank).filter(|a| !apart.contains(a)).chain(apart.iter().copied()).collect();
    let matrix = |x: Expr<'t>| x.transpose(&order).reshape(&[-1, sum.entries as i64]);
    let rows = matrix(x);
    let sums = rows.sum(&[0], false);
    let mean = sums / count.apply("Max", &[count.scalar(1.0)], &[]);
    // Padding stays zero.
    let centred = rows - mask.map_or(mean, |mask| matrix(mask) * mean);
    let (entries, block) = (sum.entries as i64, sum.block as i64);
    let gram = if sum.block == sum.entries {
        centred.matrix_transpose(2).matmul(centred)
    } else {
        let blocks = centred.reshape(&[-1, entries / block, block]).transpose(&[1, 0, 2]);
        blocks.matrix_transpose(3).matmul(blocks).reshape(&[entries, block])
    };
    Some([count, sums, gram])
}

/// Ones at real positions and zeros at padded ones, against the axes of the operand; `None` where it has no such positions.
fn mask<'t>(view: ModelView<'_>, tail: &'t Tail, padding: &Padding, sum: &Sum) -> Option<Expr<'t>> {
    let table = &view.widths.table;
    let axes = view.widths.operand(view.graph, sum.place.at)?;
    let find = |width| axes.iter().position(|a| table.root(*a) == table.root(width));
    let (sample, position) = (find(view.widths.batch?)?, find(padding.positions?)?);
    let dtype = view.facts.get(view.graph.find(&padding.input)?)?.dtype;
    let mask = tail.value(&padding.input, dtype).cast(DType::F32);
    let mask = if sample < position { mask } else { mask.transpose(&[1, 0]) };
    let others: Vec<usize> = (0..axes.len()).filter(|a| *a != sample && *a != position).collect();
    Some(if others.is_empty() { mask } else { mask.unsqueeze(&others) })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis};

    use super::*;
    use crate::graph::{NodeId, Use};

    #[test]
    fn deviations_survive_means_that_are_large_against_them() {
        // Two entries that vary against each other, at ten thousand times their deviation.
        let batch = |shift: f32| {
            Array2::from_shape_fn((8, 2), |(i, j)| {
                let x = shift + [1.0, -1.0, 0.5, -0.5, 0.25, -0.25, 2.0, -2.0][i];
                1e4 + if j == 0 { x } else { -x }
            })
        };
        let batches = [batch(0.0), batch(1.0)];
        let mut moments = GramStats::zero(2, 2);
        for rows in &batches {
            let sums = rows.sum_axis(Axis(0));
            let centred = rows - &(&sums / 8.0);
            let gram = centred.t().dot(&centred);
            let count = ndarray::arr0(8f32).into_dyn();
            let parts = [count, sums.into_dyn(), gram.into_dyn()].map(Tensor::F32);
            assert!(moments.add(&parts).is_some());
        }
        // 2 · 10.625 within the batches, and 16 · 0.25 between them.
        let expected = 2.0 * 10.625 + 4.0;
        let energy = moments.gram[(0, 0)] + moments.gram[(1, 1)];
        let covariance = moments.covariance(&[0, 1]).unwrap() * (energy / 32.0);
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let sign = if i == j { 1.0 } else { -1.0 };
            assert!((covariance[(i, j)] - sign * expected).abs() < 1e-2, "{covariance:?}");
        }
    }

    #[test]
    fn blocks_hold_the_products_of_their_entries() {
        // Two heads of two entries, at three positions.
        let rows =
            Array2::from_shape_fn((3, 4), |(i, j)| [1.0f32, -2.0, 0.5][i] * (j as f32 + 1.0) + i as f32);
        let sums = rows.sum_axis(Axis(0));
        let centred = &rows - &(&sums / 3.0);
        let gram = centred.t().dot(&centred);
        let blocks = Array2::from_shape_fn((4, 2), |(i, j)| gram[(i, i / 2 * 2 + j)]);
        let count = ndarray::arr0(3f32).into_dyn();
        let (mut all, mut heads) = (GramStats::zero(4, 4), GramStats::zero(4, 2));
        all.add(&[count.clone(), sums.clone().into_dyn(), gram.into_dyn()].map(Tensor::F32)).unwrap();
        heads.add(&[count, sums.into_dyn(), blocks.into_dyn()].map(Tensor::F32)).unwrap();
        for head in [[0, 1], [2, 3]] {
            assert_eq!(heads.second(&head), all.second(&head));
            assert_eq!(heads.covariance(&head), all.covariance(&head));
        }
    }

    #[test]
    fn the_estimate_covers_what_is_measured() {
        let view = GramStats::zero(200, 50);
        let place = Place { at: Use { node: NodeId(0), slot: 0 }, axis: 0 };
        let gram = (view.gram.nrows() * view.gram.ncols()) as u64;
        assert_eq!(Sum { place, outer: Some(1), entries: 200, block: 50 }.bytes(), gram * 8 + gram * 4 * 3);
    }
}
