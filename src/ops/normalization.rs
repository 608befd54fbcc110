//! Normalisations. Statistics that span an axis pin it; scales and biases carry their channel's width.

use ndarray::ArrayD;

use super::{EditError, NodeEditor, NodeTyper, NodeView, Operator};
use crate::widths::Reason;

/// LayerNormalization and RMSNormalization: statistics over the axes from `axis` on.
pub(super) struct LayerNormalization;

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

    fn gain(&self, node: &NodeView<'_>, slot: usize) -> Option<ArrayD<f64>> {
        let (rank, epsilon) = (node.shape(0)?.len(), f64::from(node.float("epsilon").unwrap_or(1e-5)));
        let (scale, variance) = if slot == 0 { (node.constant(1)?, node.constant(4)?) } else { return None };
        if scale.shape() != variance.shape() || rank < 2 {
            return None;
        }
        let gain = scale / variance.mapv(|v| (v + epsilon).sqrt());
        let shape: Vec<usize> = std::iter::once(gain.len()).chain(vec![1; rank - 2]).collect();
        gain.into_shape_with_order(shape).ok()
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
}
