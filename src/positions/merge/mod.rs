//! Positions that say the same are merged, layer by layer, by operators that are part of the model.

mod edit;
mod pairwise;
mod region;

use serde::{Deserialize, Serialize};

pub use region::MergeRefusal;
use region::{Region, Site, sites};

use crate::{
    model::ModelView,
    onnx::proto::ModelProto,
    plan::{
        CostModel, Flops, PerCost,
        cost::{CountError, Pruned},
    },
    runtime::Engine,
    trajectory::padding,
};

/// At how many places positions are merged at most: each takes some forty small nodes, whose time is next to nothing only
/// where they are few.
const SITES: usize = 6;

/// The part of a budget that widths take where positions are merged as well: its share to this power. The optimum is flat; at
/// half of the FLOPs it lies at widths of 0.7 to 0.8 and positions for the rest.
const WIDTHS: f64 = 0.35;

/// Of the pairs that can be merged, the part that plans count on: what widths leave of the model may gain less by merging than
/// the model did.
const RELIED_ON: f64 = 0.7;

/// The share of the FLOPs that widths are brought to, where widths and positions together are to come to `share`, and merging
/// leaves `reach` of the dense model's at least.
pub(crate) fn share_of_widths(share: f64, reach: f64) -> f64 {
    share.clamp(0.0, 1.0).powf(WIDTHS).min(share / reach.max(f64::MIN_POSITIVE))
}

/// What merging came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merging {
    /// Behind which values positions are merged, in the order of the network.
    pub places: Vec<String>,
    /// Positions of a sample before the first.
    pub positions: usize,
    /// Pairs that are merged at each.
    pub pairs: Vec<usize>,
    /// Positions at the beginning that are left alone, as they are read by their place.
    pub protected: usize,
}

impl Merging {
    /// Each place, how many positions are left behind it, and how many there were before the first.
    pub fn left(&self) -> impl Iterator<Item = (String, usize, usize)> {
        let left = self.pairs.iter().scan(self.positions, |left, pairs| {
            *left = left.saturating_sub(*pairs);
            Some(*left)
        });
        self.places.iter().cloned().zip(left).map(|(place, left)| (place, left, self.positions))
    }
}

/// Where positions can be merged, or why they cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Mergeable {
    /// Behind these values.
    Behind {
        /// Their names, in the order of the network.
        places: Vec<String>,
        /// Positions of a sample before the first.
        positions: usize,
        /// Positions at the beginning that are left alone, as they are read by their place.
        protected: usize,
    },
    /// Nowhere.
    Not {
        /// Why, as a sentence.
        because: String,
    },
}

impl Mergeable {
    /// Of a typed model.
    pub fn of(engine: &dyn Engine, view: ModelView<'_>) -> Self {
        match Plan::of(engine, view) {
            Ok(plan) if plan.most() > 0 => {
                let Merging { places, positions, protected, .. } = plan.report(view, 0);
                Self::Behind { places, positions, protected }
            }
            Ok(_) => Self::Not { because: MergeRefusal::Few.to_string() },
            Err(reason) => Self::Not { because: reason.to_string() },
        }
    }
}

/// A model with merged positions, what it costs, and what was done.
pub(crate) struct Merged {
    pub model: ModelProto,
    pub costs: PerCost<u64>,
    pub merging: Merging,
}

/// Where the positions of a model would be merged.
#[derive(Debug)]
pub struct Plan {
    sites: Vec<Site>,
    region: Region,
    /// Positions before the first site, those that are read by their place left out.
    free: usize,
}

impl Plan {
    /// Of a typed model. What pairs of positions are given is looked at on its samples.
    ///
    /// # Errors
    /// Why its positions cannot be merged.
    pub fn of(engine: &dyn Engine, view: ModelView<'_>) -> Result<Self, MergeRefusal> {
        let all = sites(view)?;
        // Behind the last attention nothing is left that many positions would be dear for, but its own layer.
        let count = all.len().min(SITES);
        let sites: Vec<Site> = (0..count).filter_map(|i| all.get(i * all.len() / count).copied()).collect();
        let region = Region::of(view, &sites)?;
        pairwise::check(engine, view, &region.pairwise)?;
        let positions = |site: &Site| view.facts.get(site.value)?.shape.get(1).copied();
        let positions = sites.first().and_then(positions).unwrap_or_default();
        Ok(Self { free: positions.saturating_sub(region.protected), sites, region })
    }

