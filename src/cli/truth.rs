//! Flags without a value that may be given one all the same: `--pull=true`, `--no-cache=false`,
//! `-q=1`.
//!
//! Docker's flags are Go's, where every flag is one of truth. The definition of the command line
//! says nothing of it: only a line that is refused for such a value is parsed once more, with them
//! allowed.

use super::parse_args;
use clap::builder::ValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command, Parser};
use std::ffi::OsString;

/// Parses the command line of `C`.
///
/// # Errors
///
/// What clap says: a mistake, or a wish for help.
pub(super) fn parse<C: Parser>(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<C, clap::Error> {
    parse_as(&C::command, arguments)
}

/// Returns the ids of a subcommand's flags that the command line or the environment gives.
pub(super) fn given(definition: Command, words: &[OsString], name: &str) -> Vec<String> {
    let mut definition = without_empty_variables(with_values(definition)).ignore_errors(true);
    let Ok(matches) = definition.try_get_matches_from_mut(words) else { return Vec::new() };
    let Some(matches) = matches.subcommand_matches(name) else { return Vec::new() };
    let is_given = |id: &str| {
        matches!(
            matches.value_source(id),
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        )
    };
    matches.ids().map(clap::Id::as_str).filter(|id| is_given(id)).map(str::to_owned).collect()
}

/// Takes variables that are empty for unset ones, as pipelines and docker do.
#[expect(clippy::disallowed_methods, reason = "clap reads the environment")]
fn without_empty_variables(command: Command) -> Command {
    fn without(command: Command) -> Command {
        let is_empty = |arg: &Arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            value.is_some_and(|value| value.is_empty())
        };
        command
            .mut_args(|arg| if is_empty(&arg) { arg.env(None::<&str>) } else { arg })
            .mut_subcommands(without)
    }
    match std::env::vars_os().any(|(_, value)| value.is_empty()) {
        true => without(command),
        false => command,
    }
}

/// As [`parse`], by a definition whose flags may have other defaults.
///
/// # Errors
///
/// As [`parse`].
pub(super) fn parse_as<C: Parser>(
    definition: &dyn Fn() -> Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<C, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut plainly = without_empty_variables(definition());
    let parsed = plainly.try_get_matches_from_mut(&arguments).and_then(|matches| {
        C::from_arg_matches(&matches).map_err(|error| error.format(&mut plainly))
    });
    parsed.or_else(|plain| match plain.kind() {
        // What clap says of `--quiet=true`, and of `-q=1`.
        ErrorKind::TooManyValues | ErrorKind::UnknownArgument => {
            let mut command = without_empty_variables(with_values(definition()));
            let matches = command.try_get_matches_from_mut(&arguments);
            // The same mistake is shown as the command line is defined.
            let matches = matches.map_err(|e| if e.kind() == plain.kind() { plain } else { e })?;
            C::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
        }
        _ => Err(plain),
    })
}

/// Lets every flag that is set by its mere presence be given a value, in the subcommands too.
fn with_values(command: Command) -> Command {
    command.mut_args(with_value).mut_subcommands(with_values)
}

fn with_value(arg: Arg) -> Arg {
    // A flag of the environment has a reading of its own.
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue) && arg.get_env().is_none();
    if !is_flag {
        return arg;
    }
    let default = arg.get_default_values().first().cloned().unwrap_or("false".into());
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value(default)
        .default_missing_value("true")
        .value_parser(ValueParser::from(parse_args::truth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Line {
        #[arg(short, long)]
        quiet: bool,
        #[arg(short, long)]
        rm: bool,
        #[arg(short)]
        tag: Option<String>,
        path: Option<String>,
    }

    fn line(words: &[&str]) -> Result<(bool, bool, Option<String>, Option<String>), ErrorKind> {
        let words = std::iter::once("x").chain(words.iter().copied()).map(OsString::from);
        let line = parse::<Line>(words).map_err(|error| error.kind())?;
        Ok((line.quiet, line.rm, line.tag, line.path))
    }

    #[test]
    fn flags_of_truth_may_have_values_and_need_none() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(line(&["--quiet", "p"]), Ok((true, false, None, text("p"))));
        assert_eq!(line(&["--quiet=true", "--rm=0"]), Ok((true, false, None, None)));
        assert_eq!(line(&["--quiet", "--quiet=false"]), Ok((false, false, None, None)));
        assert_eq!(line(&["-q=1", "p"]), Ok((true, false, None, text("p"))));
        assert_eq!(line(&["-qr", "p"]), Ok((true, true, None, text("p"))));
        assert_eq!(line(&["-qt", "x", "p"]), Ok((true, false, text("x"), text("p"))));
        assert_eq!(line(&["-qtx"]), Ok((true, false, text("x"), None)));
        assert_eq!(line(&["--quiet=maybe"]), Err(ErrorKind::ValueValidation));
        assert_eq!(line(&["--quit"]), Err(ErrorKind::UnknownArgument));
        assert_eq!(line(&["--help"]), Err(ErrorKind::DisplayHelp));
    }

    #[test]
    fn help_shows_no_values() {
        let error = parse::<Line>(["x", "--help"].map(OsString::from)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("-q, --quiet") && !text.contains("[="), "{text}");
    }
}
