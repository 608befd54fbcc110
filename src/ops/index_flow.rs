//! Where integers that may be indices go: ids of tokens, positions, segments. The rows of the tables that they index bound what may
//! be fed to an input.

/// What a node does with the integers of one operand, if they are indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexFlow {
    /// They are indices into operand `table`, along its axis `axis` (negative ones count from the end).
    Indexes {
        /// Slot of what is indexed.
        table: usize,
        /// The axis.
        axis: i64,
    },
    /// They are indices below the number that an operand holds.
    Below {
        /// Slot of the number.
        depth: usize,
    },
    /// The results hold some of them.
    Passed,
    /// The results hold them plus the elements of the operand in this slot.
    Plus(usize),
    /// The results hold them minus the elements of the operand in this slot.
    Minus(usize),
}

impl IndexFlow {
    /// For operators that only move the elements of their first operand.
    pub(super) fn moved(slot: usize) -> Option<Self> {
        (slot == 0).then_some(Self::Passed)
    }
}
