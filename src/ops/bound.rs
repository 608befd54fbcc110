//! How large the results of a node can get, before it is run. A few bytes can ask for more than any memory holds: a shape of
//! 2⁴⁰, an axis repeated as often, a column added to a row.

use super::registry;
use crate::{
    graph::REMEMBERED,
    onnx::{self, proto::NodeProto, tensor::to_tensor},
    tensor::{DType, Tensor},
};

/// What is known of a value that may not have been computed yet.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The most elements that it can have.
    pub elements: u128,
    /// The most bytes that an element can take.
    pub bytes: u128,
    /// The most that each axis can extend to, where its rank is known.
    pub shape: Option<Vec<u128>>,
    /// Its contents, row-major, where they are few and known.
    pub contents: Option<Vec<f64>>,
}

impl Known {
    /// All there is to know about `tensor`.
    pub fn of(tensor: &Tensor) -> Self {
        let shape: Vec<u128> = tensor.shape().iter().map(|n| *n as u128).collect();
        let ints = || tensor.to_ints().map(|ints| ints.into_iter().map(|i| i as f64).collect());
        let floats = || tensor.to_f32().map(|floats| floats.iter().map(|x| f64::from(*x)).collect());
        let contents = (tensor.len() <= REMEMBERED).then(|| ints().or_else(floats)).flatten();
        Self { contents, ..Self::shaped(shape, tensor.dtype().size() as u128) }
    }

    /// The same of a constant, whose contents are only read where they are few.
    pub fn of_constant(tensor: &onnx::proto::TensorProto) -> Self {
        let shape: Vec<u128> = tensor.dims.iter().map(|n| u128::try_from(*n).unwrap_or(0)).collect();
        let bytes = DType::from_onnx(tensor.data_type()).map_or(16, DType::size) as u128;
        let known = Self::shaped(shape, bytes);
        let few = known.elements <= REMEMBERED as u128;
        few.then(|| to_tensor(tensor).ok()).flatten().map_or(known, |tensor| Self::of(&tensor))
    }

    fn shaped(shape: Vec<u128>, bytes: u128) -> Self {
        Self { elements: product(&shape), bytes, shape: Some(shape), contents: None }
    }

    /// The most bytes that it can take.
    pub fn size(&self) -> u128 {
        self.elements.saturating_mul(self.bytes)
    }
}

fn product(factors: &[u128]) -> u128 {
    factors.iter().fold(1, |product, factor| product.saturating_mul(*factor))
}

/// Upper bounds of the first result of a node with these operands. Other results have no more elements; their ranks may differ.
pub fn bound(node: &NodeProto, operands: &[Option<&Known>]) -> Known {
    let present = || operands.iter().flatten().copied();
    let bytes = element_bytes(node, operands);
    if let Some(elements) = stated(node, operands) {
        let shape = asked_shape(node, operands);
        return Known { elements, bytes, shape, contents: None };
    }
    if says_extents(node) {
        // They are not known.
        return Known { elements: u128::MAX, bytes, ..Known::default() };
    }
    let first = operands.first().copied().flatten().cloned().unwrap_or_default();
    let all = present().fold(1u128, |all, known| all.saturating_mul(known.elements.max(1)));
    let family = registry::family(node).unwrap_or_default();
    match (family, node.op_type()) {
        ("shape", "Shape") => {
            let rank = first.shape.as_ref().map_or(u128::from(u64::BITS), |shape| shape.len() as u128);
            Known::shaped(vec![rank], 8)
        }
        (_, "Size") => Known::shaped(Vec::new(), 8),
        (_, "NonZero") => {
            let rank = first.shape.as_ref().map_or(u128::from(u64::BITS), |shape| shape.len() as u128);
            Known::shaped(vec![rank.max(1), first.elements], 8)
        }
        ("reduce", _) | (_, "ArgMax" | "ArgMin") => {
            let kept = onnx::attr_int(node, "keepdims").unwrap_or(1) != 0;
            Known { bytes, contents: None, shape: first.shape.filter(|_| kept), elements: first.elements }
        }
        // No axis of the result is longer than that of the first operand.
        ("activation" | "softmax" | "normalization" | "quantize" | "slice" | "positional" | "topk", _)
        | (_, "EyeLike" | "Split" | "Cast" | "Identity" | "ScatterElements" | "ScatterND") => {
            Known { bytes, contents: None, ..first }
        }
        ("transpose" | "reshape" | "depth_to_space", _) | (_, "Compress") => Known {
            elements: first.elements,
            bytes,
            shape: rearranged(node, &first, operands),
            contents: None,
        },
        ("elementwise", _) => match broadcast(operands) {
            Some(shape) => Known::shaped(shape, bytes),
            None => Known { elements: all, bytes, shape: None, contents: None },
        },
        ("concat", _) => {
            let elements = present().fold(0u128, |sum, known| sum.saturating_add(known.elements));
            Known { elements, bytes, shape: None, contents: None }
        }
        // Sums of products have an element for each pair at most; what indices pick, one for each of an index.
        ("matmul" | "einsum" | "gather" | "scatter", _) => {
            Known { elements: all, bytes, shape: None, contents: None }
        }
        // Windows, counts and borders are attributes: each makes it so many times as large at most.
        _ => {
            let numbers = node.attribute.iter().flat_map(|a| a.ints.iter().copied().chain(a.i));
            let times = numbers.map(|n| u128::from(n.unsigned_abs()).saturating_add(1));
            let elements = times.fold(all, u128::saturating_mul);
            Known { elements, bytes, shape: None, contents: None }
        }
    }
}

