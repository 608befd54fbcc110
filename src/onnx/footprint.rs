//! Memory that a decoded model takes, bounded from its bytes before they are decoded.
//!
//! The wire format is cheap and structures are not: two bytes encode an empty message, of which the decoder makes a
//! structure of some hundred bytes. The walk here reads keys and lengths only, so it takes no memory, and it reads them by
//! the decoder's own functions: where it cannot go on, the decoder refuses.

use super::{
    OnnxError,
    proto::{self, *},
};
use crate::limits;
use bytes::Buf;
use prost::{
    DecodeError,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use std::path::Path;

/// Messages within messages that the decoder follows.
const DEPTH: usize = 100;
/// What any field takes: an element of a list of names or of byte strings.
const FIELD: u64 = 32;
/// What an element of a packed list of numbers takes, which is encoded by one byte or more.
const NUMBER: u64 = 8;

/// A type of message.
struct Kind {
    /// Its name in the schema.
    #[cfg_attr(not(test), allow(dead_code))]
    name: &'static str,
    /// What one takes in memory.
    bytes: usize,
    /// Its fields that are messages, by number.
    messages: &'static [(u32, &'static Kind)],
    /// Its fields that are lists of integers.
    numbers: &'static [u32],
}

/// `NAME = "name in the schema", type, [fields that are messages], [fields that are lists of integers];`
macro_rules! kinds {
    ($($kind:ident = $name:literal, $type:ty, [$($field:literal: $child:ident),*], [$($number:literal),*];)*) => {
        $(static $kind: Kind = Kind {
            name: $name,
            bytes: size_of::<$type>(),
            messages: &[$(($field, &$child)),*],
            numbers: &[$($number),*],
        };)*
        #[cfg(test)]
        static KINDS: &[&Kind] = &[$(&$kind),*];
    };
}

kinds! {
    MODEL = "ModelProto", ModelProto, [8: OPSET, 7: GRAPH, 14: ENTRY, 20: TRAINING, 25: FUNCTION, 26: DEVICE], [];
    DEVICE = "DeviceConfigurationProto", DeviceConfigurationProto, [], [];
    OPSET = "OperatorSetIdProto", OperatorSetIdProto, [], [];
    ENTRY = "StringStringEntryProto", StringStringEntryProto, [], [];
    TRAINING = "TrainingInfoProto", TrainingInfoProto, [1: GRAPH, 2: GRAPH, 3: ENTRY, 4: ENTRY], [];
    FUNCTION = "FunctionProto", FunctionProto, [11: ATTRIBUTE, 7: NODE, 9: OPSET, 12: VALUE_INFO, 14: ENTRY], [];
    GRAPH = "GraphProto", GraphProto,
        [1: NODE, 5: TENSOR, 15: SPARSE, 11: VALUE_INFO, 12: VALUE_INFO, 13: VALUE_INFO, 14: ANNOTATION, 16: ENTRY], [];
    NODE = "NodeProto", NodeProto, [5: ATTRIBUTE, 9: ENTRY, 10: NODE_DEVICE], [];
    NODE_DEVICE = "NodeDeviceConfigurationProto", NodeDeviceConfigurationProto, [2: SHARDING], [];
    SHARDING = "ShardingSpecProto", ShardingSpecProto, [3: INT_LIST, 4: SHARDED], [2];
    INT_LIST = "IntIntListEntryProto", IntIntListEntryProto, [], [2];
    SHARDED = "ShardedDimProto", ShardedDimProto, [2: SIMPLE], [];
    SIMPLE = "SimpleShardedDimProto", SimpleShardedDimProto, [], [];
    ATTRIBUTE = "AttributeProto", AttributeProto,
        [5: TENSOR, 6: GRAPH, 22: SPARSE, 14: TYPE, 10: TENSOR, 11: GRAPH, 23: SPARSE, 15: TYPE], [8];
    VALUE_INFO = "ValueInfoProto", ValueInfoProto, [2: TYPE, 4: ENTRY], [];
    ANNOTATION = "TensorAnnotation", TensorAnnotation, [2: ENTRY], [];
    TENSOR = "TensorProto", TensorProto, [3: SEGMENT, 13: ENTRY, 16: ENTRY], [1, 5, 7, 11];
    SEGMENT = "Segment", tensor_proto::Segment, [], [];
    SPARSE = "SparseTensorProto", SparseTensorProto, [1: TENSOR, 2: TENSOR], [3];
    SHAPE = "TensorShapeProto", TensorShapeProto, [1: DIMENSION], [];
    DIMENSION = "Dimension", tensor_shape_proto::Dimension, [], [];
    TYPE = "TypeProto", proto::TypeProto,
        [1: TENSOR_TYPE, 4: SEQUENCE, 5: MAP, 9: OPTIONAL, 8: SPARSE_TYPE, 7: OPAQUE], [];
    TENSOR_TYPE = "Tensor", type_proto::Tensor, [2: SHAPE], [];
    SEQUENCE = "Sequence", type_proto::Sequence, [1: TYPE], [];
    MAP = "Map", type_proto::Map, [2: TYPE], [];
    OPTIONAL = "Optional", type_proto::Optional, [1: TYPE], [];
    SPARSE_TYPE = "SparseTensor", type_proto::SparseTensor, [2: SHAPE], [];
    OPAQUE = "Opaque", type_proto::Opaque, [], [];
}

