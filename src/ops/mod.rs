//! Operators and their rules: one file per family.
//!
//! A family's file declares its operators ([`OpSchema`]): their versions, forms and slots. Its rules say how the axes of
//! its operators relate and what they cost ([`Operator::infer`]), how the values of shape tensors pass
//! through them
//! ([`Operator::propagate_data`]), where integer indices go ([`Operator::index_flow`]), how cotangents pass backward ([`Operator::gradient`]),
//! and which attributes and shape operands have to follow when axes shrink ([`Operator::rewrite`]). Nothing outside this
//! folder decides by an operator's name.

mod activation;
mod attention;
mod axis_flow;
mod bound;
mod concat;
mod contrib_attention;
mod contrib_fused;
mod conv;
mod data_propagation;
mod depth_to_space;
mod editor;
mod einsum;
mod elementwise;
mod expand;
mod gather;
mod gradient;
mod grid_sample;
mod index_flow;
mod linear;
mod matmul;
mod moe;
mod node;
mod normalization;
mod pad;
mod pool;
mod positional;
mod quantize;
mod recurrent;
mod reduce;
mod registry;
mod reshape;
mod resize;
mod rotary;
mod scatter;
mod schema;
mod shape;
mod slice;
mod softmax;
mod stored_weight;
mod topk;
mod transpose;
mod typer;
mod window;

pub use axis_flow::AxisFlow;
pub use bound::{Known, bound, element_bytes, stated};
pub use data_propagation::DataPropagation;
pub use editor::{EditError, ElementEdit, NodeEditor};
pub use gather::{Selected, gather, per_sample};
pub use gradient::{NoGradient, NodeGradient};
pub use index_flow::IndexFlow;
pub use linear::{BiasOperand, Linear};
pub use node::{Missing, NodeCx};
pub use quantize::{is_quantized, unrounded};
pub use registry::{find, makes_tensors, operator_name, schema, schemas};
pub use schema::{Arity, ElementClass, OpSchema, OperatorForm, Slot};
pub use stored_weight::{holds_weights, reader, weight};
pub use typer::NodeTyper;
pub use window::Window;

use ndarray::ArrayD;

use crate::{onnx::proto::NodeProto, tensor::Tensor, widths::PinReason};

/// How entries of an axis are brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Added.
    Sum,
    /// Averaged.
    Mean,
}

/// The rules of one operator.
pub trait Operator: Sync {
    /// Typing rule: relates the widths of operands and results, and declares contractions and cost.
    ///
    /// # Errors
    /// A form of the operator that the rule does not cover. All axes of the node are pinned with the reason.
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason>;

    /// Data propagation, as ONNX's shape inference has it: what the elements of integer operands are extents of becomes what those
    /// of the results are. `None` where operands are used as plain numbers; their widths are pinned then.
    fn propagate_data(&self, _flow: &mut DataPropagation<'_>) -> Option<()> {
        None
    }

    /// Rewriting rule: brings attributes and shape operands up to date with the axes that shrink. Weights are sliced elsewhere.
    ///
    /// # Errors
    /// When the node has no form for the extents that are left.
    fn rewrite(&self, _node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        Ok(())
    }

    /// Vector-Jacobian product: sets the cotangents of the operands that need one from those of the results.
    ///
    /// # Errors
    /// A form of the operator that the rule does not cover. The backward pass stops at the node.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        Err(node.no_rule())
    }

    /// What the node does with the integers of operand `slot`, if they are indices (token ids, positions); `None` where they end
    /// here as numbers.
    fn index_flow(&self, _node: &NodeProto, _slot: usize) -> Option<IndexFlow> {
        None
    }

    /// What the entries of the results along `axis` read of operand `slot`; `None` where they read others than their own. Results
    /// beside the first have the axis in the same place.
    fn axis_flow(&self, _node: &NodeCx<'_>, _slot: usize, _axis: usize) -> Option<AxisFlow> {
        None
    }

    /// The element of an operand that says how far `axis` of the result extends, as slot and place; `None` where no element does.
    fn extent_element(&self, _node: &NodeCx<'_>, _axis: usize) -> Option<(usize, usize)> {
        None
    }

    /// The operand that is element `place` of the result, alone, where operands are single elements that the result lists.
    fn listed(&self, _node: &NodeCx<'_>, _place: usize) -> Option<usize> {
        None
    }

    /// The entries of an axis of the first operand that the result holds, in order, if the node does nothing but select constant
    /// ones. Negative ones count from the end.
    fn selection(&self, _node: &NodeCx<'_>) -> Option<Selected> {
        None
    }

    /// The axis of which the first entries are left out, and how many, if the node does nothing else.
    fn tail(&self, _node: &NodeCx<'_>) -> Option<(usize, usize)> {
        None
    }

    /// What becomes of the axes that the operator reduces, where entries count by how often they are there.
    fn pooling(&self) -> Option<Pooling> {
        None
    }

    /// Whether the result holds extents of the operand and nothing of its contents.
    fn is_shape(&self) -> bool {
        false
    }

    /// Whether the result is the first operand in another element type (Cast, DequantizeLinear). Weights are stored behind such
    /// nodes.
    fn is_cast(&self) -> bool {
        false
    }

    /// The result for constant operands, where [`Self::is_cast`] holds: a stored weight as floating-point numbers.
    fn decode(&self, _node: &NodeProto, _operands: &[Option<Tensor>]) -> Option<ArrayD<f32>> {
        None
    }

    /// The node as a matrix product with its constant operand `weight`; `None` where it is none, or of a form not covered.
    fn linear(&self, _node: &NodeCx<'_>, _weight: usize) -> Option<Linear> {
        None
    }

    /// Derivative of the first result by operand `slot`, where the operator is elementwise and affine in it: a constant that
    /// broadcasts against the operand.
    fn gain(&self, _node: &NodeCx<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        None
    }

    /// Whether the result is the sum of the operands: a bias or a residual connection.
    fn is_sum(&self) -> bool {
        false
    }

    /// Whether the operator selects by comparing numbers (ArgMax, TopK): where two are almost equal, rounding decides, and the
    /// results jump.
    fn is_selection(&self) -> bool {
        false
    }

    /// Whether the operator is a softmax: logits in, probabilities out.
    fn is_softmax(&self) -> bool {
        false
    }

    /// Whether the operator is a softmax followed by a logarithm.
    fn is_log_softmax(&self) -> bool {
        false
    }
}
