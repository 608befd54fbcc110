//! Programs that time models elsewhere: on another runtime, an accelerator, a phone.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{Effort, Feed, MeasureError, Stopwatch, part::with_shapes, stopwatch::Lap};
use crate::onnx::{self, proto::ModelProto};

/// What stands for the path of the model.
const MODEL: &str = "{model}";

/// How long a program may take for one model.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How often it is looked whether the program has ended.
const POLL: Duration = Duration::from_millis(5);

/// How long a stream may stay open after its program has ended.
const LEFT_OPEN: Duration = Duration::from_secs(1);

/// Bytes of what a program prints that are read; the rest is passed over.
const PRINTED: usize = 1 << 16;

/// Bytes of what a program complains that are shown.
const SHOWN: usize = 400;

/// A program and its arguments, one of which holds `{model}`: it is given the path of an ONNX file whose inputs have fixed shapes,
/// runs it, and prints how many milliseconds a run takes, as the last number on its standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalCommand {
    program: String,
    arguments: Vec<String>,
    timeout: Duration,
}

/// What is wrong with a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseCommandError {
    /// There is no program.
    #[error("the command that times models is empty: write one such as `python time.py {MODEL}`")]
    Empty,
    /// A quotation mark has no other.
    #[error("the command `{0}` has a quotation mark that nothing closes")]
    Quote(String),
    /// It would not know what to time.
    #[error("the command `{0}` does not say where the model goes: write {MODEL} in its place")]
    NoModel(String),
}

/// Why a program did not time a model.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum ExternalError {
    /// It cannot be started.
    #[error("`{program}`, which is to time models, cannot be started: {source}")]
    Start { program: String, source: io::Error },
    /// The model could not be put where the program reads it.
    #[error("a model to be timed cannot be written to the folder for temporary files: {0}")]
    Write(String),
    /// It failed.
    #[error("`{program}`, which is to time models, failed ({status}){}", said(stderr))]
    Failed { program: String, status: ExitStatus, stderr: String },
    /// It took too long.
    #[error("`{program}`, which is to time models, took longer than {} seconds for one, and was stopped", limit.as_secs())]
    Timeout { program: String, limit: Duration },
    /// It printed no time.
    #[error(
        "`{program}`, which is to time models, printed no number of milliseconds above zero, but `{printed}`{}",
        said(stderr)
    )]
    NoTime { program: String, printed: String, stderr: String },
}

/// What a program complained, as the end of a sentence.
fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {stderr}") }
}

/// Splits as shells do, without a shell: at blanks, but for those in quotation marks of either kind.
impl FromStr for ExternalCommand {
    type Err = ParseCommandError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for c in text.chars() {
            match quote {
                Some(open) if c == open => quote = None,
                Some(_) => word.get_or_insert_default().push(c),
                None if c == '"' || c == '\'' => {
                    word.get_or_insert_default();
                    quote = Some(c);
                }
                None if c.is_whitespace() => words.extend(word.take()),
                None => word.get_or_insert_default().push(c),
            }
        }
        if quote.is_some() {
            return Err(ParseCommandError::Quote(text.to_owned()));
        }
        words.extend(word);
        let mut words = words.into_iter();
        let program = words.next().ok_or(ParseCommandError::Empty)?;
        let arguments: Vec<String> = words.collect();
        if !arguments.iter().any(|argument| argument.contains(MODEL)) {
            return Err(ParseCommandError::NoModel(text.to_owned()));
        }
        Ok(Self { program, arguments, timeout: TIMEOUT })
    }
}

impl ExternalCommand {
    /// The same with another limit on how long one model may take.
    #[must_use]
    pub fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Runs the program on a file, and returns the milliseconds that it prints.
    fn time(&self, model: &std::path::Path) -> Result<f64, ExternalError> {
        let program = || self.program.clone();
        let arguments =
            self.arguments.iter().map(|argument| argument.replace(MODEL, &model.to_string_lossy()));
        let child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|source| ExternalError::Start { program: program(), source })?;
        // A program that nobody reads stops when the pipe is full.
        let streams = (child.stdout.take().map(Drain::new), child.stderr.take().map(Drain::new));
        let status = wait(&mut child, self.timeout);
        let Some(status) = status.map_err(|source| ExternalError::Start { program: program(), source })?
        else {
            return Err(ExternalError::Timeout { program: program(), limit: self.timeout });
        };
        let text = |stream: Option<Drain>| stream.map_or_else(String::new, Drain::text);
        let (printed, stderr) = (text(streams.0), tail(&text(streams.1)));
        if !status.success() {
            return Err(ExternalError::Failed { program: program(), status, stderr });
        }
        let numbers = printed.split_whitespace().rev().filter_map(|word| word.parse::<f64>().ok());
        let time = numbers.take(1).find(|time| time.is_finite() && *time > 0.0);
        time.ok_or_else(|| ExternalError::NoTime { program: program(), printed: tail(&printed), stderr })
    }
}

