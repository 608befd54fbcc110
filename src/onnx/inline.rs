//! Replaces calls of model-local functions by what the functions do.
//!
//! A body's names are renamed scope by scope: formal inputs and outputs become those of the call, everything else gets
//! a name that the model does not have. Attributes that refer to those of the function take the call's value, or the
//! function's default, or are left out (ONNX IR specification, section Functions).

use super::{
    OnnxError, canonical_domain, label,
    proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto},
    visit,
};
use crate::limits;
use prost::Message;
use std::collections::{HashMap, HashSet};

/// Domain, name and overload.
type Key<'a> = (&'a str, &'a str, &'a str);
/// The functions that nodes come from, outermost first.
type Callers<'a> = Vec<&'a FunctionProto>;

/// New names of the values that a body can read.
#[derive(Default)]
struct Names<'a> {
    own: HashMap<String, String>,
    /// Those of the graph around it.
    outer: Option<&'a Names<'a>>,
}

impl Names<'_> {
    fn get(&self, name: &str) -> Option<&String> {
        self.own.get(name).or_else(|| self.outer?.get(name))
    }
}

/// A function, and what new names made for its call begin with.
#[derive(Clone, Copy)]
struct Site<'a> {
    function: &'a FunctionProto,
    prefix: &'a str,
}

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
    let mut versions = HashMap::new();
    for import in &model.opset_import {
        versions.entry(canonical_domain(import.domain()).to_owned()).or_insert(import.version());
    }
    for (function, import) in called.iter().flat_map(|f| f.opset_import.iter().map(move |i| (f, i))) {
        let domain = canonical_domain(import.domain());
        let expected = *versions.entry(domain.to_owned()).or_insert_with(|| {
            model.opset_import.push(import.clone());
            import.version()
        });
        if expected != import.version() {
            return Err(OnnxError::FunctionOpset {
                function: full_name(function),
                domain: if domain.is_empty() { "ai.onnx" } else { domain }.into(),
                found: import.version(),
                expected,
            });
        }
    }
    Ok(())
}

