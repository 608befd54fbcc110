//! Writing files so that what was there before survives every failure.
//!
//! New files are written into a *stage*: a hidden folder beside the target, in which they have the names that they will
//! have. They are synced, and renamed into place once all of them are there. A program that is killed leaves its stage
//! behind, with a lock that nobody holds: the next one that writes to the folder removes it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, FileType, OpenOptions, TryLockError},
    io::{self, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// What the names of all stages begin with; the process id and a number follow.
const PREFIX: &str = ".optin-onnx-";
/// What follows the target's name in the name of the lock.
const LOCK: &str = ".lock";
/// How often another name is tried for a stage before its folder is taken for the cause.
const ATTEMPTS: usize = 1000;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum WriteError {
    /// The path ends in nothing that could be the name of a file.
    #[error("`{path}` does not name a file to write to")]
    NoFileName { path: PathBuf },
    /// There is a folder, a device, a pipe or a socket.
    #[error("`{path}` is a {kind} and would not be replaced: name a file to write to")]
    NotAFile { path: PathBuf, kind: &'static str },
    /// The folder is missing.
    #[error("the folder of `{path}` does not exist: make it first, or write elsewhere")]
    NoFolder { path: PathBuf },
    /// The operating system refused.
    #[error("cannot write `{path}`: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Writes `bytes` to `path`. Whatever is there stays whole until the new file is.
///
/// # Errors
/// When `path` cannot be a file, or the operating system refuses.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    stage(path, bytes)?.publish()
}

/// Writes `bytes` beside `path`, for [`StagedFile::publish`] to put them there.
///
/// # Errors
/// As [`write()`].
pub fn stage(path: &Path, bytes: &[u8]) -> Result<StagedFile, WriteError> {
    let stage = Stage::beside(path)?;
    let name = stage.name.clone();
    stage.write(&name, |out| out.write_all(bytes))?;
    Ok(StagedFile(stage))
}

/// A file that is complete and has yet to be put in its place; dropping it leaves nothing behind.
#[derive(Debug)]
pub struct StagedFile(Stage);

impl StagedFile {
    /// Puts the file in its place, over what is there.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn publish(self) -> Result<(), WriteError> {
        self.0.publish(&self.0.name)
    }
}

/// Whether a file could be written to `path` now: it may be new, or replace a regular file.
///
/// # Errors
/// When it could not.
pub fn check(path: &Path) -> Result<(), WriteError> {
    Stage::beside(path).map(drop)
}

/// What of a path that is to be written tells before anything is: the folder and the name.
fn split(path: &Path) -> Result<(PathBuf, OsString), WriteError> {
    let is_folder =
        path.as_os_str().as_encoded_bytes().last().is_some_and(|&b| std::path::is_separator(b.into()));
    let name = path.file_name().filter(|_| !is_folder);
    let name = name.ok_or_else(|| WriteError::NoFileName { path: path.into() })?;
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    // Links are resolved: what one leads to is what the user means by it.
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            Err(WriteError::NotAFile { path: path.into(), kind: kind(found.file_type()) })
        }
        _ if !folder.exists() => Err(WriteError::NoFolder { path: path.into() }),
        _ => Ok((folder, name.to_owned())),
    }
}

/// What to call a thing in a file system that is no regular file.
pub(crate) fn kind(found: FileType) -> &'static str {
    if found.is_dir() { "folder" } else { "device, pipe or socket" }
}

/// A folder beside a target, where new files are made ready. Dropping it removes it and all that is still in it.
#[derive(Debug)]
pub(crate) struct Stage {
    target: PathBuf,
    name: OsString,
    /// The folder of the target.
    home: PathBuf,
    folder: PathBuf,
    lock: File,
}

