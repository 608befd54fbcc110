//! What models cost: one file per quantity, and [`COST_MODELS`] lists them.
//!
//! A cost is a polynomial in the sizes of the prunable dimensions, so that plans are made without pruning anything; one that is
//! measured goes by tables of extents. What it says
//! is held against a count on the pruned model and on the written file.

mod bytes;
mod flops;
mod parameters;
mod polynomial;

pub use bytes::Bytes;
pub use flops::Flops;
pub use parameters::Parameters;
pub(super) use polynomial::Running;
#[cfg(test)]
pub(super) use polynomial::tests::{polynomial, stepped};
pub use polynomial::{Cost, Curve};

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};

use crate::{
    calibration::{CalibrationError, Samples},
    graph::{Facts, Graph},
    model::ModelView,
    onnx::proto::ModelProto,
    runtime::{Engine, RuntimeError},
    typing::Dimension,
    widths::Widths,
};

/// All costs that are told of a model and that may have a budget, in the order of tables. Of a budget that is not named, the first.
pub static COST_MODELS: &[&dyn CostModel] = &[&Flops, &Parameters, &Bytes];

/// A quantity that models take and pruning saves.
pub trait CostModel: fmt::Debug + Sync {
    /// Its name in files and on the command line: `flops`. Unique, and never changed.
    fn id(&self) -> &'static str;

    /// Its name for people.
    fn name(&self) -> &'static str;

    /// What comes after a number of it.
    fn unit(&self) -> &'static str;

    /// A sentence on what a budget of it counts.
    fn about(&self) -> &'static str;

    /// What the model costs, by the sizes of its dimensions. No term falls when a dimension grows.
    fn cost(&self, view: &CostView<'_>) -> Cost;

    /// What a pruned model costs, from the model or its file alone.
    ///
    /// # Errors
    /// When it has to run for that, and does not.
    fn recount(&self, pruned: &Pruned<'_>) -> Result<u64, CountError>;

    /// Whether a count that differs from the polynomial says that the model is not what was planned. Otherwise the polynomial
    /// leaves things out, and a budget holds for what is counted.
    fn is_exact(&self) -> bool {
        false
    }

    /// Whether weights that recovery adds, such as biases, count.
    fn counts_weights(&self) -> bool {
        true
    }

    /// Whether a share of the dense model's cost can be asked for.
    fn takes_share(&self) -> bool {
        true
    }
}

/// The cost model with this id.
pub fn cost_model(id: &str) -> Option<&'static dyn CostModel> {
    COST_MODELS.iter().copied().find(|model| model.id() == id)
}

/// A typed model, as costs see it.
#[derive(Clone, Copy)]
pub struct CostView<'a> {
    /// Its graph.
    pub graph: &'a Graph,
    /// What one run showed.
    pub facts: &'a Facts,
    /// The width of every axis.
    pub widths: &'a Widths,
    /// The dimensions in whose sizes costs are polynomials.
    pub dimensions: &'a [Dimension],
    /// Size of the file that it came from and of its external data, in bytes.
    pub file_bytes: u64,
}

impl<'a> CostView<'a> {
    /// Of a model that came from a file of so many bytes, external data included.
    pub fn new(view: ModelView<'a>, file_bytes: u64) -> Self {
        let ModelView { graph, facts, widths, dimensions, .. } = view;
        Self { graph, facts, widths, dimensions, file_bytes }
    }
}

/// A pruned model that is to be counted, and the means for it.
#[derive(Clone, Copy)]
pub struct Pruned<'a> {
    /// What it runs on.
    pub engine: &'a dyn Engine,
    /// The model.
    pub model: &'a ModelProto,
    /// Samples to run it on.
    pub samples: &'a Samples,
    /// Samples per run.
    pub batch: usize,
    /// Size of its file and of its external data, in bytes: as written, or as it would be.
    pub file_bytes: u64,
}

impl Pruned<'_> {
    /// Every cost, counted anew.
    ///
    /// # Errors
    /// When the model does not run.
    pub fn recount(&self) -> Result<PerCost<u64>, CountError> {
        PerCost::try_of(|model| model.recount(self))
    }
}

/// Why a model cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum CountError {
    /// It does not run.
    #[error("the model does not run: {0}")]
    Runtime(#[from] RuntimeError),
    /// Samples could not be batched.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
}

/// One value for each cost model, in the order of [`COST_MODELS`]; in JSON, an object by their ids.
#[derive(Clone, Debug, PartialEq)]
pub struct PerCost<T>(Vec<T>);

impl<T> PerCost<T> {
    /// The value that `value` gives for each cost model.
    pub fn of(value: impl FnMut(&'static dyn CostModel) -> T) -> Self {
        Self(COST_MODELS.iter().copied().map(value).collect())
    }

    /// The same of values that may not be had.
    ///
    /// # Errors
    /// The first that `value` gives.
    pub fn try_of<E>(value: impl FnMut(&'static dyn CostModel) -> Result<T, E>) -> Result<Self, E> {
        COST_MODELS.iter().copied().map(value).collect::<Result<_, E>>().map(Self)
    }

    /// The value of the cost model with this id.
    pub fn get(&self, id: &str) -> Option<&T> {
        self.iter().find(|(model, _)| model.id() == id).map(|(_, value)| value)
    }

    /// Every cost model and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static dyn CostModel, &T)> {
        COST_MODELS.iter().copied().zip(&self.0)
    }

    /// What `join` makes of each value and its like in `other`.
    pub fn zip<U, V>(&self, other: &PerCost<U>, mut join: impl FnMut(&T, &U) -> V) -> PerCost<V> {
        PerCost(self.0.iter().zip(&other.0).map(|(a, b)| join(a, b)).collect())
    }

    /// What `change` makes of each value.
    pub fn map<U>(&self, change: impl FnMut(&T) -> U) -> PerCost<U> {
        PerCost(self.0.iter().map(change).collect())
    }
}

impl<T: Serialize> Serialize for PerCost<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(model, value)| (model.id(), value)))
    }
}

/// Reads an object by the ids of costs. What else is in it does not count, as the object may be part of a larger one.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for PerCost<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = PerCost<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each cost")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PerCost<T>, A::Error> {
                let mut found: BTreeMap<&str, T> = BTreeMap::new();
                while let Some(id) = map.next_key::<String>()? {
                    match cost_model(&id) {
                        Some(model) => _ = found.insert(model.id(), map.next_value()?),
                        None => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                PerCost::try_of(|model| {
                    found.remove(model.id()).ok_or_else(|| A::Error::missing_field(model.id()))
                })
            }
        }
        from.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cost_has_an_id_of_its_own_that_can_be_a_flag() {
        for (i, model) in COST_MODELS.iter().enumerate() {
            let id = model.id();
            assert!(!id.is_empty() && id.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{id}");
            assert_eq!(COST_MODELS.iter().position(|other| other.id() == id), Some(i));
            assert_eq!(cost_model(id).map(CostModel::id), Some(id));
        }
        let numbers = PerCost::of(|model| model.id().len());
        assert_eq!((numbers.get("flops"), numbers.get("none")), (Some(&5), None));
        assert_eq!(serde_json::to_string(&numbers).unwrap(), r#"{"flops":5,"params":6,"bytes":5}"#);
    }
}
