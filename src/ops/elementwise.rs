//! Operators that work on each element by itself, broadcasting their operands against each other: activations, arithmetic,
//! comparisons, Where, Clip, Dropout and the like.

use ndarray::ArrayD;

use super::{NodeTyper, NodeView, Operator, SizeFlow, linear::uniform};
use crate::widths::Reason;

/// Any elementwise operator. Scalars such as Clip's bounds or Dropout's ratio are operands like all others.
pub(super) struct Elementwise;

impl Operator for Elementwise {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }
}

/// Add and Sum.
pub(super) struct Add;

impl Operator for Add {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }

    fn adds(&self) -> bool {
        true
    }

    fn gain(&self, _node: &NodeView<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(1.0))
    }
}

/// Sub.
pub(super) struct Sub;

impl Operator for Sub {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }

    fn gain(&self, _node: &NodeView<'_>, slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(if slot == 0 { 1.0 } else { -1.0 }))
    }
}

/// Mul.
pub(super) struct Mul;

impl Operator for Mul {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }

    fn gain(&self, node: &NodeView<'_>, slot: usize) -> Option<ArrayD<f64>> {
        node.constant(1 - slot)
    }
}

/// Div.
pub(super) struct Div;

impl Operator for Div {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }

    fn gain(&self, node: &NodeView<'_>, slot: usize) -> Option<ArrayD<f64>> {
        let divisor = if slot == 0 { node.constant(1)? } else { return None };
        Some(divisor.mapv(f64::recip))
    }
}

/// Identity and Cast: the same elements under another name or type.
pub(super) struct Rename;

impl Operator for Rename {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.pass()
    }

    fn gain(&self, _node: &NodeView<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(1.0))
    }
}

fn relate(node: &mut NodeTyper<'_>) -> Result<(), Reason> {
    let present: Vec<usize> = (0..node.input_count()).filter(|slot| node.has(*slot)).collect();
    let axes = node.broadcast(&present)?;
    for slot in 0..node.output_count() {
        node.set(slot, axes.clone());
    }
    Ok(())
}
