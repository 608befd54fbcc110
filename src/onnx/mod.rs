//! ONNX files: reading, writing and the protobuf types between.

#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto;
