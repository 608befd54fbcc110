//! What the program reads and writes: all paths are looked at first, nothing is lost, nothing is left behind.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, symlink},
    path::PathBuf,
    process::{Command, Output},
};

use optin_onnx::onnx;

/// A folder with a small model, `m.onnx`, and data for it, `m.calib.npz`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self::with(false)
    }

    /// With the weights in a file of their own, if `external`.
    fn with(external: bool) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let text = "small (float[N, 16] x) => (float[N, 4] y)
            <float[16, 64] w1 = random, float[64, 32] w2 = random, float[32, 4] w3 = random>
            { a = MatMul (x, w1) b = Relu (a) c = MatMul (b, w2) d = Relu (c) y = MatMul (d, w3) }";
        onnx::save(&support::text::parse(text).unwrap().0, &folder.path("m.onnx"), external).unwrap();
        let x = ndarray::ArrayD::from_shape_fn(vec![32, 16], |i| ((i[0] * 7 + i[1] * 3) % 11) as f32 - 5.0);
        let mut archive = ndarray_npy::NpzWriter::new(fs::File::create(folder.path("m.calib.npz")).unwrap());
        archive.add_array("x", &x).unwrap();
        archive.finish().unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program in the folder.
    fn run(&self, args: &[&str]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
        program.current_dir(self.0.path()).args(args).args(["--runtime", "tract"]).output().unwrap()
    }

    /// Exit code and error of a run that is not to succeed.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !error.contains("panicked"), "{args:?}: {error}");
        (output.status.code().unwrap(), error)
    }

    /// Asserts that a run is refused, before any work and with nothing changed, with an error that says so.
    fn refuses(&self, args: &[&str], said: &str) {
        let before = self.contents();
        let (code, error) = self.fails(args);
        assert_eq!(code, 2, "{args:?}: {error}");
        assert!(error.contains(said), "{args:?}: {error}");
        // The first thing that work would say.
        assert!(!error.contains("calibration:"), "{args:?}: {error}");
        assert_eq!(self.contents(), before, "{args:?}");
    }

    /// Names, and what is in those that are files.
    fn contents(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap());
        let read =
            |path: PathBuf| fs::symlink_metadata(&path).unwrap().is_file().then(|| fs::read(path).unwrap());
        let mut all: Vec<_> =
            entries.map(|e| (e.file_name().into_string().unwrap(), read(e.path()))).collect();
        all.sort();
        all
    }

    fn names(&self) -> Vec<String> {
        self.contents().into_iter().map(|(name, _)| name).collect()
    }
}

#[test]
fn what_is_no_regular_file_is_never_replaced() {
    let folder = Folder::new();
    assert!(Command::new("mkfifo").arg(folder.path("pipe")).status().unwrap().success());
    let socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    // A link, so that a failure of this test does no harm.
    symlink("/dev/null", folder.path("null")).unwrap();
    fs::create_dir(folder.path("folder")).unwrap();
    for target in ["pipe", "socket", "null", "folder"] {
        folder.refuses(&["m.onnx", target], "would not be replaced");
        for flag in ["--report", "--save-scores"] {
            folder.refuses(&["m.onnx", "out.onnx", flag, target], "would not be replaced");
        }
    }
    assert!(fs::metadata(folder.path("pipe")).unwrap().file_type().is_fifo());
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    for scores in ["pipe", "/dev/zero"] {
        folder.refuses(&["m.onnx", "out.onnx", "--scores", scores], "is not a regular file");
    }
    drop(socket);
    // The library refuses too.
    let model = onnx::load(&folder.path("m.onnx")).unwrap().model;
    assert!(onnx::save(&model, &folder.path("pipe"), false).is_err());
    // Nor does reading wait for a writer.
    let (code, error) = folder.fails(&["m.onnx", "out.onnx", "--scores", "pipe"]);
    assert_eq!(code, 2);
    assert!(error.contains("is not a regular file"), "{error}");
    fs::rename(folder.path("pipe"), folder.path("pipe.npz")).unwrap();
    let (code, error) = folder.fails(&["m.onnx", "out.onnx", "--calib", "pipe.npz"]);
    assert_eq!(code, 2);
    assert!(error.contains("is not a regular file"), "{error}");
}

