//! Liveness: how much memory the values of a graph take at a time.

use super::{Facts, Graph, ValueId};

/// The most bytes that inputs and computed values take at a time, if nodes run in order and each value goes after the last node
/// that reads it. Graph inputs and outputs stay. `bytes` says what a value takes.
pub fn live(graph: &Graph, bytes: impl Fn(ValueId) -> u64) -> u64 {
    let mut last: Vec<Option<usize>> = vec![None; graph.values().count()];
    for (id, node) in graph.nodes() {
        let read = node.inputs.iter().flatten().chain(&node.captures);
        read.chain(node.outputs.iter().flatten()).for_each(|value| last[value.index()] = Some(id.index()));
    }
    graph.inputs().iter().chain(graph.outputs()).for_each(|value| last[value.index()] = None);
    let mut alive: u64 = graph.inputs().iter().map(|input| bytes(*input)).sum();
    let mut most = alive;
    for (id, node) in graph.nodes() {
        alive += node.outputs.iter().flatten().map(|value| bytes(*value)).sum::<u64>();
        most = most.max(alive);
        let mut gone: Vec<ValueId> = node.inputs.iter().flatten().chain(&node.captures).copied().collect();
        gone.extend(node.outputs.iter().flatten());
        gone.sort_unstable();
        gone.dedup();
        let gone = gone.into_iter().filter(|value| last[value.index()] == Some(id.index()));
        let computed = gone.filter(|value| graph.producer(*value).is_some());
        alive -= computed.map(&bytes).sum::<u64>();
    }
    most
}

impl Facts {
    /// Bytes that a value took in the observed batch.
    pub fn bytes(&self, value: ValueId) -> u64 {
        self.get(value).map_or(0, |fact| (fact.shape.iter().product::<usize>() * fact.dtype.size()) as u64)
    }

    /// Bytes that one sample of the observed batch needs, as [`live`] has it; one at least.
    pub fn live_per_sample(&self, graph: &Graph) -> u64 {
        live(graph, |value| self.bytes(value)).div_ceil(self.samples.max(1) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, ValueInfoProto};

    #[test]
    fn values_go_after_their_last_reader_and_outputs_stay() {
        let node = |inputs: &[&str], output: &str| NodeProto {
            op_type: Some("Sum".to_owned()),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            ..Default::default()
        };
        let info = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..Default::default() };
        let graph = GraphProto {
            node: vec![
                node(&["x"], "a"),
                node(&["a", "a"], "b"),
                node(&["a"], "unread"),
                node(&["b"], "c"),
                node(&["c"], "d"),
            ],
            input: vec![info("x")],
            output: vec![info("b"), info("d")],
            ..Default::default()
        };
        let graph = Graph::new(&ModelProto { graph: Some(graph), ..Default::default() });
        // x and a; a and b; a, b and what nobody reads; b and c; b, c and d; and x all along.
        let sizes = |x: u64, a: u64, b: u64, unread: u64, c: u64, d: u64| {
            live(&graph, |value| match graph.value(value).name.as_str() {
                "x" => x,
                "a" => a,
                "b" => b,
                "unread" => unread,
                "c" => c,
                _ => d,
            })
        };
        assert_eq!(sizes(1, 10, 10, 1, 1, 1), 22);
        assert_eq!(sizes(1, 10, 10, 0, 50, 1), 62);
        assert_eq!(sizes(1, 10, 10, 0, 1, 100), 112);
    }
}
