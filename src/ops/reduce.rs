//! Reductions.

use super::schema::{OpSchema, OperatorForm, any, float, int64, number, onnx, slots};
use super::{
    AxisFlow, DataPropagation, EditError, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper, Operator,
    Pooling,
};
use crate::{
    graph::Expr,
    widths::{PinReason, SlotAxis, Width},
};

slots! {
    slot:
        DATA = number("data"),
        AXES = int64("axes").optional().since(18),
}

/// Of reductions whose axes are an operand from operator set 18 on.
const FORMS: &[OperatorForm] = &[
    OperatorForm::of("all axes"),
    OperatorForm::of("axes as an attribute").until(17),
    OperatorForm::of("axes as an operand").since(18),
    OperatorForm::of("no axes").since(18),
];
/// Of ReduceSum, whose axes are an operand from operator set 13 on.
const SUM_FORMS: &[OperatorForm] = &[
    OperatorForm::of("all axes"),
    OperatorForm::of("axes as an attribute").until(12),
    OperatorForm::of("axes as an operand").since(13),
    OperatorForm::of("no axes").since(13),
];

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("ReduceL1", &[1, 11, 13, 18], &L1).reads(slot::ALL).makes(&[number("reduced")]).forms(FORMS),
    onnx("ReduceL2", &[1, 11, 13, 18], &L2).reads(slot::ALL).makes(&[number("reduced")]).forms(FORMS),
    onnx("ReduceLogSum", &[1, 11, 13, 18, 28], &LOG_SUM)
        .reads(&[float("data"), int64("axes").optional().since(18)]).makes(&[float("reduced")]).forms(FORMS),
    onnx("ReduceLogSumExp", &[1, 11, 13, 18, 28], &LOG_SUM_EXP)
        .reads(&[float("data"), int64("axes").optional().since(18)]).makes(&[float("reduced")]).forms(FORMS),
    onnx("ReduceMax", &[1, 11, 12, 13, 18, 20], &MAX_MIN)
        .reads(&[any("data"), int64("axes").optional().since(18)]).makes(&[any("reduced")]).forms(FORMS),
    onnx("ReduceMean", &[1, 11, 13, 18], &Mean).reads(slot::ALL).makes(&[number("reduced")]).forms(FORMS),
    onnx("ReduceMin", &[1, 11, 12, 13, 18, 20], &MAX_MIN)
        .reads(&[any("data"), int64("axes").optional().since(18)]).makes(&[any("reduced")]).forms(FORMS),
    onnx("ReduceProd", &[1, 11, 13, 18], &PRODUCT).reads(slot::ALL).makes(&[number("reduced")]).forms(FORMS),
    onnx("ReduceSum", &[1, 11, 13], &SUM)
        .reads(&[number("data"), int64("axes").optional().since(13)]).makes(&[number("reduced")]).forms(SUM_FORMS),
    onnx("ReduceSumSquare", &[1, 11, 13, 18], &SUM_SQUARE).reads(slot::ALL).makes(&[number("reduced")]).forms(FORMS),
];

/// Reductions to which a zero adds nothing (sums and norms): entries can go. With whether it is the sum itself.
pub(super) struct Additive(Slope, bool);

impl Operator for Additive {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        reduce(node, |node, width, axis| node.contraction(width, SlotAxis::new(slot::DATA, axis), None, None))
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        unreduced(node, slot, axis)
    }

    fn pooling(&self) -> Option<Pooling> {
        self.1.then_some(Pooling::Sum)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        reduce_gradient(node, self.0)
    }
}

/// Reductions that a removed entry would change even if it were zero: maxima, products, the logarithm of summed powers.
pub(super) struct NonAdditive(Slope);

impl Operator for NonAdditive {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        reduce(node, |node, width, _| {
            let reason = PinReason::Reduced(node.op_type().to_owned());
            node.pin(width, reason);
        })
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        unreduced(node, slot, axis)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        reduce_gradient(node, self.0)
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.join_elements()
    }
}

/// Means. Over the features of a position they are statistics of a normalisation, and pin. Over features that have no
/// positions left, such as the norms that global response normalisation (ConvNeXt V2) compares, they are sums, divided by
/// as many entries as the dense model has.
pub(super) struct Mean;

