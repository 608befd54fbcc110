//! ONNX Runtime, from a shared library that is loaded at run time.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ::ort::{
    environment::Environment,
    ep::{self, ExecutionProvider},
    session::{Session as OrtSession, SessionInputValue, builder::SessionBuilder},
    value::{DynValue, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType},
};
use ndarray::{ArrayD, IxDyn};
use prost::Message;

use super::{
    Engine, Provider, RuntimeError, RuntimeOptions, Session, locate,
    scratch::Scratch,
    signature::Signature,
    store::{Detached, Store},
};
use crate::{
    for_each_dtype,
    onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
        type_proto,
    },
    tensor::{DType, Tensor},
};

const NAME: &str = "ONNX Runtime";

/// Optimisations that are off while a model is worked on. This one moves a Transpose behind the Resize that reads it, whatever
/// its mode, and the kernel then refuses a cubic one. Whether it applies depends on what else was folded, and so on which
/// values are returned (position tables of vision transformers are resized so).
const UNSAFE_OPTIMIZERS: &str = "TransposeOptimizer_CPUExecutionProvider";

/// The library in use. A process can load but one and can create its environment only once, so both stay for good.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// The library that this process has loaded.
pub(super) fn loaded() -> Option<PathBuf> {
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.as_ref().map(|(path, _)| path.clone())
}

/// Loads the library at `path` into the process, unless it is loaded already.
pub(super) fn load(path: &Path) -> Result<(), RuntimeError> {
    environment(path).map(drop)
}

fn environment(path: &Path) -> Result<Environment, RuntimeError> {
    let unusable = |reason: String| RuntimeError::LibraryUnusable { path: path.to_path_buf(), reason };
    let path = path.canonicalize().map_err(|e| unusable(e.to_string()))?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((path_loaded, environment)) = loaded.as_ref() {
        return if *path_loaded == path {
            Ok(environment.clone())
        } else {
            Err(RuntimeError::AlreadyLoaded { loaded: path_loaded.clone(), wanted: path })
        };
    }
    let builder = ::ort::init_from(&path).map_err(|e| {
        unusable(match e {
            ::ort::LoadDynamicError::Dlopen { error, .. } => error.to_string(),
            ::ort::LoadDynamicError::MissingApi { .. } => "it is not an ONNX Runtime library".to_owned(),
            ::ort::LoadDynamicError::BadVersion { version_str, .. } => {
                format!(
                    "it is version {version_str}, and version 1.{} or newer is needed",
                    ::ort::MINOR_VERSION
                )
            }
            other => other.to_string(),
        })
    })?;
    let environment = builder.with_telemetry(false).build().map_err(|e| unusable(e.to_string()))?;
    *loaded = Some((path, environment.clone()));
    Ok(environment)
}

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Work on a model whose values are looked at.
    Work,
    /// To compute what it will where it is deployed.
    Deployed,
    /// To take as long as it will where it is deployed.
    Timed,
}

/// ONNX Runtime on one device.
pub(super) struct Ort {
    library: PathBuf,
    environment: Environment,
    threads: usize,
    cuda: bool,
    /// For people: the device, and why it is not another.
    device: String,
    store: Mutex<Store>,
}

