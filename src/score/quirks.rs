//! The released code's version of the importance, for comparison: what its authors' scripts compute where it differs from
//! their formula.
//!
//! Tokens are drawn at random for each unit and layer; padding counts; the divergence is rescaled per unit to the order of
//! magnitude of the manifold distance; units are weighted by their index; and while heads of a layer are scored, the last
//! head of every earlier layer stays masked.

use ndarray::{Array2, Axis, concatenate};
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use crate::{
    reduction::{Kind, PaperPrior},
    trajectory::unit_gram,
};

/// Tokens per draw.
const TOKENS: usize = 768;
/// The temperature, which only multiplies the divergence.
const TEMPERATURE: f64 = 4.0;
/// The divergence is scaled to about a tenth of the manifold distance.
const LAMBDA_CONTRIBUTION: f64 = 10.0;
/// Weight of the last layer.
const DECAY: f64 = 0.5;

/// Sum over pairs of tokens, drawn anew, of the squared difference of their products.
pub(super) fn manifold_sum(
    dense: &[Array2<f32>],
    masked: &[Array2<f32>],
    rng: &mut ChaCha8Rng,
) -> Option<f64> {
    let stack = |samples: &[Array2<f32>]| {
        let views: Vec<_> = samples.iter().map(|s| s.view()).collect();
        concatenate(Axis(0), &views).ok()
    };
    let (dense, masked) = (stack(dense)?, stack(masked)?);
    let count = dense.nrows();
    let chosen = index::sample(rng, count, TOKENS.min(count)).into_vec();
    let (dense, masked) = (dense.select(Axis(0), &chosen), masked.select(Axis(0), &chosen));
    let difference = unit_gram(dense.view()) - unit_gram(masked.view());
    Some(difference.iter().map(|d| f64::from(*d).powi(2)).sum())
}

/// Rescales divergences as the released code does; remembers the scales it has used.
#[derive(Debug, Default)]
pub(super) struct Balance {
    scales: Vec<f64>,
}

impl Balance {
    /// The manifold distance plus the divergence, brought to its order of magnitude.
    pub(super) fn total(&mut self, manifold: f64, divergence: f64) -> f64 {
        let divergence = (TEMPERATURE * TEMPERATURE * divergence).max(0.0);
        let scale = if manifold > divergence && divergence > 0.0 {
            let exponent = manifold.log10() - divergence.log10() - LAMBDA_CONTRIBUTION.log10();
            let scale = 10f64.powf(exponent.trunc());
            self.scales.push(scale);
            scale
        } else if self.scales.is_empty() {
            1.0
        } else {
            self.scales.iter().sum::<f64>() / self.scales.len() as f64
        };
        manifold + divergence * scale
    }
}

/// The factor by which the released code weights a unit for its place alone.
pub(super) fn prior(kind: Kind, unit: usize, units: usize, last_layer: bool) -> f64 {
    let PaperPrior { span, weight, .. } = kind.paper_prior();
    let place = if units > 1 { (units - 1 - unit) as f64 / (units - 1) as f64 } else { 0.0 };
    span.powf(place) * weight * if last_layer { DECAY } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduction::{HEAD, NEURON};

    #[test]
    fn the_first_unit_is_favoured_tenfold() {
        assert!((prior(HEAD, 0, 12, false) / prior(HEAD, 11, 12, false) - 10.0).abs() < 1e-9);
        assert!((prior(NEURON, 0, 8, true) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn divergence_is_brought_within_a_decade_of_a_tenth() {
        let total = Balance::default().total(1000.0, 1e-3);
        let scaled = total - 1000.0;
        assert!((10.0..=1000.0).contains(&scaled), "{scaled}");
    }
}
