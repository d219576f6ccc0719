//! System calls the libraries lack; the only unsafe code.

pub mod cancel;
pub mod copier;
pub mod fault;
pub mod foreign;
pub mod landlock;
pub mod loader;
pub mod mount;
#[cfg(target_env = "gnu")]
pub mod names;
pub mod notify;
pub mod process;
pub mod remove;
pub mod room;
pub mod rooted;
pub mod stat;
pub mod threads;
pub mod trace;
pub mod tun;
pub mod writeback;
