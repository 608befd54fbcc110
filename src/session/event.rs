//! What a session tells while it works, and how it is asked to stop.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    Error,
    onnx::proto::ModelProto,
    runtime::{Engine, RuntimeError, Session},
    tensor::Tensor,
    warning::Warning,
};

/// What is told while the work goes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// A stage begins.
    Stage(&'static str),
    /// So much of the scoring is done: units of an exact score, samples of a sketch.
    Units {
        /// Done.
        done: usize,
        /// In all.
        total: usize,
    },
    /// So many plans have been timed, of so many.
    Plans {
        /// Timed.
        done: usize,
        /// In all.
        total: usize,
    },
    /// So many layers have been recovered, of so many.
    Layers {
        /// Recovered.
        done: usize,
        /// In all.
        total: usize,
    },
    /// Something to know before the result is there.
    Say(String),
    /// Something that the user has to know, quiet or not.
    Warn(Warning),
}

/// A request to stop, which may come from another thread.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether that was asked.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Who listens to a session, and may stop it.
pub(super) struct Monitor {
    listener: RefCell<Box<dyn FnMut(Progress)>>,
    cancel: Cancel,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { listener: RefCell::new(Box::new(drop)), cancel: Cancel::default() }
    }
}

impl Monitor {
    pub fn listen(&mut self, listener: impl FnMut(Progress) + 'static) {
        self.listener = RefCell::new(Box::new(listener));
    }

    pub fn watch(&mut self, cancel: Cancel) {
        self.cancel = cancel;
    }

    /// Tells the listener; one that calls back into the session hears nothing of that.
    pub fn tell(&self, event: Progress) {
        if let Ok(mut listener) = self.listener.try_borrow_mut() {
            listener(event);
        }
    }

    pub fn warn(&self, warning: &Warning) {
        self.tell(Progress::Warn(warning.clone()));
    }

    /// The result of a stage, unless the work was to stop meanwhile: stages do without what a stopped engine refuses them.
    pub fn unless_cancelled<T, E: Into<Error>>(&self, result: Result<T, E>) -> Result<T, Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { result.map_err(Into::into) }
    }
}

/// An engine that refuses to run models once the work is to stop.
pub(super) struct Cancellable {
    engine: Box<dyn Engine>,
    cancel: Cancel,
}

impl Cancellable {
    pub fn new(engine: Box<dyn Engine>, cancel: Cancel) -> Self {
        Self { engine, cancel }
    }

    fn session(
        &self,
        load: impl FnOnce(&dyn Engine) -> Result<Box<dyn Session>, RuntimeError>,
    ) -> Result<Box<dyn Session>, RuntimeError> {
        if self.cancel.is_cancelled() {
            return Err(RuntimeError::Cancelled);
        }
        let session = load(&*self.engine)?;
        Ok(Box::new(CancellableSession { session, cancel: self.cancel.clone() }))
    }
}

impl Engine for Cancellable {
    fn describe(&self) -> String {
        self.engine.describe()
    }

    fn load(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.session(|engine| engine.load(model))
    }

    fn load_as_deployed(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.session(|engine| engine.load_as_deployed(model))
    }

    fn load_to_time(&self, model: &ModelProto) -> Result<Box<dyn Session>, RuntimeError> {
        self.session(|engine| engine.load_to_time(model))
    }

    fn speed_class(&self) -> String {
        self.engine.speed_class()
    }

    fn spill_weights(&self, model: &mut ModelProto) {
        self.engine.spill_weights(model);
    }
}

struct CancellableSession {
    session: Box<dyn Session>,
    cancel: Cancel,
}

impl Session for CancellableSession {
    fn run(&mut self, inputs: &[(String, Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        if self.cancel.is_cancelled() { Err(RuntimeError::Cancelled) } else { self.session.run(inputs) }
    }

    fn time(&mut self, inputs: &[(String, Tensor)], runs: usize) -> Result<Vec<Duration>, RuntimeError> {
        if self.cancel.is_cancelled() {
            Err(RuntimeError::Cancelled)
        } else {
            self.session.time(inputs, runs)
        }
    }
}
