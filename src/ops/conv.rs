//! Conv and ConvTranspose, of any rank, grouped and depthwise.

use super::{EditError, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator};
use crate::{
    graph::{Attr, Expr},
    widths::{Reason, Width},
};

/// `X[N, G·C, …]`, `W[G·M, C, k…]` → `Y[N, G·M, …]`.
pub(super) struct Conv;

impl Operator for Conv {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (x, w) = (node.axes(0)?, node.axes(1)?);
        check_ranks(node, &x, &w)?;
        let groups = node.int("group").unwrap_or(1).max(1) as usize;
        let (group, inner) = grouped(node, x[1], groups)?;
        let (out_group, _) = grouped(node, w[0], groups)?;
        node.unify(group, out_group);
        node.unify(inner, w[1]);
        let result = window_result(node, &x, w[0])?;
        finish(node, &w, inner, result, (1, 1))
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        // Each window's cotangent is spread over the positions it saw: the transposed convolution.
        let window = Window::of(node, node.shape(0)?, node.result_shape(0)?)?;
        let g = node.g()?;
        if node.needs(0) {
            node.give(0, window.transposed(g, node.x(1)?));
        }
        if node.needs(1) {
            return Err(node.none("a computed weight"));
        }
        bias_gradient(node, g)
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        rewrite_group(node, 1)
    }
}

/// `X[N, G·C, …]`, `W[G·C, M, k…]` → `Y[N, G·M, …]`.
pub(super) struct ConvTranspose;

impl Operator for ConvTranspose {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let (x, w) = (node.axes(0)?, node.axes(1)?);
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
        node.contract(inner, (0, 1), Some((1, 0)), Some(1));
        node.set(0, result);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let window = Window::of(node, node.result_shape(0)?, node.shape(0)?)?;
        let g = node.g()?;
        if node.needs(0) {
            node.give(0, window.direct(g, node.x(1)?));
        }
        if node.needs(1) {
            return Err(node.none("a computed weight"));
        }
        bias_gradient(node, g)
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        rewrite_group(node, 0)
    }
}

fn check_ranks(node: &NodeTyper<'_>, x: &[Width], w: &[Width]) -> Result<(), Reason> {
    if x.len() < 3 || w.len() != x.len() {
        return Err(node.form("operands of unexpected rank"));
    }
    Ok(())
}

/// Splits channels into groups and channels per group.
fn grouped(node: &mut NodeTyper<'_>, channels: Width, groups: usize) -> Result<(Width, Width), Reason> {
    let size = node.size(channels);
    if !size.is_multiple_of(groups) {
        return Err(node.form("channels that are no multiple of the group count"));
    }
    let parts = node.split_product(channels, &[groups, size / groups]);
    Ok((parts[0], parts[1]))
}

/// Axes of the result: the batch passes, a window slides over the others.
fn window_result(node: &mut NodeTyper<'_>, x: &[Width], channels: Width) -> Result<Vec<Width>, Reason> {
    let mut result = vec![x[0], channels];
    for &size in node.result_shape(0)?.iter().skip(2) {
        let axis = node.fixed(size, Reason::Spatial);
        result.push(axis);
    }
    for &axis in &x[2..] {
        node.pin(axis, Reason::Spatial);
    }
    Ok(result)
}

fn bias(node: &mut NodeTyper<'_>, channels: Width) -> Result<(), Reason> {
    if node.has(2) {
        let bias = node.axes(2)?;
        let [axis] = bias.as_slice() else { return Err(node.form("bias that is not a vector")) };
        node.unify(*axis, channels);
    }
    Ok(())
}

fn finish(
    node: &mut NodeTyper<'_>,
    w: &[Width],
    inner: Width,
    result: Vec<Width>,
    weight: (usize, usize),
) -> Result<(), Reason> {
    bias(node, result[1])?;
    let kernel = w[2..].iter().map(|k| node.size(*k) as u64).product();
    let mut cost = result.clone();
    cost.push(inner);
    node.macs(kernel, &cost);
    node.contract(inner, (0, 1), Some(weight), Some(1));
    node.set(0, result);
    Ok(())
}

