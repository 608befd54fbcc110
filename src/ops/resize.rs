//! Resize.

use super::schema::{OpSchema, OperatorForm, any, float, onnx, slots};
use super::{EditError, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator, gradient::one_hot};
use crate::widths::PinReason;

slots! {
    slot:
    X = any("X"),
    ROI = float("roi").optional().since(11),
    SCALES = float("scales").optional(),
    SIZES = int64("sizes").optional().since(11).follows(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Resize", &[10, 11, 13, 18, 19], &Resize).reads(slot::ALL).makes(&[any("Y")])
        .forms(&[OperatorForm::of("to sizes").since(11), OperatorForm::of("by scales"), OperatorForm::of("some axes").since(18)]),
    onnx("Upsample", &[1, 7, 9], &Resize).reads(&[any("X"), float("scales").since(9)])
        .makes(&[any("Y")])
        .forms(&[OperatorForm::of("scales as an attribute").until(8), OperatorForm::of("scales as an operand").since(9)]),
];

/// Interpolates along the axes whose extent changes; the others pass.
pub(super) struct Resize;

impl Operator for Resize {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(slot::X)?;
        let shape = node.result_shape(0)?;
        if shape.len() != x.len() {
            return Err(node.unsupported("result of another rank"));
        }
        let mut result = Vec::with_capacity(x.len());
        for (i, (&axis, &size)) in x.iter().zip(shape).enumerate() {
            // Batch and channels come first; positions may keep their extent and be shifted all the same.
            if i < 2 && node.size(axis) == size {
                result.push(axis);
                continue;
            }
            node.pin(axis, PinReason::Spatial);
            let axis = node.fixed(size, PinReason::Spatial);
            result.push(axis);
        }
        node.set(0, result);
        Ok(())
    }

    /// Interpolation is linear in its operand: along each axis, the result is a matrix times what it is made from.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (from, to) = (node.shape(slot::X)?, node.result_shape(0)?);
        if from.len() != to.len() || from.contains(&0) {
            return Err(node.unsupported("an empty operand"));
        }
        let scales = scales(node, from, to)?;
        let rule = Interpolation::of(node)?;
        let mut g = node.g()?;
        for axis in 0..from.len() {
            let (from, to, scale) = (from[axis], to[axis], scales[axis]);
            if from != to || scale != 1.0 {
                let row =
                    |x: usize| rule.row(rule.origin(x as f32, from as f32, to as f32, scale), from, scale);
                g = g.apply_matrix(axis, scales.len(), &(0..to).map(row).collect::<Vec<_>>());
            }
        }
        node.set_cotangent(slot::X, g);
        (1..node.input_count()).for_each(|slot| node.set_zero_cotangent(slot));
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        if node.contents(slot::SIZES).is_none_or(<[i64]>::is_empty) {
            return Ok(());
        }
        let mut axes = node.result_axes(0).to_vec();
        if let Some(listed) = node.ints("axes") {
            let listed = listed.iter().map(|&a| node.axis(a, axes.len()).map(|a| axes[a]));
            axes = listed.collect::<Result<_, _>>()?;
        }
        let changes = node.shape_edits(slot::SIZES, &axes);
        node.edit_operand(slot::SIZES, &changes)
    }
}

/// The scale of every axis: as given, or else the ratio of the extents.
fn scales(node: &NodeGradient<'_>, from: &[usize], to: &[usize]) -> Result<Vec<f32>, NoGradient> {
    let mut scales: Vec<f32> = from.iter().zip(to).map(|(from, to)| *to as f32 / *from as f32).collect();
    if node.has(slot::SIZES) {
        return Ok(scales);
    }
    // Before operator set 11 there is no region of interest before the scales, and before 9 they are an attribute.
    let place = if node.opset() < 11 { slot::ROI } else { slot::SCALES };
    if let Some(given) = node.floats("scales").filter(|given| given.len() == from.len()) {
        return Ok(given.to_vec());
    }
    if !node.has(place) || node.shape(place)? == [0] {
        return Ok(scales);
    }
    let given = node.constant(place).and_then(|t| t.to_f32());
    let given = given.ok_or_else(|| node.unsupported("scales that are computed"))?;
    let axes = node.ints("axes").unwrap_or_else(|| (0..from.len() as i64).collect());
    for (&axis, &scale) in axes.iter().zip(&given) {
        scales[node.axis(axis, from.len())?] = scale;
    }
    Ok(scales)
}

