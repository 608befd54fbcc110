//! What the graph does with each input, told from its structure alone: names of inputs carry no guarantee.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
};

use crate::{
    onnx::{
        self, node_constant,
        proto::{GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto},
        tensor::to_tensor,
    },
    ops::{self, IndexFlow},
    tensor::DType,
};

/// What an input is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRole {
    /// Indices into a table: tokens, positions, segments.
    Ids {
        /// Ids from 0 up to but not including this are valid for every constant table they index; `None` when only computed
        /// tensors are indexed, whose extents the graph does not tell.
        rows: Option<usize>,
    },
    /// Integers or truth values that are no indices: they say what is to be attended to, 0 being padding.
    Mask,
    /// Anything else: numbers to compute with, such as pixels.
    Feature,
}

/// The role of every input that is fed at run time (so not of initializers), in graph order.
///
/// An integer input is [`InputRole::Ids`] when operators that keep or shift integers lead from it to the indices of a
/// `Gather`, a `OneHot` or an `EmbedLayerNormalization`, in the graph or in the bodies of its control flow. Of the other
/// integer and bool inputs, 8-bit images (uint8 with four axes) are [`InputRole::Feature`], the rest [`InputRole::Mask`].
pub fn input_roles(model: &ModelProto) -> Vec<(String, InputRole)> {
    let Some(graph) = &model.graph else { return Vec::new() };
    let flow = Flow::new(graph);
    let role = |value| match tensor_type(value) {
        Some((dtype, shape)) if !dtype.is_float() => match flow.indexed_rows(value.name()) {
            Some(rows) => InputRole::Ids { rows },
            None if dtype == DType::U8 && shape.is_some_and(|s| s.dim.len() == 4) => InputRole::Feature,
            None => InputRole::Mask,
        },
        _ => InputRole::Feature,
    };
    runtime_inputs(graph).into_iter().map(|value| (value.name().to_owned(), role(value))).collect()
}

/// Who makes and who uses each value. Subgraphs may not reuse outer names (ONNX IR specification, "Names Within a
/// Graph"), so their nodes stand beside those of the main graph.
struct Flow<'a> {
    constants: HashMap<&'a str, Cow<'a, TensorProto>>,
    producers: HashMap<&'a str, &'a NodeProto>,
    /// Node and position among its inputs.
    consumers: HashMap<&'a str, Vec<(&'a NodeProto, usize)>>,
}

