//! Time against the number of nodes: chains of residual blocks, loaded, folded, typed, planned and rewritten.
//!
//! `cargo bench --bench scale` prints a table, `cargo bench --bench scale -- 2500 5000` one of these sizes. Shapes are those
//! that the generator gave the values, so that no runtime takes part.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::{BTreeSet, HashMap},
    hint::black_box,
    time::{Duration, Instant},
};

use optin_onnx::{
    fold::fold,
    graph::{Fact, Facts, Graph},
    masks,
    onnx::{
        self,
        proto::{
            GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
            ValueInfoProto, tensor_shape_proto, type_proto,
        },
        tensor::from_tensor,
    },
    plan::{Bounded, CostModel, CostView, Limits, cost::Flops, plan},
    rewrite::rewrite,
    runtime::{self, RuntimeChoice, RuntimeOptions},
    score::{Scores, magnitude},
    tensor::{DType, Tensor},
    typing::{self, Granularity},
};

const SAMPLES: usize = 2;
const TOKENS: usize = 4;
const FEATURES: usize = 16;
const NEURONS: usize = 32;
const HEADS: usize = 4;

/// Runs of each stage; the median is printed.
const RUNS: usize = 5;

/// A graph that grows node by node, and the shapes of its values.
#[derive(Default)]
struct Chain {
    graph: GraphProto,
    shapes: Vec<(String, Vec<usize>)>,
}

impl Chain {
    fn node(&mut self, op: &str, inputs: &[&str], shape: &[usize]) -> String {
        self.node_with(op, inputs, shape, Vec::new())
    }

    fn node_with(
        &mut self,
        op: &str,
        inputs: &[&str],
        shape: &[usize],
        attribute: Vec<onnx::proto::AttributeProto>,
    ) -> String {
        let name = format!("v{}", self.graph.node.len());
        self.graph.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("/blocks/{name}/{op}")),
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.clone()],
            attribute,
            ..Default::default()
        });
        self.shapes.push((name.clone(), shape.to_vec()));
        name
    }

    fn weight(&mut self, shape: &[usize]) -> String {
        let name = format!("w{}", self.graph.initializer.len());
        let numbers = (0..shape.iter().product()).map(|i: usize| ((i * 37) % 101) as f32 / 101.0 - 0.5);
        let tensor = Tensor::f32(shape, numbers.collect()).unwrap();
        self.graph.initializer.push(from_tensor(&name, &tensor));
        name
    }

    fn normalised(&mut self, x: &str) -> String {
        let (scale, bias) = (self.weight(&[FEATURES]), self.weight(&[FEATURES]));
        self.node("LayerNormalization", &[x, &scale, &bias], &[SAMPLES, TOKENS, FEATURES])
    }

    fn projected(&mut self, x: &str, from: usize, to: usize) -> String {
        let weight = self.weight(&[from, to]);
        self.node("MatMul", &[x, &weight], &[SAMPLES, TOKENS, to])
    }

    /// LayerNormalization, MatMul, Relu, MatMul, Add.
    fn perceptron(&mut self, x: &str) -> String {
        let normalised = self.normalised(x);
        let hidden = self.projected(&normalised, FEATURES, NEURONS);
        let active = self.node("Relu", &[&hidden], &[SAMPLES, TOKENS, NEURONS]);
        let back = self.projected(&active, NEURONS, FEATURES);
        self.node("Add", &[x, &back], &[SAMPLES, TOKENS, FEATURES])
    }

    /// Attention with its heads split and merged by Reshape and Transpose: 17 nodes.
    fn attention(&mut self, x: &str) -> String {
        let inside = FEATURES / HEADS;
        let normalised = self.normalised(x);
        let [q, k, v] = [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]].map(|perm| {
            let y = self.projected(&normalised, FEATURES, FEATURES);
            let y = self.node("Reshape", &[&y, "split"], &[SAMPLES, TOKENS, HEADS, inside]);
            let whole = [SAMPLES, TOKENS, HEADS, inside];
            let shape: Vec<usize> = perm.iter().map(|axis| whole[*axis as usize]).collect();
            self.node_with("Transpose", &[&y], &shape, vec![onnx::ints_attribute("perm", &perm)])
        });
        let scores = [SAMPLES, HEADS, TOKENS, TOKENS];
        let products = self.node("MatMul", &[&q, &k], &scores);
        let weights = self.node("Softmax", &[&products], &scores);
        let values = self.node("MatMul", &[&weights, &v], &[SAMPLES, HEADS, TOKENS, inside]);
        let perm = vec![onnx::ints_attribute("perm", &[0, 2, 1, 3])];
        let moved = self.node_with("Transpose", &[&values], &[SAMPLES, TOKENS, HEADS, inside], perm);
        let merged = self.node("Reshape", &[&moved, "merge"], &[SAMPLES, TOKENS, FEATURES]);
        let back = self.projected(&merged, FEATURES, FEATURES);
        self.node("Add", &[x, &back], &[SAMPLES, TOKENS, FEATURES])
    }

    /// A model of about so many nodes: of perceptrons, or of attention and perceptrons by turns.
    fn model(nodes: usize, attends: bool) -> (ModelProto, Vec<(String, Vec<usize>)>) {
        let mut chain = Self::default();
        for (name, shape) in [
            ("split", [0, 0, HEADS as i64, (FEATURES / HEADS) as i64].as_slice()),
            ("merge", &[0, 0, FEATURES as i64]),
        ] {
            chain.graph.initializer.extend(attends.then(|| from_tensor(name, &Tensor::ints(shape))));
        }
        let mut x = "x".to_owned();
        chain.shapes.push((x.clone(), vec![SAMPLES, TOKENS, FEATURES]));
        while chain.graph.node.len() < nodes {
            if attends {
                x = chain.attention(&x);
            }
            x = chain.perceptron(&x);
        }
        chain.graph.name = Some("chain".to_owned());
        chain.graph.input = vec![info("x")];
        chain.graph.output = vec![info(&x)];
        let model = ModelProto {
            ir_version: Some(9),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            graph: Some(chain.graph),
            ..Default::default()
        };
        (model, chain.shapes)
    }
}

