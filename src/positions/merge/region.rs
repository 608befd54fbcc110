//! Where positions can be merged, and what follows when they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;

use crate::{
    graph::{Graph, Node, NodeId, Use, ValueId},
    model::ModelView,
    ops::{self, AxisFlow, NodeCx, Operator, Pooling},
    widths::Width,
};

/// Why the positions of a model are not merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "code")]
#[allow(missing_docs)]
pub enum MergeRefusal {
    /// No attention of positions among themselves with a residual connection behind it.
    NoAttention,
    /// The operator set is too old for the operators that merge.
    OperatorSet { version: i64 },
    /// An output holds something for each position, and cannot be given all of them again.
    Output { output: String },
    /// There are too few positions.
    Few,
    /// A node mixes positions by where they are, or has no rule.
    Mixed { node: String, op: String },
    /// A node reads something of each position that does not come from the samples, such as angles of rotary embeddings.
    Positional { node: String, op: String },
    /// A node reads something of each pair of positions, such as a causal mask or a relative bias.
    Pairwise { node: String, op: String },
}

impl fmt::Display for MergeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAttention => {
                f.write_str("no attention of positions among themselves with a residual connection was found")
            }
            Self::OperatorSet { version } => {
                write!(f, "merging needs operator set {OLDEST} or newer, and the model has {version}")
            }
            Self::Output { output } => write!(
                f,
                "the output `{output}` holds something for each pair of positions, or in a form that cannot be restored"
            ),
            Self::Few => f.write_str("there are too few of them"),
            Self::Mixed { node, op } => write!(f, "{node} ({op}) goes by where positions are"),
            Self::Positional { node, op } => {
                write!(f, "{node} ({op}) reads something of each position that is the same for all samples")
            }
            Self::Pairwise { node, op } => {
                write!(f, "{node} ({op}) reads something of each pair of positions")
            }
        }
    }
}

/// The oldest operator set that has all operators that merging takes.
pub(super) const OLDEST: i64 = 13;

/// A value `[batch, positions, features]` behind an attention and its residual connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub node: NodeId,
    pub value: ValueId,
}

/// Something that each position is given from elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crossing {
    pub at: Use,
    /// Its axis of positions.
    pub axis: usize,
    pub stage: usize,
}

/// Something that each pair of positions is given from elsewhere, such as a mask of padding. It must not depend on who attends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairwise {
    pub at: Use,
    pub value: ValueId,
    /// Its axis of those that attend.
    pub rows: usize,
    /// Its axis of those that are attended to.
    pub columns: usize,
    pub stage: usize,
}

/// A mean or sum over positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    pub at: Use,
    pub rank: usize,
    /// Positions at the beginning that are left out.
    pub skip: usize,
    pub kind: Pooling,
    pub stage: usize,
}

/// Where all positions are needed again, behind the last site: by an operand, or by those who get an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restored<T> {
    pub at: T,
    /// The axis of positions.
    pub axis: usize,
    /// Positions at the beginning that are left out.
    pub skip: usize,
    pub stage: usize,
}

/// What is behind the first of some sites. A stage is the number of sites that came before.
#[derive(Debug, Default)]
pub(super) struct Region {
    /// Attention scores, before their softmax.
    pub scores: Vec<(Use, usize)>,
    pub crossings: Vec<Crossing>,
    pub pairwise: Vec<Pairwise>,
    pub pools: Vec<Pool>,
    /// Operands and places that say how many positions there are.
    pub extents: Vec<(Use, usize, usize)>,
    /// Nodes that read extents, and of which value with positions along which axis.
    pub shapes: Vec<(NodeId, ValueId, usize)>,
    /// Operands of nodes that go by where positions are.
    pub restored: Vec<Restored<Use>>,
    /// Outputs that hold something for each position.
    pub outputs: Vec<Restored<ValueId>>,
    /// Positions at the beginning that are read by their place.
    pub protected: usize,
}

/// How much a region held at some time.
struct Mark {
    lengths: [usize; 6],
    protected: usize,
}

impl Region {
    /// Whether all positions are needed again somewhere.
    pub fn restores(&self) -> bool {
        !(self.restored.is_empty() && self.outputs.is_empty())
    }

