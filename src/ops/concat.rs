//! Concat and Split.

use super::schema::{OpSchema, OperatorForm, any, onnx, slots};
use super::{
    AxisFlow, DataPropagation, EditError, IndexFlow, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper,
    Operator,
};
use crate::{
    onnx::proto::NodeProto,
    widths::{PinReason, Width},
};

slots! {
    split:
    INPUT = any("input"),
    SIZES = int64("split").optional().since(13).follows(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Concat", &[1, 4, 11, 13], &Concat).reads(&[any("inputs").many()]).makes(&[any("concat_result")]),
    onnx("Split", &[1, 2, 11, 13, 18], &Split).reads(split::ALL).makes(&[any("outputs").many()])
        .forms(&[
            OperatorForm::of("evenly").until(17), OperatorForm::of("sizes as an attribute").until(12),
            OperatorForm::of("sizes as an operand").since(13), OperatorForm::of("a number of parts").since(18),
        ]),
];

/// Concatenates operands along `axis`.
pub(super) struct Concat;

impl Operator for Concat {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let operands = (0..node.input_count()).map(|slot| node.axes(slot)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = operands.first() else { return Err(node.unsupported("no operands")) };
        let axis = node.axis(node.int("axis").unwrap_or(0), first.len())?;
        if operands.iter().any(|o| o.len() != first.len()) {
            return Err(node.unsupported("operands of different ranks"));
        }
        let mut result = first.clone();
        for operand in &operands[1..] {
            for (i, (&a, &b)) in first.iter().zip(operand).enumerate() {
                if i != axis {
                    node.unify(a, b);
                }
            }
        }
        let segments: Vec<_> = operands.iter().map(|o| o[axis]).collect();
        // Operands of one entry each: every one may go.
        let single = segments.iter().all(|s| *s == Width::ONE);
        result[axis] = if single { node.fresh(segments.len()) } else { node.concat(&segments) };
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let joined = node.axis(node.int("axis").unwrap_or(0), node.shape(slot).ok()?.len()).ok()?;
        (axis != joined).then_some(AxisFlow::Along(axis))
    }

    fn listed(&self, node: &NodeCx<'_>, place: usize) -> Option<usize> {
        let single = (0..node.input_count()).all(|slot| node.shape(slot).is_ok_and(|shape| shape == [1]));
        (single && place < node.input_count()).then_some(place)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let g = node.g()?;
        let rank = node.result_shape(0)?.len();
        let axis = node.axis(node.int("axis").unwrap_or(0), rank)?;
        let mut start = 0;
        for slot in 0..node.input_count() {
            let end = start + node.shape(slot)?.get(axis).copied().unwrap_or(0);
            if node.needs(slot) {
                node.set_cotangent(slot, g.slice(axis, start, end));
            }
            start = end;
        }
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let (rank, single) = (node.axes(0).len(), node.input_count() > 1);
        let axis = node.axis(node.int("axis").unwrap_or(0), rank)?;
        let single = single && (0..node.input_count()).all(|s| node.axes(s).get(axis) == Some(&Width::ONE));
        let result = node.result_axes(0).get(axis).filter(|_| single);
        if let Some(entries) = result.and_then(|a| node.kept_entries(*a)) {
            node.select_result(axis, &entries);
        }
        Ok(())
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        let mut all = Vec::new();
        for slot in 0..flow.input_count() {
            all.extend(flow.elements_or_constants(slot)?);
        }
        flow.set(all)
    }

    fn index_flow(&self, _node: &NodeProto, _slot: usize) -> Option<IndexFlow> {
        Some(IndexFlow::Passed)
    }
}

/// Splits an axis into segments: by sizes (an attribute before operator set 13, an operand since), or evenly.
pub(super) struct Split;

impl Operator for Split {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(split::INPUT)?;
        let axis = node.axis(node.int("axis").unwrap_or(0), x.len())?;
        let sizes = (0..node.output_count())
            .map(|slot| node.result_shape(slot).map(|shape| shape.get(axis).copied().unwrap_or(0)))
            .collect::<Result<Vec<_>, _>>()?;
        // Where the sizes differ between inputs, so do the entries that a segment has.
        if !(node.is_pinned(x[axis]) || (0..sizes.len()).all(|i| node.is_input_invariant(split::SIZES, i))) {
            node.pin(x[axis], PinReason::Indexed);
        }
        if sizes.iter().sum::<usize>() != node.size(x[axis]) {
            return Err(node.unsupported("segments that do not fill the axis"));
        }
        for (slot, segment) in node.split_concat(x[axis], &sizes).into_iter().enumerate() {
            let mut result = x.clone();
            result[axis] = segment;
            node.set(slot, result);
        }
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let parted = node.axis(node.int("axis").unwrap_or(0), node.shape(split::INPUT).ok()?.len()).ok()?;
        let flow = if slot == split::INPUT { AxisFlow::Along(axis) } else { AxisFlow::Same };
        (axis != parted).then_some(flow)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let axis = node.axis(node.int("axis").unwrap_or(0), node.shape(split::INPUT)?.len())?;
        let mut parts = Vec::with_capacity(node.output_count());
        for slot in 0..node.output_count() {
            parts.push(match node.cotangent(slot) {
                Some(cotangent) => cotangent,
                None => node.y(slot)?.zeros(),
            });
        }
        if let Some(whole) = node.tail().concat(&parts, axis) {
            node.set_cotangent(split::INPUT, whole);
        }
        Ok(())
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.split_elements()
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let rank = node.axes(split::INPUT).len();
        let axis = node.axis(node.int("axis").unwrap_or(0), rank)?;
        if node.old_size(node.axes(split::INPUT)[axis]) == node.new_size(node.axes(split::INPUT)[axis]) {
            return Ok(());
        }
        let sizes: Vec<i64> = (0..node.output_count())
            .map(|slot| node.result_axes(slot).get(axis).map_or(0, |a| node.new_size(*a) as i64))
            .collect();
        if node.opset() < 13 {
            node.set_ints("split", sizes);
        } else if node.has(split::SIZES) {
            node.set_operand(split::SIZES, &sizes);
        } else if sizes.windows(2).any(|pair| pair[0] != pair[1]) {
            node.remove_attribute("num_outputs");
            node.set_operand(split::SIZES, &sizes);
        }
        Ok(())
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}
