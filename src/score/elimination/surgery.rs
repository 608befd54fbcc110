//! Optimal brain surgery on units, in blocks.
//!
//! With `H` the inverse covariance of the entries that are left and `W` what they are multiplied by, losing a unit `u` costs
//! `tr(W_uᵀ (H_uu)⁻¹ W_u)` after the others have been refitted to make up for it (Hassibi & Stork, 1993, equation 5, here for
//! several entries at once), and afterwards `W ← W − H_·u (H_uu)⁻¹ W_u` and `H ← H − H_·u (H_uu)⁻¹ H_u·`.

use faer::{Mat, Side, linalg::solvers::Llt, prelude::Solve};

use crate::stats::square;

/// The entries of a sum: those of the first unit, then those of the second, and so on.
pub(super) struct Entries {
    /// Covariance, `[entries, entries]`.
    pub covariance: Mat<f64>,
    /// How many entries each unit has.
    pub sizes: Vec<usize>,
    /// What each entry is multiplied by, `[entries, any]`.
    pub weights: Mat<f64>,
}

/// Bytes that eliminating so many entries takes, their weights of so many columns: the covariance, its factor, a unit matrix and
/// the inverse, and then the inverse once more while what is left is copied out of it.
pub(super) fn bytes(entries: usize, columns: usize) -> u64 {
    let weights = (entries * columns) as u64;
    (5 * square(entries) + 3 * weights) * size_of::<f64>() as u64
}

impl Entries {
    /// Adds a sum that the same entries end in.
    pub fn add(&mut self, covariance: &Mat<f64>, weights: &Mat<f64>) {
        self.covariance += covariance;
        let own = self.weights.ncols();
        self.weights =
            Mat::from_fn(weights.nrows(), own + weights.ncols(), |i, j| match j.checked_sub(own) {
                None => self.weights[(i, j)],
                Some(j) => weights[(i, j)],
            });
    }

    /// Adds a ridge, relative to the mean variance.
    pub fn regularise(&mut self, ridge: f64) {
        let count = self.covariance.nrows();
        let trace: f64 = (0..count).map(|i| self.covariance[(i, i)]).sum();
        for i in 0..count {
            self.covariance[(i, i)] += ridge * trace / count.max(1) as f64;
        }
    }
}

/// Entries of a block of cheap units, which are eliminated among themselves before the others hear of it.
const BLOCK: usize = 128;

/// Eliminates all units; `None` where the covariance is singular.
///
/// The weights of each unit are scaled so that its norm is halfway, as a geometric mean, between what they are and what makes
/// its cost its `importance`. Weights alone miss what the result is good for. Importance alone misses activations so large
/// that a later normalisation makes the model insensitive to them as long as they are there.
pub(super) fn order(entries: Entries, importance: &[f64]) -> Option<Elimination> {
    let (mut rest, alone) = Rest::new(entries, importance)?;
    let mut gone = Vec::with_capacity(importance.len());
    while !rest.units.is_empty() {
        gone.extend(rest.eliminate_some());
    }
    let half = &gone[..gone.len().div_ceil(2)];
    let refitted: f64 = half.iter().map(|(_, cost)| cost).sum();
    let singly: f64 = half.iter().map(|(unit, _)| alone[*unit]).sum();
    let left = if singly > 0.0 { (refitted / singly).clamp(0.0, 1.0) } else { 1.0 };
    Some(Elimination { order: gone.into_iter().map(|(unit, _)| unit).collect(), left })
}

/// How units go.
pub(super) struct Elimination {
    /// The units, the first to go first.
    pub order: Vec<usize>,
    /// What losing the first half costs after the others have been refitted, as a share of what its units cost one by one when
    /// nothing is.
    pub left: f64,
}

/// The units that are left.
struct Rest {
    /// Units, and where their entries are in the matrices.
    units: Vec<(usize, Vec<usize>)>,
    /// Inverse covariance of the entries.
    inverse: Mat<f64>,
    /// What each entry is multiplied by.
    weights: Mat<f64>,
}

