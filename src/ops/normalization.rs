//! Normalisations. Statistics that span an axis pin it; scales and biases carry their channel's width.

use super::schema::{OpSchema, OperatorForm, float, onnx, slots};
use ndarray::ArrayD;

use super::{AxisFlow, EditError, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper, Operator};
use crate::{
    graph::Expr,
    widths::{PinReason, SlotAxis},
};

slots! {
    layer:
    X = float("X"),
    SCALE = float("Scale"),
    SHIFT = float("B").optional(),
}

slots! {
    rms:
    X = float("X"),
    SCALE = float("scale"),
}

slots! {
    batch:
    X = float("X"),
    SCALE = float("scale"),
    SHIFT = float("B"),
    MEAN = float("input_mean"),
    VARIANCE = float("input_var"),
}

slots! {
    channels:
    X = float("input"),
    SCALE = float("scale"),
    SHIFT = float("B"),
}

slots! {
    groups:
    X = float("X"),
    SCALE = float("scale"),
    SHIFT = float("bias"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("BatchNormalization", &[1, 6, 7, 9, 14, 15], &BatchNormalization).reads(batch::ALL).makes(&[
        float("Y"),
        float("running_mean").optional(),
        float("running_var").optional(),
        float("saved_mean").optional().until(13),
        float("saved_var").optional().until(13),
    ]),
    onnx("GroupNormalization", &[18, 21], &GroupNormalization).reads(groups::ALL).makes(&[float("Y")]),
    onnx("InstanceNormalization", &[1, 6, 22], &InstanceNormalization).reads(channels::ALL).makes(&[float("output")]),
    onnx("LRN", &[1, 13], &Lrn).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("LayerNormalization", &[17], &LayerNormalization::Layer).reads(layer::ALL)
        .makes(&[float("Y"), float("Mean").optional(), float("InvStdDev").optional()])
        .forms(&[OperatorForm::of(""), OperatorForm::of("with its statistics")]),
    onnx("LpNormalization", &[1, 22], &LpNormalization).reads(&[float("input")]).makes(&[float("output")]),
    onnx("MeanVarianceNormalization", &[9, 13], &MeanVariance).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("RMSNormalization", &[23], &LayerNormalization::RootMeanSquare).reads(rms::ALL).makes(&[float("Y")]),
    onnx("SimplifiedLayerNormalization", &[1], &LayerNormalization::RootMeanSquare).reads(rms::ALL)
        .makes(&[float("Y"), float("inv_std_var").optional()]),
];

/// LayerNormalization and RMSNormalization: statistics over the axes from `axis` on.
pub(super) enum LayerNormalization {
    /// By mean and standard deviation.
    Layer,
    /// By the root mean square.
    RootMeanSquare,
}

impl Operator for LayerNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(layer::X)?;
        let first = node.axis(node.int("axis").unwrap_or(-1), x.len())?;
        for &axis in &x[first..] {
            node.pin(axis, PinReason::Normalised);
        }
        let present: Vec<usize> = (0..node.input_count()).filter(|slot| node.has(*slot)).collect();
        let axes = node.broadcast(&present)?;
        node.set(0, axes.clone());
        // Mean and inverse deviation keep the axes, with extent one where the statistics ran.
        for slot in 1..node.output_count() {
            let statistics =
                axes[..first].iter().copied().chain(axes[first..].iter().map(|_| crate::widths::Width::ONE));
            node.set(slot, statistics.collect());
        }
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let first = node.axis(node.int("axis").unwrap_or(-1), node.shape(layer::X).ok()?.len()).ok()?;
        if axis >= first { None } else { AxisFlow::broadcast(node, slot, axis) }
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (x, rank) = (node.x(layer::X)?, node.shape(layer::X)?.len());
        let first = node.axis(node.int("axis").unwrap_or(-1), rank)?;
        let axes: Vec<usize> = (first..rank).collect();
        let norm = Norm::of(x, &axes, matches!(self, Self::Layer), epsilon(node));
        let (mean, inverse) = match self {
            Self::Layer => (node.cotangent(1), node.cotangent(2)),
            Self::RootMeanSquare => (None, node.cotangent(1)),
        };
        let from_result = match node.cotangent(0) {
            Some(g) => Some(norm.gradient(g * node.x(layer::SCALE)?)),
            None => None,
        };
        let parts = [
            from_result,
            mean.map(|g| norm.mean_gradient(x, g)),
            inverse.map(|g| norm.inverse_gradient(x, g)),
        ];
        if let Some(sum) = parts.into_iter().flatten().reduce(|a, b| a + b) {
            node.set_cotangent(layer::X, sum);
        }
        if node.needs(layer::SCALE) {
            node.set_from_result_shape(layer::SCALE, node.g()? * norm.normalised)?;
        }
        if node.needs(layer::SHIFT) {
            node.set_from_result_shape(layer::SHIFT, node.g()?)?;
        }
        Ok(())
    }
}

