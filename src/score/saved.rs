//! Scores on disk: what they were made of stands beside them, and is checked before anything is planned by them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    score::{Method, Scores},
    staging::{self, WriteError},
    typing::Granularity,
};

/// The version of the format. It is raised when a field changes its meaning.
const VERSION: u32 = 1;

/// What scores were made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// How they were made.
    pub score: Method,
    /// Whether as the paper's released code makes them.
    pub paper_quirks: bool,
    /// Weight of the outputs.
    pub lambda: f64,
    /// The most probes per sample.
    pub probes: usize,
    /// Outputs that were said to hold logits.
    pub logits: Vec<String>,
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
    /// How they are to have been made.
    pub method: Option<Method>,
    /// With this weight of the outputs.
    pub lambda: Option<f64>,
    /// With at most this many probes per sample.
    pub probes: Option<usize>,
    /// With this seed.
    pub seed: Option<u64>,
    /// As the paper's released code makes them; if not, it is not said.
    pub paper_quirks: bool,
}

/// What scores depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Setting {
    Model,
    Data,
    Method,
    Lambda,
    Probes,
    Seed,
    PaperQuirks,
    Granularity,
    Logits,
    Recovery,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "the model (SHA-256)",
            Self::Data => "the calibration data",
            Self::Method => "the method",
            Self::Lambda => "the weight of the outputs (lambda)",
            Self::Probes => "the number of probes",
            Self::Seed => "the seed",
            Self::PaperQuirks => "whether scores have the quirks of the paper's code",
            Self::Granularity => "the granularity of attention",
            Self::Logits => "the list of outputs that hold logits",
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
    Differs { path: PathBuf, what: Setting, theirs: String, ours: String },
}

/// Writes scores to `path`, where what stands there stays whole until they are written.
pub(crate) fn write(scores: &Scores, path: &Path) -> Result<(), WriteError> {
    #[derive(Serialize)]
    struct File<'a> {
        version: u32,
        #[serde(flatten)]
        scores: &'a Scores,
    }
    let failed = |error| WriteError::Io { path: path.into(), source: io::Error::other(error) };
    let text = serde_json::to_vec(&File { version: VERSION, scores }).map_err(failed)?;
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
            #[serde(default)]
            version: u32,
        }
        let path = || self.path.clone();
        let format = |source| SavedError::Format { path: path(), source };
        let io = |source| SavedError::Io { path: path(), source };
        // A pipe would wait for a writer, and a device may have no end.
        if !fs::metadata(&self.path).map_err(io)?.is_file() {
            return Err(SavedError::NotAFile { path: path() });
        }
        let text = fs::read_to_string(&self.path).map_err(io)?;
        match serde_json::from_str::<Head>(&text).map_err(format)?.version {
            VERSION => {}
            found => return Err(SavedError::Version { path: path(), found }),
        }
        let scores: Scores = serde_json::from_str(&text).map_err(format)?;
        let made = &scores.made;
        self.same(Setting::Method, &made.score, self.method.as_ref())?;
        self.same(Setting::Lambda, &made.lambda, self.lambda.as_ref())?;
        self.same(Setting::Probes, &made.probes, self.probes.as_ref())?;
        self.same(Setting::PaperQuirks, &made.paper_quirks, self.paper_quirks.then_some(&true))?;
        self.same(Setting::Seed, &made.seed, self.seed.as_ref())?;
        Ok(scores)
    }

    /// Checks that scores made of `theirs` are those that this run would plan by. `turned` says that heads have been turned,
    /// which depends on the samples.
    ///
    /// # Errors
    /// The first difference that matters.
    pub fn check(&self, theirs: &Provenance, ours: &Provenance, turned: bool) -> Result<(), SavedError> {
        self.same(Setting::Model, &theirs.model, Some(&ours.model))?;
        self.same(Setting::Granularity, &theirs.granularity, Some(&ours.granularity))?;
        let logits = |made: &Provenance| match made.logits.is_empty() {
            true => "not given".to_owned(),
            false => made.logits.join(", "),
        };
        let said = (!ours.logits.is_empty()).then(|| logits(ours));
        self.same(Setting::Logits, &logits(theirs), said.as_ref())?;
        let recover = |made: &Provenance| if made.refit { "refit" } else { "another" };
        if ours.refit && theirs.score.orders() && !theirs.paper_quirks {
            self.same(Setting::Recovery, &recover(theirs), Some(&recover(ours)))?;
        }
        let data = |made: &Provenance| {
            let digits = made.calibration_sha256.get(..16).unwrap_or(&made.calibration_sha256);
            format!("{} samples of {} (SHA-256 {digits}…)", made.samples, made.calibration)
        };
        let matters = turned || theirs.score.needs_data();
        if matters && theirs.calibration_sha256 != ours.calibration_sha256 {
            return self.same(Setting::Data, &data(theirs), Some(&data(ours)));
        }
        Ok(())
    }

    /// An error unless both are the same, where there is something to compare with.
    fn same<T: PartialEq + fmt::Display>(
        &self,
        what: Setting,
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
