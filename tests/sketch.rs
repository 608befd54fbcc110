//! The sketch against what it estimates: the trajectory's loss for a small step of a mask, and exact scores.

#![allow(clippy::unwrap_used)]

mod support;

use ndarray::{ArrayD, Axis, Ix2};
use optin_onnx::{
    WarningCode,
    calibration::Samples,
    graph::Patch,
    masks,
    memory::MemoryBudget,
    onnx::{self, proto::ModelProto},
    reduction::{CHANNEL, HEAD, NEURON},
    runtime::{Engine, RuntimeChoice},
    score::{
        EXACT, ExactOptions, ScoreOptions, Scored, SketchOptions, exact, magnitude, order, score, sketch,
        spearman,
    },
    tensor::Tensor,
    trajectory::{OutputKind, manifold, output_distance, outputs, padding, waypoints},
    typing::{Dimension, Granularity},
};
use support::{Subject, engine};

struct Fixture(Subject);

fn tract() -> Box<dyn Engine> {
    engine(RuntimeChoice::Tract)
}

impl Fixture {
    fn open(name: &str, samples: usize, edit: impl Fn(&mut ModelProto)) -> Self {
        Self(Subject::fixture(&*tract(), name, samples, edit))
    }

    fn dimensions(&self) -> &[Dimension] {
        &self.0.dimensions.prunable
    }

    fn sketch(&self, probes: usize, memory: u64) -> Vec<Vec<f64>> {
        let options = SketchOptions { probes, memory: MemoryBudget(memory), ..Default::default() };
        let sketch = sketch(&*tract(), self.0.view(16), &options, &|_| true, &mut |_, _| {}).unwrap();
        assert_eq!(sketch.stops, []);
        sketch.scores.into_iter().map(|d| d.scores).collect()
    }

    /// The trajectory's loss when each unit in turn is scaled by `1 - step`, over `step²`, for the units of one dimension.
    fn curvature(&self, dimension: &Dimension, step: f32) -> Vec<f64> {
        let Subject { model, graph, facts, widths, samples, .. } = &self.0;
        let mut patch = Patch::default();
        let contractions: Vec<_> = dimension.contractions(widths).collect();
        let names: Vec<_> = contractions.iter().map(|c| masks::input(&mut patch, graph, facts, c)).collect();
        let points = waypoints(graph, facts, widths, self.dimensions());
        let heads = outputs(graph, facts, &[]);
        assert_eq!(heads.iter().map(|o| o.kind).collect::<Vec<_>>(), [OutputKind::Logits]);
        patch.only_exposed();
        points.iter().for_each(|p| patch.expose(&graph.value(p.value).name));
        patch.expose(&graph.value(heads[0].value).name);
        let mut session = tract().load(&patch.apply(model)).unwrap();
        let inputs = self.0.feed();
        let mut run = |unit: Option<usize>| -> Vec<ArrayD<f32>> {
            let mut feed = inputs.clone();
            for (name, contraction) in names.iter().zip(&contractions) {
                let units = dimension.units(graph, widths, contraction.place());
                let mask: Vec<f32> = units
                    .iter()
                    .map(|u| if unit.is_some() && *u == unit { 1.0 - step } else { 1.0 })
                    .collect();
                let shaped = masks::shaped(graph, facts, contraction, &mask).unwrap();
                feed.push((name.clone(), shaped));
            }
            session.run(&feed).unwrap().iter().map(|t| t.to_f32().unwrap()).collect()
        };
        let dense = run(None);
        let mut losses = Vec::new();
        for unit in 0..dimension.size {
            let moved = run(Some(unit));
            let mut loss = 0.0;
            for ((a, b), point) in dense.iter().zip(&moved).zip(&points) {
                let count = samples.len() as f64;
                for (a, b) in a.outer_iter().zip(b.outer_iter()) {
                    loss +=
                        manifold(tokens(a, point.feature).view(), tokens(b, point.feature).view()) / count;
                }
            }
            let (z, w) = (dense.last().unwrap(), moved.last().unwrap());
            loss += output_distance(heads[0], z.view(), w.view());
            losses.push(loss / f64::from(step * step));
        }
        losses
    }
}

/// `[positions, features]` of one sample.
fn tokens(sample: ndarray::ArrayViewD<'_, f32>, feature: usize) -> ndarray::Array2<f32> {
    let mut sample = sample.to_owned();
    let last = sample.ndim() - 1;
    sample.swap_axes(feature - 1, last);
    let features = sample.len_of(Axis(last));
    let positions = sample.len() / features;
    let flat = sample.as_standard_layout().into_owned();
    flat.into_shape_with_order((positions, features)).unwrap().into_dimensionality::<Ix2>().unwrap()
}

