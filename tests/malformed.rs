//! Files that are broken, and models whose parts do not fit: whatever is loaded, typed, planned and rewritten, nothing
//! panics.
//!
//! The seeds are the graphs of the filetests. `OPTIN_CASES=100000` tries more mutants of each than usual; `cargo bench
//! --bench fuzz` tries more of all models, within bounds of time and memory.

#![allow(clippy::unwrap_used)]

mod fuzzing;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use fuzzing::{Case, Outcome, Seed};
use optin_onnx::{graph::Fact, rewrite::rewrite, runtime::RuntimeChoice, widths::Kept};
use support::{Subject, engine, text};

/// Mutants of each seed.
const CASES: u64 = 60;

#[test]
fn mutants_are_pruned_or_refused() {
    let engine = engine(RuntimeChoice::Tract);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().map(|path| (path, fs::read_to_string(path).unwrap()));
    let portable = texts.filter(|(_, text)| !text.contains("# runtime ort"));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("mutant.onnx");
    let cases = std::env::var("OPTIN_CASES").map_or(CASES, |n| n.parse().unwrap());
    let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
    for (path, text) in portable {
        let seed = Seed::new(&Subject::new(&*engine, text::parse(&text).unwrap().0).unwrap());
        for case in (0..cases).map(Case::new) {
            let outcome = catch_unwind(AssertUnwindSafe(|| seed.check(case, &file)));
            assert!(outcome.is_ok(), "case {} of {}", case.number, path.display());
            *outcomes.entry(outcome.unwrap()).or_default() += 1;
        }
    }
    // That is, the mutants are neither all nonsense nor all sound.
    let share =
        |outcome| *outcomes.get(&outcome).unwrap_or(&0) as f64 / outcomes.values().sum::<u64>() as f64;
    for outcome in [Outcome::Refused, Outcome::Typed, Outcome::Rewritten] {
        assert!(share(outcome) > 0.1, "{outcomes:?}");
    }
}

#[test]
fn an_edit_that_fails_names_the_widths_that_asked_for_it() {
    let text = r#"reshaped (float[N, 8] x) => (float[N, 4] y)
        <float[8, 16] v = random, int64[2] shape = {0, 16}, float[16, 12] u = random, float[12, 4] w = random>
        { a = MatMul (x, v) b = Reshape (a, shape) c = MatMul (b, u) d = Relu (c) y = MatMul (d, w) }"#;
    let engine = engine(RuntimeChoice::Tract);
    let subject = Subject::new(&*engine, text::parse(text).unwrap().0).unwrap();
    let [first, second] = subject.dimensions.prunable.as_slice() else { panic!("two dimensions") };
    let (first, second) = (first.width, second.width);
    let half = |width| (0..subject.widths.table.size(width) / 2).collect();
    let mut kept = Kept::default();
    kept.keep(&subject.widths.table, first, half(first));
    kept.keep(&subject.widths.table, second, half(second));
    // The shape operand has to follow, and nothing is known of what it says.
    let mut facts = subject.facts.clone();
    let shape = subject.graph.find("shape").unwrap();
    facts.insert(shape, Fact { ints: None, ..facts.get(shape).unwrap().clone() });
    let rewritten = |kept: &Kept| rewrite(&subject.model, &subject.graph, &facts, &subject.widths, kept);
    let error = rewritten(&kept).unwrap_err();
    assert_eq!(error.widths(), [first], "{error}");
    // The dimension that has them is frozen for that reason; without it the rest goes through.
    let mut dimensions = subject.dimensions.clone();
    let frozen = dimensions.freeze(|d| error.widths().contains(&d.width), |_| error.pin());
    assert_eq!(frozen, [subject.dimensions.prunable[0].name.as_str()]);
    assert!(dimensions.pinned.last().unwrap().reasons[0].to_string().contains("Reshape"));
    let mut rest = Kept::default();
    rest.keep(&subject.widths.table, second, half(second));
    assert!(rewritten(&rest).is_ok());
}
