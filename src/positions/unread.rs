//! What no output reads is not computed.
//!
//! Heads of classifiers and encoders often read one position of the last layer, the class token or the first or last word, and
//! exports select it at the end. Everything that makes the other positions, after they have been attended to, is for nothing.
//! Here the selection moves up: from each node that selects constant entries of an axis, through all nodes whose entries along
//! it are made of their own entries alone ([`Operator::axis_flow`](crate::ops::Operator::axis_flow)), as far as nothing else reads the others. What computes is the
//! same; that it gives the same is tried.

use serde::{Deserialize, Serialize};

use super::{demand::Demands, narrow};
use crate::{
    graph::drop_dead,
    model::ModelView,
    onnx::proto::ModelProto,
    runtime::Engine,
    verify::{OutputProof, Reference, VerifyError},
};

/// What leaving out the entries that nobody reads came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unread {
    /// FLOPs that the model needed.
    pub before: u64,
    /// Those that it needs.
    pub after: u64,
    /// The largest difference between the outputs before and after, relative to the output's largest value.
    pub difference: f64,
}

/// The model with its selections moved up as far as they go; `None` where that is nowhere.
pub(crate) fn narrowed(view: ModelView<'_>) -> Option<ModelProto> {
    let demands = Demands::of(view.graph, view.facts);
    if demands.is_empty() {
        return None;
    }
    let mut model = narrow::patch(view.graph, view.facts, &demands)?.apply(view.model);
    // Extents that were computed for those that need them no more.
    drop_dead(&mut model);
    Some(model)
}

/// How far the outputs of a narrowed model lie from those of `view`'s; `None` when farther than rounding explains.
///
/// # Errors
/// When a model does not run.
pub(crate) fn difference(
    engine: &dyn Engine,
    view: ModelView<'_>,
    narrowed: &ModelProto,
) -> Result<Option<f64>, VerifyError> {
    let reference = Reference::new(engine, view.model, view.samples, view.facts.samples)?;
    let outputs = reference.compare(engine, narrowed)?;
    let holds = outputs.iter().all(OutputProof::holds);
    Ok(holds.then(|| outputs.iter().map(|o| o.difference).fold(0.0, f64::max)))
}
