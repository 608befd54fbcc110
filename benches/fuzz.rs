//! Mutation fuzzing within bounds: no panic, no hang, no growth.
//!
//! `cargo bench --bench fuzz -- [--executions N] [--seconds S] [FOLDER…]` mutates the graphs of the filetests, the fixtures and
//! the models of the folders, each for an equal share of the time or, without `--seconds`, of the executions. What a mutant is
//! and what is asked of it is in `tests/fuzzing`.
//!
//! Mutants run in a process of their own, which an allocator keeps within its memory and this one within its time: so
//! that a stack which overflows is a finding like any other. What fails is reduced to the mutations that it takes, and
//! written to `target/fuzz`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "../tests/fuzzing/mod.rs"]
mod fuzzing;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    error::Error,
    fs,
    io::{BufRead, BufReader, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use fuzzing::{Case, Outcome, Seed};
use optin_onnx::{
    calibration::{self, CalibrationOptions},
    onnx,
    runtime::RuntimeChoice,
    typing::{self, Granularity},
};
use support::{Subject, engine, text};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Processor time that one mutant may take.
const TIME: Duration = Duration::from_secs(10);
/// Memory that one mutant may take, beside eight times the bytes of the seed.
const MEMORY: usize = 1 << 28;
/// Findings of one seed after which it is left.
const ENOUGH: usize = 5;

/// Counts what is allocated, and gives up beyond a bound.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call is passed on to the system's allocator as it came; nothing is counted into the memory itself.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed).wrapping_add(layout.size());
        if live > MOST.load(Ordering::Relaxed) {
            // What comes next may allocate too.
            MOST.store(usize::MAX, Ordering::Relaxed);
            eprintln!("out of bounds: {live} bytes of memory, {} at once", layout.size());
            std::process::abort();
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let done = match arguments.first().map(String::as_str) {
        Some("--worker") => work(&arguments[1..]),
        _ => supervise(&arguments),
    };
    match done {
        Ok(0) => ExitCode::SUCCESS,
        Ok(findings) => {
            println!("{findings} findings; see target/fuzz");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What a worker is asked to do.
struct Job {
    seed: PathBuf,
    first: Case,
    /// Cases at most, and how long at most.
    cases: u64,
    time: Duration,
}

impl Job {
    fn arguments(&self, progress: &Path) -> Vec<String> {
        let numbers =
            [self.first.number, u64::from(self.first.mutations), self.cases, self.time.as_millis() as u64];
        let paths = [&*self.seed, progress].map(|path| path.display().to_string());
        paths.into_iter().chain(numbers.map(|n| n.to_string())).collect()
    }

    fn parse(arguments: &[String]) -> Result<(Self, PathBuf)> {
        let [seed, progress, numbers @ ..] = arguments else { return Err("no job".into()) };
        let numbers = numbers.iter().map(|n| n.parse()).collect::<std::result::Result<Vec<u64>, _>>()?;
        let [number, mutations, cases, millis] = numbers[..] else { return Err("no numbers".into()) };
        let first = Case { number, mutations: mutations as u32 };
        let job = Self { seed: seed.into(), first, cases, time: Duration::from_millis(millis) };
        Ok((job, progress.into()))
    }
}

/// Runs mutants. The number of each is in the file of progress before it runs; what comes of them goes to the output.
fn work(arguments: &[String]) -> Result<usize> {
    let (job, progress) = Job::parse(arguments)?;
    let seed = load(&job.seed)?;
    let bytes = onnx::encode(&seed.model).len();
    let scratch = tempfile::tempdir_in(progress.parent().ok_or("no folder")?)?;
    let file = scratch.path().join("mutant.onnx");
    let progress = fs::OpenOptions::new().write(true).open(progress)?;
    std::panic::set_hook(Box::new(|panic| {
        println!("panic {}", panic.to_string().replace('\n', " "));
    }));
    let (start, mut outcomes, mut slowest) = (Instant::now(), BTreeMap::new(), Duration::ZERO);
    for number in job.first.number..job.first.number.saturating_add(job.cases) {
        if start.elapsed() > job.time {
            break;
        }
        std::os::unix::fs::FileExt::write_all_at(&progress, &number.to_le_bytes(), 0)?;
        MOST.store(LIVE.load(Ordering::Relaxed) + MEMORY + 8 * bytes, Ordering::Relaxed);
        let began = Instant::now();
        let case = Case { number, ..job.first };
        match catch_unwind(AssertUnwindSafe(|| seed.check(case, &file))) {
            Ok(outcome) => *outcomes.entry(outcome).or_insert(0u64) += 1,
            Err(_) => println!("failed {number}"),
        }
        MOST.store(usize::MAX, Ordering::Relaxed);
        slowest = slowest.max(began.elapsed());
    }
    let count = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
    let [refused, typed, rewritten] = [Outcome::Refused, Outcome::Typed, Outcome::Rewritten].map(count);
    println!("done {refused} {typed} {rewritten} {}", slowest.as_millis());
    Ok(0)
}

/// The seed in a text of the filetests or in a model file.
fn load(path: &Path) -> Result<Seed> {
    let is_text = path.extension().is_some_and(|e| e == "onnxtxt");
    let model = if is_text { text::parse(&fs::read_to_string(path)?)?.0 } else { onnx::load(path)?.model };
    // ONNX Runtime runs more, where it is found.
    let engine = engine(RuntimeChoice::Auto);
    let options = CalibrationOptions { samples: Some(2), ..Default::default() }.or_synthetic();
    let mut samples = calibration::load(&model, None, &options)?;
    if let Some(batch) = typing::fixed_batch(&*engine, &model, &samples)? {
        samples.fix_batch(batch)?;
    }
    Ok(Seed::new(&Subject::typed(&*engine, model, samples, Granularity::Head)?))
}

/// What came of the mutants of a seed.
#[derive(Default)]
struct Tally {
    executions: u64,
    rewritten: u64,
    typed: u64,
    slowest: u64,
    findings: Vec<(Case, String)>,
}

fn supervise(arguments: &[String]) -> Result<usize> {
    let (mut executions, mut seconds, mut folders) = (None, None, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{argument} needs a number")).map(|n| n.parse::<u64>());
        match argument.as_str() {
            "--executions" => executions = Some(value()??),
            "--seconds" => seconds = Some(value()??),
            folder => folders.push(PathBuf::from(folder)),
        }
    }
    let seeds = seeds(&folders)?;
    let share = seeds.len().max(1) as u64;
    let cases = executions.map_or(if seconds.is_some() { u64::MAX } else { 1000 }, |n| n.div_ceil(share));
    let time = seconds.map_or(Duration::MAX, |s| Duration::from_secs(s) / share as u32);
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    fs::create_dir_all(&found)?;
    let start = Instant::now();
    let mut all = Tally::default();
    println!(
        "{:40} {:>10} {:>8} {:>8} {:>8} {:>8}",
        "seed", "executions", "typed", "pruned", "slowest", "findings"
    );
    for path in seeds {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let tally = match fuzz(&path, cases, time) {
            Ok(tally) => tally,
            Err(error) => {
                println!("{name:40} is no seed: {error}");
                continue;
            }
        };
        println!(
            "{name:40} {:>10} {:>8} {:>8} {:>5} ms {:>8}",
            tally.executions,
            tally.typed,
            tally.rewritten,
            tally.slowest,
            tally.findings.len()
        );
        for (case, problem) in &tally.findings {
            let (reduced, file) = reduce(&path, *case, &found.join(format!("{name}-{}.onnx", case.number)))?;
            println!("  case {} by mutations {reduced:b}: {problem}\n  {}", case.number, file.display());
        }
        all.executions += tally.executions;
        all.typed += tally.typed;
        all.rewritten += tally.rewritten;
        all.slowest = all.slowest.max(tally.slowest);
        all.findings.extend(tally.findings);
    }
    println!(
        "{} executions in {} s: {} typed, {} pruned, the slowest in {} ms, {} findings",
        all.executions,
        start.elapsed().as_secs(),
        all.typed,
        all.rewritten,
        all.slowest,
        all.findings.len()
    );
    Ok(all.findings.len())
}

/// The filetests, the fixtures and the models of the folders.
fn seeds(folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = Vec::new();
    for folder in [root.join("tests/filetests"), root.join("fixtures")].iter().chain(folders) {
        let mut files = fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.retain(|path| path.extension().is_some_and(|e| e == "onnx" || e == "onnxtxt"));
        files.sort();
        seeds.extend(files);
    }
    Ok(seeds)
}

/// Runs mutants of one seed, in a new process after each that did not survive.
fn fuzz(seed: &Path, cases: u64, time: Duration) -> Result<Tally> {
    let (start, mut tally, mut next) = (Instant::now(), Tally::default(), 0);
    while next < cases && start.elapsed() < time && tally.findings.len() < ENOUGH {
        let job = Job {
            seed: seed.into(),
            first: Case::new(next),
            cases: cases - next,
            time: time.saturating_sub(start.elapsed()),
        };
        let ran = run(&job)?;
        tally.findings.extend(ran.failed.iter().map(|(n, problem)| (Case::new(*n), problem.clone())));
        match ran.end {
            End::Done([refused, typed, rewritten, slowest]) => {
                tally.typed += typed;
                tally.rewritten += rewritten;
                tally.slowest = tally.slowest.max(slowest);
                tally.executions += refused + typed + rewritten + ran.failed.len() as u64;
                break;
            }
            End::Unready(problem) => return Err(problem.into()),
            End::Died(number, problem) => {
                tally.findings.push((Case::new(number), problem));
                tally.executions += number + 1 - next;
                next = number + 1;
            }
        }
    }
    Ok(tally)
}

/// How a worker ended.
enum End {
    /// It ran all cases: refused, typed, rewritten, and the milliseconds of the slowest.
    Done([u64; 4]),
    /// It never came to the first case.
    Unready(String),
    /// It did not survive this case.
    Died(u64, String),
}

struct Ran {
    end: End,
    /// Cases that panicked, and how.
    failed: Vec<(u64, String)>,
}

/// Runs a job in a process of its own, and ends that when a case takes too long.
fn run(job: &Job) -> Result<Ran> {
    let folder = tempfile::tempdir()?;
    let progress = folder.path().join("progress");
    fs::write(&progress, u64::MAX.to_le_bytes())?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--worker")
        .args(job.arguments(&progress))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = child
        .stdout
        .take()
        .map(|out| thread::spawn(|| BufReader::new(out).lines().map_while(|l| l.ok()).collect::<Vec<_>>()));
    let errors = child.stderr.take().map(|mut out| {
        thread::spawn(move || {
            let mut text = Vec::new();
            out.read_to_end(&mut text).ok();
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let hung = watch(&mut child, &progress)?;
    let status = child.wait()?;
    let lines = output.map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
    let errors = errors.map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
    let (mut failed, mut panic, mut done) = (Vec::new(), String::new(), None);
    for line in &lines {
        match line.split_once(' ') {
            Some(("panic", message)) => panic = message.to_owned(),
            Some(("failed", number)) => failed.push((number.parse()?, std::mem::take(&mut panic))),
            Some(("done", numbers)) => {
                let numbers: Vec<u64> =
                    numbers.split(' ').map(|n| n.parse()).collect::<std::result::Result<_, _>>()?;
                done = numbers.try_into().ok();
            }
            _ => {}
        }
    }
    let end = match (done, number(&progress)?) {
        (Some(done), _) => End::Done(done),
        (None, u64::MAX) => End::Unready(format!("{status}: {}", errors.trim())),
        (None, number) if hung => End::Died(number, format!("it took more than {} s", TIME.as_secs())),
        (None, number) => {
            let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            End::Died(number, format!("{status}: {last}"))
        }
    };
    Ok(Ran { end, failed })
}

/// The case that the worker is at.
fn number(progress: &Path) -> Result<u64> {
    let bytes = fs::read(progress)?;
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| "no number")?))
}

/// Waits for the worker, and ends it, which is told, when it takes more than its time for one case.
fn watch(child: &mut Child, progress: &Path) -> Result<bool> {
    let (mut at, mut since) = (u64::MAX, Duration::ZERO);
    loop {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        let (now, spent) = (number(progress)?, processor_time(child.id()));
        if now != at {
            (at, since) = (now, spent);
        } else if at != u64::MAX && spent.saturating_sub(since) > TIME {
            child.kill()?;
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What a process has had of the processors: others take their share, so that a clock on the wall tells little.
fn processor_time(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // After the name, which is in brackets; fields 14 and 15 of proc(5), in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Leaves out what mutations a case can do without, and writes what is left to `file`.
fn reduce(seed: &Path, case: Case, file: &Path) -> Result<(u32, PathBuf)> {
    let mut least = Case { mutations: (1 << case.count()) - 1, ..case };
    for bit in 0..case.count() {
        let less = Case { mutations: least.mutations & !(1 << bit), ..case };
        let ran = run(&Job { seed: seed.into(), first: less, cases: 1, time: Duration::from_secs(600) })?;
        if !ran.failed.is_empty() || matches!(ran.end, End::Died(..)) {
            least = less;
        }
    }
    fs::File::create(file)?.write_all(&load(seed)?.mutant(least))?;
    Ok((least.mutations, file.to_owned()))
}
