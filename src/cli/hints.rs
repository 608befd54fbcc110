//! Which flags help against an error or a warning. The library does not know of flags: its messages say what is wrong, and
//! the program adds these lines.

use crate::{
    Error, Named, WarningCode,
    calibration::CalibrationError,
    gate::GateError,
    latency::LatencyError,
    model::TypeError,
    paths::{PathError, Role},
    plan::{Limit, ParseBudgetError, PlanError},
    recover::RecoverError,
    rotate::RotateError,
    runtime::RuntimeError,
    score::{SavedError, ScoreError, ScoreInput},
};

/// What flag to reach for, if one helps.
pub(super) fn of_error(error: &Error) -> Option<String> {
    match error {
        Error::Calibration(error) | Error::Type(TypeError::Calibration(error)) => of_calibration(error),
        Error::Runtime(error)
        | Error::Type(TypeError::Runtime(error))
        | Error::Score(ScoreError::Runtime(error)) => of_runtime(error),
        Error::Plan(error) | Error::Replan(error) => of_plan(error),
        Error::Latency(error) => of_latency(error),
        Error::Paths(error) => of_path(error),
        Error::Saved(error) => of_saved(error),
        Error::Type(TypeError::Synthetic { .. }) => {
            Some("--calib FILE gives data, --shape NAME=1x3x224x224 the shape of an input".into())
        }
        Error::Rotate(RotateError::Verify(_)) => Some("--granularity head prunes whole heads alone".into()),
        Error::Gate(GateError::Larger(_)) => {
            Some("--keep REGEX keeps layers as they are; --params 50% is a budget of parameters".into())
        }
        Error::Gate(GateError::Distance(RecoverError::Runtime(_))) => {
            Some("--recover off does without recovery".into())
        }
        _ => None,
    }
}

/// What flag to reach for, if one helps.
pub(super) fn of_warning(code: WarningCode) -> Option<&'static str> {
    match code {
        WarningCode::SyntheticData => Some("--calib FILE gives samples"),
        WarningCode::UnstableScores => {
            Some("--calib FILE and --samples N give samples; --probes N draws more probes")
        }
        WarningCode::RecoveryFailed => Some("--recover off does without recovery"),
        WarningCode::AssumedPreprocessing => Some(
            "--preprocess imagenet says that it is right; --preprocess size=224,mean=0.5,std=0.5,scale=1/255 says another",
        ),
        _ => None,
    }
}

fn of_calibration(error: &CalibrationError) -> Option<String> {
    match error {
        CalibrationError::NoData { .. } => {
            Some("--calib FILE gives samples; --synthetic makes inputs up all the same".into())
        }
        CalibrationError::UnknownRank { input } => Some(format!("--shape {input}=1x3x224x224 gives a shape")),
        CalibrationError::TooLarge { .. } => {
            Some("--samples N asks for fewer samples, --shape NAME=1x3x224x224 for a smaller shape".into())
        }
        CalibrationError::Preprocess(_) => Some(
            "--preprocess imagenet,size=224 gives a preset and settings, --preprocess FILE a configuration"
                .into(),
        ),
        CalibrationError::NoTokenizer { .. } => Some("--tokenizer FILE names one".into()),
        CalibrationError::Unsuitable { problem, .. } => of_calibration(problem),
        _ => None,
    }
}

