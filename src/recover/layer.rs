//! The layers that recovery corrects: sums with constant weights, from the first pruned one on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use crate::{
    graph::{Facts, Graph, NodeId, ValueId},
    model::ModelView,
    onnx::is_float,
    ops::{self, Linear, NodeCx},
    trajectory::{Addend, Waypoint, after_residual},
    widths::{Contraction, Kept},
};

/// Why a layer is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum LeftReason {
    /// The operator, or this form of it, is not known to be a matrix product.
    Form { op: String },
    /// The weight is not a floating-point constant of the file.
    Computed,
    /// Other operands read the same weight: a copy of its own would make the model larger.
    Shared,
    /// Its result was not observed.
    Unobserved,
    /// Samples come in one batch: nothing could be held out.
    Samples,
    /// Its result has another number of positions in some batches.
    Positions,
    /// No correction lowers the error on samples that it was not fitted to.
    NoGain,
    /// It could not be measured, or not be written.
    Failed { why: String },
}

impl fmt::Display for LeftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form { op } => write!(f, "this form of {op} is not known to be a matrix product"),
            Self::Computed => f.write_str("its weight is computed"),
            Self::Shared => f.write_str("its weight is shared"),
            Self::Unobserved => f.write_str("its result was not observed"),
            Self::Samples => f.write_str("the samples make one batch, so none can be held out"),
            Self::Positions => f.write_str("its positions vary among batches"),
            Self::NoGain => f.write_str("no correction helps on held-out samples"),
            Self::Failed { why } => f.write_str(why),
        }
    }
}

/// A layer to be corrected. Values and nodes go by names of values, which outlast edits of the pruned model.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// For people.
    pub name: String,
    /// The first result of the node.
    pub result: String,
    /// The operand that is read and its axis that is summed.
    pub operand: (usize, usize),
    /// The slot of the weight.
    pub weight: usize,
    /// Axes of the node's result that follow its features.
    pub trailing: usize,
    /// The node as a matrix product.
    pub linear: Linear,
    /// Where the result is compared, and its axis that holds features.
    pub waypoint: (String, usize),
    /// What stays of the axes of the dense waypoint.
    pub kept: Vec<Option<Vec<usize>>>,
    /// Per feature that stays: what a change of the result is multiplied by until the waypoint.
    pub gain: Vec<f64>,
    /// A constant that is added to the result: the first result of the node that adds it, and where and how.
    pub bias: Option<(String, Addend)>,
    /// Whether there is a constant that can take a correction of the bias.
    pub biased: bool,
    /// Entries summed over, per group.
    pub entries: usize,
}

impl Layer {
    /// What the layer reads in the pruned model; `None` where the layer is gone.
    pub fn read_value(&self, graph: &Graph) -> Option<ValueId> {
        graph.node(graph.producer(graph.find(&self.result)?)?).input(self.operand.0)
    }

    /// What stays of an axis of the dense waypoint; `None`: all of it.
    pub fn kept_of(&self, axis: usize) -> Option<&Vec<usize>> {
        self.kept.get(axis).and_then(Option::as_ref)
    }
}

/// The layers that pruning touches, in the order of the pruned network, each with the reason if it is to be left: those that
/// sum over a pruned width, and those that read, or are added to, what such layers make.
///
/// `pruned` and `facts` are the pruned model's graph and what one run of it showed.
pub(super) fn layers(
    view: ModelView<'_>,
    kept: &Kept,
    pruned: &Graph,
    facts: &Facts,
) -> Vec<Result<Layer, (String, LeftReason)>> {
    let dynamic = view.graph.dynamic();
    let touched = touched(view, kept, pruned);
    let mut found = BTreeMap::new();
    for contraction in &view.widths.contractions {
        if contraction.weight.is_none() {
            continue;
        }
        let name = view.graph.node(contraction.node).outputs.first().copied().flatten();
        let name = name.map(|v| &view.graph.value(v).name);
        let Some(id) = name.and_then(|n| pruned.producer(pruned.find(n)?)) else { continue };
        let label = view.graph.node(contraction.node).label().to_owned();
        let layer = layer(view, &dynamic, kept, contraction, (pruned, facts, id));
        let compared = layer.as_ref().ok().and_then(|l| pruned.producer(pruned.find(&l.waypoint.0)?));
        if touched.contains(&compared.unwrap_or(id)) {
            found.entry(id).or_insert_with(|| layer.map_err(|reason| (label, reason)));
        }
    }
    found.into_values().collect()
}

