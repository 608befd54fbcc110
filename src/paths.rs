//! The paths of a run, checked before any work is done: what is written can be written, is what the user means to
//! replace, and is nothing that the run reads or writes otherwise.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    onnx::{self, regular::identity},
    staging::{self, WriteError},
};

/// What a path of a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    /// The dense model.
    Model,
    /// A file of weights that the dense model refers to.
    Weights,
    Calibration,
    /// Scores that are read.
    Scores,
    /// The pruned model.
    Output,
    /// Scores that are written.
    SavedScores,
    /// Times that are kept from run to run.
    LatencyTable,
    Report,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "the model",
            Self::Weights => "the weights of the model",
            Self::Calibration => "the calibration data",
            Self::Scores => "the scores",
            Self::Output => "the output",
            Self::SavedScores => "the scores to be saved",
            Self::LatencyTable => "the latency table",
            Self::Report => "the report",
        })
    }
}

/// What is wrong with a path.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PathError {
    /// There is no way to write to the terminal or a pipe.
    #[error("{role} cannot be written to `-`: name a file")]
    Dash { role: Role },
    /// It cannot be written.
    #[error("{role}: {source}")]
    Write { role: Role, source: WriteError },
    /// Two paths lead to one file.
    #[error("{first} and {second} are one file, `{path}`: give them different paths")]
    Same { first: Role, second: Role, path: PathBuf },
    /// The shell has redirected a standard stream to it, or it is a name of such a stream.
    #[error(
        "{role} would replace `{path}`, which is the standard input, output or error of this program: name another file"
    )]
    Stream { role: Role, path: PathBuf },
    /// The output is the input.
    #[error("the output `{path}` is the model itself, which is replaced only where that is asked for")]
    InPlace { path: PathBuf },
    /// Something else would be replaced.
    #[error("{role} would replace `{path}`, which is not {expected}: remove it first, or name another file")]
    Foreign { role: Role, path: PathBuf, expected: &'static str },
    /// A file that is read belongs to the model that would be replaced, and would go with it.
    #[error(
        "the output would replace a model whose weights `{path}` go with it, and they are {role} too: name another output"
    )]
    Shared { role: Role, path: PathBuf },
}

/// What a run reads and writes.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// Files and folders that are read.
    pub reads: Vec<(Role, PathBuf)>,
    /// Files that are written.
    pub writes: Vec<(Role, PathBuf)>,
    /// Whether the output may replace the model.
    pub in_place: bool,
}

impl Paths {
    /// Checks all paths; nothing is left behind. What is read is not checked for being readable: its reader says more.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), PathError> {
        let mut reads = self.reads.clone();
        for (_, model) in self.reads.iter().filter(|(role, _)| *role == Role::Model) {
            reads.extend(onnx::weight_files(model).into_iter().map(|file| (Role::Weights, file)));
        }
        for (i, (role, path)) in self.writes.iter().enumerate() {
            self.check_identity(*role, path, &reads, self.writes.get(..i).unwrap_or_default())?;
            check_target(*role, path)?;
            if *role == Role::Output {
                check_weights(path, &reads)?;
            }
        }
        Ok(())
    }

    /// Refuses a path that leads to a file which is read or written otherwise.
    fn check_identity(
        &self,
        role: Role,
        path: &Path,
        reads: &[(Role, PathBuf)],
        earlier: &[(Role, PathBuf)],
    ) -> Result<(), PathError> {
        let Some((other, _)) = reads.iter().chain(earlier).find(|(_, other)| same_file(path, other)) else {
            return Ok(());
        };
        match (role, *other) {
            (Role::Output, Role::Model) if self.in_place => Ok(()),
            (Role::Output, Role::Model) => Err(PathError::InPlace { path: path.into() }),
            (first, second) => Err(PathError::Same { first, second, path: path.into() }),
        }
    }
}

/// Refuses what cannot be written, or would replace something of another kind.
fn check_target(role: Role, path: &Path) -> Result<(), PathError> {
    if path == Path::new("-") {
        return Err(PathError::Dash { role });
    }
    staging::check(path).map_err(|source| PathError::Write { role, source })?;
    let there = fs::metadata(path).ok();
    if there.is_some_and(|there| streams().iter().any(|stream| same_metadata(&there, stream))) {
        return Err(PathError::Stream { role, path: path.into() });
    }
    let expected = match role {
        // An empty file holds nothing to lose: scripts make them to reserve a name.
        _ if fs::metadata(path).map_or(true, |found| found.len() == 0) => return Ok(()),
        Role::Output if onnx::is_model(path) => return Ok(()),
        Role::Output => "an ONNX model",
        Role::Report if is_page(path) => return Ok(()),
        Role::Report if ends_as_page(path) => "an HTML page",
        _ if is_json(path).unwrap_or(false) => return Ok(()),
        _ => "a JSON object",
    };
    Err(PathError::Foreign { role, path: path.into(), expected })
}

/// What the standard streams are. Where they are files, `/dev/stdout` is a link to one, and would be replaced like any other.
#[cfg(unix)]
fn streams() -> Vec<fs::Metadata> {
    use std::os::fd::AsFd;
    let streams = [
        io::stdin().as_fd().try_clone_to_owned(),
        io::stdout().as_fd().try_clone_to_owned(),
        io::stderr().as_fd().try_clone_to_owned(),
    ];
    streams.into_iter().flatten().filter_map(|stream| fs::File::from(stream).metadata().ok()).collect()
}

/// Streams have no names here.
#[cfg(not(unix))]
fn streams() -> Vec<fs::Metadata> {
    Vec::new()
}

/// Refuses an output whose weights, which go with it, are read by the run.
fn check_weights(output: &Path, reads: &[(Role, PathBuf)]) -> Result<(), PathError> {
    if reads.iter().any(|(role, path)| *role == Role::Model && same_file(output, path)) {
        return Ok(());
    }
    for file in onnx::own_weight_files(output) {
        if let Some((role, _)) = reads.iter().find(|(_, read)| same_file(&file, read)) {
            return Err(PathError::Shared { role: *role, path: file });
        }
    }
    Ok(())
}

/// Whether the file begins as a JSON object does.
fn is_json(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    fs::File::open(path)?.take(64).read_to_end(&mut start)?;
    Ok(start.trim_ascii_start().first() == Some(&b'{'))
}

/// Whether the name is that of an HTML page.
fn ends_as_page(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("html"))
}

/// Whether the file is an HTML page by its name and its beginning.
fn is_page(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(64).read_to_end(&mut start));
    ends_as_page(path) && read.is_ok() && start.to_ascii_lowercase().starts_with(b"<!doctype html")
}

/// Whether both paths lead to one file, links resolved and hard links told; or would, once it is there.
fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(found_a), Ok(found_b)) => same_metadata(&found_a, &found_b) || same_path(a, b),
        (Err(_), Err(_)) => same_path(a, b),
        _ => false,
    }
}

fn same_path(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| {
        path.canonicalize().ok().or_else(|| {
            let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            Some(parent.canonicalize().ok()?.join(path.file_name()?))
        })
    };
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Where the standard library does not tell, canonical paths do, but for hard links.
fn same_metadata(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    identity(a).is_some_and(|a| Some(a) == identity(b))
}
