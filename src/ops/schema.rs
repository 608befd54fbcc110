//! Declarations of operators: which versions and forms of an operator its rule covers, and its operands and
//! results by name.
//!
//! The registry consists of these declarations, rules name slots by them, and tests compare them with the schemas of ONNX
//! and of ONNX Runtime, and run every form of every version.

use super::Operator;

/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// The element types that a slot takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementClass {
    /// Floating-point numbers only.
    Float,
    /// Floating-point numbers and integers.
    Number,
    /// More than numbers, or integers that are neither indices nor extents.
    Any,
    /// Truth values.
    Bool,
    /// int64.
    Int64,
    /// int32 or int64.
    Integer,
}

/// How often a slot is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Once.
    One,
    /// At most once.
    Optional,
    /// Any number of times: the last slot.
    Many,
}

/// An operand or a result.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its name in the newest version of the operator.
    pub name: &'static str,
    /// What its elements are.
    pub class: ElementClass,
    /// How often it is there.
    pub arity: Arity,
    /// Whether it says extents, counts or bounds of axes, and is brought up to date when those shrink.
    pub follows: bool,
    /// The operator set versions that have it, both ends included.
    pub versions: [i64; 2],
}

impl Slot {
    const fn new(name: &'static str, class: ElementClass) -> Self {
        Self { name, class, arity: Arity::One, follows: false, versions: [1, i64::MAX] }
    }

    /// It may be left out.
    pub const fn optional(self) -> Self {
        Self { arity: Arity::Optional, ..self }
    }

    /// There are any number of it.
    pub const fn many(self) -> Self {
        Self { arity: Arity::Many, ..self }
    }

    /// It says extents, counts or bounds of axes, and is brought up to date when those shrink.
    pub const fn follows(self) -> Self {
        Self { follows: true, ..self }
    }

    /// The first version that has it.
    pub const fn since(self, version: i64) -> Self {
        Self { versions: [version, self.versions[1]], ..self }
    }

    /// The last version that has it.
    pub const fn until(self, version: i64) -> Self {
        Self { versions: [self.versions[0], version], ..self }
    }

    fn is_in(&self, version: i64) -> bool {
        (self.versions[0]..=self.versions[1]).contains(&version)
    }
}

pub(super) const fn float(name: &'static str) -> Slot {
    Slot::new(name, ElementClass::Float)
}

pub(super) const fn number(name: &'static str) -> Slot {
    Slot::new(name, ElementClass::Number)
}

pub(super) const fn any(name: &'static str) -> Slot {
    Slot::new(name, ElementClass::Any)
}

pub(super) const fn boolean(name: &'static str) -> Slot {
    Slot::new(name, ElementClass::Bool)
}

pub(super) const fn int64(name: &'static str) -> Slot {
    Slot::new(name, ElementClass::Int64)
}

pub(super) const fn integer(name: &'static str) -> Slot {
    Slot::new(name, ElementClass::Integer)
}

/// A way of writing an operator down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorForm {
    /// What is particular about it; empty for an operator that has one form only.
    pub name: &'static str,
    /// The operator set versions that have it, both ends included.
    pub versions: [i64; 2],
}

impl OperatorForm {
    /// A form of all versions of the operator.
    pub const fn of(name: &'static str) -> Self {
        Self { name, versions: [1, i64::MAX] }
    }

    /// The first version that has it.
    pub const fn since(self, version: i64) -> Self {
        Self { versions: [version, self.versions[1]], ..self }
    }

    /// The last version that has it.
    pub const fn until(self, version: i64) -> Self {
        Self { versions: [self.versions[0], version], ..self }
    }
}

/// What is declared of an operator.
#[derive(Clone, Copy)]
pub struct OpSchema {
    /// Its domain; empty for ONNX's own operators.
    pub domain: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The versions of the operator set that brought or changed it, up to the last one that the rule covers.
    pub since: &'static [i64],
    /// The version of the operator set that changed it in a way that the rule does not cover, if one did.
    pub changed: Option<i64>,
    /// Its operands.
    pub inputs: &'static [Slot],
    /// Its results.
    pub outputs: &'static [Slot],
    /// The ways to write it down.
    pub forms: &'static [OperatorForm],
    /// Whether the rule says how cotangents pass.
    pub has_gradient: bool,
    /// The rule.
    pub rule: &'static dyn Operator,
}