#[derive(Default)]
struct Inliner<'a> {
    functions: HashMap<Key<'a>, &'a FunctionProto>,
    /// The functions inlined so far, each once, in the order of their first call.
    called: Vec<&'a FunctionProto>,
    /// The same, to be looked up.
    seen: HashSet<Key<'a>>,
    /// Every name in use.
    names: HashSet<String>,
    /// How many names were made from the same parts.
    made: HashMap<String, usize>,
    /// Bytes of the nodes and names made so far.
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
                    if let Some(caller) = callers.last().filter(|_| depth >= limits::GRAPH_DEPTH) {
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
            if callers.len() > limits::GRAPH_DEPTH {
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
        if self.seen.insert((function.domain(), function.name(), function.overload())) {
            self.called.push(function);
        }
        let prefix = if call.name().is_empty() { function.name() } else { call.name() };
        let site = Site { function, prefix };

        let mut names = Names::default();
        let actual = call.input.iter().map(String::as_str).chain(std::iter::repeat(""));
        names.own.extend(function.input.iter().cloned().zip(actual.map(str::to_owned)));
        let mut results = Vec::new();
        for (i, formal) in function.output.iter().enumerate() {
            let actual = match call.output.get(i) {
                Some(actual) if !actual.is_empty() => actual.clone(),
                _ => self.fresh(site, formal)?,
            };
            // A result that is an input, or a result under two names, has to be copied.
            match names.own.get(formal) {
                Some(source) => results.push(identity(source, actual)),
                None => {
                    names.own.insert(formal.clone(), actual);
                }
            }
        }
        for output in function.node.iter().flat_map(|n| &n.output) {
            if !output.is_empty() && !names.own.contains_key(output) {
                names.own.insert(output.clone(), self.fresh(site, output)?);
            }
        }
        let mut nodes = Vec::with_capacity(function.node.len());
        for template in &function.node {
            let mut node = template.clone();
            self.rename(&mut node, &names, site)?;
            self.substitute(&mut node, call, function)?;
            // Nodes take more memory than bytes on the disk.
            self.grow(function, node.encoded_len().saturating_add(size_of::<NodeProto>()))?;
            nodes.push(node);
        }
        nodes.extend(results);
        Ok(nodes)
    }

    /// Gives `node` and what its subgraphs define their new names.
    fn rename(&mut self, node: &mut NodeProto, names: &Names<'_>, site: Site<'_>) -> Result<(), OnnxError> {
        node.input.iter_mut().chain(&mut node.output).try_for_each(|name| self.replace(name, names, site))?;
        if !node.name().is_empty() {
            node.name = Some(self.fresh(site, node.name())?);
        }
        visit::subgraphs_mut(node).try_for_each(|graph| self.rename_graph(graph, names, site))
    }

    fn rename_graph(
        &mut self,
        graph: &mut GraphProto,
        outer: &Names<'_>,
        site: Site<'_>,
    ) -> Result<(), OnnxError> {
        let mut names = Names { own: HashMap::new(), outer: Some(outer) };
        for name in visit::definitions(graph).filter(|name| !name.is_empty()) {
            names.own.insert(name.to_owned(), self.fresh(site, name)?);
        }
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        values.flat_map(|v| &mut v.name).try_for_each(|name| self.replace(name, &names, site))?;
        let sparse = graph.sparse_initializer.iter_mut().flat_map(|s| &mut s.values);
        let tensors = graph.initializer.iter_mut().chain(sparse);
        tensors.flat_map(|t| &mut t.name).try_for_each(|name| self.replace(name, &names, site))?;
        for annotation in &mut graph.quantization_annotation {
            let parameters = annotation.quant_parameter_tensor_names.iter_mut().flat_map(|p| &mut p.value);
            let mut annotated = annotation.tensor_name.iter_mut().chain(parameters);
            annotated.try_for_each(|name| self.replace(name, &names, site))?;
        }
        graph.node.iter_mut().try_for_each(|node| self.rename(node, &names, site))
    }

    fn replace(&mut self, name: &mut String, names: &Names<'_>, site: Site<'_>) -> Result<(), OnnxError> {
        if let Some(new) = names.get(name) {
            self.grow(site.function, new.len())?;
            name.clone_from(new);
        }
        Ok(())
    }

    /// A name that is not in use, made of those of the call and of the value.
    fn fresh(&mut self, site: Site<'_>, name: &str) -> Result<String, OnnxError> {
        // The name is kept by the node, and twice here.
        self.grow(site.function, site.prefix.len().saturating_add(name.len()).saturating_mul(3))?;
        let base = format!("{}/{name}", site.prefix);
        let made = self.made.entry(base.clone()).or_default();
        loop {
            *made += 1;
            let candidate = if *made == 1 { base.clone() } else { format!("{base}_{made}") };
            if self.names.insert(candidate.clone()) {
                return Ok(candidate);
            }
        }
    }

    /// Gives the attributes of `node` that refer to an attribute of `function` the value it has for `call`.
    fn substitute(
        &mut self,
        node: &mut NodeProto,
        call: &NodeProto,
        function: &FunctionProto,
    ) -> Result<(), OnnxError> {
        let mut attributes = Vec::with_capacity(node.attribute.len());
        for mut attribute in std::mem::take(&mut node.attribute) {
            let wanted = attribute.ref_attr_name();
            if !wanted.is_empty() {
                let mut given = call.attribute.iter().chain(&function.attribute_proto);
                let Some(value) = given.find(|a| a.name() == wanted) else { continue };
                self.grow(function, value.encoded_len())?;
                attribute = AttributeProto { name: attribute.name.take(), ..value.clone() };
            }
            attributes.push(attribute);
        }
        node.attribute = attributes;
        let mut inner = visit::subgraphs_mut(node).flat_map(|graph| &mut graph.node);
        inner.try_for_each(|node| self.substitute(node, call, function))
    }

    /// Counts what is made for a call of `function`, and refuses more than can be held.
    fn grow(&mut self, function: &FunctionProto, bytes: usize) -> Result<(), OnnxError> {
        self.size = self.size.saturating_add(bytes);
        if self.size > limits::INLINED_BYTES {
            return Err(too_much(function, "more than 256 MiB"));
        }
        Ok(())
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
