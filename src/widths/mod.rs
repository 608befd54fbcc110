//! Widths: types for tensor axes.
//!
//! Every axis of every value gets a [`Width`]; the typing rules of [`crate::ops`] relate the widths of operands and results.

mod kept;
mod pin;
mod width;

pub use kept::Kept;
pub use pin::{Pin, PinReason};
pub use width::{Width, WidthForm, WidthTable};

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, NodeId, Use, ValueId};

/// What an element of an integer value depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Element {
    /// No extent: the same for all inputs of the model.
    #[default]
    Constant,
    /// No extent, and not the same for all inputs of the model.
    Varying,
    /// It is the extent of this width.
    Extent(Width),
    /// It is computed from the extents of these widths.
    Computed(BTreeSet<Width>),
}

impl Element {
    /// The widths that the element depends on.
    pub fn widths(&self) -> BTreeSet<Width> {
        match self {
            Self::Constant | Self::Varying => BTreeSet::new(),
            Self::Extent(width) => BTreeSet::from([*width]),
            Self::Computed(widths) => widths.clone(),
        }
    }

    pub(crate) fn join(elements: &[&Element]) -> Self {
        let widths: BTreeSet<Width> = elements.iter().flat_map(|e| e.widths()).collect();
        match widths.is_empty() {
            true if elements.contains(&&Self::Varying) => Self::Varying,
            true => Self::Constant,
            false => Self::Computed(widths),
        }
    }
}

/// An axis of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The operand.
    pub at: Use,
    /// Its axis.
    pub axis: usize,
}

/// An axis of one of a node's operands, where the node is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotAxis {
    /// Which of the node's inputs.
    pub slot: usize,
    /// The operand's axis, counted from the first.
    pub axis: usize,
}

impl SlotAxis {
    /// Axis `axis` of operand `slot`.
    pub fn new(slot: usize, axis: usize) -> Self {
        Self { slot, axis }
    }

    /// The same axis, of `node`.
    pub fn of(self, node: NodeId) -> Place {
        Place { at: Use { node, slot: self.slot }, axis: self.axis }
    }
}

/// A reduction axis: a sum over it makes removing an entry the same as zeroing it. Free widths end in these.
///
/// `Y = MatMul(X[N, S, 64], W[64, 256])` sums over a width of 64: `slot` 0 (X), `axis` 2, `weight` slot 1, axis 0, and
/// `feature` 2, as the 256 features are the last axis of `Y[N, S, 256]`. `Conv(X[N, 64, H, W], W[32, 64, 3, 3])` has `axis` 1,
/// `weight` slot 1, axis 1, and `feature` 1.
#[derive(Clone, Debug)]
pub struct Contraction {
    /// The node that sums.
    pub node: NodeId,
    /// The operand whose entries are summed. It depends on the graph's inputs, so that a mask can be put before it.
    pub slot: usize,
    /// The operand's axis.
    pub axis: usize,
    /// What is summed over: the whole axis, or, in a grouped convolution of `[N, G·C, …]`, the channels `C` of a group.
    pub width: Width,
    /// The same axis of the constant operand, if one is constant: a weight, and not another activation.
    pub weight: Option<SlotAxis>,
    /// The axis of the node's first result that the weight's other axis becomes: its output features. `None` where no single
    /// axis holds them.
    pub feature: Option<usize>,
}

impl Contraction {
    /// The operand whose entries are summed.
    pub fn operand(&self) -> Use {
        Use { node: self.node, slot: self.slot }
    }

    /// The axis of the weight that is summed over, if the other operand is constant.
    pub fn weight_place(&self) -> Option<Place> {
        self.weight.map(|weight| weight.of(self.node))
    }

    /// The axis that is summed over.
    pub fn place(&self) -> Place {
        Place { at: self.operand(), axis: self.axis }
    }
}

