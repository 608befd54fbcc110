//! A node with operands to differentiate it by.

use std::collections::BTreeSet;

use ndarray::{ArrayD, IxDyn};
use optin_onnx::{
    graph::{Graph, Use},
    onnx::{
        build::value_info,
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
            attribute_proto::AttributeType,
        },
        tensor::from_tensor,
    },
    runtime::Engine,
    tensor::{DType, Tensor},
};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::check::{Check, Feed, Problem, of_dtype};

/// Stands for the batch in a shape.
pub const B: usize = 0;

/// Where an operand's numbers lie.
#[derive(Clone, Copy)]
pub enum Values {
    /// Away from multiples of a tenth, where functions may have kinks.
    Any,
    /// As [`Self::Any`], and positive.
    Positive,
    /// As [`Self::Any`], within ±0.9.
    Unit,
    /// As [`Self::Any`], from one on.
    Large,
    /// All different, across the operands of a case.
    Distinct,
}

pub enum Operand {
    /// Left out.
    None,
    /// Computed from an input; its cotangent is wanted.
    Input { shape: Vec<usize>, values: Values },
    /// Fed, without a cotangent.
    Flags { shape: Vec<usize> },
    /// Fed, integers below a limit, without a cotangent.
    Integers { shape: Vec<usize>, dtype: DType, limit: usize },
    /// Fed, integers.
    Rows(Vec<i64>),
    /// A constant of the model's float type.
    Weight(ArrayD<f64>),
    /// A constant.
    Constant(Tensor),
}

/// One node of random form, and what it is fed.
pub struct Case {
    rng: ChaCha8Rng,
    pub node: NodeProto,
    pub opset: i64,
    pub operands: Vec<Operand>,
    pub outputs: usize,
    cells: Vec<usize>,
    single: bool,
}

