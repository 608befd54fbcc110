//! Measuring a layer inside the runtime: nodes that gather what chosen positions read and lack, and multiply it out, so that
//! only products leave.

use ndarray::{Array2, ArrayD, ArrayView2, ArrayView3, Ix2, Ix3, IxDyn};
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

use super::{layer::Layer, moments::Moments};
use crate::{
    graph::{Graph, Patch},
    masks,
    onnx::{
        self,
        proto::{AttributeProto, ModelProto, NodeProto},
        tensor::from_tensor,
    },
    tensor::{DType, Tensor},
};

/// A pruned model that also measures a layer.
pub(super) struct Probe {
    /// The model, with the measuring nodes at its end.
    pub model: ModelProto,
    /// What it returns: errors `[positions, features]`, then, if the layer's entries are measured, `XᵀX` and `XᵀE`.
    pub outputs: Vec<String>,
    rows: String,
    reads: String,
    ones: String,
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

impl Probe {
    /// Extends `pruned`, whose graph is `graph`. `describe` gives the type and the number of axes of a
    /// value. `None` where the layer is gone.
    pub fn new(
        pruned: &ModelProto,
        graph: &Graph,
        layer: &Layer,
        entries: bool,
        describe: impl Fn(&str) -> Option<(DType, usize)>,
    ) -> Option<Self> {
        let mut build = Builder { graph, patch: Patch::default() };
        let node = graph.node(graph.producer(graph.find(&layer.result)?)?);
        let rows = build.input("rows", DType::I64, 1);
        let target = build.input("target", DType::F32, 2);
        let (reads, ones) = (build.name("reads"), build.name("ones"));
        let (waypoint, feature) = &layer.waypoint;
        let found = build.matrix(waypoint, describe(waypoint)?.1, *feature, layer.gain.len());
        let found = build.float(&found, &rows);
        let errors = build.node("Sub", &[&target, &found], Vec::new());
        let mut outputs = vec![errors.clone()];
        if entries {
            build.patch.input(masks::value_info(&reads, DType::I64, 1));
            build.patch.input(masks::value_info(&ones, DType::F32, 3));
            let operand = &graph.value(node.inputs.get(layer.operand.0).copied().flatten()?).name;
            let linear = &layer.linear;
            let (groups, inner) = (linear.groups, layer.entries / linear.taps());
            let (dtype, rank) = describe(operand)?;
            let mut x = build.matrix(operand, rank, layer.operand.1, groups * inner);
            if linear.window.is_some() {
                // Windows read zeros beyond the edge: one row more.
                let zeros = Tensor::F32(ArrayD::zeros(IxDyn(&[1, groups * inner]))).cast_float(dtype)?;
                let zeros = build.constant("zeros", &zeros);
                x = build.node("Concat", &[&x, &zeros], vec![onnx::int_attribute("axis", 0)]);
            }
            let x = build.float(&x, &reads);
            let x = build.grouped(&x, &[linear.taps(), groups, inner], &[2, 0, 1, 3], layer.entries);
            let x = build.node("Concat", &[&x, &ones], vec![onnx::int_attribute("axis", 2)]);
            let features = layer.gain.len() / groups;
            let e = build.grouped(&errors, &[1, groups, features], &[2, 0, 1, 3], features);
            let xt = build.transpose(&x, &[0, 2, 1]);
            outputs.push(build.node("MatMul", &[&xt, &x], Vec::new()));
            outputs.push(build.node("MatMul", &[&xt, &e], Vec::new()));
        }
        build.patch.only_exposed();
        outputs.iter().for_each(|name| build.patch.expose(name));
        Some(Self { model: build.patch.apply(pruned), outputs, rows, reads, ones, target })
    }

    /// What to feed besides the model's own inputs.
    pub fn feed(&self, layer: &Layer, chosen: &Positions) -> Vec<(String, Tensor)> {
        let rows: Vec<i64> = chosen.rows.iter().map(|r| *r as i64).collect();
        let mut feed = vec![
            (self.rows.clone(), Tensor::ints(&rows)),
            (self.target.clone(), Tensor::F32(chosen.target.clone().into_dyn())),
        ];
        if self.outputs.len() > 1 {
            let reads = reads(layer, &chosen.rows);
            let ones = ArrayD::ones(IxDyn(&[layer.linear.groups, rows.len(), 1]));
            feed.push((self.reads.clone(), Tensor::ints(&reads)));
            feed.push((self.ones.clone(), Tensor::F32(ones)));
        }
        feed
    }

