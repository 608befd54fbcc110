//! Gather.

use super::{NoGradient, NodeGradient, NodeTyper, Operator, SizeFlow, gradient::one_hot};
use crate::widths::Reason;

/// Picks entries of one axis by index: embeddings, the CLS token, one of q, k and v.
pub(super) struct Gather;

impl Operator for Gather {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (data, indices) = (node.axes(0)?, node.axes(1)?);
        let axis = node.axis(node.int("axis").unwrap_or(0), data.len())?;
        node.pin(data[axis], Reason::Indexed);
        let mut result = data[..axis].to_vec();
        result.extend(indices);
        result.extend(&data[axis + 1..]);
        node.set(0, result);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let shape = node.shape(0)?;
        let axis = node.axis(node.int("axis").unwrap_or(0), shape.len())?;
        let indices = node.contents(1).ok_or_else(|| node.none("indices that are many or not known"))?;
        let rank = node.shape(1)?.len();
        let extent = shape[axis];
        let wrapped = |i: i64| usize::try_from(if i < 0 { i + extent as i64 } else { i }).unwrap_or(0);
        let g = node.g()?;
        // A scalar index took the axis away; several axes of indices are one first.
        let g = match rank {
            0 => g.unsqueeze(&[axis]),
            1 => g,
            _ => return Err(node.none("indices of several axes")),
        };
        match indices {
            [only] => {
                let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
                before[axis] = wrapped(*only);
                after[axis] = extent.saturating_sub(wrapped(*only) + 1);
                node.give(0, g.pad(&before, &after));
            }
            _ => {
                let matrix: Vec<_> = indices.iter().map(|i| one_hot(wrapped(*i), extent)).collect();
                node.give(0, g.along(axis, shape.len(), &matrix));
            }
        }
        Ok(())
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        let elements = flow.elements_or_constants(0)?;
        let n = elements.len() as i64;
        let indices = flow.contents(1)?;
        let picked =
            indices.iter().map(|&i| elements.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?));
        let picked: Vec<_> = picked.map(|e| e.cloned()).collect::<Option<_>>()?;
        flow.set(picked)
    }
}
