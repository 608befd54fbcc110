//! tract, compiled in: the engine of a machine without ONNX Runtime.
//!
//! Compared operator by operator with the node tests of the ONNX specification; what runs there with wrong results is
//! refused ([`runs_wrong`]). What remains: tract is not exact about values that no sound model holds. NaN is lost in
//! `Max`, `Relu`, `Clip` and the like, and the largest of nothing but -∞ comes as the smallest finite number.

use std::{
    any::Any,
    cell::Cell,
    collections::HashSet,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Once},
};

use ndarray::{ArrayD, IxDyn};
use prost::Message;
use tract_onnx::{
    pb,
    prelude::{
        DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, IntoTValue, TractResult,
        TypedRunnableModel,
    },
    tract_core::prelude as core,
};

use super::{
    Engine, RuntimeError, Session,
    signature::{Declared, Signature},
};
use crate::{
    onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto},
    tensor::Tensor,
};

const NAME: &str = "tract";

/// Kept equal to the version in Cargo.toml, as the crate does not tell its own.
const VERSION: &str = "0.23.9";

/// The compiled-in engine.
pub(super) struct Tract;

impl Engine for Tract {
    fn describe(&self) -> String {
        format!("{NAME} {VERSION} (embedded)")
    }

    fn load(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        let refused = |reason| RuntimeError::Load { engine: NAME, reason };
        let signature = Signature::of(model).map_err(refused)?;
        if let Some(graph) = &model.graph {
            check_operators(graph)?;
            check_values(graph).map_err(refused)?;
        }
        let model = guarded(|| parse(model)).map_err(refused)?;
        Ok(Box::new(Loaded { model, signature, plan: None }))
    }
}

struct Loaded {
    model: InferenceModel,
    signature: Signature,
    /// The shapes of the last run with the model made ready for them: tract cannot type most models otherwise.
    plan: Option<(Vec<Vec<usize>>, Arc<TypedRunnableModel>)>,
}

impl Session for Loaded {
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let failed = |reason| RuntimeError::Run { engine: NAME, reason };
        let fed = self.signature.arrange(inputs)?;
        let fed = fed.into_iter().map(to_tract).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let plan = self.plan_for(&fed).map_err(failed)?;
        let values = fed.into_iter().map(IntoTValue::into_tvalue).collect();
        let results = guarded(|| plan.run(values)).map_err(failed)?;
        let outputs = self.signature.outputs.iter().zip(results);
        outputs
            .map(|(declared, value)| from_tract(declared, &value))
            .collect::<Result<_, _>>()
            .map_err(failed)
    }
}

impl Loaded {
    fn plan_for(&mut self, fed: &[core::Tensor]) -> Result<Arc<TypedRunnableModel>, String> {
        let shapes: Vec<_> = fed.iter().map(|tensor| tensor.shape().to_vec()).collect();
        if let Some((planned, plan)) = &self.plan
            && *planned == shapes
        {
            return Ok(plan.clone());
        }
        // Two plans would hold the weights twice.
        self.plan = None;
        let plan = guarded(|| concrete(&self.model, fed)?.into_optimized()?.into_runnable())
            // An optimised model computes what the typed one does: where only the optimiser fails, that one is as good.
            .or_else(|_| guarded(|| concrete(&self.model, fed)?.into_typed()?.into_runnable()))?;
        self.plan = Some((shapes, plan.clone()));
        Ok(plan)
    }
}

/// Refuses what tract would run with wrong results, or does not tell apart from something else.
fn check_operators(graph: &GraphProto) -> Result<(), RuntimeError> {
    for node in &graph.node {
        check_operator(node)?;
        for body in node.attribute.iter().flat_map(subgraphs) {
            check_operators(body)?;
        }
    }
    Ok(())
}

