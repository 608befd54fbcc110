//! Random models whose dimensions are known: they can be written down with any of their units left out, without asking
//! the code under test.

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

/// Transformers: residual blocks of attention and feed-forward layers, with and without layer normalisation.
pub fn transformer(seed: u64) -> Design {
    let mut d = Design::empty(seed);
    let (tokens, features) = (d.number(2..5), d.number(2..6));
    let normed = d.coin();
    let stream = if normed { Fixed(d.number(2..7)) } else { d.dim(2..7) };
    let mut x = d.project("x", &Fixed(features), &stream);
    for _ in 0..d.number(1..4) {
        let inner = if normed { d.layer_norm(&x, &stream) } else { x.clone() };
        let change = match d.number(0..7) {
            0 => d.feed_forward(&inner, &stream),
            1 => d.gated(&inner, &stream),
            2 => d.gated_fused(&inner, &stream),
            3 => d.attention(&inner, &stream, tokens),
            4 => d.attention_fused(&inner, &stream, tokens),
            5 => d.attention_grouped(&inner, &stream, tokens),
            _ => d.attention_einsum(&inner, &stream, tokens),
        };
        x = d.node(&format!("Add ({x}, {change})"));
    }
    let y = d.project(&x, &stream, &Fixed(3));
    d.finish(format!("float[N, {tokens}, {features}] x"), "float[N, T, 3] y", &y)
}

impl Design {
    /// A projection, with a bias or without.
    fn project(&mut self, x: &str, from: &Axis, to: &Axis) -> String {
        let w = self.weight(&[from, to]);
        let y = self.node(&format!("MatMul ({x}, {w})"));
        if !self.coin() {
            return y;
        }
        let b = self.weight(&[to]);
        self.node(&format!("Add ({y}, {b})"))
    }

    fn layer_norm(&mut self, x: &str, stream: &Axis) -> String {
        let (scale, bias) = (self.weight(&[stream]), self.weight(&[stream]));
        self.node(&format!("LayerNormalization <axis = -1> ({x}, {scale}, {bias})"))
    }

    fn feed_forward(&mut self, x: &str, stream: &Axis) -> String {
        let hidden = self.dim(2..9);
        let h = self.project(x, stream, &hidden);
        let a = self.activation(&h);
        self.project(&a, &hidden, stream)
    }

    fn gated(&mut self, x: &str, stream: &Axis) -> String {
        let hidden = self.dim(2..9);
        let (gate, up) = (self.project(x, stream, &hidden), self.project(x, stream, &hidden));
        let a = self.activation(&gate);
        let h = self.node(&format!("Mul ({a}, {up})"));
        self.project(&h, &hidden, stream)
    }

    fn gated_fused(&mut self, x: &str, stream: &Axis) -> String {
        let hidden = self.dim(2..9);
        let both = self.project(x, stream, &Concat(vec![hidden.clone(), hidden.clone()]));
        let halves = self.shape(vec![Of(hidden.clone()), Of(hidden.clone())]);
        let gate = format!("v{}", self.nodes.len());
        self.nodes.push(format!("{gate}, {gate}b = Split <axis = -1> ({both}, {halves})"));
        let a = self.activation(&gate);
        let h = self.node(&format!("Mul ({a}, {gate}b)"));
        self.project(&h, &hidden, stream)
    }

    /// The shape that takes heads apart: written out, or computed from `Shape` as exporters do.
    fn head_shape(&mut self, x: &str, tokens: usize, heads: &Axis, inner: usize) -> String {
        if self.coin() {
            return self.shape(vec![
                Literal(0),
                Literal(tokens as i64),
                Of(heads.clone()),
                Literal(inner as i64),
            ]);
        }
        let (rest, first) =
            (self.shape(vec![Of(heads.clone()), Literal(inner as i64)]), self.shape(vec![Literal(0)]));
        let whole = self.node(&format!("Shape ({x})"));
        let parts = ["scalar0", "scalar1"].map(|i| {
            let size = self.node(&format!("Gather ({whole}, {i})"));
            self.node(&format!("Unsqueeze ({size}, {first})"))
        });
        self.node(&format!("Concat <axis = 0> ({}, {}, {rest})", parts[0], parts[1]))
    }

