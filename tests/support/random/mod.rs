//! Random models whose dimensions are known: they can be written down with any of their units left out, without asking
//! the code under test.

mod convnet;
mod transformer;

pub use convnet::convnet;
pub use transformer::transformer;

use optin_onnx::onnx::{
    proto::ModelProto,
    tensor::{from_tensor, to_tensor},
};
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::support::text;

/// What an axis of a weight is made of.
#[derive(Clone, Debug)]
pub enum Axis {
    /// Keeps its extent.
    Fixed(usize),
    /// The units of a dimension, by its number.
    Dim(usize),
    /// Row-major, outermost factor first.
    Product(Vec<Axis>),
    /// Laid end to end.
    Concat(Vec<Axis>),
}

use Axis::{Concat, Dim, Fixed, Product};

impl Axis {
    /// For each entry of the dense axis, the unit of every dimension that it belongs to.
    fn entries(&self, sizes: &[usize]) -> Vec<Vec<(usize, usize)>> {
        match self {
            Fixed(size) => vec![Vec::new(); *size],
            Dim(dim) => (0..sizes[*dim]).map(|unit| vec![(*dim, unit)]).collect(),
            Product(factors) => factors.iter().fold(vec![Vec::new()], |outer, factor| {
                let inner = factor.entries(sizes);
                outer.iter().flat_map(|o| inner.iter().map(|i| [o.as_slice(), i].concat())).collect()
            }),
            Concat(segments) => segments.iter().flat_map(|s| s.entries(sizes)).collect(),
        }
    }

    /// The entries that stay when `kept` units do.
    fn kept(&self, sizes: &[usize], kept: &[Vec<usize>]) -> Vec<usize> {
        let stays = |entry: &[(usize, usize)]| entry.iter().all(|(dim, unit)| kept[*dim].contains(unit));
        self.entries(sizes).iter().enumerate().filter(|(_, e)| stays(e)).map(|(i, _)| i).collect()
    }

    /// The unit of one dimension that each entry belongs to.
    fn units(&self, sizes: &[usize], dim: usize) -> Vec<Option<usize>> {
        let unit = |entry: &Vec<(usize, usize)>| entry.iter().find(|(d, _)| *d == dim).map(|(_, unit)| *unit);
        self.entries(sizes).iter().map(unit).collect()
    }
}

/// An element of a shape operand.
enum Size {
    Literal(i64),
    Of(Axis),
}

use Size::{Literal, Of};

struct Weight {
    name: String,
    axes: Vec<Axis>,
    contents: &'static str,
}

/// A model, written in terms of its dimensions.
pub struct Design {
    rng: ChaCha8Rng,
    /// Units of each dimension.
    pub sizes: Vec<usize>,
    weights: Vec<Weight>,
    shapes: Vec<(String, Vec<Size>)>,
    /// Nodes; `$3` stands for the number of units of dimension 3.
    nodes: Vec<String>,
    input: String,
    output: &'static str,
}

const ACTIVATIONS: &[&str] =
    &["Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Abs", "LeakyRelu <alpha = 0.2>"];

