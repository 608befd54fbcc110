//! Operators that work along some axes, whose entries depend on each other, and pass the others: CumSum, TopK, ArgMax, Trilu,
//! ReverseSequence, LRN, MeanVarianceNormalization; and those that look at all axes: NonZero, Size, EyeLike.

use super::contract::{Contract, Form, any, float, int64, microsoft, number, onnx, slots};
use super::{NoGradient, NodeGradient, NodeTyper, Operator, normalization::Norm};
use crate::{
    graph::Attr,
    tensor::Tensor,
    widths::{Element, Reason, Width},
};

slots! {
    cum_sum:
    X = number("x"),
    AXIS = integer("axis"),
}

slots! {
    top_k:
    X = number("X"),
    K = int64("K").since(10),
}

slots! {
    trilu:
    INPUT = any("input"),
    DIAGONAL = int64("k").optional(),
}

slots! {
    reverse_sequence:
    INPUT = any("input"),
    LENGTHS = int64("sequence_lens"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[Contract] = &[
    onnx("ArgMax", &[1, 11, 12, 13], &ArgExtremum).reads(&[number("data")])
        .makes(&[int64("reduced")])
        .without_gradient(),
    onnx("ArgMin", &[1, 11, 12, 13], &ArgExtremum).reads(&[number("data")])
        .makes(&[int64("reduced")])
        .without_gradient(),
    onnx("CumSum", &[11, 14], &CumSum).reads(cum_sum::ALL).makes(&[number("y")]),
    onnx("EyeLike", &[9, 22], &EyeLike).reads(&[any("input")]).makes(&[any("output")]).without_gradient(),
    onnx("LRN", &[1, 13], &Lrn).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("MeanVarianceNormalization", &[9, 13], &MeanVariance).reads(&[float("X")]).makes(&[float("Y")]),
    onnx("NonZero", &[9, 13], &NonZero).reads(&[any("X")]).makes(&[int64("Y")]).without_gradient(),
    onnx("ReverseSequence", &[10, 28], &ReverseSequence).reads(reverse_sequence::ALL).makes(&[any("Y")]),
    onnx("Size", &[1, 13, 19, 21, 23, 24, 25], &Size).reads(&[any("data")])
        .makes(&[int64("size")])
        .without_gradient(),
    onnx("TopK", &[1, 10, 11, 24], &TopK).reads(top_k::ALL).makes(&[number("Values"), int64("Indices")])
        .forms(&[Form::of("count as an attribute").until(9), Form::of("count as an operand").since(10)]),
    onnx("Trilu", &[14], &Trilu).reads(trilu::ALL).makes(&[any("output")]),
    microsoft("Trilu", &Trilu).reads(&[any("X"), int64("k").optional()]).makes(&[any("Y")]),
];

fn rearranged(node: &NodeTyper<'_>) -> Reason {
    Reason::Rearranged(node.op_type().to_owned())
}

/// Running sums along an axis, which the second operand says.
pub(super) struct CumSum;

impl Operator for CumSum {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(cum_sum::X)?;
        let Some(&[axis]) = node.contents(cum_sum::AXIS) else {
            return Err(node.form("an axis that was not observed"));
        };
        let axis = node.axis(axis, x.len())?;
        node.pin(x[axis], rearranged(node));
        node.set(0, x);
        Ok(())
    }

    /// The sums run the other way.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let flag = |name| node.int(name).unwrap_or(0);
        let attributes =
            [Attr::Int("exclusive", flag("exclusive")), Attr::Int("reverse", 1 - flag("reverse"))];
        node.give(cum_sum::X, node.g()?.apply("CumSum", &[node.x(cum_sum::AXIS)?], &attributes));
        Ok(())
    }
}

/// The largest entries along an axis, and where they are.
pub(super) struct TopK;

impl Operator for TopK {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let mut x = node.axes(top_k::X)?;
        let axis = node.axis(node.int("axis").unwrap_or(-1), x.len())?;
        node.pin(x[axis], Reason::Indexed);
        let count = (0..2).find_map(|slot| node.result_shape(slot).ok()?.get(axis).copied()).unwrap_or(0);
        x[axis] = node.fixed(count, Reason::Indexed);
        node.set(0, x.clone());
        node.set(1, x);
        Ok(())
    }

    /// Entries that were picked take the cotangents of where they went.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        if node.opset() < 11 {
            return Err(node.none("operator sets before 11, where nothing scatters elements"));
        }
        let axis = node.int("axis").unwrap_or(-1);
        node.give(top_k::X, node.x(top_k::X)?.zeros().scatter(axis, node.y(1)?, node.g()?, false));
        Ok(())
    }

    fn chooses(&self) -> bool {
        true
    }
}

/// Where the largest or the smallest entry along an axis is.
pub(super) struct ArgExtremum;

