//! Fewer positions: those that no output reads are not computed, and those that say the same are merged.

mod demand;
mod edit;
pub mod merge;
mod narrow;
pub mod unread;

use crate::named::named;

/// What a model is made to do with less of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduce {
    /// Widths of layers.
    #[default]
    Widths,
    /// Widths, and then positions.
    WidthsAndTokens,
}

named!(
    Reduce,
    "what is reduced",
    [
        (Widths, "widths", "Heads, dimensions of heads, neurons and channels."),
        (
            WidthsAndTokens,
            "widths,tokens",
            "And then positions, of which those that say the same are merged."
        ),
    ]
);
