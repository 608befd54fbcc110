//! Choices among numbers that are almost equal. Pruned and masked model round differently, and what is chosen may be another:
//! the queries of a detector, in another order. Neither is wrong.

use super::relative_difference;
use crate::{
    graph::{Graph, Patch, Use},
    onnx::{build::value_info, proto::ModelProto},
    ops,
    runtime::{Engine, RuntimeError},
    tensor::Tensor,
};

/// A node that chooses, by the names of its values in either model.
struct Choice {
    /// What it chooses from, in the masked and in the pruned model.
    from: [String; 2],
    /// What it chose, which has one name in both.
    results: Vec<String>,
    /// Readers of the results in the pruned model.
    readers: Vec<(Use, String)>,
}

/// The differences of the outputs, when the pruned model is given what the masked one chose; none of them is less than that of
/// what is chosen from. `None` when nothing chooses, or the models choose among other shapes.
pub(super) fn with_same_choices(
    engine: &dyn Engine,
    masked: &ModelProto,
    pruned: &ModelProto,
    feed: &[(String, Tensor)],
) -> Result<Option<Vec<f64>>, RuntimeError> {
    let choices = choices(masked, pruned);
    if choices.is_empty() {
        return Ok(None);
    }
    let mut patch = Patch::default();
    for choice in &choices {
        patch.expose(&choice.from[0]);
        choice.results.iter().for_each(|result| patch.expose(result));
    }
    let chosen = Results::of(engine, &patch.apply(masked), feed)?;
    let mut patch = Patch::default();
    let mut feed = feed.to_vec();
    for choice in &choices {
        patch.expose(&choice.from[1]);
        for result in &choice.results {
            let Some(tensor) = chosen.get(result) else { return Ok(None) };
            patch.input(value_info(&given(result), tensor.dtype(), tensor.rank()));
            feed.push((given(result), tensor.clone()));
        }
        choice.readers.iter().for_each(|(at, result)| patch.rewire(*at, given(result)));
    }
    let found = Results::of(engine, &patch.apply(pruned), &feed)?;
    let difference = |a: &str, b: &str| match (chosen.get(a), found.get(b)) {
        (Some(a), Some(b)) => relative_difference(a, b),
        _ => f64::INFINITY,
    };
    let from = choices.iter().map(|c| difference(&c.from[0], &c.from[1])).fold(0.0, f64::max);
    let outputs = pruned.graph.iter().flat_map(|graph| &graph.output);
    // An output that is a choice itself is as good as what it is chosen from.
    let is_choice = |name: &str| choices.iter().any(|c| c.results.iter().any(|r| r == name));
    let differences = outputs.map(|output| {
        if is_choice(output.name()) { from } else { difference(output.name(), output.name()).max(from) }
    });
    Ok(Some(differences.collect()))
}

fn given(result: &str) -> String {
    format!("optin_given_{result}")
}

/// The nodes that choose in both models.
fn choices(masked: &ModelProto, pruned: &ModelProto) -> Vec<Choice> {
    let (masked, pruned) = (Graph::new(masked), Graph::new(pruned));
    let choices = pruned.nodes().filter_map(|(_, node)| {
        ops::find(&node.proto).filter(|rule| rule.is_selection())?;
        let results: Vec<String> = node.proto.output.iter().filter(|o| !o.is_empty()).cloned().collect();
        let other = masked.node(masked.producer(masked.find(results.first()?)?)?);
        let values = node.outputs.iter().flatten();
        let readers =
            values.flat_map(|v| pruned.uses(*v).iter().map(|at| (*at, pruned.value(*v).name.clone())));
        Some(Choice {
            from: [other.proto.input.first()?.clone(), node.proto.input.first()?.clone()],
            results,
            readers: readers.collect(),
        })
    });
    choices.collect()
}

/// What a model gives, by name.
struct Results {
    names: Vec<String>,
    tensors: Vec<Tensor>,
}

impl Results {
    fn of(engine: &dyn Engine, model: &ModelProto, feed: &[(String, Tensor)]) -> Result<Self, RuntimeError> {
        let names = model.graph.iter().flat_map(|g| &g.output).map(|o| o.name().to_owned()).collect();
        Ok(Self { names, tensors: engine.load(model)?.run(feed)? })
    }

    fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(self.names.iter().position(|n| n == name)?)
    }
}