impl Rest {
    /// All units, and what each costs alone, with nothing refitted.
    fn new(entries: Entries, importance: &[f64]) -> Option<(Self, Vec<f64>)> {
        let Entries { covariance, sizes, mut weights } = entries;
        let count = covariance.nrows();
        let factor = Llt::new(covariance.as_ref(), Side::Lower).ok()?;
        let inverse = factor.solve(Mat::<f64>::identity(count, count));
        let mut units = Vec::with_capacity(sizes.len());
        let mut costs = Vec::with_capacity(importance.len());
        let mut start = 0;
        for ((unit, size), importance) in sizes.into_iter().enumerate().zip(importance) {
            let places: Vec<usize> = (start..start + size).collect();
            start += size;
            let square = |p: &usize| weights.row(*p).iter().map(|x| x * x).sum::<f64>();
            let alone: f64 = places.iter().map(|p| square(p) * covariance[(*p, *p)]).sum();
            let scale = if alone > 0.0 { (importance / alone).powf(0.25) } else { 0.0 };
            for place in &places {
                weights.row_mut(*place).iter_mut().for_each(|x| *x *= scale);
            }
            costs.push(alone * scale * scale);
            units.push((unit, places));
        }
        Some((Self { units, inverse, weights }, costs))
    }

    /// Eliminates the cheapest units, in order, and says what each cost: a block of them is updated alone for as long as its cheapest costs less than
    /// what the others did at its beginning.
    fn eliminate_some(&mut self) -> Vec<(usize, f64)> {
        let mut costs: Vec<(f64, usize)> = (0..self.units.len()).map(|u| (self.cost(u), u)).collect();
        costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let widest = self.units.iter().map(|(_, places)| places.len()).max().unwrap_or(1).max(1);
        let (block, others) = costs.split_at(costs.len().min((BLOCK / widest).max(1)));
        let limit = others.first().map_or(f64::INFINITY, |(cost, _)| *cost);
        let mut local = self.part(block.iter().map(|(_, u)| *u));
        let mut gone = Vec::new();
        while let Some((at, cost)) = local.cheapest() {
            if cost > limit && !gone.is_empty() {
                break;
            }
            let next = local.units[at].0;
            local.remove(|unit| unit == next);
            gone.push((next, cost));
        }
        self.remove(|unit| gone.iter().any(|(gone, _)| *gone == unit));
        gone
    }

