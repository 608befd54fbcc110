//! ONNX Runtime's own forms of attention (domain `com.microsoft`): MultiHeadAttention, Attention, GroupQueryAttention.

use super::schema::{OpSchema, OperatorForm, float, microsoft, number, slots};
use super::{
    EditError, NoGradient, NodeEditor, NodeGradient, NodeTyper, Operator,
    attention::{AttentionAxes, AttentionInputs, HeadLayout, logit_scale, split_heads_axis},
    gradient::one_hot,
};
use crate::{
    graph::Expr,
    onnx::{int_attribute, ints_attribute, proto::NodeProto},
    tensor::Tensor,
    widths::{PinReason, SlotAxis, Width},
};

slots! {
    attention:
    INPUT = float("input"),
    WEIGHT = float("weights"),
    BIAS = float("bias").optional(),
    LENGTHS = any("mask_index").optional(),
    PAST = float("past").optional(),
    MASK = float("attention_bias").optional(),
    PAST_LENGTH = any("past_sequence_length").optional(),
}

slots! {
    group_query:
    QUERY = float("query"),
    KEY = float("key").optional(),
    VALUE = float("value").optional(),
    PAST_KEY = number("past_key").optional(),
    PAST_VALUE = number("past_value").optional(),
    SEQLENS_K = any("seqlens_k"),
    TOTAL_SEQUENCE_LENGTH = any("total_sequence_length"),
    COSINES = float("cos_cache").optional(),
    SINES = float("sin_cache").optional(),
    POSITION_IDS = int64("position_ids").optional(),
    MASK = float("attention_bias").optional(),
    SINKS = float("head_sink").optional(),
    K_SCALE = float("k_scale").optional(),
    V_SCALE = float("v_scale").optional(),
    Q_NORM_WEIGHT = float("q_norm_weight").optional(),
    K_NORM_WEIGHT = float("k_norm_weight").optional(),
    QUERY_SEQLENS = any("query_seqlens").optional(),
}

slots! {
    multi_head:
    QUERY = float("query"),
    KEY = float("key").optional(),
    VALUE = float("value").optional(),
    BIAS = float("bias").optional(),
    PADDING = any("key_padding_mask").optional(),
    MASK = float("attention_bias").optional(),
    PAST_KEY = float("past_key").optional(),
    PAST_VALUE = float("past_value").optional(),
    PAST_LENGTH = any("past_sequence_length").optional(),
    INDIRECTION = any("cache_indirection").optional(),
}

#[rustfmt::skip]
pub(super) static OPERATORS: &[OpSchema] = &[
    microsoft("Attention", &FusedAttention).reads(attention::ALL)
        .makes(&[float("output"), float("present").optional()])
        .forms(&[OperatorForm::of(""), OperatorForm::of("values of another extent")]),
    microsoft("GroupQueryAttention", &GroupQueryAttention).reads(group_query::ALL)
        .makes(&[
            float("output"), number("present_key").optional(), number("present_value").optional(),
            float("output_qk").optional(),
        ])
        .forms(&[OperatorForm::of(""), OperatorForm::of("packed operands")]),
    microsoft("MultiHeadAttention", &MultiHeadAttention).reads(multi_head::ALL)
        .makes(&[
            float("output"), float("present_key").optional(), float("present_value").optional(),
            float("qk").optional(),
        ])
        .forms(&[OperatorForm::of(""), OperatorForm::of("a bias and a mask"), OperatorForm::of("a cache"), OperatorForm::of("packed operands")]),
];

/// Queries, keys and values are projected already. They are separate operands (`[B, S, H·E]`, keys and values also as `[B, H, T, E]`),
/// keys with values (`[B, T, H, 2, E]`), or all in one (`[B, S, H, 3, E]`).
pub(super) struct MultiHeadAttention;

