//! Observing shapes: the model runs once with its intermediate values exposed, so that every operator the runtime knows
//! is covered.

use crate::{
    graph::{Fact, Facts, Graph, Origin, Patch},
    onnx::{proto::ModelProto, tensor::to_tensor},
    ops,
    runtime::{Engine, RuntimeError},
    tensor::Tensor,
};

/// Types and shapes of all values for one batch of `samples` samples.
pub fn observe(
    engine: &dyn Engine,
    model: &ModelProto,
    graph: &Graph,
    batch: &[(String, Tensor)],
    samples: usize,
) -> Result<Facts, RuntimeError> {
    let mut facts = Facts::new(graph.values().count(), samples);
    let mut patch = Patch::default();
    let mut computed = Vec::new();
    patch.only_exposed();
    for (id, value) in graph.values() {
        match &value.origin {
            Origin::Node(node) if !ops::makes_tensors(&graph.node(*node).proto) => {}
            Origin::Node(_) => {
                patch.expose(&value.name);
                computed.push(id);
            }
            Origin::Constant(tensor) => {
                if let Ok(tensor) = to_tensor(tensor) {
                    facts.insert(id, Fact::of(&tensor));
                }
            }
            Origin::Input => {
                if let Some((_, tensor)) = batch.iter().find(|(name, _)| *name == value.name) {
                    facts.insert(id, Fact::of(tensor));
                }
            }
            Origin::Unknown => {}
        }
    }
    let values = engine.load(&patch.apply(model))?.run(batch)?;
    for (id, tensor) in computed.into_iter().zip(&values) {
        facts.insert(id, Fact::of(tensor));
    }
    Ok(facts)
}
