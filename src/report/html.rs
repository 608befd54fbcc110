//! Reports as one HTML page, which needs nothing beside itself: no network, no scripts, no fonts.

use std::fmt::Write;

use super::{Block, Cell, Detail, Document, Holds, Renderer, Section, Series, Table};

/// Writes everything; what explains it can be unfolded.
pub const HTML: Renderer = Renderer { name: "html", render: |what, _| Ok(page(&what.document())) };

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;font-size:.9rem;margin:.5rem 0}
th,td{padding:.2rem .7rem;text-align:left;border-bottom:1px solid #ddd;vertical-align:top;white-space:pre-wrap}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums}
summary{cursor:pointer;margin-top:2rem;font-weight:bold}
.wide{overflow-x:auto}p{white-space:pre-wrap}figure{margin:1rem 0}figcaption{font-size:.9rem}
svg{max-width:100%;height:auto;font-size:12px}";

/// Colours that are told apart by most eyes (Okabe and Ito).
const COLOURS: &[&str] = &["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A document as a page.
fn page(document: &Document) -> String {
    let title = escape(&document.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n\
         <body>\n<h1>{title}</h1>\n"
    );
    document.sections.iter().for_each(|section| out += &self::section(section));
    out += "</body>\n</html>\n";
    out
}

/// What everybody should read is open, and the rest folded.
fn section(section: &Section) -> String {
    let name = escape(&section.name);
    let mut blocks = String::new();
    for group in section.blocks.chunk_by(in_one_chart) {
        let series: Vec<&Series> = group.iter().filter_map(as_series).collect();
        match group {
            [Block::Paragraph { text }] => _ = writeln!(blocks, "<p>{}</p>", escape(text)),
            [Block::Table(table)] => blocks += &self::table(table),
            _ => blocks += &chart(&series),
        }
    }
    match section.detail {
        Detail::Brief => format!("<section>\n<h2>{name}</h2>\n{blocks}</section>\n"),
        Detail::Full | Detail::Measured => {
            format!("<details>\n<summary>{name}</summary>\n{blocks}</details>\n")
        }
    }
}

fn as_series(block: &Block) -> Option<&Series> {
    if let Block::Series(series) = block { Some(series) } else { None }
}

/// Series of the same quantities belong into one chart.
fn in_one_chart(a: &Block, b: &Block) -> bool {
    as_series(a).zip(as_series(b)).is_some_and(|(a, b)| (&a.x, &a.y) == (&b.x, &b.y))
}

fn table(table: &Table) -> String {
    let class = |holds: Holds| if holds == Holds::Text { "" } else { " class=\"n\"" };
    let mut out = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    for column in &table.columns {
        _ = write!(out, "<th{}>{}</th>", class(column.holds), escape(&column.heading));
    }
    out += "</tr></thead>\n<tbody>\n";
    for row in &table.rows {
        out += "<tr>";
        for (column, cell) in table.columns.iter().zip(row) {
            let holds = if matches!(cell, Cell::Text(_)) && column.holds == Holds::Text {
                ""
            } else {
                class(column.holds)
            };
            _ = write!(out, "<td{holds}>{}</td>", escape(&column.holds.write(cell)));
        }
        out += "</tr>\n";
    }
    out += "</tbody>\n</table></div>\n";
    out
}

/// Width and height of a chart, and what its axes take at the left, right, top and bottom.
const SIZE: (f64, f64) = (760.0, 260.0);
const MARGINS: [f64; 4] = [60.0, 20.0, 12.0, 42.0];

/// Where numbers are drawn.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    /// All points, and zero on the vertical axis.
    fn of(series: &[&Series]) -> Self {
        let points = || {
            series.iter().flat_map(|series| &series.points).filter(|(x, y)| x.is_finite() && y.is_finite())
        };
        let span = |of: fn(&(f64, f64)) -> f64, low: f64| {
            let low = points().map(of).fold(low, f64::min);
            let high = points().map(of).fold(f64::NEG_INFINITY, f64::max);
            match (high > low, low.is_finite()) {
                (true, _) => (low, high),
                (false, true) => (low, low + 1.0),
                (false, false) => (0.0, 1.0),
            }
        };
        Self { x: span(|p| p.0, f64::INFINITY), y: span(|p| p.1, 0.0) }
    }

    fn left(&self, x: f64) -> f64 {
        let [left, right, ..] = MARGINS;
        left + (x - self.x.0) / (self.x.1 - self.x.0) * (SIZE.0 - left - right)
    }

    fn top(&self, y: f64) -> f64 {
        let [_, _, top, bottom] = MARGINS;
        SIZE.1 - bottom - (y - self.y.0) / (self.y.1 - self.y.0) * (SIZE.1 - top - bottom)
    }
}

/// Lines with points on them.
fn chart(series: &[&Series]) -> String {
    let Some(first) = series.first() else { return String::new() };
    let ((width, height), scale) = (SIZE, Scale::of(series));
    let names: Vec<String> = series.iter().map(|series| escape(&series.name)).collect();
    let mut out = format!(
        "<figure>\n<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"{}\">\n",
        names.join(", ")
    );
    out += &axes(&scale, first);
    for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let finite: Vec<(f64, f64)> =
            series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).copied().collect();
        let places: Vec<(f64, f64)> = finite.iter().map(|(x, y)| (scale.left(*x), scale.top(*y))).collect();
        let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
            line.join(" ")
        );
        for ((x, y), (a, b)) in places.iter().zip(&finite) {
            _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {}</title></circle>",
                short(*a),
                short(*b)
            );
        }
    }
    let legend = names.iter().zip(COLOURS.iter().cycle());
    let legend: Vec<String> = legend
        .map(|(name, colour)| format!("<span style=\"color:{colour}\">&#9679;</span> {name}"))
        .collect();
    _ = writeln!(out, "</svg>\n<figcaption>{}</figcaption>\n</figure>", legend.join(" &#160; "));
    out
}

