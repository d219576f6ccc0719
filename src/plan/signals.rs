//! STOPSIGNAL: a number, or a name with or without `SIG`.
//!
//! Source: moby/sys `signal.ParseSignal`.

const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Says whether a signal of that name or number exists on Linux.
pub(super) fn is_known(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| rest.parse::<u32>().is_ok_and(|n| (1..=15).contains(&n));
    NAMES.contains(&name)
        || name.strip_prefix("RTMIN+").is_some_and(offset)
        || name
            .strip_prefix("RTMAX-")
            .is_some_and(|rest| rest.parse::<u32>().is_ok_and(|n| (1..=14).contains(&n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, want) in [
            ("SIGTERM", true),
            ("term", true),
            ("9", true),
            ("RTMIN+3", true),
            ("SIGRTMAX-14", true),
            ("RTMAX-15", false),
            ("0", false),
            ("SIGNOPE", false),
            ("", false),
        ] {
            assert_eq!(is_known(text), want, "{text:?}");
        }
    }
}
