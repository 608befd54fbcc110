//! Reshape, Flatten, Squeeze and Unsqueeze: the same elements in the same order under other axes.

use super::schema::{OpSchema, OperatorForm, any, int64, onnx, slots};
use super::{
    AxisFlow, DataPropagation, EditError, ElementEdit, IndexFlow, NoGradient, NodeCx, NodeEditor,
    NodeGradient, NodeTyper, Operator,
};
use crate::{
    onnx::proto::NodeProto,
    widths::{PinReason, Width},
};

slots! {
    reshape:
    DATA = any("data"),
    SHAPE = int64("shape").follows(),
}

slots! {
    axes:
    DATA = any("data"),
    AXES = int64("axes").optional().since(13),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Flatten", &[1, 9, 11, 13, 21, 23, 24, 25], &Flatten).reads(&[any("input")]).makes(&[any("output")]),
    onnx("Reshape", &[1, 5, 13, 14, 19, 21, 23, 24, 25], &Reshape).reads(reshape::ALL).makes(&[any("reshaped")]),
    onnx("Squeeze", &[1, 11, 13, 21, 23, 24, 25], &Squeeze).reads(axes::ALL).makes(&[any("squeezed")])
        .forms(&[
            OperatorForm::of("all axes of one"), OperatorForm::of("axes as an attribute").until(12),
            OperatorForm::of("axes as an operand").since(13),
        ]),
    onnx("Unsqueeze", &[1, 11, 13, 21, 23, 24, 25], &Unsqueeze).reads(&[any("data"), int64("axes").since(13)])
        .makes(&[any("expanded")])
        .forms(&[OperatorForm::of("axes as an attribute").until(12), OperatorForm::of("axes as an operand").since(13)]),
];

/// What holds of all of them: the first operand's elements keep their order.
fn regrouped(node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
    match slot {
        0 => AxisFlow::regrouped(node.shape(0).ok()?, node.result_shape(0).ok()?, axis),
        _ => Some(AxisFlow::Same),
    }
}

/// Splits and merges axes. Row-major order makes it a matter of products: the axes fall into the smallest groups whose
/// extents multiply to the same number before and after, and in each group the two products are one width.
pub(super) struct Reshape;

impl Operator for Reshape {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        regroup(node)
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        // Before operator set 5 its shape is an attribute.
        node.contents(reshape::SHAPE)?;
        regrouped(node, slot, axis)
    }

    fn extent_element(&self, node: &NodeCx<'_>, axis: usize) -> Option<(usize, usize)> {
        let asked = *node.contents(reshape::SHAPE)?.get(axis)?;
        // -1 is inferred from the others, and 0 copies an extent of the operand.
        let follows = asked == -1 || (asked == 0 && node.int("allowzero").unwrap_or(0) == 0);
        (!follows).then_some((reshape::SHAPE, axis))
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        restore(node)
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.copy_elements()
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let asked = node.contents(reshape::SHAPE).ok_or_else(|| node.error("its shape was not observed"))?;
        let mut changes = node.shape_edits(reshape::SHAPE, node.result_axes(0));
        if asked.len() != changes.len() {
            return Ok(());
        }
        for (change, asked) in changes.iter_mut().zip(asked) {
            // -1 stays: the runtime infers it from the others. So does 0, which copies an extent of the operand.
            if *asked == -1 || (*asked == 0 && node.int("allowzero").unwrap_or(0) == 0) {
                *change = ElementEdit::Keep;
            }
        }
        if changes.iter().all(|c| *c == ElementEdit::Keep) {
            return Ok(());
        }
        match constant_shape(node, asked, &changes) {
            Some(shape) => node.set_operand(reshape::SHAPE, &shape),
            None => node.edit_operand(reshape::SHAPE, &changes)?,
        }
        Ok(())
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}

/// The new shape as a constant: extents that we know, `0` for axes that are copied from the operand, one `-1`. `None` when
/// more than one extent is only known at run time.
fn constant_shape(node: &NodeEditor<'_>, asked: &[i64], changes: &[ElementEdit]) -> Option<Vec<i64>> {
    if node.is_constant(reshape::SHAPE) {
        return None;
    }
    let (from, to) = (node.axes(reshape::DATA), node.result_axes(0));
    let allow_zero = node.int("allowzero").unwrap_or(0) != 0;
    let mut unknown = 0;
    let shape: Vec<i64> = (0..to.len())
        .map(|i| {
            let copies = from.get(i).is_some_and(|f| node.is_same_width(*f, to[i]));
            match (changes[i], asked[i]) {
                (ElementEdit::Set(new), _) => new,
                (_, asked) if copies && !allow_zero && asked != -1 => 0,
                (_, 1) if to[i] == Width::ONE && from.iter().all(|f| node.old_size(*f) > 1) => 1,
                _ => {
                    unknown += 1;
                    -1
                }
            }
        })
        .collect();
    (unknown <= 1).then_some(shape)
}

/// Merges the axes before `axis`, and those from it on.
pub(super) struct Flatten;

impl Operator for Flatten {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let axis = match node.int("axis").unwrap_or(1) {
            end if end == x.len() as i64 => x.len(),
            axis => node.axis(axis, x.len())?,
        };
        let result = vec![node.product(&x[..axis]), node.product(&x[axis..])];
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        regrouped(node, slot, axis)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        restore(node)
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}

