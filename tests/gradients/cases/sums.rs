//! Products, reductions, normalisations.

use optin_onnx::tensor::Tensor;

use super::Form;
use crate::case::{B, Case, Values};

#[rustfmt::skip]
pub static FORMS: &[(&str, Form)] = &[
    ("MatMul", |mut c| {
        let (a, b) = c.pick(&[
            (&[B, 2, 3][..], &[B, 3, 4][..]),
            (&[B, 2, 3], &[3, 4]),
            (&[2, 3], &[B, 3, 4]),
            (&[B, 3], &[3, 4]),
            (&[B, 2, 3], &[3]),
            (&[3], &[B, 3, 4]),
            (&[3], &[3]),
            (&[3], &[3, B]),
            (&[B, 1, 2, 3], &[4, 3, 2]),
            (&[1, 2, 3], &[B, 4, 3, 1]),
        ]);
        c.op("MatMul", 13).x(a).x(b)
    }),
    ("Gemm", gemm),
    ("com.microsoft.FusedGemm", |mut c| {
        let activation = c.pick(&["Sigmoid", "Tanh", "LeakyRelu"]);
        let c = c.op("FusedGemm", 17).microsoft().single().string("activation", activation);
        if activation == "LeakyRelu" {
            // Sums would end anywhere, at kinks too.
            let c = c.float("activation_alpha", 0.3).x(&[B, 2]);
            return c.constant(Tensor::f32(&[2, 2], vec![1.0, 0.0, 0.0, -1.0]).unwrap());
        }
        c.int("transB", 1).float("alpha", 0.7).x(&[B, 3]).weight(&[4, 3]).x(&[4])
    }),
    ("com.microsoft.FusedMatMul", |mut c| {
        let (a, b, flags) = c.pick(&[
            (&[B, 2, 3][..], &[B, 3, 4][..], [0, 0, 0, 0]),
            (&[B, 3, 2], &[B, 4, 3], [0, 1, 0, 1]),
            (&[2, B, 3], &[3, B, 4], [1, 0, 1, 0]),
            (&[3, B, 2], &[4, B, 3], [1, 1, 1, 1]),
            (&[B, 2, 3], &[4, 3], [0, 0, 0, 1]),
            (&[B, 2, 5, 3], &[1, 2, 3, 4], [0, 0, 0, 0]),
        ]);
        let c = c.op("FusedMatMul", 17).microsoft().single().float("alpha", 0.7);
        let names = ["transBatchA", "transA", "transBatchB", "transB"];
        names.iter().zip(flags).fold(c, |c, (name, flag)| c.int(name, flag)).x(a).x(b)
    }),
    ("Einsum", |mut c| {
        let (equation, a, b) = c.pick(&[
            ("bij,bjk->bik", &[B, 2, 3][..], &[B, 3, 4][..]),
            ("bij,kj->bik", &[B, 2, 3], &[4, 3]),
            ("bhid,bhjd->bhij", &[B, 2, 3, 2], &[B, 2, 4, 2]),
            ("bij,bij->bi", &[B, 2, 3], &[B, 2, 3]),
            ("i,bj->bij", &[2], &[B, 3]),
            ("bij,bjk->b", &[B, 2, 3], &[B, 3, 4]),
            ("bijk->bkj", &[B, 2, 3, 4], &[]),
            ("bij->jbi", &[B, 2, 3], &[]),
            ("bij , jk -> ikb", &[B, 2, 3], &[3, 2]),
            ("bij,bjk->bik", &[B, 2, 3], &[1, 3, 4]),
        ]);
        let c = c.op("Einsum", 12).string("equation", equation).x(a);
        if b.is_empty() { c } else { c.x(b) }
    }),
    ("Softmax", |c| softmax(c, "Softmax")),
    ("Hardmax", |c| c.op("Hardmax", 13).input(&[B, 3, 4], Values::Distinct)),
    ("LogSoftmax", |c| softmax(c, "LogSoftmax")),
    ("LayerNormalization", |c| layer(c, "LayerNormalization", 17)),
    ("RMSNormalization", |c| layer(c, "RMSNormalization", 23)),
    ("BatchNormalization", |mut c| {
        let opset = c.pick(&[9, 14, 15]);
        let x = c.pick(&[&[B, 3][..], &[B, 3, 4], &[B, 3, 2, 2]]);
        let c = epsilon(c.op("BatchNormalization", opset));
        c.x(x).x(&[3]).x(&[3]).weight(&[3]).constant_positive(&[3])
    }),
    ("InstanceNormalization", |c| {
        epsilon(c.single().op("InstanceNormalization", 17)).x(&[B, 3, 4, 2]).x(&[3]).x(&[3])
    }),
    ("GroupNormalization", |mut c| {
        let (opset, scales) = c.pick(&[(18, 2), (21, 4)]);
        let x = c.pick(&[&[B, 4, 3][..], &[B, 4, 2, 3]]);
        epsilon(c.single().op("GroupNormalization", opset)).int("num_groups", 2).x(x).x(&[scales]).x(&[scales])
    }),
    ("LRN", |mut c| {
        let size = c.pick(&[1, 3, 5]);
        c.op("LRN", 13).int("size", size).float("alpha", 0.5).float("bias", 1.5).x(&[B, 5, 2, 2])
    }),
    ("MeanVarianceNormalization", |mut c| {
        let c = match c.flip() {
            true => c.ints("axes", &[2, 3]),
            false => c,
        };
        c.op("MeanVarianceNormalization", 13).single().x(&[B, 2, 3, 2])
    }),
    ("LpNormalization", |mut c| {
        let (p, axis) = c.pick(&[(1, 1), (2, -1), (2, 1)]);
        c.op("LpNormalization", 13).int("p", p).int("axis", axis).x(&[B, 3, 4])
    }),
    ("ReduceL1", |c| reduce(c, "ReduceL1", Values::Any, 18)),
    ("ReduceL2", |c| reduce(c, "ReduceL2", Values::Any, 18)),
    ("ReduceLogSum", |c| reduce(c, "ReduceLogSum", Values::Positive, 18)),
    ("ReduceLogSumExp", |c| reduce(c, "ReduceLogSumExp", Values::Any, 18)),
    ("ReduceMax", |c| reduce(c, "ReduceMax", Values::Distinct, 18)),
    ("ReduceMean", |c| reduce(c, "ReduceMean", Values::Any, 18)),
    ("ReduceMin", |c| reduce(c, "ReduceMin", Values::Distinct, 18)),
    ("ReduceProd", |c| reduce(c, "ReduceProd", Values::Any, 18)),
    ("ReduceSum", |c| reduce(c, "ReduceSum", Values::Any, 13)),
    ("ReduceSumSquare", |c| reduce(c, "ReduceSumSquare", Values::Any, 18)),
];

