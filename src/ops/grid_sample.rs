//! GridSample.

use super::schema::{OpSchema, any, float, microsoft, onnx, slots};
use super::{NoGradient, NodeGradient, NodeTyper, Operator, scatter::adds_at_indices};
use crate::{
    graph::{Attr, Expr},
    tensor::{DType, Tensor},
    widths::PinReason,
};

slots! {
    slot:
    X = any("X"),
    GRID = float("grid"),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("GridSample", &[16, 20, 22], &GridSample).reads(slot::ALL).makes(&[any("Y")]),
    microsoft("GridSample", &GridSample).reads(&[any("X"), any("Grid")]).makes(&[float("Y")]),
];

/// Samples positions at points that an operand says: `X[N, C, D…]`, `grid[N, P…, coordinates]` → `Y[N, C, P…]`.
pub(super) struct GridSample;

impl Operator for GridSample {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (x, grid) = (node.axes(slot::X)?, node.axes(slot::GRID)?);
        let (&[batch, channels, ref from @ ..], &[grid_batch, ref points @ .., coordinates]) =
            (x.as_slice(), grid.as_slice())
        else {
            return Err(node.unsupported("operands of unexpected rank"));
        };
        for &axis in from.iter().chain([&coordinates]) {
            node.pin(axis, PinReason::Spatial);
        }
        node.unify(batch, grid_batch);
        let mut result = vec![batch, channels];
        result.extend(points);
        node.set(0, result);
        Ok(())
    }

    /// Each point is a weighted sum of the positions around it. Weights depend on the point, and so does, by steps that have
    /// no slope, which positions those are.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        adds_at_indices(node)?;
        let sampling = Sampling::of(node)?;
        let flat = [0, 0, -1];
        let sampled = Sampled {
            node,
            x: node.x(slot::X)?.reshape(&flat),
            g: node.g()?.reshape(&flat),
            around: sampling.around(node)?,
        };
        if node.needs(slot::X) {
            node.set_cotangent(slot::X, sampled.spread()?.reshape_like(node.x(slot::X)?));
        }
        if node.needs(slot::GRID) {
            node.set_cotangent(slot::GRID, sampled.slopes()?.reshape_like(node.x(slot::GRID)?));
        }
        Ok(())
    }
}

/// How points are made from positions.
struct Sampling<'a> {
    mode: &'a str,
    padding: &'a str,
    align_corners: bool,
    /// Extents of the sampled axes.
    sizes: &'a [usize],
}

/// One position along an axis that points are made from. Each number is `[N, 1, points]`.
#[derive(Clone, Copy)]
struct Tap<'a> {
    place: Expr<'a>,
    weight: Expr<'a>,
    /// The weight's derivative by the coordinate.
    slope: Expr<'a>,
}

/// One position that points are made from.
struct Source<'a> {
    /// Its place among all positions.
    place: Expr<'a>,
    weight: Expr<'a>,
    /// The weight's derivatives by the coordinates, in the grid's order.
    slopes: Vec<Expr<'a>>,
}

impl<'a> Sampling<'a> {
    fn of(node: &'a NodeGradient<'_>) -> Result<Self, NoGradient> {
        let sizes = node.shape(slot::X)?.get(2..).unwrap_or_default();
        if sizes.is_empty() || sizes.contains(&0) {
            return Err(node.unsupported("an operand without positions"));
        }
        Ok(Self {
            mode: node.string("mode").unwrap_or("linear"),
            padding: node.string("padding_mode").unwrap_or("zeros"),
            align_corners: node.int("align_corners").unwrap_or(0) != 0,
            sizes,
        })
    }

