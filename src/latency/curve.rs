//! The time of a part by the extent of one axis: monotone, through what was measured, and in steps where the runtime works in steps.

use crate::plan::Curve;

/// A step counts as one where at most this share of its rise is inside it.
const FLAT: f64 = 0.25;

/// A step has to rise by this share of the time: less is noise.
const NOISE: f64 = 0.02;

/// Times that lie this near to a straight line are on it: a search that goes by single noisy points ends at those that came out low.
const STRAIGHT: f64 = 0.05;

/// Points are this share of the full extent apart: what lies between them told the steps, and is too near to tell a slope.
const APART: f64 = 1.0 / 16.0;

/// Shares of the time at full extent, by extents, with the granule in which they step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Samples {
    /// The full extent.
    full: usize,
    /// Extents, ascending, and times there as shares of the time at the full extent, never falling.
    points: Vec<(usize, f64)>,
    /// Times step where the extent passes a multiple of this.
    granule: usize,
}

impl Samples {
    /// From extents and times, in any order and several of one extent, as shares of the time at the full one. `granules` are those
    /// that steps may have, ascending; the first needs no proof.
    pub fn new(full: usize, measured: &[(usize, f64)], granules: &[usize]) -> Self {
        let mut points: Vec<(usize, f64)> = Vec::new();
        let mut sorted: Vec<(usize, f64)> = measured.iter().filter(|(x, _)| *x < full).copied().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        for run in sorted.chunk_by(|a, b| a.0 == b.0) {
            let mean = run.iter().map(|(_, time)| time).sum::<f64>() / run.len() as f64;
            points.push((run[0].0, mean));
        }
        points.push((full, 1.0));
        let granule = granule(&points, granules);
        let points = apart(&points, full, granule);
        let times = line(&points, full).unwrap_or_else(|| isotonic(&times(&points)));
        // What is pruned takes no longer than what is not.
        let times = times.into_iter().map(|time| time.clamp(0.0, 1.0));
        let points = points.iter().zip(times).map(|((extent, _), time)| (*extent, time)).collect();
        Self { full, points, granule }
    }

    pub fn granule(&self) -> usize {
        self.granule
    }

    /// The time at an extent, as a share of that at the full one.
    pub fn at(&self, extent: usize) -> f64 {
        let extent = extent.next_multiple_of(self.granule.max(1)).min(self.full);
        let above = self.points.partition_point(|(x, _)| *x < extent);
        match (above.checked_sub(1).and_then(|i| self.points.get(i)), self.points.get(above)) {
            (_, Some((x, time))) if *x == extent => *time,
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (extent - a.0) as f64 / (b.0 - a.0) as f64,
            // Below what was measured: as much of it as there is of the extent, since most of the time is work on it.
            (None, Some((x, time))) => time * extent as f64 / (*x).max(1) as f64,
            (_, None) => 1.0,
        }
    }

    /// The same with a part of the time taken off that the axis has no share in.
    pub fn without(&self, fixed: f64) -> Curve {
        let share = |extent: usize| ((self.at(extent) - fixed) / (1.0 - fixed)).clamp(0.0, 1.0);
        Curve::new((0..=self.full).map(share))
    }
}

fn times(points: &[(usize, f64)]) -> Vec<f64> {
    points.iter().map(|(_, time)| *time).collect()
}

/// Those of ascending points that lie where times step, and not next to each other; the full extent is one.
fn apart(points: &[(usize, f64)], full: usize, granule: usize) -> Vec<(usize, f64)> {
    let mut kept: Vec<(usize, f64)> = Vec::new();
    for (extent, time) in points.iter().rev() {
        let on_a_step = *extent == full || extent.is_multiple_of(granule.max(1));
        let near = |(last, _): &(usize, f64)| ((last - extent) as f64) < APART * full as f64;
        if on_a_step && !kept.last().is_some_and(near) {
            kept.push((*extent, *time));
        }
    }
    kept.reverse();
    kept
}

/// Times on the straight line through the time at the full extent that is nearest to all others in squares, where it is near to each.
fn line(points: &[(usize, f64)], full: usize) -> Option<Vec<f64>> {
    let removed = |extent: usize| (full - extent) as f64 / full.max(1) as f64;
    let (mut above, mut below) = (0.0, 0.0);
    for (extent, time) in points {
        above += removed(*extent) * (1.0 - time);
        below += removed(*extent) * removed(*extent);
    }
    let slope = if below > 0.0 { (above / below).clamp(0.0, 1.0) } else { return None };
    let on_it = |extent: usize| 1.0 - slope * removed(extent);
    let straight = points.iter().all(|(extent, time)| (on_it(*extent) - time).abs() <= STRAIGHT);
    straight.then(|| points.iter().map(|(extent, _)| on_it(*extent)).collect())
}

