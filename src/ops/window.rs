//! Sliding windows of convolutions and pools: which positions each window covers, and the convolutions that pass cotangents
//! between the two sides.

use crate::{
    graph::{Attr, Expr, Node, SliceRange},
    tensor::Tensor,
};

/// How a kernel slides over positions. All lists have one entry per spatial axis, in positions.
///
/// Windows lie on the input, and the output has one entry per window; in a transposed convolution they lie on the output, and the
/// input has one entry per window. A 3×3 Conv of stride 2 with pads of 1 on `[N, C, 8, 8]` has `input` `[8, 8]`, `output`
/// `[4, 4]`, `kernel` `[3, 3]`, `strides` `[2, 2]`, `before` `[1, 1]`, and `after` `[0, 0]`, as the last window ends with the
/// input.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Extents of the node's input.
    pub input: Vec<usize>,
    /// Extents of the node's output.
    pub output: Vec<usize>,
    /// Extents of the kernel.
    pub kernel: Vec<usize>,
    /// Steps between windows.
    pub strides: Vec<usize>,
    /// Distances between the taps of the kernel.
    pub dilations: Vec<usize>,
    /// Padding before the side that windows lie on.
    pub before: Vec<usize>,
    /// Padding after it that windows reach into.
    pub after: Vec<usize>,
    /// Whether windows lie on the output (ConvTranspose).
    pub transposed: bool,
    /// Positions at the end of the side that windows lie on which no window covers.
    unreached: Vec<usize>,
    groups: usize,
}

impl Window {
    /// Reads the attributes of a convolution or pool whose first operand and result have these observed extents, batch and
    /// channels included; `None` where they do not fit.
    pub(super) fn of(
        node: &Node,
        kernel: &[usize],
        (input, output): (&[usize], &[usize]),
        transposed: bool,
    ) -> Option<Self> {
        let axes = kernel.len();
        let list = |name: &str, count: usize, default: usize| -> Option<Vec<usize>> {
            let values = node.ints(name).filter(|values| !values.is_empty());
            let values = values.unwrap_or_else(|| vec![default as i64; count]);
            values.into_iter().map(|n| usize::try_from(n).ok()).collect()
        };
        let pads = list("pads", 2 * axes, 0)?;
        let mut window = Self {
            input: input.get(2..)?.to_vec(),
            output: output.get(2..)?.to_vec(),
            kernel: kernel.to_vec(),
            strides: list("strides", axes, 1)?,
            dilations: list("dilations", axes, 1)?,
            before: vec![0; axes],
            after: vec![0; axes],
            transposed,
            unreached: vec![0; axes],
            groups: node.int("group").and_then(|g| usize::try_from(g).ok()).unwrap_or(1).max(1),
        };
        let lists = [&window.input, &window.output, &window.strides, &window.dilations];
        if lists.iter().any(|list| list.len() != axes) || pads.len() != 2 * axes {
            return None;
        }
        for (i, pad) in pads.into_iter().take(axes).enumerate() {
            // What the windows cover, counted from the first one's start.
            let covered = window.windows()[i].saturating_sub(1) * window.strides[i] + window.span(i);
            let wide = window.windowed()[i];
            let missing = covered.saturating_sub(wide);
            window.before[i] = match node.string("auto_pad").unwrap_or("NOTSET") {
                "NOTSET" => pad,
                "SAME_UPPER" => missing / 2,
                "SAME_LOWER" => missing.div_ceil(2),
                "VALID" => 0,
                _ => return None,
            };
            let end = window.before[i] + wide;
            window.after[i] = covered.saturating_sub(end);
            window.unreached[i] = end.saturating_sub(covered);
        }
        Some(window)
    }

    /// The input position that output position `position` reads at tap `tap` of the kernel, all row-major; `None` for padding.
    pub fn input_position(&self, position: usize, tap: usize) -> Option<usize> {
        let (mut position, mut tap) = (position, tap);
        let (mut read, mut step) = (0, 1);
        for axis in (0..self.kernel.len()).rev() {
            let (p, k) = (position % self.output[axis], tap % self.kernel[axis]);
            position /= self.output[axis];
            tap /= self.kernel[axis];
            let (stride, shift) = (self.strides[axis], k * self.dilations[axis]);
            let at = if self.transposed {
                let at = (p + self.before[axis]).checked_sub(shift)?;
                at.is_multiple_of(stride).then_some(at / stride)?
            } else {
                (p * stride + shift).checked_sub(self.before[axis])?
            };
            if at >= self.input[axis] {
                return None;
            }
            read += at * step;
            step *= self.input[axis];
        }
        Some(read)
    }

    /// Whether every position reads itself and nothing else.
    pub(super) fn is_identity(&self) -> bool {
        self.kernel.iter().all(|k| *k == 1)
            && self.strides.iter().all(|s| *s == 1)
            && self.before.iter().all(|p| *p == 0)
            && self.input == self.output
    }

