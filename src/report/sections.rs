//! The report of a run as a document.

use super::{
    Block, Cell, Change, Detail, DimensionReport, Document, Holds, LatencyReport, LayerReport,
    RecoveryReport, Report, Reportable, RotationReport, Section, Series, Table, quantity,
};
use crate::{
    gate::Gate,
    latency::{Bench, Timing},
    memory::Bytes,
    plan::{COST_MODELS, PerCost},
    positions::{merge::Merging, unread::Unread},
    score::Stability,
    verify::{Extent, Proof},
};

impl Reportable for Report {
    fn document(&self) -> Document {
        let mut sections = vec![self.layers(), self.totals()];
        sections.extend(self.bench.as_ref().map(bench));
        sections.extend(self.latency.as_ref().map(|latency| words("latency", latency_text(latency))));
        sections.extend(self.pinned());
        sections.extend(self.unread.as_ref().map(|unread| words("unread", unread_text(unread))));
        sections.extend(self.merging.as_ref().map(|merging| words("merging", merging_text(merging))));
        sections.extend(self.rotation.as_ref().map(|rotation| words("rotation", rotation_text(rotation))));
        sections.extend(self.stability.as_ref().map(|stability| words("scores", stability_text(stability))));
        sections.extend(self.proof.as_ref().map(|proof| words("proof", proof_text(proof))));
        sections.extend(self.recovery.iter().flat_map(recovery));
        sections.extend(self.gate.as_ref().map(|gate| words("file", gate_text(gate))));
        if !self.notes.is_empty() {
            let notes: Vec<String> = self.notes.iter().map(|note| format!("note: {note}")).collect();
            sections.push(words("notes", notes.join("\n")));
        }
        sections.push(self.stages());
        sections.extend(self.command.as_ref().map(|command| {
            Section::new("command", Detail::Full, vec![Block::paragraph(format!("command: {command}"))])
        }));
        Document { title: format!("{} report", self.tool), sections }
    }

    fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// A section of one paragraph, which everybody should read.
fn words(name: &str, text: String) -> Section {
    Section::new(name, Detail::Brief, vec![Block::paragraph(text)])
}

impl Report {
    fn layers(&self) -> Section {
        let columns =
            [("layer", Holds::Text), ("kind", Holds::Text), ("kept", Holds::Count), ("of", Holds::Count)];
        let mut table = Table::new(columns);
        for d in &self.dimensions {
            table.push([d.name.clone().into(), d.kind.to_string().into(), d.kept.into(), d.size.into()]);
        }
        for (place, left, positions) in self.merging.iter().flat_map(Merging::left) {
            table.push([place.into(), "token".into(), left.into(), positions.into()]);
        }
        let curve = |name: &str, y: &str, number: fn(&DimensionReport) -> Option<f64>| {
            let places = self.dimensions.iter().enumerate();
            let points = places.filter_map(|(place, d)| Some((place as f64, number(d)?))).collect();
            let x = "row of the table".to_owned();
            Block::Series(Series { name: name.to_owned(), x, y: y.to_owned(), points })
        };
        let blocks = vec![
            Block::Table(table),
            curve("what stays of each layer", "share of its units", |d| {
                Some(d.kept as f64 / d.size.max(1) as f64)
            }),
            curve("FLOPs that go with what each layer loses", "share of the model", |d| d.saved),
            curve("mean score of the units of each layer", "score", |d| d.score),
        ];
        Section::new("layers", Detail::Brief, blocks)
    }

    fn totals(&self) -> Section {
        let columns = [
            ("", Holds::Text),
            ("before", Holds::Quantity),
            ("after", Holds::Quantity),
            ("share", Holds::Share),
            ("least possible", Holds::Quantity),
        ];
        let mut table = Table::new(columns);
        for (cost, Change { before, after, minimum }) in self.costs.iter() {
            let share = *after as f64 / (*before).max(1) as f64;
            let numbers = [(*before).into(), (*after).into(), share.into(), (*minimum).into()];
            table.push([Cell::from(cost.name())].into_iter().chain(numbers));
        }
        Section::new("totals", Detail::Brief, vec![Block::Table(table)])
    }

    /// What could not be pruned: how many axes, and in full, which and why.
    fn pinned(&self) -> Vec<Section> {
        if self.pinned.is_empty() {
            return Vec::new();
        }
        let mut table =
            Table::new([("cannot be pruned", Holds::Text), ("size", Holds::Count), ("because", Holds::Text)]);
        for axis in &self.pinned {
            let more = axis.reasons.len().saturating_sub(1);
            let first = axis.reasons.first().map_or(String::new(), ToString::to_string);
            let because = if more > 0 { format!("{first}, and {more} more") } else { first };
            table.push([axis.name.clone().into(), axis.size.into(), because.into()]);
        }
        let count = match self.pinned.len() {
            1 => "1 axis of the weights cannot be pruned".to_owned(),
            count => format!("{count} axes of the weights cannot be pruned"),
        };
        vec![words("not pruned", count), Section::new("why not", Detail::Full, vec![Block::Table(table)])]
    }

