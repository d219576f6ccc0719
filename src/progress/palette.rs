//! Colours of the terminal progress, and how much of a step's output it shows: `BUILDKIT_COLORS`,
//! `BUILDKIT_TTY_LOG_LINES`.
//!
//! Source: BuildKit, `util/progress/progressui/{colors,init}.go`.

/// Names of colours, with their codes.
const NAMES: [(&str, u8); 16] = [
    ("black", 30),
    ("red", 31),
    ("green", 32),
    ("yellow", 33),
    ("blue", 34),
    ("magenta", 35),
    ("cyan", 36),
    ("white", 37),
    ("light-black", 90),
    ("light-red", 91),
    ("light-green", 92),
    ("light-yellow", 93),
    ("light-blue", 94),
    ("light-magenta", 95),
    ("light-cyan", 96),
    ("light-white", 97),
];

/// The most lines of a step's output in the window, by default.
const LOG_LINES: usize = 6;

/// How the terminal progress looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looks {
    /// The code of steps that are found in the cache.
    pub(super) run: String,
    /// The code of steps that were cancelled.
    pub(super) cancel: String,
    /// The code of steps that failed.
    pub(super) error: String,
    /// The code of warnings and notices.
    pub(super) warning: String,
    /// The most lines of its output below a running step.
    pub(super) log_lines: usize,
}

impl Default for Looks {
    fn default() -> Self {
        let code = |code: u8| code.to_string();
        Self {
            run: code(34),
            cancel: code(33),
            error: code(31),
            warning: code(33),
            log_lines: LOG_LINES,
        }
    }
}

impl Looks {
    /// Reads `BUILDKIT_COLORS`: `run=blue:error=255,0,0`, with the keys `run`, `cancel`, `error` and
    /// `warning`. What cannot be read leaves a colour as it is; returns a sentence for each such
    /// part.
    pub fn set_colours(&mut self, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for part in text.split(':').filter(|part| !part.is_empty()) {
            let read = part.split_once('=').ok_or("expected NAME=COLOUR".to_owned());
            let read = read.and_then(|(key, value)| Ok((key, code_of(value)?)));
            match read {
                Ok((key, code)) => match key.to_ascii_lowercase().as_str() {
                    "run" => self.run = code,
                    "cancel" => self.cancel = code,
                    "error" => self.error = code,
                    "warning" => self.warning = code,
                    _ => wrong.push(format!("{part}: expected run, cancel, error or warning")),
                },
                Err(why) => wrong.push(format!("{part}: {why}")),
            }
        }
        wrong
    }

    /// Reads `BUILDKIT_TTY_LOG_LINES`.
    ///
    /// # Errors
    ///
    /// A sentence for what is not a number above 0.
    pub fn set_log_lines(&mut self, text: &str) -> Result<(), String> {
        match text.parse() {
            Ok(lines @ 1..) => self.log_lines = lines,
            _ => return Err(format!("{text:?} is not a number of lines: expected 1 or more")),
        }
        Ok(())
    }
}

/// Reads a colour: its name, or three numbers up to 255, of which the terminal shows the nearest of
/// its 216 colours.
fn code_of(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    if let Some((_, code)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(code.to_string());
    }
    let parts: Vec<Option<u8>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
    match parts.as_slice() {
        [Some(red), Some(green), Some(blue)] => {
            let level = |part: &u8| u32::from(*part) / 43;
            Ok(format!("38;5;{}", 16 + 36 * level(red) + 6 * level(green) + level(blue)))
        }
        _ => Err("expected a colour such as blue or light-red, or RED,GREEN,BLUE up to 255".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_read_by_name_and_by_number() {
        let mut looks = Looks::default();
        let wrong = looks.set_colours("run=cyan:ERROR=Light-Red:warning=255,0,0:cancel=0,0,300");
        assert_eq!((looks.run.as_str(), looks.error.as_str()), ("36", "91"));
        assert_eq!((looks.warning.as_str(), looks.cancel.as_str()), ("38;5;196", "33"));
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        for text in ["run", "run=pink", "walk=blue", "run=1,2"] {
            let mut looks = Looks::default();
            assert_eq!(looks.set_colours(text).len(), 1, "{text}");
            assert_eq!(looks, Looks::default());
        }
        assert_eq!(Looks::default().set_colours(""), Vec::<String>::new());
    }

    #[test]
    fn the_number_of_lines_is_at_least_one() {
        let mut looks = Looks::default();
        looks.set_log_lines("12").unwrap();
        assert_eq!(looks.log_lines, 12);
        for text in ["0", "-1", "many", ""] {
            assert!(looks.set_log_lines(text).is_err(), "{text}");
        }
    }
}