impl Case {
    /// A case that a seed determines.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut cells: Vec<usize> = (0..256).collect();
        cells.shuffle(&mut rng);
        Self {
            rng,
            node: NodeProto::default(),
            opset: 17,
            operands: Vec::new(),
            outputs: 1,
            cells,
            single: false,
        }
    }

    /// One of several.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.rng.random_range(0..choices.len())].clone()
    }

    /// Yes or no.
    pub fn flip(&mut self) -> bool {
        self.rng.random()
    }

    pub fn op(mut self, op: &str, opset: i64) -> Self {
        self.node.op_type = Some(op.to_owned());
        self.opset = opset;
        self
    }

    /// The operator is ONNX Runtime's own.
    pub fn microsoft(mut self) -> Self {
        self.node.domain = Some("com.microsoft".to_owned());
        self
    }

    /// Runtimes compute the operator in float32, whatever the type of its operands.
    pub fn single(mut self) -> Self {
        self.single = true;
        self
    }

    pub fn is_single(&self) -> bool {
        self.single
    }

    pub fn outputs(mut self, count: usize) -> Self {
        self.outputs = count;
        self
    }

    pub fn x(self, shape: &[usize]) -> Self {
        self.input(shape, Values::Any)
    }

    pub fn input(mut self, shape: &[usize], values: Values) -> Self {
        self.operands.push(Operand::Input { shape: shape.to_vec(), values });
        self
    }

    pub fn weight(mut self, shape: &[usize]) -> Self {
        let values = numbers(&mut self.rng, shape, Values::Any, &mut Vec::new());
        self.operands.push(Operand::Weight(values));
        self
    }

    pub fn constant_positive(mut self, shape: &[usize]) -> Self {
        let values = numbers(&mut self.rng, shape, Values::Positive, &mut Vec::new());
        self.operands.push(Operand::Weight(values));
        self
    }

    /// The same integers for each sample.
    pub fn rows(mut self, row: &[i64]) -> Self {
        self.operands.push(Operand::Rows(row.to_vec()));
        self
    }

    /// A constant scalar of the model's type.
    pub fn number(mut self, value: f64) -> Self {
        self.operands.push(Operand::Weight(ndarray::arr0(value).into_dyn()));
        self
    }

    pub fn flags(mut self, shape: &[usize]) -> Self {
        self.operands.push(Operand::Flags { shape: shape.to_vec() });
        self
    }

    /// Integers below a limit.
    pub fn integers(mut self, shape: &[usize], dtype: DType, limit: usize) -> Self {
        self.operands.push(Operand::Integers { shape: shape.to_vec(), dtype, limit });
        self
    }

    pub fn constant(mut self, tensor: Tensor) -> Self {
        self.operands.push(Operand::Constant(tensor));
        self
    }

    pub fn list(self, values: &[i64]) -> Self {
        self.constant(Tensor::ints(values))
    }

    pub fn skip(mut self) -> Self {
        self.operands.push(Operand::None);
        self
    }

    fn attribute(mut self, name: &str, kind: AttributeType, set: impl FnOnce(&mut AttributeProto)) -> Self {
        let mut attribute = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
        attribute.set_type(kind);
        set(&mut attribute);
        self.node.attribute.push(attribute);
        self
    }

    pub fn int(self, name: &str, value: i64) -> Self {
        self.attribute(name, AttributeType::Int, |a| a.i = Some(value))
    }

    pub fn ints(self, name: &str, values: &[i64]) -> Self {
        self.attribute(name, AttributeType::Ints, |a| a.ints = values.to_vec())
    }

    pub fn float(self, name: &str, value: f32) -> Self {
        self.attribute(name, AttributeType::Float, |a| a.f = Some(value))
    }

    pub fn floats(self, name: &str, values: &[f32]) -> Self {
        self.attribute(name, AttributeType::Floats, |a| a.floats = values.to_vec())
    }

    pub fn string(self, name: &str, value: &str) -> Self {
        self.attribute(name, AttributeType::String, |a| a.s = Some(value.as_bytes().to_vec().into()))
    }

    /// For a message: the operator, its version and its attributes.
    pub fn describe(&self) -> String {
        let attributes = self.node.attribute.iter().map(|a| {
            let value = match a.r#type() {
                AttributeType::Int => a.i().to_string(),
                AttributeType::Ints => format!("{:?}", a.ints),
                AttributeType::Float => a.f().to_string(),
                AttributeType::Floats => format!("{:?}", a.floats),
                _ => String::from_utf8_lossy(a.s()).into_owned(),
            };
            format!("{}={value}", a.name())
        });
        let operands = self.operands.iter().map(|operand| match operand {
            Operand::None => "-".to_owned(),
            Operand::Input { shape, .. } => format!("{shape:?}"),
            Operand::Flags { shape } => format!("flags {shape:?}"),
            Operand::Integers { shape, dtype, .. } => format!("{dtype} {shape:?}"),
            Operand::Rows(row) => format!("rows {row:?}"),
            Operand::Weight(a) => format!("weight {:?}", a.shape()),
            Operand::Constant(t) => format!("{:?}", t.to_ints().unwrap_or_default()),
        });
        let (attributes, operands): (Vec<_>, Vec<_>) = (attributes.collect(), operands.collect());
        format!("{}-{}({}) {}", self.node.op_type(), self.opset, operands.join(", "), attributes.join(" "))
    }

    /// The model at a float type: each input goes through an Identity, so that operands are computed.
    pub fn model(&self, dtype: DType) -> ModelProto {
        let mut graph = GraphProto { name: Some("case".to_owned()), ..Default::default() };
        let mut node = self.node.clone();
        for (slot, operand) in self.operands.iter().enumerate() {
            let name = format!("x{slot}");
            let input = match operand {
                Operand::None => String::new(),
                Operand::Input { shape, .. } => {
                    graph.input.push(value_info(&name, dtype, shape.len()));
                    let copied = format!("copy{slot}");
                    graph.node.push(NodeProto {
                        op_type: Some("Identity".to_owned()),
                        input: vec![name],
                        output: vec![copied.clone()],
                        ..Default::default()
                    });
                    copied
                }
                Operand::Flags { shape } => {
                    graph.input.push(value_info(&name, DType::Bool, shape.len()));
                    name
                }
                Operand::Integers { shape, dtype, .. } => {
                    graph.input.push(value_info(&name, *dtype, shape.len()));
                    name
                }
                Operand::Rows(_) => {
                    graph.input.push(value_info(&name, DType::I64, 2));
                    name
                }
                Operand::Weight(values) => {
                    graph.initializer.push(from_tensor(&name, &of_dtype(values, dtype)));
                    name
                }
                Operand::Constant(tensor) => {
                    graph.initializer.push(from_tensor(&name, tensor));
                    name
                }
            };
            node.input.push(input);
        }
        node.output = (0..self.outputs).map(|i| format!("y{i}")).collect();
        graph.output = node.output.iter().map(|name| output(name)).collect();
        graph.node.push(node);
        finished(graph, self.opset)
    }

    /// The operands whose cotangents are wanted.
    pub fn wanted(&self, model: &ModelProto) -> BTreeSet<Use> {
        let graph = Graph::new(model);
        let (node, _) = graph.nodes().last().unwrap();
        let operands = self.operands.iter().enumerate();
        let inputs = operands.filter(|(_, operand)| matches!(operand, Operand::Input { .. }));
        inputs.map(|(slot, _)| Use { node, slot }).collect()
    }

    /// Random inputs for a batch of `batch`.
    pub fn feed(&mut self, dtype: DType, batch: usize) -> Feed {
        let mut cells = self.cells.clone();
        let mut feed = Vec::new();
        for (slot, operand) in self.operands.iter().enumerate() {
            let sized =
                |shape: &[usize]| shape.iter().map(|n| if *n == B { batch } else { *n }).collect::<Vec<_>>();
            let tensor = match operand {
                Operand::Input { shape, values } => {
                    of_dtype(&numbers(&mut self.rng, &sized(shape), *values, &mut cells), dtype)
                }
                Operand::Flags { shape } => {
                    let flags = ArrayD::from_shape_simple_fn(sized(shape), || self.rng.random());
                    Tensor::Bool(flags)
                }
                Operand::Integers { shape, dtype, limit } => {
                    let ints =
                        ArrayD::from_shape_simple_fn(sized(shape), || self.rng.random_range(0..*limit));
                    integers(&ints, *dtype)
                }
                Operand::Rows(row) => {
                    Tensor::I64(ArrayD::from_shape_fn(IxDyn(&[batch, row.len()]), |at| row[at[1]]))
                }
                _ => continue,
            };
            feed.push((format!("x{slot}"), tensor));
        }
        feed
    }
}

