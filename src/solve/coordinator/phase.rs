//! Where a step is, and what is held for it there.

use crate::cache::{Cost, Output};
use crate::solve::exec::ExecResult;
use crate::solve::inputs::StepInputs;
use crate::solve::trees::LowerDir;
use crate::solve::{StepEnd, StepReport};
use crate::store::{ChainId, LayerMeta, StepLock};
use std::sync::Arc;

/// Where a step is.
pub(super) enum Phase {
    /// Its inputs are not known yet.
    Waiting,
    /// Its inputs are known.
    Described(Arc<StepInputs>),
    /// A record could be hit; its parent's chain is not known yet.
    AwaitingChain(Arc<StepInputs>),
    /// Its result is being brought here from another cache. The worker has its inputs.
    Bringing,
    /// Another build runs it. The waiting thread has its inputs.
    AwaitingLock,
    /// It waits for its turn.
    Queued(Admitted),
    /// It runs; or, in a prediction, its files are made to see what follows.
    Running(Admitted),
    /// It ran; its files are usable, and are being hashed.
    Digesting(Admitted, Arc<ExecResult>),
    /// It is hashed; the chain below it is not known yet.
    Digested(Box<Digested>),
    /// A worker is putting its layer and its record into the store.
    Recording(LowerDir),
    /// A worker finds out which records it could hit. Only in a prediction, behind a step whose
    /// files are not known; without inputs where it reads such files.
    Predicting(Option<Arc<StepInputs>>),
    /// Its layer is in the store, or it is settled without one.
    Done {
        /// Its inputs, where a prediction or an audit may ask for them.
        inputs: Option<Arc<StepInputs>>,
        /// Its own files, where there are any.
        lower: Option<LowerDir>,
    },
}

/// A step that is to run.
pub(super) struct Admitted {
    pub(super) inputs: Arc<StepInputs>,
    /// Keeps other builds from running it too; `None` while its chain is not known, and in a
    /// prediction.
    pub(super) lock: Option<StepLock>,
}

/// A step that ran and is hashed.
pub(super) struct Digested {
    pub(super) admitted: Admitted,
    pub(super) result: Arc<ExecResult>,
    pub(super) meta: LayerMeta,
    pub(super) output: Output,
}

impl Phase {
    /// Takes the phase out, to be replaced by the next one.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Waiting)
    }

    /// The inputs, where they are held here.
    pub(super) fn inputs(&self) -> Option<&Arc<StepInputs>> {
        match self {
            Self::Described(inputs) | Self::AwaitingChain(inputs) => Some(inputs),
            Self::Queued(admitted) | Self::Running(admitted) | Self::Digesting(admitted, _) => {
                Some(&admitted.inputs)
            }
            Self::Digested(digested) => Some(&digested.admitted.inputs),
            Self::Predicting(inputs) | Self::Done { inputs, .. } => inputs.as_ref(),
            Self::Waiting | Self::Bringing | Self::AwaitingLock | Self::Recording(_) => None,
        }
    }

    /// The step's own files, once they are there.
    pub(super) fn lower(&self) -> Option<&LowerDir> {
        match self {
            Self::Digesting(_, result) => Some(&result.lower),
            Self::Digested(digested) => Some(&digested.result.lower),
            Self::Recording(lower) => Some(lower),
            Self::Done { lower, .. } => lower.as_ref(),
            _ => None,
        }
    }

    /// The step's lock on other builds, where it is to have one: from its admission until a worker
    /// records it.
    pub(super) fn lock_mut(&mut self) -> Option<&mut Option<StepLock>> {
        match self {
            Self::Queued(admitted) | Self::Running(admitted) | Self::Digesting(admitted, _) => {
                Some(&mut admitted.lock)
            }
            Self::Digested(digested) => Some(&mut digested.admitted.lock),
            _ => None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }
}

/// A step in the graph.
pub(super) struct Node {
    pub(super) phase: Phase,
    /// How many of the trees it reads are not usable yet.
    pub(super) missing_trees: usize,
    /// Whether its files and all below them are there.
    pub(super) is_usable: bool,
    /// The chain up to it, once known.
    pub(super) chain: Option<ChainId>,
    pub(super) report: StepReport,
}

impl Node {
    pub(super) fn new(missing_trees: usize) -> Self {
        Self {
            phase: Phase::Waiting,
            missing_trees,
            is_usable: false,
            chain: None,
            report: StepReport {
                end: StepEnd::NotReached,
                inputs: None,
                key: None,
                parent: None,
                miss: None,
                created: None,
                cost: Cost::default(),
                layer: None,
                output: None,
                is_unsound: false,
                emulator: None,
                began_us: 0,
                wall_us: 0,
            },
        }
    }

    /// Settles the step without files of its own.
    pub(super) fn settle(&mut self, end: StepEnd) {
        let inputs = self.phase.inputs().cloned();
        self.report.end = end;
        self.phase = Phase::Done { inputs, lower: None };
    }
}
