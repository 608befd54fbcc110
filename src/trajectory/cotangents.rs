//! Random cotangents on the trajectory.
//!
//! To leading order the trajectory's loss is quadratic in what changes: `δᵀ Q δ` at each waypoint and output. A random
//! cotangent `r` with `E[r rᵀ] = Q` makes `E[⟨r, δ⟩²]` that loss. Those drawn here have the covariance of the distances of
//! `distance.rs`, and are independent of each other, so that all can be pulled back at once.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Output, OutputKind, Padding, Waypoint};
use crate::{
    graph::{Expr, Facts, Graph, Patch, Tail, ValueId},
    numbers::DEAD,
    onnx::build::value_info,
    tensor::{DType, Tensor},
    widths::{PinReason, Widths},
};

/// Summands of a random matrix `Z = Σ u vᵀ`. One would do for `E[vec Z vec Zᵀ] = I`; more make its fourth moments, and so
/// the spread of the estimate, close to those of a matrix of independent entries, at a cost linear in the tokens.
const RANK: usize = 4;

/// Floor of norms and probabilities that are divided by.
pub(super) const TINY: f32 = 1e-12;

/// Random cotangents of a model, and the graph inputs that make them random.
pub struct RandomCotangents<'t> {
    /// Values of the model and their cotangents.
    pub seeds: Vec<(ValueId, Expr<'t>)>,
    signs: Vec<Signs>,
}

/// A graph input of random signs, `[samples, rows, columns]`.
struct Signs {
    name: String,
    rows: usize,
    columns: usize,
    /// What they are multiplied by.
    scale: f32,
    /// Whether columns are the positions of the padding mask, and padded ones zero.
    padded: Option<Positions>,
}

/// How the real positions count.
#[derive(Clone, Copy, PartialEq)]
enum Positions {
    /// Padded ones are left out.
    Masked,
    /// And the others are divided by their number.
    Averaged,
}

/// What a probe is drawn for.
pub struct Trajectory<'a> {
    /// The model's graph.
    pub graph: &'a Graph,
    /// What one run showed.
    pub facts: &'a Facts,
    /// The width of every axis.
    pub widths: &'a Widths,
    /// The waypoints.
    pub waypoints: &'a [Waypoint],
    /// The outputs.
    pub outputs: &'a [Output],
    /// Weight of the outputs' distance against the waypoints'.
    pub lambda: f64,
    /// The padding mask, if the model takes one.
    pub padding: Option<&'a Padding>,
}