    fn mark(&self) -> Mark {
        let Self { scores, crossings, pairwise, pools, extents, shapes, protected, .. } = self;
        let lengths =
            [scores.len(), crossings.len(), pairwise.len(), pools.len(), extents.len(), shapes.len()];
        Mark { lengths, protected: *protected }
    }

    /// Forgets what was added since.
    fn reset(
        &mut self,
        Mark { lengths: [scores, crossings, pairwise, pools, extents, shapes], protected }: Mark,
    ) {
        self.scores.truncate(scores);
        self.crossings.truncate(crossings);
        self.pairwise.truncate(pairwise);
        self.pools.truncate(pools);
        self.extents.truncate(extents);
        self.shapes.truncate(shapes);
        self.protected = protected;
    }
}

/// The axes of a value that positions lie along.
#[derive(Clone, Debug)]
struct Carried {
    axes: BTreeSet<usize>,
    /// Those of them over which probabilities sum to one.
    normalised: BTreeSet<usize>,
    skip: usize,
    stage: usize,
}

/// Every place where positions could be merged, in the order of the network.
pub(super) fn sites(view: ModelView<'_>) -> Result<Vec<Site>, MergeRefusal> {
    let version = view.graph.opset();
    if version < OLDEST {
        return Err(MergeRefusal::OperatorSet { version });
    }
    let mut sites: Vec<Site> = Vec::new();
    for (id, node) in view.graph.nodes().filter(|(_, node)| is_softmax(node)) {
        if let Some(site) = positions_of(view, node).and_then(|width| behind(view, id, width))
            && !sites.contains(&site)
        {
            sites.push(site);
        }
    }
    if sites.is_empty() { Err(MergeRefusal::NoAttention) } else { Ok(sites) }
}

fn is_softmax(node: &Node) -> bool {
    ops::find(&node.proto).is_some_and(Operator::is_softmax)
}

/// The width of the positions that attend to each other.
fn positions_of(view: ModelView<'_>, softmax: &Node) -> Option<Width> {
    let table = &view.widths.table;
    match view.widths.value(softmax.outputs.first().copied().flatten()?)? {
        [_, _, queries, keys] if table.root(*queries) == table.root(*keys) => Some(table.root(*keys)),
        _ => None,
    }
}

/// The first sum behind an attention of what it gives and what was there before, or what is made of that alone.
fn behind(view: ModelView<'_>, softmax: NodeId, positions: Width) -> Option<Site> {
    let (graph, table) = (view.graph, &view.widths.table);
    let later = graph.descendants([softmax]);
    let is_later = |value: ValueId| graph.producer(value).is_some_and(|id| later.contains(&id));
    let is_stream = |value: ValueId| {
        let axes = view.widths.value(value);
        matches!(axes, Some([_, along, _]) if table.root(*along) == positions)
            && view.facts.get(value).is_some_and(|fact| fact.shape.first() == Some(&view.facts.samples))
    };
    let is_residual = |node: &Node| {
        let mut operands = node.inputs.iter().flatten().copied();
        let (Some(a), Some(b), None) = (operands.next(), operands.next(), operands.next()) else {
            return false;
        };
        ops::find(&node.proto).is_some_and(Operator::is_sum)
            && is_stream(a)
            && is_stream(b)
            && is_later(a) != is_later(b)
    };
    let node = later.iter().copied().find(|id| is_residual(graph.node(*id)))?;
    let mut site = Site { node, value: graph.node(node).outputs.first().copied().flatten()? };
    // A normalisation behind the sum belongs to it, where nothing reads the sum as it is.
    while graph.is_read_once(site.value)
        && let [at] = graph.uses(site.value)
        && let Some(next) = graph.node(at.node).outputs.first().copied().flatten()
        && let Some(rule) = ops::find(&graph.node(at.node).proto)
        && is_stream(next)
        && rule.axis_flow(&NodeCx::new(graph, view.facts, at.node), at.slot, 1) == Some(AxisFlow::Along(1))
        && rule.linear(&NodeCx::new(graph, view.facts, at.node), 1).is_none()
    {
        site = Site { node: at.node, value: next };
    }
    Some(site)
}

