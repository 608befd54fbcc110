//! Gather.

use super::schema::{OpSchema, OperatorForm, any, onnx, slots};
use super::{
    AxisFlow, DataPropagation, EditError, IndexFlow, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper,
    Operator,
};
use crate::{
    graph::Expr,
    onnx::{
        attr_int, int_attribute,
        proto::{NodeProto, TensorProto},
        tensor::from_tensor,
    },
    tensor::{DType, Tensor},
    widths::{PinReason, Width},
};

slots! {
    slot:
    DATA = any("data"),
    INDICES = integer("indices"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Gather", &[1, 11, 13], &Gather).reads(slot::ALL).makes(&[any("output")])
        .forms(&[OperatorForm::of("one entry"), OperatorForm::of("a range"), OperatorForm::of("entries out of order")]),
];

/// Constant entries of an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The axis.
    pub axis: usize,
    /// The entries, in order; negative ones count from the end.
    pub entries: Vec<i64>,
    /// Whether the result lacks the axis, of which one entry is selected.
    pub squeezed: bool,
}

/// Picks entries of one axis by index: embeddings, the CLS token, one of q, k and v.
pub(super) struct Gather;

impl Operator for Gather {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (data, indices) = (node.axes(slot::DATA)?, node.axes(slot::INDICES)?);
        let axis = node.axis(node.int("axis").unwrap_or(0), data.len())?;
        let listed = indices.len() <= 1;
        if let Some(taken) = listed.then(|| segment(node, data[axis])).flatten() {
            let mut result = data.clone();
            result.splice(axis..=axis, indices.first().map(|_| taken));
            node.set(0, result);
            return Ok(());
        }
        node.pin(data[axis], PinReason::Indexed);
        let mut result = data[..axis].to_vec();
        result.extend(indices);
        result.extend(&data[axis + 1..]);
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let (data, indices) = (node.shape(slot::DATA).ok()?.len(), node.shape(slot::INDICES).ok()?.len());
        let first = node.axis(node.int("axis").unwrap_or(0), data).ok()?;
        match (axis.checked_sub(first), slot) {
            (None, slot::DATA) => Some(AxisFlow::Along(axis)),
            (Some(place), slot::INDICES) if place < indices => Some(AxisFlow::Along(place)),
            (Some(place), slot::DATA) if place >= indices => Some(AxisFlow::Along(axis + 1 - indices)),
            _ => Some(AxisFlow::Same),
        }
    }

    fn selection(&self, node: &NodeCx<'_>) -> Option<Selected> {
        let axis = node.axis(node.int("axis").unwrap_or(0), node.shape(slot::DATA).ok()?.len()).ok()?;
        let squeezed = node.shape(slot::INDICES).ok()?.is_empty();
        let listed = node.is_constant(slot::INDICES) && node.shape(slot::INDICES).ok()?.len() <= 1;
        let entries = node.contents(slot::INDICES).filter(|_| listed)?.to_vec();
        Some(Selected { axis, entries, squeezed })
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (x, rank) = (node.x(slot::DATA)?, node.shape(slot::DATA)?.len());
        let axis = node.axis(node.int("axis").unwrap_or(0), rank)?;
        let (extents, indices) = (x.shape(), node.x(slot::INDICES)?.cast(DType::I64));
        // The axes of the indices, of which there may be none, as one.
        let g = match node.shape(slot::INDICES)?.len() {
            0 => node.g()?.unsqueeze(&[axis]),
            1 => node.g()?,
            _ => {
                let (before, after) = (extents.slice(0, 0, axis), extents.slice(0, axis + 1, rank));
                let shape = node.tail().concat(&[before, indices.num_elements().reshape(&[1]), after], 0);
                node.g()?.reshape_to(shape.unwrap_or(extents))
            }
        };
        let picks = picks(node, axis, indices)?.cast(g.dtype());
        let single = node.shape(slot::INDICES)?.iter().product::<usize>() == 1;
        node.set_cotangent(
            slot::DATA,
            if single {
                g * picks.reshape(&[&[-1], &vec![1; rank - 1 - axis][..]].concat())
            } else {
                g.apply_computed_matrix(axis, rank, picks)
            },
        );
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let Some(rank) = Some(node.axes(slot::DATA).len()).filter(|_| node.is_constant(slot::INDICES)) else {
            return Ok(());
        };
        let axis = node.axis(node.int("axis").unwrap_or(0), rank)?;
        follow(node, node.axes(slot::DATA)[axis])
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        let elements = flow.elements_or_constants(slot::DATA)?;
        let n = elements.len() as i64;
        let indices = flow.contents(slot::INDICES).filter(|_| !flow.is_data_dependent(slot::INDICES))?;
        let picked =
            indices.iter().map(|&i| elements.get(usize::try_from(if i < 0 { i + n } else { i }).ok()?));
        let picked: Vec<_> = picked.map(|e| e.cloned()).collect::<Option<_>>()?;
        flow.set(picked)
    }

    fn index_flow(&self, node: &NodeProto, operand: usize) -> Option<IndexFlow> {
        match operand {
            slot::DATA => Some(IndexFlow::Passed),
            slot::INDICES => {
                Some(IndexFlow::Indexes { table: slot::DATA, axis: attr_int(node, "axis").unwrap_or(0) })
            }
            _ => None,
        }
    }
}

