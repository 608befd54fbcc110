//! An example of every form of every operator. Axes are all of different extents, so that none passes for another.

use ndarray::{ArrayD, IxDyn};
use optin_onnx::{
    ops::OpSchema,
    tensor::{DType, Tensor},
};

use crate::case::{B, Case, Values};

/// The operator set that comes with ONNX Runtime's own operators.
const COMPANION: i64 = 17;

/// The example of a form, as of a version of the operator set; `None` where there is none yet.
pub fn example(schema: &OpSchema, version: i64, form: &str) -> Option<Case> {
    let name = schema.name;
    if schema.domain.is_empty() {
        let case = Case::new(1).op(name, version);
        return standard(case, name, version, form)
            .or_else(|| windows(Case::new(1).op(name, version), name, version, form));
    }
    microsoft(Case::new(1).op(name, COMPANION).microsoft().single(), name, form)
}

fn ints(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::I64(ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()).unwrap())
}

fn ints32(values: &[i32]) -> Tensor {
    Tensor::I32(ndarray::Array1::from(values.to_vec()).into_dyn())
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::f32(&[values.len()], values.to_vec()).unwrap()
}

#[rustfmt::skip]
fn standard(c: Case, name: &str, v: i64, form: &str) -> Option<Case> {
    Some(match (name, form) {
        // Functions of one number.
        ("Acos" | "Asin" | "Atanh" | "Tan", _) => c.input(&[B, 4, 5], Values::Unit),
        ("Log" | "Sqrt" | "Reciprocal", _) => c.input(&[B, 4, 5], Values::Positive),
        ("Acosh", _) => c.input(&[B, 4, 5], Values::Large),
        ("Shrink", _) => c.single().float("lambd", 0.5).float("bias", 0.2).x(&[B, 4, 5]),
        ("Selu", _) => c.float("alpha", 1.5).float("gamma", 0.7).x(&[B, 4, 5]),
        ("Abs" | "Asinh" | "Atan" | "Ceil" | "Celu" | "Cos" | "Cosh" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu"
            | "HardSigmoid" | "HardSwish" | "Identity" | "LeakyRelu" | "Mish" | "Neg" | "Relu" | "Round" | "Sigmoid"
            | "Sign" | "Sin" | "Sinh" | "Softplus" | "Softsign" | "Swish" | "Tanh" | "ThresholdedRelu", _) => c.x(&[B, 4, 5]),
        ("Cast", _) => c.int("to", DType::F64.onnx().into()).x(&[B, 4, 5]),
        ("CastLike", _) => c.x(&[B, 4, 5]).weight(&[2]),
        ("IsInf" | "IsNaN", _) => c.single().x(&[B, 4, 5]),
        ("Not", _) => c.flags(&[B, 4, 5]),
        ("BitwiseNot", _) => c.integers(&[B, 4, 5], DType::I32, 100),
        // Of several.
        ("Add" | "Mul" | "Sub", _) => c.x(&[B, 4, 5]).x(&[B, 1, 5]),
        ("Div", _) => c.x(&[B, 4, 5]).input(&[B, 1, 5], Values::Positive),
        ("Pow", _) => c.input(&[B, 4, 5], Values::Positive).x(&[B, 1, 5]),
        ("Mod", _) => c.int("fmod", 1).x(&[B, 4, 5]).number(0.7),
        ("And" | "Or" | "Xor", _) => c.flags(&[B, 4, 5]).flags(&[B, 1, 5]),
        ("BitwiseAnd" | "BitwiseOr" | "BitwiseXor", _) => {
            c.integers(&[B, 4, 5], DType::I32, 100).integers(&[B, 1, 5], DType::I32, 100)
        }
        ("BitShift", _) => {
            c.string("direction", "LEFT").integers(&[B, 4, 5], DType::U32, 100).integers(&[B, 1, 5], DType::U32, 4)
        }
        ("Equal", _) if v < 11 => c.integers(&[B, 4, 5], DType::I32, 5).integers(&[B, 1, 5], DType::I32, 5),
        ("Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual", _) => c.x(&[B, 4, 5]).x(&[B, 1, 5]),
        ("Max" | "Min", _) if v < 8 => c.input(&[B, 4, 5], Values::Distinct).input(&[B, 4, 5], Values::Distinct),
        ("Max" | "Min", _) => c.input(&[B, 4, 5], Values::Distinct).input(&[B, 1, 5], Values::Distinct),
        ("Mean" | "Sum", _) if v < 8 => c.x(&[B, 4, 5]).x(&[B, 4, 5]),
        ("Mean" | "Sum", _) => c.x(&[B, 4, 5]).x(&[B, 1, 5]).x(&[5]),
        ("PRelu", _) => c.x(&[B, 3, 2, 4]).x(&[3, 1, 1]),
        ("Where", _) => c.flags(&[B, 4, 5]).x(&[B, 1, 5]).x(&[B, 4, 5]),
        ("Clip", "bounds as attributes") => c.float("min", -0.5).float("max", 0.7).x(&[B, 4, 5]),
        ("Clip", _) => c.x(&[B, 4, 5]).number(-0.5).number(0.7),
        ("Dropout", "ratio as an attribute") => c.float("ratio", 0.3).x(&[B, 4, 5]),
        ("Dropout", "ratio as an operand") => c.x(&[B, 4, 5]).constant(Tensor::f32(&[], vec![0.3]).unwrap()),
        ("Dropout", _) => c.x(&[B, 4, 5]).outputs(2),
        // Along an axis.
        ("ArgMax" | "ArgMin", _) => c.int("axis", 1).input(&[B, 4, 5], Values::Distinct),
        ("CumSum", _) => c.x(&[B, 4, 5]).constant(Tensor::int(1)),
        ("EyeLike", _) => c.x(&[B, 4]),
        ("LRN", _) => c.int("size", 3).float("alpha", 0.5).float("bias", 1.5).x(&[B, 5, 2, 3]),
        ("MeanVarianceNormalization", _) => c.ints("axes", &[2, 3]).single().x(&[B, 4, 3, 2]),
        ("NonZero", _) => c.integers(&[2, 3, 4], DType::I64, 5),
        ("ReverseSequence", _) => {
            c.int("time_axis", 1).int("batch_axis", 0).x(&[3, 4, 5]).list(&[2, 4, 3])
        }
        ("Size", _) => c.x(&[B, 4, 5]),
        ("TopK", "count as an attribute") => c.outputs(2).int("axis", 1).int("k", 2).input(&[B, 4, 5], Values::Distinct),
        ("TopK", _) => c.outputs(2).int("axis", 1).input(&[B, 4, 5], Values::Distinct).list(&[2]),
        ("Trilu", _) => c.int("upper", 0).x(&[B, 6, 4, 5]).constant(Tensor::int(1)),
        ("Hardmax", _) => c.int("axis", 1).input(&[B, 4, 5], Values::Distinct),
        ("LogSoftmax" | "Softmax", _) => c.int("axis", 1).x(&[B, 4, 5]),
        // Products and sums.
        ("MatMul", _) => c.x(&[B, 2, 4, 5]).x(&[B, 2, 5, 3]),
        ("Gemm", "transposed operands") => c.int("transA", 1).int("transB", 1).float("alpha", 0.7).weight(&[5, 4]).x(&[B, 5]).weight(&[4, 1]),
        ("Gemm", _) => c.x(&[B, 5]).weight(&[5, 4]).x(&[4]),
        ("Einsum", _) => c.string("equation", "bhid,bhjd->bhij").x(&[B, 2, 3, 5]).x(&[B, 2, 4, 5]),
        ("ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin"
            | "ReduceProd" | "ReduceSum" | "ReduceSumSquare", _) => {
            let values = match name {
                "ReduceLogSum" => Values::Positive,
                "ReduceMax" | "ReduceMin" => Values::Distinct,
                _ => Values::Any,
            };
            match form {
                "all axes" => c.input(&[B, 4, 5], values),
                "axes as an attribute" => c.int("keepdims", 0).ints("axes", &[1]).input(&[B, 4, 5], values),
                "axes as an operand" => c.int("keepdims", 0).input(&[B, 4, 5], values).list(&[-2]),
                _ => c.int("noop_with_empty_axes", 1).input(&[B, 4, 5], values),
            }
        }
        // Normalisations.
        ("BatchNormalization", _) => c.x(&[B, 4, 5]).x(&[4]).x(&[4]).weight(&[4]).constant_positive(&[4]),
        ("InstanceNormalization", _) => c.single().x(&[B, 4, 3, 2]).x(&[4]).x(&[4]),
        ("GroupNormalization", _) => {
            let scales = if v < 21 { 2 } else { 4 };
            c.single().int("num_groups", 2).x(&[B, 4, 5]).x(&[scales]).x(&[scales])
        }
        ("LayerNormalization", "with its statistics") => c.single().outputs(3).x(&[B, 4, 5]).x(&[5]).x(&[5]),
        ("LayerNormalization", _) => c.single().x(&[B, 4, 5]).x(&[5]).x(&[5]),
        ("RMSNormalization" | "SimplifiedLayerNormalization", _) => c.single().x(&[B, 4, 5]).x(&[5]),
        ("LpNormalization", _) => c.int("axis", 1).x(&[B, 4, 5]),
        // Moving elements.
        ("Concat", _) => c.int("axis", 1).x(&[B, 2, 3]).x(&[B, 4, 3]),
        ("Split", "evenly") => c.int("axis", 1).x(&[B, 6, 5]).outputs(2),
        ("Split", "sizes as an attribute") => c.int("axis", 1).ints("split", &[2, 4]).x(&[B, 6, 5]).outputs(2),
        ("Split", "sizes as an operand") => c.int("axis", 1).x(&[B, 6, 5]).list(&[2, 4]).outputs(2),
        ("Split", _) => c.int("axis", 1).int("num_outputs", 3).x(&[B, 8, 5]).outputs(3),
        ("Expand", _) => c.x(&[B, 4, 1]).list(&[1, 4, 5]),
        ("Tile", _) => c.x(&[B, 4, 5]).list(&[1, 2, 1]),
        ("Gather", "one entry") => c.int("axis", 1).x(&[B, 4, 5]).constant(Tensor::int(2)),
        ("Gather", "a range") => c.int("axis", 1).x(&[B, 4, 5]).list(&[1, 2]),
        ("Gather", _) => c.int("axis", 1).x(&[B, 4, 5]).list(&[3, 0]),
        ("GatherElements", _) => {
            let places = ArrayD::from_shape_fn(IxDyn(&[2, 2, 5]), |at| (at[0] + 2 * at[1] + at[2]) as i64 % 4);
            c.int("axis", 1).x(&[2, 4, 5]).constant(Tensor::I64(places))
        }
        ("GatherND", _) => c.x(&[3, 4, 5]).constant(ints(&[3, 2], &[0, 1, 1, 0, 0, 3])),
        ("ScatterElements", _) => {
            let places = ArrayD::from_shape_fn(IxDyn(&[2, 2, 5]), |at| ((at[1] + at[2]) % 4) as i64);
            c.int("axis", 1).x(&[2, 4, 5]).constant(Tensor::I64(places)).x(&[2, 2, 5])
        }
        ("ScatterND", _) => c.x(&[3, 4, 5]).constant(ints(&[2, 2], &[0, 1, 1, 2])).x(&[2, 5]),
        ("OneHot", _) => c.integers(&[B, 4], DType::I64, 3).constant(Tensor::int(3)).constant(floats(&[0.0, 1.0])),
        ("Compress", _) => {
            let keeps = Tensor::Bool(ndarray::arr1(&[true, false, true, true]).into_dyn());
            c.int("axis", 1).x(&[B, 4, 5]).constant(keeps)
        }
        ("Flatten", _) => c.x(&[B, 4, 5]),
        ("Reshape", _) => c.x(&[B, 6, 5]).list(&[0, 2, 3, -1]),
        ("Squeeze", "all axes of one") => c.x(&[2, 1, 4, 5]),
        ("Squeeze", "axes as an attribute") => c.ints("axes", &[1]).x(&[B, 1, 4, 5]),
        ("Squeeze", _) => c.x(&[B, 1, 4, 5]).list(&[1]),
        ("Unsqueeze", "axes as an attribute") => c.ints("axes", &[1]).x(&[B, 4, 5]),
        ("Unsqueeze", _) => c.x(&[B, 4, 5]).list(&[1]),
        ("Transpose", _) => c.ints("perm", &[0, 3, 1, 2]).x(&[B, 3, 4, 5]),
        ("Pad", "pads as an attribute") => c.ints("pads", &[0, 0, 1, 0, 0, 2]).x(&[B, 4, 5]),
        ("Pad", "pads as an operand") => c.x(&[B, 4, 5]).list(&[0, 0, 1, 0, 0, 2]),
        ("Pad", _) => c.x(&[B, 4, 5]).list(&[1, 2]).skip().list(&[-1]),
        ("Slice", "bounds as attributes") => c.ints("axes", &[1]).ints("starts", &[1]).ints("ends", &[3]).x(&[B, 4, 5]),
        ("Slice", "int64 bounds") => c.x(&[B, 4, 5]).list(&[1]).list(&[3]).list(&[1]),
        ("Slice", "int32 bounds") => {
            let one = |value| ints32(&[value]);
            c.x(&[B, 4, 5]).constant(one(1)).constant(one(3)).constant(one(1)).constant(one(1))
        }
        ("Slice", _) => c.x(&[B, 4, 5]).list(&[-1]).list(&[i64::MIN]).list(&[1]).list(&[-2]),
        ("Shape", _) => c.x(&[B, 4, 5]),
        ("ConstantOfShape", _) => c.list(&[2, 4, 5]),
        ("Range", _) => c.x(&[]).number(5.0).number(1.0),
        // Sequences.
        ("LSTM" | "GRU" | "RNN", _) => {
            let gates = match name { "LSTM" => 4, "GRU" => 3, _ => 1 };
            c.single().int("hidden_size", 3).x(&[B, 2, 5]).weight(&[1, gates * 3, 5]).weight(&[1, gates * 3, 3])
        }
        ("Attention", "heads as an axis") => c.single().x(&[B, 4, 3, 5]).x(&[B, 2, 6, 5]).x(&[B, 2, 6, 7]),
        ("Attention", "merged heads") => {
            c.single().int("q_num_heads", 4).int("kv_num_heads", 2).x(&[B, 3, 20]).x(&[B, 6, 10]).x(&[B, 6, 14])
        }
        ("Attention", _) => {
            let c = c.single().outputs(3).x(&[B, 4, 3, 5]).x(&[B, 4, 3, 5]).x(&[B, 4, 3, 7]).skip();
            c.x(&[B, 4, 2, 5]).x(&[B, 4, 2, 7])
        }
        ("RotaryEmbedding", _) => c.int("num_heads", 2).x(&[B, 3, 8]).weight(&[5, 2]).weight(&[5, 2]).rows(&[0, 2, 4]),
        // Integers as numbers, and back.
        ("QuantizeLinear", "a scale for all") => c.x(&[B, 4, 5]).number(0.1).constant(Tensor::U8(ndarray::arr0(128).into_dyn())),
        ("QuantizeLinear", _) => {
            let zeros = Tensor::U8(ndarray::arr1(&[128, 120, 110, 100]).into_dyn());
            c.int("axis", 1).x(&[B, 4, 5]).constant_positive(&[4]).constant(zeros)
        }
        ("DequantizeLinear", "a scale for all") => {
            c.integers(&[B, 4, 5], DType::U8, 200).number(0.1).constant(Tensor::U8(ndarray::arr0(128).into_dyn()))
        }
        ("DequantizeLinear", _) => c.int("axis", 1).integers(&[B, 4, 5], DType::U8, 200).constant_positive(&[4]),
        _ => return None,
    })
}

