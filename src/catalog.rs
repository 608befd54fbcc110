//! Static lists of what can be chosen by name: scorers, recoveries, kinds of units. An entry is one implementation of the list's
//! trait; callers hold it as a [`Choice`], which files and command lines write as the entry's identifier.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{named::UnknownName, settings::Declared};

/// What every entry of a list says of itself.
pub trait Entry: Sync + 'static {
    /// The identifier, in kebab case: what is written in files, in reports and after flags. Unique in its list, and never changed.
    fn id(&self) -> &'static str;

    /// One sentence for people who choose, with its full stop.
    fn about(&self) -> &'static str;

    /// The settings that it reads. Entries of any list may declare the same one.
    fn settings(&self) -> &'static [&'static dyn Declared] {
        &[]
    }
}

/// A trait whose implementations are listed; implemented for the trait object.
pub trait Catalog: Entry {
    /// What an entry is, with its article: "a way to score".
    const ENTRY: &'static str;

    /// All entries. Their order is that of [`Choice`], and what it decides beyond that the trait says.
    fn entries() -> &'static [&'static Self];
}

/// The settings that the entries of a list declare, each once, in the order of the list.
pub fn settings<T: ?Sized + Catalog>() -> Vec<&'static dyn Declared> {
    let mut found: Vec<&'static dyn Declared> = Vec::new();
    for setting in T::entries().iter().flat_map(|entry| entry.settings()) {
        if found.iter().all(|known| known.name() != setting.name()) {
            found.push(*setting);
        }
    }
    found
}

/// An entry of a list. Two choices are equal if their identifiers are.
pub struct Choice<T: ?Sized + 'static>(&'static T);

impl<T: ?Sized> Choice<T> {
    /// The choice of `entry`. One that the list does not have works as well, but files that name it cannot be read.
    pub const fn of(entry: &'static T) -> Self {
        Self(entry)
    }
}

impl<T: ?Sized + Catalog> Choice<T> {
    /// All choices, in the order of the list.
    pub fn all() -> impl Iterator<Item = Self> {
        T::entries().iter().map(|entry| Self(*entry))
    }

    /// The place in the list; behind all others for what is not in it.
    fn rank(self) -> usize {
        Self::all().position(|entry| entry.id() == self.id()).unwrap_or(usize::MAX)
    }
}

impl<T: ?Sized + Catalog> FromStr for Choice<T> {
    type Err = UnknownName;

    fn from_str(id: &str) -> Result<Self, UnknownName> {
        let unknown = || UnknownName {
            name: id.to_owned(),
            what: T::ENTRY,
            known: Self::all().map(|entry| entry.id()).collect(),
        };
        Self::all().find(|entry| entry.id() == id).ok_or_else(unknown)
    }
}

impl<T: ?Sized> Deref for Choice<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

impl<T: ?Sized> Clone for Choice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Choice<T> {}

impl<T: ?Sized + Entry> PartialEq for Choice<T> {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl<T: ?Sized + Entry> Eq for Choice<T> {}

impl<T: ?Sized + Catalog> PartialOrd for Choice<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: ?Sized + Catalog> Ord for Choice<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.rank(), self.id()).cmp(&(other.rank(), other.id()))
    }
}

impl<T: ?Sized + Entry> Hash for Choice<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

impl<T: ?Sized + Entry> fmt::Debug for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl<T: ?Sized + Entry> fmt::Display for Choice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl<T: ?Sized + Entry> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

impl<'de, T: ?Sized + Catalog> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{recover::Recovery, reduction::Reduction, score::Scorer};

    fn identifiers_are_unique<T: ?Sized + Catalog>() {
        let ids: BTreeSet<&str> = T::entries().iter().map(|entry| entry.id()).collect();
        assert_eq!(ids.len(), T::entries().len());
        for choice in Choice::<T>::all() {
            let plain = choice.id().chars().all(|c| c.is_ascii_lowercase() || c == '-');
            assert!(plain && choice.about().ends_with('.') && !choice.about().contains("--"), "{choice}");
            assert_eq!(choice.id().parse(), Ok(choice));
            let text = serde_json::to_string(&choice).unwrap();
            assert_eq!(text, format!("\"{choice}\""));
            assert_eq!(serde_json::from_str::<Choice<T>>(&text).unwrap(), choice);
        }
    }

    #[test]
    fn every_entry_is_found_by_its_own_identifier() {
        identifiers_are_unique::<dyn Scorer>();
        identifiers_are_unique::<dyn Recovery>();
        identifiers_are_unique::<dyn Reduction>();
    }

    #[test]
    fn settings_of_one_name_are_one_setting() {
        let mut known = BTreeMap::new();
        let scorers = <dyn Scorer>::entries().iter().flat_map(|entry| entry.settings());
        let recoveries = <dyn Recovery>::entries().iter().flat_map(|entry| entry.settings());
        for setting in scorers.chain(recoveries) {
            let said = (setting.metavar(), setting.help(), setting.default());
            let first = known.entry(setting.name()).or_insert_with(|| said.clone());
            assert_eq!(*first, said, "{}", setting.name());
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_that_there_are() {
        let error = "guess".parse::<Choice<dyn Scorer>>().unwrap_err().to_string();
        assert!(error.starts_with("`guess` is not a way to score: there are sketch, exact"), "{error}");
    }
}
