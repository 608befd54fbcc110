//! The flags of budgets: one for each cost that can have one.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::plan::{Budget, Budgets, COST_MODELS, CostModel};

/// What was asked for; all of it holds together.
#[derive(Debug)]
pub(super) struct BudgetFlags(pub(super) Budgets);

fn flag(model: &'static dyn CostModel) -> Arg {
    let is_default = Budgets::default().iter().any(|(known, _)| known.id() == model.id());
    let default = if is_default { " [default: 0.5, if no other budget is given]" } else { "" };
    let shares = if model.takes_share() { "a share (0.5, 50%) or " } else { "" };
    Arg::new(model.id())
        .long(model.id())
        .value_name("BUDGET")
        .value_parser(move |text: &str| Budget::of(model, text))
        .allow_negative_numbers(true)
        .help_heading("Budgets, which hold together")
        .help(format!("What to keep of the {}: {shares}a number (4.2G){default}", model.about()))
}

impl Args for BudgetFlags {
    fn augment_args(command: Command) -> Command {
        COST_MODELS.iter().fold(command, |command, model| command.arg(flag(*model)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for BudgetFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given =
            COST_MODELS.iter().filter_map(|model| Some((*model, *matches.get_one::<Budget>(model.id())?)));
        Ok(Self(given.fold(Budgets::default(), |budgets, (model, budget)| budgets.and(model, budget))))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
