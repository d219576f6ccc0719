//! Where the flags of `builder run` end: the image is the last word that is ours.
//!
//! Docker hands all that follows the image to the command, flags of its own names too, and clap
//! stops looking for flags only at the word after the image.

use clap::{Arg, Command};
use std::ffi::OsString;

/// Words that may stand after `--pull`, whose value clap takes with `=` only.
const POLICIES: &[&str] = &["always", "ifnotpresent", "missing", "never", "newer"];

/// Puts `--` behind the image of a command line whose word at `run` is `run`, and `=` between
/// `--pull` and its value.
pub(in crate::cli) fn separate(words: &mut Vec<OsString>, run: usize, definition: &Command) {
    let text = |words: &[OsString], at: usize| {
        words.get(at).map(|word| word.to_string_lossy().into_owned())
    };
    let mut at = run + 1;
    while let Some(word) = text(words, at) {
        if word == "--pull"
            && let Some(policy) = text(words, at + 1).filter(|w| POLICIES.contains(&w.as_str()))
        {
            words.splice(at..=at + 1, [OsString::from(format!("--pull={policy}"))]);
        }
        at += match word.strip_prefix('-') {
            _ if word == "--" => return,
            Some(name) if !name.is_empty() => 1 + usize::from(wants_next(name, definition)),
            _ => {
                if at + 1 < words.len() {
                    words.insert(at + 1, "--".into());
                }
                return;
            }
        };
    }
}

/// Says whether the value of a flag, or of the last one of a cluster, is the next word. The flag is
/// without its first hyphen.
fn wants_next(flag: &str, definition: &Command) -> bool {
    let find = |is_it: &dyn Fn(&Arg) -> bool| definition.get_arguments().find(|arg| is_it(arg));
    if let Some(long) = flag.strip_prefix('-') {
        let is_it = |arg: &Arg| {
            arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long))
                || arg.get_all_aliases().is_some_and(|names| names.contains(&long))
        };
        return find(&is_it).is_some_and(takes_next);
    }
    for (at, short) in flag.char_indices() {
        let arg = find(&|arg| arg.get_short() == Some(short));
        if arg.is_some_and(takes_next) {
            return at + short.len_utf8() == flag.len();
        }
    }
    false
}

/// Says whether a flag must have a value that may be a word of its own.
fn takes_next(arg: &Arg) -> bool {
    arg.get_action().takes_values()
        && !arg.is_require_equals_set()
        && arg.get_num_args().is_none_or(|number| number.min_values() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgAction;

    fn separated(line: &str) -> String {
        let value = |short, long| Arg::new(long).short(short).long(long).action(ArgAction::Append);
        let definition = Command::new("run")
            .arg(Arg::new("tty").short('t').long("tty").action(ArgAction::SetTrue))
            .arg(value('v', "volume"))
            .arg(value('n', "network").visible_alias("net"))
            .arg(Arg::new("pull").long("pull").num_args(0..=1).require_equals(true));
        let mut words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        separate(&mut words, 1, &definition);
        words.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn what_follows_the_image_is_the_commands() {
        for (line, expected) in [
            ("x run image", "x run image"),
            ("x run image -c pwd", "x run image -- -c pwd"),
            ("x run image sh -c pwd", "x run image -- sh -c pwd"),
            ("x run image -- a", "x run image -- -- a"),
            ("x run -- image -c", "x run -- image -c"),
            ("x run -t image --version", "x run -t image -- --version"),
            ("x run -v a:b image --version", "x run -v a:b image -- --version"),
            ("x run -tv a:b image --version", "x run -tv a:b image -- --version"),
            ("x run -tva:b image --version", "x run -tva:b image -- --version"),
            ("x run -v=a:b image --version", "x run -v=a:b image -- --version"),
            ("x run --volume a:b image -t", "x run --volume a:b image -- -t"),
            ("x run --volume=a:b image -t", "x run --volume=a:b image -- -t"),
            ("x run --net none image -t", "x run --net none image -- -t"),
            ("x run --tty=false image -t", "x run --tty=false image -- -t"),
            ("x run --pull always image -t", "x run --pull=always image -- -t"),
            ("x run --pull image -t", "x run --pull image -- -t"),
            ("x run --unknown image -t", "x run --unknown image -- -t"),
            ("x run -v", "x run -v"),
            ("x run", "x run"),
        ] {
            assert_eq!(separated(line), expected);
        }
    }
}
