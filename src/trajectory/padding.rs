//! Padding: positions of a batch that hold nothing.

use crate::{
    calibration::{InputRole, input_roles},
    graph::{Facts, Graph, ValueId},
    onnx::proto::ModelProto,
    widths::{Width, Widths},
};

/// The input that says which positions are real, and the width of its positions.
#[derive(Clone, Debug)]
pub struct Padding {
    /// The input's name.
    pub input: String,
    /// The width of positions.
    pub positions: Option<Width>,
}

impl Padding {
    /// Whether the value has the positions of the padding mask as an axis.
    pub fn covers(&self, widths: &Widths, value: ValueId) -> bool {
        let axes = widths.value(value).unwrap_or_default();
        self.positions.is_some_and(|p| axes.iter().any(|a| widths.table.contains(*a, p)))
    }
}

/// The first input that is a mask `[batch, positions]`.
pub fn padding(model: &ModelProto, graph: &Graph, facts: &Facts, widths: &Widths) -> Option<Padding> {
    let roles = input_roles(model);
    let masks = roles.into_iter().filter(|(_, role)| *role == InputRole::Mask);
    let mut masks = masks.filter_map(|(name, _)| graph.find(&name).map(|value| (name, value)));
    let (input, value) = masks.find(|(_, v)| facts.get(*v).is_some_and(|f| f.shape.len() == 2))?;
    Some(Padding { input, positions: widths.value(value).and_then(|axes| axes.get(1).copied()) })
}
