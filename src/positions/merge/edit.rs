//! The edit that merges positions.
//!
//! At each site the positions are ordered by how much they are like their nearest neighbour (cosine of the features). Of the first
//! `2r` every other one is merged into the most similar one of those between. What is merged is the mean, weighted by how many
//! positions each stands for; attention counts a position as often as that, by the logarithm added to its scores (ToMe, Bolya
//! et al., 2023, section 3, has sizes and their logarithm, and pairs even positions with odd ones). Nearest neighbours of each other have the
//! same likeness, so that they stand side by side and become a pair.

use std::collections::BTreeMap;

use super::region::{Pairwise, Region, Restored, Site};
use crate::{
    graph::{Facts, Graph, NodeId, Patch, Use, ValueId},
    onnx::{int_attribute, ints_attribute, proto::NodeProto, tensor::from_tensor, tensor_attribute},
    ops::Pooling,
    positions::edit::{Edit, Extent},
    tensor::{DType, Tensor},
};

/// A similarity below all that there are.
const NEVER: f32 = 1e6;

/// Likeness is told apart in steps of one in so many: far more than single precision errs by, and few enough for the numbers that
/// are made of them to fit 32 bits, to which some runtimes cut integers.
const STEPS: f32 = 1e5;

/// Rates are in parts of so many.
pub(super) const PARTS: i64 = 1 << 16;

/// Merges positions at every site: so many pairs at each, as parts ([`PARTS`]) of the positions that there are before the first
/// site, those that are left alone not counted.
pub(super) fn patch(
    graph: &Graph,
    facts: &Facts,
    sites: &[Site],
    region: &Region,
    rates: &[i64],
    (dtype, padding): (DType, Option<ValueId>),
) -> Option<Patch> {
    let mut merging = Merging {
        edit: Edit::new(graph, facts),
        region,
        dtype,
        padding,
        picked: BTreeMap::new(),
        rows: BTreeMap::new(),
        stages: Vec::new(),
    };
    for (site, rate) in sites.iter().zip(rates) {
        merging.site(*site, *rate);
    }
    let first = sites.first()?;
    for output in &region.outputs {
        merging.restore_output(output)?;
    }
    for operand in &region.restored {
        merging.restore(operand)?;
    }
    for pool in &region.pools {
        merging.weigh(pool.at, pool.kind, pool.rank, pool.skip, pool.stage)?;
    }
    for (at, stage) in &region.scores {
        merging.count(*at, *stage)?;
    }
    for crossing in &region.crossings {
        merging.pick(crossing.at, crossing.axis, crossing.stage)?;
    }
    for pairwise in &region.pairwise {
        merging.pick_columns(pairwise)?;
    }
    for (at, place, stage) in &region.extents {
        let extent = Extent::Computed(merging.stages.get(stage - 1)?.count.clone());
        merging.edit.set_extent(*at, *place, &extent)?;
    }
    for (id, value, axis) in &region.shapes {
        merging.edit.restore_extent(*id, (*value, *axis), (first.value, 1))?;
    }
    Some(merging.edit.patch)
}

/// What there is behind a site, by name.
struct Stage {
    /// The node before which it is computed.
    at: NodeId,
    /// How many positions there are, a vector of one number.
    count: String,
    /// How many there were before the first site that may be merged, a vector of one number.
    all: String,
    /// How many positions each stands for `[batch, positions, 1]`.
    sizes: String,
    /// Which of the positions before the site stay, in order `[batch, positions, 1]`.
    stay: String,
    /// For each position before the first site, by which of these it is represented `[batch, positions, 1]`; where that is asked for.
    owners: Option<String>,
}

struct Merging<'a> {
    edit: Edit<'a>,
    region: &'a Region,
    dtype: DType,
    /// The input `[batch, positions]` that has zeros at padding.
    padding: Option<ValueId>,
    /// What values are called of which the positions of a stage were picked.
    picked: BTreeMap<(ValueId, usize, usize), String>,
    /// What one position has of values that are the same for all that attend.
    rows: BTreeMap<ValueId, String>,
    stages: Vec<Stage>,
}

