//! Prunes trained ONNX models to budgets of FLOPs, parameters, bytes or time: no retraining, no labels, no PyTorch.
//!
//! The program `optin-onnx` is one way to use this crate; to embed it is the other. [`Pruner`] opens a model with an engine that
//! runs it and unlabelled samples to run it on, and goes on stage by stage. Every stage is a value:
//!
//! ```
//! use optin_onnx::{
//!     Pruner, calibration::CalibrationOptions, plan::{Budgets, Flops}, recover::RecoverOptions, runtime, score::ScoreOptions,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = runtime::open(&runtime::RuntimeOptions::default())?;
//! let samples = CalibrationOptions {
//!     calib: Some("fixtures/calib.npz".into()),
//!     samples: Some(32),
//!     ..CalibrationOptions::default()
//! };
//! let pruner = Pruner::open("fixtures/cnn.onnx", engine, samples)?;
//! let scored = pruner.score(&ScoreOptions::default())?;
//!
//! // Any number of budgets can be planned from one scoring, which is what takes the time.
//! let planned = scored.plan(&Budgets::one(&Flops, "60%".parse()?))?;
//! let (bytes, report) = planned.apply()?.recover(&RecoverOptions::default())?.to_bytes()?;
//!
//! let flops = report.costs.get("flops").ok_or("FLOPs are always counted")?;
//! assert!(flops.after <= flops.before * 6 / 10 && !bytes.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # What to know
//!
//! * **Inputs.** A model is a path, the bytes of a file, or a message ([`session::ModelInput`]); samples are arrays by the name of
//!   the input, or files ([`model::SampleInput`]). The engine is [`runtime::open`]'s or one of your own ([`runtime::Engine`]).
//! * **Stages.** [`Pruner`] types every axis and turns attention heads; [`session::Scored`] knows what each unit is worth;
//!   [`session::Planned`] which units go; [`session::Applied`] is proven against the masked original;
//!   [`session::Recovered`] has its weights refitted, and writes a file or bytes once these have passed the final gate.
//! * **Kept and gone on from.** [`score::Scores`], [`plan::Plan`] and [`report::Report`] are plain data (serde):
//!   [`Pruner::with_scores`] and [`session::Scored::with_plan`] go on from where an earlier process ended.
//! * **Time.** [`Pruner::measure`] finds out how long the model takes by its sizes, and [`plan::Budgets::and_latency`] is a budget of
//!   that; [`latency::Stopwatch`] is what tells times, and [`latency::Table`] keeps them.
//! * **Progress, warnings, cancellation.** [`session::Builder::on_progress`] hears of stages and of [`Warning`]s, which have codes;
//!   [`Cancel`] stops the work at the next run of a model. The library prints nothing.
//! * **Errors** are enums with a sentence that says what to do. Nothing panics on what a file or an array holds.
//! * **Determinism.** The same input, seed and number of threads give the same bytes.
//!
//! # Features
//!
//! `cli` (by default) is the program; `default-features = false` leaves out what it alone needs.

pub mod calibration;
pub mod catalog;
#[cfg(feature = "cli")]
pub mod cli;
mod clock;
pub mod compare;
mod error;
pub mod fold;
pub mod gate;
pub mod gradient;
pub mod graph;
mod hash;
pub mod inspect;
pub mod latency;
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
pub mod positions;
pub mod recover;
pub mod reduction;
mod refusal;
pub mod report;
pub mod rewrite;
pub mod rotate;
mod run;
pub mod runtime;
pub mod score;
pub mod session;
pub mod settings;
pub mod staging;
pub mod stats;
pub mod sweep;
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
