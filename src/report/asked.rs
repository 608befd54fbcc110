//! What a run was asked for, as the report repeats it.

use serde::{Deserialize, Serialize};

use crate::{
    Settings,
    calibration::CalibrationOptions,
    plan::{Budget, Budgets, Costs},
    recover::Mode,
    runtime::{Provider, RuntimeChoice, RuntimeOptions},
    score::{Method, Provenance},
    settings::SettingValues,
    trajectory::SaidOutput,
    typing::{Granularity, Kind},
};

/// A budget as it was asked for, and what it comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AskedBudget {
    /// The id of the cost: `flops`, `params` or `bytes`.
    pub cost: String,
    /// The share of the dense model's cost that may stay, where a share was asked for.
    pub share: Option<f64>,
    /// The most that the pruned model may cost.
    pub target: u64,
}

impl AskedBudget {
    /// The budgets of a model of these costs.
    pub fn list(budgets: &Budgets, costs: &Costs<'_>) -> Vec<Self> {
        let share = |budget| match budget {
            Budget::Share(share) => Some(share),
            Budget::Absolute(_) => None,
        };
        let asked = budgets.iter().zip(costs.asked(budgets)).map(|((model, budget), asked)| Self {
            cost: model.id().to_owned(),
            share: share(budget),
            target: asked.at_most,
        });
        asked.collect()
    }
}

/// Seeds of random choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    /// Of the probes of a sketch, and of random scores.
    pub score: u64,
    /// Of the positions that recovery measures; absent without recovery.
    pub recovery: Option<u64>,
    /// Of the choice of samples and of made-up inputs; absent where the samples were given as they are.
    pub data: Option<u64>,
}

/// What was asked for beside the budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// How units are scored.
    pub score: Method,
    /// The settings of that, by name.
    pub score_settings: SettingValues,
    /// What outputs hold, where that was said.
    pub said_outputs: Vec<SaidOutput>,
    /// Samples per run of the model, at most.
    pub batch: usize,
    /// Bytes that each stage may hold beside the weights.
    pub memory: u64,
    /// The units that attention loses.
    pub granularity: Granularity,
    /// Kinds that may be pruned; empty: all.
    pub kinds: Vec<Kind>,
    /// Sizes stay in multiples of this.
    pub align: usize,
    /// The largest share of a layer that may go.
    pub max_prune: f64,
    /// Regular expressions of the names of layers that keep everything.
    pub keep: Vec<String>,
    /// Regular expressions of the names of layers that alone may be pruned; empty: all.
    pub only: Vec<String>,
    /// The recovery; absent without one, and for a dry run.
    pub recover: Option<Mode>,
    /// The settings of the recovery that were given, by name.
    pub recover_settings: SettingValues,
    /// The most samples to use; absent: all.
    pub samples: Option<usize>,
    /// What is to run the model; absent where the caller gave an engine.
    pub runtime: Option<RuntimeChoice>,
    /// Where it is to compute; absent where the caller gave an engine.
    pub provider: Option<Provider>,
    /// Threads, 0 for all cores; absent where the caller gave an engine.
    pub threads: Option<usize>,
    /// How images are made the input, where that was said.
    #[serde(default)]
    pub preprocess: Option<String>,
    /// The tokenizer that splits text, where it was named.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The most tokens of a text, where that was said.
    #[serde(default)]
    pub max_length: Option<usize>,
}

impl Asked {
    /// What a session with these settings and scores of this making is asked for.
    pub fn of(settings: &Settings, made: &Provenance) -> Self {
        let limits = &settings.limits;
        let patterns = |list: &[regex::Regex]| list.iter().map(ToString::to_string).collect();
        Self {
            score: made.score,
            score_settings: made.settings.clone(),
            said_outputs: made.said_outputs.clone(),
            batch: settings.batch,
            memory: settings.memory.0,
            granularity: settings.granularity,
            kinds: limits.kinds.clone(),
            align: limits.align,
            max_prune: limits.max_prune,
            keep: patterns(&limits.keep),
            only: patterns(&limits.only),
            recover: None,
            recover_settings: SettingValues::default(),
            samples: None,
            runtime: None,
            provider: None,
            threads: None,
            preprocess: None,
            tokenizer: None,
            max_length: None,
        }
    }

    /// The same, of a run that chooses its samples and its engine so.
    pub(crate) fn with(self, calibration: &CalibrationOptions, engine: &RuntimeOptions) -> Self {
        Self {
            samples: calibration.samples,
            runtime: Some(engine.runtime),
            provider: Some(engine.provider),
            threads: Some(engine.threads),
            preprocess: calibration.preprocess.as_ref().map(ToString::to_string),
            tokenizer: calibration.tokenizer.as_ref().map(|path| path.display().to_string()),
            max_length: calibration.max_length,
            ..self
        }
    }
}
