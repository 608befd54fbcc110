//! Functions of one number, arithmetic with broadcasting.

use optin_onnx::tensor::DType;

use super::Form;
use crate::case::{B, Case, Values};

#[rustfmt::skip]
pub static FORMS: &[(&str, Form)] = &[
    ("Abs", |c| unary(c, "Abs", 13, Values::Any)),
    ("Acos", |c| unary(c, "Acos", 13, Values::Unit)),
    ("Asin", |c| unary(c, "Asin", 13, Values::Unit)),
    ("Asinh", |c| unary(c, "Asinh", 9, Values::Any)),
    ("Atanh", |c| unary(c, "Atanh", 9, Values::Unit)),
    ("Atan", |c| unary(c, "Atan", 13, Values::Any)),
    ("Ceil", |c| unary(c, "Ceil", 13, Values::Any)),
    ("Celu", |c| scaled(c, "Celu", 13, &["alpha"])),
    ("Cosh", |c| unary(c, "Cosh", 9, Values::Any)),
    ("Cos", |c| unary(c, "Cos", 13, Values::Any)),
    ("Elu", |c| scaled(c, "Elu", 13, &["alpha"])),
    ("Erf", |c| unary(c, "Erf", 13, Values::Any)),
    ("Exp", |c| unary(c, "Exp", 11, Values::Any)),
    ("Floor", |c| unary(c, "Floor", 13, Values::Any)),
    ("Gelu", gelu),
    ("HardSigmoid", |c| scaled(c, "HardSigmoid", 13, &["alpha", "beta"])),
    ("HardSwish", |c| unary(c, "HardSwish", 14, Values::Any)),
    ("Identity", |c| unary(c, "Identity", 13, Values::Any)),
    ("LeakyRelu", |c| scaled(c, "LeakyRelu", 16, &["alpha"])),
    ("Log", |c| unary(c, "Log", 13, Values::Positive)),
    ("Mish", |c| unary(c, "Mish", 18, Values::Any)),
    ("Neg", |c| unary(c, "Neg", 13, Values::Any)),
    ("Reciprocal", |c| unary(c, "Reciprocal", 13, Values::Positive)),
    ("Relu", |c| unary(c, "Relu", 14, Values::Any)),
    ("Round", |c| unary(c, "Round", 13, Values::Any)),
    // tract rounds Selu's defaults.
    ("Selu", |c| unary(c, "Selu", 13, Values::Any).float("alpha", 1.5).float("gamma", 0.7)),
    ("Shrink", |c| unary(c.single(), "Shrink", 9, Values::Any).float("lambd", 0.5).float("bias", 0.2)),
    ("Sinh", |c| unary(c, "Sinh", 9, Values::Any)),
    ("Sigmoid", |c| unary(c, "Sigmoid", 13, Values::Any)),
    ("Sign", |c| unary(c, "Sign", 13, Values::Any)),
    ("Sin", |c| unary(c, "Sin", 13, Values::Any)),
    ("Softplus", |c| unary(c, "Softplus", 13, Values::Any)),
    ("Softsign", |c| unary(c, "Softsign", 13, Values::Any)),
    ("Sqrt", |c| unary(c, "Sqrt", 13, Values::Positive)),
    ("Swish", |c| scaled(c, "Swish", 24, &["alpha"])),
    ("Tan", |c| unary(c, "Tan", 13, Values::Unit)),
    ("Tanh", |c| unary(c, "Tanh", 13, Values::Any)),
    ("ThresholdedRelu", |c| scaled(c, "ThresholdedRelu", 13, &["alpha"])),
    ("com.microsoft.BiasGelu", |c| c.op("BiasGelu", 17).microsoft().x(&[B, 3, 4]).x(&[4])),
    ("com.microsoft.FastGelu", fast_gelu),
    ("com.microsoft.Gelu", |c| unary(c, "Gelu", 17, Values::Any).microsoft()),
    ("com.microsoft.QuickGelu", |c| scaled(c, "QuickGelu", 17, &["alpha"]).microsoft()),
    ("Add", |c| binary(c, "Add", [Values::Any; 2])),
    ("Div", |c| binary(c, "Div", [Values::Any, Values::Positive])),
    ("Mul", |c| binary(c, "Mul", [Values::Any; 2])),
    ("Pow", |c| binary(c, "Pow", [Values::Positive, Values::Any])),
    ("Pow by a constant", |mut c| {
        let exponent = c.pick(&[2.0, 3.0, 1.0]);
        c.op("Pow", 15).x(&[B, 5]).number(exponent)
    }),
    ("Sub", |c| binary(c, "Sub", [Values::Any; 2])),
    ("Max", |c| several(c, "Max", Values::Distinct)),
    ("Mean", |c| several(c, "Mean", Values::Any)),
    ("Min", |c| several(c, "Min", Values::Distinct)),
    ("Sum", |c| several(c, "Sum", Values::Any)),
    ("Mod", |c| c.op("Mod", 13).int("fmod", 1).x(&[B, 4]).number(0.7)),
    ("PRelu", |mut c| {
        let slope = c.pick(&[&[1][..], &[3, 1, 1], &[4], &[B, 3, 2, 4]]);
        c.op("PRelu", 16).x(&[B, 3, 2, 4]).x(slope)
    }),
    ("Where", |mut c| {
        let [flags, a, b] = c.pick(&[
            [&[B, 3, 4][..], &[4], &[B, 1, 4]],
            [&[4], &[B, 3, 4], &[]],
            [&[3, 1], &[1, 4], &[B, 1, 1]],
        ]);
        c.op("Where", 16).flags(flags).x(a).x(b)
    }),
    ("Clip", clip),
    ("Dropout", |mut c| match c.flip() {
        true => c.op("Dropout", 11).float("ratio", 0.3).x(&[B, 4]),
        false => c.op("Dropout", 13).x(&[B, 4]).outputs(1),
    }),
    ("Cast to itself and wider", |c| c.op("Cast", 13).int("to", i64::from(DType::F64.onnx())).x(&[B, 3])),
    ("CastLike", |c| c.op("CastLike", 19).x(&[B, 3]).weight(&[2])),
];