/// Cost of a node in multiply-accumulates: a constant times the product of the extents of widths.
#[derive(Clone, Debug)]
pub struct Macs {
    /// The node.
    pub node: NodeId,
    /// What the widths do not say, such as a kernel's area.
    pub factor: u64,
    /// The extents that multiply it.
    pub widths: Vec<Width>,
}

/// The typed model: a width for every axis, and the contractions, costs and marks that the typing rules declared.
#[derive(Clone, Debug)]
pub struct Widths {
    /// The width variables.
    pub table: WidthTable,
    /// Axes of each value that a node computes or the caller feeds; `None` where no shape was observed.
    pub(crate) values: Vec<Option<Vec<Width>>>,
    /// Axes of each use of a constant. Every use has its own widths: shared constants are copied before they are sliced.
    pub(crate) constants: BTreeMap<Use, Vec<Width>>,
    /// Axes of uses of computed values that have widths of their own: a Gather is put before a use that shrinks.
    pub(crate) per_use: BTreeMap<Use, Vec<Width>>,
    /// For integer values that hold extents: what each element depends on, row-major.
    pub(crate) sizes: Vec<Option<Vec<Element>>>,
    /// Widths whose extents become floating-point numbers: those stay what the dense model computes.
    pub(crate) counted: BTreeSet<Width>,
    /// The sums that widths end in.
    pub contractions: Vec<Contraction>,
    /// What the operators cost, at the batch that was observed.
    pub macs: Vec<Macs>,
    /// Batch axes of products of two activations: attention heads are among them.
    pub batched: BTreeSet<(NodeId, Width)>,
    /// Axes that an attention operator calls heads.
    pub heads: BTreeSet<Width>,
    /// Widths contracted or produced between two activations: the inside of attention heads.
    pub paired: BTreeSet<Width>,
    /// Axes that would be taken for another kind of axis if they had one entry.
    pub(crate) at_least_two: BTreeSet<Width>,
    /// The batch: the first axis of the first input, where that is symbolic.
    pub batch: Option<Width>,
}

impl Widths {
    /// No widths yet, for a model of `values` values.
    pub(crate) fn new(values: usize) -> Self {
        Self {
            table: WidthTable::default(),
            values: vec![None; values],
            constants: BTreeMap::new(),
            per_use: BTreeMap::new(),
            sizes: vec![None; values],
            counted: BTreeSet::new(),
            contractions: Vec::new(),
            macs: Vec::new(),
            batched: BTreeSet::new(),
            heads: BTreeSet::new(),
            paired: BTreeSet::new(),
            at_least_two: BTreeSet::new(),
            batch: None,
        }
    }

    /// Axes of a value.
    pub fn value(&self, value: ValueId) -> Option<&[Width]> {
        self.values[value.index()].as_deref()
    }

    /// Axes of an operand.
    pub fn operand(&self, graph: &Graph, at: Use) -> Option<&[Width]> {
        match self.constants.get(&at).or_else(|| self.per_use.get(&at)) {
            Some(axes) => Some(axes),
            None => self.value((*graph.node(at.node).inputs.get(at.slot)?)?),
        }
    }

    /// The width of an axis of an operand.
    pub fn at(&self, graph: &Graph, place: Place) -> Option<Width> {
        self.operand(graph, place.at)?.get(place.axis).copied()
    }

    /// Among the axes of a value, the one that samples lead.
    pub fn samples_axis(&self, axes: &[Width]) -> Option<usize> {
        let batch = self.batch?;
        axes.iter().position(|axis| self.table.leads(*axis, batch))
    }

    /// All typed uses of constants.
    pub fn constants(&self) -> impl Iterator<Item = (Use, &[Width])> {
        self.constants.iter().map(|(at, axes)| (*at, axes.as_slice()))
    }

    /// What the elements of an integer value depend on, row-major; `None` where they hold no extents.
    pub fn sizes(&self, value: ValueId) -> Option<&[Element]> {
        self.sizes[value.index()].as_deref()
    }
}
