//! From the proven model to the file: recovery, the final gate on what is to be written, and the report.

use std::{ops::Range, path::Path};

use super::{Applied, Progress, Scored};
use crate::{
    Error,
    gate::{Gate, GateError, Gatekeeper},
    latency::Round,
    memory,
    onnx::{
        self, OnnxError, Source, Staged,
        proto::{ModelProto, StringStringEntryProto},
    },
    plan::{Bounds, Budgets, CostModel, Flops, Plan},
    positions::merge::{self, MergeRefusal, Merged, Merging},
    recover::{self, Mode, RecoverError, RecoverOptions, RecoveryReport},
    refusal::Larger,
    report::{self, Asked, AskedBudget, Change, LatencyReport, Memory, Report, Seeds},
    settings::SettingValues,
    trajectory::SaidOutput,
    typing::Dimensions,
    warning::{Warning, WarningCode},
};

/// How far recovery may come out worse in the end than the trial on which it was judged, as a share of what it gained there.
const SLACK: f64 = 0.25;

/// A session with a pruned model that is ready to be written.
pub struct Recovered<'s> {
    applied: Applied<'s>,
    /// The model with its weights corrected, and what was done; `None` where nothing was to be, or it failed as a whole.
    recovered: Option<(ModelProto, RecoveryReport)>,
    /// The batches of samples that judge it.
    held_out: Vec<Range<usize>>,
    /// What was asked for, if anything was.
    asked: Option<AskedRecovery>,
    /// What outputs hold, where that was said.
    said_outputs: Vec<SaidOutput>,
    warnings: Vec<Warning>,
}