/// Reads what a program prints to its end, and keeps the last of it.
struct Drain {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Drain {
    fn new(mut stream: impl Read + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let shared = kept.clone();
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let mut kept = shared.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
                let more = kept.len().saturating_sub(PRINTED);
                kept.drain(..more);
            }
        });
        Self { kept, reader }
    }

    /// What was printed, once the program has ended. What it started and left running may keep the stream open: that is not waited
    /// for.
    fn text(self) -> String {
        let start = Instant::now();
        while !self.reader.is_finished() && start.elapsed() < LEFT_OPEN {
            thread::sleep(POLL);
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

/// Waits for a program to end; `None` where it had to be stopped.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > timeout {
            child.kill().ok();
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// The end of a text, on one line.
fn tail(text: &str) -> String {
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
    let start = line.char_indices().rev().nth(SHOWN - 1).map_or(0, |(at, _)| at);
    line.get(start..).unwrap_or_default().to_owned()
}

/// A stopwatch that runs a program for every time.
#[derive(Clone, Debug)]
pub struct ExternalStopwatch(pub ExternalCommand);

impl Stopwatch for ExternalStopwatch {
    fn device(&self) -> String {
        let ExternalCommand { program, arguments, .. } = &self.0;
        std::iter::once(program).chain(arguments).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Programs time a model many times themselves, on a machine of their own.
    fn drifts(&self) -> bool {
        false
    }

    /// Each run is a start of a program.
    fn worth(&self, effort: Effort) -> Effort {
        Effort { warm_up: 0, least: 1, most: 1, evict: 0, ..effort }
    }

    fn ready(&self, model: &ModelProto, feed: Feed) -> Result<Box<dyn Lap + '_>, MeasureError> {
        let failed = |error: String| ExternalError::Write(error);
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let path = folder.path().join("model.onnx");
        let model = with_shapes(model, &feed);
        let large = onnx::written_bytes(&model, &path, false) > i32::MAX as u64;
        match large {
            true => onnx::save(&model, &path, true).map(drop).map_err(|error| failed(error.to_string()))?,
            false => fs::write(&path, onnx::encode(&model)).map_err(|error| failed(error.to_string()))?,
        }
        Ok(Box::new(Written { command: &self.0, path, _folder: folder }))
    }
}

/// A model that lies in a file.
struct Written<'c> {
    command: &'c ExternalCommand,
    path: PathBuf,
    /// Is removed with the file.
    _folder: TempDir,
}

impl Lap for Written<'_> {
    fn run(&mut self, times: usize) -> Result<Vec<Duration>, MeasureError> {
        let timed = || Ok(Duration::from_secs_f64(self.command.time(&self.path)?.min(1e9) / 1e3));
        (0..times).map(|_| timed()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<(String, Vec<String>), ParseCommandError> {
        text.parse::<ExternalCommand>().map(|command| (command.program, command.arguments))
    }

    #[test]
    fn commands_are_split_without_a_shell() {
        let (program, arguments) = of("  sh -c 'echo \"1 2\" $HOME' x=\"a b\" {model}  ").unwrap();
        assert_eq!(program, "sh");
        assert_eq!(arguments, ["-c", "echo \"1 2\" $HOME", "x=a b", "{model}"]);
        assert_eq!(of("a '' {model}.").unwrap().1, ["", "{model}."]);
        assert_eq!(of("   "), Err(ParseCommandError::Empty));
        assert!(matches!(of("a 'b {model}"), Err(ParseCommandError::Quote(_))));
        assert!(matches!(of("a b"), Err(ParseCommandError::NoModel(_))));
    }

    #[cfg(unix)]
    #[test]
    fn programs_print_milliseconds_or_say_what_is_wrong() {
        let time = |script: &str| {
            let command: ExternalCommand = format!("sh -c '{script}' {{model}}").parse().unwrap();
            command.within(Duration::from_secs(2)).time("m.onnx".as_ref())
        };
        assert_eq!(time("echo mean: 3; echo latency 1.5").unwrap(), 1.5);
        for silent in ["true", "echo -1", "echo fast", "echo NaN", "echo 0"] {
            assert!(matches!(time(silent), Err(ExternalError::NoTime { .. })), "{silent}");
        }
        let failed = time("echo no device >&2; exit 3").unwrap_err().to_string();
        assert!(failed.contains("no device") && failed.contains('3'), "{failed}");
        assert!(matches!(time("exec sleep 60"), Err(ExternalError::Timeout { .. })));
        // What it leaves running keeps its output open, and is not waited for.
        assert_eq!(time("sleep 30 & echo 4").unwrap(), 4.0);
        // More than a pipe holds.
        assert_eq!(time("yes | head -c 1000000; echo 2").unwrap(), 2.0);
        let missing: ExternalCommand = "/no/such/program {model}".parse().unwrap();
        assert!(matches!(missing.time("m.onnx".as_ref()), Err(ExternalError::Start { .. })));
    }

    #[test]
    fn long_complaints_are_cut() {
        assert_eq!(tail("a\n\n b "), "a | b");
        assert_eq!(tail(&"é".repeat(1000)).chars().count(), SHOWN);
    }
}