/// The sequence that never falls and is nearest to `values` in squares: neighbours that fall are given their mean (pool adjacent
/// violators; Ayer et al., 1955).
pub(super) fn isotonic(values: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<(f64, usize)> = Vec::new();
    for value in values {
        let mut block = (*value, 1);
        while let Some((mean, count)) = blocks.pop_if(|(mean, _)| *mean > block.0) {
            let all = count + block.1;
            block = ((mean * count as f64 + block.0 * block.1 as f64) / all as f64, all);
        }
        blocks.push(block);
    }
    blocks.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean, count)).collect()
}

/// The largest granule in which times step, of those that were measured: from one entry above a multiple up to the next multiple
/// they rise by little, and from multiple to multiple by much.
fn granule(points: &[(usize, f64)], granules: &[usize]) -> usize {
    let base = granules.first().copied().unwrap_or(1);
    let at = |extent: usize| points.iter().find(|(x, _)| *x == extent).map(|(_, time)| *time);
    let steps = |granule: usize| {
        let multiples = points.iter().filter(|(x, _)| *x % granule == 0 && *x >= granule);
        let rises = multiples
            .filter_map(|(x, top)| Some((top - at(x - granule + base)?, top - at(x - granule)?, *top)));
        let (mut inside, mut whole, mut time) = (0.0, 0.0, 0.0);
        for (within, across, top) in rises {
            (inside, whole, time) = (inside + within, whole + across, time + top);
        }
        whole > NOISE * time && inside <= FLAT * whole
    };
    granules.iter().skip(1).rev().copied().find(|granule| steps(*granule)).unwrap_or(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn steps_of(step: usize, full: usize) -> Vec<(usize, f64)> {
        let time = |x: usize| x.next_multiple_of(step) as f64 / full.next_multiple_of(step) as f64;
        (8..=full).step_by(8).map(|x| (x, time(x))).collect()
    }

    #[test]
    fn steps_are_found_and_followed_where_nothing_was_measured() {
        for step in [8, 16, 32, 64] {
            let all = steps_of(step, 256);
            // A few extents alone, and a row of them below 128.
            let few: Vec<_> =
                all.iter().filter(|(x, _)| x % 64 == 0 || (64..=128).contains(x)).copied().collect();
            let samples = Samples::new(256, &few, &[8, 16, 32, 64]);
            assert_eq!(samples.granule(), step);
            for (x, time) in all {
                assert!((samples.at(x) - time).abs() < 1e-9, "{step} {x}");
            }
        }
    }

    #[test]
    fn noise_is_no_corner() {
        // One size came out fast: no other is worth less for it.
        let noisy: Vec<(usize, f64)> =
            (1..16).map(|i| (16 * i, i as f64 / 16.0 - if i == 8 { 0.04 } else { 0.0 })).collect();
        let samples = Samples::new(256, &noisy, &[8]);
        let rises: Vec<f64> = (1..=16).map(|i| samples.at(16 * i) - samples.at(16 * (i - 1))).collect();
        assert!(rises.iter().all(|rise| (rise - 1.0 / 16.0).abs() < 0.005), "{rises:?}");
        // What is far from any line is followed.
        let bent: Vec<(usize, f64)> = (1..16).map(|i| (16 * i, if i < 8 { 0.3 } else { 0.9 })).collect();
        assert_eq!(Samples::new(256, &bent, &[8]).at(112), 0.3);
    }

    #[test]
    fn noise_is_no_step() {
        let noisy: Vec<(usize, f64)> =
            (1..=16).map(|i| (8 * i, 0.9 + 0.005 * f64::from(i as u32 % 2))).collect();
        assert_eq!(Samples::new(256, &noisy, &[8, 16, 32]).granule(), 8);
    }

    proptest! {
        #[test]
        fn isotonic_regression_never_falls_and_keeps_the_mean(values in prop::collection::vec(0.0..1.0f64, 1..20)) {
            let fitted = isotonic(&values);
            prop_assert!(fitted.is_sorted());
            let sum = |values: &[f64]| values.iter().sum::<f64>();
            prop_assert!((sum(&fitted) - sum(&values)).abs() < 1e-9);
            // Nothing that never falls is nearer: moving any block up or down is worse.
            let distance = |values: &[f64], to: &[f64]| sum(&values.iter().zip(to).map(|(a, b)| (a - b).powi(2)).collect::<Vec<_>>());
            for shift in [-1e-3, 1e-3] {
                let moved: Vec<f64> = fitted.iter().map(|x| x + shift).collect();
                prop_assert!(distance(&fitted, &values) <= distance(&moved, &values) + 1e-12);
            }
        }

        #[test]
        fn curves_never_fall(measured in prop::collection::vec((1..64usize, 0.0..1.5f64), 0..12), granule in 1..9usize) {
            let samples = Samples::new(64, &measured, &[granule, 2 * granule]);
            let times: Vec<f64> = (0..=64).map(|x| samples.at(x)).collect();
            prop_assert!(times.is_sorted() && times.iter().all(|t| (0.0..=1.0).contains(t)), "{times:?}");
        }
    }
}
