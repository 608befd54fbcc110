//! In which order the units of a layer go, if those that stay take over what they can of those that went.
//!
//! Two neurons that say the same are both dispensable, but not together. Scores of single units cannot tell; the covariance of
//! what a layer sums over can, and optimal brain surgery (Hassibi & Stork, 1993) makes an order of it. How many units a layer
//! loses is still for the scores to say: they see what the sum is good for, in all later layers.

mod surgery;

use faer::Mat;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DimensionScores, ScoreError};
use crate::{
    memory::{Bytes, MemoryBudget},
    model::ModelView,
    ops,
    runtime::Engine,
    stats::{self, GramStats, Sum},
    typing::Dimension,
    widths::{Contraction, Place},
};
use surgery::Entries;

/// The largest covariance, in rows; units of larger sums go by their scores alone.
const MOST_ENTRIES: usize = 4608;

/// Added to the variances, relative to their mean, so that few positions do not make units look as if the others knew them.
const RIDGE: f64 = 1e-2;

/// Columns that weights are projected to: enough for their norms and angles (Johnson-Lindenstrauss).
const PROJECTIONS: usize = 64;

/// The part of the memory that weights may take while they are projected: one in so many.
const WEIGHTS_SHARE: u64 = 4;

/// Sets the order of elimination of what a weight sums over, and what of its cost a refit leaves, from the calibration samples.
/// Layers whose matrices `memory` does not hold go by their scores alone; returns a note for each of them.
pub(super) fn order(
    engine: &dyn Engine,
    view: ModelView<'_>,
    memory: MemoryBudget,
    scored: &mut [DimensionScores],
) -> Result<Vec<String>, ScoreError> {
    let mut notes = Vec::new();
    let mut layers: Vec<(&Dimension, &mut DimensionScores, Vec<Sum>)> = Vec::new();
    for scores in scored.iter_mut() {
        if let Some(dimension) = view.dimensions.iter().find(|d| d.name == scores.name) {
            let sums = sums(view, dimension);
            layers.push((dimension, scores, sums));
        }
    }
    let mut rest = layers.as_mut_slice();
    while !rest.is_empty() {
        let count = memory.fitting(rest.iter().map(|(_, _, sums)| bytes(sums)));
        if count == 0 {
            let (dimension, _, sums) = &rest[0];
            let (held, needed) = bytes(sums);
            notes.push(format!(
                "{} goes by its scores alone, as the covariance of what it sums over takes {}: more than the memory budget ({memory})",
                dimension.name,
                Bytes(held + needed)
            ));
            rest = &mut rest[1..];
            continue;
        }
        let (group, others) = rest.split_at_mut(count);
        let sums: Vec<&Sum> = group.iter().flat_map(|(_, _, sums)| sums).collect();
        let mut moments = stats::measure(engine, view, &sums)?.into_iter();
        for (dimension, scores, sums) in group {
            let measured: Vec<GramStats> = moments.by_ref().take(sums.len()).collect();
            let entries = entries(view, dimension, sums, &measured, memory)?;
            // Units of unknown importance stay, whatever the others could do for them.
            let entries = entries.filter(|_| scores.scores.iter().all(|score| score.is_finite()));
            if let Some(found) = entries.and_then(|entries| surgery::order(entries, &scores.scores)) {
                scores.left = Some(found.left);
                scores.order = Some(found.order).filter(|_| dimension.kind.goes_by_elimination());
            }
        }
        rest = others;
    }
    Ok(notes)
}

/// Bytes that the moments of a dimension's sums take, and the work on them.
fn bytes(sums: &[Sum]) -> (u64, u64) {
    let held = sums.iter().map(Sum::bytes).sum();
    (held, sums.iter().map(|sum| surgery::bytes(sum.entries, PROJECTIONS)).max().unwrap_or(0))
}

/// The sums that a dimension ends in, each once.
fn sums(view: ModelView<'_>, dimension: &Dimension) -> Vec<Sum> {
    let mut sums: Vec<Sum> = Vec::new();
    for place in dimension.contractions(view.widths).map(Contraction::place) {
        let entries = view.widths.at(view.graph, place).map_or(0, |w| view.widths.table.size(w));
        if (1..=MOST_ENTRIES).contains(&entries) && !sums.iter().any(|s| s.place == place) {
            sums.push(Sum { place, outer: None, entries, block: entries });
        }
    }
    sums
}

/// What is known of a dimension's entries over all sums that it ends in alike; `None` where that is nothing.
fn entries(
    view: ModelView<'_>,
    dimension: &Dimension,
    sums: &[Sum],
    moments: &[GramStats],
    memory: MemoryBudget,
) -> Result<Option<Entries>, ScoreError> {
    let mut found: Option<Entries> = None;
    for (sum, moments) in sums.iter().zip(moments) {
        let mut units = vec![Vec::new(); dimension.size];
        let owners = dimension.units(view.graph, view.widths, sum.place);
        for (entry, unit) in owners.into_iter().enumerate() {
            if let Some(unit) = unit {
                units[unit].push(entry);
            }
        }
        let places: Vec<usize> = units.iter().flatten().copied().collect();
        let Some(covariance) = moments.covariance(&places) else { continue };
        let Some(weights) = weights(view, dimension, sum, &places, memory)? else { continue };
        let sizes: Vec<usize> = units.iter().map(Vec::len).collect();
        match &mut found {
            None => found = Some(Entries { covariance, sizes, weights }),
            Some(found) if found.sizes == sizes => found.add(&covariance, &weights),
            Some(_) => {}
        }
    }
    if let Some(found) = &mut found {
        found.regularise(RIDGE);
    }
    Ok(found)
}

/// What some entries of a sum are multiplied by, projected to [`PROJECTIONS`] columns; `None` where that is no constant.
fn weights(
    view: ModelView<'_>,
    dimension: &Dimension,
    sum: &Sum,
    places: &[usize],
    memory: MemoryBudget,
) -> Result<Option<Mat<f64>>, ScoreError> {
    let mut contractions = dimension.contractions(view.widths);
    let at_sum = contractions.find(|c| c.place() == sum.place);
    let Some(Place { at, axis }) = at_sum.and_then(Contraction::weight_place) else {
        return Ok(None);
    };
    let Some(weight) = ops::weight(view.graph, at)?.filter(|w| !w.is_empty()) else {
        return Ok(None);
    };
    let rows: Vec<_> = weight.axis_iter(ndarray::Axis(axis)).collect();
    let columns = weight.len() / rows.len();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let signs = Mat::from_fn(columns, PROJECTIONS, |_, _| if rng.random::<bool>() { 1.0 } else { -1.0 });
    let mut projected = Mat::zeros(places.len(), PROJECTIONS);
    // In double precision, all columns at once would take twice the weight or more.
    let width = memory.share(WEIGHTS_SHARE).count((places.len() * size_of::<f64>()) as u64);
    for start in (0..columns).step_by(width) {
        let count = width.min(columns - start);
        let mut own = Mat::zeros(places.len(), count);
        for (i, place) in places.iter().enumerate() {
            // In a grouped convolution one row serves the same channel of every group.
            for (j, x) in rows[place % rows.len()].iter().skip(start).take(count).enumerate() {
                own[(i, j)] = f64::from(*x);
            }
        }
        projected += own * signs.subrows(start, count);
    }
    Ok(Some(projected))
}
