//! Prunes trained ONNX models to a FLOPs budget: no retraining, no labels, no PyTorch.

pub mod calibration;
#[cfg(feature = "cli")]
pub mod cli;
mod clock;
mod error;
pub mod fold;
pub mod gate;
pub mod gradient;
pub mod graph;
mod hash;
pub mod inspect;
mod limits;
pub mod masks;
pub mod memory;
pub mod model;
mod named;
mod numbers;
pub mod onnx;
pub mod ops;
pub mod paths;
pub mod plan;
pub mod recover;
mod refusal;
pub mod report;
pub mod rewrite;
pub mod rotate;
mod run;
pub mod runtime;
pub mod score;
pub mod session;
pub mod staging;
pub mod stats;
pub mod tensor;
mod ties;
pub mod trajectory;
pub mod typing;
pub mod verify;
mod warning;
pub mod widths;

pub use error::Error;
pub use named::{Named, UnknownName};
pub use refusal::{Larger, Refusal};
pub use run::{Options, run};
pub use session::{Cancel, Progress, Pruner, Settings};
pub use warning::{Warning, WarningCode};
