//! Weights of large models, in files that all sessions of an engine share.
//!
//! A session that is given a model as one message holds its weights twice, and a message ends at 2 GiB. Given files beside a
//! small message, ONNX Runtime maps them: no session holds weights of its own, and what several models share is written
//! once. Weights go by where their bytes are in memory, which edits of a model leave as it is.
//!
//! Of smaller models, single tensors that are large go to files too, such as tables of embeddings: a run makes many sessions of
//! models that share them, and most of the time of making those would be spent on copies.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{RuntimeError, scratch::Scratch};
use crate::onnx::{
    pages::{self, Watch},
    proto::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation},
};

/// Models with weights of so many bytes are large: all that sessions would hold of them is to be in files.
const LARGE: usize = 64 << 20;

/// Tensors of so many bytes are in files whatever the model: below, a copy is dearer to avoid than to make.
const LARGE_TENSOR: usize = 16 << 20;

/// Tensors of large models below this many bytes stay in the message: shape inference reads them, and a file takes a page at least.
const SMALLEST: usize = 64 << 10;

/// Pages of mapped files are released each time that so many bytes were written from them.
const STRIDE: usize = 64 << 20;

/// The files.
#[derive(Debug, Default)]
pub(super) struct Store {
    scratch: Option<Arc<Scratch>>,
    /// By address and length.
    kept: BTreeMap<(usize, usize), Kept>,
    /// Files that were ever written.
    written: usize,
}

/// Weights that are in a file.
#[derive(Debug)]
struct Kept {
    file: Arc<Stored>,
    data: Data,
}

/// What tells whether anyone still has the weights. Until then no others can have their address.
#[derive(Debug)]
enum Data {
    /// Held here as well.
    Shared(Bytes),
    /// Views of the file itself.
    Spilled(Watch),
}

impl Data {
    fn is_in_use(&self) -> bool {
        match self {
            Self::Shared(data) => !data.is_unique(),
            Self::Spilled(watch) => watch.is_alive(),
        }
    }
}

/// A file, removed when nobody needs it any more. Sessions that have mapped it keep its contents; where the system does not
/// remove mapped files, it goes with the folder.
#[derive(Debug)]
struct Stored(PathBuf);

impl Drop for Stored {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// A model whose weights lie in files.
pub(super) struct Detached {
    /// The model without them.
    pub model: ModelProto,
    /// Whether these are all its weights, as they are too many for each session to have copies.
    pub large: bool,
    /// Where the files are, for as long as a session reads them.
    pub scratch: Arc<Scratch>,
}

impl Store {
    /// The model with its large weights in files; `None` where it has none.
    pub fn detach(&mut self, model: &ModelProto) -> Result<Option<Detached>, RuntimeError> {
        let large = is_large(model);
        let smallest = if large { SMALLEST } else { LARGE_TENSOR };
        if initializers(model).all(|tensor| weights(tensor, smallest).is_none()) {
            return Ok(None);
        }
        let scratch = self.scratch()?;
        self.evict();
        // Cheap: tensors share their bytes.
        let mut model = model.clone();
        self.for_each(&mut model, smallest, |store, tensor, data| {
            let file = store.file_of(&data)?;
            tensor.raw_data = None;
            refer(tensor, &file.0, data.len());
            Ok(())
        })?;
        Ok(Some(Detached { model, large, scratch }))
    }

    /// Lets the weights of a large model be views of files where they were in memory.
    pub fn spill_weights(&mut self, model: &mut ModelProto) -> Result<(), RuntimeError> {
        if !is_large(model) {
            return Ok(());
        }
        let scratch = self.scratch()?;
        self.for_each(model, SMALLEST, |store, tensor, data| {
            if pages::is_mapped(&data) {
                return Ok(());
            }
            let file = store.file_of(&data)?;
            let (spilled, watch) = File::open(&file.0)
                .and_then(|file| pages::map(&file))
                .map_err(|e| unwritable(&scratch, e))?;
            store.kept.insert(key(&spilled), Kept { file, data: Data::Spilled(watch) });
            tensor.raw_data = Some(spilled);
            drop(data);
            store.evict();
            Ok(())
        })
    }

    /// Calls `visit` with each initializer of `smallest` bytes at least and its bytes, releasing pages on the way.
    fn for_each(
        &mut self,
        model: &mut ModelProto,
        smallest: usize,
        mut visit: impl FnMut(&mut Self, &mut TensorProto, Bytes) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        let mut touched = 0;
        for tensor in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
            let Some(data) = weights(tensor, smallest).cloned() else { continue };
            touched += data.len();
            visit(self, tensor, data)?;
            if touched >= STRIDE {
                touched = 0;
                pages::release();
            }
        }
        pages::release();
        Ok(())
    }

    /// The file that holds these bytes, written if there is none.
    fn file_of(&mut self, data: &Bytes) -> Result<Arc<Stored>, RuntimeError> {
        if let Some(kept) = self.kept.get(&key(data)) {
            return Ok(kept.file.clone());
        }
        let scratch = self.scratch()?;
        let file = Arc::new(Stored(scratch.path().join(format!("weights-{}", self.written))));
        self.written += 1;
        fs::write(&file.0, data).map_err(|e| unwritable(&scratch, e))?;
        self.kept.insert(key(data), Kept { file: file.clone(), data: Data::Shared(data.clone()) });
        Ok(file)
    }

    /// Forgets weights that no model has any more.
    fn evict(&mut self) {
        self.kept.retain(|_, kept| kept.data.is_in_use());
    }

