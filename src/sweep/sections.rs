//! A sweep as a document.

use super::{Point, Sweep};
use crate::{
    plan::{COST_MODELS, CostModel, Flops, PerCost},
    report::{Block, Cell, Detail, Document, Holds, Reportable, Section, Series, Table},
};

impl Reportable for Sweep {
    fn document(&self) -> Document {
        let mut blocks = vec![Block::Table(self.curve())];
        blocks.extend(self.series().map(Block::Series));
        let mut sections = vec![Section::new("curve", Detail::Brief, blocks)];
        let mut texts = Vec::new();
        if let Some(point) = self.knee.and_then(|knee| self.points.get(knee)) {
            texts.push(format!(
                "knee: {}; below it, further savings cost more than they did so far (Kneedle: the point farthest below the straight \
                 line between the ends of the curve of distances over FLOPs)",
                point.budget
            ));
        }
        let failed = self.points.iter().filter_map(|point| Some((point, point.error.as_ref()?)));
        texts.extend(failed.map(|(point, error)| format!("{}: {error}", point.budget)));
        for (point, warning) in self.points.iter().flat_map(|p| p.warnings.iter().map(move |w| (p, w))) {
            let text = format!("{}: {warning}", point.budget);
            // Those of the model and its samples are the same at each budget.
            if !texts.iter().any(|known| known.ends_with(&warning.to_string())) {
                texts.push(text);
            }
        }
        texts.push(format!(
            "distances and agreement with the dense model are on samples held out of {} ({}); times are medians of runs of one sample, \
             the dense model in turn, by {}",
            self.samples, self.calibration, self.runtime
        ));
        sections.push(Section::new("notes", Detail::Brief, vec![Block::paragraph(texts.join("\n"))]));
        sections.extend(self.command.as_ref().map(|command| {
            Section::new("command", Detail::Full, vec![Block::paragraph(format!("command: {command}"))])
        }));
        Document { title: format!("{}: sweep of budgets", self.tool), sections }
    }

    fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl Sweep {
    fn curve(&self) -> Table {
        let mut columns =
            vec![("budget", Holds::Text), ("distance", Holds::Error), ("agreement", Holds::Share)];
        columns.push((Flops.name(), Holds::Quantity));
        let shares: Vec<String> = COST_MODELS.iter().map(|cost| format!("{} left", cost.name())).collect();
        columns.extend(shares.iter().map(|share| (share.as_str(), Holds::Share)));
        columns.extend([("ms", Holds::Seconds), ("of dense", Holds::Share), ("", Holds::Text)]);
        let mut table = Table::new(columns);
        table.push(row("dense", Some(0.0), None, Some(&self.dense), &self.dense, None, ""));
        for (place, point) in self.points.iter().enumerate() {
            let Point { budget, distance, agreement, costs, milliseconds, dense_milliseconds, error, .. } =
                point;
            let times = milliseconds.zip(*dense_milliseconds);
            let mark = match (self.knee == Some(place), error.is_some()) {
                (true, _) => "knee",
                (_, true) => "not met",
                _ => "",
            };
            table.push(row(budget, *distance, *agreement, costs.as_ref(), &self.dense, times, mark));
        }
        table
    }

    /// The curves of what is lost over the share of FLOPs.
    fn series(&self) -> impl Iterator<Item = Series> {
        let curve = |name: &str, dense: f64, figure: fn(&Point) -> Option<f64>| {
            let total = self.dense.get("flops").copied().unwrap_or_default().max(1) as f64;
            let share = |point: &Point| Some(*point.costs.as_ref()?.get("flops")? as f64 / total);
            let mut points: Vec<(f64, f64)> =
                self.points.iter().filter_map(|point| Some((share(point)?, figure(point)?))).collect();
            points.push((1.0, dense));
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let series =
                Series { name: name.to_owned(), x: "share of FLOPs".to_owned(), y: name.to_owned(), points };
            Some(series).filter(|series| series.points.len() > 1)
        };
        let distance = curve("distance", 0.0, |point| point.distance);
        let agreement = curve("agreement", 1.0, |point| point.agreement);
        distance.into_iter().chain(agreement)
    }
}

fn row(
    name: &str,
    distance: Option<f64>,
    agreement: Option<f64>,
    costs: Option<&PerCost<u64>>,
    dense: &PerCost<u64>,
    times: Option<(f64, f64)>,
    mark: &str,
) -> Vec<Cell> {
    let mut cells = vec![name.into(), distance.into(), agreement.into()];
    let found = |id: &str| costs.and_then(|costs| costs.get(id).copied());
    cells.push(found(Flops.id()).into());
    cells.extend(dense.iter().map(|(cost, dense)| {
        Cell::from(found(cost.id()).map(|found| found as f64 / (*dense).max(1) as f64))
    }));
    cells.push(times.map(|(time, _)| time).into());
    cells.push(times.map(|(time, dense)| time / dense).into());
    cells.push(mark.into());
    cells
}
