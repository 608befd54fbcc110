//! Rewriting: slices constants, and lets operators bring attributes and shape operands up to date.
//!
//! What nothing asks to change stays as the file has it, and what nothing reads goes: keeping every unit gives a model without
//! dead weights back, byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{Facts, Graph, NodeId, Patch, Use, ValueId, tidy},
    onnx::{
        OnnxError, pages,
        proto::{ModelProto, TensorProto},
        tensor::{from_tensor, to_tensor},
    },
    ops::{self, EditError, NodeEditor},
    tensor::Tensor,
    widths::{Element, Kept, Pin, PinReason, Width, Widths},
};

/// Why a model could not be rewritten, and which widths would have to keep their extent for it.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// A node could not follow.
    #[error("{error}")]
    Edit {
        /// The node, and what is in its way.
        error: EditError,
        /// The free widths that shrink and that the node's axes are made of, or that its operands say sizes of; ascending.
        widths: Vec<Width>,
    },
    /// A constant could not be sliced.
    #[error("constant {name} cannot be sliced: {error}")]
    Constant {
        /// Its name.
        name: String,
        /// What is in the way.
        error: Box<OnnxError>,
        /// The free widths that shrink and that its axes are made of; ascending.
        widths: Vec<Width>,
    },
}

impl RewriteError {
    /// The free widths that asked for the edit, one or more: when all of them keep their extent it is not needed.
    pub fn widths(&self) -> &[Width] {
        match self {
            Self::Edit { widths, .. } | Self::Constant { widths, .. } => widths,
        }
    }

    /// Why these widths have to keep their extent.
    pub fn pin(&self) -> Pin {
        match self {
            Self::Edit { error, .. } => {
                let what = format!("{}: {}", error.op, error.what);
                Pin::new(&error.node, PinReason::Uneditable(what))
            }
            Self::Constant { name, error, .. } => Pin::new(name, PinReason::Uneditable(error.to_string())),
        }
    }
}

/// The model without the units that `kept` leaves out.
///
/// # Errors
/// When a node or a constant cannot follow. The caller may freeze [`RewriteError::widths`] and plan anew.
pub fn rewrite(
    model: &ModelProto,
    graph: &Graph,
    facts: &Facts,
    widths: &Widths,
    kept: &Kept,
) -> Result<ModelProto, RewriteError> {
    let mut patch = Patch::default();
    edit(graph, facts, widths, kept, &mut patch)?;
    keep_annotations(model, graph, widths, kept, &mut patch);
    let mut pruned = patch.apply(model);
    tidy(&mut pruned);
    Ok(pruned)
}

/// Adds to a patch what slices constants and lets nodes follow.
pub(crate) fn edit(
    graph: &Graph,
    facts: &Facts,
    widths: &Widths,
    kept: &Kept,
    patch: &mut Patch,
) -> Result<(), RewriteError> {
    slice_constants(graph, widths, kept, patch)?;
    select_per_use(graph, widths, kept, patch);
    let restored = restored(widths, kept);
    for (id, _) in graph.nodes() {
        let shrinking = around(graph, widths, kept, id);
        if !shrinking.is_empty() {
            NodeEditor::new(graph, facts, widths, kept, &restored, patch, id)
                .run()
                .map_err(|error| RewriteError::Edit { error, widths: shrinking })?;
        }
    }
    Ok(())
}

/// The free widths that shrink and that the axes of a node are made of, or that its operands say sizes of; ascending.
fn around(graph: &Graph, widths: &Widths, kept: &Kept, id: NodeId) -> Vec<Width> {
    let node = graph.node(id);
    let operands = (0..node.input_count()).filter_map(|slot| widths.operand(graph, Use { node: id, slot }));
    let results = node.outputs.iter().flatten().filter_map(|value| widths.value(*value));
    let sizes = node.inputs.iter().flatten().filter_map(|value| widths.sizes(*value));
    let propagated = sizes.flatten().flat_map(Element::widths);
    shrinking(widths, kept, operands.chain(results).flatten().copied().chain(propagated))
}

/// The free widths that shrink among those that `whole` are made of, ascending.
fn shrinking(widths: &Widths, kept: &Kept, whole: impl Iterator<Item = Width>) -> Vec<Width> {
    let table = &widths.table;
    let atoms = whole.flat_map(|width| table.atoms(width));
    let shrinking: BTreeSet<Width> = atoms.filter(|atom| kept.shrinks(table, *atom)).collect();
    shrinking.into_iter().collect()
}

