//! Mutations of a model's parts: what a broken exporter, an odd one or an attacker might write.

use bytes::Bytes;
use optin_onnx::{
    onnx::proto::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        SparseTensorProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
        attribute_proto::AttributeType,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    ops,
    tensor::DType,
};
use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::NUMBERS;

/// Names that programs stumble over.
const NAMES: &[&str] = &["", "a\nb", "../../x", "ünïcödé", "%s{}", "\u{0}", "x_1", "/"];

/// Makes one random change.
pub(super) fn distort(model: &mut ModelProto, rng: &mut ChaCha8Rng) {
    let Some(graph) = model.graph.as_mut() else { return };
    let values = values(graph);
    match rng.random_range(0..12) {
        0..4 => wiring(graph, &values, rng),
        4..6 => attributes(graph, rng),
        6..8 => constants(graph, rng),
        8 => nodes(graph, rng),
        9 => interface(graph, &values, rng),
        10 => captures(graph, rng),
        _ => imports(model, rng),
    }
}

/// The names of everything that can be read.
fn values(graph: &GraphProto) -> Vec<String> {
    let inputs = graph.input.iter().map(|i| i.name());
    let constants = graph.initializer.iter().map(|t| t.name());
    let computed = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    inputs.chain(constants).chain(computed).map(str::to_owned).collect()
}

fn index<T>(items: &[T], rng: &mut ChaCha8Rng) -> Option<usize> {
    (!items.is_empty()).then(|| rng.random_range(0..items.len()))
}

fn pick<'a, T>(items: &'a mut [T], rng: &mut ChaCha8Rng) -> Option<&'a mut T> {
    let index = index(items, rng)?;
    items.get_mut(index)
}

fn number(rng: &mut ChaCha8Rng) -> i64 {
    *NUMBERS.choose(rng).unwrap()
}

/// Operators and what they read.
fn wiring(graph: &mut GraphProto, values: &[String], rng: &mut ChaCha8Rng) {
    let Some(node) = pick(&mut graph.node, rng) else { return };
    let Some(value) = values.choose(rng).cloned() else { return };
    match rng.random_range(0..8) {
        0 => {
            let schemas: Vec<_> = ops::schemas().map(|(_, schema)| schema).collect();
            let operator = schemas.choose(rng).unwrap();
            (node.domain, node.op_type) = (Some(operator.domain.to_owned()), Some(operator.name.to_owned()));
        }
        1 => drop(node.input.pop()),
        2 => node.input.push(value),
        3 => {
            if let Some(input) = pick(&mut node.input, rng) {
                *input = value;
            }
        }
        4 => {
            if let Some(input) = pick(&mut node.input, rng) {
                input.clear();
            }
        }
        5 => node.input.reverse(),
        6 => {
            if let Some(output) = pick(&mut node.output, rng) {
                output.clear();
            }
        }
        _ => node.output.push(format!("more_{}", rng.random_range(0..1000))),
    }
}

fn attributes(graph: &mut GraphProto, rng: &mut ChaCha8Rng) {
    let with: Vec<usize> = (0..graph.node.len()).filter(|i| !graph.node[*i].attribute.is_empty()).collect();
    let Some(node) = with.choose(rng).and_then(|i| graph.node.get_mut(*i)) else { return };
    let kinds = [AttributeType::Undefined, AttributeType::Int, AttributeType::Ints, AttributeType::String];
    let kind = *kinds.choose(rng).unwrap();
    if rng.random_range(0..6) == 0 {
        node.attribute.pop();
        return;
    }
    let Some(attribute) = pick(&mut node.attribute, rng) else { return };
    match rng.random_range(0..7) {
        0 => attribute.i = attribute.i.map(|_| number(rng)),
        1 => attribute.ints.iter_mut().for_each(|i| *i = number(rng)),
        2 => attribute.ints.push(number(rng)),
        3 => drop(attribute.ints.pop()),
        4 => attribute.set_type(kind),
        5 => attribute.s = Some(Bytes::from_static(b"\xff->,...")),
        _ => attribute.f = Some(*[f32::NAN, f32::INFINITY, 0.0, -1e30].choose(rng).unwrap()),
    }
}

