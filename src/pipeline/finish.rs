//! From the proven model to the file: recovery, staging, and the final gate.

use std::{ops::Range, path::Path};

use super::{Error, Options, Progress, Typed};
use crate::{
    gate::{Gate, GateError, Gatekeeper},
    onnx::{
        self, Source, Staged,
        proto::{ModelProto, StringStringEntryProto},
    },
    plan::{Bounds, PerCost},
    recover::{self, Mode, RecoverOptions, Recovered},
    report::{Change, Clock, Report},
    runtime::Engine,
    warning::{Warning, WarningCode},
    widths::Kept,
};

/// How models become files.
pub(super) struct Packaging<'a> {
    pub source: &'a Source,
    /// Whether the samples are made up.
    pub synthetic: bool,
    pub options: &'a Options,
    /// How units were scored.
    pub score: String,
}

impl Packaging<'_> {
    /// The model as it is written: it notes how it was made, and has typed elements where the dense file has them.
    fn pack(&self, mut model: ModelProto, recovery: Mode) -> ModelProto {
        // Keys have to be distinct, and the model may have been pruned before.
        model.metadata_props.retain(|entry| !entry.key().starts_with("optin-onnx."));
        for (key, value) in [
            ("version", env!("CARGO_PKG_VERSION")),
            ("source_sha256", &self.source.sha256),
            ("budget", &self.options.budgets.to_string()),
            ("score", &self.score),
            ("recover", &recovery.to_string()),
            ("calibration", if self.synthetic { "synthetic (noise)" } else { "data" }),
            ("seed", &self.options.calibration.seed.to_string()),
        ] {
            model.metadata_props.push(StringStringEntryProto {
                key: Some(format!("optin-onnx.{key}")),
                value: Some(value.to_owned()),
            });
        }
        self.source.packed.unpack(&mut model);
        model
    }

    /// How large the file of a pruned model will be, external data included.
    pub fn file_bytes(&self, model: &ModelProto, output: &Path) -> u64 {
        let recovery = if self.synthetic { Mode::Off } else { self.options.recover };
        onnx::written_bytes(&self.pack(model.clone(), recovery), output, self.source.external)
    }
}

/// Recovers a proven model, stages it, and tries what is staged. Where recovery fails there, it is undone,
/// and the proven model is staged and tried instead.
pub(super) struct Finish<'a> {
    pub engine: &'a dyn Engine,
    pub typed: &'a Typed,
    pub packaging: Packaging<'a>,
    /// Where the file goes.
    pub output: &'a Path,
    /// What the model was planned to cost.
    pub planned: PerCost<u64>,
    /// What it may cost.
    pub bounds: Bounds,
}

/// How far recovery may come out worse in the end than the trial on which it was judged, as a share of what it gained there.
const SLACK: f64 = 0.25;

impl Finish<'_> {
    /// The file, ready to be put in its place. Completes `report` by what was done and measured.
    pub fn run(
        &self,
        kept: &Kept,
        proven: &ModelProto,
        report: &mut Report,
        clock: &mut Clock,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Staged, Error> {
        let recovered = self.recover(kept, proven, clock, progress);
        progress(Progress::Stage("gate"));
        let view = self.typed.view();
        let keeper = clock.time("gate", || Gatekeeper::new(self.engine, view, view.facts.samples))?;
        let mut held_out = Vec::new();
        let mut tried = None;
        if let Some(recovered) = recovered {
            held_out = recovered.held_out;
            report.notes.extend(recovered.report.notes.iter().cloned());
            report.recovery = Some(recovered.report);
            match self.try_recovered(&keeper, recovered.model, report, &held_out, clock)? {
                Ok(file) => tried = Some(file),
                Err(why) => {
                    let message = format!("recovery was undone, and the model is as it was proven: {why}");
                    progress(Progress::Warn(Warning::new(WarningCode::RecoveryFailed, message)));
                    if let Some(recovery) = &mut report.recovery {
                        recovery.added = 0;
                        recovery.undone = true;
                    }
                }
            }
        }
        let (staged, gate) = match tried {
            Some(file) => file,
            None => self.stage(&keeper, proven.clone(), report, &held_out, clock)?,
        };
        report.costs = report.costs.zip(&gate.costs, |change, &after| Change { after, ..*change });
        report.gate = Some(gate);
        Ok(staged)
    }

    /// The recovered model; `None` where there is nothing to recover by, or it failed as a whole.
    fn recover(
        &self,
        kept: &Kept,
        proven: &ModelProto,
        clock: &mut Clock,
        progress: &mut dyn FnMut(Progress),
    ) -> Option<Recovered> {
        let options = self.packaging.options;
        let settings = RecoverOptions { mode: options.recover_on(self.typed), ..options.recovery() };
        if settings.mode == Mode::Off {
            return None;
        }
        progress(Progress::Stage("recover"));
        let mut tick = |done, total| progress(Progress::Layers { done, total });
        let recovered = clock.time("recover", || {
            recover::recover(self.engine, self.typed.view(), kept, proven, &settings, &mut tick)
        });
        let trouble = match &recovered {
            Ok(recovered) => {
                let mut failed = recovered.report.failed();
                let first = failed.next();
                first.map(|(layer, why)| {
                    let others = failed.count();
                    format!(
                        "{layer} and {others} other layers could not be recovered, and stay as proven: {why}"
                    )
                })
            }
            Err(error) => Some(format!("{error}; the model is as it was proven")),
        };
        if let Some(message) = trouble {
            progress(Progress::Warn(Warning::new(WarningCode::RecoveryFailed, message)));
        }
        recovered.ok()
    }

    /// The recovered model as a file, or why it is not to be had: it does not pass the gate, or what all samples made of it is
    /// worse than the trial.
    fn try_recovered(
        &self,
        keeper: &Gatekeeper<'_>,
        model: ModelProto,
        report: &Report,
        held_out: &[Range<usize>],
        clock: &mut Clock,
    ) -> Result<Result<(Staged, Gate), String>, Error> {
        let (staged, gate) = match self.stage(keeper, model, report, held_out, clock) {
            Ok(file) => file,
            Err(Error::Gate(error)) => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        if let (Some(recovery), Some(distance)) =
            (report.recovery.as_ref().filter(|r| !r.undone), gate.distance)
        {
            let limit = recovery.after + SLACK * (recovery.before - recovery.after);
            if distance.is_nan() || distance > limit {
                return Ok(Err(format!("by all samples its distance is {distance:.2e}, beyond {limit:.2e}")));
            }
        }
        Ok(Ok((staged, gate)))
    }

    /// Writes a model beside its place, and tries what was written.
    fn stage(
        &self,
        keeper: &Gatekeeper<'_>,
        model: ModelProto,
        report: &Report,
        held_out: &[Range<usize>],
        clock: &mut Clock,
    ) -> Result<(Staged, Gate), Error> {
        Gatekeeper::check_size(&model, self.typed.source.bytes)?;
        let recovery = report.recovery.as_ref().filter(|r| !r.undone).map_or(Mode::Off, |r| r.mode);
        let model = self.packaging.pack(model, recovery);
        let external = self.typed.source.external;
        let staged = clock.time("save", || onnx::stage(&model, self.output, external))?;
        drop(model);
        let logits = &self.packaging.options.score.logits;
        let check = || {
            let model = onnx::load(&staged.path()).map_err(GateError::Onnx)?.model;
            keeper.check(&model, staged.bytes(), &self.planned, &self.bounds, logits, held_out)
        };
        let gate = clock.time("gate", check)?;
        Ok((staged, gate))
    }
}
