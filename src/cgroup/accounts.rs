//! What a control group used, and which of its limits were reached, as the kernel's files say.
//!
//! Source: the kernel's admin-guide/cgroup-v2.rst, "Interface Files"; cgroup-v1/memory.rst,
//! blkio-controller.rst.

use super::{Cgroup, read};
use std::path::PathBuf;

/// What a group used; `None` where the kernel does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accounts {
    /// CPU time in user mode and in the kernel, in microseconds.
    pub cpu_us: Option<(u64, u64)>,
    /// Most memory ever used, in bytes.
    pub peak_memory: Option<u64>,
    /// Bytes read from and written to storage.
    pub io: Option<(u64, u64)>,
    /// Most processes and threads at one time.
    pub max_pids: Option<u64>,
}

/// Out-of-memory kills in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomKills {
    /// How many processes.
    pub kills: u64,
    /// Memory limit in force, in bytes.
    pub limit: Option<u64>,
    /// Most memory ever used, in bytes; 0 where unknown.
    pub peak: u64,
}

impl Cgroup {
    /// Reads what the group used so far.
    pub fn accounts(&self) -> Accounts {
        let number = |file: Option<PathBuf>| read(&file?)?.trim().parse::<u64>().ok();
        let cpu_us = self.v2.as_ref().and_then(|(path, _)| {
            let stat = read(&path.join("cpu.stat"))?;
            Some((keyed(&stat, "user_usec")?, keyed(&stat, "system_usec")?))
        });
        let io = match self.v2_file("io", "io.stat") {
            Some(file) => read(&file).map(|text| io_stat(&text)),
            None => self
                .v1_file("blkio", "blkio.throttle.io_service_bytes_recursive")
                .and_then(|file| read(&file))
                .map(|text| blkio_bytes(&text)),
        };
        Accounts {
            cpu_us,
            peak_memory: number(self.v2_file("memory", "memory.peak"))
                .or_else(|| number(self.v1_file("memory", "memory.max_usage_in_bytes"))),
            io,
            max_pids: number(self.v2_file("pids", "pids.peak"))
                .or_else(|| number(self.v1_file("pids", "pids.peak"))),
        }
    }

    /// Returns the limit of processes and threads, if the kernel refused one because of it.
    pub fn reached_pids(&self) -> Option<u64> {
        let file = |name| self.v2_file("pids", name).or_else(|| self.v1_file("pids", name));
        keyed(&read(&file("pids.events")?)?, "max").filter(|&refused| refused > 0)?;
        read(&file("pids.max")?)?.trim().parse().ok()
    }

    /// Says whether the kernel killed for memory in the group.
    pub fn oom_kills(&self) -> Option<OomKills> {
        let file = self
            .v2_file("memory", "memory.events")
            .or_else(|| self.v1_file("memory", "memory.oom_control"))?;
        let kills = keyed(&read(&file)?, "oom_kill").filter(|&kills| kills > 0)?;
        let peak = self.accounts().peak_memory.unwrap_or(0);
        Some(OomKills { kills, limit: self.memory_limit, peak })
    }
}

/// Finds the value of `key` in lines of `key value`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Adds up bytes of version 2's `io.stat`: a line per device, `rbytes=` and `wbytes=` among others.
fn io_stat(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        text.split_whitespace()
            .filter_map(|field| field.strip_prefix(key)?.parse::<u64>().ok())
            .sum()
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Adds up version 1's lines of `major:minor Read bytes`.
fn blkio_bytes(text: &str) -> (u64, u64) {
    let sum = |what: &str| {
        text.lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                if fields.next() == Some(what) { fields.next()?.parse::<u64>().ok() } else { None }
            })
            .sum()
    };
    (sum("Read"), sum("Write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_files_are_read() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(keyed(events, "oom_kill"), Some(2));
        assert_eq!(keyed("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"), Some(1));
        let io = "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2 rios=1\n";
        assert_eq!(io_stat(io), (11, 22));
        let blkio = "8:0 Read 5\n8:0 Write 6\n8:0 Sync 9\n8:16 Read 1\nTotal 12\n";
        assert_eq!(blkio_bytes(blkio), (6, 6));
    }
}
