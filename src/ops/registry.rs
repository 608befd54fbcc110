//! The operators that have rules: what their families declare.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    OpSchema, Operator, activation, attention, concat, contrib_attention, contrib_fused, conv,
    depth_to_space, einsum, elementwise, expand, gather, grid_sample, matmul, moe, normalization, pad, pool,
    positional, quantize, recurrent, reduce, reshape, resize, rotary, scatter, shape, slice, softmax, topk,
    transpose,
};
use crate::{
    graph::{Graph, Node},
    onnx::{
        self,
        proto::{NodeProto, type_proto::Value},
    },
};

/// The families, each after the file that declares it.
static FAMILIES: &[(&str, &&[OpSchema])] = &[
    ("activation", &activation::OPERATORS),
    ("attention", &attention::OPERATORS),
    ("concat", &concat::OPERATORS),
    ("contrib_attention", &contrib_attention::OPERATORS),
    ("contrib_fused", &contrib_fused::OPERATORS),
    ("conv", &conv::OPERATORS),
    ("depth_to_space", &depth_to_space::OPERATORS),
    ("einsum", &einsum::OPERATORS),
    ("elementwise", &elementwise::OPERATORS),
    ("expand", &expand::OPERATORS),
    ("gather", &gather::OPERATORS),
    ("grid_sample", &grid_sample::OPERATORS),
    ("matmul", &matmul::OPERATORS),
    ("moe", &moe::OPERATORS),
    ("normalization", &normalization::OPERATORS),
    ("pad", &pad::OPERATORS),
    ("pool", &pool::OPERATORS),
    ("positional", &positional::OPERATORS),
    ("quantize", &quantize::OPERATORS),
    ("recurrent", &recurrent::OPERATORS),
    ("reduce", &reduce::OPERATORS),
    ("reshape", &reshape::OPERATORS),
    ("resize", &resize::OPERATORS),
    ("rotary", &rotary::OPERATORS),
    ("scatter", &scatter::OPERATORS),
    ("shape", &shape::OPERATORS),
    ("slice", &slice::OPERATORS),
    ("softmax", &softmax::OPERATORS),
    ("topk", &topk::OPERATORS),
    ("transpose", &transpose::OPERATORS),
];

/// Operators whose results are sequences or optionals, not tensors.
static CONTAINERS: &[&str] = &[
    "Optional",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
];

/// Whether the node's results are tensors, as far as the node and its bodies tell.
pub fn makes_tensors(node: &NodeProto) -> bool {
    let bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    let types =
        bodies.flat_map(|body| &body.output).filter_map(|output| output.r#type.as_ref()?.value.as_ref());
    let mut containers =
        types.filter(|t| matches!(t, Value::SequenceType(_) | Value::OptionalType(_) | Value::MapType(_)));
    !CONTAINERS.contains(&node.op_type()) && containers.next().is_none()
}

/// What is declared of every operator, and its family.
pub fn schemas() -> impl Iterator<Item = (&'static str, &'static OpSchema)> {
    FAMILIES.iter().flat_map(|(family, schemas)| schemas.iter().map(move |schema| (*family, schema)))
}

/// The family of the node's operator, and what is declared of it, if it has rules.
fn declared(node: &NodeProto) -> Option<(&'static str, &'static OpSchema)> {
    type Declared = (&'static str, &'static OpSchema);
    static TABLE: OnceLock<HashMap<(&str, &str), Declared>> = OnceLock::new();
    let table = TABLE.get_or_init(|| schemas().map(|(f, c)| ((c.domain, c.name), (f, c))).collect());
    table.get(&(onnx::canonical_domain(node.domain()), node.op_type())).copied()
}

/// What is declared of the node's operator, if it has rules.
pub fn schema(node: &NodeProto) -> Option<&'static OpSchema> {
    declared(node).map(|(_, schema)| schema)
}

/// The family of the node's operator, after the file that declares it, if it has rules.
pub(super) fn family(node: &NodeProto) -> Option<&'static str> {
    declared(node).map(|(family, _)| family)
}

/// The same, where it covers the version that the graph's operator set has.
pub(super) fn covering(graph: &Graph, node: &Node) -> Option<&'static OpSchema> {
    schema(&node.proto).filter(|schema| schema.unsupported_since(graph.opset()).is_none())
}

/// The rules of the node's operator, where they cover its version.
pub(super) fn rule(graph: &Graph, node: &Node) -> Option<&'static dyn Operator> {
    covering(graph, node).map(|schema| schema.rule)
}

/// The rules of the node's operator, if it has any.
pub fn find(node: &NodeProto) -> Option<&'static dyn Operator> {
    schema(node).map(|schema| schema.rule)
}

/// The operator's name, with its domain where that is not ONNX's own.
pub fn operator_name(node: &NodeProto) -> String {
    match onnx::canonical_domain(node.domain()) {
        "" => node.op_type().to_owned(),
        domain => format!("{domain}.{}", node.op_type()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operator_is_declared_once() {
        let names: Vec<_> = schemas().map(|(_, c)| (c.domain, c.name)).collect();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
    }

    #[test]
    fn versions_ascend_and_every_one_has_a_form() {
        for (_, schema) in schemas() {
            assert!(schema.since.is_sorted(), "{}", schema.name);
            for version in schema.since.iter().filter(|v| **v >= 7) {
                let mut variants = schema.variants(7);
                assert!(variants.any(|(v, _)| v == *version), "{} of version {version}", schema.name);
            }
        }
    }
}
