//! A model run piece by piece over all calibration samples: what a piece needs of the one before is kept on the host, so that
//! no layer costs a run from the input on.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use super::RecoverError;
use crate::{
    calibration::Samples,
    graph::{Facts, Graph, Patch, ValueId, between},
    memory::MemoryBudget,
    onnx::{
        build,
        proto::{ModelProto, ValueInfoProto},
    },
    runtime::{Engine, Session},
    tensor::{DType, Tensor},
};

/// A model on its way from the input to the output.
pub(super) struct Stream<'a> {
    engine: &'a dyn Engine,
    samples: &'a Samples,
    /// Type, rank and bytes per sample of values, by name.
    shapes: BTreeMap<String, (DType, usize, f64)>,
    /// What may be kept on the host.
    memory: MemoryBudget,
    /// Names of the values that are kept.
    known: BTreeSet<String>,
    /// Per batch, the values that are kept.
    kept: Vec<Vec<(String, Tensor)>>,
}

/// What a piece returns: results of nodes that are appended to the model for it, and read some of its values.
#[derive(Default)]
pub(super) struct Wanted {
    /// The nodes.
    pub patch: Patch,
    /// What they read.
    pub operands: Vec<ValueId>,
    /// Names of their results.
    pub outputs: Vec<String>,
}

/// A piece of the model, ready to run.
pub(super) struct Piece {
    session: Box<dyn Session>,
    reads: BTreeSet<String>,
    wanted: usize,
    /// What is kept from now on, if the piece moves on: computed by this piece, or known before.
    next: Option<(Vec<String>, BTreeSet<String>)>,
}

impl<'a> Stream<'a> {
    /// At the input. `facts` are of `graph`, and values keep their names and shapes from now on.
    pub fn new(
        engine: &'a dyn Engine,
        samples: &'a Samples,
        graph: &Graph,
        facts: &Facts,
        batches: usize,
    ) -> Self {
        let observed = graph.values().filter_map(|(id, value)| Some((value.name.clone(), facts.get(id)?)));
        let shapes = observed.map(|(name, fact)| {
            let bytes = fact.shape.iter().product::<usize>() * fact.dtype.size();
            (name, (fact.dtype, fact.shape.len(), bytes as f64 / facts.samples.max(1) as f64))
        });
        let shapes = shapes.collect();
        Self {
            engine,
            samples,
            shapes,
            memory: MemoryBudget::default(),
            known: BTreeSet::new(),
            kept: vec![Vec::new(); batches],
        }
    }

    /// Keeps at most so much from now on.
    pub fn keep(&mut self, memory: MemoryBudget) {
        self.memory = memory;
    }

    /// Prepares the piece that computes `values` and then `wanted` from what is kept. It moves on to where the least is to be
    /// kept among `places`, positions among the nodes of `graph`, unless even that is too much.
    pub fn piece(
        &self,
        model: &ModelProto,
        graph: &Graph,
        values: &[ValueId],
        mut wanted: Wanted,
        places: Range<usize>,
    ) -> Result<Piece, RecoverError> {
        let next = self.place(graph, places).map(|values| {
            let names = values.into_iter().map(|v| (graph.value(v).name.clone(), v));
            names.partition::<Vec<_>, _>(|(name, _)| !self.known.contains(name))
        });
        let known: BTreeSet<ValueId> = self.known.iter().filter_map(|name| graph.find(name)).collect();
        let new = next.iter().flat_map(|(new, _)| new.iter().map(|(_, v)| *v));
        let outputs: Vec<ValueId> = values.iter().copied().chain(new).collect();
        let describe = |v: ValueId| self.describe(&graph.value(v).name);
        let mut cut = between(model, graph, &known, (&outputs, &wanted.operands), describe);
        let count = values.len() + wanted.outputs.len();
        if !wanted.outputs.is_empty() {
            let (values, new) = outputs.split_at(values.len());
            let name = |v: &ValueId| graph.value(*v).name.clone();
            let names = values.iter().map(name).chain(wanted.outputs).chain(new.iter().map(name));
            wanted.patch.only_exposed();
            names.for_each(|name| wanted.patch.expose(&name));
            wanted.patch.edit(&mut cut.model);
        }
        let reads = cut.model.graph.iter().flat_map(|g| &g.input).map(|i| i.name().to_owned()).collect();
        let names = |list: Vec<(String, ValueId)>| list.into_iter().map(|(name, _)| name);
        let next = next.map(|(new, old)| (names(new).collect(), names(old).collect()));
        Ok(Piece { session: self.engine.load(&cut.model)?, reads, wanted: count, next })
    }

