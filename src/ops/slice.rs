//! Slice.

use super::schema::{OpSchema, OperatorForm, any, onnx, slots};
use super::{
    AxisFlow, DataPropagation, EditError, IndexFlow, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper,
    Operator, Selected, gradient::one_hot,
};
use crate::{onnx::proto::NodeProto, widths::PinReason};

slots! {
    slot:
    DATA = any("data"),
    STARTS = integer("starts").since(10).follows(),
    ENDS = integer("ends").since(10).follows(),
    AXES = integer("axes").optional().since(10),
    STEPS = integer("steps").optional().since(10),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Slice", &[1, 10, 11, 13], &Slice).reads(slot::ALL).makes(&[any("output")])
        .forms(&[
            OperatorForm::of("bounds as attributes").until(9), OperatorForm::of("int64 bounds").since(10),
            OperatorForm::of("int32 bounds").since(10), OperatorForm::of("a step").since(10),
        ]),
];

/// Takes a range of one or more axes.
pub(super) struct Slice;

/// A range of an axis, as the operator clamps it.
#[derive(Clone, Copy)]
struct Range {
    axis: usize,
    start: usize,
    end: usize,
    step: i64,
}

impl Operator for Slice {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let mut axes = node.axes(slot::DATA)?;
        let shape = node.shape(slot::DATA)?;
        let result = node.result_shape(0)?;
        if result.len() != axes.len() {
            return Err(node.unsupported("a result of another rank"));
        }
        for (i, range) in ranges(node, shape)?.into_iter().enumerate() {
            let whole = axes[range.axis];
            // Where the bounds differ between inputs, so do the entries that they take.
            if !(node.is_pinned(whole)
                || node.is_input_invariant(slot::STARTS, i) && node.is_input_invariant(slot::ENDS, i))
            {
                node.pin(whole, PinReason::Indexed);
            }
            let taken = range.end.saturating_sub(range.start);
            axes[range.axis] = if range.step == 1 && taken == shape[range.axis] {
                whole
            } else if range.step == 1 && taken > 0 {
                let sizes = [range.start, taken, shape[range.axis] - range.end];
                node.split_concat(whole, &sizes)[1]
            } else {
                let reason = PinReason::Rearranged("Slice".to_owned());
                node.pin(whole, reason.clone());
                node.fixed(result[range.axis], reason)
            };
        }
        node.set(0, axes);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        let sliced = parsed(node, node.shape(slot::DATA).ok()?)?;
        let flow = if slot == slot::DATA { AxisFlow::Along(axis) } else { AxisFlow::Same };
        (!sliced.iter().any(|range| range.axis == axis)).then_some(flow)
    }

    fn tail(&self, node: &NodeCx<'_>) -> Option<(usize, usize)> {
        let shape = node.shape(slot::DATA).ok()?;
        let (ranges, ends) = (parsed(node, shape)?, node.ints_or_operand("ends", slot::ENDS)?);
        let ([range], [end], true) = (ranges.as_slice(), ends.as_slice(), node.is_constant(slot::STARTS))
        else {
            return None;
        };
        // However far the axis extends, and not only as far as it was observed to.
        let whole = *end >= i64::from(i32::MAX) && range.step == 1;
        whole.then_some((range.axis, range.start))
    }

    fn selection(&self, node: &NodeCx<'_>) -> Option<Selected> {
        let constant = |slot| node.input(slot).is_none() || node.is_constant(slot);
        let is_constant = [slot::STARTS, slot::ENDS, slot::AXES, slot::STEPS].into_iter().all(constant);
        let bounds = |name, slot| node.ints_or_operand(name, slot);
        let (starts, ends) = (bounds("starts", slot::STARTS)?, bounds("ends", slot::ENDS)?);
        let (&[start], &[end]) = (starts.as_slice(), ends.as_slice()) else { return None };
        let range = *parsed(node, node.shape(slot::DATA).ok()?)?.first().filter(|_| is_constant)?;
        // Counted from one end of the axis alone, however far it extends.
        let (first, past) = match (start < 0, end) {
            (false, end) if end > 0 && range.end as i64 == end => (start, end),
            (true, end) if end < 0 => (start, end),
            (true, end) if range.end as i64 <= end => (start, 0),
            _ => return None,
        };
        let count = i64::try_from(range.end.saturating_sub(range.start)).ok()?;
        let fits = range.step == 1 && past.checked_sub(first)? == count;
        fits.then(|| Selected { axis: range.axis, entries: (first..past).collect(), squeezed: false })
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let shape = node.shape(slot::DATA)?;
        let ranges = parsed(node, shape).ok_or_else(|| node.unsupported("bounds that were not observed"))?;
        let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
        let mut g = node.g()?;
        for range in ranges {
            if range.step == 1 {
                before[range.axis] = range.start;
                after[range.axis] = shape[range.axis].saturating_sub(range.end.max(range.start));
                continue;
            }
            let taken = node.result_shape(0)?[range.axis];
            let origin = |i: usize| range.origin(i, shape[range.axis]);
            let matrix: Vec<Vec<f32>> = (0..taken).map(|i| one_hot(origin(i), shape[range.axis])).collect();
            g = g.apply_matrix(range.axis, shape.len(), &matrix);
        }
        node.set_cotangent(slot::DATA, g.pad(&before, &after));
        Ok(())
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        let elements = flow.elements_or_constants(slot::DATA)?;
        if flow.is_data_dependent(slot::STARTS) || flow.is_data_dependent(slot::ENDS) {
            return None;
        }
        let start = *flow.contents(slot::STARTS)?.first()?;
        let end = *flow.contents(slot::ENDS)?.first()?;
        let step = flow.contents(slot::STEPS).map_or(Some(1), |s| s.first().copied())?;
        let n = elements.len() as i64;
        let clamp = |x: i64| if x < 0 { (x + n).max(0) } else { x.min(n) } as usize;
        if step != 1 {
            return None;
        }
        flow.set(elements.get(clamp(start)..clamp(end))?.to_vec())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let axes = node.axes(slot::DATA);
        if axes.iter().all(|a| node.old_size(*a) == node.new_size(*a)) {
            return Ok(());
        }
        let shape: Vec<usize> = axes.iter().map(|a| node.old_size(*a)).collect();
        let ranges = parsed(node, &shape).ok_or_else(|| node.error("its bounds do not fit its operand"))?;
        let mut bounds = (vec![None; ranges.len()], vec![None; ranges.len()]);
        for (i, range) in ranges.iter().enumerate() {
            let Some(kept) = node.kept_entries(axes[range.axis]) else { continue };
            let before = |bound: usize| kept.partition_point(|entry| *entry < bound) as i64;
            bounds.0[i] = Some(before(range.start));
            bounds.1[i] = Some(before(range.end));
        }
        node.set_ints_or_elements("starts", slot::STARTS, &bounds.0)?;
        node.set_ints_or_elements("ends", slot::ENDS, &bounds.1)
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}

