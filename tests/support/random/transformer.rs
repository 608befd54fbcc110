//! Random transformers.

use super::{
    Axis::{self, Concat, Fixed, Product},
    Design,
    Size::{Literal, Of},
};

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