    /// The most pairs that can be merged in all: no site may run out of positions.
    fn most(&self) -> usize {
        self.free / (self.sites.len() + 1) * self.sites.len()
    }

    /// So many pairs, shared out evenly; the first sites take what is left over.
    fn shared(&self, pairs: usize) -> Vec<usize> {
        let sites = self.sites.len();
        (0..sites).map(|i| pairs / sites + usize::from(i < pairs % sites)).collect()
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.sites.len()
    }

    /// The model that merges so many pairs in all.
    fn model(&self, view: ModelView<'_>, pairs: usize) -> Option<ModelProto> {
        self.with_pairs(view, &self.shared(pairs))
    }

    /// The model that merges so many pairs at each place, of as many positions as were observed; of more or fewer, as many in
    /// proportion. `None` where a node has no form for that.
    pub fn with_pairs(&self, view: ModelView<'_>, pairs: &[usize]) -> Option<ModelProto> {
        let free = (self.free as i64).max(1);
        let rate = |pairs: &usize| (*pairs as i64 * edit::PARTS + free - 1) / free;
        let rates: Vec<i64> = pairs.iter().map(rate).collect();
        let dtype = view.facts.get(self.sites.first()?.value)?.dtype;
        let padding = padding(view.model, view.graph, view.facts, view.widths, view.samples);
        let padding = padding.and_then(|padding| view.graph.find(&padding.input));
        let patch = edit::patch(view.graph, view.facts, &self.sites, &self.region, &rates, (dtype, padding))?;
        Some(patch.apply(view.model))
    }

    /// What merging can be relied on to leave of the FLOPs, as a share.
    ///
    /// # Errors
    /// When a model does not run.
    pub(crate) fn reach(&self, engine: &dyn Engine, view: ModelView<'_>) -> Result<Option<f64>, CountError> {
        let pairs = (self.most() as f64 * RELIED_ON) as usize;
        let flops = |model: &ModelProto| {
            let (samples, batch) = (view.samples, view.facts.samples);
            let costs = Pruned { engine, model, samples, batch, file_bytes: 0 }.recount()?;
            Ok::<_, CountError>(costs.get(Flops.id()).copied().unwrap_or_default() as f64)
        };
        let Some(merged) = self.model(view, pairs).filter(|_| pairs > 0) else { return Ok(None) };
        Ok(Some(flops(&merged)? / flops(view.model)?.max(1.0)))
    }

    /// The model that merges as few pairs as bring it to `flops`, or as many as can be.
    ///
    /// # Errors
    /// When a merged model does not run.
    pub(crate) fn merge(
        &self,
        engine: &dyn Engine,
        view: ModelView<'_>,
        flops: u64,
        file_bytes: &dyn Fn(&ModelProto) -> u64,
    ) -> Result<Option<Merged>, CountError> {
        let attempt = |pairs: usize| -> Result<Option<(ModelProto, PerCost<u64>)>, CountError> {
            let Some(model) = self.model(view, pairs) else { return Ok(None) };
            let (samples, batch) = (view.samples, view.facts.samples);
            let file_bytes = file_bytes(&model);
            let costs = Pruned { engine, model: &model, samples, batch, file_bytes }.recount()?;
            Ok(Some((model, costs)))
        };
        let fits = |costs: &PerCost<u64>| costs.get(Flops.id()).is_some_and(|found| *found <= flops);
        // More pairs than `low` are needed, and `high` are enough or all that there are.
        let (mut low, mut high, mut best) = (0, self.most(), None);
        while low + 1 < high || best.is_none() {
            if high == 0 {
                return Ok(None);
            }
            let middle = if best.is_none() { high } else { low.midpoint(high) };
            let Some((model, costs)) = attempt(middle)? else { return Ok(None) };
            if best.is_none() || fits(&costs) {
                high = middle;
                best = Some((model, costs, middle));
            } else {
                low = middle;
            }
        }
        Ok(best.map(|(model, costs, pairs)| Merged { model, costs, merging: self.report(view, pairs) }))
    }

    fn report(&self, view: ModelView<'_>, pairs: usize) -> Merging {
        let name = |site: &Site| view.graph.value(site.value).name.clone();
        let protected = self.region.protected;
        Merging {
            places: self.sites.iter().map(name).collect(),
            positions: self.free + protected,
            pairs: self.shared(pairs),
            protected,
        }
    }
}
