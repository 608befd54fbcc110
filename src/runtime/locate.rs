//! Finding the ONNX Runtime library: named by the user, installed by this program, or part of a Python environment.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{RuntimeError, ort};

/// Environment variable that names the library; the one that other programs built on `ort` read.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";

/// Prints the folder of the `onnxruntime` package without importing it, which would load the library into Python.
const FIND_PACKAGE: &str = "import importlib.util as u\n\
                            s = u.find_spec('onnxruntime')\n\
                            print(s.submodule_search_locations[0] if s else '')";

/// Where a library was looked for, in the order of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LibraryOrigin {
    /// This process has loaded a library already.
    Process,
    /// Named by the caller ([`RuntimeOptions::ort_lib`](super::RuntimeOptions::ort_lib)).
    Named,
    /// Named by [`LIBRARY_VARIABLE`].
    Variable,
    /// Where [`install`](super::install()) puts it.
    DataDir,
    /// The folder of the running program.
    Executable,
    /// The `onnxruntime` package of the active virtual environment.
    VirtualEnv,
    /// The `onnxruntime` package of the Python on the path.
    Python,
    /// The folders that the dynamic loader searches.
    Loader,
}

impl fmt::Display for LibraryOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "this process",
            Self::Named => "named library",
            Self::Variable => LIBRARY_VARIABLE,
            Self::DataDir => "data folder",
            Self::Executable => "beside the program",
            Self::VirtualEnv => "$VIRTUAL_ENV",
            Self::Python => "python3",
            Self::Loader => "loader path",
        })
    }
}

/// What the search found in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchOutcome {
    /// The library there is loaded and used.
    Used,
    /// There is none, and why.
    Absent(&'static str),
    /// There is one that cannot be used, and why.
    Unusable(String),
}

/// One place that was searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchedPlace {
    /// Which place.
    pub origin: LibraryOrigin,
    /// The library there, or else the folder that should hold it, where that is known.
    pub path: Option<PathBuf>,
    /// What came of it.
    pub outcome: SearchOutcome,
}

impl fmt::Display for SearchedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        match &self.outcome {
            SearchOutcome::Used => f.write_str("used"),
            SearchOutcome::Absent(reason) => f.write_str(reason),
            SearchOutcome::Unusable(reason) => f.write_str(reason),
        }
    }
}