impl<'s> Recovered<'s> {
    pub(super) fn unrecovered(applied: Applied<'s>) -> Self {
        Self {
            applied,
            recovered: None,
            held_out: Vec::new(),
            asked: None,
            said_outputs: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn new(applied: Applied<'s>, options: &RecoverOptions<'_>) -> Result<Self, Error> {
        let pruner = applied.scored.pruner;
        let &RecoverOptions { mode, seed, .. } = options;
        let asked = Some(AskedRecovery { mode, settings: options.settings.clone(), seed });
        let mut new =
            Self { asked, said_outputs: options.said_outputs.to_vec(), ..Self::unrecovered(applied) };
        if pruner.typed.is_synthetic() {
            return Ok(new);
        }
        pruner.monitor.tell(Progress::Stage("recover"));
        let applied = &new.applied;
        let view = pruner.typed.view_of(&applied.dimensions);
        let kept = applied.plan.kept(&pruner.typed.widths.table, view.dimensions);
        let mut tick = |done, total| pruner.monitor.tell(Progress::Layers { done, total });
        let recovered = pruner.clock.time("recover", || {
            recover::recover(&*pruner.engine, view, &kept, &applied.model, options, &mut tick)
        });
        let recovered = pruner.monitor.unless_cancelled(Ok::<_, Error>(recovered))?;
        if let Some(warning) = trouble(&recovered) {
            pruner.monitor.warn(&warning);
            new.warnings.push(warning);
        }
        if let Ok(recovered) = recovered {
            new.held_out = recovered.held_out;
            new.recovered = Some((recovered.model, recovered.report));
        }
        Ok(new)
    }

    /// Writes the model to a file, once it has passed the gate: read back from the disk, it runs, is finite, of the shapes that it
    /// declares, of the planned FLOPs, and as near to the dense model as recovery was judged by. What was there stays whole
    /// until then.
    ///
    /// # Errors
    /// When it cannot be written, or does not pass.
    pub fn save(self, path: impl AsRef<Path>) -> Result<Report, Error> {
        let (staged, report) = self.stage(path)?;
        staged.publish()?;
        Ok(report)
    }

    /// The same up to the last step: the file is complete, and is put in its place by [`Staged::publish`].
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn stage(self, path: impl AsRef<Path>) -> Result<(Staged, Report), Error> {
        let external = self.applied.scored.pruner.typed.source.external;
        self.finish(|model| onnx::stage(model, path.as_ref(), external))
    }

    /// The model as the bytes of a file, once they have passed the gate.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn to_bytes(self) -> Result<(Vec<u8>, Report), Error> {
        self.finish(|model| Ok(onnx::encode(model)))
    }

    /// The model as it is to be written, once it has passed the gate, and the report.
    fn finish<D: Draft>(
        self,
        write: impl Fn(&ModelProto) -> Result<D, OnnxError>,
    ) -> Result<(D, Report), Error> {
        let (pruner, budgets) = (self.applied.scored.pruner, self.applied.budgets.clone());
        pruner.monitor.tell(Progress::Stage("gate"));
        let finished = self.draft(write);
        let (draft, mut report) = pruner.monitor.unless_cancelled(finished)?;
        if budgets.latency().is_some() {
            report.bench = pruner.check_written(&budgets, &draft.reopen()?.model)?;
        }
        Ok((draft, report))
    }

    /// Drafts the model and tries the draft. Where recovery spoilt it, the model is drafted and tried as it was proven.
    fn draft<D: Draft>(
        self,
        write: impl Fn(&ModelProto) -> Result<D, OnnxError>,
    ) -> Result<(D, Report), Error> {
        let Self { applied, recovered, held_out, asked, said_outputs, mut warnings } = self;
        let pruner = applied.scored.pruner;
        let keeper = pruner.clock.time("gate", || pruner.gatekeeper())?;
        let desk =
            Desk { applied: &applied, keeper: &keeper, said_outputs: &said_outputs, held_out: &held_out };
        let mut recovery = None;
        let mut passed = None;
        if let Some((model, report)) = recovered {
            let undone = match desk.recovered(model, &report, &write)? {
                Ok(draft) => {
                    passed = Some(draft);
                    report.undone
                }
                Err(why) => {
                    let message = format!("recovery was undone, and the model is as it was proven: {why}");
                    let warning = Warning::new(WarningCode::RecoveryFailed, message);
                    pruner.monitor.warn(&warning);
                    warnings.push(warning);
                    true
                }
            };
            recovery = Some(RecoveryReport {
                added: if passed.is_some() { report.added } else { 0 },
                undone,
                ..report
            });
        }
        let (Opened { draft, sha256, merging }, gate) = match passed {
            Some(passed) => passed,
            None => desk.draft(applied.model.clone(), None, &write)?,
        };
        let Applied { scored, budgets, plan, rounds, dimensions, proof, warnings: frozen, .. } = applied;
        let mut report = report(scored, &budgets, &plan, &dimensions, &rounds);
        report.costs = report.costs.zip(&gate.costs, |change, &after| Change { after, ..*change });
        (report.output_sha256, report.merging) = (Some(sha256), merging);
        if let Some(AskedRecovery { mode, settings, seed }) = asked {
            (report.asked.recover, report.asked.recover_settings) = (Some(mode), settings);
            report.seeds.recovery = Some(seed);
        }
        report.notes.extend(recovery.iter().flat_map(|recovery| recovery.notes.clone()));
        report.warnings.extend(frozen.into_iter().chain(warnings));
        let (proof, gate, recovery) = (Some(proof), Some(gate), recovery.as_ref().map(Into::into));
        Ok((draft, Report { proof, gate, recovery, ..report }))
    }
}

/// The warning that recovery, or some layers' of it, failed.
fn trouble(recovered: &Result<recover::Recovered, RecoverError>) -> Option<Warning> {
    let message = match recovered {
        Ok(recovered) => {
            let mut failed = recovered.report.failed();
            let (layer, why) = failed.next()?;
            let others = failed.count();
            format!("{layer} and {others} other layers could not be recovered, and stay as proven: {why}")
        }
        Err(error) => format!("{error}; the model is as it was proven"),
    };
    Some(Warning::new(WarningCode::RecoveryFailed, message))
}

/// A model as it is about to be written.
trait Draft {
    /// What a reader will find.
    fn reopen(&self) -> Result<Source, OnnxError>;
    /// In bytes.
    fn size(&self) -> u64;
}

impl Draft for Staged {
    fn reopen(&self) -> Result<Source, OnnxError> {
        onnx::load(&self.path())
    }

    fn size(&self) -> u64 {
        self.bytes()
    }
}

impl Draft for Vec<u8> {
    fn reopen(&self) -> Result<Source, OnnxError> {
        onnx::read(self.clone())
    }

