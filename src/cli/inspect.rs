//! `optin-onnx inspect`: what a model could lose.

use std::path::PathBuf;

use clap::Args;

use super::{
    Failure,
    flags::{DataFlags, LimitFlags, RuntimeFlags},
    print, usage,
};
use crate::inspect::{Options, inspect};

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The trained model.
    input: PathBuf,
    /// Print JSON in place of tables.
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
        match self.json {
            true => {
                let text = serde_json::to_string_pretty(&inspection).map_err(|e| usage(e.to_string()))?;
                print(&text);
            }
            false => print(&inspection.text()),
        }
        Ok(())
    }
}
