//! A comparison as a document.

use super::{Comparison, OutputComparison};
use crate::report::{Block, Cell, Detail, Document, Holds, Reportable, Section, Table};

impl Reportable for Comparison {
    fn document(&self) -> Document {
        let mut sections = vec![
            Section::new("models", Detail::Brief, vec![Block::Table(self.models())]),
            Section::new("outputs", Detail::Brief, vec![Block::Table(self.figures())]),
            Section::new("worst", Detail::Brief, vec![Block::Table(self.worst())]),
        ];
        let made_up = if self.synthetic { "; they are made up, so that the figures mean little" } else { "" };
        let mut about = format!(
            "on {} samples ({}); times are medians of runs on {} of them, both models in turn, by {}{made_up}",
            self.samples, self.calibration, self.timed, self.runtime
        );
        for note in &self.notes {
            about += &format!("\nnote: {note}");
        }
        sections.push(Section::new("samples", Detail::Brief, vec![Block::paragraph(about)]));
        Document { title: format!("{} against {}", self.other.path, self.reference.path), sections }
    }

    fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

impl Comparison {
    fn models(&self) -> Table {
        let columns = [
            ("", Holds::Text),
            ("reference", Holds::Quantity),
            ("other", Holds::Quantity),
            ("share", Holds::Share),
        ];
        let mut table = Table::new(columns);
        let mut row =
            |name: &str, a: Cell, b: Cell, share: f64| table.push([name.into(), a, b, share.into()]);
        for ((cost, a), (_, b)) in self.reference.costs.iter().zip(self.other.costs.iter()) {
            row(cost.name(), (*a).into(), (*b).into(), *b as f64 / (*a).max(1) as f64);
        }
        let (a, b) = (self.reference.milliseconds, self.other.milliseconds);
        let rounded = |time: f64| Cell::from(format!("{time:.2}"));
        row("milliseconds", rounded(a), rounded(b), b / a);
        table
    }

    fn figures(&self) -> Table {
        let mut table = Table::new([
            ("output", Holds::Text),
            ("holds", Holds::Text),
            ("agreement", Holds::Share),
            ("KL divergence", Holds::Error),
            ("cosine", Holds::Error),
            ("relative error", Holds::Error),
            ("distance", Holds::Error),
        ]);
        for output in &self.outputs {
            let OutputComparison { agreement, divergence, cosine, relative_error, distance, .. } = output;
            let figures =
                [agreement, divergence, cosine, relative_error, distance].map(|figure| (*figure).into());
            table.push(
                [output.name.clone().into(), output.kind.to_string().into()].into_iter().chain(figures),
            );
        }
        table
    }

    fn worst(&self) -> Table {
        let mut table = Table::new([
            ("output", Holds::Text),
            ("worst samples", Holds::Count),
            ("distance", Holds::Error),
        ]);
        for output in &self.outputs {
            for (place, worst) in output.worst.iter().enumerate() {
                let name = if place == 0 { output.name.as_str() } else { "" };
                table.push([name.into(), worst.sample.into(), worst.distance.into()]);
            }
        }
        table
    }
}