impl Trajectory<'_> {
    /// Appends to `tail` the formulas of a random cotangent for every waypoint and output; what is random about them become
    /// inputs of `patch`.
    pub fn probe<'t>(&self, tail: &'t Tail, patch: &mut Patch) -> RandomCotangents<'t> {
        let mut probe = RandomCotangents { seeds: Vec::new(), signs: Vec::new() };
        let samples = |value| self.widths.samples_axis(self.widths.value(value)?);
        for waypoint in self.waypoints {
            let sample = match self.widths.batch {
                // What has no samples, such as embeddings of distances, is the same for all of them.
                Some(_) => samples(waypoint.value),
                None => Some(0),
            };
            if let Some(layout) = sample.and_then(|s| self.layout(waypoint.value, s, waypoint.feature)) {
                let seed = self.manifold(&layout, tail, patch, &mut probe);
                probe.seeds.push((waypoint.value, seed));
            }
        }
        let dynamic = self.graph.dynamic();
        for output in self.outputs {
            let sample = match self.widths.batch {
                Some(_) => samples(output.value).or_else(|| self.first_axis(output.value, &dynamic)),
                None => Some(0),
            };
            if let Some(layout) = sample.and_then(|s| self.layout(output.value, s, output.classes)) {
                let seed = self.output(output.kind, &layout, tail, patch, &mut probe);
                probe.seeds.push((output.value, seed));
            }
        }
        probe
    }

    /// The gradient of `⟨Z, T Tᵀ⟩ / tokens`, where `T` are the tokens at unit length and `Z` is random: of the manifold
    /// distance (OPTIN, equation 2) to leading order.
    fn manifold<'t>(
        &self,
        layout: &Layout,
        tail: &'t Tail,
        patch: &mut Patch,
        probe: &mut RandomCotangents<'t>,
    ) -> Expr<'t> {
        let tokens = layout.tokens(tail);
        let norm = (tokens * tokens).sum(&[2], true).map("Sqrt");
        let live = norm.greater(norm.mean(&[1]) * DEAD).cast(layout.dtype);
        // A token next to zero has no direction; whatever it is divided by, it is left out.
        let norm = norm + TINY + (1.0 - live);
        let unit = tokens / norm * live;
        let padded = layout.padded;
        let scale = 1.0 / (RANK as f32).sqrt() / if padded { 1.0 } else { layout.positions as f32 };
        let left = padded.then_some(Positions::Averaged);
        let u = Signs::new(RANK, layout.positions, scale, left);
        let u = self.signs(tail, patch, probe, u).cast(layout.dtype);
        let right = padded.then_some(Positions::Masked);
        let v = Signs::new(RANK, layout.positions, 1.0, right);
        let v = self.signs(tail, patch, probe, v).cast(layout.dtype);
        let back = |signs: Expr<'t>, sums: Expr<'t>| signs.matrix_transpose(3).matmul(sums);
        let g = back(u, v.matmul(unit)) + back(v, u.matmul(unit));
        layout.restore((g - unit * (unit * g).sum(&[2], true)) / norm * live, tail)
    }

    /// Of an output's distance: the divergence and the relative error of class scores, or the relative error of features.
    fn output<'t>(
        &self,
        kind: OutputKind,
        layout: &Layout,
        tail: &'t Tail,
        patch: &mut Patch,
        probe: &mut RandomCotangents<'t>,
    ) -> Expr<'t> {
        let z = layout.tokens(tail);
        let mut xi = |scale: f64| {
            let rows = layout.padded.then_some(Positions::Masked);
            let a = self.signs(tail, patch, probe, Signs::new(1, layout.positions, scale as f32, rows));
            let b = self.signs(tail, patch, probe, Signs::new(1, layout.features, 1.0, None));
            a.cast(layout.dtype).matrix_transpose(3) * b.cast(layout.dtype)
        };
        // The divergence is half the quadratic form, and a mean over rows.
        let divergence = (self.lambda / 2.0 / layout.positions as f64).sqrt();
        let relative = self.lambda.sqrt();
        let cotangent = match kind {
            OutputKind::Logits => divergence_of_logits(z, xi(divergence)) + relative_to_mean(z, xi(relative)),
            OutputKind::Probabilities => {
                let p = z + TINY;
                xi(divergence) / p.map("Sqrt") + relative_to_mean(p.map("Log"), xi(relative)) / p
            }
            OutputKind::Embedding => over_length(xi(relative), z, z.scalar(0.0)),
        };
        layout.restore(cotangent, tail)
    }

    /// The first axis of an output of which typing does not know what samples lead, if it seems to count them. Constants, tables
    /// of positions and what compares features have no samples.
    fn first_axis(&self, output: ValueId, dynamic: &[bool]) -> Option<usize> {
        let extent = *self.facts.get(output)?.shape.first()?;
        let axis = *self.widths.value(output)?.first()?;
        let counts = self.widths.table.pins(axis).any(|pin| pin.reason == PinReason::Counted);
        (extent == self.facts.samples && !counts && dynamic[output.index()]).then_some(0)
    }

    /// A random input.
    fn signs<'t>(
        &self,
        tail: &'t Tail,
        patch: &mut Patch,
        probe: &mut RandomCotangents<'t>,
        signs: Signs,
    ) -> Expr<'t> {
        let name = patch.fresh(self.graph, "signs");
        patch.input(value_info(&name, DType::F32, 3));
        let input = tail.value(&name, DType::F32);
        probe.signs.push(Signs { name, ..signs });
        input
    }

    /// How to see a value as `[samples, positions, features]`; `None` where its extents do not allow that.
    fn layout(&self, value: ValueId, sample: usize, feature: usize) -> Option<Layout> {
        let fact = self.facts.get(value)?;
        let axes = self.widths.value(value)?;
        let table = &self.widths.table;
        // What compares samples with each other belongs to none of them.
        let compares = |batch| axes.iter().filter(|axis| table.leads(**axis, batch)).count() > 1;
        if self.widths.batch.is_some_and(compares) {
            return None;
        }
        let features = *fact.shape.get(feature)?;
        let total: usize = fact.shape.iter().product();
        let per_sample = features * self.facts.samples.max(1);
        if per_sample == 0 || !total.is_multiple_of(per_sample) || (sample == feature && axes.len() > 1) {
            return None;
        }
        let mut order = vec![sample];
        order.extend((0..axes.len()).filter(|axis| *axis != sample && *axis != feature));
        if sample != feature {
            order.push(feature);
        }
        let positions = self.padding.and_then(|p| p.positions);
        let padded = positions.is_some_and(|p| axes.iter().any(|a| table.root(*a) == table.root(p)))
            && positions.is_some_and(|p| table.size(p) == total / per_sample);
        Some(Layout {
            name: self.graph.value(value).name.clone(),
            dtype: fact.dtype,
            order,
            positions: total / per_sample,
            features,
            padded,
        })
    }
}

