//! QuantizeLinear and DequantizeLinear.

use super::{NodeTyper, Operator};
use crate::widths::{Reason, Width};

/// QuantizeLinear: each element by itself, by a scale and a zero point for the whole tensor or for each entry of one axis.
pub(super) struct Quantize;

impl Operator for Quantize {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }
}

/// DequantizeLinear: the way back. Of a constant, it is how the file stores a weight.
pub(super) struct Dequantize;

impl Operator for Dequantize {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn recasts(&self) -> bool {
        true
    }
}

fn relate(node: &mut NodeTyper<'_>) -> Result<(), Reason> {
    let x = node.axes(0)?;
    for slot in (1..3).filter(|slot| node.has(*slot)).collect::<Vec<_>>() {
        match *node.axes(slot)?.as_slice() {
            [] | [Width::ONE] => {}
            [own] => {
                let axis = node.axis(node.int("axis").unwrap_or(1), x.len())?;
                node.unify(x[axis], own);
            }
            _ => return Err(node.form("a scale for each block")),
        }
    }
    node.set(0, x);
    Ok(())
}