const PLAIN: &[OperatorForm] = &[OperatorForm::of("")];

/// One of ONNX's operators, and the versions that brought or changed it.
pub(super) const fn onnx(name: &'static str, since: &'static [i64], rule: &'static dyn Operator) -> OpSchema {
    OpSchema {
        domain: "",
        name,
        since,
        changed: None,
        inputs: &[],
        outputs: &[],
        forms: PLAIN,
        has_gradient: true,
        rule,
    }
}

/// One of ONNX Runtime's own operators, all of which are of version 1.
pub(super) const fn microsoft(name: &'static str, rule: &'static dyn Operator) -> OpSchema {
    OpSchema { domain: MICROSOFT, ..onnx(name, &[1], rule) }
}

impl OpSchema {
    /// Its operands.
    pub(super) const fn reads(self, inputs: &'static [Slot]) -> Self {
        Self { inputs, ..self }
    }

    /// Its results.
    pub(super) const fn makes(self, outputs: &'static [Slot]) -> Self {
        Self { outputs, ..self }
    }

    /// The ways to write it down, where there are several.
    pub(super) const fn forms(self, forms: &'static [OperatorForm]) -> Self {
        Self { forms, ..self }
    }

    /// The rule does not say how cotangents pass.
    pub(super) const fn without_gradient(self) -> Self {
        Self { has_gradient: false, ..self }
    }

    /// The version of the operator set from which on the rule does not cover the operator, if `opset` is not below it.
    pub fn unsupported_since(&self, opset: i64) -> Option<i64> {
        self.changed.filter(|changed| self.domain.is_empty() && *changed <= opset)
    }

    /// The operands of a version of the operator set, in order.
    pub fn inputs_of(&self, opset: i64) -> impl Iterator<Item = &'static Slot> {
        self.inputs.iter().filter(move |slot| slot.is_in(opset))
    }

    /// The results of a version of the operator set, in order.
    pub fn outputs_of(&self, opset: i64) -> impl Iterator<Item = &'static Slot> {
        self.outputs.iter().filter(move |slot| slot.is_in(opset))
    }

    /// Whether the operand in this place says extents that are brought up to date when axes shrink.
    pub fn follows(&self, opset: i64, place: usize) -> bool {
        self.inputs_of(opset).nth(place).is_some_and(|slot| slot.follows)
    }

    /// Each version of the operator that a model of at least the operator set `oldest` can have, with each form of it there.
    pub fn variants(&self, oldest: i64) -> impl Iterator<Item = (i64, &'static OperatorForm)> {
        let (since, forms) = (self.since, self.forms);
        let gone = since.iter().filter(|version| **version <= oldest).count().saturating_sub(1);
        since.iter().skip(gone).flat_map(move |&version| {
            let version = version.max(oldest);
            let has = move |form: &&OperatorForm| (form.versions[0]..=form.versions[1]).contains(&version);
            forms.iter().filter(has).map(move |form| (version, form))
        })
    }
}

/// Names the places of an operator's slots: `slots!(slot: X = float("X"), BIAS = float("B").optional())` makes a module
/// `slot` with the places as `X` and `BIAS`, and with all of them, for a [`OpSchema`], as `ALL`.
macro_rules! slots {
    ($(#[$doc:meta])* $module:ident: $($place:ident = $slot:expr),* $(,)?) => {
        $(#[$doc])*
        #[allow(dead_code)] // The names of operands that a rule need not read say what they are all the same.
        mod $module {
            #[allow(unused_imports)]
            use super::super::schema::{Slot, slots, any, boolean, float, int64, integer, number};

            pub const ALL: &[Slot] = &[$($slot),*];
            slots!(@ 0; $($place)*);
        }
    };
    (@ $next:expr; $place:ident $($rest:ident)*) => {
        pub const $place: usize = $next;
        slots!(@ $next + 1; $($rest)*);
    };
    (@ $next:expr;) => {};
}
pub(super) use slots;
