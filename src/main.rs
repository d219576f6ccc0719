//! The `builder` program: hands its arguments to the command line room.

fn main() -> std::process::ExitCode {
    #[cfg(all(target_feature = "crt-static", target_env = "gnu"))]
    builder::sys::names::keep_to_hosts_and_dns();
    builder::cli::main()
}