impl Operator for Mean {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let shape = node.shape(slot::DATA)?;
        reduce(node, |node, width, axis| {
            let has_positions = shape.iter().enumerate().skip(1).any(|(i, size)| i != axis && *size != 1);
            if axis == 0 || shape.len() < 3 || has_positions {
                let reason = PinReason::Reduced(node.op_type().to_owned());
                node.pin(width, reason);
            } else {
                node.contraction(width, SlotAxis::new(slot::DATA, axis), None, None);
            }
        })
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        unreduced(node, slot, axis)
    }

    fn pooling(&self) -> Option<Pooling> {
        Some(Pooling::Mean)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        reduce_gradient(node, |x, y, _| y.num_elements() / x.num_elements())
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.join_elements()
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let size =
            |of: &dyn Fn(Width) -> usize, axes: &[Width]| axes.iter().map(|a| of(*a)).product::<usize>();
        let (x, y) = (node.axes(slot::DATA), node.result_axes(0));
        let [old, new]: [&dyn Fn(Width) -> usize; 2] = [&|w| node.old_size(w), &|w| node.new_size(w)];
        // Entries that one result averages, before and after.
        let (old, new) = (size(old, x) / size(old, y).max(1), size(new, x) / size(new, y).max(1));
        if old == new { Ok(()) } else { node.scale_first_result(new as f32 / old as f32) }
    }
}

fn reduce(
    node: &mut NodeTyper<'_>,
    mut end: impl FnMut(&mut NodeTyper<'_>, Width, usize),
) -> Result<(), PinReason> {
    let x = node.axes(slot::DATA)?;
    let reduced = reduced_axes(
        x.len(),
        node.ints_or_operand("axes", slot::AXES).unwrap_or_default(),
        node.int("noop_with_empty_axes"),
        |axis| node.axis(axis, x.len()),
    )?;
    let keeps = node.int("keepdims").unwrap_or(1) != 0;
    let mut result = Vec::with_capacity(x.len());
    for (axis, &width) in x.iter().enumerate() {
        if !reduced.contains(&axis) {
            result.push(width);
            continue;
        }
        end(node, width, axis);
        if keeps {
            result.push(Width::ONE);
        }
    }
    node.set(0, result);
    Ok(())
}

/// The derivative of a reduction by its elements, as a formula over `x`, `y` and the axes between them.
type Slope = for<'a> fn(Expr<'a>, Expr<'a>, &[usize]) -> Expr<'a>;

fn reduce_gradient(node: &NodeGradient<'_>, slope: Slope) -> Result<(), NoGradient> {
    let (x, y, g) = (node.x(slot::DATA)?, node.y(0)?, node.g()?);
    let rank = node.shape(slot::DATA)?.len();
    let reduced = reduced_axes(
        rank,
        node.ints_or_operand("axes", slot::AXES).unwrap_or_default(),
        node.int("noop_with_empty_axes"),
        |axis| node.axis(axis, rank),
    )?;
    let keeps = node.int("keepdims").unwrap_or(1) != 0;
    let (g, y) = if keeps { (g, y) } else { (g.unsqueeze(&reduced), y.unsqueeze(&reduced)) };
    node.set_cotangent(slot::DATA, (g * slope(x, y, &reduced)).expand_like(x));
    Ok(())
}

/// The axis of the operand that an axis of the result is.
fn unreduced(node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
    if slot != slot::DATA {
        return Some(AxisFlow::Same);
    }
    let rank = node.shape(slot::DATA).ok()?.len();
    let listed = node.ints_or_operand("axes", slot::AXES).unwrap_or_default();
    let reduced = reduced_axes(rank, listed, node.int("noop_with_empty_axes"), |axis| node.axis(axis, rank));
    let (reduced, keeps) = (reduced.ok()?, node.int("keepdims").unwrap_or(1) != 0);
    let mut own = (0..rank).filter(|axis| keeps || !reduced.contains(axis));
    own.nth(axis).filter(|axis| !reduced.contains(axis)).map(AxisFlow::Along)
}

fn reduced_axes<E>(
    rank: usize,
    listed: Vec<i64>,
    noop_with_empty_axes: Option<i64>,
    axis: impl Fn(i64) -> Result<usize, E>,
) -> Result<Vec<usize>, E> {
    if listed.is_empty() && noop_with_empty_axes.unwrap_or(0) == 0 {
        return Ok((0..rank).collect());
    }
    listed.into_iter().map(axis).collect()
}

pub(super) static SUM: Additive = Additive(|x, _, _| x.scalar(1.0), true);
pub(super) static L1: Additive = Additive(|x, _, _| x.map("Sign"), false);
// Where all are zero, zero is a subgradient.
pub(super) static L2: Additive =
    Additive(|x, y, _| y.equals(y.scalar(0.0)).select(x.scalar(0.0), x / y), false);
pub(super) static LOG_SUM: Additive = Additive(|_, y, _| (-y).map("Exp"), false);
pub(super) static SUM_SQUARE: Additive = Additive(|x, _, _| 2.0 * x, false);
pub(super) static LOG_SUM_EXP: NonAdditive = NonAdditive(|x, y, _| (x - y).map("Exp"));
pub(super) static PRODUCT: NonAdditive = NonAdditive(|x, y, _| y / x);
/// Maximum and minimum: the cotangent goes to the element that it is, in equal parts where several are.
pub(super) static MAX_MIN: NonAdditive = NonAdditive(|x, y, axes| {
    let hit = x.equals(y).cast(x.dtype());
    hit / hit.sum(axes, true)
});
