//! Rotates the dimensions of attention heads to axes that heads need unequally, before any of them is scored.
//!
//! Queries meet keys, and values their projection, in sums over the dimensions of a head, which an orthogonal matrix rotates
//! without changing them. As trained, all dimensions matter about alike, and the third of one head has nothing to do with the
//! third of another. Rotated to principal axes, the last ones hold little in every head, so that all heads of a layer can lose
//! them together. (CORP, 2026, removes dimensions for which it can compensate; rotated ones need hardly any compensation.)
//!
//! Whether something between, such as a rotary embedding, works on single dimensions is not deduced but tried: the rotated
//! model has to compute what the model did.

mod axes;
mod blocks;

use std::{collections::BTreeMap, fmt};

use faer::Mat;
use ndarray::{Array2, ArrayD, Axis};
use serde::Serialize;

use crate::{
    graph::{Patch, ValueId},
    memory::MemoryBudget,
    model::ModelView,
    onnx::{OnnxError, pages, proto::ModelProto, tensor::to_tensor},
    runtime::Engine,
    score::ScoreError,
    stats::{GramStats, Sum, measure},
    tensor::{DType, Tensor},
    typing::Dimension,
    verify::{OutputProof, Reference, VerifyError},
    widths::{Place, Width},
};
use blocks::{Axes, Blocks};

/// Why a layer's dimensions stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum RotateRefusal {
    /// The dimensions of one head do not show in every weight and operand.
    Heads,
    /// Other layers read the same weights.
    Shared,
    /// The weights are not stored in single precision.
    Precision,
    /// The samples showed no finite second moments.
    Moments,
    /// The second moments take more than the memory that a run may have.
    Memory,
    /// The outputs would change: something works on single dimensions.
    Outputs,
}

impl fmt::Display for RotateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Heads => "its heads cannot be told apart in every weight",
            Self::Shared => "its weights are shared",
            Self::Precision => "its weights are not in single precision",
            Self::Moments => "the samples show no finite second moments",
            Self::Memory => "its second moments take more than the memory budget",
            Self::Outputs => "something works on single dimensions, such as a rotary embedding",
        })
    }
}

/// Why rotating failed.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// A weight could not be read.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// Second moments could not be measured.
    #[error(transparent)]
    Moments(#[from] ScoreError),
    /// The rotated model could not be compared.
    #[error("the model with rotated heads cannot be compared: {0}; pruning whole heads alone does without")]
    Verify(#[from] VerifyError),
}

/// What was rotated, as reports have it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rotation {
    /// Dimensions that were rotated.
    pub rotated: Vec<String>,
    /// Those that were not, and why.
    pub left: Vec<(String, RotateRefusal)>,
    /// The largest difference between the outputs before and after, relative to the output's largest value.
    pub difference: f64,
}

/// A model that computes the same with rotated heads.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The model.
    pub model: ModelProto,
    /// What is to be reported.
    pub report: Rotation,
}

/// The part of the memory budget that moments take at a time. Those of more layers need another pass over the samples, which
/// takes less time than turning the weights does.
const SHARE: u64 = 64;

/// Rotates the head dimensions of a model. `memory` is what the whole run may take.
pub fn rotate(
    engine: &dyn Engine,
    view: ModelView<'_>,
    memory: MemoryBudget,
) -> Result<Rotated, RotateError> {
    let mut report = Rotation::default();
    let mut candidates = Vec::new();
    for dimension in view.dimensions.iter().filter(|d| d.kind.is_rotated()) {
        match Candidate::of(view, dimension) {
            Ok(candidate) => candidates.push(candidate),
            Err(reason) => report.left.push((dimension.name.clone(), reason)),
        }
    }
    let rotations = rotations(engine, view, &candidates, memory, &mut report)?;
    if rotations.is_empty() {
        return Ok(Rotated { model: view.model.clone(), report });
    }
    let reference = Reference::new(engine, view.model, view.samples, view.facts.samples)?;
    let model = Trial { engine, view, reference }.choose(&rotations, &mut report)?;
    Ok(Rotated { model, report })
}

