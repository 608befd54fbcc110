//! What people write after flags.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use regex::Regex;

pub(super) use crate::settings::count;
use crate::{
    Named, UnknownName,
    calibration::{PreprocessError, Preprocessing},
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
