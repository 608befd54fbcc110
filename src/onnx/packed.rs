//! Weights in fields of their type, as raw bytes while a model is worked on.
//!
//! Old exporters write numbers into `float_data` and its like. Those are vectors, which every copy of a model copies, where raw
//! bytes are shared. What nothing has changed goes back in the end, so that it is written as it was read.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::proto::{ModelProto, TensorProto, tensor_proto::DataType};

/// Smaller tensors may be copied.
const SMALLEST: usize = 1 << 10;

/// The initializers that were given raw bytes, by name.
#[derive(Clone, Debug, Default)]
pub struct Packed(BTreeMap<String, Bytes>);

impl Packed {
    /// Gives the large initializers of `model` raw bytes in place of typed elements.
    pub fn pack(model: &mut ModelProto) -> Self {
        let mut packed = BTreeMap::new();
        for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            if let Some(raw) = raw(tensor).filter(|raw| raw.len() >= SMALLEST) {
                clear(tensor);
                let raw = Bytes::from(raw);
                tensor.raw_data = Some(raw.clone());
                packed.insert(tensor.name().to_owned(), raw);
            }
        }
        Self(packed)
    }

    /// Moves raw bytes back into the typed field for the initializers that still hold the bytes of [`Self::pack`].
    pub fn unpack(&self, model: &mut ModelProto) {
        for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            let same = self.0.get(tensor.name()).is_some_and(|raw| tensor.raw_data.as_ref() == Some(raw));
            if let Some(raw) = tensor.raw_data.take_if(|_| same) {
                fill(tensor, &raw);
            }
        }
    }
}

/// The typed elements of a tensor as raw bytes, where its type has a field of its own and that alone is used.
fn raw(tensor: &TensorProto) -> Option<Vec<u8>> {
    if tensor.raw_data.is_some() {
        return None;
    }
    Some(match tensor.data_type() {
        t if t == DataType::Float as i32 => tensor.float_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        t if t == DataType::Double as i32 => {
            tensor.double_data.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
        t if t == DataType::Int64 as i32 => tensor.int64_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        t if t == DataType::Int32 as i32 => tensor.int32_data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => return None,
    })
}

fn clear(tensor: &mut TensorProto) {
    tensor.float_data = Vec::new();
    tensor.double_data = Vec::new();
    tensor.int64_data = Vec::new();
    tensor.int32_data = Vec::new();
}

/// Puts raw bytes into the field of the tensor's type.
fn fill(tensor: &mut TensorProto, raw: &[u8]) {
    macro_rules! elements {
        ($kind:ty) => {
            raw.as_chunks::<{ size_of::<$kind>() }>().0.iter().map(|x| <$kind>::from_le_bytes(*x)).collect()
        };
    }
    match tensor.data_type() {
        t if t == DataType::Float as i32 => tensor.float_data = elements!(f32),
        t if t == DataType::Double as i32 => tensor.double_data = elements!(f64),
        t if t == DataType::Int64 as i32 => tensor.int64_data = elements!(i64),
        _ => tensor.int32_data = elements!(i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{encode, proto::GraphProto};

    fn model() -> ModelProto {
        let tensor = |name: &str, kind: DataType| TensorProto {
            name: Some(name.to_owned()),
            dims: vec![512],
            data_type: Some(kind as i32),
            ..Default::default()
        };
        let floats = (0..512).map(|i| f32::from_bits(i * 0x00a0_3f01)).collect();
        let initializer = vec![
            TensorProto { float_data: floats, ..tensor("floats", DataType::Float) },
            TensorProto { double_data: vec![0.1; 512], ..tensor("doubles", DataType::Double) },
            TensorProto { int64_data: (-256..256).collect(), ..tensor("longs", DataType::Int64) },
            TensorProto { int32_data: (-256..256).collect(), ..tensor("ints", DataType::Int32) },
            TensorProto { int32_data: vec![1; 512], ..tensor("halves", DataType::Float16) },
            TensorProto { raw_data: Some(vec![0; 2048].into()), ..tensor("raw", DataType::Float) },
            TensorProto { dims: vec![1], float_data: vec![1.0], ..tensor("small", DataType::Float) },
        ];
        ModelProto { graph: Some(GraphProto { initializer, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn what_nothing_has_changed_is_written_as_it_was_read() {
        let mut model = model();
        let before = encode(&model);
        let packed = Packed::pack(&mut model);
        assert_eq!(packed.0.len(), 4);
        assert_ne!(encode(&model), before);
        packed.unpack(&mut model);
        assert_eq!(encode(&model), before);
    }

    #[test]
    fn copies_share_packed_weights_and_changed_ones_stay_raw() {
        let mut model = model();
        let packed = Packed::pack(&mut model);
        let mut copy = model.clone();
        let [own, other] = [&model, &copy]
            .map(|m| m.graph.as_ref().unwrap().initializer[0].raw_data.as_ref().unwrap().as_ptr());
        assert_eq!(own, other);
        let changed: Bytes = vec![7; 2048].into();
        copy.graph.as_mut().unwrap().initializer[0].raw_data = Some(changed.clone());
        packed.unpack(&mut copy);
        let tensors = &copy.graph.as_ref().unwrap().initializer;
        assert_eq!((tensors[0].raw_data.as_ref(), tensors[0].float_data.len()), (Some(&changed), 0));
        assert_eq!((tensors[1].raw_data.as_ref(), tensors[1].double_data.len()), (None, 512));
    }
}
