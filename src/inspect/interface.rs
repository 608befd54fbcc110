//! What a model is from outside: its inputs and outputs, operator sets and operators.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    onnx::{
        canonical_domain,
        proto::{ModelProto, ValueInfoProto, tensor_shape_proto::dimension},
        tensor_type,
    },
    ops,
    report::{Block, Detail, Holds, Section, Table},
    tensor::DType,
};

/// The extent of an axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Extent {
    /// Fixed by the model.
    Fixed(i64),
    /// Open, with a name.
    Named(String),
    /// Open.
    Open,
}

/// An input or an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The type of its elements; absent for what is no tensor, or of a type unknown here.
    pub dtype: Option<String>,
    /// Its shape, as far as the model says it.
    pub shape: Option<Vec<Extent>>,
}

/// What a model is from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// What has to be fed.
    pub inputs: Vec<Port>,
    /// What comes out.
    pub outputs: Vec<Port>,
    /// Versions of the operator sets that it imports.
    pub opsets: BTreeMap<String, i64>,
    /// How many nodes of each operator there are outside of subgraphs.
    pub operators: BTreeMap<String, usize>,
}

impl Interface {
    /// As the model declares it.
    pub fn of(model: &ModelProto) -> Self {
        let graph = model.graph.as_ref();
        let constants: BTreeSet<&str> =
            graph.iter().flat_map(|g| &g.initializer).map(|tensor| tensor.name()).collect();
        let inputs = graph.iter().flat_map(|g| &g.input).filter(|info| !constants.contains(info.name()));
        let mut operators = BTreeMap::new();
        for node in graph.iter().flat_map(|g| &g.node) {
            *operators.entry(ops::operator_name(node)).or_default() += 1;
        }
        let set = |domain: &str| match canonical_domain(domain) {
            "" => "ai.onnx".to_owned(),
            other => other.to_owned(),
        };
        Self {
            inputs: inputs.map(port).collect(),
            outputs: graph.iter().flat_map(|g| &g.output).map(port).collect(),
            opsets: model.opset_import.iter().map(|o| (set(o.domain()), o.version())).collect(),
            operators,
        }
    }
}

impl Interface {
    /// What goes in and comes out, and what the model is made of.
    pub(super) fn section(&self) -> Section {
        let columns =
            [("", Holds::Text), ("name", Holds::Text), ("type", Holds::Text), ("shape", Holds::Text)];
        let mut ports = Table::new(columns);
        let inputs = self.inputs.iter().map(|port| ("input", port));
        for (role, port) in inputs.chain(self.outputs.iter().map(|port| ("output", port))) {
            let dtype = port.dtype.as_deref().unwrap_or("?");
            ports.push([role.into(), port.name.as_str().into(), dtype.into(), port.shape_text().into()]);
        }
        let sets: Vec<String> = self.opsets.iter().map(|(set, version)| format!("{set} {version}")).collect();
        let mut counts: Vec<_> = self.operators.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        let operators = format!("operators ({}): {}", sets.join(", "), counts.join(", "));
        Section::new("interface", Detail::Brief, vec![Block::Table(ports), Block::paragraph(operators)])
    }
}

fn port(info: &ValueInfoProto) -> Port {
    let tensor = tensor_type(info);
    let dtype = tensor.and_then(|tensor| DType::from_onnx(tensor.elem_type()));
    let extent = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(n)) if *n >= 0 => Extent::Fixed(*n),
        Some(dimension::Value::DimParam(name)) if !name.is_empty() => Extent::Named(name.clone()),
        _ => Extent::Open,
    };
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
    Port {
        name: info.name().to_owned(),
        dtype: dtype.map(|dtype| dtype.to_string()),
        shape: shape.map(|shape| shape.dim.iter().map(|d| extent(&d.value)).collect()),
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Named(name) => f.write_str(name),
            Self::Open => f.write_str("?"),
        }
    }
}

impl Port {
    /// The shape for people.
    pub fn shape_text(&self) -> String {
        let Some(shape) = &self.shape else { return "?".to_owned() };
        format!("[{}]", shape.iter().map(Extent::to_string).collect::<Vec<_>>().join(", "))
    }
}