/// BatchNormalization in inference: a scale and a shift per channel.
pub(super) struct BatchNormalization;

impl Operator for BatchNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        if let Some(what) = beyond_inference(node) {
            return Err(node.unsupported(what));
        }
        per_channel(node, &[batch::SCALE, batch::SHIFT, batch::MEAN, batch::VARIANCE])
    }

    fn axis_flow(&self, _node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        match (slot, axis) {
            (_, 1) => None,
            (batch::X, _) => Some(AxisFlow::Along(axis)),
            _ => Some(AxisFlow::Same),
        }
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        if let Some(what) = beyond_inference(node) {
            return Err(node.unsupported(what));
        }
        let (g, rank) = (node.g()?, node.shape(batch::X)?.len());
        let deviation = (node.x(batch::VARIANCE)? + epsilon(node)).map("Sqrt");
        node.set_cotangent(batch::X, g * per_channel_shape(node.x(batch::SCALE)? / deviation, rank));
        if node.needs(batch::SCALE) {
            let centred = node.x(batch::X)? - per_channel_shape(node.x(batch::MEAN)?, rank);
            node.set_cotangent(batch::SCALE, over_channels(g * centred, rank) / deviation);
        }
        if node.needs(batch::SHIFT) {
            node.set_cotangent(batch::SHIFT, over_channels(g, rank));
        }
        Ok(())
    }

    fn gain(&self, node: &NodeCx<'_>, slot: usize) -> Option<ArrayD<f64>> {
        let (rank, epsilon) =
            (node.shape(batch::X).ok()?.len(), f64::from(node.float("epsilon").unwrap_or(1e-5)));
        let (scale, variance) = if slot == batch::X {
            (node.numbers(batch::SCALE)?, node.numbers(batch::VARIANCE)?)
        } else {
            return None;
        };
        if scale.shape() != variance.shape() || rank < 2 {
            return None;
        }
        let gain = scale / variance.mapv(|v| (v + epsilon).sqrt());
        let shape: Vec<usize> = std::iter::once(gain.len()).chain(vec![1; rank - 2]).collect();
        gain.into_shape_with_order(shape).ok()
    }
}

/// What of a [`BatchNormalization`] is not a scale and a shift per channel. Before operator set 14 it trains when it gives
/// its statistics, and before 9 it may have statistics for each position.
fn beyond_inference(node: &NodeCx<'_>) -> Option<&'static str> {
    let trains =
        node.int("training_mode").unwrap_or(0) != 0 || node.outputs.iter().skip(1).any(Option::is_some);
    let positions = node.int("spatial") == Some(0) && node.shape(batch::X).is_ok_and(|x| x.len() > 2);
    trains.then_some("training mode").or(positions.then_some("statistics for each position"))
}

/// InstanceNormalization: statistics over the positions of each channel.
pub(super) struct InstanceNormalization;

impl Operator for InstanceNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        for axis in node.axes(channels::X)?.into_iter().skip(2) {
            node.pin(axis, PinReason::Normalised);
        }
        per_channel(node, &[channels::SCALE, channels::SHIFT])
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (g, rank) = (node.g()?, node.shape(channels::X)?.len());
        let axes: Vec<usize> = (2..rank).collect();
        let norm = Norm::of(node.x(channels::X)?, &axes, true, epsilon(node));
        node.set_cotangent(channels::X, norm.gradient(g * per_channel_shape(node.x(channels::SCALE)?, rank)));
        if node.needs(channels::SCALE) {
            node.set_cotangent(channels::SCALE, over_channels(g * norm.normalised, rank));
        }
        if node.needs(channels::SHIFT) {
            node.set_cotangent(channels::SHIFT, over_channels(g, rank));
        }
        Ok(())
    }
}

