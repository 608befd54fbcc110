//! A node between layers that may shrink: a weight makes every axis of its operands, and another sums over every axis of
//! its results. So whatever its rule lets go can go, and it is the rule alone that pins.

use ndarray::{ArrayD, IxDyn};
use optin_onnx::{
    onnx::{
        build::value_info,
        int_attribute, ints_attribute,
        proto::{
            GraphProto, ModelProto, NodeProto, TensorShapeProto, TypeProto, ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension::Value as Extent},
            type_proto,
        },
        tensor::from_tensor,
    },
    tensor::{DType, Tensor},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{
    case::{B, Case, Operand, Values, finished, numbers},
    check::{Feed, of_dtype},
};

/// Samples that a model is fed.
pub const SAMPLES: usize = 4;
/// Extent of the axes that layers read or leave.
const OUTSIDE: usize = 3;

/// A result of the node: its type, and its extents, but for those that depend on the batch.
pub struct Made {
    pub dtype: DType,
    pub shape: Vec<Option<usize>>,
}

/// The model around the node of `case`, whose results are `made`, and what it is fed.
pub fn between(case: &Case, made: &[Made]) -> (ModelProto, Feed) {
    let mut layers = Layers {
        graph: GraphProto { name: Some("layers".to_owned()), ..Default::default() },
        rng: ChaCha8Rng::seed_from_u64(5),
        feed: Feed::new(),
        count: 0,
    };
    let mut node = case.node.clone();
    node.name = Some("node".to_owned());
    for (slot, operand) in case.operands.iter().enumerate() {
        let name = layers.operand(slot, operand);
        node.input.push(name);
    }
    node.output = (0..made.len()).map(|i| format!("y{i}")).collect();
    layers.graph.node.push(node);
    for (i, made) in made.iter().enumerate() {
        layers.result(i, made);
    }
    if layers.feed.is_empty() {
        let x = layers.made("x", &[B, 4]);
        layers.result_of(&x, &[None, Some(4)]);
    }
    (finished(layers.graph, case.opset), layers.feed)
}

struct Layers {
    graph: GraphProto,
    rng: ChaCha8Rng,
    feed: Feed,
    count: usize,
}

impl Layers {
    /// An operand's name.
    fn operand(&mut self, slot: usize, operand: &Operand) -> String {
        let name = format!("x{slot}");
        match operand {
            Operand::None => return String::new(),
            Operand::Weight(values) => self.constant(&name, &of_dtype(values, DType::F32)),
            Operand::Constant(tensor) => self.constant(&name, tensor),
            Operand::Rows(row) => {
                let at = |at: IxDyn| row[at[1]];
                self.input(&name, &Tensor::I64(ArrayD::from_shape_fn(IxDyn(&[SAMPLES, row.len()]), at)));
            }
            Operand::Input { shape, values } if is_made(shape) => {
                let made = self.made(&name, shape);
                return self.placed(made, *values);
            }
            Operand::Input { shape, values } => {
                let values = numbers(&mut self.rng, shape, *values, &mut (0..256).collect());
                self.constant(&name, &of_dtype(&values, DType::F32));
            }
            Operand::Flags { shape } => {
                let made = self.made(&name, shape);
                let zero = self.scalar(0.0);
                return self.node("Greater", &[&made, &zero]);
            }
            Operand::Integers { shape, dtype, limit } => {
                let made = self.made(&name, shape);
                let below = self.node("Sigmoid", &[&made]);
                let limit = self.scalar(*limit as f32 - 0.01);
                let scaled = self.node("Mul", &[&below, &limit]);
                return self.cast(&scaled, *dtype);
            }
        }
        name
    }

    /// Numbers whose every axis but the first a weight makes.
    fn made(&mut self, name: &str, shape: &[usize]) -> String {
        let outside: Vec<usize> = (shape.iter().enumerate())
            .map(|(axis, n)| match (axis, *n) {
                (0, B) => SAMPLES,
                (0, n) => n,
                (_, n) => n.min(OUTSIDE),
            })
            .collect();
        let values = numbers(&mut self.rng, &outside, Values::Any, &mut Vec::new());
        self.input(name, &of_dtype(&values, DType::F32));
        if shape.first() != Some(&B) {
            fix(self.graph.input.last_mut(), shape[0]);
        }
        let axes = (1..shape.len()).filter(|axis| shape[*axis] != 1);
        axes.fold(name.to_owned(), |x, axis| self.weigh(&x, shape.len(), axis, outside[axis], shape[axis]))
    }

