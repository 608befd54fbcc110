//! Masking and removing units.

use super::Dimension;
use crate::{
    graph::{Facts, Graph, Patch, tidy},
    masks,
    onnx::proto::ModelProto,
    rewrite::{self, RewriteError},
    widths::{Kept, WidthTable, Widths},
};

/// How units are masked and removed. Kinds that share it are masked and removed together.
pub trait Removal: Sync {
    /// The name, by which kinds share it.
    fn id(&self) -> &'static str;

    /// Adds to `patch` what makes the model compute, at its full shapes, what it must compute without the units that `kept`
    /// leaves out.
    fn mask(&self, graph: &Graph, facts: &Facts, widths: &Widths, kept: &Kept, patch: &mut Patch);

    /// Adds to `patch` what removes the units that `kept` leaves out.
    ///
    /// # Errors
    /// When something cannot follow. [`RewriteError::widths`] are frozen then, and the rest is planned anew.
    fn apply(
        &self,
        graph: &Graph,
        facts: &Facts,
        widths: &Widths,
        kept: &Kept,
        patch: &mut Patch,
    ) -> Result<(), RewriteError>;
}

/// Units of widths that weights own: zero before the sums that they end in, and sliced out of constants.
pub struct WidthRemoval;

impl Removal for WidthRemoval {
    fn id(&self) -> &'static str {
        "width"
    }

    fn mask(&self, graph: &Graph, facts: &Facts, widths: &Widths, kept: &Kept, patch: &mut Patch) {
        masks::zero(graph, facts, widths, kept, patch);
    }

    fn apply(
        &self,
        graph: &Graph,
        facts: &Facts,
        widths: &Widths,
        kept: &Kept,
        patch: &mut Patch,
    ) -> Result<(), RewriteError> {
        rewrite::edit(graph, facts, widths, kept, patch)
    }
}

/// The edit that masks what `kept` leaves out of some dimensions.
pub fn mask(graph: &Graph, facts: &Facts, widths: &Widths, dimensions: &[Dimension], kept: &Kept) -> Patch {
    let mut patch = Patch::default();
    for (removal, kept) in by_removal(&widths.table, dimensions, kept) {
        removal.mask(graph, facts, widths, &kept, &mut patch);
    }
    patch
}

/// The model without what `kept` leaves out of some dimensions.
///
/// # Errors
/// When something cannot follow. The caller may freeze [`RewriteError::widths`] and plan anew.
pub fn apply(
    model: &ModelProto,
    graph: &Graph,
    facts: &Facts,
    widths: &Widths,
    dimensions: &[Dimension],
    kept: &Kept,
) -> Result<ModelProto, RewriteError> {
    let mut patch = Patch::default();
    for (removal, kept) in by_removal(&widths.table, dimensions, kept) {
        removal.apply(graph, facts, widths, &kept, &mut patch)?;
    }
    rewrite::keep_annotations(model, graph, widths, kept, &mut patch);
    let mut pruned = patch.apply(model);
    tidy(&mut pruned);
    Ok(pruned)
}

/// What stays of the dimensions that are removed in one way, for each way.
fn by_removal(
    table: &WidthTable,
    dimensions: &[Dimension],
    kept: &Kept,
) -> Vec<(&'static dyn Removal, Kept)> {
    let mut groups: Vec<(&'static dyn Removal, Kept)> = Vec::new();
    for dimension in dimensions {
        let Some(entries) = kept.entries(table, dimension.width) else { continue };
        let removal = dimension.kind.removal();
        match groups.iter_mut().find(|(known, _)| known.id() == removal.id()) {
            Some((_, group)) => group.keep(table, dimension.width, entries),
            None => {
                let mut group = Kept::default();
                group.keep(table, dimension.width, entries);
                groups.push((removal, group));
            }
        }
    }
    groups
}
