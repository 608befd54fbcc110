//! Flags that are declared elsewhere: names of lists' entries as values, and entries' settings as flags.

use std::{fmt, marker::PhantomData};

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use serde_json::Value;

use crate::{
    catalog::{self, Catalog, Choice},
    settings::{Declared, SettingValues, shown},
};

/// The identifiers of a list's entries, with what they say of themselves.
pub(super) fn values<T: ?Sized + Catalog>() -> impl Iterator<Item = PossibleValue> {
    Choice::<T>::all().map(|entry| PossibleValue::new(entry.id()).help(entry.about().trim_end_matches('.')))
}

/// Reads the identifier of an entry.
pub(super) fn choice<T: ?Sized + Catalog>() -> impl TypedValueParser<Value = Choice<T>> {
    PossibleValuesParser::new(values::<T>()).try_map(|id| id.parse::<Choice<T>>())
}

/// An entry, or none.
#[derive(Clone, Debug)]
pub(super) struct OrOff<C>(pub(super) Option<C>);

/// Reads the identifier of an entry, or `off` for none.
pub(super) fn choice_or_off<T: ?Sized + Catalog>() -> impl TypedValueParser<Value = OrOff<Choice<T>>> {
    let off = PossibleValue::new(OFF).help("Nothing is changed after units are removed");
    let values = std::iter::once(off).chain(values::<T>());
    PossibleValuesParser::new(values).try_map(|id| match id.as_str() {
        OFF => Ok(OrOff(None)),
        id => id.parse::<Choice<T>>().map(|choice| OrOff(Some(choice))),
    })
}

/// What stands for no entry.
const OFF: &str = "off";

/// The settings of a list's entries that are given, as flags of their names.
pub(super) struct SettingFlags<T: ?Sized + Catalog> {
    /// Those that are given.
    pub(super) given: SettingValues,
    list: PhantomData<&'static T>,
}

impl<T: ?Sized + Catalog> SettingFlags<T> {
    /// The entry that a given setting chooses, if one does.
    pub(super) fn chosen(&self) -> Option<Choice<T>> {
        let chooses =
            |setting: &&dyn Declared| setting.chooses() && self.given.given(setting.name()).is_some();
        Choice::<T>::all().find(|entry| entry.settings().iter().any(chooses))
    }
}

impl<T: ?Sized + Catalog> fmt::Debug for SettingFlags<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.given.fmt(f)
    }
}

fn flag(setting: &'static dyn Declared) -> Arg {
    let arg = Arg::new(setting.name()).long(setting.name());
    let Some(metavar) = setting.metavar() else {
        return arg.help(setting.help()).action(ArgAction::SetTrue);
    };
    arg.help(format!("{} [default: {}]", setting.help(), shown(&setting.default())))
        .value_name(metavar)
        .value_parser(move |text: &str| setting.parse(text))
        .allow_negative_numbers(true)
}

impl<T: ?Sized + Catalog> Args for SettingFlags<T> {
    fn augment_args(command: Command) -> Command {
        command.args(catalog::settings::<T>().into_iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: ?Sized + Catalog> FromArgMatches for SettingFlags<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = SettingValues::default();
        for setting in catalog::settings::<T>() {
            let name = setting.name();
            let value = match setting.metavar() {
                Some(_) => matches.get_one::<Value>(name).cloned(),
                None => matches.get_flag(name).then_some(Value::Bool(true)),
            };
            if let Some(value) = value {
                given.insert(name, value);
            }
        }
        Ok(Self { given, list: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