/// Where nodes are added.
struct Nodes<'e, 'a> {
    edit: &'e mut Edit<'a>,
    at: NodeId,
}

impl Nodes<'_, '_> {
    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.with(op, inputs, &[])
    }

    fn with(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, i64)]) -> String {
        let attribute = attributes.iter().map(|(name, value)| int_attribute(name, *value)).collect();
        let input = inputs.iter().map(|name| (*name).to_owned()).collect();
        let node = NodeProto { op_type: Some(op.to_owned()), input, attribute, ..Default::default() };
        self.edit.insert(self.at, &op.to_lowercase(), node)
    }

    fn transpose(&mut self, x: &str, perm: &[i64]) -> String {
        let attribute = vec![ints_attribute("perm", perm)];
        let op_type = Some("Transpose".to_owned());
        let node = NodeProto { op_type, input: vec![x.to_owned()], attribute, ..Default::default() };
        self.edit.insert(self.at, "transpose", node)
    }

    fn ints(&mut self, values: &[i64]) -> String {
        self.edit.constant("numbers", &Tensor::ints(values))
    }

    fn single(&mut self, x: &str, dtype: DType) -> String {
        match dtype {
            DType::F32 => x.to_owned(),
            _ => self.with("Cast", &[x], &[("to", i64::from(DType::F32.onnx()))]),
        }
    }

    /// A number in single precision.
    fn number(&mut self, value: f32) -> String {
        let name = self.edit.patch.fresh(self.edit.graph, "number");
        let tensor = Tensor::F32(ndarray::arr0(value).into_dyn());
        self.edit.patch.constant(from_tensor(&name, &tensor));
        name
    }

    /// Ones in single precision. The value is said: tract takes what is not for double precision.
    fn ones(&mut self, shape: &str) -> String {
        let one = from_tensor("value", &Tensor::F32(ndarray::arr1(&[1.0]).into_dyn()));
        let node = NodeProto {
            op_type: Some("ConstantOfShape".to_owned()),
            input: vec![shape.to_owned()],
            attribute: vec![tensor_attribute("value", one)],
            ..Default::default()
        };
        self.edit.insert(self.at, "ones", node)
    }

    /// Entries of axis 1 from one to another.
    fn slice(&mut self, x: &str, from: &str, to: &str, step: i64) -> String {
        let (axis, step) = (self.ints(&[1]), self.ints(&[step]));
        self.op("Slice", &[x, from, to, &axis, &step])
    }

    /// Sums over the last axis, which stays.
    fn sum(&mut self, x: &str) -> String {
        let last = self.ints(&[-1]);
        self.with("ReduceSum", &[x, &last], &[("keepdims", 1)])
    }

    /// For each sample its entries of axis 1 in another order.
    fn gather(&mut self, x: &str, places: &str) -> String {
        self.with("GatherND", &[x, places], &[("batch_dims", 1)])
    }

    /// The numbers from zero up to a vector's one.
    fn range(&mut self, to: &str) -> String {
        let (first, zero, one) = (
            self.ints(&[0]),
            self.edit.constant("number", &Tensor::int(0)),
            self.edit.constant("number", &Tensor::int(1)),
        );
        let to = self.op("Squeeze", &[to, &first]);
        self.op("Range", &[&zero, &to, &one])
    }

    fn largest(&mut self, x: &str, count: &str) -> String {
        let (values, places) = {
            let graph = self.edit.graph;
            (self.edit.patch.fresh(graph, "values"), self.edit.patch.fresh(graph, "places"))
        };
        let node = NodeProto {
            name: Some(places.clone()),
            op_type: Some("TopK".to_owned()),
            input: vec![x.to_owned(), count.to_owned()],
            output: vec![values, places.clone()],
            attribute: vec![int_attribute("axis", -1)],
            ..Default::default()
        };
        self.edit.patch.insert(self.at, node);
        places
    }
}