    /// Softmax attention over `q`, `k`, `v` of shape `[N, H, T, E]`, merged and projected.
    fn attend(&mut self, [q, k, v]: [&str; 3], tokens: usize, merged: &Axis, stream: &Axis) -> String {
        let kt = self.node(&format!("Transpose <perm = [0, 1, 3, 2]> ({k})"));
        let scores = self.node(&format!("MatMul ({q}, {kt})"));
        let p = self.node(&format!("Softmax <axis = -1> ({scores})"));
        let mixed = self.node(&format!("MatMul ({p}, {v})"));
        let back = self.node(&format!("Transpose <perm = [0, 2, 1, 3]> ({mixed})"));
        let last = if self.coin() { Literal(-1) } else { Of(merged.clone()) };
        let shape = self.shape(vec![Literal(0), Literal(tokens as i64), last]);
        let flat = self.node(&format!("Reshape ({back}, {shape})"));
        self.project(&flat, merged, stream)
    }

    fn split_heads(&mut self, x: &str, shape: &str) -> String {
        let apart = self.node(&format!("Reshape ({x}, {shape})"));
        self.node(&format!("Transpose <perm = [0, 2, 1, 3]> ({apart})"))
    }

    fn attention(&mut self, x: &str, stream: &Axis, tokens: usize) -> String {
        let (heads, inner) = (self.dim(2..5), self.number(2..4));
        let merged = Product(vec![heads.clone(), Fixed(inner)]);
        let [q, k, v] = if self.coin() {
            [(); 3].map(|()| self.project(x, stream, &merged))
        } else {
            let all = self.project(x, stream, &Concat(vec![merged.clone(); 3]));
            let sizes = self.shape(vec![Of(merged.clone()), Of(merged.clone()), Of(merged.clone())]);
            let names = ["q", "k", "v"].map(|n| format!("{n}{}", self.nodes.len()));
            self.nodes.push(format!("{} = Split <axis = 2> ({all}, {sizes})", names.join(", ")));
            names
        };
        let shape = self.head_shape(x, tokens, &heads, inner);
        let [q, k, v] = [q, k, v].map(|value| self.split_heads(&value, &shape));
        self.attend([&q, &k, &v], tokens, &merged, stream)
    }

    /// One projection, seen as three by heads by features, and one of the three picked after another.
    fn attention_fused(&mut self, x: &str, stream: &Axis, tokens: usize) -> String {
        let (heads, inner) = (self.dim(2..5), self.number(2..4));
        let all = self.project(x, stream, &Product(vec![Fixed(3), heads.clone(), Fixed(inner)]));
        let numbers = [0, tokens as i64, 3].map(Literal).into_iter();
        let shape = self.shape(numbers.chain([Of(heads.clone()), Literal(inner as i64)]).collect());
        let apart = self.node(&format!("Reshape ({all}, {shape})"));
        let first = self.node(&format!("Transpose <perm = [2, 0, 3, 1, 4]> ({apart})"));
        let [q, k, v] = [0, 1, 2].map(|i| self.node(&format!("Gather <axis = 0> ({first}, scalar{i})")));
        self.attend([&q, &k, &v], tokens, &Product(vec![heads, Fixed(inner)]), stream)
    }

    /// Several query heads to each key and value head.
    fn attention_grouped(&mut self, x: &str, stream: &Axis, tokens: usize) -> String {
        let (groups, repeats, inner) = (self.dim(2..4), self.dim(2..4), self.number(2..4));
        let heads = Product(vec![groups.clone(), repeats.clone()]);
        let merged = Product(vec![groups.clone(), repeats.clone(), Fixed(inner)]);
        let q = self.project(x, stream, &merged);
        let shape = self.head_shape(x, tokens, &heads, inner);
        let q = self.split_heads(&q, &shape);
        let two = self.shape(vec![Literal(2)]);
        let times = [Literal(1), Literal(1), Of(repeats), Literal(1), Literal(1)];
        let (times, t) = (self.shape(times.into()), tokens as i64);
        let all = self.shape(vec![Literal(0), Of(heads), Literal(t), Literal(inner as i64)]);
        let [k, v] = [(); 2].map(|()| {
            let one = self.project(x, stream, &Product(vec![groups.clone(), Fixed(inner)]));
            let shape = self.head_shape(x, tokens, &groups, inner);
            let one = self.split_heads(&one, &shape);
            let apart = self.node(&format!("Unsqueeze ({one}, {two})"));
            let repeated = self.node(&format!("Expand ({apart}, {times})"));
            self.node(&format!("Reshape ({repeated}, {all})"))
        });
        self.attend([&q, &k, &v], tokens, &merged, stream)
    }

