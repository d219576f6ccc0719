//! Flags that limit what a command may use; `build` and `run` share them.

use super::failure::{Class, Failure};
use super::parse_args;
use crate::sandbox::{Limits, Throttle};
use clap::Args;
use rustix::fs::FileType;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Resource limits, with Docker's names.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Memory limit of each step, such as 512m
    #[arg(short, long, value_name = "BYTES", value_parser = parse_args::bytes)]
    pub memory: Option<u64>,
    /// Memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", value_parser = parse_args::bytes_or_unlimited, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// How many processors' time a step may use, as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<f64>,
    /// The same by the kernel's terms: microseconds of a period, in which --cpu-quota is given out
    #[arg(long, value_name = "MICROSECONDS", conflicts_with = "cpus", requires = "cpu_quota")]
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time in each period; -1 for all
    #[arg(long, value_name = "MICROSECONDS", conflicts_with = "cpus", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Weight against other steps, 1024 by default
    #[arg(short = 'c', long, value_name = "WEIGHT")]
    pub cpu_shares: Option<u64>,
    /// Processors to run on, as 0-2,4
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use, as 0-1
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads at one time; -1 for any number [default: 2048 where a control group
    /// can enforce it]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Input/output weight, 10 to 1000
    #[arg(long, visible_alias = "blkio-weight", value_name = "WEIGHT")]
    pub io_weight: Option<u64>,
    /// Bytes a second read from a device, as /dev/sda:10m
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = bytes_of_device)]
    pub device_read_bps: Vec<DeviceRate>,
    /// Bytes a second written to a device
    #[arg(long, value_name = "DEVICE:BYTES", value_parser = bytes_of_device)]
    pub device_write_bps: Vec<DeviceRate>,
    /// Reads a second from a device, as /dev/sda:100
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = number_of_device)]
    pub device_read_iops: Vec<DeviceRate>,
    /// Writes a second to a device
    #[arg(long, value_name = "DEVICE:NUMBER", value_parser = number_of_device)]
    pub device_write_iops: Vec<DeviceRate>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = parse_args::bytes)]
    pub shm_size: Option<u64>,
    /// Limit of a process, as nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse_args::ulimit)]
    pub ulimit: Vec<crate::sandbox::Ulimit>,
}

/// How much of a device a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRate {
    device: PathBuf,
    rate: u64,
}

fn bytes_of_device(text: &str) -> Result<DeviceRate, String> {
    rate_of_device(text, |rate| parse_args::bytes(rate).ok())
}

fn number_of_device(text: &str) -> Result<DeviceRate, String> {
    rate_of_device(text, |rate| rate.parse().ok())
}

fn rate_of_device(text: &str, parse: fn(&str) -> Option<u64>) -> Result<DeviceRate, String> {
    text.rsplit_once(':')
        .filter(|(device, _)| device.starts_with('/'))
        .and_then(|(device, rate)| Some((device, parse(rate).filter(|rate| *rate > 0)?)))
        .map(|(device, rate)| DeviceRate { device: PathBuf::from(device), rate })
        .ok_or_else(|| format!("{text:?} is not a rate of a device: expected /dev/NAME:NUMBER"))
}

impl LimitArgs {
    /// Returns what the control group is to enforce. 0 means unlimited, as with docker.
    ///
    /// # Errors
    ///
    /// A usage failure for numbers that mean nothing.
    pub fn limits(&self) -> Result<Limits, Failure> {
        let usage = |message: String| Err(Failure::new(Class::Usage, message));
        let cpus = self.cpus.filter(|cpus| *cpus != 0.0);
        if cpus.is_some_and(|cpus| !(cpus.is_finite() && cpus >= 0.01)) {
            return usage("--cpus must be at least 0.01".to_owned());
        }
        let period = above_zero(self.cpu_period);
        if period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
            return usage("--cpu-period must be from 1000 to 1000000".to_owned());
        }
        let quota = self.cpu_quota.and_then(|quota| above_zero(u64::try_from(quota).ok()));
        if quota.is_some_and(|quota| quota < 1000) {
            return usage("--cpu-quota must be at least 1000".to_owned());
        }
        let memory = above_zero(self.memory);
        if memory.is_some_and(|memory| memory < MEMORY_MIN) {
            return usage(format!("--memory must be at least {} MiB", MEMORY_MIN >> 20));
        }
        let memory_swap = self.memory_swap.filter(|total| *total != 0);
        match (memory, memory_swap) {
            (None, Some(0..)) => return usage("--memory-swap needs --memory".to_owned()),
            (Some(memory), Some(total)) if u64::try_from(total).is_ok_and(|t| t < memory) => {
                return usage("--memory-swap counts memory too: it must not be less".to_owned());
            }
            _ => {}
        }
        let io_weight = above_zero(self.io_weight);
        if io_weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
            return usage("--io-weight must be from 10 to 1000".to_owned());
        }
        let share = quota.map(|quota| quota as f64 / period.unwrap_or(100_000) as f64);
        let cpuset = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
        Ok(Limits {
            memory,
            memory_swap,
            cpus: cpus.or(share),
            cpu_period: period,
            cpu_shares: above_zero(self.cpu_shares),
            cpuset_cpus: cpuset(&self.cpuset_cpus),
            cpuset_mems: cpuset(&self.cpuset_mems),
            pids: above_zero(self.pids_limit.and_then(|pids| u64::try_from(pids).ok())),
            default_pids: self.pids_limit.is_none().then_some(PIDS),
            io_weight,
            io_throttle: self.throttles()?,
        })
    }

    /// Returns the size of `/dev/shm` where one is asked for.
    pub fn shm_size(&self) -> Option<u64> {
        above_zero(self.shm_size)
    }

    /// Puts together what was said of each device.
    fn throttles(&self) -> Result<Vec<Throttle>, Failure> {
        let mut devices: BTreeMap<(u32, u32), Throttle> = BTreeMap::new();
        let mut note = |rates: &[DeviceRate], set: fn(&mut Throttle, u64)| {
            for rate in rates {
                let (major, minor) = device_number(&rate.device)?;
                let throttle = devices.entry((major, minor)).or_insert(Throttle {
                    major,
                    minor,
                    read_bps: None,
                    write_bps: None,
                    read_iops: None,
                    write_iops: None,
                });
                set(throttle, rate.rate);
            }
            Ok::<(), Failure>(())
        };
        note(&self.device_read_bps, |throttle, rate| throttle.read_bps = Some(rate))?;
        note(&self.device_write_bps, |throttle, rate| throttle.write_bps = Some(rate))?;
        note(&self.device_read_iops, |throttle, rate| throttle.read_iops = Some(rate))?;
        note(&self.device_write_iops, |throttle, rate| throttle.write_iops = Some(rate))?;
        Ok(devices.into_values().collect())
    }
}

