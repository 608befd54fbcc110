//! Which entries of the free widths stay, and what follows for all others.

use std::collections::BTreeMap;

use super::{Width, WidthForm, WidthTable};

/// The entries that stay of each free width that shrinks; widths that are not listed keep everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    kept: BTreeMap<Width, Vec<usize>>,
}

impl Kept {
    /// Keeps only `entries` (ascending) of `width`.
    pub fn keep(&mut self, table: &WidthTable, width: Width, entries: Vec<usize>) {
        let root = table.root(width);
        if entries.len() < table.size(root) {
            self.kept.insert(root, entries);
        }
    }

    /// The entries of any width that stay, ascending; `None` when all do.
    pub fn entries(&self, table: &WidthTable, width: Width) -> Option<Vec<usize>> {
        let root = table.root(width);
        let whole = |w: Width| (0..table.size(w)).collect::<Vec<_>>();
        let parts = |parts: &[Width]| -> Option<Vec<Vec<usize>>> {
            let entries: Vec<_> = parts.iter().map(|p| self.entries(table, *p)).collect();
            if entries.iter().all(Option::is_none) {
                return None;
            }
            Some(entries.into_iter().zip(parts).map(|(e, p)| e.unwrap_or_else(|| whole(*p))).collect())
        };
        match table.form(root) {
            WidthForm::Free => self.kept.get(&root).cloned(),
            WidthForm::Product(factors) => {
                let entries = parts(factors)?;
                let start = vec![0usize];
                Some(entries.iter().zip(factors).fold(start, |outer, (inner, factor)| {
                    let size = table.size(*factor);
                    outer.iter().flat_map(|o| inner.iter().map(move |i| o * size + i)).collect()
                }))
            }
            WidthForm::Concat(segments) => {
                let mut offset = 0;
                let mut all = Vec::new();
                for (entries, segment) in parts(segments)?.iter().zip(segments) {
                    all.extend(entries.iter().map(|e| offset + e));
                    offset += table.size(*segment);
                }
                Some(all)
            }
        }
    }

    /// Whether some entries of a width go.
    pub fn shrinks(&self, table: &WidthTable, width: Width) -> bool {
        match table.form(width) {
            WidthForm::Free => self.kept.contains_key(&table.root(width)),
            WidthForm::Product(parts) | WidthForm::Concat(parts) => {
                parts.iter().any(|part| self.shrinks(table, *part))
            }
        }
    }

    /// Extent of a width after pruning.
    pub fn size(&self, table: &WidthTable, width: Width) -> usize {
        table.size_with(width, &|root| self.kept.get(&root).map_or(table.size(root), Vec::len))
    }

    /// The same, for the free widths that `whole` is made of alone.
    pub fn within(&self, table: &WidthTable, whole: Width) -> Self {
        let kept =
            table.atoms(whole).into_iter().filter_map(|atom| Some((atom, self.kept.get(&atom)?.clone())));
        Self { kept: kept.collect() }
    }

    /// Whether nothing is removed.
    pub fn is_everything(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_products_and_concatenations() {
        let mut t = WidthTable::default();
        let (three, heads, dim) = (t.fresh(3), t.fresh(2), t.fresh(2));
        let fused = t.product(&[three, heads, dim]);
        let tail = t.fresh(1);
        let all = t.concat(&[fused, tail]);
        let mut kept = Kept::default();
        kept.keep(&t, heads, vec![1]);
        assert_eq!(kept.entries(&t, all).unwrap(), [2, 3, 6, 7, 10, 11, 12]);
        assert_eq!(kept.size(&t, all), 7);
        assert_eq!(kept.entries(&t, dim), None);
    }
}