/// How many elements the result has, where the contents of an operand or an attribute say it: at least so many when operands
/// that are not known have one element, and at most so many when all are known.
pub fn stated(node: &NodeProto, operands: &[Option<&Known>]) -> Option<u128> {
    let contents = |slot: usize| operands.get(slot).copied().flatten()?.contents.as_deref();
    let first = operands.first().copied().flatten();
    let elements = first.map_or(1, |first| first.elements);
    let asked = || contents(0).map(|shape| product(&extents(shape)));
    let times = |factors: Vec<u128>| elements.saturating_mul(product(&factors));
    if !onnx::canonical_domain(node.domain()).is_empty() {
        return None;
    }
    match node.op_type() {
        "ConstantOfShape" => asked(),
        "RandomNormal" | "RandomUniform" => {
            let shape = onnx::attr_ints(node, "shape")?.iter().map(|n| u128::try_from(*n).unwrap_or(0));
            Some(shape.fold(1, u128::saturating_mul))
        }
        "BlackmanWindow" | "HammingWindow" | "HannWindow" => asked(),
        "Expand" => match asked_shape(node, operands) {
            Some(shape) => Some(product(&shape)),
            None => Some(times(extents(contents(1)?))),
        },
        "AffineGrid" => Some(product(&extents(contents(1)?)).saturating_mul(3)),
        "Tile" => Some(times(extents(contents(1)?))),
        "OneHot" => Some(times(extents(contents(1)?))),
        "Range" => {
            let [start, limit, delta] =
                [contents(0)?, contents(1)?, contents(2)?].map(|v| v.first().copied());
            let steps = ((limit? - start?) / delta?).ceil();
            // The conversion saturates, and makes 0 of what is no number.
            Some(steps.max(0.0) as u128)
        }
        "Pad" => {
            let attribute =
                onnx::attr_ints(node, "pads").map(|pads| pads.iter().map(|n| *n as f64).collect());
            let pads: Vec<f64> = attribute.or_else(|| contents(1).map(<[f64]>::to_vec))?;
            let (before, after) = pads.split_at(pads.len() / 2);
            let added: Vec<u128> = before.iter().zip(after).map(|(b, a)| (b + a).max(0.0) as u128).collect();
            // An axis of n entries gets 1 + added/n times as long.
            match first.and_then(|first| first.shape.as_ref()) {
                Some(shape) if shape.len() == added.len() => Some(product(
                    &shape.iter().zip(&added).map(|(n, m)| n.saturating_add(*m)).collect::<Vec<_>>(),
                )),
                _ => Some(times(added.iter().map(|m| m.saturating_add(1)).collect())),
            }
        }
        "Resize" | "Upsample" => {
            let attribute = onnx::attr_floats(node, "scales").map(<[f32]>::to_vec);
            let attribute: Option<Vec<f64>> = attribute.map(|s| s.into_iter().map(f64::from).collect());
            let operand = |slot| contents(slot).filter(|c: &&[f64]| !c.is_empty()).map(<[f64]>::to_vec);
            if let Some(sizes) = operand(3) {
                // Those of some axes only, or of all.
                let some = onnx::attribute(node, "axes").is_some();
                return Some(if some { times(extents(&sizes)) } else { product(&extents(&sizes)) });
            }
            // Scales are the second operand before version 11, the third since.
            let slot = if node.input.len() > 2 { 2 } else { 1 };
            let scales = attribute.or_else(|| operand(slot))?;
            Some(scales.iter().fold(elements as f64, |n, scale| n * scale).max(0.0) as u128)
        }
        _ => None,
    }
}

/// Whether the contents of an operand say how large the result is.
fn says_extents(node: &NodeProto) -> bool {
    matches!(
        node.op_type(),
        "ConstantOfShape" | "Expand" | "OneHot" | "Pad" | "Range" | "Resize" | "Tile" | "Upsample"
    )
}

fn extents(numbers: &[f64]) -> Vec<u128> {
    numbers.iter().map(|n| n.max(0.0) as u128).collect()
}

/// The most bytes that an element of a result can take.
pub fn element_bytes(node: &NodeProto, operands: &[Option<&Known>]) -> u128 {
    let widest = operands.iter().flatten().map(|known| known.bytes).max();
    match node.op_type() {
        "ConstantOfShape" => {
            onnx::attr_tensor(node, "value").map_or(4, |value| Known::of_constant(value).bytes)
        }
        // Of another type than the operands.
        "Cast" | "CastLike" | "Shape" | "Size" | "NonZero" | "EyeLike" | "ArgMax" | "ArgMin" => 8,
        op if op.ends_with("Linear") => 4,
        _ => widest.unwrap_or(8),
    }
}