fn check_operator(node: &NodeProto) -> Result<(), RuntimeError> {
    // tract looks operators up by type alone, so that one of a foreign domain would pass for the standard one.
    let foreign = !matches!(node.domain(), "" | "ai.onnx" | "ai.onnx.ml");
    if foreign {
        return Err(RuntimeError::OperatorOnTract { op: format!("{}.{}", node.domain(), node.op_type()) });
    }
    if runs_wrong(node) {
        return Err(RuntimeError::OperatorOnTract { op: node.op_type().to_owned() });
    }
    Ok(())
}

/// Whether tract runs this node and returns wrong numbers, mostly as it reads past an attribute.
fn runs_wrong(node: &NodeProto) -> bool {
    let attribute = |name: &str| node.attribute.iter().find(|a| a.name() == name);
    let says = |name: &str, values: &[&str]| {
        attribute(name).and_then(|a| a.s.as_ref()).is_some_and(|s| values.iter().any(|v| v.as_bytes() == s))
    };
    match node.op_type() {
        // Adds a mask of truth values in place of masking by it.
        "Attention" => true,
        // Takes the logarithm of a softmax that has underflowed to zero.
        "LogSoftmax" => true,
        // Divides by the number of positions.
        "GlobalLpPool" => true,
        // Shifts modulo the width.
        "BitShift" => true,
        "BatchNormalization" => attribute("training_mode").is_some_and(|a| a.i() != 0),
        "Celu" | "Swish" => attribute("alpha").is_some_and(|a| a.f() != 1.0),
        "ConvTranspose" => attribute("output_shape").is_some(),
        "GRU" | "LSTM" | "RNN" => says("direction", &["reverse"]),
        "GridSample" => says("mode", &["bicubic", "cubic"]) && says("padding_mode", &["border"]),
        // Weighs what it should exclude, and rounds by the rule of a later version.
        "Resize" => {
            let nearest = attribute("mode").is_none() || says("mode", &["nearest"]);
            attribute("exclude_outside").is_some_and(|a| a.i() != 0) || (node.input.len() == 2 && nearest)
        }
        "SpaceToDepth" => says("mode", &["CRD"]),
        _ => false,
    }
}

/// Refuses what tract would panic on, or lose count of the inputs by.
fn check_values(graph: &GraphProto) -> Result<(), String> {
    if let Some(sparse) = graph.sparse_initializer.first() {
        let name = sparse.values.as_ref().map_or("", |values| values.name());
        return Err(format!("the initializer `{name}` is sparse, which it does not support"));
    }
    let given = graph.input.iter().map(|i| i.name()).chain(graph.initializer.iter().map(|t| t.name()));
    let computed = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let values: HashSet<&str> = given.chain(computed).collect();
    match graph.output.iter().find(|output| !values.contains(output.name())) {
        Some(output) => Err(format!("no node computes the output `{}`", output.name())),
        None => Ok(()),
    }
}

fn subgraphs(attribute: &AttributeProto) -> impl Iterator<Item = &GraphProto> {
    attribute.g.iter().chain(&attribute.graphs)
}

fn parse(model: &ModelProto) -> TractResult<InferenceModel> {
    let model = translated(model)?;
    // Shapes in the file hold symbols, which do not unify with the extents of the feeds.
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let parsed = onnx.parse(&model, None)?;
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(core::TractError::msg(format!("no node computes `{name}`")));
    }
    Ok(parsed.model)
}

/// The model in tract's types. Weights are handed over apart: encoded with the rest, they would be there once more.
fn translated(model: &ModelProto) -> TractResult<pb::ModelProto> {
    let mut hollow = model.clone();
    let initializers = hollow.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    let weights: Vec<_> = initializers.map(|tensor| tensor.raw_data.take()).collect();
    let mut translated = pb::ModelProto::decode(hollow.encode_to_vec().as_slice())?;
    let initializers = translated.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    for (tensor, data) in initializers.zip(weights) {
        tensor.raw_data = data.map_or_else(Vec::new, |data| data.to_vec());
    }
    Ok(translated)
}

