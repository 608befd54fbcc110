//! Files whose input leaves the batch open and whose shapes hold one all the same.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Net, engine};
use optin_onnx::{calibration::Samples, typing::fixed_batch};

/// The batch size that is found for `x [batch, 6, 16]` under these shapes, put around a softmax over positions.
fn found(apart: &[i64], back: &[i64]) -> Option<usize> {
    let mut net = Net::new(17, &[6, 16]);
    net.ints("apart", apart);
    net.ints("back", back);
    net.node("Transpose", &["x"], &["t"]).ints("perm", &[1, 0, 2]);
    net.node("Reshape", &["t", "apart"], &["heads"]);
    net.node("Softmax", &["heads"], &["p"]).int("axis", 0);
    net.node("Reshape", &["p", "back"], &["b"]);
    net.node("Transpose", &["b"], &["y"]).ints("perm", &[1, 0, 2]);
    let model = net.model(&["y"]);
    let samples = Samples::new(&model, net.feed(5)).unwrap();
    fixed_batch(&*engine(&net.graph).unwrap(), &model, &samples).unwrap()
}

#[test]
fn shapes_without_a_batch_leave_it_open() {
    assert_eq!(found(&[6, -1, 4], &[6, -1, 16]), None);
}

#[test]
fn a_batch_that_shapes_hold_is_found_where_others_fail() {
    assert_eq!(found(&[6, 8, 4], &[6, 2, 16]), Some(2));
}

#[test]
fn a_batch_that_shapes_hold_is_found_where_others_mix_samples() {
    assert_eq!(found(&[-1, 8, 4], &[6, -1, 16]), Some(2));
    assert_eq!(found(&[-1, 16, 4], &[6, -1, 16]), Some(4));
}

#[test]
fn only_single_samples_run_where_shapes_hold_one() {
    assert_eq!(found(&[6, 4, 4], &[6, 1, 16]), Some(1));
}

#[test]
fn a_fixed_batch_drops_what_does_not_fill_it() {
    let net = Net::new(17, &[6, 16]);
    let mut samples = Samples::new(&net.model(&["x"]), net.feed(5)).unwrap();
    samples.fix_batch(2).unwrap();
    assert_eq!((samples.len(), samples.fixed_batch(), samples.notes().len()), (4, Some(2), 2));
    assert!(samples.fix_batch(8).is_err());
}
