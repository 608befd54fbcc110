//! Ridge regression from moments, the ridge chosen on samples that it is not fitted to.

use faer::{Mat, Side, linalg::solvers::Llt, prelude::Solve};

use crate::stats::{Correction, RegressionStats};

/// Ridges that are tried, relative to the mean variance of the entries; ascending.
const GRID: [f64; 12] = [1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];

/// Where the search begins: ridges are rarely far from 0.1.
const START: usize = 7;

/// How weights are corrected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// The bias alone: the mean error is added.
    Bias,
    /// Weights and bias, the weights with this ridge.
    Ridge(f64),
}

/// Moments of one group about the mean, ready to be solved with any ridge.
struct Centred {
    gram: Mat<f64>,
    cross: Mat<f64>,
    /// Means of the entries and of the errors.
    means: (Vec<f64>, Vec<f64>),
    /// Mean variance of the entries.
    scale: f64,
}

impl Centred {
    /// `biased` says whether there is a bias; else the moments are taken about zero.
    fn new(rows: f64, gram: &Mat<f64>, cross: &Mat<f64>, biased: bool) -> Self {
        let entries = gram.nrows() - 1;
        let rows = if biased { rows.max(1.0) } else { f64::INFINITY };
        let x: Vec<f64> = (0..entries).map(|i| gram[(i, entries)] / rows).collect();
        let e: Vec<f64> = (0..cross.ncols()).map(|j| cross[(entries, j)] / rows).collect();
        let centred = Mat::from_fn(entries, entries, |i, j| gram[(i, j)] - gram[(i, entries)] * x[j]);
        let cross = Mat::from_fn(entries, cross.ncols(), |i, j| cross[(i, j)] - gram[(i, entries)] * e[j]);
        let scale = (0..entries).map(|i| centred[(i, i)].max(0.0)).sum::<f64>() / entries.max(1) as f64;
        Self { gram: centred, cross, means: (x, e), scale }
    }

    /// The correction in this form; `None` where the moments are singular.
    fn solve(&self, form: Form) -> Option<Mat<f64>> {
        let entries = self.gram.nrows();
        let (x, e) = &self.means;
        let weights = match form {
            Form::Bias => Mat::zeros(entries, e.len()),
            Form::Ridge(_) if entries == 0 || self.scale <= 0.0 => Mat::zeros(entries, e.len()),
            Form::Ridge(ridge) => {
                let mut gram = self.gram.clone();
                for i in 0..entries {
                    gram[(i, i)] += ridge * self.scale;
                }
                Llt::new(gram.as_ref(), Side::Lower).ok()?.solve(&self.cross)
            }
        };
        // The bias carries no ridge: it makes the mean error vanish.
        let bias = |j: usize| e[j] - (0..entries).map(|i| x[i] * weights[(i, j)]).sum::<f64>();
        Some(Mat::from_fn(entries + 1, e.len(), |i, j| if i < entries { weights[(i, j)] } else { bias(j) }))
    }
}

/// The correction that leaves the least error on these positions, in this form; `None` where they are singular. Unless the
/// layer is `biased`, its bias stays zero.
pub fn fit(moments: &RegressionStats, form: Form, biased: bool) -> Option<Correction> {
    solve(&centre(moments, biased), form)
}

fn centre(moments: &RegressionStats, biased: bool) -> Vec<Centred> {
    let groups = moments.gram.iter().zip(&moments.cross);
    groups.map(|(gram, cross)| Centred::new(moments.rows, gram, cross, biased)).collect()
}

fn solve(groups: &[Centred], form: Form) -> Option<Correction> {
    groups.iter().map(|group| group.solve(form)).collect::<Option<_>>().map(Correction)
}

/// The form that, fitted to `training`, has the least error on `held_out`, and that error. `ridge` fixes the ridge; without
/// entries there is the bias alone.
pub fn choose_form(
    training: &RegressionStats,
    held_out: &RegressionStats,
    ridge: Option<f64>,
    biased: bool,
) -> (Form, f64) {
    let groups = centre(training, biased);
    let error = |form| solve(&groups, form).map_or(f64::INFINITY, |correction| held_out.error(&correction));
    let bias = (Form::Bias, error(Form::Bias));
    let entries = training.gram.first().map_or(0, |gram| gram.nrows() - 1);
    let refit = match ridge {
        _ if entries == 0 => return bias,
        Some(ridge) => (Form::Ridge(ridge), error(Form::Ridge(ridge))),
        None => descend(|ridge| error(Form::Ridge(ridge))),
    };
    if refit.1 < bias.1 { refit } else { bias }
}

/// Walks the grid downhill.
fn descend(error: impl Fn(f64) -> f64) -> (Form, f64) {
    let mut best = (START, error(GRID[START]));
    for step in [-1isize, 1] {
        let start = best.0;
        while let Some(next) = best.0.checked_add_signed(step).filter(|n| *n < GRID.len()) {
            let found = error(GRID[next]);
            if !found.total_cmp(&best.1).is_lt() {
                break;
            }
            best = (next, found);
        }
        if best.0 != start {
            break;
        }
    }
    (Form::Ridge(GRID[best.0]), best.1)
}
