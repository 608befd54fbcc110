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
use optin_onnx::{
    fold,
    graph::{Fact, drop_dead},
    onnx::{self, proto::ModelProto},
    rewrite::rewrite,
    runtime::RuntimeChoice,
    widths::Kept,
};
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

#[test]
fn a_constant_that_asks_for_a_terabyte_is_not_made() {
    let engine = engine(RuntimeChoice::Tract);
    for (constants, nodes) in [
        ("int64[1] s = {1099511627776}", "c = ConstantOfShape (s)"),
        // The number is computed itself.
        ("int64[1] p = {1048576}, int64[1] q = {1048576}", "s = Mul (p, q) c = ConstantOfShape (s)"),
        ("float[1] v = {1}, int64[1] s = {1099511627776}", "c = Expand (v, s)"),
        ("float[2] v = {1, 2}, int64[1] s = {549755813888}", "c = Tile (v, s)"),
        (
            "int64 a = {0}, int64 b = {1099511627776}, int64 d = {1}",
            "r = Range (a, b, d) c = Cast <to = 1> (r)",
        ),
        ("float[2] v = {1, 2}, int64[2] s = {0, 1099511627776}", "c = Pad (v, s)"),
    ] {
        let text =
            format!("huge (float[N, 1] x) => (float[N, K] y) <{constants}> {{ {nodes} y = Add (x, c) }}");
        let (mut model, _) = text::parse(&text).unwrap();
        onnx::validate(&mut model).unwrap();
        let folded = fold::fold(&*engine, &model).unwrap();
        let ops = |model: &ModelProto| {
            model.graph.iter().flat_map(|g| &g.node).map(|n| n.op_type().to_owned()).collect::<Vec<_>>()
        };
        assert!(ops(&folded).len() >= 2, "{text}");
        let error = fold::check_sizes(&folded).unwrap_err();
        assert!(error.bytes >= 1 << 40, "{text}: {error}");
    }
    // In a branch, by the numbers around it; and a number that only looks like it.
    let text = |shadow: &str| {
        format!("huge (float[N, 1] x, bool c) => (float[N, K] y) <int64[1] s = {{1099511627776}}> {{
        i = If <then_branch = t () => (float[K] t) {{ {shadow} t = ConstantOfShape ({}) }}, else_branch = e () => (float[K] e) {{ e = Relu (x) }}> (c)
        y = Add (x, i) }}", if shadow.is_empty() { "s" } else { "z" })
    };
    let check = |text: &str| fold::check_sizes(&text::parse(text).unwrap().0);
    assert!(check(&text("")).is_err());
    assert!(check(&text("z = Shape (x)")).is_ok());
}

#[test]
fn results_that_only_look_large_are_folded() {
    // By the product of their elements the columns multiply to more than is made; by their shapes they do not.
    let text = r#"small (float[N] x) => (float[N] y)
        <float zero = {0}, float end = {30000}, float one = {1}, int64[2] column = {-1, 1}>
        { r = Range (zero, end, one) i = Reshape (r, column) j = Reshape (r, column) d = Mul (i, j)
          m = ReduceMean <keepdims = 0> (d) y = Add (x, m) }"#;
    let (mut model, _) = text::parse(text).unwrap();
    onnx::validate(&mut model).unwrap();
    let mut folded = fold::fold(&*engine(RuntimeChoice::Tract), &model).unwrap();
    drop_dead(&mut folded);
    let graph = folded.graph.unwrap();
    assert_eq!((graph.node.len(), graph.initializer.len()), (1, 1));
}

#[test]
fn constants_pay_once_for_what_is_computed_from_them() {
    let uses = |n: usize| {
        let nodes: String = (0..n)
            .map(|i| format!("t{i} = Transpose <perm = [1, 0]> (w) p{i} = MatMul (x, t{i}) "))
            .collect();
        let sum: Vec<String> = (0..n).map(|i| format!("p{i}")).collect();
        format!(
            "tied (float[N, 200] x) => (float[N, 200] y) <float[200, 200] w = random> {{ {nodes} y = Sum ({}) }}",
            sum.join(", ")
        )
    };
    let split = r#"split (float[N, 200] x) => (float[N, 200] y) <float[600, 200] w = random>
        { t = Transpose <perm = [1, 0]> (w) a, b, c = Split <axis = 1, num_outputs = 3> (t)
          p = MatMul (x, a) q = MatMul (p, b) y = MatMul (q, c) }"#;
    for (text, folds) in [(uses(1), true), (uses(5), false), (split.to_owned(), true)] {
        let (mut model, _) = text::parse(&text).unwrap();
        onnx::validate(&mut model).unwrap();
        let mut folded = fold::fold(&*engine(RuntimeChoice::Tract), &model).unwrap();
        drop_dead(&mut folded);
        let (before, after) = (onnx::encode(&model).len(), onnx::encode(&folded).len());
        assert!(after <= before + 1000, "{after} bytes of {before}: {text}");
        let computes = folded.graph.unwrap().node.iter().any(|n| n.op_type() == "Transpose");
        assert_eq!(computes, !folds, "{text}");
    }
}
