//! `optin-onnx inspect`: what a model could lose.

use std::path::PathBuf;

use clap::Args;

use super::{
    Failure,
    flags::{DataFlags, LimitFlags, RuntimeFlags},
    print, print_hint, write,
};
use crate::{
    inspect::{Options, inspect},
    report::Detail,
};

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The trained model.
    input: PathBuf,
    /// Print JSON (docs/inspect.schema.json) in place of tables.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    engine: RuntimeFlags,
}

impl Inspect {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let inspection = inspect(&Options {
            input: self.input.clone(),
            calibration: self.data.options(),
            runtime: self.engine.options(),
            limits: self.limits.options(),
            granularity: self.limits.granularity,
        })?;
        print(&write(if self.json { "json" } else { "text" }, &inspection, Detail::Full)?);
        if inspection.synthetic && !self.json {
            print_hint(Some("--calib FILE gives samples"));
        }
        Ok(())
    }
}
