//! Einsum with an explicit result.

use super::schema::{OpSchema, number, onnx};
use std::collections::BTreeMap;

use super::{NoGradient, NodeGradient, NodeTyper, Operator};
use crate::{
    graph::{Attr, Expr},
    widths::{PinReason, SlotAxis, Width},
};

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Einsum", &[12, 28], &Einsum).reads(&[number("Inputs").many()]).makes(&[number("Output")]),
];

/// Axes with one letter are one width; letters that the result lacks are summed over.
pub(super) struct Einsum;

impl Operator for Einsum {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let equation = node.string("equation").unwrap_or_default();
        let (terms, right) = parse(equation)
            .ok_or_else(|| node.unsupported("an equation that is implicit or has an ellipsis"))?;
        let operands = (0..terms.len()).map(|slot| node.axes(slot)).collect::<Result<Vec<_>, _>>()?;
        if terms.iter().zip(&operands).any(|(t, o)| t.len() != o.len()) || terms.len() > 2 {
            return Err(node.unsupported("an equation that does not fit one or two operands"));
        }
        let mut letters: BTreeMap<char, Width> = BTreeMap::new();
        for (term, axes) in terms.iter().zip(&operands) {
            if repeats(term) {
                return Err(node.unsupported("a repeated letter in one operand"));
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
        let result = right.iter().map(|c| letters.get(c).copied()).collect::<Option<Vec<_>>>();
        let Some(result) = result else {
            return Err(node.unsupported("a result letter that no operand has"));
        };
        relate(node, &terms, &right, &letters);
        node.macs(1, &letters.values().copied().collect::<Vec<_>>());
        node.set(0, result);
        Ok(())
    }

    /// Each operand's cotangent is an Einsum of that of the result and the other operands.
    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let equation = node.string("equation").unwrap_or_default();
        let (terms, right) = parse(equation)
            .ok_or_else(|| node.unsupported("an equation that is implicit or has an ellipsis"))?;
        let fits = |slot: usize| {
            !repeats(&terms[slot]) && node.shape(slot).is_ok_and(|s| s.len() == terms[slot].len())
        };
        if terms.len() != node.input_count() || !(0..terms.len()).all(fits) {
            return Err(node.unsupported("a repeated letter in one operand"));
        }
        for slot in (0..terms.len()).filter(|slot| node.needs(*slot)) {
            let others: Vec<usize> = (0..terms.len()).filter(|other| *other != slot).collect();
            let sources: Vec<&[char]> =
                std::iter::once(&right[..]).chain(others.iter().map(|i| &terms[*i][..])).collect();
            // Letters that this operand alone has were summed: each of their entries counts alike.
            let alone = |c: &char| !sources.iter().any(|source| source.contains(c));
            let shared: Vec<char> = terms[slot].iter().copied().filter(|c| !alone(c)).collect();
            let equation: Vec<String> = sources.iter().map(|source| source.iter().collect()).collect();
            let equation = format!("{}->{}", equation.join(","), shared.iter().collect::<String>());
            let values = others.iter().map(|i| node.x(*i)).collect::<Result<Vec<Expr<'_>>, _>>()?;
            let product = node.g()?.apply("Einsum", &values, &[Attr::Str("equation", &equation)]);
            let own = node.shape(slot)?;
            let extents = extents(node, &terms, &shared)?;
            let place = |c: char| terms[slot].iter().position(|l| *l == c).unwrap_or(0);
            let stretched: Vec<usize> =
                (0..shared.len()).filter(|i| extents[*i] != own[place(shared[*i])]).collect();
            let added: Vec<usize> = (0..own.len()).filter(|i| alone(&terms[slot][*i])).collect();
            let cotangent = product.sum(&stretched, true).unsqueeze(&added);
            let whole = if added.is_empty() { cotangent } else { cotangent.expand_like(node.x(slot)?) };
            node.set_cotangent(slot, whole);
        }
        Ok(())
    }
}

/// The letters of each operand and of the result.
fn parse(equation: &str) -> Option<(Vec<Vec<char>>, Vec<char>)> {
    let equation = equation.replace(' ', "");
    let (left, right) = equation.split_once("->").filter(|_| !equation.contains('.'))?;
    Some((left.split(',').map(|term| term.chars().collect()).collect(), right.chars().collect()))
}

fn repeats(term: &[char]) -> bool {
    (1..term.len()).any(|i| term[..i].contains(&term[i]))
}

/// The extent of each letter: an operand may have one in its place, which is broadcast.
fn extents(node: &NodeGradient<'_>, terms: &[Vec<char>], letters: &[char]) -> Result<Vec<usize>, NoGradient> {
    let mut extents = vec![1; letters.len()];
    for (slot, term) in terms.iter().enumerate() {
        for (letter, &extent) in term.iter().zip(node.shape(slot)?) {
            if let Some(i) = letters.iter().position(|l| l == letter) {
                extents[i] = extents[i].max(extent);
            }
        }
    }
    Ok(extents)
}

/// Says which letters are summed, and what kind of axes the others are.
fn relate(node: &mut NodeTyper<'_>, terms: &[Vec<char>], right: &[char], letters: &BTreeMap<char, Width>) {
    let paired = terms.len() == 2 && node.is_dynamic(0) && node.is_dynamic(1);
    for (&letter, &width) in letters {
        let places: Vec<_> = terms
            .iter()
            .enumerate()
            .filter_map(|(slot, term)| Some(SlotAxis::new(slot, term.iter().position(|l| *l == letter)?)))
            .collect();
        let in_result = right.contains(&letter);
        match (places.as_slice(), in_result) {
            ([first], false) => node.contraction(width, *first, None, None),
            ([first, second], false) => node.contraction(width, *first, Some(*second), feature(terms, right)),
            ([_, _], true) if paired => node.batched(width),
            ([SlotAxis { slot: 1, .. }], true) if paired => node.paired(width),
            _ => {}
        }
    }
}

/// The last letter of the result that only the second operand has.
fn feature(terms: &[Vec<char>], right: &[char]) -> Option<usize> {
    let only = |c: char| !terms[0].contains(&c) && terms[1].contains(&c);
    right.iter().rposition(|c| only(*c))
}