fn of_runtime(error: &RuntimeError) -> Option<String> {
    let hint = match error {
        RuntimeError::NotFound { .. } => {
            "`optin-onnx runtime install` fetches ONNX Runtime; --ort-lib FILE names a library"
        }
        RuntimeError::LibraryMissing { .. } | RuntimeError::LibraryUnusable { .. } => {
            "--ort-lib FILE names a library; `optin-onnx runtime which` says where one is looked for"
        }
        RuntimeError::Install { .. } => "--ort-lib FILE names a library that is there already",
        RuntimeError::CudaUnavailable { .. } => {
            "--ort-lib FILE names a library; --provider cpu computes on the CPU"
        }
        RuntimeError::CudaOnTract => "--runtime ort takes ONNX Runtime; --provider cpu computes on the CPU",
        RuntimeError::OperatorOnTract { .. } => {
            "`optin-onnx runtime install` fetches ONNX Runtime; --runtime ort insists on it"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// What is written for a budget, and what flag to reach for instead, if one helps.
pub(super) fn of_budget(error: &ParseBudgetError) -> String {
    match error {
        ParseBudgetError::Several(_) => {
            format!("{error}; --save-scores FILE saves scores, --scores FILE plans from them")
        }
        _ => error.to_string(),
    }
}

/// The flag that sets a limit has its name.
fn flag(limit: Limit) -> String {
    format!("--{}", limit.name())
}

fn of_plan(error: &PlanError) -> Option<String> {
    match error {
        PlanError::Infeasible { held_by, .. } if !held_by.is_empty() => {
            let flags: Vec<String> = held_by.iter().map(|limit| flag(*limit)).collect();
            Some(format!("what holds it is {}", flags.join(", ")))
        }
        PlanError::Unmatched { limit, .. } => {
            Some(format!("`optin-onnx inspect` lists the names that {} can match", flag(*limit)))
        }
        _ => None,
    }
}

fn of_latency(error: &LatencyError) -> Option<String> {
    let hint = match error {
        LatencyError::Serving(_) => {
            "--serve NAME=1x3x224x224 gives the shape of an input when models are timed"
        }
        LatencyError::Table(_) => {
            "--latency-table names the file; without it, times are measured and not kept"
        }
        LatencyError::Merging => "--reduce widths prunes widths alone",
        LatencyError::OutOfReach { .. } => "--align, --max-prune, --keep, --only and --kinds say what may go",
        LatencyError::Missed { .. } => {
            "--latency-table keeps times from run to run: where they were taken beside other work, remove the file to measure anew"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn of_path(error: &PathError) -> Option<String> {
    let flags = |roles: &[Role]| {
        let flags: Vec<String> = roles.iter().filter_map(|role| of_role(*role)).collect();
        (!flags.is_empty()).then(|| flags.join("; "))
    };
    match error {
        PathError::InPlace { .. } => Some("--in-place lets the output replace the model".into()),
        PathError::Same { first, second, .. } => flags(&[*first, *second]),
        PathError::Dash { role }
        | PathError::Write { role, .. }
        | PathError::Foreign { role, .. }
        | PathError::Stream { role, .. }
        | PathError::Shared { role, .. } => flags(&[*role]),
    }
}

/// The flag that a path is given by; some need none.
fn of_role(role: Role) -> Option<String> {
    let flag = match role {
        Role::Scores => "--scores",
        Role::SavedScores => "--save-scores",
        Role::LatencyTable => "--latency-table",
        Role::Report => "--report",
        Role::Calibration => "--calib",
        Role::Model | Role::Weights | Role::Output => return None,
    };
    Some(format!("{flag} names {role}"))
}

fn of_saved(error: &SavedError) -> Option<String> {
    let SavedError::Differs { what, .. } = error else {
        return matches!(error, SavedError::Format { .. } | SavedError::Version { .. })
            .then(|| "--save-scores FILE writes scores".into());
    };
    let flag = match what {
        ScoreInput::Method => "--score",
        ScoreInput::Setting(name) => return Some(format!("set by --{name}")),
        ScoreInput::Seed => "--seed",
        ScoreInput::Granularity => "--granularity",
        ScoreInput::Outputs => "--logits and --embedding",
        ScoreInput::Recovery => "--recover",
        ScoreInput::Data => "--calib, --samples and --seed",
        _ => return None,
    };
    Some(format!("set by {flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Larger, calibration::Preprocessing, cli::command};

    /// The flags that a text names.
    fn flags(text: &str) -> Vec<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        words.filter_map(|word| word.strip_prefix("--")).map(str::to_owned).collect()
    }

    #[test]
    fn hints_name_flags_that_there_are() {
        let known: Vec<String> =
            command().get_arguments().filter_map(|a| a.get_long()).map(str::to_owned).collect();
        let saved = |what| {
            SavedError::Differs { path: "s".into(), what, theirs: String::new(), ours: String::new() }.into()
        };
        let limits = Limit::ALL.iter().map(|(limit, ..)| *limit).collect();
        let plan = PlanError::Infeasible {
            asked: 1,
            unit: "FLOPs",
            minimum: 2,
            share: 1.0,
            held_by: limits,
            why: String::new(),
        };
        let paths = PathError::Same { first: Role::Report, second: Role::SavedScores, path: "r".into() };
        let mut errors: Vec<Error> = vec![
            CalibrationError::NoData { inputs: String::new(), beside: None }.into(),
            CalibrationError::UnknownRank { input: "x".into() }.into(),
            CalibrationError::NoTokenizer { path: "t".into() }.into(),
            CalibrationError::Preprocess("size=0".parse::<Preprocessing>().unwrap_err()).into(),
            RuntimeError::CudaOnTract.into(),
            RuntimeError::OperatorOnTract { op: "Relu".into() }.into(),
            TypeError::Synthetic { fed: String::new(), source: RuntimeError::CudaOnTract }.into(),
            PathError::InPlace { path: "m".into() }.into(),
            GateError::Larger(Larger { found: 2, dense: 1 }).into(),
            plan.into(),
            paths.into(),
        ];
        errors.extend(
            [
                ScoreInput::Method,
                ScoreInput::Setting("lambda".into()),
                ScoreInput::Data,
                ScoreInput::Recovery,
            ]
            .map(saved),
        );
        let hints: Vec<String> = errors.iter().map(|error| of_error(error).unwrap()).collect();
        let warnings = WarningCode::ALL.iter().filter_map(|(code, ..)| of_warning(*code)).map(str::to_owned);
        for hint in hints.into_iter().chain(warnings) {
            let named = flags(&hint);
            assert!(!named.is_empty() && named.iter().all(|flag| known.contains(flag)), "{hint}");
        }
    }
}
