//! The final gate: the file as it will stand, opened anew from its bytes, has to be what was planned and judged. Whatever is
//! reported of the result is measured on that file.

use std::{ops::Range, rc::Rc};

use serde::{Deserialize, Serialize};

use crate::{
    graph::Graph,
    model::ModelView,
    onnx::{
        self, OnnxError,
        proto::{ModelProto, tensor_shape_proto::dimension},
    },
    plan::{
        Bounds, OverBudget,
        cost::{CountError, PerCost, Pruned},
    },
    recover::{self, RecoverError},
    refusal::Larger,
    runtime::{Engine, RuntimeError},
    tensor::Tensor,
    trajectory::SaidOutput,
    verify::{Extent, Runs, VerifyError},
};

/// What a file has shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gate {
    /// Batch sizes at which it ran.
    pub batches: Vec<usize>,
    /// Other extents of open axes at which it ran.
    pub extents: Vec<Extent>,
    /// Axes that the file leaves open, and of which the dense model takes no other extent.
    pub fixed: Vec<String>,
    /// Outputs, all of them finite where the dense model's are, of its shapes and types, and as the file declares them.
    pub outputs: usize,
    /// What it costs, counted anew: as planned where plans are exact, and within all budgets.
    #[serde(flatten)]
    pub costs: PerCost<u64>,
    /// Distance of the outputs from the dense model's on the samples that recovery held out when it judged; absent without
    /// recovery.
    pub distance: Option<f64>,
    /// The share of these samples, or of their positions, to which both models give the same class; absent for models without
    /// classes too.
    #[serde(default)]
    pub agreement: Option<f64>,
    /// Nodes that choose between branches by computed conditions: only the branches that the samples lead to were run.
    pub branches: Vec<String>,
}

/// Why a file must not be written.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// It cannot be read back.
    #[error("the file to be written cannot be read back: {0}")]
    Onnx(#[from] OnnxError),
    /// It does not load or run.
    #[error("the file to be written does not run: {0}")]
    Runtime(#[from] RuntimeError),
    /// It could not be measured.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Its distance from the dense model could not be measured.
    #[error(transparent)]
    Distance(#[from] RecoverError),
    /// An output holds numbers that are none.
    #[error("output {output} of the file to be written is not finite where the dense model's is, at {at}")]
    NotFinite {
        /// The output.
        output: String,
        /// The run.
        at: String,
    },
    /// An output is not what the dense model's is.
    #[error(
        "output {output} of the file to be written is {found}, and the dense model's {expected}, at {at}"
    )]
    Shape {
        /// The output.
        output: String,
        /// Type and shape of the dense model's.
        expected: String,
        /// Its own.
        found: String,
        /// The run.
        at: String,
    },
    /// An output is not what the file says.
    #[error("output {output} of the file to be written is {found}, which the file declares otherwise")]
    Declared {
        /// The output.
        output: String,
        /// Type and shape that were found.
        found: String,
    },
    /// It is larger than the dense model's.
    #[error(transparent)]
    Larger(#[from] Larger),
    /// It costs more than it may.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// Positions were to be merged, and cannot be in the pruned model.
    #[error(
        "the positions of the pruned model cannot be merged: {reason}; prune widths alone, or ask for less"
    )]
    Merge {
        /// Why.
        reason: String,
    },
    /// It costs something else than was planned.
    #[error("the file to be written needs {found} {unit} where {planned} were planned")]
    Cost {
        /// What was counted.
        unit: &'static str,
        /// Counted.
        found: u64,
        /// Planned.
        planned: u64,
    },
}

impl From<CountError> for GateError {
    fn from(error: CountError) -> Self {
        Self::Verify(error.into())
    }
}

/// Holds files against a dense model, which has run before.
pub struct Gatekeeper<'a> {
    engine: &'a dyn Engine,
    view: ModelView<'a>,
    dense: Rc<Runs>,
    batch: usize,
}

