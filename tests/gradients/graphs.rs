//! Random graphs, where values are used several times or not at all.

use std::collections::BTreeSet;

use optin_onnx::{
    graph::{Graph, Use},
    onnx::{
        build::value_info,
        proto::{AttributeProto, GraphProto, ModelProto, NodeProto, attribute_proto::AttributeType},
        tensor::from_tensor,
    },
    tensor::DType,
};
use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    case::{Values, finished, numbers, output},
    check::{Feed, of_dtype},
};

const SIZE: usize = 4;

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        op_type: Some(op.to_owned()),
        input: names(inputs),
        output: names(outputs),
        ..Default::default()
    }
}

fn with_ints(mut node: NodeProto, name: &str, values: &[i64]) -> NodeProto {
    let mut attribute = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
    match values {
        [value] => {
            attribute.set_type(AttributeType::Int);
            attribute.i = Some(*value);
        }
        _ => {
            attribute.set_type(AttributeType::Ints);
            attribute.ints = values.to_vec();
        }
    }
    node.attribute.push(attribute);
    node
}

/// Values of shape `[batch, 4, 4]`, each made from random ones before it. The last one and some others are outputs.
pub fn random(rng: &mut ChaCha8Rng) -> ModelProto {
    let mut graph = GraphProto { name: Some("random".to_owned()), ..Default::default() };
    graph.input.push(value_info("input", DType::F64, 3));
    let weight = numbers(rng, &[SIZE, SIZE], Values::Any, &mut Vec::new());
    graph.initializer.push(from_tensor("weight", &of_dtype(&weight, DType::F64)));
    let mut values = vec!["start".to_owned()];
    graph.node.push(node("Identity", &["input"], &["start"]));
    for i in 0..12 {
        let (a, b) = (values.choose(rng).unwrap().clone(), values.choose(rng).unwrap().clone());
        let (a, b, y) = (a.as_str(), b.as_str(), format!("v{i}"));
        let (first, second) = (format!("{y}a"), format!("{y}b"));
        match rng.random_range(0..10) {
            0 => graph.node.push(node("Tanh", &[a], &[&y])),
            1 => graph.node.push(node("Sin", &[a], &[&y])),
            2 => graph.node.push(with_ints(node("Softmax", &[a], &[&y]), "axis", &[-1])),
            3 => graph.node.push(with_ints(node("Transpose", &[a], &[&y]), "perm", &[0, 2, 1])),
            4 => graph.node.push(node("Add", &[a, b], &[&y])),
            5 => graph.node.push(node("Mul", &[a, b], &[&y])),
            6 => {
                graph.node.push(node("Tanh", &[b], &[&first]));
                graph.node.push(node("MatMul", &[a, &first], &[&y]));
            }
            7 => graph.node.push(node("MatMul", &[a, "weight"], &[&y])),
            8 => {
                graph.node.push(with_ints(node("ReduceMean", &[a], &[&first]), "axes", &[1, 2]));
                graph.node.push(node("Sub", &[b, &first], &[&y]));
            }
            _ => {
                // One part is used twice, the other not at all.
                graph.node.push(with_ints(node("Split", &[a], &[&first, &second]), "axis", &[1]));
                graph.node.push(with_ints(node("Concat", &[&second, &second], &[&y]), "axis", &[1]));
            }
        }
        values.push(y);
    }
    graph.output = values.iter().rev().step_by(5).map(|name| output(name)).collect();
    finished(graph, 13)
}

/// About half of the operands that are computed.
pub fn some_uses(model: &ModelProto, rng: &mut ChaCha8Rng) -> BTreeSet<Use> {
    let graph = Graph::new(model);
    let uses = graph.nodes().flat_map(|(node, n)| (0..n.inputs.len()).map(move |slot| Use { node, slot }));
    let computed =
        |at: &Use| graph.node(at.node).inputs[at.slot].is_some_and(|v| graph.producer(v).is_some());
    uses.filter(computed).filter(|_| rng.random()).collect()
}

pub fn feed(batch: usize, rng: &mut ChaCha8Rng) -> Feed {
    let values = numbers(rng, &[batch, SIZE, SIZE], Values::Any, &mut Vec::new());
    vec![("input".to_owned(), of_dtype(&values, DType::F64))]
}
