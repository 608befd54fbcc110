//! Operators as matrix products: how a node that sums over a constant weight reads its operand, position by position.

use ndarray::{ArrayD, IxDyn};

use super::window::Window;

/// A node as a matrix product per group: `Y[position, group, out] = Σ X[read(position, tap), group, inner] ·
/// W[group, tap, inner, out]`, plus a bias, times a scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Groups that do not mix.
    pub groups: usize,
    /// What each position of the result reads; `None` where it reads the operand's position of the same number.
    pub window: Option<Window>,
    /// Where the weight keeps the axes (group, tap, inner, out): the weight is that array with its axes in this order,
    /// neighbours merged.
    pub order: [usize; 4],
    /// Factor of the product.
    pub scale: f64,
    /// The operand slot that takes a bias per feature, if the operator has one, and the bias' factor.
    pub bias: Option<(usize, f64)>,
}

impl Linear {
    /// A plain product of matrices.
    pub(super) fn matrix(order: [usize; 4]) -> Self {
        Self { groups: 1, window: None, order, scale: 1.0, bias: None }
    }

    /// Positions of the operand that each position of the result reads.
    pub fn taps(&self) -> usize {
        self.window.as_ref().map_or(1, |w| w.kernel.iter().product())
    }
}

/// A factor that is the same for all elements.
pub(super) fn uniform(factor: f64) -> ArrayD<f64> {
    ArrayD::from_elem(IxDyn(&[]), factor)
}
