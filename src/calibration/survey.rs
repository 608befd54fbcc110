//! What is remembered of each sample once all have been looked at: some bytes, however large they are.

use sha2::{Digest, Sha256};

use crate::{
    calibration::{CalibrationError, Samples},
    hash,
    onnx::tensor::from_tensor,
    tensor::Tensor,
};

/// Bytes of samples that are looked at together.
const BLOCK: usize = 1 << 24;

/// What is known of a sample.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// SHA-256 of its elements.
    pub digest: [u8; 32],
    /// Whether each input that has more than one element has but one number in it.
    pub constant: bool,
    /// For each input with a batch axis, in graph order: whether its elements are zeros and ones.
    pub binary: Box<[bool]>,
}

impl Seen {
    /// Looks at what one sample has of each input with a batch axis.
    fn of(parts: &[Tensor]) -> Self {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(from_tensor("", part).raw_data()));
        // Without such an input nothing can be told.
        let mut large = parts.iter().filter(|part| part.len() > 1).peekable();
        let constant = large.peek().is_some() && large.all(is_constant);
        Self { digest: hash.finalize().into(), constant, binary: parts.iter().map(is_binary).collect() }
    }
}

fn is_constant(tensor: &Tensor) -> bool {
    let raw = from_tensor("", tensor);
    let mut elements = raw.raw_data().chunks(tensor.dtype().size());
    let first = elements.next();
    elements.all(|element| Some(element) == first)
}

/// Whether the elements are integers or truth values, and no others than zero and one.
fn is_binary(tensor: &Tensor) -> bool {
    tensor.to_ints().is_some_and(|values| values.iter().all(|value| matches!(value, 0 | 1)))
}

impl Samples {
    /// Looks at all samples, so many at a time as take little memory.
    pub(super) fn survey(&self) -> Result<Vec<Seen>, CalibrationError> {
        let batched: Vec<bool> = self.inputs().iter().map(|input| input.batched).collect();
        let mut seen = Vec::with_capacity(self.len());
        for numbers in self.numbers().chunks((BLOCK / self.sample_bytes().max(1)).max(1)) {
            let feed = self.read(numbers)?;
            let by_sample = feed.iter().zip(&batched).filter(|(_, batched)| **batched);
            let by_sample: Vec<&Tensor> = by_sample.map(|((_, tensor), _)| tensor).collect();
            seen.extend((0..numbers.len()).map(|i| {
                let parts: Vec<Tensor> = by_sample.iter().map(|tensor| tensor.narrow(0, i, i + 1)).collect();
                Seen::of(&parts)
            }));
        }
        Ok(seen)
    }

    /// Whether an input holds integers or truth values, and in all samples no others than zero and one.
    pub fn is_binary(&self, input: &str) -> bool {
        if let Some(whole) = self.whole(input) {
            return is_binary(whole);
        }
        let place = self.inputs().iter().filter(|i| i.batched).position(|i| i.name == input);
        let binary = |place: usize| self.seen().iter().all(|seen| seen.binary.get(place) == Some(&true));
        place.is_some_and(binary)
    }

    /// SHA-256 of the contents in lower-case hexadecimal digits: names, types, shapes and elements of all inputs. It is the
    /// same wherever the data came from.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for input in self.inputs() {
            hash.update(format!("{:?} {} {:?};", input.name, input.dtype, input.shape));
            if let Some(whole) = self.whole(&input.name) {
                hash.update(from_tensor("", whole).raw_data());
            }
        }
        self.seen().iter().for_each(|seen| hash.update(seen.digest));
        hash::hex(hash.finalize())
    }
}
