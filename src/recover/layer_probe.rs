//! Measuring a layer inside the runtime: nodes that gather what chosen positions read and lack, and multiply it out, so that
//! only products leave.

use ndarray::{Array2, ArrayD, ArrayView2, ArrayView3, Ix2, Ix3, IxDyn};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

use super::{layer::Layer, stream::Wanted};
use crate::{
    graph::{Attr, Expr, Graph, Patch, Tail},
    onnx::build::value_info,
    stats::RegressionStats,
    tensor::{DType, Tensor},
};

/// Nodes that measure a layer of the pruned model.
pub(super) struct LayerProbe {
    /// What they return: errors `[positions, features]`, then, if the layer's entries are measured, `XᵀX` and `EᵀX` about the
    /// means of both, and the means of `X`.
    pub wanted: Wanted,
    rows: String,
    /// If the layer's entries are measured: which positions are read.
    read: Option<String>,
    target: String,
}

/// The positions of one batch that are measured.
pub(super) struct Positions {
    /// Positions of the result, over the whole batch.
    pub rows: Vec<usize>,
    /// What the dense model has there, `[positions, features]`.
    pub target: Array2<f32>,
}

impl Positions {
    /// The first position alone, measured against zeros.
    pub fn first(features: usize) -> Self {
        Self { rows: vec![0], target: Array2::zeros((1, features)) }
    }
}

impl LayerProbe {
    /// For the pruned model that `graph` is of. `describe` gives the type and the number of axes of a value. `None` where the
    /// layer is gone.
    pub fn new(
        graph: &Graph,
        layer: &Layer,
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
        let node = graph.node(graph.producer(graph.find(&layer.result)?)?);
        let mut operands = vec![graph.find(&layer.waypoint.0)?];
        let (rows, target) = (input("rows", DType::I64, 1), input("target", DType::F32, 2));
        let (waypoint, feature) = &layer.waypoint;
        let (dtype, rank) = describe(waypoint)?;
        let found = matrix(tail.value(waypoint, dtype), rank, *feature, layer.gain.len());
        let errors = target - selected(found, rows);
        let mut outputs = vec![errors];
        let mut read = None;
        if entries {
            let reads = input("reads", DType::I64, 1);
            operands.push(node.input(layer.operand.0)?);
            let operand = &graph.value(node.input(layer.operand.0)?).name;
            let linear = &layer.linear;
            let (groups, inner) = (linear.groups, layer.entries / linear.taps());
            let (dtype, rank) = describe(operand)?;
            let mut x = matrix(tail.value(operand, dtype), rank, layer.operand.1, groups * inner);
            if linear.window.is_some() {
                // Windows read zeros beyond the edge: one row more.
                let zeros = Tensor::F32(ArrayD::zeros(IxDyn(&[1, groups * inner]))).cast_float(dtype)?;
                x = tail.concat(&[x, tail.constant(&zeros)], 0)?;
            }
            let x = grouped(selected(x, reads), &[linear.taps(), groups, inner], layer.entries);
            let means = x.mean(&[1]);
            let x = x - means;
            let features = layer.gain.len() / groups;
            let e = grouped(errors, &[1, groups, features], features);
            let e = e - e.mean(&[1]);
            outputs.extend([x.matrix_transpose(3).matmul(x), e.matrix_transpose(3).matmul(x), means]);
            read = Some(reads.name());
        }
        let outputs = outputs.iter().map(Expr::name).collect();
        tail.append_to(&mut patch);
        let (rows, target) = (rows.name(), target.name());
        Some(Self { wanted: Wanted { patch, operands, outputs }, rows, read, target })
    }

    /// What to feed besides the model's own inputs.
    pub fn feed(&self, layer: &Layer, chosen: &Positions) -> Vec<(String, Tensor)> {
        let rows: Vec<i64> = chosen.rows.iter().map(|r| *r as i64).collect();
        let mut feed = vec![
            (self.rows.clone(), Tensor::ints(&rows)),
            (self.target.clone(), Tensor::F32(chosen.target.clone().into_dyn())),
        ];
        if let Some(read) = &self.read {
            feed.push((read.clone(), Tensor::ints(&reads(layer, &chosen.rows))));
        }
        feed
    }

    /// Adds what a run returned.
    pub fn collect(&self, results: &[Tensor], moments: &mut RegressionStats) -> Option<()> {
        let views: Vec<_> = results.iter().map(Tensor::view_f32).collect::<Option<_>>()?;
        let errors: ArrayView2<'_, f32> = views.first()?.view().into_dimensionality::<Ix2>().ok()?;
        match views.as_slice() {
            [_, products @ ..] if products.len() == 3 => {
                let views = products.iter().map(|x| x.view().into_dimensionality::<Ix3>().ok());
                let views: Vec<ArrayView3<'_, f32>> = views.collect::<Option<_>>()?;
                moments.add_products(views[0], views[1], views[2], errors);
            }
            _ => moments.add_errors(errors),
        }
        Some(())
    }
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

/// Chooses at most `count` positions of a dense waypoint by a seed, of those that `real` does not say to be padding, and
/// returns what the waypoint has there of the features that stay.
pub(super) fn choose(
    layer: &Layer,
    dense: &Tensor,
    real: Option<&[i64]>,
    count: usize,
    seed: u64,
) -> Option<Positions> {
    let feature = layer.waypoint.1;
    let whole = dense.shape();
    let stay = |axis: usize| layer.kept.get(axis).and_then(Option::as_ref);
    let entry = |axis: usize, i: usize| stay(axis).map_or(Some(i), |kept| kept.get(i).copied());
    let axes: Vec<usize> = (0..whole.len()).filter(|a| *a != feature).collect();
    let extents: Vec<usize> = axes.iter().map(|a| stay(*a).map_or(whole[*a], Vec::len)).collect();
    let total: usize = extents.iter().product();
    let real = real.filter(|mask| mask.len() == total);
    let candidates: Vec<usize> = (0..total).filter(|row| real.is_none_or(|mask| mask[*row] != 0)).collect();
    let rows = if candidates.len() > count {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut chosen = index::sample(&mut rng, candidates.len(), count).into_vec();
        chosen.sort_unstable();
        chosen.into_iter().map(|i| candidates[i]).collect()
    } else {
        candidates
    };
    // Few of many positions are read: no axis is moved for them.
    let converted = if dense.view_f32().is_some() { None } else { Some(dense.to_f32()?) };
    let dense = converted.as_ref().map(|x| x.view()).or_else(|| dense.view_f32())?;
    let all = 0..*whole.get(feature)?;
    let features: Vec<usize> = stay(feature).cloned().unwrap_or_else(|| all.collect());
    let mut target = Array2::zeros((rows.len(), features.len()));
    let mut at = vec![0; whole.len()];
    for (row, mut out) in rows.iter().zip(target.outer_iter_mut()) {
        let mut rest = *row;
        for (axis, extent) in axes.iter().zip(&extents).rev() {
            at[*axis] = entry(*axis, rest % extent)?;
            rest /= extent;
        }
        for (out, f) in out.iter_mut().zip(&features) {
            at[feature] = *f;
            *out = *dense.get(at.as_slice())?;
        }
    }
    Some(Positions { rows, target })
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
