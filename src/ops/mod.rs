//! What the tool knows of operators: one file per family, one line per operator in `registry.rs`.
//!
//! A family's file says how the axes of its operators relate and what they cost ([`Operator::infer`]), how sizes pass
//! through them as data ([`Operator::sizes`]), and which attributes and shape operands have to follow when axes shrink
//! ([`Operator::rewrite`]). Nothing outside this folder decides by an operator's name.

mod concat;
mod conv;
mod editor;
mod einsum;
mod elementwise;
mod expand;
mod gather;
mod linear;
mod matmul;
mod normalization;
mod pad;
mod pool;
mod reduce;
mod registry;
mod reshape;
mod resize;
mod shape;
mod sizes;
mod slice;
mod softmax;
mod transpose;
mod typer;

pub use editor::{EditError, NodeEditor};
pub use linear::{Linear, NodeView, Window};
pub use registry::find;
pub use sizes::SizeFlow;
pub use typer::NodeTyper;

use ndarray::ArrayD;

use crate::widths::Reason;

/// The rules of one operator.
pub trait Operator: Sync {
    /// Relates the widths of the node's operands and results, and says what it costs. An error pins everything it touches.
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason>;

    /// Slots of operands that say shapes, which [`Self::rewrite`] brings up to date.
    fn shape_operands(&self) -> &'static [usize] {
        &[]
    }

    /// Passes what integer operands say about sizes on to the result; `None` where they are used as plain numbers.
    fn sizes(&self, _flow: &mut SizeFlow<'_>) -> Option<()> {
        None
    }

    /// Brings attributes and shape operands up to date with the axes that shrink.
    fn rewrite(&self, _node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        Ok(())
    }

    /// The node as a matrix product with its constant operand `weight`; `None` where it is none, or of a form not covered.
    fn linear(&self, _node: &NodeView<'_>, _weight: usize) -> Option<Linear> {
        None
    }

    /// The constant that the change of operand `slot` is multiplied by on its way to the first result, if the operator is
    /// affine in that operand and keeps its elements apart. It broadcasts against the operand.
    fn gain(&self, _node: &NodeView<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        None
    }

    /// Whether the result is the sum of the operands: a bias or a residual connection.
    fn adds(&self) -> bool {
        false
    }

    /// Whether the result holds probabilities over an axis: logits went in.
    fn normalises(&self) -> bool {
        false
    }
}
