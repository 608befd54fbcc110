//! The flags of budgets: one for each cost that can have one.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use super::hints;
use crate::plan::{Budget, Budgets, COST_MODELS, CostModel, Flops};

/// What was asked for; all of it holds together.
#[derive(Debug)]
pub(super) struct BudgetFlags(pub(super) Budgets);

const HEADING: &str = "Budgets, which hold together";
const MACS: &str = "macs";
const LATENCY: &str = "latency";

fn flag(model: &'static dyn CostModel) -> Arg {
    let is_default = Budgets::default().iter().any(|(known, _)| known.id() == model.id());
    let default = if is_default { " [default: 0.5, if no other budget is given]" } else { "" };
    let shares = if model.takes_share() { "a share (0.5, 50%) or " } else { "" };
    let arg = Arg::new(model.id()).long(model.id());
    let arg = if is_default { arg.alias("budget") } else { arg };
    arg.value_name("BUDGET")
        .value_parser(move |text: &str| Budget::of(model, text).map_err(|error| hints::of_budget(&error)))
        .allow_hyphen_values(true)
        .help_heading(HEADING)
        .help(format!("What to keep of the {}: {shares}a number (4.2G){default}", model.about()))
}

/// FLOPs by the other way to count them, which many profilers have.
fn macs() -> Arg {
    Arg::new(MACS)
        .long(MACS)
        .value_name("BUDGET")
        .value_parser(|text: &str| {
            let budget = Budget::of(&Flops, text).map_err(|error| hints::of_budget(&error));
            budget.map(Budget::of_macs)
        })
        .conflicts_with(Flops.id())
        .allow_hyphen_values(true)
        .help_heading(HEADING)
        .help("The same as --flops in multiply-accumulates, as many profilers count: half as many")
}

/// How long the model may take.
fn latency() -> Arg {
    Arg::new(LATENCY)
        .long(LATENCY)
        .value_name("BUDGET")
        .value_parser(|text: &str| Budget::of_time(text).map_err(|error| hints::of_budget(&error)))
        .allow_hyphen_values(true)
        .help_heading(HEADING)
        .help("What to keep of the time of one run, measured where --runtime, --provider and --threads say: a share (0.6, 60%) or a time (12ms)")
}

impl Args for BudgetFlags {
    fn augment_args(command: Command) -> Command {
        let flags = COST_MODELS.iter().map(|model| flag(*model)).chain([macs(), latency()]);
        flags.fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BudgetFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |id: &str| matches.get_one::<Budget>(id).copied();
        let flops: &'static dyn CostModel = &Flops;
        let macs = given(MACS).map(|budget| (flops, budget));
        let given = COST_MODELS.iter().filter_map(|model| Some((*model, given(model.id())?))).chain(macs);
        let budgets = given.fold(Budgets::default(), |budgets, (model, budget)| budgets.and(model, budget));
        let latency = matches.get_one::<Budget>(LATENCY);
        Ok(Self(latency.map_or(budgets.clone(), |latency| budgets.and_latency(*latency))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