impl Ort {
    /// Opens the library at `path` on the device that `options` ask for.
    pub fn open(path: &Path, options: &RuntimeOptions) -> Result<Self, RuntimeError> {
        let threads = match options.threads {
            0 => thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let mut engine = Self {
            library: path.to_path_buf(),
            environment: environment(path)?,
            threads,
            cuda: false,
            device: "CPU".to_owned(),
            store: Mutex::default(),
        };
        if options.provider == Provider::Cpu {
            return Ok(engine);
        }
        match (engine.try_cuda(), options.provider) {
            (Ok(()), _) => {
                engine.cuda = true;
                engine.device = "CUDA".to_owned();
            }
            (Err(reason), Provider::Cuda) => {
                return Err(RuntimeError::CudaUnavailable { path: path.to_path_buf(), reason });
            }
            (Err(reason), _) if cuda_library(path).is_some() => {
                engine.device = format!("CPU, as CUDA fails: {reason}");
            }
            _ => {}
        }
        Ok(engine)
    }

    /// Whether CUDA computes: a model is run, as registering the provider alone does not touch the device.
    fn try_cuda(&self) -> Result<(), String> {
        if cuda_library(&self.library).is_none() {
            return Err("the CUDA provider is not beside it".to_owned());
        }
        let run = || -> ::ort::Result<()> {
            let mut session =
                self.builder(true, Purpose::Work)?.commit_from_memory(&identity_model().encode_to_vec())?;
            let input = OrtTensor::from_array(([1_i64], vec![1_f32]))?;
            session.run(vec![("x", input)]).map(drop)
        };
        run().map_err(|e| {
            // Before this comes the place in ONNX Runtime's own source.
            let message = e.to_string();
            let reason = message.split("FAIL : ").last().unwrap_or(&message);
            reason.lines().next().unwrap_or_default().to_owned()
        })
    }

    fn builder(&self, cuda: bool, purpose: Purpose) -> ::ort::Result<SessionBuilder> {
        let mut builder = OrtSession::builder(&self.environment)?
            .with_log_level(::ort::logging::LogLevel::Fatal)?
            .with_intra_threads(self.threads)?
            // Spinning threads double the time on a machine that does anything else, such as to time a second model.
            .with_intra_op_spinning(false)?;
        if purpose != Purpose::Timed {
            builder = builder
                .with_deterministic_compute(true)?
                // On processors without VNNI, sums of products of bytes saturate, in an order that pruning changes.
                .with_precise_qmm()?
                .with_quant_qdq(false)?;
        }
        if cuda {
            let mut provider = ep::CUDA::default();
            if purpose != Purpose::Timed {
                // TF32 keeps 10 bits of the mantissa, too few to verify results; and the default search for the fastest
                // convolution picks by timing, so that results would change from run to run.
                provider = provider
                    .with_tf32(false)
                    .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic);
            }
            provider.register(&mut builder)?;
        }
        // Named, since `ort` else lets the library choose the device that draws the least power.
        ep::CPU::default().with_arena_allocator(true).register(&mut builder)?;
        if purpose == Purpose::Work {
            builder =
                builder.with_config_entry("optimization.disable_specified_optimizers", UNSAFE_OPTIMIZERS)?;
        }
        Ok(builder)
    }

