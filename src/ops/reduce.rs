//! Reductions.

use super::{NodeTyper, Operator, SizeFlow};
use crate::widths::{Reason, Width};

/// Reductions to which a zero adds nothing (sums and norms): entries can go.
pub(super) struct Additive;

impl Operator for Additive {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        reduce(node, |node, width, axis| node.contract(width, (0, axis), None, None))
    }
}

/// Reductions that a removed entry would change even if it were zero: means, maxima, products.
pub(super) struct Statistic;

impl Operator for Statistic {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        reduce(node, |node, width, _| {
            let reason = Reason::Reduced(node.op_type().to_owned());
            node.pin(width, reason);
        })
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.reduce()
    }
}

fn reduce(
    node: &mut NodeTyper<'_>,
    mut end: impl FnMut(&mut NodeTyper<'_>, Width, usize),
) -> Result<(), Reason> {
    let x = node.axes(0)?;
    let listed = node.ints_or_operand("axes", 1).unwrap_or_default();
    let reduced: Vec<usize> = if listed.is_empty() && node.int("noop_with_empty_axes").unwrap_or(0) == 0 {
        (0..x.len()).collect()
    } else {
        listed.iter().map(|&a| node.axis(a, x.len())).collect::<Result<_, _>>()?
    };
    let keeps = node.int("keepdims").unwrap_or(1) != 0;
    let mut result = Vec::with_capacity(x.len());
    for (axis, &width) in x.iter().enumerate() {
        if !reduced.contains(&axis) {
            result.push(width);
            continue;
        }
        end(node, width, axis);
        if keeps {
            result.push(Width::ONE);
        }
    }
    node.set(0, result);
    Ok(())
}