impl Operator for MultiHeadAttention {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let count = node.int("num_heads").unwrap_or(0);
        let query = operand(node, multi_head::QUERY, count)?;
        let key = if node.has(multi_head::KEY) { operand(node, multi_head::KEY, count)? } else { query };
        let value = if node.has(multi_head::VALUE) { operand(node, multi_head::VALUE, count)? } else { key };
        for (a, b) in [(query, key), (query, value)] {
            node.unify(a.batch, b.batch);
            node.unify(a.heads, b.heads);
        }
        node.unify(query.inner, key.inner);
        node.unify(key.length, value.length);
        node.pin(key.length, PinReason::Softmax);
        let past = if node.has(multi_head::PAST_KEY) {
            node.shape(multi_head::PAST_KEY)?.get(2).copied().unwrap_or(0)
        } else {
            0
        };
        let keys = match node.result_shape(1) {
            Ok(&[_, _, keys, _]) => keys,
            _ => node.size(key.length) + past,
        };
        let mut heads = AttentionAxes {
            batch: query.batch,
            queries: query.length,
            heads: query.heads,
            kv_heads: query.heads,
            inner: query.inner,
            value: value.inner,
            keys,
        };
        let keys = heads.relate(node)?;
        let merged = node.product(&[heads.heads, heads.value]);
        if node.has(multi_head::BIAS) {
            let projected = node.product(&[heads.heads, heads.inner]);
            let all = node.concat(&[projected, projected, merged]);
            unify_bias(node, multi_head::BIAS, all)?;
        }
        heads.mask(node, multi_head::MASK)?;
        heads.past(node, multi_head::PAST_KEY, heads.inner)?;
        heads.past(node, multi_head::PAST_VALUE, heads.value)?;
        heads.present(node, 1, heads.inner);
        heads.present(node, 2, heads.value);
        node.set(3, vec![heads.batch, heads.heads, heads.queries, keys]);
        node.set(0, vec![heads.batch, heads.queries, merged]);
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        node.scale_int("num_heads", node.result_axes(0).last());
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        if !node.has(multi_head::KEY)
            || !node.has(multi_head::VALUE)
            || (multi_head::PAST_KEY..=multi_head::INDIRECTION).any(|slot| node.has(slot))
        {
            return Err(node.unsupported("packed operands or a cache"));
        }
        let mut operands = [node.x(multi_head::QUERY)?, node.x(multi_head::KEY)?, node.x(multi_head::VALUE)?];
        if node.has(multi_head::BIAS) {
            let mut start = 0;
            for (slot, operand) in operands.iter_mut().enumerate() {
                let &[_, _, features] = node.shape(slot)? else {
                    return Err(node.unsupported("a bias of heads"));
                };
                *operand = *operand + node.x(multi_head::BIAS)?.slice(0, start, start + features);
                start += features;
            }
        }
        let heads = node.int("num_heads").and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let rest = (multi_head::BIAS + 1..=multi_head::MASK).map(|slot| node.x(slot).ok());
        let rest = std::iter::once(None).chain(rest).collect();
        AttentionInputs { operands, heads, kv_heads: heads, rest }.gradient(node)
    }
}

/// What an operand of [`MultiHeadAttention`] says.
#[derive(Clone, Copy)]
struct Projected {
    batch: Width,
    length: Width,
    heads: Width,
    inner: Width,
}

fn operand(node: &mut NodeTyper<'_>, slot: usize, count: i64) -> Result<Projected, PinReason> {
    match *node.axes(slot)?.as_slice() {
        [batch, length, merged] => {
            let (heads, inner) = split_heads_axis(node, merged, count)?;
            Ok(Projected { batch, length, heads, inner })
        }
        [batch, heads, length, inner] => Ok(Projected { batch, length, heads, inner }),
        [batch, length, heads, packed, inner] => {
            let reason = node.unsupported("packed operands");
            node.pin(packed, reason);
            Ok(Projected { batch, length, heads, inner })
        }
        _ => Err(node.unsupported("an operand of unexpected rank")),
    }
}

fn unify_bias(node: &mut NodeTyper<'_>, slot: usize, width: Width) -> Result<(), PinReason> {
    match *node.axes(slot)?.as_slice() {
        [axis] => {
            node.unify(axis, width);
            Ok(())
        }
        _ => Err(node.unsupported("a bias that is not a vector")),
    }
}

/// Projects and attends: `X[B, S, D] · W[D, 3·H·E] + bias`, of extents `qkv_hidden_sizes` where they differ.
pub(super) struct FusedAttention;

