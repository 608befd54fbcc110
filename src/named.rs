//! Choices that go by a name: one table says what each is called and what it is, and all else agrees with it.

/// A closed set of choices, such as the ways to score. `Display`, `FromStr` and serde use the names of the table.
pub trait Named: Copy + PartialEq + 'static {
    /// What one of them is, with its article: "a way to score".
    const WHAT: &'static str;
    /// Every choice, its name in kebab-case, and what it is in one sentence.
    const ALL: &'static [(Self, &'static str, &'static str)];

    /// Its name.
    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(choice, ..)| *choice == self).map_or("", |(_, name, _)| name)
    }

    /// The choice of that name.
    ///
    /// # Errors
    /// [`UnknownName`] where there is none.
    fn named(name: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(choice, ..)| *choice).ok_or_else(|| UnknownName {
            name: name.to_owned(),
            what: Self::WHAT,
            known: Self::ALL.iter().map(|(_, known, _)| *known).collect(),
        })
    }
}

/// No choice goes by that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not {what}: there are {}", known.join(", "))]
#[non_exhaustive]
pub struct UnknownName {
    /// What was given.
    pub name: String,
    /// What it should be.
    pub what: &'static str,
    /// The names that there are.
    pub known: Vec<&'static str>,
}

/// Implements [`Named`], `Display`, `FromStr` and serde for an enum, by one table.
macro_rules! named {
    ($choice:ty, $what:literal, [$(($variant:ident, $name:literal, $about:literal)),+ $(,)?]) => {
        impl $crate::named::Named for $choice {
            const WHAT: &'static str = $what;
            const ALL: &'static [(Self, &'static str, &'static str)] = &[$((Self::$variant, $name, $about)),+];
        }

        impl std::fmt::Display for $choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad($crate::named::Named::name(*self))
            }
        }

        impl std::str::FromStr for $choice {
            type Err = $crate::named::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                $crate::named::Named::named(name)
            }
        }

        impl serde::Serialize for $choice {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str($crate::named::Named::name(*self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $choice {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let name = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                $crate::named::Named::named(&name).map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use named;

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fmt::{Debug, Display},
        str::FromStr,
    };

    use serde::{Serialize, de::DeserializeOwned};

    use super::*;
    use crate::{
        WarningCode,
        calibration::{ChannelOrder, Filter, Fit, Layout, Preset},
        runtime::{Provider, RuntimeChoice},
        typing::Granularity,
    };

    /// The names of an enum that has so many variants, told by an exhaustive match of the caller's.
    fn agrees<T>(variants: usize)
    where
        T: Named + Debug + Display + FromStr<Err = UnknownName> + Serialize + DeserializeOwned,
    {
        let names: BTreeSet<&str> = T::ALL.iter().map(|(_, name, _)| *name).collect();
        assert_eq!((names.len(), T::ALL.len()), (variants, variants), "{names:?}");
        for (choice, name, about) in T::ALL {
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            assert!(plain && about.ends_with('.') && !about.contains("--"), "{name}: {about}");
            assert_eq!(choice.to_string(), *name);
            assert_eq!(name.parse::<T>().as_ref(), Ok(choice));
            assert_eq!(serde_json::to_string(choice).unwrap(), format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<T>(&format!("\"{name}\"")).unwrap(), *choice);
        }
        let unknown = "no such".parse::<T>().unwrap_err().to_string();
        assert!(unknown.contains(T::WHAT) && names.iter().all(|name| unknown.contains(name)), "{unknown}");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        // The number of variants of each: a new one that is not in its table is found here or has no name.
        agrees::<Granularity>(2);
        agrees::<RuntimeChoice>(3);
        agrees::<Provider>(3);
        agrees::<WarningCode>(10);
        agrees::<Fit>(3);
        agrees::<Filter>(4);
        agrees::<ChannelOrder>(2);
        agrees::<Layout>(2);
        agrees::<Preset>(5);
    }
}