    /// A session of `model`, and the folder that it reads weights from, if it does.
    fn commit(
        &self,
        model: &ModelProto,
        purpose: Purpose,
    ) -> Result<(OrtSession, Option<Arc<Scratch>>), RuntimeError> {
        let refused = |e: ::ort::Error| RuntimeError::Load { engine: NAME, reason: one_line(&e) };
        let mut builder = self.builder(self.cuda, purpose).map_err(refused)?;
        let Some(Detached { model, large, scratch }) = self.store().detach(model)? else {
            let session = builder.commit_from_memory(&model.encode_to_vec()).map_err(refused)?;
            return Ok((session, None));
        };
        let folder = scratch.path().to_string_lossy();
        // Packed for the processor, each session would hold a copy of all weights of matrix products.
        let mut builder = builder
            .with_prepacking(!large || purpose == Purpose::Timed)
            .map_err(|e| refused(e.into()))?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)
            .map_err(|e| refused(e.into()))?;
        let session = builder.commit_from_memory(&model.encode_to_vec()).map_err(refused)?;
        Ok((session, Some(scratch)))
    }

    fn session(&self, model: &ModelProto, purpose: Purpose) -> Result<Box<dyn Session>, RuntimeError> {
        let refused = |reason| RuntimeError::Load { engine: NAME, reason };
        let signature = Signature::of(model).map_err(refused)?;
        let (session, scratch) = self.commit(model, purpose)?;
        Ok(Box::new(Loaded { session, signature, _scratch: scratch }))
    }

    fn version(&self) -> String {
        locate::version(&self.library).map_or_else(String::new, |version| format!(" {version}"))
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Ort {
    fn describe(&self) -> String {
        format!("{NAME}{} ({}, {})", self.version(), self.device, self.library.display())
    }

    fn load(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.session(model, Purpose::Work)
    }

    fn load_as_deployed(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.session(model, Purpose::Deployed)
    }

    fn load_to_time(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.session(model, Purpose::Timed)
    }

    fn speed_class(&self) -> String {
        let device = if self.cuda { "CUDA" } else { "CPU" };
        let threads =
            if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        format!("{NAME}{}, {device}, {threads}", self.version())
    }

    fn spill_weights(&self, model: &mut ModelProto) {
        self.store().spill_weights(model).ok();
    }
}

/// The message of an ONNX Runtime error as one line.
fn one_line(error: &::ort::Error) -> String {
    error.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

struct Loaded {
    session: OrtSession,
    signature: Signature,
    /// The weights of a large model, which the session maps into memory. After the session, so dropped after it.
    _scratch: Option<Arc<Scratch>>,
}

/// Values by the names of inputs.
type Fed<'v> = Vec<(String, SessionInputValue<'v>)>;

impl Loaded {
    /// Views of the inputs, in the order of the model's.
    fn values<'v>(&self, inputs: &'v [(String, Tensor)]) -> Result<Fed<'v>, RuntimeError> {
        let tensors = self.signature.arrange(inputs)?;
        let values = self.signature.inputs.iter().zip(tensors).map(|(input, tensor)| {
            let value =
                value_of(tensor).map_err(|e| RuntimeError::Run { engine: NAME, reason: one_line(&e) })?;
            Ok((input.name.clone(), value))
        });
        values.collect()
    }
}

impl Session for Loaded {
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let failed = |reason: String| RuntimeError::Run { engine: NAME, reason };
        let values = self.values(inputs)?;
        // On CUDA the copies from and to the host are ONNX Runtime's: inputs and outputs are small beside the work.
        let results = self.session.run(values).map_err(|e| failed(one_line(&e)))?;
        let outputs = &self.signature.outputs;
        outputs
            .iter()
            .map(|output| {
                let value =
                    results.get(&output.name).ok_or_else(|| format!("no output `{}` came", output.name));
                value.and_then(|v| tensor_of(v).map_err(|e| format!("the output `{}`: {e}", output.name)))
            })
            .collect::<Result<_, _>>()
            .map_err(failed)
    }

    fn time(&mut self, inputs: &[(String, Tensor)], runs: usize) -> Result<Vec<Duration>, RuntimeError> {
        let mut timed = || {
            let values = self.values(inputs)?;
            let start = Instant::now();
            let results = self.session.run(values);
            let took = start.elapsed();
            results.map_err(|e| RuntimeError::Run { engine: NAME, reason: one_line(&e) })?;
            Ok(took)
        };
        (0..runs).map(|_| timed()).collect()
    }
}

/// A view of the tensor for ONNX Runtime; a copy where it is not in row-major order.
fn value_of(tensor: &Tensor) -> ::ort::Result<SessionInputValue<'_>> {
    let shape: Vec<i64> = tensor.shape().iter().map(|&extent| extent as i64).collect();
    Ok(for_each_dtype!(tensor, array => match array.as_slice() {
        Some(data) => TensorRef::from_array_view((shape, data))?.into(),
        None => OrtTensor::from_array((shape, array.iter().copied().collect::<Vec<_>>()))?.into(),
    }))
}

