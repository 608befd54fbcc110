//! `optin-onnx sweep`: what is lost at many budgets.

use std::path::PathBuf;

use clap::Args;

use super::{
    Failure,
    flags::{FILES, SessionFlags, TOLD},
    listener, parse, print, spinner, write,
};
use crate::{Cancel, plan::Budget, report::Detail, sweep::sweep};

#[derive(Debug, Args)]
pub(super) struct Sweep {
    /// The trained model.
    input: PathBuf,
    /// What to keep of the FLOPs, one after another: 0.9,0.7,0.5, or every tenth of 0.9..0.3.
    #[arg(long, value_name = "LIST", default_value = "0.9..0.3", value_parser = Budgets::parse)]
    budgets: Budgets,
    /// Write each model into this folder, as NAME-50.onnx.
    #[arg(short = 'o', long = "output", value_name = "DIR", help_heading = FILES)]
    output: Option<PathBuf>,
    #[command(flatten)]
    session: SessionFlags,
    /// Print JSON (docs/sweep.schema.json) in place of tables.
    #[arg(long, help_heading = TOLD)]
    json: bool,
    /// Print nothing but the result, errors and warnings.
    #[arg(short, long, help_heading = TOLD)]
    quiet: bool,
}

/// Budgets in one word.
#[derive(Clone, Debug)]
struct Budgets(Vec<Budget>);

impl Budgets {
    fn parse(text: &str) -> Result<Self, String> {
        parse::budgets(text).map(Self)
    }
}

impl Sweep {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let options = self.session.options(self.input.clone());
        let spinner = spinner(self.quiet);
        let listener = listener(&spinner, self.quiet);
        let found = sweep(&options, &self.budgets.0, self.output.as_deref(), &Cancel::default(), listener);
        spinner.finish_and_clear();
        print(&write(if self.json { "json" } else { "text" }, &found?, Detail::Brief)?);
        Ok(())
    }
}
