//! Bytes of the file, external data included: what weights take as they are stored, and all that is around them.

use std::collections::BTreeSet;

use super::{Cost, CostModel, CostView, CountError, Pruned};
use crate::tensor::DType;

/// Bytes of the file. What is around the weights is taken from the dense file, and does not shrink in the polynomial; the pruned
/// file may have more of it, such as copies of shared weights, or less.
#[derive(Debug)]
pub struct Bytes;

impl CostModel for Bytes {
    fn id(&self) -> &'static str {
        "bytes"
    }

    fn name(&self) -> &'static str {
        "bytes"
    }

    fn unit(&self) -> &'static str {
        "bytes"
    }

    fn about(&self) -> &'static str {
        "bytes of the file and of its external data"
    }

    fn cost(&self, view: &CostView<'_>) -> Cost {
        let mut seen = BTreeSet::new();
        let constants = view.widths.constants().filter_map(|(at, axes)| {
            let value = view.graph.node(at.node).input(at.slot)?;
            let stored = DType::from_onnx(view.graph.constant(value)?.data_type())?;
            seen.insert(value).then_some((stored.size() as u64, axes))
        });
        let sizes: Vec<usize> = view.dimensions.iter().map(|dimension| dimension.size).collect();
        Cost::sum(view, constants).coming_to(view.file_bytes, &sizes)
    }

    fn recount(&self, pruned: &Pruned<'_>) -> Result<u64, CountError> {
        Ok(pruned.file_bytes)
    }
}
