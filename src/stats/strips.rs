//! The upper triangle of `XᵀX`, in strips: the rest is known by symmetry, and need not be multiplied out.

use crate::graph::Expr;

/// Rows of a strip: with fewer, products of matrices are slow; with more, more of them is not needed. Matrices of two strips are
/// not cut, as runtimes are fastest with these.
const ROWS: usize = 256;

/// The rows of `XᵀX` in strips from the top, each from the column on that is its first row's: `[.., rows, entries - first]`, for `x`
/// `[.., positions, entries]` of so many axes. Of `k` strips `(k + 1) / 2k` of the products are made.
pub(crate) fn strips<'t>(x: Expr<'t>, rank: usize, entries: usize) -> Vec<Expr<'t>> {
    if entries <= 2 * ROWS {
        return vec![x.matrix_transpose(rank).matmul(x)];
    }
    let columns = |first: usize, end: usize| x.slice(rank - 1, first, end);
    let strip = |first: usize| {
        let rows = columns(first, (first + ROWS).min(entries)).matrix_transpose(rank);
        rows.matmul(columns(first, entries))
    };
    (0..entries).step_by(ROWS).map(strip).collect()
}
