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
    /// Its lower triangle.
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
        let sums: Vec<f64> = (0..entries).map(|i| gram[(entries, i)]).collect();
        let x: Vec<f64> = sums.iter().map(|sum| sum / rows).collect();
        let e: Vec<f64> = (0..cross.ncols()).map(|j| cross[(entries, j)] / rows).collect();
        let lower = |i, j| if i < j { 0.0 } else { gram[(i, j)] - sums[i] * x[j] };
        let centred = Mat::from_fn(entries, entries, lower);
        let cross = Mat::from_fn(entries, cross.ncols(), |i, j| cross[(i, j)] - sums[i] * e[j]);
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

/// How a layer is best corrected.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The form.
    pub form: Form,
    /// What the correction in this form leaves of the error on samples that are held out.
    pub error: f64,
    /// The correction; `None` where the moments are singular.
    pub correction: Option<Correction>,
}

/// The form that, fitted to `training`, has the least error on `held_out`. `ridge` fixes the ridge; without entries there is the
/// bias alone.
pub fn choose_form(
    training: &RegressionStats,
    held_out: &RegressionStats,
    ridge: Option<f64>,
    biased: bool,
) -> Chosen {
    let groups = centre(training, biased);
    let tried = |form| {
        let correction = solve(&groups, form);
        let error = correction.as_ref().map_or(f64::INFINITY, |correction| match form {
            Form::Bias => held_out.error_of_biases(correction),
            Form::Ridge(_) => held_out.error(correction),
        });
        Chosen { form, error, correction }
    };
    let entries = training.gram.first().map_or(0, |gram| gram.nrows() - 1);
    if entries == 0 {
        return tried(Form::Bias);
    }
    let refit = match ridge {
        Some(ridge) => tried(Form::Ridge(ridge)),
        None => descend(|ridge| tried(Form::Ridge(ridge))),
    };
    let bias = tried(Form::Bias);
    if refit.error < bias.error { refit } else { bias }
}

/// Walks the grid downhill.
fn descend(tried: impl Fn(f64) -> Chosen) -> Chosen {
    let (mut at, mut best) = (START, tried(GRID[START]));
    for step in [-1isize, 1] {
        let start = at;
        while let Some(next) = at.checked_add_signed(step).filter(|n| *n < GRID.len()) {
            let found = tried(GRID[next]);
            if !found.error.total_cmp(&best.error).is_lt() {
                break;
            }
            (at, best) = (next, found);
        }
        if at != start {
            break;
        }
    }
    best
}
