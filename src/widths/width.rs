//! Width variables and their unification.
//!
//! A width is the extent of a tensor axis, as a type: two axes that must shrink together have the same width. A width may
//! turn out to be a product of others (`3·H·E`, what Reshape makes) or a concatenation (`A + B`, what Concat and Split
//! make). Unification finds the coarsest widths that satisfy all operators; where two structures of one axis cannot be
//! refined into a common one, the widths involved are pinned: they keep their extent.

use std::collections::BTreeSet;

use super::Pin;

/// A width variable. Extents of one share [`Width::ONE`], which nothing can shrink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Width(pub(super) u32);

impl Width {
    /// The width of axes of extent one.
    pub const ONE: Width = Width(0);
}

/// What a width is known to be made of.
#[derive(Clone, Debug, PartialEq)]
pub enum WidthForm {
    /// Not a product or concatenation: a unit of its own, which may shrink.
    Free,
    /// Row-major product: the outermost factor first.
    Product(Vec<Width>),
    /// Concatenation: the first segment first.
    Concat(Vec<Width>),
}

/// A variable, in a disjoint-set forest: a class of unified variables is a tree of parents, the smaller hung below the larger
/// (Tarjan and van Leeuwen, 1984). What is known of the class stands at the top of its tree.
#[derive(Clone, Debug)]
struct Variable {
    /// Extent.
    size: usize,
    /// The next variable towards the top of the tree; the top is its own parent.
    parent: usize,
    /// At the top: how many variables the tree has.
    count: usize,
    /// At the top: the variable that stands for the class. Not the shape of the tree decides which, but who was unified with
    /// whom.
    representative: Width,
    /// At the top: what the class is made of.
    form: WidthForm,
    /// At the top: the first and the last link of the list of pins.
    pins: Option<(usize, usize)>,
}

/// A link of a list of pins. Lists are joined end to end without being read, so a pin may be there twice.
#[derive(Clone, Debug)]
struct Link {
    pin: Pin,
    next: Option<usize>,
}

/// All width variables of a model.
#[derive(Clone, Debug)]
pub struct WidthTable {
    variables: Vec<Variable>,
    links: Vec<Link>,
}

impl Default for WidthTable {
    fn default() -> Self {
        let mut table = Self { variables: Vec::new(), links: Vec::new() };
        table.add(1, WidthForm::Free);
        table
    }
}

/// Two structures of one axis that have no common refinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Irreconcilable;

impl WidthTable {
    /// A new width of this extent.
    pub fn fresh(&mut self, size: usize) -> Width {
        if size == 1 {
            return Width::ONE;
        }
        self.add(size, WidthForm::Free)
    }

    fn add(&mut self, size: usize, form: WidthForm) -> Width {
        let index = self.variables.len();
        let representative = Width(index as u32);
        self.variables.push(Variable { size, parent: index, count: 1, representative, form, pins: None });
        representative
    }

    /// A new width made of others, outermost factor first.
    pub fn product(&mut self, factors: &[Width]) -> Width {
        let factors = self.factors(factors);
        match factors.as_slice() {
            [] => Width::ONE,
            [one] => *one,
            _ => {
                let size = factors.iter().map(|f| self.size(*f)).product();
                self.with_form(size, WidthForm::Product(factors))
            }
        }
    }

    /// A new width that concatenates others, first segment first. Empty segments are left out.
    pub fn concat(&mut self, segments: &[Width]) -> Width {
        let segments: Vec<_> = segments.iter().copied().filter(|s| self.size(*s) > 0).collect();
        match segments.as_slice() {
            [] => self.fresh(0),
            [one] => *one,
            _ => {
                let size = segments.iter().map(|s| self.size(*s)).sum();
                self.with_form(size, WidthForm::Concat(segments))
            }
        }
    }

    fn with_form(&mut self, size: usize, form: WidthForm) -> Width {
        if size == 1 { Width::ONE } else { self.add(size, form) }
    }

    /// The top of the tree that `width` is in.
    fn top(&self, width: Width) -> usize {
        let mut index = width.0 as usize;
        while self.variables[index].parent != index {
            index = self.variables[index].parent;
        }
        index
    }