fn flat(scores: &[Vec<f64>]) -> Vec<f64> {
    scores.iter().flatten().copied().collect()
}

#[test]
fn the_sketch_estimates_the_curvature_of_the_trajectory() {
    let fixture = Fixture::open("vit.onnx", 4, |_| {});
    let sketched = fixture.sketch(400, 1 << 30);
    let last_neurons = fixture.dimensions().iter().rposition(|d| d.kind == NEURON).unwrap();
    let heads = (0..fixture.dimensions().len()).filter(|i| fixture.dimensions()[*i].kind == HEAD);
    for i in heads.chain([last_neurons]) {
        let dimension = &fixture.dimensions()[i];
        let expected = fixture.curvature(dimension, 0.03);
        let scale = expected.iter().copied().fold(0.0, f64::max);
        for (unit, (e, s)) in expected.iter().zip(&sketched[i]).enumerate() {
            // A mean of 1600 squares, whose kurtosis is some ten times that of a normal number.
            assert!((e - s).abs() < 0.25 * e + 0.02 * scale, "{} unit {unit}: {e:e} {s:e}", dimension.name);
        }
    }
}

#[test]
fn the_sketch_ranks_as_exact_scores_do() {
    for (name, kind, least) in
        [("vit.onnx", NEURON, 0.97), ("vit.onnx", HEAD, 0.8), ("cnn.onnx", CHANNEL, 0.9)]
    {
        let fixture = Fixture::open(name, 16, |_| {});
        let sketched = fixture.sketch(8, 1 << 30);
        let options = ExactOptions { units: Some(12), ..Default::default() };
        let exact = exact(&*tract(), fixture.0.view(16), &options, &|_| true, &mut |_, _| {}).unwrap();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for (e, s) in exact.iter().zip(&sketched).filter(|(e, _)| e.kind == kind) {
            for (e, s) in e.scores.iter().zip(s).filter(|(e, _)| !e.is_nan()) {
                a.push(*e);
                b.push(*s);
            }
        }
        let correlation = spearman(&a, &b).unwrap();
        assert!(correlation >= least, "{name} {kind}: {correlation}");
    }
}

#[test]
fn neither_repetition_nor_memory_changes_scores() {
    let fixture = Fixture::open("vit.onnx", 6, |_| {});
    let once = flat(&fixture.sketch(2, 1 << 30));
    assert_eq!(once, flat(&fixture.sketch(2, 1 << 30)));
    let cramped = flat(&fixture.sketch(2, 1));
    for (a, b) in once.iter().zip(&cramped) {
        assert!((a - b).abs() <= 1e-4 * a.abs() + 1e-12, "{a:e} {b:e}");
    }
}

#[test]
fn a_sample_that_takes_more_than_the_memory_is_said() {
    let fixture = Fixture::open("vit.onnx", 2, |_| {});
    let notes = |memory: u64| {
        let options = SketchOptions { probes: 1, memory: MemoryBudget(memory), ..Default::default() };
        sketch(&*tract(), fixture.0.view(2), &options, &|_| true, &mut |_, _| {}).unwrap().notes
    };
    assert!(notes(1 << 10)[0].contains("memory budget (1.0 KiB)"));
    assert_eq!(notes(1 << 30), [""; 0]);
}

#[test]
fn a_layer_whose_matrices_do_not_fit_goes_by_its_scores_and_is_named() {
    let fixture = Fixture::open("vit.onnx", 2, |_| {});
    let Subject { graph, widths, dimensions, .. } = &fixture.0;
    let order_with = |memory: u64| {
        let options = ScoreOptions { memory: MemoryBudget(memory), ..Default::default() };
        let scores = magnitude(graph, widths, &dimensions.prunable).unwrap();
        let mut scored = Scored { dimensions: scores, ..Default::default() };
        order(&*tract(), fixture.0.view(2), &options, &mut scored).unwrap();
        scored
    };
    let (much, none) = (order_with(1 << 30), order_with(1 << 10));
    assert_eq!(much.notes, [""; 0]);
    assert!(much.dimensions.iter().any(|d| d.left.is_some()));
    assert!(none.dimensions.iter().all(|d| d.left.is_none() && d.order.is_none()));
    for d in &none.dimensions {
        assert!(none.notes.iter().any(|note| note.starts_with(&format!("{} goes by", d.name))), "{}", d.name);
    }
}