impl Operator for FusedAttention {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (x, w) = (node.axes(attention::INPUT)?, node.axes(attention::WEIGHT)?);
        let (&[batch, length, features], &[rows, columns]) = (x.as_slice(), w.as_slice()) else {
            return Err(node.unsupported("operands of unexpected rank"));
        };
        let third = (node.size(columns) / 3) as i64;
        let sizes = node.ints("qkv_hidden_sizes").unwrap_or_else(|| vec![third; 3]);
        let sizes: Vec<usize> = sizes.iter().filter_map(|&s| usize::try_from(s).ok()).collect();
        if sizes.len() != 3 || sizes.iter().sum::<usize>() != node.size(columns) {
            return Err(node.unsupported("projections that do not fill the weight"));
        }
        node.unify(features, rows);
        let count = node.int("num_heads").unwrap_or(0);
        let parts = node.split_concat(columns, &sizes);
        let parts = [
            split_heads_axis(node, parts[0], count)?,
            split_heads_axis(node, parts[1], count)?,
            split_heads_axis(node, parts[2], count)?,
        ];
        let [(heads, inner), (key_heads, key_inner), (value_heads, value)] = parts;
        node.unify(heads, key_heads);
        node.unify(heads, value_heads);
        node.unify(inner, key_inner);
        if node.has(attention::BIAS) {
            unify_bias(node, attention::BIAS, columns)?;
        }
        node.macs(1, &[batch, length, features, columns]);
        let past = match node.shape(attention::PAST) {
            Ok(&[_, _, _, past, _]) => past,
            _ => 0,
        };
        let keys = match node.result_shape(1) {
            Ok(&[_, _, _, keys, _]) => keys,
            _ => node.size(length) + past,
        };
        node.pin(length, PinReason::Softmax);
        let mut all = AttentionAxes { batch, queries: length, heads, kv_heads: heads, inner, value, keys };
        let keys = all.relate(node)?;
        all.mask(node, attention::MASK)?;
        let two = node.fixed(2, PinReason::Indexed);
        if node.has(attention::PAST) {
            let cache = node.axes(attention::PAST)?;
            if let &[_, past_batch, past_heads, _, past_inner] = cache.as_slice() {
                node.unify(past_batch, batch);
                node.unify(past_heads, heads);
                node.unify(past_inner, inner);
            }
        }
        node.set(1, vec![two, batch, heads, keys, inner]);
        let merged = node.product(&[heads, value]);
        node.set(0, vec![batch, length, merged]);
        node.contraction(
            features,
            SlotAxis::new(attention::INPUT, 2),
            Some(SlotAxis::new(attention::WEIGHT, 0)),
            Some(2),
        );
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let Some(&merged) = node.result_axes(0).last() else { return Ok(()) };
        let (old, new) = (node.old_size(merged) as i64, node.new_size(merged) as i64);
        if old == new || old == 0 {
            return Ok(());
        }
        if let Some(sizes) = node.ints("qkv_hidden_sizes") {
            node.set_ints("qkv_hidden_sizes", sizes.iter().map(|size| size * new / old).collect());
        }
        node.scale_int("num_heads", Some(&merged));
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        if node.has(attention::PAST) || node.int("do_rotary").unwrap_or(0) != 0 {
            return Err(node.unsupported("a cache or rotary embeddings"));
        }
        let projections = Projections::of(node)?;
        let (x, w) = (node.x(attention::INPUT)?, node.x(attention::WEIGHT)?);
        let projected = x.matmul(w);
        let projected =
            if node.has(attention::BIAS) { projected + node.x(attention::BIAS)? } else { projected };
        let Projections { heads, length, sizes: [queries, keys, values] } = projections;
        let ends = [0, queries, queries + keys, queries + keys + values];
        let attended = AttentionInputs {
            operands: [0, 1, 2].map(|i| projected.slice(2, ends[i], ends[i + 1])),
            heads,
            kv_heads: heads,
            rest: Vec::new(),
        };
        let parts = projections.sizes.map(|s| HeadLayout { merged: true, heads, length, extent: s / heads });
        let p = projections.probabilities(node)?;
        let cotangents = attended.pull_back(parts, p, node.sole_g()?, node.float("scale"));
        node.set_cotangent(attention::INPUT, node.concat(&cotangents, 2)?.matmul(w.matrix_transpose(2)));
        Ok(())
    }
}