    fn size(&self) -> u64 {
        self.len() as u64
    }
}

/// A draft that was read back.
struct Opened<D> {
    draft: D,
    /// Of what was read, weights included.
    sha256: String,
    /// Which positions it merges.
    merging: Option<Merging>,
}

/// What recovery was asked for.
struct AskedRecovery {
    mode: Mode,
    settings: SettingValues,
    seed: u64,
}

/// Where drafts are made and tried.
struct Desk<'a> {
    applied: &'a Applied<'a>,
    keeper: &'a Gatekeeper<'a>,
    said_outputs: &'a [SaidOutput],
    held_out: &'a [Range<usize>],
}

impl Desk<'_> {
    /// A draft of the recovered model, or why it is not to be had: it does not pass the gate, or what all samples made of it is
    /// worse than the trial.
    fn recovered<D: Draft>(
        &self,
        model: ModelProto,
        report: &RecoveryReport,
        write: &impl Fn(&ModelProto) -> Result<D, OnnxError>,
    ) -> Result<Result<(Opened<D>, Gate), String>, Error> {
        let (draft, gate) = match self.draft(model, Some(report), write) {
            Ok(passed) => passed,
            Err(Error::Gate(error)) => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        // Merging positions has its own price, which is no fault of the recovery.
        if let (false, Some(distance), None) = (report.undone, gate.distance, &draft.merging) {
            let limit = report.after + SLACK * (report.before - report.after);
            if distance.is_nan() || distance > limit {
                return Ok(Err(format!("by all samples its distance is {distance:.2e}, beyond {limit:.2e}")));
            }
        }
        Ok(Ok((draft, gate)))
    }

    /// The model with its positions merged, as far as the budgets ask for.
    fn merged(&self, model: &ModelProto, bounds: &Bounds) -> Result<Merged, Error> {
        let Applied { scored, budgets, .. } = self.applied;
        let pruner = scored.pruner;
        let typed = pruner.typed.clone().replaced(&*pruner.engine, model.clone(), &pruner.clock)?;
        let refused = |reason| GateError::Merge { reason };
        let plan =
            merge::Plan::of(&*pruner.engine, typed.view()).map_err(|reason| refused(reason.to_string()))?;
        let flops = bounds.at_most(Flops.id()).unwrap_or(u64::MAX);
        let file_bytes = |model: &ModelProto| file_bytes(scored, budgets, model);
        let merged =
            plan.merge(&*pruner.engine, typed.view(), flops, &file_bytes).map_err(GateError::from)?;
        let merged = merged.ok_or_else(|| refused(MergeRefusal::Few.to_string()))?;
        if bounds.check(&merged.costs).is_err() {
            let found = merged.costs.get(Flops.id()).copied().unwrap_or_default();
            let reason =
                format!("merging as many as can be leaves {found} FLOPs where {flops} were asked for");
            return Err(refused(reason).into());
        }
        Ok(merged)
    }

    /// Drafts a model, and tries the draft.
    fn draft<D: Draft>(
        &self,
        mut model: ModelProto,
        recovery: Option<&RecoveryReport>,
        write: &impl Fn(&ModelProto) -> Result<D, OnnxError>,
    ) -> Result<(Opened<D>, Gate), Error> {
        let Applied { scored, budgets, bounds, plan, dimensions, .. } = self.applied;
        let pruner = scored.pruner;
        let source = &pruner.typed.source;
        let costs = pruner.costs(dimensions);
        let (mut planned, mut bounds, mut merging) = (costs.at(&plan.sizes()), bounds.clone(), None);
        if pruner.merges.is_some() {
            bounds = costs.ceilings(budgets);
            let merged = pruner.clock.time("merge", || self.merged(&model, &bounds))?;
            (model, planned, merging) = (merged.model, merged.costs, Some(merged.merging));
        }
        Larger::check(&model, source).map_err(GateError::from)?;
        let undescribed = model.metadata_props.clone();
        let mode = recovery.filter(|recovery| !recovery.undone).map(|recovery| recovery.mode);
        describe(&mut model, scored, budgets, mode);
        // A model of a few weights can gain less than its description takes.
        if Larger::check(&model, source).is_err() {
            model.metadata_props = undescribed;
        }
        source.packed.unpack(&mut model);
        let draft = pruner.clock.time("save", || write(&model))?;
        drop(model);
        let (sha256, gate) = pruner.clock.time("gate", || {
            let Source { model, sha256, .. } = draft.reopen().map_err(GateError::Onnx)?;
            let size = draft.size();
            let gate =
                self.keeper.check(&model, size, &planned, &bounds, self.said_outputs, self.held_out)?;
            Ok::<_, GateError>((sha256, gate))
        })?;
        Ok((Opened { draft, sha256, merging }, gate))
    }
}

