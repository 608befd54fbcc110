//! Functions of one number, applied to each element: activations and the like. Each comes with its derivative.

use super::schema::{OpSchema, float, microsoft, number, onnx};
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::{
    AxisFlow, DataPropagation, NoGradient, NodeCx, NodeGradient, NodeTyper, Operator, elementwise::relate,
};
use crate::{graph::Expr, widths::PinReason};

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Abs", &[1, 6, 13], &ABS).reads(&[number("X")]).makes(&[number("Y")]),
    onnx("Acos", &[7, 22], &ACOS).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Acosh", &[9, 22], &ACOSH).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Asin", &[7, 22], &ASIN).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Asinh", &[9, 22], &ASINH).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Atan", &[7, 22], &ATAN).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Atanh", &[9, 22], &ATANH).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Celu", &[12, 28], &CELU).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Cos", &[7, 22], &COS).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Cosh", &[9, 22], &COSH).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Elu", &[1, 6, 22], &ELU).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Erf", &[9, 13], &ERF).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Exp", &[1, 6, 13], &EXP).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Gelu", &[20], &GELU).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("HardSigmoid", &[1, 6, 22], &HARD_SIGMOID).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("HardSwish", &[14, 22], &HARD_SWISH).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("LeakyRelu", &[1, 6, 16], &LEAKY_RELU).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Log", &[1, 6, 13], &LOG).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Mish", &[18, 22], &MISH).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Neg", &[1, 6, 13], &NEG).reads(&[number("X")]).makes(&[number("Y")]),
    onnx("Reciprocal", &[1, 6, 13], &RECIPROCAL).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Relu", &[1, 6, 13, 14], &RELU).reads(&[number("X")]).makes(&[number("Y")]),
    onnx("Selu", &[1, 6, 22], &SELU).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Shrink", &[9], &SHRINK).reads(&[number("input")]).makes(&[number("output")]),
    onnx("Sigmoid", &[1, 6, 13], &SIGMOID).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Sin", &[7, 22], &SIN).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Sinh", &[9, 22], &SINH).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Softplus", &[1, 22], &SOFTPLUS).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Softsign", &[1, 22], &SOFTSIGN).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Sqrt", &[1, 6, 13], &SQRT).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Swish", &[24], &SWISH).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("Tan", &[7, 22], &TAN).reads(&[float("input")]).makes(&[float("output")]),
    onnx("Tanh", &[1, 6, 13], &TANH).reads(&[float("input")]).makes(&[float("output")]),
    onnx("ThresholdedRelu", &[10, 22], &THRESHOLDED_RELU).reads(&[float("X")]).makes(&[float("Y")]),
    microsoft("BiasGelu", &BIAS_GELU).reads(&[float("A"), float("B")]).makes(&[float("C")]),
    microsoft("FastGelu", &FAST_GELU).reads(&[float("X"), float("bias").optional()]).makes(&[float("Y")]),
    microsoft("Gelu", &GELU).reads(&[float("X")]).makes(&[float("Y")]),
    microsoft("QuickGelu", &QUICK_GELU).reads(&[float("X")]).makes(&[float("Y")]),
];

type Slope = for<'a> fn(&NodeGradient<'a>, Expr<'a>, Expr<'a>) -> Expr<'a>;

/// A function `y = f(x)` of its first operand, with `f'` as a formula over `x` and `y`.
pub(super) struct Unary(Slope);

impl Operator for Unary {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        relate(node)
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        AxisFlow::broadcast(node, slot, axis)
    }

    fn propagate_data(&self, flow: &mut DataPropagation<'_>) -> Option<()> {
        flow.combine_elements()
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let slope = (self.0)(node, node.x(0)?, node.y(0)?);
        node.set_cotangent(0, node.g()? * slope);
        Ok(())
    }
}

/// A function of `x + bias`, where the bias may be left out.
pub(super) struct Biased(Slope);

impl Operator for Biased {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        relate(node)
    }

    fn axis_flow(&self, node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<AxisFlow> {
        AxisFlow::broadcast(node, slot, axis)
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let sum = if node.has(1) { node.x(0)? + node.x(1)? } else { node.x(0)? };
        let cotangent = node.g()? * (self.0)(node, sum, node.y(0)?);
        node.set_cotangent(0, cotangent);
        if node.needs(1) { node.set_from_result_shape(1, cotangent) } else { Ok(()) }
    }
}