    /// The type of a value that is kept. Integers come with the extents that they have in all batches: ONNX Runtime takes a shape
    /// of unknown length for one of no axes.
    fn describe(&self, name: &str) -> ValueInfoProto {
        let (dtype, rank) = self.shapes.get(name).map_or((DType::F32, 0), |(dtype, rank, _)| (*dtype, *rank));
        let open = build::value_info(name, dtype, rank);
        if dtype.is_float() {
            return open;
        }
        let mut shapes = self.kept.iter().flatten().filter(|(kept, _)| kept == name).map(|(_, x)| x.shape());
        let first = shapes.next().unwrap_or_default();
        if shapes.all(|shape| shape == first) { build::fixed_info(name, dtype, first) } else { open }
    }

    /// Goes back to the input: nothing is kept, and the next piece begins there.
    pub fn restart(&mut self) {
        self.known.clear();
        self.kept.iter_mut().for_each(Vec::clear);
    }

    /// Runs a piece on one batch; `extra` feeds graph inputs that are none of the model. Returns what was wanted.
    pub fn run(
        &mut self,
        piece: &mut Piece,
        batch: usize,
        range: &Range<usize>,
        extra: Vec<(String, Tensor)>,
    ) -> Result<Vec<Tensor>, RecoverError> {
        let kept = self.kept.get_mut(batch).map(std::mem::take).unwrap_or_default();
        let mut feed = extra;
        if self.samples.inputs().iter().any(|input| piece.reads.contains(&input.name)) {
            let inputs = self.samples.batch(range.start, range.end)?;
            feed.extend(inputs.into_iter().filter(|(name, _)| piece.reads.contains(name)));
        }
        let (read, unread): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|(name, _)| piece.reads.contains(name));
        let own = feed.len();
        feed.extend(read);
        let mut results = piece.session.run(&feed)?;
        let computed = results.split_off(piece.wanted.min(results.len()));
        let before = feed.into_iter().skip(own).chain(unread);
        let after = match &piece.next {
            None => before.collect(),
            Some((new, old)) => {
                let carried = before.filter(|(name, _)| old.contains(name));
                carried.chain(new.iter().cloned().zip(computed)).collect()
            }
        };
        if let Some(kept) = self.kept.get_mut(batch) {
            *kept = after;
        }
        Ok(results)
    }

    /// Moves on to where the piece ended, once it has run on all batches.
    pub fn advance(&mut self, piece: Piece) {
        if let Some((new, old)) = piece.next {
            self.known = new.into_iter().chain(old).collect();
        }
    }

    /// The values that nodes from some position on read of those before it, for the position among `places` where they are
    /// the least; the latest of equals. `None` where they would take too much memory.
    fn place(&self, graph: &Graph, places: Range<usize>) -> Option<Vec<ValueId>> {
        let dynamic = graph.dynamic();
        let mut last_use: BTreeMap<ValueId, usize> = BTreeMap::new();
        for (id, node) in graph.nodes() {
            for value in node.inputs.iter().flatten().chain(&node.captures) {
                last_use.insert(*value, id.index());
            }
        }
        // At the input there is nothing to keep, yet each piece would begin there: not before inputs are done with.
        let places = match inputs_end(graph, &last_use, places.end) {
            Some(end) => places.start.max(end)..places.end,
            None => places,
        };
        let lives = last_use.into_iter().filter(|(v, _)| dynamic[v.index()]);
        let lives: Vec<(ValueId, Range<usize>)> = lives
            .filter_map(|(v, last)| Some((v, graph.producer(v)?.index() + 1..last + 1)))
            .filter(|(_, life)| life.start < places.end && life.end > places.start)
            .collect();
        let size = |place: usize| -> f64 {
            let alive = lives.iter().filter(|(_, life)| life.contains(&place));
            alive
                .map(|(v, _)| self.shapes.get(&graph.value(*v).name).map_or(0.0, |(_, _, bytes)| *bytes))
                .sum()
        };
        let sizes = places.map(|place| (place, size(place)));
        let (place, bytes) = sizes.min_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
        let affordable = self.memory.holds((bytes * self.samples.len() as f64).ceil() as u64);
        let alive = lives.into_iter().filter(|(_, life)| life.contains(&place)).map(|(v, _)| v);
        affordable.then(|| alive.collect())
    }
}

/// The first place from which on none of the inputs is read that are done with before the last of the places until `end`.
fn inputs_end(graph: &Graph, last_use: &BTreeMap<ValueId, usize>, end: usize) -> Option<usize> {
    let ends = graph.inputs().iter().filter_map(|input| Some(last_use.get(input)? + 1));
    ends.filter(|place| *place < end).max()
}
