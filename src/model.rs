//! A typed model: the file, its graph, and what is known of its axes.

use std::{path::Path, sync::Arc};

use crate::{
    calibration::{self, CalibrationError, CalibrationOptions, Origin, Samples},
    clock::Clock,
    fold,
    graph::{Facts, Graph, drop_dead},
    memory::{Bytes, MemoryBudget},
    onnx::{Packed, Source, proto::ModelProto},
    plan::{CostView, Costs, Limits, PerCost},
    runtime::{Engine, RuntimeError},
    stats::DenseValues,
    tensor::Tensor,
    typing::{self, Dimension, Dimensions, Granularity},
    widths::Widths,
};

/// What the stages after typing see of a model.
#[derive(Clone, Copy)]
pub struct ModelView<'a> {
    /// The model.
    pub model: &'a ModelProto,
    /// Its graph.
    pub graph: &'a Graph,
    /// What one run showed.
    pub facts: &'a Facts,
    /// The width of every axis.
    pub widths: &'a Widths,
    /// What can be pruned.
    pub dimensions: &'a [Dimension],
    /// Calibration samples.
    pub samples: &'a Samples,
    /// Samples per run.
    pub batch: usize,
    /// Values of the model that are kept from stage to stage.
    pub values: &'a DenseValues,
}

/// A loaded and typed model, with all that later stages need.
#[derive(Clone, Debug)]
pub struct Typed {
    /// The file.
    pub source: Source,
    /// Its graph.
    pub graph: Graph,
    /// What one run showed.
    pub facts: Facts,
    /// The width of every axis.
    pub widths: Widths,
    /// What can be pruned.
    pub dimensions: Dimensions,
    /// Calibration samples.
    pub samples: Samples,
    /// Samples per run.
    pub batch: usize,
    granularity: Granularity,
    values: DenseValues,
    /// What the file's model costs, where this one does with less.
    input_costs: Option<PerCost<u64>>,
}

/// Why a model could not be typed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypeError {
    /// A constant that the file computes asks for too much.
    #[error(transparent)]
    TooLarge(#[from] fold::TooLarge),
    /// The samples do not suit the model.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The runtime failed for a reason of its own.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model could not be run on inputs that were made up.
    #[error(
        "the model does not run on made-up inputs, of which it was fed {fed}: {source}; give data, or other shapes of the inputs"
    )]
    Synthetic {
        /// Names and shapes of what it was fed.
        fed: String,
        /// What the runtime said.
        source: RuntimeError,
    },
    /// The model could not be run on the samples that were given.
    #[error("the model does not run on the calibration data, of which it was fed {fed}: {source}")]
    Unfit {
        /// Names and shapes of what it was fed.
        fed: String,
        /// What the runtime said.
        source: RuntimeError,
    },
}

/// Samples for a model: arrays that the caller holds, files that are read, or whatever else gives samples.
#[derive(Clone, Debug)]
pub enum SampleInput {
    /// One array per input of the model, by its name, samples along the first axis.
    Arrays(Vec<(String, Tensor)>),
    /// Files, or inputs that are made up.
    Files(CalibrationOptions),
    /// Samples that the caller reads, as they are asked for.
    Source(Arc<dyn calibration::Source>),
}

impl From<Vec<(String, Tensor)>> for SampleInput {
    fn from(arrays: Vec<(String, Tensor)>) -> Self {
        Self::Arrays(arrays)
    }
}

impl From<CalibrationOptions> for SampleInput {
    fn from(options: CalibrationOptions) -> Self {
        Self::Files(options)
    }
}

impl From<Arc<dyn calibration::Source>> for SampleInput {
    fn from(source: Arc<dyn calibration::Source>) -> Self {
        Self::Source(source)
    }
}

impl SampleInput {
    /// The samples, for a model that was read from `path`.
    fn load(self, model: &ModelProto, path: Option<&Path>) -> Result<Samples, CalibrationError> {
        match self {
            Self::Arrays(arrays) => Samples::new(model, arrays),
            Self::Files(options) => calibration::load(model, path, &options),
            Self::Source(source) => Samples::from_source(model, source),
        }
    }
}

impl Typed {
    /// Folds the constants of a model, loads its samples, observes two of them, and types every axis. `path` is where the model
    /// was read from, if it was: data that lie beside it are found from there. At most `batch` samples are run at a time.
    ///
    /// # Errors
    /// When a constant is too large, the samples do not suit the model, or the model does not run on them.
    pub fn new(
        engine: &dyn Engine,
        mut source: Source,
        path: Option<&Path>,
        samples: SampleInput,
        batch: usize,
        granularity: Granularity,
        clock: &Clock,
    ) -> Result<Self, TypeError> {
        source.packed = Packed::pack(&mut source.model);
        // What the runtime cannot fold stays computed, and is observed with everything else.
        if let Ok(folded) = clock.time("fold", || fold::fold(engine, &source.model)) {
            source.model = folded;
        }
        fold::check_sizes(&source.model)?;
        // What no output needs costs nothing, as runtimes leave it out.
        drop_dead(&mut source.model);
        let mut samples = samples.load(&source.model, path)?;
        if let Some(batch) = clock.time("batch", || typing::fixed_batch(engine, &source.model, &samples))? {
            samples.fix_batch(batch)?;
        }
        Self::infer(engine, source, samples, batch, granularity, clock)
    }

