//! Flags that limit what a command may use; `build` and `run` share them.

use super::failure::{Class, Failure};
use super::values;
use crate::sandbox::Limits;
use clap::Args;

/// Resource limits, with Docker's names.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Memory limit of each step, as 512m
    #[arg(short, long, value_name = "BYTES", value_parser = values::bytes)]
    pub memory: Option<u64>,
    /// Memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", value_parser = values::bytes_or_unlimited, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// How many processors' time a step may use, as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<f64>,
    /// Weight against other steps, 1024 by default
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// Processors to run on, as 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Processes and threads at one time
    #[arg(long, value_name = "NUMBER")]
    pub pids_limit: Option<u64>,
    /// Input/output weight, 10 to 1000
    #[arg(long, visible_alias = "blkio-weight", value_name = "WEIGHT")]
    pub io_weight: Option<u64>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    pub shm_size: Option<u64>,
    /// Limit of a process, as nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = values::ulimit)]
    pub ulimit: Vec<crate::sandbox::Ulimit>,
}

impl LimitArgs {
    /// Returns what the control group is to enforce.
    ///
    /// # Errors
    ///
    /// A usage failure for numbers that mean nothing.
    pub fn limits(&self) -> Result<Limits, Failure> {
        if let Some(cpus) = self.cpus
            && !(cpus.is_finite() && cpus >= 0.01)
        {
            return Err(Failure::new(Class::Usage, "--cpus must be at least 0.01"));
        }
        Ok(Limits {
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpus: self.cpus,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            pids: self.pids_limit,
            io_weight: self.io_weight,
            ..Limits::default()
        })
    }
}
