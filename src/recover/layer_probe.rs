//! Measuring a layer inside the runtime: nodes that gather what chosen positions read and lack, and multiply it out, so that
//! only products leave.

use ndarray::{Array2, ArrayD, ArrayView, ArrayView3, Dimension, Ix2, Ix3, IxDyn};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

use super::{layer::Layer, stream::Wanted};
use crate::{
    graph::{Attr, Expr, Graph, Patch, Tail},
    onnx::build::value_info,
    stats::{RegressionStats, strips},
    tensor::{DType, Tensor},
};

/// Nodes that measure layers of the pruned model which read the same.
pub(super) struct LayerProbe {
    /// What they return: for each layer errors `[positions, features]` and, if entries are measured, `EᵀX`; then, in that case,
    /// the means of `X`, and `XᵀX` in strips. Products are about the means of both.
    pub wanted: Wanted,
    rows: String,
    /// If entries are measured: which positions are read.
    read: Option<String>,
    /// For each layer, what the dense model has.
    targets: Vec<String>,
}

impl LayerProbe {
    /// For layers of the pruned model that `graph` is of, which read what the first does. `describe` gives the type and the number
    /// of axes of a value. `None` where one is gone.
    pub fn new(
        graph: &Graph,
        layers: &[&Layer],
        entries: bool,
        describe: impl Fn(&str) -> Option<(DType, usize)>,
    ) -> Option<Self> {
        let tail = Tail::new(graph.opset(), "recover");
        let mut patch = Patch::default();
        let mut input = |hint: &str, dtype: DType, rank: usize| {
            let name = patch.fresh(graph, hint);
            patch.input(value_info(&name, dtype, rank));
            tail.value(&name, dtype)
        };
        let first = layers.first()?;
        let rows = input("rows", DType::I64, 1);
        let targets: Vec<_> = layers.iter().map(|_| input("target", DType::F32, 2)).collect();
        let reads = entries.then(|| input("reads", DType::I64, 1));
        let mut operands = Vec::new();
        let mut errors = Vec::new();
        for (layer, target) in layers.iter().zip(&targets) {
            let (waypoint, feature) = &layer.waypoint;
            operands.push(graph.find(waypoint)?);
            let (dtype, rank) = describe(waypoint)?;
            let found = matrix(tail.value(waypoint, dtype), rank, *feature, layer.gain.len());
            errors.push(*target - selected(found, rows));
        }
        let mut outputs = errors.clone();
        if let Some(reads) = reads {
            let operand = first.read_value(graph)?;
            operands.push(operand);
            let operand = &graph.value(operand).name;
            let linear = &first.linear;
            let (groups, inner) = (linear.groups, first.entries / linear.taps());
            let (dtype, rank) = describe(operand)?;
            let mut x = matrix(tail.value(operand, dtype), rank, first.operand.1, groups * inner);
            if linear.window.is_some() {
                // Windows read zeros beyond the edge: one row more.
                let zeros = Tensor::F32(ArrayD::zeros(IxDyn(&[1, groups * inner]))).cast_float(dtype)?;
                x = tail.concat(&[x, tail.constant(&zeros)], 0)?;
            }
            let x = grouped(selected(x, reads), &[linear.taps(), groups, inner], first.entries);
            let means = x.mean(&[1]);
            let x = x - means;
            outputs = Vec::new();
            for (layer, errors) in layers.iter().zip(errors) {
                let features = layer.gain.len() / groups;
                let e = grouped(errors, &[1, groups, features], features);
                let e = e - e.mean(&[1]);
                outputs.extend([errors, e.matrix_transpose(3).matmul(x)]);
            }
            outputs.push(means);
            outputs.extend(strips(x, 3, first.entries));
        }
        let outputs = outputs.iter().map(Expr::name).collect();
        let read = reads.map(|reads| reads.name());
        let (rows, targets) = (rows.name(), targets.iter().map(Expr::name).collect());
        tail.append_to(&mut patch);
        Some(Self { wanted: Wanted { patch, operands, outputs }, rows, read, targets })
    }

    /// What to feed besides the model's own inputs: which rows are measured, and what the dense model has there, for each layer.
    pub fn feed(&self, first: &Layer, rows: &[usize], targets: Vec<Array2<f32>>) -> Vec<(String, Tensor)> {
        let numbers: Vec<i64> = rows.iter().map(|r| *r as i64).collect();
        let mut feed = vec![(self.rows.clone(), Tensor::ints(&numbers))];
        let targets = self.targets.iter().zip(targets);
        feed.extend(targets.map(|(name, target)| (name.clone(), Tensor::F32(target.into_dyn()))));
        if let Some(read) = &self.read {
            feed.push((read.clone(), Tensor::ints(&reads(first, rows))));
        }
        feed
    }

    /// Adds what a run returned to the moments of each layer.
    pub fn collect<'m>(
        &self,
        results: &[Tensor],
        moments: impl Iterator<Item = &'m mut RegressionStats>,
    ) -> Option<()> {
        let Some(at) = self.read.as_ref().map(|_| 2 * self.targets.len()) else {
            for (errors, moments) in results.iter().zip(moments) {
                moments.add_errors(view::<Ix2>(errors)?);
            }
            return Some(());
        };
        let (layers, shared) = results.split_at_checked(at)?;
        let (means, strips) = shared.split_first()?;
        let means = view::<Ix3>(means)?;
        let gram: Vec<ArrayView3<'_, f32>> = strips.iter().map(view).collect::<Option<_>>()?;
        for (layer, moments) in layers.chunks_exact(2).zip(moments) {
            let [errors, cross] = layer else { return None };
            moments.add_products(&gram, view::<Ix3>(cross)?, means, view::<Ix2>(errors)?);
        }
        Some(())
    }
}

