//! Carrying a plan out. A dimension that a node cannot follow, or without which the pruned model computes something else, is found
//! and keeps its extent, so that the rest can be planned anew.

use std::collections::BTreeSet;

use crate::{
    clock::Clock,
    model::ModelView,
    onnx::{self, Source, proto::ModelProto},
    plan::{Cost, PerCost, Plan},
    reduction,
    rewrite::RewriteError,
    runtime::Engine,
    typing::Dimension,
    verify::{self, Proof, VerifyError},
    widths::{Pin, PinReason, Width},
};

/// Why a pruned model is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Something could not follow.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// It does not run, or cannot be compared.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// It computes something else than the masked original.
    #[error("the pruned model differs from the masked original by {difference:.1e} on output {output}")]
    Differs {
        /// The output.
        output: String,
        /// Relative to the output's largest value.
        difference: f64,
    },
    /// It is larger than the dense model's.
    #[error(transparent)]
    Larger(#[from] Larger),
    /// It costs something else than was planned.
    #[error("the pruned model needs {found} {unit} where {planned} were planned")]
    Cost {
        /// What was counted.
        unit: &'static str,
        /// Counted.
        found: u64,
        /// Planned.
        planned: u64,
    },
}

/// A model takes more bytes than the dense one: what is read whole elsewhere stays beside the copies that shrink.
#[derive(Debug, thiserror::Error)]
#[error(
    "the model would take {found} bytes where the dense one takes {dense}: weights that something else reads as they are stay beside \
     the copies that are pruned"
)]
pub struct Larger {
    /// Bytes of the model to be written.
    pub found: u64,
    /// Bytes of the dense model.
    pub dense: u64,
}

impl Larger {
    /// Refuses a model that would take more bytes than the dense one does; the space between weights in files of their own does not
    /// count.
    pub(crate) fn check(model: &ModelProto, source: &Source) -> Result<(), Self> {
        let (found, dense) = (onnx::stored_bytes(model, source.external), source.bytes);
        if found > dense { Err(Self { found, dense }) } else { Ok(()) }
    }
}

/// Dimensions that have to keep their extent, and why.
pub(crate) struct Blame {
    pub names: BTreeSet<String>,
    pub pin: Pin,
}

/// A typed model and what it costs, ready to be pruned.
pub(crate) struct Trial<'a> {
    pub engine: &'a dyn Engine,
    pub view: ModelView<'a>,
    pub costs: &'a PerCost<Cost>,
    /// How large the file of a pruned model will be.
    pub file_bytes: &'a dyn Fn(&ModelProto) -> u64,
    /// Where the dense model comes from.
    pub source: &'a Source,
}

impl Trial<'_> {
    /// The pruned model, and the proof that it computes what the masked original does.
    pub fn carry_out(&self, plan: &Plan, clock: &Clock) -> Result<(ModelProto, Proof), Refusal> {
        let ModelView { model, graph, facts, widths, dimensions, samples, .. } = self.view;
        let kept = plan.kept(&widths.table, dimensions);
        let mut pruned =
            clock.time("rewrite", || reduction::apply(model, graph, facts, widths, dimensions, &kept))?;
        Larger::check(&pruned, self.source)?;
        self.engine.spill_weights(&mut pruned);
        let masked = reduction::mask(graph, facts, widths, dimensions, &kept).apply(model);
        let file_bytes = (self.file_bytes)(&pruned);
        let proof = clock.time("verify", || {
            verify::verify(self.engine, &masked, &pruned, samples, facts.samples, file_bytes)
        })?;
        if let Some(worst) = proof.outputs.iter().find(|output| !output.holds()) {
            return Err(Refusal::Differs { output: worst.name.clone(), difference: worst.difference });
        }
        let sizes = plan.sizes();
        for ((model, cost), (_, &found)) in self.costs.iter().zip(proof.costs.iter()) {
            let planned = cost.total(&sizes);
            if model.is_exact() && found != planned {
                return Err(Refusal::Cost { unit: model.unit(), found, planned });
            }
        }
        Ok((pruned, proof))
    }

    /// The dimensions that a refusal of `plan` is due to; `None` where the plan has no part in it.
    pub fn blame(&self, plan: &Plan, refusal: &Refusal, clock: &Clock) -> Option<Blame> {
        if let Refusal::Rewrite(error) = refusal {
            let names = self.with_widths(error.widths());
            if !names.is_empty() {
                return Some(Blame { names, pin: error.pin() });
            }
        }
        let name = self.culprit(plan, clock)?;
        let pin = Pin::new(&name, PinReason::Unproven(refusal.to_string()));
        Some(Blame { names: BTreeSet::from([name]), pin })
    }

    fn with_widths(&self, widths: &[Width]) -> BTreeSet<String> {
        let table = &self.view.widths.table;
        let widths: BTreeSet<Width> = widths.iter().map(|width| table.root(*width)).collect();
        let has = |dimension: &&Dimension| widths.contains(&table.root(dimension.width));
        self.view.dimensions.iter().filter(has).map(|d| d.name.clone()).collect()
    }

    /// A dimension with which a plan is refused, and without which what comes before it in the network is not: by halving the
    /// list of dimensions that shrink, so that few models have to be tried. `None` if the fault is not with any.
    fn culprit(&self, plan: &Plan, clock: &Clock) -> Option<String> {
        let shrinks = plan.dimensions.iter().enumerate().filter(|(_, d)| d.kept.len() < d.size);
        let shrinking: Vec<usize> = shrinks.map(|(i, _)| i).collect();
        let holds = |count: usize| {
            let pruned: BTreeSet<usize> = shrinking.iter().take(count).copied().collect();
            let mut part = plan.clone();
            let whole = part.dimensions.iter_mut().enumerate().filter(|(i, _)| !pruned.contains(i));
            for (_, dimension) in whole {
                dimension.kept = (0..dimension.size).collect();
            }
            self.carry_out(&part, clock).is_ok()
        };
        if shrinking.is_empty() || !holds(0) {
            return None;
        }
        // The first `good` hold, and the first `bad` do not.
        let (mut good, mut bad) = (0, shrinking.len());
        while good + 1 < bad {
            let middle = good.midpoint(bad);
            if holds(middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        plan.dimensions.get(*shrinking.get(good)?).map(|dimension| dimension.name.clone())
    }
}
