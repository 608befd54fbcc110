//! From numbers per entry of an axis to numbers per unit.

use ndarray::{ArrayD, Axis};

use crate::{
    graph::Graph,
    typing::Dimension,
    widths::{Place, Widths},
};

/// Sums of squares over everything but one axis, one per entry of it.
pub(super) fn squares_along(x: &ArrayD<f32>, axis: usize) -> Vec<f64> {
    x.axis_iter(Axis(axis)).map(|slice| slice.iter().map(|v| f64::from(*v).powi(2)).sum()).collect()
}

/// Adds numbers per entry of an operand's axis to the units that the entries belong to.
pub(super) fn add_to_units(
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
