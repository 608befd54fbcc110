//! Conv and ConvTranspose, of any rank, grouped and depthwise.

use super::schema::{OpSchema, OperatorForm, float, onnx, slots};
use super::{
    BiasOperand, EditError, Linear, NoGradient, NodeCx, NodeEditor, NodeGradient, NodeTyper, Operator,
    window::Window,
};
use crate::{
    graph::Expr,
    widths::{PinReason, SlotAxis, Width},
};

slots! {
    slot:
    X = float("X"),
    WEIGHT = float("W"),
    BIAS = float("B").optional(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Conv", &[1, 11, 22], &Conv).reads(slot::ALL).makes(&[float("Y")])
        .forms(&[OperatorForm::of(""), OperatorForm::of("groups"), OperatorForm::of("depthwise")]),
    onnx("ConvTranspose", &[1, 11, 22], &ConvTranspose).reads(slot::ALL).makes(&[float("Y")])
        .forms(&[OperatorForm::of(""), OperatorForm::of("groups"), OperatorForm::of("depthwise")]),
];

/// `X[N, G·C, …]`, `W[G·M, C, k…]` → `Y[N, G·M, …]`.
pub(super) struct Conv;

impl Operator for Conv {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (x, w) = (node.axes(slot::X)?, node.axes(slot::WEIGHT)?);
        check_ranks(node, &x, &w)?;
        let groups = node.int("group").unwrap_or(1).max(1) as usize;
        let (group, inner) = grouped(node, x[1], groups)?;
        let (out_group, _) = grouped(node, w[0], groups)?;
        node.unify(group, out_group);
        node.unify(inner, w[1]);
        let result = window_result(node, &x, w[0])?;
        finish(node, &w, inner, result, SlotAxis::new(slot::WEIGHT, 1))
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        Self::pull_back(node, node.g()?)
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        rewrite_group(node, node.axes(slot::X).get(1))
    }

    fn linear(&self, node: &NodeCx<'_>, weight: usize) -> Option<Linear> {
        // `W[G·M, C, k…]`
        convolution(node, weight, [0, 3, 2, 1], false)
    }
}

impl Conv {
    /// Gives the operands their cotangents, where `g` is that of the convolution.
    pub fn pull_back<'a>(node: &NodeGradient<'a>, g: Expr<'a>) -> Result<(), NoGradient> {
        // Each window's cotangent is spread over the positions it saw: the transposed convolution.
        let window = window(node, false)?;
        if node.needs(slot::X) {
            node.set_cotangent(
                slot::X,
                window.conv_transpose(g, node.x(slot::WEIGHT)?, node.shape(slot::WEIGHT)?),
            );
        }
        bias_gradient(node, g)
    }
}

/// `X[N, G·C, …]`, `W[G·C, M, k…]` → `Y[N, G·M, …]`.
pub(super) struct ConvTranspose;

impl Operator for ConvTranspose {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (x, w) = (node.axes(slot::X)?, node.axes(slot::WEIGHT)?);
        check_ranks(node, &x, &w)?;
        let groups = node.int("group").unwrap_or(1).max(1) as usize;
        node.unify(x[1], w[0]);
        let (group, inner) = grouped(node, x[1], groups)?;
        let out = node.product(&[group, w[1]]);
        let result = window_result(node, &x, out)?;
        // Each input position meets every kernel position once.
        let kernel = w[2..].iter().map(|k| node.size(*k) as u64).product();
        let mut cost = x.clone();
        cost.push(w[1]);
        node.macs(kernel, &cost);
        bias(node, result[1])?;
        node.contraction(inner, SlotAxis::new(slot::X, 1), Some(SlotAxis::new(slot::WEIGHT, 0)), Some(1));
        node.set(0, result);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let window = window(node, true)?;
        let g = node.g()?;
        if node.needs(slot::X) {
            node.set_cotangent(slot::X, window.conv(g, node.x(slot::WEIGHT)?));
        }
        bias_gradient(node, g)
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        rewrite_group(node, node.result_axes(0).get(1))
    }

    fn linear(&self, node: &NodeCx<'_>, weight: usize) -> Option<Linear> {
        // `W[G·C, M, k…]`; with a given result shape the padding follows from it.
        node.extents("output_shape", 0, 0)?;
        convolution(node, weight, [0, 2, 3, 1], true)
    }
}