/// A search: the places in their order, up to the first that holds a usable library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Every place that was searched.
    pub places: Vec<SearchedPlace>,
    /// The library that is used.
    pub library: Option<PathBuf>,
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.places.iter().map(|place| format!("  {place}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Finds the ONNX Runtime library and loads it into the process, as only that shows whether it is of use.
///
/// # Errors
/// A library that is `named` or that [`LIBRARY_VARIABLE`] names must exist and load. Finding none elsewhere is no error: then
/// [`Search::library`] is `None`.
pub fn find(named: Option<&Path>) -> Result<Search, RuntimeError> {
    match ort::loaded() {
        Some(path) if named.is_none() => Ok(Search {
            places: vec![SearchedPlace {
                origin: LibraryOrigin::Process,
                path: Some(path.clone()),
                outcome: SearchOutcome::Used,
            }],
            library: Some(path),
        }),
        _ => search(named, &|name| env::var_os(name), &ort::load),
    }
}

/// The folder for this program's data that belongs to the user.
pub(super) fn data_dir(variable: Variables<'_>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = if cfg!(windows) {
        set("LOCALAPPDATA")?
    } else {
        set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?
    };
    Some(base.join("optin-onnx"))
}

/// The folder within [`data_dir`] for the library.
pub(super) fn install_dir(variable: Variables<'_>) -> Option<PathBuf> {
    Some(data_dir(variable)?.join("onnxruntime"))
}

type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;
type Folders = fn(Variables<'_>) -> Vec<PathBuf>;
type Load<'a> = &'a dyn Fn(&Path) -> Result<(), RuntimeError>;

fn search(named: Option<&Path>, variable: Variables<'_>, load: Load<'_>) -> Result<Search, RuntimeError> {
    let named = [
        (LibraryOrigin::Named, named.map(Path::to_path_buf)),
        (LibraryOrigin::Variable, variable(LIBRARY_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from)),
    ];
    let mut places = vec![];
    for (origin, path) in named {
        let Some(path) = path else {
            places.push(SearchedPlace { origin, path: None, outcome: SearchOutcome::Absent("not given") });
            continue;
        };
        if !path.is_file() {
            return Err(RuntimeError::LibraryMissing { origin, path });
        }
        load(&path)?;
        places.push(SearchedPlace { origin, path: Some(path.clone()), outcome: SearchOutcome::Used });
        return Ok(Search { places, library: Some(path) });
    }
    for (origin, folders) in FOLDERS {
        let folders = folders(variable);
        let Some(library) = folders.iter().find_map(|folder| newest_library(folder)) else {
            // The loader path is many folders, and not worth a line each.
            let path = if folders.len() == 1 { folders.into_iter().next() } else { None };
            let reason = match origin {
                LibraryOrigin::VirtualEnv | LibraryOrigin::Python if path.is_none() => {
                    "no `onnxruntime` package"
                }
                _ => "no library there",
            };
            places.push(SearchedPlace { origin, path, outcome: SearchOutcome::Absent(reason) });
            continue;
        };
        let outcome = match load(&library) {
            Ok(()) => SearchOutcome::Used,
            Err(RuntimeError::LibraryUnusable { reason, .. }) => SearchOutcome::Unusable(reason),
            Err(other) => return Err(other),
        };
        let used = outcome == SearchOutcome::Used;
        places.push(SearchedPlace { origin, path: Some(library.clone()), outcome });
        if used {
            return Ok(Search { places, library: Some(library) });
        }
    }
    Ok(Search { places, library: None })
}

/// Folders to look in, each worked out when the search comes to it: asking Python starts a process.
const FOLDERS: [(LibraryOrigin, Folders); 5] = [
    (LibraryOrigin::DataDir, |variable| install_dir(variable).into_iter().collect()),
    (LibraryOrigin::Executable, |_| executable_dir().into_iter().collect()),
    (LibraryOrigin::VirtualEnv, |variable| virtual_env(variable).into_iter().collect()),
    (LibraryOrigin::Python, |_| package_of(Path::new(python())).into_iter().collect()),
    (LibraryOrigin::Loader, loader_dirs),
];

fn executable_dir() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.to_path_buf())
}

fn virtual_env(variable: Variables<'_>) -> Option<PathBuf> {
    let root = PathBuf::from(variable("VIRTUAL_ENV").filter(|v| !v.is_empty())?);
    package_of(&root.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" }))
}

/// The Python interpreter on the path.
pub(super) fn python() -> &'static str {
    if cfg!(windows) { "python" } else { "python3" }
}

/// The folder that holds the library in the `onnxruntime` package of this interpreter.
fn package_of(python: &Path) -> Option<PathBuf> {
    // Isolated (-I), so that a folder `onnxruntime` in the working directory is not taken for the package.
    let output = Command::new(python).args(["-I", "-c", FIND_PACKAGE]).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !folder.trim().is_empty()).then(|| Path::new(folder.trim()).join("capi"))
}

fn loader_dirs(variable: Variables<'_>) -> Vec<PathBuf> {
    let listed = |name| variable(name).map(|list| env::split_paths(&list).collect::<Vec<_>>());
    let (name, fixed): (_, &[&str]) = if cfg!(windows) {
        ("PATH", &[])
    } else if cfg!(target_os = "macos") {
        ("DYLD_LIBRARY_PATH", &["/usr/local/lib", "/opt/homebrew/lib"])
    } else {
        ("LD_LIBRARY_PATH", &["/usr/local/lib", "/usr/lib", "/usr/lib64"])
    };
    let multiarch = (cfg!(target_os = "linux"))
        .then(|| PathBuf::from(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH)));
    let listed = listed(name).unwrap_or_default();
    listed.into_iter().chain(fixed.iter().map(PathBuf::from)).chain(multiarch).collect()
}

