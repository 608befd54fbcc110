//! Observing shapes: the model runs with its intermediate values exposed, so that every operator the runtime knows is
//! covered.
//!
//! All values of a run at once would be many times what the run itself holds. So the first run returns shapes alone. The
//! second returns small values whole and one element of each larger one, which tells the type.

use crate::{
    graph::{Fact, Facts, Graph, Patch, REMEMBERED, Tail, Value, ValueId, ValueOrigin},
    onnx::proto::ModelProto,
    ops,
    runtime::{Engine, RuntimeError},
    tensor::{DType, Tensor},
};

/// Bytes of values that one run may return, counting eight for each element.
const RETURNED: usize = 64 << 20;

/// Types and shapes of all values for one batch of `samples` samples.
///
/// # Errors
/// When the engine does not load or run the model with its values exposed.
pub fn observe(
    engine: &dyn Engine,
    model: &ModelProto,
    graph: &Graph,
    batch: &[(String, Tensor)],
    samples: usize,
) -> Result<Facts, RuntimeError> {
    observe_within(RETURNED, engine, model, graph, batch, samples)
}

/// The shape of every value that nodes compute from `batch`.
///
/// # Errors
/// When the engine does not load or run the model with the shapes exposed.
pub fn shapes(
    engine: &dyn Engine,
    model: &ModelProto,
    graph: &Graph,
    batch: &[(String, Tensor)],
) -> Result<Vec<(ValueId, Vec<usize>)>, RuntimeError> {
    let computed: Vec<ValueId> =
        graph.values().filter(|(_, value)| is_computed(graph, value)).map(|(id, _)| id).collect();
    let shapes = Run { engine, model, graph, batch }.shapes(&computed)?;
    Ok(computed.into_iter().zip(shapes).collect())
}

/// Whether a node computes the value, and it is a tensor.
fn is_computed(graph: &Graph, value: &Value) -> bool {
    matches!(value.origin, ValueOrigin::Node(node) if ops::makes_tensors(&graph.node(node).proto))
}

/// As [`observe`], where one run returns at most `returned` bytes, or a single value.
fn observe_within(
    returned: usize,
    engine: &dyn Engine,
    model: &ModelProto,
    graph: &Graph,
    batch: &[(String, Tensor)],
    samples: usize,
) -> Result<Facts, RuntimeError> {
    let mut facts = Facts::new(graph.values().count(), samples);
    for (id, value) in graph.values() {
        match &value.origin {
            ValueOrigin::Constant(tensor) => {
                if let Some(fact) = Fact::of_constant(tensor) {
                    facts.insert(id, fact);
                }
            }
            ValueOrigin::Input => {
                if let Some((_, tensor)) = batch.iter().find(|(name, _)| *name == value.name) {
                    facts.insert(id, Fact::of(tensor));
                }
            }
            ValueOrigin::Node(_) | ValueOrigin::Unknown => {}
        }
    }
    let run = Run { engine, model, graph, batch };
    let mut rest = shapes(engine, model, graph, batch)?;
    while !rest.is_empty() {
        let mut total = 0;
        let size = |shape: &[usize]| if is_whole(shape) { 8 * elements(shape) } else { 8 };
        let fits = rest.iter().take_while(|(_, shape)| {
            total += size(shape);
            total <= returned
        });
        let later = rest.split_off(fits.count().max(1));
        for ((id, shape), tensor) in rest.iter().zip(run.contents(&rest)?) {
            let fact = if is_whole(shape) {
                Fact::of(&tensor)
            } else {
                Fact { dtype: tensor.dtype(), shape: shape.clone(), ints: None }
            };
            facts.insert(*id, fact);
        }
        rest = later;
    }
    Ok(facts)
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Whether the contents of a value of this shape are remembered if they are integers.
fn is_whole(shape: &[usize]) -> bool {
    elements(shape) <= REMEMBERED
}

/// Runs of the model that return something else than its outputs.
struct Run<'a> {
    engine: &'a dyn Engine,
    model: &'a ModelProto,
    graph: &'a Graph,
    batch: &'a [(String, Tensor)],
}

