//! Prunes trained ONNX models to a FLOPs budget: no retraining, no labels, no PyTorch.

pub mod calibration;
pub mod onnx;
pub mod runtime;
pub mod tensor;
