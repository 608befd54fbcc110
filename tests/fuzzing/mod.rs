//! Mutation fuzzing: models are changed at random, and whatever comes out is loaded, typed, planned and rewritten.
//!
//! No runtime is asked: what one observed of the seed is told of the values of the mutant that bear the same names, much of
//! which no longer holds. A case is a number: the same seed and number give the same mutant, on every machine.

mod bytes;
mod structure;

use std::{collections::HashMap, fs, path::Path};

use optin_onnx::{
    graph::{Fact, Facts, Graph, drop_dead},
    masks, onnx,
    onnx::proto::ModelProto,
    plan::{Bounded, COST_MODELS, Cost, CostView, Limits, plan},
    rewrite::rewrite,
    score::{DimensionScores, Scores},
    tensor::DType,
    typing::{self, Granularity},
    widths::Kept,
};
use rand::{Rng, RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::support::Subject;

/// Numbers that programs stumble over.
const NUMBERS: &[i64] = &[i64::MIN, -3, -2, -1, 0, 1, 2, 3, 5, 8, 1 << 31, 1 << 62, i64::MAX];
/// The most mutations of one case.
const MOST: usize = 6;

/// A sound model, and what is known of its values.
pub struct Seed {
    pub model: ModelProto,
    facts: HashMap<String, Fact>,
    bytes: bytes::Encoded,
}

/// How far a mutant came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is no model.
    Refused,
    /// It was typed, and nothing can be pruned, or the rewriting was refused.
    Typed,
    /// It was pruned.
    Rewritten,
}

/// One mutant of a seed.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Which.
    pub number: u64,
    /// The mutations that are made, as bits; all, unless what fails is made smaller.
    pub mutations: u32,
}

impl Case {
    /// The case with all its mutations.
    pub fn new(number: u64) -> Self {
        Self { number, mutations: u32::MAX }
    }

    /// Everything random about part `part` of the case.
    fn rng(self, part: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.number);
        rng.set_stream(part);
        rng
    }

    /// Whether bytes are changed, not parts.
    fn is_of_bytes(self) -> bool {
        self.number.is_multiple_of(4)
    }

    /// How many mutations the case has.
    pub fn count(self) -> usize {
        self.rng(0).random_range(1..=MOST)
    }

    /// The random numbers of each mutation that is made.
    fn each(self) -> impl Iterator<Item = ChaCha8Rng> {
        let made = (0..self.count()).filter(move |i| self.mutations >> i & 1 == 1);
        made.map(move |i| self.rng(i as u64 + 1))
    }
}

impl Seed {
    /// A seed of a model that has been typed.
    pub fn new(subject: &Subject) -> Self {
        let Subject { model, graph, facts, .. } = subject;
        let known =
            graph.values().filter_map(|(id, value)| Some((value.name.clone(), facts.get(id)?.clone())));
        Self { model: model.clone(), facts: known.collect(), bytes: bytes::Encoded::of(model) }
    }

    /// The file of the mutant.
    pub fn mutant(&self, case: Case) -> Vec<u8> {
        if case.is_of_bytes() {
            let mut bytes = self.bytes.clone();
            case.each().for_each(|mut rng| bytes.garble(&mut rng));
            return bytes.into();
        }
        let mut model = self.model.clone();
        case.each().for_each(|mut rng| structure::distort(&mut model, &mut rng));
        onnx::encode(&model)
    }

    /// Loads, types, plans and rewrites the mutant; `path` is where its file goes.
    ///
    /// # Panics
    /// When anything does, and when what is written of a model that was accepted would be refused.
    pub fn check(&self, case: Case, path: &Path) -> Outcome {
        fs::write(path, self.mutant(case)).unwrap();
        let Ok(source) = onnx::load(path) else { return Outcome::Refused };
        let mut rng = case.rng(u64::MAX);
        let mut model = source.model;
        if rng.random() {
            drop_dead(&mut model);
        }
        prune(self, &model, &mut rng)
    }

    /// What is taken for known of a mutant.
    fn facts(&self, graph: &Graph, rng: &mut ChaCha8Rng) -> Facts {
        let mut facts = Facts::new(graph.values().count(), 2);
        // Most models are typed by what holds, so that some get far.
        let hostile = rng.random_range(0..4) == 0;
        for (id, value) in graph.values() {
            let fact = match graph.constant(id) {
                Some(tensor) => Fact::of_constant(tensor),
                None => self
                    .facts
                    .get(&value.name)
                    .filter(|_| !hostile || rng.random_range(0..20) > 0)
                    .map(|fact| if hostile { disturb(fact.clone(), rng) } else { fact.clone() }),
            };
            if let Some(fact) = fact {
                facts.insert(id, fact);
            }
        }
        facts
    }
}