impl Merging<'_> {
    /// Merges positions at a site.
    fn site(&mut self, site: Site, rate: i64) {
        let graph = self.edit.graph;
        let at = NodeId(site.node.index() as u32 + 1);
        let (protected, dtype) = (self.region.protected as i64, self.dtype);
        let x = graph.value(site.value).name.clone();
        let real = self.padding.and_then(|mask| self.picked_at(mask, 1, self.stages.len()));
        let before = self.stages.last().map(|stage| (stage.sizes.clone(), stage.all.clone()));
        let owned = self.stages.last().and_then(|stage| stage.owners.clone());
        let restores = self.region.restores();
        let n = &mut Nodes { edit: &mut self.edit, at };
        let (p, zero, one, two) = (n.ints(&[protected]), n.ints(&[0]), n.ints(&[1]), n.ints(&[2]));
        // Numbers of positions.
        let count = n.edit.extent(at, &x, 1);
        let free = n.op("Sub", &[&count, &p]);
        let (sizes, all) = match before {
            Some(before) => before,
            None => {
                let shape = n.op("Shape", &[&x]);
                let leading = n.ints(&[0, 1]);
                let leading = n.op("Gather", &[&shape, &leading]);
                let shape = n.with("Concat", &[&leading, &one], &[("axis", 0)]);
                let ones = n.ones(&shape);
                let to = [("to", i64::from(dtype.onnx()))];
                (if dtype == DType::F32 { ones } else { n.with("Cast", &[&ones], &to) }, free.clone())
            }
        };
        let (rate, parts) = (n.ints(&[rate]), n.ints(&[PARTS]));
        let r = n.op("Mul", &[&all, &rate]);
        let r = n.op("Div", &[&r, &parts]);
        let merged = n.op("Mul", &[&r, &two]);
        let (x_free, s_free) = (n.slice(&x, &p, &count, 1), n.slice(&sizes, &p, &count, 1));
        // Likeness, in single precision.
        let x_single = n.single(&x_free, dtype);
        let squares = n.op("Mul", &[&x_single, &x_single]);
        let norm = n.sum(&squares);
        let norm = n.op("Sqrt", &[&norm]);
        let tiny = n.number(1e-6);
        let norm = n.op("Max", &[&norm, &tiny]);
        let unit = n.op("Div", &[&x_single, &norm]);
        let across = n.transpose(&unit, &[0, 2, 1]);
        let likeness = n.op("MatMul", &[&unit, &across]);
        let places = n.range(&free);
        let (row, column) = (n.op("Unsqueeze", &[&places, &zero]), n.op("Unsqueeze", &[&places, &one]));
        let diagonal = n.op("Equal", &[&row, &column]);
        let diagonal = n.with("Cast", &[&diagonal], &[("to", i64::from(DType::F32.onnx()))]);
        let never = n.number(NEVER);
        let diagonal = n.op("Mul", &[&diagonal, &never]);
        let likeness = n.op("Sub", &[&likeness, &diagonal]);
        let likeness = match real {
            None => likeness,
            Some(real) => {
                let real = n.slice(&real, &p, &count, 1);
                n.padding_first(&likeness, &real)
            }
        };
        let nearest = n.largest_value(&likeness);
        let keys = n.keys(&likeness, &nearest, &places, &free);
        let order = n.largest(&keys, &free);
        let last = n.ints(&[-1]);
        let order = n.op("Unsqueeze", &[&order, &last]);
        // In that order: pairs first.
        let (x_sorted, s_sorted) = (n.gather(&x_free, &order), n.gather(&s_free, &order));
        let order_pairs = n.slice(&order, &zero, &merged, 1);
        let unit_pairs = n.gather(&unit, &order_pairs);
        let split =
            |n: &mut Nodes<'_, '_>, x: &str| (n.slice(x, &zero, &merged, 2), n.slice(x, &one, &merged, 2));
        let (unit_a, unit_b) = split(n, &unit_pairs);
        let (x_a, x_b) = split(n, &x_sorted);
        let (s_a, s_b) = split(n, &s_sorted);
        let (x_rest, s_rest) = (n.slice(&x_sorted, &merged, &free, 1), n.slice(&s_sorted, &merged, &free, 1));
        // Into which each goes: the nearest, or none where there is none.
        let across = n.transpose(&unit_b, &[0, 2, 1]);
        let pairs = n.op("MatMul", &[&unit_a, &across]);
        let single = n.op("Min", &[&r, &one]);
        let nearest = n.largest(&pairs, &single);
        let into = n.transpose(&nearest, &[0, 2, 1]);
        let slots = n.range(&r);
        let slots = n.op("Unsqueeze", &[&slots, &one]);
        let goes = n.op("Equal", &[&into, &slots]);
        let goes = n.with("Cast", &[&goes], &[("to", i64::from(dtype.onnx()))]);
        // Means by size.
        let weighted = n.op("Mul", &[&x_a, &s_a]);
        let (added, added_sizes) = (n.op("MatMul", &[&goes, &weighted]), n.op("MatMul", &[&goes, &s_a]));
        let own = n.op("Mul", &[&x_b, &s_b]);
        let (sum, s_b) = (n.op("Add", &[&own, &added]), n.op("Add", &[&s_b, &added_sizes]));
        let mean = n.op("Div", &[&sum, &s_b]);
        let (x_first, s_first) = (n.slice(&x, &zero, &p, 1), n.slice(&sizes, &zero, &p, 1));
        let join = |n: &mut Nodes<'_, '_>, parts: [&str; 3]| {
            let parts: Vec<&str> = parts.into_iter().skip(usize::from(protected == 0)).collect();
            n.with("Concat", &parts, &[("axis", 1)])
        };
        let (x_new, sizes) = (join(n, [&x_first, &x_rest, &mean]), join(n, [&s_first, &s_rest, &s_b]));
        let places = {
            let after = n.op("Add", &[&order, &p]);
            let rest = n.slice(&after, &merged, &free, 1);
            let b = n.slice(&after, &one, &merged, 2);
            let head = if protected == 0 { String::new() } else { n.first_places(&x, protected) };
            join(n, [&head, &rest, &b])
        };
        let owners = restores.then(|| {
            let sorted =
                Sorted { order: &order, into: &nearest, first: &p, free: &free, merged: &merged, pairs: &r };
            let own = n.owners(&sorted);
            let head = if protected == 0 { String::new() } else { n.first_places(&x, protected) };
            let parts: Vec<&str> =
                [head.as_str(), &own].into_iter().skip(usize::from(protected == 0)).collect();
            let own = n.with("Concat", &parts, &[("axis", 1)]);
            owned.map_or(own.clone(), |owned| n.gather(&own, &owned))
        });
        let count = n.op("Sub", &[&count, &r]);
        self.stages.push(Stage { at, count, all, sizes, stay: places, owners });
        for at in graph.uses(site.value) {
            if !self.region.shapes.iter().any(|(id, ..)| *id == at.node) {
                self.edit.patch.rewire(*at, x_new.clone());
            }
        }
    }

    /// Which entries of axis 1 the positions before the first site are represented by, those left out at the beginning not counted.
    fn owners(&mut self, at: NodeId, stage: usize, skip: usize) -> Option<String> {
        let owners = self.stages.get(stage - 1)?.owners.clone()?;
        if skip == 0 {
            return Some(owners);
        }
        let n = &mut Nodes { edit: &mut self.edit, at };
        let (skip, end) = (n.ints(&[skip as i64]), n.ints(&[i64::MAX]));
        let owners = n.slice(&owners, &skip, &end, 1);
        Some(n.op("Sub", &[&owners, &skip]))
    }

    /// Gives an operand all positions again: each has what it is represented by.
    fn restore(&mut self, Restored { at, axis, skip, stage }: &Restored<Use>) -> Option<()> {
        let graph = self.edit.graph;
        let value = graph.node(at.node).input(at.slot)?;
        let rank = self.edit.facts.get(value)?.shape.len() as i64;
        let name = self.edit.patch.rewired(*at).unwrap_or(&graph.value(value).name).to_owned();
        let owners = self.owners(at.node, *stage, *skip)?;
        let n = &mut Nodes { edit: &mut self.edit, at: at.node };
        let restored = n.along(&name, *axis, rank, |n, x| n.gather(x, &owners));
        self.edit.patch.rewire(*at, restored);
        Some(())
    }

    /// Gives an output all positions again. Nodes that read it go on with those that there are.
    fn restore_output(&mut self, Restored { at, skip, stage, .. }: &Restored<ValueId>) -> Option<()> {
        let graph = self.edit.graph;
        let (producer, name) = (graph.producer(*at)?, graph.value(*at).name.clone());
        let owners = self.owners(producer, *stage, *skip)?;
        let merged = self.edit.patch.fresh(graph, "merged");
        let node = NodeProto {
            name: Some(self.edit.patch.fresh(graph, "restored")),
            op_type: Some("GatherND".to_owned()),
            input: vec![merged.clone(), owners],
            output: vec![name],
            attribute: vec![int_attribute("batch_dims", 1)],
            ..Default::default()
        };
        self.edit.patch.insert_after(producer, node, merged.clone());
        for at in graph.uses(*at) {
            if self.edit.patch.rewired(*at).is_none() {
                self.edit.patch.rewire(*at, merged.clone());
            }
        }
        Some(())
    }

    /// Lets attention count a position as often as it stands for.
    fn count(&mut self, at: Use, stage: usize) -> Option<()> {
        let graph = self.edit.graph;
        let sizes = self.stages.get(stage - 1)?.sizes.clone();
        let scores = graph.value(graph.node(at.node).input(at.slot)?).name.clone();
        let n = &mut Nodes { edit: &mut self.edit, at: at.node };
        let logarithms = n.op("Log", &[&sizes]);
        let shape = n.ints(&[0, 1, 1, -1]);
        let logarithms = n.op("Reshape", &[&logarithms, &shape]);
        let counted = n.op("Add", &[&scores, &logarithms]);
        self.edit.patch.rewire(at, counted);
        Some(())
    }

    /// Weighs what is summed or averaged over positions.
    fn weigh(&mut self, at: Use, kind: Pooling, rank: usize, skip: usize, stage: usize) -> Option<()> {
        let graph = self.edit.graph;
        let Stage { sizes, count, .. } = self.stages.get(stage - 1)?;
        let (sizes, count) = (sizes.clone(), count.clone());
        let pooled = graph.node(at.node).input(at.slot)?;
        let pooled =
            self.edit.patch.rewired(at).map_or_else(|| graph.value(pooled).name.clone(), str::to_owned);
        let n = &mut Nodes { edit: &mut self.edit, at: at.node };
        let from = n.ints(&[skip as i64]);
        let mut weights = n.slice(&sizes, &from, &count, 1);
        if kind == Pooling::Mean {
            let shape = n.ints(&[0, 1, -1]);
            let row = n.op("Reshape", &[&weights, &shape]);
            let all = n.sum(&row);
            let there = n.op("Sub", &[&count, &from]);
            let there = n.with("Cast", &[&there], &[("to", i64::from(self.dtype.onnx()))]);
            let share = n.op("Div", &[&there, &all]);
            weights = n.op("Mul", &[&weights, &share]);
        }
        if rank == 2 {
            let last = n.ints(&[-1]);
            weights = n.op("Squeeze", &[&weights, &last]);
        }
        let weighed = n.op("Mul", &[&pooled, &weights]);
        self.edit.patch.rewire(at, weighed);
        Some(())
    }

    /// Gives each position what is its own of an operand.
    fn pick(&mut self, at: Use, axis: usize, stage: usize) -> Option<()> {
        let value = self.edit.graph.node(at.node).input(at.slot)?;
        let name = self.picked_at(value, axis, stage)?;
        self.edit.patch.rewire(at, name);
        Some(())
    }

    /// Gives all pairs of positions what those have that are attended to: it is the same for all that attend, of which one will do.
    fn pick_columns(&mut self, Pairwise { at, value, rows, columns, stage }: &Pairwise) -> Option<()> {
        let graph = self.edit.graph;
        let one = match self.rows.get(value) {
            Some(one) => one.clone(),
            None => {
                let place = NodeId(graph.producer(*value).map_or(0, |id| id.index() as u32 + 1));
                let n = &mut Nodes { edit: &mut self.edit, at: place };
                let (first, axis) = (n.ints(&[0]), *rows as i64);
                let one = n.with("Gather", &[&graph.value(*value).name, &first], &[("axis", axis)]);
                self.rows.insert(*value, one.clone());
                one
            }
        };
        let name = self.picked_of(one, *value, *columns, *stage)?;
        self.edit.patch.rewire(*at, name);
        Some(())
    }

    /// A value of which the positions of a stage were picked.
    fn picked_at(&mut self, value: ValueId, axis: usize, stage: usize) -> Option<String> {
        let name = self.edit.graph.value(value).name.clone();
        self.picked_of(name, value, axis, stage)
    }

    /// The same of what is made of a value, under a name.
    fn picked_of(&mut self, mut name: String, value: ValueId, axis: usize, stage: usize) -> Option<String> {
        let graph = self.edit.graph;
        let rank = self.edit.facts.get(value)?.shape.len() as i64;
        for stage in 0..stage {
            if let Some(picked) = self.picked.get(&(value, axis, stage)) {
                name.clone_from(picked);
                continue;
            }
            let Stage { at, stay, .. } = self.stages.get(stage)?;
            // Behind both.
            let producer = graph.producer(value).map_or(0, |id| id.index() as u32 + 1);
            let (place, stay) = (NodeId(producer.max(at.index() as u32)), stay.clone());
            let n = &mut Nodes { edit: &mut self.edit, at: place };
            name = n.along(&name, axis, rank, |n, x| n.gather(x, &stay));
            self.picked.insert((value, axis, stage), name.clone());
        }
        Some(name)
    }
}