/// `√p∘ξ − p (√pᵀξ)`, whose covariance `diag p − p pᵀ` is the Hessian of the Kullback-Leibler divergence.
fn divergence_of_logits<'t>(z: Expr<'t>, xi: Expr<'t>) -> Expr<'t> {
    let p = z.softmax(2);
    let weighted = p.map("Sqrt") * xi;
    weighted - p * weighted.sum(&[2], true)
}

/// The gradient of `⟨ξ, z − mean z⟩` over the length of `z − mean z`: logits are known up to a constant.
fn relative_to_mean<'t>(z: Expr<'t>, xi: Expr<'t>) -> Expr<'t> {
    let xi = over_length(xi, z - z.mean(&[2]), length(z) * DEAD);
    xi - xi.mean(&[2])
}

/// `ξ` over the length of `x`, sample by sample; zero where that is no more than `floor`.
fn over_length<'t>(xi: Expr<'t>, x: Expr<'t>, floor: Expr<'t>) -> Expr<'t> {
    let length = length(x);
    let live = length.greater(floor + TINY).cast(x.dtype());
    xi / (length + TINY + (1.0 - live)) * live
}

/// The length of a sample `[samples, positions, features]` as one vector.
fn length(x: Expr<'_>) -> Expr<'_> {
    (x * x).sum(&[1, 2], true).map("Sqrt")
}

impl RandomCotangents<'_> {
    /// Draws the random inputs for samples whose generators are `rngs`. `mask` holds, per sample, which positions are real.
    pub fn draw(&self, rngs: &mut [ChaCha8Rng], mask: Option<&[i64]>) -> Vec<(String, Tensor)> {
        self.signs.iter().filter_map(|signs| Some((signs.name.clone(), signs.draw(rngs, mask)?))).collect()
    }
}

impl Signs {
    fn new(rows: usize, columns: usize, scale: f32, padded: Option<Positions>) -> Self {
        Self { name: String::new(), rows, columns, scale, padded }
    }

    fn draw(&self, rngs: &mut [ChaCha8Rng], mask: Option<&[i64]>) -> Option<Tensor> {
        let (rows, columns) = (self.rows, self.columns);
        let mut values = Vec::with_capacity(rngs.len() * rows * columns);
        for (sample, rng) in rngs.iter_mut().enumerate() {
            let real = self
                .padded
                .and_then(|_| mask?.get(sample * columns..(sample + 1) * columns))
                .map(|mask| mask.iter().map(|m| *m != 0).collect::<Vec<_>>());
            let count = real.as_ref().map_or(columns, |r| r.iter().filter(|r| **r).count()).max(1);
            let averaged = self.padded == Some(Positions::Averaged);
            let scale = if averaged { self.scale / count as f32 } else { self.scale };
            let mut bits = 0;
            for i in 0..rows * columns {
                if i % 64 == 0 {
                    bits = rng.next_u64();
                }
                let sign = if bits & 1 == 0 { scale } else { -scale };
                bits >>= 1;
                let kept = real.as_ref().is_none_or(|real| real[i % columns]);
                values.push(if kept { sign } else { 0.0 });
            }
        }
        Tensor::f32(&[rngs.len(), rows, columns], values)
    }
}

/// A value as `[samples, positions, features]`.
struct Layout {
    name: String,
    dtype: DType,
    /// Its axes: the one that samples lead, the positions', the features'.
    order: Vec<usize>,
    positions: usize,
    features: usize,
    padded: bool,
}

impl Layout {
    fn ordered<'t>(&self, tail: &'t Tail) -> Expr<'t> {
        tail.value(&self.name, self.dtype).transpose(&self.order)
    }

    fn tokens<'t>(&self, tail: &'t Tail) -> Expr<'t> {
        self.ordered(tail).reshape(&[-1, self.positions as i64, self.features as i64])
    }

    fn restore<'t>(&self, cotangent: Expr<'t>, tail: &'t Tail) -> Expr<'t> {
        cotangent.reshape_like(self.ordered(tail)).transpose_back(&self.order)
    }
}