/// What the samples ask of each candidate.
fn rotations<'c>(
    engine: &dyn Engine,
    view: ModelView<'_>,
    candidates: &'c [Candidate<'_>],
    memory: MemoryBudget,
    report: &mut Rotation,
) -> Result<Vec<HeadRotation<'c>>, RotateError> {
    let mut rotations = Vec::with_capacity(candidates.len());
    let mut rest = candidates;
    while !rest.is_empty() {
        let bytes = |candidate: &Candidate<'_>| candidate.sums().map(|sum| sum.bytes()).sum();
        let held = |memory: MemoryBudget, candidates: &[Candidate<'_>]| {
            memory.fitting(candidates.iter().map(|candidate| (bytes(candidate), 0)))
        };
        let alone = rest.get(..1).unwrap_or_default();
        let count = held(memory.share(SHARE), rest).max(held(memory, alone));
        if let (0, [first, others @ ..]) = (count, rest) {
            report.left.push((first.dimension.name.clone(), RotateRefusal::Memory));
            rest = others;
            continue;
        }
        let (group, others) = rest.split_at(count);
        let sums: Vec<Sum> = group.iter().flat_map(Candidate::sums).collect();
        let mut moments = measure(engine, view, &sums.iter().collect::<Vec<_>>())?.into_iter();
        for candidate in group {
            let own: Vec<GramStats> = moments.by_ref().take(candidate.sums().count()).collect();
            match candidate.rotation(own) {
                Some(rotation) => rotations.push(rotation),
                None => report.left.push((candidate.dimension.name.clone(), RotateRefusal::Moments)),
            }
        }
        rest = others;
    }
    Ok(rotations)
}

/// Rotations that leave the outputs as they are, and those that change them.
type Split<'t, 'a> = (Vec<&'t HeadRotation<'a>>, Vec<&'t HeadRotation<'a>>);

/// Tries rotations on the model.
struct Trial<'a> {
    engine: &'a dyn Engine,
    view: ModelView<'a>,
    /// What the model gives as it is.
    reference: Reference<'a>,
}

impl Trial<'_> {
    /// The model with all rotations that leave the outputs as they are; reports which, and how far these move.
    fn choose(
        &self,
        rotations: &[HeadRotation<'_>],
        report: &mut Rotation,
    ) -> Result<ModelProto, RotateError> {
        let mut chosen: Vec<&HeadRotation<'_>> = rotations.iter().collect();
        let mut tried = self.attempt(&chosen)?;
        if tried.is_none() {
            // What holds of one layer's queries and keys, or of its values, holds of all layers' as a rule.
            let (compared, weighed): (Vec<_>, Vec<_>) = chosen.iter().partition(|rotation| rotation.compares);
            let (mut kept, mut lost) = self.split(&compared)?;
            let (others, rest) = self.split(&weighed)?;
            kept.extend(others);
            lost.extend(rest);
            tried = self.attempt(&kept)?;
            if tried.is_none() {
                lost.append(&mut kept);
            }
            report.left.extend(
                lost.iter().map(|rotation| (rotation.dimension.name.clone(), RotateRefusal::Outputs)),
            );
            chosen = kept;
        }
        let (model, difference) = tried.unwrap_or_else(|| (self.view.model.clone(), 0.0));
        report.rotated = chosen.iter().map(|rotation| rotation.dimension.name.clone()).collect();
        report.difference = difference;
        Ok(model)
    }

    /// The model with some dimensions rotated, and how far its outputs move; `None` when farther than rounding explains.
    fn attempt(&self, rotations: &[&HeadRotation<'_>]) -> Result<Option<(ModelProto, f64)>, RotateError> {
        let mut model = with_rotations(self.view, rotations)?;
        self.engine.spill_weights(&mut model);
        let outputs = self.reference.compare(self.engine, &model)?;
        let worst = outputs.iter().map(|o| o.difference).fold(0.0, f64::max);
        let holds = outputs.iter().all(OutputProof::holds);
        Ok(holds.then_some((model, worst)))
    }

    /// Those that leave the outputs as they are, and those that do not. Where all together do not, and the first does not
    /// either, none is thought to.
    fn split<'t, 'a>(&self, rotations: &[&'t HeadRotation<'a>]) -> Result<Split<'t, 'a>, RotateError> {
        let Some((first, rest)) = rotations.split_first() else { return Ok(Split::default()) };
        if self.attempt(rotations)?.is_some() {
            return Ok((rotations.to_vec(), Vec::new()));
        }
        if self.attempt(&[first])?.is_none() {
            return Ok((Vec::new(), rotations.to_vec()));
        }
        let (mut kept, mut lost) = (vec![*first], Vec::new());
        for rotation in rest {
            let group = if self.attempt(&[rotation])?.is_some() { &mut kept } else { &mut lost };
            group.push(*rotation);
        }
        Ok((kept, lost))
    }
}

/// A dimension whose weights can be rotated head by head.
struct Candidate<'a> {
    dimension: &'a Dimension,
    weights: Vec<Weight>,
    products: Vec<Product>,
}

