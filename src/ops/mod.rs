//! What the tool knows of operators: one file per family.
//!
//! A family's file declares its operators ([`OpSchema`]): their versions, forms and slots. Its rules say how the axes of
//! its operators relate and what they cost ([`Operator::infer`]), how sizes pass through them as data
//! ([`Operator::propagate_data`]), what becomes of ids ([`Operator::index_flow`]), how cotangents pass backward ([`Operator::gradient`]),
//! and which attributes and shape operands have to follow when axes shrink ([`Operator::rewrite`]). Nothing outside this
//! folder decides by an operator's name.

mod activation;
mod attention;
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

pub use bound::{Known, bound, element_bytes, stated};
pub use data_propagation::DataPropagation;
pub use editor::{EditError, ElementEdit, NodeEditor};
pub use gather::{gather, per_sample};
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

/// The rules of one operator.
pub trait Operator: Sync {
    /// Relates the widths of the node's operands and results, and says what it costs. An error pins everything it touches.
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason>;

    /// Passes what integer operands say about sizes on to the result; `None` where they are used as plain numbers.
    fn propagate_data(&self, _flow: &mut DataPropagation<'_>) -> Option<()> {
        None
    }

    /// Brings attributes and shape operands up to date with the axes that shrink.
    fn rewrite(&self, _node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        Ok(())
    }

    /// Passes the cotangents of the results on to the operands that need one.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        Err(node.no_rule())
    }

    /// What becomes of the integers of an operand, were they ids; `None` when they end here as numbers.
    fn index_flow(&self, _node: &NodeProto, _slot: usize) -> Option<IndexFlow> {
        None
    }

    /// Whether the result is the first operand in another element type: of a constant, a weight as the file stores it.
    fn is_cast(&self) -> bool {
        false
    }

    /// The result as numbers, when the operands are these constants and the rule says how to read them.
    fn decode(&self, _node: &NodeProto, _operands: &[Option<Tensor>]) -> Option<ArrayD<f32>> {
        None
    }

    /// The node as a matrix product with its constant operand `weight`; `None` where it is none, or of a form not covered.
    fn linear(&self, _node: &NodeCx<'_>, _weight: usize) -> Option<Linear> {
        None
    }

    /// The constant that the change of operand `slot` is multiplied by on its way to the first result, if the operator is
    /// affine in that operand and keeps its elements apart. It broadcasts against the operand.
    fn gain(&self, _node: &NodeCx<'_>, _slot: usize) -> Option<ArrayD<f64>> {
        None
    }

    /// Whether the result is the sum of the operands: a bias or a residual connection.
    fn is_sum(&self) -> bool {
        false
    }

    /// Whether the results jump where numbers cross each other: of two that are almost equal, rounding says which is larger.
    fn is_selection(&self) -> bool {
        false
    }

    /// Whether the result holds probabilities over an axis: logits went in.
    fn is_softmax(&self) -> bool {
        false
    }

    /// Whether the result holds logarithms of such probabilities.
    fn is_log_softmax(&self) -> bool {
        false
    }
}
