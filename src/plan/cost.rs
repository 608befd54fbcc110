//! FLOPs and parameters as polynomials in the sizes of the prunable dimensions.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::Graph,
    ops,
    typing::Dimension,
    widths::{Form, Width, WidthTable, Widths},
};

/// A sum of terms, each a constant times the product of extents.
#[derive(Clone, Debug)]
pub struct Cost {
    terms: Vec<Term>,
    /// Terms that mention each dimension.
    terms_of: Vec<Vec<usize>>,
    divisor: u64,
}

#[derive(Clone, Debug)]
struct Term {
    factor: u64,
    extents: Vec<Extent>,
}

/// The extent of an axis, by the sizes of dimensions.
#[derive(Clone, Debug)]
enum Extent {
    Fixed(usize),
    Dimension(usize),
    Product(Vec<Extent>),
    Sum(Vec<Extent>),
}

impl Extent {
    fn new(table: &WidthTable, dimension_of: &BTreeMap<Width, usize>, width: Width) -> Self {
        let all = |parts: &[Width]| parts.iter().map(|part| Self::new(table, dimension_of, *part)).collect();
        match table.form(width) {
            Form::Free => match dimension_of.get(&table.root(width)) {
                Some(&dimension) => Self::Dimension(dimension),
                None => Self::Fixed(table.size(width)),
            },
            Form::Product(parts) => Self::Product(all(parts)),
            Form::Concat(parts) => Self::Sum(all(parts)),
        }
    }

    fn size(&self, size_of: &impl Fn(usize) -> usize) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Dimension(dimension) => size_of(*dimension),
            Self::Product(parts) => parts.iter().map(|part| part.size(size_of)).product(),
            Self::Sum(parts) => parts.iter().map(|part| part.size(size_of)).sum(),
        }
    }

    fn dimensions(&self, found: &mut BTreeSet<usize>) {
        match self {
            Self::Fixed(_) => {}
            Self::Dimension(dimension) => _ = found.insert(*dimension),
            Self::Product(parts) | Self::Sum(parts) => parts.iter().for_each(|part| part.dimensions(found)),
        }
    }
}

impl Term {
    fn value(&self, size_of: &impl Fn(usize) -> usize) -> u64 {
        let extents = self.extents.iter().map(|extent| extent.size(size_of) as u64);
        extents.fold(self.factor, u64::saturating_mul)
    }
}

impl Cost {
    /// FLOPs (two per multiply-accumulate of products and convolutions) of one sample, of `samples` that were observed.
    pub fn flops(widths: &Widths, dimensions: &[Dimension], samples: usize) -> Self {
        let terms = widths.macs.iter().map(|m| (2 * m.factor, m.widths.as_slice()));
        Self::new(widths, dimensions, terms, samples.max(1) as u64)
    }

    /// Weights in constants, each constant counted once.
    pub fn parameters(graph: &Graph, widths: &Widths, dimensions: &[Dimension]) -> Self {
        let mut seen = BTreeSet::new();
        let mut terms = Vec::new();
        for (at, axes) in widths.constants() {
            let Some(value) = graph.node(at.node).inputs[at.slot] else { continue };
            if ops::holds_weights(graph, at) && seen.insert(value) {
                terms.push((1, axes));
            }
        }
        Self::new(widths, dimensions, terms.into_iter(), 1)
    }

    fn new<'a>(
        widths: &Widths,
        dimensions: &[Dimension],
        terms: impl Iterator<Item = (u64, &'a [Width])>,
        divisor: u64,
    ) -> Self {
        let table = &widths.table;
        let dimension_of = dimensions.iter().enumerate().map(|(i, d)| (table.root(d.width), i)).collect();
        let extents = |widths: &[Width]| {
            widths.iter().map(|width| Extent::new(table, &dimension_of, *width)).collect::<Vec<_>>()
        };
        let terms: Vec<Term> =
            terms.map(|(factor, widths)| Term { factor, extents: extents(widths) }).collect();
        let mut terms_of = vec![Vec::new(); dimensions.len()];
        for (i, term) in terms.iter().enumerate() {
            let mut found = BTreeSet::new();
            term.extents.iter().for_each(|extent| extent.dimensions(&mut found));
            found.into_iter().for_each(|dimension| terms_of[dimension].push(i));
        }
        Self { terms, terms_of, divisor }
    }

    /// The cost when the dimensions have these sizes.
    pub fn total(&self, sizes: &[usize]) -> u64 {
        Running::new(self, sizes.to_vec()).total()
    }
}

/// A cost that is kept up to date while dimensions change one by one: only terms that mention a dimension are computed anew.
pub(super) struct Running<'a> {
    cost: &'a Cost,
    sizes: Vec<usize>,
    /// The value of each term.
    terms: Vec<u64>,
    /// Of all terms. Each is below 2⁶⁴, and there are fewer of them.
    sum: u128,
}

impl<'a> Running<'a> {
    /// The cost when the dimensions have these sizes.
    pub(super) fn new(cost: &'a Cost, sizes: Vec<usize>) -> Self {
        let terms: Vec<u64> = cost.terms.iter().map(|term| term.value(&|d| sizes[d])).collect();
        let sum = terms.iter().map(|term| u128::from(*term)).sum();
        Self { cost, sizes, terms, sum }
    }

    /// The sizes of the dimensions.
    pub(super) fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The cost at these sizes.
    pub(super) fn total(&self) -> u64 {
        u64::try_from(self.sum).unwrap_or(u64::MAX) / self.cost.divisor
    }

    /// What it saves, before division by the samples, when one dimension shrinks to `next`.
    pub(super) fn saving(&self, dimension: usize, next: usize) -> u64 {
        let size_of = |d: usize| if d == dimension { next } else { self.sizes[d] };
        let mentioned = self.cost.terms_of[dimension].iter();
        mentioned.map(|i| self.terms[*i].saturating_sub(self.cost.terms[*i].value(&size_of))).sum()
    }

    /// Gives a dimension another size, and returns the one that it had.
    pub(super) fn resize(&mut self, dimension: usize, size: usize) -> usize {
        let before = std::mem::replace(&mut self.sizes[dimension], size);
        for &i in &self.cost.terms_of[dimension] {
            let new = self.cost.terms[i].value(&|d| self.sizes[d]);
            let old = std::mem::replace(&mut self.terms[i], new);
            self.sum = self.sum - u128::from(old) + u128::from(new);
        }
        before
    }
}
