//! Recovery against an independent least squares: normal equations by hand, patches by loops over the definition of a
//! convolution.

#![allow(clippy::unwrap_used)]

mod support;

use ndarray::{Array1, Array2, ArrayD, IxDyn};
use optin_onnx::{
    calibration::Samples,
    memory::MemoryBudget,
    onnx::{
        build::value_info,
        int_attribute, ints_attribute,
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
            ValueInfoProto,
        },
        tensor::{from_tensor, to_tensor},
        validate,
    },
    recover::{BIAS, LeftReason, Outcome, REFIT, RIDGE, RecoverOptions, Recovered, RecoveryReport, recover},
    runtime::{Engine, RuntimeChoice},
    settings::SettingValues,
    tensor::{DType, Tensor},
    typing::{Dimension, Granularity},
    widths::Kept,
};
use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Subject, engine};

fn random(rng: &mut impl Rng, shape: &[usize]) -> ArrayD<f32> {
    ArrayD::from_shape_simple_fn(IxDyn(shape), || rng.random_range(-1.0..1.0))
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(format!("make_{output}")),
        input: inputs.iter().map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

/// A model from `x` to `y`, whose first axes are the batch.
fn model(rank: usize, nodes: Vec<NodeProto>, constants: Vec<(&str, ArrayD<f32>)>) -> ModelProto {
    let info = |name: &str| value_info(name, DType::F32, rank);
    let graph = GraphProto {
        name: Some("test".to_owned()),
        node: nodes,
        initializer: constants.into_iter().map(|(n, c)| from_tensor(n, &Tensor::F32(c))).collect(),
        input: vec![info("x")],
        output: vec![ValueInfoProto { name: Some("y".to_owned()), ..info("y") }],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { domain: None, version: Some(13) };
    let mut model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset],
        graph: Some(graph),
        ..Default::default()
    };
    validate(&mut model).unwrap();
    model
}

/// A typed model, and what runs it.
struct Typed {
    engine: Box<dyn Engine>,
    subject: Subject,
}

impl Typed {
    fn new(model: ModelProto, x: ArrayD<f32>) -> Self {
        let engine = engine(RuntimeChoice::Auto);
        let samples = Samples::new(&model, vec![("x".to_owned(), Tensor::F32(x))]).unwrap();
        let subject = Subject::typed(&*engine, model, samples, Granularity::Head).unwrap();
        Self { engine, subject }
    }

    fn dimensions(&self) -> &[Dimension] {
        &self.subject.dimensions.prunable
    }

    /// What stays when the first dimension keeps `units`.
    fn kept(&self, units: &[usize]) -> Kept {
        self.subject.kept(&[units.to_vec()])
    }

    fn pruned(&self, kept: &Kept) -> ModelProto {
        self.subject.prune(kept).unwrap()
    }

    fn recover(&self, kept: &Kept, options: &RecoverOptions) -> Recovered {
        recover(&*self.engine, self.subject.view(8), kept, &self.pruned(kept), options, &mut |_, _| {})
            .unwrap()
    }

    /// What a model computes for all samples.
    fn run(&self, model: &ModelProto) -> ArrayD<f32> {
        self.engine.load(model).unwrap().run(&self.subject.feed()).unwrap()[0].to_f32().unwrap()
    }
}

fn constant(model: &ModelProto, name: &str) -> ArrayD<f32> {
    let tensors: &[TensorProto] = &model.graph.as_ref().unwrap().initializer;
    to_tensor(tensors.iter().find(|t| t.name() == name).unwrap()).unwrap().to_f32().unwrap()
}

fn relative_error(dense: &ArrayD<f32>, other: &ArrayD<f32>) -> f64 {
    let squares = |x: &ArrayD<f32>| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    (squares(&(dense - other)) / squares(dense)).sqrt()
}