/// Keeps the shape annotations of values none of whose axes shrinks. Those of values without widths are only known to
/// hold when nothing shrinks at all.
pub(crate) fn keep_annotations(
    model: &ModelProto,
    graph: &Graph,
    widths: &Widths,
    kept: &Kept,
    patch: &mut Patch,
) {
    for info in model.graph.iter().flat_map(|g| &g.value_info) {
        let holds = match graph.find(info.name()).and_then(|value| widths.value(value)) {
            Some(axes) => !axes.iter().any(|a| kept.shrinks(&widths.table, *a)),
            None => kept.is_everything(),
        };
        if holds {
            patch.keep_annotation(info.name());
        }
    }
}

/// Widths that shrink and from whose extents something is computed: a head's share of the features, the batch from an axis
/// that holds it, a scale. Such arithmetic is only right on the dense extents.
fn restored(widths: &Widths, kept: &Kept) -> BTreeSet<Width> {
    let shrinks = |w: &Width| widths.table.size(*w) != kept.size(&widths.table, *w);
    let computed = widths.sizes.iter().flatten().flatten().filter(|e| matches!(e, Element::Computed(_)));
    let widths_of = computed.flat_map(Element::widths).chain(widths.counted.iter().copied());
    widths_of.filter(shrinks).map(|w| widths.table.root(w)).collect()
}

/// For each axis of a constant, the entries that stay, ascending; `None` for all.
type Slices = Vec<Option<Vec<usize>>>;

/// Slices every use of a constant that shrinks. An initializer that nothing reads but uses that shrink alike is sliced in
/// place; otherwise uses that shrink alike share a copy, and all others keep the old constant.
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
        for (slices, uses) in variants {
            if slices.iter().all(Option::is_none) {
                continue;
            }
            let failed = |error| {
                let name = graph.value(*value).name.clone();
                let axes = uses.iter().filter_map(|at| widths.constants.get(at)).flatten().copied();
                RewriteError::Constant { name, error: Box::new(error), widths: shrinking(widths, kept, axes) }
            };
            if graph.is_initializer_of(*value, uses) {
                patch.constant(sliced(tensor, tensor.name(), slices).map_err(failed)?);
                continue;
            }
            let name = patch.fresh(graph, &graph.value(*value).name);
            patch.constant(sliced(tensor, &name, slices).map_err(failed)?);
            for at in uses {
                patch.rewire(*at, name.clone());
            }
        }
    }
    Ok(())
}

/// Puts a Gather before every use of a computed value that shrinks while the value does not.
fn select_per_use(graph: &Graph, widths: &Widths, kept: &Kept, patch: &mut Patch) {
    for (&at, axes) in &widths.per_use {
        let node = graph.node(at.node);
        for (axis, width) in axes.iter().enumerate() {
            let (Some(entries), Some(value)) = (kept.entries(&widths.table, *width), node.inputs[at.slot])
            else {
                continue;
            };
            let whole = patch.rewired(at).unwrap_or(&graph.value(value).name).to_owned();
            let (indices, selected) = (patch.fresh(graph, "indices"), patch.fresh(graph, "selected"));
            let batch = widths.batch.filter(|batch| widths.table.leads(*width, *batch));
            let samples = batch.map_or(1, |batch| widths.table.size(batch)).max(1);
            // The entries of a sample; those of the next follow.
            let entries: Vec<i64> = entries[..entries.len() / samples].iter().map(|e| *e as i64).collect();
            let entries = Tensor::ints(&entries);
            if batch.is_none() {
                patch.constant(from_tensor(&indices, &entries));
            } else {
                let listed = patch.fresh(graph, "entries");
                patch.constant(from_tensor(&listed, &entries));
                let period = widths.table.size(*width) / samples;
                let (nodes, constants) = ops::per_sample(&indices, [&whole, &listed], axis, period);
                constants.into_iter().for_each(|constant| patch.constant(constant));
                nodes.into_iter().for_each(|node| patch.insert(at.node, node));
            }
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
    // What is left is in memory of its own.
    pages::release_of(tensor.raw_data.as_deref().unwrap_or_default());
    for (axis, kept) in entries.iter().enumerate() {
        if let Some(kept) = kept {
            sliced = sliced.select(axis, kept);
        }
    }
    Ok(from_tensor(name, &sliced))
}