#[test]
fn what_a_standard_stream_is_redirected_to_is_not_replaced() {
    let folder = Folder::new();
    // As /dev/stdout is one; a link of our own, so that a failure of this test does no harm.
    #[cfg(target_os = "linux")]
    symlink("/proc/self/fd/1", folder.path("stdout")).unwrap();
    #[cfg(not(target_os = "linux"))]
    symlink("log", folder.path("stdout")).unwrap();
    for target in ["stdout", "log"] {
        for flag in ["--report", "--save-scores"] {
            let mut program = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
            program.current_dir(folder.0.path()).args(["m.onnx", "out.onnx", flag, target]);
            let log = fs::File::create(folder.path("log")).unwrap();
            let output = program.stdout(log).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{error}");
            assert!(error.contains("standard input, output or error"), "{error}");
            assert!(folder.path("stdout").is_symlink());
        }
    }
}

#[test]
fn what_cannot_be_written_is_noticed_before_any_work() {
    let folder = Folder::new();
    fs::write(folder.path("file"), "x").unwrap();
    for flag in [["-o"], ["--report"], ["--save-scores"]] {
        let refuses = |path: &str, said: &str| {
            let output: &[&str] = if flag == ["-o"] { &[] } else { &["out.onnx"] };
            folder.refuses(&[&["m.onnx"], output, &flag, &[path]].concat(), said);
        };
        refuses("missing/x.onnx", "does not exist");
        refuses("-", "cannot be written to `-`");
        refuses("..", "does not name a file");
        refuses("new/", "does not name a file");
        refuses("file/x.onnx", "file/x.onnx");
        // Nobody can make files there, not even root.
        refuses("/proc/x.onnx", "/proc/x.onnx");
        refuses(&"n".repeat(255), "cannot write");
    }
}

#[test]
fn no_two_paths_may_be_one_file() {
    let folder = Folder::with(true);
    let weights = onnx::weight_files(&folder.path("m.onnx")).remove(0);
    let weights = weights.file_name().unwrap().to_str().unwrap();
    symlink("m.onnx", folder.path("link.onnx")).unwrap();
    fs::hard_link(folder.path("m.onnx"), folder.path("hard.onnx")).unwrap();
    fs::create_dir(folder.path("sub")).unwrap();
    for same in ["m.onnx", "./m.onnx", "sub/../m.onnx", "link.onnx", "hard.onnx"] {
        folder.refuses(&["m.onnx", same], "--in-place");
        folder.refuses(&["m.onnx", "out.onnx", "--report", same], "are one file");
        folder.refuses(&["m.onnx", "out.onnx", "--save-scores", same], "are one file");
    }
    for same in ["out.onnx", "./out.onnx", "sub/../out.onnx"] {
        folder.refuses(&["m.onnx", "out.onnx", "--report", same], "are one file");
        folder.refuses(&["m.onnx", "out.onnx", "--save-scores", same], "are one file");
    }
    folder.refuses(&["m.onnx", "o.onnx", "--report", "r.json", "--save-scores", "./r.json"], "are one file");
    // The data are found beside the model, and the weights in it.
    for (file, said) in [("m.calib.npz", "the calibration data"), (weights, "the weights of the model")] {
        folder.refuses(&["m.onnx", file], said);
        folder.refuses(&["m.onnx", "out.onnx", "--report", file], said);
    }
    fs::write(folder.path("s.json"), "{}").unwrap();
    folder.refuses(&["m.onnx", "out.onnx", "--scores", "s.json", "--report", "s.json"], "the scores");
}

#[test]
fn files_of_another_kind_are_not_replaced() {
    let folder = Folder::new();
    fs::write(folder.path("notes.txt"), "precious").unwrap();
    fs::copy(folder.path("m.onnx"), folder.path("other.onnx")).unwrap();
    folder.refuses(&["m.onnx", "notes.txt"], "which is not an ONNX model: remove it first");
    folder.refuses(&["m.onnx", "out.onnx", "--report", "notes.txt"], "which is not a JSON object");
    fs::write(folder.path("list.json"), "[1, 2]").unwrap();
    folder.refuses(&["m.onnx", "out.onnx", "--report", "list.json"], "which is not a JSON object");
    folder.refuses(&["m.onnx", "out.onnx", "--report", "other.onnx"], "which is not a JSON object");
    folder.refuses(&["m.onnx", "out.onnx", "--save-scores", "m.calib.npz"], "are one file");
    // A name that a script has reserved, an earlier model, an earlier report.
    fs::write(folder.path("reserved"), "").unwrap();
    for output in ["reserved", "other.onnx"] {
        for _ in 0..2 {
            let run = folder.run(&["m.onnx", output, "--report", "r.json"]);
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        }
    }
}

