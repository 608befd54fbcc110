//! Parts of models as models of their own, and what tells whether two of them take the same time.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use sha2::{Digest, Sha256};

use super::Feed;
use crate::{
    graph::{Graph, Patch, ValueId, between},
    hash::hex,
    onnx::{
        self, build,
        proto::{ModelProto, TensorProto},
        tensor::{from_tensor, to_tensor},
    },
    runtime::{Engine, RuntimeError},
    tensor::{DType, Tensor},
};

/// Whole numbers up to this many are sizes, axes and the like: what is computed depends on them.
const SIZES: usize = 64;

/// A model to be timed, and its inputs.
pub(super) struct Part {
    pub model: ModelProto,
    pub feed: Feed,
}

impl Part {
    /// The part of a model that computes `outputs` from `inputs`, where the model's values are `values`. Sizes become constants, as
    /// they are where all shapes are known. `None` where the model has lost the part.
    pub fn cut(
        model: &ModelProto,
        graph: &Graph,
        (inputs, outputs): (&[String], &[String]),
        values: &BTreeMap<String, Tensor>,
    ) -> Option<Self> {
        let known: BTreeSet<ValueId> = inputs.iter().filter_map(|name| graph.find(name)).collect();
        let made =
            outputs.iter().filter_map(|name| graph.find(name)).filter(|v| graph.producer(*v).is_some());
        let made: Vec<ValueId> = made.collect();
        if made.is_empty() {
            return None;
        }
        let value = |id: ValueId| values.get(&graph.value(id).name);
        let describe = |id: ValueId| {
            let (dtype, shape) = value(id).map_or((DType::F32, [].as_slice()), |v| (v.dtype(), v.shape()));
            build::fixed_info(&graph.value(id).name, dtype, shape)
        };
        let mut part = between(model, graph, &known, (&made, &[]), describe).model;
        let proto = part.graph.as_mut()?;
        let mut feed = Feed::new();
        for input in std::mem::take(&mut proto.input) {
            if proto.initializer.iter().any(|tensor| tensor.name() == input.name()) {
                continue;
            }
            let tensor = values.get(input.name())?;
            if !tensor.dtype().is_float() && tensor.len() <= SIZES {
                proto.initializer.push(from_tensor(input.name(), tensor));
            } else {
                proto.input.push(build::fixed_info(input.name(), tensor.dtype(), tensor.shape()));
                feed.push((input.name().to_owned(), tensor.clone()));
            }
        }
        Some(Self { model: part, feed })
    }
}

/// The values of these names in one run of a model, its inputs included.
pub(super) fn values(
    engine: &dyn Engine,
    model: &ModelProto,
    names: &BTreeSet<&str>,
    feed: &Feed,
) -> Result<BTreeMap<String, Tensor>, RuntimeError> {
    let fed: BTreeMap<&str, &Tensor> = feed.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut patch = Patch::default();
    patch.only_exposed();
    let computed: Vec<&str> = names.iter().filter(|name| !fed.contains_key(**name)).copied().collect();
    computed.iter().for_each(|name| patch.expose(name));
    let found = match computed.is_empty() {
        true => Vec::new(),
        false => engine.load(&patch.apply(model))?.run(feed)?,
    };
    let inputs = fed.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    Ok(inputs.chain(computed.into_iter().map(str::to_owned).zip(found)).collect())
}

/// A model whose inputs have the shapes of what it is fed, and which says nothing of other shapes.
pub(super) fn with_shapes(model: &ModelProto, feed: &Feed) -> ModelProto {
    let mut model = model.clone();
    if let Some(graph) = &mut model.graph {
        for input in &mut graph.input {
            if let Some((name, tensor)) = feed.iter().find(|(name, _)| name == input.name()) {
                *input = build::fixed_info(name, tensor.dtype(), tensor.shape());
            }
        }
        graph.value_info.clear();
        graph.output.iter_mut().for_each(onnx::forget_shape);
    }
    model
}

/// A hash of all that the time of a model depends on: operators, how they hang together, shapes, and small whole numbers; not
/// names or weights. `feed` are its inputs.
pub(super) fn structure(model: &ModelProto, feed: &Feed) -> String {
    let mut hasher = Structure { hash: Sha256::new(), numbers: BTreeMap::new() };
    for (name, tensor) in feed {
        hasher.tell(name, format!("{} {:?}", tensor.dtype(), tensor.shape()).as_bytes());
    }
    let Some(graph) = &model.graph else { return hex(hasher.hash.finalize()) };
    let weights: BTreeMap<&str, &TensorProto> =
        graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
    for node in &graph.node {
        if let Some(tensor) = onnx::node_constant(node) {
            node.output.iter().for_each(|name| hasher.constant(name, &tensor));
            continue;
        }
        for name in &node.input {
            match weights.get(name.as_str()) {
                Some(tensor) if !hasher.numbers.contains_key(name) => hasher.constant(name, tensor),
                _ => hasher.tell(name, b"read"),
            }
        }
        hasher.hash.update(node.domain().as_bytes());
        hasher.hash.update(node.op_type().as_bytes());
        let mut attributes: Vec<_> = node.attribute.iter().collect();
        attributes.sort_by_key(|attribute| attribute.name());
        attributes.iter().for_each(|attribute| hasher.hash.update(attribute.encode_to_vec()));
        node.output.iter().for_each(|name| hasher.tell(name, b"made"));
    }
    graph.output.iter().for_each(|output| hasher.tell(output.name(), b"returned"));
    model.opset_import.iter().for_each(|opset| hasher.hash.update(opset.encode_to_vec()));
    hex(hasher.hash.finalize()).get(..32).unwrap_or_default().to_owned()
}

/// Values by numbers in the order in which they come, so that names do not matter.
struct Structure {
    hash: Sha256,
    numbers: BTreeMap<String, usize>,
}

impl Structure {
    fn tell(&mut self, name: &str, what: &[u8]) {
        let next = self.numbers.len() + 1;
        let number = if name.is_empty() { 0 } else { *self.numbers.entry(name.to_owned()).or_insert(next) };
        self.hash.update(number.to_le_bytes());
        self.hash.update(what);
    }

    fn constant(&mut self, name: &str, tensor: &TensorProto) {
        self.tell(name, format!("{} {:?}", tensor.data_type(), tensor.dims).as_bytes());
        let elements = tensor.dims.iter().try_fold(1i64, |product, extent| product.checked_mul(*extent));
        let small = elements.is_some_and(|elements| elements as usize <= SIZES);
        if small && let Some(sizes) = to_tensor(tensor).ok().and_then(|tensor| tensor.to_ints()) {
            sizes.iter().for_each(|size| self.hash.update(size.to_le_bytes()));
        }
    }
}

/// Bytes that the weights of a model take.
pub(super) fn weight_bytes(model: &ModelProto) -> usize {
    let graph = model.graph.iter();
    let named = graph.clone().flat_map(|graph| &graph.node).filter_map(onnx::node_constant);
    let bytes = |tensor: &TensorProto| tensor.raw_data.as_ref().map_or(0, |data| data.len());
    graph.flat_map(|graph| &graph.initializer).map(bytes).sum::<usize>()
        + named.map(|t| bytes(&t)).sum::<usize>()
}