fn unary(mut c: Case, op: &str, opset: i64, values: Values) -> Case {
    let shape = c.pick(&[&[B, 3, 4][..], &[B], &[2, B, 1, 3]]);
    c.op(op, opset).input(shape, values)
}

/// With or without each of its attributes, whose values put kinks at multiples of a tenth.
fn scaled(c: Case, op: &str, opset: i64, attributes: &[&str]) -> Case {
    let mut c = unary(c, op, opset, Values::Any);
    for name in attributes {
        if c.flip() {
            let value = c.pick(&[0.5, 0.2]);
            c = c.float(name, value);
        }
    }
    c
}

fn gelu(mut c: Case) -> Case {
    let approximation = c.pick(&["none", "tanh", ""]);
    let c = unary(c, "Gelu", 20, Values::Any);
    if approximation.is_empty() { c } else { c.string("approximate", approximation) }
}

fn fast_gelu(mut c: Case) -> Case {
    let biased = c.flip();
    let c = c.op("FastGelu", 17).microsoft().x(&[B, 3, 4]);
    if biased { c.x(&[4]) } else { c }
}

fn binary(mut c: Case, op: &str, values: [Values; 2]) -> Case {
    let (mut a, mut b) = c.pick(&[
        (&[B, 3, 4][..], &[B, 3, 4][..]),
        (&[B, 3, 4], &[4]),
        (&[B, 3, 4], &[B, 1, 4]),
        (&[B, 1, 4], &[3, 1]),
        (&[B, 3], &[]),
        (&[2, B, 3], &[1, 1, 1]),
    ]);
    if c.flip() {
        (a, b) = (b, a);
    }
    let opset = c.pick(&[11, 13, 14]);
    c.op(op, opset).input(a, values[0]).input(b, values[1])
}

fn several(mut c: Case, op: &str, values: Values) -> Case {
    let shapes: &[&[usize]] = match c.pick(&[0, 1, 2]) {
        0 => &[&[B, 3]],
        1 => &[&[B, 3], &[3]],
        _ => &[&[3], &[B, 2, 3], &[B, 1, 1]],
    };
    let opset = c.pick(&[11, 13]);
    shapes.iter().fold(c.op(op, opset), |c, shape| c.input(shape, values))
}

fn clip(mut c: Case) -> Case {
    match c.pick(&[0, 1, 2, 3]) {
        0 => c.op("Clip", 10).float("min", -0.5).float("max", 0.7).x(&[B, 6]),
        1 => c.op("Clip", 13).x(&[B, 6]).number(-0.5).number(0.7),
        2 => c.op("Clip", 13).x(&[B, 6]).skip().number(0.7),
        _ => c.op("Clip", 13).x(&[B, 6]).number(-0.5),
    }
}