/// What is known once there is a plan, for what is left of the dimensions.
pub(super) fn report(
    scored: &Scored<'_>,
    budgets: &Budgets,
    plan: &Plan,
    dimensions: &Dimensions,
    rounds: &[Round],
) -> Report {
    let pruner = scored.pruner;
    let typed = &pruner.typed;
    let costs = pruner.costs(dimensions);
    let predicted = costs.latency().map(|cost| cost.total(&plan.sizes()));
    let change = |&before: &u64, &minimum: &u64| Change { before, after: before, minimum };
    let planned = |change: &Change, &after: &u64| Change { after, ..*change };
    let changes = costs.dense().zip(&costs.least(), change).zip(&costs.at(&plan.sizes()), planned);
    let of_samples = typed.samples.notes().iter().map(ToString::to_string);
    let notes = of_samples.chain(scored.scores.notes.iter().cloned()).chain(pruner.notes.iter().cloned());
    let made = &scored.scores.made;
    Report {
        schema_version: report::SCHEMA_VERSION,
        command: None,
        budgets: AskedBudget::list(budgets, &costs),
        asked: Asked::of(&pruner.settings, made),
        seeds: Seeds { score: made.seed, recovery: None, data: None },
        output_sha256: None,
        calibration_sha256: typed.samples.sha256(),
        tool: format!("optin-onnx {}", env!("CARGO_PKG_VERSION")),
        source_sha256: typed.source.sha256.clone(),
        runtime: pruner.engine.describe(),
        calibration: typed.samples.origin().to_string(),
        synthetic: typed.is_synthetic(),
        samples: typed.samples.len(),
        score: scored.scores.made.score.to_string(),
        stability: scored.scores.stability,
        stages: pruner.clock.stages("forward"),
        memory: Memory { budget: pruner.settings.memory.0, peak: memory::peak() },
        costs: changes,
        unread: pruner.unread.clone(),
        merging: None,
        rotation: pruner.rotation.as_ref().map(Into::into),
        dimensions: Report::dimensions_of(plan, &costs, &scored.scores),
        pinned: dimensions.pinned.iter().map(Into::into).collect(),
        proof: None,
        gate: None,
        latency: LatencyReport::of(budgets, pruner.latency(), predicted, rounds),
        bench: None,
        recovery: None,
        warnings: pruner.warnings.iter().chain(&scored.warnings).cloned().collect(),
        notes: notes.collect(),
    }
}

/// A name of the file that is no shorter than most: external data are named after it.
const NAME: &str = "a-model-with-a-name-that-is-as-long-as-names-of-files-of-models-come.onnx";

/// How large the file of a pruned model will be, external data included.
pub(super) fn file_bytes(scored: &Scored<'_>, budgets: &Budgets, model: &ModelProto) -> u64 {
    let source = &scored.pruner.typed.source;
    let mut model = model.clone();
    let recovery = scored.pruner.refits().then_some(recover::REFIT);
    describe(&mut model, scored, budgets, recovery);
    source.packed.unpack(&mut model);
    onnx::written_bytes(&model, Path::new(NAME), source.external)
}

/// Notes in the model how it was made.
fn describe(model: &mut ModelProto, scored: &Scored<'_>, budgets: &Budgets, recovery: Option<Mode>) {
    let typed = &scored.pruner.typed;
    // Keys have to be distinct, and the model may have been pruned before.
    model.metadata_props.retain(|entry| !entry.key().starts_with("optin-onnx."));
    for (key, value) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("source_sha256", &typed.source.sha256),
        ("budget", &budgets.to_string()),
        ("score", &scored.scores.made.score.to_string()),
        ("recover", recovery.as_ref().map_or("off", |recovery| recovery.id())),
        ("calibration", if typed.is_synthetic() { "synthetic (noise)" } else { "data" }),
        ("seed", &scored.scores.made.seed.to_string()),
    ] {
        model.metadata_props.push(StringStringEntryProto {
            key: Some(format!("optin-onnx.{key}")),
            value: Some(value.to_owned()),
        });
    }
}
