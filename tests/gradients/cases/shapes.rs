//! Moving elements: shapes, permutations, segments, indices, repetition.

use ndarray::{ArrayD, IxDyn};
use optin_onnx::tensor::Tensor;

use super::Form;
use crate::case::{B, Case, Values};

#[rustfmt::skip]
pub static FORMS: &[(&str, Form)] = &[
    ("Concat", |mut c| {
        let axis = c.pick(&[1, -2]);
        c.op("Concat", 13).int("axis", axis).x(&[B, 2, 3]).x(&[B, 1, 3]).x(&[B, 4, 3])
    }),
    ("CumSum", |mut c| {
        let (exclusive, reverse, axis) = (c.flip(), c.flip(), c.pick(&[1, -1]));
        let c = c.op("CumSum", 14).int("exclusive", exclusive.into()).int("reverse", reverse.into());
        c.x(&[B, 3, 4]).constant(Tensor::int(axis))
    }),
    ("DepthToSpace", |mut c| {
        let mode = c.pick(&["DCR", "CRD"]);
        c.op("DepthToSpace", 13).int("blocksize", 2).string("mode", mode).x(&[B, 8, 2, 3])
    }),
    ("Expand", |mut c| {
        let (x, shape) = c.pick(&[
            (&[B, 1, 3][..], &[1, 4, 3][..]),
            (&[B, 1], &[5, 1, 4]),
            (&[B, 2, 1], &[1]),
            (&[1, 3], &[2, 1, 3]),
        ]);
        c.op("Expand", 13).x(x).list(shape)
    }),
    ("Flatten", |mut c| {
        let axis = c.pick(&[0, 1, 2, 3, -1]);
        c.op("Flatten", 13).int("axis", axis).x(&[B, 2, 3])
    }),
    ("Gather", gather),
    ("Gather along the batch", |c| c.op("Gather", 13).int("axis", 0).x(&[B, 3]).list(&[1, -1, 1])),
    ("GatherElements", |c| {
        let indices = ArrayD::from_shape_fn(IxDyn(&[2, 2, 4]), |at| (at[0] + 2 * at[1] + at[2]) as i64 % 3 - 1);
        c.op("GatherElements", 18).int("axis", 1).x(&[2, 3, 4]).constant(Tensor::I64(indices))
    }),
    ("GatherND", |c| {
        let indices = ArrayD::from_shape_vec(IxDyn(&[3, 2]), vec![0, 1, 1, -1, 0, 1]).unwrap();
        c.op("GatherND", 18).x(&[B, 3, 4]).constant(Tensor::I64(indices))
    }),
    ("Pad", pad),
    ("Range", |c| c.op("Range", 11).x(&[]).number(5.0).number(1.0)),
    ("Reshape", |mut c| {
        let shape = c.pick(&[&[0, -1][..], &[-1, 6, 4], &[0, 2, 3, 4], &[4, -1, 3, 2]]);
        c.op("Reshape", 14).x(&[B, 6, 4]).list(shape)
    }),
    ("ReverseSequence", |c| {
        c.op("ReverseSequence", 10).int("time_axis", 1).int("batch_axis", 0).x(&[3, 4, 2]).list(&[2, 4, 3])
    }),
    ("ScatterElements", |c| {
        let indices = ArrayD::from_shape_fn(IxDyn(&[2, 2, 4]), |at| ((at[1] + at[2]) % 3) as i64);
        let c = c.op("ScatterElements", 18).int("axis", 1).x(&[2, 3, 4]).constant(Tensor::I64(indices));
        c.x(&[2, 2, 4])
    }),
    ("ScatterND", |c| {
        let indices = ArrayD::from_shape_vec(IxDyn(&[2, 2]), vec![0, 1, 1, 2]).unwrap();
        c.op("ScatterND", 18).x(&[B, 3, 4]).constant(Tensor::I64(indices)).x(&[2, 4])
    }),
    ("Slice", slice),
    ("SpaceToDepth", |c| c.op("SpaceToDepth", 13).int("blocksize", 2).x(&[B, 2, 4, 6])),
    ("Split", split),
    ("Squeeze", |mut c| {
        let axes = c.pick(&[&[1][..], &[-1, 1], &[3]]);
        match c.flip() {
            true => c.op("Squeeze", 11).ints("axes", axes).x(&[B, 1, 3, 1]),
            false => c.op("Squeeze", 13).x(&[B, 1, 3, 1]).list(axes),
        }
    }),
    ("Tile", |mut c| {
        let repeats = c.pick(&[&[1, 2, 1][..], &[1, 3, 2], &[2, 1, 3]]);
        c.op("Tile", 13).x(&[B, 2, 3]).list(repeats)
    }),
    ("Transpose", |mut c| {
        let c = match c.pick(&[None, Some(&[2, 0, 1, 3]), Some(&[0, 3, 1, 2])]) {
            Some(perm) => c.ints("perm", perm),
            None => c,
        };
        c.op("Transpose", 13).x(&[B, 2, 3, 4])
    }),
    ("TopK", |mut c| {
        let (axis, largest) = c.pick(&[(1, 1), (-1, 0), (-1, 1)]);
        let c = c.op("TopK", 11).outputs(2).int("axis", axis).int("largest", largest);
        c.input(&[B, 4, 3], Values::Distinct).list(&[2])
    }),
    ("Trilu", |mut c| {
        let (upper, diagonal) = (c.flip(), c.pick(&[None, Some(1), Some(-1)]));
        let c = c.op("Trilu", 14).int("upper", upper.into()).x(&[B, 3, 4]);
        match diagonal {
            Some(k) => c.constant(Tensor::int(k)),
            None => c,
        }
    }),
    ("Unsqueeze", |mut c| {
        let axes = c.pick(&[&[0][..], &[1, -1], &[2, 0]]);
        match c.flip() {
            true => c.op("Unsqueeze", 11).ints("axes", axes).x(&[B, 3]),
            false => c.op("Unsqueeze", 13).x(&[B, 3]).list(axes),
        }
    }),
];

