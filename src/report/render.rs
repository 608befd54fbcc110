//! Renderers: each makes text of what is reported. A new one is a file beside this one and a line in [`RENDERERS`].

use std::path::Path;

use super::{Detail, Document, json};

/// Something that can be reported, to people and to programs.
pub trait Reportable {
    /// For people.
    fn document(&self) -> Document;

    /// For programs, as JSON: everything that is known, in the form that the JSON Schema in `docs/` describes.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    fn json(&self) -> serde_json::Result<String>;
}

/// A way to write what is reported.
#[derive(Clone, Copy, Debug)]
pub struct Renderer {
    /// What it is called, which is also how names of its files end.
    pub name: &'static str,
    /// Writes it, with the sections of at most this detail where the form leaves a choice.
    pub render: fn(&dyn Reportable, Detail) -> serde_json::Result<String>,
}

/// The renderer that writes the file at `path`, whose name ends in its name; that of JSON, if none does.
pub fn renderer_of(path: &Path) -> Renderer {
    let named =
        |renderer: &&Renderer| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(renderer.name));
    RENDERERS.iter().find(named).copied().unwrap_or(json::JSON)
}

/// All renderers that there are.
pub const RENDERERS: &[Renderer] = &[
    json::JSON,
    super::html::HTML,
    #[cfg(feature = "cli")]
    super::text::TEXT,
];
