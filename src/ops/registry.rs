//! The list of operators.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    Operator,
    concat::{Concat, Split},
    conv::{Conv, ConvTranspose},
    einsum::Einsum,
    elementwise::{Add, Div, Elementwise, Mul, Rename, Sub},
    expand::{Expand, Tile},
    gather::Gather,
    matmul::{Gemm, MatMul},
    normalization::{
        BatchNormalization, GroupNormalization, InstanceNormalization, LayerNormalization, LpNormalization,
    },
    pad::Pad,
    pool::{GlobalPool, Pool},
    reduce::{Additive, Statistic},
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
    ("", "Abs", &Elementwise),
    ("", "Acos", &Elementwise),
    ("", "Add", &Add),
    ("", "And", &Elementwise),
    ("", "Asin", &Elementwise),
    ("", "Atan", &Elementwise),
    ("", "AveragePool", &Pool),
    ("", "BatchNormalization", &BatchNormalization),
    ("", "BitwiseAnd", &Elementwise),
    ("", "BitwiseNot", &Elementwise),
    ("", "BitwiseOr", &Elementwise),
    ("", "Cast", &Rename),
    ("", "CastLike", &Elementwise),
    ("", "Ceil", &Elementwise),
    ("", "Celu", &Elementwise),
    ("", "Clip", &Elementwise),
    ("", "Concat", &Concat),
    ("", "ConstantOfShape", &ConstantOfShape),
    ("", "Conv", &Conv),
    ("", "ConvTranspose", &ConvTranspose),
    ("", "Cos", &Elementwise),
    ("", "Div", &Div),
    ("", "Dropout", &Elementwise),
    ("", "Einsum", &Einsum),
    ("", "Elu", &Elementwise),
    ("", "Equal", &Elementwise),
    ("", "Erf", &Elementwise),
    ("", "Exp", &Elementwise),
    ("", "Expand", &Expand),
    ("", "Flatten", &Flatten),
    ("", "Floor", &Elementwise),
    ("", "Gather", &Gather),
    ("", "Gelu", &Elementwise),
    ("", "Gemm", &Gemm),
    ("", "GlobalAveragePool", &GlobalPool),
    ("", "GlobalLpPool", &GlobalPool),
    ("", "GlobalMaxPool", &GlobalPool),
    ("", "Greater", &Elementwise),
    ("", "GreaterOrEqual", &Elementwise),
    ("", "GroupNormalization", &GroupNormalization),
    ("", "HardSigmoid", &Elementwise),
    ("", "HardSwish", &Elementwise),
    ("", "Identity", &Rename),
    ("", "InstanceNormalization", &InstanceNormalization),
    ("", "IsInf", &Elementwise),
    ("", "IsNaN", &Elementwise),
    ("", "LayerNormalization", &LayerNormalization),
    ("", "LeakyRelu", &Elementwise),
    ("", "Less", &Elementwise),
    ("", "LessOrEqual", &Elementwise),
    ("", "Log", &Elementwise),
    ("", "LogSoftmax", &Softmax),
    ("", "LpNormalization", &LpNormalization),
    ("", "LpPool", &Pool),
    ("", "MatMul", &MatMul),
    ("", "Max", &Elementwise),
    ("", "MaxPool", &Pool),
    ("", "Mean", &Elementwise),
    ("", "Min", &Elementwise),
    ("", "Mish", &Elementwise),
    ("", "Mod", &Elementwise),
    ("", "Mul", &Mul),
    ("", "Neg", &Elementwise),
    ("", "Not", &Elementwise),
    ("", "Or", &Elementwise),
    ("", "PRelu", &Elementwise),
    ("", "Pad", &Pad),
    ("", "Pow", &Elementwise),
    ("", "RMSNormalization", &LayerNormalization),
    ("", "Range", &Range),
    ("", "Reciprocal", &Elementwise),
    ("", "ReduceL1", &Additive),
    ("", "ReduceL2", &Additive),
    ("", "ReduceLogSum", &Additive),
    ("", "ReduceLogSumExp", &Statistic),
    ("", "ReduceMax", &Statistic),
    ("", "ReduceMean", &Statistic),
    ("", "ReduceMin", &Statistic),
    ("", "ReduceProd", &Statistic),
    ("", "ReduceSum", &Additive),
    ("", "ReduceSumSquare", &Additive),
    ("", "Relu", &Elementwise),
    ("", "Reshape", &Reshape),
    ("", "Resize", &Resize),
    ("", "Round", &Elementwise),
    ("", "Selu", &Elementwise),
    ("", "Shape", &Shape),
    ("", "Sigmoid", &Elementwise),
    ("", "Sign", &Elementwise),
    ("", "Sin", &Elementwise),
    ("", "Slice", &Slice),
    ("", "Softmax", &Softmax),
    ("", "Softplus", &Elementwise),
    ("", "Softsign", &Elementwise),
    ("", "Split", &Split),
    ("", "Sqrt", &Elementwise),
    ("", "Squeeze", &Squeeze),
    ("", "Sub", &Sub),
    ("", "Sum", &Add),
    ("", "Swish", &Elementwise),
    ("", "Tan", &Elementwise),
    ("", "Tanh", &Elementwise),
    ("", "ThresholdedRelu", &Elementwise),
    ("", "Tile", &Tile),
    ("", "Transpose", &Transpose),
    ("", "Unsqueeze", &Unsqueeze),
    ("", "Where", &Elementwise),
    ("", "Xor", &Elementwise),
    (MICROSOFT, "BiasGelu", &Elementwise),
    (MICROSOFT, "FastGelu", &Elementwise),
    (MICROSOFT, "Gelu", &Elementwise),
    (MICROSOFT, "QuickGelu", &Elementwise),
];

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
