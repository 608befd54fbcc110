//! Replaces calls of model-local functions by what the functions do.
//!
//! A body's names are renamed scope by scope: formal inputs and outputs become those of the call, everything else gets
//! a name that the model does not have. Attributes that refer to those of the function take the call's value, or the
//! function's default, or are left out (ONNX IR specification, section Functions).

use super::{
    OnnxError, canonical_domain, label, opset,
    proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto},
    visit,
};
use prost::Message;
use std::collections::{HashMap, HashSet};

/// Calls within calls and graphs within graphs that are followed. Protobuf readers give up at about 100 nested
/// messages, three for each graph.
const MAX_DEPTH: usize = 30;
/// Bytes that all inlined bodies may take together: functions that call others twice grow exponentially.
const MAX_SIZE: usize = 1 << 28;

/// Domain, name and overload.
type Key<'a> = (&'a str, &'a str, &'a str);
/// The functions that nodes come from, outermost first.
type Callers<'a> = Vec<&'a FunctionProto>;
/// New names of the values that a body can read.
type Names = HashMap<String, String>;

/// Inlines all calls of model-local functions, in subgraphs too, and removes the functions. The operator sets that the
/// inlined functions import are added to those of the model.
///
/// # Errors
/// When a function is defined twice, calls itself, is called with too many inputs or outputs, or imports another
/// version of an operator set than the model; and when the calls expand beyond all reason.
pub fn inline_functions(model: &mut ModelProto) -> Result<(), OnnxError> {
    let functions = std::mem::take(&mut model.functions);
    let Some(graph) = &mut model.graph else { return Ok(()) };
    if functions.is_empty() {
        return Ok(());
    }
    let mut inliner = Inliner::default();
    for function in &functions {
        let key = (canonical_domain(function.domain()), function.name(), function.overload());
        if inliner.functions.insert(key, function).is_some() {
            return Err(OnnxError::TwoFunctions { function: full_name(function) });
        }
    }
    collect_names(graph, &mut inliner.names);
    inliner.expand_graph(graph, &mut Vec::new(), 0)?;
    let called = inliner.called;
    merge_opsets(model, &called)
}