#[test]
fn weights_that_the_run_reads_do_not_go_with_a_replaced_model() {
    let folder = Folder::with(true);
    // A copy of the .onnx file refers to the same weights, which are the first one's by name.
    fs::copy(folder.path("m.onnx"), folder.path("copy.onnx")).unwrap();
    fs::rename(folder.path("m.calib.npz"), folder.path("copy.calib.npz")).unwrap();
    folder.refuses(&["copy.onnx", "m.onnx"], "name another output");
    assert!(folder.run(&["copy.onnx", "new.onnx"]).status.success());
    assert!(onnx::load(&folder.path("copy.onnx")).is_ok());
    // In place, the old weights go and the new ones stay.
    let alone = Folder::with(true);
    assert!(alone.run(&["m.onnx", "m.onnx", "--in-place"]).status.success());
    assert!(onnx::load(&alone.path("m.onnx")).unwrap().external);
    assert_eq!(alone.names().len(), 3, "{:?}", alone.names());
}

/// Runs the program where no file may grow beyond so many bytes, as on a full disk.
fn with_full_disk(folder: &Folder, bytes: u64, args: &str) -> (Option<i32>, String) {
    // In blocks of 512 bytes (POSIX, ulimit). Without the trap the signal would end the program.
    let program = env!("CARGO_BIN_EXE_optin-onnx");
    let script = format!("trap '' XFSZ; ulimit -f {}; exec {program} {args}", bytes / 512);
    let output = Command::new("sh").current_dir(folder.0.path()).arg("-c").arg(script).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_full_disk_is_exit_code_1_and_loses_nothing() {
    for external in [false, true] {
        let folder = Folder::with(external);
        let args = "m.onnx out.onnx --runtime tract --report r.json --save-scores s.json";
        let run = folder.run(&args.split(' ').take(2).collect::<Vec<_>>());
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        fs::write(folder.path("r.json"), "{\"old\": 1}").unwrap();
        fs::write(folder.path("s.json"), "{\"old\": 2}").unwrap();
        let before = folder.contents();
        let size = |name: &str| fs::metadata(folder.path(name)).unwrap().len();
        // Too little for the scores, and then for what is largest.
        let (code, error) = with_full_disk(&folder, 512, args);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("cannot write `s.json`"), "{error}");
        assert_eq!(folder.contents(), before);
        let (code, error) = with_full_disk(&folder, 2048, &args.replace(" --save-scores s.json", ""));
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("cannot write `"), "{error}");
        assert_eq!(folder.contents(), before);
        assert!(size("out.onnx") > 0);
    }
}

#[test]
fn a_report_that_cannot_be_written_leaves_the_old_model() {
    // The report is larger than the model, so that the model alone fits.
    let folder = Folder::new();
    fs::write(folder.path("r.json"), "{\"old\": 1}").unwrap();
    let tiny = "tiny (float[N, 4] x) => (float[N, 2] y) <float[4, 8] v = random, float[8, 2] w = random>
        { a = MatMul (x, v) b = Relu (a) y = MatMul (b, w) }";
    onnx::save(&support::text::parse(tiny).unwrap().0, &folder.path("tiny.onnx"), false).unwrap();
    fs::copy(folder.path("tiny.onnx"), folder.path("out.onnx")).unwrap();
    let before = folder.contents();
    let args = "tiny.onnx out.onnx --runtime tract --synthetic --align 1 --report r.json";
    let (code, error) = with_full_disk(&folder, 2048, args);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("cannot write `r.json`"), "{error}");
    assert_eq!(folder.contents(), before);
}

