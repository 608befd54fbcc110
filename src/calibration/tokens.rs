//! Texts as token ids, for models that read them.

use std::{ops::Range, path::Path};

use ndarray::{ArrayD, IxDyn};
use tokenizers::{PaddingDirection, Tokenizer, TruncationParams};

use crate::{
    calibration::{
        CalibrationError, Source,
        roles::InputRole,
        spec::{Dim, InputSpec, InputSpecs},
    },
    limits,
    tensor::Tensor,
};

/// The most tokens of a text where neither the model nor the user says.
const LENGTH: usize = 128;
/// Texts that are split together.
const BLOCK: usize = 256;
/// Tokens that stand for nothing, as vocabularies call them.
const PADS: &[&str] = &["[PAD]", "<pad>", "<|padding|>", "<|endoftext|>", "</s>"];

/// What an input of a model of text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    /// The ids of tokens.
    Ids,
    /// 1 for tokens, and 0 for padding.
    Mask,
    /// Which of two texts a token belongs to.
    Segments,
    /// The numbers of tokens, from 0 on.
    Positions,
}

/// How an input is filled.
#[derive(Debug)]
pub(super) struct Filling {
    input: String,
    holds: Holds,
    float: bool,
    /// The number of tokens, where the model fixes it.
    length: Option<usize>,
}

/// How each input of a model is filled from text, which its name says, or else what the model does with it.
pub(super) fn fillings(path: &Path, specs: &InputSpecs) -> Result<Vec<Filling>, CalibrationError> {
    let mut fillings: Vec<Filling> = Vec::new();
    for spec in &specs.inputs {
        let refused =
            |problem| CalibrationError::NotForText { path: path.into(), input: spec.described(), problem };
        let [_, length] = spec.dims.as_slice() else {
            return Err(refused("it does not have the two axes of samples and tokens"));
        };
        let holds = holds(spec)
            .filter(|_| spec.batched)
            .ok_or_else(|| refused("neither its name nor its use says what it holds"))?;
        if fillings.iter().any(|filling| filling.holds == holds) {
            return Err(refused("another input seems to hold the same"));
        }
        let length = if let Dim::Fixed(length) = length { Some(*length) } else { None };
        fillings.push(Filling { input: spec.name.clone(), holds, float: spec.dtype.is_float(), length });
    }
    match (fillings.iter().any(|filling| filling.holds == Holds::Ids), specs.inputs.first()) {
        (false, Some(spec)) => Err(CalibrationError::NotForText {
            path: path.into(),
            input: spec.described(),
            problem: "no input of the model seems to hold the ids of tokens",
        }),
        _ => Ok(fillings),
    }
}

/// What an input holds, if that can be told.
fn holds(spec: &InputSpec) -> Option<Holds> {
    let name = spec.name.to_ascii_lowercase();
    let named = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if named(&["decoder", "past", "label", "pixel"]) {
        return None;
    }
    if named(&["mask"]) {
        return Some(Holds::Mask);
    }
    // Numbers to compute with are no tokens.
    if spec.role == InputRole::Feature {
        return None;
    }
    if named(&["token_type", "segment", "type_id"]) {
        return Some(Holds::Segments);
    }
    if named(&["position"]) {
        return Some(Holds::Positions);
    }
    match spec.role {
        InputRole::Mask => Some(Holds::Mask),
        // A table of two rows is that of segments.
        InputRole::Ids { rows: Some(..=4) } => Some(Holds::Segments),
        InputRole::Ids { .. } => Some(Holds::Ids),
        InputRole::Feature => None,
    }
}

/// Texts, split into tokens.
pub(super) struct Tokenized {
    fillings: Vec<Filling>,
    /// Ids, and to which of two texts they belong, of each text.
    texts: Vec<Vec<(u32, u32)>>,
    length: usize,
    cut: usize,
    pad: u32,
    left: bool,
}

