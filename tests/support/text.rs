//! ONNX's textual syntax (onnx/docs/Syntax.md), read and written, as far as the tests use it.
//!
//! One thing is added: `float[8, 16] w = random` is an initializer of numbers that follow from its name, between -1 and 1;
//! `= positive` draws them from 0.5 to 1.5, as variances want.

use optin_onnx::{
    onnx::{
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
            TensorShapeProto, TypeProto, ValueInfoProto,
            attribute_proto::AttributeType,
            tensor_shape_proto::{self, dimension},
            type_proto,
        },
        tensor::{from_tensor, to_tensor},
    },
    tensor::{DType, Tensor},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ELEMENTS: &[(&str, DType)] = &[
    ("float", DType::F32),
    ("double", DType::F64),
    ("float16", DType::F16),
    ("bfloat16", DType::BF16),
    ("int8", DType::I8),
    ("uint8", DType::U8),
    ("int32", DType::I32),
    ("int64", DType::I64),
    ("bool", DType::Bool),
];

/// The model in `text`, of operator set 18 unless it says otherwise, and where its graph ends.
pub fn parse(text: &str) -> Result<(ModelProto, usize), String> {
    let mut parser = Parser { text, at: 0 };
    parser.model().map(|model| (model, parser.at)).map_err(|e| parser.located(&e))
}

