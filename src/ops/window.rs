//! Windows that slide over positions: where each lies, and the linear passes between what they read and what they write.

use super::{NoGradient, NodeGradient};
use crate::{
    graph::{Attr, Expr},
    tensor::Tensor,
};

/// How a kernel slides over positions: the side that it reads from is `wide`, the side that it writes to `narrow` (the other
/// way round for ConvTranspose).
pub(super) struct Window {
    /// Extents of the kernel, then of both sides.
    pub kernel: Vec<usize>,
    pub wide: Vec<usize>,
    pub narrow: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    /// What the first window lies before the wide side.
    pub before: Vec<usize>,
    /// What the last window lies behind the wide side.
    pub after: Vec<usize>,
    /// Positions at the end of the wide side that no window reaches.
    unreached: Vec<usize>,
    group: i64,
}

impl Window {
    /// Reads the attributes of a node whose observed extents on the two sides are `wide` and `narrow`, batch and channels
    /// included.
    pub fn of(
        node: &NodeGradient<'_>,
        kernel: &[usize],
        wide: &[usize],
        narrow: &[usize],
    ) -> Result<Self, NoGradient> {
        let axes = kernel.len();
        let (wide, narrow) = (wide.get(2..).unwrap_or_default(), narrow.get(2..).unwrap_or_default());
        let list = |name: &str, count: usize, default: usize| {
            let said = node.ints(name).filter(|said| !said.is_empty());
            let said = said.map(|said| said.into_iter().map(usize::try_from).collect::<Result<Vec<_>, _>>());
            said.unwrap_or_else(|| Ok(vec![default; count])).unwrap_or_default()
        };
        let (strides, dilations) = (list("strides", axes, 1), list("dilations", axes, 1));
        let pads = list("pads", 2 * axes, 0);
        if [strides.len(), dilations.len(), pads.len() / 2, wide.len(), narrow.len()] != [axes; 5] {
            return Err(node.none("attributes that do not fit its operands"));
        }
        let mut window = Self {
            kernel: kernel.to_vec(),
            wide: wide.to_vec(),
            narrow: narrow.to_vec(),
            strides,
            dilations,
            before: vec![0; axes],
            after: vec![0; axes],
            unreached: vec![0; axes],
            group: node.int("group").unwrap_or(1),
        };
        for (i, pad) in pads.into_iter().take(axes).enumerate() {
            // What the windows cover, counted from the first one's start.
            let covered = window.narrow[i].saturating_sub(1) * window.strides[i] + window.span(i);
            let missing = covered.saturating_sub(window.wide[i]);
            window.before[i] = match node.string("auto_pad").unwrap_or("NOTSET") {
                "SAME_UPPER" => missing / 2,
                "SAME_LOWER" => missing.div_ceil(2),
                "VALID" => 0,
                _ => pad,
            };
            let end = window.before[i] + window.wide[i];
            window.after[i] = covered.saturating_sub(end);
            window.unreached[i] = end.saturating_sub(covered);
        }
        Ok(window)
    }

    /// Positions from the first to the last that one window sees on an axis.
    fn span(&self, axis: usize) -> usize {
        (self.kernel[axis].saturating_sub(1)) * self.dilations[axis] + 1
    }

    /// From the narrow side to the wide one: each window's entry is spread over the positions that it sees. `weight` is
    /// `[G·M, C, k…]` as for Conv, with extents `shape`.
    pub fn transposed<'a>(&self, g: Expr<'a>, weight: Expr<'a>, shape: &[usize]) -> Expr<'a> {
        if let Some(pads) = self.turned_pads() {
            return self.slide(g, "Conv", self.turned(weight, shape), &pads);
        }
        let spread = self.slide(g, "ConvTranspose", weight, &[&self.before[..], &self.after].concat());
        let after: Vec<usize> = [0, 0].iter().chain(&self.unreached).copied().collect();
        spread.pad(&vec![0; after.len()], &after)
    }

    /// The pads with which a convolution by the turned kernel spreads entries. There are none when windows stride: it would
    /// multiply by zeros mostly. Otherwise it is what runtimes have the faster code for, by far if it is depthwise.
    fn turned_pads(&self) -> Option<Vec<usize>> {
        if self.strides.iter().any(|s| *s != 1) || self.unreached.iter().any(|n| *n != 0) {
            return None;
        }
        let axes = self.kernel.len();
        let pads = self.before.iter().chain(&self.after).enumerate();
        pads.map(|(i, pad)| (self.span(i % axes) - 1).checked_sub(*pad)).collect()
    }

    /// `[G·M, C, k…]` as `[G·C, M, k…]`, with each kernel turned about its centre.
    fn turned<'a>(&self, weight: Expr<'a>, shape: &[usize]) -> Expr<'a> {
        let groups = usize::try_from(self.group).unwrap_or(1).max(1);
        let (outer, inner) = (shape[0] / groups, shape[1]);
        let places: usize = self.kernel.iter().product();
        let extents = |list: &[usize]| list.iter().map(|n| *n as i64).collect::<Vec<_>>();
        let swapped = weight.reshape(&extents(&[groups, outer, inner, places])).transpose(&[0, 2, 1, 3]);
        let backward: Vec<i64> = (0..places as i64).rev().collect();
        let backward = weight.tail().constant(&Tensor::ints(&backward));
        let turned = swapped.apply("Gather", &[backward], &[Attr::Int("axis", 3)]);
        turned.reshape(&extents(&[&[groups * inner, outer], &self.kernel[..]].concat()))
    }

    /// From the wide side to the narrow one.
    pub fn direct<'a>(&self, g: Expr<'a>, weight: Expr<'a>) -> Expr<'a> {
        self.slide(g, "Conv", weight, &[&self.before[..], &self.after].concat())
    }

    fn slide<'a>(&self, x: Expr<'a>, op: &str, weight: Expr<'a>, pads: &[usize]) -> Expr<'a> {
        let numbers = |list: &[usize]| list.iter().map(|n| *n as i64).collect::<Vec<_>>();
        // A convolution by the turned kernel has no strides, so that these are those of either way.
        let (strides, dilations) = (numbers(&self.strides), numbers(&self.dilations));
        let attributes = [
            Attr::Ints("strides", &strides),
            Attr::Ints("dilations", &dilations),
            Attr::Ints("pads", &numbers(pads)),
            Attr::Int("group", self.group),
        ];
        x.apply(op, &[weight], &attributes)
    }

    /// What each place of the kernel sees of `x[N, C, …]` in all windows, as `[N, C, 1, …]` each, with `fill` where it sees
    /// nothing.
    pub fn taps<'a>(&self, x: Expr<'a>, fill: f32) -> Vec<Expr<'a>> {
        let around = |pads: &[usize]| [&[0, 0], pads].concat();
        let padded = x.pad_with(fill, &around(&self.before), &around(&self.after));
        let taps = self.kernel.iter().product();
        let place = |tap: usize| {
            let mut rest = tap;
            let mut ranges = Vec::with_capacity(self.kernel.len());
            for axis in (0..self.kernel.len()).rev() {
                let start = rest % self.kernel[axis] * self.dilations[axis];
                rest /= self.kernel[axis];
                let end = start + self.narrow[axis].saturating_sub(1) * self.strides[axis] + 1;
                ranges.push((axis + 2, start, end, self.strides[axis]));
            }
            padded.slices(&ranges).unsqueeze(&[2])
        };
        (0..taps).map(place).collect()
    }
}