    /// Time per stage, and the peak of memory.
    fn stages(&self) -> Section {
        let mut table = Table::new([
            ("stage", Holds::Text),
            ("seconds", Holds::Seconds),
            ("forward passes", Holds::Multiple),
        ]);
        for stage in &self.stages {
            table.push([stage.name.clone().into(), stage.seconds.into(), stage.forwards.into()]);
        }
        let mut blocks = vec![Block::Table(table)];
        blocks.extend(self.memory.peak.map(|peak| {
            let budget = Bytes(self.memory.budget);
            Block::paragraph(format!(
                "peak memory: {}; budget for the work, beside the weights: {budget}",
                Bytes(peak)
            ))
        }));
        Section::new("time", Detail::Measured, blocks)
    }
}

/// How long both files take.
fn bench(bench: &Bench) -> Section {
    let mut table = Table::new([
        ("", Holds::Text),
        ("p50 ms", Holds::Milliseconds),
        ("p95 ms", Holds::Milliseconds),
        ("quiet ms", Holds::Milliseconds),
        ("samples/s", Holds::Multiple),
        ("speed-up", Holds::Ratio),
    ]);
    let mut row = |name: &str, timing: &Timing, speedup: Option<f64>| {
        let Timing { p50_ms, p95_ms, quiet_ms, samples_per_second, .. } = *timing;
        table.push([
            name.into(),
            p50_ms.into(),
            p95_ms.into(),
            quiet_ms.into(),
            samples_per_second.into(),
            speedup.into(),
        ]);
    };
    row("before", &bench.dense, None);
    row("after", &bench.pruned, Some(bench.speedup));
    let shapes = bench.inputs.iter().map(|input| {
        let extents: Vec<String> = input.shape.iter().map(ToString::to_string).collect();
        format!("{} {}", input.name, extents.join("x"))
    });
    let text = format!("timed in turns at {}: {}", shapes.collect::<Vec<_>>().join(", "), bench.device);
    Section::new("speed", Detail::Brief, vec![Block::Table(table), Block::paragraph(text)])
}

fn latency_text(latency: &LatencyReport) -> String {
    let LatencyReport { target_ms, dense_ms, least_ms, predicted_ms, rounds, survey, .. } = latency;
    let least = least_ms.map_or_else(String::new, |least| format!(", reachable: {least:.3} ms"));
    let mut text = format!("latency: asked: {target_ms:.3} ms of {dense_ms:.3} ms{least}; ");
    let measured = rounds.iter().map(|round| {
        format!("{:.3} ms where {:.3} ms were predicted", round.measured_ms, round.predicted_ms)
    });
    text += &match rounds.len() {
        0 => format!("predicted: {predicted_ms:.3} ms"),
        _ => format!("plans as measured: {}", measured.collect::<Vec<_>>().join(", then ")),
    };
    text += &format!(
        "\n  {} parts of the model go by what is pruned, {} of them differ; {} times were measured",
        survey.parts, survey.distinct, survey.measured
    );
    if let Some(error) = survey.error {
        text += &format!("; median error of predictions of whole models: {:.1} %", 100.0 * error);
    }
    if !survey.steps.is_empty() {
        let steps = survey.steps.iter().map(|step| format!("{} ({})", step.name, step.entries));
        text += &format!("\n  times fall in steps along {}", steps.collect::<Vec<_>>().join(", "));
    }
    text
}

fn unread_text(unread: &Unread) -> String {
    let Unread { before, after, difference } = unread;
    let saved = 100.0 * before.saturating_sub(*after) as f64 / (*before).max(1) as f64;
    format!(
        "unread: positions of the last layers that no output reads are not computed, which saves {saved:.1} % of the FLOPs; \
         this changed the outputs by {} of their largest value at most",
        small(*difference)
    )
}

fn merging_text(merging: &Merging) -> String {
    let Merging { places, positions, pairs, protected } = merging;
    let count: usize = pairs.iter().sum();
    let left = positions.saturating_sub(count);
    let alone =
        if *protected > 0 { format!("; the first {protected} are left alone") } else { String::new() };
    format!(
        "positions: {count} pairs of those most alike are merged behind {} layers, which leaves {left} of {positions} in the \
         end{alone}",
        places.len()
    )
}

fn rotation_text(rotation: &RotationReport) -> String {
    let RotationReport { rotated, left, difference } = rotation;
    let (count, all) = (rotated.len(), rotated.len() + left.len());
    let mut text = format!(
        "attention: in {count} of {all} layers, the dimensions of each head were rotated to its principal components, so \
         that the last ones matter least"
    );
    if let Some(difference) = difference {
        text +=
            &format!("; this changed the outputs by {} of their largest value at most", small(*difference));
    }
    for dimension in left {
        text += &format!("\n  {} was not rotated: {}", dimension.name, dimension.reason.message);
    }
    text
}

fn stability_text(stability: &Stability) -> String {
    let Stability { probes, agreement, standard_error } = stability;
    format!(
        "scores: estimated by {probes} random probes per sample; the rankings by two halves of them correlate by \
         {agreement:.3} (1: the same order); typical error of a score: {:.0} %",
        100.0 * standard_error
    )
}

fn proof_text(proof: &Proof) -> String {
    let worst = proof.outputs.iter().map(|o| o.difference).fold(0.0, f64::max);
    format!(
        "proof: before recovery, the pruned model computes what the original does with the removed units set to zero; largest \
         difference: {} of the largest output, at {}; {}",
        small(worst),
        runs_text(&proof.batches, &proof.extents),
        recounted(&proof.costs)
    )
}

/// The costs of which the plan was exact, and what was counted.
fn recounted(costs: &PerCost<u64>) -> String {
    let exact = costs.iter().filter(|(cost, _)| cost.is_exact());
    let each =
        exact.map(|(cost, count)| format!("{} counted anew: {}", cost.name(), quantity(*count as f64)));
    each.collect::<Vec<_>>().join("; ")
}

/// Batch sizes, and extents of open axes beside those of the samples.
fn runs_text(batches: &[usize], extents: &[Extent]) -> String {
    let batches = batches.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let extents: Vec<String> = extents.iter().map(|e| format!("{} = {}", e.axis, e.extent)).collect();
    let extents = if extents.is_empty() { String::new() } else { format!(" and at {}", extents.join(", ")) };
    format!("batch sizes {batches}{extents}")
}

fn gate_text(gate: &Gate) -> String {
    let exact = COST_MODELS.iter().filter(|cost| cost.is_exact()).map(|cost| cost.name());
    let mut text = format!(
        "written file: read back and run at {}; its outputs are finite and of the declared shapes, and its \
         {} are as planned",
        runs_text(&gate.batches, &gate.extents),
        exact.collect::<Vec<_>>().join(" and ")
    );
    if let Some(far) = gate.distance {
        text += &format!("; distance of its outputs on the same samples: {}", distance(far));
    }
    if let Some(agreement) = gate.agreement {
        text += &format!("; they give {:.1} % of these the class that the original gives", 100.0 * agreement);
    }
    if !gate.fixed.is_empty() {
        let fixed = gate.fixed.join(", ");
        text += &format!("\n  left open by the file, though the original runs at one size only: {fixed}");
    }
    if !gate.branches.is_empty() {
        let branches = gate.branches.join(", ");
        text += &format!("\n  of these, only the branches that the samples lead to were run: {branches}");
    }
    text
}

/// What recovery did: the layers in full, and the sum of it.
fn recovery(recovery: &RecoveryReport) -> Vec<Section> {
    let left = recovery.layers.iter().filter(|layer| layer.reason.is_some()).count();
    let (count, undone) = (
        recovery.layers.len(),
        if recovery.undone { "; that is no improvement, so recovery was undone" } else { "" },
    );
    let text = format!(
        "recovery ({}): {} of {count} layers corrected; on {} samples held out, the distance of the outputs from the original's \
         went from {} to {}{undone}",
        recovery.mode,
        count - left,
        recovery.held_out,
        distance(recovery.before),
        distance(recovery.after)
    );
    vec![
        Section::new("recovered layers", Detail::Full, recovered_layers(&recovery.layers)),
        words("recovery", text),
    ]
}

fn recovered_layers(layers: &[LayerReport]) -> Vec<Block> {
    let mut table = Table::new([
        ("layer", Holds::Text),
        ("sums over", Holds::Count),
        ("positions", Holds::Count),
        ("error before", Holds::Error),
        ("error after", Holds::Error),
        ("correction", Holds::Text),
    ]);
    for layer in layers {
        let by = match (&layer.reason, layer.ridge) {
            (Some(reason), _) => format!("none: {}", reason.message),
            (None, Some(ridge)) => format!("refitted, ridge {ridge}"),
            (None, None) => "bias".to_owned(),
        };
        table.push([
            layer.name.clone().into(),
            layer.entries.into(),
            layer.positions.into(),
            layer.before.into(),
            layer.after.into(),
            by.into(),
        ]);
    }
    let curve = |name: &str, error: fn(&LayerReport) -> Option<f64>| {
        let points =
            layers.iter().enumerate().filter_map(|(place, layer)| Some((place as f64, error(layer)?)));
        Block::Series(Series {
            name: name.to_owned(),
            x: "place in the network".to_owned(),
            y: "relative error".to_owned(),
            points: points.collect(),
        })
    };
    vec![Block::Table(table), curve("before", |layer| layer.before), curve("after", |layer| layer.after)]
}

/// A small number, to a few digits.
fn distance(x: f64) -> String {
    if x == 0.0 || x >= 1e-3 { format!("{x:.4}") } else { format!("{x:.1e}") }
}

/// A difference that rounding explains, or none.
fn small(x: f64) -> String {
    if x == 0.0 { "0".to_owned() } else { format!("{x:.1e}") }
}