impl Tokenized {
    /// Splits `texts` by the tokenizer in a file, into at most so many tokens each.
    pub fn new(
        path: &Path,
        fillings: Vec<Filling>,
        texts: &[String],
        most: Option<usize>,
    ) -> Result<Self, CalibrationError> {
        let failed = |problem: String| CalibrationError::Tokenizer { path: path.into(), problem };
        let fixed = fillings.iter().find_map(|filling| filling.length);
        let most = most.unwrap_or(fixed.unwrap_or(LENGTH)).min(fixed.unwrap_or(usize::MAX));
        let mut tokenizer = open(path)?;
        let padding = tokenizer.get_padding().cloned();
        tokenizer.with_padding(None);
        let said = padding.as_ref().map(|padding| padding.pad_id);
        let pad = said.or_else(|| PADS.iter().find_map(|pad| tokenizer.token_to_id(pad))).unwrap_or_default();
        let left = padding.is_some_and(|padding| matches!(padding.direction, PaddingDirection::Left));
        tokenizer.with_truncation(None).map_err(|error| failed(error.to_string()))?;
        let added = tokenizer.encode("", true).map_err(|error| failed(error.to_string()))?.len();
        if most <= added {
            return Err(failed(format!("it adds {added} tokens to each text, which leaves none of {most}")));
        }
        let truncation = TruncationParams { max_length: most, ..Default::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| failed(error.to_string()))?;
        let (mut tokens, mut cut) = (Vec::with_capacity(texts.len()), 0);
        for block in texts.chunks(BLOCK) {
            let block = block.iter().map(String::as_str).collect();
            for text in tokenizer.encode_batch_fast(block, true).map_err(|error| failed(error.to_string()))? {
                cut += usize::from(!text.get_overflowing().is_empty());
                tokens
                    .push(text.get_ids().iter().copied().zip(text.get_type_ids().iter().copied()).collect());
            }
        }
        let longest = tokens.iter().map(Vec::len).max().unwrap_or_default().max(1);
        Ok(Self { fillings, texts: tokens, length: fixed.unwrap_or(longest), cut, pad, left })
    }

    /// Tokens of each sample, padding included.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many texts were longer.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// What an input holds of one text.
    fn row(&self, holds: Holds, text: &[(u32, u32)]) -> Vec<i64> {
        let padding = self.length.saturating_sub(text.len());
        let pads = |value: i64| std::iter::repeat_n(value, padding);
        let token = |(place, (id, segment)): (usize, &(u32, u32))| match holds {
            Holds::Ids => i64::from(*id),
            Holds::Mask => 1,
            Holds::Segments => i64::from(*segment),
            Holds::Positions => place as i64,
        };
        let tokens = text.iter().enumerate().map(token);
        let pad = if holds == Holds::Ids { i64::from(self.pad) } else { 0 };
        match (self.left, holds) {
            (true, _) => pads(pad).chain(tokens).collect(),
            (false, Holds::Positions) => (0..self.length as i64).collect(),
            (false, _) => tokens.chain(pads(pad)).collect(),
        }
    }
}

impl Source for Tokenized {
    fn names(&self) -> Vec<String> {
        self.fillings.iter().map(|filling| filling.input.clone()).collect()
    }

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn batch(&self, range: Range<usize>) -> Result<Vec<(String, Tensor)>, CalibrationError> {
        let texts = self.texts.get(range).ok_or(CalibrationError::NoSamples)?;
        let shape = IxDyn(&[texts.len(), self.length]);
        let fill = |filling: &Filling| {
            let rows: Vec<i64> = texts.iter().flat_map(|text| self.row(filling.holds, text)).collect();
            let rows =
                ArrayD::from_shape_vec(shape.clone(), rows).map_err(|_| CalibrationError::NoSamples)?;
            let tensor = if filling.float { Tensor::F32(rows.mapv(|x| x as f32)) } else { Tensor::I64(rows) };
            Ok((filling.input.clone(), tensor))
        };
        self.fillings.iter().map(fill).collect()
    }
}

/// The tokenizer in a file.
fn open(path: &Path) -> Result<Tokenizer, CalibrationError> {
    let failed = |source| CalibrationError::Io { path: path.into(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > limits::TOKENIZER_BYTES {
        let problem = "it is no file of a tokenizer's size".to_owned();
        return Err(CalibrationError::Tokenizer { path: path.into(), problem });
    }
    Tokenizer::from_file(path).map_err(|error| CalibrationError::Tokenizer {
        path: path.into(),
        problem: format!("{error}; Hugging Face's tokenizers write such files, called tokenizer.json"),
    })
}
