//! Calibration from text and from safetensors: tokens as Python's tokenizers have them, and files that are no text.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use optin_onnx::{
    calibration::{CalibrationError, CalibrationOptions, Note, Samples, load},
    onnx::proto::ModelProto,
    tensor::Tensor,
};
use proptest::prelude::*;
use support::text::parse;
use tempfile::TempDir;

/// A tokenizer of words and pieces of words, as BERT's.
const TOKENIZER: &str = r###"{"version": "1.0", "truncation": null, "padding": null,
"added_tokens": [
 {"id": 0, "content": "[PAD]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
 {"id": 1, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
 {"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
 {"id": 3, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
"normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
"pre_tokenizer": {"type": "BertPreTokenizer"},
"post_processor": {"type": "TemplateProcessing",
 "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
 "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
 "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
"decoder": null,
"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
 "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "the": 4, "cat": 5, "##s": 6, "sat": 7, "on": 8, "mat": 9, ".": 10, ",": 11, "a": 12, "##a": 13}}}"###;

/// A model of tokens with these further inputs.
fn bert(inputs: &str, more: &str) -> ModelProto {
    let text = format!(
        "bert (int64[N, S] input_ids{inputs}) => (float[N, S, 4] y) <float[14, 4] table = random, float[2, 4] segments = random> {{
           y = Gather (table, input_ids)
           {more}
        }}"
    );
    parse(&text).unwrap().0
}

/// The same with the inputs of BERT.
fn with_mask() -> ModelProto {
    let more = "m = Cast <to = 1> (attention_mask) s = Gather (segments, token_type_ids)";
    bert(", int64[N, S] attention_mask, int64[N, S] token_type_ids", more)
}

/// A folder with a tokenizer and a file.
fn folder(name: &str, contents: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tokenizer.json"), TOKENIZER).unwrap();
    let path = dir.path().join(name);
    fs::write(&path, contents).unwrap();
    (dir, path)
}

fn open(model: &ModelProto, path: &Path, max_length: Option<usize>) -> Result<Samples, CalibrationError> {
    load(model, None, &CalibrationOptions { calib: Some(path.into()), max_length, ..Default::default() })
}

fn from(model: &ModelProto, name: &str, contents: impl AsRef<[u8]>) -> Result<Samples, CalibrationError> {
    let (_dir, path) = folder(name, contents);
    open(model, &path, None)
}

/// What an input is fed, row by row.
fn rows(samples: &Samples, input: &str) -> Vec<Vec<i64>> {
    let feed = samples.batch(0, samples.len()).unwrap();
    let tensor = &feed.iter().find(|(name, _)| name == input).unwrap().1;
    let ints =
        tensor.to_ints().unwrap_or_else(|| tensor.to_f32().unwrap().iter().map(|x| *x as i64).collect());
    ints.chunks(tensor.shape()[1]).map(<[i64]>::to_vec).collect()
}

#[test]
fn texts_become_ids_masks_and_segments() {
    let samples = from(&with_mask(), "a.txt", "The cats sat.\n\n  \r\nA mat\r\n").unwrap();
    assert_eq!(rows(&samples, "input_ids"), [[2, 4, 5, 6, 7, 10, 3], [2, 12, 9, 3, 0, 0, 0]]);
    assert_eq!(rows(&samples, "attention_mask"), [[1; 7], [1, 1, 1, 1, 0, 0, 0]]);
    assert_eq!(rows(&samples, "token_type_ids"), [[0; 7]; 2]);
    let note = samples.notes().iter().find(|note| matches!(note, Note::Tokenized { length: 7, cut: 0, .. }));
    assert!(note.is_some(), "{:?}", samples.notes());
}

#[test]
fn all_formats_are_the_same_samples() {
    let of = |name, contents: &str| from(&with_mask(), name, contents).unwrap().sha256();
    let lines = of("a.txt", "the cat\na mat, on the cat\n");
    for (name, contents) in [
        ("b.txt", "\u{feff}the cat\r\na mat, on the cat"),
        (
            "a.jsonl",
            "{\"text\": \"the cat\", \"label\": 1}\n\n{\"id\": 4, \"text\": \"a mat, on the cat\"}\n",
        ),
        ("a.csv", "id,Text\n1,the cat\n2,\"a mat, on the cat\"\n"),
        ("b.csv", "sentence,label\nthe cat,1\n\"a mat, on\nthe cat\",2\n"),
    ] {
        assert_eq!(of(name, contents), lines, "{name}");
    }
}

#[test]
fn lengths_are_those_of_the_model_or_the_user() {
    let (_dir, path) = folder("a.txt", "the cat sat on the mat\na cat\n");
    let samples = open(&with_mask(), &path, Some(5)).unwrap();
    assert_eq!(rows(&samples, "input_ids"), [[2, 4, 5, 7, 3], [2, 12, 5, 3, 0]]);
    assert!(samples.notes().iter().any(|note| matches!(note, Note::Tokenized { length: 5, cut: 1, .. })));
    let options = CalibrationOptions {
        calib: Some(path.clone()),
        shapes: vec![("input_ids".into(), vec![1, 6])],
        ..Default::default()
    };
    let fixed = load(&with_mask(), None, &options).unwrap();
    assert_eq!(rows(&fixed, "input_ids"), [[2, 4, 5, 7, 8, 3], [2, 12, 5, 3, 0, 0]]);
    let shorter = load(&with_mask(), None, &CalibrationOptions { max_length: Some(4), ..options }).unwrap();
    assert_eq!(rows(&shorter, "input_ids"), [[2, 4, 5, 3, 0, 0], [2, 12, 5, 3, 0, 0]]);
    let none = open(&with_mask(), &path, Some(2)).unwrap_err();
    assert!(
        matches!(&none, CalibrationError::Tokenizer { .. }) && none.to_string().contains("adds 2"),
        "{none}"
    );
}

#[test]
fn padding_goes_where_the_tokenizer_wants_it() {
    let (dir, path) = folder("a.txt", "the cat\nmat\n");
    let left = TOKENIZER.replace(
        r#""padding": null"#,
        r#""padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null, "pad_id": 13, "pad_type_id": 0, "pad_token": "x"}"#,
    );
    fs::write(dir.path().join("tokenizer.json"), left).unwrap();
    let more = "m = Cast <to = 1> (mask) p = Gather (table, position_ids)";
    let model = bert(", int64[N, S] mask, int64[N, S] position_ids", more);
    let samples = open(&model, &path, None).unwrap();
    assert_eq!(rows(&samples, "input_ids"), [[2, 4, 5, 3], [13, 2, 9, 3]]);
    assert_eq!(rows(&samples, "mask"), [[1; 4], [0, 1, 1, 1]]);
    assert_eq!(rows(&samples, "position_ids"), [[0, 1, 2, 3], [0, 0, 1, 2]]);
}

#[test]
fn inputs_are_told_by_what_the_model_does_with_them() {
    let text = "m (int64[N, S] a, int64[N, S] b, float[N, S] some_mask, int64[N, S] c) => (float[N, S, 4] y)
        <float[14, 4] table = random, float[2, 4] segments = random> {
           y = Gather (table, a) s = Gather (segments, c) m = Cast <to = 1> (b) n = Neg (some_mask)
        }";
    let model = parse(text).unwrap().0;
    // Two that can be the mask.
    let unclear = from(&model, "a.txt", "the cat\n").unwrap_err();
    assert!(
        matches!(&unclear, CalibrationError::NotForText { .. }) && unclear.to_string().contains("some_mask")
    );
    let model = parse(&text.replace(", int64[N, S] b", "").replace("m = Cast <to = 1> (b)", "")).unwrap().0;
    let samples = from(&model, "a.txt", "the cat\n").unwrap();
    assert_eq!(rows(&samples, "a"), [[2, 4, 5, 3]]);
    assert_eq!((rows(&samples, "some_mask"), rows(&samples, "c")), (vec![vec![1; 4]], vec![vec![0; 4]]));
}

#[test]
fn what_cannot_be_filled_is_named() {
    for (inputs, named) in [
        (", float[N, 3] features", "features"),
        (", int64[N, S] decoder_input_ids", "decoder_input_ids"),
        (", float[N, 2, S] past_keys", "past_keys"),
        (", int64[N] unique_ids", "unique_ids"),
    ] {
        let error = from(&bert(inputs, ""), "a.txt", "the cat\n").unwrap_err();
        assert!(matches!(error, CalibrationError::NotForText { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    let (dir, path) = folder("a.txt", "the cat\n");
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(matches!(open(&with_mask(), &path, None), Err(CalibrationError::NoTokenizer { .. })));
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(open(&with_mask(), &path, None), Err(CalibrationError::Tokenizer { .. })));
    // The tokenizer of another model: its ids are beyond the table.
    let small = parse(
        "m (int64[N, S] input_ids) => (float[N, S, 4] y) <float[9, 4] t = random> { y = Gather (t, input_ids) }",
    );
    assert!(matches!(from(&small.unwrap().0, "a.txt", "mat\n"), Err(CalibrationError::Unsuitable { .. })));
}

#[test]
fn files_that_are_no_text_are_errors_that_say_where() {
    let line = |name, contents: &[u8]| match from(&with_mask(), name, contents) {
        Err(CalibrationError::Text { line, .. }) => line,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(line("a.txt", b"good\nb\xffd\n"), 2);
    assert_eq!(line("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": "), 2);
    assert_eq!(line("a.jsonl", b"\n{\"text\": 3}\n"), 2);
    assert_eq!(line("a.jsonl", b"[1]\n"), 1);
    assert_eq!(line("a.txt", &[b"a\n".as_slice(), &vec![b'a'; 2 << 20]].concat()), 2);
    assert_eq!(line("a.csv", &[b"text\n\"".as_slice(), &vec![b'a'; 2 << 20]].concat()), 1);
    for (name, contents) in
        [("a.txt", ""), ("a.txt", " \n\n"), ("a.csv", "text\n"), ("a.csv", ""), ("a.jsonl", "")]
    {
        let error = from(&with_mask(), name, contents).unwrap_err();
        assert!(error.to_string().contains("there are no samples"), "{name} {contents:?}: {error}");
    }
}

#[test]
fn only_the_beginning_of_a_long_text_is_read() {
    let long = "the cat sat on a mat\n".repeat(1 << 20);
    let (_dir, path) = folder("a.txt", long);
    let samples = open(&with_mask(), &path, None).unwrap();
    assert_eq!(samples.len(), 256);
    assert!(samples.notes().contains(&Note::FirstTexts { read: 1 << 16 }), "{:?}", samples.notes());
    assert_eq!(rows(&samples, "input_ids")[255], [2, 4, 5, 7, 8, 12, 9, 3]);
}

#[test]
fn ids_are_those_of_pythons_tokenizers() {
    let Ok(python) = std::env::var("OPTIN_PYTHON") else { return };
    let text = "The cats sat on the mats.\nÉtude, a CAT\n猫 cat 猫\nunknowable things\n\tthe\u{a0}cat\u{200b}s \nacats aa aaa\n";
    let (dir, path) = folder("a.txt", text);
    let script = "import sys, json; from tokenizers import Tokenizer; t = Tokenizer.from_file(sys.argv[1]); \
                  t.enable_truncation(9); t.enable_padding(); lines = open(sys.argv[2], newline='\\n').read().splitlines(); \
                  print(json.dumps([[e.ids, e.attention_mask, e.type_ids] for e in t.encode_batch(lines)]))";
    let output =
        Command::new(python).args(["-c", script]).arg(dir.path().join("tokenizer.json")).arg(&path).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<[Vec<i64>; 3]> = serde_json::from_slice(&output.stdout).unwrap();
    let samples = open(&with_mask(), &path, Some(9)).unwrap();
    for (place, input) in ["input_ids", "attention_mask", "token_type_ids"].into_iter().enumerate() {
        let theirs: Vec<Vec<i64>> = theirs.iter().map(|text| text[place].clone()).collect();
        assert_eq!(rows(&samples, input), theirs, "{input}");
    }
}

// Safetensors.

/// A file of one tensor `x` of floats.
fn tensors(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &data).unwrap();
    safetensors::serialize([("x", view)], None).unwrap()
}

fn reading() -> ModelProto {
    parse("m (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }").unwrap().0
}

#[test]
fn safetensors_are_the_samples_that_were_written() {
    let values: Vec<f32> = (0..15).map(|x| x as f32 / 7.0).collect();
    let samples = from(&reading(), "a.safetensors", tensors(&[5, 3], &values)).unwrap();
    let held = Samples::new(&reading(), vec![("x".into(), Tensor::f32(&[5, 3], values).unwrap())]).unwrap();
    assert_eq!((samples.len(), samples.sha256()), (5, held.sha256()));
    let wide = from(&reading(), "a.safetensors", tensors(&[1, 4], &[0.0; 4])).unwrap_err();
    assert!(wide.to_string().contains("must have extent 3"), "{wide}");
    let empty = from(&reading(), "a.safetensors", tensors(&[0, 3], &[])).unwrap_err();
    assert!(empty.to_string().contains("is empty"), "{empty}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is done to a file, it is read or refused.
    #[test]
    fn damaged_safetensors_are_refused(place in 0usize..200, byte in any::<u8>(), length in 0usize..200) {
        let mut bytes = tensors(&[5, 3], &[1.0; 15]);
        let at = place % bytes.len();
        bytes[at] = byte;
        bytes.truncate(length.max(1));
        if let Ok(samples) = from(&reading(), "a.safetensors", bytes) {
            prop_assert!(samples.batch(0, samples.len()).is_ok());
        }
    }

    /// Bytes of any kind are samples or an error.
    #[test]
    fn any_bytes_are_text_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), format in 0usize..3) {
        let name = ["a.txt", "a.jsonl", "a.csv"][format];
        if let Ok(samples) = from(&with_mask(), name, &bytes) {
            prop_assert!(samples.len() > 0);
        }
    }
}