    fn scratch(&mut self) -> Result<Arc<Scratch>, RuntimeError> {
        if let Some(scratch) = &self.scratch {
            return Ok(scratch.clone());
        }
        let made = Scratch::new()
            .map_err(|source| RuntimeError::Scratch { folder: std::env::temp_dir(), source })?;
        Ok(self.scratch.insert(Arc::new(made)).clone())
    }
}

fn unwritable(scratch: &Scratch, source: io::Error) -> RuntimeError {
    RuntimeError::Scratch { folder: scratch.path().to_path_buf(), source }
}

fn key(data: &Bytes) -> (usize, usize) {
    (data.as_ptr() as usize, data.len())
}

/// The bytes of a tensor, if they are `smallest` at least.
fn weights(tensor: &TensorProto, smallest: usize) -> Option<&Bytes> {
    tensor.raw_data.as_ref().filter(|data| data.len() >= smallest)
}

fn initializers(model: &ModelProto) -> impl Iterator<Item = &TensorProto> {
    model.graph.iter().flat_map(|graph| &graph.initializer)
}

fn is_large(model: &ModelProto) -> bool {
    initializers(model).filter_map(|tensor| weights(tensor, SMALLEST)).map(Bytes::len).sum::<usize>() >= LARGE
}

/// Makes a tensor without data refer to a file of its own.
fn refer(tensor: &mut TensorProto, file: &Path, length: usize) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) };
    // Relative to the folder that the session is told.
    let location = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    tensor.external_data = vec![
        entry("location", location),
        entry("offset", "0".to_owned()),
        entry("length", length.to_string()),
    ];
    tensor.set_data_location(DataLocation::External);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::GraphProto;

    /// A model with two weights that make it large.
    fn large() -> ModelProto {
        let weight = |name: &str, byte: u8| TensorProto {
            name: Some(name.to_owned()),
            dims: vec![(LARGE / 8) as i64],
            data_type: Some(1),
            raw_data: Some(vec![byte; LARGE / 2].into()),
            ..Default::default()
        };
        let graph = GraphProto { initializer: vec![weight("a", 1), weight("b", 2)], ..Default::default() };
        ModelProto { graph: Some(graph), ..Default::default() }
    }

    fn initializers_mut(model: &mut ModelProto) -> &mut Vec<TensorProto> {
        &mut model.graph.as_mut().unwrap().initializer
    }

    fn files(store: &Store) -> usize {
        let folder = store.scratch.as_ref().unwrap().path();
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("weights-")).count()
    }

    #[test]
    fn weights_are_written_once_for_all_models_that_share_them() {
        let (mut store, mut model) = (Store::default(), large());
        store.detach(&model).unwrap().unwrap();
        let first = store.detach(&model.clone()).unwrap().unwrap();
        assert_eq!(store.written, 2);
        let tensor = &first.model.graph.as_ref().unwrap().initializer[1];
        assert_eq!(tensor.raw_data, None);
        let path = first.scratch.path().join(tensor.external_data[0].value());
        assert_eq!(fs::read(path).unwrap(), vec![2; LARGE / 2]);

        // One weight changes: that one alone is written, and the old one goes with the model that had it.
        initializers_mut(&mut model)[0].raw_data = Some(vec![3; LARGE / 2].into());
        store.detach(&model).unwrap().unwrap();
        assert_eq!((store.written, files(&store)), (3, 2));
    }

    #[test]
    fn spilled_weights_are_views_of_the_files_that_sessions_read() {
        let (mut store, mut model) = (Store::default(), large());
        store.detach(&model).unwrap().unwrap();
        store.spill_weights(&mut model).unwrap();
        assert!(initializers_mut(&mut model).iter().all(|t| pages::is_mapped(t.raw_data.as_ref().unwrap())));
        store.spill_weights(&mut model).unwrap();
        store.detach(&model).unwrap().unwrap();
        assert_eq!((store.written, files(&store)), (2, 2));
        assert_eq!(initializers_mut(&mut model)[0].raw_data.as_deref().unwrap(), vec![1; LARGE / 2]);
        // What no model has any more takes no room.
        initializers_mut(&mut model).pop();
        store.evict();
        assert_eq!(files(&store), 1);
    }

    #[test]
    fn the_folder_goes_with_the_store_and_the_last_session() {
        let mut store = Store::default();
        let detached = store.detach(&large()).unwrap().unwrap();
        let path = detached.scratch.path().to_path_buf();
        drop(store);
        assert!(path.exists());
        drop(detached);
        assert!(!path.exists());
    }

    #[test]
    fn of_small_models_large_tensors_alone_are_in_files() {
        let mut model = large();
        let weights = initializers_mut(&mut model);
        weights[0].raw_data = Some(vec![1; LARGE_TENSOR].into());
        weights[1].raw_data = Some(vec![2; LARGE_TENSOR - 1].into());
        let detached = Store::default().detach(&model).unwrap().unwrap();
        let kept: Vec<bool> = initializers(&detached.model).map(|t| t.raw_data.is_some()).collect();
        assert_eq!((detached.large, kept), (false, vec![false, true]));
    }

    #[test]
    fn models_without_large_tensors_stay_one_message() {
        let mut model = large();
        initializers_mut(&mut model)
            .iter_mut()
            .for_each(|t| t.raw_data = Some(vec![1; LARGE_TENSOR - 1].into()));
        assert!(Store::default().detach(&model).unwrap().is_none());
    }
}
