//! Costs as polynomials in the sizes of the prunable dimensions, and in what tables say of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::CostView;
use crate::widths::{Width, WidthForm, WidthTable};

/// A sum of terms, each a constant times the product of extents, over a divisor; and what stays whatever the sizes.
#[derive(Clone, Debug)]
pub struct Cost {
    terms: Vec<Term>,
    /// Terms that mention each dimension.
    terms_of: Vec<Vec<usize>>,
    divisor: u64,
    fixed: i64,
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
    /// The product of what tables say of some extents, where [`Curve::WHOLE`] stands for one.
    Curves(Vec<(Extent, Curve)>),
}

/// What an extent counts for, as a share of what the full one does: a table that never falls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve(Arc<[u32]>);

impl Curve {
    /// What a share of one is in a table.
    const WHOLE: u32 = 1 << 16;

    /// Of the shares of all extents from 0 to the full one. What falls is raised to what comes before it.
    pub fn new(shares: impl IntoIterator<Item = f64>) -> Self {
        let mut last = 0;
        let entries = shares.into_iter().map(|share| {
            last = last.max((share.clamp(0.0, 1.0) * f64::from(Self::WHOLE)).round() as u32);
            last
        });
        Self(entries.collect())
    }

    fn at(&self, extent: usize) -> u32 {
        self.0.get(extent).or(self.0.last()).copied().unwrap_or(Self::WHOLE)
    }
}

impl Extent {
    fn new(table: &WidthTable, dimension_of: &BTreeMap<Width, usize>, width: Width) -> Self {
        let all = |parts: &[Width]| parts.iter().map(|part| Self::new(table, dimension_of, *part)).collect();
        match table.form(width) {
            WidthForm::Free => match dimension_of.get(&table.root(width)) {
                Some(&dimension) => Self::Dimension(dimension),
                None => Self::Fixed(table.size(width)),
            },
            WidthForm::Product(parts) => Self::Product(all(parts)),
            WidthForm::Concat(parts) => Self::Sum(all(parts)),
        }
    }

    fn size(&self, size_of: &impl Fn(usize) -> usize) -> usize {
        match self {
            Self::Fixed(size) => *size,
            Self::Dimension(dimension) => size_of(*dimension),
            Self::Product(parts) => parts.iter().map(|part| part.size(size_of)).product(),
            Self::Sum(parts) => parts.iter().map(|part| part.size(size_of)).sum(),
            Self::Curves(parts) => {
                let shares = parts.iter().map(|(extent, curve)| u64::from(curve.at(extent.size(size_of))));
                let whole = u64::from(Curve::WHOLE);
                shares.fold(whole, |product, share| product * share / whole) as usize
            }
        }
    }

    fn dimensions(&self, found: &mut BTreeSet<usize>) {
        match self {
            Self::Fixed(_) => {}
            Self::Dimension(dimension) => _ = found.insert(*dimension),
            Self::Product(parts) | Self::Sum(parts) => parts.iter().for_each(|part| part.dimensions(found)),
            Self::Curves(parts) => parts.iter().for_each(|(extent, _)| extent.dimensions(found)),
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
    /// The sum of `terms`: constants, and the widths whose extents multiply them.
    pub fn sum<'a>(view: &CostView<'_>, terms: impl IntoIterator<Item = (u64, &'a [Width])>) -> Self {
        let table = &view.widths.table;
        let dimension_of =
            view.dimensions.iter().enumerate().map(|(i, d)| (table.root(d.width), i)).collect();
        let extents = |widths: &[Width]| {
            widths.iter().map(|width| Extent::new(table, &dimension_of, *width)).collect::<Vec<_>>()
        };
        let terms = terms.into_iter().map(|(factor, widths)| Term { factor, extents: extents(widths) });
        Self::of(terms.collect(), view.dimensions.len())
    }

    /// The sum of `terms` that were measured: a constant, and the widths by whose extents it goes, with a table each. It comes to
    /// `total` when all dimensions are whole.
    pub fn measured<'a>(
        view: &CostView<'_>,
        terms: impl IntoIterator<Item = (u64, &'a [(Width, Curve)])>,
        total: u64,
    ) -> Self {
        let table = &view.widths.table;
        let dimension_of =
            view.dimensions.iter().enumerate().map(|(i, d)| (table.root(d.width), i)).collect();
        let extent =
            |(width, curve): &(Width, Curve)| (Extent::new(table, &dimension_of, *width), curve.clone());
        let terms = terms.into_iter().map(|(factor, axes)| Term {
            factor,
            extents: vec![Extent::Curves(axes.iter().map(extent).collect())],
        });
        let sizes: Vec<usize> = view.dimensions.iter().map(|dimension| dimension.size).collect();
        let cost = Self::of(terms.collect(), sizes.len()).per(Curve::WHOLE as usize);
        cost.coming_to(total, &sizes)
    }

    /// Whether it may stay the same while a dimension shrinks, and fall later.
    pub(in crate::plan) fn is_stepped(&self) -> bool {
        let mut extents = self.terms.iter().flat_map(|term| &term.extents);
        extents.any(|extent| matches!(extent, Extent::Curves(_)))
    }

    fn of(terms: Vec<Term>, dimensions: usize) -> Self {
        let mut terms_of = vec![Vec::new(); dimensions];
        for (i, term) in terms.iter().enumerate() {
            let mut found = BTreeSet::new();
            term.extents.iter().for_each(|extent| extent.dimensions(&mut found));
            found.into_iter().for_each(|dimension| terms_of[dimension].push(i));
        }
        Self { terms, terms_of, divisor: 1, fixed: 0 }
    }

    /// A share of it: of so many samples, the cost of one.
    pub fn per(self, divisor: usize) -> Self {
        Self { divisor: divisor.max(1) as u64, ..self }
    }

    /// The same and a part that no dimension changes, such that it comes to `total` at these sizes.
    pub fn coming_to(self, total: u64, sizes: &[usize]) -> Self {
        let varying = Self { fixed: 0, ..self.clone() }.total(sizes);
        let fixed = i128::from(total) - i128::from(varying);
        Self { fixed: i64::try_from(fixed).unwrap_or(if fixed < 0 { i64::MIN } else { i64::MAX }), ..self }
    }

    /// The cost when the dimensions have these sizes.
    pub fn total(&self, sizes: &[usize]) -> u64 {
        Running::new(self, sizes.to_vec()).total()
    }
}

/// A cost that is kept up to date while dimensions change one by one: only terms that mention a dimension are computed anew.
pub(in crate::plan) struct Running<'a> {
    cost: &'a Cost,
    sizes: Vec<usize>,
    /// The value of each term.
    terms: Vec<u64>,
    /// Of all terms. Each is below 2⁶⁴, and there are fewer of them.
    sum: u128,
}

impl<'a> Running<'a> {
    /// The cost when the dimensions have these sizes.
    pub(in crate::plan) fn new(cost: &'a Cost, sizes: Vec<usize>) -> Self {
        let terms: Vec<u64> = cost.terms.iter().map(|term| term.value(&|d| sizes[d])).collect();
        let sum = terms.iter().map(|term| u128::from(*term)).sum();
        Self { cost, sizes, terms, sum }
    }