/// The model for inputs of exactly these types and shapes.
fn concrete(model: &InferenceModel, fed: &[core::Tensor]) -> TractResult<InferenceModel> {
    let mut model = model.clone();
    for (index, tensor) in fed.iter().enumerate() {
        model.set_input_fact(index, InferenceFact::dt_shape(tensor.datum_type(), tensor.shape()))?;
    }
    Ok(model)
}

thread_local! {
    /// Whether this thread is inside of [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Lets panics inside of [`guarded`] pass in silence, since they become errors; all others go where they went before. The hook
/// is the process' own, so it is put in place once and asks the panicking thread.
fn silence_guarded_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                before(panic);
            }
        }));
    });
}

/// Runs `f`, turning its error into text, and a panic too: tract indexes and unwraps on what models contain.
fn guarded<T>(f: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    silence_guarded_panics();
    let outside = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(outside);
    match result {
        Ok(result) => result.map_err(|e| format!("{e:#}")),
        Err(panic) => Err(message_of(panic.as_ref())),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked").to_owned()
}

fn to_tract(tensor: &Tensor) -> Result<core::Tensor, String> {
    fn copy<T: core::Datum + Copy>(array: &ArrayD<T>) -> Result<core::Tensor, String> {
        let array = array.as_standard_layout();
        core::Tensor::from_shape(array.shape(), array.as_slice().unwrap_or_default())
            .map_err(|e| format!("{e:#}"))
    }
    match tensor {
        Tensor::F32(a) => copy(a),
        Tensor::F64(a) => copy(a),
        Tensor::F16(a) => copy(a),
        Tensor::BF16(_) => Err("it has no bfloat16".to_owned()),
        Tensor::I8(a) => copy(a),
        Tensor::I16(a) => copy(a),
        Tensor::I32(a) => copy(a),
        Tensor::I64(a) => copy(a),
        Tensor::U8(a) => copy(a),
        Tensor::U16(a) => copy(a),
        Tensor::U32(a) => copy(a),
        Tensor::U64(a) => copy(a),
        Tensor::Bool(a) => copy(a),
    }
}

fn from_tract(declared: &Declared, value: &core::Tensor) -> Result<Tensor, String> {
    fn copy<T: core::Datum + Clone>(value: &core::Tensor) -> Result<ArrayD<T>, String> {
        let view = value.to_plain_array_view::<T>().map_err(|e| format!("{e:#}"))?;
        ArrayD::from_shape_vec(IxDyn(view.shape()), view.iter().cloned().collect()).map_err(|e| e.to_string())
    }
    let tensor = match value.datum_type() {
        DatumType::F32 => Tensor::F32(copy(value)?),
        DatumType::F64 => Tensor::F64(copy(value)?),
        DatumType::F16 => Tensor::F16(copy(value)?),
        DatumType::I8 => Tensor::I8(copy(value)?),
        DatumType::I16 => Tensor::I16(copy(value)?),
        DatumType::I32 => Tensor::I32(copy(value)?),
        DatumType::I64 => Tensor::I64(copy(value)?),
        DatumType::U8 => Tensor::U8(copy(value)?),
        DatumType::U16 => Tensor::U16(copy(value)?),
        DatumType::U32 => Tensor::U32(copy(value)?),
        DatumType::U64 => Tensor::U64(copy(value)?),
        DatumType::Bool => Tensor::Bool(copy(value)?),
        // What tract computes shapes with.
        DatumType::TDim => Tensor::I64(copy(&*value.cast_to::<i64>().map_err(|e| format!("{e:#}"))?)?),
        other => return Err(format!("the output `{}` has elements of type {other:?}", declared.name)),
    };
    match declared.dtype {
        Some(expected) if expected != tensor.dtype() => {
            Err(format!("the output `{}` is {expected}, but came as {}", declared.name, tensor.dtype()))
        }
        _ => Ok(tensor),
    }
}
