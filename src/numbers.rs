//! What becomes of numbers that are none, and of those that are next to none.
//!
//! | what | policy |
//! |---|---|
//! | a gradient that is NaN or infinite | a warning; the dimensions that it reached are scored exactly (`score/sketch.rs`) |
//! | a score that is NaN or infinite | the unit counts as infinitely important: it goes last ([`importance`]) |
//! | ranks and orders | the total order of IEEE 754, so that whatever is ranked, every loop ends |
//! | a correlation with such a number in it | none |
//! | a vector next to zero that is divided by its length | it has no direction: distances skip it ([`DEAD`]) |
//! | a gain next to zero that is divided by | its channel stays as it is ([`inverse`]) |
//! | a refitted weight below the normal numbers | zero ([`flush`]): processors take many times as long for such |
//!
//! Weights keep the precision that the file has them in; sums over samples are in double precision.

/// Vectors shorter than this, relative to the mean length of their kind, have no direction: what is left of it is rounding.
pub const DEAD: f32 = 1e-6;

/// Gains smaller than this, relative to the largest of their tensor, are not divided by.
const SMALLEST_GAIN: f64 = 1e-6;

/// A score as an importance: what could not be computed might be anything, so it is not given away.
pub fn importance(score: f64) -> f64 {
    if score.is_finite() { score } else { f64::INFINITY }
}

/// The reciprocals of gains; zero for those next to nothing against the largest, which would blow noise up.
pub fn inverse(gains: &[f64]) -> Vec<f64> {
    let largest = gains.iter().filter(|gain| gain.is_finite()).fold(0f64, |most, gain| most.max(gain.abs()));
    let usable = |gain: f64| gain.is_finite() && gain.abs() > SMALLEST_GAIN * largest;
    gains.iter().map(|gain| if usable(*gain) { gain.recip() } else { 0.0 }).collect()
}

/// The number, or zero if single precision has it as a denormal: a weight so small is nothing beside any other.
pub fn flush(weight: f64) -> f64 {
    if weight.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 } else { weight }
}

/// Scores in files: JSON has no infinity, and writes `null`.
pub(crate) mod finite_or_null {
    use serde::{Deserialize, Deserializer};

    /// Reads numbers, `null` as infinity.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
        let numbers = Vec::<Option<f64>>::deserialize(from)?;
        Ok(numbers.into_iter().map(|n| n.unwrap_or(f64::INFINITY)).collect())
    }
}

/// One number in a file, where JSON has `null` for what is none.
pub(crate) mod number_or_null {
    use serde::{Deserialize, Deserializer};

    /// Reads a number, `null` as NaN.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_next_to_zero_is_not_divided_by() {
        assert_eq!(inverse(&[2.0, 1e-12, 0.0, f64::NAN, -4.0]), [0.5, 0.0, 0.0, 0.0, -0.25]);
        // Small gains among their like are as good as any.
        assert_eq!(inverse(&[1e-12, 2e-12]), [1e12, 5e11]);
        assert_eq!(inverse(&[0.0]), [0.0]);
    }

    #[test]
    fn denormal_weights_are_flushed() {
        assert_eq!([1e-39, -1e-45, 0.0].map(flush), [0.0; 3]);
        assert_eq!([1.2e-38, -3.0].map(flush), [1.2e-38, -3.0]);
    }

    #[test]
    fn what_could_not_be_computed_is_not_given_away() {
        assert_eq!([f64::NAN, -f64::NAN, f64::NEG_INFINITY].map(importance), [f64::INFINITY; 3]);
        assert_eq!(importance(0.5), 0.5);
    }
}
