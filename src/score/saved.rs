//! Scores on disk: what they were made of stands beside them, and is checked before anything is planned by them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    score::{Method, Scores},
    settings::{SettingValues, shown},
    staging::{self, WriteError},
    trajectory::SaidOutput,
    typing::Granularity,
};

/// The version of the format (`docs/scores.schema.json`). It is raised when a field changes its meaning.
const VERSION: u32 = 2;

/// What scores were made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The scorer.
    pub score: Method,
    /// The values of all its settings, and of no others.
    pub settings: SettingValues,
    /// What outputs hold, where that was said.
    #[serde(default)]
    pub said_outputs: Vec<SaidOutput>,
    /// The units that attention loses.
    pub granularity: Granularity,
    /// Whether the order was found in which units go when the weights are refitted.
    pub refit: bool,
    /// SHA-256 of the model, its weights included.
    pub model: String,
    /// Where the calibration samples came from; for people.
    pub calibration: String,
    /// SHA-256 of what the samples hold.
    pub calibration_sha256: String,
    /// Number of samples.
    pub samples: usize,
    /// Seed of every random choice.
    pub seed: u64,
}

/// Scores of an earlier run, and what the user says of them, where it is said.
#[derive(Clone, Debug, Default)]
pub struct SavedScores {
    /// The file.
    pub path: PathBuf,
    /// The scorer that is to have made them.
    pub method: Option<Method>,
    /// With this seed.
    pub seed: Option<u64>,
    /// The settings that it is to have had, as far as they are said.
    pub settings: SettingValues,
}

/// What scores depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum ScoreInput {
    Model,
    Data,
    Method,
    Seed,
    /// A setting of the scorer, by its name.
    Setting(String),
    Granularity,
    Outputs,
    Recovery,
}

impl fmt::Display for ScoreInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "the model (SHA-256)",
            Self::Data => "the calibration data",
            Self::Method => "the method",
            Self::Seed => "the seed",
            Self::Setting(name) => return write!(f, "the setting `{name}`"),
            Self::Granularity => "the granularity of attention",
            Self::Outputs => "what outputs hold",
            Self::Recovery => "the recovery that scores are made for",
        })
    }
}

/// Why saved scores are not planned by.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SavedError {
    /// The file could not be read.
    #[error("cannot read the scores in `{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// There is a folder, a device or a pipe.
    #[error("`{path}` is not a regular file, so no scores can be read from it")]
    NotAFile { path: PathBuf },
    /// The file holds something else.
    #[error("`{path}` does not hold saved scores: {source}")]
    Format { path: PathBuf, source: serde_json::Error },
    /// The file is of another version of this program.
    #[error(
        "the scores in `{path}` have format version {found}, and this program reads {VERSION}: score anew"
    )]
    Version { path: PathBuf, found: u32 },
    /// They were made otherwise than this run would make them.
    #[error(
        "the scores in `{path}` do not fit: {what} was {theirs} when they were made, and is {ours} now; give what was given \
         then, or score anew"
    )]
    Differs { path: PathBuf, what: ScoreInput, theirs: String, ours: String },
}

/// Writes scores to `path`, where what stands there stays whole until they are written.
pub(crate) fn write(scores: &Scores, path: &Path) -> Result<(), WriteError> {
    #[derive(Serialize)]
    struct File<'a> {
        schema_version: u32,
        #[serde(flatten)]
        scores: &'a Scores,
    }
    let failed = |error| WriteError::Io { path: path.into(), source: io::Error::other(error) };
    let text = serde_json::to_vec(&File { schema_version: VERSION, scores }).map_err(failed)?;
    staging::write(path, &text)
}

impl SavedScores {
    /// Reads the scores.
    ///
    /// # Errors
    /// When the file cannot be read, is of another version, or contradicts what the user says of it.
    pub fn read(&self) -> Result<Scores, SavedError> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default, alias = "version")]
            schema_version: u32,
            // So that nothing but an object is read: a list of one number is no version.
            #[serde(flatten)]
            _rest: serde::de::IgnoredAny,
        }
        let path = || self.path.clone();
        let format = |source| SavedError::Format { path: path(), source };
        let io = |source| SavedError::Io { path: path(), source };
        // A pipe would wait for a writer, and a device may have no end.
        if !fs::metadata(&self.path).map_err(io)?.is_file() {
            return Err(SavedError::NotAFile { path: path() });
        }
        let text = fs::read_to_string(&self.path).map_err(io)?;
        match serde_json::from_str::<Head>(&text).map_err(format)?.schema_version {
            VERSION => {}
            found => return Err(SavedError::Version { path: path(), found }),
        }
        let scores: Scores = serde_json::from_str(&text).map_err(format)?;
        let made = &scores.made;
        self.same(ScoreInput::Method, &made.score, self.method.as_ref())?;
        for (name, ours) in self.settings.iter() {
            let theirs = made.settings.given(name).map_or_else(|| "unused".to_owned(), shown);
            self.same(ScoreInput::Setting(name.to_owned()), &theirs, Some(&shown(ours)))?;
        }
        self.same(ScoreInput::Seed, &made.seed, self.seed.as_ref())?;
        Ok(scores)
    }

    /// Checks that scores made of `theirs` are those that this run would plan by. `rotated` says that heads have been rotated,
    /// which depends on the samples.
    ///
    /// # Errors
    /// The first difference that matters.
    pub fn check(&self, theirs: &Provenance, ours: &Provenance, rotated: bool) -> Result<(), SavedError> {
        self.same(ScoreInput::Model, &theirs.model, Some(&ours.model))?;
        self.same(ScoreInput::Granularity, &theirs.granularity, Some(&ours.granularity))?;
        let said_outputs = |made: &Provenance| {
            let said: Vec<String> = made.said_outputs.iter().map(ToString::to_string).collect();
            if said.is_empty() { "not given".to_owned() } else { said.join(", ") }
        };
        let said = (!ours.said_outputs.is_empty()).then(|| said_outputs(ours));
        self.same(ScoreInput::Outputs, &said_outputs(theirs), said.as_ref())?;
        let recover = |made: &Provenance| if made.refit { "refit" } else { "another" };
        if ours.refit && theirs.score.orders(&theirs.settings) {
            self.same(ScoreInput::Recovery, &recover(theirs), Some(&recover(ours)))?;
        }
        let data = |made: &Provenance| {
            let digits = made.calibration_sha256.get(..16).unwrap_or(&made.calibration_sha256);
            format!("{} samples of {} (SHA-256 {digits}…)", made.samples, made.calibration)
        };
        let matters = rotated || theirs.score.needs_data();
        if matters && theirs.calibration_sha256 != ours.calibration_sha256 {
            return self.same(ScoreInput::Data, &data(theirs), Some(&data(ours)));
        }
        Ok(())
    }

    /// An error unless both are the same, where there is something to compare with.
    fn same<T: PartialEq + fmt::Display>(
        &self,
        what: ScoreInput,
        theirs: &T,
        ours: Option<&T>,
    ) -> Result<(), SavedError> {
        match ours.filter(|ours| *ours != theirs) {
            None => Ok(()),
            Some(ours) => Err(SavedError::Differs {
                path: self.path.clone(),
                what,
                theirs: theirs.to_string(),
                ours: ours.to_string(),
            }),
        }
    }
}
