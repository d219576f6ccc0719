//! The `builder` program: hands its arguments to the command line room.

fn main() -> std::process::ExitCode {
    builder::cli::main()
}
