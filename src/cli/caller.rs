//! What jobs take from the command line.

use super::build::on_error;
use super::failure::Failure;
use super::{Environment, registry};
use crate::job::{Caller, OpenStep};
use crate::progress::Progress;
use crate::registry::Client;
use crate::sandbox::Sandbox;
use crate::sys::cancel::Cancel;
use crate::sys::foreign::Given;
use jiff::Timestamp;
use std::io::{self, Write};
use std::sync::Arc;

impl Caller for Environment {
    fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    fn started(&self) -> Timestamp {
        self.started
    }

    fn now(&self) -> Timestamp {
        Self::now(self)
    }

    fn stdin(&self) -> Result<Given, Failure> {
        self.input()
    }

    fn stdout(&self) -> Box<dyn Write + '_> {
        Box::new(io::stdout().lock())
    }

    fn client(&self, verifies_tls: bool, progress: &Progress) -> Result<Client, Failure> {
        registry::client(self, verifies_tls, progress)
    }

    fn warn(&self, text: &str) {
        Self::warn(self, text);
    }

    fn sandbox_made(&self, sandbox: &Arc<Sandbox>) {
        self.signals.freeze_with_us(sandbox);
    }

    fn step_failed(&self, step: &OpenStep<'_>, failure: &Failure) {
        on_error::shell(step, failure, self);
    }
}
