//! Operators in random forms, by family.

mod attention;
mod pointwise;
mod shapes;
mod sums;
mod windows;

use super::case::Case;

/// A random form of an operator.
pub type Form = fn(Case) -> Case;

/// All forms.
pub fn all() -> impl Iterator<Item = (&'static str, Form)> {
    [attention::FORMS, pointwise::FORMS, shapes::FORMS, sums::FORMS, windows::FORMS]
        .into_iter()
        .flatten()
        .copied()
}