pub(super) static ABS: Unary = Unary(|_, x, _| x.map("Sign"));
pub(super) static ACOS: Unary = Unary(|_, x, _| -(1.0 - x * x).powf(-0.5));
pub(super) static ASIN: Unary = Unary(|_, x, _| (1.0 - x * x).powf(-0.5));
pub(super) static ATAN: Unary = Unary(|_, x, _| 1.0 / (1.0 + x * x));
pub(super) static COS: Unary = Unary(|_, x, _| -x.map("Sin"));
pub(super) static ERF: Unary = Unary(|_, x, _| FRAC_2_SQRT_PI * (-(x * x)).map("Exp"));
pub(super) static EXP: Unary = Unary(|_, _, y| y);
pub(super) static LOG: Unary = Unary(|_, x, _| 1.0 / x);
pub(super) static NEG: Unary = Unary(|_, x, _| x.scalar(-1.0));
pub(super) static RECIPROCAL: Unary = Unary(|_, _, y| -(y * y));
pub(super) static SIGMOID: Unary = Unary(|_, _, y| y * (1.0 - y));
pub(super) static SIN: Unary = Unary(|_, x, _| x.map("Cos"));
pub(super) static SOFTPLUS: Unary = Unary(|_, x, _| x.map("Sigmoid"));
pub(super) static SOFTSIGN: Unary = Unary(|_, x, _| (1.0 + x.map("Abs")).powf(-2.0));
pub(super) static SQRT: Unary = Unary(|_, _, y| 0.5 / y);
pub(super) static TAN: Unary = Unary(|_, _, y| 1.0 + y * y);
pub(super) static ACOSH: Unary = Unary(|_, x, _| (x * x - 1.0).powf(-0.5));
pub(super) static ASINH: Unary = Unary(|_, x, _| (x * x + 1.0).powf(-0.5));
pub(super) static ATANH: Unary = Unary(|_, x, _| 1.0 / (1.0 - x * x));
pub(super) static COSH: Unary = Unary(|_, x, _| x.map("Sinh"));
pub(super) static SINH: Unary = Unary(|_, x, _| x.map("Cosh"));
// Nothing within ±lambd, beyond it the distance from a bias.
pub(super) static SHRINK: Unary = Unary(|_, _, y| y.map("Abs").map("Sign"));
pub(super) static TANH: Unary = Unary(|_, _, y| 1.0 - y * y);
pub(super) static RELU: Unary = Unary(|_, _, y| positive(y).cast(y.dtype()));

pub(super) static CELU: Unary = Unary(|node, x, y| {
    let alpha = node.float("alpha").unwrap_or(1.0);
    positive(x).select(x.scalar(1.0), y / alpha + 1.0)
});

pub(super) static ELU: Unary = Unary(|node, x, y| {
    let alpha = node.float("alpha").unwrap_or(1.0);
    positive(x).select(x.scalar(1.0), y + alpha)
});

pub(super) static SELU: Unary = Unary(|node, x, y| {
    let alpha = node.float("alpha").unwrap_or(1.673_263_2);
    let gamma = node.float("gamma").unwrap_or(1.050_701);
    positive(x).select(x.scalar(gamma), y + gamma * alpha)
});

pub(super) static LEAKY_RELU: Unary = Unary(|node, x, _| {
    let alpha = node.float("alpha").unwrap_or(0.01);
    (1.0 - alpha) * positive(x).cast(x.dtype()) + alpha
});

pub(super) static THRESHOLDED_RELU: Unary = Unary(|node, x, _| {
    let alpha = node.float("alpha").unwrap_or(1.0);
    x.greater(x.scalar(alpha)).cast(x.dtype())
});

pub(super) static HARD_SIGMOID: Unary = Unary(|node, _, y| {
    let alpha = node.float("alpha").unwrap_or(0.2);
    // Between its bounds 0 and 1, y (1 - y) is positive; at them it is zero.
    alpha * positive(y * (1.0 - y)).cast(y.dtype())
});

pub(super) static HARD_SWISH: Unary = Unary(|_, x, _| {
    // x · clip(x / 6 + 1/2, 0, 1)
    let gate = x / 6.0 + 0.5;
    let inside = positive(gate * (1.0 - gate)).cast(x.dtype());
    let above = positive(gate - 1.0).cast(x.dtype());
    above + inside * (x / 3.0 + 0.5)
});

pub(super) static MISH: Unary = Unary(|_, x, _| {
    let t = x.map("Softplus").map("Tanh");
    t + x * x.map("Sigmoid") * (1.0 - t * t)
});

pub(super) static SWISH: Unary = Unary(|node, x, _| swish(x, node.float("alpha").unwrap_or(1.0)));

/// com.microsoft's name and default of Swish.
pub(super) static QUICK_GELU: Unary = Unary(|node, x, _| swish(x, node.float("alpha").unwrap_or(1.702)));

pub(super) static GELU: Unary = Unary(|node, x, _| match node.string("approximate") {
    Some("tanh") => gelu_by_tanh(x),
    _ => gelu(x),
});

pub(super) static BIAS_GELU: Biased = Biased(|_, x, _| gelu(x));

/// com.microsoft's approximation by a hyperbolic tangent.
pub(super) static FAST_GELU: Biased = Biased(|_, x, _| gelu_by_tanh(x));

fn positive<'a>(x: Expr<'a>) -> Expr<'a> {
    x.greater(x.scalar(0.0))
}

/// Derivative of `x · σ(α x)`.
fn swish<'a>(x: Expr<'a>, alpha: f32) -> Expr<'a> {
    let s = (alpha * x).map("Sigmoid");
    s + alpha * x * s * (1.0 - s)
}

/// Derivative of `x · Φ(x)`.
fn gelu<'a>(x: Expr<'a>) -> Expr<'a> {
    let cdf = 0.5 * (1.0 + (x * FRAC_1_SQRT_2).map("Erf"));
    let density = (0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI) * (-0.5 * x * x).map("Exp");
    cdf + x * density
}

/// Derivative of `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
fn gelu_by_tanh<'a>(x: Expr<'a>) -> Expr<'a> {
    const SCALE: f32 = FRAC_1_SQRT_2 * FRAC_2_SQRT_PI;
    const CUBE: f32 = 0.044_715;
    let square = x * x;
    let t = (SCALE * x * (1.0 + CUBE * square)).map("Tanh");
    let inner = SCALE * (1.0 + 3.0 * CUBE * square);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
}
