//! Durations as Go writes them: `1h30m`, `1.5s`, `300ms`.
//!
//! Source: Go, `time.ParseDuration`.

/// Parses a duration to nanoseconds.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (is_negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let scale: i128 = match unit {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let whole = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        // More digits than these are below a nanosecond, whatever the unit.
        let fraction = &fraction[..fraction.len().min(18)];
        let part = match fraction.parse::<i128>() {
            Ok(part) => part * scale / 10i128.pow(fraction.len() as u32),
            Err(_) => 0,
        };
        let sum = i128::checked_mul(whole, scale).and_then(|value| value.checked_add(part + total));
        total = sum.filter(|total| *total <= i128::from(i64::MAX)).ok_or_else(invalid)?;
        rest = after;
    }
    i64::try_from(if is_negative { -total } else { total }).map_err(|_| invalid())
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        const SECOND: i64 = 1_000_000_000;
        for (text, want) in [
            ("0", Ok(0)),
            ("5s", Ok(5 * SECOND)),
            ("1h30m", Ok(5400 * SECOND)),
            ("1.5s", Ok(SECOND * 3 / 2)),
            (".5m", Ok(30 * SECOND)),
            ("1.s", Ok(SECOND)),
            ("1.0000000000000000000000001s", Ok(SECOND)),
            ("-1m", Ok(-60 * SECOND)),
            ("+3us", Ok(3000)),
            ("3µs", Ok(3000)),
            ("2562047h47m16.854775807s", Ok(i64::MAX)),
            (
                "2562047h47m16.854775808s",
                Err("time: invalid duration \"2562047h47m16.854775808s\""),
            ),
            (
                "99999999999999999999999999999999999999999s",
                Err("time: invalid duration \"99999999999999999999999999999999999999999s\""),
            ),
            ("", Err("time: invalid duration \"\"")),
            ("abc", Err("time: invalid duration \"abc\"")),
            ("5", Err("time: missing unit in duration \"5\"")),
            ("5x", Err("time: unknown unit \"x\" in duration \"5x\"")),
            ("5 s", Err("time: unknown unit \" s\" in duration \"5 s\"")),
            (".s", Err("time: invalid duration \".s\"")),
        ] {
            assert_eq!(parse(text), want.map_err(str::to_owned), "{text}");
        }
    }
}
