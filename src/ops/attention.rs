//! Attention as one operator: the standard's `Attention` (operator set 23), and what all fused forms of attention share.

use super::schema::{OpSchema, OperatorForm, float, onnx, slots};
use super::{EditError, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator, gradient::one_hot};
use crate::{
    graph::Expr,
    tensor::Tensor,
    widths::{PinReason, Width},
};

slots! {
    slot:
    QUERY = float("Q"),
    KEY = float("K"),
    VALUE = float("V"),
    MASK = any("attn_mask").optional(),
    PAST_KEY = float("past_key").optional(),
    PAST_VALUE = float("past_value").optional(),
    LENGTHS = int64("nonpad_kv_seqlen").optional().since(24),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    onnx("Attention", &[23, 24, 25], &Attention).reads(slot::ALL)
        .makes(&[
            float("Y"), float("present_key").optional(), float("present_value").optional(),
            float("qk_matmul_output").optional(),
        ])
        .forms(&[OperatorForm::of("heads as an axis"), OperatorForm::of("merged heads"), OperatorForm::of("a cache")]),
];

/// The axes of one attention, `softmax(Q[B, H, S, E] · K[B, G, T, E]ᵀ) · V[B, G, T, F]`. `G` divides `H`: in grouped-query
/// attention, `H / G` query heads share a head of keys and values.
///
/// 8 query heads of 64 dimensions on 2 key and value heads, with 10 tokens after a cache of 20: `H` = 8, `G` = 2, `S` = 10,
/// `E` = `F` = 64, `T` = 30.
pub(super) struct AttentionAxes {
    /// `B`: samples.
    pub batch: Width,
    /// `S`: query positions.
    pub queries: Width,
    /// `H`: query heads.
    pub heads: Width,
    /// `G`: key and value heads.
    pub kv_heads: Width,
    /// `E`: dimensions of a query and a key.
    pub inner: Width,
    /// `F`: dimensions of a value.
    pub value: Width,
    /// `T`: key positions, those of the cache included.
    pub keys: usize,
}

impl AttentionAxes {
    /// Ties query heads to their key and value heads, pins what is inside the operator, and declares the cost of the two
    /// products. Returns the axis of keys, `T`.
    pub fn relate(&mut self, node: &mut NodeTyper<'_>) -> Result<Width, PinReason> {
        let (heads, kv_heads) = (node.size(self.heads), node.size(self.kv_heads));
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(node.unsupported("query heads that are no multiple of the key and value heads"));
        }
        // Query head `i` reads key and value head `i / group`.
        let parts = node.split_product(self.heads, &[kv_heads, heads / kv_heads]);
        node.unify(parts[0], self.kv_heads);
        node.heads(self.heads);
        // The products are inside: no sum to mask, and the scale may follow from the extent.
        node.pin(self.inner, PinReason::HeadDimension);
        node.pin(self.value, PinReason::HeadDimension);
        let keys = node.fixed(self.keys, PinReason::Softmax);
        node.macs(1, &[self.batch, self.heads, self.queries, keys, self.inner]);
        node.macs(1, &[self.batch, self.heads, self.queries, keys, self.value]);
        Ok(keys)
    }

    /// Types a bias or mask that is broadcast to `[B, H, S, T]`: entries per head are removed with the head.
    pub fn mask(&self, node: &mut NodeTyper<'_>, slot: usize) -> Result<(), PinReason> {
        if !node.has(slot) {
            return Ok(());
        }
        let mask = node.axes(slot)?;
        for (&axis, own) in mask.iter().rev().skip(1).zip([self.queries, self.heads, self.batch]) {
            if axis != Width::ONE {
                node.unify(axis, own);
            }
        }
        if let Some(&keys) = mask.last() {
            node.pin(keys, PinReason::Softmax);
        }
        Ok(())
    }

    /// Types a cache of keys or values, `[B, G, P, E]` with `P` earlier positions; `extent` is its last axis.
    pub fn past(&self, node: &mut NodeTyper<'_>, slot: usize, extent: Width) -> Result<(), PinReason> {
        if !node.has(slot) {
            return Ok(());
        }
        match node.axes(slot)?.as_slice() {
            &[batch, heads, past, inner] => {
                node.unify(batch, self.batch);
                node.unify(heads, self.kv_heads);
                node.unify(inner, extent);
                node.pin(past, PinReason::Softmax);
                Ok(())
            }
            _ => Err(node.unsupported("a cache of unexpected rank")),
        }
    }

    /// Types the updated cache of keys or values, `[B, G, T, E]`, a result; `extent` is its last axis.
    pub fn present(&self, node: &mut NodeTyper<'_>, slot: usize, extent: Width) {
        if let Ok(&[_, _, keys, _]) = node.result_shape(slot) {
            let keys = node.fixed(keys, PinReason::Softmax);
            node.set(slot, vec![self.batch, self.kv_heads, keys, extent]);
        }
    }
}

