//! Opening regular files, and making sure that a path still leads to what was opened.
//!
//! Whoever can write to a folder can put a link in the place of a file between a check and the use of it. So what is
//! checked is the open file: the standard library cannot open a path without following links (`openat2` with
//! `RESOLVE_BENEATH`), but it can compare what was opened with what the path, links resolved anew, leads to afterwards.

use super::OnnxError;
use std::{
    fs::{self, File, Metadata},
    io,
    path::Path,
};

/// A regular file, opened, and what the system knows of it.
pub(super) fn open(path: &Path) -> Result<(File, Metadata), OnnxError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => OnnxError::NotFound { path: path.into() },
        _ => OnnxError::Io { action: "read", path: path.into(), source },
    };
    // Before opening: that of a pipe would wait for a writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(OnnxError::NotAFile { path: path.into() });
    }
    let file = File::open(path).map_err(failed)?;
    let opened = file.metadata().map_err(failed)?;
    // A pipe or a device may have taken its place.
    if !opened.is_file() {
        return Err(OnnxError::NotAFile { path: path.into() });
    }
    Ok((file, opened))
}

/// Whether `path`, which is canonical, has no link in it and leads to the file that was opened.
pub(super) fn still_at(path: &Path, opened: &Metadata) -> bool {
    let unlinked = fs::canonicalize(path).is_ok_and(|canonical| canonical == path);
    unlinked && fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == identity(opened))
}

/// What tells a file from all others, whatever it is called; `None` where the standard library does not tell.
#[cfg(unix)]
pub(crate) fn identity(found: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((found.dev(), found.ino()))
}

/// What tells a file from all others, whatever it is called; `None` where the standard library does not tell.
#[cfg(not(unix))]
pub(crate) fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

/// Whether the file has another name: a hard link, which may lead anywhere and cannot be resolved.
#[cfg(unix)]
pub(super) fn has_other_names(opened: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(opened) > 1
}

/// The standard library does not tell.
#[cfg(not(unix))]
pub(super) fn has_other_names(_: &Metadata) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_that_took_the_place_of_the_opened_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (path, elsewhere) = (folder.join("w.bin"), folder.join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        fs::write(&path, "weights").unwrap();
        let (_, opened) = open(&path).unwrap();
        assert!(still_at(&path, &opened));
        // Another file of the same content.
        fs::rename(&path, elsewhere.join("w.bin")).unwrap();
        fs::write(&path, "weights").unwrap();
        assert!(!still_at(&path, &opened));
        // A link to the opened file itself, and a link in the place of a folder.
        fs::remove_file(&path).unwrap();
        symlink("elsewhere/w.bin", &path).unwrap();
        assert!(!still_at(&path, &opened));
        symlink("elsewhere", folder.join("link")).unwrap();
        assert!(!still_at(&folder.join("link/w.bin"), &opened));
        assert!(still_at(&elsewhere.join("w.bin"), &opened));
    }
}
