//! Declarations against the schemas that ONNX and ONNX Runtime have of their operators.

use std::collections::BTreeSet;

use optin_onnx::ops::{self, Arity, ElementClass, OpSchema, Slot};
use serde::Deserialize;

use crate::python;

/// The oldest operator set of the models that are read.
const OLDEST: i64 = 7;

/// An operator as of one version.
#[derive(Deserialize)]
struct Schema {
    domain: String,
    name: String,
    since: i64,
    inputs: Vec<Parameter>,
    outputs: Vec<Parameter>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    /// Single, Optional or Variadic.
    option: String,
    types: BTreeSet<String>,
}

/// Prints the schemas of all versions of ONNX's operators, and those of ONNX Runtime's own, but for what is deprecated.
const SCRIPT: &str = r#"
import json, onnx
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

def option(slot):
    return str(slot.option).split(".")[-1]

def standard(s, slots):
    return [dict(name=x.name, option=option(x), types=sorted(x.types)) for x in slots]

def own(s, slots):
    types = {t.type_param_str: t.allowed_type_strs for t in s.type_constraints}
    return [dict(name=x.name, option=option(x), types=list(types.get(x.typeStr, [x.typeStr]))) for x in slots]

def schema(s, slots):
    return dict(domain=s.domain, name=s.name, since=s.since_version, inputs=slots(s, s.inputs), outputs=slots(s, s.outputs))

known = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
found = [schema(s, standard) for s in onnx.defs.get_all_schemas_with_history()
         if s.domain == "" and (not s.deprecated or s.name == "GroupNormalization")]
found += [schema(s, own) for s in get_all_operator_schema()
          if s.domain == "com.microsoft" or (s.domain == "" and s.name not in known)]
print(json.dumps(found))
"#;

/// What a schema's types are, in the words of declarations.
fn class(types: &BTreeSet<String>) -> ElementClass {
    let is = |wanted: &[&str]| types.iter().all(|t| wanted.iter().any(|w| *t == format!("tensor({w})")));
    let floating =
        |t: &String| ["float", "double", "bfloat"].iter().any(|f| t.starts_with(&format!("tensor({f}")));
    let integer = |t: &String| t.starts_with("tensor(int") || t.starts_with("tensor(uint");
    if is(&["bool"]) {
        ElementClass::Bool
    } else if is(&["int64"]) {
        ElementClass::Int64
    } else if is(&["int32", "int64"]) && types.len() == 2 {
        ElementClass::Integer
    } else if types.iter().all(floating) {
        ElementClass::Float
    } else if types.iter().all(|t| floating(t) || integer(t)) && types.iter().any(floating) {
        ElementClass::Number
    } else {
        ElementClass::Any
    }
}

fn arity(option: &str) -> Arity {
    match option {
        "Single" => Arity::One,
        "Optional" => Arity::Optional,
        _ => Arity::Many,
    }
}

/// What a declaration says of slots otherwise than the schema of that version.
fn differences<'a>(
    declared: impl Iterator<Item = &'a Slot>,
    schema: &[Parameter],
    newest: bool,
) -> Vec<String> {
    let declared: Vec<&Slot> = declared.collect();
    let mut found = Vec::new();
    if declared.len() != schema.len() {
        found.push(format!("{} slots instead of {}", declared.len(), schema.len()));
    }
    for (slot, parameter) in declared.iter().zip(schema) {
        // What was needed once may be left out since: a rule for both has to take it as optional.
        let relaxed = !newest && slot.arity == Arity::Optional && arity(&parameter.option) == Arity::One;
        if slot.arity != arity(&parameter.option) && !relaxed {
            found.push(format!("{} is {}", slot.name, parameter.option));
        }
        if newest && slot.name != parameter.name {
            found.push(format!("{} is called {}", slot.name, parameter.name));
        }
        let class = class(&parameter.types);
        if newest && slot.class != class {
            found.push(format!("{} is {class:?}, not {:?}", slot.name, slot.class));
        }
        // Integers that say extents, axes or places have been of these types from the start.
        let integer = matches!(slot.class, ElementClass::Int64 | ElementClass::Integer);
        if integer && !matches!(class, ElementClass::Int64 | ElementClass::Integer) {
            found.push(format!("{} was {class:?}, not {:?}", slot.name, slot.class));
        }
    }
    found
}

#[test]
fn declarations_say_what_the_schemas_say() {
    let Some(json) = python(SCRIPT, &[]) else { return };
    let schemas: Vec<Schema> = serde_json::from_str(&json).unwrap();
    let mut wrong = Vec::new();
    for (_, declared) in ops::schemas() {
        let OpSchema { domain, name, .. } = *declared;
        let versions: Vec<&Schema> =
            schemas.iter().filter(|s| (s.domain.as_str(), s.name.as_str()) == (domain, name)).collect();
        let until = declared.changed.unwrap_or(i64::MAX);
        let since: BTreeSet<i64> = versions.iter().map(|s| s.since).filter(|since| *since < until).collect();
        if since != declared.since.iter().copied().collect() {
            wrong.push(format!("{name} changed in {since:?}, not {:?}", declared.since));
        }
        let superseded =
            |s: &Schema| versions.iter().any(|other| s.since < other.since && other.since <= OLDEST);
        for schema in versions.iter().filter(|s| s.since < until && !superseded(s)) {
            let newest = Some(&schema.since) == declared.since.last();
            let inputs = differences(declared.inputs_of(schema.since), &schema.inputs, newest);
            let outputs = differences(declared.outputs_of(schema.since), &schema.outputs, newest);
            wrong.extend(inputs.into_iter().chain(outputs).map(|d| format!("{name}-{}: {d}", schema.since)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