/// Splits an axis `H·E` into heads `H` and the dimensions `E` of each.
///
/// # Errors
/// When the extent is no multiple of the head count.
pub(super) fn split_heads_axis(
    node: &mut NodeTyper<'_>,
    axis: Width,
    heads: i64,
) -> Result<(Width, Width), PinReason> {
    let size = node.size(axis);
    match usize::try_from(heads).ok().filter(|h| *h > 0 && size.is_multiple_of(*h)) {
        Some(heads) => {
            let parts = node.split_product(axis, &[heads, size / heads]);
            Ok((parts[0], parts[1]))
        }
        None => Err(node.unsupported("features that are no multiple of the head count")),
    }
}

/// Attention on `[B, H, S, E]`, or on `[B, S, H·E]` with the head counts as attributes.
pub(super) struct Attention;

impl Operator for Attention {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let merged = node.axes(slot::QUERY)?.len() == 3;
        let q = four_axes(node, slot::QUERY, "q_num_heads")?;
        let k = four_axes(node, slot::KEY, "kv_num_heads")?;
        let v = four_axes(node, slot::VALUE, "kv_num_heads")?;
        for (a, b) in [(q[0], k[0]), (q[0], v[0]), (k[1], v[1]), (k[2], v[2]), (q[3], k[3])] {
            node.unify(a, b);
        }
        let past = if node.has(slot::PAST_KEY) {
            node.shape(slot::PAST_KEY)?.get(2).copied().unwrap_or(0)
        } else {
            0
        };
        let mut heads = AttentionAxes {
            batch: q[0],
            queries: q[2],
            heads: q[1],
            kv_heads: k[1],
            inner: q[3],
            value: v[3],
            keys: node.size(k[2]) + past,
        };
        node.pin(k[2], PinReason::Softmax);
        let keys = heads.relate(node)?;
        heads.mask(node, slot::MASK)?;
        if node.has(slot::LENGTHS) {
            let lengths = node.axes(slot::LENGTHS)?;
            lengths.into_iter().for_each(|axis| node.unify(axis, heads.batch));
        }
        heads.past(node, slot::PAST_KEY, heads.inner)?;
        heads.past(node, slot::PAST_VALUE, heads.value)?;
        heads.present(node, 1, heads.inner);
        heads.present(node, 2, heads.value);
        node.set(3, vec![heads.batch, heads.heads, heads.queries, keys]);
        let result = if merged {
            vec![heads.batch, heads.queries, node.product(&[heads.heads, heads.value])]
        } else {
            vec![heads.batch, heads.heads, heads.queries, heads.value]
        };
        node.set(0, result);
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        if node.axes(slot::QUERY).len() != 3 {
            return Ok(());
        }
        for (name, slot) in [("q_num_heads", slot::QUERY), ("kv_num_heads", slot::KEY)] {
            node.scale_int(name, node.axes(slot).last());
        }
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        if node.has(slot::PAST_KEY) || node.float("softcap").unwrap_or(0.0) != 0.0 {
            return Err(node.unsupported("a cache or a cap on its logits"));
        }
        // Where heads are not merged, they are an axis.
        let count = |name: &str, slot: usize| match node.shape(slot) {
            Ok(&[_, heads, _, _]) => heads,
            _ => node.int(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        };
        let attended = AttentionInputs {
            operands: [node.x(slot::QUERY)?, node.x(slot::KEY)?, node.x(slot::VALUE)?],
            heads: count("q_num_heads", slot::QUERY),
            kv_heads: count("kv_num_heads", slot::KEY),
            rest: (slot::MASK..node.input_count()).map(|slot| node.x(slot).ok()).collect(),
        };
        attended.gradient(node)
    }
}

/// The operand's axes as `[B, H, S, E]`.
fn four_axes(node: &mut NodeTyper<'_>, slot: usize, count: &str) -> Result<[Width; 4], PinReason> {
    match *node.axes(slot)?.as_slice() {
        [batch, heads, length, inner] => Ok([batch, heads, length, inner]),
        [batch, length, merged] => {
            let (heads, inner) = split_heads_axis(node, merged, node.int(count).unwrap_or(0))?;
            Ok([batch, heads, length, inner])
        }
        _ => Err(node.unsupported("an operand of unexpected rank")),
    }
}

/// The operands of an attention node, for its gradient. With 8 query heads on 2 key and value heads, merged heads of 64
/// dimensions, 10 queries and 30 keys: `operands` are `[N, 10, 512]`, `[N, 30, 128]` and `[N, 30, 128]`.
pub(super) struct AttentionInputs<'a> {
    /// Queries, keys and values, which are operands 0, 1 and 2. Each is `[B, H, S, E]` or `[B, S, H·E]`, as its
    /// [`HeadLayout`] says.
    pub operands: [Expr<'a>; 3],
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; it divides that of query heads.
    pub kv_heads: usize,
    /// The operands from slot 3 on: masks and the like. `None` where one is left out.
    pub rest: Vec<Option<Expr<'a>>>,
}