/// Weights `[entries, features]` and bias of the ridge regression of `e` on `x`, the bias without ridge, by Gaussian
/// elimination of the normal equations about the mean.
fn least_squares(x: &Array2<f64>, e: &Array2<f64>, ridge: f64) -> (Array2<f64>, Array1<f64>) {
    let (mx, me) = (x.mean_axis(ndarray::Axis(0)).unwrap(), e.mean_axis(ndarray::Axis(0)).unwrap());
    let (cx, ce) = (x - &mx, e - &me);
    let mut a = cx.t().dot(&cx);
    let mut b = cx.t().dot(&ce);
    let n = a.nrows();
    let penalty = ridge * a.diag().mean().unwrap();
    a.diag_mut().mapv_inplace(|d| d + penalty);
    for i in 0..n {
        let (pivot, right) = (a.row(i).to_owned() / a[[i, i]], b.row(i).to_owned() / a[[i, i]]);
        for j in 0..n {
            let factor = a[[j, i]];
            if j != i {
                a.row_mut(j).scaled_add(-factor, &pivot);
                b.row_mut(j).scaled_add(-factor, &right);
            }
        }
        a.row_mut(i).assign(&pivot);
        b.row_mut(i).assign(&right);
    }
    let bias = me - mx.dot(&b);
    (b, bias)
}

fn refit(ridge: Option<f64>) -> RecoverOptions<'static> {
    let settings = SettingValues::default().with(&RIDGE, ridge);
    RecoverOptions { mode: REFIT, settings, ..Default::default() }
}

/// `[rows, features]` of a value whose features are on `axis`.
fn rows(x: &ArrayD<f32>, axis: usize) -> Array2<f64> {
    let order: Vec<usize> = (0..x.ndim()).filter(|a| *a != axis).chain([axis]).collect();
    let features = x.shape()[axis];
    let moved = x.view().permuted_axes(order).as_standard_layout().into_owned();
    moved.into_shape_with_order((x.len() / features, features)).unwrap().mapv(f64::from)
}

/// `x [batch, tokens, 8] → relu(x·A) [24] → ·B [6]`, with a residual connection of a linear map.
fn chain(rng: &mut ChaCha8Rng, biased: bool) -> ModelProto {
    let mut nodes = vec![
        node("MatMul", &["x", "A"], "h", vec![]),
        node("Relu", &["h"], "a", vec![]),
        node("MatMul", &["a", "B"], "b", vec![]),
        node("MatMul", &["x", "R"], "r", vec![]),
    ];
    let mut constants =
        vec![("A", random(rng, &[8, 24])), ("B", random(rng, &[24, 6])), ("R", random(rng, &[8, 6]))];
    if biased {
        nodes.extend([
            node("Add", &["bias", "b"], "c", vec![]),
            node("Mul", &["c", "scale"], "d", vec![]),
            node("Add", &["r", "d"], "y", vec![]),
        ]);
        constants.extend([("bias", random(rng, &[6])), ("scale", random(rng, &[6]) + 2.0)]);
    } else {
        nodes.push(node("Add", &["r", "b"], "y", vec![]));
    }
    model(3, nodes, constants)
}

/// Two convolutions, the second with these attributes; 12 channels between them.
fn convolutions(
    rng: &mut ChaCha8Rng,
    kernel: usize,
    groups: usize,
    attributes: Vec<AttributeProto>,
) -> ModelProto {
    let mut second = attributes;
    second.push(int_attribute("group", groups as i64));
    let nodes = vec![
        node("Conv", &["x", "A"], "h", vec![]),
        node("Relu", &["h"], "a", vec![]),
        node("Conv", &["a", "B"], "y", second),
    ];
    let b = random(rng, &[4, 12 / groups, kernel, kernel]);
    model(4, nodes, vec![("A", random(rng, &[12, 3, 1, 1])), ("B", b)])
}

