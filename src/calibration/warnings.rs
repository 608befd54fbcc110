//! What valid calibration data cannot tell: too few samples, samples that are alike, outputs that are.

use std::collections::BTreeSet;

use crate::{
    calibration::{Origin, Samples},
    tensor::Tensor,
    warning::{Warning, WarningCode},
};

/// Fewer samples than this rank units by little more than chance.
const FEW: usize = 16;
/// Outputs that differ by less than this share of the largest are the same.
const SAME: f32 = 1e-6;

impl Samples {
    /// What cannot be told from these samples.
    pub fn warnings(&self) -> Vec<Warning> {
        if *self.origin() == Origin::Synthetic {
            let message = "the inputs are made up: what depends on data comes from noise, and nothing is recovered; give \
                           calibration samples";
            return vec![Warning::new(WarningCode::SyntheticData, message)];
        }
        let mut warnings = self.said().to_vec();
        if self.len() < FEW {
            let n = self.len();
            let samples = if n == 1 { "sample" } else { "samples" };
            let message = format!(
                "with {n} {samples}, units are ranked by little more than chance, and few are left to judge recovery by: 64 to \
                 256 are a good number"
            );
            warnings.push(Warning::new(WarningCode::FewSamples, message));
        }
        warnings.extend(self.repeated());
        warnings
    }

    /// The warning that most samples are repeated, or hold one number all over.
    fn repeated(&self) -> Option<Warning> {
        let (seen, count) = (self.seen(), self.len());
        let distinct = seen.iter().map(|sample| sample.digest).collect::<BTreeSet<_>>().len();
        let constant = seen.iter().filter(|sample| sample.constant).count();
        let message = if 2 * constant > count {
            format!("{constant} of {count} samples hold the same number all over")
        } else if 2 * distinct <= count && count > 1 {
            match distinct {
                1 => format!("all {count} samples are the same"),
                _ => format!("of {count} samples only {distinct} are different"),
            }
        } else {
            return None;
        };
        let message = format!("{message}: they tell little of what the model does; check how they were made");
        Some(Warning::new(WarningCode::ConstantSamples, message))
    }
}

/// Whether the outputs of a model vary from sample to sample, over all that it is run on.
#[derive(Clone, Debug, Default)]
pub struct Variation {
    /// The outputs of the first sample, where there is one.
    first: Vec<Option<Vec<f32>>>,
    compared: bool,
    varies: bool,
}

impl Variation {
    /// Takes in the outputs of a run on so many samples. Outputs whose leading axis does not count them are left out.
    pub fn add(&mut self, outputs: &[Tensor], samples: usize) {
        if self.varies {
            return;
        }
        self.first.resize(outputs.len(), None);
        for (first, output) in self.first.iter_mut().zip(outputs) {
            if output.shape().first() != Some(&samples) {
                continue;
            }
            for row in (0..samples).filter_map(|i| output.narrow(0, i, i + 1).as_numbers()) {
                let Some(first) = first else {
                    *first = Some(row.iter().copied().collect());
                    continue;
                };
                self.compared = true;
                let largest = first.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                let differs = |(a, b): (&f32, &f32)| {
                    let far = (a - b).abs() > SAME * largest || (a - b).is_nan();
                    far && a.to_bits() != b.to_bits()
                };
                self.varies |= first.len() != row.len() || first.iter().zip(&row).any(differs);
            }
        }
    }

    /// The warning that they do not.
    pub fn warning(&self) -> Option<Warning> {
        let message = "the outputs of the dense model are the same for all samples: neither scores nor recovery can be judged by \
                       them; check how the samples were preprocessed";
        (self.compared && !self.varies).then(|| Warning::new(WarningCode::ConstantOutputs, message))
    }
}
