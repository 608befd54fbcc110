//! Timing whole models, in turns with the dense one.

use std::time::Duration;

use super::{
    Effort, Feed, MeasureError, Stopwatch, Table,
    interleave::race,
    part::{structure, weight_bytes},
    picoseconds,
    stopwatch::Lap,
};
use crate::onnx::proto::ModelProto;

/// Bytes of weights that models which take turns may have together; each is timed beside the dense one alone otherwise.
const TOGETHER: usize = 1 << 30;

/// How much each of several models is worth.
const EACH: Duration = Duration::from_millis(1500);

/// How much a model is worth that may be the result.
pub(crate) const CANDIDATE: Duration = Duration::from_secs(3);

/// Who times whole models.
#[derive(Clone, Copy)]
pub(crate) struct WholeTimer<'a> {
    pub stopwatch: &'a dyn Stopwatch,
    /// The model whose time others are told by.
    pub dense: &'a ModelProto,
    pub feed: &'a Feed,
}

impl<'a> WholeTimer<'a> {
    fn effort(&self, time: Duration) -> Effort {
        let block = Duration::from_millis(30);
        self.stopwatch.worth(Effort { warm_up: 2, least: 5, most: 100, time, block, evict: 0 })
    }

    /// Picoseconds that the dense model takes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn dense(&self, table: &mut Table) -> Result<u64, MeasureError> {
        let structure = structure(self.dense, self.feed);
        if let Some(known) = table.get(&structure) {
            return Ok(known);
        }
        let mut lap = self.stopwatch.ready(self.dense, self.feed.clone())?;
        let tracks = race(&mut [&mut *lap], self.effort(EACH))?;
        let found = picoseconds(tracks.first().map_or(0.0, |track| track.quiet()));
        table.insert(structure, found);
        Ok(found)
    }

    /// Picoseconds that models take; `None` for such as do not run. What the table does not hold is timed, all in turns, so that the
    /// same goes on beside all of them.
    ///
    /// # Errors
    /// When the dense model does not run, or no model can be timed.
    pub fn times(&self, models: &[ModelProto], table: &mut Table) -> Result<Vec<Option<u64>>, MeasureError> {
        let structures: Vec<String> = models.iter().map(|model| structure(model, self.feed)).collect();
        let unknown: Vec<usize> =
            (0..models.len()).filter(|i| table.get(&structures[*i]).is_none()).collect();
        let bytes: usize = unknown.iter().map(|i| weight_bytes(&models[*i])).sum();
        let together = if bytes <= TOGETHER { unknown.len().max(1) } else { 1 };
        for some in unknown.chunks(together) {
            let mut laps = Vec::new();
            for i in some {
                if let Some(lap) = self.stopwatch.ready(&models[*i], self.feed.clone()).or_none()?
                    && let Some(lap) = running(lap)?
                {
                    laps.push((*i, lap));
                }
            }
            let time = if some.len() == 1 { CANDIDATE } else { EACH * some.len() as u32 };
            for (i, found) in self.race(laps, time, table)? {
                table.insert(structures[i].clone(), found);
            }
        }
        Ok(structures.iter().map(|structure| table.get(structure)).collect())
    }

    /// Times models with their numbers.
    fn race(
        &self,
        mut laps: Vec<(usize, Box<dyn Lap + 'a>)>,
        time: Duration,
        table: &mut Table,
    ) -> Result<Vec<(usize, u64)>, MeasureError> {
        let (numbers, effort): (Vec<usize>, _) = (laps.iter().map(|(i, _)| *i).collect(), self.effort(time));
        let mut own: Vec<&mut dyn Lap> = laps.iter_mut().map(|(_, lap)| &mut **lap as &mut dyn Lap).collect();
        if !self.stopwatch.drifts() {
            let tracks = race(&mut own, effort)?;
            return Ok(numbers.into_iter().zip(tracks.iter().map(|t| picoseconds(t.quiet()))).collect());
        }
        let dense = self.dense(table)?;
        let mut reference = self.stopwatch.ready(self.dense, self.feed.clone())?;
        own.insert(0, &mut *reference);
        let tracks = race(&mut own, effort)?;
        let (reference, tracks) = tracks.split_first().ok_or(MeasureError::Instant)?;
        let times = tracks.iter().map(|track| (track.relative_to(reference) * dense as f64) as u64);
        Ok(numbers.into_iter().zip(times).collect())
    }
}

/// A model that runs, if it does: one that does not would spoil the race.
pub(super) fn running<'l>(mut lap: Box<dyn Lap + 'l>) -> Result<Option<Box<dyn Lap + 'l>>, MeasureError> {
    Ok(lap.run(1).or_none()?.map(|_| lap))
}

/// What does not load or run is passed over, unless no other could be timed either.
pub(super) trait OrNone<T> {
    fn or_none(self) -> Result<Option<T>, MeasureError>;
}

impl<T> OrNone<T> for Result<T, MeasureError> {
    fn or_none(self) -> Result<Option<T>, MeasureError> {
        match self {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_of_the_stopwatch() => Err(error),
            Err(_) => Ok(None),
        }
    }
}