/// What `Conv` reads at each position of its result, by its definition: `[samples · positions, channels · k · k]`.
fn patches(
    a: &ArrayD<f32>,
    channels: std::ops::Range<usize>,
    (kernel, stride, dilation, pad): (usize, usize, usize, usize),
) -> Array2<f64> {
    let (samples, height, width) = (a.shape()[0], a.shape()[2], a.shape()[3]);
    let extent = |n: usize| (n + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
    let mut out = Vec::new();
    for n in 0..samples {
        for y in 0..extent(height) {
            for x in 0..extent(width) {
                for c in channels.clone() {
                    for i in 0..kernel {
                        for j in 0..kernel {
                            let (row, column) = (y * stride + i * dilation, x * stride + j * dilation);
                            let inside =
                                (pad..pad + height).contains(&row) && (pad..pad + width).contains(&column);
                            out.push(if inside {
                                f64::from(a[[n, c, row - pad, column - pad]])
                            } else {
                                0.0
                            });
                        }
                    }
                }
            }
        }
    }
    let entries = channels.len() * kernel * kernel;
    Array2::from_shape_vec((out.len() / entries, entries), out).unwrap()
}

/// What reaches each position of the result of a `ConvTranspose` without padding, by its definition.
fn scattered(a: &ArrayD<f32>, kernel: usize, stride: usize, dilation: usize) -> Array2<f64> {
    let (samples, channels, height, width) = (a.shape()[0], a.shape()[1], a.shape()[2], a.shape()[3]);
    let extent = |n: usize| (n - 1) * stride + dilation * (kernel - 1) + 1;
    let (rows, columns) = (extent(height), extent(width));
    let mut out = Array2::zeros((samples * rows * columns, channels * kernel * kernel));
    for ((n, c), (y, x)) in
        pairs(samples, channels).flat_map(|nc| pairs(height, width).map(move |yx| (nc, yx)))
    {
        for (i, j) in pairs(kernel, kernel) {
            let position = (n * rows + y * stride + i * dilation) * columns + x * stride + j * dilation;
            out[[position, (c * kernel + i) * kernel + j]] = f64::from(a[[n, c, y, x]]);
        }
    }
    out
}

/// All pairs of indices.
fn pairs(m: usize, n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..m).flat_map(move |i| (0..n).map(move |j| (i, j)))
}

/// The value called `name` for all samples.
fn tap(typed: &Typed, model: &ModelProto, name: &str) -> ArrayD<f32> {
    let mut patch = optin_onnx::graph::Patch::default();
    patch.only_exposed();
    patch.expose(name);
    typed.run(&patch.apply(model))
}

fn assert_close(found: impl IntoIterator<Item = f64>, expected: impl IntoIterator<Item = f64>) {
    let (found, expected): (Vec<_>, Vec<_>) = (found.into_iter().collect(), expected.into_iter().collect());
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() < 2e-3 * (1.0 + b.abs()), "{a} is not {b}");
    }
}

