//! From the proven model to the file: recovery, staging, and the final gate.

use std::{ops::Range, path::Path};

use super::{Error, Options, Progress, Typed, describe};
use crate::{
    gate::{Gate, Gatekeeper},
    onnx::{self, Staged, proto::ModelProto},
    recover::{self, Recovered},
    report::{Clock, Report},
    runtime::Engine,
    warning::{Warning, WarningCode},
    widths::Kept,
};

/// Recovers a proven model, stages it, and tries what is staged. Where recovery fails there, it is undone,
/// and the proven model is staged and tried instead.
pub(super) struct Finish<'a> {
    pub engine: &'a dyn Engine,
    pub typed: &'a Typed,
    pub options: &'a Options,
    /// Where the file goes.
    pub output: &'a Path,
    /// The budget, as the file is to say it.
    pub budget: String,
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
            report.params.after += recovered.report.added;
            report.notes.extend(recovered.report.notes.iter().cloned());
            report.recovery = Some(recovered.report);
            match self.try_recovered(&keeper, recovered.model, report, &held_out, clock)? {
                Ok(file) => tried = Some(file),
                Err(why) => {
                    let message = format!("recovery was undone, and the model is as it was proven: {why}");
                    progress(Progress::Warn(Warning::new(WarningCode::RecoveryFailed, message)));
                    if let Some(recovery) = &mut report.recovery {
                        report.params.after -= std::mem::take(&mut recovery.added);
                        recovery.undone = true;
                    }
                }
            }
        }
        let (staged, gate) = match tried {
            Some(file) => file,
            None => self.stage(&keeper, proven.clone(), report, &held_out, clock)?,
        };
        report.gate = Some(gate);
        report.bytes.after = staged.bytes();
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
        let settings = self.options.recovery(self.options.recover_on(self.typed)?);
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
        mut model: ModelProto,
        report: &Report,
        held_out: &[Range<usize>],
        clock: &mut Clock,
    ) -> Result<(Staged, Gate), Error> {
        Gatekeeper::check_size(&model, self.typed.source.bytes)?;
        describe(&mut model, report, &self.budget, self.options);
        self.typed.source.packed.unpack(&mut model);
        let external = self.typed.source.external;
        let staged = clock.time("save", || onnx::stage(&model, self.output, external))?;
        drop(model);
        let (planned, logits) = (report.flops.after, &self.options.score.logits);
        let gate = clock.time("gate", || keeper.check(&staged.path(), planned, logits, held_out))?;
        Ok((staged, gate))
    }
}
