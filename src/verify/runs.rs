//! What models are run on when they are held against each other: calibration samples at two batch sizes, and at a second extent
//! of every other axis that the file leaves open. What was computed from the one extent that typing observed shows there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::VerifyError;
use crate::{
    calibration::{Input, Samples},
    onnx::{
        self,
        proto::{ModelProto, TensorShapeProto, tensor_shape_proto::dimension},
    },
    runtime::Session,
    tensor::Tensor,
};

/// An open axis at some extent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The axis' symbol in the file, or else its input and place.
    pub axis: String,
    /// The extent.
    pub extent: usize,
}

/// One run of a model.
pub(crate) struct Run {
    pub samples: usize,
    /// Axes that have another extent than in the samples.
    pub extents: Vec<Extent>,
    pub feed: Feed,
    /// One per graph output.
    pub outputs: Vec<Tensor>,
}

/// Tensors by the names of inputs.
type Feed = Vec<(String, Tensor)>;

/// The runs of a model that others are held against.
pub(crate) struct Runs {
    pub runs: Vec<Run>,
    /// Axes that the file leaves open, and of which the model takes no other extent.
    pub fixed: Vec<String>,
}

impl Runs {
    /// Runs a model at batches of `batch` samples and of half as many, and then at second extents. `prepare` makes of samples
    /// what the session takes.
    pub fn of(
        session: &mut dyn Session,
        model: &ModelProto,
        samples: &Samples,
        batch: usize,
        prepare: impl Fn(Feed) -> Feed,
    ) -> Result<Self, VerifyError> {
        let half = if samples.fixed_batch().is_some() { batch } else { batch.max(2) / 2 };
        let mut found = Self { runs: Vec::new(), fixed: Vec::new() };
        for size in BTreeSet::from([batch, half]) {
            let Some(range) = samples.ranges(size).next() else { continue };
            let feed = prepare(samples.batch(range.start, range.end)?);
            let outputs = session.run(&feed)?;
            found.runs.push(Run { samples: range.len(), extents: Vec::new(), feed, outputs });
        }
        if let Some(last) = found.runs.last() {
            let (samples_of, feed) = (last.samples, last.feed.clone());
            found.add_extents(session, samples_of, &feed, open_axes(model, samples));
        }
        Ok(found)
    }

    /// The batch sizes.
    pub fn batches(&self) -> Vec<usize> {
        self.runs.iter().filter(|run| run.extents.is_empty()).map(|run| run.samples).collect()
    }

    /// The second extents.
    pub fn extents(&self) -> Vec<Extent> {
        self.runs.iter().flat_map(|run| run.extents.clone()).collect()
    }

    /// Runs each axis at an extent that the model takes: alone, or else with all open axes of the same extent, as exporters
    /// do not always say which are one.
    fn add_extents(
        &mut self,
        session: &mut dyn Session,
        samples: usize,
        feed: &Feed,
        mut open: Vec<OpenAxis>,
    ) {
        while !open.is_empty() {
            let axis = open.remove(0);
            let Some(extent) = axis.extent(feed) else { continue };
            let alone = axis.name.clone();
            let others = open.iter().filter(|other| other.extent(feed) == Some(extent));
            let together = std::iter::once(&axis).chain(others).cloned().collect::<Vec<_>>();
            let varied = vary(session, feed, &[axis], extent)
                .map(|(extent, feed, outputs)| (vec![Extent { axis: alone.clone(), extent }], feed, outputs))
                .or_else(|| {
                    let (extent, feed, outputs) =
                        (together.len() > 1).then(|| vary(session, feed, &together, extent))??;
                    let extents =
                        together.iter().map(|axis| Extent { axis: axis.name.clone(), extent }).collect();
                    Some((extents, feed, outputs))
                });
            match varied {
                Some((extents, feed, outputs)) => {
                    open.retain(|axis| extents.iter().all(|e| e.axis != axis.name));
                    self.runs.push(Run { samples, extents, feed, outputs });
                }
                None => self.fixed.push(alone),
            }
        }
    }
}

/// An axis that the file leaves open, and where it is.
#[derive(Clone)]
struct OpenAxis {
    name: String,
    places: Vec<(String, usize)>,
}

impl OpenAxis {
    /// Its extent in `feed`.
    fn extent(&self, feed: &Feed) -> Option<usize> {
        let (input, axis) = self.places.first()?;
        feed.iter().find(|(name, _)| name == input)?.1.shape().get(*axis).copied()
    }
}

/// The open axes of the inputs but those that count samples, in the order of the file.
fn open_axes(model: &ModelProto, samples: &Samples) -> Vec<OpenAxis> {
    let mut open: Vec<OpenAxis> = Vec::new();
    let shapes: BTreeMap<&str, Option<&TensorShapeProto>> = model
        .graph
        .iter()
        .flat_map(|g| &g.input)
        .map(|i| (i.name(), onnx::tensor_type(i).and_then(|t| t.shape.as_ref())))
        .collect();
    for Input { name: input, shape: extents, batched, .. } in samples.inputs() {
        let shape = shapes.get(input.as_str()).copied().flatten();
        for axis in usize::from(batched)..extents.len() {
            let name = match shape.and_then(|shape| shape.dim.get(axis)).and_then(|dim| dim.value.as_ref()) {
                Some(dimension::Value::DimValue(_)) => continue,
                Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => symbol.clone(),
                _ => format!("{input}[{axis}]"),
            };
            let place = (input.clone(), axis);
            match open.iter_mut().find(|known| known.name == name) {
                Some(known) => known.places.push(place),
                None => open.push(OpenAxis { name, places: vec![place] }),
            }
        }
    }
    open
}

/// Runs the model with some axes at another extent than `extent`, if it takes one: half of it, which windows and patches are as
/// likely to divide as the whole, one less, or twice as much.
fn vary(
    session: &mut dyn Session,
    feed: &Feed,
    axes: &[OpenAxis],
    extent: usize,
) -> Option<(usize, Feed, Vec<Tensor>)> {
    let others = [extent / 2, extent.saturating_sub(1), extent.saturating_mul(2)];
    let others = others.into_iter().filter(|n| *n > 0 && *n != extent);
    others.into_iter().find_map(|other| {
        let feed = resized(feed, axes, other);
        let outputs = session.run(&feed).ok()?;
        Some((other, feed, outputs))
    })
}

/// The samples with some axes cut down to an extent, or repeated up to it: ids stay valid, and masks masks.
fn resized(feed: &Feed, axes: &[OpenAxis], extent: usize) -> Feed {
    let mut feed = feed.clone();
    for (input, axis) in axes.iter().flat_map(|axis| &axis.places) {
        let Some((_, tensor)) = feed.iter_mut().find(|(name, _)| name == input) else { continue };
        let times = extent.div_ceil(tensor.shape().get(*axis).copied().unwrap_or(1).max(1));
        *tensor = tensor.tile(*axis, times).narrow(*axis, 0, extent);
    }
    feed
}
