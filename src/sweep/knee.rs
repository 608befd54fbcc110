//! The knee of a curve: where a further saving begins to cost more than it did so far.

/// The place of the knee among points `(saving's cost, loss)`, told as Kneedle does (Satopää, Albrecht, Irwin, Raghavan: Finding a
/// "Kneedle" in a Haystack, 2011): with both coordinates scaled to run from 0 to 1, the point that is farthest below the straight
/// line between the ends. `None` for fewer than three points, or where none is below it.
pub fn knee(points: &[(f64, f64)]) -> Option<usize> {
    if points.len() < 3 || points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
        return None;
    }
    let span = |of: fn(&(f64, f64)) -> f64| {
        let low = points.iter().map(of).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        (high > low).then_some((low, high - low))
    };
    let ((left, width), (low, height)) = (span(|p| p.0)?, span(|p| p.1)?);
    // From (0, 1), the smallest model with the largest loss, to (1, 0), the dense one.
    let below = |(x, y): &(f64, f64)| 1.0 - (x - left) / width - (y - low) / height;
    let (place, depth) = points.iter().map(below).enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (depth > FLAT).then_some(place)
}

/// A curve that bends by less than this share has no knee.
const FLAT: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_knee_is_where_the_curve_bends() {
        let curve = [(0.3, 1.0), (0.4, 0.5), (0.5, 0.1), (0.7, 0.05), (0.9, 0.01), (1.0, 0.0)];
        assert_eq!(knee(&curve), Some(2));
        // Whatever the units and the order.
        let scaled: Vec<(f64, f64)> = curve.iter().rev().map(|(x, y)| (1e9 * x, 7.0 * y)).collect();
        assert_eq!(knee(&scaled), Some(3));
    }

    #[test]
    fn straight_and_short_curves_have_none() {
        assert_eq!(knee(&[(0.5, 1.0), (0.75, 0.5), (1.0, 0.0)]), None);
        assert_eq!(knee(&[(0.5, 1.0), (1.0, 0.0)]), None);
        assert_eq!(knee(&[(0.5, 1.0), (0.5, 0.5), (0.5, 0.0)]), None);
        assert_eq!(knee(&[(0.5, f64::NAN), (0.7, 0.5), (1.0, 0.0)]), None);
    }
}
