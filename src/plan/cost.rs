//! FLOPs and parameters as polynomials in the sizes of the prunable dimensions.

use std::collections::BTreeMap;

use crate::{
    graph::Graph,
    ops,
    typing::Dimension,
    widths::{Width, WidthTable, Widths},
};

/// A sum of terms, each a constant times the product of widths.
#[derive(Clone, Debug)]
pub struct Cost {
    table: WidthTable,
    terms: Vec<Term>,
    /// The dimension that each free width is.
    dimension_of: BTreeMap<Width, usize>,
    /// Terms that mention each dimension.
    terms_of: Vec<Vec<usize>>,
    divisor: u64,
}

#[derive(Clone, Debug)]
struct Term {
    factor: u64,
    widths: Vec<Width>,
}

impl Cost {
    /// FLOPs (two per multiply-accumulate of products and convolutions) of one sample, of `samples` that were observed.
    pub fn flops(widths: &Widths, dimensions: &[Dimension], samples: usize) -> Self {
        let terms = widths.macs.iter().map(|m| Term { factor: 2 * m.factor, widths: m.widths.clone() });
        Self::new(widths, dimensions, terms.collect(), samples.max(1) as u64)
    }

    /// Weights in constants, each constant counted once.
    pub fn parameters(graph: &Graph, widths: &Widths, dimensions: &[Dimension]) -> Self {
        let mut seen = std::collections::BTreeSet::new();
        let mut terms = Vec::new();
        for (at, axes) in widths.constants() {
            let Some(value) = graph.node(at.node).inputs[at.slot] else { continue };
            if ops::holds_weights(graph, at) && seen.insert(value) {
                terms.push(Term { factor: 1, widths: axes.to_vec() });
            }
        }
        Self::new(widths, dimensions, terms, 1)
    }

    fn new(widths: &Widths, dimensions: &[Dimension], terms: Vec<Term>, divisor: u64) -> Self {
        let table = widths.table.clone();
        let dimension_of = dimensions.iter().enumerate().map(|(i, d)| (table.root(d.width), i)).collect();
        let mut cost =
            Self { table, terms, dimension_of, terms_of: vec![Vec::new(); dimensions.len()], divisor };
        for (i, term) in cost.terms.iter().enumerate() {
            let atoms: std::collections::BTreeSet<Width> =
                term.widths.iter().flat_map(|w| cost.table.atoms(*w)).collect();
            for atom in atoms {
                if let Some(&dimension) = cost.dimension_of.get(&atom) {
                    cost.terms_of[dimension].push(i);
                }
            }
        }
        cost
    }

    fn term(&self, term: &Term, sizes: &[usize]) -> u64 {
        let size = |width: Width| match self.dimension_of.get(&width) {
            Some(&dimension) => sizes[dimension],
            None => self.table.size(width),
        };
        term.widths
            .iter()
            .fold(term.factor, |product, w| product.saturating_mul(self.table.size_with(*w, &size) as u64))
    }

    /// The cost when the dimensions have these sizes.
    pub fn total(&self, sizes: &[usize]) -> u64 {
        self.terms.iter().map(|t| self.term(t, sizes)).fold(0u64, u64::saturating_add) / self.divisor
    }

    /// What it saves, before division by the samples, when one dimension shrinks to `next`.
    pub fn saving(&self, sizes: &[usize], dimension: usize, next: usize) -> u64 {
        let mut smaller = sizes.to_vec();
        smaller[dimension] = next;
        let terms = self.terms_of[dimension].iter().map(|i| &self.terms[*i]);
        terms.map(|t| self.term(t, sizes) - self.term(t, &smaller)).sum()
    }
}
