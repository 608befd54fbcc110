//! Calibration from folders of images: pixels as Pillow has them, and files that are no images.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Net, Noise};
use image::{ImageFormat, Rgb, RgbImage};
use ndarray::ArrayD;
use optin_onnx::{
    WarningCode,
    calibration::{CalibrationError, CalibrationOptions, Note, Origin, PreprocessError, Samples, load},
    onnx::proto::ModelProto,
    tensor::{DType, Tensor},
};
use tempfile::TempDir;

/// A model that reads `x` of this shape, in which `-1` is an extent that is left open.
fn reading(shape: &[i64]) -> ModelProto {
    let mut net = Net::new(17, &shape.iter().map(|n| n.unsigned_abs() as usize).collect::<Vec<_>>());
    let tensor = net.graph.input[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
    let optin_onnx::onnx::proto::type_proto::Value::TensorType(tensor) = tensor else { panic!() };
    for (dim, n) in tensor.shape.as_mut().unwrap().dim.iter_mut().skip(1).zip(shape) {
        if *n < 0 {
            dim.value = None;
        }
    }
    net.model(&["x"])
}

fn from(model: &ModelProto, folder: &Path, preprocess: &str) -> Result<Samples, CalibrationError> {
    let preprocess = Some(preprocess).filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
    load(model, None, &CalibrationOptions { calib: Some(folder.into()), preprocess, ..Default::default() })
}

/// What the model is fed.
fn fed(samples: &Samples) -> ArrayD<f32> {
    samples.batch(0, samples.len()).unwrap()[0].1.to_f32().unwrap()
}

/// An image in which no two pixels are alike.
fn noise(seed: u64, width: u32, height: u32) -> RgbImage {
    let mut noise = Noise::new(seed);
    RgbImage::from_fn(width, height, |_, _| Rgb([0; 3].map(|_: i32| noise.below(256) as u8)))
}

/// An image of soft colours, as photographs are.
fn soft(width: u32, height: u32) -> RgbImage {
    let wave = |x: u32, period: f32| (127.0 + 120.0 * (x as f32 / period).sin()) as u8;
    RgbImage::from_fn(width, height, |x, y| Rgb([wave(x, 5.0), wave(y, 7.0), wave(x + y, 11.0)]))
}

fn folder(images: &[(&str, RgbImage)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, image) in images {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(&path).unwrap();
    }
    dir
}

#[test]
fn pixels_become_numbers_by_channel_and_layout() {
    let image = noise(1, 6, 4);
    let dir = folder(&[("a.png", image.clone())]);
    let number = |c: usize, y: usize, x: usize| f32::from(image.get_pixel(x as u32, y as u32)[c]);
    let settings = "size=4x6,scale=1/255,mean=0.5/0.25/0.125,std=0.5/1/2,order=bgr";
    let samples = from(&reading(&[3, 4, 6]), dir.path(), settings).unwrap();
    let found = fed(&samples);
    assert_eq!(found.shape(), [1, 3, 4, 6]);
    let (mean, std) = ([0.5, 0.25, 0.125], [0.5, 1.0, 2.0]);
    for ((_, c, y, x), value) in found.into_dimensionality::<ndarray::Ix4>().unwrap().indexed_iter() {
        assert!((value - (number(2 - c, y, x) / 255.0 - mean[c]) / std[c]).abs() < 1e-6);
    }
    let rows = fed(&from(&reading(&[4, 6, 3]), dir.path(), "raw").unwrap());
    assert_eq!(rows.shape(), [1, 4, 6, 3]);
    for ((_, y, x, c), value) in rows.into_dimensionality::<ndarray::Ix4>().unwrap().indexed_iter() {
        assert_eq!(*value, number(c, y, x));
    }
    // ITU-R BT.601, as Pillow's conversion to grey.
    let grey = fed(&from(&reading(&[1, 4, 6]), dir.path(), "raw").unwrap());
    for ((_, _, y, x), value) in grey.into_dimensionality::<ndarray::Ix4>().unwrap().indexed_iter() {
        let [r, g, b] = [number(0, y, x), number(1, y, x), number(2, y, x)];
        assert!((value - (0.299 * r + 0.587 * g + 0.114 * b)).abs() <= 0.51);
    }
}

#[test]
fn inputs_of_bytes_take_pixels_as_they_are() {
    let image = noise(2, 5, 5);
    let dir = folder(&[("a.bmp", image.clone())]);
    let mut model = reading(&[5, 5, 3]);
    let tensor = model.graph.as_mut().unwrap().input[0].r#type.as_mut().unwrap().value.as_mut().unwrap();
    let optin_onnx::onnx::proto::type_proto::Value::TensorType(tensor) = tensor else { panic!() };
    tensor.elem_type = Some(DType::U8.onnx());
    let samples = from(&model, dir.path(), "").unwrap();
    let Tensor::U8(bytes) = &samples.batch(0, 1).unwrap()[0].1 else { panic!() };
    assert!(bytes.iter().eq(image.as_raw()));
    assert!(!samples.warnings().iter().any(|warning| warning.code == WarningCode::AssumedPreprocessing));
}

/// What Pillow makes of images, in levels from 0 to 255: by each setting, how far ours may be from it.
///
/// The nearest pixel is the same to the bit. Interpolation in fixed point may be one level off in each direction, in few pixels.
#[test]
fn images_are_scaled_as_pillow_scales_them() {
    let Ok(python) = std::env::var("OPTIN_PYTHON") else { return };
    let cases = [
        ("size=40x60,fit=stretch,filter=nearest", 0.0),
        ("size=20x30,fit=stretch,filter=nearest", 0.0),
        ("size=33x27,fit=stretch,filter=bilinear", 1.0),
        ("size=90x120,fit=stretch,filter=bicubic", 1.0),
        ("size=17x29,fit=stretch,filter=lanczos", 1.0),
        ("size=28,fit=crop,share=0.875,filter=bilinear", 2.0),
        ("size=32,fit=crop,share=1,filter=bicubic", 2.0),
        ("size=56,fit=crop,share=0.875,filter=bilinear", 2.0),
        ("size=50,fit=pad,fill=114,filter=bilinear", 1.0),
    ];
    let dir = folder(&[("a.png", noise(3, 60, 40)), ("b.png", soft(60, 40)), ("c/d.png", soft(41, 77))]);
    let out = TempDir::new().unwrap();
    let script = r#"
import sys, numpy as np
from pathlib import Path
from PIL import Image
folder, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
filters = dict(nearest=0, lanczos=1, bilinear=2, bicubic=3)
def made(image, s):
    h, w = (int(n) for n in (s["size"].split("x") * 2)[:2])
    f = filters[s["filter"]]
    if s["fit"] == "stretch":
        return image.resize((w, h), f)
    if s["fit"] == "crop":
        short = round(h / float(s["share"]))
        W, H = image.size
        W, H = (short, int(short * H / W)) if W <= H else (int(short * W / H), short)
        image = image.resize((W, H), f)
        x, y = (W - w) // 2, (H - h) // 2
        return image.crop((x, y, x + w, y + h))
    W, H = image.size
    r = min(h / H, w / W)
    W, H = round(W * r), round(H * r)
    all = Image.new("RGB", (w, h), (int(s["fill"]),) * 3)
    all.paste(image.resize((W, H), f), (round((w - W) / 2 - .1), round((h - H) / 2 - .1)))
    return all
for number, text in enumerate(settings):
    s = dict(part.split("=") for part in text.split(","))
    images = [made(Image.open(path).convert("RGB"), s) for path in sorted(folder.rglob("*.png"))]
    np.save(out / f"{number}.npy", np.stack([np.asarray(i, np.float32).transpose(2, 0, 1) for i in images]))
"#;
    let settings = cases.map(|(settings, _)| settings);
    let made =
        Command::new(python).args(["-c", script]).arg(dir.path()).arg(out.path()).args(settings).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (number, (settings, tolerance)) in cases.into_iter().enumerate() {
        let theirs: ArrayD<f32> = ndarray_npy::read_npy(out.path().join(format!("{number}.npy"))).unwrap();
        let model = reading(&[3, -1, -1]);
        let ours = fed(&from(&model, dir.path(), settings).unwrap());
        assert_eq!(ours.shape(), theirs.shape(), "{settings}");
        let far = (&ours - &theirs).iter().fold(0.0f32, |far, x| far.max(x.abs()));
        let mean = (&ours - &theirs).mapv(f32::abs).mean().unwrap();
        assert!(far <= tolerance && mean <= 0.02 * tolerance, "{settings}: {far} levels, {mean} on average");
    }
}

#[test]
fn folders_are_walked_in_the_order_of_names() {
    let plain = |level: u8| RgbImage::from_pixel(2, 2, Rgb([level; 3]));
    let dir = folder(&[
        ("b.png", plain(3)),
        ("a/z.PNG", plain(2)),
        ("a/b/c.bmp", plain(1)),
        ("c.webp", plain(4)),
        (".hidden.png", plain(9)),
        (".cache/a.png", plain(9)),
    ]);
    fs::write(dir.path().join("labels.txt"), "cat").unwrap();
    let samples = from(&reading(&[1, 2, 2]), dir.path(), "raw").unwrap();
    assert_eq!(*samples.origin(), Origin::Folder(dir.path().into()));
    let levels: Vec<f32> = fed(&samples).iter().step_by(4).copied().collect();
    assert_eq!(levels, [1.0, 2.0, 3.0, 4.0]);
    // Any part of it is the same.
    assert_eq!(samples.batch(2, 3).unwrap()[0].1.to_f32().unwrap()[[0, 0, 0, 0]], 3.0);
    assert_eq!(samples.sha256(), from(&reading(&[1, 2, 2]), dir.path(), "raw").unwrap().sha256());
}

#[test]
fn more_images_than_are_needed_are_chosen_from() {
    let images: Vec<(String, RgbImage)> = (0..300).map(|i| (format!("{i:03}.bmp"), noise(i, 2, 2))).collect();
    let named: Vec<(&str, RgbImage)> =
        images.iter().map(|(name, image)| (name.as_str(), image.clone())).collect();
    let dir = folder(&named);
    let samples = from(&reading(&[3, 2, 2]), dir.path(), "raw").unwrap();
    assert_eq!(samples.len(), 256);
    assert!(samples.notes().contains(&Note::Enough { used: 256, of: 300 }), "{:?}", samples.notes());
    let all = CalibrationOptions {
        calib: Some(dir.path().into()),
        samples: Some(300),
        preprocess: Some("raw".parse().unwrap()),
        ..Default::default()
    };
    assert_eq!(load(&reading(&[3, 2, 2]), None, &all).unwrap().len(), 300);
}

#[test]
fn preprocessing_is_found_beside_the_model_and_beside_the_images() {
    let (data, home) = (folder(&[("a.png", noise(4, 8, 8))]), TempDir::new().unwrap());
    let (model, path) = (reading(&[3, -1, -1]), home.path().join("m.onnx"));
    let options = CalibrationOptions { calib: Some(data.path().into()), ..Default::default() };
    let open = || load(&model, Some(&path), &options).unwrap();
    let assumed = open();
    assert_eq!(assumed.warnings()[0].code, WarningCode::AssumedPreprocessing);
    assert!(assumed.warnings()[0].message.contains("mean=0.485"), "{}", assumed.warnings()[0]);
    assert_eq!(assumed.inputs()[0].shape, [1, 3, 224, 224]);
    let config = |side: usize| {
        format!(r#"{{"size": {{"height": {side}, "width": {side}}}, "image_mean": [0, 0, 0]}}"#)
    };
    fs::write(data.path().join("preprocessor_config.json"), config(6)).unwrap();
    let found = open();
    assert_eq!(found.inputs()[0].shape, [1, 3, 6, 6]);
    assert!(!found.warnings().iter().any(|warning| warning.code == WarningCode::AssumedPreprocessing));
    fs::write(home.path().join("preprocessor_config.json"), config(5)).unwrap();
    assert_eq!(open().inputs()[0].shape, [1, 3, 5, 5]);
    // What is said goes before what is found.
    let said = CalibrationOptions { preprocess: Some("imagenet,size=4".parse().unwrap()), ..options.clone() };
    let said = load(&model, Some(&path), &said).unwrap();
    assert_eq!((said.inputs()[0].shape.as_slice(), said.warnings().len()), ([1, 3, 4, 4].as_slice(), 1));
    let note =
        said.notes().iter().map(ToString::to_string).find(|note| note.contains("images for input `x`"));
    assert!(note.unwrap().contains("4x4, 3 channels, nchw"));
}

#[test]
fn what_does_not_suit_the_model_says_so() {
    let dir = folder(&[("a.png", noise(5, 8, 8))]);
    let error = |model: &ModelProto, preprocess: &str| from(model, dir.path(), preprocess).unwrap_err();
    let size = error(&reading(&[3, 8, 8]), "imagenet,size=9");
    assert!(
        matches!(&size, CalibrationError::Preprocess(PreprocessError::Size { said: (9, 9), .. })),
        "{size}"
    );
    let open = error(&reading(&[3, -1, 8]), "raw");
    assert!(matches!(open, CalibrationError::Preprocess(PreprocessError::NoSize { .. })), "{open}");
    let layout = error(&reading(&[3, 8, 8]), "raw,layout=nhwc");
    assert!(matches!(layout, CalibrationError::Preprocess(PreprocessError::Layout { .. })), "{layout}");
    let channels = error(&reading(&[3, 8, 8]), "raw,mean=1/2");
    assert!(
        matches!(channels, CalibrationError::Preprocess(PreprocessError::Channels { given: 2, .. })),
        "{channels}"
    );
    let missing = error(&reading(&[3, 8, 8]), "imagnet");
    assert!(missing.to_string().contains("imagenet, clip"), "{missing}");
    let none = error(&reading(&[4, 8, 8]), "raw");
    assert!(matches!(none, CalibrationError::NotForImages { .. }), "{none}");
    let two = Net::new(17, &[3, 8, 8]).input("prompt", &[7]).model(&["x", "prompt"]);
    let two = error(&two, "raw");
    assert!(
        matches!(two, CalibrationError::NotForImages { .. }) && two.to_string().contains("`prompt`"),
        "{two}"
    );
}

/// A PNG that says it is so large, and has next to nothing in it.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    noise(6, 1, 1).write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let fold = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    };
    !bytes.iter().fold(!0, fold)
}

#[test]
fn files_that_are_no_images_are_errors_that_name_them() {
    let mut whole = Vec::new();
    noise(7, 64, 64).write_to(&mut std::io::Cursor::new(&mut whole), ImageFormat::Png).unwrap();
    let mut photo = Vec::new();
    soft(64, 64).write_to(&mut std::io::Cursor::new(&mut photo), ImageFormat::Jpeg).unwrap();
    let cases: [(&str, Vec<u8>); 8] = [
        ("empty.png", Vec::new()),
        ("text.jpg", b"<html>not found</html>".to_vec()),
        ("cut.png", whole[..whole.len() / 2].to_vec()),
        ("start.jpg", photo[..20].to_vec()),
        ("flipped.png", whole.iter().map(|byte| !byte).collect()),
        ("wide.png", bomb(2_000_000_000, 1)),
        ("large.png", bomb(60_000, 60_000)),
        ("pointer.webp", b"version https://git-lfs.github.com/spec/v1".to_vec()),
    ];
    for (name, bytes) in cases {
        let dir = folder(&[("good.png", noise(8, 4, 4))]);
        let path: PathBuf = dir.path().join("class").join(name);
        fs::create_dir(dir.path().join("class")).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = from(&reading(&[3, 4, 4]), dir.path(), "raw").unwrap_err();
        assert!(
            matches!(&error, CalibrationError::Image { path: named, .. } if *named == path),
            "{name}: {error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
    // A whole image under another name is what it is.
    let dir = folder(&[("a.png", soft(4, 4))]);
    fs::rename(dir.path().join("a.png"), dir.path().join("a.jpg")).unwrap();
    assert!(from(&reading(&[3, 4, 4]), dir.path(), "raw").is_ok());
}

#[test]
fn images_of_any_proportions_take_little_memory() {
    let dir = folder(&[("tall.png", noise(9, 1, 60_000)), ("wide.png", noise(9, 60_000, 1))]);
    for fit in ["crop", "pad", "stretch"] {
        let samples = from(&reading(&[3, 32, 32]), dir.path(), &format!("raw,fit={fit},filter=bicubic"));
        assert_eq!(fed(&samples.unwrap()).shape(), [2, 3, 32, 32], "{fit}");
    }
}

#[cfg(unix)]
#[test]
fn links_that_go_round_are_an_error_and_pipes_are_not_waited_for() {
    let dir = folder(&[("a/b.png", noise(1, 2, 2))]);
    let made = Command::new("mkfifo").arg(dir.path().join("pipe.png")).status();
    assert!(made.unwrap().success());
    assert_eq!(from(&reading(&[3, 2, 2]), dir.path(), "raw").unwrap().len(), 1);
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/round")).unwrap();
    let error = from(&reading(&[3, 2, 2]), dir.path(), "raw").unwrap_err();
    assert!(matches!(&error, CalibrationError::Io { path, .. } if path.ends_with("a/round")), "{error}");
}
