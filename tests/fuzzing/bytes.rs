//! Mutations of an encoded model: flipped bits, bytes that go, come or change.

use bytes::Bytes;
use optin_onnx::onnx::{self, proto::ModelProto};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

/// Tensors with more bytes are weights, among which a change tells nothing.
const WEIGHTS: usize = 256;

/// An encoded model, and the places where a change changes more than a weight.
#[derive(Clone)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    places: std::sync::Arc<[usize]>,
}

impl From<Encoded> for Vec<u8> {
    fn from(encoded: Encoded) -> Self {
        encoded.bytes
    }
}

impl Encoded {
    pub(super) fn of(model: &ModelProto) -> Self {
        // Where the encodings of models whose weights have no bit in common agree, there are no weights.
        let [zeros, ones] = [0x00, 0xff].map(|byte| {
            let mut model = model.clone();
            for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
                if let Some(raw) = tensor.raw_data.as_mut().filter(|raw| raw.len() > WEIGHTS) {
                    *raw = Bytes::from(vec![byte; raw.len()]);
                }
            }
            onnx::encode(&model)
        });
        let places = (0..zeros.len()).filter(|i| zeros[*i] == ones[*i]).collect();
        Self { bytes: onnx::encode(model), places }
    }

    /// Changes, removes, doubles or inserts a few bytes.
    pub(super) fn garble(&mut self, rng: &mut ChaCha8Rng) {
        let bytes = &mut self.bytes;
        let start = self.places[rng.random_range(0..self.places.len())].min(bytes.len());
        let end = (start + rng.random_range(1..9)).min(bytes.len());
        if start == end {
            return;
        }
        match rng.random_range(0..5) {
            0 => bytes[start] ^= 1 << rng.random_range(0..8),
            1 => drop(bytes.drain(start..end)),
            2 => {
                let copy = bytes[start..end].to_vec();
                drop(bytes.splice(start..start, copy));
            }
            3 => bytes.truncate(end),
            _ => rng.fill_bytes(&mut bytes[start..end]),
        }
    }
}
