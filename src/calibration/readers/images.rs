//! Folders of images.

use std::{
    ffi::OsStr,
    fs::File,
    io::BufReader,
    ops::Range,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use image::{DynamicImage, ImageError, ImageReader};
use walkdir::{DirEntry, WalkDir};

use super::{Opened, Reader, Request};
use crate::{
    calibration::{
        CalibrationError, Note, Preprocessing, Source,
        preprocess::{CONFIG, Preprocess, Target},
        spec::{InputSpec, InputSpecs},
    },
    limits,
    tensor::{DType, Tensor},
    warning::{Warning, WarningCode},
};

/// How names of images end.
const EXTENSIONS: &[&str] = &["png", "jpg", "jpeg", "webp", "bmp"];
/// Images that are used where nobody says how many.
const ENOUGH: usize = 256;

/// Images, one sample each, in the order of their paths. They are decoded as they are asked for.
pub(super) struct Images;

impl Reader for Images {
    fn id(&self) -> &'static str {
        "images"
    }

    fn about(&self) -> &'static str {
        "a folder of images (.png, .jpg, .webp, .bmp; in folders of classes or not)"
    }

    fn accepts(&self, path: &Path) -> bool {
        path.is_dir() && images(path).any(|image| image.is_ok())
    }

    fn open(&self, path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError> {
        let spec = image_input(path, request.specs)?;
        let (preprocess, said_by) = preprocessing(path, spec, request)?;
        let target = Target::new(spec, preprocess)?;
        let mut warnings = Vec::new();
        if said_by.is_none() && spec.dtype != DType::U8 {
            let message = format!(
                "nothing says how the model was trained to read images, so that {} is assumed, as most classifiers were: scores \
                 of another range or size of pixels mislead; put the model's {CONFIG} beside it, or say the preprocessing",
                target.preprocess
            );
            warnings.push(Warning::new(WarningCode::AssumedPreprocessing, message));
        }
        let note = Note::Preprocessed {
            input: spec.name.clone(),
            how: target.to_string(),
            said_by: said_by.unwrap_or_else(|| "assumed".to_owned()),
        };
        let source = Decoded::new(paths(path)?, target);
        Ok(Opened { notes: vec![note], warnings, enough: Some(ENOUGH), ..Opened::new(source) })
    }
}

/// The only input of the model, if it reads images.
fn image_input<'a>(path: &Path, specs: &'a InputSpecs) -> Result<&'a InputSpec, CalibrationError> {
    let refused =
        |problem| CalibrationError::NotForImages { path: path.into(), problem, inputs: specs.declared() };
    let mut readers = specs.inputs.iter().filter(|spec| Target::reads_images(spec));
    let Some(spec) = readers.next() else {
        return Err(refused("no input takes samples of one or three channels, height and width"));
    };
    if readers.next().is_some() {
        return Err(refused("several inputs could take them"));
    }
    if specs.inputs.len() > 1 {
        return Err(refused("they are no samples of the other inputs"));
    }
    Ok(spec)
}

/// How images are to be preprocessed, and what says so, if anything does.
fn preprocessing(
    folder: &Path,
    spec: &InputSpec,
    request: &Request<'_>,
) -> Result<(Preprocess, Option<String>), CalibrationError> {
    let config = match &request.options.preprocess {
        Some(Preprocessing::Said(said)) => {
            return Ok((said.as_ref().clone(), Some("as was said".to_owned())));
        }
        Some(Preprocessing::Config(path)) => Some(path.clone()),
        None => request.companion(CONFIG, folder),
    };
    match config {
        Some(path) => Ok((Preprocess::from_config(&path)?, Some(path.display().to_string()))),
        None => Ok((Preprocess::assumed(spec.dtype == DType::U8), None)),
    }
}