/// An axis of a weight.
struct Weight {
    place: Place,
    blocks: Blocks,
    /// The product that each block of a head ends in.
    ends: Vec<usize>,
}

/// A sum over the dimensions of a head: the activations that are multiplied, two or one, and their entries by head.
struct Product(Vec<(Axes, Blocks)>);

/// For each product that a dimension ends in, the orthogonal matrix of each head, whose columns are the new axes.
struct HeadRotation<'a> {
    dimension: &'a Dimension,
    weights: &'a [Weight],
    /// Whether two activations meet along it.
    compares: bool,
    matrices: Vec<BTreeMap<Vec<usize>, Mat<f64>>>,
}

impl<'a> Candidate<'a> {
    fn of(view: ModelView<'_>, dimension: &'a Dimension) -> Result<Self, RotateRefusal> {
        let heads = blocks::heads(view, dimension);
        let mut products = Vec::new();
        let mut readers = BTreeMap::new();
        for contraction in dimension.contractions(view.widths) {
            let place = contraction.place();
            // What a weight reads goes by its own moments, as the weight is refitted to what stays.
            let partner = match contraction.weight_place() {
                None => Some(blocks::partner(view, place, contraction.width).ok_or(RotateRefusal::Heads)?),
                Some(weight) => {
                    readers.insert(weight, products.len());
                    None
                }
            };
            let operands = [Some(place), partner].into_iter().flatten();
            let operands =
                operands.map(|place| Axes::of(view, dimension, &heads, place).ok_or(RotateRefusal::Heads));
            products.push(Product(operands.collect::<Result<_, _>>()?));
        }
        let mut weights = Vec::new();
        for place in &dimension.owned {
            let blocks = readable(view, dimension, &heads, *place)?;
            let ends = match readers.get(place) {
                Some(product) => vec![*product; blocks.per_head()],
                None => ends(&products, blocks.per_head()).ok_or(RotateRefusal::Heads)?,
            };
            weights.push(Weight { place: *place, blocks, ends });
        }
        let operands = products.iter().flat_map(|product| &product.0);
        let mut blocks = weights.iter().map(|w| &w.blocks).chain(operands.map(|(_, blocks)| blocks));
        let count = weights.first().map_or(0, |w| w.blocks.heads());
        match blocks.all(|b| b.heads() == count) && !products.is_empty() {
            true => Ok(Self { dimension, weights, products }),
            false => Err(RotateRefusal::Heads),
        }
    }

    fn sums(&self) -> impl Iterator<Item = Sum> {
        let operands = self.products.iter().flat_map(|product| &product.0);
        operands.map(|(axes, _)| axes.sum())
    }

    /// The axes that the samples ask for.
    fn rotation(&self, moments: Vec<GramStats>) -> Option<HeadRotation<'_>> {
        let mut moments = moments.into_iter();
        let size = self.dimension.size;
        let mut matrices = Vec::new();
        for Product(operands) in &self.products {
            let measured: Vec<GramStats> = moments.by_ref().take(operands.len()).collect();
            let mut of_heads = BTreeMap::new();
            for (head, _) in operands.first()?.1.iter() {
                let mut sides = Vec::new();
                for ((_, blocks), moments) in operands.iter().zip(&measured) {
                    let mut side = Mat::zeros(size, size);
                    blocks.get(head)?.iter().for_each(|entries| side += moments.second(entries));
                    sides.push(side);
                }
                let alone = Mat::identity(size, size);
                let axes = axes::principal(sides.first()?, sides.get(1).unwrap_or(&alone))?;
                of_heads.insert(head.clone(), axes);
            }
            matrices.push(of_heads);
        }
        let compares = self.products.iter().any(|product| product.0.len() == 2);
        Some(HeadRotation { dimension: self.dimension, weights: &self.weights, compares, matrices })
    }
}