impl<'a> AttentionInputs<'a> {
    /// Sets the cotangents of queries, keys and values.
    pub fn gradient(&self, node: &NodeGradient<'a>) -> Result<(), NoGradient> {
        if self.heads == 0 || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(node.unsupported("head counts that do not fit"));
        }
        let [query, key, value] = [(0, self.heads), (1, self.kv_heads), (2, self.kv_heads)]
            .map(|(slot, heads)| HeadLayout::of(node, slot, heads));
        let (query, key, value) = (query?, key?, value?);
        // Attending to the identity gives the probabilities, whatever masks them.
        let mut operands =
            vec![Some(self.operands[0]), Some(self.operands[1]), Some(value.identity(node, key.length)?)];
        operands.extend(&self.rest);
        let p = node.reemit(&operands)?;
        let parts = [query, key, value];
        let cotangents = self.pull_back(parts, p, node.sole_g()?, node.float("scale"));
        for (slot, cotangent) in cotangents.into_iter().enumerate() {
            node.set_cotangent(slot, cotangent);
        }
        Ok(())
    }

    /// The cotangents of queries, keys and values, given the probabilities and the cotangent of the result, which lie as
    /// queries do.
    pub fn pull_back(
        &self,
        [query, key, value]: [HeadLayout; 3],
        probabilities: Expr<'a>,
        g: Expr<'a>,
        scale: Option<f32>,
    ) -> [Expr<'a>; 3] {
        // Heads that share keys and values get an axis of their own: [B, G, H/G, S, …].
        let group = [self.kv_heads as i64, (self.heads / self.kv_heads) as i64];
        let grouped = |x: Expr<'a>, last: usize| {
            query.split_heads(x).reshape(&[0, group[0], group[1], -1, last as i64])
        };
        let p = grouped(probabilities, key.length);
        let g = grouped(g, value.extent);
        let q = grouped(self.operands[0], query.extent);
        let [k, v] =
            [(key, 1), (value, 2)].map(|(part, slot)| part.split_heads(self.operands[slot]).unsqueeze(&[2]));
        let dp = g.matmul(v.matrix_transpose(5));
        let ds = p * (dp - (p * dp).sum(&[4], true)) * logit_scale(scale, query.extent);
        let dq = ds.matmul(k).reshape_like(query.split_heads(self.operands[0]));
        [
            query.merge_heads(dq),
            key.merge_heads(ds.matrix_transpose(5).matmul(q).sum(&[2], false)),
            value.merge_heads(p.matrix_transpose(5).matmul(g).sum(&[2], false)),
        ]
    }
}

/// What products of queries and keys are multiplied by: the attribute, or `1/√extent` where it is zero or left out.
pub(super) fn logit_scale(scale: Option<f32>, extent: usize) -> f32 {
    scale.filter(|s| *s != 0.0).unwrap_or(1.0 / (extent as f32).sqrt())
}

/// The layout of queries, keys or values: `[B, H, S, E]`, or `[B, S, H·E]` where heads are merged. `[N, 10, 512]` with 8 merged heads
/// has `heads` 8, `length` 10 and `extent` 64.
#[derive(Clone, Copy)]
pub(super) struct HeadLayout {
    /// Whether heads and their dimensions are one axis, the last.
    pub merged: bool,
    /// `H`: number of heads.
    pub heads: usize,
    /// `S`: number of positions.
    pub length: usize,
    /// `E`: dimensions of a head.
    pub extent: usize,
}

impl HeadLayout {
    fn of(node: &NodeGradient<'_>, slot: usize, heads: usize) -> Result<Self, NoGradient> {
        match *node.shape(slot)? {
            [_, length, features] => Ok(Self { merged: true, heads, length, extent: features / heads }),
            [_, heads, length, extent] => Ok(Self { merged: false, heads, length, extent }),
            _ => Err(node.unsupported("packed operands")),
        }
    }

    /// The value as `[B, H, S, E]`.
    pub fn split_heads<'a>(&self, x: Expr<'a>) -> Expr<'a> {
        if self.merged { x.reshape(&[0, 0, self.heads as i64, -1]).transpose(&[0, 2, 1, 3]) } else { x }
    }

    /// The value of a `[B, H, S, E]` in this layout.
    pub fn merge_heads<'a>(&self, x: Expr<'a>) -> Expr<'a> {
        if self.merged { x.transpose(&[0, 2, 1, 3]).reshape(&[0, 0, -1]) } else { x }
    }

    /// An identity matrix of extent `keys` per sample and head, in place of values.
    fn identity<'a>(&self, node: &NodeGradient<'a>, keys: usize) -> Result<Expr<'a>, NoGradient> {
        let value = node.x(2)?;
        let rows = (0..keys).flat_map(|i| one_hot(i, keys)).collect();
        let identity = node.tail().numbers(&[1, 1, keys, keys], rows, value.dtype());
        let identity = identity.ok_or_else(|| node.unsupported("keys without extent"))?;
        let number = |n: usize| node.tail().constant(&Tensor::ints(&[n as i64]));
        let shape = [value.shape().slice(0, 0, 1), number(self.heads), number(keys), number(keys)];
        let shape = node.tail().concat(&shape, 0).unwrap_or(value.shape());
        Ok(self.merge_heads(identity.apply("Expand", &[shape], &[])))
    }
}
