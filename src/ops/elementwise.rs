//! Operators that work on each element by itself, broadcasting their operands against each other: activations, arithmetic,
//! comparisons, Where, Clip, Dropout and the like.

use super::{NodeTyper, Operator, SizeFlow};
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
}

fn relate(node: &mut NodeTyper<'_>) -> Result<(), Reason> {
    let present: Vec<usize> = (0..node.input_count()).filter(|slot| node.has(*slot)).collect();
    let axes = node.broadcast(&present)?;
    for slot in 0..node.output_count() {
        node.set(slot, axes.clone());
    }
    Ok(())
}