    /// As [`Self::top`], hanging what is passed on the way right below it.
    fn top_compressing(&mut self, width: Width) -> usize {
        let top = self.top(width);
        let mut index = width.0 as usize;
        while index != top {
            index = std::mem::replace(&mut self.variables[index].parent, top);
        }
        top
    }

    /// Hangs every variable right below the top of its tree.
    pub(crate) fn compress(&mut self) {
        for index in 0..self.variables.len() {
            self.top_compressing(Width(index as u32));
        }
    }

    fn class(&self, width: Width) -> &Variable {
        &self.variables[self.top(width)]
    }

    /// The representative of everything unified with `width`.
    pub fn root(&self, width: Width) -> Width {
        self.class(width).representative
    }

    /// Every representative.
    pub fn roots(&self) -> impl Iterator<Item = Width> {
        (1..self.variables.len() as u32).map(Width).filter(|w| self.root(*w) == *w)
    }

    /// Extent before pruning.
    pub fn size(&self, width: Width) -> usize {
        self.variables[width.0 as usize].size
    }

    /// Extent when the free widths it is made of have the extents that `free` gives.
    pub fn size_with(&self, width: Width, free: &impl Fn(Width) -> usize) -> usize {
        match self.form(width) {
            WidthForm::Free => free(self.root(width)),
            WidthForm::Product(parts) => parts.iter().map(|p| self.size_with(*p, free)).product(),
            WidthForm::Concat(parts) => parts.iter().map(|p| self.size_with(*p, free)).sum(),
        }
    }

    /// What the width is made of.
    pub fn form(&self, width: Width) -> &WidthForm {
        &self.class(width).form
    }

    /// Why the width itself may not shrink, in the order of pinning; empty when it may. A reason that was given
    /// more than once may be there more than once.
    pub fn pins(&self, width: Width) -> impl Iterator<Item = &Pin> {
        let first = self.class(width).pins.map(|(first, _)| first);
        std::iter::successors(first, |link| self.links[*link].next).map(|link| &self.links[link].pin)
    }

    /// Whether something forbids the width itself to shrink.
    pub fn is_pinned(&self, width: Width) -> bool {
        self.class(width).pins.is_some()
    }

    /// Forbids the width to shrink.
    pub fn pin(&mut self, width: Width, pin: Pin) {
        let top = self.top_compressing(width);
        if self.variables[top].representative != Width::ONE {
            let link = self.links.len();
            self.links.push(Link { pin, next: None });
            let pins = self.variables[top].pins;
            self.variables[top].pins = self.joined(pins, Some((link, link)));
        }
    }

    /// Two lists of pins, end to end.
    fn joined(
        &mut self,
        first: Option<(usize, usize)>,
        second: Option<(usize, usize)>,
    ) -> Option<(usize, usize)> {
        if let (Some((start, end)), Some((next, last))) = (first, second) {
            self.links[end].next = Some(next);
            return Some((start, last));
        }
        first.or(second)
    }

    /// All free widths that `width` is made of, each once.
    pub fn atoms(&self, width: Width) -> Vec<Width> {
        let mut atoms = Vec::new();
        self.collect_atoms(width, &mut BTreeSet::from([Width::ONE]), &mut atoms);
        atoms
    }

    fn collect_atoms(&self, width: Width, seen: &mut BTreeSet<Width>, atoms: &mut Vec<Width>) {
        let class = self.class(width);
        match &class.form {
            WidthForm::Free => {
                if seen.insert(class.representative) {
                    atoms.push(class.representative);
                }
            }
            WidthForm::Product(parts) | WidthForm::Concat(parts) => {
                parts.iter().for_each(|part| self.collect_atoms(*part, seen, atoms));
            }
        }
    }

    /// For each entry of `whole`, the entry of the free width `atom` that it belongs to; `None` where it has no part in it.
    pub fn units(&self, whole: Width, atom: Width) -> Vec<Option<usize>> {
        match self.form(whole) {
            WidthForm::Free if self.root(whole) == self.root(atom) => {
                (0..self.size(whole)).map(Some).collect()
            }
            WidthForm::Free => vec![None; self.size(whole)],
            WidthForm::Concat(segments) => segments.iter().flat_map(|s| self.units(*s, atom)).collect(),
            WidthForm::Product(factors) => factors.iter().fold(vec![None], |outer, factor| {
                let inner = self.units(*factor, atom);
                outer.iter().flat_map(|o| inner.iter().map(move |i| i.or(*o))).collect()
            }),
        }
    }

