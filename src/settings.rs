//! SettingValues of scorers and recoveries. Each is declared once, beside the code that reads it; flags, help, and what saved scores say
//! of how they were made come from there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// A setting whose values are of type `T`.
pub struct Setting<T> {
    /// The name, in kebab case: a flag without its dashes.
    pub name: &'static str,
    /// What stands for the value in help, such as `N`; `None` for a switch, which is on where it is named.
    pub metavar: Option<&'static str>,
    /// What it does, in one or two sentences without a full stop at the end; the default value is added to it.
    pub help: &'static str,
    /// The value where none is given.
    pub default: T,
    /// Reads a value; the error says what is wrong with the text.
    pub parse: fn(&str) -> Result<T, String>,
    /// Whether giving it chooses the entry that declares it, whatever else is chosen.
    pub chooses: bool,
}

/// A declared setting, whatever the type of its values.
pub trait Declared: Sync {
    /// [`Setting::name`].
    fn name(&self) -> &'static str;
    /// [`Setting::metavar`].
    fn metavar(&self) -> Option<&'static str>;
    /// [`Setting::help`].
    fn help(&self) -> &'static str;
    /// [`Setting::chooses`].
    fn chooses(&self) -> bool;
    /// [`Setting::default`].
    fn default(&self) -> Value;
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn parse(&self, text: &str) -> Result<Value, String>;
}

impl<T: Serialize + Sync> Declared for Setting<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metavar(&self) -> Option<&'static str> {
        self.metavar
    }

    fn help(&self) -> &'static str {
        self.help
    }

    fn chooses(&self) -> bool {
        self.chooses
    }

    fn default(&self) -> Value {
        value(&self.default)
    }

    fn parse(&self, text: &str) -> Result<Value, String> {
        (self.parse)(text).map(|parsed| value(&parsed))
    }
}

fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// A value for people: numbers as they are written, `auto` for none.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "auto".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => number.as_f64().unwrap_or_default().to_string(),
        other => other.to_string(),
    }
}

/// Values of settings by name; settings that it does not hold have their default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SettingValues(BTreeMap<String, Value>);

impl SettingValues {
    /// Gives a setting a value.
    pub fn set<T: Serialize>(&mut self, setting: &Setting<T>, to: T) {
        self.insert(setting.name, value(&to));
    }

    /// The same with one setting more.
    #[must_use]
    pub fn with<T: Serialize>(mut self, setting: &Setting<T>, to: T) -> Self {
        self.set(setting, to);
        self
    }

    /// Gives the setting of that name a value that was parsed.
    pub fn insert(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// The value of a setting: what was given, or else its default.
    pub fn get<T: DeserializeOwned + Clone>(&self, setting: &Setting<T>) -> T {
        let given = self.0.get(setting.name).and_then(|given| serde_json::from_value(given.clone()).ok());
        given.unwrap_or_else(|| setting.default.clone())
    }

    /// The value given to the setting of that name.
    pub fn given(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The names and values that were given, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The values of some settings, defaults included, and of no others.
    #[must_use]
    pub fn resolved(&self, declared: &[&dyn Declared]) -> Self {
        let resolve = |setting: &&dyn Declared| {
            let given = self.given(setting.name()).cloned();
            (setting.name().to_owned(), given.unwrap_or_else(|| setting.default()))
        };
        Self(declared.iter().map(resolve).collect())
    }
}

/// Reads a number of things of which there has to be one.
pub fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(format!("`{text}` is not a whole number from 1 on")),
    }
}

/// Reads a finite number from zero on.
pub fn weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok(weight),
        _ => Err(format!("`{text}` is not a number from 0 on")),
    }
}

/// Reads `true` or `false`.
pub fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither true nor false"))
}

/// Reads a positive number, or `auto` for none.
pub fn auto_or_positive(text: &str) -> Result<Option<f64>, String> {
    match text.parse() {
        _ if text == "auto" => Ok(None),
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(Some(number)),
        _ => Err(format!("`{text}` is neither auto nor a positive number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SHARE: Setting<f64> =
        Setting { name: "share", metavar: Some("X"), help: "", default: 30.0, parse: weight, chooses: false };
    static RIDGE: Setting<Option<f64>> = Setting {
        name: "ridge",
        metavar: Some("auto|X"),
        help: "",
        default: None,
        parse: auto_or_positive,
        chooses: false,
    };

    #[test]
    fn what_is_not_given_is_the_default() {
        let settings = SettingValues::default().with(&RIDGE, Some(0.1));
        assert_eq!((settings.get(&SHARE), settings.get(&RIDGE)), (30.0, Some(0.1)));
        let resolved = settings.resolved(&[&SHARE, &RIDGE]);
        let text = serde_json::to_string(&resolved).unwrap();
        assert_eq!(text, r#"{"ridge":0.1,"share":30.0}"#);
        assert_eq!(serde_json::from_str::<SettingValues>(&text).unwrap(), resolved);
        assert_eq!(resolved.resolved(&[&SHARE]).iter().count(), 1);
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        let shown = |setting: &dyn Declared, text: &str| setting.parse(text).map(|value| shown(&value));
        assert_eq!(shown(&SHARE, "30"), Ok("30".to_owned()));
        assert_eq!(shown(&RIDGE, "auto"), Ok("auto".to_owned()));
        assert!(shown(&SHARE, "-1").is_err() && shown(&RIDGE, "0").is_err());
    }

    #[test]
    fn there_has_to_be_one() {
        assert_eq!(count("3"), Ok(3));
        assert!(count("0").is_err() && count("-1").is_err());
    }
}