/// A convolution as a matrix product. `order` is that of [`Linear::order`].
fn convolution(node: &NodeCx<'_>, weight: usize, order: [usize; 4], transposed: bool) -> Option<Linear> {
    let (x, w, y) = (node.shape(slot::X).ok()?, node.shape(slot::WEIGHT).ok()?, node.result_shape(0).ok()?);
    if weight != slot::WEIGHT || x.len() < 3 || w.len() != x.len() || y.len() != x.len() {
        return None;
    }
    let window = Window::of(node, &w[2..], (x, y), transposed)?;
    let groups = node.int("group").and_then(|g| usize::try_from(g).ok()).unwrap_or(1).max(1);
    let window = Some(window).filter(|w| !w.is_identity());
    Some(Linear {
        groups,
        window,
        order,
        scale: 1.0,
        bias: Some(BiasOperand { slot: slot::BIAS, factor: 1.0 }),
    })
}

/// How the node's kernel slides.
fn window(node: &NodeGradient<'_>, transposed: bool) -> Result<Window, NoGradient> {
    let window = Window::of(node, kernel(node)?, (node.shape(slot::X)?, node.result_shape(0)?), transposed);
    window.ok_or_else(|| node.unsupported("attributes that do not fit its operands"))
}

fn check_ranks(node: &NodeTyper<'_>, x: &[Width], w: &[Width]) -> Result<(), PinReason> {
    if x.len() < 3 || w.len() != x.len() {
        return Err(node.unsupported("operands of unexpected rank"));
    }
    Ok(())
}

/// Splits channels into groups and channels per group.
fn grouped(node: &mut NodeTyper<'_>, channels: Width, groups: usize) -> Result<(Width, Width), PinReason> {
    let size = node.size(channels);
    if !size.is_multiple_of(groups) {
        return Err(node.unsupported("channels that are no multiple of the group count"));
    }
    let parts = node.split_product(channels, &[groups, size / groups]);
    Ok((parts[0], parts[1]))
}

/// Axes of the result: the batch passes, a window slides over the others.
fn window_result(node: &mut NodeTyper<'_>, x: &[Width], channels: Width) -> Result<Vec<Width>, PinReason> {
    let mut result = vec![x[0], channels];
    for &size in node.result_shape(0)?.iter().skip(2) {
        let axis = node.fixed(size, PinReason::Spatial);
        result.push(axis);
    }
    for &axis in &x[2..] {
        node.pin(axis, PinReason::Spatial);
    }
    Ok(result)
}

fn bias(node: &mut NodeTyper<'_>, channels: Width) -> Result<(), PinReason> {
    if node.has(slot::BIAS) {
        let bias = node.axes(slot::BIAS)?;
        let [axis] = bias.as_slice() else { return Err(node.unsupported("bias that is not a vector")) };
        node.unify(*axis, channels);
    }
    Ok(())
}

fn finish(
    node: &mut NodeTyper<'_>,
    w: &[Width],
    inner: Width,
    result: Vec<Width>,
    weight: SlotAxis,
) -> Result<(), PinReason> {
    bias(node, result[1])?;
    let kernel = w[2..].iter().map(|k| node.size(*k) as u64).product();
    let mut cost = result.clone();
    cost.push(inner);
    node.macs(kernel, &cost);
    node.contraction(inner, SlotAxis::new(slot::X, 1), Some(weight), Some(1));
    node.set(0, result);
    Ok(())
}

/// The group count follows when whole groups are removed. `channels` are those of the side that the weight has per group on
/// its second axis: operand of a convolution, result of a transposed one. The other factor is what a group keeps.
fn rewrite_group(node: &mut NodeEditor<'_>, channels: Option<&Width>) -> Result<(), EditError> {
    let (Some(&channels), Some(&per_group)) = (channels, node.axes(slot::WEIGHT).get(1)) else {
        return Ok(());
    };
    let (old, new) = (node.int("group").unwrap_or(1).max(1), node.new_size(channels));
    if old == 1 || node.old_size(channels) == new {
        return Ok(());
    }
    let per_group = node.new_size(per_group);
    if per_group == 0 || !new.is_multiple_of(per_group) {
        return Err(node.error("its groups would become unequal"));
    }
    node.set_int("group", (new / per_group) as i64);
    Ok(())
}

/// Extents of the kernel.
fn kernel<'a>(node: &NodeGradient<'a>) -> Result<&'a [usize], NoGradient> {
    match node.shape(slot::WEIGHT)? {
        [_, _, kernel @ ..] => Ok(kernel),
        _ => Err(node.unsupported("a weight of fewer than two axes")),
    }
}

fn bias_gradient<'a>(node: &NodeGradient<'a>, g: Expr<'a>) -> Result<(), NoGradient> {
    if node.needs(slot::BIAS) {
        let rank = node.result_shape(0)?.len();
        let others: Vec<usize> = (0..rank).filter(|axis| *axis != 1).collect();
        node.set_cotangent(slot::BIAS, g.sum(&others, false));
    }
    Ok(())
}
