//! Operators that combine elements at the same place, broadcasting their operands against each other: arithmetic,
//! comparisons, Where, Clip, Dropout and the like. Functions of one number are in `activation.rs`.

use super::schema::{OpSchema, OperatorForm, any, boolean, float, microsoft, number, onnx, slots};
use ndarray::ArrayD;

use super::{
    AxisFlow, DataPropagation, IndexFlow, NoGradient, NodeCx, NodeGradient, NodeTyper, Operator,
    linear::uniform,
};

use crate::{
    graph::Expr,
    onnx::{attr_int, proto::NodeProto},
    tensor::{DType, Tensor},
    widths::PinReason,
};

slots! {
    binary:
    A = number("A"),
    B = number("B"),
}

slots! {
    pow:
    BASE = number("X"),
    EXPONENT = number("Y"),
}

slots! {
    prelu:
    X = number("X"),
    SLOPE = number("slope"),
}

slots! {
    where_:
    CONDITION = boolean("condition"),
    A = any("X"),
    B = any("Y"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Add", &[1, 6, 7, 13, 14], &Add).reads(binary::ALL).makes(&[number("C")]),
    onnx("And", &[1, 7], &Logical).reads(&[boolean("A"), boolean("B")]).makes(&[boolean("C")]),
    onnx("BitShift", &[11, 28], &Logical).reads(&[any("X"), any("Y")]).makes(&[any("Z")]),
    onnx("BitwiseAnd", &[18], &Logical).reads(&[any("A"), any("B")]).makes(&[any("C")]),
    onnx("BitwiseNot", &[18], &Logical).reads(&[any("X")]).makes(&[any("Y")]),
    onnx("BitwiseOr", &[18], &Logical).reads(&[any("A"), any("B")]).makes(&[any("C")]),
    onnx("BitwiseXor", &[18], &Logical).reads(&[any("A"), any("B")]).makes(&[any("C")]),
    onnx("Cast", &[1, 6, 9, 13, 19, 21, 23, 24, 25, 28], &IdentityOrCast).reads(&[any("input")]).makes(&[any("output")]),
    onnx("CastLike", &[15, 19, 21, 23, 24, 25], &CastLike).reads(&[any("input"), any("target_type")])
        .makes(&[any("output")]),
    onnx("Ceil", &[1, 6, 13], &PiecewiseConstant).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Clip", &[1, 6, 11, 12, 13], &Clip)
        .reads(&[number("input"), number("min").optional().since(11), number("max").optional().since(11)])
        .makes(&[number("output")])
        .forms(&[OperatorForm::of("bounds as attributes").until(10), OperatorForm::of("bounds as operands").since(11)]),
    onnx("Div", &[1, 6, 7, 13, 14], &Div).reads(binary::ALL).makes(&[number("C")]),
    onnx("Dropout", &[1, 6, 7, 10, 12, 13, 22], &Dropout)
        .reads(&[float("data"), float("ratio").optional().since(12), boolean("training_mode").optional().since(12)])
        .makes(&[float("output"), boolean("mask").optional()])
        .forms(&[
            OperatorForm::of("ratio as an attribute").until(11), OperatorForm::of("ratio as an operand").since(12),
            OperatorForm::of("with its mask"),
        ]),
    onnx("Equal", &[1, 7, 11, 13, 19], &Logical).reads(&[any("A"), any("B")]).makes(&[boolean("C")]),
    onnx("Floor", &[1, 6, 13], &PiecewiseConstant).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Greater", &[1, 7, 9, 13], &Logical).reads(&[number("A"), number("B")]).makes(&[boolean("C")]),
    onnx("GreaterOrEqual", &[12, 16], &Logical).reads(&[number("A"), number("B")]).makes(&[boolean("C")]),
    onnx("Identity", &[1, 13, 14, 16, 19, 21, 23, 24, 25], &IdentityOrCast).reads(&[any("input")]).makes(&[any("output")]),
    onnx("IsInf", &[10, 20], &Logical).reads(&[float("X")]).makes(&[boolean("Y")]),
    onnx("IsNaN", &[9, 13, 20], &Logical).reads(&[float("X")]).makes(&[boolean("Y")]),
    onnx("Less", &[1, 7, 9, 13], &Logical).reads(&[number("A"), number("B")]).makes(&[boolean("C")]),
    onnx("LessOrEqual", &[12, 16], &Logical).reads(&[number("A"), number("B")]).makes(&[boolean("C")]),
    onnx("Max", &[1, 6, 8, 12, 13], &MaxMin).reads(&[number("data_0").many()]).makes(&[number("max")]),
    onnx("Mean", &[1, 6, 8, 13], &Mean).reads(&[float("data_0").many()]).makes(&[float("mean")]),
    onnx("Min", &[1, 6, 8, 12, 13], &MaxMin).reads(&[number("data_0").many()]).makes(&[number("min")]),
    onnx("Mod", &[10, 13, 28], &Mod).reads(binary::ALL).makes(&[number("C")]),
    onnx("Mul", &[1, 6, 7, 13, 14], &Mul).reads(binary::ALL).makes(&[number("C")]),
    onnx("Not", &[1], &Logical).reads(&[boolean("X")]).makes(&[boolean("Y")]),
    onnx("Or", &[1, 7], &Logical).reads(&[boolean("A"), boolean("B")]).makes(&[boolean("C")]),
    onnx("PRelu", &[1, 6, 7, 9, 16], &PRelu).reads(prelu::ALL).makes(&[number("Y")]),
    onnx("Pow", &[1, 7, 12, 13, 15], &Pow).reads(pow::ALL).makes(&[number("Z")]),
    onnx("Round", &[11, 22], &PiecewiseConstant).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Sign", &[9, 13], &PiecewiseConstant).reads(&[number("input")]).makes(&[number("output")]),
    onnx("Sub", &[1, 6, 7, 13, 14], &Sub).reads(binary::ALL).makes(&[number("C")]),
    onnx("Sum", &[1, 6, 8, 13], &Add).reads(&[float("data_0").many()]).makes(&[float("sum")]),
    onnx("Where", &[9, 16], &Where).reads(where_::ALL).makes(&[any("output")]),
    onnx("Xor", &[1, 7], &Logical).reads(&[boolean("A"), boolean("B")]).makes(&[boolean("C")]),
    microsoft("BiasAdd", &Add).reads(&[float("X"), float("bias"), float("skip")]).makes(&[float("Y")]),
];

// Masks are multiplied by: ONNX Runtime takes several times longer for Where.

/// Elementwise operators: all relate axes alike, and each has its own index flow and gradient.
macro_rules! elementwise {
    ($($(#[$doc:meta])* $name:ident, $ids:expr, $gradient:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Operator for $name {
            fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
                relate(node)
            }

            fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
                flow.combine_elements()
            }

            fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
                AxisFlow::broadcast(node, slot, axis)
            }

            fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
                let rule: fn(usize) -> Option<IndexFlow> = $ids;
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
    PiecewiseConstant, |_| None, |node| {
        node.set_zero_cotangent(0);
        Ok(())
    };
    /// Mean of all operands.
    Mean, |_| None, |node| each(node, |g, _| Ok(g / node.input_count() as f32));
    /// The largest (or smallest) of all operands: the cotangent goes to whichever it is, in equal parts where several are.
    MaxMin, |_| Some(IndexFlow::Passed), |node| {
        let y = node.y(0)?;
        let hit = |slot: usize| Ok(node.x(slot)?.equals(y).cast(y.dtype()));
        let hits = (0..node.input_count()).map(hit).collect::<Result<Vec<_>, NoGradient>>()?;
        let ties = hits.iter().copied().reduce(|a, b| a + b).unwrap_or(y);
        each(node, |g, slot| Ok(g * hits[slot] / ties))
    };
    /// Keeps elements within bounds: those that were not moved pass their cotangent.
    Clip, IndexFlow::moved, |node| {
        let g = node.g()?;
        node.set_cotangent(0, g * node.x(0)?.equals(node.y(0)?).cast(g.dtype()));
        Ok(())
    };
    /// `a - b`.
    Sub, |slot| (slot == binary::A).then_some(IndexFlow::Minus(binary::B)), |node| each(node, |g, slot| Ok(if slot == binary::A { g } else { -g }));
    /// `a · b`.
    Mul, |_| None, |node| each(node, |g, slot| Ok(g * node.x(binary::A + binary::B - slot)?));
    /// `a / b`.
    Div, |_| None, |node| {
        let b = node.x(binary::B)?;
        each(node, |g, slot| Ok(if slot == binary::A { g / b } else { -(g * node.y(0)? / b) }))
    };
    /// `a ^ b`.
    Pow, |_| None, |node| {
        let (a, b) = (node.x(pow::BASE)?, node.x(pow::EXPONENT)?.cast(node.x(pow::BASE)?.dtype()));
        let exponent = node.constant(pow::EXPONENT).and_then(|b| b.to_f32()).filter(|b| b.len() == 1);
        let exponent = exponent.and_then(|b| b.first().copied());
        each(node, |g, slot| Ok(match (slot, exponent) {
            (pow::BASE, Some(n)) => g * (n * a.powf(n - 1.0)),
            (pow::BASE, None) => g * b * a.apply("Pow", &[b - 1.0], &[]),
            _ => g * node.y(0)? * a.map("Log"),
        }))
    };
    /// `a` where it is positive, else `slope · a`.
    PRelu, |_| None, |node| {
        let (a, slope) = (node.x(prelu::X)?, node.x(prelu::SLOPE)?);
        let negative = a.scalar(0.0).greater(a).cast(a.dtype());
        each(node, |g, slot| Ok(match slot {
            prelu::X => g * (negative * (slope - 1.0) + 1.0),
            _ => g * (negative * a),
        }))
    };
    /// `a` where the condition holds, else `b`.
    Where, |slot| (slot != where_::CONDITION).then_some(IndexFlow::Passed), |node| {
        let condition = node.x(where_::CONDITION)?;
        each(node, |g, slot| Ok(match slot {
            where_::A => g * condition.cast(g.dtype()),
            _ => g * condition.map("Not").cast(g.dtype()),
        }))
    };
    /// Inference passes elements on; a ratio and a mode are operands, and the mask is no number.
    Dropout, |_| None, |node| {
        node.set_cotangent(0, node.g()?);
        Ok(())
    };
    /// The remainder: a step function in the divisor.
    Mod, IndexFlow::moved, |node| node.set_from_result_shape(0, node.g()?);
    /// Elements in another operand's type.
    CastLike, |_| None, |node| {
        let dtype = node.x(0)?.dtype();
        node.set_cotangent(0, node.g()?.cast(dtype));
        node.set_zero_cotangent(1);
        Ok(())
    };
}

/// Add and Sum.
pub(super) struct Add;

impl Operator for Add {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        relate(node)
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.combine_elements()
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        AxisFlow::broadcast(node, slot, axis)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        each(node, |g, _| Ok(g))
    }

    fn is_sum(&self) -> bool {
        true
    }

    fn index_flow(&self, _node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        match slot {
            binary::A => Some(IndexFlow::Plus(binary::B)),
            binary::B => Some(IndexFlow::Plus(binary::A)),
            _ => None,
        }
    }

    fn gain(&self, _node: &NodeCx<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(1.0))
    }
}

