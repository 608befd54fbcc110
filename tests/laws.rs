//! Three laws, on random models and random plans: keeping everything changes nothing; pruning gives the model of which only
//! the kept units were ever there; and pruning twice is pruning once. `OPTIN_CASES=1000` tries more models than usual.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/random/mod.rs"]
mod random;
mod support;

use std::{collections::BTreeSet, fs, path::Path};

use optin_onnx::{
    onnx::{self, proto::ModelProto},
    runtime::{Engine, RuntimeChoice},
    tensor::Tensor,
    typing::Dimension,
    widths::Kept,
};
use random::Design;
use support::{Subject, engine, text};

/// Models of each family.
const CASES: u64 = 40;

#[test]
fn transformers_obey_the_laws() {
    check(random::transformer);
}

#[test]
fn convnets_obey_the_laws() {
    check(random::convnet);
}

#[test]
fn the_fixtures_keep_their_bytes() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let engine = engine(RuntimeChoice::Tract);
    for name in ["vit.onnx", "cnn.onnx"] {
        let path = fixtures.join(name);
        let subject = Subject::new(&*engine, onnx::load(&path).unwrap().model).unwrap();
        let same = subject.prune(&Kept::default()).unwrap();
        assert!(onnx::encode(&same) == fs::read(&path).unwrap(), "{name} has other bytes");
    }
}

/// A model of one layer of three units; `more` gives it further readers of `w` and what they make, of the weight's shape.
fn layer_beside(more: &str, output: &str) -> Subject {
    let text = format!(
        "one (float[N, 2] x, bool c) => (float[N, 2] y{output})
        <float[2, 3] w = random, float[3, 2] u = random> {{ {more} h = MatMul (x, w) r = Relu (h) y = MatMul (r, u) }}"
    );
    Subject::new(&*engine(RuntimeChoice::Ort), text::parse(&text).unwrap().0).unwrap()
}

/// The layer's weight after one of its units is gone: as others see it, and as the layer does.
fn weights_without_a_unit(subject: &Subject) -> [Vec<i64>; 2] {
    let pruned = subject.prune(&subject.kept(&[vec![0, 2]])).unwrap();
    let graph = pruned.graph.unwrap();
    let dims = |name: &str| graph.initializer.iter().find(|t| t.name() == name).unwrap().dims.clone();
    let product = graph.node.iter().find(|n| n.output[0] == "h").unwrap();
    ["w", &product.input[1]].map(dims)
}

#[test]
fn a_captured_initializer_is_never_sliced_in_place() {
    let branches = |then: &str| {
        format!(
            "z = If <then_branch = t () => (float[2, 3] t) {{ {then} }}, else_branch = e () => (float[2, 3] e) {{ e = Exp (w) }}> (c)"
        )
    };
    let nested = branches("t = Relu (w)").replace("z =", "t =").replace("= t ()", "= o ()");
    for then in ["t = Relu (w)", &nested] {
        let subject = layer_beside(&branches(then), ", float[K, L] z");
        assert_eq!(weights_without_a_unit(&subject), [[2, 3], [2, 2]], "{then}");
    }
    let subject = layer_beside("", "");
    let pruned = subject.prune(&subject.kept(&[vec![0, 2]])).unwrap();
    assert_eq!(pruned.graph.unwrap().initializer.len(), 2, "what nothing else reads is sliced in place");
}

#[test]
fn an_initializer_that_is_returned_is_never_sliced_in_place() {
    for (more, output) in [("", ", float[2, 3] w"), ("z = Identity (w)", ", float[2, 3] z")] {
        let subject = layer_beside(more, output);
        assert_eq!(weights_without_a_unit(&subject), [[2, 3], [2, 2]], "{output}");
    }
}

fn check(draw: fn(u64) -> Design) {
    let engine = engine(RuntimeChoice::Tract);
    let cases = std::env::var("OPTIN_CASES").map_or(CASES, |n| n.parse().unwrap());
    for seed in 0..cases {
        let mut design = draw(seed);
        let everything = design.everything();
        if let Err(error) = laws(&*engine, &mut design) {
            panic!("seed {seed}: {error}\n{}", design.text(&everything));
        }
    }
}

fn laws(engine: &dyn Engine, design: &mut Design) -> Result<(), String> {
    let everything = design.everything();
    let dense = Subject::new(engine, design.build(&everything))?;
    dense.check_identity()?;
    let found = dimensions(&dense, design)?;

    let some = design.choose(&everything);
    let once = prune(engine, &dense, &found, &everything, &some)?;
    same(engine, &dense, &once, &design.build(&some)).map_err(|e| format!("keeping {some:?}: {e}"))?;

    let fewer = design.choose(&some);
    let again = Subject::new(engine, once)?;
    let left = dimensions_left(&again, design, &some)?;
    let twice = prune(engine, &again, &left, &some, &fewer)?;
    let directly = prune(engine, &dense, &found, &everything, &fewer)?;
    same(engine, &dense, &twice, &directly).map_err(|e| format!("keeping {some:?}, then {fewer:?}: {e}"))
}