    /// Whether `part` is `whole` or its outermost factor.
    pub fn leads(&self, whole: Width, part: Width) -> bool {
        self.root(whole) == self.root(part)
            || match self.form(whole) {
                WidthForm::Product(factors) => factors.first().is_some_and(|f| self.leads(*f, part)),
                WidthForm::Free | WidthForm::Concat(_) => false,
            }
    }

    /// Whether `part` is `whole` or something that `whole` is made of.
    pub fn contains(&self, whole: Width, part: Width) -> bool {
        self.root(whole) == self.root(part)
            || match self.form(whole) {
                WidthForm::Free => false,
                WidthForm::Product(parts) | WidthForm::Concat(parts) => {
                    parts.iter().any(|p| self.contains(*p, part))
                }
            }
    }

    /// Makes two widths one. Where that is impossible both are pinned by what `pin` makes of their descriptions.
    pub fn unify(&mut self, a: Width, b: Width, pin: impl FnOnce(String, String) -> Pin) {
        if self.try_unify(a, b).is_err() {
            let pin = pin(self.describe(a), self.describe(b));
            self.pin(a, pin.clone());
            self.pin(b, pin);
        }
    }

    fn try_unify(&mut self, a: Width, b: Width) -> Result<(), Irreconcilable> {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return Ok(());
        }
        if self.size(a) != self.size(b) || self.size(a) == 0 {
            return Err(Irreconcilable);
        }
        match (self.form(a).clone(), self.form(b).clone()) {
            (WidthForm::Free, _) => self.bind(a, b),
            (_, WidthForm::Free) => self.bind(b, a),
            (WidthForm::Product(x), WidthForm::Product(y)) => {
                self.unify_products(&x, &y)?;
                self.bind(a, b)
            }
            (WidthForm::Concat(x), WidthForm::Concat(y)) => {
                self.unify_concats(&x, &y)?;
                self.bind(a, b)
            }
            (WidthForm::Product(x), WidthForm::Concat(y)) => {
                self.unify_mixed(&x, &y)?;
                self.bind(b, a)
            }
            (WidthForm::Concat(x), WidthForm::Product(y)) => {
                self.unify_mixed(&y, &x)?;
                self.bind(a, b)
            }
        }
    }

    /// Makes `b` the representative of `a`. The two may have become related while their parts were unified.
    fn bind(&mut self, a: Width, b: Width) -> Result<(), Irreconcilable> {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return Ok(());
        }
        if self.contains(b, a) || self.contains(a, b) {
            return Err(Irreconcilable);
        }
        let (above, below) = (self.top_compressing(b), self.top_compressing(a));
        let pins = (self.variables[above].pins, self.variables[below].pins);
        let pins = self.joined(pins.0, pins.1);
        let form = std::mem::replace(&mut self.variables[above].form, WidthForm::Free);
        let count = self.variables[above].count + self.variables[below].count;
        let (top, other) = if self.variables[above].count < self.variables[below].count {
            (below, above)
        } else {
            (above, below)
        };
        self.variables[other].parent = top;
        let class = &mut self.variables[top];
        (class.count, class.representative, class.form, class.pins) = (count, b, form, pins);
        Ok(())
    }

    /// `Π x = Π y`: walks both from the outside in and splits the larger factor where they disagree.
    fn unify_products(&mut self, x: &[Width], y: &[Width]) -> Result<(), Irreconcilable> {
        let (mut x, mut y) = (self.factors(x), self.factors(y));
        x.reverse();
        y.reverse();
        while let (Some(a), Some(b)) = (x.pop(), y.pop()) {
            let (m, n) = (self.size(a), self.size(b));
            if m == n {
                self.try_unify(a, b)?;
            } else if m % n == 0 {
                let rest = self.fresh(m / n);
                let whole = self.product(&[b, rest]);
                self.try_unify(a, whole)?;
                x.push(rest);
            } else if n % m == 0 {
                let rest = self.fresh(n / m);
                let whole = self.product(&[a, rest]);
                self.try_unify(b, whole)?;
                y.push(rest);
            } else {
                return Err(Irreconcilable);
            }
        }
        Ok(())
    }

    /// `Σ x = Σ y`: walks both from the start and splits the longer segment where they disagree.
    fn unify_concats(&mut self, x: &[Width], y: &[Width]) -> Result<(), Irreconcilable> {
        let (mut x, mut y) = (self.segments(x), self.segments(y));
        x.reverse();
        y.reverse();
        while let (Some(a), Some(b)) = (x.pop(), y.pop()) {
            let (m, n) = (self.size(a), self.size(b));
            if m == n {
                self.try_unify(a, b)?;
            } else if m > n {
                let rest = self.fresh(m - n);
                let whole = self.concat(&[b, rest]);
                self.try_unify(a, whole)?;
                x.push(rest);
            } else {
                let rest = self.fresh(n - m);
                let whole = self.concat(&[a, rest]);
                self.try_unify(b, whole)?;
                y.push(rest);
            }
        }
        Ok(())
    }

    /// `Π product = Σ segments`, where each segment is a whole number of the product's outermost steps: the outermost
    /// factor is then itself a concatenation (of ones where a fused QKV projection is split in three).
    fn unify_mixed(&mut self, product: &[Width], segments: &[Width]) -> Result<(), Irreconcilable> {
        let factors = self.factors(product);
        let Some((outer, inner)) = factors.split_first() else { return Err(Irreconcilable) };
        let step: usize = inner.iter().map(|w| self.size(*w)).product();
        let mut counts = Vec::with_capacity(segments.len());
        for segment in self.segments(segments) {
            if !self.size(segment).is_multiple_of(step) {
                return Err(Irreconcilable);
            }
            let count = self.fresh(self.size(segment) / step);
            let parts: Vec<_> = std::iter::once(count).chain(inner.iter().copied()).collect();
            let whole = self.product(&parts);
            self.try_unify(segment, whole)?;
            counts.push(count);
        }
        let counts = self.concat(&counts);
        self.try_unify(*outer, counts)
    }

    /// Factors with nested products opened and ones left out.
    fn factors(&self, parts: &[Width]) -> Vec<Width> {
        let mut out = Vec::new();
        for &part in parts {
            match self.form(part) {
                WidthForm::Product(inner) => out.extend(self.factors(inner)),
                _ if self.root(part) == Width::ONE => {}
                _ => out.push(self.root(part)),
            }
        }
        out
    }

    /// Segments with nested concatenations opened.
    fn segments(&self, parts: &[Width]) -> Vec<Width> {
        let mut out = Vec::new();
        for &part in parts {
            match self.form(part) {
                WidthForm::Concat(inner) => out.extend(self.segments(inner)),
                _ => out.push(self.root(part)),
            }
        }
        out
    }

    /// The width in extents, such as `3·6·64` or `256+128`.
    pub fn describe(&self, width: Width) -> String {
        let joined = |parts: &[Width], sep: &str| {
            parts.iter().map(|p| self.describe_part(*p)).collect::<Vec<_>>().join(sep)
        };
        match self.form(width) {
            WidthForm::Free => self.size(width).to_string(),
            WidthForm::Product(parts) => joined(parts, "·"),
            WidthForm::Concat(parts) => joined(parts, "+"),
        }
    }

    fn describe_part(&self, width: Width) -> String {
        match self.form(width) {
            WidthForm::Concat(_) => format!("({})", self.describe(width)),
            _ => self.describe(width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clash(_: String, _: String) -> Pin {
        Pin::new("test", crate::widths::PinReason::Output)
    }

    fn sizes(table: &WidthTable, width: Width) -> Vec<usize> {
        table.atoms(width).iter().map(|a| table.size(*a)).collect()
    }

    #[test]
    fn a_product_refines_a_coarser_one() {
        let mut t = WidthTable::default();
        let (three, heads, dim) = (t.fresh(3), t.fresh(6), t.fresh(64));
        let fine = t.product(&[three, heads, dim]);
        let (a, b) = (t.fresh(18), t.fresh(64));
        let coarse = t.product(&[a, b]);
        t.unify(fine, coarse, clash);
        assert!(!t.is_pinned(fine));
        assert_eq!(t.describe(a), "3·6");
        assert_eq!(t.root(b), t.root(dim));
    }

    #[test]
    fn products_without_a_common_refinement_are_pinned() {
        let mut t = WidthTable::default();
        let (a, b, c, d) = (t.fresh(2), t.fresh(9), t.fresh(3), t.fresh(6));
        let (x, y) = (t.product(&[a, b]), t.product(&[c, d]));
        t.unify(x, y, clash);
        assert!(t.is_pinned(x) && t.is_pinned(y));
    }

    #[test]
    fn splitting_a_product_in_three_ties_the_parts() {
        let mut t = WidthTable::default();
        let (three, rest) = (t.fresh(3), t.fresh(64));
        let fused = t.product(&[three, rest]);
        let parts = [t.fresh(64), t.fresh(64), t.fresh(64)];
        let split = t.concat(&parts);
        t.unify(fused, split, clash);
        assert!(!t.is_pinned(fused));
        assert!(parts.iter().all(|p| t.root(*p) == t.root(rest)));
    }

    #[test]
    fn concatenations_split_at_all_boundaries() {
        let mut t = WidthTable::default();
        let (a, b, c) = (t.fresh(100), t.fresh(200), t.fresh(150));
        let d = t.fresh(150);
        let (x, y) = (t.concat(&[a, b]), t.concat(&[c, d]));
        t.unify(x, y, clash);
        assert_eq!(sizes(&t, x), [100, 50, 150]);
    }

    #[test]
    fn pins_of_unified_widths_are_those_of_the_representative_then_those_of_the_other() {
        let mut t = WidthTable::default();
        let widths: Vec<Width> = (0..4).map(|_| t.fresh(5)).collect();
        let pin = |n: usize| Pin::new(n.to_string(), crate::widths::PinReason::Output);
        widths.iter().enumerate().for_each(|(n, width)| t.pin(*width, pin(n)));
        t.unify(widths[0], widths[1], clash);
        // Two trees of two: whichever is hung below the other, the second width stands for all.
        t.unify(widths[2], widths[3], clash);
        t.unify(widths[2], widths[0], clash);
        t.pin(widths[3], pin(4));
        let order: Vec<&str> = t.pins(widths[2]).map(|pin| pin.at.as_str()).collect();
        assert_eq!(order, ["1", "0", "3", "2", "4"]);
        assert!(widths.iter().all(|w| t.root(*w) == widths[1] && t.is_pinned(*w)));
        assert_eq!(t.roots().collect::<Vec<_>>(), [widths[1]]);
    }

    #[test]
    fn long_chains_of_unifications_are_found_in_few_steps() {
        let mut t = WidthTable::default();
        let widths: Vec<Width> = (0..100_000).map(|_| t.fresh(7)).collect();
        // The representative is always the new one, which would make a path as long as the chain.
        widths.windows(2).for_each(|pair| t.unify(pair[0], pair[1], clash));
        let steps = |mut index: usize| {
            std::iter::from_fn(|| {
                let parent = t.variables[index].parent;
                (parent != index).then(|| index = parent)
            })
            .count()
        };
        assert!(widths.iter().all(|w| steps(w.0 as usize) <= 17));
        assert!(widths.iter().all(|w| t.root(*w) == widths[99_999]));
    }

    #[test]
    fn a_width_never_contains_itself() {
        let mut t = WidthTable::default();
        let (a, b) = (t.fresh(4), t.fresh(4));
        let ab = t.product(&[a, b]);
        let c = t.fresh(16);
        t.unify(ab, c, clash);
        let (d, e) = (t.fresh(2), t.fresh(2));
        let de = t.product(&[d, e]);
        t.unify(a, de, clash);
        t.unify(d, e, clash);
        assert_eq!(sizes(&t, c).iter().product::<usize>(), 8);
    }
}
