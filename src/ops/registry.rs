//! The operators that have rules: what their families declare.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    Contract, Operator, activation, along, attention, concat, conv, einsum, elementwise, expand, experts,
    fused, gather, grid, matmul, microsoft, normalization, pad, pool, quantize, recurrent, reduce, reshape,
    resize, rotary, scatter, shape, slice, softmax, space, transpose,
};
use crate::{
    graph::{Graph, Node},
    onnx::{
        self,
        proto::{NodeProto, type_proto::Value},
    },
};

/// The families, each after the file that declares it.
static FAMILIES: &[(&str, &&[Contract])] = &[
    ("activation", &activation::OPERATORS),
    ("along", &along::OPERATORS),
    ("attention", &attention::OPERATORS),
    ("concat", &concat::OPERATORS),
    ("conv", &conv::OPERATORS),
    ("einsum", &einsum::OPERATORS),
    ("elementwise", &elementwise::OPERATORS),
    ("expand", &expand::OPERATORS),
    ("experts", &experts::OPERATORS),
    ("fused", &fused::OPERATORS),
    ("gather", &gather::OPERATORS),
    ("grid", &grid::OPERATORS),
    ("matmul", &matmul::OPERATORS),
    ("microsoft", &microsoft::OPERATORS),
    ("normalization", &normalization::OPERATORS),
    ("pad", &pad::OPERATORS),
    ("pool", &pool::OPERATORS),
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
    ("space", &space::OPERATORS),
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
pub fn contracts() -> impl Iterator<Item = (&'static str, &'static Contract)> {
    FAMILIES.iter().flat_map(|(family, contracts)| contracts.iter().map(move |contract| (*family, contract)))
}

/// The family of the node's operator, and what is declared of it, if it has rules.
fn declared(node: &NodeProto) -> Option<(&'static str, &'static Contract)> {
    type Declared = (&'static str, &'static Contract);
    static TABLE: OnceLock<HashMap<(&str, &str), Declared>> = OnceLock::new();
    let table = TABLE.get_or_init(|| contracts().map(|(f, c)| ((c.domain, c.name), (f, c))).collect());
    table.get(&(onnx::canonical_domain(node.domain()), node.op_type())).copied()
}

/// What is declared of the node's operator, if it has rules.
pub fn contract(node: &NodeProto) -> Option<&'static Contract> {
    declared(node).map(|(_, contract)| contract)
}

/// The family of the node's operator, after the file that declares it, if it has rules.
pub(super) fn family(node: &NodeProto) -> Option<&'static str> {
    declared(node).map(|(family, _)| family)
}

/// The same, where it covers the version that the graph's operator set has.
pub(super) fn covering(graph: &Graph, node: &Node) -> Option<&'static Contract> {
    contract(&node.proto).filter(|contract| contract.changed_by(graph.opset()).is_none())
}

/// The rules of the node's operator, where they cover its version.
pub(super) fn rule(graph: &Graph, node: &Node) -> Option<&'static dyn Operator> {
    covering(graph, node).map(|contract| contract.rule)
}

/// The rules of the node's operator, if it has any.
pub fn find(node: &NodeProto) -> Option<&'static dyn Operator> {
    contract(node).map(|contract| contract.rule)
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
        let names: Vec<_> = contracts().map(|(_, c)| (c.domain, c.name)).collect();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len());
    }

    #[test]
    fn versions_ascend_and_every_one_has_a_form() {
        for (_, contract) in contracts() {
            assert!(contract.since.is_sorted(), "{}", contract.name);
            for version in contract.since.iter().filter(|v| **v >= 7) {
                let mut variants = contract.variants(7);
                assert!(variants.any(|(v, _)| v == *version), "{} of version {version}", contract.name);
            }
        }
    }
}
