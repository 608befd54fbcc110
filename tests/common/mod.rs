//! Small networks built in memory, and the law that every operator's rule must keep: pruned equals masked.

#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use std::collections::BTreeSet;

use optin_onnx::{
    fold::fold,
    graph::Graph,
    masks,
    onnx::{
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
            TensorShapeProto, TypeProto, ValueInfoProto,
            attribute_proto::AttributeType,
            tensor_shape_proto::{Dimension, dimension::Value as Extent},
            type_proto,
        },
        tensor::from_tensor,
    },
    rewrite::rewrite,
    runtime::{Engine, Provider, RuntimeChoice, RuntimeError, RuntimeOptions, open},
    tensor::{DType, Tensor},
    typing::{Dimension as Prunable, Granularity, Kind, dimensions, infer, observe},
    widths::{Kept, WidthTable},
};

/// A stream of numbers that look random; the same on every machine.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let data = (0..shape.iter().product()).map(|_| self.below(2001) as f32 / 1000.0 - 1.0).collect();
        Tensor::f32(shape, data).unwrap()
    }
}

/// A model under construction.
pub struct Net {
    pub graph: GraphProto,
    opset: i64,
    noise: Noise,
    inputs: Vec<(String, Vec<usize>)>,
}

/// A node under construction.
pub struct Made<'a>(&'a mut NodeProto);

impl Made<'_> {
    fn attribute(self, name: &str, kind: AttributeType, fill: impl FnOnce(&mut AttributeProto)) -> Self {
        let mut attribute = AttributeProto { name: Some(name.into()), ..Default::default() };
        attribute.set_type(kind);
        fill(&mut attribute);
        self.0.attribute.push(attribute);
        self
    }

    pub fn int(self, name: &str, value: i64) -> Self {
        self.attribute(name, AttributeType::Int, |a| a.i = Some(value))
    }

    pub fn ints(self, name: &str, values: &[i64]) -> Self {
        self.attribute(name, AttributeType::Ints, |a| a.ints = values.to_vec())
    }

    pub fn string(self, name: &str, value: &str) -> Self {
        let bytes = value.as_bytes().to_vec();
        self.attribute(name, AttributeType::String, |a| a.s = Some(bytes.into()))
    }
}

impl Net {
    /// A model of this operator set that reads `x [batch, shape…]`.
    pub fn new(opset: i64, shape: &[usize]) -> Self {
        let net = Self { graph: GraphProto::default(), opset, noise: Noise::new(7), inputs: Vec::new() };
        net.input("x", shape)
    }