/// Positions in the order of their likeness, and what becomes of them.
struct Sorted<'n> {
    /// Their places, those that are left alone not counted `[batch, free, 1]`.
    order: &'n str,
    /// Of each pair, which one it goes into `[batch, pairs, 1]`, or `[batch, 0, 0]`.
    into: &'n str,
    /// How many are left alone, how many are not, how many of these are in pairs, and how many pairs there are.
    first: &'n str,
    free: &'n str,
    merged: &'n str,
    pairs: &'n str,
}

impl Nodes<'_, '_> {
    /// Does something to a value along axis 1, to which another is moved, and back.
    fn along(
        &mut self,
        x: &str,
        axis: usize,
        rank: i64,
        work: impl FnOnce(&mut Self, &str) -> String,
    ) -> String {
        if axis == 1 {
            return work(self, x);
        }
        let mut perm: Vec<i64> = (0..rank).collect();
        perm.swap(1, axis);
        let moved = self.transpose(x, &perm);
        let done = work(self, &moved);
        self.transpose(&done, &perm)
    }

    /// By which position each is represented of those that are not left alone `[batch, free, 1]`: by itself, or by what it was merged
    /// into.
    fn owners(&mut self, Sorted { order, into, first, free, merged, pairs }: &Sorted<'_>) -> String {
        let (zero, one, last) = (self.ints(&[0]), self.ints(&[1]), self.ints(&[-1]));
        let number = self.edit.constant("number", &Tensor::int(0));
        // First those that are alone, then pairs.
        let rest = self.op("Sub", &[free, merged]);
        let pairs_from = self.op("Add", &[&rest, first]);
        let column = self.ints(&[0, 0, 1]);
        let into = self.op("Reshape", &[into, &column]);
        let by_a = self.op("Add", &[&into, &pairs_from]);
        let places = self.range(pairs);
        let places = self.op("Unsqueeze", &[&places, &one]);
        let same = self.op("Mul", &[&into, &number]);
        let by_b = self.op("Add", &[&same, &places]);
        let by_b = self.op("Add", &[&by_b, &pairs_from]);
        let both = self.with("Concat", &[&by_a, &by_b], &[("axis", -1)]);
        let shape = self.with("Concat", &[&zero, merged, &one], &[("axis", 0)]);
        let of_pairs = self.op("Reshape", &[&both, &shape]);
        let alone = self.slice(order, merged, free, 1);
        let same = self.op("Mul", &[&alone, &number]);
        let places = self.range(&rest);
        let places = self.op("Unsqueeze", &[&places, &one]);
        let of_rest = self.op("Add", &[&same, &places]);
        let of_rest = self.op("Add", &[&of_rest, first]);
        let sorted = self.with("Concat", &[&of_pairs, &of_rest], &[("axis", 1)]);
        // From the order of likeness back to their own.
        let places = self.op("Squeeze", &[order, &last]);
        let places = self.op("Neg", &[&places]);
        let back = self.largest(&places, free);
        let back = self.op("Unsqueeze", &[&back, &last]);
        self.gather(&sorted, &back)
    }

