//! Layer by layer, from the input on, by least squares.

use super::{
    Corrected, Fit, LayerRecovery, LeftReason, Outcome, RecoverContext, RecoverError,
    layer::{Layer, layers},
    pass::{self, LeastSquares, Pass},
    ridge::Form,
    siblings::siblings,
};

/// A layer to be corrected, or the name of one that is left, and why.
pub(super) type Found = Result<Layer, (String, LeftReason)>;

/// Corrects the layers that pruning touches.
pub(super) fn run(
    cx: &RecoverContext<'_>,
    method: LeastSquares,
    fit: Fit<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Corrected, RecoverError> {
    let found = layers(cx.view, cx.kept, cx.graph, cx.facts);
    let siblings = siblings(&found, cx.graph);
    let mut pass = Pass::new(*cx, method);
    let families = found.iter().zip(&siblings).filter_map(|(layer, siblings)| {
        let siblings = members(&found, siblings, |_| true);
        Some(pass::family(layer.as_ref().ok()?, siblings.into_iter(), cx.memory))
    });
    pass.keep_beside(pass::largest(families, cx.memory));
    let (layers, notes) = match fit {
        Fit::Trial => (trial(&mut pass, &found, &siblings, progress), notes(cx, method, &found, &pass)),
        Fit::All(tried) => (again(&mut pass, &found, &siblings, tried, progress), Vec::new()),
    };
    Ok(Corrected { model: pass.into_model(), layers, notes })
}

/// Chooses how each layer is corrected.
fn trial(
    pass: &mut Pass<'_>,
    found: &[Found],
    siblings: &[Vec<usize>],
    progress: &mut dyn FnMut(usize, usize),
) -> Vec<LayerRecovery> {
    let mut reports = Vec::with_capacity(found.len());
    for (done, (layer, siblings)) in found.iter().zip(siblings).enumerate() {
        progress(done, found.len());
        reports.push(match layer {
            Ok(layer) => {
                let siblings = members(found, siblings, |_| true);
                attempt(pass, |pass| pass.choose(layer, &siblings, done)).unwrap_or_else(|error| {
                    LayerRecovery::left(layer.name.clone(), LeftReason::Failed { why: error.to_string() })
                })
            }
            Err((name, reason)) => LayerRecovery::left(name.clone(), reason.clone()),
        });
    }
    reports
}

/// Corrects each layer as a trial has chosen.
fn again(
    pass: &mut Pass<'_>,
    found: &[Found],
    siblings: &[Vec<usize>],
    tried: &[LayerRecovery],
    progress: &mut dyn FnMut(usize, usize),
) -> Vec<LayerRecovery> {
    let mut reports = tried.to_vec();
    for (done, ((layer, siblings), report)) in found.iter().zip(siblings).zip(&mut reports).enumerate() {
        progress(done, found.len());
        let (Ok(layer), Some(form)) = (layer, report.outcome.form()) else { continue };
        let alike =
            |other: Option<Form>| other.is_some_and(|other| (other == Form::Bias) == (form == Form::Bias));
        let siblings =
            members(found, siblings, |i| alike(tried.get(i).and_then(|layer| layer.outcome.form())));
        if let Err(error) = attempt(pass, |pass| pass.apply(layer, &siblings, done, form)) {
            report.outcome = Outcome::Left(LeftReason::Failed { why: error.to_string() });
        }
    }
    reports
}

/// The layers with these numbers that `wanted` says.
fn members<'l>(found: &'l [Found], numbers: &[usize], wanted: impl Fn(usize) -> bool) -> Vec<&'l Layer> {
    let numbers = numbers.iter().filter(|i| wanted(**i));
    numbers.filter_map(|i| found.get(*i)?.as_ref().ok()).collect()
}

/// Does something to a layer; if that fails, once more from the input on, where no piece of the model can be the reason.
fn attempt<T>(
    pass: &mut Pass<'_>,
    mut work: impl FnMut(&mut Pass<'_>) -> Result<T, RecoverError>,
) -> Result<T, RecoverError> {
    work(pass).or_else(|_| {
        pass.restart();
        let again = work(pass);
        if again.is_err() {
            pass.restart();
        }
        again
    })
}

/// Layers of which not all is corrected or measured, in words.
fn notes(cx: &RecoverContext<'_>, method: LeastSquares, found: &[Found], pass: &Pass<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for layer in found.iter().flatten().filter(|_| method.weights) {
        if let Some(why) = pass::too_large(layer, cx.memory) {
            notes.push(format!("{}: of its weights, the bias alone is corrected: {why}", layer.name));
        }
    }
    notes.extend(pass.notes());
    notes
}
