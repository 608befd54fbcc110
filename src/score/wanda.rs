//! Wanda: weights by the activations that they read (Sun et al., 2023), a baseline.
//!
//! Only the diagonal of the second moments is needed, so they are summed here: [`stats`](crate::stats) multiplies out whole Gram
//! matrices, at a cost that grows with the square of the entries.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    DimensionScores, Method, ScoreContext, ScoreError, Scored, Scorer,
    units::{add_to_units, squares_along},
};
use crate::{
    catalog::Entry,
    graph::{Patch, ValueId},
    model::ModelView,
    ops,
    runtime::Engine,
    settings::SettingValues,
    typing::Dimension,
    widths::{Contraction, Place},
};

/// Scores by weights and activations.
pub const WANDA: Method = Method::of(&WandaScorer);

pub(super) struct WandaScorer;

impl Entry for WandaScorer {
    fn id(&self) -> &'static str {
        "wanda"
    }

    fn about(&self) -> &'static str {
        "Size of the weights that read a unit, times the size of its activation; a baseline."
    }
}

impl Scorer for WandaScorer {
    fn score(
        &self,
        cx: &ScoreContext<'_>,
        _: &SettingValues,
        _: &dyn Fn(&Dimension) -> bool,
        _: &mut dyn FnMut(usize, usize),
    ) -> Result<Scored, ScoreError> {
        wanda(cx.engine, cx.view).map(Scored::plain)
    }
}

/// Wanda, summed over a unit's entries: ‖row of the reading weight‖ · ‖activation‖ (Sun et al., 2023, equation 1).
pub fn wanda(engine: &dyn Engine, view: ModelView<'_>) -> Result<Vec<DimensionScores>, ScoreError> {
    let ModelView { graph, widths, dimensions, .. } = view;
    let moments = second_moments(engine, view)?;
    let mut all = Vec::with_capacity(dimensions.len());
    for dimension in dimensions {
        let mut squares = vec![0.0; dimension.size];
        for contraction in dimension.contractions(widths) {
            let place = contraction.place();
            let Some(activation) = moments.get(&place) else { continue };
            let weight = match contraction.weight_place() {
                Some(Place { at, axis }) => ops::weight(graph, at)?.map(|w| squares_along(&w, axis)),
                None => None,
            };
            // In a grouped convolution one weight entry serves the same channel of every group.
            let product: Vec<f64> = activation
                .iter()
                .enumerate()
                .map(|(i, x)| x * weight.as_ref().filter(|w| !w.is_empty()).map_or(1.0, |w| w[i % w.len()]))
                .collect();
            add_to_units(widths, graph, dimension, place, &product, &mut squares);
        }
        all.push(DimensionScores::of(dimension, squares.into_iter().map(f64::sqrt).collect()));
    }
    Ok(all)
}

/// Sum of squares over the samples, per entry of the axis of each summed operand.
fn second_moments(engine: &dyn Engine, view: ModelView<'_>) -> Result<BTreeMap<Place, Vec<f64>>, ScoreError> {
    let ModelView { model, graph, widths, dimensions, samples, batch, .. } = view;
    let mut taps: BTreeMap<ValueId, BTreeSet<Place>> = BTreeMap::new();
    for place in dimensions.iter().flat_map(|d| d.contractions(widths)).map(Contraction::place) {
        if let Some(value) = graph.node(place.at.node).inputs[place.at.slot] {
            taps.entry(value).or_default().insert(place);
        }
    }
    let mut patch = Patch::default();
    patch.only_exposed();
    for value in taps.keys() {
        patch.expose(&graph.value(*value).name);
    }
    let mut session = engine.load(&patch.apply(model))?;
    let mut moments: BTreeMap<Place, Vec<f64>> = BTreeMap::new();
    for range in samples.ranges(batch) {
        let outputs = session.run(&samples.batch(range.start, range.end)?)?;
        for (tensor, places) in outputs.iter().zip(taps.values()) {
            let Some(x) = tensor.to_f32() else { continue };
            for place in places {
                let squares = squares_along(&x, place.axis);
                let sum = moments.entry(*place).or_insert_with(|| vec![0.0; squares.len()]);
                sum.iter_mut().zip(&squares).for_each(|(sum, s)| *sum += s);
            }
        }
    }
    Ok(moments)
}
