//! Models under test: typed, pruned, and held against what they must compute.

// Each test program uses a part of it.
#![allow(dead_code)]

pub mod text;

use std::path::Path;

use optin_onnx::{
    calibration::{self, CalibrationOptions, Samples},
    graph::{Facts, Graph, drop_dead},
    masks,
    model::ModelView,
    onnx::{self, proto::ModelProto},
    plan::{Cost, CostView, cost_model},
    rewrite::rewrite,
    runtime::{self, Engine, Provider, RuntimeChoice, RuntimeOptions},
    stats::DenseValues,
    tensor::Tensor,
    typing::{self, Dimensions, Granularity},
    verify::{self, verify},
    widths::{Kept, Widths},
};

/// An engine by name.
pub fn engine(runtime: RuntimeChoice) -> Box<dyn Engine> {
    let options = RuntimeOptions { runtime, provider: Provider::Cpu, threads: 1, ort_lib: None };
    runtime::open(&options).unwrap()
}

/// A typed model and random samples for it.
pub struct Subject {
    pub model: ModelProto,
    pub graph: Graph,
    pub facts: Facts,
    pub widths: Widths,
    pub dimensions: Dimensions,
    pub samples: Samples,
    pub values: DenseValues,
}

impl Subject {
    /// Checks the model as loading does, and types it by made-up samples.
    pub fn new(engine: &dyn Engine, model: ModelProto) -> Result<Self, String> {
        Self::with(engine, model, Granularity::Head)
    }

    /// The same, with the units that attention loses.
    pub fn with(
        engine: &dyn Engine,
        mut model: ModelProto,
        granularity: Granularity,
    ) -> Result<Self, String> {
        onnx::validate(&mut model).map_err(|e| e.to_string())?;
        let options = CalibrationOptions { samples: Some(3), ..Default::default() }.or_synthetic();
        let samples = calibration::load(&model, None, &options).map_err(|e| e.to_string())?;
        Self::typed(engine, model, samples, granularity)
    }

    /// A model of `fixtures` as `edit` leaves it, on so many samples of its data.
    pub fn fixture(engine: &dyn Engine, name: &str, samples: usize, edit: impl Fn(&mut ModelProto)) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
        let mut model = onnx::load(&path).unwrap().model;
        edit(&mut model);
        let calib = Some(path.with_file_name("calib.npz"));
        let options = CalibrationOptions { calib, samples: Some(samples), ..Default::default() };
        let samples = calibration::load(&model, Some(&path), &options).unwrap();
        Self::typed(engine, model, samples, Granularity::Head).unwrap()
    }

    /// A checked model, typed by these samples.
    pub fn typed(
        engine: &dyn Engine,
        model: ModelProto,
        samples: Samples,
        granularity: Granularity,
    ) -> Result<Self, String> {
        let first = samples.ranges(2).next().unwrap();
        let feed = samples.batch(first.start, first.end).unwrap();
        let graph = Graph::new(&model);
        let facts = typing::observe(engine, &model, &graph, &feed, first.len()).map_err(|e| e.to_string())?;
        let symbolic = typing::batched_inputs(&graph, &samples);
        let widths = typing::infer(&graph, &facts, &symbolic);
        let dimensions = typing::dimensions(&graph, &widths, granularity);
        Ok(Self { model, graph, facts, widths, dimensions, samples, values: DenseValues::default() })
    }

    /// What scoring and recovery need to see.
    pub fn view(&self, batch: usize) -> ModelView<'_> {
        ModelView {
            model: &self.model,
            graph: &self.graph,
            facts: &self.facts,
            widths: &self.widths,
            dimensions: &self.dimensions.prunable,
            samples: &self.samples,
            batch,
            values: &self.values,
        }
    }

    /// What it costs by the cost model with this id, in a file of its own.
    pub fn cost(&self, id: &str) -> Cost {
        let file_bytes = onnx::encode(&self.model).len() as u64;
        cost_model(id).unwrap().cost(&CostView::new(self.view(2), file_bytes))
    }

    /// All samples.
    pub fn feed(&self) -> Vec<(String, Tensor)> {
        self.samples.batch(0, self.samples.len()).unwrap()
    }

    /// The plan that keeps these units of each prunable dimension.
    pub fn kept(&self, units: &[Vec<usize>]) -> Kept {
        let mut kept = Kept::default();
        for (dimension, units) in self.dimensions.prunable.iter().zip(units) {
            kept.keep(&self.widths.table, dimension.width, units.clone());
        }
        kept
    }

    /// The model without what `kept` leaves out.
    pub fn prune(&self, kept: &Kept) -> Result<ModelProto, String> {
        rewrite(&self.model, &self.graph, &self.facts, &self.widths, kept).map_err(|e| e.to_string())
    }

    /// Keeping everything gives the same bytes, but for dead weights.
    pub fn check_identity(&self) -> Result<(), String> {
        let same = self.prune(&Kept::default())?;
        let mut live = self.model.clone();
        drop_dead(&mut live);
        match onnx::encode(&same) == onnx::encode(&live) {
            true => Ok(()),
            false => Err(format!("keeping everything changes the model:\n{}", text::print(&same))),
        }
    }

    /// A pruned model computes what the masked one does, and costs what the plan says.
    pub fn check_pruned(&self, engine: &dyn Engine, kept: &Kept, pruned: &ModelProto) -> Result<(), String> {
        let masked = masks::constant(&self.graph, &self.facts, &self.widths, kept).apply(&self.model);
        let file_bytes = onnx::encode(pruned).len() as u64;
        let proof =
            verify(engine, &masked, pruned, &self.samples, 2, file_bytes).map_err(|e| e.to_string())?;
        let worst = proof.outputs.iter().map(|o| o.difference).fold(0.0, f64::max);
        if !proof.holds {
            return Err(format!(
                "pruned and masked differ by {worst:.1e}, at most {:.0e} is rounding",
                verify::TOLERANCE
            ));
        }
        let prunable = &self.dimensions.prunable;
        let sizes: Vec<_> = prunable.iter().map(|d| kept.size(&self.widths.table, d.width)).collect();
        for (model, found) in proof.costs.iter().filter(|(model, _)| model.is_exact()) {
            let planned = self.cost(model.id()).total(&sizes);
            if *found != planned {
                let unit = model.unit();
                return Err(format!("{found} {unit} were counted where {planned} were planned"));
            }
        }
        Ok(())
    }
}