impl Design {
    fn empty(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            sizes: Vec::new(),
            weights: Vec::new(),
            shapes: Vec::new(),
            nodes: Vec::new(),
            input: String::new(),
            output: "",
        }
    }

    /// The model in ONNX's textual syntax, with the shapes that it has when `kept` units stay, and dense weights.
    pub fn text(&self, kept: &[Vec<usize>]) -> String {
        let list = |items: Vec<String>| items.join(", ");
        let weights = self.weights.iter().map(|w| {
            let sizes = w.axes.iter().map(|a| a.entries(&self.sizes).len().to_string()).collect();
            format!("float[{}] {} = {}", list(sizes), w.name, w.contents)
        });
        let shapes = self.shapes.iter().map(|(name, sizes)| {
            let extents = sizes.iter().map(|size| match size {
                Literal(n) => n.to_string(),
                Of(axis) => axis.kept(&self.sizes, kept).len().to_string(),
            });
            format!("int64[{}] {name} = {{{}}}", sizes.len(), list(extents.collect()))
        });
        let scalars = (0..3).map(|i| format!("int64 scalar{i} = {{{i}}}"));
        let declared = weights.chain(shapes).chain(scalars).collect::<Vec<_>>().join(",\n   ");
        // The highest number first, so that `$1` is not taken for the start of `$12`.
        let nodes = (0..self.sizes.len()).rev().fold(self.nodes.join("\n   "), |nodes, dim| {
            nodes.replace(&format!("${dim}"), &kept[dim].len().to_string())
        });
        format!("random ({}) => ({})\n<\n   {declared}\n>\n{{\n   {nodes}\n}}\n", self.input, self.output)
    }

    /// The model of which only `kept` units were ever there.
    pub fn build(&self, kept: &[Vec<usize>]) -> ModelProto {
        let (mut model, _) = text::parse(&self.text(kept)).unwrap();
        for tensor in &mut model.graph.as_mut().unwrap().initializer {
            let Some(weight) = self.weights.iter().find(|w| w.name == tensor.name()) else { continue };
            let dense = to_tensor(tensor).unwrap();
            let sliced = weight
                .axes
                .iter()
                .enumerate()
                .fold(dense, |t, (i, axis)| t.select(i, &axis.kept(&self.sizes, kept)));
            *tensor = from_tensor(&weight.name, &sliced);
        }
        model
    }

    /// An axis of a weight that the dimension has a part in: the weight's name, the axis, and the unit of each entry.
    pub fn witness(&self, dim: usize) -> (&str, usize, Vec<Option<usize>>) {
        let axes = self.weights.iter().flat_map(|w| w.axes.iter().enumerate().map(move |(i, a)| (w, i, a)));
        let mut units = axes.map(|(w, i, axis)| (w.name.as_str(), i, axis.units(&self.sizes, dim)));
        units.find(|(_, _, units)| units.iter().any(Option::is_some)).unwrap()
    }

    /// The units of [`Self::witness`] in a model where only `kept` are left, numbered anew.
    pub fn witness_units(&self, dim: usize, kept: &[Vec<usize>]) -> Vec<Option<usize>> {
        let (weight, axis, units) = self.witness(dim);
        let weight = self.weights.iter().find(|w| w.name == weight).unwrap();
        let left = weight.axes[axis].kept(&self.sizes, kept);
        left.iter().map(|entry| kept[dim].iter().position(|unit| Some(*unit) == units[*entry])).collect()
    }

    /// All units of all dimensions.
    pub fn everything(&self) -> Vec<Vec<usize>> {
        self.sizes.iter().map(|size| (0..*size).collect()).collect()
    }

    /// A random choice, of at least one unit each, of those units.
    pub fn choose(&mut self, from: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let mut choice = Vec::new();
        for units in from {
            let count = self.rng.random_range(1..=units.len());
            let mut chosen: Vec<usize> = units.sample(&mut self.rng, count).copied().collect();
            chosen.sort_unstable();
            choice.push(chosen);
        }
        choice
    }

    fn number(&mut self, range: std::ops::Range<usize>) -> usize {
        self.rng.random_range(range)
    }

    fn coin(&mut self) -> bool {
        self.rng.random()
    }

    /// A new dimension. One unit alone can never go.
    fn dim(&mut self, range: std::ops::Range<usize>) -> Axis {
        match self.number(range) {
            1 => Fixed(1),
            size => {
                self.sizes.push(size);
                Dim(self.sizes.len() - 1)
            }
        }
    }

    fn weight(&mut self, axes: &[&Axis]) -> String {
        self.initializer(axes, "random")
    }

    fn initializer(&mut self, axes: &[&Axis], contents: &'static str) -> String {
        let name = format!("w{}", self.weights.len());
        let axes = axes.iter().map(|a| (*a).clone()).collect();
        self.weights.push(Weight { name: name.clone(), axes, contents });
        name
    }

    fn shape(&mut self, sizes: Vec<Size>) -> String {
        let name = format!("s{}", self.shapes.len());
        self.shapes.push((name.clone(), sizes));
        name
    }

    /// Adds a node, written without its result, and returns the result.
    fn node(&mut self, node: &str) -> String {
        let name = format!("v{}", self.nodes.len());
        self.nodes.push(format!("{name} = {node}"));
        name
    }

    fn activation(&mut self, x: &str) -> String {
        let activation = *ACTIVATIONS.choose(&mut self.rng).unwrap();
        self.node(&format!("{activation} ({x})"))
    }

    fn finish(mut self, input: String, output: &'static str, y: &str) -> Self {
        self.nodes.push(format!("y = Identity ({y})"));
        (self.input, self.output) = (input, output);
        self
    }
}
