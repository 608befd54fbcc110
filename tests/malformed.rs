//! Files that are broken, and models whose parts do not fit: whatever is loaded, typed and rewritten, nothing panics.
//!
//! The seeds are the graphs of the filetests. `OPTIN_CASES=100000` tries more mutations than usual.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use bytes::Bytes;
use optin_onnx::{
    graph::{Fact, Facts, Graph},
    masks,
    onnx::{self, proto::ModelProto},
    ops,
    plan::Cost,
    rewrite::rewrite,
    runtime::RuntimeChoice,
    tensor::DType,
    typing::{self, Granularity},
    widths::Kept,
};
use prost::Message;
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use support::{Subject, engine, text};

/// Mutations of each seed and kind.
const CASES: usize = 20;

/// Numbers that programs stumble over.
const NUMBERS: &[i64] = &[i64::MIN, -3, -2, -1, 0, 1, 2, 3, 5, 8, 1 << 31, 1 << 62, i64::MAX];

fn seeds() -> Vec<Subject> {
    let engine = engine(RuntimeChoice::Tract);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().map(|path| fs::read_to_string(path).unwrap());
    let portable = texts.filter(|text| !text.contains("# runtime ort"));
    portable.map(|text| Subject::new(&*engine, text::parse(&text).unwrap().0).unwrap()).collect()
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

/// Runs `check` on many mutations, and returns for how many it holds.
fn for_each_case(mut check: impl FnMut(&Subject, &mut ChaCha8Rng) -> bool) -> f64 {
    let (mut all, mut held) = (0u32, 0u32);
    let cases = std::env::var("OPTIN_CASES").map_or(CASES, |n| n.parse().unwrap());
    for (number, seed) in seeds().iter().enumerate() {
        for case in 0..cases {
            let mut rng = ChaCha8Rng::seed_from_u64((number * cases + case) as u64);
            let outcome = catch_unwind(AssertUnwindSafe(|| check(seed, &mut rng)));
            assert!(outcome.is_ok(), "case {case} of\n{}", text::print(&seed.model));
            all += 1;
            held += u32::from(outcome.unwrap_or_default());
        }
    }
    f64::from(held) / f64::from(all)
}

#[test]
fn bytes_that_changed_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let loaded = for_each_case(|seed, rng| {
        let mut bytes = onnx::encode(&seed.model);
        for _ in 0..rng.random_range(1..4) {
            garble(&mut bytes, rng);
        }
        fs::write(&path, &bytes).unwrap();
        let Ok(source) = onnx::load(&path) else { return false };
        type_and_rewrite(seed, &source.model, rng);
        true
    });
    assert!(loaded > 0.05, "only {loaded} of the files were loaded");
}

/// Changes, removes, doubles or inserts a few bytes.
fn garble(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        return;
    }
    let start = rng.random_range(0..bytes.len());
    let end = (start + rng.random_range(1..9)).min(bytes.len());
    match rng.random_range(0..4) {
        0 => bytes[start] ^= 1 << rng.random_range(0..8),
        1 => drop(bytes.drain(start..end)),
        2 => {
            let copy = bytes[start..end].to_vec();
            drop(bytes.splice(start..start, copy));
        }
        _ => bytes[start..end].fill_with(|| rng.random()),
    }
}

#[test]
fn models_whose_parts_do_not_fit_are_typed_or_refused() {
    let typed = for_each_case(|seed, rng| {
        let mut model = seed.model.clone();
        for _ in 0..rng.random_range(1..4) {
            distort(&mut model, rng);
        }
        if onnx::validate(&mut model).is_err() {
            return false;
        }
        type_and_rewrite(seed, &model, rng);
        true
    });
    assert!(typed > 0.2, "only {typed} of the models were typed");
}

