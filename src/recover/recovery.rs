//! Ways to recover: the trait, and the list of those that there are. That nothing is corrected is the absence of one.

use super::{HeldOut, LayerRecovery, RecoverError, bias::BiasRecovery, refit::RefitRecovery};
use crate::{
    catalog::{Catalog, Choice, Entry},
    graph::{Facts, Graph},
    memory::MemoryBudget,
    model::ModelView,
    onnx::proto::ModelProto,
    runtime::Engine,
    settings::SettingValues,
    widths::Kept,
};

/// All recoveries.
static RECOVERIES: &[&dyn Recovery] = &[&BiasRecovery, &RefitRecovery];

/// A way to recover.
pub type Mode = Choice<dyn Recovery>;

/// What a recovery may look at.
#[derive(Clone, Copy)]
pub struct RecoverContext<'a> {
    /// What runs the models.
    pub engine: &'a dyn Engine,
    /// The dense model, typed, and its samples.
    pub view: ModelView<'a>,
    /// What the pruned model kept of it.
    pub kept: &'a Kept,
    /// The pruned model, as it was proven.
    pub pruned: &'a ModelProto,
    /// Its graph.
    pub graph: &'a Graph,
    /// What one run of it showed.
    pub facts: &'a Facts,
    /// The batches of samples, and which are held out.
    pub samples: &'a HeldOut,
    /// Whether parameters may be added, such as biases of layers that have none.
    pub grow: bool,
    /// Seed of every random choice.
    pub seed: u64,
    /// Bytes that may be held beside the models.
    pub memory: MemoryBudget,
}

/// The samples that a model is corrected by.
#[derive(Clone, Copy, Debug)]
pub enum Fit<'a> {
    /// Those that are not held out. What there is to choose, such as a strength of regularisation, is chosen on those that
    /// are; the whole will be judged on them.
    Trial,
    /// All of them, as a trial has chosen, whose layers these are.
    All(&'a [LayerRecovery]),
}

/// A corrected model.
#[derive(Clone, Debug)]
pub struct Corrected {
    /// The model. Its values have the shapes of the pruned model's.
    pub model: ModelProto,
    /// One entry per layer that was looked at, in the order of the network.
    pub layers: Vec<LayerRecovery>,
    /// What to know about it.
    pub notes: Vec<String>,
}

/// Corrects the numbers of a pruned model, so that it comes closer to the dense one.
///
/// Whether it does is not for the recovery to say: [`recover`](super::recover) compares the outputs of the trial with the
/// dense model's on samples that were held out, and undoes what is no improvement.
pub trait Recovery: Entry {
    /// Whether weights are corrected, so that units that stay take over for those that go. Then units go in the order of
    /// elimination, and scores are weighed by what elimination says is left of the loss.
    fn refits(&self) -> bool {
        false
    }

    /// The pruned model with its numbers corrected. It is asked twice: for a trial, and, if that is an improvement, for a model
    /// that is fitted to all samples. `progress` is told how much is done, of how much.
    ///
    /// # Errors
    /// When nothing could be corrected: a model does not run, or samples do not fit it. What goes wrong with a layer alone is
    /// an outcome of that layer.
    fn run(
        &self,
        cx: &RecoverContext<'_>,
        settings: &SettingValues,
        fit: Fit<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Corrected, RecoverError>;
}

impl Catalog for dyn Recovery {
    const ENTRY: &'static str = "a kind of recovery";

    fn entries() -> &'static [&'static Self] {
        RECOVERIES
    }
}

impl Default for Mode {
    fn default() -> Self {
        Self::of(&RefitRecovery)
    }
}