/// Adds what the called functions import to the imports of the model.
fn merge_opsets(model: &mut ModelProto, called: &[&FunctionProto]) -> Result<(), OnnxError> {
    for function in called {
        for import in &function.opset_import {
            match opset(model, import.domain()) {
                0 => model.opset_import.push(import.clone()),
                expected if expected == import.version() => {}
                expected => {
                    let domain = match canonical_domain(import.domain()) {
                        "" => "ai.onnx",
                        domain => domain,
                    };
                    return Err(OnnxError::FunctionOpset {
                        function: full_name(function),
                        domain: domain.into(),
                        found: import.version(),
                        expected,
                    });
                }
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Inliner<'a> {
    functions: HashMap<Key<'a>, &'a FunctionProto>,
    /// The functions inlined so far, each once, in the order of their first call.
    called: Vec<&'a FunctionProto>,
    /// Every name in use.
    names: HashSet<String>,
    /// How many names were made from the same parts.
    made: HashMap<String, usize>,
    /// Bytes of the nodes made so far.
    size: usize,
}

impl<'a> Inliner<'a> {
    fn expand_graph(
        &mut self,
        graph: &mut GraphProto,
        callers: &mut Callers<'a>,
        depth: usize,
    ) -> Result<(), OnnxError> {
        graph.node = self.expand(std::mem::take(&mut graph.node), callers, depth)?;
        Ok(())
    }

    /// The nodes with every call replaced by the nodes of its function. `callers` are the functions they come from,
    /// `depth` is the number of graphs around them.
    fn expand(
        &mut self,
        nodes: Vec<NodeProto>,
        callers: &mut Callers<'a>,
        depth: usize,
    ) -> Result<Vec<NodeProto>, OnnxError> {
        let mut expanded = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            let key = (canonical_domain(node.domain()), node.op_type(), node.overload());
            let Some(&function) = self.functions.get(&key) else {
                for graph in visit::subgraphs_mut(&mut node) {
                    if let Some(caller) = callers.last().filter(|_| depth >= MAX_DEPTH) {
                        return Err(too_much(caller, "graphs nested more than 30 deep"));
                    }
                    self.expand_graph(graph, callers, depth + 1)?;
                }
                expanded.push(node);
                continue;
            };
            if callers.iter().any(|caller| std::ptr::eq(*caller, function)) {
                return Err(OnnxError::RecursiveFunction { function: full_name(function) });
            }
            callers.push(function);
            if callers.len() > MAX_DEPTH {
                return Err(too_much(function, "calls nested more than 30 deep"));
            }
            let body = self.instantiate(&node, function)?;
            expanded.extend(self.expand(body, callers, depth)?);
            callers.pop();
        }
        Ok(expanded)
    }

    /// The nodes of `function` as `call` means them.
    fn instantiate(
        &mut self,
        call: &NodeProto,
        function: &'a FunctionProto,
    ) -> Result<Vec<NodeProto>, OnnxError> {
        check_arity(call, function)?;
        if !self.called.iter().any(|f| std::ptr::eq(*f, function)) {
            self.called.push(function);
        }
        let prefix = if call.name().is_empty() { function.name() } else { call.name() };

        let mut names = Names::new();
        let actual = call.input.iter().map(String::as_str).chain(std::iter::repeat(""));
        names.extend(function.input.iter().cloned().zip(actual.map(str::to_owned)));
        let mut results = Vec::new();
        for (i, formal) in function.output.iter().enumerate() {
            let actual = match call.output.get(i) {
                Some(actual) if !actual.is_empty() => actual.clone(),
                _ => self.fresh(prefix, formal),
            };
            // A result that is an input, or a result under two names, has to be copied.
            match names.get(formal) {
                Some(source) => results.push(identity(source, actual)),
                None => _ = names.insert(formal.clone(), actual),
            }
        }
        for output in function.node.iter().flat_map(|n| &n.output) {
            if !output.is_empty() && !names.contains_key(output) {
                names.insert(output.clone(), self.fresh(prefix, output));
            }
        }
        let mut nodes = Vec::with_capacity(function.node.len());
        for template in &function.node {
            let mut node = template.clone();
            self.rename(&mut node, &names, prefix);
            substitute(&mut node, call, function);
            // Nodes take more memory than bytes on the disk.
            self.size = self.size.saturating_add(node.encoded_len()).saturating_add(size_of::<NodeProto>());
            if self.size > MAX_SIZE {
                return Err(too_much(function, "more than 256 MiB"));
            }
            nodes.push(node);
        }
        nodes.extend(results);
        Ok(nodes)
    }

    /// Gives `node` and what its subgraphs define their new names.
    fn rename(&mut self, node: &mut NodeProto, names: &Names, prefix: &str) {
        node.input.iter_mut().chain(&mut node.output).for_each(|name| replace(name, names));
        if !node.name().is_empty() {
            node.name = Some(self.fresh(prefix, node.name()));
        }
        for graph in visit::subgraphs_mut(node) {
            self.rename_graph(graph, names, prefix);
        }
    }

    fn rename_graph(&mut self, graph: &mut GraphProto, outer: &Names, prefix: &str) {
        let mut names = outer.clone();
        for name in visit::definitions(graph).filter(|name| !name.is_empty()) {
            names.insert(name.to_owned(), self.fresh(prefix, name));
        }
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        values.flat_map(|v| &mut v.name).for_each(|name| replace(name, &names));
        let sparse = graph.sparse_initializer.iter_mut().flat_map(|s| &mut s.values);
        let tensors = graph.initializer.iter_mut().chain(sparse);
        tensors.flat_map(|t| &mut t.name).for_each(|name| replace(name, &names));
        for annotation in &mut graph.quantization_annotation {
            let parameters = annotation.quant_parameter_tensor_names.iter_mut().flat_map(|p| &mut p.value);
            annotation.tensor_name.iter_mut().chain(parameters).for_each(|name| replace(name, &names));
        }
        for node in &mut graph.node {
            self.rename(node, &names, prefix);
        }
    }

    /// A name that is not in use, made of those of the call and of the value.
    fn fresh(&mut self, prefix: &str, name: &str) -> String {
        let base = format!("{prefix}/{name}");
        let made = self.made.entry(base.clone()).or_default();
        loop {
            *made += 1;
            let candidate = if *made == 1 { base.clone() } else { format!("{base}_{made}") };
            if self.names.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}

fn replace(name: &mut String, names: &Names) {
    if let Some(new) = names.get(name) {
        name.clone_from(new);
    }
}

/// Gives the attributes of `node` that refer to an attribute of `function` the value it has for `call`.
fn substitute(node: &mut NodeProto, call: &NodeProto, function: &FunctionProto) {
    node.attribute.retain_mut(|attribute| {
        let wanted = attribute.ref_attr_name();
        if wanted.is_empty() {
            return true;
        }
        let value = call.attribute.iter().chain(&function.attribute_proto).find(|a| a.name() == wanted);
        let Some(value) = value else { return false };
        *attribute = AttributeProto { name: attribute.name.take(), ..value.clone() };
        true
    });
    for graph in visit::subgraphs_mut(node) {
        graph.node.iter_mut().for_each(|node| substitute(node, call, function));
    }
}

fn check_arity(call: &NodeProto, function: &FunctionProto) -> Result<(), OnnxError> {
    let sides = [
        ("inputs", call.input.len(), function.input.len()),
        ("outputs", call.output.len(), function.output.len()),
    ];
    match sides.into_iter().find(|(_, found, expected)| found > expected) {
        Some((kind, found, expected)) => Err(OnnxError::FunctionArity {
            node: label(call),
            function: full_name(function),
            kind,
            found,
            expected,
        }),
        None => Ok(()),
    }
}

fn identity(source: &str, result: String) -> NodeProto {
    NodeProto {
        input: vec![source.into()],
        output: vec![result],
        op_type: Some("Identity".into()),
        ..NodeProto::default()
    }
}

/// Adds every name in `graph`, of values and of nodes, to `names`.
fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(visit::definitions(graph).map(str::to_owned));
    names.extend(graph.output.iter().map(|o| o.name().to_owned()));
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.name).cloned());
        visit::subgraphs(node).for_each(|graph| collect_names(graph, names));
    }
}

fn full_name(function: &FunctionProto) -> String {
    let parts = [function.domain(), function.name(), function.overload()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("::")
}

fn too_much(function: &FunctionProto, limit: &'static str) -> OnnxError {
    OnnxError::FunctionExpansion { function: full_name(function), limit }
}