fn constants(graph: &mut GraphProto, rng: &mut ChaCha8Rng) {
    let Some(at) = index(&graph.initializer, rng) else { return };
    let tensor = &mut graph.initializer[at];
    match rng.random_range(0..9) {
        // A few integers, as shapes and axes are.
        0 | 1 => {
            tensor.dims = vec![rng.random_range(0..4)];
            let values = (0..tensor.dims[0]).flat_map(|_| number(rng).to_le_bytes());
            (tensor.raw_data, tensor.data_type) =
                (Some(values.collect::<Vec<u8>>().into()), Some(DType::I64.onnx()));
        }
        2 => tensor.dims.reverse(),
        3 => tensor.dims.insert(0, 1),
        4 => tensor.dims = vec![tensor.dims.iter().fold(1, |a, b| a.wrapping_mul(*b))],
        // Half of it, of a leading extent that no longer fits.
        5 => resize(tensor, rng),
        // The same bytes in another type of the same size.
        6 => {
            let types = [DType::F32, DType::I32, DType::I64, DType::F64, DType::F16, DType::I8];
            tensor.data_type = Some(types.choose(rng).unwrap().onnx());
        }
        7 => {
            if let Some(dim) = pick(&mut tensor.dims, rng) {
                *dim = number(rng);
            }
        }
        // What was an initializer becomes the value of a node, or sparse.
        _ => {
            let tensor = graph.initializer.remove(at);
            if rng.random() {
                let indices =
                    TensorProto { dims: vec![0], data_type: Some(DType::I64.onnx()), ..Default::default() };
                let dims = tensor.dims.clone();
                let sparse = SparseTensorProto { values: Some(tensor), indices: Some(indices), dims };
                graph.sparse_initializer.push(sparse);
                return;
            }
            let output = vec![tensor.name().to_owned()];
            let mut value =
                AttributeProto { name: Some("value".into()), t: Some(tensor), ..Default::default() };
            value.set_type(AttributeType::Tensor);
            let node = operator("Constant", Vec::new(), output);
            graph.node.insert(0, NodeProto { attribute: vec![value], ..node });
        }
    }
}

fn resize(tensor: &mut TensorProto, rng: &mut ChaCha8Rng) {
    let (Some(first), Some(raw)) = (tensor.dims.first().copied(), tensor.raw_data.clone()) else { return };
    if first < 1 {
        return;
    }
    let extent = rng.random_range(0..=first);
    let bytes = raw.len() / first as usize * extent as usize;
    tensor.dims[0] = extent;
    tensor.raw_data = Some(raw.slice(..bytes));
}

fn operator(name: &str, input: Vec<String>, output: Vec<String>) -> NodeProto {
    NodeProto { op_type: Some(name.to_owned()), input, output, ..Default::default() }
}

/// Which nodes there are, and in what order.
fn nodes(graph: &mut GraphProto, rng: &mut ChaCha8Rng) {
    let Some(at) = index(&graph.node, rng) else { return };
    match rng.random_range(0..5) {
        0 => drop(graph.node.remove(at)),
        1 => {
            let mut copy = graph.node[at].clone();
            copy.output.iter_mut().for_each(|name| *name = format!("{name}_copy"));
            graph.node.push(copy);
        }
        2 => {
            let Some(other) = index(&graph.node, rng) else { return };
            graph.node.swap(at, other);
        }
        // Another name of a value, which a reader or the caller takes.
        3 => {
            let node = &mut graph.node[at];
            let Some(slot) = index(&node.input, rng) else { return };
            let alias = format!("{}_alias", node.input[slot]);
            let original = std::mem::replace(&mut node.input[slot], alias.clone());
            if rng.random() {
                graph.output.push(ValueInfoProto { name: Some(alias.clone()), ..Default::default() });
            }
            graph.node.insert(at, operator("Identity", vec![original], vec![alias]));
        }
        _ => rename(graph, rng),
    }
}

/// Gives a value another name everywhere, perhaps one that is taken.
fn rename(graph: &mut GraphProto, rng: &mut ChaCha8Rng) {
    let values = values(graph);
    let (Some(old), Some(other)) = (values.choose(rng), values.choose(rng)) else { return };
    let new = match rng.random_range(0..4) {
        0 => other.clone(),
        1 => "n".repeat(10_000),
        _ => (*NAMES.choose(rng).unwrap()).to_owned(),
    };
    let infos = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
    let infos = infos.flat_map(|info| &mut info.name);
    let tensors = graph.initializer.iter_mut().flat_map(|tensor| &mut tensor.name);
    let wires = graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output));
    infos.chain(tensors).chain(wires).filter(|name| *name == old).for_each(|name| name.clone_from(&new));
}

