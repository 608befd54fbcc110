//! A report as what people read: sections of paragraphs, tables and series. What it looks like is up to a renderer.

use serde::{Deserialize, Serialize};

use crate::named::named;

/// What there is to read, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// What it is about, in a few words.
    pub title: String,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// Some blocks that belong together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// What it is called, for people and as an anchor: `layers`, `recovery`.
    pub name: String,
    /// Who wants to read it.
    pub detail: Detail,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// How much a reader wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// What everybody should read.
    Brief,
    /// What explains it.
    Full,
    /// How long it took and how much memory; read when that is asked for.
    Measured,
}

named!(
    Detail,
    "a level of detail",
    [
        (Brief, "brief", "What everybody should read."),
        (Full, "full", "What explains it."),
        (Measured, "measured", "How long it took and how much memory."),
    ]
);

/// A part of a section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "block")]
#[non_exhaustive]
pub enum Block {
    /// A sentence or two.
    Paragraph {
        /// The words.
        text: String,
    },
    /// Rows and columns.
    Table(Table),
    /// Points to be drawn. Their numbers are in a table too, so that a renderer which cannot draw may leave them out.
    Series(Series),
}

/// Rows of cells, as many in each as there are columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What the columns hold.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its heading; may be empty.
    pub heading: String,
    /// What its cells mean.
    pub holds: Holds,
}

/// What the cells of a column mean, and so how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Words.
    Text,
    /// A whole number, in full.
    Count,
    /// A large number, of which the first digits matter.
    Quantity,
    /// A share from 0 to 1.
    Share,
    /// Seconds.
    Seconds,
    /// A multiple of something.
    Multiple,
    /// Milliseconds.
    Milliseconds,
    /// A ratio of two times.
    Ratio,
    /// A relative error or distance.
    Error,
}

named!(
    Holds,
    "a type of column",
    [
        (Text, "text", "Words."),
        (Count, "count", "A whole number, in full."),
        (Quantity, "quantity", "A large number, of which the first digits matter."),
        (Share, "share", "A share from 0 to 1."),
        (Seconds, "seconds", "Seconds."),
        (Multiple, "multiple", "A multiple of something."),
        (Milliseconds, "milliseconds", "Milliseconds."),
        (Ratio, "ratio", "A ratio of two times."),
        (Error, "error", "A relative error or distance."),
    ]
);

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A whole number.
    Count(u64),
    /// Any number.
    Number(f64),
    /// Not known, or not measured.
    Absent,
}

/// Points with two coordinates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What is shown.
    pub name: String,
    /// What the first coordinate is.
    pub x: String,
    /// What the second coordinate is.
    pub y: String,
    /// The points, in order.
    pub points: Vec<(f64, f64)>,
}

impl Section {
    /// A section of blocks.
    pub fn new(name: &str, detail: Detail, blocks: Vec<Block>) -> Self {
        Self { name: name.to_owned(), detail, blocks }
    }
}

impl Block {
    /// A paragraph.
    pub fn paragraph(text: impl Into<String>) -> Self {
        Self::Paragraph { text: text.into() }
    }
}

impl Table {
    /// A table with these columns, and no row yet.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Holds)>) -> Self {
        let column = |(heading, holds): (&str, Holds)| Column { heading: heading.to_owned(), holds };
        Self { columns: columns.into_iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        self.rows.push(row.into_iter().collect());
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Cell {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Self::Absent, Into::into)
    }
}

impl Holds {
    /// A cell of such a column in words; empty where it is absent.
    pub fn write(self, cell: &Cell) -> String {
        let number = match cell {
            Cell::Text(text) => return text.clone(),
            Cell::Absent => return String::new(),
            Cell::Count(count) if matches!(self, Self::Text | Self::Count) => return count.to_string(),
            Cell::Count(count) => *count as f64,
            Cell::Number(number) => *number,
        };
        match self {
            Self::Text | Self::Count => number.to_string(),
            Self::Quantity => quantity(number),
            Self::Share => format!("{:.1} %", 100.0 * number),
            Self::Seconds => format!("{number:.2}"),
            Self::Multiple => format!("{number:.1}"),
            Self::Milliseconds => format!("{number:.3}"),
            Self::Ratio => format!("{number:.2}x"),
            Self::Error => format!("{number:.4}"),
        }
    }
}

/// A number with a metric prefix.
pub(crate) fn quantity(number: f64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match steps.iter().find(|(scale, _)| number >= *scale) {
        Some((scale, unit)) => format!("{:.3} {unit}", number / scale),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_written_as_their_column_means_them() {
        assert_eq!(Holds::Quantity.write(&6_655_232_u64.into()), "6.655 M");
        assert_eq!(Holds::Count.write(&6_655_232_u64.into()), "6655232");
        assert_eq!(Holds::Share.write(&0.5.into()), "50.0 %");
        assert_eq!(Holds::Quantity.write(&12_u64.into()), "12");
        assert_eq!(Holds::Error.write(&None::<f64>.into()), "");
    }

    #[test]
    fn documents_are_read_as_they_were_written() {
        let mut table =
            Table::new([("layer", Holds::Text), ("units", Holds::Count), ("error", Holds::Error)]);
        table.push(["a".into(), 3_usize.into(), Cell::Absent]);
        let series = Series { name: "n".into(), x: "x".into(), y: "y".into(), points: vec![(0.0, 1.5)] };
        let blocks = vec![Block::paragraph("words"), Block::Table(table), Block::Series(series)];
        let sections = vec![Section::new("layers", Detail::Full, blocks)];
        let document = Document { title: "t".into(), sections };
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
    }
}
