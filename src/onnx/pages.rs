//! Files mapped into memory.
//!
//! Weights that are views of a mapped file take no memory of their own: the system reads pages when they are touched. It
//! takes them back only when it runs short, so that a process seems to hold every weight that it ever looked at.
//! [`release`] gives them back at once.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use memmap2::Mmap;

/// Every mapping that lives, by the address where it begins.
static MAPPED: Mutex<BTreeMap<usize, Weak<Mmap>>> = Mutex::new(BTreeMap::new());

fn mapped() -> MutexGuard<'static, BTreeMap<usize, Weak<Mmap>>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Lives as long as any view of a mapped file does.
#[derive(Clone, Debug)]
pub struct Watch(Weak<Mmap>);

impl Watch {
    /// Whether a view is left.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// The bytes of a file that is not empty, mapped into memory, and whether they are still in use.
///
/// # Errors
/// When the system cannot map the file.
pub fn map(file: &File) -> io::Result<(Bytes, Watch)> {
    // SAFETY: the mapping is read-only and lives as long as the `Bytes` made of it. Rust has no way to exclude that
    // another program changes the file meanwhile; this one never does: it writes a new file and renames it.
    #[allow(unsafe_code)]
    let mapping = Arc::new(unsafe { Mmap::map(file) }?);
    let watch = Arc::downgrade(&mapping);
    let mut all = mapped();
    all.retain(|_, known| known.strong_count() > 0);
    all.insert(mapping.as_ptr() as usize, watch.clone());
    Ok((Bytes::from_owner(Owner(mapping)), Watch(watch)))
}

/// Whether `data` is a view of a mapped file.
pub fn is_mapped(data: &[u8]) -> bool {
    let start = data.as_ptr() as usize;
    let below =
        mapped().range(..=start).next_back().and_then(|(first, known)| Some((*first, known.upgrade()?)));
    below.is_some_and(|(first, mapping)| start + data.len() <= first + mapping.len())
}

/// Gives back all pages of mapped files. Those that are touched again are read again, from the system's cache as a rule.
pub fn release() {
    #[cfg(unix)]
    for mapping in mapped().values().filter_map(Weak::upgrade) {
        // SAFETY: the mapping is shared and read-only, so that its pages hold nothing but what the file does: dropped ones
        // come back with the same contents (madvise(2), MADV_DONTNEED), under the feet of a reader too.
        #[allow(unsafe_code)]
        let advised = unsafe { mapping.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        // It is advice: where it is not taken, more memory is held for longer.
        advised.ok();
    }
}

/// As [`release`], if `data` is a view of so large a part of a file that this is worth a call of the system.
pub fn release_of(data: &[u8]) {
    if data.len() >= 1 << 20 && is_mapped(data) {
        release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn released_pages_come_back_with_what_the_file_holds() {
        let contents: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&contents).unwrap();
        let (bytes, watch) = map(&file).unwrap();
        let part = bytes.slice(4000..8000);
        assert!(is_mapped(&part));
        assert!(!is_mapped(&contents));
        release();
        assert_eq!(bytes, contents);
        drop(bytes);
        release();
        assert_eq!(part, contents[4000..8000]);
        assert!(watch.is_alive());
        drop(part);
        assert!(!watch.is_alive());
    }
}