    fn attention_einsum(&mut self, x: &str, stream: &Axis, tokens: usize) -> String {
        let (heads, inner) = (self.dim(2..5), Fixed(self.number(2..4)));
        let [q, k, v] = [(); 3].map(|()| {
            let w = self.weight(&[stream, &heads, &inner]);
            self.node(&format!("Einsum <equation = \"ntd,dhe->nhte\"> ({x}, {w})"))
        });
        self.attend([&q, &k, &v], tokens, &Product(vec![heads, inner]), stream)
    }
}

/// Convolutional networks: residual blocks of many kinds over one stream of channels.
pub fn convnet(seed: u64) -> Design {
    let mut d = Design::empty(seed);
    let mut side = d.number(4..7);
    let stream = d.dim(2..6);
    let input = format!("float[N, 2, {side}, {side}] x");
    let mut x = d.conv("x", &Fixed(2), &stream, 3);
    for _ in 0..d.number(1..4) {
        let change = match d.number(0..8) {
            0 => d.basic(&x, &stream),
            1 => d.depthwise(&x, &stream),
            2 => d.grouped(&x, &stream),
            3 => d.branches(&x, &stream),
            4 => d.dense(&x, &stream),
            5 => d.split(&x, &stream),
            6 => d.shuffle(&x, &stream, side),
            _ => d.transposed(&x, &stream),
        };
        let gated = if d.coin() { d.squeeze_excite(&change, &stream) } else { change };
        x = d.node(&format!("Add ({x}, {gated})"));
        if side >= 4 && d.coin() {
            let pool = if d.coin() { "MaxPool" } else { "AveragePool" };
            x = d.node(&format!("{pool} <kernel_shape = [2, 2], strides = [2, 2]> ({x})"));
            side /= 2;
        }
    }
    let (x, features) = if d.coin() {
        (d.node(&format!("GlobalAveragePool ({x})")), stream.clone())
    } else {
        (x, Product(vec![stream.clone(), Fixed(side), Fixed(side)]))
    };
    let flat = d.node(&format!("Flatten <axis = 1> ({x})"));
    let (w, b) = (d.weight(&[&Fixed(3), &features]), d.weight(&[&Fixed(3)]));
    let y = d.node(&format!("Gemm <transB = 1> ({flat}, {w}, {b})"));
    d.finish(input, "float[N, 3] y", &y)
}

impl Design {
    /// A convolution that keeps positions, and what often follows it.
    fn conv(&mut self, x: &str, from: &Axis, to: &Axis, kernel: usize) -> String {
        let w = self.weight(&[to, from, &Fixed(kernel), &Fixed(kernel)]);
        let p = kernel / 2;
        let pads = format!("pads = [{p}, {p}, {p}, {p}]");
        let y = match self.number(0..3) {
            0 => self.node(&format!("Conv <{pads}> ({x}, {w})")),
            1 => {
                let b = self.weight(&[to]);
                self.node(&format!("Conv <{pads}> ({x}, {w}, {b})"))
            }
            _ => {
                let y = self.node(&format!("Conv <{pads}> ({x}, {w})"));
                let [scale, shift, mean] = [(); 3].map(|()| self.weight(&[to]));
                let variance = self.initializer(&[to], "positive");
                self.node(&format!("BatchNormalization ({y}, {scale}, {shift}, {mean}, {variance})"))
            }
        };
        if self.coin() { self.activation(&y) } else { y }
    }

    fn basic(&mut self, x: &str, stream: &Axis) -> String {
        let hidden = self.dim(2..6);
        let h = self.conv(x, stream, &hidden, 3);
        self.conv(&h, &hidden, stream, 3)
    }