    /// Adds what a run returned.
    pub fn collect(&self, results: &[Tensor], moments: &mut Moments) -> Option<()> {
        let views: Vec<_> = results.iter().map(Tensor::view_f32).collect::<Option<_>>()?;
        let errors: ArrayView2<'_, f32> = views.first()?.view().into_dimensionality::<Ix2>().ok()?;
        match views.as_slice() {
            [_, gram, cross] => {
                let gram: ArrayView3<'_, f32> = gram.view().into_dimensionality::<Ix3>().ok()?;
                moments.add_products(gram, cross.view().into_dimensionality::<Ix3>().ok()?, errors);
            }
            _ => moments.add_errors(errors),
        }
        Some(())
    }
}

/// The operand's positions that each of `rows` reads, taps innermost; the last, which is zero, stands for padding.
fn reads(layer: &Layer, rows: &[usize]) -> Vec<i64> {
    let Some(window) = &layer.linear.window else { return rows.iter().map(|r| *r as i64).collect() };
    let (from, to) = (window.operand.iter().product::<usize>(), window.result.iter().product::<usize>());
    let taps = layer.linear.taps();
    let read = |row: usize, tap: usize| {
        let (sample, position) = (row / to.max(1), row % to.max(1));
        window.read(position, tap).map_or(-1, |p| (sample * from + p) as i64)
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

/// Adds nodes at the end of a graph.
struct Builder<'a> {
    graph: &'a Graph,
    patch: Patch,
}

impl Builder<'_> {
    fn name(&mut self, hint: &str) -> String {
        self.patch.fresh(self.graph, &format!("probe_{hint}"))
    }

    fn input(&mut self, hint: &str, dtype: DType, rank: usize) -> String {
        let name = self.name(hint);
        self.patch.input(masks::value_info(&name, dtype, rank));
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let name = self.name(op);
        self.patch.append(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(name.clone()),
            input: inputs.iter().map(|i| (*i).to_owned()).collect(),
            output: vec![name.clone()],
            attribute: attributes,
            ..Default::default()
        });
        name
    }

    fn constant(&mut self, hint: &str, tensor: &Tensor) -> String {
        let name = self.name(hint);
        self.patch.constant(from_tensor(&name, tensor));
        name
    }

    fn transpose(&mut self, x: &str, order: &[usize]) -> String {
        if order.is_sorted() {
            return x.to_owned();
        }
        let order: Vec<i64> = order.iter().map(|a| *a as i64).collect();
        self.node("Transpose", &[x], vec![onnx::ints_attribute("perm", &order)])
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.constant("shape", &Tensor::ints(shape));
        self.node("Reshape", &[x, &shape], Vec::new())
    }

    /// `[positions, features]` of a value.
    fn matrix(&mut self, x: &str, rank: usize, feature: usize, features: usize) -> String {
        let order: Vec<usize> = (0..rank).filter(|a| *a != feature).chain([feature]).collect();
        let moved = self.transpose(x, &order);
        self.reshape(&moved, &[-1, features as i64])
    }

    /// Rows of a matrix, in float32.
    fn float(&mut self, x: &str, rows: &str) -> String {
        let gathered = self.node("Gather", &[x, rows], vec![onnx::int_attribute("axis", 0)]);
        self.node("Cast", &[&gathered], vec![onnx::int_attribute("to", DType::F32.onnx().into())])
    }

    /// `[groups, positions, width]` of rows whose elements have the axes `inner` behind the positions.
    fn grouped(&mut self, x: &str, inner: &[usize; 3], order: &[usize; 4], width: usize) -> String {
        let shape: Vec<i64> = std::iter::once(-1).chain(inner.iter().map(|n| *n as i64)).collect();
        let x = self.reshape(x, &shape);
        let x = self.transpose(&x, order);
        let groups = inner[1] as i64;
        self.reshape(&x, &[groups, -1, width as i64])
    }
}