/// Reads docker's 0 as unlimited.
fn above_zero(number: Option<u64>) -> Option<u64> {
    number.filter(|number| *number > 0)
}

/// Most processes and threads of a step where the user says nothing: Podman's.
const PIDS: u64 = 2048;

/// The least that Docker accepts; a command cannot start with less.
const MEMORY_MIN: u64 = 6 << 20;

fn device_number(path: &Path) -> Result<(u32, u32), Failure> {
    let usage = |reason: &str| {
        Failure::new(Class::Usage, format!("cannot limit {}: {reason}", path.display()))
    };
    let stat = rustix::fs::stat(path).map_err(|e| usage(&std::io::Error::from(e).to_string()))?;
    if !FileType::from_raw_mode(stat.st_mode).is_block_device() {
        return Err(usage("it is not a block device"));
    }
    Ok((rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_cannot_be_enforced_is_named_by_its_flag() {
        use crate::cgroup::{CgroupError, Limit, Missing};
        use crate::job::limits::not_enforced;
        let command = LimitArgs::augment_args(clap::Command::new("builder"));
        let flags: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        for limit in [
            Limit::Memory,
            Limit::MemorySwap,
            Limit::Cpus,
            Limit::CpuShares,
            Limit::CpusetCpus,
            Limit::CpusetMems,
            Limit::Pids,
            Limit::IoWeight,
            Limit::IoThrottle,
        ] {
            let missing = Missing::Controller;
            let message = not_enforced(&CgroupError::NotEnforceable { limit, missing });
            let flag = message.split(' ').next().and_then(|flag| flag.strip_prefix("--")).unwrap();
            assert!(flags.contains(&flag), "{message}");
            assert!(message.contains("cannot be enforced: its controller"), "{message}");
        }
    }

    #[test]
    fn rates_name_a_device_and_a_number() {
        let rate = |device: &str, rate| DeviceRate { device: device.into(), rate };
        assert_eq!(bytes_of_device("/dev/sda:10m"), Ok(rate("/dev/sda", 10 << 20)));
        assert_eq!(number_of_device("/dev/disk/by-id/a:b:7"), Ok(rate("/dev/disk/by-id/a:b", 7)));
        for text in ["sda:1", "/dev/sda", "/dev/sda:x", "/dev/sda:0", ""] {
            assert!(bytes_of_device(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let wrong: [fn(&mut LimitArgs); 7] = [
            |args| args.cpus = Some(0.001),
            |args| args.memory = Some(1024),
            |args| args.memory_swap = Some(1 << 30),
            |args| (args.memory, args.memory_swap) = (Some(64 << 20), Some(32 << 20)),
            |args| args.io_weight = Some(5),
            |args| (args.cpu_quota, args.cpu_period) = (Some(50_000), Some(5)),
            |args| args.device_read_bps = vec![DeviceRate { device: "/dev/null".into(), rate: 1 }],
        ];
        for (number, change) in wrong.iter().enumerate() {
            let mut args = LimitArgs::default();
            change(&mut args);
            assert_eq!(args.limits().unwrap_err().class, Class::Usage, "{number}");
        }
    }

    #[test]
    fn zero_is_no_limit() {
        let args = LimitArgs {
            memory: Some(0),
            memory_swap: Some(0),
            cpus: Some(0.0),
            cpu_period: Some(0),
            cpu_quota: Some(-1),
            cpu_shares: Some(0),
            cpuset_cpus: Some(String::new()),
            pids_limit: Some(0),
            io_weight: Some(0),
            shm_size: Some(0),
            ..LimitArgs::default()
        };
        let limits = args.limits().unwrap();
        assert_eq!((limits.memory, limits.memory_swap, limits.pids), (None, None, None));
        assert_eq!((limits.cpus, limits.cpu_period, limits.cpu_shares), (None, None, None));
        assert_eq!((limits.cpuset_cpus, limits.io_weight), (None, None));
        assert_eq!(args.shm_size(), None);
    }

    #[test]
    fn a_quota_is_a_number_of_processors() {
        let args = LimitArgs {
            cpu_quota: Some(25_000),
            cpu_period: Some(50_000),
            pids_limit: Some(-1),
            ..LimitArgs::default()
        };
        let limits = args.limits().unwrap();
        assert_eq!((limits.cpus, limits.cpu_period), (Some(0.5), Some(50_000)));
        assert_eq!((limits.pids, limits.default_pids), (None, None));
        let limits = LimitArgs::default().limits().unwrap();
        assert_eq!((limits.pids, limits.default_pids), (None, Some(2048)));
    }
}