fn gather(mut c: Case) -> Case {
    let (axis, shape, indices) = c.pick(&[
        (1, &[][..], &[2][..]),
        (1, &[], &[-1]),
        (-1, &[1], &[3]),
        (1, &[4], &[0, 2, -2, 2]),
        (2, &[2], &[3, 1]),
        (1, &[2, 2], &[0, 2, 1, 2]),
        (-1, &[3, 1], &[-4, 0, 1]),
    ]);
    let indices = ArrayD::from_shape_vec(IxDyn(shape), indices.to_vec()).unwrap();
    let opset = c.pick(&[10, 13]);
    c.op("Gather", opset).int("axis", axis).x(&[B, 3, 4]).constant(Tensor::I64(indices))
}

fn pad(mut c: Case) -> Case {
    let mode = c.pick(&["constant", "edge", "reflect", "wrap"]);
    let pads = c.pick(&[&[0, 1, 2, 0, 0, 1][..], &[0, 0, 1, 0, 2, 0]]);
    let opset = if mode == "wrap" { 19 } else { c.pick(&[10, 11, 13, 18]) };
    let mut c = c.op("Pad", opset).string("mode", mode).x(&[B, 3, 4]);
    if opset == 10 {
        return c.ints("pads", pads);
    }
    match (opset >= 18, c.pick(&[0, 1, 2])) {
        (true, 0) => c.list(&[1, 2, 0, 1]).skip().list(&[-1, 1]),
        (_, 1) if mode == "constant" => c.list(&[0, -1, 1, 0, 1, -2]).number(0.4),
        _ => c.list(pads),
    }
}

fn slice(mut c: Case) -> Case {
    let [starts, ends, axes, steps] = c.pick(&[
        [&[1, 0][..], &[3, 2][..], &[1, 2][..], &[1, 1][..]],
        [&[-3], &[i64::MAX], &[2], &[1]],
        [&[0, 1], &[4, -1], &[-2, -1], &[2, 1]],
        [&[-1], &[i64::MIN], &[1], &[-1]],
        [&[3, 4], &[0, 0], &[1, 2], &[-2, -3]],
        [&[100], &[-100], &[2], &[-1]],
    ]);
    if steps.iter().all(|s| *s == 1) && c.flip() {
        return c.op("Slice", 9).ints("starts", starts).ints("ends", ends).ints("axes", axes).x(&[B, 4, 5]);
    }
    c.op("Slice", 13).x(&[B, 4, 5]).list(starts).list(ends).list(axes).list(steps)
}

/// Of the segments, some are used by nothing: see [`Case::outputs`].
fn split(mut c: Case) -> Case {
    match c.pick(&[0, 1, 2]) {
        0 => c.op("Split", 11).int("axis", 1).ints("split", &[2, 1, 3]).x(&[B, 6]).outputs(3),
        1 => c.op("Split", 13).int("axis", -1).x(&[B, 2, 6]).list(&[4, 2]).outputs(2),
        _ => c.op("Split", 18).int("axis", 1).int("num_outputs", 3).x(&[B, 8]).outputs(3),
    }
}
