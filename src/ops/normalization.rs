//! Normalisations. Statistics that span an axis pin it; scales and biases carry their channel's width.

use super::{EditError, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator};
use crate::{graph::Expr, widths::Reason};

/// LayerNormalization and RMSNormalization: statistics over the axes from `axis` on.
pub(super) enum LayerNormalization {
    /// By mean and standard deviation.
    Layer,
    /// By the root mean square.
    RootMeanSquare,
}

impl Operator for LayerNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let first = node.axis(node.int("axis").unwrap_or(-1), x.len())?;
        for &axis in &x[first..] {
            node.pin(axis, Reason::Normalised);
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

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (x, shape) = (node.x(0)?, node.shape(0)?);
        let first = node.axis(node.int("axis").unwrap_or(-1), shape.len())?;
        let axes: Vec<usize> = (first..shape.len()).collect();
        let scaled = node.g()? * node.x(1)?;
        let norm =
            Norm { centred: matches!(self, Self::Layer), epsilon: node.float("epsilon").unwrap_or(1e-5) };
        node.give(0, norm.gradient(x, scaled, &axes));
        Ok(())
    }
}

/// BatchNormalization in inference: a scale and a shift per channel.
pub(super) struct BatchNormalization;

impl Operator for BatchNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        if node.int("training_mode").unwrap_or(0) != 0 {
            return Err(node.form("training mode"));
        }
        per_channel(node, 1..5)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let rank = node.shape(0)?.len();
        let epsilon = node.float("epsilon").unwrap_or(1e-5);
        let scale = node.x(1)? / (node.x(4)? + epsilon).map("Sqrt");
        node.give(0, node.g()? * per_channel_shape(scale, rank));
        Ok(())
    }
}

/// InstanceNormalization: statistics over the positions of each channel.
pub(super) struct InstanceNormalization;

impl Operator for InstanceNormalization {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        for axis in node.axes(0)?.into_iter().skip(2) {
            node.pin(axis, Reason::Normalised);
        }
        per_channel(node, 1..3)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let rank = node.shape(0)?.len();
        let axes: Vec<usize> = (2..rank).collect();
        let scaled = node.g()? * per_channel_shape(node.x(1)?, rank);
        let norm = Norm { centred: true, epsilon: node.float("epsilon").unwrap_or(1e-5) };
        node.give(0, norm.gradient(node.x(0)?, scaled, &axes));
        Ok(())
    }
}

fn per_channel(node: &mut NodeTyper<'_>, vectors: std::ops::Range<usize>) -> Result<(), Reason> {
    let x = node.axes(0)?;
    let Some(&channels) = x.get(1) else { return Err(node.form("operand without a channel axis")) };
    for slot in vectors {
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
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let groups = node.int("num_groups").unwrap_or(0);
        let Some(&channels) = x.get(1) else { return Err(node.form("operand without a channel axis")) };
        let groups =
            usize::try_from(groups).ok().filter(|g| *g > 0 && node.size(channels).is_multiple_of(*g));
        let Some(groups) = groups else {
            return Err(node.form("channels that are no multiple of the group count"));
        };
        let per_group = node.size(channels) / groups;
        let parts = node.split_product(channels, &[groups, per_group]);
        node.pin(parts[1], Reason::Normalised);
        for &axis in &x[2..] {
            node.pin(axis, Reason::Normalised);
        }
        for slot in 1..3 {
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
        let (x, shape) = (node.x(0)?, node.shape(0)?);
        let groups = node.int("num_groups").unwrap_or(1).max(1);
        let scale = node.x(1)?;
        // A scale per group up to operator set 20, per channel from 21 on.
        let per_group = node.shape(1)?.first().copied() == usize::try_from(groups).ok()
            && shape.get(1).copied() != usize::try_from(groups).ok();
        let grouped = [0, groups, -1];
        let scaled = match per_group {
            true => node.g()?.reshape(&grouped) * per_channel_shape(scale, 3),
            false => (node.g()? * per_channel_shape(scale, shape.len())).reshape(&grouped),
        };
        let norm = Norm { centred: true, epsilon: node.float("epsilon").unwrap_or(1e-5) };
        node.give(0, norm.gradient(x.reshape(&grouped), scaled, &[2]).reshape_like(x));
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let Some(&channels) = node.axes(0).get(1) else { return Ok(()) };
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
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let axis = node.axis(node.int("axis").unwrap_or(-1), x.len())?;
        node.contract(x[axis], (0, axis), None, None);
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
        node.give(0, cotangent);
        Ok(())
    }
}

/// Division by the standard deviation (or root mean square) over some axes.
struct Norm {
    /// Whether the mean is subtracted first.
    centred: bool,
    epsilon: f32,
}

impl Norm {
    /// The cotangent of `x`, given that of its normalised value `n = (x − mean) / σ`:
    /// `(g − mean(g) − n · mean(g · n)) / σ`, where the root mean square leaves `mean(g)` out.
    fn gradient<'a>(&self, x: Expr<'a>, g: Expr<'a>, axes: &[usize]) -> Expr<'a> {
        let x = if self.centred { x - x.mean(axes) } else { x };
        let deviation = ((x * x).mean(axes) + self.epsilon).map("Sqrt");
        let normalised = x / deviation;
        let along = g - normalised * (g * normalised).mean(axes);
        (if self.centred { along - g.mean(axes) } else { along }) / deviation
    }
}

/// A vector of one number per channel as a tensor that broadcasts against `[N, C, …]`.
fn per_channel_shape<'a>(vector: Expr<'a>, rank: usize) -> Expr<'a> {
    vector.unsqueeze(&(1..rank.saturating_sub(1)).collect::<Vec<_>>())
}
