//! What counts as the same model, and what does not.

#![allow(clippy::unwrap_used)]

mod support;

use optin_onnx::{
    runtime::RuntimeChoice,
    verify::{TOLERANCE, verify},
};
use support::{Subject, engine, text};

/// Picks the entries of the two largest of four sums, of which the first lies `ahead` of the second.
fn chooses(ahead: &str, output: &str) -> Subject {
    let text = format!(
        r#"<ir_version: 10, opset_import: ["" : 17]>
        chooses (float[N, 4] x) => ({output})
        <float[4] none = {{0.0, 0.0, 0.0, 0.0}}, float[4] sums = {{{ahead}, 1.0, 2.0, 0.0}}, int64[1] two = {{2}}>
        {{
            nothing = Mul (x, none)
            s = Add (nothing, sums)
            values, places = TopK <axis = 1> (s, two)
            y = GatherElements <axis = 1> (x, places)
        }}"#
    );
    Subject::new(&*engine(RuntimeChoice::Tract), text::parse(&text).unwrap().0).unwrap()
}

/// The largest difference of an output between models in which one or the other sum is the larger.
fn difference(a: &str, b: &str, output: &str) -> f64 {
    let engine = engine(RuntimeChoice::Tract);
    let (masked, pruned) = (chooses(a, output), chooses(b, output));
    let proof = verify(&*engine, &masked.model, &pruned.model, &masked.samples, 2).unwrap();
    proof.outputs.iter().map(|o| o.difference).fold(0.0, f64::max)
}

#[test]
fn rounding_may_tip_a_choice_but_not_what_is_chosen_from() {
    for output in ["float[N, 2] y", "int64[N, 2] places"] {
        assert_eq!(difference("1.000001", "1.000001", output), 0.0);
        assert!(difference("1.000001", "0.999999", output) <= TOLERANCE);
        assert!(difference("1.01", "0.99", output) > TOLERANCE);
    }
}
