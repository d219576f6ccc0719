//! The command line: flags become requests, errors become text.

pub mod dev;
pub mod explain;
pub mod history_builds;

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, kind] = &arguments[..]
        && command == "dev"
        && dev::run(kind, std::io::stdin().lock(), std::io::stdout().lock()).is_err()
    {
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}
