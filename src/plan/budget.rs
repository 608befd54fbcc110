//! Budgets as people write them: `0.5`, `50%`, `4.2G`.

use std::str::FromStr;

use super::cost::CostModel;

/// A share of the dense model, or an absolute number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Of the dense model's cost, between 0 and 1.
    Share(f64),
    /// In the unit of the cost.
    Absolute(f64),
}

/// No model costs as little: a number up to this without a unit is a share in disguise.
const SMALLEST: f64 = 100.0;

/// What was not understood.
#[derive(Debug, thiserror::Error)]
pub enum ParseBudgetError {
    /// It is no number, or one that no budget can be.
    #[error("`{0}` is not a budget: write a share such as 0.5 or 50%, or a number such as 4.2G, 300M or 1e9")]
    Unknown(String),
    /// A share is at most 1.
    #[error("`{0}` is not a budget: a share is at most 1, as in 0.5 or 50%")]
    Share(String),
    /// Of this cost, no share can be asked for.
    #[error("`{text}` is not a budget of {unit}: write a number such as 4.2G, 300M or 1e9")]
    Number {
        /// What was written.
        text: String,
        /// What is counted.
        unit: &'static str,
    },
    /// It is no time.
    #[error(
        "`{0}` is not a budget of time: write a share such as 0.6 or 60%, or a time such as 12ms, 0.5s or 800us"
    )]
    Time(String),
    /// A percentage without its sign.
    #[error("`{0}` is less than any model costs: did you mean {0}%?")]
    Percent(String),
    /// Several budgets.
    #[error(
        "`{0}` is not one budget: a run has one of each cost; save its scores, and plan the others from them without scoring anew"
    )]
    Several(String),
}

impl FromStr for Budget {
    type Err = ParseBudgetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains([',', ';']) {
            return Err(ParseBudgetError::Several(text.to_owned()));
        }
        let error = || ParseBudgetError::Unknown(text.to_owned());
        let (number, scale) = match text.trim().char_indices().last() {
            Some((i, unit)) if unit.is_ascii_alphabetic() || unit == '%' => (&text.trim()[..i], Some(unit)),
            _ => (text.trim(), None),
        };
        let number: f64 = number.trim().parse().map_err(|_| error())?;
        let budget = match scale {
            Some('%') => Self::Share(number / 100.0),
            Some('k' | 'K') => Self::Absolute(number * 1e3),
            Some('M') => Self::Absolute(number * 1e6),
            Some('G') => Self::Absolute(number * 1e9),
            Some('T') => Self::Absolute(number * 1e12),
            Some(_) => return Err(error()),
            None if number <= 1.0 => Self::Share(number),
            None if number < 2.0 => return Err(ParseBudgetError::Share(text.to_owned())),
            None if number <= SMALLEST => return Err(ParseBudgetError::Percent(text.trim().to_owned())),
            None => Self::Absolute(number),
        };
        match budget {
            Self::Share(share) if share > 0.0 && share <= 1.0 => Ok(budget),
            Self::Share(share) if share > 1.0 => Err(ParseBudgetError::Share(text.to_owned())),
            Self::Absolute(count) if count >= 1.0 && count.is_finite() => Ok(budget),
            _ => Err(error()),
        }
    }
}

impl Budget {
    /// The budget of a cost that people write so.
    ///
    /// # Errors
    /// When it is none, or none of this cost.
    pub fn of(model: &dyn CostModel, text: &str) -> Result<Self, ParseBudgetError> {
        match text.parse()? {
            Self::Share(_) if !model.takes_share() => {
                Err(ParseBudgetError::Number { text: text.to_owned(), unit: model.unit() })
            }
            budget => Ok(budget),
        }
    }

    /// A budget of time: a share, or a number of picoseconds.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_time(text: &str) -> Result<Self, ParseBudgetError> {
        let text = text.trim();
        let error = || ParseBudgetError::Time(text.to_owned());
        // The longest first: seconds end as milliseconds do.
        let units = [("ms", 1e9), ("us", 1e6), ("\u{b5}s", 1e6), ("s", 1e12)];
        let Some((number, scale)) =
            units.into_iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
        else {
            return match text.parse() {
                Ok(share @ Self::Share(_)) => Ok(share),
                Err(too_large @ ParseBudgetError::Share(_)) if text.ends_with('%') => Err(too_large),
                _ => Err(error()),
            };
        };
        let picoseconds = number.trim().parse::<f64>().map_err(|_| error())? * scale;
        let is_time = picoseconds >= 1.0 && picoseconds <= u64::MAX as f64;
        if is_time { Ok(Self::Absolute(picoseconds)) } else { Err(error()) }
    }

    /// The budget in absolute terms, for a dense model of cost `dense`.
    pub fn target(self, dense: u64) -> u64 {
        match self {
            Self::Share(share) => (share * dense as f64).floor() as u64,
            Self::Absolute(count) => count as u64,
        }
    }

    /// The budget in FLOPs that this is in multiply-accumulates: a share stays one.
    pub fn of_macs(self) -> Self {
        match self {
            Self::Share(share) => Self::Share(share),
            Self::Absolute(count) => Self::Absolute(2.0 * count),
        }
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{}%", share * 100.0),
            Self::Absolute(count) => write!(f, "{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        let of = |text: &str| Budget::of_time(text).unwrap();
        assert_eq!([of("0.6"), of("60%")], [Budget::Share(0.6); 2]);
        assert_eq!([of("12ms"), of("12 ms"), of("0.012s"), of("12000us")], [Budget::Absolute(12e9); 4]);
        for wrong in ["", "12", "12G", "ms", "-1ms", "0s", "NaNms", "infs", "1.5", "0"] {
            let error = Budget::of_time(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}`")), "{error}");
        }
    }

    #[test]
    fn budgets_are_read_as_people_write_them() {
        assert_eq!("0.5".parse::<Budget>().unwrap(), Budget::Share(0.5));
        assert_eq!("50%".parse::<Budget>().unwrap(), Budget::Share(0.5));
        assert_eq!("4.2G".parse::<Budget>().unwrap(), Budget::Absolute(4.2e9));
        for wrong in ["", "half", "-1", "0", "150%", "3Q", "NaN", "é"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
        let said = |text: &str| text.parse::<Budget>().unwrap_err().to_string();
        assert!(said("1.5").contains("a share is at most 1"), "{}", said("1.5"));
        assert!(said("50").contains("did you mean 50%?"), "{}", said("50"));
        assert!(said("150%").contains("a share is at most 1"), "{}", said("150%"));
        assert!(said("0.7,0.5").contains("save its scores"), "{}", said("0.7,0.5"));
        assert_eq!(Budget::Absolute(1e9).of_macs(), Budget::Absolute(2e9));
        assert_eq!(Budget::Share(0.5).of_macs(), Budget::Share(0.5));
        assert_eq!("101".parse::<Budget>().unwrap(), Budget::Absolute(101.0));
    }
}