/// Refuses the bytes of a model that would take far more memory than they are, in the file at `path`.
pub(super) fn check_model(path: &Path, file: &[u8]) -> Result<(), OnnxError> {
    check(path, file, &MODEL)
}

/// The same of a tensor in a file of its own.
pub fn check_decoded_tensor(path: &Path, file: &[u8]) -> Result<(), OnnxError> {
    check(path, file, &TENSOR)
}

fn check(path: &Path, file: &[u8], kind: &Kind) -> Result<(), OnnxError> {
    let bytes = decoded(file, kind);
    if bytes > limits::decoded_bytes(file.len() as u64) {
        return Err(OnnxError::DecodedSize { path: path.into(), bytes, file: file.len() });
    }
    Ok(())
}

/// How many bytes a message takes once decoded, about: the content of weights and names, which takes as much as in the
/// file, and what lists hold in reserve are not counted. Of one that cannot be decoded, what the decoder makes before it
/// gives up.
fn decoded(message: &[u8], kind: &Kind) -> u64 {
    let mut bytes = 0;
    // The decoder tells what is wrong.
    walk(message, kind, 0, &mut bytes).ok();
    bytes
}

fn walk(mut message: &[u8], kind: &Kind, depth: usize, bytes: &mut u64) -> Result<(), DecodeError> {
    *bytes = bytes.saturating_add(kind.bytes as u64);
    if depth > DEPTH {
        return Ok(());
    }
    while message.has_remaining() {
        let (field, wire_type) = decode_key(&mut message)?;
        *bytes = bytes.saturating_add(FIELD);
        if wire_type != WireType::LengthDelimited {
            skip_field(wire_type, field, &mut message, DecodeContext::default())?;
            continue;
        }
        let length = decode_varint(&mut message)?;
        let Some((content, rest)) = usize::try_from(length).ok().and_then(|n| message.split_at_checked(n))
        else {
            return Ok(());
        };
        message = rest;
        if let Some((_, child)) = kind.messages.iter().find(|(number, _)| *number == field) {
            walk(content, child, depth + 1, bytes)?;
        } else if kind.numbers.contains(&field) {
            *bytes = bytes.saturating_add(length.saturating_mul(NUMBER));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// The fields of each message of the schema that are messages, and that are lists of integers.
    type Schema = BTreeMap<String, (BTreeMap<u32, String>, BTreeSet<u32>)>;

    fn schema() -> Schema {
        let mut schema = Schema::new();
        let mut open: Vec<String> = Vec::new();
        let text = include_str!("../../proto/onnx-ml.proto");
        let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["message" | "enum" | "oneof", name, "{", ..] => {
                    // The fields of a oneof are those of the message around it.
                    let name = if words[0] == "oneof" { open.last().cloned() } else { Some(name.to_owned()) };
                    open.push(name.unwrap_or_default());
                    if words[0] == "message" {
                        schema.entry(open.last().unwrap().clone()).or_default();
                    }
                }
                ["}" | "};", ..] => {
                    open.pop();
                }
                _ => {
                    let Some(at) = words.iter().position(|word| *word == "=") else { continue };
                    let [.., class, _] = words[..at] else { continue };
                    let number = words[at + 1].trim_end_matches(';').parse().unwrap_or(0);
                    let Some(fields) = open.last().and_then(|name| schema.get_mut(name)) else { continue };
                    let repeated = words[0] == "repeated";
                    let class = class.rsplit('.').next().unwrap_or_default();
                    if class.chars().next().is_some_and(char::is_uppercase) {
                        fields.0.insert(number, class.to_owned());
                    } else if repeated && ["int32", "int64", "uint64"].contains(&class) {
                        fields.1.insert(number);
                    }
                }
            }
        }
        // Enumerations are no messages.
        let messages: BTreeSet<String> = schema.keys().cloned().collect();
        schema.values_mut().for_each(|(fields, _)| fields.retain(|_, class| messages.contains(class)));
        schema
    }

    #[test]
    fn the_table_of_messages_is_that_of_the_schema() {
        let table: Schema = KINDS
            .iter()
            .map(|kind| {
                let messages = kind.messages.iter().map(|(number, child)| (*number, child.name.to_owned()));
                (kind.name.to_owned(), (messages.collect(), kind.numbers.iter().copied().collect()))
            })
            .collect();
        assert_eq!(table, schema());
        assert_eq!(table.len(), KINDS.len());
    }
}
