//! A backward pass against finite differences of the forward pass.

use std::{collections::BTreeSet, fmt};

use ndarray::{ArrayD, Zip};
use optin_onnx::{
    gradient,
    graph::{Facts, Graph, Patch, Tail, Use, ValueId},
    onnx::{
        build::value_info,
        proto::{ModelProto, NodeProto},
    },
    runtime::{Engine, RuntimeError, Session},
    tensor::{DType, Tensor},
    typing::observe,
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What a model is fed.
pub type Feed = Vec<(String, Tensor)>;

/// Why there is nothing to compare.
pub enum Problem {
    /// The engine does not run the model.
    Forward(RuntimeError),
    /// The engine does not run the backward pass.
    Backward(RuntimeError),
    /// A node passes no cotangent on.
    Stop(String),
    /// A cotangent is not of its operand's shape.
    Shape { cotangent: Vec<usize>, operand: Vec<usize> },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(e) => write!(f, "forward: {e}"),
            Self::Backward(e) => write!(f, "backward: {e}"),
            Self::Stop(stop) => write!(f, "{stop}"),
            Self::Shape { cotangent, operand } => {
                write!(f, "the cotangent of an operand of shape {operand:?} has shape {cotangent:?}")
            }
        }
    }
}

struct Operand {
    value: ArrayD<f64>,
    cotangent: ArrayD<f64>,
}

/// A model, and the operands whose cotangents are checked.
pub struct Check<'a> {
    pub engine: &'a dyn Engine,
    pub model: &'a ModelProto,
    /// What the backward pass is written from, and how many samples that is.
    pub observed: &'a Feed,
    /// What both passes run on.
    pub run: &'a Feed,
    pub wanted: &'a BTreeSet<Use>,
}

impl Check<'_> {
    /// The largest difference, over operands and directions, between the derivative that the backward pass says and a
    /// finite difference: relative to the norms of cotangent and direction. `direction` is given the operand's value.
    pub fn difference(
        &self,
        rng: &mut ChaCha8Rng,
        step: f64,
        direction: impl Fn(Use, &ArrayD<f64>, &mut ChaCha8Rng) -> ArrayD<f64>,
    ) -> Result<f64, Problem> {
        let graph = Graph::new(self.model);
        let observe = |feed| observe(self.engine, self.model, &graph, feed, 2).map_err(Problem::Forward);
        let (facts, shapes) = (observe(self.observed)?, observe(self.run)?);
        let outputs = graph.outputs().iter().copied();
        let outputs: Vec<ValueId> = outputs.filter(|v| facts.get(*v).unwrap().dtype.is_float()).collect();
        let seed = |(i, v): (usize, &ValueId)| {
            let fact = shapes.get(*v).unwrap();
            let values = ArrayD::from_shape_simple_fn(fact.shape.clone(), || rng.random_range(-1.0..1.0));
            (format!("seed{i}"), of_dtype(&values, fact.dtype))
        };
        let seeds: Feed = outputs.iter().enumerate().map(seed).collect();
        let operands = self.backward(&graph, &facts, &outputs, &seeds)?;
        let mut forward = self.perturbed(&graph, &shapes, &outputs)?;
        let mut worst = 0.0_f64;
        for (at, Operand { value, cotangent }) in self.wanted.iter().zip(&operands) {
            for _ in 0..2 {
                let along = direction(*at, value, rng);
                let mut loss = |t: f64| forward.loss(self.run, &seeds, *at, &along, t * step);
                // The five-point stencil, whose error is of fourth order.
                let near = loss(1.0)? - loss(-1.0)?;
                let far = loss(2.0)? - loss(-2.0)?;
                let measured = (8.0 * near - far) / (12.0 * step);
                let said = dot(cotangent, &along);
                let scale = norm(cotangent) * norm(&along) + measured.abs() + 1e-6;
                worst = worst.max((measured - said).abs() / scale);
                if !said.is_finite() {
                    worst = f64::INFINITY;
                }
            }
        }
        Ok(worst)
    }

    /// What passes no cotangent on, each once.
    pub fn stops(&self) -> Result<BTreeSet<String>, Problem> {
        let graph = Graph::new(self.model);
        let facts = observe(self.engine, self.model, &graph, self.observed, 2).map_err(Problem::Forward)?;
        let tail = Tail::new(graph.opset(), "test");
        let outputs = graph.outputs().iter().filter(|v| facts.get(**v).is_some_and(|f| f.dtype.is_float()));
        let seeds: Vec<_> = outputs.map(|v| (*v, tail.scalar(1.0, facts.get(*v).unwrap().dtype))).collect();
        let backward = gradient::reverse(&graph, &facts, &tail, &seeds, self.wanted);
        Ok(backward.stops.iter().map(|stop| stop.reason.to_string()).collect())
    }

    /// Value and cotangent of each wanted operand.
    fn backward(
        &self,
        graph: &Graph,
        facts: &Facts,
        outputs: &[ValueId],
        seeds: &Feed,
    ) -> Result<Vec<Operand>, Problem> {
        let tail = Tail::new(graph.opset(), "test");
        let seeding = outputs.iter().zip(seeds);
        let seeding: Vec<_> = seeding.map(|(v, (name, t))| (*v, tail.value(name, t.dtype()))).collect();
        let backward = gradient::reverse(graph, facts, &tail, &seeding, self.wanted);
        if let Some(stop) = backward.stops.first() {
            return Err(Problem::Stop(stop.to_string()));
        }
        let mut patch = Patch::default();
        patch.only_exposed();
        for (name, seed) in seeds {
            patch.input(value_info(name, seed.dtype(), seed.rank()));
        }
        let mut present = Vec::new();
        let mut copies = Vec::new();
        for (i, at) in self.wanted.iter().enumerate() {
            copies.push(identity(&graph.value(operand(graph, *at)).name, &format!("value{i}")));
            let cotangent = backward.operands.get(at);
            present.push(cotangent.is_some());
            copies.extend(cotangent.map(|c| identity(&c.name(), &format!("cotangent{i}"))));
        }
        drop(backward);
        tail.append_to(&mut patch);
        for copy in copies {
            patch.expose(&copy.output[0]);
            patch.append(copy);
        }
        let feed: Feed = self.run.iter().chain(seeds).cloned().collect();
        let session = self.engine.load(&patch.apply(self.model)).map_err(Problem::Backward);
        let results = session?.run(&feed).map_err(Problem::Backward)?;
        let mut results = results.iter().map(to_f64);
        let mut next = || results.next().unwrap();
        let mut operands = Vec::new();
        for present in present {
            let value = next();
            let cotangent = if present { next() } else { ArrayD::zeros(value.shape()) };
            if cotangent.shape() != value.shape() {
                let (cotangent, operand) = (cotangent.shape().to_vec(), value.shape().to_vec());
                return Err(Problem::Shape { cotangent, operand });
            }
            operands.push(Operand { value, cotangent });
        }
        Ok(operands)
    }

    /// The model with something added to each wanted operand.
    fn perturbed(&self, graph: &Graph, shapes: &Facts, outputs: &[ValueId]) -> Result<Perturbed, Problem> {
        let mut patch = Patch::default();
        patch.only_exposed();
        let mut still = Vec::new();
        for (i, at) in self.wanted.iter().enumerate() {
            let value = operand(graph, *at);
            let fact = shapes.get(value).unwrap();
            let (added, sum) = (format!("added{i}"), format!("sum{i}"));
            patch.input(value_info(&added, fact.dtype, fact.shape.len()));
            patch.insert(
                at.node,
                NodeProto {
                    op_type: Some("Add".to_owned()),
                    input: vec![graph.value(value).name.clone(), added.clone()],
                    output: vec![sum.clone()],
                    ..Default::default()
                },
            );
            patch.rewire(*at, sum);
            still.push((*at, added, of_dtype(&ArrayD::zeros(fact.shape.clone()), fact.dtype)));
        }
        outputs.iter().for_each(|v| patch.expose(&graph.value(*v).name));
        let session = self.engine.load(&patch.apply(self.model)).map_err(Problem::Forward)?;
        Ok(Perturbed { session, still })
    }
}

