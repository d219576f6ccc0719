//! Numbers of bytes for people, in the forms of the programs whose output we match.

const DECIMAL: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
const BINARY: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// Returns the value in the largest unit of which there is at least one, and the unit's place.
fn scale(bytes: u64, base: f64, least: f64) -> (f64, usize) {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= least && unit + 1 < DECIMAL.len() {
        value /= base;
        unit += 1;
    }
    (value, unit)
}

fn without_zeros(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

/// Prints three digits in decimal units: `74.8MB`, `1kB`.
///
/// Source: Docker's `units.HumanSizeWithPrecision(…, 3)`, as `docker images` uses it.
pub fn decimal(bytes: u64) -> String {
    let (value, unit) = scale(bytes, 1000.0, 999.5);
    let text = match value {
        v if unit == 0 => format!("{v:.0}"),
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    };
    format!("{}{}", without_zeros(&text), DECIMAL[unit])
}

/// Prints two decimals in decimal units, so that a number that grows keeps its width: `3.15MB`.
///
/// Source: BuildKit's progress, `units.HumanSize`-like amounts (`%.2f`).
pub fn progress(bytes: u64) -> String {
    match scale(bytes, 1000.0, 1000.0) {
        (_, 0) => format!("{bytes}B"),
        (value, unit) => format!("{value:.2}{}", DECIMAL[unit]),
    }
}

/// Prints at most four digits in binary units: `2MiB`, `976.6KiB`.
///
/// Source: Docker's `units.BytesSize`.
pub fn binary(bytes: u64) -> String {
    let (value, unit) = scale(bytes, 1024.0, 1024.0);
    let whole = value.log10().max(0.0) as usize + 1;
    let text = format!("{value:.*}", 4_usize.saturating_sub(whole));
    format!("{}{}", without_zeros(&text), BINARY[unit])
}

/// Prints mebibytes, with a decimal where there is a part of one: `64 MiB`, `511.8 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if bytes.is_multiple_of(1 << 20) { format!("{mib:.0} MiB") } else { format!("{mib:.1} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_docker_writes_them() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (999_999, "1MB"),
            (4_430_000, "4.43MB"),
            (74_834_000, "74.8MB"),
            (116_900_000, "117MB"),
        ] {
            assert_eq!(decimal(bytes), text);
        }
        for (bytes, text) in [(500, "500B"), (1000, "1.00kB"), (10_000_500, "10.00MB")] {
            assert_eq!(progress(bytes), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (10, "10B"),
            (2 << 20, "2MiB"),
            (200 << 10, "200KiB"),
            (1536, "1.5KiB"),
            (1_000_000, "976.6KiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
        assert_eq!(mebibytes(64 << 20), "64 MiB");
        assert_eq!(mebibytes((511 << 20) + 838_861), "511.8 MiB");
    }
}
