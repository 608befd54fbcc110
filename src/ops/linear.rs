//! Operators as matrix products: how a node that sums over a constant weight reads its operand, position by position.

use ndarray::{ArrayD, IxDyn};

use super::window::Window;

/// A node as one matrix product per group, as im2col writes a convolution:
///
/// `Y[position, group, out] = scale · Σ X[window(position, tap), group, inner] · W[group, tap, inner, out] + bias`
///
/// `MatMul(X[N, S, 64], W[64, 256])` has one group, one tap, 64 inner and 256 output features. `Conv(X[N, 2·16, H, W],
/// W[2·8, 16, 3, 3])` with two groups has 9 taps, 16 inner and 8 output features per group.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Number of groups; features of different groups do not mix.
    pub groups: usize,
    /// Which positions of the operand each position of the result reads; `None` where it reads the one with its own index.
    pub window: Option<Window>,
    /// How the stored weight orders the axes (group, tap, inner, out), which have the numbers 0 to 3. Axes that the weight
    /// stores as one are neighbours.
    ///
    /// MatMul stores `[inner, out]`: `[0, 1, 2, 3]`. Gemm with `transB` stores `[out, inner]`: `[0, 1, 3, 2]`. Conv stores
    /// `[group·out, inner, tap]`: `[0, 3, 2, 1]`.
    pub order: [usize; 4],
    /// Factor of the product (`alpha` of Gemm).
    pub scale: f64,
    /// The operand that is added per output feature, if the operator has one.
    pub bias: Option<BiasOperand>,
}

/// The bias of a [`Linear`] node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BiasOperand {
    /// Its slot, whether or not the node fills it.
    pub slot: usize,
    /// What the operator multiplies it by (`beta` of Gemm).
    pub factor: f64,
}

impl Linear {
    /// A product of matrices, with the weight's axes in this order.
    pub(super) fn matrix(order: [usize; 4]) -> Self {
        Self { groups: 1, window: None, order, scale: 1.0, bias: None }
    }

    /// How many positions of the operand each position of the result reads.
    pub fn taps(&self) -> usize {
        self.window.as_ref().map_or(1, |w| w.kernel.iter().product())
    }
}

/// A factor that is the same for all elements.
pub(super) fn uniform(factor: f64) -> ArrayD<f64> {
    ArrayD::from_elem(IxDyn(&[]), factor)
}