/// The paths of all images under a folder, those of a folder in the order of their names.
fn paths(folder: &Path) -> Result<Vec<PathBuf>, CalibrationError> {
    let paths: Vec<PathBuf> = images(folder).take(limits::IMAGES + 1).collect::<Result<_, _>>()?;
    if paths.len() > limits::IMAGES {
        return Err(CalibrationError::TooManyImages { path: folder.into(), most: limits::IMAGES });
    }
    Ok(paths)
}

/// All images under a folder. Hidden files are none: archives of other systems leave such beside images.
fn images(folder: &Path) -> impl Iterator<Item = Result<PathBuf, CalibrationError>> {
    let hidden =
        |entry: &DirEntry| entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
    let entries = WalkDir::new(folder).follow_links(true).sort_by_file_name();
    entries.into_iter().filter_entry(move |entry| !hidden(entry)).filter_map(|entry| match entry {
        Ok(entry) => (entry.file_type().is_file() && is_image(entry.path())).then(|| Ok(entry.into_path())),
        Err(error) => {
            let path = error.path().unwrap_or(Path::new("")).to_path_buf();
            Some(Err(CalibrationError::Io { path, source: error.into() }))
        }
    })
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| EXTENSIONS.iter().any(|known| found.eq_ignore_ascii_case(known)))
}

/// Images that are decoded when they are first asked for. Their pixels are kept as bytes, as far as those are few.
struct Decoded {
    paths: Vec<PathBuf>,
    target: Target,
    /// Of the images from the first on.
    kept: Vec<OnceLock<Box<[u8]>>>,
}

impl Decoded {
    fn new(paths: Vec<PathBuf>, target: Target) -> Self {
        let few = paths.len().min(limits::KEPT_PIXELS / target.bytes().max(1));
        let kept = std::iter::repeat_with(OnceLock::new).take(few).collect();
        Self { paths, target, kept }
    }

    /// The pixels of one image at the size of the input.
    fn decode(&self, path: &Path) -> Result<Box<[u8]>, CalibrationError> {
        let failed = |source| CalibrationError::Image { path: path.into(), source };
        let image = decode(path).map_err(failed)?;
        let pixels = self.target.pixels(image).map(Vec::into_boxed_slice);
        pixels.ok_or_else(|| failed(ImageError::IoError(std::io::Error::other("it has no pixels"))))
    }
}

impl Source for Decoded {
    fn names(&self) -> Vec<String> {
        vec![self.target.input.clone()]
    }

    fn len(&self) -> usize {
        self.paths.len()
    }

    fn batch(&self, range: Range<usize>) -> Result<Vec<(String, Tensor)>, CalibrationError> {
        let mut fresh = Vec::new();
        for number in range.clone() {
            let Some(path) = self.paths.get(number) else { return Err(CalibrationError::NoSamples) };
            match self.kept.get(number) {
                Some(cell) if cell.get().is_some() => {}
                Some(cell) => {
                    let _ = cell.set(self.decode(path)?);
                }
                None => fresh.push(self.decode(path)?),
            }
        }
        let kept = self.kept.get(range.start.min(self.kept.len())..range.end.min(self.kept.len()));
        let kept = kept.into_iter().flatten().filter_map(OnceLock::get);
        let pixels: Vec<&[u8]> = kept.chain(&fresh).map(AsRef::as_ref).collect();
        let tensor = self.target.tensor(&pixels).ok_or(CalibrationError::NoSamples)?;
        Ok(vec![(self.target.input.clone(), tensor)])
    }
}

/// The image in a file, of which its contents tell the format.
fn decode(path: &Path) -> Result<DynamicImage, ImageError> {
    let mut reader = ImageReader::new(BufReader::new(File::open(path)?)).with_guessed_format()?;
    let mut most = image::Limits::default();
    most.max_image_width = Some(limits::IMAGE_SIDE);
    most.max_image_height = Some(limits::IMAGE_SIDE);
    most.max_alloc = Some(limits::IMAGE_BYTES);
    reader.limits(most);
    reader.decode()
}