fn units(seed: u64, of: usize, keep: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut units = rand::seq::index::sample(&mut rng, of, keep).into_vec();
    units.sort_unstable();
    units
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn products_are_refitted_as_least_squares_says(seed in 0u64..1000, keep in 8usize..20, biased: bool) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let typed = Typed::new(chain(&mut rng, biased), random(&mut rng, &[32, 5, 8]));
        let kept = typed.kept(&units(seed, 24, keep));
        let pruned = typed.pruned(&kept);
        let recovered = typed.recover(&kept, &refit(Some(1e-2)));
        let refitted = matches!(recovered.report.layers[0].outcome, Outcome::Refitted { .. });
        prop_assert!(refitted);

        let e = rows(&(typed.run(&typed.subject.model) - typed.run(&pruned)), 2);
        let (weights, bias) = least_squares(&rows(&tap(&typed, &pruned, "a"), 2), &e, 1e-2);
        let scale = if biased { constant(&typed.subject.model, "scale").mapv(f64::from) } else { ArrayD::ones(IxDyn(&[6])) };
        let scale = scale.into_dimensionality::<ndarray::Ix1>().unwrap();
        let change = (constant(&recovered.model, "B") - constant(&pruned, "B")).mapv(f64::from);
        assert_close(change, weights / &scale);
        let old = if biased { constant(&pruned, "bias") } else { ArrayD::zeros(IxDyn(&[6])) };
        let new = constant(&recovered.model, if biased { "bias" } else { "b__bias" });
        assert_close((new - old).mapv(f64::from), bias / &scale);
    }

    #[test]
    fn convolutions_are_refitted_as_least_squares_says(
        seed in 0u64..1000,
        kernel in 1usize..4,
        stride in 1usize..3,
        dilation in 1usize..3,
        pad in 0usize..3,
        groups in prop::sample::select(vec![1usize, 2]),
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let attributes = vec![
            ints_attribute("strides", &[stride as i64; 2]),
            ints_attribute("dilations", &[dilation as i64; 2]),
            ints_attribute("pads", &[pad as i64; 4]),
        ];
        let model = convolutions(&mut rng, kernel, groups, attributes);
        // Enough positions for 54 taps to do held-out samples good, and few enough for all of them to be measured.
        let typed = Typed::new(model, random(&mut rng, &[40, 3, 9, 10]));
        // The entries of a dimension are the channels of one group.
        let size = typed.dimensions()[0].size;
        let kept = typed.kept(&units(seed, size, size / 2));
        let pruned = typed.pruned(&kept);
        let recovered = typed.recover(&kept, &refit(Some(1e-2)));
        let refitted = matches!(recovered.report.layers[0].outcome, Outcome::Refitted { .. });
        prop_assert!(refitted);

        let e = rows(&(typed.run(&typed.subject.model) - typed.run(&pruned)), 1);
        let a = tap(&typed, &pruned, "a");
        let channels = a.shape()[1] / groups;
        let change = (constant(&recovered.model, "B") - constant(&pruned, "B")).mapv(f64::from);
        let bias = constant(&recovered.model, "y__bias").mapv(f64::from);
        for group in 0..groups {
            let x = patches(&a, group * channels..(group + 1) * channels, (kernel, stride, dilation, pad));
            let features = 4 / groups;
            let span = group * features..(group + 1) * features;
            let e = e.slice(ndarray::s![.., span.clone()]).to_owned();
            let (weights, shift) = least_squares(&x, &e, 1e-2);
            let part = change.slice_axis(ndarray::Axis(0), span.clone().into());
            assert_close(part.iter().copied(), weights.t().iter().copied());
            assert_close(bias.slice_axis(ndarray::Axis(0), span.into()).iter().copied(), shift);
        }
    }

    #[test]
    fn transposed_convolutions_are_refitted_as_least_squares_says(
        seed in 0u64..1000,
        kernel in 1usize..4,
        stride in 1usize..3,
        dilation in 1usize..3,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let attributes = vec![
            ints_attribute("strides", &[stride as i64; 2]),
            ints_attribute("dilations", &[dilation as i64; 2]),
            ints_attribute("output_padding", &[0; 2]),
        ];
        let nodes = vec![
            node("Conv", &["x", "A"], "h", vec![]),
            node("Relu", &["h"], "a", vec![]),
            node("ConvTranspose", &["a", "B"], "y", attributes),
        ];
        let constants =
            vec![("A", random(&mut rng, &[8, 3, 1, 1])), ("B", random(&mut rng, &[8, 4, kernel, kernel]))];
        let typed = Typed::new(model(4, nodes, constants), random(&mut rng, &[24, 3, 4, 5]));
        let kept = typed.kept(&units(seed, 8, 4));
        let pruned = typed.pruned(&kept);
        let recovered = typed.recover(&kept, &refit(Some(1e-2)));

        let e = rows(&(typed.run(&typed.subject.model) - typed.run(&pruned)), 1);
        let x = scattered(&tap(&typed, &pruned, "a"), kernel, stride, dilation);
        let (weights, bias) = least_squares(&x, &e, 1e-2);
        // Entries are channel, then tap; the weight has features between them.
        let change = (constant(&recovered.model, "B") - constant(&pruned, "B")).mapv(f64::from);
        let change = change.permuted_axes(IxDyn(&[0, 2, 3, 1]));
        assert_close(change.iter().copied(), weights.iter().copied());
        assert_close(constant(&recovered.model, "y__bias").mapv(f64::from), bias);
    }
}

