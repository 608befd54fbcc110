//! Pad.

use super::schema::{OpSchema, OperatorForm, any, onnx, slots};
use super::{IndexFlow, NoGradient, NodeGradient, NodeTyper, Operator, gradient::one_hot};
use crate::{onnx::proto::NodeProto, widths::PinReason};

slots! {
    slot:
    DATA = any("data"),
    PADS = int64("pads").since(11).follows(),
    VALUE = any("constant_value").optional().since(11),
    AXES = integer("axes").optional().since(18),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Pad", &[1, 2, 11, 13, 18, 19, 21, 23, 24, 25], &Pad).reads(slot::ALL).makes(&[any("output")])
        .forms(&[
            OperatorForm::of("pads as an attribute").until(10), OperatorForm::of("pads as an operand").since(11),
            OperatorForm::of("pads of some axes").since(18),
        ]),
];

/// Adds entries around an axis.
pub(super) struct Pad;

impl Operator for Pad {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let mut axes = node.axes(slot::DATA)?;
        let result = node.result_shape(0)?;
        let pads = node
            .ints_or_operand("pads", slot::PADS)
            .ok_or_else(|| node.unsupported("pads that were not observed"))?;
        let padded: Vec<i64> = match node.contents(slot::AXES) {
            Some(listed) => listed.to_vec(),
            None => (0..axes.len() as i64).collect(),
        };
        if pads.len() != 2 * padded.len() || result.len() != axes.len() {
            return Err(node.unsupported("pads that do not fit its operand"));
        }
        for (i, &axis) in padded.iter().enumerate() {
            let axis = node.axis(axis, axes.len())?;
            if pads[i] != 0 || pads[i + padded.len()] != 0 {
                let reason = PinReason::Rearranged("Pad".to_owned());
                node.pin(axes[axis], reason.clone());
                axes[axis] = node.fixed(result[axis], reason);
            }
        }
        node.set(0, axes);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (shape, result) = (node.shape(slot::DATA)?, node.result_shape(0)?);
        let pads = node
            .ints_or_operand("pads", slot::PADS)
            .ok_or_else(|| node.unsupported("pads that were not observed"))?;
        let padded =
            node.contents(slot::AXES).map_or_else(|| (0..shape.len() as i64).collect(), <[i64]>::to_vec);
        let mode = node.string("mode").unwrap_or("constant");
        if pads.len() != 2 * padded.len() {
            return Err(node.unsupported("pads that do not fit its operand"));
        }
        let mut g = node.g()?;
        for (i, &axis) in padded.iter().enumerate() {
            let axis = node.axis(axis, shape.len())?;
            let (before, after) = (pads[i], pads[i + padded.len()]);
            if before == 0 && after == 0 {
                continue;
            }
            g = match (mode, usize::try_from(before)) {
                ("constant", Ok(start)) if after >= 0 => g.slice(axis, start, start + shape[axis]),
                _ => {
                    let origin = |o: usize| origin(mode, o as i64 - before, shape[axis]);
                    let row =
                        |o: usize| origin(o).map_or(vec![0.0; shape[axis]], |i| one_hot(i, shape[axis]));
                    g.apply_matrix(axis, shape.len(), &(0..result[axis]).map(row).collect::<Vec<_>>())
                }
            };
        }
        node.set_cotangent(slot::DATA, g);
        Ok(())
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        IndexFlow::moved(slot)
    }
}

/// The entry of an axis of extent `n` that padding copies to place `i`, counted from the operand's first entry.
fn origin(mode: &str, i: i64, n: usize) -> Option<usize> {
    let n = n as i64;
    let place = match mode {
        "edge" => i.clamp(0, n - 1),
        "wrap" => i.rem_euclid(n),
        "reflect" if n > 1 => {
            let period = i.rem_euclid(2 * (n - 1));
            period.min(2 * (n - 1) - period)
        }
        "reflect" => 0,
        _ => i,
    };
    usize::try_from(place).ok().filter(|p| (*p as i64) < n)
}