impl Region {
    /// What is behind the first of `sites`.
    pub fn of(view: ModelView<'_>, sites: &[Site]) -> Result<Self, MergeRefusal> {
        let Some(first) = sites.first() else { return Err(MergeRefusal::NoAttention) };
        let mut walk = Walk {
            view,
            sites,
            leading: leading(view.graph, sites),
            region: Self::default(),
            carried: BTreeMap::new(),
            whole: BTreeSet::new(),
            dynamic: view.graph.dynamic(),
        };
        let start = Carried { axes: BTreeSet::from([1]), normalised: BTreeSet::new(), skip: 0, stage: 1 };
        walk.keep(first.value, start)?;
        for (id, node) in view.graph.nodes().filter(|(id, _)| *id > first.node) {
            walk.follow(id, node)?;
        }
        Ok(walk.region)
    }
}

/// The nodes that a site depends on.
fn leading(graph: &Graph, sites: &[Site]) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    let mut stack: Vec<NodeId> = sites.iter().map(|site| site.node).collect();
    while let Some(id) = stack.pop() {
        if found.insert(id) {
            let node = graph.node(id);
            let read = node.inputs.iter().flatten().chain(&node.captures);
            stack.extend(read.filter_map(|value| graph.producer(*value)));
        }
    }
    found
}

struct Walk<'a> {
    view: ModelView<'a>,
    sites: &'a [Site],
    /// Nodes that a site depends on: merged positions must get through these.
    leading: BTreeSet<NodeId>,
    region: Region,
    carried: BTreeMap<ValueId, Carried>,
    /// Values that are made of all positions again.
    whole: BTreeSet<ValueId>,
    /// For each value, whether it depends on an input.
    dynamic: Vec<bool>,
}

/// How all positions are had again of a value that has them along one axis; `None` where it has them along several, or what it
/// holds are shares of a sum over them.
fn restored<T>(at: T, carried: &Carried) -> Option<Restored<T>> {
    let &Carried { skip, stage, .. } = carried;
    let axis = carried.axes.first().copied().filter(|_| carried.axes.len() == 1)?;
    (axis > 0 && carried.normalised.is_empty()).then_some(Restored { at, axis, skip, stage })
}