/// The group count follows when whole groups are removed: it is the channels of `X` over those per group, which the weight
/// shows on its axis `inner_axis` (directly for Conv; through the channels themselves for ConvTranspose).
fn rewrite_group(node: &mut NodeEditor<'_>, inner_axis: usize) -> Result<(), EditError> {
    let groups = node.int("group").unwrap_or(1).max(1) as usize;
    let Some(&channels) = node.axes(0).get(1) else { return Ok(()) };
    if groups == 1 || node.old_size(channels) == node.new_size(channels) {
        return Ok(());
    }
    let old_inner = node.old_size(channels) / groups;
    let new_inner = match (inner_axis, node.axes(1).get(1)) {
        (1, Some(&inner)) => node.new_size(inner),
        _ => old_inner,
    };
    let channels = node.new_size(channels);
    if new_inner == 0 || !channels.is_multiple_of(new_inner) {
        return Err(node.error("its groups would become unequal"));
    }
    node.set_int("group", (channels / new_inner) as i64);
    Ok(())
}

fn bias_gradient<'a>(node: &NodeGradient<'a>, g: Expr<'a>) -> Result<(), NoGradient> {
    if node.needs(2) {
        let rank = node.result_shape(0)?.len();
        let others: Vec<usize> = (0..rank).filter(|axis| *axis != 1).collect();
        node.give(2, g.sum(&others, false));
    }
    Ok(())
}

/// How a kernel slides over positions: the side that it reads from is `wide`, the side that it writes to `narrow` (the other
/// way round for ConvTranspose).
struct Window {
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    /// Positions at the end of the wide side that no window reaches.
    unreached: Vec<i64>,
    group: i64,
}

impl Window {
    /// Reads the attributes of a node whose observed extents on the two sides are `wide` and `narrow`.
    fn of(node: &NodeGradient<'_>, wide: &[usize], narrow: &[usize]) -> Result<Self, NoGradient> {
        let kernel = node.shape(1)?.get(2..).unwrap_or_default();
        let axes = kernel.len();
        let (wide, narrow) = (wide.get(2..).unwrap_or_default(), narrow.get(2..).unwrap_or_default());
        let strides = node.ints("strides").unwrap_or_else(|| vec![1; axes]);
        let dilations = node.ints("dilations").unwrap_or_else(|| vec![1; axes]);
        let said = node.ints("pads").unwrap_or_else(|| vec![0; 2 * axes]);
        if [strides.len(), dilations.len(), said.len() / 2, wide.len(), narrow.len()] != [axes; 5] {
            return Err(node.none("attributes that do not fit its operands"));
        }
        let auto = node.string("auto_pad").unwrap_or("NOTSET");
        let mut window = Self {
            pads: vec![0; 2 * axes],
            unreached: vec![0; axes],
            group: node.int("group").unwrap_or(1),
            strides,
            dilations,
        };
        for i in 0..axes {
            let span = (kernel[i] as i64 - 1) * window.dilations[i] + 1;
            // What the windows cover, counted from the first one's start.
            let covered = (narrow[i] as i64 - 1) * window.strides[i] + span;
            let missing = covered - wide[i] as i64;
            let before = match auto {
                "SAME_UPPER" => missing.max(0) / 2,
                "SAME_LOWER" => (missing.max(0) + 1) / 2,
                "VALID" => 0,
                _ => said[i],
            };
            let after = missing - before;
            window.pads[i] = before;
            window.pads[i + axes] = after.max(0);
            window.unreached[i] = (-after).max(0);
        }
        Ok(window)
    }

    fn attributes(&self) -> [Attr<'_>; 4] {
        [
            Attr::Ints("strides", &self.strides),
            Attr::Ints("dilations", &self.dilations),
            Attr::Ints("pads", &self.pads),
            Attr::Int("group", self.group),
        ]
    }

    /// From the narrow side to the wide one.
    fn transposed<'a>(&self, g: Expr<'a>, weight: Expr<'a>) -> Expr<'a> {
        let spread = g.apply("ConvTranspose", &[weight], &self.attributes());
        let axes = self.unreached.len();
        let after: Vec<usize> =
            [0, 0].into_iter().chain(self.unreached.iter().map(|n| *n as usize)).collect();
        spread.pad(&vec![0; axes + 2], &after)
    }

    /// From the wide side to the narrow one.
    fn direct<'a>(&self, g: Expr<'a>, weight: Expr<'a>) -> Expr<'a> {
        g.apply("Conv", &[weight], &self.attributes())
    }
}