/// Reproducible numbers for the initializer called `name`, from `low` to `high`.
pub fn random(name: &str, shape: &[usize], (low, high): (f32, f32)) -> Tensor {
    // FNV-1a: any function of the name would do that is the same everywhere.
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    Tensor::f32(shape, (0..count).map(|_| rng.random_range(low..high)).collect()).unwrap()
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn located(&self, error: &str) -> String {
        let line = self.text[..self.at].lines().count().max(1);
        format!("line {line}: {error}")
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// What follows, without white space and comments.
    fn skip(&mut self) {
        loop {
            let trimmed = self.rest().trim_start();
            let comment = trimmed.starts_with('#');
            self.at = self.text.len() - trimmed.len();
            if !comment {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}`")) }
    }

    fn word(&mut self, accept: impl Fn(char) -> bool) -> &str {
        self.skip();
        let length = self.rest().find(|c| !accept(c)).unwrap_or(self.rest().len());
        self.at += length;
        &self.text[self.at - length..self.at]
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect("\"")?;
        let end = self.rest().find('"').ok_or("unclosed string")?;
        let string = self.rest()[..end].to_owned();
        self.at += end + 1;
        Ok(string)
    }

    fn identifier(&mut self) -> Result<String, String> {
        self.skip();
        if self.rest().starts_with('"') {
            return self.string();
        }
        match self.word(|c| c.is_ascii_alphanumeric() || c == '_') {
            "" => Err("expected a name".to_owned()),
            name => Ok(name.to_owned()),
        }
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        word.parse().map_err(|_| format!("`{word}` is not a number"))
    }

    fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        while !self.eat(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn model(&mut self) -> Result<ModelProto, String> {
        let mut model = ModelProto { ir_version: Some(8), ..ModelProto::default() };
        let import =
            |domain: String, version| OperatorSetIdProto { domain: Some(domain), version: Some(version) };
        if self.eat("<") {
            self.list(">", |p| {
                let key = p.identifier()?;
                p.expect(":")?;
                match key.as_str() {
                    "ir_version" => model.ir_version = Some(p.number()?),
                    "opset_import" => {
                        p.expect("[")?;
                        model.opset_import = p.list("]", |p| {
                            let domain = p.string()?;
                            p.expect(":")?;
                            Ok(import(domain, p.number()?))
                        })?;
                    }
                    _ => return Err(format!("unknown key `{key}`")),
                }
                Ok(())
            })?;
        }
        if model.opset_import.is_empty() {
            model.opset_import = vec![import(String::new(), 18)];
        }
        model.graph = Some(self.graph()?);
        Ok(model)
    }

    fn graph(&mut self) -> Result<GraphProto, String> {
        let mut graph = GraphProto { name: Some(self.identifier()?), ..GraphProto::default() };
        self.expect("(")?;
        graph.input = self.list(")", |p| p.value().map(|(info, _)| info))?;
        self.expect("=>")?;
        self.expect("(")?;
        graph.output = self.list(")", |p| p.value().map(|(info, _)| info))?;
        if self.eat("<") {
            for (info, tensor) in self.list(">", Self::value)? {
                match tensor {
                    Some(tensor) => graph.initializer.push(tensor),
                    None => graph.value_info.push(info),
                }
            }
        }
        self.expect("{")?;
        while !self.eat("}") {
            graph.node.push(self.node()?);
        }
        Ok(graph)
    }

    fn element(&mut self) -> Result<DType, String> {
        let word = self.identifier()?;
        let known = ELEMENTS.iter().find(|(name, _)| *name == word);
        known.map(|(_, dtype)| *dtype).ok_or_else(|| format!("`{word}` is not an element type"))
    }

    /// The dimensions after an element type; none for a scalar.
    fn dimensions(&mut self) -> Result<Vec<dimension::Value>, String> {
        if !self.eat("[") {
            return Ok(Vec::new());
        }
        self.list("]", |p| {
            let word = p.identifier()?;
            Ok(word.parse().map_or(dimension::Value::DimParam(word), dimension::Value::DimValue))
        })
    }

    /// `float[N, 8] x`, perhaps with contents.
    fn value(&mut self) -> Result<(ValueInfoProto, Option<TensorProto>), String> {
        let (element, dimensions) = (self.element()?, self.dimensions()?);
        let name = self.identifier()?;
        let tensor = if self.eat("=") { Some(self.contents(&name, element, &dimensions)?) } else { None };
        let dim = dimensions
            .into_iter()
            .map(|value| tensor_shape_proto::Dimension { value: Some(value), ..Default::default() });
        let shape = Some(TensorShapeProto { dim: dim.collect() });
        let r#type = type_proto::Tensor { elem_type: Some(element.onnx()), shape };
        let r#type = TypeProto { value: Some(type_proto::Value::TensorType(r#type)), ..Default::default() };
        Ok((ValueInfoProto { name: Some(name), r#type: Some(r#type), ..Default::default() }, tensor))
    }

    fn contents(
        &mut self,
        name: &str,
        element: DType,
        dimensions: &[dimension::Value],
    ) -> Result<TensorProto, String> {
        let sizes = dimensions.iter().map(|d| match d {
            dimension::Value::DimValue(n) => usize::try_from(*n).map_err(|e| e.to_string()),
            dimension::Value::DimParam(p) => {
                Err(format!("`{name}` has contents, and the symbol {p} in its shape"))
            }
        });
        let shape = sizes.collect::<Result<Vec<_>, _>>()?;
        let filled =
            |tensor: Option<Tensor>| tensor.ok_or(format!("`{name}` has the wrong number of elements"));
        let floats = |tensor: Tensor| tensor.cast_float(element).ok_or(format!("`{name}` is not of floats"));
        let tensor = if self.eat("random") {
            floats(random(name, &shape, (-1.0, 1.0)))?
        } else if self.eat("positive") {
            floats(random(name, &shape, (0.5, 1.5)))?
        } else {
            self.expect("{")?;
            match element {
                DType::I64 => filled(Tensor::ints(&self.list("}", Self::number)?).reshape(&shape))?,
                DType::I32 => {
                    let data: Vec<i32> = self.list("}", Self::number)?;
                    filled(Tensor::I32(ndarray::Array1::from(data).into_dyn()).reshape(&shape))?
                }
                DType::I8 => {
                    let data: Vec<i8> = self.list("}", Self::number)?;
                    filled(Tensor::I8(ndarray::Array1::from(data).into_dyn()).reshape(&shape))?
                }
                DType::U8 => {
                    let data: Vec<u8> = self.list("}", Self::number)?;
                    filled(Tensor::U8(ndarray::Array1::from(data).into_dyn()).reshape(&shape))?
                }
                DType::Bool => {
                    let data: Vec<u8> = self.list("}", Self::number)?;
                    let data = ndarray::Array1::from(data).mapv(|x| x != 0).into_dyn();
                    filled(Tensor::Bool(data).reshape(&shape))?
                }
                _ => floats(filled(Tensor::f32(&shape, self.list("}", Self::number)?))?)?,
            }
        };
        Ok(from_tensor(name, &tensor))
    }

    /// `[name] y, z = domain.Op <attribute = 1> (a, b)`.
    fn node(&mut self) -> Result<NodeProto, String> {
        let mut node = NodeProto::default();
        if self.eat("[") {
            let name = self.word(|c| c != ']').to_owned();
            node.name = Some(name);
            self.expect("]")?;
        }
        node.output = self.list("=", Self::identifier)?;
        let mut path = vec![self.identifier()?];
        while self.eat(".") {
            path.push(self.identifier()?);
        }
        node.op_type = path.pop();
        if !path.is_empty() {
            node.domain = Some(path.join("."));
        }
        node.attribute = self.attributes()?;
        self.expect("(")?;
        node.input = self.list(")", Self::identifier)?;
        node.attribute.extend(self.attributes()?);
        Ok(node)
    }

    fn attributes(&mut self) -> Result<Vec<AttributeProto>, String> {
        if self.eat("<") { self.list(">", Self::attribute) } else { Ok(Vec::new()) }
    }

    fn attribute(&mut self) -> Result<AttributeProto, String> {
        let name = Some(self.identifier()?);
        self.expect("=")?;
        let mut attribute = AttributeProto { name, ..AttributeProto::default() };
        self.skip();
        let kind = match self.rest().chars().next() {
            Some('"') => {
                attribute.s = Some(self.string()?.into_bytes().into());
                AttributeType::String
            }
            Some('[') => {
                self.expect("[")?;
                let numbers = self.list("]", Self::number::<f64>)?;
                attribute.ints = numbers.iter().map(|x| *x as i64).collect();
                AttributeType::Ints
            }
            Some(c) if c.is_ascii_alphabetic() => {
                let start = self.at;
                let tensor = self.element().is_ok();
                self.at = start;
                if tensor {
                    let (element, dimensions) = (self.element()?, self.dimensions()?);
                    attribute.t = Some(self.contents("", element, &dimensions)?);
                    AttributeType::Tensor
                } else {
                    attribute.g = Some(self.graph()?);
                    AttributeType::Graph
                }
            }
            _ => {
                let word = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)).to_owned();
                let wrong = |_| format!("`{word}` is not a number");
                if let Ok(int) = word.parse() {
                    attribute.i = Some(int);
                    AttributeType::Int
                } else {
                    attribute.f = Some(word.parse().map_err(wrong)?);
                    AttributeType::Float
                }
            }
        };
        attribute.set_type(kind);
        Ok(attribute)
    }
}

/// The graph of a model. Contents are given of small integer tensors only.
pub fn print(model: &ModelProto) -> String {
    let graph = model.graph.clone().unwrap_or_default();
    let infos = |infos: &[ValueInfoProto]| infos.iter().map(value_info).collect::<Vec<_>>().join(", ");
    let mut inner: Vec<String> = graph.initializer.iter().map(initializer).collect();
    inner.extend(graph.value_info.iter().map(value_info));
    let declared = match (inner.is_empty(), inner.iter().map(String::len).sum::<usize>() < 90) {
        (true, _) => String::new(),
        (false, true) => format!("<{}>\n", inner.join(", ")),
        (false, false) => format!("<\n   {}\n>\n", inner.join(",\n   ")),
    };
    let nodes: String = graph.node.iter().map(|n| format!("   {}\n", node(n))).collect();
    format!(
        "{} ({}) => ({})\n{declared}{{\n{nodes}}}\n",
        graph.name(),
        infos(&graph.input),
        infos(&graph.output)
    )
}

fn element(code: i32) -> &'static str {
    let dtype = DType::from_onnx(code);
    ELEMENTS.iter().find(|(_, d)| Some(*d) == dtype).map_or("unknown", |(name, _)| name)
}

fn shape(dims: &[String]) -> String {
    if dims.is_empty() { String::new() } else { format!("[{}]", dims.join(", ")) }
}

fn value_info(info: &ValueInfoProto) -> String {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return info.name().to_owned();
    };
    let dims = tensor.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
        Some(dimension::Value::DimValue(n)) => n.to_string(),
        Some(dimension::Value::DimParam(p)) => p.clone(),
        None => "?".to_owned(),
    });
    format!("{}{} {}", element(tensor.elem_type()), shape(&dims.collect::<Vec<_>>()), info.name())
}

fn tensor(tensor: &TensorProto) -> (String, String) {
    let dims: Vec<String> = tensor.dims.iter().map(ToString::to_string).collect();
    let ints = to_tensor(tensor).ok().and_then(|t| t.to_ints()).filter(|ints| ints.len() <= 16);
    let contents = ints.map(|ints| ints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    let contents = contents.map_or(String::new(), |ints| format!(" = {{{ints}}}"));
    (format!("{}{}", element(tensor.data_type()), shape(&dims)), contents)
}

fn initializer(proto: &TensorProto) -> String {
    let (kind, contents) = tensor(proto);
    format!("{kind} {}{contents}", proto.name())
}

fn node(node: &NodeProto) -> String {
    let names = |names: &[String]| {
        let quoted = names.iter().map(|n| if n.is_empty() { "\"\"".to_owned() } else { n.clone() });
        quoted.collect::<Vec<_>>().join(", ")
    };
    let label = if node.name().is_empty() { String::new() } else { format!("[{}] ", node.name()) };
    let domain = if node.domain().is_empty() { String::new() } else { format!("{}.", node.domain()) };
    let attributes: Vec<String> = node.attribute.iter().map(attribute).collect();
    let attributes =
        if attributes.is_empty() { String::new() } else { format!("<{}> ", attributes.join(", ")) };
    format!(
        "{label}{} = {domain}{} {attributes}({})",
        names(&node.output),
        node.op_type(),
        names(&node.input)
    )
}

fn attribute(attribute: &AttributeProto) -> String {
    let value = match attribute.r#type() {
        AttributeType::Int => attribute.i().to_string(),
        AttributeType::Float => format!("{:?}", attribute.f()),
        AttributeType::Ints => format!("{:?}", attribute.ints),
        AttributeType::String => format!("{:?}", String::from_utf8_lossy(attribute.s())),
        AttributeType::Tensor => attribute.t.as_ref().map_or(String::new(), |t| {
            let (kind, contents) = tensor(t);
            format!("{kind}{}", contents.trim_start_matches(" ="))
        }),
        _ => "…".to_owned(),
    };
    format!("{} = {value}", attribute.name())
}
