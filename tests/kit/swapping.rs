//! A link that is swapped for a directory while the program under test goes through it.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory and a link that change places all the time, as fast as the kernel does it.
pub struct Swapping<'a> {
    directory: PathBuf,
    link: PathBuf,
    stop: &'a AtomicBool,
}

impl Swapping<'_> {
    /// Lets them change places below `dir` while `work` is done; the link leads to `target`.
    pub fn during(dir: &Path, target: &Path, work: impl FnOnce()) {
        let stop = AtomicBool::new(false);
        let swapping = Swapping { directory: dir.join("way"), link: dir.join("link"), stop: &stop };
        fs::create_dir_all(&swapping.directory).unwrap();
        std::os::unix::fs::symlink(target, &swapping.link).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| swapping.go());
            let stop = StopAtEnd(&stop);
            work();
            drop(stop);
            assert!(thread.join().unwrap() > 1000, "they changed places while the work was done");
        });
    }

    /// Returns how often they did.
    fn go(&self) -> u64 {
        let mut times = 0;
        while !self.stop.load(Ordering::Relaxed) {
            renameat_with(CWD, &self.directory, CWD, &self.link, RenameFlags::EXCHANGE).unwrap();
            times += 1;
        }
        times
    }
}

/// A failing test must not wait for the thread for ever.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
