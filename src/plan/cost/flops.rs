//! FLOPs of one sample: two per multiply-accumulate of products and convolutions.

use std::collections::BTreeSet;

use super::{Cost, CostModel, CostView, CountError, Pruned};
use crate::{
    graph::Graph,
    typing::{infer, observe},
};

/// FLOPs of one sample.
#[derive(Debug)]
pub struct Flops;

impl CostModel for Flops {
    fn id(&self) -> &'static str {
        "flops"
    }

    fn name(&self) -> &'static str {
        "FLOPs"
    }

    fn unit(&self) -> &'static str {
        "FLOPs"
    }

    fn about(&self) -> &'static str {
        "FLOPs of one sample, two per multiply-accumulate"
    }

    fn cost(&self, view: &CostView<'_>) -> Cost {
        let terms = view.widths.macs.iter().map(|macs| (2 * macs.factor, macs.widths.as_slice()));
        Cost::sum(view, terms).per(view.facts.samples)
    }

    /// Runs the model to observe its shapes, and types it as if nothing had been planned.
    fn recount(&self, pruned: &Pruned<'_>) -> Result<u64, CountError> {
        let Pruned { engine, model, samples, batch, file_bytes } = *pruned;
        let graph = Graph::new(model);
        let Some(range) = samples.ranges(batch).next() else { return Ok(0) };
        let facts = observe(engine, model, &graph, &samples.batch(range.start, range.end)?, range.len())?;
        let widths = infer(&graph, &facts, &BTreeSet::new());
        let view = CostView { graph: &graph, facts: &facts, widths: &widths, dimensions: &[], file_bytes };
        Ok(self.cost(&view).total(&[]))
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn counts_weights(&self) -> bool {
        false
    }
}