impl Operator for ArgExtremum {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let mut x = node.axes(0)?;
        let axis = node.axis(node.int("axis").unwrap_or(0), x.len())?;
        node.pin(x[axis], Reason::Indexed);
        if node.int("keepdims").unwrap_or(1) != 0 {
            x[axis] = Width::ONE;
        } else {
            x.remove(axis);
        }
        node.set(0, x);
        Ok(())
    }

    fn chooses(&self) -> bool {
        true
    }
}

/// Zeroes a triangle of the last two axes.
pub(super) struct Trilu;

impl Operator for Trilu {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(trilu::INPUT)?;
        for &axis in x.iter().rev().take(2) {
            node.pin(axis, rearranged(node));
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        // tract wants the diagonal to be given.
        let diagonal = if node.has(trilu::DIAGONAL) {
            node.x(trilu::DIAGONAL)?
        } else {
            node.tail().constant(&Tensor::int(0))
        };
        node.give(trilu::INPUT, node.repeat(&[Some(node.g()?), Some(diagonal)])?);
        Ok(())
    }
}

/// Reverses the start of each sequence of a batch.
pub(super) struct ReverseSequence;

impl Operator for ReverseSequence {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(reverse_sequence::INPUT)?;
        let lengths = node.axes(reverse_sequence::LENGTHS)?;
        let time = node.axis(node.int("time_axis").unwrap_or(0), x.len())?;
        let batch = node.axis(node.int("batch_axis").unwrap_or(1), x.len())?;
        node.pin(x[time], rearranged(node));
        if let Some(&lengths) = lengths.first() {
            node.unify(lengths, x[batch]);
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        node.give(
            reverse_sequence::INPUT,
            node.repeat(&[Some(node.g()?), Some(node.x(reverse_sequence::LENGTHS)?)])?,
        );
        Ok(())
    }
}

/// LRN: divides by a sum over neighbouring channels.
pub(super) struct Lrn;

impl Operator for Lrn {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        if let Some(&channels) = x.get(1) {
            node.pin(channels, Reason::Normalised);
        }
        node.set(0, x);
        Ok(())
    }

    /// Of `y = x · d^-β` with `d = bias + α/size · Σ x²` over neighbours.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let (g, x, shape) = (node.g()?, node.x(0)?, node.shape(0)?);
        let number = |name, default| node.float(name).unwrap_or(default);
        let (alpha, beta, bias) = (number("alpha", 1e-4), number("beta", 0.75), number("bias", 1.0));
        let size = node.int("size").unwrap_or(1).max(1);
        let channels = shape.get(1).copied().unwrap_or(0) as i64;
        // Where a channel lies in the windows of the others.
        let sees = |of: i64, other: i64| (-((size - 1) / 2)..=size / 2).contains(&(other - of));
        let windows = |transposed: bool| -> Vec<Vec<f32>> {
            let entry = |i, j| f32::from(if transposed { sees(i, j) } else { sees(j, i) });
            (0..channels).map(|i| (0..channels).map(|j| entry(i, j)).collect()).collect()
        };
        let scale = alpha / size as f32;
        let d = bias + scale * (x * x).along(1, shape.len(), &windows(false));
        let shared = (g * x * d.powf(-beta - 1.0)).along(1, shape.len(), &windows(true));
        node.give(0, g * d.powf(-beta) - (2.0 * scale * beta) * x * shared);
        Ok(())
    }
}

/// MeanVarianceNormalization: statistics over the listed axes.
pub(super) struct MeanVariance;

impl Operator for MeanVariance {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        for axis in node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]) {
            let axis = node.axis(axis, x.len())?;
            node.pin(x[axis], Reason::Normalised);
        }
        node.set(0, x);
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let rank = node.shape(0)?.len();
        let axes = node.ints("axes").unwrap_or_else(|| vec![0, 2, 3]);
        let axes = axes.into_iter().map(|a| node.axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        // The epsilon of the function that defines the operator.
        node.give(0, Norm::of(node.x(0)?, &axes, true, 1e-9).gradient(node.g()?));
        Ok(())
    }
}

/// Where entries are not zero: as many as there happen to be.
pub(super) struct NonZero;

impl Operator for NonZero {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        for axis in node.axes(0)? {
            node.pin(axis, Reason::Indexed);
        }
        let shape = node.result_shape(0)?;
        let result = shape.iter().map(|&size| node.fixed(size, Reason::Indexed)).collect();
        node.set(0, result);
        Ok(())
    }
}

/// The number of elements.
pub(super) struct Size;

impl Operator for Size {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let widths = node.axes(0)?.into_iter().collect();
        node.set(0, Vec::new());
        node.set_sizes(0, vec![Element::Computed(widths)]);
        Ok(())
    }
}

/// A diagonal of ones: rows and columns go together, which no width says.
pub(super) struct EyeLike;

impl Operator for EyeLike {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let x = node.axes(0)?;
        for &axis in &x {
            node.pin(axis, rearranged(node));
        }
        node.set(0, x);
        Ok(())
    }
}