impl Walk<'_> {
    /// Notes that a value has positions.
    fn keep(&mut self, value: ValueId, carried: Carried) -> Result<(), MergeRefusal> {
        let graph = self.view.graph;
        if graph.is_captured(value) {
            return Err(MergeRefusal::Output { output: format!("{} of a branch", graph.value(value).name) });
        }
        if graph.outputs().contains(&value) {
            let restored = self.output(value, &carried);
            let refused = || MergeRefusal::Output { output: graph.value(value).name.clone() };
            self.region.outputs.extend(restored.ok_or_else(refused)?);
        }
        self.carried.insert(value, carried);
        Ok(())
    }

    /// How an output gets all positions again: not at all where it comes before positions are merged. `None` where it cannot.
    fn output(&self, value: ValueId, carried: &Carried) -> Option<Option<Restored<ValueId>>> {
        let graph = self.view.graph;
        // What is merged behind a site is not its own value.
        let site = self.sites.iter().any(|site| site.value == value);
        let stage = carried.stage - usize::from(site);
        if stage == 0 {
            return Some(None);
        }
        let first = graph.node(graph.producer(value)?).outputs.first().copied().flatten();
        let restored = restored(value, &Carried { stage, ..carried.clone() })?;
        (first == Some(value) && restored.axis == 1).then_some(Some(restored))
    }

    /// Follows positions through a node. Where they cannot be merged for it, it gets all of them again, if no site depends on it.
    fn follow(&mut self, id: NodeId, node: &Node) -> Result<(), MergeRefusal> {
        let mark = self.region.mark();
        let read = || node.inputs.iter().flatten();
        let refusal = if read().any(|value| self.whole.contains(value)) {
            None
        } else {
            let Err(refusal) = self.visit(id, node) else { return Ok(()) };
            Some(refusal)
        };
        self.region.reset(mark);
        let operands = node.inputs.iter().enumerate();
        let operands = operands
            .filter_map(|(slot, value)| Some((Use { node: id, slot }, self.carried.get(value.as_ref()?)?)));
        let again: Option<Vec<_>> = operands.map(|(at, carried)| restored(at, carried)).collect();
        match (again.filter(|_| !self.leading.contains(&id)), refusal) {
            (Some(again), _) => {
                self.region.restored.extend(again);
                for value in node.outputs.iter().flatten() {
                    self.carried.remove(value);
                    self.whole.insert(*value);
                }
                Ok(())
            }
            (None, Some(refusal)) => Err(refusal),
            (None, None) => {
                Err(MergeRefusal::Mixed { node: node.label().to_owned(), op: node.op_type().to_owned() })
            }
        }
    }

    fn visit(&mut self, id: NodeId, node: &Node) -> Result<(), MergeRefusal> {
        let operands: Vec<(Use, Carried)> = node
            .inputs
            .iter()
            .enumerate()
            .filter_map(|(slot, value)| {
                Some((Use { node: id, slot }, self.carried.get(value.as_ref()?)?.clone()))
            })
            .collect();
        let Some((first, carried)) = operands.first() else { return Ok(()) };
        let mixed = || MergeRefusal::Mixed { node: node.label().to_owned(), op: node.op_type().to_owned() };
        let rule = ops::find(&node.proto).ok_or_else(mixed)?;
        let stage = carried.stage;
        if operands.iter().any(|(_, c)| c.stage != stage || c.skip != carried.skip) {
            return Err(mixed());
        }
        let cx = NodeCx::new(self.view.graph, self.view.facts, id);
        let only = carried.axes.first().copied().filter(|_| carried.axes.len() == 1);
        if rule.is_shape() {
            let value = node.input(first.slot).ok_or_else(mixed)?;
            let axis = only.filter(|_| carried.skip == 0).ok_or_else(mixed)?;
            self.region.shapes.push((id, value, axis));
            return Ok(());
        }
        if let Some(selected) = rule.selection(&cx).filter(|s| carried.axes.contains(&s.axis)) {
            let last = selected.entries.iter().copied().max().unwrap_or(0);
            let fits = only.is_some() && selected.entries.iter().all(|entry| *entry >= 0);
            let last = usize::try_from(last).ok().filter(|_| fits).ok_or_else(mixed)?;
            self.region.protected = self.region.protected.max(carried.skip + last + 1);
            return Ok(());
        }
        if let Some((axis, start)) = rule.tail(&cx).filter(|(axis, _)| carried.axes.contains(axis)) {
            let skip = carried.skip + start;
            self.region.protected = self.region.protected.max(skip);
            let carried = Carried { axes: BTreeSet::from([axis]), skip, ..carried.clone() };
            let value =
                node.outputs.first().copied().flatten().filter(|_| only.is_some()).ok_or_else(mixed)?;
            return self.keep(value, carried);
        }
        self.pass(&cx, rule, &operands, stage, carried.skip)
    }

    /// Follows positions through a node from operands to results.
    fn pass(
        &mut self,
        cx: &NodeCx<'_>,
        rule: &dyn Operator,
        operands: &[(Use, Carried)],
        stage: usize,
        skip: usize,
    ) -> Result<(), MergeRefusal> {
        let (op, node) = (cx.op_type().to_owned(), cx.label().to_owned());
        let mixed = || MergeRefusal::Mixed { node: node.clone(), op: op.clone() };
        let rank = cx.result_shape(0).map_err(|_| mixed())?.len();
        let flow = |slot: usize, axis: usize| match rule.axis_flow(cx, slot, axis) {
            None if rule.is_softmax() => Some(AxisFlow::Along(axis)),
            flow => flow,
        };
        let mut result = Carried { axes: BTreeSet::new(), normalised: BTreeSet::new(), skip, stage };
        let mut passed: BTreeSet<(usize, usize)> = BTreeSet::new();
        for axis in 0..rank {
            for (at, carried) in operands {
                if let Some(AxisFlow::Along(own)) = flow(at.slot, axis)
                    && carried.axes.contains(&own)
                {
                    passed.insert((at.slot, own));
                    result.axes.insert(axis);
                    if carried.normalised.contains(&own) {
                        result.normalised.insert(axis);
                    }
                }
            }
        }
        self.crossings(cx, &flow, operands, &result)?;
        let lost: Vec<(Use, usize)> = operands
            .iter()
            .flat_map(|(at, carried)| carried.axes.iter().map(|axis| (*at, *axis)))
            .filter(|(at, axis)| !passed.contains(&(at.slot, *axis)))
            .collect();
        if let Some((at, axis)) = lost.first() {
            let averaged = lost.len() == 2
                && operands.iter().any(|(at, carried)| {
                    lost.iter().any(|(lost, axis)| lost == at && carried.normalised.contains(axis))
                });
            match rule.pooling() {
                Some(kind) if lost.len() == 1 && result.axes.is_empty() && *axis == 1 => {
                    let rank = cx.shape(at.slot).map_err(|_| mixed())?.len();
                    if rank > 3 {
                        return Err(mixed());
                    }
                    self.region.pools.push(Pool { at: *at, rank, skip, kind, stage });
                }
                // A product of probabilities and what they weigh.
                _ if averaged => {}
                _ => return Err(mixed()),
            }
        }
        if rule.is_softmax() {
            let at = operands.first().map(|(at, _)| *at).ok_or_else(mixed)?;
            let last = rank.checked_sub(1).filter(|last| rank == 4 && result.axes.contains(last));
            let competes = last.is_some_and(|last| rule.axis_flow(cx, 0, last).is_none());
            match (competes, result.axes.iter().any(|axis| rule.axis_flow(cx, 0, *axis).is_none())) {
                (true, _) => {
                    result.normalised.extend(last);
                    self.region.scores.push((at, stage));
                }
                (false, true) => return Err(mixed()),
                (false, false) => {}
            }
        }
        for axis in &result.axes {
            if let Some((slot, place)) = rule.extent_element(cx, *axis) {
                self.region.extents.push((Use { slot, ..operands[0].0 }, place, stage));
            }
        }
        if result.axes.is_empty() {
            return Ok(());
        }
        for value in cx.outputs.iter().flatten() {
            let site = self.sites.iter().any(|site| site.value == *value);
            if site && (result.axes != BTreeSet::from([1]) || skip > 0) {
                return Err(mixed());
            }
            self.keep(*value, Carried { stage: stage + usize::from(site), ..result.clone() })?;
        }
        Ok(())
    }

    /// Notes what each position is given from elsewhere.
    fn crossings(
        &mut self,
        cx: &NodeCx<'_>,
        flow: &dyn Fn(usize, usize) -> Option<AxisFlow>,
        operands: &[(Use, Carried)],
        result: &Carried,
    ) -> Result<(), MergeRefusal> {
        let (op, node) = (cx.op_type().to_owned(), cx.label().to_owned());
        for slot in (0..cx.input_count()).filter(|slot| cx.has(*slot)) {
            let own = operands.iter().find(|(at, _)| at.slot == slot).map(|(_, carried)| &carried.axes);
            let mut foreign: Vec<(usize, usize)> = Vec::new();
            for axis in &result.axes {
                match flow(slot, *axis) {
                    None => return Err(MergeRefusal::Mixed { node, op }),
                    Some(AxisFlow::Along(along)) if own.is_none_or(|own| !own.contains(&along)) => {
                        foreign.push((*axis, along));
                    }
                    Some(_) => {}
                }
            }
            let Some((_, axis)) = foreign.first().copied() else { continue };
            let by_sample = cx.shape(slot).is_ok_and(|shape| shape.first() == Some(&self.view.facts.samples));
            let value = cx.input(slot).filter(|value| self.dynamic[value.index()]);
            let from_samples = value.filter(|_| by_sample && foreign.iter().all(|(_, along)| *along > 0));
            if foreign.len() > 1 || own.is_some() {
                let (at, stage) = (Use { slot, ..operands[0].0 }, result.stage);
                let refused = || MergeRefusal::Pairwise { node: node.clone(), op: op.clone() };
                let [(_, rows), (last, columns)] = *foreign else { return Err(refused()) };
                let scores = own.is_none() && cx.result_shape(0).is_ok_and(|shape| last + 1 == shape.len());
                let value = from_samples.filter(|_| scores).ok_or_else(refused)?;
                self.region.pairwise.push(Pairwise { at, value, rows, columns, stage });
                continue;
            }
            if from_samples.is_none() {
                return Err(MergeRefusal::Positional { node, op });
            }
            let at = Use { slot, ..operands[0].0 };
            self.region.crossings.push(Crossing { at, axis, stage: result.stage });
        }
        Ok(())
    }
}
