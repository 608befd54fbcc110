//! A baseline that looks at weights alone: their magnitude.

use super::{
    DimensionScores, Method, ScoreContext, ScoreError, Scored, Scorer,
    units::{add_to_units, squares_along},
};
use crate::{catalog::Entry, graph::Graph, ops, settings::SettingValues, typing::Dimension, widths::Widths};

/// Scores by the magnitude of weights.
pub const MAGNITUDE: Method = Method::of(&MagnitudeScorer);

pub(super) struct MagnitudeScorer;

impl Entry for MagnitudeScorer {
    fn id(&self) -> &'static str {
        "magnitude"
    }

    fn about(&self) -> &'static str {
        "Size of the weights that make a unit; a baseline that needs no data."
    }
}

impl Scorer for MagnitudeScorer {
    fn needs_data(&self) -> bool {
        false
    }

    fn score(
        &self,
        cx: &ScoreContext<'_>,
        _: &SettingValues,
        _: &dyn Fn(&Dimension) -> bool,
        _: &mut dyn FnMut(usize, usize),
    ) -> Result<Scored, ScoreError> {
        magnitude(cx.view.graph, cx.view.widths, cx.view.dimensions).map(Scored::plain)
    }
}

/// L2 norm of the slices of matrices and kernels that each unit owns.
pub fn magnitude(
    graph: &Graph,
    widths: &Widths,
    dimensions: &[Dimension],
) -> Result<Vec<DimensionScores>, ScoreError> {
    let mut all = Vec::with_capacity(dimensions.len());
    for dimension in dimensions {
        let mut squares = vec![0.0; dimension.size];
        for owned in &dimension.owned {
            let Some(weight) = ops::weight(graph, owned.at)?.filter(|w| w.ndim() >= 2) else { continue };
            let norms = squares_along(&weight, owned.axis);
            add_to_units(widths, graph, dimension, *owned, &norms, &mut squares);
        }
        all.push(DimensionScores::of(dimension, squares.into_iter().map(f64::sqrt).collect()));
    }
    Ok(all)
}