#[test]
fn duplicated_units_are_not_missed() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let duplicate = |model: &mut ModelProto, axis: usize, units: usize| {
        let half = constant(model, "A").slice_axis(ndarray::Axis(axis), (0..units / 2).into()).to_owned();
        let both = ndarray::concatenate(ndarray::Axis(axis), &[half.view(), half.view()]).unwrap();
        let tensors = &mut model.graph.as_mut().unwrap().initializer;
        *tensors.iter_mut().find(|t| t.name() == "A").unwrap() = from_tensor("A", &Tensor::F32(both));
    };
    let mut neurons = chain(&mut rng, true);
    duplicate(&mut neurons, 1, 24);
    let pads = vec![ints_attribute("pads", &[1; 4])];
    let mut channels = convolutions(&mut rng, 3, 1, pads);
    duplicate(&mut channels, 0, 12);
    for (model, x, units) in [(neurons, vec![64, 9, 8], 24), (channels, vec![64, 3, 9, 9], 12)] {
        let typed = Typed::new(model, random(&mut rng, &x));
        let kept = typed.kept(&(0..units / 2).collect::<Vec<_>>());
        let (dense, pruned) = (typed.run(&typed.subject.model), typed.run(&typed.pruned(&kept)));
        let recovered = typed.recover(&kept, &refit(None));
        let found = relative_error(&dense, &typed.run(&recovered.model));
        assert!(relative_error(&dense, &pruned) > 0.1);
        assert!(found < 1e-4, "{found}: {:?}", recovered.report);
    }
}

#[test]
fn a_bias_takes_over_the_mean() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let typed = Typed::new(chain(&mut rng, true), random(&mut rng, &[32, 5, 8]));
    let kept = typed.kept(&units(3, 24, 12));
    let pruned = typed.pruned(&kept);
    let options = RecoverOptions { mode: BIAS, ..Default::default() };
    let recovered = typed.recover(&kept, &options);
    assert_eq!(recovered.report.layers[0].outcome, Outcome::Shifted);
    assert_eq!(constant(&recovered.model, "B"), constant(&pruned, "B"));
    let lacking = rows(&(typed.run(&typed.subject.model) - typed.run(&recovered.model)), 2);
    assert_close(lacking.mean_axis(ndarray::Axis(0)).unwrap(), vec![0.0; 6]);
}

#[test]
fn a_budget_of_parameters_leaves_no_room_for_a_bias() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let typed = Typed::new(chain(&mut rng, false), random(&mut rng, &[32, 5, 8]));
    let kept = typed.kept(&units(11, 24, 12));
    let pruned = typed.pruned(&kept);
    let recovered = typed.recover(&kept, &RecoverOptions { grow: false, ..refit(Some(1e-3)) });
    let names = |m: &ModelProto| {
        m.graph.as_ref().unwrap().initializer.iter().map(|t| t.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&recovered.model), names(&pruned));
    assert_eq!((recovered.report.added, typed.recover(&kept, &refit(None)).report.added), (0, 12));
    assert!(recovered.report.after < recovered.report.before);
}