/// Removes axes of extent one.
pub(super) struct Squeeze;

impl Operator for Squeeze {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(axes::DATA)?;
        let removed: Vec<usize> = match node.ints_or_operand("axes", axes::AXES) {
            Some(listed) => listed.iter().map(|&a| node.axis(a, x.len())).collect::<Result<_, _>>()?,
            None if node.has(axes::AXES) => return Err(node.unsupported("axes that were not observed")),
            None => {
                let (removed, stay): (Vec<_>, Vec<_>) = (0..x.len()).partition(|i| node.size(x[*i]) == 1);
                // A list could not say that an open axis goes where it has one entry, and one that shrank to one does not.
                stay.iter().for_each(|i| node.keep_at_least_two(x[*i]));
                removed
            }
        };
        let result = x.iter().enumerate().filter(|(i, _)| !removed.contains(i)).map(|(_, a)| *a).collect();
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        regrouped(node, slot, axis)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        restore(node)
    }

    /// Without a list, the axes of extent one are removed, whichever they are: no other may become one.
    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let becomes_one = |axis: &Width| node.old_size(*axis) != 1 && node.new_size(*axis) == 1;
        if node.ints_or_operand("axes", axes::AXES).is_none() && node.axes(axes::DATA).iter().any(becomes_one)
        {
            return Err(node.error("an axis would have one entry, and be removed as such"));
        }
        Ok(())
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.copy_elements()
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}

/// Adds axes of extent one.
pub(super) struct Unsqueeze;

impl Operator for Unsqueeze {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(axes::DATA)?;
        let listed = node
            .ints_or_operand("axes", axes::AXES)
            .ok_or_else(|| node.unsupported("axes that were not observed"))?;
        let rank = x.len() + listed.len();
        let added: Vec<usize> = listed.iter().map(|&a| node.axis(a, rank)).collect::<Result<_, _>>()?;
        let mut rest = x.into_iter();
        let result = (0..rank)
            .map(|i| if added.contains(&i) { Width::ONE } else { rest.next().unwrap_or(Width::ONE) })
            .collect();
        node.set(0, result);
        Ok(())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        regrouped(node, slot, axis)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        restore(node)
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.copy_elements()
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}

/// The cotangent under the operand's own axes.
fn restore(node: &NodeGradient<'_>) -> Result<(), NoGradient> {
    node.set_cotangent(0, node.g()?.reshape_like(node.x(0)?));
    Ok(())
}

fn regroup(node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
    let x = node.axes(0)?;
    let to = node.result_shape(0)?;
    let from: Vec<usize> = x.iter().map(|a| node.size(*a)).collect();
    if from.contains(&0) {
        return Err(node.unsupported("an empty operand"));
    }
    let mut result = Vec::with_capacity(to.len());
    for (i, j) in groups(&from, to).ok_or_else(|| node.unsupported("extents that do not multiply"))? {
        if i.len() == 1 && j.len() == 1 {
            result.push(x[i.start]);
            continue;
        }
        let axes: Vec<Width> = to[j.clone()].iter().map(|&size| node.fresh(size)).collect();
        let (before, after) = (node.product(&x[i]), node.product(&axes));
        node.unify(before, after);
        result.extend(axes);
    }
    node.set(0, result);
    Ok(())
}

type Span = std::ops::Range<usize>;

/// The smallest runs of axes with equal products, in order. Ones join the run before them.
fn groups(from: &[usize], to: &[usize]) -> Option<Vec<(Span, Span)>> {
    let mut groups: Vec<(Span, Span)> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < from.len() || j < to.len() {
        let (start_i, start_j) = (i, j);
        let (mut p, mut q) = (1usize, 1usize);
        let take = |n: &mut usize, sizes: &[usize], product: &mut usize| -> Option<()> {
            *product = product.checked_mul(*sizes.get(*n)?)?;
            *n += 1;
            Some(())
        };
        match (from.get(i), to.get(j)) {
            // A one without a counterpart comes and goes by itself.
            (Some(1), Some(t)) if *t != 1 => take(&mut i, from, &mut p)?,
            (Some(f), Some(1)) if *f != 1 => take(&mut j, to, &mut q)?,
            (Some(_), None) => take(&mut i, from, &mut p)?,
            (None, Some(_)) => take(&mut j, to, &mut q)?,
            _ => {
                take(&mut i, from, &mut p)?;
                take(&mut j, to, &mut q)?;
                while p != q {
                    if p < q { take(&mut i, from, &mut p)? } else { take(&mut j, to, &mut q)? }
                }
            }
        }
        if p != q {
            return None;
        }
        groups.push((start_i..i, start_j..j));
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_fall_into_the_smallest_groups() {
        let spans = groups(&[2, 17, 384], &[2, 17, 6, 64]).unwrap();
        assert_eq!(spans, [(0..1, 0..1), (1..2, 1..2), (2..3, 2..4)]);
        let spans = groups(&[2, 3, 1, 4], &[6, 4, 1]).unwrap();
        assert_eq!(spans, [(0..2, 0..1), (2..3, 1..1), (3..4, 1..2), (4..4, 2..3)]);
        assert!(groups(&[2, 3], &[5]).is_none());
    }
}
