//! Operators that combine elements at the same place, broadcasting their operands against each other: arithmetic,
//! comparisons, Where, Clip, Dropout and the like. Functions of one number are in `activation.rs`.

use ndarray::ArrayD;

use super::{Ids, NoGradient, NodeGradient, NodeTyper, NodeView, Operator, SizeFlow, linear::uniform};

use crate::{
    graph::Expr,
    onnx::{attr_int, proto::NodeProto},
    tensor::{DType, Tensor},
    widths::Reason,
};

// Masks are multiplied by: ONNX Runtime takes several times longer for Where.

/// What a rule of this file says beside how axes relate, which is the same for all: what becomes of ids, and the gradient.
macro_rules! elementwise {
    ($($(#[$doc:meta])* $name:ident, $ids:expr, $gradient:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Operator for $name {
            fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
                relate(node)
            }

            fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
                flow.combine()
            }

            fn ids(&self, _node: &NodeProto, slot: usize) -> Option<Ids> {
                let rule: fn(usize) -> Option<Ids> = $ids;
                rule(slot)
            }

            fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
                let rule: fn(&NodeGradient<'_>) -> Result<(), NoGradient> = $gradient;
                rule(node)
            }
        }
    )*};
}

elementwise! {
    /// Comparisons and logic: of truth values there is no gradient to pass.
    Logical, |_| None, |_| Ok(());
    /// Rounding and the like, constant almost everywhere: no cotangent passes, which is the gradient.
    Step, |_| None, |node| {
        node.give_zero(0);
        Ok(())
    };
    /// Mean of all operands.
    Mean, |_| None, |node| each(node, |g, _| Ok(g / node.input_count() as f32));
    /// The largest (or smallest) of all operands: the cotangent goes to whichever it is.
    Extremum, |_| Some(Ids::Passed), |node| {
        let y = node.y(0)?;
        each(node, |g, slot| Ok(g * node.x(slot)?.equals(y).cast(g.dtype())))
    };
    /// Keeps elements within bounds: those that were not moved pass their cotangent.
    Clip, Ids::moved, |node| {
        let g = node.g()?;
        node.give(0, g * node.x(0)?.equals(node.y(0)?).cast(g.dtype()));
        Ok(())
    };
    /// `a - b`.
    Sub, |slot| (slot == 0).then_some(Ids::Minus(1)), |node| each(node, |g, slot| Ok(if slot == 0 { g } else { -g }));
    /// `a · b`.
    Mul, |_| None, |node| each(node, |g, slot| Ok(g * node.x(1 - slot)?));
    /// `a / b`.
    Div, |_| None, |node| {
        let b = node.x(1)?;
        each(node, |g, slot| Ok(if slot == 0 { g / b } else { -(g * node.y(0)? / b) }))
    };
    /// `a ^ b`.
    Pow, |_| None, |node| {
        let (a, b) = (node.x(0)?, node.x(1)?.cast(node.x(0)?.dtype()));
        let exponent = node.constant(1).and_then(|b| b.to_f32()).filter(|b| b.len() == 1);
        let exponent = exponent.and_then(|b| b.first().copied());
        each(node, |g, slot| Ok(match (slot, exponent) {
            (0, Some(n)) => g * (n * a.powf(n - 1.0)),
            (0, None) => g * b * a.apply("Pow", &[b - 1.0], &[]),
            _ => g * node.y(0)? * a.map("Log"),
        }))
    };
    /// `a` where it is positive, else `slope · a`.
    PRelu, |_| None, |node| {
        let (a, slope) = (node.x(0)?, node.x(1)?);
        let negative = a.scalar(0.0).greater(a).cast(a.dtype());
        each(node, |g, slot| Ok(match slot {
            0 => g * (negative * (slope - 1.0) + 1.0),
            _ => g * (negative * a),
        }))
    };
    /// `a` where the condition holds, else `b`.
    Where, |slot| (slot != 0).then_some(Ids::Passed), |node| {
        let condition = node.x(0)?;
        each(node, |g, slot| Ok(match slot {
            1 => g * condition.cast(g.dtype()),
            _ => g * condition.map("Not").cast(g.dtype()),
        }))
    };
    /// Inference passes elements on; a ratio and a mode are operands, and the mask is no number.
    Dropout, |_| None, |node| {
        node.give(0, node.g()?);
        Ok(())
    };
    /// The remainder: a step function in the divisor.
    Mod, Ids::moved, |node| node.give_broadcast(0, node.g()?);
    /// Elements in another operand's type.
    CastLike, |_| None, |node| {
        let dtype = node.x(0)?.dtype();
        node.give(0, node.g()?.cast(dtype));
        node.give_zero(1);
        Ok(())
    };
}

/// Add and Sum.
pub(super) struct Add;

impl Operator for Add {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.combine()
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        each(node, |g, _| Ok(g))
    }

    fn adds(&self) -> bool {
        true
    }

    fn ids(&self, _node: &NodeProto, slot: usize) -> Option<Ids> {
        match slot {
            0 => Some(Ids::Plus(1)),
            1 => Some(Ids::Plus(0)),
            _ => None,
        }
    }

    fn gain(&self, _node: &NodeView<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(1.0))
    }
}

/// Identity and Cast: the same elements under another name or type.
pub(super) struct Rename;

impl Operator for Rename {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        relate(node)
    }

    fn sizes(&self, flow: &mut SizeFlow<'_>) -> Option<()> {
        flow.pass().or_else(|| flow.count())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let dtype = node.x(0)?.dtype();
        if dtype.is_float() {
            node.give(0, node.g()?.cast(dtype));
        }
        Ok(())
    }

    fn ids(&self, node: &NodeProto, slot: usize) -> Option<Ids> {
        let to = attr_int(node, "to").and_then(|code| DType::from_onnx(i32::try_from(code).ok()?));
        let keeps = to.is_none_or(|dtype| !dtype.is_float() && dtype != DType::Bool);
        (slot == 0 && keeps).then_some(Ids::Passed)
    }

    fn recasts(&self) -> bool {
        true
    }

    fn decode(&self, _node: &NodeProto, operands: &[Option<Tensor>]) -> Option<ArrayD<f32>> {
        operands.first()?.as_ref()?.as_numbers()
    }

    fn gain(&self, _node: &NodeView<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(1.0))
    }
}

/// All operands and results have the axes that broadcasting makes of the operands'.
pub(super) fn relate(node: &mut NodeTyper<'_>) -> Result<(), Reason> {
    let present: Vec<usize> = (0..node.input_count()).filter(|slot| node.has(*slot)).collect();
    let axes = node.broadcast(&present)?;
    for slot in 0..node.output_count() {
        node.set(slot, axes.clone());
    }
    Ok(())
}

/// Gives each operand that needs it what `rule` makes of the cotangent.
fn each<'a>(
    node: &NodeGradient<'a>,
    rule: impl Fn(Expr<'a>, usize) -> Result<Expr<'a>, NoGradient>,
) -> Result<(), NoGradient> {
    let g = node.g()?;
    for slot in (0..node.input_count()).filter(|slot| node.needs(*slot)) {
        node.give_broadcast(slot, rule(g, slot)?)?;
    }
    Ok(())
}