    /// Observes a model on two samples, and types it.
    fn infer(
        engine: &dyn Engine,
        source: Source,
        samples: Samples,
        batch: usize,
        granularity: Granularity,
        clock: &Clock,
    ) -> Result<Self, TypeError> {
        let graph = Graph::new(&source.model);
        // Two samples tell the batch axis from axes of extent one.
        let first = samples.ranges(2).next().unwrap_or(0..1);
        let feed = samples.batch(first.start, first.end)?;
        let observed =
            clock.time("observe", || typing::observe(engine, &source.model, &graph, &feed, first.len()));
        let facts = observed.map_err(|source| match (samples.origin(), &source) {
            (Origin::Synthetic, RuntimeError::Run { .. }) => {
                TypeError::Synthetic { fed: shapes(&feed), source }
            }
            (_, RuntimeError::Run { .. }) => TypeError::Unfit { fed: shapes(&feed), source },
            _ => TypeError::Runtime(source),
        })?;
        let batched = typing::batched_inputs(&graph, &samples);
        let (widths, dimensions) = clock.time("type", || {
            let widths = typing::infer(&graph, &facts, &batched);
            let dimensions = typing::dimensions(&graph, &widths, granularity);
            (widths, dimensions)
        });
        Ok(Self {
            source,
            graph,
            facts,
            widths,
            dimensions,
            samples,
            batch,
            granularity,
            values: DenseValues::default(),
            input_costs: None,
        })
    }

    /// Another model in the place of this one, with the same samples: typed anew.
    pub(crate) fn replaced(
        self,
        engine: &dyn Engine,
        model: ModelProto,
        clock: &Clock,
    ) -> Result<Self, TypeError> {
        let Self { source, samples, batch, granularity, input_costs, .. } = self;
        let typed = Self::infer(engine, Source { model, ..source }, samples, batch, granularity, clock)?;
        Ok(Self { input_costs, ..typed })
    }

    /// Another model in the place of the file's, which costs `input`.
    pub(crate) fn made_of(mut self, input: PerCost<u64>) -> Self {
        self.input_costs = Some(input);
        self
    }

    /// Takes at most as many samples per run as half the memory holds of their values, the other half being for what is made of
    /// them; a note where one sample takes more.
    pub(crate) fn fit_batch(&mut self, memory: MemoryBudget) -> Option<String> {
        let (half, sample) = (memory.share(2), self.facts.live_per_sample(&self.graph));
        self.batch = half.count(sample).min(self.batch);
        (!half.holds(sample)).then(|| {
            let needed = Bytes(sample);
            format!("the values of one sample take {needed}, more than half of the memory budget ({memory})")
        })
    }

    /// What the model costs, and the least that `limits` let it be brought to.
    pub fn costs<'a>(&'a self, limits: &'a Limits) -> Costs<'a> {
        self.costs_of(&self.dimensions, limits)
    }

    /// The same, with other dimensions to prune.
    pub(crate) fn costs_of<'a>(&'a self, dimensions: &'a Dimensions, limits: &'a Limits) -> Costs<'a> {
        let view = CostView::new(self.view_of(dimensions), self.source.bytes);
        Costs::new(&view, dimensions, limits).of_input(self.input_costs.clone())
    }

    /// Keeps values of the model from now on, as many bytes as `memory` has.
    pub(crate) fn keep_values(&mut self, memory: MemoryBudget) {
        self.values = DenseValues::new(memory);
    }

    /// The units that attention loses.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Whether the samples are made up.
    pub fn is_synthetic(&self) -> bool {
        matches!(self.samples.origin(), Origin::Synthetic)
    }

    /// What later stages see of it.
    pub fn view(&self) -> ModelView<'_> {
        self.view_of(&self.dimensions)
    }

    /// The same, with other dimensions to prune.
    pub(crate) fn view_of<'a>(&'a self, dimensions: &'a Dimensions) -> ModelView<'a> {
        ModelView {
            model: &self.source.model,
            graph: &self.graph,
            facts: &self.facts,
            widths: &self.widths,
            dimensions: &dimensions.prunable,
            samples: &self.samples,
            batch: self.batch,
            values: &self.values,
        }
    }
}

/// Names and shapes of what a model is fed.
fn shapes(feed: &[(String, Tensor)]) -> String {
    let shapes = feed.iter().map(|(name, tensor)| format!("`{name}` {:?}", tensor.shape()));
    shapes.collect::<Vec<_>>().join(", ")
}