/// Windows, interpolation, and what lies between channels and positions.
#[rustfmt::skip]
fn windows(c: Case, name: &str, v: i64, form: &str) -> Option<Case> {
    Some(match (name, form) {
        ("Conv", "groups") => c.int("group", 2).x(&[B, 6, 5, 4]).weight(&[4, 3, 3, 2]).x(&[4]),
        ("Conv", "depthwise") => c.int("group", 4).x(&[B, 4, 5, 6]).weight(&[4, 1, 3, 2]).x(&[4]),
        ("Conv", _) => c.ints("pads", &[1, 0, 1, 1]).x(&[B, 4, 5, 6]).weight(&[3, 4, 3, 2]).x(&[3]),
        ("ConvTranspose", "groups") => c.int("group", 2).x(&[B, 6, 3, 4]).weight(&[6, 5, 2, 2]).x(&[10]),
        ("ConvTranspose", "depthwise") => c.int("group", 4).x(&[B, 4, 3, 5]).weight(&[4, 1, 2, 2]).x(&[4]),
        ("ConvTranspose", _) => c.ints("strides", &[2, 2]).x(&[B, 4, 3, 5]).weight(&[4, 6, 2, 2]).x(&[6]),
        ("AveragePool" | "LpPool", _) => c.ints("kernel_shape", &[2, 2]).ints("strides", &[2, 2]).x(&[B, 3, 4, 6]),
        ("MaxPool", "with places") => c.outputs(2).ints("kernel_shape", &[2, 2]).input(&[B, 3, 4, 5], Values::Distinct),
        ("MaxPool", _) => c.ints("kernel_shape", &[2, 2]).input(&[B, 3, 4, 5], Values::Distinct),
        ("GlobalAveragePool" | "GlobalLpPool", _) => c.x(&[B, 3, 4, 5]),
        ("GlobalMaxPool", _) => c.input(&[B, 3, 4, 5], Values::Distinct),
        ("GridSample", _) => {
            let mode = if v < 20 { "bilinear" } else { "linear" };
            c.single().string("mode", mode).int("align_corners", 1).x(&[B, 3, 6, 6]).x(&[B, 4, 5, 2])
        }
        ("RoiAlign", _) => {
            let regions = Tensor::f32(&[2, 4], vec![0.0, 0.0, 3.0, 3.0, 1.0, 1.0, 4.0, 4.0]).unwrap();
            let c = c.int("output_height", 2).int("output_width", 3).x(&[2, 3, 5, 6]).constant(regions).list(&[0, 1]);
            if v < 16 { c } else { c.string("coordinate_transformation_mode", "half_pixel") }
        }
        ("DepthToSpace", _) => c.int("blocksize", 2).x(&[B, 12, 2, 5]),
        ("SpaceToDepth", _) => c.int("blocksize", 2).x(&[B, 3, 4, 6]),
        ("Upsample", "scales as an attribute") => c.single().string("mode", "nearest").floats("scales", &[1.0, 1.0, 2.0, 3.0]).x(&[B, 3, 4, 5]),
        ("Upsample", _) => c.single().string("mode", "nearest").x(&[B, 3, 4, 5]).constant(floats(&[1.0, 1.0, 2.0, 3.0])),
        ("Resize", "to sizes") => {
            // Before version 18 there is a size for every axis, the batch included, which is then fixed.
            let c = c.single().string("mode", "linear").x(&[2, 3, 4, 5]).constant(floats(&[])).constant(floats(&[]));
            c.list(&[2, 3, 8, 7])
        }
        ("Resize", "by scales") if v < 11 => c.single().string("mode", "nearest").x(&[B, 3, 4, 5]).constant(floats(&[1.0, 1.0, 2.0, 3.0])),
        ("Resize", "by scales") => {
            let c = c.single().string("mode", "linear").x(&[B, 3, 4, 5]).constant(floats(&[]));
            c.constant(floats(&[1.0, 1.0, 2.0, 3.0]))
        }
        ("Resize", _) => c.single().string("mode", "linear").ints("axes", &[2, 3]).x(&[B, 3, 4, 5]).skip().skip().list(&[8, 7]),
        _ => return None,
    })
}