/// How many features [`FusedAttention`] projects to.
struct Projections {
    heads: usize,
    length: usize,
    /// Of queries, keys and values.
    sizes: [usize; 3],
}

impl Projections {
    fn of(node: &NodeGradient<'_>) -> Result<Self, NoGradient> {
        let (&[_, length, _], &[_, columns]) =
            (node.shape(attention::INPUT)?, node.shape(attention::WEIGHT)?)
        else {
            return Err(node.unsupported("operands of unexpected rank"));
        };
        let heads = node.int("num_heads").and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let heads = heads.ok_or_else(|| node.unsupported("no count of heads"))?;
        let sizes = node.ints("qkv_hidden_sizes").unwrap_or_else(|| vec![(columns / 3) as i64; 3]);
        let sizes: Vec<usize> = sizes.iter().filter_map(|s| usize::try_from(*s).ok()).collect();
        let sizes =
            <[usize; 3]>::try_from(sizes).map_err(|_| node.unsupported("projections that are not three"))?;
        Ok(Self { heads, length, sizes })
    }

    /// Attending to the identity gives the probabilities, whatever masks them. So that it is what values are projected
    /// from, a position's place becomes features of its own: `[B, S, H·S]`.
    fn probabilities<'a>(&self, node: &NodeGradient<'a>) -> Result<Expr<'a>, NoGradient> {
        let (x, w, length) = (node.x(attention::INPUT)?, node.x(attention::WEIGHT)?, self.length);
        let numbers = |shape: &[usize], values: Vec<f32>| {
            let numbers = node.tail().numbers(shape, values, x.dtype());
            numbers.ok_or_else(|| node.unsupported("operands without extent"))
        };
        let (scored, attended) = (self.sizes[0] + self.sizes[1], self.heads * length);
        let places = numbers(&[1, length, length], (0..length).flat_map(|i| one_hot(i, length)).collect())?;
        let square = node.tail().constant(&Tensor::ints(&[length as i64; 2]));
        let places = places.apply("Expand", &[node.concat(&[x.shape().slice(0, 0, 1), square], 0)?], &[]);
        let row = |i: usize| {
            let values = (0..self.heads).flat_map(move |_| one_hot(i, length));
            std::iter::repeat_n(0.0, scored).chain(values)
        };
        let rows = numbers(&[length, scored + attended], (0..length).flat_map(row).collect())?;
        let features = node.shape(attention::WEIGHT)?.first().copied().unwrap_or(0);
        let none = numbers(&[features, attended], vec![0.0; features * attended])?;
        let weight = node.concat(&[node.concat(&[w.slice(1, 0, scored), none], 1)?, rows], 0)?;
        let offsets = if node.has(attention::BIAS) {
            let none = numbers(&[attended], vec![0.0; attended])?;
            Some(node.concat(&[node.x(attention::BIAS)?.slice(0, 0, scored), none], 0)?)
        } else {
            None
        };
        let x = node.concat(&[x, places], 2)?;
        let operands = [
            Some(x),
            Some(weight),
            offsets,
            node.x(attention::LENGTHS).ok(),
            None,
            node.x(attention::MASK).ok(),
        ];
        let mut scoring = node.proto.clone();
        scoring.attribute.retain(|a| a.name() != "qkv_hidden_sizes");
        let sizes = [self.sizes[0], self.sizes[1], attended].map(|size| size as i64);
        scoring.attribute.push(ints_attribute("qkv_hidden_sizes", &sizes));
        Ok(node.tail().reemit(&scoring, &operands, x.dtype()))
    }
}

/// Groups of query heads share a head of keys and values. Projections are separate operands, or one packed operand `[B, S, (H+2·G)·E]`.
pub(super) struct GroupQueryAttention;

