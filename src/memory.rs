//! How much memory a run may take beside its models, and how much it took.

use std::{fmt, str::FromStr};

/// Bytes that may be held at a time beside the weights of models: activations, gradients, moments, and the work on them.
///
/// One number for the whole run: each stage cuts its batches, groups and chunks down to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemoryBudget(pub u64);

impl Default for MemoryBudget {
    fn default() -> Self {
        Self(2 << 30)
    }
}

impl MemoryBudget {
    /// Whether so many bytes may be held.
    pub fn holds(self, bytes: u64) -> bool {
        bytes <= self.0
    }

    /// An equal share of the budget, for one of so many that are held at a time.
    pub fn share(self, parts: u64) -> Self {
        Self(self.0 / parts.max(1))
    }

    /// How many of the first of some pieces of work can be done together: of each so many bytes are held until all are done, and
    /// so many more are needed while it alone is worked on.
    pub fn fitting(self, pieces: impl Iterator<Item = (u64, u64)>) -> usize {
        let (mut held, mut needed) = (0u64, 0u64);
        pieces
            .take_while(|(holds, needs)| {
                held = held.saturating_add(*holds);
                needed = needed.max(*needs);
                self.holds(held.saturating_add(needed))
            })
            .count()
    }

    /// What is left beside so many bytes.
    pub fn less(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes))
    }

    /// How many pieces of so many bytes may be held; one at least, as nothing can be done with none.
    pub fn count(self, bytes: u64) -> usize {
        usize::try_from(self.0 / bytes.max(1)).unwrap_or(usize::MAX).max(1)
    }
}

impl FromStr for MemoryBudget {
    type Err = String;

    /// A number of bytes with a binary unit or none: `512M`, `2G`, `1.5 GiB`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size such as 512M or 2G");
        let (number, unit) = text.split_at(text.trim_end_matches(['K', 'M', 'G', 'B', 'i']).len());
        let scale = match unit.trim_end_matches('B').trim_end_matches('i') {
            "" => 1.0,
            "K" => 1024.0,
            "M" => 1024.0 * 1024.0,
            "G" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(wrong()),
        };
        match number.trim().parse::<f64>() {
            Ok(n) if n.is_finite() && n > 0.0 => Ok(Self((n * scale) as u64)),
            _ => Err(wrong()),
        }
    }
}

/// Bytes for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(scale, _)| self.0 >= *scale) {
            Some((scale, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / *scale as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.0).fmt(f)
    }
}

/// The most memory that this process held at a time, pages of mapped files included, in bytes; `None` where the system does not
/// tell.
pub fn peak() -> Option<u64> {
    // VmHWM, the high-water mark of resident memory (proc_pid_status(5)), in KiB.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_fits_at_least() {
        assert_eq!(MemoryBudget(100).count(30), 3);
        assert_eq!(MemoryBudget(100).count(300), 1);
        assert_eq!(MemoryBudget(100).count(0), 100);
        assert_eq!(MemoryBudget(100).share(3), MemoryBudget(33));
        assert_eq!(MemoryBudget(100).less(30), MemoryBudget(70));
    }

    #[test]
    fn pieces_are_held_together_while_one_is_worked_on() {
        let fitting = |pieces: &[(u64, u64)]| MemoryBudget(100).fitting(pieces.iter().copied());
        assert_eq!(fitting(&[(40, 20), (40, 20), (40, 20)]), 2);
        assert_eq!(fitting(&[(40, 20), (40, 21)]), 1);
        assert_eq!(fitting(&[(10, 91)]), 0);
        assert_eq!(fitting(&[(u64::MAX, u64::MAX), (1, 1)]), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_covers_what_was_touched() {
        // Behind a black box, lest the compiler see that nobody reads it.
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak().unwrap() >= touched.len() as u64);
        drop(touched);
    }

    #[test]
    fn bytes_are_for_people() {
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(Bytes(12).to_string(), "12 bytes");
        assert_eq!(MemoryBudget::default().to_string(), "2.0 GiB");
    }

    #[test]
    fn sizes_are_read_with_units() {
        assert_eq!("512M".parse(), Ok(MemoryBudget(512 << 20)));
        assert_eq!("1.5 GiB".parse(), Ok(MemoryBudget(3 << 29)));
        assert_eq!(MemoryBudget::default().to_string().parse(), Ok(MemoryBudget::default()));
        assert!(["", "M", "-1G", "1T", "nan"].iter().all(|text| text.parse::<MemoryBudget>().is_err()));
    }
}