/// How entries of the result are made from those of the operand. Numbers are float32, as the runtimes compute them.
struct Interpolation<'a> {
    mode: &'a str,
    coordinates: &'a str,
    rounding: &'a str,
    cubic: f32,
    exclude_outside: bool,
}

impl<'a> Interpolation<'a> {
    fn of(node: &'a NodeGradient<'_>) -> Result<Self, NoGradient> {
        let old = node.opset() < 11;
        let attribute = |name, default| node.string(name).unwrap_or(default);
        let rule = Self {
            mode: attribute("mode", "nearest"),
            coordinates: attribute(
                "coordinate_transformation_mode",
                if old { "asymmetric" } else { "half_pixel" },
            ),
            rounding: attribute("nearest_mode", if old { "before 11" } else { "round_prefer_floor" }),
            cubic: node.float("cubic_coeff_a").unwrap_or(-0.75),
            exclude_outside: node.int("exclude_outside").unwrap_or(0) != 0,
        };
        if rule.coordinates == "tf_crop_and_resize" {
            return Err(node.unsupported("a region of interest"));
        }
        if node.int("antialias").unwrap_or(0) != 0 {
            return Err(node.unsupported("antialiasing"));
        }
        if node.has(slot::SIZES) && attribute("keep_aspect_ratio_policy", "stretch") != "stretch" {
            return Err(node.unsupported("a kept aspect ratio"));
        }
        Ok(rule)
    }

    /// Where entry `x` of the result lies among the operand's.
    fn origin(&self, x: f32, from: f32, to: f32, scale: f32) -> f32 {
        let half_pixel = (x + 0.5) / scale - 0.5;
        match self.coordinates {
            "asymmetric" => x / scale,
            "align_corners" if to > 1.0 => x * (from - 1.0) / (to - 1.0),
            "align_corners" => 0.0,
            "pytorch_half_pixel" if to <= 1.0 => 0.0,
            "half_pixel_symmetric" => from / 2.0 * (1.0 - to / (scale * from)) + half_pixel,
            _ => half_pixel,
        }
    }

    /// The weights of the operand's `from` entries in one that lies at `at`.
    fn row(&self, at: f32, from: usize, scale: f32) -> Vec<f32> {
        let last = from.saturating_sub(1);
        let inside = |i: f32| i.clamp(0.0, last as f32) as usize;
        let mut row = vec![0.0; from];
        match self.mode {
            "nearest" => return one_hot(inside(self.round(at, scale)), from),
            "linear" => {
                let at = at.clamp(0.0, last as f32);
                let near = at.floor();
                row[inside(near)] += 1.0 - (at - near);
                row[inside(near + 1.0)] += at - near;
            }
            _ => {
                for tap in -1..3 {
                    let place = at.floor() + tap as f32;
                    if !self.exclude_outside || (0.0..=last as f32).contains(&place) {
                        row[inside(place)] += cubic(self.cubic, (at - place).abs());
                    }
                }
                let total: f32 = row.iter().sum();
                row.iter_mut().for_each(|weight| *weight /= total);
            }
        }
        row
    }

    fn round(&self, at: f32, scale: f32) -> f32 {
        match self.rounding {
            "floor" => at.floor(),
            "ceil" => at.ceil(),
            "round_prefer_ceil" => (at + 0.5).floor(),
            "before 11" if scale < 1.0 => at.ceil(),
            "before 11" => at.floor(),
            _ => (at - 0.5).ceil(),
        }
    }
}

/// The kernel of cubic convolution (Keys 1981) with parameter `a`, at a distance of less than two.
fn cubic(a: f32, distance: f32) -> f32 {
    let d = distance;
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    } else {
        0.0
    }
}