impl Operator for GroupQueryAttention {
    fn infer(&self, node: &mut NodeTyper<'_>) -> Result<(), PinReason> {
        let (count, kv_count) = (node.int("num_heads").unwrap_or(0), node.int("kv_num_heads").unwrap_or(0));
        let parts = self.split_projections(node, count, kv_count)?;
        let (batch, length, [query, key, value]) = parts;
        let (heads, inner) = split_heads_axis(node, query, count)?;
        let (kv_heads, key_inner) = split_heads_axis(node, key, kv_count)?;
        let (value_heads, value) = split_heads_axis(node, value, kv_count)?;
        node.unify(inner, key_inner);
        node.unify(kv_heads, value_heads);
        let past = if node.has(group_query::PAST_KEY) {
            node.shape(group_query::PAST_KEY)?.get(2).copied().unwrap_or(0)
        } else {
            0
        };
        let keys = match node.result_shape(1) {
            Ok(&[_, _, keys, _]) => keys,
            _ => node.size(length) + past,
        };
        node.pin(length, PinReason::Softmax);
        let mut all = AttentionAxes { batch, queries: length, heads, kv_heads, inner, value, keys };
        let keys = all.relate(node)?;
        for slot in [group_query::COSINES, group_query::SINES]
            .into_iter()
            .filter(|slot| node.has(*slot))
            .collect::<Vec<_>>()
        {
            for axis in node.axes(slot)? {
                node.pin(axis, PinReason::Rearranged(node.op_type().to_owned()));
            }
        }
        all.mask(node, group_query::MASK)?;
        if node.has(group_query::SINKS) {
            unify_bias(node, group_query::SINKS, heads)?;
        }
        all.past(node, group_query::PAST_KEY, inner)?;
        all.past(node, group_query::PAST_VALUE, value)?;
        all.present(node, 1, inner);
        all.present(node, 2, value);
        node.set(3, vec![batch, heads, length, keys]);
        let merged = node.product(&[heads, value]);
        node.set(0, vec![batch, length, merged]);
        Ok(())
    }

    fn rewrite(&self, node: &mut NodeEditor<'_>) -> Result<(), EditError> {
        let (Some(heads), Some(kv_heads)) = (node.int("num_heads"), node.int("kv_num_heads")) else {
            return Ok(());
        };
        let Some(&merged) = node.result_axes(0).last() else { return Ok(()) };
        let (old, new) = (node.old_size(merged), node.new_size(merged));
        let head = old / (heads.unsigned_abs() as usize).max(1);
        // What the result does not take of a packed operand, keys and values share.
        let kv = |node: &NodeEditor<'_>| match (
            node.has(group_query::KEY),
            node.axes(group_query::QUERY).last(),
            node.axes(group_query::KEY).last(),
        ) {
            (true, _, Some(&key)) => node.new_size(key),
            (_, Some(&packed), _) => (node.new_size(packed) - new) / 2,
            _ => 0,
        };
        let (new_heads, new_kv) = (new / head.max(1), kv(node) / head.max(1));
        if new_kv == 0 || !new_heads.is_multiple_of(new_kv) {
            return Err(node.error("its groups would become unequal"));
        }
        if new_heads as i64 != heads {
            node.set_int("num_heads", new_heads as i64);
        }
        if new_kv as i64 != kv_heads {
            node.set_int("kv_num_heads", new_kv as i64);
        }
        Ok(())
    }

    fn gradient(&self, node: &NodeGradient<'_>) -> Result<(), NoGradient> {
        let grouped = Grouped::of(node)?;
        let query = grouped.apply_rope(node, grouped.query(node)?, false)?;
        // What later steps get are the keys as they are attended to, those of the past included.
        let attended = AttentionInputs {
            operands: [query, node.y(1)?, node.y(2)?],
            heads: grouped.heads,
            kv_heads: grouped.kv_heads,
            rest: Vec::new(),
        };
        let part = |heads, length| HeadLayout { merged: false, ..grouped.merged(heads, length) };
        let keys = part(grouped.kv_heads, grouped.keys);
        let parts = [part(grouped.heads, grouped.length), keys, keys];
        let p = grouped.probabilities(node, &attended)?;
        let results = grouped.merged(grouped.heads, grouped.length);
        let g = node.cotangent(0).map_or_else(|| query.zeros(), |g| results.split_heads(g));
        let [dq, dk, dv] = attended.pull_back(parts, p, g, node.float("scale"));
        let dk = node.cotangent(1).map_or(dk, |other| dk + other);
        let dv = node.cotangent(2).map_or(dv, |other| dv + other);
        grouped.set_cotangents(node, [dq, dk, dv])
    }
}