/// The axes, with their ends and middles.
fn axes(scale: &Scale, series: &Series) -> String {
    let (left, right) = (scale.left(scale.x.0), scale.left(scale.x.1));
    let (bottom, top) = (scale.top(scale.y.0), scale.top(scale.y.1));
    let mut out = String::new();
    for part in [0.0, 0.5, 1.0] {
        let (x, y) = (scale.x.0 + part * (scale.x.1 - scale.x.0), scale.y.0 + part * (scale.y.1 - scale.y.0));
        let (at_x, at_y) = (scale.left(x), scale.top(y));
        _ = writeln!(
            out,
            "<line x1=\"{left:.1}\" y1=\"{at_y:.1}\" x2=\"{right:.1}\" y2=\"{at_y:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            left - 6.0,
            at_y + 4.0,
            short(y),
            bottom + 16.0,
            short(x)
        );
    }
    _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
         <text x=\"14\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {:.1})\">{}</text>",
        (left + right) / 2.0,
        bottom + 34.0,
        escape(&series.x),
        (top + bottom) / 2.0,
        (top + bottom) / 2.0,
        escape(&series.y)
    );
    out
}

/// A number in few digits.
fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        a if !(1e-3..1e4).contains(&a) => format!("{x:.1e}"),
        a if a >= 100.0 || x.fract() == 0.0 => format!("{x:.0}"),
        _ => format!("{x:.3}"),
    }
}

/// Text as HTML takes it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            // No other control character may stand in a page.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_cannot_become_markup() {
        assert_eq!(escape("<script>\"a\" & 'b'\u{7}"), "&lt;script&gt;&quot;a&quot; &amp; 'b'\u{fffd}");
    }

    #[test]
    fn charts_of_nothing_and_of_one_point_are_drawn() {
        let of = |points: Vec<(f64, f64)>| Series { name: "n".into(), x: "x".into(), y: "y".into(), points };
        for points in
            [vec![], vec![(3.0, 7.0)], vec![(1.0, f64::NAN), (2.0, 0.0)], vec![(0.0, -1.0), (1e9, 1e-9)]]
        {
            let drawn = chart(&[&of(points.clone())]);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{points:?}: {drawn}");
        }
    }
}