    /// The cost at these sizes.
    pub(in crate::plan) fn total(&self) -> u64 {
        let varying = u64::try_from(self.sum).unwrap_or(u64::MAX) / self.cost.divisor;
        varying.saturating_add_signed(self.cost.fixed)
    }

    /// What [`Running::saving`] has to be divided by.
    pub(in crate::plan) fn divisor(&self) -> u64 {
        self.cost.divisor
    }

    /// What it saves, before division by [`Running::divisor`], when one dimension shrinks to `next`.
    pub(in crate::plan) fn saving(&self, dimension: usize, next: usize) -> u64 {
        let size_of = |d: usize| if d == dimension { next } else { self.sizes[d] };
        let mentioned = self.cost.terms_of[dimension].iter();
        mentioned.map(|i| self.terms[*i].saturating_sub(self.cost.terms[*i].value(&size_of))).sum()
    }

    /// Gives a dimension another size.
    pub(in crate::plan) fn resize(&mut self, dimension: usize, size: usize) {
        self.sizes[dimension] = size;
        for &i in &self.cost.terms_of[dimension] {
            let new = self.cost.terms[i].value(&|d| self.sizes[d]);
            let old = std::mem::replace(&mut self.terms[i], new);
            self.sum = self.sum - u128::from(old) + u128::from(new);
        }
    }
}

#[cfg(test)]
pub(in crate::plan) mod tests {
    use super::*;

    /// A polynomial in `dimensions` sizes: constants, and the dimensions that multiply them.
    pub(in crate::plan) fn polynomial(dimensions: usize, terms: &[(u64, Vec<usize>)]) -> Cost {
        let term = |(factor, of): &(u64, Vec<usize>)| Term {
            factor: *factor,
            extents: of.iter().map(|dimension| Extent::Dimension(*dimension)).collect(),
        };
        Cost::of(terms.iter().map(term).collect(), dimensions)
    }

    /// The same of terms whose dimensions have tables.
    pub(in crate::plan) fn stepped(dimensions: usize, terms: &[(u64, Vec<(usize, Curve)>)]) -> Cost {
        let extent = |(of, curve): &(usize, Curve)| (Extent::Dimension(*of), curve.clone());
        let term = |(factor, of): &(u64, Vec<(usize, Curve)>)| Term {
            factor: *factor,
            extents: vec![Extent::Curves(of.iter().map(extent).collect())],
        };
        Cost::of(terms.iter().map(term).collect(), dimensions).per(Curve::WHOLE as usize)
    }

    #[test]
    fn tables_are_looked_up_and_multiplied() {
        let halves = Curve::new([0.0, 0.5, 0.5, 1.0]);
        let quarters = Curve::new([0.25, 0.25, 1.0]);
        let cost = stepped(2, &[(1000, vec![(0, halves.clone()), (1, quarters)]), (100, vec![(0, halves)])]);
        assert_eq!([cost.total(&[3, 2]), cost.total(&[2, 2]), cost.total(&[1, 1])], [1100, 550, 175]);
        // Shares that fall are raised.
        assert_eq!(Curve::new([0.5, 0.25]), Curve::new([0.5, 0.5]));
        assert!(cost.is_stepped() && !polynomial(1, &[(1, vec![0])]).is_stepped());
    }

    #[test]
    fn what_no_dimension_changes_is_added_after_the_division() {
        let cost = polynomial(2, &[(3, vec![0, 1]), (2, vec![1])]).per(2);
        assert_eq!([cost.total(&[4, 5]), cost.total(&[1, 5])], [35, 12]);
        let cost = cost.coming_to(100, &[4, 5]);
        assert_eq!([cost.total(&[4, 5]), cost.total(&[1, 5])], [100, 77]);
        // Weights can take less than the file says, as where zeros are left out: a cost is never below nothing.
        let cost = cost.coming_to(10, &[4, 5]);
        assert_eq!([cost.total(&[4, 5]), cost.total(&[1, 5])], [10, 0]);
    }
}
