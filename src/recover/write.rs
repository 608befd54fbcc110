//! Writing corrections into a model.

use ndarray::{Array4, ArrayD, IxDyn};

use super::{RecoverError, layer::Layer};
use crate::{
    graph::{Graph, NodeId, Patch, Use},
    numbers::{flush, inverse},
    onnx::{
        proto::{NodeProto, TensorProto},
        tensor::{from_tensor, to_tensor},
    },
    stats::Correction,
    tensor::{DType, Tensor},
};

/// The edit that corrects a layer's weight and bias.
pub(super) fn correction(
    graph: &Graph,
    layer: &Layer,
    correction: &Correction,
) -> Result<Patch, RecoverError> {
    let mut patch = Patch::default();
    add_to_weight(&mut patch, graph, layer, correction)?;
    add_to_bias(&mut patch, graph, layer, correction)?;
    Ok(patch)
}

fn node_of(graph: &Graph, result: &str) -> Option<NodeId> {
    graph.producer(graph.find(result)?)
}

fn add_to_weight(
    patch: &mut Patch,
    graph: &Graph,
    layer: &Layer,
    correction: &Correction,
) -> Result<(), RecoverError> {
    let at = node_of(graph, &layer.result).map(|node| Use { node, slot: layer.weight });
    let constant = at.and_then(|at| Some((at, constant(graph, at)?)));
    let Some((at, tensor)) = constant.filter(|_| correction.0.iter().any(|group| group.nrows() > 1)) else {
        return Ok(());
    };
    let linear = &layer.linear;
    let (groups, taps) = (linear.groups, linear.taps());
    let (inner, features) = (layer.entries / taps, layer.gain.len() / groups);
    // A feature that does not get to the waypoint stays as it is.
    let inverse = inverse(&layer.gain.iter().map(|gain| gain * linear.scale).collect::<Vec<_>>());
    let delta = Array4::from_shape_fn((groups, taps, inner, features), |(group, tap, entry, feature)| {
        correction.0[group][(tap * inner + entry, feature)] * inverse[group * features + feature]
    });
    let delta = delta.permuted_axes(linear.order).as_standard_layout().into_owned();
    let shape: Vec<usize> = tensor.dims.iter().map(|d| usize::try_from(*d).unwrap_or(0)).collect();
    if let Ok(delta) = delta.into_shape_with_order(IxDyn(&shape)) {
        add(patch, graph, at, tensor, &delta)?;
    }
    Ok(())
}

/// Corrects the bias: the operator's own, or the first constant that is added to its result, or one made for it.
fn add_to_bias(
    patch: &mut Patch,
    graph: &Graph,
    layer: &Layer,
    correction: &Correction,
) -> Result<(), RecoverError> {
    let Some(node) = node_of(graph, &layer.result) else { return Ok(()) };
    let last = correction.0.iter().flat_map(|group| {
        let bias = group.nrows() - 1;
        (0..group.ncols()).map(move |feature| group[(bias, feature)])
    });
    let shift: Vec<f64> =
        last.zip(inverse(&layer.gain)).map(|(shift, inverse)| flush(shift * inverse)).collect();
    let own = layer.linear.bias.map(|bias| (Use { node, slot: bias.slot }, bias.factor));
    let added = layer.bias.as_ref().and_then(|(sum, addend)| {
        let at = Use { node: node_of(graph, sum)?, slot: addend.at.slot };
        Some((at, constant(graph, at)?, addend))
    });
    if let Some((at, factor)) = own
        && let Some(tensor) = constant(graph, at)
    {
        add(patch, graph, at, tensor, &vector(shift.iter().map(|s| s / factor), 0))?;
    } else if let Some((at, tensor, addend)) = added {
        let shift = shift.iter().zip(&addend.gain).map(|(shift, gain)| shift * gain);
        add(patch, graph, at, tensor, &vector(shift, addend.trailing))?;
    } else if shift.iter().any(|s| *s != 0.0) {
        let weight = constant(graph, Use { node, slot: layer.weight });
        let dtype = weight.and_then(|w| DType::from_onnx(w.data_type())).unwrap_or(DType::F32);
        let name = unused(graph, &format!("{}__bias", layer.result));
        let empty = own.filter(|(at, _)| graph.node(node).inputs.get(at.slot).copied().flatten().is_none());
        let bias = match empty {
            Some((at, factor)) => {
                patch.rewire(at, name.clone());
                vector(shift.iter().map(|s| s / factor), 0)
            }
            None => {
                insert_add(patch, graph, node, &name);
                vector(shift.into_iter(), layer.trailing)
            }
        };
        if let Some(bias) = Tensor::F64(bias).cast_float(dtype) {
            patch.constant(from_tensor(&name, &bias));
        }
    }
    Ok(())
}