/// What goes in and comes out.
fn interface(graph: &mut GraphProto, values: &[String], rng: &mut ChaCha8Rng) {
    let Some(value) = values.choose(rng).cloned() else { return };
    let info = ValueInfoProto { name: Some(value), ..Default::default() };
    match rng.random_range(0..8) {
        0 => graph.output.push(info),
        1 => graph.output.extend(graph.output.first().cloned()),
        2 => drop(graph.output.pop()),
        3 => {
            if let Some(tensor) = graph.initializer.choose(rng) {
                graph.input.push(ValueInfoProto { name: tensor.name.clone(), ..Default::default() });
            }
        }
        4 => graph.value_info.push(ValueInfoProto { r#type: Some(shape(rng)), ..info }),
        5 => {
            if let Some(input) = pick(&mut graph.input, rng) {
                input.r#type = Some(shape(rng));
            }
        }
        6 => {
            if let Some(output) = pick(&mut graph.output, rng) {
                output.r#type = Some(shape(rng));
            }
        }
        _ => {
            graph.input.push(ValueInfoProto { name: Some("spare".into()), r#type: Some(shape(rng)), ..info })
        }
    }
}

fn shape(rng: &mut ChaCha8Rng) -> TypeProto {
    let dim = (0..rng.random_range(0..4)).map(|_| {
        let value = match rng.random_range(0..3) {
            0 => Some(dimension::Value::DimValue(number(rng))),
            1 => Some(dimension::Value::DimParam("N".into())),
            _ => None,
        };
        Dimension { value, ..Default::default() }
    });
    let shape = TensorShapeProto { dim: dim.collect() };
    let tensor = type_proto::Tensor { elem_type: Some(rng.random_range(0..17)), shape: Some(shape) };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }
}

/// Moves a node into the branches of an If, the body of a Loop or a function, or lets such a body read a value.
fn captures(graph: &mut GraphProto, rng: &mut ChaCha8Rng) {
    let Some(at) = index(&graph.node, rng) else { return };
    let inner = graph.node[at].clone();
    let outputs: Vec<String> = inner.output.iter().filter(|name| !name.is_empty()).cloned().collect();
    let results = outputs.iter().map(|name| format!("{name}_inner"));
    let results: Vec<_> =
        results.map(|name| ValueInfoProto { name: Some(name), ..Default::default() }).collect();
    let mut body = GraphProto { name: Some("body".into()), output: results, ..Default::default() };
    body.node = vec![inner];
    for node in &mut body.node {
        let named = node.output.iter_mut().filter(|name| !name.is_empty());
        named.for_each(|name| *name = format!("{name}_inner"));
    }
    let condition = TensorProto {
        name: Some("condition".into()),
        data_type: Some(DType::Bool.onnx()),
        raw_data: Some(Bytes::from_static(&[1])),
        ..Default::default()
    };
    let (name, attributes) = match rng.random_range(0..3) {
        0 => ("If", &["then_branch", "else_branch"][..]),
        1 => ("Loop", &["body"][..]),
        _ => ("Scan", &["body"][..]),
    };
    let attribute = attributes.iter().map(|name| {
        let mut attribute =
            AttributeProto { name: Some((*name).to_owned()), g: Some(body.clone()), ..Default::default() };
        attribute.set_type(AttributeType::Graph);
        attribute
    });
    let node =
        NodeProto { attribute: attribute.collect(), ..operator(name, vec!["condition".to_owned()], outputs) };
    if graph.initializer.iter().all(|tensor| tensor.name() != "condition") {
        graph.initializer.push(condition);
    }
    // The node stays as well, under other names, so that what is captured has other readers.
    let mut old = std::mem::replace(&mut graph.node[at], node);
    if rng.random() {
        old.output.iter_mut().filter(|name| !name.is_empty()).for_each(|name| *name = format!("{name}_old"));
        graph.node.push(old);
    }
}

/// Operator sets, format versions, domains, and functions.
fn imports(model: &mut ModelProto, rng: &mut ChaCha8Rng) {
    match rng.random_range(0..5) {
        0 => model.ir_version = Some(rng.random_range(2..16)),
        1 | 2 => {
            if let Some(import) = model.opset_import.first_mut() {
                import.version = Some(rng.random_range(6..28));
            }
        }
        3 => {
            let import = OperatorSetIdProto {
                domain: Some("com.microsoft".into()),
                version: Some(rng.random_range(0..3)),
            };
            model.opset_import.push(import);
        }
        _ => {
            // A node becomes a call of a function that does what it did.
            let Some(node) = model.graph.as_mut().and_then(|graph| pick(&mut graph.node, rng)) else {
                return;
            };
            let name = format!("f{}", model.functions.len());
            let call = NodeProto {
                domain: Some("local".into()),
                attribute: Vec::new(),
                ..operator(&name, node.input.clone(), node.output.clone())
            };
            let mut body = std::mem::replace(node, call);
            body.input = (0..body.input.len()).map(|i| format!("i{i}")).collect();
            body.output = (0..body.output.len()).map(|i| format!("o{i}")).collect();
            model.functions.push(FunctionProto {
                name: Some(name),
                domain: Some("local".into()),
                input: body.input.clone(),
                output: body.output.clone(),
                node: vec![body],
                opset_import: model.opset_import.clone(),
                ..Default::default()
            });
        }
    }
}
