//! A folder for temporary files that does not outlive its process by much.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

const PREFIX: &str = "optin-onnx-";

/// Locked by the process that the folder belongs to, for as long as it runs: however it ends, the lock goes.
const LOCK: &str = "lock";

/// A folder that is removed at the end. Those of processes that were killed are removed when the next one is made.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Before the folder, so closed before it goes: some systems do not remove open files.
    _lock: File,
    folder: TempDir,
}

impl Scratch {
    /// A new folder in the system's folder for temporary files (`TMPDIR`).
    pub fn new() -> io::Result<Self> {
        Self::within(&std::env::temp_dir())
    }

    fn within(base: &Path) -> io::Result<Self> {
        sweep(base);
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
            let path = folder.path().join(LOCK);
            let lock = File::create(&path)?;
            // Another process may take an unlocked folder for one that was left behind; then this one tries again.
            if lock.try_lock().is_ok() && path.exists() {
                return Ok(Self { _lock: lock, folder });
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what processes that were killed have left. What cannot be removed is the next one's.
fn sweep(base: &Path) {
    for folder in abandoned(base).unwrap_or_default() {
        fs::remove_dir_all(folder).ok();
    }
}

/// Folders of ours that no process holds locked. Those without a lock are being made.
fn abandoned(base: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(base)?.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // No link is followed: it would lead out of the folder.
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(lock) = File::options().read(true).write(true).open(entry.path().join(LOCK)) else { continue };
        if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock | TryLockError::Error(_))) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_left_behind_goes_and_one_in_use_stays() {
        let base = tempfile::tempdir().unwrap();
        let left = base.path().join(format!("{PREFIX}left"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("weights"), "1").unwrap();
        let foreign = base.path().join("optin-notes");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join(LOCK), "").unwrap();

        let first = Scratch::within(base.path()).unwrap();
        assert!(!left.exists() && foreign.exists());
        let second = Scratch::within(base.path()).unwrap();
        assert!(first.path().exists() && second.path().exists());
        let path = first.path().to_path_buf();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }
}