/// Lets an Add give the node's result: the sum of what the node computes and the value called `bias`.
fn insert_add(patch: &mut Patch, graph: &Graph, id: NodeId, bias: &str) {
    let Some(result) = graph.node(id).proto.output.first().cloned() else { return };
    let unbiased = unused(graph, &format!("{result}__unbiased"));
    let add = NodeProto {
        op_type: Some("Add".to_owned()),
        name: Some(bias.to_owned()),
        input: vec![unbiased.clone(), bias.to_owned()],
        output: vec![result],
        ..Default::default()
    };
    patch.insert_after(id, add, unbiased);
}

/// A vector along an axis that so many others follow.
fn vector(numbers: impl ExactSizeIterator<Item = f64>, trailing: usize) -> ArrayD<f64> {
    let shape: Vec<usize> = std::iter::once(numbers.len()).chain(vec![1; trailing]).collect();
    let numbers: Vec<f64> = numbers.collect();
    ArrayD::from_shape_fn(IxDyn(&shape), |at| numbers[at[0]])
}

fn constant(graph: &Graph, at: Use) -> Option<&TensorProto> {
    graph.constant(graph.node(at.node).inputs.get(at.slot).copied().flatten()?)
}

/// Adds `delta`, which broadcasts against it, to a constant operand: in place, or in a copy where anything else reads it.
fn add(
    patch: &mut Patch,
    graph: &Graph,
    at: Use,
    tensor: &TensorProto,
    delta: &ArrayD<f64>,
) -> Result<(), RecoverError> {
    let old = to_tensor(tensor)?;
    let Some(Tensor::F64(numbers)) = old.cast_float(DType::F64) else { return Ok(()) };
    let sum = broadcast_sum(&numbers, delta).map(|sum| Tensor::F64(sum.mapv(flush)));
    let Some(new) = sum.and_then(|sum| sum.cast_float(old.dtype())) else {
        return Ok(());
    };
    if old.is_finite() && !new.is_finite() {
        return Err(RecoverError::Overflow { dtype: new.dtype() });
    }
    patch.constant_operand(graph, at, &new, |_| unused(graph, &format!("{}__refitted", tensor.name())));
    Ok(())
}

/// The sum under NumPy's broadcasting; `None` where the shapes do not fit.
fn broadcast_sum(a: &ArrayD<f64>, b: &ArrayD<f64>) -> Option<ArrayD<f64>> {
    let rank = a.ndim().max(b.ndim());
    let extent = |x: &ArrayD<f64>, axis: usize| {
        axis.checked_sub(rank - x.ndim()).and_then(|axis| x.shape().get(axis).copied()).unwrap_or(1)
    };
    let shape: Vec<usize> = (0..rank).map(|axis| extent(a, axis).max(extent(b, axis))).collect();
    Some(&a.broadcast(IxDyn(&shape))? + &b.broadcast(IxDyn(&shape))?)
}

/// A name that no value has: `base`, with a number if need be.
fn unused(graph: &Graph, base: &str) -> String {
    let numbered = (2..).map(|n| format!("{base}{n}"));
    std::iter::once(base.to_owned()).chain(numbered).find(|name| !graph.is_taken(name)).unwrap_or_default()
}
