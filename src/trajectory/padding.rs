//! Padding: positions of a batch that hold nothing.

use crate::{
    calibration::{InputRole, Samples, input_roles},
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

/// The first input that is a mask `[batch, positions]`, which holds zeros and ones alone in all samples: any other integers are
/// no mask, such as lengths or positions that are computed with.
pub fn padding(
    model: &ModelProto,
    graph: &Graph,
    facts: &Facts,
    widths: &Widths,
    samples: &Samples,
) -> Option<Padding> {
    let roles = input_roles(model);
    let masks = roles.into_iter().filter(|(_, role)| *role == InputRole::Mask);
    let mut masks = masks.filter_map(|(name, _)| graph.find(&name).map(|value| (name, value)));
    let is_matrix = |v: ValueId| facts.get(v).is_some_and(|fact| fact.shape.len() == 2);
    let (input, value) = masks.find(|(name, v)| is_matrix(*v) && samples.is_binary(name))?;
    Some(Padding { input, positions: widths.value(value).and_then(|axes| axes.get(1).copied()) })
}
