//! Reports as JSON, for programs.

use super::Renderer;

/// Writes everything that is known, whatever the detail.
pub const JSON: Renderer = Renderer { name: "json", render: |what, _| what.json() };
