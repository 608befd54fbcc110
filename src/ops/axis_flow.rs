//! Which entries of its operands an entry of a result is made of: what of a result nobody reads need not be computed.

use super::NodeCx;

/// What the entries of a result along one of its axes read of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisFlow {
    /// Entry `i` reads entry `i` along this axis of the operand, and no other.
    Along(usize),
    /// All entries read the same.
    Same,
}

impl AxisFlow {
    /// Of an operand that is broadcast to the result.
    pub(super) fn broadcast(node: &NodeCx<'_>, slot: usize, axis: usize) -> Option<Self> {
        Self::aligned(node.shape(slot).ok()?, node.result_shape(0).ok()?, axis)
    }

    /// The same, of shapes.
    pub(super) fn aligned(operand: &[usize], result: &[usize], axis: usize) -> Option<Self> {
        let Some(own) = (axis + operand.len()).checked_sub(result.len()) else { return Some(Self::Same) };
        let (from, to) = (*operand.get(own)?, *result.get(axis)?);
        match from {
            1 if to != 1 => Some(Self::Same),
            _ => (from == to).then_some(Self::Along(own)),
        }
    }

    /// Of an operand whose elements keep their order while its axes are split and merged: the axis of the same extent with as
    /// many elements before it.
    pub(super) fn regrouped(operand: &[usize], result: &[usize], axis: usize) -> Option<Self> {
        let extent = *result.get(axis)?;
        let before: usize = result.get(..axis)?.iter().product();
        let mut elements = 1;
        for (own, &from) in operand.iter().enumerate() {
            if elements == before && from == extent && extent != 1 {
                return Some(Self::Along(own));
            }
            elements *= from;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_aligned_from_the_right() {
        assert_eq!(AxisFlow::aligned(&[7, 5], &[2, 7, 5], 1), Some(AxisFlow::Along(0)));
        assert_eq!(AxisFlow::aligned(&[5], &[2, 7, 5], 1), Some(AxisFlow::Same));
        assert_eq!(AxisFlow::aligned(&[2, 1, 5], &[2, 7, 5], 1), Some(AxisFlow::Same));
    }

    #[test]
    fn an_axis_keeps_its_place_among_the_elements() {
        assert_eq!(AxisFlow::regrouped(&[2, 7, 6], &[2, 7, 3, 2], 1), Some(AxisFlow::Along(1)));
        assert_eq!(AxisFlow::regrouped(&[2, 1, 7, 6], &[2, 7, 6], 1), Some(AxisFlow::Along(2)));
        assert_eq!(AxisFlow::regrouped(&[2, 7, 6], &[14, 6], 0), None);
        assert_eq!(AxisFlow::regrouped(&[7, 2, 6], &[2, 7, 6], 1), None);
    }
}
