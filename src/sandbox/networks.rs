//! Private networks of a build: one namespace with a helper for each command that runs.
//!
//! Commands that run at the same time never share a namespace, so neither ports, nor servers, nor
//! abstract sockets of one are another's. Starting a helper takes 10 to 50 ms, several times as
//! long as a short command, so a network goes from a command to the next under two conditions:
//!
//! - The next command runs on files that the former made ([`Lineage`]). It is in the former's hand
//!   already, so state that is left in the helper, such as a UDP mapping, gives no new power.
//! - Nothing is left in the namespace: no socket, wherever its descriptor may be, and no connection
//!   that the kernel keeps (`TIME_WAIT`), which would make a port busy. A thread looks while the
//!   builder does other things.
//!
//! A command with capabilities beyond Docker's could have changed addresses, routes or rules; its
//! network is never used again. Neither is one with published ports.
//!
//! Networks for new lines of commands are made ahead from the second on: a build with one stage
//! makes one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::SandboxError;
use super::caps;
use super::client::Client;
use super::ids::Ids;
use super::network::{self, NetworkOptions, Private, Recipe};
use super::options::host_resolver;
use super::spec::{Lineage, RunSpec, Security};

/// Most networks kept for commands that may follow. A build with more stages than this that wait
/// for their next command makes some networks twice.
const KEPT_MAX: usize = 16;

/// Hands networks out.
#[derive(Debug, Clone)]
pub(super) struct Networks {
    client: Arc<Client>,
    options: Arc<NetworkOptions>,
    state: Arc<Mutex<NetworkPool>>,
}

#[derive(Debug, Default)]
struct NetworkPool {
    known: Known,
    /// Never used.
    fresh: Vec<Private>,
    /// Being made for a command to come.
    ordered: Option<JoinHandle<Result<Private, SandboxError>>>,
    /// Used before, oldest first.
    kept: Vec<Kept>,
    /// How many fresh ones were handed out.
    handed_out: usize,
    /// Barriers of a network that could not be set up.
    lacks: Vec<String>,
}

/// Whether a private network can be had at all.
#[derive(Debug, Default)]
enum Known {
    #[default]
    NotYet,
    By(Recipe),
    Not(String),
}

/// A network that a command has used.
#[derive(Debug)]
struct Kept {
    /// That command's number in its [`Lineage`].
    last: usize,
    /// Ends with the network, if it is clean.
    check: JoinHandle<Option<Private>>,
}

impl Networks {
    /// Makes nothing yet.
    pub(super) fn new(client: Arc<Client>, options: NetworkOptions) -> Self {
        Self { client, options: Arc::new(options), state: Arc::default() }
    }

    /// Makes one for commands of another user namespace, by the helper that is known to work.
    pub(super) fn elsewhere(&self) -> Self {
        let known = match &self.lock().known {
            Known::NotYet => Known::NotYet,
            Known::By(recipe) => Known::By(*recipe),
            Known::Not(reason) => Known::Not(reason.clone()),
        };
        let state = NetworkPool { known, ..NetworkPool::default() };
        let (client, options) = (Arc::clone(&self.client), Arc::clone(&self.options));
        Self { client, options, state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, NetworkPool> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that private networks can be had.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Network`] where no helper works, each time.
    pub(super) fn prepare(&self, ids: Option<&Ids>) -> Result<(), SandboxError> {
        match &self.lock().known {
            Known::By(_) => return Ok(()),
            Known::Not(reason) => return Err(SandboxError::Network { reason: reason.clone() }),
            Known::NotYet => {}
        }
        // Not under the lock: several commands may start at once, and each needs one.
        match self.make(ids) {
            Ok(network) => {
                self.lock().fresh.push(network);
                Ok(())
            }
            Err(SandboxError::Network { reason }) => {
                let mut state = self.lock();
                if let Known::By(_) = state.known {
                    return Ok(());
                }
                state.known = Known::Not(reason.clone());
                Err(SandboxError::Network { reason })
            }
            Err(error) => Err(error),
        }
    }

    fn make(&self, ids: Option<&Ids>) -> Result<Private, SandboxError> {
        let namespace = self.client.make_netns(ids)?;
        let start = |argv, fds: &[&std::os::fd::OwnedFd]| {
            let fds: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
            self.client.start_helper(argv, &fds).map_err(|error| error.to_string())
        };
        let known = match &self.lock().known {
            Known::By(recipe) => Some(*recipe),
            Known::NotYet | Known::Not(_) => None,
        };
        let network = network::start(namespace, &self.options, &host_resolver(), known, &start)
            .map_err(|reason| SandboxError::Network { reason })?;
        let mut state = self.lock();
        state.known = Known::By(network.recipe);
        state.lacks.extend(network.lack.clone());
        Ok(network)
    }

    /// Returns a network for a command, which nothing else uses until it is dropped.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Network`] where one more cannot be made.
    pub(super) fn take(
        &self,
        ids: Option<&Arc<Ids>>,
        lineage: &Lineage,
    ) -> Result<Private, SandboxError> {
        loop {
            let mut state = self.lock();
            let found = state.kept.iter().rposition(|kept| lineage.follows(kept.last));
            let Some(found) = found else { break };
            let kept = state.kept.remove(found);
            drop(state);
            if let Ok(Some(network)) = kept.check.join() {
                return Ok(network);
            }
        }
        let mut state = self.lock();
        state.handed_out += 1;
        let (mut ready, ordered) = (state.fresh.pop(), None);
        let ordered = if ready.is_none() { state.ordered.take() } else { ordered };
        drop(state);
        if let Some(ordered) = ordered {
            ready = ordered.join().ok().and_then(Result::ok);
        }
        let network = match ready {
            Some(network) => network,
            None => self.make(ids.map(AsRef::as_ref))?,
        };
        self.order(ids);
        Ok(network)
    }

    /// Has a fresh network made in the background if the build seems to need more of them.
    fn order(&self, ids: Option<&Arc<Ids>>) {
        let mut state = self.lock();
        let is_wanted = state.handed_out > 1
            && state.fresh.is_empty()
            && state.ordered.is_none()
            && self.options.ports.is_empty();
        if is_wanted {
            let (this, ids) = (self.clone(), ids.cloned());
            let make = move || this.make(ids.as_deref());
            state.ordered = std::thread::Builder::new().name("network".into()).spawn(make).ok();
        }
    }

    /// Takes a network back from a command of which nothing runs any more.
    pub(super) fn give_back(&self, network: Private, spec: &RunSpec) {
        let Some(last) = spec.lineage.own else { return };
        let has_docker_s = caps::select(caps::DEFAULT, &spec.policy.cap_add, &spec.policy.cap_drop)
            .is_ok_and(|held| held & !caps::DEFAULT == 0);
        if spec.security != Security::Default || !has_docker_s || !self.options.ports.is_empty() {
            return;
        }
        let check = move || network.is_clean().then_some(network);
        let Ok(check) = std::thread::Builder::new().name("network".into()).spawn(check) else {
            return;
        };
        let mut state = self.lock();
        if state.kept.len() >= KEPT_MAX {
            state.kept.remove(0);
        }
        state.kept.push(Kept { last, check });
    }

    /// Returns the barriers of networks that could not be set up.
    pub(super) fn take_lacks(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().lacks)
    }
}
