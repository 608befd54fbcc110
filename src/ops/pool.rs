//! Pooling: per channel, over positions.

use super::{NodeTyper, Operator};
use crate::widths::{Reason, Width};

/// Pooling by a sliding window.
pub(super) struct Pool;

impl Operator for Pool {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        let shape = node.result_shape(0)?;
        if x.len() < 3 || shape.len() != x.len() {
            return Err(node.form("operand of unexpected rank"));
        }
        let mut result = x[..2].to_vec();
        for (&axis, &size) in x[2..].iter().zip(&shape[2..]) {
            node.pin(axis, Reason::Spatial);
            let axis = node.fixed(size, Reason::Spatial);
            result.push(axis);
        }
        for slot in 0..node.output_count() {
            node.set(slot, result.clone());
        }
        Ok(())
    }
}

/// Pooling of all positions into one.
pub(super) struct GlobalPool;

impl Operator for GlobalPool {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        if x.len() < 2 {
            return Err(node.form("operand of unexpected rank"));
        }
        for &axis in &x[2..] {
            node.pin(axis, Reason::Spatial);
        }
        let result = x.iter().enumerate().map(|(i, &axis)| if i < 2 { axis } else { Width::ONE });
        node.set(0, result.collect());
        Ok(())
    }
}