fn tensor_of(value: &DynValue) -> Result<Tensor, String> {
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(format!("a value of type {}, not a tensor", value.dtype()));
    };
    macro_rules! extract {
        ($($element:ident => $variant:ident),* $(,)?) => {
            match ty {
                $(TensorElementType::$element => Tensor::$variant(array_of(value)?),)*
                other => return Err(format!("elements of type {other} are not supported")),
            }
        };
    }
    Ok(extract! {
        Float32 => F32, Float64 => F64, Float16 => F16, Bfloat16 => BF16, Int8 => I8, Int16 => I16, Int32 => I32,
        Int64 => I64, Uint8 => U8, Uint16 => U16, Uint32 => U32, Uint64 => U64, Bool => Bool,
    })
}

fn array_of<T: ::ort::value::PrimitiveTensorElementType + Copy>(
    value: &DynValue,
) -> Result<ArrayD<T>, String> {
    let (shape, data) = value.try_extract_tensor::<T>().map_err(|e| e.to_string())?;
    let shape: Vec<usize> = shape.iter().map(|&extent| extent as usize).collect();
    ArrayD::from_shape_vec(IxDyn(&shape), data.to_vec()).map_err(|e| e.to_string())
}

/// The CUDA provider that belongs to the library at `path`.
fn cuda_library(path: &Path) -> Option<PathBuf> {
    let name =
        if cfg!(windows) { "onnxruntime_providers_cuda.dll" } else { "libonnxruntime_providers_cuda.so" };
    // ONNX Runtime looks beside itself, where links to it do not count.
    let provider = path.canonicalize().ok()?.with_file_name(name);
    provider.is_file().then_some(provider)
}

/// A model that returns its one number.
fn identity_model() -> ModelProto {
    let value = |name: &str| ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(type_proto::Tensor {
                elem_type: Some(DType::F32.onnx()),
                shape: Some(TensorShapeProto { dim: vec![Default::default()] }),
            })),
            ..Default::default()
        }),
        ..Default::default()
    };
    let node = NodeProto {
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        op_type: Some("Identity".to_owned()),
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("identity".to_owned()),
        node: vec![node],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    };
    let opset = OperatorSetIdProto { domain: None, version: Some(13) };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::TensorProto;

    /// `y = x + a + b`, with so many numbers each in `a` and `b`.
    fn sum_model(count: usize) -> ModelProto {
        let mut model = identity_model();
        let graph = model.graph.as_mut().unwrap();
        let weights = |name: &str, value: f32| TensorProto {
            name: Some(name.to_owned()),
            dims: vec![count as i64],
            data_type: Some(DType::F32.onnx()),
            raw_data: Some(value.to_le_bytes().repeat(count).into()),
            ..Default::default()
        };
        graph.initializer = vec![weights("a", 1.5), weights("b", 0.25)];
        let add = |a: &str, b: &str, sum: &str| NodeProto {
            input: vec![a.to_owned(), b.to_owned()],
            output: vec![sum.to_owned()],
            op_type: Some("Add".to_owned()),
            ..Default::default()
        };
        graph.node = vec![add("x", "a", "xa"), add("xa", "b", "y")];
        model
    }

    #[test]
    fn a_model_whose_weights_lie_in_files_computes_the_same() {
        let Some(library) = locate::find(None).unwrap().library else { return };
        let engine = Ort::open(&library, &RuntimeOptions { threads: 1, ..Default::default() }).unwrap();
        let model = sum_model(16 << 20);
        let feed = [("x".to_owned(), Tensor::f32(&[1], vec![1.0]).unwrap())];
        for _ in 0..2 {
            let outputs = engine.load(&model).unwrap().run(&feed).unwrap();
            assert_eq!(outputs, [Tensor::f32(&[16 << 20], vec![2.75; 16 << 20]).unwrap()]);
        }
        let (session, scratch) = engine.commit(&model, Purpose::Deployed).unwrap();
        let folder = scratch.unwrap().path().to_path_buf();
        drop((session, engine));
        assert!(!folder.exists());
    }
}