/// The ONNX Runtime library of the highest version in `folder`.
fn newest_library(folder: &Path) -> Option<PathBuf> {
    let files = folder.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let libraries = files.filter(|path| path.is_file());
    let versioned = libraries.filter_map(|path| {
        let version = version_in(path.file_name()?.to_str()?)?;
        Some((version, path))
    });
    versioned.max().map(|(_, path)| path)
}

/// The version in the name of an ONNX Runtime library, empty if it has none; `None` for any other file.
fn version_in(name: &str) -> Option<Vec<u32>> {
    let version = if cfg!(windows) {
        name.strip_prefix("onnxruntime")?.strip_suffix(".dll")?
    } else if cfg!(target_os = "macos") {
        name.strip_prefix("libonnxruntime")?.strip_suffix(".dylib")?
    } else {
        name.strip_prefix("libonnxruntime.so")?
    };
    match version.strip_prefix('.') {
        Some(version) => version.split('.').map(|part| part.parse().ok()).collect(),
        None => version.is_empty().then(Vec::new),
    }
}

/// The version of the library at `path`, as far as its name tells.
pub(super) fn version(path: &Path) -> Option<String> {
    // A name without a version is mostly a link to one with it.
    let target = path.canonicalize().ok()?;
    let version = version_in(target.file_name()?.to_str()?)?;
    let parts: Vec<_> = version.iter().map(u32::to_string).collect();
    (parts.len() > 1).then(|| parts.join("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn library_name(version: &str) -> String {
        if cfg!(windows) {
            "onnxruntime.dll".to_owned()
        } else if cfg!(target_os = "macos") {
            format!("libonnxruntime.{version}.dylib")
        } else {
            format!("libonnxruntime.so.{version}")
        }
    }

    fn unusable(path: &Path) -> Result<(), RuntimeError> {
        Err(RuntimeError::LibraryUnusable { path: path.to_path_buf(), reason: "too old".to_owned() })
    }

    #[test]
    fn a_named_library_must_exist() {
        let missing = Path::new("no/such/library.so");
        let by_name = search(Some(missing), &|_| None, &|_| Ok(())).unwrap_err();
        assert!(matches!(by_name, RuntimeError::LibraryMissing { origin: LibraryOrigin::Named, .. }));
        let by_variable = search(None, &|_| Some(missing.into()), &|_| Ok(())).unwrap_err();
        assert!(matches!(by_variable, RuntimeError::LibraryMissing { origin: LibraryOrigin::Variable, .. }));
    }

    #[test]
    fn the_newest_library_of_the_data_folder_is_used() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("optin-onnx/onnxruntime");
        fs::create_dir_all(&folder).unwrap();
        let newest = folder.join(library_name("1.31.1"));
        let shared = folder.join("libonnxruntime_providers_shared.so");
        for file in [&folder.join(library_name("1.9.0")), &newest, &shared] {
            fs::write(file, "").unwrap();
        }
        let variables = |name: &str| {
            matches!(name, "XDG_DATA_HOME" | "LOCALAPPDATA").then(|| home.path().as_os_str().to_owned())
        };
        let found = search(None, &variables, &|_| Ok(())).unwrap();
        assert_eq!(found.library, Some(newest.clone()));
        assert_eq!(found.places.last().unwrap().origin, LibraryOrigin::DataDir);

        // One that does not load is listed with its reason, and the search goes on.
        let found = search(None, &variables, &unusable).unwrap();
        assert_eq!(found.library, None);
        assert!(found.to_string().contains(&format!("{}: too old", newest.display())));
        assert!(found.to_string().contains("loader path"));
    }

    #[test]
    fn a_named_library_must_load() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = search(Some(file.path()), &|_| None, &unusable).unwrap_err();
        assert!(matches!(error, RuntimeError::LibraryUnusable { .. }));
    }
}
