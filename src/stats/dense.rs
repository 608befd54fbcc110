//! What the dense model computes on the samples, kept for as long as a session lasts: every trial and every budget is held against
//! the same values, which are computed once.

use std::{cell::RefCell, collections::HashMap, ops::Range, rc::Rc};

use crate::{memory::MemoryBudget, tensor::Tensor};

/// A value of the dense model, by its name and the samples that it was computed from.
type Key = (String, usize, usize);

/// Values of the dense model, as many as the memory holds; others are computed anew whenever they are needed.
///
/// The default keeps none.
#[derive(Clone, Debug, Default)]
pub struct DenseValues {
    kept: RefCell<Kept>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    values: HashMap<Key, Rc<Tensor>>,
    /// Bytes that they may take, and that are left of these.
    capacity: u64,
    left: u64,
}

impl DenseValues {
    /// None yet, and at most so many bytes of them.
    pub fn new(memory: MemoryBudget) -> Self {
        Self { kept: RefCell::new(Kept { values: HashMap::new(), capacity: memory.0, left: memory.0 }) }
    }

    /// Bytes that the values may come to take.
    pub fn capacity(&self) -> u64 {
        self.kept.borrow().capacity
    }

    /// A value, computed from these samples, if it is kept.
    pub fn get(&self, name: &str, samples: &Range<usize>) -> Option<Rc<Tensor>> {
        self.kept.borrow().values.get(&key(name, samples)).cloned()
    }

    /// Whether a value is kept for all of these batches of samples.
    pub fn has_all(&self, name: &str, batches: &[Range<usize>]) -> bool {
        let kept = self.kept.borrow();
        batches.iter().all(|samples| kept.values.contains_key(&key(name, samples)))
    }

    /// Keeps a value, if there is room for it.
    pub fn keep(&self, name: &str, samples: &Range<usize>, value: Tensor) -> Rc<Tensor> {
        let value = Rc::new(value);
        let mut kept = self.kept.borrow_mut();
        let bytes = (value.len() * value.dtype().size()) as u64;
        if let Some(left) = kept.left.checked_sub(bytes) {
            kept.left = left;
            kept.values.insert(key(name, samples), value.clone());
        }
        value
    }
}

fn key(name: &str, samples: &Range<usize>) -> Key {
    (name.to_owned(), samples.start, samples.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_while_there_is_room() {
        let values = DenseValues::new(MemoryBudget(64));
        let tensor = |n: i64| Tensor::ints(&[n, n, n, n]);
        values.keep("a", &(0..2), tensor(1));
        values.keep("a", &(2..4), tensor(2));
        assert!(values.has_all("a", &[0..2, 2..4]));
        // Four integers of eight bytes twice: no room is left.
        assert_eq!(*values.keep("b", &(0..2), tensor(3)), tensor(3));
        assert!(values.get("b", &(0..2)).is_none());
        assert_eq!(values.get("a", &(2..4)).as_deref(), Some(&tensor(2)));
    }
}