/// Identity and Cast: the same elements under another name or type.
pub(super) struct IdentityOrCast;

impl Operator for IdentityOrCast {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        relate(node)
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.copy_elements().or_else(|| flow.to_float())
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        AxisFlow::broadcast(node, slot, axis)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let dtype = node.x(0)?.dtype();
        if dtype.is_float() {
            node.set_cotangent(0, node.g()?.cast(dtype));
        }
        Ok(())
    }

    fn index_flow(&self, node: &NodeProto, slot: usize) -> Option<IndexFlow> {
        let to = attr_int(node, "to").and_then(|code| DType::from_onnx(i32::try_from(code).ok()?));
        let keeps = to.is_none_or(|dtype| !dtype.is_float() && dtype != DType::Bool);
        (slot == 0 && keeps).then_some(IndexFlow::Passed)
    }

    fn is_cast(&self) -> bool {
        true
    }

    fn decode(&self, _node: &NodeProto, operands: &[Option<Tensor>]) -> Option<ArrayD<f32>> {
        operands.first()?.as_ref()?.as_numbers()
    }

    fn gain(&self, _node: &NodeCx<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        Some(uniform(1.0))
    }
}

/// All operands and results have the axes that broadcasting makes of the operands'.
pub(super) fn relate(node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
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
        node.set_from_result_shape(slot, rule(g, slot)?)?;
    }
    Ok(())
}
