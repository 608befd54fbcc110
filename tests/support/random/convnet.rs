//! Random convolutional networks.

use super::{
    Axis::{self, Concat, Dim, Fixed, Product},
    Design,
    Size::{Literal, Of},
};

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