    pub fn input(mut self, name: &str, shape: &[usize]) -> Self {
        let batch = Dimension { value: Some(Extent::DimParam("batch".into())), ..Default::default() };
        let rest = shape
            .iter()
            .map(|n| Dimension { value: Some(Extent::DimValue(*n as i64)), ..Default::default() });
        let shape_proto = TensorShapeProto { dim: std::iter::once(batch).chain(rest).collect() };
        let tensor = type_proto::Tensor { elem_type: Some(DType::F32.onnx()), shape: Some(shape_proto) };
        self.graph.input.push(ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..Default::default()
        });
        self.inputs.push((name.into(), shape.to_vec()));
        self
    }

    /// A random weight.
    pub fn weight(&mut self, name: &str, shape: &[usize]) {
        let tensor = self.noise.tensor(shape);
        self.constant(name, &tensor);
    }

    pub fn constant(&mut self, name: &str, tensor: &Tensor) {
        self.graph.initializer.push(from_tensor(name, tensor));
    }

    pub fn raw_constant(&mut self, tensor: TensorProto) {
        self.graph.initializer.push(tensor);
    }

    pub fn ints(&mut self, name: &str, values: &[i64]) {
        self.constant(name, &Tensor::ints(values));
    }

    /// A node; operators of another domain are written `domain:Operator`.
    pub fn node(&mut self, op: &str, inputs: &[&str], outputs: &[&str]) -> Made<'_> {
        let (domain, op) = op.split_once(':').unwrap_or(("", op));
        self.graph.node.push(NodeProto {
            op_type: Some(op.into()),
            domain: Some(domain.into()),
            name: Some(format!("{op}_{}", outputs.join("_"))),
            input: inputs.iter().map(|i| (*i).into()).collect(),
            output: outputs.iter().map(|o| (*o).into()).collect(),
            ..Default::default()
        });
        Made(self.graph.node.last_mut().unwrap())
    }

    /// `y = x · W` with a fresh weight.
    pub fn linear(&mut self, x: &str, y: &str, rows: usize, columns: usize) {
        let weight = format!("{y}_weight");
        self.weight(&weight, &[rows, columns]);
        self.node("MatMul", &[x, &weight], &[y]);
    }

    /// `y = x * W` with a fresh kernel.
    pub fn conv(&mut self, x: &str, y: &str, shape: &[usize]) {
        let (weight, kernel) = (format!("{y}_weight"), shape[2] as i64);
        self.weight(&weight, shape);
        self.node("Conv", &[x, &weight], &[y]).ints("pads", &[kernel / 2; 4]);
    }

    /// The model with these outputs.
    pub fn model(&self, outputs: &[&str]) -> ModelProto {
        let mut graph = self.graph.clone();
        graph.name = Some("net".into());
        graph.output = outputs
            .iter()
            .map(|name| ValueInfoProto { name: Some((*name).into()), ..Default::default() })
            .collect();
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.into()),
            version: Some(version),
        };
        ModelProto {
            ir_version: Some(8),
            opset_import: vec![import("", self.opset), import("com.microsoft", 1)],
            graph: Some(graph),
            ..Default::default()
        }
    }

    /// Random inputs.
    pub fn feed(&self, batch: usize) -> Vec<(String, Tensor)> {
        let mut noise = Noise::new(11);
        let feed = self.inputs.iter().map(|(name, shape)| {
            let shape: Vec<usize> = std::iter::once(batch).chain(shape.iter().copied()).collect();
            (name.clone(), noise.tensor(&shape))
        });
        feed.collect()
    }

    /// Asserts which dimensions are prunable, and that pruned equals masked for random choices of what stays, at several
    /// batch sizes. Returns the last pruned model; `None` without an engine that runs the model.
    pub fn assert_prunes(&self, outputs: &[&str], expected: &[(Kind, usize)]) -> Option<ModelProto> {
        let engine = engine(&self.graph)?;
        let model = match fold(&*engine, &self.model(outputs)) {
            Err(RuntimeError::OperatorOnTract { .. }) => return None,
            folded => folded.unwrap_or_else(|e| panic!("{e}")),
        };
        let graph = Graph::new(&model);
        let facts = observe(&*engine, &model, &graph, &self.feed(2), 2).unwrap_or_else(|e| panic!("{e}"));
        let widths = infer(&graph, &facts, &graph.inputs().iter().copied().collect::<BTreeSet<_>>());
        let found = dimensions(&graph, &widths, Granularity::Head);
        let mut sizes: Vec<(Kind, usize)> = found.prunable.iter().map(|d| (d.kind, d.size)).collect();
        let mut wanted = expected.to_vec();
        sizes.sort();
        wanted.sort();
        assert_eq!(sizes, wanted, "pinned: {:#?}", found.pinned);
        let mut last = None;
        for seed in 0..3 {
            let kept = random_choice(&widths.table, &found.prunable, seed);
            let masked = masks::constant(&graph, &facts, &widths, &kept).apply(&model);
            let pruned = rewrite(&model, &graph, &facts, &widths, &kept).unwrap_or_else(|e| panic!("{e}"));
            let (mut dense, mut small) = (
                engine.load(&masked).unwrap_or_else(|e| panic!("{e}")),
                engine.load(&pruned).unwrap_or_else(|e| panic!("{e}")),
            );
            for batch in [1, 2, 3] {
                let feed = self.feed(batch);
                let expected = dense.run(&feed).unwrap_or_else(|e| panic!("masked: {e}"));
                let found = small.run(&feed).unwrap_or_else(|e| panic!("pruned: {e}"));
                expected.iter().zip(&found).for_each(|(a, b)| assert_close(a, b));
            }
            last = Some(pruned);
        }
        last
    }
}

/// ONNX Runtime where there is one (where OPTIN_REQUIRE_ORT is set, there must be), else tract for standard operators.
pub fn engine(graph: &GraphProto) -> Option<Box<dyn Engine>> {
    let options = |runtime| RuntimeOptions { runtime, provider: Provider::Cpu, threads: 1, ort_lib: None };
    match open(&options(RuntimeChoice::Ort)) {
        Ok(engine) => Some(engine),
        Err(RuntimeError::NotFound { .. }) if std::env::var_os("OPTIN_REQUIRE_ORT").is_none() => {
            let standard = |n: &NodeProto| n.domain().is_empty() && n.op_type() != "Attention";
            graph.node.iter().all(standard).then(|| open(&options(RuntimeChoice::Tract)).unwrap())
        }
        Err(error) => panic!("{error}"),
    }
}

fn random_choice(table: &WidthTable, dimensions: &[Prunable], seed: u64) -> Kept {
    let mut noise = Noise::new(100 + seed);
    let mut kept = Kept::default();
    for dimension in dimensions {
        let mut entries: Vec<usize> = (0..dimension.size).collect();
        for _ in 0..1 + noise.below(dimension.size - 1) {
            entries.remove(noise.below(entries.len()));
        }
        kept.keep(table, dimension.width, entries);
    }
    kept
}

pub fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape());
    let (Some(x), Some(y)) = (a.to_f32(), b.to_f32()) else { return assert_eq!(a, b) };
    let largest = x.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let difference = x.iter().zip(&y).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
    assert!(difference <= 1e-4 * largest, "{difference} of {largest}");
}

/// The integer attribute of the first node of this type.
pub fn attribute(model: &ModelProto, op: &str, name: &str) -> Option<i64> {
    let node = model.graph.as_ref()?.node.iter().find(|n| n.op_type() == op)?;
    optin_onnx::onnx::attr_int(node, name)
}