/// Another rank, another extent, other contents; mostly none of them.
fn disturb(mut fact: Fact, rng: &mut ChaCha8Rng) -> Fact {
    match rng.random_range(0..30) {
        0 => fact.shape.push(rng.random_range(0..4)),
        1 => drop(fact.shape.pop()),
        2 => fact.shape.iter_mut().for_each(|extent| *extent = rng.random_range(0..6)),
        3 => fact.ints = None,
        4 => fact.ints.iter_mut().flatten().for_each(|i| *i = *NUMBERS.choose(rng).unwrap()),
        5 => fact.dtype = *[DType::F16, DType::I64, DType::Bool].choose(rng).unwrap(),
        _ => {}
    }
    fact
}

fn prune(seed: &Seed, model: &ModelProto, rng: &mut ChaCha8Rng) -> Outcome {
    let graph = Graph::new(model);
    let facts = seed.facts(&graph, rng);
    let symbolic = if rng.random() { graph.inputs().iter().copied().collect() } else { Default::default() };
    let widths = typing::infer(&graph, &facts, &symbolic);
    let granularity = if rng.random() { Granularity::Head } else { Granularity::default() };
    let dimensions = typing::dimensions(&graph, &widths, granularity).prunable;
    let view = CostView {
        graph: &graph,
        facts: &facts,
        widths: &widths,
        dimensions: &dimensions,
        file_bytes: onnx::encode(model).len() as u64,
    };
    let costs: Vec<Cost> = COST_MODELS.iter().map(|model| model.cost(&view)).collect();
    let kept = if rng.random() {
        let mut kept = Kept::default();
        for dimension in &dimensions {
            let units = (0..dimension.size).filter(|_| rng.random()).collect();
            kept.keep(&widths.table, dimension.width, units);
        }
        kept
    } else {
        let sizes: Vec<usize> = dimensions.iter().map(|d| d.size).collect();
        let asked: Vec<&Cost> = costs.iter().filter(|_| rng.random()).collect();
        let share = |cost: &Cost, rng: &mut ChaCha8Rng| {
            (cost.total(&sizes) as f64 * rng.random_range(0.0..1.0)) as u64
        };
        let budgets: Vec<Bounded> =
            asked.into_iter().map(|cost| Bounded { cost, at_most: share(cost, rng) }).collect();
        let scores = scores(&dimensions, rng);
        let limits = Limits { align: rng.random_range(0..9), ..Limits::default() };
        match plan(&budgets, &dimensions, &scores, &limits) {
            Ok(plan) => plan.kept(&widths.table, &dimensions),
            Err(_) => return Outcome::Typed,
        }
    };
    let sizes: Vec<usize> = dimensions.iter().map(|d| kept.size(&widths.table, d.width)).collect();
    costs.iter().for_each(|cost| _ = cost.total(&sizes));
    masks::constant(&graph, &facts, &widths, &kept).apply(model);
    let Ok(mut pruned) = rewrite(model, &graph, &facts, &widths, &kept) else { return Outcome::Typed };
    let written = onnx::encode(&pruned);
    let checked = onnx::validate(&mut pruned);
    assert!(checked.is_ok(), "the pruned model is not valid: {checked:?}");
    assert!(written == onnx::encode(&pruned), "the nodes of the pruned model are out of order");
    if dimensions.is_empty() { Outcome::Typed } else { Outcome::Rewritten }
}

/// Random scores, some of which are no numbers.
fn scores(dimensions: &[typing::Dimension], rng: &mut ChaCha8Rng) -> Scores {
    let wild = rng.random_range(0..4) == 0;
    let mut score = || match rng.next_u32() % 8 {
        0 if wild => f64::NAN,
        1 if wild => f64::INFINITY,
        2 if wild => -1.0,
        n => f64::from(n),
    };
    let scored = dimensions.iter().map(|d| DimensionScores::of(d, (0..d.size).map(|_| score()).collect()));
    Scores { dimensions: scored.collect(), ..Scores::default() }
}
