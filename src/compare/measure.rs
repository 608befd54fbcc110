//! Figures of one output, sample by sample.

use ndarray::{ArrayD, ArrayViewD, Axis};

use super::{Differing, OutputComparison, WORST, numbers};
use crate::{
    tensor::Tensor,
    trajectory::{Output, OutputKind, agreement, divergence, output_distance, relative_l2},
};

/// What is measured of an output.
pub(super) struct Measured {
    name: String,
    output: Output,
    /// Its place among the outputs of the first model, and of the second.
    places: (usize, usize),
    samples: Vec<Figures>,
}

/// What is measured of one sample.
struct Figures {
    agreement: Option<f64>,
    divergence: Option<f64>,
    cosine: f64,
    relative_error: f64,
    distance: f64,
}

impl Measured {
    pub fn new(name: String, output: Output, first: usize, second: usize) -> Self {
        Self { name, output, places: (first, second), samples: Vec::new() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn of_first(&self, outputs: &[Tensor]) -> Option<ArrayD<f32>> {
        numbers(outputs, self.places.0)
    }

    pub fn of_second(&self, outputs: &[Tensor]) -> Option<ArrayD<f32>> {
        numbers(outputs, self.places.1)
    }

    /// Takes in both models' outputs of a run on so many samples. Where the first axis does not count them, the whole is taken for
    /// one sample.
    pub fn add(&mut self, first: &ArrayViewD<'_, f32>, second: &ArrayViewD<'_, f32>, count: usize) {
        if first.shape().first() != Some(&count) {
            self.samples.push(self.figures(first.view(), second.view()));
            return;
        }
        let pairs = first.axis_chunks_iter(Axis(0), 1).zip(second.axis_chunks_iter(Axis(0), 1));
        let figures: Vec<Figures> = pairs.map(|(a, b)| self.figures(a, b)).collect();
        self.samples.extend(figures);
    }

    fn figures(&self, a: ArrayViewD<'_, f32>, b: ArrayViewD<'_, f32>) -> Figures {
        let classes = self.output.kind != OutputKind::Embedding;
        Figures {
            agreement: agreement(self.output, a.view(), b.view()),
            divergence: classes.then(|| divergence(self.output, a.view(), b.view())),
            cosine: cosine(a.view(), b.view()),
            relative_error: relative_l2(a.view(), b.view()).sqrt(),
            distance: output_distance(self.output, a, b),
        }
    }

    /// The averages, and the samples with the largest distances by the number that `number` gives to their places.
    pub fn summary(self, number: impl Fn(usize) -> usize) -> OutputComparison {
        let mean = |figure: fn(&Figures) -> Option<f64>| {
            let sum = self.samples.iter().map(figure).sum::<Option<f64>>()?;
            Some(sum / self.samples.len() as f64).filter(|mean| mean.is_finite())
        };
        let mut worst: Vec<(usize, f64)> =
            self.samples.iter().map(|figures| figures.distance).enumerate().collect();
        // What is no number is the worst of all.
        let rank = |distance: f64| if distance.is_nan() { f64::INFINITY } else { distance };
        worst.sort_by(|(_, a), (_, b)| rank(*b).total_cmp(&rank(*a)));
        worst.truncate(WORST);
        let worst = worst.into_iter().map(|(place, distance)| Differing {
            sample: number(place),
            distance: Some(distance).filter(|distance| distance.is_finite()),
        });
        OutputComparison {
            kind: self.output.kind,
            agreement: mean(|figures| figures.agreement),
            divergence: mean(|figures| figures.divergence),
            cosine: mean(|figures| Some(figures.cosine)),
            relative_error: mean(|figures| Some(figures.relative_error)),
            distance: mean(|figures| Some(figures.distance)),
            worst: worst.collect(),
            name: self.name,
        }
    }
}

/// The cosine of the angle between two arrays as vectors; 1 where both are zero.
fn cosine(a: ArrayViewD<'_, f32>, b: ArrayViewD<'_, f32>) -> f64 {
    let (mut dot, mut first, mut second) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b.iter()) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        (dot, first, second) = (dot + a * b, first + a * a, second + b * b);
    }
    match (first == 0.0, second == 0.0) {
        (true, true) => 1.0,
        (false, false) => dot / (first * second).sqrt(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;
    use crate::graph::ValueId;

    #[test]
    fn figures_are_those_that_are_computed_by_hand() {
        let output = Output { value: ValueId(0), kind: OutputKind::Logits, classes: 1 };
        let mut measured = Measured::new("y".to_owned(), output, 0, 0);
        let a = array![[0.0f32, 2.0], [3.0, 4.0], [1.0, 0.0]].into_dyn();
        let b = array![[0.0f32, 1.0], [4.0, 3.0], [1.0, 0.0]].into_dyn();
        measured.add(&a.view(), &b.view(), 3);
        let summary = measured.summary(|place| 10 + place);
        assert!((summary.agreement.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert!((summary.cosine.unwrap() - (1.0 + 24.0 / 25.0 + 1.0) / 3.0).abs() < 1e-9);
        assert!((summary.relative_error.unwrap() - (0.5 + 2f64.sqrt() / 5.0) / 3.0).abs() < 1e-9);
        // Of the softmaxes of (0, 2) and (0, 1), and of (3, 4) and (4, 3).
        let kl = |p: f64, q: f64| p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let expected = (kl(sigmoid(2.0), sigmoid(1.0)) + kl(sigmoid(1.0), sigmoid(-1.0))) / 3.0;
        assert!((summary.divergence.unwrap() - expected).abs() < 1e-6);
        let worst: Vec<usize> = summary.worst.iter().map(|worst| worst.sample).collect();
        assert_eq!(worst, [11, 10, 12]);
    }

    #[test]
    fn what_is_not_finite_is_the_worst_and_has_no_mean() {
        let output = Output { value: ValueId(0), kind: OutputKind::Embedding, classes: 1 };
        let mut measured = Measured::new("y".to_owned(), output, 0, 0);
        let a = array![[1.0f32, 2.0], [3.0, 4.0]].into_dyn();
        let b = array![[1.0f32, 1.0], [f32::NAN, 4.0]].into_dyn();
        measured.add(&a.view(), &b.view(), 2);
        let summary = measured.summary(|place| place);
        assert_eq!((summary.worst[0].sample, summary.worst[0].distance), (1, None));
        assert_eq!((summary.distance, summary.cosine, summary.agreement), (None, None, None));
    }
}
