//! Gather.

use super::{NoGradient, NodeGradient, NodeTyper, Operator, SizeFlow};
use crate::{
    tensor::{DType, Tensor},
    widths::Reason,
};

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
        let (x, rank) = (node.x(0)?, node.shape(0)?.len());
        let axis = node.axis(node.int("axis").unwrap_or(0), rank)?;
        let (extent, indices) = (node.shape(0)?[axis], node.x(1)?.cast(DType::I64));
        // The axes of the indices, of which there may be none, as one.
        let g = match node.shape(1)?.len() {
            0 => node.g()?.unsqueeze(&[axis]),
            1 => node.g()?,
            _ => {
                let extents = x.shape();
                let around = [extents.slice(0, 0, axis), extents.slice(0, axis + 1, rank)];
                let shape = node.tail().concat(&[around[0], indices.count().reshape(&[1]), around[1]], 0);
                node.g()?.reshape_to(shape.unwrap_or(extents))
            }
        };
        if let Some(&[only]) = node.constant(1).and_then(|t| t.to_ints()).as_deref() {
            let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
            before[axis] = usize::try_from(if only < 0 { only + extent as i64 } else { only }).unwrap_or(0);
            after[axis] = extent.saturating_sub(before[axis] + 1);
            node.give(0, g.pad(&before, &after));
            return Ok(());
        }
        // Indices may depend on the inputs: the matrix that picks entries is made at run time.
        let places = |first: i64| {
            let places: Vec<i64> = (first..first + extent as i64).collect();
            node.tail().constant(&Tensor::ints(&places))
        };
        let column = indices.reshape(&[-1, 1]);
        let picks = column.equals(places(0)).apply("Or", &[column.equals(places(-(extent as i64)))], &[]);
        node.give(0, g.times(axis, rank, picks.cast(g.dtype())));
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