/// What a [`GroupQueryAttention`] attends with, for its gradient.
struct Grouped {
    heads: usize,
    kv_heads: usize,
    /// Extent of a query, a key and a value.
    extent: usize,
    length: usize,
    /// Number of keys, those of the past included.
    keys: usize,
}

impl Grouped {
    fn of(node: &NodeGradient<'_>) -> Result<Self, NoGradient> {
        if node.float("softcap").unwrap_or(0.0) != 0.0 || node.int("smooth_softmax").unwrap_or(0) > 0 {
            return Err(node.unsupported("a cap on its logits, or a smooth softmax"));
        }
        if (group_query::SINKS..node.input_count()).any(|slot| node.has(slot)) {
            return Err(node.unsupported("sinks"));
        }
        if node.int("do_rotary").unwrap_or(0) != 0
            && !node.has(group_query::COSINES)
            && !node.has(group_query::POSITION_IDS)
        {
            return Err(node.unsupported("rotary embeddings without tables"));
        }
        let count = |name| node.int(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let (heads, kv_heads) = (count("num_heads"), count("kv_num_heads"));
        let (&[_, length, _], &[_, _, keys, extent]) =
            (node.shape(group_query::QUERY)?, node.result_shape(1)?)
        else {
            return Err(node.unsupported("operands of unexpected rank"));
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || keys < length {
            return Err(node.unsupported("extents that do not fit"));
        }
        Ok(Self { heads, kv_heads, extent, length, keys })
    }

    /// Entries `[B, S, H·E]`.
    fn merged(&self, heads: usize, length: usize) -> HeadLayout {
        HeadLayout { merged: true, heads, length, extent: self.extent }
    }

    fn query<'a>(&self, node: &NodeGradient<'a>) -> Result<Expr<'a>, NoGradient> {
        let features = self.heads * self.extent;
        let x = node.x(group_query::QUERY)?;
        let query = if node.has(group_query::KEY) { x } else { x.slice(2, 0, features) };
        Ok(self.merged(self.heads, self.length).split_heads(query))
    }

