//! Fetching the ONNX Runtime library out of its Python wheel, the one build of it that every platform's own registry
//! client can get. The wheel is not installed: the library needs no Python.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

use super::{
    RuntimeError,
    locate::{install_dir, python},
};
use crate::hash;

/// The version that is fetched. It can be any from 1.22 on; one known version can be checked against its digest.
const VERSION: &str = "1.31.1";

/// The wheel for one platform.
struct Wheel {
    os: &'static str,
    arch: &'static str,
    /// Platform tag of the wheel.
    tag: &'static str,
    library: &'static str,
    /// SHA-256 of the library.
    digest: &'static str,
}

const WHEELS: [Wheel; 4] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        tag: "manylinux_2_28_x86_64",
        library: "libonnxruntime.so.1.31.1",
        digest: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        tag: "manylinux_2_28_aarch64",
        library: "libonnxruntime.so.1.31.1",
        digest: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        tag: "macosx_14_0_arm64",
        library: "libonnxruntime.1.31.1.dylib",
        digest: "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36",
    },
    Wheel {
        os: "windows",
        arch: "x86_64",
        tag: "win_amd64",
        library: "onnxruntime.dll",
        digest: "e45f61e50d8650885452be538a00bb14a715e46a1bc3691000ce947e89ed0306",
    },
];

/// Fetches ONNX Runtime (for the CPU) from the Python package index with `pip download`, checks it and puts it, with
/// its licences, into the user's data folder. Returns the library; one that is there already is not fetched again.
///
/// # Errors
/// The platform has no known wheel, `python3 -m pip` is missing or fails, or the library is not the expected one.
pub fn install() -> Result<PathBuf, RuntimeError> {
    let wheel = wheel_for(env::consts::OS, env::consts::ARCH)?;
    let folder = install_dir(&|name| env::var_os(name))
        .ok_or_else(|| failed("neither XDG_DATA_HOME nor HOME (on Windows: LOCALAPPDATA) is set"))?;
    let library = folder.join(wheel.library);
    if digest(&library).is_ok_and(|found| found == wheel.digest) {
        return Ok(library);
    }
    fs::create_dir_all(&folder).map_err(|e| failed(format!("`{}`: {e}", folder.display())))?;
    // Within the folder, so that moving files out of it is atomic.
    let unpacked =
        tempfile::tempdir_in(&folder).map_err(|e| failed(format!("`{}`: {e}", folder.display())))?;
    fetch(wheel, unpacked.path())?;

    let package = unpacked.path().join("onnxruntime");
    let fetched = package.join("capi").join(wheel.library);
    let found =
        digest(&fetched).map_err(|e| failed(format!("the wheel holds no `{}`: {e}", wheel.library)))?;
    if found != wheel.digest {
        return Err(failed(format!("the fetched library has SHA-256 {found}, expected {}", wheel.digest)));
    }
    // The library comes last: where it is, its licences are.
    for file in [package.join("LICENSE"), package.join("ThirdPartyNotices.txt"), fetched] {
        let target = folder.join(file.file_name().unwrap_or_default());
        fs::rename(&file, &target).map_err(|e| failed(format!("`{}`: {e}", target.display())))?;
    }
    Ok(library)
}

fn wheel_for(os: &str, arch: &str) -> Result<&'static Wheel, RuntimeError> {
    WHEELS.iter().find(|wheel| wheel.os == os && wheel.arch == arch).ok_or_else(|| {
        failed(format!(
            "no library is known for {os} on {arch}; get one of version 1.22 or newer (a release of ONNX Runtime, or \
             the `onnxruntime` Python package) and name it"
        ))
    })
}

/// Downloads the wheel into `folder` and unpacks it there.
fn fetch(wheel: &Wheel, folder: &Path) -> Result<(), RuntimeError> {
    // The wheels differ by Python version only in the bindings, which are not used: any version will do.
    let mut download = isolated();
    download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    download.args(["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"]);
    download.args(["--platform", wheel.tag, &format!("onnxruntime=={VERSION}"), "--dest"]).arg(folder);
    run(&mut download)?;
    let archive = fs::read_dir(folder)
        .ok()
        .and_then(|files| {
            files.filter_map(|f| Some(f.ok()?.path())).find(|f| f.extension().is_some_and(|e| e == "whl"))
        })
        .ok_or_else(|| failed("pip downloaded no wheel"))?;
    run(isolated().args(["-m", "zipfile", "--extract"]).arg(archive).arg(folder))
}

/// Python without the modules of the current folder, of `PYTHONPATH` and of the user (`-I`): a file `pip.py` beside a model that
/// somebody downloaded is not to be run.
fn isolated() -> Command {
    let mut command = Command::new(python());
    command.arg("-I");
    command
}

fn run(command: &mut Command) -> Result<(), RuntimeError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let by_hand = "install the Python package `onnxruntime`, or name a library";
    let output = command
        .output()
        .map_err(|e| failed(format!("`{program}`, which fetches it, does not start ({e}); {by_hand}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
    Err(failed(format!("`{program}` failed ({last}); {by_hand}")))
}

/// SHA-256 of a file in hexadecimal digits.
fn digest(path: &Path) -> io::Result<String> {
    let digest = Sha256::digest(fs::read(path)?);
    Ok(hash::hex(digest))
}

fn failed(reason: impl Into<String>) -> RuntimeError {
    RuntimeError::Install { reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_platform_is_told_what_to_do() {
        let message = wheel_for("plan9", "mips").err().unwrap().to_string();
        assert!(message.contains("plan9") && message.contains("name it"), "{message}");
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "abc").unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(file.path()).unwrap(), expected);
    }
}
