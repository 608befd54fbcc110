//! Running models: one trait, two engines. ONNX Runtime is loaded at run time; tract is compiled in.

mod error;
mod install;
pub mod locate;
mod ort;
mod scratch;
mod signature;
mod store;
mod tract;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

pub use error::RuntimeError;
pub use install::install;

use crate::{named::named, onnx::proto::ModelProto, tensor::Tensor};

/// Something that runs ONNX models.
pub trait Engine {
    /// For people: name, version and where it was found.
    fn describe(&self) -> String;

    /// Prepares `model` for repeated runs. All tensors are inside the protobuf (no external data). Outputs may lack a type.
    fn load(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError>;

    /// As [`Self::load`], with every optimisation that whoever deploys the model gets by default, faults of the runtime's
    /// included.
    fn load_as_deployed(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.load(model)
    }

    /// As [`Self::load_as_deployed`], to be timed: without what is done for the sake of small memory and of results that are the
    /// same on every machine.
    fn load_to_time(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.load_as_deployed(model)
    }

    /// What decides how long a model takes, beside the model and the processor: name, version, device and threads.
    fn speed_class(&self) -> String {
        self.describe()
    }

    /// Lets weights that are in memory be views of files, where sessions of this engine read them from files anyway. The model
    /// stays the same. Where a file cannot be written, they stay in memory, and [`Self::load`] will say why.
    fn spill_weights(&self, model: &mut ModelProto) {
        _ = model;
    }
}

/// A model made ready to run.
pub trait Session {
    /// Runs once. `inputs` are matched by name, all graph inputs must be there; returns one tensor per graph output, in
    /// the order of `graph.output`. A graph input that an initializer backs is a constant, and is not fed.
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, RuntimeError>;

    /// Runs so often on the same inputs, and says how long each run took, as far as can be told without what it takes to bring
    /// inputs and results over.
    fn time(&mut self, inputs: &[(String, Tensor)], runs: usize) -> Result<Vec<Duration>, RuntimeError> {
        let mut timed = || {
            let start = Instant::now();
            self.run(inputs)?;
            Ok(start.elapsed())
        };
        (0..runs).map(|_| timed()).collect()
    }
}

/// Which engine runs the models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// ONNX Runtime when a library is found, else tract.
    #[default]
    Auto,
    /// ONNX Runtime, loaded from a shared library.
    Ort,
    /// tract, compiled in; on the CPU, one thread.
    Tract,
}

/// Where ONNX Runtime computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Provider {
    /// CUDA when the library supports it and a device answers, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

named!(
    RuntimeChoice,
    "a runtime",
    [
        (Auto, "auto", "ONNX Runtime where its library is found, else tract."),
        (Ort, "ort", "ONNX Runtime, loaded from a shared library."),
        (Tract, "tract", "tract, which is compiled in; on the CPU, one thread."),
    ]
);

named!(
    Provider,
    "a place to compute",
    [
        (Auto, "auto", "CUDA where the library supports it and a device answers, else the CPU."),
        (Cpu, "cpu", "The CPU."),
        (Cuda, "cuda", "The first CUDA device."),
    ]
);

/// What [`open`] is to open.
#[derive(Clone, Debug, Default)]
pub struct RuntimeOptions {
    /// Which engine.
    pub runtime: RuntimeChoice,
    /// Where ONNX Runtime computes.
    pub provider: Provider,
    /// Threads within an operator; 0 means all cores that this process may use. tract always takes one.
    pub threads: usize,
    /// The ONNX Runtime library, in place of searching for one.
    pub ort_lib: Option<PathBuf>,
}

/// Opens the engine that `options` ask for.
///
/// # Errors
/// A choice that cannot be honoured is an error, never silently another engine or device. Only
/// [`RuntimeChoice::Auto`] without a CUDA demand and without a named library falls back to tract.
pub fn open(options: &RuntimeOptions) -> Result<Box<dyn Engine>, RuntimeError> {
    if options.runtime == RuntimeChoice::Tract {
        return match options.provider {
            Provider::Cuda => Err(RuntimeError::CudaOnTract),
            Provider::Auto | Provider::Cpu => Ok(Box::new(tract::Tract)),
        };
    }
    let search = locate::find(options.ort_lib.as_deref())?;
    match &search.library {
        Some(path) => Ok(Box::new(ort::Ort::open(path, options)?)),
        None if options.runtime == RuntimeChoice::Auto && options.provider != Provider::Cuda => {
            Ok(Box::new(tract::Tract))
        }
        None => Err(RuntimeError::NotFound { search }),
    }
}