/// Changes an operator, an operand, an attribute or a constant.
fn distort(model: &mut ModelProto, rng: &mut ChaCha8Rng) {
    let graph = model.graph.as_mut().unwrap();
    let operators: Vec<_> = ops::contracts().map(|(_, contract)| contract).collect();
    let values: Vec<String> = graph.initializer.iter().map(|t| t.name().to_owned()).collect();
    let values: Vec<String> =
        values.into_iter().chain(graph.node.iter().flat_map(|n| n.output.clone())).collect();
    let index = rng.random_range(0..graph.node.len());
    let node = &mut graph.node[index];
    match rng.random_range(0..8) {
        0 => {
            let operator = operators.choose(rng).unwrap();
            (node.domain, node.op_type) = (Some(operator.domain.to_owned()), Some(operator.name.to_owned()));
        }
        1 => drop(node.input.pop()),
        2 => node.input.push(values.choose(rng).unwrap().clone()),
        3 => {
            if let Some(slot) = (0..node.input.len()).collect::<Vec<_>>().choose(rng) {
                node.input[*slot] = values.choose(rng).unwrap().clone();
            }
        }
        4 => drop(node.attribute.pop()),
        5 => {
            for attribute in &mut node.attribute {
                attribute.i = attribute.i.map(|_| *NUMBERS.choose(rng).unwrap());
                attribute.ints.iter_mut().for_each(|i| *i = *NUMBERS.choose(rng).unwrap());
            }
        }
        6 => {
            if let Some(attribute) = node.attribute.first_mut() {
                attribute.ints.push(*NUMBERS.choose(rng).unwrap());
            }
        }
        _ => {
            let tensor = rng.random_range(0..graph.initializer.len());
            let tensor = &mut graph.initializer[tensor];
            tensor.dims = vec![rng.random_range(0..4)];
            let values = (0..tensor.dims[0]).flat_map(|_| NUMBERS.choose(rng).unwrap().to_le_bytes());
            let bytes: Bytes = values.collect::<Vec<u8>>().into();
            (tensor.raw_data, tensor.data_type) = (Some(bytes), Some(DType::I64.onnx()));
        }
    }
}

/// Types the model by what is known of the seed's values, much of which no longer holds, and takes units out at random.
fn type_and_rewrite(seed: &Subject, model: &ModelProto, rng: &mut ChaCha8Rng) {
    let graph = Graph::new(model);
    let mut facts = Facts::new(graph.values().count(), 2);
    for (id, value) in graph.values() {
        let observed = || seed.facts.get(seed.graph.find(&value.name)?).cloned();
        let fact = match graph.constant(id) {
            Some(tensor) => onnx::tensor::to_tensor(tensor).ok().map(|t| Fact::of(&t)),
            None => observed().filter(|_| rng.random_range(0..20) > 0).map(|fact| disturb(fact, rng)),
        };
        if let Some(fact) = fact {
            facts.insert(id, fact);
        }
    }
    let widths = typing::infer(&graph, &facts, &graph.inputs().iter().copied().collect());
    let dimensions = typing::dimensions(&graph, &widths, Granularity::Head).prunable;
    let mut kept = Kept::default();
    for dimension in &dimensions {
        let units = (0..dimension.size).filter(|_| rng.random()).collect();
        kept.keep(&widths.table, dimension.width, units);
    }
    let sizes: Vec<usize> = dimensions.iter().map(|d| kept.size(&widths.table, d.width)).collect();
    Cost::flops(&widths, &dimensions, facts.samples).total(&sizes);
    Cost::parameters(&graph, &widths, &dimensions).total(&sizes);
    masks::constant(&graph, &facts, &widths, &kept).apply(model);
    if let Ok(pruned) = rewrite(model, &graph, &facts, &widths, &kept) {
        ModelProto::decode(onnx::encode(&pruned).as_slice()).unwrap();
    }
}

/// Another rank, another extent, other contents; mostly none of them.
fn disturb(mut fact: Fact, rng: &mut ChaCha8Rng) -> Fact {
    match rng.random_range(0..30) {
        0 => fact.shape.push(rng.random_range(0..4)),
        1 => drop(fact.shape.pop()),
        2 => fact.shape.iter_mut().for_each(|extent| *extent = rng.random_range(0..6)),
        3 => fact.ints = None,
        4 => fact.ints.iter_mut().flatten().for_each(|i| *i = *NUMBERS.choose(rng).unwrap()),
        _ => {}
    }
    fact
}