struct Perturbed {
    session: Box<dyn Session>,
    /// What is added to each operand: nothing, unless [`Self::loss`] moves it.
    still: Vec<(Use, String, Tensor)>,
}

impl Perturbed {
    /// `Σ ⟨seed, output⟩` with one operand moved by `t` in a direction.
    fn loss(
        &mut self,
        run: &Feed,
        seeds: &Feed,
        moved: Use,
        along: &ArrayD<f64>,
        t: f64,
    ) -> Result<f64, Problem> {
        let mut feed = run.clone();
        for (at, name, zeros) in &self.still {
            let added = if *at == moved { of_dtype(&(along * t), zeros.dtype()) } else { zeros.clone() };
            feed.push((name.clone(), added));
        }
        let outputs = self.session.run(&feed).map_err(Problem::Forward)?;
        Ok(outputs.iter().zip(seeds).map(|(y, (_, seed))| dot(&to_f64(y), &to_f64(seed))).sum())
    }
}

fn operand(graph: &Graph, at: Use) -> ValueId {
    graph.node(at.node).inputs[at.slot].unwrap()
}

fn identity(from: &str, to: &str) -> NodeProto {
    NodeProto {
        op_type: Some("Identity".to_owned()),
        input: vec![from.to_owned()],
        output: vec![to.to_owned()],
        ..Default::default()
    }
}

/// The numbers as a tensor of a type.
pub fn of_dtype(values: &ArrayD<f64>, dtype: DType) -> Tensor {
    match dtype {
        DType::F64 => Tensor::F64(values.clone()),
        _ => Tensor::F32(values.mapv(|x| x as f32)),
    }
}

fn to_f64(tensor: &Tensor) -> ArrayD<f64> {
    match tensor {
        Tensor::F64(a) => a.clone(),
        other => other.to_f32().unwrap().mapv(f64::from),
    }
}

fn dot(a: &ArrayD<f64>, b: &ArrayD<f64>) -> f64 {
    let mut sum = 0.0;
    Zip::from(a).and(b).for_each(|a, b| sum += a * b);
    sum
}

fn norm(a: &ArrayD<f64>) -> f64 {
    dot(a, a).sqrt()
}