#[test]
fn a_weight_that_others_read_stays_for_them() {
    // B is used twice; pruning touches its first use alone.
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let nodes = vec![
        node("MatMul", &["x", "A"], "h", vec![]),
        node("Relu", &["h"], "a", vec![]),
        node("MatMul", &["a", "B"], "b", vec![]),
        node("MatMul", &["x", "C"], "c", vec![]),
        node("Sigmoid", &["c"], "s", vec![]),
        node("MatMul", &["s", "B"], "d", vec![]),
        node("Mul", &["b", "d"], "y", vec![]),
    ];
    let constants = vec![
        ("A", random(&mut rng, &[8, 16])),
        ("B", random(&mut rng, &[16, 4])),
        ("C", random(&mut rng, &[8, 16])),
    ];
    let typed = Typed::new(model(3, nodes, constants), random(&mut rng, &[32, 4, 8]));
    assert_eq!(typed.dimensions().len(), 2);
    let kept = typed.kept(&units(5, 16, 8));
    let recovered = typed.recover(&kept, &refit(None));
    assert_eq!(recovered.report.layers.len(), 1);
    assert_eq!(constant(&recovered.model, "B"), constant(&typed.subject.model, "B"));
    let after = relative_error(&typed.run(&typed.subject.model), &typed.run(&recovered.model));
    assert!(after < relative_error(&typed.run(&typed.subject.model), &typed.run(&typed.pruned(&kept))));
}

#[test]
fn a_weight_that_stays_shared_is_left() {
    // W is read before and after the pruned layer.
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let nodes = vec![
        node("MatMul", &["x", "W"], "w", vec![]),
        node("MatMul", &["w", "A"], "h", vec![]),
        node("Relu", &["h"], "a", vec![]),
        node("MatMul", &["a", "B"], "b", vec![]),
        node("Sigmoid", &["b"], "s", vec![]),
        node("MatMul", &["s", "W"], "y", vec![]),
    ];
    let constants = vec![
        ("A", random(&mut rng, &[8, 16])),
        ("B", random(&mut rng, &[16, 8])),
        ("W", random(&mut rng, &[8, 8])),
    ];
    let typed = Typed::new(model(3, nodes, constants), random(&mut rng, &[32, 4, 8]));
    let mut kept = Kept::default();
    let hidden = typed.dimensions().iter().find(|d| d.size == 16).unwrap();
    kept.keep(&typed.subject.widths.table, hidden.width, units(6, 16, 8));
    let recovered = typed.recover(&kept, &refit(None));
    let outcomes: Vec<_> = recovered.report.layers.iter().map(|l| &l.outcome).collect();
    assert!(
        matches!(outcomes[..], [Outcome::Refitted { .. }, Outcome::Left(LeftReason::Shared)]),
        "{outcomes:?}"
    );
    assert_eq!(constant(&recovered.model, "W"), constant(&typed.subject.model, "W"));
}

/// The fixture CNN with half of everything gone, recovered with so much memory.
fn half_of_cnn(samples: usize, memory: &[u64]) -> (Subject, Vec<Recovered>) {
    let engine = engine(RuntimeChoice::Auto);
    let fixture = Subject::fixture(&*engine, "cnn.onnx", samples, |_| {});
    let half = |d: &Dimension| units(2, d.size, d.size.div_ceil(2));
    let kept = fixture.kept(&fixture.dimensions.prunable.iter().map(half).collect::<Vec<_>>());
    let pruned = fixture.prune(&kept).unwrap();
    let run = |memory: &u64| {
        let options = RecoverOptions { memory: MemoryBudget(*memory), ..refit(Some(1e-1)) };
        recover(&*engine, fixture.view(16), &kept, &pruned, &options, &mut |_, _| {}).unwrap()
    };
    let recovered = memory.iter().map(run).collect();
    (fixture, recovered)
}

#[test]
fn a_layer_whose_moments_do_not_fit_has_its_bias_corrected_and_is_named() {
    let (_, recovered) = half_of_cnn(32, &[0]);
    let RecoveryReport { layers, notes, .. } = &recovered[0].report;
    assert!(layers.len() > 10);
    assert!(layers.iter().all(|layer| !matches!(layer.outcome, Outcome::Refitted { .. })));
    for layer in layers.iter().filter(|layer| layer.outcome == Outcome::Shifted) {
        assert!(notes.iter().any(|note| note.starts_with(&format!("{}: ", layer.name))), "{}", layer.name);
    }
}

