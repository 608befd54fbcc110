//! The list of operators.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    Operator, activation,
    along::{ArgExtremum, CumSum, EyeLike, Lrn, MeanVariance, NonZero, ReverseSequence, Size, TopK, Trilu},
    attention::Attention,
    concat::{Concat, Split},
    conv::{Conv, ConvTranspose},
    einsum::Einsum,
    elementwise::{
        Add, CastLike, Clip, Div, Dropout, Extremum, Logical, Mean, Mod, Mul, PRelu, Pow, Rename, Step, Sub,
        Where,
    },
    expand::{Expand, Tile},
    experts::Experts,
    fused::{EmbedLayerNormalization, FusedConv, FusedGemm, FusedMatMul, SkipNormalization},
    gather::Gather,
    grid::GridSample,
    matmul::{Gemm, MatMul},
    microsoft::{FusedAttention, GroupQueryAttention, MultiHeadAttention},
    normalization::{
        BatchNormalization, GroupNormalization, InstanceNormalization, LayerNormalization, LpNormalization,
    },
    pad::Pad,
    pool::{GlobalPool, Pool},
    quantize::{Dequantize, Quantize},
    recurrent::Recurrent,
    reduce,
    reshape::{Flatten, Reshape, Squeeze, Unsqueeze},
    resize::Resize,
    rotary::RotaryEmbedding,
    scatter::{Compress, GatherElements, GatherNd, OneHot, ScatterElements, ScatterNd},
    shape::{ConstantOfShape, Range, Shape},
    slice::Slice,
    softmax::Softmax,
    space::{DepthToSpace, RoiAlign, SpaceToDepth},
    transpose::Transpose,
};
use crate::onnx::proto::{NodeProto, type_proto::Value};

/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

