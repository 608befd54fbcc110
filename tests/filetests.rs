//! Graphs in ONNX's textual syntax beside what they must become: one test per file in `tests/filetests`.
//!
//! A file begins with comments that say what it is about and what to do:
//!
//! ```text
//! # test type                  the width of every axis, what can be pruned, and why the rest cannot
//! # test prune a=0,2..5 b=1    the graph that keeps these units of the dimensions that `test type` calls a and b
//! # granularity head-dim       attention loses dimensions of heads as well
//! # runtime ort                needs ONNX Runtime (where tract lacks an operator)
//! ```
//!
//! then comes the graph, then, as comments again, what each command gives. `OPTIN_BLESS=1 cargo test --release --test
//! filetests` writes that anew. Whatever the commands are, keeping everything must give the model back byte for byte, and
//! each pruned graph must compute what the masked one does.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fmt::Write, fs, path::Path, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use optin_onnx::{
    onnx,
    runtime::{Engine, RuntimeChoice},
    typing::{Dimension, Granularity},
    widths::{Width, WidthForm},
};
use support::{Subject, engine, text};

fn main() -> ExitCode {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let trials = files.into_iter().map(|path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Trial::test(name, move || check(&path).map_err(Into::into))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// What a file asks for.
enum Command {
    Type,
    /// The units to keep, by the letter of the dimension.
    Prune(Vec<(char, Vec<usize>)>),
}

/// Runs a file, and compares or, under `OPTIN_BLESS`, writes what it gives.
fn check(path: &Path) -> Result<(), String> {
    let file = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let header: Vec<&str> = file.lines().take_while(|line| line.starts_with('#')).collect();
    let Some(runtime) = runtime(&header)? else { return Ok(()) };
    let commands = header.iter().filter_map(|line| Some((*line, line.strip_prefix("# test ")?)));
    let (model, end) = text::parse(&file)?;
    let fine = header.contains(&"# granularity head-dim");
    let granularity = if fine { Granularity::HeadDim } else { Granularity::Head };
    let subject = Subject::with(&*runtime, model, granularity)?;
    subject.check_identity()?;
    let mut found = String::from("\n");
    for (line, command) in commands {
        let output = match parse_command(command)? {
            Command::Type => describe(&subject),
            Command::Prune(kept) => prune(&*runtime, &subject, &kept)?,
        };
        writeln!(found, "\n{line}").unwrap();
        output.lines().for_each(|line| writeln!(found, "{}", format!("#   {line}").trim_end()).unwrap());
    }
    if std::env::var_os("OPTIN_BLESS").is_some() {
        return fs::write(path, file[..end].to_owned() + &found).map_err(|e| e.to_string());
    }
    match file[end..] == found {
        true => Ok(()),
        false => Err(format!("expected{}\nfound{found}\nOPTIN_BLESS=1 takes what was found", &file[end..])),
    }
}

/// The engine a file wants; `None` when it is one that is not there and need not be.
fn runtime(header: &[&str]) -> Result<Option<Box<dyn Engine>>, String> {
    if !header.contains(&"# runtime ort") {
        return Ok(Some(engine(RuntimeChoice::Tract)));
    }
    match (std::env::var_os("ORT_DYLIB_PATH"), std::env::var_os("OPTIN_REQUIRE_ORT")) {
        (Some(_), _) => Ok(Some(engine(RuntimeChoice::Ort))),
        (None, Some(_)) => Err("ONNX Runtime is required".to_owned()),
        (None, None) => Ok(None),
    }
}

fn parse_command(command: &str) -> Result<Command, String> {
    let mut words = command.split_whitespace();
    match words.next() {
        Some("type") => Ok(Command::Type),
        Some("prune") => words.map(parse_kept).collect::<Result<_, _>>().map(Command::Prune),
        _ => Err(format!("no such command: {command}")),
    }
}

/// `a=0,2..5`: a dimension and the units of it that stay.
fn parse_kept(word: &str) -> Result<(char, Vec<usize>), String> {
    let wrong = || format!("`{word}` is not like a=0,2..5");
    let (letter, ranges) = word.split_once('=').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
    let mut units = Vec::new();
    for range in ranges.split(',') {
        match range.split_once("..") {
            Some((start, end)) => units.extend(number(start)?..number(end)?),
            None => units.push(number(range)?),
        }
    }
    Ok((letter.chars().next().ok_or_else(wrong)?, units))
}

fn prune(engine: &dyn Engine, subject: &Subject, kept: &[(char, Vec<usize>)]) -> Result<String, String> {
    let mut units: Vec<Vec<usize>> =
        subject.dimensions.prunable.iter().map(|d| (0..d.size).collect()).collect();
    for (letter, wanted) in kept {
        let index =
            letters(units.len()).position(|l| l == *letter).ok_or(format!("no dimension {letter}"))?;
        if wanted.iter().any(|unit| !units[index].contains(unit)) {
            return Err(format!("{letter} has {} units", units[index].len()));
        }
        units[index].clone_from(wanted);
    }
    let kept = subject.kept(&units);
    let mut pruned = subject.prune(&kept)?;
    onnx::validate(&mut pruned).map_err(|e| e.to_string())?;
    subject.check_pruned(engine, &kept, &pruned)?;
    Ok(text::print(&pruned))
}

/// What `test type` shows.
fn describe(subject: &Subject) -> String {
    let mut out = String::new();
    let names = Names(subject);
    for (id, value) in subject.graph.values() {
        if let Some(axes) = subject.widths.value(id) {
            writeln!(out, "{}: {}", value.name, names.axes(axes)).unwrap();
        }
    }
    for (at, axes) in subject.widths.constants() {
        let node = subject.graph.node(at.node);
        let value = node.inputs[at.slot].unwrap();
        if subject.graph.constant(value).is_some_and(onnx::is_float) && !axes.is_empty() {
            let name = &subject.graph.value(value).name;
            writeln!(out, "{name} in {}: {}", node.label(), names.axes(axes)).unwrap();
        }
    }
    out.push('\n');
    for (letter, Dimension { name, kind, size, .. }) in letters(26).zip(&subject.dimensions.prunable) {
        writeln!(out, "{letter} = {kind} of {name}, {size} units").unwrap();
    }
    for pinned in &subject.dimensions.pinned {
        writeln!(out, "{} of {} stay", pinned.size, pinned.name).unwrap();
        pinned.reasons.iter().for_each(|reason| writeln!(out, "    {reason}").unwrap());
    }
    out
}

fn letters(count: usize) -> impl Iterator<Item = char> {
    ('a'..='z').take(count)
}

/// Names for widths: `N` for the batch, a letter and the extent for what can be pruned, the extent alone for the rest.
struct Names<'a>(&'a Subject);

impl Names<'_> {
    fn axes(&self, axes: &[Width]) -> String {
        if axes.is_empty() {
            return "scalar".to_owned();
        }
        axes.iter().map(|a| self.width(*a)).collect::<Vec<_>>().join(" x ")
    }

    fn width(&self, width: Width) -> String {
        let (widths, prunable) = (&self.0.widths, &self.0.dimensions.prunable);
        let table = &widths.table;
        let is = |other: Width| table.root(other) == table.root(width);
        if widths.batch.is_some_and(is) {
            return "N".to_owned();
        }
        if let Some((letter, d)) = letters(26).zip(prunable).find(|(_, d)| is(d.width)) {
            return format!("{letter}({})", d.size);
        }
        let atoms = table.atoms(width);
        if !atoms.iter().any(|a| prunable.iter().any(|d| table.root(d.width) == *a)) {
            return table.size(width).to_string();
        }
        match table.form(width) {
            WidthForm::Free => table.size(width).to_string(),
            WidthForm::Product(parts) => self.joined(parts, "*"),
            WidthForm::Concat(parts) => self.joined(parts, "+"),
        }
    }

    fn joined(&self, parts: &[Width], sign: &str) -> String {
        let part = |p: &Width| match self.0.widths.table.form(*p) {
            WidthForm::Concat(_) => format!("({})", self.width(*p)),
            _ => self.width(*p),
        };
        parts.iter().map(part).collect::<Vec<_>>().join(sign)
    }
}
