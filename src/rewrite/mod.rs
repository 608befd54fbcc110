//! Rewriting: slices constants, and lets operators bring attributes and shape operands up to date.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{Facts, Graph, Patch, Use, ValueId},
    onnx::{
        OnnxError,
        proto::{
            GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto,
        },
        tensor::{from_tensor, to_tensor},
    },
    ops::{self, EditError, NodeEditor},
    tensor::Tensor,
    widths::{Element, Kept, Width, Widths},
};

/// Why a model could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A node could not follow.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A constant could not be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

/// The model without the units that `kept` leaves out.
pub fn rewrite(
    model: &ModelProto,
    graph: &Graph,
    facts: &Facts,
    widths: &Widths,
    kept: &Kept,
) -> Result<ModelProto, RewriteError> {
    let mut patch = Patch::default();
    slice_constants(graph, widths, kept, &mut patch)?;
    select_views(graph, widths, kept, &mut patch);
    let restored = restored(widths, kept);
    for (id, node) in graph.nodes() {
        if let Some(rule) = ops::find(&node.proto) {
            rule.rewrite(&mut NodeEditor::new(graph, facts, widths, kept, &restored, &mut patch, id))?;
        }
    }
    let mut pruned = patch.apply(model);
    drop_unused(&mut pruned);
    Ok(pruned)
}

/// Widths that shrink and from whose extents something is computed: a head's share of the features, the batch from an axis
/// that holds it. Such arithmetic is only right on the dense extents.
fn restored(widths: &Widths, kept: &Kept) -> BTreeSet<Width> {
    let shrinks = |w: &Width| widths.table.size(*w) != kept.size(&widths.table, *w);
    let computed = widths.sizes.iter().flatten().flatten().filter(|e| matches!(e, Element::Computed(_)));
    computed.flat_map(Element::widths).filter(shrinks).map(|w| widths.table.root(w)).collect()
}

/// Which entries of each axis of a constant stay.
type Slices = Vec<Option<Vec<usize>>>;

/// Slices every use of a constant that shrinks. An initializer all of whose uses shrink alike is sliced in place; otherwise
/// uses that shrink alike share a copy, and the others keep the old constant.
fn slice_constants(
    graph: &Graph,
    widths: &Widths,
    kept: &Kept,
    patch: &mut Patch,
) -> Result<(), RewriteError> {
    let mut wanted: BTreeMap<ValueId, BTreeMap<Slices, Vec<Use>>> = BTreeMap::new();
    for (at, axes) in widths.constants() {
        let slices = axes.iter().map(|a| kept.entries(&widths.table, *a)).collect();
        if let Some(value) = graph.node(at.node).inputs[at.slot] {
            wanted.entry(value).or_default().entry(slices).or_default().push(at);
        }
    }
    for (value, variants) in &wanted {
        let Some(tensor) = graph.constant(*value) else { continue };
        for (number, (slices, uses)) in variants.iter().enumerate() {
            if slices.iter().all(Option::is_none) {
                continue;
            }
            if variants.len() == 1 && graph.is_initializer(*value) {
                patch.constant(sliced(tensor, tensor.name(), slices)?);
                continue;
            }
            let name = format!("{}__pruned{number}", graph.value(*value).name);
            patch.constant(sliced(tensor, &name, slices)?);
            for at in uses {
                patch.rewire(*at, name.clone());
            }
        }
    }
    Ok(())
}

/// Puts a selection before every use of a computed value that shrinks by itself.
fn select_views(graph: &Graph, widths: &Widths, kept: &Kept, patch: &mut Patch) {
    for (&at, axes) in &widths.views {
        let node = graph.node(at.node);
        for (axis, width) in axes.iter().enumerate() {
            let (Some(entries), Some(value)) = (kept.entries(&widths.table, *width), node.inputs[at.slot])
            else {
                continue;
            };
            let whole = patch.rewired(at).unwrap_or(&graph.value(value).name).to_owned();
            let entries: Vec<i64> = entries.iter().map(|e| *e as i64).collect();
            let (indices, selected) = (patch.fresh("indices"), patch.fresh("selected"));
            patch.constant(from_tensor(&indices, &Tensor::ints(&entries)));
            patch.insert(at.node, ops::gather(&selected, [whole, indices], axis));
            patch.rewire(at, selected);
        }
    }
}

fn sliced(
    tensor: &TensorProto,
    name: &str,
    entries: &[Option<Vec<usize>>],
) -> Result<TensorProto, OnnxError> {
    let mut sliced = to_tensor(tensor)?;
    for (axis, kept) in entries.iter().enumerate() {
        if let Some(kept) = kept {
            sliced = sliced.select(axis, kept);
        }
    }
    Ok(from_tensor(name, &sliced))
}

/// Drops initializers and nodes whose results nobody reads.
pub fn drop_unused(model: &mut ModelProto) {
    let Some(graph) = model.graph.as_mut() else { return };
    let mut read: BTreeSet<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
    let mut kept: Vec<NodeProto> = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node).into_iter().rev() {
        if node.output.iter().any(|name| read.contains(name)) || node.output.is_empty() {
            read.extend(node.input.iter().cloned());
            read.extend(crate::graph::captured_names(&node));
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    // Initializers of old files are listed as inputs as well.
    let listed =
        |graph: &GraphProto| graph.initializer.iter().map(|t| t.name().to_owned()).collect::<BTreeSet<_>>();
    let before = listed(graph);
    graph.initializer.retain(|t| read.contains(t.name()));
    let after = listed(graph);
    graph.input.retain(|i| !before.contains(i.name()) || after.contains(i.name()));
    for input in &mut graph.input {
        if let Some(tensor) = graph.initializer.iter().find(|t| t.name() == input.name()) {
            restate_shape(input, &tensor.dims);
        }
    }
    // Since version 4 of the format initializers need not be inputs; copies that were made for single uses are not.
    if model.ir_version() < 4 {
        model.ir_version = Some(4);
    }
}

fn restate_shape(info: &mut ValueInfoProto, dims: &[i64]) {
    let value = info.r#type.as_mut().and_then(|t| t.value.as_mut());
    let Some(type_proto::Value::TensorType(tensor)) = value else { return };
    let Some(shape) = tensor.shape.as_mut() else { return };
    for (dim, size) in shape.dim.iter_mut().zip(dims) {
        dim.value = Some(tensor_shape_proto::dimension::Value::DimValue(*size));
    }
}
