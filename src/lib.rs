//! Prunes trained ONNX models to a FLOPs budget: no retraining, no labels, no PyTorch.

pub mod calibration;
pub mod graph;
pub mod masks;
pub mod onnx;
pub mod ops;
pub mod runtime;
pub mod tensor;
pub mod typing;
pub mod widths;