#[test]
fn a_cotangent_that_stops_is_named() {
    // One step of a recurrent network on top of the classes: a cotangent of that has no way back.
    let fixture = Fixture::open("vit.onnx", 2, |model| {
        let graph = model.graph.as_mut().unwrap();
        let output = graph.output[0].name().to_owned();
        let producer = graph.node.iter_mut().find(|n| n.output[0] == output).unwrap();
        producer.output[0] = "classes".to_owned();
        let weights = Tensor::f32(&[1, 10, 10], (0..100).map(|i| (i % 7) as f32 / 7.0).collect()).unwrap();
        let constants = [
            ("weights", weights),
            ("sequence", Tensor::ints(&[1, -1, 10])),
            ("rows", Tensor::ints(&[-1, 10])),
        ];
        for (name, tensor) in constants {
            graph.initializer.push(onnx::tensor::from_tensor(name, &tensor));
        }
        let mut append = |op: &str, name: &str, inputs: &[&str], output: &str| {
            let mut node = onnx::proto::NodeProto {
                op_type: Some(op.to_owned()),
                name: Some(name.to_owned()),
                input: inputs.iter().map(ToString::to_string).collect(),
                output: vec![output.to_owned()],
                ..Default::default()
            };
            if op == "RNN" {
                node.attribute.push(onnx::proto::AttributeProto {
                    name: Some("hidden_size".to_owned()),
                    r#type: Some(onnx::proto::attribute_proto::AttributeType::Int as i32),
                    i: Some(10),
                    ..Default::default()
                });
            }
            graph.node.push(node);
        };
        append("Reshape", "stack", &["classes", "sequence"], "steps");
        append("RNN", "rnn", &["steps", "weights", "weights"], "states");
        append("Reshape", "unstack", &["states", "rows"], &output);
    });
    let options = SketchOptions { probes: 1, ..Default::default() };
    let sketch = sketch(&*tract(), fixture.0.view(16), &options, &|_| true, &mut |_, _| {}).unwrap();
    let stops: Vec<String> = sketch.stops.iter().map(ToString::to_string).collect();
    assert_eq!(stops, ["rnn: RNN has no gradient rule"]);
    let reached = |d: &Dimension| sketch.scores.iter().any(|s| s.name == d.name);
    let blocks: Vec<_> = fixture.dimensions().iter().filter(|d| d.name.starts_with("blocks")).collect();
    assert_eq!(blocks.len(), 8);
    assert!(blocks.into_iter().all(reached), "waypoints reach all units before");
}

/// A network whose numbers are of some type, large enough that their squares are out of the range of 16 bits.
fn scores_in(dtype: &str, code: i64) -> Vec<f64> {
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : 17]>
        large (float[N, 3, 6] x) => ({dtype}[N, 3, 5] y)
        <float[6, 16] w1 = random, float[16, 5] w2 = random, float big = {{2000.0}}>
        {{
            scaled = Mul (x, big)
            xs = Cast <to = {code}> (scaled)
            w1s = Cast <to = {code}> (w1)
            w2s = Cast <to = {code}> (w2)
            a = MatMul (xs, w1s)
            r = Relu (a)
            y = MatMul (r, w2s)
        }}"#
    );
    scores_of(&text)
}

fn scores_of(text: &str) -> Vec<f64> {
    let subject = Subject::new(&*tract(), support::text::parse(text).unwrap().0).unwrap();
    let view = subject.view(2);
    let sketch = sketch(&*tract(), view, &SketchOptions::default(), &|_| true, &mut |_, _| {}).unwrap();
    sketch.scores.into_iter().flat_map(|d| d.scores).collect()
}

#[test]
fn half_precision_is_scored_in_single() {
    let (half, single) = (scores_in("float16", 10), scores_in("float", 1));
    assert_eq!(half.len(), 16);
    assert!(single.iter().any(|s| *s > 0.0));
    for (a, b) in half.iter().zip(&single) {
        assert!((a - b).abs() <= 1e-2 * b.abs(), "{half:?} {single:?}");
    }
}