/// Nodes of the pruned graph whose results depend on a sum over a pruned width.
fn touched(view: ModelView<'_>, kept: &Kept, pruned: &Graph) -> BTreeSet<NodeId> {
    let table = &view.widths.table;
    let sums = view.widths.contractions.iter().filter(|c| kept.size(table, c.width) < table.size(c.width));
    let nodes = sums.filter_map(|c| {
        let result = view.graph.node(c.node).outputs.first().copied().flatten()?;
        pruned.producer(pruned.find(&view.graph.value(result).name)?)
    });
    pruned.descendants(nodes)
}

fn layer(
    view: ModelView<'_>,
    dynamic: &[bool],
    kept: &Kept,
    contraction: &Contraction,
    (pruned, facts, id): (&Graph, &Facts, NodeId),
) -> Result<Layer, LeftReason> {
    let node = pruned.node(id);
    let form = || LeftReason::Form { op: node.op_type().to_owned() };
    let weight = contraction.weight.ok_or_else(form)?.slot;
    let feature = contraction.feature.ok_or_else(form)?;
    let value = node.inputs.get(weight).copied().flatten().ok_or(LeftReason::Computed)?;
    let tensor = pruned.constant(value).filter(|t| is_float(t)).ok_or(LeftReason::Computed)?;
    if !pruned.is_read_once(value) {
        return Err(LeftReason::Shared);
    }
    let rule = ops::find(&node.proto).ok_or_else(form)?;
    let linear = rule.linear(&NodeCx::new(pruned, facts, id), weight).ok_or_else(form)?;
    let result = view.graph.node(contraction.node).outputs.first().copied().flatten();
    let result = result.ok_or(LeftReason::Unobserved)?;
    let rank = view.facts.get(result).map_or(0, |fact| fact.shape.len());
    let trailing = rank.checked_sub(feature + 1).ok_or(LeftReason::Unobserved)?;
    let start = Waypoint { value: result, feature };
    let path =
        after_residual(view.graph, view.facts, view.widths, dynamic, start).ok_or(LeftReason::Unobserved)?;
    let axes = view.widths.value(path.end.value).ok_or(LeftReason::Unobserved)?;
    let entries: Vec<_> = axes.iter().map(|a| kept.entries(&view.widths.table, *a)).collect();
    let features = entries.get(path.end.feature).ok_or(LeftReason::Unobserved)?.clone();
    let stay = |gain: &[f64]| match &features {
        Some(features) => features.iter().filter_map(|f| gain.get(*f).copied()).collect(),
        None => gain.to_vec(),
    };
    let gain = stay(&path.gain);
    let weights: usize = tensor.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).product();
    let name = |v| view.graph.value(v).name.clone();
    let own = linear.bias.and_then(|bias| pruned.constant(node.inputs.get(bias.slot).copied().flatten()?));
    Ok(Layer {
        biased: own.is_some() || path.bias.is_some(),
        name: node.label().to_owned(),
        result: name(result),
        operand: (contraction.slot, contraction.axis),
        weight,
        trailing,
        waypoint: (name(path.end.value), path.end.feature),
        entries: weights / gain.len().max(1),
        bias: path.bias.and_then(|addend| {
            let sum = view.graph.node(addend.at.node).outputs.first().copied().flatten()?;
            Some((name(sum), Addend { gain: stay(&addend.gain), ..addend }))
        }),
        gain,
        kept: entries,
        linear,
    })
}