impl Run<'_> {
    /// The shape of each value.
    fn shapes(&self, values: &[ValueId]) -> Result<Vec<Vec<usize>>, RuntimeError> {
        let shapes = self.returns(|tail| {
            // What the type is does not matter to the node, and is not known.
            let value = |id: &ValueId| tail.value(&self.graph.value(*id).name, DType::F32);
            values.iter().map(|id| value(id).shape().name()).collect()
        })?;
        let extents = |tensor: Tensor| tensor.to_ints().unwrap_or_default().into_iter();
        Ok(shapes
            .into_iter()
            .map(|shape| extents(shape).map(|n| usize::try_from(n).unwrap_or(0)).collect())
            .collect())
    }

    /// Each value, or its first element where it is not remembered.
    fn contents(&self, values: &[(ValueId, Vec<usize>)]) -> Result<Vec<Tensor>, RuntimeError> {
        self.returns(|tail| {
            let (first, all) = (tail.constant(&Tensor::ints(&[0])), tail.constant(&Tensor::ints(&[-1])));
            let names = values.iter().map(|(id, shape)| {
                let name = &self.graph.value(*id).name;
                if is_whole(shape) {
                    return name.clone();
                }
                let flat = tail.value(name, DType::F32).reshape_to(all);
                flat.apply("Gather", &[first], &[]).name()
            });
            names.collect()
        })
    }

    /// Runs the model with the nodes that `describe` appends, and returns the values that it names.
    fn returns(&self, describe: impl FnOnce(&Tail) -> Vec<String>) -> Result<Vec<Tensor>, RuntimeError> {
        let tail = Tail::new(self.graph.opset(), "observed");
        let mut patch = Patch::default();
        patch.only_exposed();
        let names = describe(&tail);
        if names.is_empty() {
            return Ok(Vec::new());
        }
        names.iter().for_each(|name| patch.expose(name));
        tail.append_to(&mut patch);
        self.engine.load(&patch.apply(self.model))?.run(self.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        calibration::{self, CalibrationOptions},
        onnx::{self, tensor::to_tensor},
        runtime::{self, RuntimeChoice, RuntimeOptions},
    };
    use std::path::Path;

    /// What was observed before there were two runs: every value at once.
    fn at_once(engine: &dyn Engine, model: &ModelProto, graph: &Graph, batch: &[(String, Tensor)]) -> Facts {
        let mut facts = Facts::new(graph.values().count(), 2);
        let mut patch = Patch::default();
        patch.only_exposed();
        let mut computed = Vec::new();
        for (id, value) in graph.values() {
            match &value.origin {
                ValueOrigin::Node(_) => {
                    patch.expose(&value.name);
                    computed.push(id);
                }
                ValueOrigin::Constant(tensor) => facts.insert(id, Fact::of(&to_tensor(tensor).unwrap())),
                ValueOrigin::Input => {
                    let (_, tensor) = batch.iter().find(|(name, _)| *name == value.name).unwrap();
                    facts.insert(id, Fact::of(tensor));
                }
                ValueOrigin::Unknown => {}
            }
        }
        let values = engine.load(&patch.apply(model)).unwrap().run(batch).unwrap();
        computed.into_iter().zip(&values).for_each(|(id, tensor)| facts.insert(id, Fact::of(tensor)));
        facts
    }

    #[test]
    fn values_observed_in_chunks_show_what_all_at_once_do() {
        for choice in [RuntimeChoice::Tract, RuntimeChoice::Auto] {
            let options = RuntimeOptions { runtime: choice, threads: 1, ..Default::default() };
            let engine = runtime::open(&options).unwrap();
            for name in ["vit.onnx", "cnn.onnx"] {
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
                let model = onnx::load(&path).unwrap().model;
                let options = CalibrationOptions { samples: Some(2), ..Default::default() }.or_synthetic();
                let samples = calibration::load(&model, Some(&path), &options).unwrap();
                let (graph, batch) = (Graph::new(&model), samples.batch(0, 2).unwrap());
                let expected = at_once(&*engine, &model, &graph, &batch);
                for returned in [1 << 15, 1 << 18, RETURNED] {
                    let found = observe_within(returned, &*engine, &model, &graph, &batch, 2).unwrap();
                    for (id, value) in graph.values() {
                        assert_eq!(found.get(id), expected.get(id), "{name}: {}", value.name);
                    }
                }
            }
        }
    }
}