    /// All positions that points are made from: each is a tap of every axis.
    fn around<'e>(&self, node: &NodeGradient<'e>) -> Result<Vec<Source<'e>>, NoGradient> {
        let rank = self.sizes.len();
        // Halves are too coarse for places.
        let grid = node.x(slot::GRID)?.cast(if node.dtype(slot::GRID) == Some(DType::F64) {
            DType::F64
        } else {
            DType::F32
        });
        let grid = grid.reshape(&[0, -1, rank as i64]).transpose(&[0, 2, 1]);
        let mut sources: Vec<Source<'e>> = Vec::new();
        for (axis, &size) in self.sizes.iter().enumerate() {
            // The first coordinate is that of the last axis.
            let coordinate = rank - 1 - axis;
            let taps = self.taps(grid.slice(1, coordinate, coordinate + 1), size)?;
            sources = match axis {
                0 => taps.into_iter().map(Source::from).collect(),
                _ => sources.iter().flat_map(|s| taps.iter().map(|t| s.times(*t, size))).collect(),
            };
        }
        Ok(sources)
    }

    /// The positions of an axis that points are made from, which lie at `coordinate` from -1 to 1.
    fn taps<'e>(&self, coordinate: Expr<'e>, size: usize) -> Result<Vec<Tap<'e>>, NoGradient> {
        let extent = size as f32;
        let (scale, offset) = if self.align_corners {
            ((extent - 1.0) / 2.0, (extent - 1.0) / 2.0)
        } else {
            (extent / 2.0, (extent - 1.0) / 2.0)
        };
        let at = coordinate * scale + offset;
        if self.mode == "nearest" {
            let (one, none) = (at.zeros() + 1.0, at.zeros());
            return Ok(vec![self.tap(at.map("Round"), size, one, none)]);
        }
        let first = at.map("Floor");
        let t = at - first;
        let tap = |step: f32, (weight, slope): (Expr<'e>, Expr<'e>)| {
            self.tap(first + step, size, weight, slope * scale)
        };
        Ok(match self.mode {
            "cubic" | "bicubic" => {
                let mirrored = |(weight, slope): (Expr<'e>, Expr<'e>)| (weight, -slope);
                vec![
                    tap(-1.0, outer(t + 1.0)),
                    tap(0.0, inner(t)),
                    tap(1.0, mirrored(inner(1.0 - t))),
                    tap(2.0, mirrored(outer(2.0 - t))),
                ]
            }
            _ => {
                let one = t.zeros() + 1.0;
                vec![tap(0.0, (1.0 - t, -one)), tap(1.0, (t, one))]
            }
        })
    }

    /// A tap at a whole number that may lie outside.
    fn tap<'e>(&self, place: Expr<'e>, size: usize, weight: Expr<'e>, slope: Expr<'e>) -> Tap<'e> {
        let last = place.scalar((size - 1) as f32);
        let clamp =
            |place: Expr<'e>| place.apply("Max", &[place.scalar(0.0)], &[]).apply("Min", &[last], &[]);
        match self.padding {
            "border" => Tap { place: clamp(place), weight, slope },
            "reflection" => Tap { place: clamp(self.reflected(place, size)), weight, slope },
            _ => {
                let inside = clamp(place);
                let holds = place.equals(inside).cast(place.dtype());
                Tap { place: inside, weight: weight * holds, slope: slope * holds }
            }
        }
    }

    /// The place that a mirror at each border shows: at the outer positions, or at their outer edges.
    fn reflected<'e>(&self, place: Expr<'e>, size: usize) -> Expr<'e> {
        let (first, range) = if self.align_corners { (0.0, (size - 1) as f32) } else { (-0.5, size as f32) };
        if range == 0.0 {
            return place;
        }
        let there_and_back = 2.0 * range;
        let distance = (place - first).map("Abs");
        let folded = distance - (distance / there_and_back).map("Floor") * there_and_back;
        range - (folded - range).map("Abs") + first
    }
}

/// Weight and derivative of a position at distance up to one: cubic convolution (Keys 1981) with parameter -0.75.
fn inner(d: Expr<'_>) -> (Expr<'_>, Expr<'_>) {
    ((d * 1.25 - 2.25) * d * d + 1.0, (d * 3.75 - 4.5) * d)
}

/// As [`inner`], at a distance from one to two.
fn outer(d: Expr<'_>) -> (Expr<'_>, Expr<'_>) {
    (((d * -0.75 + 3.75) * d - 6.0) * d + 3.0, (d * -2.25 + 7.5) * d - 6.0)
}

impl<'a> From<Tap<'a>> for Source<'a> {
    fn from(tap: Tap<'a>) -> Self {
        Self { place: tap.place.cast(DType::I64), weight: tap.weight, slopes: vec![tap.slope] }
    }
}

impl<'a> Source<'a> {
    /// The positions at this one of the axes before, and at `tap` of one with `size` entries.
    fn times(&self, tap: Tap<'a>, size: usize) -> Self {
        let entries = tap.place.tail().constant(&Tensor::int(size as i64));
        let slopes = self.slopes.iter().map(|slope| *slope * tap.weight);
        Self {
            place: self.place * entries + tap.place.cast(DType::I64),
            weight: self.weight * tap.weight,
            slopes: std::iter::once(self.weight * tap.slope).chain(slopes).collect(),
        }
    }
}

/// A node with its positions and points flattened: `x[N, C, positions]`, `g[N, C, points]`.
struct Sampled<'n, 'a> {
    node: &'n NodeGradient<'a>,
    x: Expr<'a>,
    /// The cotangent of the points.
    g: Expr<'a>,
    /// What points are made from.
    around: Vec<Source<'a>>,
}

impl<'a> Sampled<'_, 'a> {
    /// Places `[N, C, points]`: those of all channels are the same.
    fn places(&self, source: &Source<'a>) -> Expr<'a> {
        source.place.apply("Expand", &[self.g.shape()], &[])
    }

    /// Adds to each position what the points that are made from it pass on.
    fn spread(&self) -> Result<Expr<'a>, NoGradient> {
        let places: Vec<_> = self.around.iter().map(|s| self.places(s)).collect();
        let passed: Vec<_> = self.around.iter().map(|s| self.g * s.weight.cast(self.g.dtype())).collect();
        let (places, passed) = (self.node.concat(&places, 2)?, self.node.concat(&passed, 2)?);
        Ok(self.x.zeros().scatter(2, places, passed, true))
    }

    /// The cotangents of the coordinates, `[N, points, coordinates]`.
    fn slopes(&self) -> Result<Expr<'a>, NoGradient> {
        let mut sums: Vec<Expr<'a>> = Vec::new();
        for source in &self.around {
            let seen = self.x.apply("GatherElements", &[self.places(source)], &[Attr::Int("axis", 2)]);
            let shared = (self.g * seen).sum(&[1], true);
            for (i, slope) in source.slopes.iter().enumerate() {
                let term = shared * slope.cast(self.g.dtype());
                match sums.get_mut(i) {
                    Some(sum) => *sum = *sum + term,
                    None => sums.push(term),
                }
            }
        }
        let slopes = self.node.concat(&sums, 1)?.transpose(&[0, 2, 1]);
        Ok(slopes.cast(self.node.dtype(slot::GRID).unwrap_or(self.g.dtype())))
    }
}
