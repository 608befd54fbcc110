//! Calibration samples that are read as they are asked for: sources of a caller's own, and files.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use common::{Net, Noise, engine};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzWriter;
use optin_onnx::{
    Pruner,
    calibration::{CalibrationError, CalibrationOptions, Origin, Samples, Source, accepted, load},
    model::SampleInput,
    onnx::proto::ModelProto,
    tensor::Tensor,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// Samples of `x`, all of whose elements are the sample's number; what was asked of it is counted.
struct Counting {
    count: usize,
    shape: Vec<usize>,
    calls: AtomicUsize,
    rows: AtomicUsize,
    most: AtomicUsize,
    /// The number of the call that fails, and all after it.
    fails: usize,
}

impl Counting {
    fn new(count: usize, shape: &[usize]) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { count, shape: shape.into(), calls: zero(), rows: zero(), most: zero(), fails: usize::MAX }
    }
}

impl Source for Counting {
    fn names(&self) -> Vec<String> {
        vec!["x".into()]
    }

    fn len(&self) -> usize {
        self.count
    }

    fn batch(&self, range: Range<usize>) -> Result<Vec<(String, Tensor)>, CalibrationError> {
        assert!(!range.is_empty() && range.end <= self.count, "{range:?}");
        if self.calls.fetch_add(1, Relaxed) >= self.fails {
            return Err(CalibrationError::Source { source: Box::new(io::Error::other("the disk is gone")) });
        }
        self.rows.fetch_add(range.len(), Relaxed);
        self.most.fetch_max(range.len(), Relaxed);
        let shape = [&[range.len()], self.shape.as_slice()].concat();
        let start = range.start;
        let array = ArrayD::from_shape_fn(IxDyn(&shape), |i| (start + i[0]) as f32);
        Ok(vec![("x".into(), Tensor::F32(array))])
    }
}

/// What a function makes of a range.
struct Made(fn(Range<usize>) -> Vec<(String, Tensor)>);

impl Source for Made {
    fn names(&self) -> Vec<String> {
        vec!["x".into()]
    }

    fn len(&self) -> usize {
        4
    }

    fn batch(&self, range: Range<usize>) -> Result<Vec<(String, Tensor)>, CalibrationError> {
        Ok((self.0)(range))
    }
}

/// `y = x · W · V`, with neurons in between that can go.
fn net() -> Net {
    let mut net = Net::new(17, &[8]);
    net.linear("x", "h", 8, 12);
    net.node("Relu", &["h"], &["r"]);
    net.linear("r", "y", 12, 4);
    net
}

/// The first element of each sample.
fn firsts(feed: &[(String, Tensor)]) -> Vec<f32> {
    let x = feed[0].1.to_f32().unwrap();
    let elements = x.len() / x.shape()[0];
    x.iter().step_by(elements).copied().collect()
}

#[test]
fn a_source_is_read_in_parts_and_never_as_a_whole() {
    // A sample takes one MiB.
    let model = Net::new(17, &[512, 512]).model(&["x"]);
    let source = Arc::new(Counting::new(40, &[512, 512]));
    let samples = Samples::from_source(&model, source.clone()).unwrap();
    assert_eq!((samples.len(), samples.origin()), (40, &Origin::Source));
    // Every sample once, and the first once more; a few at a time.
    assert_eq!(source.rows.load(Relaxed), 41);
    assert!(source.most.load(Relaxed) <= 16, "{}", source.most.load(Relaxed));
    assert_eq!(firsts(&samples.batch(7, 10).unwrap()), [7.0, 8.0, 9.0]);
    assert_eq!(source.rows.load(Relaxed), 44);
    assert_eq!(firsts(&samples.select(&[3, 3, 0, 39]).unwrap()), [3.0, 3.0, 0.0, 39.0]);
    assert_eq!(samples.warnings().len(), 1);
    let before = source.rows.load(Relaxed);
    let few = samples.take(3, 0);
    assert_eq!((few.len(), few.inputs()[0].shape.as_slice()), (3, [3, 512, 512].as_slice()));
    assert_eq!(source.rows.load(Relaxed), before);
    assert_eq!(few.batch(0, 3).unwrap()[0].1.shape(), [3, 512, 512]);
    assert_eq!(source.rows.load(Relaxed), before + 3);
}

