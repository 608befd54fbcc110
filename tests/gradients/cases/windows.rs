//! Windows that slide over positions, and interpolation.

use optin_onnx::tensor::Tensor;

use super::Form;
use crate::case::{B, Case, Values};

pub static FORMS: &[(&str, Form)] = &[
    ("Conv", conv),
    ("com.microsoft.FusedConv", fused_conv),
    ("ConvTranspose", conv_transpose),
    ("AveragePool", average_pool),
    ("LpPool", |mut c| {
        let p = c.pick(&[2, 3]);
        windowed(c.op("LpPool", 11).int("p", p), Values::Any)
    }),
    ("MaxPool", max_pool),
    ("GlobalAveragePool", |c| c.op("GlobalAveragePool", 11).x(&[B, 2, 3, 4])),
    ("GlobalLpPool", |c| c.op("GlobalLpPool", 11).x(&[B, 2, 3, 4])),
    ("GlobalMaxPool", |c| c.op("GlobalMaxPool", 11).input(&[B, 2, 3, 4], Values::Distinct)),
    ("GridSample", grid_sample),
    ("Resize to sizes", |mut c| {
        let sizes = c.pick(&[&[5, 7][..], &[2, 8], &[3, 1], &[6, 2]]);
        let modes = [COORDINATES, &["half_pixel_symmetric"]].concat();
        resize(c.single().op("Resize", 19).ints("axes", &[2, 3]), &modes)
            .x(&[B, 2, 3, 4])
            .skip()
            .skip()
            .list(sizes)
    }),
    ("Resize by scales", |mut c| {
        // Where extents come out rounded, runtimes do not agree on where corners are aligned to.
        let (scales, modes) = c.pick(&[
            ([1.0, 1.0, 2.0, 1.5], COORDINATES),
            ([1.0, 1.0, 0.6, 2.3], &COORDINATES[..3]),
            ([1.0, 1.0, 1.0, 3.0], COORDINATES),
        ]);
        let opset = c.pick(&[11, 13]);
        let c = resize(c.single().op("Resize", opset), modes).x(&[B, 2, 3, 4]);
        let c = c.constant(Tensor::f32(&[0], vec![]).unwrap());
        c.constant(Tensor::f32(&[4], scales.to_vec()).unwrap())
    }),
    ("Upsample", |mut c| {
        let mode = c.pick(&["nearest", "linear"]);
        let c = c.single().op("Upsample", 9).string("mode", mode).x(&[B, 2, 3, 4]);
        c.constant(Tensor::f32(&[4], vec![1.0, 1.0, 2.0, 3.0]).unwrap())
    }),
    ("Resize of version 10", |mut c| {
        let (mode, scales) = c.pick(&[
            ("nearest", [1.0, 1.0, 2.0, 3.0]),
            ("nearest", [1.0, 1.0, 0.5, 0.6]),
            ("linear", [1.0, 1.0, 2.0, 1.5]),
        ]);
        let c = c.single().op("Resize", 10).string("mode", mode).x(&[B, 2, 4, 5]);
        c.constant(Tensor::f32(&[4], scales.to_vec()).unwrap())
    }),
];

fn fused_conv(mut c: Case) -> Case {
    let (smooth, summed) = (c.flip(), c.flip());
    let kinks: &[(&str, &[f32])] =
        &[("Relu", &[]), ("LeakyRelu", &[0.1]), ("Clip", &[-0.5, 0.5]), ("HardSigmoid", &[0.5, 0.5])];
    let (activation, parameters) = match smooth {
        true => (c.pick(&["Sigmoid", "Tanh"]), &[][..]),
        false => c.pick(kinks),
    };
    let c = c.op("FusedConv", 17).microsoft().single().string("activation", activation);
    let c = if parameters.is_empty() { c } else { c.floats("activation_params", parameters) };
    let c = c.x(&[B, 2, 4, 3]);
    if !smooth {
        // Sums would end anywhere, at kinks too.
        return c.int("group", 2).constant(Tensor::f32(&[2, 1, 1, 1], vec![1.0, -1.0]).unwrap());
    }
    let c = c.ints("pads", &[1, 1, 1, 1]).weight(&[3, 2, 3, 3]).weight(&[3]);
    if summed { c.x(&[B, 3, 4, 3]) } else { c }
}

/// Geometry of a pool.
fn windowed(mut c: Case, values: Values) -> Case {
    match c.pick(&[0, 1, 2, 3, 4]) {
        0 => c.ints("kernel_shape", &[2, 2]).ints("strides", &[2, 2]).input(&[B, 2, 4, 6], values),
        1 => c
            .ints("kernel_shape", &[3, 3])
            .ints("strides", &[2, 2])
            .ints("pads", &[1, 1, 1, 1])
            .input(&[B, 2, 5, 4], values),
        2 => c.ints("kernel_shape", &[3]).ints("pads", &[1, 0]).input(&[B, 2, 6], values),
        3 => c
            .ints("kernel_shape", &[2, 3])
            .string("auto_pad", "SAME_UPPER")
            .ints("strides", &[1, 2])
            .input(&[B, 1, 3, 6], values),
        _ => c.ints("kernel_shape", &[2, 1, 2]).input(&[B, 1, 3, 2, 3], values),
    }
}

