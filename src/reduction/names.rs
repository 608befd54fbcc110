//! Names of dimensions: after the layers that make them.

use std::collections::{BTreeMap, BTreeSet};

use super::Kind;
use crate::graph::{Graph, NodeId};

/// The path that the producers' names share, as exporters write module paths; the first one's name when they share none.
pub(super) fn producer_name(graph: &Graph, producers: &[NodeId]) -> String {
    let labels: Vec<Vec<&str>> = producers
        .iter()
        .map(|id| graph.node(*id).label().split('/').filter(|part| !part.is_empty()).collect())
        .collect();
    let Some((first, rest)) = labels.split_first() else { return String::new() };
    let shared = rest
        .iter()
        .fold(first.len(), |n, label| first.iter().zip(label).take(n).take_while(|(a, b)| a == b).count());
    let path = match shared {
        0 => first.as_slice(),
        n if n == first.len() && n > 1 => &first[..n - 1],
        n => &first[..n],
    };
    path.join("/")
}

/// Hands out names that are unique.
#[derive(Default)]
pub(super) struct Names {
    taken: BTreeSet<String>,
    /// The last number that was tried behind each name.
    last: BTreeMap<String, usize>,
}

impl Names {
    /// `wanted`, as the kind has it, or that with a number.
    pub fn unique(&mut self, wanted: &str, kind: Kind) -> String {
        let base = if wanted.is_empty() { kind.id().to_owned() } else { kind.name(wanted) };
        let mut name = base.clone();
        while !self.taken.insert(name.clone()) {
            let last = self.last.entry(base.clone()).or_insert(1);
            *last += 1;
            name = format!("{base}#{last}");
        }
        name
    }
}
