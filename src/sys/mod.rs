//! System calls the libraries lack; the only unsafe code.

pub mod cancel;