impl<'a> Gatekeeper<'a> {
    /// Runs the dense model on batches of at most `batch` samples, and at second extents of its open axes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn new(engine: &'a dyn Engine, view: ModelView<'a>, batch: usize) -> Result<Self, VerifyError> {
        Ok(Self::with(engine, view, Rc::new(Self::runs(engine, view, batch)?), batch))
    }

    /// What the dense model gives on what others will be tried on.
    pub(crate) fn runs(engine: &dyn Engine, view: ModelView<'_>, batch: usize) -> Result<Runs, VerifyError> {
        Runs::of(&mut *engine.load(view.model)?, view.model, view.samples, batch, |feed| feed)
    }

    /// Of a dense model that has run already.
    pub(crate) fn with(engine: &'a dyn Engine, view: ModelView<'a>, dense: Rc<Runs>, batch: usize) -> Self {
        Self { engine, view, dense, batch }
    }

    /// Tries a model that was read back from a file of so many bytes, external data included. `planned` is what it was planned to
    /// cost and `bounds` what it may cost, and `judged_on` are the samples on which its distance from the dense model is
    /// measured, where `logits` names outputs that hold class scores.
    ///
    /// # Errors
    /// When it is not what was planned.
    pub fn check(
        &self,
        model: &ModelProto,
        file_bytes: u64,
        planned: &PerCost<u64>,
        bounds: &Bounds,
        said_outputs: &[SaidOutput],
        judged_on: &[Range<usize>],
    ) -> Result<Gate, GateError> {
        let mut session = self.engine.load_as_deployed(model)?;
        for run in &self.dense.runs {
            let mut at = vec![format!("a batch of {}", run.samples)];
            at.extend(run.extents.iter().map(|e| format!("{} = {}", e.axis, e.extent)));
            let found = session.run(&run.feed)?;
            self.compare(model, &run.outputs, &found, &at.join(", "))?;
        }
        let mut sessions = [session];
        let nearness = if judged_on.is_empty() {
            None
        } else {
            let (engine, view) = (self.engine, self.view);
            recover::nearness_of(engine, view, said_outputs, &mut sessions, judged_on)?.first().copied()
        };
        // Before the next is loaded.
        drop(sessions);
        let costs = self.count(model, file_bytes, planned)?;
        bounds.check(&costs)?;
        Ok(Gate {
            batches: self.dense.batches(),
            extents: self.dense.extents(),
            fixed: self.dense.fixed.clone(),
            outputs: model.graph.as_ref().map_or(0, |graph| graph.output.len()),
            costs,
            distance: nearness.map(|nearness| nearness.distance),
            agreement: nearness.and_then(|nearness| nearness.agreement),
            branches: branches(model),
        })
    }

    /// What a model costs.
    fn count(
        &self,
        model: &ModelProto,
        file_bytes: u64,
        planned: &PerCost<u64>,
    ) -> Result<PerCost<u64>, GateError> {
        let (engine, samples, batch) = (self.engine, self.view.samples, self.batch);
        let costs = Pruned { engine, model, samples, batch, file_bytes }.recount()?;
        for ((cost, &found), (_, &planned)) in costs.iter().zip(planned.iter()) {
            if cost.is_exact() && found != planned {
                return Err(GateError::Cost { unit: cost.unit(), found, planned });
            }
        }
        Ok(costs)
    }

    /// Holds the outputs of one run against the dense model's, and against what the file declares.
    fn compare(
        &self,
        model: &ModelProto,
        dense: &[Tensor],
        found: &[Tensor],
        at: &str,
    ) -> Result<(), GateError> {
        let outputs = model.graph.iter().flat_map(|graph| &graph.output);
        for (slot, (info, (dense, found))) in outputs.zip(dense.iter().zip(found)).enumerate() {
            let output = info.name().to_owned();
            if (dense.shape(), dense.dtype()) != (found.shape(), found.dtype()) {
                let (expected, found) = (describe(dense), describe(found));
                return Err(GateError::Shape { output, expected, found, at: at.to_owned() });
            }
            // What the dense model does not keep to either is not for the pruned one to mend.
            if !is_as_declared(model, slot, found) && is_as_declared(self.view.model, slot, dense) {
                return Err(GateError::Declared { output, found: describe(found) });
            }
            if !is_finite_where(dense, found) {
                return Err(GateError::NotFinite { output, at: at.to_owned() });
            }
        }
        Ok(())
    }
}

fn describe(tensor: &Tensor) -> String {
    format!("{} {:?}", tensor.dtype(), tensor.shape())
}

/// Whether every number is finite that is so in `dense`, which has the same shape.
fn is_finite_where(dense: &Tensor, found: &Tensor) -> bool {
    if found.is_finite() {
        return true;
    }
    let (Some(dense), Some(found)) = (dense.to_f32(), found.to_f32()) else { return true };
    dense.iter().zip(&found).all(|(a, b)| !a.is_finite() || b.is_finite())
}

/// Whether a tensor is of the type and the extents that the model gives the output in this place, as far as it does.
fn is_as_declared(model: &ModelProto, slot: usize, tensor: &Tensor) -> bool {
    let info = model.graph.as_ref().and_then(|graph| graph.output.get(slot));
    let Some(declared) = info.and_then(onnx::tensor_type) else { return true };
    let of_type = declared.elem_type.is_none_or(|code| code == 0 || code == tensor.dtype().onnx());
    let of_shape = declared.shape.as_ref().is_none_or(|shape| {
        shape.dim.len() == tensor.rank()
            && shape.dim.iter().zip(tensor.shape()).all(|(dim, extent)| match dim.value {
                Some(dimension::Value::DimValue(declared)) => declared == *extent as i64,
                _ => true,
            })
    });
    of_type && of_shape
}

/// The nodes of a model that have several bodies, and a computed operand to choose one by.
fn branches(model: &ModelProto) -> Vec<String> {
    let graph = Graph::new(model);
    let dynamic = graph.dynamic();
    let chooses = graph.nodes().filter(|(_, node)| {
        let bodies = node.proto.attribute.iter().filter(|attribute| attribute.g.is_some()).count();
        bodies > 1 && node.inputs.iter().flatten().any(|operand| dynamic[operand.index()])
    });
    chooses.map(|(_, node)| node.label().to_owned()).collect()
}
