//! Bounds on what files may ask for.
//!
//! Models and data come from anywhere. Whatever a file says of its own size is believed only within these bounds, so that
//! a small file cannot take all memory or all time. Each is far above what an honest file needs.

/// Graphs inside graphs (the branches of If, the bodies of Loop and Scan), and calls inside calls, that are followed when
/// functions are inlined. Protobuf readers give up at about 100 nested messages, three for each graph, so that what is
/// inlined can be written and read again.
pub(crate) const GRAPH_DEPTH: usize = 30;

/// Bytes that all inlined functions may take together, names included: functions that call others twice grow
/// exponentially. The largest exports with functions take some 20 MiB.
pub(crate) const INLINED_BYTES: usize = 1 << 28;

/// Bytes that a model may take once decoded, weights not counted, whose file has so many. Two bytes encode an empty node,
/// which takes 300 in memory. Nodes as exporters write them take about six times their bytes.
pub(crate) const fn decoded_bytes(file: u64) -> u64 {
    (1 << 27) + file.saturating_mul(8)
}

/// How often the external data of a model may be used, on average: tensors can share a stretch of a file, as tied weights
/// do, and a million that do take a million times its size wherever weights are copied.
pub(crate) const SHARED_DATA: u64 = 64;

/// Bytes of external data that may be used in any case, however small the files are.
pub(crate) const SHARED_DATA_BYTES: u64 = 1 << 30;

/// Bytes that a sparse tensor may take when it is written out, as runtimes do: as many as protobuf can hold of a dense one.
pub(crate) const SPARSE_BYTES: usize = i32::MAX as usize;

/// Iterations of a Loop whose number the file tells, beyond which it is taken for one without end: at a microsecond for
/// each that is an hour.
pub(crate) const ITERATIONS: i64 = 1 << 32;

/// Bytes of the header of a NumPy array. Those of arrays of numbers take 128; what is longer describes records.
pub(crate) const NUMPY_HEADER: usize = 1 << 16;

/// Bytes that one array of calibration data may take, of a file with so many: compressed data can expand a thousandfold.
/// Masks, which are all ones, honestly do.
pub(crate) const fn array_bytes(file: u64) -> u64 {
    let floor = 1 << 32;
    if file > floor / 4 { file.saturating_mul(4) } else { floor }
}

/// Bytes that one value may take when constant parts of a file are computed, whose constants have so many: several times what
/// tables of positions and masks take.
pub(crate) const fn folded_bytes(constants: u128) -> u128 {
    (1 << 26) + constants
}

/// Bytes that one value may take in any run of a model, if constants alone say how large it is.
pub(crate) const fn stated_bytes(constants: u128) -> u128 {
    (1 << 32) + constants
}

/// Bytes that the pixels of one image may take once decoded: 89 million pixels in colour. Files of a few bytes can say more.
pub(crate) const IMAGE_BYTES: u64 = 1 << 28;

/// Columns or rows of an image.
pub(crate) const IMAGE_SIDE: u32 = 1 << 16;

/// Images that are looked for in a folder. Calibration needs some hundred.
pub(crate) const IMAGES: usize = 1 << 20;

/// Bytes of pixels, as the model reads them, that are kept so that images are decoded once.
pub(crate) const KEPT_PIXELS: usize = 1 << 28;

/// Bytes of a configuration of preprocessing, which has some lines.
pub(crate) const CONFIG_BYTES: u64 = 1 << 20;

/// Bytes of a text that are read for calibration, which needs some hundred sentences.
pub(crate) const TEXT_BYTES: u64 = 1 << 24;

/// Samples that are read of a text.
pub(crate) const TEXTS: usize = 1 << 16;

/// Bytes of one sample of text: a book has half of that.
pub(crate) const TEXT_SAMPLE: usize = 1 << 20;

/// Bytes of the description of a tokenizer. The largest vocabularies take some 40 MiB.
pub(crate) const TOKENIZER_BYTES: u64 = 1 << 28;

/// Bytes of the description of the tensors in a file of safetensors, as its own library bounds it.
pub(crate) const SAFETENSORS_HEADER: u64 = 100_000_000;
