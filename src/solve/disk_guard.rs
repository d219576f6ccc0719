//! Room on the disk: a command that would fill it is ended while something is left for everybody
//! else.

use super::Cause;
use crate::sandbox::Control;
use crate::sys::room::{Step, free};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often the disk is looked at: what a fast one takes in in the meantime is less than what is
/// to stay.
const EVERY: Duration = Duration::from_millis(50);

/// Runs `command`, and kills what it started through `control` once the disk of `dir` has less than
/// `floor` bytes free, or half of what it had before where that was little already. 0 keeps nothing
/// free.
///
/// # Errors
///
/// [`Cause::DiskFull`] where that happened, else those of `command`.
pub(super) fn guarded<T>(
    dir: &Path,
    floor: u64,
    control: &Control,
    command: impl FnOnce() -> Result<T, Cause>,
) -> Result<T, Cause> {
    let Some(before) = free(dir).filter(|_| floor > 0) else { return command() };
    let floor = floor.min(before / 2);
    let fallen_to = OnceLock::new();
    let step = Step::begin();
    let result = std::thread::scope(|scope| {
        let (at_end, end) = channel::<()>();
        scope.spawn(|| {
            let end = end;
            while end.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let Some(left) = free(dir).filter(|left| *left < floor) else { continue };
                let _ = fallen_to.set(left);
                control.signal(libc::SIGKILL);
                return;
            }
        });
        let _at_end = at_end;
        command()
    });
    match fallen_to.into_inner() {
        Some(left) if !matches!(&result, Err(cause) if cause.is_cancelled()) => {
            step.has_failed();
            Err(Cause::DiskFull { left })
        }
        _ => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_leaves_room_is_left_alone() {
        let control = Control::default();
        for floor in [0, 1, u64::MAX] {
            let done = guarded(Path::new("/"), floor, &control, || Ok(7));
            assert!(matches!(done, Ok(7)), "{done:?}");
        }
    }
}