/// ONNX Runtime's own.
#[rustfmt::skip]
fn microsoft(c: Case, name: &str, form: &str) -> Option<Case> {
    Some(match (name, form) {
        ("BiasGelu", _) => c.x(&[B, 4, 5]).x(&[5]),
        ("FastGelu", _) => c.x(&[B, 4, 5]).x(&[5]),
        ("Gelu" | "QuickGelu", _) => c.x(&[B, 4, 5]),
        ("BiasAdd", _) => c.x(&[B, 4, 320]).x(&[320]).x(&[B, 4, 320]),
        ("FusedMatMul" | "TransposeMatMul", _) => c.float("alpha", 0.7).int("transB", 1).x(&[B, 2, 4, 5]).x(&[B, 2, 3, 5]),
        ("FusedGemm", _) => c.string("activation", "Tanh").int("transB", 1).x(&[B, 5]).weight(&[4, 5]).x(&[4]),
        ("FusedConv", "a sum") => {
            let c = c.string("activation", "Tanh").ints("pads", &[1, 1, 1, 1]);
            c.x(&[B, 2, 4, 5]).weight(&[3, 2, 3, 3]).weight(&[3]).x(&[B, 3, 4, 5])
        }
        ("FusedConv", _) => c.string("activation", "Sigmoid").int("group", 2).x(&[B, 6, 5, 4]).weight(&[4, 3, 3, 2]).weight(&[4]),
        ("SkipLayerNormalization", _) => c.x(&[B, 4, 5]).x(&[B, 4, 5]).weight(&[5]).weight(&[5]).x(&[5]),
        ("SkipSimplifiedLayerNormalization", _) => c.x(&[B, 4, 5]).x(&[B, 4, 5]).weight(&[5]),
        ("EmbedLayerNormalization", _) => {
            let c = c.outputs(2).integers(&[B, 3], DType::I32, 7).integers(&[B, 3], DType::I32, 2);
            let c = c.weight(&[7, 4]).weight(&[3, 4]).weight(&[2, 4]).weight(&[4]);
            c.weight(&[4])
        }
        ("MultiHeadAttention", "a bias and a mask") => {
            c.int("num_heads", 4).x(&[B, 3, 20]).x(&[B, 6, 20]).x(&[B, 6, 20]).weight(&[60]).skip().weight(&[1, 1, 3, 6])
        }
        ("MultiHeadAttention", "a cache") => {
            let c = c.outputs(3).int("num_heads", 4).x(&[B, 3, 20]).x(&[B, 3, 20]).x(&[B, 3, 20]).skip().skip().skip();
            c.x(&[B, 4, 2, 5]).x(&[B, 4, 2, 5])
        }
        ("MultiHeadAttention", "packed operands") => c.int("num_heads", 4).x(&[B, 3, 4, 3, 5]),
        ("MultiHeadAttention", _) => c.int("num_heads", 4).x(&[B, 3, 20]).x(&[B, 6, 20]).x(&[B, 6, 20]),
        ("Attention", "values of another extent") => {
            c.int("num_heads", 2).ints("qkv_hidden_sizes", &[4, 4, 6]).x(&[B, 3, 5]).weight(&[5, 14]).weight(&[14])
        }
        ("Attention", _) => c.int("num_heads", 2).x(&[B, 3, 5]).weight(&[5, 12]).weight(&[12]),
        ("GroupQueryAttention", _) => {
            // There is a length for each sample, so that the batch is fixed.
            let c = c.outputs(3).float("scale", 0.1).int("num_heads", 4).int("kv_num_heads", 2);
            let c = match form {
                "packed operands" => c.x(&[2, 3, 8 * 16]).skip().skip(),
                _ => c.x(&[2, 3, 4 * 16]).x(&[2, 3, 2 * 16]).x(&[2, 3, 2 * 16]),
            };
            c.skip().skip().constant(ints32(&[2, 2])).constant(ints32(&[3]))
        }
        ("RotaryEmbedding", _) => c.x(&[B, 2, 3, 4]).list(&[1]).weight(&[5, 2]).weight(&[5, 2]),
        ("GridSample", _) => c.string("mode", "bilinear").int("align_corners", 1).x(&[B, 3, 6, 6]).x(&[B, 4, 5, 2]),
        ("Trilu", _) => c.int("upper", 0).x(&[B, 6, 4, 5]).constant(Tensor::int(1)),
        ("QuantizeLinear", _) => c.x(&[B, 4, 5]).number(0.1).constant(Tensor::U8(ndarray::arr0(128).into_dyn())),
        ("DequantizeLinear", _) => {
            c.integers(&[B, 4, 5], DType::U8, 200).number(0.1).constant(Tensor::U8(ndarray::arr0(128).into_dyn()))
        }
        ("MoE", _) => {
            let c = c.int("k", 2).string("activation_type", "relu").x(&[B, 4]).x(&[B, 3]);
            c.weight(&[3, 6, 4]).weight(&[3, 6]).weight(&[3, 4, 6]).weight(&[3, 4])
        }
        ("QMoE", _) => {
            let bytes = |shape: &[usize]| Tensor::U8(ArrayD::from_shape_fn(IxDyn(shape), |at| (at[1] * 7 + at[2] * 3) as u8));
            let c = c.int("k", 2).int("expert_weight_bits", 8).string("activation_type", "relu").x(&[B, 32]).x(&[B, 3]);
            let c = c.constant(bytes(&[3, 64, 32])).constant_positive(&[3, 64]).skip();
            c.constant(bytes(&[3, 32, 64])).constant_positive(&[3, 32])
        }
        _ => return None,
    })
}