/// What a range of constant indices takes from an axis that may shrink: a segment, as Slice does.
pub(super) fn segment(node: &mut NodeTyper<'_>, axis: Width) -> Option<Width> {
    let (start, count) = range(node, axis)?;
    let sizes = [start, count, node.size(axis) - start - count];
    Some(node.split_concat(axis, &sizes)[1])
}

/// Brings constant indices of an axis up to date with the entries of it that stay.
pub(super) fn follow(node: &mut NodeEditor<'_>, axis: Width) -> Result<(), EditError> {
    let (Some(kept), Some(indices)) = (node.kept_entries(axis), node.contents(slot::INDICES)) else {
        return Ok(());
    };
    let size = node.old_size(axis) as i64;
    let indices = indices.iter().map(|i| if *i < 0 { *i + size } else { *i } as usize);
    let places = indices.filter_map(|i| kept.binary_search(&i).ok()).map(|place| place as i64);
    let places: Vec<i64> = places.collect();
    node.set_indices(slot::INDICES, &places)
}

/// Start and length of the range that constant indices take.
fn range(node: &NodeTyper<'_>, axis: Width) -> Option<(usize, usize)> {
    if !node.is_constant(slot::INDICES) || node.is_pinned(axis) {
        return None;
    }
    let (indices, size) = (node.contents(slot::INDICES)?, node.size(axis) as i64);
    let indices: Vec<i64> = indices.iter().map(|i| if *i < 0 { i + size } else { *i }).collect();
    let start = *indices.first().filter(|start| **start >= 0)?;
    let consecutive = indices.iter().zip(start..).all(|(index, expected)| *index == expected);
    let fits = start + indices.len() as i64 <= size;
    (consecutive && fits).then_some((start as usize, indices.len()))
}

/// `[indices, extent]`: where an index is a place of the axis. Made at run time, as indices may depend on the inputs, and
/// the extent on the batch.
fn picks<'a>(node: &NodeGradient<'a>, axis: usize, indices: Expr<'a>) -> Result<Expr<'a>, NoGradient> {
    let extent = node.x(slot::DATA)?.shape().slice(0, axis, axis + 1);
    let places = if node.opset() >= 11 {
        let [first, step] = [0, 1].map(|n| Some(node.tail().constant(&Tensor::int(n))));
        node.tail().node("Range", &[first, Some(extent.squeeze(&[0])), step], &[], DType::I64)
    } else {
        let places: Vec<i64> = (0..node.shape(slot::DATA)?[axis] as i64).collect();
        node.tail().constant(&Tensor::ints(&places))
    };
    let column = indices.reshape(&[-1, 1]);
    // Negative indices count from the end.
    Ok(column.equals(places).apply("Or", &[column.equals(places - extent)], &[]))
}

/// A node that selects the entries of an axis of `data` that `indices` lists.
pub fn gather(result: &str, [data, indices]: [String; 2], axis: usize) -> NodeProto {
    NodeProto {
        op_type: Some("Gather".to_owned()),
        name: Some(format!("{result}_gather")),
        input: vec![data, indices],
        output: vec![result.to_owned()],
        attribute: vec![int_attribute("axis", axis as i64)],
        ..Default::default()
    }
}

/// Nodes that compute `indices` for [`gather`] where an axis holds samples, each with `period` entries of which a constant
/// lists those that are wanted; and the constants that they read.
pub fn per_sample(
    indices: &str,
    [data, entries]: [&str; 2],
    axis: usize,
    period: usize,
) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let name = |part: &str| format!("{indices}_{part}");
    let numbers = [("axis", axis as i64), ("period", period as i64), ("zero", 0), ("one", 1)];
    let mut constants: Vec<_> =
        numbers.iter().map(|(part, n)| from_tensor(&name(part), &Tensor::int(*n))).collect();
    constants.push(from_tensor(&name("column"), &Tensor::ints(&[-1, 1])));
    constants.push(from_tensor(&name("row"), &Tensor::ints(&[-1])));
    let node = |op: &str, inputs: [&str; 2], result: &str| NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(result.to_owned()),
        input: inputs.iter().filter(|i| !i.is_empty()).map(|i| (*i).to_owned()).collect(),
        output: vec![result.to_owned()],
        ..Default::default()
    };
    let mut range = node("Range", [&name("zero"), &name("samples")], &name("range"));
    range.input.push(name("one"));
    let nodes = vec![
        node("Shape", [data, ""], &name("shape")),
        node("Gather", [&name("shape"), &name("axis")], &name("extent")),
        node("Div", [&name("extent"), &name("period")], &name("samples")),
        range,
        node("Mul", [&name("range"), &name("period")], &name("starts")),
        node("Reshape", [&name("starts"), &name("column")], &name("rows")),
        node("Add", [&name("rows"), entries], &name("table")),
        node("Reshape", [&name("table"), &name("row")], indices),
    ];
    (nodes, constants)
}