fn per_channel(node: &mut NodeTyper<'_>, vectors: &[usize]) -> Result<(), PinReason> {
    let x = node.axes(0)?;
    let Some(&channels) = x.get(1) else { return Err(node.unsupported("operand without a channel axis")) };
    for &slot in vectors {
        for axis in node.axes(slot)? {
            node.unify(axis, channels);
        }
    }
    node.set(0, x);
    Ok(())
}

/// GroupNormalization: statistics over the channels and positions of each group, so that only whole groups can go.
pub(super) struct GroupNormalization;

impl Operator for GroupNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(groups::X)?;
        let groups = node.int("num_groups").unwrap_or(0);
        let Some(&channels) = x.get(1) else {
            return Err(node.unsupported("operand without a channel axis"));
        };
        let groups =
            usize::try_from(groups).ok().filter(|g| *g > 0 && node.size(channels).is_multiple_of(*g));
        let Some(groups) = groups else {
            return Err(node.unsupported("channels that are no multiple of the group count"));
        };
        let per_group = node.size(channels) / groups;
        let parts = node.split_product(channels, &[groups, per_group]);
        node.pin(parts[1], PinReason::Normalised);
        for &axis in &x[2..] {
            node.pin(axis, PinReason::Normalised);
        }
        for slot in [groups::SCALE, groups::SHIFT] {
            // A scale per group up to operator set 20, per channel from 21 on.
            for axis in node.axes(slot)? {
                let whole = if node.size(axis) == node.size(channels) { channels } else { parts[0] };
                node.unify(axis, whole);
            }
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (x, g, shape) = (node.x(groups::X)?, node.g()?, node.shape(groups::X)?);
        let groups = node.int("num_groups").unwrap_or(1).max(1);
        let grouped = [0, groups, -1];
        let norm = Norm::of(x.reshape(&grouped), &[2], true, epsilon(node));
        // A scale per group up to operator set 20, per channel from 21 on: either way there is one per entry of axis 1.
        let per_group = node.shape(groups::SCALE)?.first() != shape.get(1);
        let rank = if per_group { 3 } else { shape.len() };
        let (g, normalised) = if per_group {
            (g.reshape(&grouped), norm.normalised)
        } else {
            (g, norm.normalised.reshape_like(x))
        };
        let scaled = g * per_channel_shape(node.x(groups::SCALE)?, rank);
        node.set_cotangent(groups::X, norm.gradient(scaled.reshape(&grouped)).reshape_like(x));
        if node.needs(groups::SCALE) {
            node.set_cotangent(groups::SCALE, over_channels(g * normalised, rank));
        }
        if node.needs(groups::SHIFT) {
            node.set_cotangent(groups::SHIFT, over_channels(g, rank));
        }
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let Some(&channels) = node.axes(groups::X).get(1) else { return Ok(()) };
        let (old, new) = (node.old_size(channels), node.new_size(channels));
        let groups = node.int("num_groups").unwrap_or(1) as usize;
        if old != new {
            node.set_int("num_groups", (new * groups / old) as i64);
        }
        Ok(())
    }
}

/// LpNormalization: divides by a norm along one axis. Zeros add nothing to a norm, so entries can go.
pub(super) struct LpNormalization;

impl Operator for LpNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let axis = node.axis(node.int("axis").unwrap_or(-1), x.len())?;
        node.contraction(x[axis], SlotAxis::new(0, axis), None, None);
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (g, x, y) = (node.g()?, node.x(0)?, node.y(0)?);
        let axis = node.axis(node.int("axis").unwrap_or(-1), node.shape(0)?.len())?;
        let along = (g * y).sum(&[axis], true);
        let cotangent = match node.int("p").unwrap_or(2) {
            1 => (g - x.map("Sign") * along) / x.map("Abs").sum(&[axis], true),
            _ => (g - y * along) / (x * x).sum(&[axis], true).map("Sqrt"),
        };
        node.set_cotangent(0, cotangent);
        Ok(())
    }
}

/// LRN: divides by a sum over neighbouring channels.
pub(super) struct Lrn;