    /// Likeness `[batch, n, n]` that lets padding merge first, and with padding alone. `real` `[batch, n]` has ones elsewhere.
    fn padding_first(&mut self, likeness: &str, real: &str) -> String {
        let real = self.with("Cast", &[real], &[("to", i64::from(DType::F32.onnx()))]);
        let (one, last) = (self.number(1.0), self.ints(&[-1]));
        let padded = self.op("Sub", &[&one, &real]);
        let padded = self.op("Unsqueeze", &[&padded, &last]);
        let across = self.transpose(&padded, &[0, 2, 1]);
        // Cosines lie between -1 and 1: two apart, no real pair is below a mixed one, nor above one of padding.
        let (apart, both) = (self.number(4.0), self.number(12.0));
        let either = self.op("Add", &[&padded, &across]);
        let either = self.op("Mul", &[&either, &apart]);
        let pairs = self.op("MatMul", &[&padded, &across]);
        let pairs = self.op("Mul", &[&pairs, &both]);
        let likeness = self.op("Sub", &[likeness, &either]);
        self.op("Add", &[&likeness, &pairs])
    }

    /// Whole numbers by which positions are ordered: how near the nearest is, and then one that nearest neighbours of each other have
    /// in common and no other pair has, so that those of several pairs that are equally near stand side by side. Runtimes
    /// differ in the last places of likeness, and in the order of what is equal.
    fn keys(&mut self, likeness: &str, nearest: &str, places: &str, count: &str) -> String {
        let steps = self.number(STEPS);
        let steps = self.op("Mul", &[nearest, &steps]);
        let steps = self.op("Floor", &[&steps]);
        let steps = self.with("Cast", &[&steps], &[("to", i64::from(DType::I64.onnx()))]);
        let other = self.with("ArgMax", &[likeness], &[("axis", -1), ("keepdims", 0)]);
        let first = self.op("Min", &[&other, places]);
        let steps = self.op("Mul", &[&steps, count]);
        let by_pair = self.op("Sub", &[&steps, &first]);
        // Of a pair the first comes first.
        let leads = self.op("Equal", &[&first, places]);
        let leads = self.with("Cast", &[&leads], &[("to", i64::from(DType::I64.onnx()))]);
        let twice = self.op("Add", &[&by_pair, &by_pair]);
        let keys = self.op("Add", &[&twice, &leads]);
        // Integers of 64 bits are extents to tract, which orders none.
        self.with("Cast", &[&keys], &[("to", i64::from(DType::I32.onnx()))])
    }