/// The entries by head of a weight that can be changed.
fn readable(
    view: ModelView<'_>,
    dimension: &Dimension,
    heads: &[Width],
    place: Place,
) -> Result<Blocks, RotateRefusal> {
    let value = view.graph.node(place.at.node).input(place.at.slot).ok_or(RotateRefusal::Heads)?;
    let constant = view.graph.constant(value).ok_or(RotateRefusal::Heads)?;
    if !view.graph.is_read_once(value) {
        return Err(RotateRefusal::Shared);
    }
    if DType::from_onnx(constant.data_type()) != Some(DType::F32) {
        return Err(RotateRefusal::Precision);
    }
    match Axes::of(view, dimension, heads, place) {
        Some((Axes { outer: None, .. }, blocks)) => Ok(blocks),
        _ => Err(RotateRefusal::Heads),
    }
}

/// The products that the blocks of a head end in. One weight makes queries, keys and values, in this order, where all of them
/// share their dimensions; another order would show in the outputs.
fn ends(products: &[Product], blocks: usize) -> Option<Vec<usize>> {
    let with = |operands: usize| products.iter().position(|product| product.0.len() == operands);
    match (products.len(), with(2), with(1)) {
        (1, ..) => Some(vec![0; blocks]),
        (2, Some(compared), Some(weighed)) if blocks >= 3 => {
            Some((0..blocks).map(|b| if b + 1 < blocks { compared } else { weighed }).collect())
        }
        _ => None,
    }
}

/// The model with some dimensions rotated.
fn with_rotations(view: ModelView<'_>, rotations: &[&HeadRotation<'_>]) -> Result<ModelProto, OnnxError> {
    // By weight, as one is rotated at a time.
    let mut weights: BTreeMap<ValueId, Vec<(&HeadRotation<'_>, &Weight)>> = BTreeMap::new();
    for rotation in rotations {
        for weight in rotation.weights {
            if let Some(value) = view.graph.node(weight.place.at.node).input(weight.place.at.slot) {
                weights.entry(value).or_default().push((rotation, weight));
            }
        }
    }
    let mut patch = Patch::default();
    for (value, rotated) in weights {
        let Some(constant) = view.graph.constant(value) else { continue };
        let (Tensor::F32(mut stored), Some((_, first))) = (to_tensor(constant)?, rotated.first()) else {
            continue;
        };
        for (rotation, Weight { place, blocks, ends }) in &rotated {
            for (head, blocks) in blocks.iter() {
                for (entries, product) in blocks.iter().zip(ends) {
                    if let Some(matrix) =
                        rotation.matrices.get(*product).and_then(|of_heads| of_heads.get(head))
                    {
                        rotate_entries(&mut stored, place.axis, entries, matrix);
                    }
                }
            }
        }
        let copy = |patch: &mut Patch| patch.fresh(view.graph, &view.graph.value(value).name);
        patch.constant_operand(view.graph, first.place.at, &Tensor::F32(stored), copy);
        pages::release();
    }
    Ok(patch.apply(view.model))
}

/// Gives some entries along an axis their coordinates along the columns of `matrix`.
fn rotate_entries(weight: &mut ArrayD<f32>, axis: usize, entries: &[usize], matrix: &Mat<f64>) {
    let matrix = Array2::from_shape_fn((matrix.nrows(), matrix.ncols()), |place| matrix[place]);
    let lanes = weight.len() / weight.len_of(Axis(axis)).max(1);
    let mut old = Array2::zeros((entries.len(), lanes));
    for (mut row, entry) in old.outer_iter_mut().zip(entries) {
        row.iter_mut().zip(weight.index_axis(Axis(axis), *entry)).for_each(|(to, x)| *to = f64::from(*x));
    }
    for (row, entry) in matrix.t().dot(&old).outer_iter().zip(entries) {
        weight.index_axis_mut(Axis(axis), *entry).iter_mut().zip(row).for_each(|(to, x)| *to = *x as f32);
    }
}
