//! Einsum with an explicit result.

use std::collections::BTreeMap;

use super::{NodeTyper, Operator};
use crate::widths::{Reason, Width};

/// Axes with one letter are one width; letters that the result lacks are summed over.
pub(super) struct Einsum;

impl Operator for Einsum {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), Reason> {
        let equation = node.string("equation").unwrap_or_default().replace(' ', "");
        let Some((left, right)) = equation.split_once("->").filter(|(l, _)| !l.contains('.')) else {
            return Err(node.form("an equation with an ellipsis or without a result"));
        };
        let terms: Vec<Vec<char>> = left.split(',').map(|t| t.chars().collect()).collect();
        let operands = (0..terms.len()).map(|slot| node.axes(slot)).collect::<Result<Vec<_>, _>>()?;
        if terms.iter().zip(&operands).any(|(t, o)| t.len() != o.len()) || terms.len() > 2 {
            return Err(node.form("an equation that does not fit one or two operands"));
        }
        let mut letters: BTreeMap<char, Width> = BTreeMap::new();
        for (term, axes) in terms.iter().zip(&operands) {
            if (1..term.len()).any(|i| term[..i].contains(&term[i])) {
                return Err(node.form("a repeated letter in one operand"));
            }
            for (&letter, &axis) in term.iter().zip(axes) {
                match letters.get(&letter) {
                    Some(&known) if known != Width::ONE && axis != Width::ONE => node.unify(known, axis),
                    Some(&known) if known != Width::ONE => {}
                    _ => {
                        letters.insert(letter, axis);
                    }
                }
            }
        }
        let result = right.chars().map(|c| letters.get(&c).copied()).collect::<Option<Vec<_>>>();
        let Some(result) = result else { return Err(node.form("a result letter that no operand has")) };
        relate(node, &terms, right, &letters);
        node.macs(1, &letters.values().copied().collect::<Vec<_>>());
        node.set(0, result);
        Ok(())
    }
}

/// Says which letters are summed, and what kind of axes the others are.
fn relate(node: &mut NodeTyper<'_>, terms: &[Vec<char>], right: &str, letters: &BTreeMap<char, Width>) {
    let paired = terms.len() == 2 && node.is_dynamic(0) && node.is_dynamic(1);
    for (&letter, &width) in letters {
        let places: Vec<_> = terms
            .iter()
            .enumerate()
            .filter_map(|(slot, term)| Some((slot, term.iter().position(|l| *l == letter)?)))
            .collect();
        let in_result = right.contains(letter);
        match (places.as_slice(), in_result) {
            ([first], false) => node.contract(width, *first, None, None),
            ([first, second], false) => node.contract(width, *first, Some(*second), feature(terms, right)),
            ([_, _], true) if paired => node.batched(width),
            ([(1, _)], true) if paired => node.paired(width),
            _ => {}
        }
    }
}

/// The last letter of the result that only the second operand has.
fn feature(terms: &[Vec<char>], right: &str) -> Option<usize> {
    let only = |c: char| !terms[0].contains(&c) && terms[1].contains(&c);
    right.chars().enumerate().filter(|(_, c)| only(*c)).map(|(i, _)| i).last()
}
