//! `optin-onnx compare`: how far apart two models are.

use std::path::PathBuf;

use clap::Args;

use super::{
    Failure,
    flags::{DataFlags, FILES, OutputFlags, RuntimeFlags},
    print, print_hint, write,
};
use crate::{
    compare::{Options, compare},
    report::Detail,
};

#[derive(Debug, Args)]
pub(super) struct Compare {
    /// The model that the other is held against.
    reference: PathBuf,
    /// The other one, such as a pruned model.
    other: PathBuf,
    /// Print JSON (docs/compare.schema.json) in place of tables.
    #[arg(long)]
    json: bool,
    /// Write a report: a page to look at if the name ends in .html, else JSON.
    #[arg(long, value_name = "FILE", help_heading = FILES)]
    report: Option<PathBuf>,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten, next_help_heading = "Outputs")]
    outputs: OutputFlags,
    #[command(flatten)]
    engine: RuntimeFlags,
}

impl Compare {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let options = Options {
            reference: self.reference.clone(),
            other: self.other.clone(),
            calibration: self.data.options(),
            runtime: self.engine.options(),
            said_outputs: self.outputs.said(),
            batch: self.data.batch,
            report: self.report.clone(),
        };
        let comparison = compare(&options)?;
        print(&write(if self.json { "json" } else { "text" }, &comparison, Detail::Full)?);
        if comparison.synthetic && !self.json {
            print_hint(Some("--calib FILE gives samples"));
        }
        Ok(())
    }
}