    /// Rotary embeddings (RoPE) applied to `x[B, H, S, E]`; with `back`, the inverse rotation, which cotangents take.
    fn apply_rope<'a>(
        &self,
        node: &NodeGradient<'a>,
        x: Expr<'a>,
        back: bool,
    ) -> Result<Expr<'a>, NoGradient> {
        if node.int("do_rotary").unwrap_or(0) == 0 {
            return Ok(x);
        }
        let pairs = node.shape(group_query::COSINES)?.last().copied().unwrap_or(0);
        let places = match node.x(group_query::POSITION_IDS) {
            Ok(places) => places,
            Err(_) => node.tail().constant(&Tensor::ints(&[(self.keys - self.length) as i64])),
        };
        let sines = if back { -node.x(group_query::SINES)? } else { node.x(group_query::SINES)? };
        let mut rope = NodeProto {
            op_type: Some("RotaryEmbedding".to_owned()),
            domain: node.proto.domain.clone(),
            ..Default::default()
        };
        let interleaved = node.int("rotary_interleaved").unwrap_or(0);
        rope.attribute.push(int_attribute("interleaved", interleaved));
        if 2 * pairs < self.extent {
            let heads = if node.has(group_query::KEY) { self.heads } else { self.kv_heads };
            rope.attribute.push(int_attribute("num_heads", heads as i64));
            rope.attribute.push(int_attribute("rotary_embedding_dim", 2 * pairs as i64));
        }
        Ok(node.tail().reemit(
            &rope,
            &[Some(x), Some(places), Some(node.x(group_query::COSINES)?), Some(sines)],
            x.dtype(),
        ))
    }

    /// How much each query attends to each key, `[B, H, S, T]`.
    fn probabilities<'a>(
        &self,
        node: &NodeGradient<'a>,
        attended: &AttentionInputs<'a>,
    ) -> Result<Expr<'a>, NoGradient> {
        let [query, key, _] = attended.operands;
        let group = [self.kv_heads as i64, (self.heads / self.kv_heads) as i64];
        let scale = logit_scale(node.float("scale"), self.extent);
        let grouped = query.reshape(&[0, group[0], group[1], -1, self.extent as i64]);
        let logits = grouped.matmul(key.unsqueeze(&[2]).matrix_transpose(5)) * scale;
        let mut logits = logits.reshape(&[0, self.heads as i64, -1, self.keys as i64]);
        if let Ok(bias) = node.x(group_query::MASK) {
            logits = logits + bias;
        }
        // A query sees no later keys, and of earlier ones those in its window.
        let window = node.int("local_window_size").and_then(|w| usize::try_from(w).ok());
        let sees = |i: usize, j: usize| {
            let own = self.keys - self.length + i;
            j <= own && window.is_none_or(|w| own - j < w)
        };
        let row = |i: usize| (0..self.keys).map(move |j| if sees(i, j) { 0.0 } else { -1e4 });
        let mask = (0..self.length).flat_map(row).collect();
        let mask = node.tail().numbers(&[self.length, self.keys], mask, logits.dtype());
        let mask = mask.ok_or_else(|| node.unsupported("keys without extent"))?;
        Ok((logits + mask).softmax(3))
    }

    /// Gives queries, keys and values, and the keys and values of the past, their cotangents, which lie `[B, H, S, E]`.
    fn set_cotangents<'a>(
        &self,
        node: &NodeGradient<'a>,
        [query, key, value]: [Expr<'a>; 3],
    ) -> Result<(), NoGradient> {
        let past = self.keys - self.length;
        let own = |x: Expr<'a>| if past == 0 { x } else { x.slice(2, past, self.keys) };
        let (queried, keyed) =
            (self.merged(self.heads, self.length), self.merged(self.kv_heads, self.length));
        let query = queried.merge_heads(self.apply_rope(node, query, true)?);
        let keys = keyed.merge_heads(self.apply_rope(node, own(key), true)?);
        let values = keyed.merge_heads(own(value));
        if node.has(group_query::KEY) {
            node.set_cotangent(group_query::QUERY, query);
            node.set_cotangent(group_query::KEY, keys);
            node.set_cotangent(group_query::VALUE, values);
        } else {
            node.set_cotangent(group_query::QUERY, node.concat(&[query, keys, values], 2)?);
        }
        for (slot, cotangent) in [(group_query::PAST_KEY, key), (group_query::PAST_VALUE, value)] {
            node.set_cotangent(slot, cotangent.slice(2, 0, past));
        }
        Ok(())
    }
}

impl GroupQueryAttention {
    /// Batch, length, and the features of queries, keys and values.
    fn split_projections(
        &self,
        node: &mut NodeTyper<'_>,
        heads: i64,
        kv_heads: i64,
    ) -> Result<(Width, Width, [Width; 3]), PinReason> {
        let query = node.axes(group_query::QUERY)?;
        let &[batch, length, features] = query.as_slice() else {
            return Err(node.unsupported("an operand of unexpected rank"));
        };
        if !node.has(group_query::KEY) {
            let all = (heads + 2 * kv_heads).max(1) as usize;
            let (size, kv_heads) = (node.size(features), kv_heads.max(0) as usize);
            if !size.is_multiple_of(all) {
                return Err(node.unsupported("packed features that are no multiple of the head counts"));
            }
            let kv = size / all * kv_heads;
            let parts = node.split_concat(features, &[size - 2 * kv, kv, kv]);
            return Ok((batch, length, [parts[0], parts[1], parts[2]]));
        }
        let (key, value) = (node.axes(group_query::KEY)?, node.axes(group_query::VALUE)?);
        let (&[key_batch, keys, key], &[value_batch, values, value]) = (key.as_slice(), value.as_slice())
        else {
            return Err(node.unsupported("an operand of unexpected rank"));
        };
        for (a, b) in [(batch, key_batch), (batch, value_batch), (keys, values), (length, keys)] {
            node.unify(a, b);
        }
        Ok((batch, length, [features, key, value]))
    }
}