impl Operator for Lrn {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        if let Some(&channels) = x.get(1) {
            node.pin(channels, PinReason::Normalised);
        }
        node.set(0, x);
        Ok(())
    }

    /// Of `y = x · d^-β` with `d = bias + α/size · Σ x²` over neighbours.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (g, x, shape) = (node.g()?, node.x(0)?, node.shape(0)?);
        let number = |name, default| node.float(name).unwrap_or(default);
        let (alpha, beta, bias) = (number("alpha", 1e-4), number("beta", 0.75), number("bias", 1.0));
        let size = node.int("size").unwrap_or(1).max(1);
        let channels = shape.get(1).copied().unwrap_or(0) as i64;
        // Where a channel lies in the windows of the others.
        let sees = |of: i64, other: i64| (-((size - 1) / 2)..=size / 2).contains(&(other - of));
        let windows = |transposed: bool| -> Vec<Vec<f32>> {
            let entry = |i, j| f32::from(if transposed { sees(i, j) } else { sees(j, i) });
            (0..channels).map(|i| (0..channels).map(|j| entry(i, j)).collect()).collect()
        };
        let scale = alpha / size as f32;
        let d = bias + scale * (x * x).apply_matrix(1, shape.len(), &windows(false));
        let shared = (g * x * d.powf(-beta - 1.0)).apply_matrix(1, shape.len(), &windows(true));
        node.set_cotangent(0, g * d.powf(-beta) - (2.0 * scale * beta) * x * shared);
        Ok(())
    }
}

/// MeanVarianceNormalization: statistics over the listed axes.
pub(super) struct MeanVariance;

impl Operator for MeanVariance {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        for axis in node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]) {
            let axis = node.axis(axis, x.len())?;
            node.pin(x[axis], PinReason::Normalised);
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let rank = node.shape(0)?.len();
        let axes = node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
        let axes = axes.into_iter().map(|a| node.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        // The epsilon of the function that defines the operator.
        node.set_cotangent(0, Norm::of(node.x(0)?, &axes, true, 1e-9).gradient(node.g()?));
        Ok(())
    }
}

/// Division by the standard deviation (or root mean square) over some axes.
pub(super) struct Norm<'a> {
    normalised: Expr<'a>,
    deviation: Expr<'a>,
    axes: Vec<usize>,
    centred: bool,
}

impl<'a> Norm<'a> {
    /// The mean is subtracted first if `centred`.
    pub fn of(x: Expr<'a>, axes: &[usize], centred: bool, epsilon: f32) -> Self {
        let x = if centred { x - x.mean(axes) } else { x };
        let deviation = ((x * x).mean(axes) + epsilon).map("Sqrt");
        Self { normalised: x / deviation, deviation, axes: axes.to_vec(), centred }
    }

    /// The cotangent of `x`, given that of its normalised value `n = (x − mean) / σ`:
    /// `(g − mean(g) − n · mean(g · n)) / σ`, where the root mean square leaves `mean(g)` out.
    pub fn gradient(&self, g: Expr<'a>) -> Expr<'a> {
        let along = g - self.normalised * (g * self.normalised).mean(&self.axes);
        (if self.centred { along - g.mean(&self.axes) } else { along }) / self.deviation
    }

    /// The cotangent of `x`, given that of its mean: each of `count` entries has an equal share in it.
    fn mean_gradient(&self, x: Expr<'a>, g: Expr<'a>) -> Expr<'a> {
        (g.cast(x.dtype()) / self.entries(x)).expand_like(x)
    }

    /// The cotangent of `x`, given that of `1 / σ`: as `dσ/dx = n / count`, it is `-g · n / (count · σ²)`.
    fn inverse_gradient(&self, x: Expr<'a>, g: Expr<'a>) -> Expr<'a> {
        -(g.cast(x.dtype()) * self.normalised / (self.entries(x) * self.deviation * self.deviation))
    }

    /// How many entries the statistics run over.
    fn entries(&self, x: Expr<'a>) -> Expr<'a> {
        x.num_elements() / self.deviation.num_elements()
    }
}

fn epsilon(node: &NodeGradient<'_>) -> f32 {
    node.float("epsilon").unwrap_or(1e-5)
}

/// A vector of one number per channel as a tensor that broadcasts against `[N, C, …]`.
fn per_channel_shape<'a>(vector: Expr<'a>, rank: usize) -> Expr<'a> {
    vector.unsqueeze(&(1..rank.saturating_sub(1)).collect::<Vec<_>>())
}

/// Sums `[N, C, …]` into one number per channel.
fn over_channels<'a>(x: Expr<'a>, rank: usize) -> Expr<'a> {
    x.sum(&(0..rank).filter(|axis| *axis != 1).collect::<Vec<_>>(), false)
}