/// The shape that an operand of ConstantOfShape or Expand asks for.
fn asked_shape(node: &NodeProto, operands: &[Option<&Known>]) -> Option<Vec<u128>> {
    let known = |slot: usize| operands.get(slot).copied().flatten();
    match node.op_type() {
        "ConstantOfShape" => Some(extents(known(0)?.contents.as_deref()?)),
        "Expand" => {
            let asked = Known::shaped(extents(known(1)?.contents.as_deref()?), 8);
            broadcast(&[Some(known(0)?), Some(&asked)])
        }
        _ => None,
    }
}

/// The shape of elements that are moved and not multiplied, where it is known.
fn rearranged(node: &NodeProto, first: &Known, operands: &[Option<&Known>]) -> Option<Vec<u128>> {
    let shape = first.shape.as_ref()?;
    match node.op_type() {
        "Transpose" => match onnx::attr_ints(node, "perm") {
            Some(perm) => perm.iter().map(|axis| shape.get(usize::try_from(*axis).ok()?).copied()).collect(),
            None => Some(shape.iter().rev().copied().collect()),
        },
        "Reshape" => {
            let asked = operands.get(1).copied().flatten()?.contents.as_deref()?;
            asked.iter().all(|n| *n > 0.0).then(|| extents(asked))
        }
        _ => None,
    }
}

/// The shape of operands that are broadcast against each other; `None` where one is not known.
fn broadcast(operands: &[Option<&Known>]) -> Option<Vec<u128>> {
    let shapes: Vec<&Vec<u128>> =
        operands.iter().flatten().map(|known| known.shape.as_ref()).collect::<Option<_>>()?;
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let mut result = vec![1u128; rank];
    for shape in shapes {
        for (axis, extent) in result.iter_mut().rev().zip(shape.iter().rev()) {
            // An empty axis makes the result empty only where the others are one; these are upper bounds.
            *axis = (*axis).max(*extent);
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::ints_attribute;

    fn node(op: &str) -> NodeProto {
        NodeProto { op_type: Some(op.to_owned()), ..Default::default() }
    }

    fn ints(values: &[i64]) -> Option<Known> {
        Some(Known::of(&Tensor::ints(values)))
    }

    fn shaped(shape: &[u128]) -> Option<Known> {
        Some(Known::shaped(shape.to_vec(), 4))
    }

    #[test]
    fn what_contents_ask_for_is_known_before_it_is_made() {
        let scalar = |x| Some(Known::of(&Tensor::int(x)));
        let cases: &[(&str, Vec<Option<Known>>, u128)] = &[
            ("ConstantOfShape", vec![ints(&[1 << 20, 1 << 20])], 1 << 40),
            ("Expand", vec![shaped(&[3, 1]), ints(&[2, 1, 1 << 40])], 6 << 40),
            ("Tile", vec![shaped(&[4]), ints(&[1 << 40])], 4 << 40),
            ("Range", vec![scalar(0), scalar(1 << 40), scalar(2)], 1 << 39),
            ("Range", vec![scalar(0), scalar(-5), scalar(2)], 0),
            ("OneHot", vec![shaped(&[7]), scalar(1 << 40), ints(&[0, 1])], 7 << 40),
            ("Pad", vec![shaped(&[3, 2]), ints(&[0, 1 << 40, 1, 2])], 4 * (4 + (1 << 40))),
            ("Resize", vec![shaped(&[1, 1, 2, 2]), None, None, ints(&[1, 1, 1 << 20, 1 << 20])], 1 << 40),
            ("Add", vec![shaped(&[1 << 20, 1]), shaped(&[1 << 20])], 1 << 40),
            ("MatMul", vec![shaped(&[1 << 20, 1]), shaped(&[1, 1 << 20])], 1 << 40),
            ("Relu", vec![shaped(&[8, 8])], 64),
            ("Transpose", vec![shaped(&[8, 9])], 72),
            ("Concat", vec![shaped(&[8]), shaped(&[9])], 17),
        ];
        for (op, operands, expected) in cases {
            let operands: Vec<_> = operands.iter().map(Option::as_ref).collect();
            assert_eq!(bound(&node(op), &operands).elements, *expected, "{op}");
        }
    }

    #[test]
    fn bounds_saturate() {
        let huge = ints(&[i64::MAX; 8]);
        assert_eq!(bound(&node("ConstantOfShape"), &[huge.as_ref()]).size(), u128::MAX);
        assert_eq!(bound(&node("Expand"), &[shaped(&[2]).as_ref(), huge.as_ref()]).size(), u128::MAX);
        let conv = NodeProto { attribute: vec![ints_attribute("pads", &[i64::MIN; 8])], ..node("Conv") };
        assert_eq!(bound(&conv, &[shaped(&[2]).as_ref()]).elements, u128::MAX);
    }
}
