//! The list of operators.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    Operator, activation,
    concat::{Concat, Split},
    conv::{Conv, ConvTranspose},
    einsum::Einsum,
    elementwise::{
        Add, CastLike, Clip, Div, Dropout, Extremum, Logical, Mean, Mod, Mul, PRelu, Pow, Rename, Sub, Where,
    },
    expand::{Expand, Tile},
    gather::Gather,
    matmul::{Gemm, MatMul},
    normalization::{
        BatchNormalization, GroupNormalization, InstanceNormalization, LayerNormalization, LpNormalization,
    },
    pad::Pad,
    pool::{GlobalPool, Pool},
    reduce,
    reshape::{Flatten, Reshape, Squeeze, Unsqueeze},
    resize::Resize,
    shape::{ConstantOfShape, Range, Shape},
    slice::Slice,
    softmax::Softmax,
    transpose::Transpose,
};
use crate::onnx::proto::NodeProto;

/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

#[rustfmt::skip]
static OPERATORS: &[(&str, &str, &dyn Operator)] = &[
    ("", "Abs", &activation::ABS),
    ("", "Acos", &activation::ACOS),
    ("", "Add", &Add),
    ("", "And", &Logical),
    ("", "Asin", &activation::ASIN),
    ("", "Atan", &activation::ATAN),
    ("", "AveragePool", &Pool::Average),
    ("", "BatchNormalization", &BatchNormalization),
    ("", "BitwiseAnd", &Logical),
    ("", "BitwiseNot", &Logical),
    ("", "BitwiseOr", &Logical),
    ("", "Cast", &Rename),
    ("", "CastLike", &CastLike),
    ("", "Ceil", &activation::Step),
    ("", "Celu", &activation::CELU),
    ("", "Clip", &Clip),
    ("", "Concat", &Concat),
    ("", "ConstantOfShape", &ConstantOfShape),
    ("", "Conv", &Conv),
    ("", "ConvTranspose", &ConvTranspose),
    ("", "Cos", &activation::COS),
    ("", "Div", &Div),
    ("", "Dropout", &Dropout),
    ("", "Einsum", &Einsum),
    ("", "Elu", &activation::ELU),
    ("", "Equal", &Logical),
    ("", "Erf", &activation::ERF),
    ("", "Exp", &activation::EXP),
    ("", "Expand", &Expand),
    ("", "Flatten", &Flatten),
    ("", "Floor", &activation::Step),
    ("", "Gather", &Gather),
    ("", "Gelu", &activation::GELU),
    ("", "Gemm", &Gemm),
    ("", "GlobalAveragePool", &GlobalPool::Average),
    ("", "GlobalLpPool", &GlobalPool::Norm),
    ("", "GlobalMaxPool", &GlobalPool::Max),
    ("", "Greater", &Logical),
    ("", "GreaterOrEqual", &Logical),
    ("", "GroupNormalization", &GroupNormalization),
    ("", "HardSigmoid", &activation::HARD_SIGMOID),
    ("", "HardSwish", &activation::HARD_SWISH),
    ("", "Identity", &Rename),
    ("", "InstanceNormalization", &InstanceNormalization),
    ("", "IsInf", &Logical),
    ("", "IsNaN", &Logical),
    ("", "LayerNormalization", &LayerNormalization::Layer),
    ("", "LeakyRelu", &activation::LEAKY_RELU),
    ("", "Less", &Logical),
    ("", "LessOrEqual", &Logical),
    ("", "Log", &activation::LOG),
    ("", "LogSoftmax", &Softmax::Logarithmic),
    ("", "LpNormalization", &LpNormalization),
    ("", "LpPool", &Pool::Norm),
    ("", "MatMul", &MatMul),
    ("", "Max", &Extremum),
    ("", "MaxPool", &Pool::Max),
    ("", "Mean", &Mean),
    ("", "Min", &Extremum),
    ("", "Mish", &activation::MISH),
    ("", "Mod", &Mod),
    ("", "Mul", &Mul),
    ("", "Neg", &activation::NEG),
    ("", "Not", &Logical),
    ("", "Or", &Logical),
    ("", "PRelu", &PRelu),
    ("", "Pad", &Pad),
    ("", "Pow", &Pow),
    ("", "RMSNormalization", &LayerNormalization::RootMeanSquare),
    ("", "Range", &Range),
    ("", "Reciprocal", &activation::RECIPROCAL),
    ("", "ReduceL1", &reduce::L1),
    ("", "ReduceL2", &reduce::L2),
    ("", "ReduceLogSum", &reduce::LOG_SUM),
    ("", "ReduceLogSumExp", &reduce::LOG_SUM_EXP),
    ("", "ReduceMax", &reduce::EXTREMUM),
    ("", "ReduceMean", &reduce::MEAN),
    ("", "ReduceMin", &reduce::EXTREMUM),
    ("", "ReduceProd", &reduce::PRODUCT),
    ("", "ReduceSum", &reduce::SUM),
    ("", "ReduceSumSquare", &reduce::SUM_SQUARE),
    ("", "Relu", &activation::RELU),
    ("", "Reshape", &Reshape),
    ("", "Resize", &Resize),
    ("", "Round", &activation::Step),
    ("", "Selu", &activation::SELU),
    ("", "Shape", &Shape),
    ("", "Sigmoid", &activation::SIGMOID),
    ("", "Sign", &activation::Step),
    ("", "Sin", &activation::SIN),
    ("", "Slice", &Slice),
    ("", "Softmax", &Softmax::Linear),
    ("", "Softplus", &activation::SOFTPLUS),
    ("", "Softsign", &activation::SOFTSIGN),
    ("", "Split", &Split),
    ("", "Sqrt", &activation::SQRT),
    ("", "Squeeze", &Squeeze),
    ("", "Sub", &Sub),
    ("", "Sum", &Add),
    ("", "Swish", &activation::SWISH),
    ("", "Tan", &activation::TAN),
    ("", "Tanh", &activation::TANH),
    ("", "ThresholdedRelu", &activation::THRESHOLDED_RELU),
    ("", "Tile", &Tile),
    ("", "Transpose", &Transpose),
    ("", "Unsqueeze", &Unsqueeze),
    ("", "Where", &Where),
    ("", "Xor", &Logical),
    (MICROSOFT, "BiasGelu", &activation::BIAS_GELU),
    (MICROSOFT, "FastGelu", &activation::FAST_GELU),
    (MICROSOFT, "Gelu", &activation::GELU),
    (MICROSOFT, "QuickGelu", &activation::QUICK_GELU),
];

/// Every operator that has rules: its domain (empty for ONNX's own) and its name, by which they are sorted, and the rules.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static dyn Operator)> {
    OPERATORS.iter().copied()
}

/// The rules of the node's operator, if it has any.
pub fn find(node: &NodeProto) -> Option<&'static dyn Operator> {
    static TABLE: OnceLock<HashMap<(&str, &str), &dyn Operator>> = OnceLock::new();
    let table =
        TABLE.get_or_init(|| OPERATORS.iter().map(|(domain, name, op)| ((*domain, *name), *op)).collect());
    let domain = if node.domain() == "ai.onnx" { "" } else { node.domain() };
    table.get(&(domain, node.op_type())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_free_of_duplicates() {
        assert!(OPERATORS.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
    }
}