    /// The largest entry of the last axis, which goes.
    fn largest_value(&mut self, x: &str) -> String {
        let op = |attribute, input| NodeProto {
            op_type: Some("ReduceMax".to_owned()),
            input,
            attribute,
            ..Default::default()
        };
        let keep = int_attribute("keepdims", 0);
        let node = if self.edit.graph.opset() >= 18 {
            let last = self.ints(&[-1]);
            op(vec![keep], vec![x.to_owned(), last])
        } else {
            op(vec![keep, ints_attribute("axes", &[-1])], vec![x.to_owned()])
        };
        self.edit.insert(self.at, "reducemax", node)
    }

    /// The places of the first positions of each sample `[batch, count, 1]`.
    fn first_places(&mut self, x: &str, count: i64) -> String {
        let shape = self.op("Shape", &[x]);
        let zero = self.ints(&[0]);
        let batch = self.op("Gather", &[&shape, &zero]);
        let rest = self.ints(&[count, 1]);
        let shape = self.with("Concat", &[&batch, &rest], &[("axis", 0)]);
        let places: Vec<i64> = (0..count).collect();
        let places = self.edit.constant("places", &Tensor::ints(&places));
        let last = self.ints(&[-1]);
        let places = self.op("Unsqueeze", &[&places, &last]);
        self.op("Expand", &[&places, &shape])
    }
}
