//! Pooling per channel, over positions: AveragePool, LpPool and MaxPool, their global forms, and RoiAlign.

use super::schema::{OpSchema, OperatorForm, float, int64, number, onnx, slots};
use super::{
    NoGradient, NodeGradient, NodeTyper, Operator,
    depth_to_space::{image, positions},
    gradient::one_hot,
    window::Window,
};
use crate::{
    graph::Expr,
    widths::{PinReason, Width},
};

slots! {
    regions:
    X = float("X"),
    REGIONS = float("rois"),
    IMAGES = int64("batch_indices"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("AveragePool", &[1, 7, 10, 11, 19, 22], &Pool::Average).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("GlobalAveragePool", &[1, 22], &GlobalPool::Average).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("GlobalLpPool", &[1, 2, 22], &GlobalPool::Norm).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("GlobalMaxPool", &[1, 22], &GlobalPool::Max).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("LpPool", &[1, 2, 11, 18, 22], &Pool::Norm).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("MaxPool", &[1, 8, 10, 11, 12, 22], &Pool::Max).reads(&[number("X")])
        .makes(&[number("Y"), int64("Indices").optional().since(8)])
        .forms(&[OperatorForm::of(""), OperatorForm::of("with places").since(8)]),
    onnx("RoiAlign", &[10, 16, 22], &RoiAlign).reads(regions::ALL).makes(&[float("Y")]).without_gradient(),
];

/// Pooling by a sliding window.
pub(super) enum Pool {
    /// The mean of what a window sees.
    Average,
    /// A norm of what a window sees.
    Norm,
    /// The largest of what a window sees.
    Max,
}

/// The result of MaxPool that says where the maxima are.
const PLACES: usize = 1;

impl Operator for Pool {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        let shape = node.result_shape(0)?;
        if x.len() < 3 || shape.len() != x.len() {
            return Err(node.unsupported("operand of unexpected rank"));
        }
        let mut result = x[..2].to_vec();
        for (&axis, &size) in x[2..].iter().zip(&shape[2..]) {
            node.pin(axis, PinReason::Spatial);
            let axis = node.fixed(size, PinReason::Spatial);
            result.push(axis);
        }
        // The indices of maxima count channels, too.
        if node.output(PLACES).is_some() {
            node.pin(x[1], PinReason::Indexed);
        }
        for slot in 0..node.output_count() {
            node.set(slot, result.clone());
        }
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let kernel = node.ints("kernel_shape").unwrap_or_default();
        let kernel: Vec<usize> = kernel.into_iter().map(|k| usize::try_from(k).unwrap_or(0)).collect();
        let window = Window::of(node, &kernel, (node.shape(0)?, node.result_shape(0)?), false)
            .ok_or_else(|| node.unsupported("attributes that do not fit its operands"))?;
        let cotangent = match self {
            Self::Average => {
                let share =
                    shares(node, &window).ok_or_else(|| node.unsupported("extents that do not fit"))?;
                spread(node, &window, node.g()? * share)?
            }
            Self::Norm => spread(node, &window, norm_slope_of_y(node)?)? * norm_slope_of_x(node)?,
            Self::Max => max_gradient(node, &window)?,
        };
        node.set_cotangent(0, cotangent);
        Ok(())
    }
}

/// Adds to each position, `[N, C, …]`, the entries of the windows that see it.
fn spread<'a>(node: &NodeGradient<'a>, window: &Window, g: Expr<'a>) -> Result<Expr<'a>, NoGradient> {
    let ones = vec![1.0; window.kernel.iter().product()];
    spread_taps(node, window, g, 1, ones)
}

/// As [`spread`], for entries `[N, C, taps, …]` that go to one place of the kernel each: `weight` is `[taps, 1, kernel…]`.
fn spread_taps<'a>(
    node: &NodeGradient<'a>,
    window: &Window,
    g: Expr<'a>,
    taps: usize,
    weight: Vec<f32>,
) -> Result<Expr<'a>, NoGradient> {
    let shape = [&[taps, 1], &window.kernel[..]].concat();
    let weight = node.tail().numbers(&shape, weight, g.dtype());
    let weight = weight.ok_or_else(|| node.unsupported("a kernel that does not fit"))?;
    // Channels are alike: they join the batch.
    let alike: Vec<i64> =
        [-1, taps as i64].into_iter().chain(window.windows().iter().map(|n| *n as i64)).collect();
    Ok(window.conv_transpose(g.reshape(&alike), weight, &shape).reshape_like(node.x(0)?))
}

