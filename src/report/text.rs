//! Reports as text for terminals.

use comfy_table::presets;

use super::{Block, Detail, Document, Renderer, Table};

/// Writes paragraphs and tables; series are left out, as their numbers are in the tables.
pub const TEXT: Renderer =
    Renderer { name: "text", render: |what, detail| Ok(text(&what.document(), detail)) };

/// The sections of a document up to some detail, with empty lines between blocks.
pub fn text(document: &Document, detail: Detail) -> String {
    let sections = document.sections.iter().filter(|section| section.detail <= detail);
    let blocks: Vec<String> = sections.flat_map(|section| &section.blocks).filter_map(block).collect();
    blocks.join("\n\n")
}

fn block(block: &Block) -> Option<String> {
    match block {
        Block::Paragraph { text } => Some(text.clone()),
        Block::Table(table) => Some(self::table(table)),
        Block::Series(_) => None,
    }
}

/// A table without lines.
fn table(table: &Table) -> String {
    let mut out = comfy_table::Table::new();
    out.load_style(presets::NOTHING);
    out.set_header(table.columns.iter().map(|column| column.heading.as_str()));
    for row in &table.rows {
        out.add_row(table.columns.iter().zip(row).map(|(column, cell)| column.holds.write(cell)));
    }
    let lines: Vec<String> = out.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}
