//! Operators: what is declared of them against the schemas of ONNX and of ONNX Runtime, every form of every version between
//! layers that may shrink, and laws of single rules: pruned equals masked.

#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

#[path = "../gradients/case.rs"]
mod case;
#[path = "../gradients/check.rs"]
mod check;
#[path = "../common/mod.rs"]
mod common;
mod examples;
mod forms;
mod layers;
mod rules;
mod schemas;
#[path = "../support/mod.rs"]
mod support;

use std::process::Command;

/// What the test set-up's Python prints for a script; `None` where there is no such Python.
fn python(script: &str, args: &[&str]) -> Option<String> {
    let python = std::env::var_os("OPTIN_PYTHON")?;
    let output = Command::new(python).args(["-I", "-c", script]).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
