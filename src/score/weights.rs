//! Baselines that look at weights: magnitude and Wanda.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, Axis};

use super::DimensionScores;
use crate::{
    graph::{Graph, Patch, Use, ValueId},
    model::ModelView,
    ops,
    runtime::Engine,
    score::ScoreError,
    typing::Dimension,
    widths::{Contraction, Place, Widths},
};

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
            let weight = match contraction.weight {
                Some((slot, axis)) => {
                    ops::weight(graph, Use { node: contraction.node, slot })?.map(|w| squares_along(&w, axis))
                }
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

fn squares_along(x: &ArrayD<f32>, axis: usize) -> Vec<f64> {
    x.axis_iter(Axis(axis)).map(|slice| slice.iter().map(|v| f64::from(*v).powi(2)).sum()).collect()
}

/// Adds numbers per entry of an operand's axis to the units that the entries belong to.
fn add_to_units(
    widths: &Widths,
    graph: &Graph,
    dimension: &Dimension,
    place: Place,
    entries: &[f64],
    units: &mut [f64],
) {
    for (unit, entry) in dimension.units(graph, widths, place).into_iter().zip(entries) {
        if let Some(unit) = unit {
            units[unit] += entry;
        }
    }
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