/// Where typing found each dimension of the design: it must find them all, and nothing else.
fn dimensions(subject: &Subject, design: &Design) -> Result<Vec<Option<usize>>, String> {
    let found = (0..design.sizes.len()).map(|dim| {
        let (weight, axis, units) = design.witness(dim);
        let index = find(subject, weight, axis, &units);
        index.map(Some).ok_or(format!("dimension {dim} on axis {axis} of {weight} was not found"))
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    let distinct: BTreeSet<_> = found.iter().collect();
    let prunable = &subject.dimensions.prunable;
    match distinct.len() == found.len() && prunable.len() == found.len() {
        true => Ok(found),
        false => Err(format!("{} dimensions were found as {:?}", found.len(), names(prunable))),
    }
}

/// The same in a pruned model, where a dimension of one unit is none any more.
fn dimensions_left(
    subject: &Subject,
    design: &Design,
    kept: &[Vec<usize>],
) -> Result<Vec<Option<usize>>, String> {
    let found = (0..design.sizes.len()).map(|dim| {
        let (weight, axis, _) = design.witness(dim);
        let units = design.witness_units(dim, kept);
        let index = find(subject, weight, axis, &units);
        match index.is_some() || kept[dim].len() == 1 {
            true => Ok(index.filter(|_| kept[dim].len() > 1)),
            false => Err(format!(
                "dimension {dim} is lost after keeping {kept:?}: {:?}",
                names(&subject.dimensions.prunable)
            )),
        }
    });
    found.collect()
}

fn names(dimensions: &[Dimension]) -> Vec<(&str, usize)> {
    dimensions.iter().map(|d| (d.name.as_str(), d.size)).collect()
}

/// The prunable dimension whose units lie along an axis of a weight just so.
fn find(subject: &Subject, weight: &str, axis: usize, units: &[Option<usize>]) -> Option<usize> {
    let (graph, widths) = (&subject.graph, &subject.widths);
    subject.dimensions.prunable.iter().position(|d| {
        d.owned.iter().any(|owned| {
            let value = graph.node(owned.at.node).inputs[owned.at.slot].unwrap();
            let axes = widths.operand(graph, owned.at).unwrap();
            graph.value(value).name == weight
                && owned.axis == axis
                && widths.table.units(axes[axis], d.width) == units
        })
    })
}

/// Prunes a model whose dimensions have the units `from`, so that those of `to` stay.
fn prune(
    engine: &dyn Engine,
    subject: &Subject,
    found: &[Option<usize>],
    from: &[Vec<usize>],
    to: &[Vec<usize>],
) -> Result<ModelProto, String> {
    let mut units: Vec<Vec<usize>> =
        subject.dimensions.prunable.iter().map(|d| (0..d.size).collect()).collect();
    for ((index, from), to) in found.iter().zip(from).zip(to) {
        if let Some(index) = index {
            units[*index] = (0..from.len()).filter(|i| to.contains(&from[*i])).collect();
        }
    }
    let kept = subject.kept(&units);
    let mut pruned = subject.prune(&kept)?;
    onnx::validate(&mut pruned).map_err(|e| e.to_string())?;
    subject
        .check_pruned(engine, &kept, &pruned)
        .map_err(|e| format!("{e}\n{}\nbecame\n{}", text::print(&subject.model), text::print(&pruned)))?;
    Ok(pruned)
}

/// Two models have the same weights and compute the same.
fn same(engine: &dyn Engine, dense: &Subject, a: &ModelProto, b: &ModelProto) -> Result<(), String> {
    let failed = |what: &str| format!("{what} differ:\n{}{}", text::print(a), text::print(b));
    if weights(a) != weights(b) {
        return Err(failed("weights"));
    }
    let feed = dense.samples.batch(0, dense.samples.len()).unwrap();
    let run =
        |model| engine.load(model).and_then(|mut session| session.run(&feed)).map_err(|e| e.to_string());
    let close = |(a, b): (&Tensor, &Tensor)| {
        let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
        let scale = a.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        a.shape() == b.shape() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * scale)
    };
    let (a, b) = (run(a)?, run(b)?);
    if a.iter().zip(&b).all(close) { Ok(()) } else { Err(failed("results")) }
}

/// Shape and contents of all floating-point initializers. Names do not count: copies have others.
fn weights(model: &ModelProto) -> BTreeSet<(Vec<i64>, Vec<u8>)> {
    let tensors = model.graph.iter().flat_map(|g| &g.initializer).filter(|t| onnx::is_float(t));
    tensors.map(|t| (t.dims.clone(), t.raw_data().to_vec())).collect()
}