/// One over the number of entries that each window takes the mean of.
fn shares<'a>(node: &NodeGradient<'a>, window: &Window) -> Option<Expr<'a>> {
    let axes = window.kernel.len();
    let padded = node.int("count_include_pad").unwrap_or(0) != 0;
    let stated = node.ints("pads").and_then(|pads| pads.get(axes..).map(<[i64]>::to_vec));
    let counts = |axis: usize| {
        let (wide, before) = (window.windowed()[axis], window.before[axis]);
        // A window that rounding up let begin late may reach even behind the padding: that is never counted.
        let after = stated.as_ref().and_then(|s| usize::try_from(s[axis]).ok()).unwrap_or(window.after[axis]);
        let (first, end) = if padded { (0, before + wide + after) } else { (before, before + wide) };
        let sees = move |o: usize, k: usize| o * window.strides[axis] + k * window.dilations[axis];
        let count = move |o: usize| {
            (0..window.kernel[axis]).filter(|k| (first..end).contains(&sees(o, *k))).count() as f32
        };
        (0..window.windows()[axis]).map(count).collect::<Vec<f32>>()
    };
    let product = (0..axes).fold(vec![1.0], |all, axis| {
        let counts = counts(axis);
        all.iter().flat_map(|n| counts.iter().map(move |c| n * c)).collect()
    });
    let shape = [&[1, 1], window.windows()].concat();
    let dtype = node.dtype(0)?;
    node.tail().numbers(&shape, product.into_iter().map(|n| 1.0 / n).collect(), dtype)
}

/// The cotangent of a window goes to its largest entry, in equal parts where several are.
fn max_gradient<'a>(node: &NodeGradient<'a>, window: &Window) -> Result<Expr<'a>, NoGradient> {
    if node.opset() < 10 && window.strides.iter().any(|s| *s != 1) {
        return Err(node.unsupported("strides before operator set 10"));
    }
    let (x, y, g) = (node.x(0)?, node.y(0)?, node.g()?);
    let taps = window.unfold(x, f32::NEG_INFINITY);
    let count = taps.len();
    let seen = node.tail().concat(&taps, 2).ok_or_else(|| node.unsupported("an empty kernel"))?;
    let hit = seen.equals(y.unsqueeze(&[2])).cast(g.dtype());
    let shared = hit * (g.unsqueeze(&[2]) / hit.sum(&[2], true));
    spread_taps(node, window, shared, count, (0..count).flat_map(|tap| one_hot(tap, count)).collect())
}

/// The factor of the derivative of `y = (Σ|x|^p)^(1/p)` that depends on `y`, times the cotangent.
fn norm_slope_of_y<'a>(node: &NodeGradient<'a>) -> Result<Expr<'a>, NoGradient> {
    let (y, g) = (node.y(0)?, node.g()?);
    // Where all is zero, zero is a subgradient.
    Ok(y.equals(y.scalar(0.0)).select(y.scalar(0.0), g * y.powf(1.0 - norm(node))))
}

/// The factor that depends on `x`.
fn norm_slope_of_x<'a>(node: &NodeGradient<'a>) -> Result<Expr<'a>, NoGradient> {
    let x = node.x(0)?;
    Ok(x.map("Sign") * x.map("Abs").powf(norm(node) - 1.0))
}

fn norm(node: &NodeGradient<'_>) -> f32 {
    node.int("p").unwrap_or(2) as f32
}

/// Pooling of all positions into one.
pub(super) enum GlobalPool {
    /// Their mean.
    Average,
    /// Their norm.
    Norm,
    /// The largest.
    Max,
}

impl Operator for GlobalPool {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let x = node.axes(0)?;
        if x.len() < 2 {
            return Err(node.unsupported("operand of unexpected rank"));
        }
        for &axis in &x[2..] {
            node.pin(axis, PinReason::Spatial);
        }
        let result = x.iter().enumerate().map(|(i, &axis)| if i < 2 { axis } else { Width::ONE });
        node.set(0, result.collect());
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (x, y, g) = (node.x(0)?, node.y(0)?, node.g()?);
        let cotangent = match self {
            Self::Average => (g * (y.num_elements() / x.num_elements())).expand_like(x),
            Self::Norm => norm_slope_of_y(node)? * norm_slope_of_x(node)?,
            Self::Max => {
                let positions: Vec<usize> = (2..node.shape(0)?.len()).collect();
                let hit = x.equals(y).cast(g.dtype());
                hit * (g / hit.sum(&positions, true))
            }
        };
        node.set_cotangent(0, cotangent);
        Ok(())
    }
}

/// Pools regions of an image: `X[N, C, H, W]` → `Y[R, C, h, w]`.
pub(super) struct RoiAlign;

impl Operator for RoiAlign {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let [batch, channels, height, width] = image(node)?;
        let regions = node.axes(regions::REGIONS)?;
        for &axis in regions.iter().skip(1) {
            node.pin(axis, PinReason::Indexed);
        }
        node.pin(batch, PinReason::Indexed);
        let regions = regions.first().copied().unwrap_or(Width::ONE);
        positions(node, regions, channels, &[height, width])
    }
}