/// Integers of that type.
pub fn integers(ints: &ArrayD<usize>, dtype: DType) -> Tensor {
    match dtype {
        DType::I32 => Tensor::I32(ints.mapv(|i| i as i32)),
        DType::U8 => Tensor::U8(ints.mapv(|i| i as u8)),
        DType::U32 => Tensor::U32(ints.mapv(|i| i as u32)),
        _ => Tensor::I64(ints.mapv(|i| i as i64)),
    }
}

/// How far the backward pass is from finite differences in the finest type that the engine runs the case in, and how far
/// it may be.
pub fn compare(engine: &dyn Engine, case: &mut Case) -> Result<(f64, f64), Problem> {
    let single = case.is_single();
    let mut attempt = |dtype, step| {
        let model = case.model(dtype);
        let (observed, run) = (case.feed(dtype, 2), case.feed(dtype, 3));
        let wanted = case.wanted(&model);
        let check = Check { engine, model: &model, observed: &observed, run: &run, wanted: &wanted };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        check.difference(&mut rng, step, |_, value, rng| any_direction(value, rng))
    };
    match single {
        false => match attempt(DType::F64, 1e-3) {
            Err(Problem::Forward(_) | Problem::Backward(_)) => Ok((attempt(DType::F32, 5e-3)?, 1e-3)),
            finer => Ok((finer?, 1e-6)),
        },
        true => Ok((attempt(DType::F32, 5e-3)?, 1e-3)),
    }
}

/// A random direction, no entry of which is small.
pub fn any_direction(value: &ArrayD<f64>, rng: &mut ChaCha8Rng) -> ArrayD<f64> {
    ArrayD::from_shape_simple_fn(value.raw_dim(), || {
        let size = rng.random_range(0.5..1.0);
        if rng.random() { size } else { -size }
    })
}

/// A graph as a model.
pub fn finished(graph: GraphProto, opset: i64) -> ModelProto {
    let import = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", opset), import("com.microsoft", 1)],
        graph: Some(graph),
        ..Default::default()
    }
}

/// An output whose type is inferred.
pub fn output(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.to_owned()), ..Default::default() }
}

/// Random numbers.
pub fn numbers(rng: &mut ChaCha8Rng, shape: &[usize], values: Values, cells: &mut Vec<usize>) -> ArrayD<f64> {
    let mut tenth =
        |low: i32, high: i32| f64::from(rng.random_range(low..high)) * 0.1 + rng.random_range(0.035..0.065);
    ArrayD::from_shape_simple_fn(IxDyn(shape), || match values {
        Values::Any => tenth(-15, 15),
        Values::Positive => tenth(3, 20),
        Values::Unit => tenth(-9, 9),
        Values::Large => tenth(11, 20),
        Values::Distinct => (cells.pop().unwrap() as f64 - 127.5) * 0.03,
    })
}
