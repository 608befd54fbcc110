//! The program is killed before every system call that changes a file, and finds old output or new output, whole.
//!
//! `strace` injects the signal: into the first call of a kind, the second, and so on, for all that a run without a fault
//! makes. After each fault the run is repeated, and nothing is left over. Where there is no strace the test passes without
//! having been run, unless OPTIN_REQUIRE_STRACE is set.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use optin_onnx::onnx::{self, proto::ModelProto};
use serde_json::Value;

/// The calls that change files; of `openat` those that may make one.
const CALLS: &str = "openat,open,creat,mkdir,mkdirat,write,writev,pwrite64,ftruncate,fallocate,copy_file_range,sendfile,\
                     rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,fsync,fdatasync";

struct Scenario {
    name: &'static str,
    /// Whether the weights are in a file of their own.
    external: bool,
    /// Whether there is output of an earlier run.
    replaces: bool,
    flags: &'static [&'static str],
}

const SCENARIOS: [Scenario; 5] = [
    Scenario { name: "a fresh output", external: false, replaces: false, flags: &[] },
    Scenario { name: "an output replaced", external: false, replaces: true, flags: &[] },
    Scenario { name: "a fresh output with external data", external: true, replaces: false, flags: &[] },
    Scenario { name: "an output with external data replaced", external: true, replaces: true, flags: &[] },
    Scenario {
        name: "output, report and scores replaced",
        external: true,
        replaces: true,
        flags: &["--report", "r.json", "--save-scores", "s.json"],
    },
];

const PRUNE: [&str; 8] = ["m.onnx", "out.onnx", "--runtime", "tract", "--recover", "off", "--score", "wanda"];

fn optin(folder: &Path, flags: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_optin-onnx"));
    program.current_dir(folder).args(PRUNE).args(flags);
    program
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A folder with a model, data for it, and what an earlier run has left.
fn prepare(folder: &Path, scenario: &Scenario) {
    let text = "small (float[N, 16] x) => (float[N, 4] y)
        <float[16, 64] w1 = random, float[64, 32] w2 = random, float[32, 4] w3 = random>
        { a = MatMul (x, w1) b = Relu (a) c = MatMul (b, w2) d = Relu (c) y = MatMul (d, w3) }";
    onnx::save(&support::text::parse(text).unwrap().0, &folder.join("m.onnx"), scenario.external).unwrap();
    let x = ndarray::ArrayD::from_shape_fn(vec![16, 16], |i| ((i[0] * 7 + i[1] * 3) % 11) as f32 - 5.0);
    let mut archive = ndarray_npy::NpzWriter::new(fs::File::create(folder.join("m.calib.npz")).unwrap());
    archive.add_array("x", &x).unwrap();
    archive.finish().unwrap();
    if scenario.replaces {
        succeed(optin(folder, scenario.flags).args(["--flops", "0.8"]));
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn model(folder: &Path) -> Option<ModelProto> {
    let path = folder.join("out.onnx");
    path.exists().then(|| onnx::load(&path).unwrap().model)
}

fn strace(folder: &Path, flags: &[&str], extra: &[&str]) -> Output {
    let plain = optin(folder, flags);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "trace"]).args(extra).arg(plain.get_program()).args(plain.get_args());
    traced.current_dir(folder).output().unwrap()
}

/// Each call that changes a file: its name, and the how many-th of that name it is in the thread that makes it.
fn points(trace: &str) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut points = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, arguments)) = rest.trim_start().split_once('(') else { continue };
        if name.contains(' ') {
            continue;
        }
        let count = counts.entry((thread.to_owned(), name.to_owned())).or_default();
        *count += 1;
        let to_terminal = name == "write" && (arguments.starts_with("1,") || arguments.starts_with("2,"));
        let reads = name.starts_with("open") && !arguments.contains("O_CREAT");
        if !to_terminal && !reads {
            points.push((name.to_owned(), *count));
        }
    }
    points
}

/// Whether strace is there and may trace.
fn can_trace(folder: &Path) -> bool {
    let tried = Command::new("strace").current_dir(folder).args(["-o", "trace", "true"]).status();
    let can = tried.is_ok_and(|status| status.success());
    fs::remove_file(folder.join("trace")).ok();
    assert!(can || std::env::var_os("OPTIN_REQUIRE_STRACE").is_none(), "strace is required");
    can
}

#[test]
fn a_program_that_is_killed_anywhere_leaves_old_output_or_new_output_whole() {
    let scratch = tempfile::tempdir().unwrap();
    if !can_trace(scratch.path()) {
        return;
    }
    let mut total = 0;
    for scenario in &SCENARIOS {
        let template = tempfile::tempdir().unwrap();
        prepare(template.path(), scenario);
        let old = model(template.path());
        let fresh = || {
            let folder = tempfile::tempdir().unwrap();
            copy(template.path(), folder.path());
            folder
        };
        // Without a fault.
        let whole = fresh();
        let output = strace(whole.path(), scenario.flags, &["-e", &format!("trace={CALLS}")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = fs::read_to_string(whole.path().join("trace")).unwrap();
        fs::remove_file(whole.path().join("trace")).unwrap();
        let (new, expected) = (model(whole.path()).unwrap(), names(whole.path()));
        assert_ne!(old.as_ref(), Some(&new));
        let points = points(&trace);
        assert!(points.len() >= 8, "{trace}");
        for (call, nth) in &points {
            let at = format!("{}, before {call} {nth}", scenario.name);
            let folder = fresh();
            let fault = format!("inject={call}:signal=KILL:when={nth}");
            let killed =
                strace(folder.path(), scenario.flags, &["-e", &format!("trace={call}"), "-e", &fault]);
            assert!(!killed.status.success(), "{at}: it was not killed");
            fs::remove_file(folder.path().join("trace")).unwrap();
            // Whole: it opens, with the weights that belong to it.
            let found = model(folder.path());
            assert!(found == old || found.as_ref() == Some(&new), "{at}: neither old nor new");
            for file in ["r.json", "s.json"].map(PathBuf::from) {
                let read = |folder: &Path| fs::read_to_string(folder.join(&file)).ok();
                let (found, old) = (read(folder.path()), read(template.path()));
                if found != old {
                    let found: Value = serde_json::from_str(&found.unwrap()).unwrap();
                    assert!(found.is_object(), "{at}");
                }
            }
            // The next run does its job and cleans up.
            succeed(&mut optin(folder.path(), scenario.flags));
            assert_eq!(model(folder.path()).as_ref(), Some(&new), "{at}");
            assert_eq!(names(folder.path()), expected, "{at}");
        }
        println!("{}: killed at {} points", scenario.name, points.len());
        total += points.len();
    }
    println!("{total} points, nothing lost and nothing left over");
}
