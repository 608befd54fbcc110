//! DepthToSpace and SpaceToDepth: blocks of channels become positions, and back.

use super::schema::{OpSchema, any, onnx};
use super::{NoGradient, NodeGradient, NodeTyper, Operator};
use crate::widths::{PinReason, Width};

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("DepthToSpace", &[1, 11, 13, 28], &DepthToSpace).reads(&[any("input")]).makes(&[any("output")]),
    onnx("SpaceToDepth", &[1, 13, 28], &SpaceToDepth).reads(&[any("input")]).makes(&[any("output")]),
];

/// `[N, C, H, W]` → `[N, C/b², H·b, W·b]`: blocks of `b·b` channels become positions, so that a unit is `b·b` channels.
pub(super) struct DepthToSpace;

impl Operator for DepthToSpace {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let [batch, channels, height, width] = image(node)?;
        let block = block(node)?;
        let size = node.size(channels);
        if !size.is_multiple_of(block * block) {
            return Err(node.unsupported("channels that are no multiple of the block"));
        }
        let rest = size / (block * block);
        let kept = if node.string("mode") == Some("CRD") {
            let parts = node.split_product(channels, &[rest, block, block]);
            pin_block(node, &parts[1..]);
            parts[0]
        } else {
            let parts = node.split_product(channels, &[block, block, rest]);
            pin_block(node, &parts[..2]);
            parts[2]
        };
        positions(node, batch, kept, &[height, width])
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (channels, [height, width], block) = blocks(node, node.result_shape(0)?, node.shape(0)?)?;
        let split = node.g()?.reshape(&[0, channels, height, block, width, block]);
        let order = if node.string("mode") == Some("CRD") { [0, 1, 3, 5, 2, 4] } else { [0, 3, 5, 1, 2, 4] };
        node.set_cotangent(0, split.transpose(&order).reshape_like(node.x(0)?));
        Ok(())
    }
}

/// `[N, C, H, W]` → `[N, b²·C, H/b, W/b]`: positions of a block become channels.
pub(super) struct SpaceToDepth;

impl Operator for SpaceToDepth {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let [batch, channels, height, width] = image(node)?;
        let block = block(node)?;
        let blocks = [node.fresh(block), node.fresh(block)];
        pin_block(node, &blocks);
        let merged = if node.string("mode") == Some("CRD") {
            node.product(&[channels, blocks[0], blocks[1]])
        } else {
            node.product(&[blocks[0], blocks[1], channels])
        };
        positions(node, batch, merged, &[height, width])
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (channels, [height, width], block) = blocks(node, node.shape(0)?, node.result_shape(0)?)?;
        let g = node.g()?;
        let whole = match node.string("mode") {
            Some("CRD") => {
                g.reshape(&[0, channels, block, block, height, width]).transpose(&[0, 1, 4, 2, 5, 3])
            }
            _ => g.reshape(&[0, block, block, channels, height, width]).transpose(&[0, 3, 4, 1, 5, 2]),
        };
        node.set_cotangent(0, whole.reshape_like(node.x(0)?));
        Ok(())
    }
}

/// Channels of the side with more positions, positions of the other side, and the extent of a block.
fn blocks(
    node: &NodeGradient<'_>,
    wide: &[usize],
    narrow: &[usize],
) -> Result<(i64, [i64; 2], i64), NoGradient> {
    match (wide, narrow) {
        (&[_, channels, _, _], &[_, _, height, width]) => {
            Ok((channels as i64, [height as i64, width as i64], node.int("blocksize").unwrap_or(1)))
        }
        _ => Err(node.unsupported("an operand that has not four axes")),
    }
}

fn pin_block(node: &mut NodeTyper<'_>, block: &[Width]) {
    let reason = PinReason::Rearranged(node.op_type().to_owned());
    for &axis in block {
        node.pin(axis, reason.clone());
    }
}

/// The four axes of an image `[N, C, H, W]`.
pub(super) fn image(node: &NodeTyper<'_>) -> Result<[Width; 4], PinReason> {
    <[Width; 4]>::try_from(node.axes(0)?).map_err(|_| node.unsupported("an operand that has not four axes"))
}

fn block(node: &NodeTyper<'_>) -> Result<usize, PinReason> {
    let block = usize::try_from(node.int("blocksize").unwrap_or(0)).ok().filter(|b| *b > 0);
    block.ok_or_else(|| node.unsupported("a block without extent"))
}

/// Sets a result of other positions than the operand's.
pub(super) fn positions(
    node: &mut NodeTyper<'_>,
    batch: Width,
    channels: Width,
    from: &[Width],
) -> Result<(), PinReason> {
    for &axis in from {
        node.pin(axis, PinReason::Spatial);
    }
    let mut result = vec![batch, channels];
    for &size in node.result_shape(0)?.iter().skip(2) {
        let axis = node.fixed(size, PinReason::Spatial);
        result.push(axis);
    }
    node.set(0, result);
    Ok(())
}
