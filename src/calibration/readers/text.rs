//! Files of text: a sample per line, per object or per record.

use std::{ffi::OsStr, io::Read, path::Path};

use serde_json::Value;

use super::{Opened, Reader, Request, file_bytes, has_extension, open_file};
use crate::{
    calibration::{CalibrationError, Note, tokens},
    limits,
};

/// The field or column that texts are in.
const FIELD: &str = "text";
/// Texts that are used where nobody says how many.
const ENOUGH: usize = 256;

/// Texts, split by the tokenizer of the model.
pub(super) struct Text;

impl Reader for Text {
    fn id(&self) -> &'static str {
        "text"
    }

    fn about(&self) -> &'static str {
        "text as .txt (a sample per line), .jsonl or .csv (field or column `text`), with a tokenizer.json"
    }

    fn accepts(&self, path: &Path) -> bool {
        ["txt", "jsonl", "csv"].iter().any(|extension| has_extension(path, extension))
    }

    fn open(&self, path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let found = || request.companion("tokenizer.json", folder);
        let tokenizer = request.options.tokenizer.clone().or_else(found);
        let tokenizer = tokenizer.ok_or_else(|| CalibrationError::NoTokenizer { path: path.into() })?;
        let fillings = tokens::fillings(path, request.specs)?;
        let Texts { texts, whole } = Texts::read(path)?;
        let source = tokens::Tokenized::new(&tokenizer, fillings, &texts, request.options.max_length)?;
        let mut notes = vec![Note::Tokenized { tokenizer, length: source.length(), cut: source.cut() }];
        if !whole {
            notes.push(Note::FirstTexts { read: texts.len() });
        }
        Ok(Opened { notes, enough: Some(ENOUGH), ..Opened::new(source) })
    }
}

/// Samples of text, none of them blank.
struct Texts {
    texts: Vec<String>,
    /// Whether these are all that the file has.
    whole: bool,
}

impl Texts {
    fn read(path: &Path) -> Result<Self, CalibrationError> {
        let mut bytes = Vec::new();
        let file = open_file(path)?.take(limits::TEXT_BYTES);
        let failed = |source| CalibrationError::Io { path: path.into(), source };
        { file }.read_to_end(&mut bytes).map_err(failed)?;
        let mut whole = file_bytes(path) <= limits::TEXT_BYTES;
        if !whole {
            // The last line is cut.
            bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(bytes.len()));
        }
        let text = String::from_utf8(bytes).map_err(|error| not_utf8(path, &error))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
        let mut texts = match extension.as_deref() {
            Some("jsonl") => objects(path, text)?,
            Some("csv") => records(path, text, whole)?,
            _ => lines(text).map(|(_, line)| line.to_owned()).collect(),
        };
        if let Some(long) = texts.iter().position(|text| text.len() > limits::TEXT_SAMPLE) {
            let problem = format!(
                "is the sample of more than {} bytes: a sentence or a paragraph is meant",
                limits::TEXT_SAMPLE
            );
            return Err(CalibrationError::Text { path: path.into(), line: long as u64 + 1, problem });
        }
        whole &= texts.len() <= limits::TEXTS;
        texts.truncate(limits::TEXTS);
        Ok(Self { texts, whole })
    }
}

fn not_utf8(path: &Path, error: &std::string::FromUtf8Error) -> CalibrationError {
    let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
    let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count() as u64;
    CalibrationError::Text {
        path: path.into(),
        line,
        problem: "is not UTF-8: save the file as such".to_owned(),
    }
}

/// Lines that are not blank, with their numbers from 1 on.
fn lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// The texts of JSON objects, one a line.
fn objects(path: &Path, text: &str) -> Result<Vec<String>, CalibrationError> {
    let object = |(line, text): (u64, &str)| {
        let wrong = |problem| CalibrationError::Text { path: path.into(), line, problem };
        let object: Value =
            serde_json::from_str(text).map_err(|error| wrong(format!("is no JSON: {error}")))?;
        let text = object.get(FIELD).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| wrong(format!("has no field `{FIELD}` with a text")))
    };
    lines(text).map(object).collect()
}

/// The column of that name in records with a header, or else the first. The last record is left out where the file goes on.
fn records(path: &Path, text: &str, whole: bool) -> Result<Vec<String>, CalibrationError> {
    let damaged = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        CalibrationError::Text { path: path.into(), line, problem: format!("is no record: {error}") }
    };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let headers = reader.headers().map_err(damaged)?;
    let column = headers.iter().position(|name| name.trim().eq_ignore_ascii_case(FIELD)).unwrap_or(0);
    let mut texts = Vec::new();
    for record in reader.records() {
        texts.push(record.map_err(damaged)?.get(column).unwrap_or_default().to_owned());
    }
    if !whole {
        texts.pop();
    }
    texts.retain(|text| !text.trim().is_empty());
    Ok(texts)
}