fn gemm(mut c: Case) -> Case {
    let (trans_a, trans_b) = (c.flip(), c.flip());
    let bias = c.pick(&[None, Some(&[4][..]), Some(&[B, 4]), Some(&[1]), Some(&[B, 1]), Some(&[])]);
    let mut c = c.op("Gemm", 13);
    if c.flip() {
        c = c.float("alpha", 0.7).float("beta", 1.6);
    }
    let c = c.int("transA", trans_a.into()).int("transB", trans_b.into());
    let c = c.x(if trans_a { &[3, B] } else { &[B, 3] }).x(if trans_b { &[4, 3] } else { &[3, 4] });
    match bias {
        Some(shape) => c.x(shape),
        None => c,
    }
}

fn softmax(mut c: Case, op: &str) -> Case {
    let opset = c.pick(&[11, 13]);
    let c = match c.pick(&[None, Some(1), Some(-1), Some(2)]) {
        Some(axis) => c.int("axis", axis),
        None => c,
    };
    c.op(op, opset).x(&[B, 3, 4])
}

/// With or without an epsilon large enough to matter.
fn epsilon(mut c: Case) -> Case {
    if c.flip() { c.float("epsilon", 0.25) } else { c }
}

fn layer(mut c: Case, op: &str, opset: i64) -> Case {
    let (axis, scale) = c.pick(&[(-1, &[4][..]), (2, &[4]), (1, &[3, 4]), (-2, &[3, 4])]);
    let biased = c.flip() && op == "LayerNormalization";
    let c = epsilon(c.single().op(op, opset)).int("axis", axis).x(&[B, 3, 4]).x(scale);
    if biased { c.x(scale) } else { c }
}

/// Axes are an attribute before version `since`, and an operand from it on.
fn reduce(mut c: Case, op: &str, values: Values, since: i64) -> Case {
    let axes = c.pick(&[None, Some(&[1][..]), Some(&[-1, 1]), Some(&[2])]);
    let (keep, noop, new) = (c.flip(), c.flip(), c.flip());
    let c = c.int("keepdims", keep.into()).op(op, if new { since } else { 11 });
    let c = if new && noop { c.int("noop_with_empty_axes", 1) } else { c };
    let c = c.input(&[B, 3, 4], values);
    match axes {
        None => c,
        Some(axes) if new => c.list(axes),
        Some(axes) => c.ints("axes", axes),
    }
}
