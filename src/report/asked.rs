//! What a run was asked for, as the report repeats it.

use serde::{Deserialize, Serialize};

use crate::{
    Options,
    plan::Budget,
    recover::Mode,
    runtime::{Provider, RuntimeChoice},
    score::Method,
    typing::{Granularity, Kind},
};

/// A budget as it was asked for, and what it comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AskedBudget {
    /// What is counted: `flops` or `params`.
    pub metric: String,
    /// The share of the dense model that may stay, where a share was asked for.
    pub share: Option<f64>,
    /// The most that the pruned model may have.
    pub target: u64,
}

impl AskedBudget {
    /// A budget for a dense model of some cost.
    pub fn new(metric: &str, budget: Budget, dense: u64) -> Self {
        let share = match budget {
            Budget::Share(share) => Some(share),
            Budget::Absolute(_) => None,
        };
        Self { metric: metric.to_owned(), share, target: budget.target(dense) }
    }
}

/// Seeds of random choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    /// Of the choice of samples, of made-up inputs, and of the positions that recovery measures.
    pub data: u64,
    /// Of the probes of a sketch, and of random scores.
    pub score: u64,
}

/// What a run was asked for beside its budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// Samples that were asked for; absent: all.
    pub samples: Option<usize>,
    /// Samples per run of the model.
    pub batch: usize,
    /// How units were to be scored.
    pub score: Method,
    /// Whether with the quirks of the paper's released code.
    pub paper_quirks: bool,
    /// Weight of the outputs.
    pub lambda: f64,
    /// The most probes per sample.
    pub probes: usize,
    /// Outputs that were said to hold logits.
    pub logits: Vec<String>,
    /// Outputs that were said to hold embeddings.
    #[serde(default)]
    pub embeddings: Vec<String>,
    /// The file of scores that was planned from.
    pub scores: Option<String>,
    /// Bytes that might be held beside the weights.
    pub memory: u64,
    /// The units that attention loses.
    pub granularity: Granularity,
    /// Kinds that might be pruned; empty: all.
    pub kinds: Vec<Kind>,
    /// Sizes stay in multiples of this.
    pub align: usize,
    /// The largest share of a layer that might go.
    pub max_prune: f64,
    /// Regular expressions of the names of layers that keep everything.
    pub keep: Vec<String>,
    /// Regular expressions of the names of layers that alone might be pruned; empty: all.
    pub only: Vec<String>,
    /// What recovery might change.
    pub recover: Mode,
    /// The ridge of recovery; absent: chosen per layer.
    pub ridge: Option<f64>,
    /// What was to run the model.
    pub runtime: RuntimeChoice,
    /// Where it was to compute.
    pub provider: Provider,
    /// Threads; 0: all cores.
    pub threads: usize,
}

impl Asked {
    /// What these options ask for.
    pub fn of(options: &Options) -> Self {
        let Options { score, limits, calibration, runtime, .. } = options;
        let patterns = |list: &[regex::Regex]| list.iter().map(ToString::to_string).collect();
        Self {
            dry_run: options.output.is_none(),
            samples: calibration.samples,
            batch: options.batch,
            score: score.method,
            paper_quirks: score.paper_quirks,
            lambda: score.lambda,
            probes: score.probes,
            logits: score.logits.clone(),
            embeddings: Vec::new(),
            scores: options.scores.as_ref().map(|saved| saved.path.display().to_string()),
            memory: score.memory.0,
            granularity: options.granularity,
            kinds: limits.kinds.clone(),
            align: limits.align,
            max_prune: limits.max_prune,
            keep: patterns(&limits.keep),
            only: patterns(&limits.only),
            recover: options.recover,
            ridge: options.ridge,
            runtime: runtime.runtime,
            provider: runtime.provider,
            threads: runtime.threads,
        }
    }
}

impl Seeds {
    /// The seeds that these options have.
    pub fn of(options: &Options) -> Self {
        Self { data: options.calibration.seed, score: options.score.seed }
    }
}