    fn cheapest(&self) -> Option<(usize, f64)> {
        (0..self.units.len()).map(|u| (u, self.cost(u))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn cost(&self, unit: usize) -> f64 {
        let places = &self.units[unit].1;
        if let [place] = places.as_slice() {
            let square: f64 = self.weights.row(*place).iter().map(|x| x * x).sum();
            return square / self.inverse[(*place, *place)];
        }
        let weights = rows(&self.weights, places);
        let Ok(factor) = Llt::new(block(&self.inverse, places, places).as_ref(), Side::Lower) else {
            return 0.0;
        };
        let solved = factor.solve(&weights);
        let columns = weights.col_iter().zip(solved.col_iter());
        columns.map(|(a, b)| a.iter().zip(b.iter()).map(|(a, b)| a * b).sum::<f64>()).sum()
    }

    /// Some units alone.
    fn part(&self, units: impl Iterator<Item = usize>) -> Self {
        let mut places = Vec::new();
        let units = units.map(|u| {
            let (unit, own) = &self.units[u];
            let start = places.len();
            places.extend(own);
            (*unit, (start..places.len()).collect())
        });
        let units = units.collect();
        Self { units, inverse: block(&self.inverse, &places, &places), weights: rows(&self.weights, &places) }
    }

    /// Removes units, and refits the others.
    fn remove(&mut self, goes: impl Fn(usize) -> bool) {
        let (gone, left): (Vec<usize>, Vec<usize>) =
            (0..self.units.len()).partition(|u| goes(self.units[*u].0));
        let places =
            |units: &[usize]| units.iter().flat_map(|u| self.units[*u].1.clone()).collect::<Vec<_>>();
        let (lost, stay) = (places(&gone), places(&left));
        let mut rest = self.part(left.into_iter());
        if let Ok(factor) = Llt::new(block(&self.inverse, &lost, &lost).as_ref(), Side::Lower) {
            let across = block(&self.inverse, &lost, &stay);
            rest.inverse -= across.transpose() * factor.solve(&across);
            rest.weights -= across.transpose() * factor.solve(rows(&self.weights, &lost));
        }
        *self = rest;
    }
}

fn block(matrix: &Mat<f64>, rows: &[usize], columns: &[usize]) -> Mat<f64> {
    Mat::from_fn(rows.len(), columns.len(), |i, j| matrix[(rows[i], columns[j])])
}

fn rows(matrix: &Mat<f64>, rows: &[usize]) -> Mat<f64> {
    Mat::from_fn(rows.len(), matrix.ncols(), |i, j| matrix[(rows[i], j)])
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(rng: &mut ChaCha8Rng, rows: usize, columns: usize) -> Mat<f64> {
        Mat::from_fn(rows, columns, |_, _| rng.random_range(-1.0..1.0))
    }

    fn importance(covariance: &Mat<f64>, weights: &Mat<f64>, sizes: &[usize]) -> Vec<f64> {
        let mut places = 0..weights.nrows();
        let alone = |p: usize| weights.row(p).iter().map(|x| x * x).sum::<f64>() * covariance[(p, p)];
        sizes.iter().map(|size| places.by_ref().take(*size).map(alone).sum()).collect()
    }

    /// What is lost at best when only the entries of `kept` are left: the residual of a regression of all results on them.
    fn residual(covariance: &Mat<f64>, weights: &Mat<f64>, kept: &[usize]) -> f64 {
        let all: Vec<usize> = (0..covariance.nrows()).collect();
        let cross = block(covariance, kept, &all) * weights;
        let refit = match kept {
            [] => 0.0,
            _ => {
                let own = block(covariance, kept, kept);
                let solved = Llt::new(own.as_ref(), Side::Lower).unwrap().solve(&cross);
                cross.col_iter().zip(solved.col_iter()).map(|(a, b)| a.transpose() * b).sum()
            }
        };
        let total: f64 = weights.col_iter().map(|w| w.transpose() * covariance * w).sum();
        total - refit
    }

    #[test]
    fn each_step_is_the_one_that_a_regression_on_what_is_left_misses_least() {
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let sizes = vec![1 + (seed % 3) as usize; 7];
            let entries = sizes.iter().sum();
            let x = random(&mut rng, 3 * entries, entries);
            let (covariance, weights) = (x.transpose() * &x, random(&mut rng, entries, 4));
            // Importance of just what the weights say leaves them as they are only if it does so for each unit.
            let importance = importance(&covariance, &weights, &sizes);
            let found = order(
                Entries { covariance: covariance.clone(), sizes: sizes.clone(), weights: weights.clone() },
                &importance,
            )
            .unwrap();
            let found = found.order;
            let mut left: Vec<usize> = (0..sizes.len()).collect();
            let places = |units: &[usize]| -> Vec<usize> {
                units.iter().flat_map(|u| u * sizes[0]..(u + 1) * sizes[0]).collect()
            };
            for unit in found {
                let without =
                    |gone: usize| -> Vec<usize> { left.iter().copied().filter(|u| *u != gone).collect() };
                let loss = |gone: usize| residual(&covariance, &weights, &places(&without(gone)));
                let least = left.iter().map(|u| loss(*u)).fold(f64::INFINITY, f64::min);
                assert!(loss(unit) <= least * (1.0 + 1e-6) + 1e-9, "seed {seed}, unit {unit}");
                left = without(unit);
            }
        }
    }

    #[test]
    fn one_of_two_that_say_the_same_stays() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut x = random(&mut rng, 400, 200);
        for i in 0..x.nrows() {
            x[(i, 1)] = x[(i, 0)];
        }
        let weights = random(&mut rng, 200, 8);
        let mut entries = Entries { covariance: x.transpose() * &x, sizes: vec![1; 200], weights };
        entries.regularise(1e-6);
        let importance: Vec<f64> = (0..200).map(|u| if u < 2 { 100.0 } else { 1.0 }).collect();
        let found = order(entries, &importance).unwrap().order;
        let place = |unit| found.iter().position(|u| *u == unit).unwrap();
        let (first, second) = (place(0).min(place(1)), place(0).max(place(1)));
        assert_eq!(first, 0);
        assert!(second > 150, "{second}");
    }
}