#[rustfmt::skip]
static OPERATORS: &[(&str, &str, &dyn Operator)] = &[
    ("", "Abs", &activation::ABS),
    ("", "Acos", &activation::ACOS),
    ("", "Acosh", &activation::ACOSH),
    ("", "Add", &Add),
    ("", "And", &Logical),
    ("", "ArgMax", &ArgExtremum),
    ("", "ArgMin", &ArgExtremum),
    ("", "Asin", &activation::ASIN),
    ("", "Asinh", &activation::ASINH),
    ("", "Atan", &activation::ATAN),
    ("", "Atanh", &activation::ATANH),
    ("", "Attention", &Attention),
    ("", "AveragePool", &Pool::Average),
    ("", "BatchNormalization", &BatchNormalization),
    ("", "BitShift", &Logical),
    ("", "BitwiseAnd", &Logical),
    ("", "BitwiseNot", &Logical),
    ("", "BitwiseOr", &Logical),
    ("", "BitwiseXor", &Logical),
    ("", "Cast", &Rename),
    ("", "CastLike", &CastLike),
    ("", "Ceil", &Step),
    ("", "Celu", &activation::CELU),
    ("", "Clip", &Clip),
    ("", "Compress", &Compress),
    ("", "Concat", &Concat),
    ("", "ConstantOfShape", &ConstantOfShape),
    ("", "Conv", &Conv),
    ("", "ConvTranspose", &ConvTranspose),
    ("", "Cos", &activation::COS),
    ("", "Cosh", &activation::COSH),
    ("", "CumSum", &CumSum),
    ("", "DepthToSpace", &DepthToSpace),
    ("", "DequantizeLinear", &Dequantize),
    ("", "Div", &Div),
    ("", "Dropout", &Dropout),
    ("", "Einsum", &Einsum),
    ("", "Elu", &activation::ELU),
    ("", "Equal", &Logical),
    ("", "Erf", &activation::ERF),
    ("", "Exp", &activation::EXP),
    ("", "Expand", &Expand),
    ("", "EyeLike", &EyeLike),
    ("", "Flatten", &Flatten),
    ("", "Floor", &Step),
    ("", "GRU", &Recurrent),
    ("", "Gather", &Gather),
    ("", "GatherElements", &GatherElements),
    ("", "GatherND", &GatherNd),
    ("", "Gelu", &activation::GELU),
    ("", "Gemm", &Gemm),
    ("", "GlobalAveragePool", &GlobalPool::Average),
    ("", "GlobalLpPool", &GlobalPool::Norm),
    ("", "GlobalMaxPool", &GlobalPool::Max),
    ("", "Greater", &Logical),
    ("", "GreaterOrEqual", &Logical),
    ("", "GridSample", &GridSample),
    ("", "GroupNormalization", &GroupNormalization),
    ("", "HardSigmoid", &activation::HARD_SIGMOID),
    ("", "HardSwish", &activation::HARD_SWISH),
    ("", "Hardmax", &Softmax::Hard),
    ("", "Identity", &Rename),
    ("", "InstanceNormalization", &InstanceNormalization),
    ("", "IsInf", &Logical),
    ("", "IsNaN", &Logical),
    ("", "LRN", &Lrn),
    ("", "LSTM", &Recurrent),
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
    ("", "MeanVarianceNormalization", &MeanVariance),
    ("", "Min", &Extremum),
    ("", "Mish", &activation::MISH),
    ("", "Mod", &Mod),
    ("", "Mul", &Mul),
    ("", "Neg", &activation::NEG),
    ("", "NonZero", &NonZero),
    ("", "Not", &Logical),
    ("", "OneHot", &OneHot),
    ("", "Or", &Logical),
    ("", "PRelu", &PRelu),
    ("", "Pad", &Pad),
    ("", "Pow", &Pow),
    ("", "QuantizeLinear", &Quantize),
    ("", "RMSNormalization", &LayerNormalization::RootMeanSquare),
    ("", "RNN", &Recurrent),
    ("", "Range", &Range),
    ("", "Reciprocal", &activation::RECIPROCAL),
    ("", "ReduceL1", &reduce::L1),
    ("", "ReduceL2", &reduce::L2),
    ("", "ReduceLogSum", &reduce::LOG_SUM),
    ("", "ReduceLogSumExp", &reduce::LOG_SUM_EXP),
    ("", "ReduceMax", &reduce::EXTREMUM),
    ("", "ReduceMean", &reduce::Mean),
    ("", "ReduceMin", &reduce::EXTREMUM),
    ("", "ReduceProd", &reduce::PRODUCT),
    ("", "ReduceSum", &reduce::SUM),
    ("", "ReduceSumSquare", &reduce::SUM_SQUARE),
    ("", "Relu", &activation::RELU),
    ("", "Reshape", &Reshape),
    ("", "Resize", &Resize),
    ("", "ReverseSequence", &ReverseSequence),
    ("", "RoiAlign", &RoiAlign),
    ("", "RotaryEmbedding", &RotaryEmbedding { tables: [1, 2] }),
    ("", "Round", &Step),
    ("", "ScatterElements", &ScatterElements),
    ("", "ScatterND", &ScatterNd),
    ("", "Selu", &activation::SELU),
    ("", "Shape", &Shape),
    ("", "Shrink", &activation::SHRINK),
    ("", "Sigmoid", &activation::SIGMOID),
    ("", "Sign", &Step),
    ("", "SimplifiedLayerNormalization", &LayerNormalization::RootMeanSquare),
    ("", "Sin", &activation::SIN),
    ("", "Sinh", &activation::SINH),
    ("", "Size", &Size),
    ("", "Slice", &Slice),
    ("", "Softmax", &Softmax::Linear),
    ("", "Softplus", &activation::SOFTPLUS),
    ("", "Softsign", &activation::SOFTSIGN),
    ("", "SpaceToDepth", &SpaceToDepth),
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
    ("", "TopK", &TopK),
    ("", "Transpose", &Transpose),
    ("", "Trilu", &Trilu),
    ("", "Unsqueeze", &Unsqueeze),
    ("", "Upsample", &Resize),
    ("", "Where", &Where),
    ("", "Xor", &Logical),
    (MICROSOFT, "Attention", &FusedAttention),
    (MICROSOFT, "BiasAdd", &Add),
    (MICROSOFT, "BiasGelu", &activation::BIAS_GELU),
    (MICROSOFT, "DequantizeLinear", &Dequantize),
    (MICROSOFT, "EmbedLayerNormalization", &EmbedLayerNormalization),
    (MICROSOFT, "FastGelu", &activation::FAST_GELU),
    (MICROSOFT, "FusedConv", &FusedConv),
    (MICROSOFT, "FusedGemm", &FusedGemm),
    (MICROSOFT, "FusedMatMul", &FusedMatMul),
    (MICROSOFT, "Gelu", &activation::GELU),
    (MICROSOFT, "GridSample", &GridSample),
    (MICROSOFT, "GroupQueryAttention", &GroupQueryAttention),
    (MICROSOFT, "MoE", &Experts { weights: [2, 4, 6] }),
    (MICROSOFT, "MultiHeadAttention", &MultiHeadAttention),
    (MICROSOFT, "QMoE", &Experts { weights: [2, 5, 8] }),
    (MICROSOFT, "QuantizeLinear", &Quantize),
    (MICROSOFT, "QuickGelu", &activation::QUICK_GELU),
    (MICROSOFT, "RotaryEmbedding", &RotaryEmbedding { tables: [2, 3] }),
    (MICROSOFT, "SimplifiedLayerNormalization", &LayerNormalization::RootMeanSquare),
    (MICROSOFT, "SkipLayerNormalization", &SkipNormalization::Layer),
    (MICROSOFT, "SkipSimplifiedLayerNormalization", &SkipNormalization::RootMeanSquare),
    (MICROSOFT, "TransposeMatMul", &FusedMatMul),
    (MICROSOFT, "Trilu", &Trilu),
];

/// Operators whose results are sequences or optionals, not tensors.
static CONTAINERS: &[&str] = &[
    "Optional",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
];

/// Whether the node's results are tensors, as far as the node and its bodies tell.
pub fn makes_tensors(node: &NodeProto) -> bool {
    let bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    let types =
        bodies.flat_map(|body| &body.output).filter_map(|output| output.r#type.as_ref()?.value.as_ref());
    let mut containers =
        types.filter(|t| matches!(t, Value::SequenceType(_) | Value::OptionalType(_) | Value::MapType(_)));
    !CONTAINERS.contains(&node.op_type()) && containers.next().is_none()
}

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
    use super::{super::has_gradient, *};

    #[test]
    fn the_list_is_sorted_and_free_of_duplicates() {
        assert!(OPERATORS.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
    }
    #[test]
    fn every_operator_says_whether_it_has_a_gradient() {
        let rule =
            |name: &str| OPERATORS.iter().find(|(_, n, _)| *n == name).map(|(_, _, op)| has_gradient(*op));
        assert_eq!((rule("Conv"), rule("Softmax"), rule("Tanh")), (Some(true), Some(true), Some(true)));
        assert_eq!((rule("RoiAlign"), rule("LSTM")), (Some(false), Some(false)));
        let with = OPERATORS.iter().filter(|(_, _, op)| has_gradient(*op)).count();
        assert!(2 * with > OPERATORS.len());
    }
}