#[test]
fn a_source_that_fails_at_any_time_is_an_error() {
    let net = net();
    let model = net.model(&["y"]);
    let Some(_) = engine(&net.graph) else { return };
    for fails in 0.. {
        let source = Arc::new(Counting { fails, ..Counting::new(20, &[8]) });
        let input = SampleInput::Source(source.clone());
        match Pruner::open(model.clone(), engine(&net.graph).unwrap(), input) {
            Ok(pruner) => {
                // All of opening has been failed in by now.
                assert!(fails > 3 && source.calls.load(Relaxed) <= fails);
                assert_eq!(pruner.typed().samples.len(), 20);
                return;
            }
            Err(error) => assert!(error.to_string().contains("the disk is gone"), "{error}"),
        }
    }
}

#[test]
fn a_source_that_fails_in_the_middle_fails_the_batch() {
    let model = net().model(&["y"]);
    // The first sample, then all.
    let source = Arc::new(Counting { fails: 2, ..Counting::new(20, &[8]) });
    let samples = Samples::from_source(&model, source).unwrap();
    assert!(matches!(samples.batch(4, 8), Err(CalibrationError::Source { .. })));
    assert!(matches!(samples.select(&[0]), Err(CalibrationError::Source { .. })));
    let source = Arc::new(Counting { fails: 1, ..Counting::new(20, &[8]) });
    assert!(matches!(Samples::from_source(&model, source), Err(CalibrationError::Source { .. })));
}

#[test]
fn sources_that_do_not_keep_their_word_are_refused() {
    let refused = |make| Samples::from_source(&net().model(&["y"]), Arc::new(Made(make))).unwrap_err();
    fn rows(samples: usize, width: usize) -> Tensor {
        Tensor::F32(ArrayD::ones(IxDyn(&[samples, width])))
    }
    let more = refused(|range| vec![("x".into(), rows(range.len() + 1, 8))]);
    assert!(matches!(more, CalibrationError::Miscounted { asked: 4, found: 5, .. }), "{more}");
    let wide = refused(|range| vec![("x".into(), rows(range.len(), if range.len() > 1 { 9 } else { 8 }))]);
    assert!(matches!(wide, CalibrationError::Extent { expected: 8, .. }), "{wide}");
    let missing = refused(|range| vec![("z".into(), rows(range.len(), 8))]);
    assert!(matches!(missing, CalibrationError::MissingInput { .. }), "{missing}");
    let none = Samples::from_source(&net().model(&["y"]), Arc::new(Counting::new(0, &[8]))).unwrap_err();
    assert!(matches!(none, CalibrationError::NoSamples), "{none}");
}

#[test]
fn what_does_not_suit_is_told_by_its_number_in_the_source() {
    // Blocks of sixteen, and what is wrong in the third.
    let model = Net::new(17, &[512, 512]).model(&["x"]);
    let mut array = ArrayD::zeros(IxDyn(&[40, 512, 512]));
    array[[35, 2, 1]] = f32::NAN;
    let error = Samples::new(&model, vec![("x".into(), Tensor::F32(array))]).unwrap_err();
    assert!(
        matches!(&error, CalibrationError::NotFinite { position, .. } if *position == [35, 2, 1]),
        "{error}"
    );
}

#[test]
fn an_unknown_format_lists_the_known_ones() {
    let dir = TempDir::new().unwrap();
    let error = from(&net().model(&["y"]), dir.path()).unwrap_err();
    assert!(matches!(&error, CalibrationError::UnknownFormat { .. }));
    assert!(error.to_string().contains(&accepted()), "{error}");
    for format in [".npz", ".npy", "test_data_set_N"] {
        assert!(accepted().contains(format), "{format}");
    }
}

fn from(model: &ModelProto, calib: &Path) -> Result<Samples, CalibrationError> {
    load(model, None, &CalibrationOptions { calib: Some(calib.into()), ..Default::default() })
}