impl Stage {
    /// A stage for the file at `target`. Removes what killed programs have left in the folder, but for those stages whose
    /// journal says that more is to be done ([`abandoned`]).
    pub(crate) fn beside(target: &Path) -> Result<Self, WriteError> {
        let (home, name) = split(target)?;
        abandoned(&home).into_iter().filter(|stage| stage.journal.is_empty()).for_each(Abandoned::remove);
        let created = (0..ATTEMPTS).find_map(|attempt| create(&home, &name, attempt).transpose());
        let created = created.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()));
        match created {
            Ok((folder, lock)) => Ok(Self { target: target.into(), name, home, folder, lock }),
            Err(source) => Err(WriteError::Io { path: target.into(), source }),
        }
    }

    /// The name of the target.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// The path of the target.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where a file of this name is in the stage.
    pub(crate) fn path(&self, name: &OsStr) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a file of this name is once it is published.
    pub(crate) fn published(&self, name: &OsStr) -> PathBuf {
        self.home.join(name)
    }

    /// Makes a file of this name in the stage, filled by `fill`, and syncs it.
    pub(crate) fn write<T>(
        &self,
        name: &OsStr,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<T>,
    ) -> Result<T, WriteError> {
        let written = || {
            let mut file = File::create_new(self.path(name))?;
            let mut out = BufWriter::new(&mut file);
            let result = fill(&mut out)?;
            out.flush()?;
            drop(out);
            file.sync_all()?;
            Ok(result)
        };
        written().map_err(|source| self.failed(source))
    }

    /// Gives a file of the stage another name in it.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> Result<(), WriteError> {
        fs::rename(self.path(from), self.path(to)).map_err(|source| self.failed(source))
    }

    /// Keeps `journal` for the case that this program is killed from here on: whoever finds the stage reads it in
    /// [`Abandoned::journal`].
    pub(crate) fn journal(&mut self, journal: &str) -> Result<(), WriteError> {
        let mut write = || {
            self.lock.write_all(journal.as_bytes())?;
            self.lock.sync_all()
        };
        let written = write();
        written.map_err(|source| self.failed(source))
    }

    /// Moves a file of the stage to the folder of the target, over what has its name there, and syncs the folder.
    pub(crate) fn publish(&self, name: &OsStr) -> Result<(), WriteError> {
        fs::rename(self.path(name), self.published(name)).map_err(|source| self.failed(source))?;
        // The new name is on the disk once the folder is; where folders cannot be synced, the system sees to it.
        File::open(&self.home).and_then(|folder| folder.sync_all()).ok();
        Ok(())
    }

    /// The failure to write the target for this reason.
    fn failed(&self, source: io::Error) -> WriteError {
        WriteError::Io { path: self.target.clone(), source }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// The folder and the lock of a new stage; `None` when the name is taken, or the folder was, before it was locked, removed
/// as if it were abandoned.
fn create(home: &Path, name: &OsStr, attempt: usize) -> io::Result<Option<(PathBuf, File)>> {
    let folder = home.join(format!("{PREFIX}{}-{attempt}", std::process::id()));
    let mut builder = DirBuilder::new();
    // Until it is complete, what is written is nobody else's.
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        created => created?,
    }
    let path = folder.join(lock_name(name));
    let lock = match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            remove(&folder);
            return Err(error);
        }
        Ok(lock) => lock,
    };
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        // Where files cannot be locked, nobody takes a stage for abandoned.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(path.exists().then_some((folder, lock))),
    }
}

fn lock_name(target: &OsStr) -> OsString {
    let mut name = target.to_owned();
    name.push(LOCK);
    name
}

/// Removes the folder of a stage with its files.
fn remove(folder: &Path) {
    // What cannot be removed stays for the next one to try.
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        fs::remove_file(entry.path()).ok();
    }
    fs::remove_dir(folder).ok();
}

/// A stage that a killed program has left.
#[derive(Debug)]
pub(crate) struct Abandoned {
    folder: PathBuf,
    /// The name of the file that was to be written.
    pub(crate) target: OsString,
    /// What the program noted before it published, if it came to that.
    pub(crate) journal: String,
    /// Held, so that no other program cleans up at the same time.
    _lock: File,
}

impl Abandoned {
    /// Removes the stage.
    pub(crate) fn remove(self) {
        remove(&self.folder);
    }
}

/// The stages in the folder `home` that nobody holds any longer.
pub(crate) fn abandoned(home: &Path) -> Vec<Abandoned> {
    let entries = home.read_dir().into_iter().flatten().flatten();
    let stages = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    stages.filter_map(|stage| lock_abandoned(stage.path())).collect()
}

/// The stage in `folder`, if it is abandoned.
fn lock_abandoned(folder: PathBuf) -> Option<Abandoned> {
    let names = folder.read_dir().ok()?.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    if names.is_empty() {
        // Killed before it was locked, or about to be: then it takes another folder.
        fs::remove_dir(&folder).ok();
        return None;
    }
    // The longest, as the target may be called like a lock too.
    let locks = names.iter().filter_map(|name| Some((name, name.to_str()?.strip_suffix(LOCK)?)));
    let (name, target) = locks.max_by_key(|(_, target)| target.len())?;
    let path = folder.join(name);
    // No link, and no pipe, which would wait for a writer.
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let mut lock = OpenOptions::new().read(true).write(true).open(path).ok()?;
    lock.try_lock().ok()?;
    let mut journal = String::new();
    lock.rewind().and_then(|()| lock.read_to_string(&mut journal)).ok()?;
    Some(Abandoned { folder, target: target.into(), journal, _lock: lock })
}