fn ranges(node: &NodeTyper<'_>, shape: &[usize]) -> Result<Vec<Range>, PinReason> {
    parsed(node, shape)
        .ok_or_else(|| node.unsupported("bounds that were not observed, or do not fit its operand"))
}

/// The ranges as attributes (before operator set 10) or operands say them.
fn parsed(node: &NodeCx<'_>, shape: &[usize]) -> Option<Vec<Range>> {
    let (starts, ends) =
        (node.ints_or_operand("starts", slot::STARTS)?, node.ints_or_operand("ends", slot::ENDS)?);
    let steps = node.contents(slot::STEPS).map(<[i64]>::to_vec);
    parse(shape, &starts, &ends, node.ints_or_operand("axes", slot::AXES), steps)
}

/// Bounds as the specification clamps them; negative steps keep the bounds they are written with.
fn parse(
    shape: &[usize],
    starts: &[i64],
    ends: &[i64],
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
) -> Option<Vec<Range>> {
    let rank = shape.len() as i64;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return None;
    }
    (0..starts.len())
        .map(|i| {
            let axis = usize::try_from(if axes[i] < 0 { axes[i] + rank } else { axes[i] }).ok()?;
            let n = *shape.get(axis)? as i64;
            let clamp = |x: i64| if x < 0 { x.saturating_add(n).max(0) } else { x.min(n) } as usize;
            Some(Range { axis, start: clamp(starts[i]), end: clamp(ends[i]), step: steps[i] })
        })
        .collect()
}

impl Range {
    /// The entry of the operand that entry `i` of the result is.
    fn origin(&self, i: usize, extent: usize) -> usize {
        let start = (self.start as i64).min(extent as i64 - 1);
        usize::try_from(start + i as i64 * self.step).unwrap_or(0)
    }
}