#[test]
fn little_memory_changes_nothing_but_the_time() {
    // Enough for the moments of every layer, and for the values that are kept in the middle of the network, not at its beginning.
    let (fixture, recovered) = half_of_cnn(256, &[u64::MAX, 24 << 20, 8 << 20]);
    let [much, none, less] = recovered.as_slice() else { panic!() };
    assert_eq!([&much.report.notes, &none.report.notes], [&[""; 0]; 2]);
    // With less still, some layers are measured at fewer positions, and named.
    assert!(
        less.report.notes.iter().any(|note| note.contains("positions of each batch")),
        "{:?}",
        less.report.notes
    );
    let positions = |r: &Recovered| r.report.layers.iter().map(|l| l.positions).collect::<Vec<_>>();
    assert_eq!(positions(much), positions(none));
    let engine = engine(RuntimeChoice::Auto);
    assert!(much.report.layers.len() > 10);
    assert!(much.report.after < much.report.before && !much.report.undone);
    // Pieces that are cut elsewhere round otherwise.
    let feed = fixture.feed();
    let run = |model: &ModelProto| engine.load(model).unwrap().run(&feed).unwrap()[0].to_f32().unwrap();
    let difference = relative_error(&run(&much.model), &run(&none.model));
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn shapes_that_pieces_hand_on_keep_their_length() {
    // The second half of the sizes is known before the layers between are run, and handed on to the piece that resizes.
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        resizes (float[N, 3, 8, 8] x) => (float[N, 2, 8, 8] y)
        <float[16, 3, 3, 3] w1 = random, float[16, 16, 1, 1] w2 = random, float[2, 16, 1, 1] w3 = random,
         int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}>
        {
            first = Conv <pads = [1, 1, 1, 1]> (x, w1)
            whole = Shape (first)
            area = Slice (whole, two, four)
            a = Relu (first)
            small = Conv <strides = [2, 2]> (a, w2)
            b = Relu (small)
            shape = Shape (b)
            ahead = Slice (shape, zero, two)
            sizes = Concat <axis = 0> (ahead, area)
            large = Resize <mode = "linear"> (b, "", "", sizes)
            y = Conv (large, w3)
        }"#;
    let mut model = support::text::parse(text).unwrap().0;
    validate(&mut model).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let typed = Typed::new(model, random(&mut rng, &[16, 3, 8, 8]));
    let kept: Vec<_> = typed.dimensions().iter().map(|d| units(17, d.size, d.size / 2)).collect();
    let kept = typed.subject.kept(&kept);
    let recovered = typed.recover(&kept, &refit(None));
    assert_eq!(recovered.report.failed().collect::<Vec<_>>(), []);
    assert!(recovered.report.after < recovered.report.before, "{:?}", recovered.report);
}