    /// Extents of the side that windows lie on.
    pub(super) fn windowed(&self) -> &[usize] {
        if self.transposed { &self.output } else { &self.input }
    }

    /// Extents of the side that has an entry per window.
    pub(super) fn windows(&self) -> &[usize] {
        if self.transposed { &self.input } else { &self.output }
    }

    /// Positions from the first to the last that one window sees on an axis.
    fn span(&self, axis: usize) -> usize {
        (self.kernel[axis].saturating_sub(1)) * self.dilations[axis] + 1
    }

    /// Transposed convolution, `g[N, G·M, windows…]` → `[N, G·C, positions…]`: each window's entry is spread over the positions that
    /// it covers. `weight` is `[G·M, C, k…]` as for Conv, with extents `shape`.
    pub(super) fn conv_transpose<'a>(&self, g: Expr<'a>, weight: Expr<'a>, shape: &[usize]) -> Expr<'a> {
        if let Some(pads) = self.flipped_pads() {
            return self.apply_conv(g, "Conv", self.flip_kernel(weight, shape), &pads);
        }
        let spread = self.apply_conv(g, "ConvTranspose", weight, &[&self.before[..], &self.after].concat());
        let after: Vec<usize> = [0, 0].iter().chain(&self.unreached).copied().collect();
        spread.pad(&vec![0; after.len()], &after)
    }

    /// The pads with which a convolution by the flipped kernel spreads entries. There are none when windows stride: it would
    /// multiply by zeros mostly. Otherwise it is what runtimes have the faster code for, by far if it is depthwise.
    fn flipped_pads(&self) -> Option<Vec<usize>> {
        if self.strides.iter().any(|s| *s != 1) || self.unreached.iter().any(|n| *n != 0) {
            return None;
        }
        let axes = self.kernel.len();
        let pads = self.before.iter().chain(&self.after).enumerate();
        pads.map(|(i, pad)| (self.span(i % axes) - 1).checked_sub(*pad)).collect()
    }

    /// `[G·M, C, k…]` as `[G·C, M, k…]`, with each kernel reversed along all its axes.
    fn flip_kernel<'a>(&self, weight: Expr<'a>, shape: &[usize]) -> Expr<'a> {
        let (groups, inner) = (self.groups, shape[1]);
        let outer = shape[0] / groups;
        let places: usize = self.kernel.iter().product();
        let extents = |list: &[usize]| list.iter().map(|n| *n as i64).collect::<Vec<_>>();
        let swapped = weight.reshape(&extents(&[groups, outer, inner, places])).transpose(&[0, 2, 1, 3]);
        let backward: Vec<i64> = (0..places as i64).rev().collect();
        let backward = weight.tail().constant(&Tensor::ints(&backward));
        let flipped = swapped.apply("Gather", &[backward], &[Attr::Int("axis", 3)]);
        flipped.reshape(&extents(&[&[groups * inner, outer], &self.kernel[..]].concat()))
    }

    /// Convolution, `g[N, G·C, positions…]` → `[N, G·M, windows…]`.
    pub(super) fn conv<'a>(&self, g: Expr<'a>, weight: Expr<'a>) -> Expr<'a> {
        self.apply_conv(g, "Conv", weight, &[&self.before[..], &self.after].concat())
    }

    fn apply_conv<'a>(&self, x: Expr<'a>, op: &str, weight: Expr<'a>, pads: &[usize]) -> Expr<'a> {
        let numbers = |list: &[usize]| list.iter().map(|n| *n as i64).collect::<Vec<_>>();
        // A convolution by the flipped kernel has no strides, so that these are those of either way.
        let (strides, dilations) = (numbers(&self.strides), numbers(&self.dilations));
        let attributes = [
            Attr::Ints("strides", &strides),
            Attr::Ints("dilations", &dilations),
            Attr::Ints("pads", &numbers(pads)),
            Attr::Int("group", self.groups as i64),
        ];
        x.apply(op, &[weight], &attributes)
    }

    /// Unfolds `x[N, C, positions…]`: for each tap of the kernel, what it reads in all windows, `[N, C, 1, windows…]`, with `fill`
    /// for padding.
    pub(super) fn unfold<'a>(&self, x: Expr<'a>, fill: f32) -> Vec<Expr<'a>> {
        let around = |pads: &[usize]| [&[0, 0], pads].concat();
        let padded = x.pad_with(fill, &around(&self.before), &around(&self.after));
        let taps = self.kernel.iter().product();
        let place = |tap: usize| {
            let mut rest = tap;
            let mut ranges = Vec::with_capacity(self.kernel.len());
            for axis in (0..self.kernel.len()).rev() {
                let start = rest % self.kernel[axis] * self.dilations[axis];
                rest /= self.kernel[axis];
                let end = start + self.windows()[axis].saturating_sub(1) * self.strides[axis] + 1;
                ranges.push(SliceRange { axis: axis + 2, start, end, step: self.strides[axis] });
            }
            padded.slices(&ranges).unsqueeze(&[2])
        };
        (0..taps).map(place).collect()
    }
}