#[test]
fn a_file_that_is_cut_while_it_is_read_is_an_error() {
    let (dir, model) = (TempDir::new().unwrap(), net().model(&["y"]));
    let path = dir.path().join("c.npy");
    ndarray_npy::write_npy(&path, &ArrayD::<f32>::ones(IxDyn(&[20, 8]))).unwrap();
    let samples = from(&model, &path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(300).unwrap();
    assert!(samples.batch(0, 2).is_ok());
    assert!(matches!(samples.batch(18, 20), Err(CalibrationError::Array { .. })));
}

#[test]
fn an_archive_with_a_wrong_sum_is_refused() {
    let (dir, model) = (TempDir::new().unwrap(), net().model(&["y"]));
    let array = ArrayD::<f32>::ones(IxDyn(&[20, 8]));
    let path = archive(&dir, "c.npz", false, &array);
    let mut bytes = std::fs::read(&path).unwrap();
    let one = bytes.windows(4).position(|four| four == 1f32.to_le_bytes()).unwrap();
    bytes[one] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(from(&model, &path), Err(CalibrationError::Array { .. })));
}

/// An archive with the array `x`.
fn archive(dir: &TempDir, name: &str, compressed: bool, x: &ArrayD<f32>) -> PathBuf {
    let path = dir.path().join(name);
    let file = File::create(&path).unwrap();
    let mut writer = if compressed { NpzWriter::new_compressed(file) } else { NpzWriter::new(file) };
    writer.add_array("x", x).unwrap();
    writer.finish().unwrap();
    path
}

/// Rows, and a number from which which of them repeat.
fn arrays() -> impl Strategy<Value = ArrayD<f32>> {
    (1usize..40, prop::collection::vec(1usize..5, 0..3), 1usize..40, any::<u64>()).prop_map(
        |(rows, inner, period, seed)| {
            let shape = [&[period.min(rows)], inner.as_slice()].concat();
            let noise = Noise::new(seed).tensor(&shape).tile(0, rows.div_ceil(period.min(rows)));
            noise.narrow(0, 0, rows).to_f32().unwrap()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Arrays in memory, in archives and files, and from a source of the caller's own are the same samples.
    #[test]
    fn lazy_samples_are_those_in_memory(array in arrays(), n in 1usize..40, size in 1usize..7, seed in 0u64..9) {
        let (dir, net) = (TempDir::new().unwrap(), Net::new(17, &array.shape()[1..]));
        let (model, count) = (net.model(&["x"]), array.shape()[0]);
        let held = Samples::new(&model, vec![("x".into(), Tensor::F32(array.clone()))]).unwrap();
        let npy = dir.path().join("c.npy");
        ndarray_npy::write_npy(&npy, &array).unwrap();
        let stored = archive(&dir, "stored.npz", false, &array);
        let packed = archive(&dir, "packed.npz", true, &array);
        for path in [&npy, &stored, &packed] {
            let lazy = from(&model, path).unwrap();
            prop_assert_eq!(lazy.inputs(), held.inputs());
            prop_assert_eq!(lazy.sha256(), held.sha256());
            prop_assert_eq!(lazy.warnings(), held.warnings());
            for range in held.ranges(size) {
                let batch = lazy.batch(range.start, range.end).unwrap();
                prop_assert_eq!(&batch[0].1, &Tensor::F32(array.clone()).narrow(0, range.start, range.end));
                prop_assert_eq!(batch, held.batch(range.start, range.end).unwrap());
            }
            let options = CalibrationOptions { calib: Some(path.clone()), samples: Some(n), seed, ..Default::default() };
            let (chosen, taken) = (load(&model, None, &options).unwrap(), held.clone().take(n, seed));
            prop_assert_eq!(chosen.sha256(), taken.sha256());
            prop_assert_eq!(chosen.warnings(), taken.warnings());
            let all: Vec<usize> = (0..n.min(count)).collect();
            prop_assert_eq!(chosen.select(&all).unwrap(), taken.select(&all).unwrap());
        }
    }
}
