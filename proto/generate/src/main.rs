//! `cargo run` in this folder, then `cargo fmt` in the root, writes `src/onnx/proto.rs` anew.
use std::{fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = tempdir()?;
    let descriptors = protox::compile([root.join("proto/onnx-ml.proto")], [root.join("proto")])?;
    prost_build::Config::new()
        // Tensor data stays a view of the mapped file instead of a copy.
        .bytes(["."])
        .disable_comments(["."])
        .out_dir(&out)
        .compile_fds(descriptors)?;
    fs::copy(out.join("onnx.rs"), root.join("src/onnx/proto.rs"))?;
    fs::remove_dir_all(&out)?;
    Ok(())
}

fn tempdir() -> std::io::Result<std::path::PathBuf> {
    let dir = std::env::temp_dir().join(format!("onnx-proto-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