#[test]
fn double_weights_keep_their_precision() {
    let text = r#"<ir_version: 10, opset_import: ["" : 17]>
        double (double[N, 6] x) => (double[N, 5] y)
        <double[6, 16] w1 = random, double[16, 5] w2 = random, double[5] b = random>
        {
            a = MatMul (x, w1)
            r = Relu (a)
            y = Gemm (r, w2, b)
        }"#;
    let mut model = support::text::parse(text).unwrap().0;
    validate(&mut model).unwrap();
    let engine = engine(RuntimeChoice::Auto);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let x = random(&mut rng, &[64, 6]).mapv(f64::from);
    // A weight with more digits than single precision has.
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        let Tensor::F64(w) = to_tensor(tensor).unwrap() else { panic!("{} is not double", tensor.name()) };
        *tensor = from_tensor(tensor.name(), &Tensor::F64(w.mapv(|w| w / 3.0)));
    }
    let samples = Samples::new(&model, vec![("x".to_owned(), Tensor::F64(x))]).unwrap();
    let subject = Subject::typed(&*engine, model, samples, Granularity::Head).unwrap();
    let kept = subject.kept(&[(0..8).collect()]);
    let pruned = subject.prune(&kept).unwrap();
    let double = |model: &ModelProto, name: &str| {
        let tensors = &model.graph.as_ref().unwrap().initializer;
        match to_tensor(tensors.iter().find(|t| t.name() == name).unwrap()).unwrap() {
            Tensor::F64(w) => w,
            other => panic!("{name} is {}", other.dtype()),
        }
    };
    // Slicing changes no bit.
    let whole = double(&subject.model, "w1");
    assert_eq!(double(&pruned, "w1"), whole.slice(ndarray::s![.., ..8]).into_dyn());
    // A refit adds to what is there: whatever it adds, most sums have digits that single precision does not hold.
    let options = refit(Some(1e-3));
    let recovered = recover(&*engine, subject.view(8), &kept, &pruned, &options, &mut |_, _| {}).unwrap();
    let refitted = double(&recovered.model, "w2");
    assert_ne!(refitted, double(&pruned, "w2"));
    let rounded = refitted.iter().filter(|w| f64::from(**w as f32) == **w).count();
    assert!(rounded < refitted.len() / 4, "{rounded} of {}", refitted.len());
}

#[test]
fn means_that_are_large_against_deviations_are_no_obstacle() {
    let mut rng = ChaCha8Rng::seed_from_u64(23);
    let typed = Typed::new(
        model(
            3,
            vec![
                node("MatMul", &["x", "A"], "a", Vec::new()),
                node("MatMul", &["a", "B"], "p", Vec::new()),
                node("Add", &["p", "c"], "y", Vec::new()),
            ],
            vec![
                ("A", random(&mut rng, &[8, 24])),
                ("B", random(&mut rng, &[24, 6])),
                ("c", random(&mut rng, &[6])),
            ],
        ),
        random(&mut rng, &[32, 16, 8]) + 1e4,
    );
    // Twelve units say all that there is to say of eight features.
    let kept = typed.kept(&units(23, 24, 12));
    let recovered = typed.recover(&kept, &refit(Some(1e-6)));
    let layer = &recovered.report.layers[0];
    assert_eq!(layer.outcome, Outcome::Refitted { ridge: 1e-6 });
    assert!(layer.after < 1e-2 && layer.after < 1e-4 * layer.before, "{layer:?}");
}

#[test]
fn a_channel_that_is_scaled_to_nothing_is_not_refitted_and_its_denormals_go() {
    let mut rng = ChaCha8Rng::seed_from_u64(29);
    let mut dense = chain(&mut rng, true);
    for tensor in &mut dense.graph.as_mut().unwrap().initializer {
        let mut numbers = to_tensor(tensor).unwrap().to_f32().unwrap();
        match tensor.name() {
            "scale" => numbers[[3]] = 1e-12,
            "B" => numbers.index_axis_mut(ndarray::Axis(1), 3).fill(1e-40),
            _ => continue,
        }
        *tensor = from_tensor(tensor.name(), &Tensor::F32(numbers));
    }
    let typed = Typed::new(dense, random(&mut rng, &[32, 5, 8]));
    let kept = typed.kept(&units(29, 24, 12));
    let recovered = typed.recover(&kept, &refit(Some(1e-3)));
    assert!(matches!(recovered.report.layers[0].outcome, Outcome::Refitted { .. }));
    let refitted = constant(&recovered.model, "B");
    assert!(refitted.index_axis(ndarray::Axis(1), 3).iter().all(|w| *w == 0.0), "{refitted}");
    assert!(refitted.iter().all(|w| *w == 0.0 || w.is_normal()) && refitted.iter().any(|w| *w != 0.0));
}