#[test]
fn operands_that_are_both_the_largest_share_the_cotangent() {
    let through = |last: &str| {
        scores_of(&format!(
            r#"<ir_version: 10, opset_import: ["" : 17]>
            largest (float[N, 6] x) => (float[N, 5] y)
            <float[6, 16] w1 = random, float[16, 5] w2 = random>
            {{
                a = MatMul (x, w1)
                {last}
                y = MatMul (r, w2)
            }}"#
        ))
    };
    let whole = through("r = Identity (a)");
    assert!(whole.iter().all(|score| *score > 0.0));
    for equal in ["r = Max (a, a)", "r = Min (a, a, a)"] {
        through(equal).iter().zip(&whole).for_each(|(a, b)| assert!((a - b).abs() <= 1e-5 * b, "{a} {b}"));
    }
}

#[test]
fn cotangents_pass_through_choices() {
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        chooses (float[N, 4, 6] x) => (float[N, 2, 5] y)
        <float[6, 8] w1 = random, float[8, 6] w2 = random, float[6, 5] w3 = random, int64[1] two = {2}>
        {
            a = MatMul (x, w1)
            r = Relu (a)
            b = MatMul (r, w2)
            values, places = TopK <axis = 1> (b, two)
            y = MatMul (values, w3)
        }"#;
    // Those of the layer before, and the features that are chosen.
    assert_eq!(scores_of(text).len(), 8 + 6);
}

/// The graph `text` on these samples.
fn on(text: &str, samples: Vec<(&str, Tensor)>) -> Subject {
    let mut model = support::text::parse(text).unwrap().0;
    onnx::validate(&mut model).unwrap();
    let samples = samples.into_iter().map(|(name, x)| (name.to_owned(), x)).collect();
    let samples = Samples::new(&model, samples).unwrap();
    Subject::typed(&*tract(), model, samples, Granularity::Head).unwrap()
}

fn ramp(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    Tensor::f32(shape, (0..count).map(|i| ((i * 7) % 11) as f32 / 5.0 - 1.0).collect()).unwrap()
}

#[test]
fn gradients_that_are_not_finite_are_named_and_scored_otherwise() {
    // The root of zero has no derivative, and a Relu makes zeros.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        roots (float[N, 6] x) => (float[N, 5] y)
        <float[6, 16] w1 = random, float[16, 8] w2 = random, float[8, 5] w3 = random>
        {
            a = MatMul (x, w1)
            b = Relu (a)
            c = MatMul (b, w2)
            d = Relu (c)
            e = Sqrt (d)
            y = MatMul (e, w3)
        }"#;
    let subject = on(text, vec![("x", ramp(&[6, 6]))]);
    let options = ScoreOptions::default();
    let scored = score(&*tract(), subject.view(4), &options, &|_| true, &mut |_, _| {}).unwrap();
    assert_eq!(scored.warnings.len(), 1, "{:?}", scored.warnings);
    assert_eq!(scored.warnings[0].code, WarningCode::NonFiniteGradients);
    assert!(scored.warnings[0].message.contains("Sqrt"), "{}", scored.warnings[0]);
    assert_eq!(scored.dimensions.len(), subject.dimensions.prunable.len());
    assert!(scored.dimensions.iter().flat_map(|d| &d.scores).all(|score| score.is_finite()));
    assert!(scored.notes.iter().any(|note| note.contains("scored exactly: its gradients are not finite")));
    assert!(scored.stability.unwrap().agreement.is_finite());
}

#[test]
fn tokens_of_zeros_count_for_nothing() {
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        tokens (float[N, 3, 6] x) => (float[N, 3, 5] y)
        <float[6, 16] w1 = random, float[16, 5] w2 = random>
        {
            a = MatMul (x, w1)
            r = Relu (a)
            y = MatMul (r, w2)
        }"#;
    let scores = |x: Tensor| {
        let subject = on(text, vec![("x", x)]);
        let exactly = exact(&*tract(), subject.view(4), &ExactOptions::default(), &|_| true, &mut |_, _| {});
        let probed = sketch(&*tract(), subject.view(4), &SketchOptions::default(), &|_| true, &mut |_, _| {});
        [exactly.unwrap(), probed.unwrap().scores].map(|d| d[0].scores.clone())
    };
    let mut x = ramp(&[4, 3, 6]).to_f32().unwrap();
    x.slice_mut(ndarray::s![.., 1, ..]).fill(0.0);
    let [exactly, probed] = scores(Tensor::F32(x.clone()));
    // Next to zero is as good as zero: it is not blown up to a direction of its own.
    x.slice_mut(ndarray::s![.., 1, ..]).mapv_inplace(|_| 1e-10);
    for (a, b) in [exactly, probed].iter().zip(scores(Tensor::F32(x))) {
        assert!(a.iter().any(|score| *score > 0.0));
        a.iter().zip(&b).for_each(|(a, b)| assert!((a - b).abs() <= 1e-3 * a.abs() + 1e-9, "{a} {b}"));
    }
}