impl<'a> Flow<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut flow =
            Self { constants: HashMap::new(), producers: HashMap::new(), consumers: HashMap::new() };
        flow.add(graph);
        flow
    }

    fn add(&mut self, graph: &'a GraphProto) {
        self.constants.extend(graph.initializer.iter().map(|t| (t.name(), Cow::Borrowed(t))));
        for node in &graph.node {
            for (slot, value) in node.input.iter().enumerate() {
                self.consumers.entry(value).or_default().push((node, slot));
            }
            self.producers.extend(node.output.iter().map(|value| (value.as_str(), node)));
            if let (Some(value), Some(tensor)) = (node.output.first(), node_constant(node)) {
                self.constants.insert(value, Cow::Owned(tensor));
            }
            for attribute in &node.attribute {
                attribute.g.iter().chain(&attribute.graphs).for_each(|body| self.add(body));
            }
        }
    }

    /// How many ids are valid for all constant tables that `input` indexes, if any is constant; `None` when it does not
    /// index anything.
    fn indexed_rows(&self, input: &'a str) -> Option<Option<usize>> {
        let mut smallest = None;
        let mut seen = HashSet::from([input]);
        // Values that are the input, or parts of it, plus at most `offset`.
        let mut queue = vec![(input, 0i64)];
        while let Some((value, offset)) = queue.pop() {
            for &(node, slot) in self.consumers.get(value).into_iter().flatten() {
                if let Some(rows) = self.table_rows(node, slot) {
                    let rows = rows.and_then(|rows| valid_ids(rows, offset));
                    smallest = Some([smallest.flatten(), rows].into_iter().flatten().min());
                } else if let Some(shift) = self.shift(node, slot) {
                    let outputs = node.output.iter().map(String::as_str);
                    let new = outputs.filter(|output| seen.insert(output));
                    queue.extend(new.map(|output| (output, offset.saturating_add(shift))));
                }
            }
        }
        smallest
    }

    /// If input number `slot` of the node holds indices: the extent of what they index, if known.
    fn table_rows(&self, node: &NodeProto, slot: usize) -> Option<Option<usize>> {
        Some(match ops::find(node)?.index_flow(node, slot)? {
            IndexFlow::Indexes { table, axis } => {
                node.input.get(table).and_then(|table| self.extent(table, axis))
            }
            IndexFlow::Below { depth } => {
                let depth = node.input.get(depth).and_then(|depth| self.bounds(depth));
                depth.and_then(|(depth, _)| usize::try_from(depth).ok())
            }
            IndexFlow::Passed | IndexFlow::Plus(_) | IndexFlow::Minus(_) => return None,
        })
    }

    /// Extent of a constant along `axis`, seen through changes of its element type.
    fn extent(&self, mut value: &'a str, axis: i64) -> Option<usize> {
        // Graphs are acyclic, but files may lie.
        for _ in 0..self.producers.len() + 1 {
            if let Some(tensor) = self.constants.get(value) {
                let rank = i64::try_from(tensor.dims.len()).ok()?;
                let axis = if axis < 0 { axis + rank } else { axis };
                return usize::try_from(*tensor.dims.get(usize::try_from(axis).ok()?)?).ok();
            }
            let node = self.producers.get(value)?;
            value = node.input.first().filter(|_| ops::find(node).is_some_and(|rule| rule.is_cast()))?;
        }
        None
    }

    /// If the outputs of the node are elements of its input number `slot`, possibly shifted: by how much at most. What is
    /// not constant counts as no shift.
    fn shift(&self, node: &NodeProto, slot: usize) -> Option<i64> {
        let bounds = |slot: usize| node.input.get(slot).and_then(|value| self.bounds(value));
        match ops::find(node)?.index_flow(node, slot)? {
            IndexFlow::Passed => Some(0),
            IndexFlow::Plus(other) => Some(bounds(other).map_or(0, |(_, max)| max)),
            IndexFlow::Minus(other) => Some(bounds(other).map_or(0, |(min, _)| min.saturating_neg())),
            IndexFlow::Indexes { .. } | IndexFlow::Below { .. } => None,
        }
    }

    /// Smallest and largest element of an integer constant.
    fn bounds(&self, value: &str) -> Option<(i64, i64)> {
        let ints = to_tensor(self.constants.get(value)?).ok()?.to_ints()?;
        Some((*ints.iter().min()?, *ints.iter().max()?))
    }
}

/// How many ids from 0 on stay within `rows` when `offset` is added to them; `None` when even 0 does not.
fn valid_ids(rows: usize, offset: i64) -> Option<usize> {
    let ids = i64::try_from(rows).ok()?.checked_sub(offset)?;
    usize::try_from(ids).ok().filter(|&ids| ids > 0)
}

/// The graph inputs that are fed at run time: up to IR version 3 initializers had to be listed as inputs too, and since
/// then an input with an initializer has a default value.
pub(super) fn runtime_inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let dense = graph.initializer.iter().filter_map(|t| t.name.as_deref());
    let sparse = graph.sparse_initializer.iter().filter_map(|t| t.values.as_ref()?.name.as_deref());
    let constants: BTreeSet<&str> = dense.chain(sparse).collect();
    graph.input.iter().filter(|input| !constants.contains(input.name())).collect()
}

/// Element type and shape of a tensor value; `None` when it is anything else.
pub(super) fn tensor_type(value: &ValueInfoProto) -> Option<(DType, Option<&TensorShapeProto>)> {
    let tensor = onnx::tensor_type(value)?;
    Some((DType::from_onnx(tensor.elem_type())?, tensor.shape.as_ref()))
}
