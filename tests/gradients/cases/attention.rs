//! Attention as one operator, and what comes with it.

use ndarray::{ArrayD, IxDyn};
use optin_onnx::tensor::Tensor;

use super::Form;
use crate::case::{B, Case};

pub static FORMS: &[(&str, Form)] = &[
    ("Attention", attention),
    ("RotaryEmbedding", |mut c| {
        let c = match c.flip() {
            true => c.op("RotaryEmbedding", 23).int("num_heads", 2).x(&[B, 3, 8]),
            false => c.op("RotaryEmbedding", 23).x(&[B, 2, 3, 4]),
        };
        let mut c = c.weight(&[5, 2]).weight(&[5, 2]);
        let interleaved = c.flip();
        c.int("interleaved", interleaved.into()).rows(&[0, 2, 4])
    }),
    ("com.microsoft.Attention", |mut c| {
        let (biased, wide, one_way, masked) = (c.flip(), c.flip(), c.flip(), c.flip());
        let values = if wide { 6 } else { 4 };
        let mut c = c.op("Attention", 17).microsoft().single().int("num_heads", 2);
        c = c.ints("qkv_hidden_sizes", &[4, 4, values]).int("unidirectional", one_way.into());
        let c = c.x(&[B, 3, 5]).weight(&[5, 8 + values as usize]);
        let c = if biased { c.weight(&[8 + values as usize]) } else { c.skip() };
        if masked { c.skip().skip().weight(&[1, 2, 3, 3]) } else { c }
    }),
    ("com.microsoft.GroupQueryAttention", group_query_attention),
    ("com.microsoft.MultiHeadAttention", |mut c| {
        let (biased, masked, one_way) = (c.flip(), c.flip(), c.flip());
        let mut c = c.op("MultiHeadAttention", 17).microsoft().single().int("num_heads", 2);
        if one_way {
            c = c.int("unidirectional", 1);
        }
        let keys = if one_way { 3 } else { 4 };
        let c = c.x(&[B, 3, 4]).x(&[B, keys, 4]).x(&[B, keys, 4]);
        let c = if biased { c.weight(&[12]) } else { c.skip() };
        if masked { c.skip().weight(&[1, 1, 3, keys]) } else { c }
    }),
    ("com.microsoft.RotaryEmbedding", |mut c| {
        let interleaved = c.flip();
        let c = c.op("RotaryEmbedding", 17).microsoft().single().int("interleaved", interleaved.into());
        c.x(&[B, 2, 3, 4]).list(&[1]).weight(&[5, 2]).weight(&[5, 2])
    }),
    ("com.microsoft.SkipLayerNormalization", |mut c| {
        let biased = c.flip();
        let c = c.op("SkipLayerNormalization", 17).microsoft().single();
        let c = c.x(&[B, 3, 4]).x(&[B, 3, 4]).weight(&[4]).weight(&[4]);
        if biased { c.x(&[4]) } else { c }
    }),
    ("com.microsoft.SkipSimplifiedLayerNormalization", |c| {
        let c = c.op("SkipSimplifiedLayerNormalization", 17).microsoft().single();
        c.x(&[B, 3, 4]).x(&[B, 3, 4]).weight(&[4])
    }),
];

/// The batch is fixed: there is a length for each of its samples, of which there may be one where the past is given.
fn group_query_attention(mut c: Case) -> Case {
    let (packed, cached, turned) = (c.flip(), c.flip(), c.flip());
    let (kv_heads, extent) = (c.pick(&[1, 2]), c.pick(&[16, 32]));
    let (batch, past) = if cached { (1, 2) } else { (2, 0) };
    let c = c.op("GroupQueryAttention", 17).microsoft().single().outputs(3).float("scale", 0.1);
    let c = c.int("num_heads", 4).int("kv_num_heads", kv_heads as i64);
    let (queries, keys) = (4 * extent, kv_heads * extent);
    let mut c = match packed {
        true => c.x(&[batch, 3, queries + 2 * keys]).skip().skip(),
        false => c.x(&[batch, 3, queries]).x(&[batch, 3, keys]).x(&[batch, 3, keys]),
    };
    c = match cached {
        true => c.x(&[batch, kv_heads, past, extent]).x(&[batch, kv_heads, past, extent]),
        false => c.skip().skip(),
    };
    let last = past as i32 + 2;
    c = c.constant(Tensor::I32(ArrayD::from_elem(IxDyn(&[batch]), last)));
    c = c.constant(Tensor::I32(ArrayD::from_elem(IxDyn(&[1]), last + 1)));
    if turned {
        let interleaved = c.flip();
        c = c.int("do_rotary", 1).int("rotary_interleaved", interleaved.into());
        c = c.weight(&[8, 8]).weight(&[8, 8]);
    }
    match c.pick(&[0, 1, 2]) {
        0 => c.int("local_window_size", 2),
        1 if turned => c.skip().weight(&[1, 1, 3, 3 + past]),
        1 => c.skip().skip().skip().weight(&[1, 1, 3, 3 + past]),
        _ => c,
    }
}

fn attention(mut c: Case) -> Case {
    let (merged, shared) = (c.flip(), c.flip());
    let kv_heads = if shared { 2 } else { 4 };
    let c = c.op("Attention", 23).single();
    let mut c = match merged {
        true => {
            let c = c.int("q_num_heads", 4).int("kv_num_heads", kv_heads as i64);
            c.x(&[B, 3, 8]).x(&[B, 5, 2 * kv_heads]).x(&[B, 5, 3 * kv_heads])
        }
        false => c.x(&[B, 4, 3, 2]).x(&[B, kv_heads, 5, 2]).x(&[B, kv_heads, 5, 3]),
    };
    if c.flip() {
        c = c.float("scale", 0.9);
    }
    match c.pick(&[0, 1, 2, 3]) {
        0 => c.int("is_causal", 1),
        1 => c.weight(&[3, 5]),
        2 => {
            let allowed = ArrayD::from_shape_fn(IxDyn(&[3, 5]), |at| at[1] <= at[0] + 1);
            c.constant(Tensor::Bool(allowed))
        }
        _ => c,
    }
}
