//! What the sum of the parts of a model misses of the whole: fusions across parts, overheads, caches that parts have to themselves.

/// How much one scale for all classes counts beside the observations: so much of what all classes save. What a class of little
/// weight saves is lost in the noise of the others, and says nothing of its scale.
const PRIOR: f64 = 0.05;

/// Rounds of coordinate descent, which needs a few.
const ROUNDS: usize = 200;

/// A model that was timed: what its parts save by their own times, by class, and what it was found to save.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observation {
    /// Seconds that the parts of each class save.
    pub saved: Vec<f64>,
    /// Seconds that the model saves.
    pub found: f64,
    /// Seconds that the model takes.
    pub time: f64,
}

/// By what the savings of each class of parts are to be multiplied, none below zero: least squares of relative errors, drawn towards
/// one scale for all (ridge regression, Hoerl & Kennard, 1970).
pub(super) fn scales(observations: &[Observation], classes: usize) -> Vec<f64> {
    let common = common(observations);
    let mut scales = vec![common; classes];
    let weight = |o: &Observation| 1.0 / (o.time * o.time);
    let saved = |o: &Observation, class: usize| o.saved.get(class).copied().unwrap_or(0.0);
    let all = |o: &Observation| o.saved.iter().sum::<f64>();
    let prior = PRIOR * observations.iter().map(|o| weight(o) * all(o) * all(o)).sum::<f64>();
    for _ in 0..ROUNDS {
        for class in 0..classes {
            let (mut above, mut below) = (0.0, 0.0);
            for o in observations {
                let others: f64 = (0..classes)
                    .filter(|other| *other != class)
                    .map(|other| scales[other] * saved(o, other))
                    .sum();
                above += weight(o) * saved(o, class) * (o.found - others);
                below += weight(o) * saved(o, class) * saved(o, class);
            }
            if below + prior > 0.0 {
                scales[class] = ((above + prior * common) / (below + prior)).max(0.0);
            }
        }
    }
    scales
}

/// One scale for all classes.
fn common(observations: &[Observation]) -> f64 {
    let (mut above, mut below) = (0.0, 0.0);
    for o in observations {
        let saved: f64 = o.saved.iter().sum();
        above += saved * o.found / (o.time * o.time);
        below += saved * saved / (o.time * o.time);
    }
    if below > 0.0 { (above / below).max(0.0) } else { 1.0 }
}

/// The error of the prediction of each model from all others, as a share of its time.
pub(super) fn errors(observations: &[Observation], classes: usize) -> Vec<f64> {
    let error = |left_out: usize| {
        let others: Vec<Observation> =
            observations.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, o)| o.clone()).collect();
        let o = &observations[left_out];
        let scales = scales(&others, classes);
        let saved: f64 = scales.iter().zip(&o.saved).map(|(scale, saved)| scale * saved).sum();
        (o.found - saved).abs() / o.time
    };
    (0..observations.len()).map(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_classes_are_found() {
        let of = |a: f64, b: f64| Observation { saved: vec![a, b], found: 0.8 * a + 1.2 * b, time: 10.0 };
        let observations = [of(1.0, 0.5), of(3.0, 2.0), of(2.0, 4.0), of(0.5, 3.0), of(4.0, 0.5)];
        let scales = scales(&observations, 2);
        assert!((scales[0] - 0.8).abs() < 0.15 && (scales[1] - 1.2).abs() < 0.15, "{scales:?}");
        assert!(errors(&observations, 2).iter().all(|error| *error < 0.08));
    }

    #[test]
    fn nothing_is_learnt_from_nothing_and_no_scale_is_negative() {
        assert_eq!(super::scales(&[], 2), [1.0, 1.0]);
        // A class that saves next to nothing has the scale of the others.
        let of =
            |a: f64, noise: f64| Observation { saved: vec![a, 1e-3], found: 2.0 * a + noise, time: 10.0 };
        let scales = scales(&[of(1.0, 0.1), of(2.0, -0.1), of(3.0, 0.05)], 2);
        assert!((scales[1] - 2.0).abs() < 0.1, "{scales:?}");
        let slower = Observation { saved: vec![1.0], found: -0.5, time: 2.0 };
        assert_eq!(super::scales(&[slower], 1), [0.0]);
    }
}