/// Windows that begin within the operand, but end behind it.
fn rounded_up(c: Case, values: Values) -> Case {
    let c = c.int("ceil_mode", 1).ints("kernel_shape", &[3, 2]).ints("strides", &[2, 2]);
    c.ints("pads", &[1, 0, 1, 0]).input(&[B, 2, 4, 5], values)
}

fn average_pool(mut c: Case) -> Case {
    let opset = c.pick(&[11, 19]);
    let padded = c.flip();
    let c = c.op("AveragePool", opset).int("count_include_pad", padded.into());
    let mut c = c;
    match c.pick(&[0, 1, 2]) {
        0 => rounded_up(c, Values::Any),
        1 if opset == 19 => c.ints("kernel_shape", &[2, 2]).ints("dilations", &[2, 1]).x(&[B, 2, 4, 3]),
        _ => windowed(c, Values::Any),
    }
}

fn max_pool(mut c: Case) -> Case {
    match c.pick(&[0, 1, 2, 3]) {
        0 => rounded_up(c.op("MaxPool", 12), Values::Distinct),
        1 => c
            .op("MaxPool", 12)
            .ints("kernel_shape", &[2])
            .ints("dilations", &[3])
            .input(&[B, 2, 6], Values::Distinct),
        _ => windowed(c.op("MaxPool", 11), Values::Distinct),
    }
}

const COORDINATES: &[&str] = &["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"];

/// Extents that put kinks at multiples of a tenth.
fn grid_sample(mut c: Case) -> Case {
    let (mode, corners) = (c.pick(&["linear", "nearest", "cubic"]), c.flip());
    let padding = c.pick(&["zeros", "border", "reflection"]);
    let sizes = if corners { [2, 3, 6] } else { [2, 5, 2] };
    let (height, width) = (c.pick(&sizes), c.pick(&sizes));
    let c = c.single().op("GridSample", 20).string("mode", mode).string("padding_mode", padding);
    let mut c = c.int("align_corners", corners.into());
    match mode == "linear" && c.flip() {
        true => c.x(&[B, 2, 2, height, width]).x(&[B, 1, 2, 2, 3]),
        false => c.x(&[B, 2, height, width]).x(&[B, 3, 2, 2]),
    }
}

fn resize(mut c: Case, coordinates: &[&str]) -> Case {
    let coordinates = c.pick(coordinates);
    let mode = c.pick(&["nearest", "linear", "cubic"]);
    let mut c = c.string("coordinate_transformation_mode", coordinates).string("mode", mode);
    match mode {
        "nearest" => {
            let rounding = c.pick(&["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]);
            c.string("nearest_mode", rounding)
        }
        "cubic" if c.flip() => c.int("exclude_outside", 1).float("cubic_coeff_a", -0.5),
        _ => c,
    }
}

fn biased(mut c: Case, channels: usize) -> Case {
    if c.flip() { c.x(&[channels]) } else { c }
}

fn conv(mut c: Case) -> Case {
    let group = c.pick(&[1, 1, 2, 4]);
    let weights = |kernel: &[usize]| [&[4, 4 / group], kernel].concat();
    let c = c.op("Conv", 11).int("group", group as i64);
    let mut c = c;
    let c = match c.pick(&[0, 1, 2, 3, 4, 5]) {
        0 => c.x(&[B, 4, 5, 4]).weight(&weights(&[3, 3])),
        1 => {
            c.ints("strides", &[2, 2]).ints("pads", &[1, 1, 1, 1]).x(&[B, 4, 6, 5]).weight(&weights(&[3, 3]))
        }
        2 => c.ints("strides", &[3]).ints("dilations", &[2]).x(&[B, 4, 10]).weight(&weights(&[2])),
        3 => c
            .string("auto_pad", "SAME_UPPER")
            .ints("strides", &[2, 1])
            .x(&[B, 4, 5, 4])
            .weight(&weights(&[2, 3])),
        4 => c
            .string("auto_pad", "SAME_LOWER")
            .ints("strides", &[2, 3])
            .x(&[B, 4, 4, 5])
            .weight(&weights(&[3, 2])),
        _ => c.ints("pads", &[0, 1, 2, 1, 0, 0]).x(&[B, 4, 3, 2, 3]).weight(&weights(&[2, 2, 1])),
    };
    biased(c, 4)
}

fn conv_transpose(mut c: Case) -> Case {
    let group = c.pick(&[1, 1, 2, 4]);
    let weights = |kernel: &[usize]| [&[4, 4 / group], kernel].concat();
    let c = c.op("ConvTranspose", 11).int("group", group as i64);
    let mut c = c;
    let c = match c.pick(&[0, 1, 2, 3, 4]) {
        0 => c.x(&[B, 4, 3, 4]).weight(&weights(&[2, 2])),
        1 => {
            c.ints("strides", &[2, 2]).ints("pads", &[1, 0, 0, 1]).x(&[B, 4, 3, 2]).weight(&weights(&[3, 3]))
        }
        2 => c.ints("strides", &[3]).ints("output_padding", &[1]).x(&[B, 4, 4]).weight(&weights(&[2])),
        3 => c
            .ints("strides", &[2, 2])
            .ints("output_shape", &[7, 6])
            .x(&[B, 4, 3, 3])
            .weight(&weights(&[3, 2])),
        _ => c.ints("dilations", &[2, 1]).x(&[B, 4, 3, 2]).weight(&weights(&[2, 2])),
    };
    biased(c, 4)
}