    /// The same where a function is defined.
    fn placed(&mut self, x: String, values: Values) -> String {
        let (shift, scale) = match values {
            Values::Any | Values::Distinct => return x,
            Values::Positive => (0.3, 0.0),
            Values::Large => (1.1, 0.0),
            Values::Unit => (0.0, 0.9),
        };
        if scale == 0.0 {
            let (square, shift) = (self.node("Mul", &[&x, &x]), self.scalar(shift));
            return self.node("Add", &[&square, &shift]);
        }
        let (within, scale) = (self.node("Tanh", &[&x]), self.scalar(scale));
        self.node("Mul", &[&within, &scale])
    }

    /// Sums over every axis of a result but the first and those of the batch.
    fn result(&mut self, index: usize, made: &Made) {
        let name = format!("y{index}");
        let x = if made.dtype == DType::F32 { name } else { self.cast(&name, DType::F32) };
        self.result_of(&x, &made.shape);
    }

    fn result_of(&mut self, x: &str, shape: &[Option<usize>]) {
        let rank = shape.len();
        let axes = shape.iter().enumerate().skip(1);
        let axes: Vec<(usize, usize)> = axes.filter_map(|(axis, n)| Some((axis, (*n)?))).collect();
        let sum = axes
            .into_iter()
            .filter(|(_, n)| *n > 1)
            .fold(x.to_owned(), |x, (axis, n)| self.weigh(&x, rank, axis, n, OUTSIDE));
        let output = self.node("Identity", &[&sum]);
        self.graph.output.push(value_info(&output, DType::F32, rank));
    }

    /// A weight on one axis.
    fn weigh(&mut self, x: &str, rank: usize, axis: usize, from: usize, to: usize) -> String {
        self.count += 1;
        let weight = format!("w{}", self.count);
        let values = numbers(&mut self.rng, &[from, to], Values::Any, &mut Vec::new());
        self.constant(&weight, &of_dtype(&values, DType::F32));
        if axis + 1 == rank {
            return self.node("MatMul", &[x, &weight]);
        }
        let mut there: Vec<i64> = (0..rank as i64).filter(|a| *a != axis as i64).collect();
        there.push(axis as i64);
        let mut back: Vec<i64> = (0..rank as i64 - 1).collect();
        back.insert(axis, rank as i64 - 1);
        let last = self.transpose(x, &there);
        let product = self.node("MatMul", &[&last, &weight]);
        self.transpose(&product, &back)
    }

    fn transpose(&mut self, x: &str, perm: &[i64]) -> String {
        let y = self.node("Transpose", &[x]);
        self.last().attribute.push(ints_attribute("perm", perm));
        y
    }

    fn cast(&mut self, x: &str, dtype: DType) -> String {
        let y = self.node("Cast", &[x]);
        self.last().attribute.push(int_attribute("to", dtype.onnx().into()));
        y
    }

    fn last(&mut self) -> &mut NodeProto {
        self.graph.node.last_mut().unwrap()
    }

    fn scalar(&mut self, value: f32) -> String {
        self.count += 1;
        let name = format!("n{}", self.count);
        self.constant(&name, &Tensor::f32(&[], vec![value]).unwrap());
        name
    }

    fn constant(&mut self, name: &str, tensor: &Tensor) {
        self.graph.initializer.push(from_tensor(name, tensor));
    }

    /// An input whose first axis is the batch.
    fn input(&mut self, name: &str, tensor: &Tensor) {
        let extents = tensor.shape().iter().skip(1).map(|n| Extent::DimValue(*n as i64));
        let extents = std::iter::once(Extent::DimParam("batch".to_owned())).chain(extents);
        let dim = extents.map(|value| Dimension { value: Some(value), ..Default::default() }).collect();
        let tensor_type = type_proto::Tensor {
            elem_type: Some(tensor.dtype().onnx()),
            shape: Some(TensorShapeProto { dim }),
        };
        let value = Some(type_proto::Value::TensorType(tensor_type));
        self.graph.input.push(ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto { value, ..Default::default() }),
            ..Default::default()
        });
        self.feed.push((name.to_owned(), tensor.clone()));
    }

    fn node(&mut self, op: &str, inputs: &[&str]) -> String {
        self.count += 1;
        let name = format!("h{}", self.count);
        self.graph.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(format!("{op}_{name}")),
            input: inputs.iter().map(|i| (*i).to_owned()).collect(),
            output: vec![name.clone()],
            ..Default::default()
        });
        name
    }
}

/// Whether layers make an operand: others of the case are constants.
fn is_made(shape: &[usize]) -> bool {
    shape.first() == Some(&B) || shape.len() > 2
}

/// Gives the first axis of an input an extent.
fn fix(input: Option<&mut ValueInfoProto>, extent: usize) {
    let value = input.and_then(|i| i.r#type.as_mut()).and_then(|t| t.value.as_mut());
    let Some(type_proto::Value::TensorType(tensor)) = value else { return };
    if let Some(first) = tensor.shape.as_mut().and_then(|s| s.dim.first_mut()) {
        first.value = Some(Extent::DimValue(extent as i64));
    }
}
