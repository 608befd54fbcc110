//! What people write after flags.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use regex::Regex;

pub(super) use crate::settings::count;
use crate::{
    Named, UnknownName,
    calibration::{PreprocessError, Preprocessing},
    plan::{Budget, Flops},
};

/// One of the choices that the library has a table of.
pub(super) fn named<T>() -> impl TypedValueParser<Value = T>
where
    T: Named + Send + Sync + std::str::FromStr<Err = UnknownName>,
{
    let values =
        T::ALL.iter().map(|(_, name, about)| PossibleValue::new(*name).help(about.trim_end_matches('.')));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<T>())
}

/// `NAME=1x3x224x224`, or as other tools have it, `NAME:1,3,224,224`.
pub(super) fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let wrong = || format!("`{text}` is not NAME=1x3x224x224");
    let (name, sizes) = text.rsplit_once(['=', ':']).ok_or_else(wrong)?;
    let sizes =
        sizes.split(['x', 'X', ',']).map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?;
    Ok((name.to_owned(), sizes))
}

/// A command as a shell takes it.
pub(super) fn command(words: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,%+@".contains(c);
    let quoted = words.map(|word| match !word.is_empty() && word.chars().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Budgets of FLOPs: `0.9,0.7,50%`, or every tenth of `0.9..0.3`.
pub(super) fn budgets(text: &str) -> Result<Vec<Budget>, String> {
    let one = |text: &str| Budget::of(&Flops, text).map_err(|error| error.to_string());
    if text.contains("..") && text.contains(',') {
        return Err(format!("`{text}` is neither a list such as 0.9,0.7,0.5 nor a range such as 0.9..0.3"));
    }
    let Some((from, to)) = text.split_once("..") else { return text.split(',').map(one).collect() };
    let tenths = |text| match one(text)? {
        Budget::Share(share) => Ok((10.0 * share).round() as u32),
        Budget::Absolute(_) => {
            Err(format!("`{text}` is not a share such as 0.9: name such budgets one by one"))
        }
    };
    let (from, to) = (tenths(from)?, tenths(to)?);
    let steps: Vec<u32> = if from >= to { (to..=from).rev().collect() } else { (from..=to).collect() };
    Ok(steps
        .into_iter()
        .filter(|tenth| (1..10).contains(tenth))
        .map(|tenth| Budget::Share(f64::from(tenth) / 10.0))
        .collect())
}

/// What becomes of images.
pub(super) fn preprocessing(text: &str) -> Result<Preprocessing, PreprocessError> {
    text.parse()
}

/// A share as `0.5` or `50%`.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (text, 1.0),
    };
    match number.parse::<f64>().map(|number| number / scale) {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is not a share from 0 to 1, such as 0.5 or 50%")),
    }
}

/// A number of threads, 0 for as many as there are cores. Each costs memory, so that there is a most.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    match text.parse() {
        Ok(count) if count <= MOST => Ok(count),
        _ => Err(format!("`{text}` is not a whole number from 0 to {MOST}")),
    }
}

pub(super) fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number from 0 to {}", u64::MAX))
}

/// A regular expression. What shells take for names with wildcards is mostly none, and then the error says which would be.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let hint = match text.contains(['*', '?']) {
            true => format!("; layers are named by regular expressions: did you mean `{}`?", glob(text)),
            false => String::new(),
        };
        format!("{reason}{hint}")
    })
}

/// The regular expression for a name with wildcards.
fn glob(text: &str) -> String {
    let parts = text.chars().map(|c| match c {
        '*' => ".*".to_owned(),
        '?' => ".".to_owned(),
        other => regex::escape(other.encode_utf8(&mut [0; 4])),
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_other_tools_write_them() {
        for text in ["image=1x3x8x8", "image:1x3x8x8", "image:1,3,8,8", "image:1X3X8X8"] {
            assert_eq!(shape(text).unwrap(), ("image".to_owned(), vec![1, 3, 8, 8]), "{text}");
        }
        assert_eq!(shape("a:0=2").unwrap(), ("a:0".to_owned(), vec![2]));
        assert!(shape("image").is_err() && shape("image=1x-3").is_err());
    }

    #[test]
    fn commands_are_as_shells_take_them() {
        let words = ["a", "--keep", "head.*", "it's", ""].map(str::to_owned);
        assert_eq!(command(words.into_iter()), r"a --keep 'head.*' 'it'\''s' ''");
    }

    #[test]
    fn budgets_are_a_list_or_every_tenth() {
        let shares =
            |text: &str| -> Vec<String> { budgets(text).unwrap().iter().map(ToString::to_string).collect() };
        assert_eq!(shares("0.9,50%,4G"), ["90%", "50%", "4000000000"]);
        assert_eq!(shares("0.9..0.6"), ["90%", "80%", "70%", "60%"]);
        assert_eq!(shares("0.3..0.5"), ["30%", "40%", "50%"]);
        assert!(["", "0.9,", "0.9..0.3,", "0.9..4G", "0.9..", "2"].iter().all(|text| budgets(text).is_err()));
    }

    #[test]
    fn shares_may_be_percentages() {
        assert_eq!([share("0.5"), share("50%"), share("50 %")], [Ok(0.5), Ok(0.5), Ok(0.5)]);
        assert!(share("150%").is_err() && share("-0.5").is_err() && share("NaN").is_err());
    }

    #[test]
    fn what_looks_like_a_wildcard_is_told_from_a_regular_expression() {
        let error = pattern("*head.*").unwrap_err();
        assert!(error.contains(r"did you mean `.*head\..*`?"), "{error}");
        assert!(!pattern("(").unwrap_err().contains("did you mean"));
        assert!(pattern("blocks.[0-3]").is_ok());
    }

    #[test]
    fn whole_numbers_are_bounded() {
        assert!(threads("0") == Ok(0) && threads("99999999").is_err() && threads("-1").is_err());
        assert!(seed("7") == Ok(7) && seed("-1").unwrap_err().contains("whole number"));
    }
}
