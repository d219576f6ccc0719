//! Where a statically linked program looks up the names of hosts.

#![expect(unsafe_code, reason = "a function of glibc that no library wraps")]

use libc::{c_char, c_int};

unsafe extern "C" {
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Keeps glibc to what is linked in: `/etc/hosts` and name servers. For a static program, before it
/// starts a thread.
///
/// `/etc/nsswitch.conf` may name more, each a shared library, and a static program that loads a
/// library made for another glibc may crash.
///
/// Source: glibc, `nss/nss_database.c`.
pub fn keep_to_hosts_and_dns() {
    // SAFETY: both arguments are constant strings that end with a zero, which glibc copies. No
    // other thread looks up names at the time. A failure leaves the file in force.
    let _ = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}