    fn depthwise(&mut self, x: &str, stream: &Axis) -> String {
        let hidden = self.dim(2..6);
        let Dim(number) = hidden else { unreachable!("a dimension of at least two") };
        let h = self.conv(x, stream, &hidden, 1);
        let w = self.weight(&[&hidden, &Fixed(1), &Fixed(3), &Fixed(3)]);
        let d = self.node(&format!("Conv <group = ${number}, pads = [1, 1, 1, 1]> ({h}, {w})"));
        self.conv(&d, &hidden, stream, 1)
    }

    fn grouped(&mut self, x: &str, stream: &Axis) -> String {
        let (groups, inner, outer) = (self.dim(2..4), self.dim(1..4), self.dim(1..4));
        let Dim(number) = groups else { unreachable!("a dimension of at least two") };
        let h = self.conv(x, stream, &Product(vec![groups.clone(), inner.clone()]), 1);
        let after = Product(vec![groups, outer]);
        let w = self.weight(&[&after, &inner, &Fixed(3), &Fixed(3)]);
        let g = self.node(&format!("Conv <group = ${number}, pads = [1, 1, 1, 1]> ({h}, {w})"));
        self.conv(&g, &after, stream, 1)
    }

    fn branches(&mut self, x: &str, stream: &Axis) -> String {
        let (a, b) = (self.dim(2..5), self.dim(2..5));
        let (x1, x2) = (self.conv(x, stream, &a, 1), self.conv(x, stream, &b, 3));
        let both = self.node(&format!("Concat <axis = 1> ({x1}, {x2})"));
        self.conv(&both, &Concat(vec![a, b]), stream, 1)
    }

    /// New features beside the old ones, as in DenseNet.
    fn dense(&mut self, x: &str, stream: &Axis) -> String {
        let new = self.dim(2..5);
        let h = self.conv(x, stream, &new, 3);
        let both = self.node(&format!("Concat <axis = 1> ({x}, {h})"));
        self.conv(&both, &Concat(vec![stream.clone(), new]), stream, 1)
    }

    fn split(&mut self, x: &str, stream: &Axis) -> String {
        let (a, b) = (self.dim(2..5), self.dim(2..5));
        let both = self.conv(x, stream, &Concat(vec![a.clone(), b.clone()]), 1);
        let sizes = self.shape(vec![Of(a.clone()), Of(b.clone())]);
        let name = format!("v{}", self.nodes.len());
        self.nodes.push(format!("{name}, {name}b = Split <axis = 1> ({both}, {sizes})"));
        let (y, z) = (self.conv(&name, &a, stream, 1), self.conv(&format!("{name}b"), &b, stream, 3));
        self.node(&format!("Add ({y}, {z})"))
    }

    fn shuffle(&mut self, x: &str, stream: &Axis, side: usize) -> String {
        let (a, b) = (self.dim(2..4), self.dim(2..4));
        let h = self.conv(x, stream, &Product(vec![a.clone(), b.clone()]), 1);
        let s = side as i64;
        let apart = self.shape(vec![Literal(0), Of(a.clone()), Of(b.clone()), Literal(s), Literal(s)]);
        let shuffled = Product(vec![b, a]);
        let together = self.shape(vec![Literal(0), Of(shuffled.clone()), Literal(s), Literal(s)]);
        let h = self.node(&format!("Reshape ({h}, {apart})"));
        let h = self.node(&format!("Transpose <perm = [0, 2, 1, 3, 4]> ({h})"));
        let h = self.node(&format!("Reshape ({h}, {together})"));
        self.conv(&h, &shuffled, stream, 1)
    }

    fn transposed(&mut self, x: &str, stream: &Axis) -> String {
        let hidden = self.dim(2..5);
        let w = self.weight(&[stream, &hidden, &Fixed(3), &Fixed(3)]);
        let h = self.node(&format!("ConvTranspose <pads = [1, 1, 1, 1]> ({x}, {w})"));
        self.conv(&h, &hidden, stream, 1)
    }

    fn squeeze_excite(&mut self, x: &str, stream: &Axis) -> String {
        let hidden = self.dim(1..4);
        let pooled = self.node(&format!("GlobalAveragePool ({x})"));
        let h = self.conv(&pooled, stream, &hidden, 1);
        let gate = self.conv(&h, &hidden, stream, 1);
        let gate = self.node(&format!("Sigmoid ({gate})"));
        self.node(&format!("Mul ({x}, {gate})"))
    }
}