/// A tensor of single precision with so many axes.
fn view<D: Dimension>(x: &Tensor) -> Option<ArrayView<'_, f32, D>> {
    x.view_f32()?.into_dimensionality::<D>().ok()
}

/// The operand's positions that each of `rows` reads, taps innermost; the last, which is zero, stands for padding.
fn reads(layer: &Layer, rows: &[usize]) -> Vec<i64> {
    let Some(window) = &layer.linear.window else { return rows.iter().map(|r| *r as i64).collect() };
    let (from, to) = (window.input.iter().product::<usize>(), window.output.iter().product::<usize>());
    let taps = layer.linear.taps();
    let read = |row: usize, tap: usize| {
        let (sample, position) = (row / to.max(1), row % to.max(1));
        window.input_position(position, tap).map_or(-1, |p| (sample * from + p) as i64)
    };
    rows.iter().flat_map(|row| (0..taps).map(move |tap| read(*row, tap))).collect()
}

/// The axis and the extent of each axis of positions of a dense waypoint of this shape, of which some entries stay.
fn extents<'l>(layer: &'l Layer, whole: &'l [usize]) -> impl DoubleEndedIterator<Item = (usize, usize)> + 'l {
    let axes = (0..whole.len()).filter(|axis| *axis != layer.waypoint.1);
    axes.map(|axis| (axis, layer.kept_of(axis).map_or(whole[axis], Vec::len)))
}

/// How many positions of a dense waypoint of this shape stay.
pub(super) fn positions(layer: &Layer, whole: &[usize]) -> usize {
    extents(layer, whole).map(|(_, extent)| extent).product()
}

/// Chooses at most `count` of so many positions by a seed, of those that `real` does not say to be padding.
pub(super) fn choose(positions: usize, real: Option<&[i64]>, count: usize, seed: u64) -> Vec<usize> {
    let real = real.filter(|mask| mask.len() == positions);
    let is_real = |row: &usize| real.is_none_or(|mask| mask[*row] != 0);
    let candidates: Vec<usize> = (0..positions).filter(is_real).collect();
    if candidates.len() <= count {
        return candidates;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen = index::sample(&mut rng, candidates.len(), count).into_vec();
    chosen.sort_unstable();
    chosen.into_iter().map(|i| candidates[i]).collect()
}

/// What a dense waypoint has at these of its positions of the features that stay, `[rows, features]`; `None` where it has another
/// number of positions.
pub(super) fn targets(layer: &Layer, dense: &Tensor, count: usize, rows: &[usize]) -> Option<Array2<f32>> {
    let feature = layer.waypoint.1;
    let whole = dense.shape();
    if positions(layer, whole) != count {
        return None;
    }
    let entry = |axis: usize, i: usize| layer.kept_of(axis).map_or(Some(i), |kept| kept.get(i).copied());
    // Few of many positions are read: no axis is moved for them.
    let converted = if dense.view_f32().is_some() { None } else { Some(dense.to_f32()?) };
    let dense = converted.as_ref().map(|x| x.view()).or_else(|| dense.view_f32())?;
    let dense = dense.as_standard_layout();
    let (flat, strides) = (dense.as_slice()?, dense.strides());
    let stride = |axis: usize| strides.get(axis).and_then(|stride| usize::try_from(*stride).ok());
    let all = 0..*whole.get(feature)?;
    let features: Vec<usize> = layer.kept_of(feature).cloned().unwrap_or_else(|| all.collect());
    let step = stride(feature)?;
    let mut target = Array2::zeros((rows.len(), features.len()));
    for (row, mut out) in rows.iter().zip(target.outer_iter_mut()) {
        let (mut rest, mut start) = (*row, 0);
        for (axis, extent) in extents(layer, whole).rev() {
            start += entry(axis, rest % extent)? * stride(axis)?;
            rest /= extent;
        }
        for (out, f) in out.iter_mut().zip(&features) {
            *out = *flat.get(start + f * step)?;
        }
    }
    Some(target)
}

/// `[positions, features]` of a value.
fn matrix(x: Expr<'_>, rank: usize, feature: usize, features: usize) -> Expr<'_> {
    let order: Vec<usize> = (0..rank).filter(|a| *a != feature).chain([feature]).collect();
    x.transpose(&order).reshape(&[-1, features as i64])
}

/// Rows of a matrix, in float32.
fn selected<'t>(x: Expr<'t>, rows: Expr<'t>) -> Expr<'t> {
    x.apply("Gather", &[rows], &[Attr::Int("axis", 0)]).cast(DType::F32)
}

/// `[groups, positions, width]` of rows whose elements have the axes (tap, group, inner) behind the positions.
fn grouped<'t>(x: Expr<'t>, inner: &[usize; 3], width: usize) -> Expr<'t> {
    let shape: Vec<i64> = std::iter::once(-1).chain(inner.iter().map(|n| *n as i64)).collect();
    x.reshape(&shape).transpose(&[2, 0, 1, 3]).reshape(&[inner[1] as i64, -1, width as i64])
}