fn info(name: &str) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension::Value};
    let axis = |value| Dimension { value: Some(value), ..Default::default() };
    let dim = vec![
        axis(Value::DimParam("N".to_owned())),
        axis(Value::DimValue(TOKENS as i64)),
        axis(Value::DimValue(FEATURES as i64)),
    ];
    let tensor =
        type_proto::Tensor { elem_type: Some(DType::F32.onnx()), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

/// The median time of a stage, and what it gives.
fn timed<T>(mut stage: impl FnMut() -> T) -> (Duration, T) {
    let mut last = None;
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            last = Some(black_box(stage()));
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[RUNS / 2], last.unwrap())
}

fn measure(nodes: usize, attends: bool) {
    let (model, shapes) = Chain::model(nodes, attends);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.onnx");
    std::fs::write(&path, onnx::encode(&model)).unwrap();
    let options = RuntimeOptions { runtime: RuntimeChoice::Tract, threads: 1, ..Default::default() };
    let engine = runtime::open(&options).unwrap();

    let (load, source) = timed(|| onnx::load(&path).unwrap());
    let (folding, model) = timed(|| fold(&*engine, &source.model).unwrap());
    let (wiring, graph) = timed(|| Graph::new(&model));
    let mut facts = Facts::new(graph.values().count(), SAMPLES);
    let shapes: HashMap<_, _> = shapes.into_iter().collect();
    for (id, value) in graph.values() {
        facts.insert(
            id,
            match graph.constant(id) {
                Some(tensor) => Fact::of_constant(tensor).unwrap(),
                None => Fact { dtype: DType::F32, shape: shapes[&value.name].clone(), ints: None },
            },
        );
    }
    let batched: BTreeSet<_> = graph.inputs().iter().copied().collect();
    let (typed, (widths, dimensions)) = timed(|| {
        let widths = typing::infer(&graph, &facts, &batched);
        let dimensions = typing::dimensions(&graph, &widths, Granularity::HeadDim).prunable;
        (widths, dimensions)
    });
    let scores = Scores { dimensions: magnitude(&graph, &widths, &dimensions).unwrap(), ..Scores::default() };
    let (planned, kept) = timed(|| {
        let view = CostView {
            graph: &graph,
            facts: &facts,
            widths: &widths,
            dimensions: &dimensions,
            file_bytes: 0,
        };
        let cost = Flops.cost(&view);
        let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
        let budgets = [Bounded { cost: &cost, at_most: cost.total(&sizes) * 7 / 10 }];
        let plan = plan(&budgets, &dimensions, &scores, &Limits::default()).unwrap();
        plan.kept(&widths.table, &dimensions)
    });
    let (rewriting, _) = timed(|| rewrite(&model, &graph, &facts, &widths, &kept).unwrap());
    let (masking, _) = timed(|| masks::constant(&graph, &facts, &widths, &kept).apply(&model));
    let times = [load, folding, wiring, typed, planned, rewriting, masking];
    let times: Vec<String> = times.iter().map(|time| format!("{:.3}", time.as_secs_f64())).collect();
    println!(
        "| {} | {} | {} | {} |",
        if attends { "attention" } else { "perceptrons" },
        model.graph.as_ref().map_or(0, |graph| graph.node.len()),
        dimensions.len(),
        times.join(" | ")
    );
}

fn main() {
    let asked: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![2500, 5000, 10_000] } else { asked };
    println!("| blocks | nodes | dimensions | load | fold | graph | type | plan | rewrite | mask |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for attends in [false, true] {
        sizes.iter().for_each(|nodes| measure(*nodes, attends));
    }
}