#[test]
fn what_a_killed_run_has_left_is_removed_and_what_is_in_use_is_not() {
    let folder = Folder::new();
    let stage = |name: &str| {
        fs::create_dir(folder.path(name)).unwrap();
        fs::write(folder.path(name).join("old.onnx"), "half").unwrap();
        fs::write(folder.path(name).join("old.onnx.lock"), "").unwrap();
        folder.path(name).join("old.onnx.lock")
    };
    stage(".optin-onnx-1-0");
    let lock = fs::OpenOptions::new().write(true).open(stage(".optin-onnx-1-1")).unwrap();
    lock.lock().unwrap();
    fs::create_dir(folder.path(".optin-onnx-2-0")).unwrap();
    assert!(folder.run(&["m.onnx", "out.onnx"]).status.success());
    assert_eq!(folder.names(), [".optin-onnx-1-1", "m.calib.npz", "m.onnx", "out.onnx"]);
    drop(lock);
    assert!(folder.run(&["m.onnx", "out.onnx"]).status.success());
    assert_eq!(folder.names(), ["m.calib.npz", "m.onnx", "out.onnx"]);
}

#[test]
fn a_model_that_does_not_run_on_the_data_is_an_error_that_says_what_was_fed() {
    let folder = Folder::new();
    // The length is open, but what is added has 3 positions.
    let text =
        "fixed (float[N, S, 4] x) => (float[N, S, 4] y) <float[3, 4] p = random, float[4, 4] w = random>
        { a = Add (x, p) y = MatMul (a, w) }";
    onnx::save(&support::text::parse(text).unwrap().0, &folder.path("fixed.onnx"), false).unwrap();
    let x = ndarray::ArrayD::<f32>::ones(vec![16, 5, 4]);
    let mut archive = ndarray_npy::NpzWriter::new(fs::File::create(folder.path("fixed.calib.npz")).unwrap());
    archive.add_array("x", &x).unwrap();
    archive.finish().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
    let output =
        program.current_dir(folder.0.path()).args(["fixed.onnx", "out.onnx", "-q"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("`x` [2, 5, 4]"), "{error}");
    // The runtime's own log stays out, and so do the ends of its lines.
    assert!(error.starts_with("optin-onnx: ") && !error.contains("[E:onnxruntime"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    let output = Command::new(env!("CARGO_BIN_EXE_optin-onnx"))
        .current_dir(folder.0.path())
        .args(["fixed.onnx", "out.onnx", "-q", "--synthetic"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("made-up inputs, of which it was fed `x` [2, "), "{error}");
    assert!(error.contains("--shape") && error.lines().count() == 2, "{error}");
}

#[test]
fn a_quantised_model_is_refused_with_the_order_in_which_to_do_it() {
    let folder = Folder::new();
    let text = "quantised (float[N, 4] x) => (float[N, 2] y) <float[4, 3] v = random, float[3, 2] w = random>
        { a = MatMul (x, v) b, scale, zero = DynamicQuantizeLinear (a) c = DequantizeLinear (b, scale, zero) y = MatMul (c, w) }";
    onnx::save(&support::text::parse(text).unwrap().0, &folder.path("q.onnx"), false).unwrap();
    // By whichever runtime there is: not all of them run such models.
    let mut program = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
    let output =
        program.current_dir(folder.0.path()).args(["q.onnx", "out.onnx", "--synthetic"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("prune the model first, then quantise it"), "{error}");
}

#[test]
fn modules_in_the_current_folder_are_not_run() {
    let folder = Folder::new();
    for module in ["pip.py", "zipfile.py", "onnxruntime.py"] {
        fs::write(folder.path(module), format!("open('executed-{module}', 'w')")).unwrap();
    }
    let install = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
        program.current_dir(folder.0.path()).args(["runtime", "install"]);
        program.env("XDG_DATA_HOME", folder.path("data")).env("PYTHONPATH", folder.0.path());
        // Nothing is fetched: there is no index.
        program.env("PIP_NO_INDEX", "1").env("PIP_CONFIG_FILE", "/dev/null");
        program.output().unwrap()
    };
    let output = install();
    // The job ran and was not done.
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.names().iter().any(|name| name.starts_with("executed")), "{:?}", folder.names());
}