/// What a model's output is taken for, that ends in these nodes.
fn kind_of(output: &str, nodes: &str) -> OutputKind {
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : 17]>
        kinds (float[N, 6] x) => (float[N, 5] {output})
        <float[6, 5] w = random, float[5] b = random>
        {{
            {nodes}
        }}"#
    );
    let subject = on(&text, vec![("x", ramp(&[4, 6]))]);
    outputs(&subject.graph, &subject.facts, &[])[0].kind
}

#[test]
fn a_matrix_is_class_scores_only_where_something_says_so() {
    assert_eq!(kind_of("y", "y = MatMul (x, w)"), OutputKind::Embedding);
    assert_eq!(kind_of("logits", "logits = MatMul (x, w)"), OutputKind::Logits);
    assert_eq!(kind_of("y", "y = Gemm (x, w, b)"), OutputKind::Logits);
    assert_eq!(kind_of("y", "a = MatMul (x, w)  c = Add (b, a)  y = Identity (c)"), OutputKind::Logits);
    assert_eq!(kind_of("pooled", "pooled = Gemm (x, w, b)"), OutputKind::Embedding);
    assert_eq!(kind_of("y", "a = Gemm (x, w, b)  y = Tanh (a)"), OutputKind::Embedding);
    assert_eq!(kind_of("y", "a = MatMul (x, w)  y = Softmax (a)"), OutputKind::Probabilities);
    assert_eq!(kind_of("y", "y = MatMul (x, w)  p = Softmax (y)"), OutputKind::Logits);
}

#[test]
fn integers_that_are_not_zeros_and_ones_are_no_padding() {
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        masked (float[N, 3] x, int64[N, 3] m) => (float[N, 3] y)
        {
            f = Cast <to = 1> (m)
            y = Mul (x, f)
        }"#;
    let padded = |last: i64| {
        let mask = Tensor::ints(&[1, 1, 0, 1, 0, last]).reshape(&[2, 3]).unwrap();
        let Subject { model, graph, facts, widths, samples, .. } =
            on(text, vec![("x", ramp(&[2, 3])), ("m", mask)]);
        padding(&model, &graph, &facts, &widths, &samples).map(|p| p.input)
    };
    assert_eq!((padded(0), padded(1), padded(7)), (Some("m".to_owned()), Some("m".to_owned()), None));
}

#[test]
fn an_input_without_samples_is_not_the_batch() {
    // Two rows of a table that all samples share, beside two samples.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        shared (float[N, 6] x, float[2, 6] table) => (float[N, 2] y)
        {
            t = Transpose <perm = [1, 0]> (table)
            y = MatMul (x, t)
        }"#;
    let subject = on(text, vec![("x", ramp(&[2, 6])), ("table", ramp(&[2, 6]))]);
    let leading = |name: &str| subject.widths.value(subject.graph.find(name).unwrap()).unwrap()[0];
    let root = |width| subject.widths.table.root(width);
    assert_eq!(subject.widths.batch.map(root), Some(root(leading("x"))));
    assert_ne!(root(leading("table")), root(leading("x")));
}

#[test]
fn a_unit_whose_score_is_no_finite_number_counts_as_the_most_important() {
    // Without the first unit, the logarithm of nothing is taken.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        logarithms (float[N, 2] x) => (float[N, 2] y)
        <float[2, 3] w1 = {1.0, 0.0, 0.0, 0.0, 1.0, 1.0}, float[3, 2] w2 = {1.0, 0.0, 0.0, 1.0, 0.0, 1.0}>
        {
            a = MatMul (x, w1)
            b = MatMul (a, w2)
            y = Log (b)
        }"#;
    let x = ramp(&[4, 2]).to_f32().unwrap().mapv(|x| x.abs() + 0.5);
    let subject = on(text, vec![("x", Tensor::F32(x))]);
    let options = ScoreOptions { method: EXACT, ..ScoreOptions::default() };
    let scored = score(&*tract(), subject.view(4), &options, &|_| true, &mut |_, _| {}).unwrap();
    let scores = &scored.dimensions[0].scores;
    assert_eq!(scores[0], f64::INFINITY, "{scores:?}");
    assert!(scores[1].is_finite() && scores[2].is_finite(), "{scores:?}");
    assert!(scored.notes.iter().any(|note| note.contains("1 of 3")), "{:?}", scored.notes);
}
