//! Values as text: what Go's `fmt` makes of them, `printf` with its verbs.

use super::TEXT_MAX;
use super::value::{Kind, Value};

/// Widest field and most digits of a verb, and most blanks of `pad`.
pub(super) const WIDTH_MAX: usize = 4096;

/// The message for text beyond the limit.
pub(super) fn too_long() -> String {
    format!("the text is longer than {} MiB", TEXT_MAX >> 20)
}

/// Text of at most so many bytes.
struct Text {
    text: String,
    max: usize,
}

impl Text {
    fn new(max: usize) -> Self {
        Self { text: String::new(), max }
    }

    fn push(&mut self, text: &str) -> Result<(), String> {
        if self.text.len() + text.len() > self.max {
            return Err(too_long());
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// Returns a value as `%v` shows it.
pub(super) fn plain(value: &Value, max: usize) -> Result<String, String> {
    let mut out = Text::new(max);
    show(value, &Verb::default(), &mut out)?;
    Ok(out.text)
}

/// `print`: blanks stand between values neither of which is text.
pub(super) fn print(values: &[Value], max: usize) -> Result<String, String> {
    let mut out = Text::new(max);
    let is_text = |value: &Value| matches!(value, Value::Text(_));
    for (number, value) in values.iter().enumerate() {
        if number > 0 && !is_text(value) && !is_text(&values[number - 1]) {
            out.push(" ")?;
        }
        show(value, &Verb::default(), &mut out)?;
    }
    Ok(out.text)
}

/// `println`: blanks stand between all, a line end comes last.
pub(super) fn println(values: &[Value], max: usize) -> Result<String, String> {
    let mut out = Text::new(max);
    for (number, value) in values.iter().enumerate() {
        out.push(if number > 0 { " " } else { "" })?;
        show(value, &Verb::default(), &mut out)?;
    }
    out.push("\n")?;
    Ok(out.text)
}

/// A verb of a format, `%-10.3s`.
#[derive(Debug, Clone)]
struct Verb {
    letter: char,
    is_left: bool,
    has_sign: bool,
    has_blank: bool,
    has_prefix: bool,
    has_zeros: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Default for Verb {
    fn default() -> Self {
        Self {
            letter: 'v',
            is_left: false,
            has_sign: false,
            has_blank: false,
            has_prefix: false,
            has_zeros: false,
            width: None,
            precision: None,
        }
    }
}

/// `printf`.
pub(super) fn printf(format: &str, values: &[Value], max: usize) -> Result<String, String> {
    let mut out = Text::new(max);
    let (mut rest, mut next) = (format, 0);
    while let Some(at) = rest.find('%') {
        out.push(&rest[..at])?;
        rest = &rest[at + 1..];
        let verb;
        (verb, rest) = read_verb(rest)?;
        match (verb.letter, values.get(next)) {
            ('%', _) => out.push("%")?,
            ('\0', _) => out.push("%!(NOVERB)")?,
            (letter, None) => out.push(&format!("%!{letter}(MISSING)"))?,
            (_, Some(value)) => {
                show(value, &verb, &mut out)?;
                next += 1;
            }
        }
    }
    out.push(rest)?;
    if let Some(extra) = values.get(next..).filter(|extra| !extra.is_empty()) {
        out.push("%!(EXTRA ")?;
        for (number, value) in extra.iter().enumerate() {
            out.push(if number > 0 { ", " } else { "" })?;
            out.push(value.go_type())?;
            out.push("=")?;
            show(value, &Verb::default(), &mut out)?;
        }
        out.push(")")?;
    }
    Ok(out.text)
}

/// Reads a verb after its percent sign; a format that ends within one has the letter NUL.
fn read_verb(mut rest: &str) -> Result<(Verb, &str), String> {
    let mut verb = Verb::default();
    loop {
        match rest.as_bytes().first() {
            Some(b'-') => verb.is_left = true,
            Some(b'+') => verb.has_sign = true,
            Some(b' ') => verb.has_blank = true,
            Some(b'#') => verb.has_prefix = true,
            Some(b'0') => verb.has_zeros = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let number = |rest: &mut &str| -> Result<Option<usize>, String> {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(digits);
        *rest = after;
        match text.parse::<usize>() {
            Ok(number) if number <= WIDTH_MAX => Ok(Some(number)),
            _ if text.is_empty() => Ok(None),
            _ => Err(format!("a width or precision is at most {WIDTH_MAX}")),
        }
    };
    verb.width = number(&mut rest)?;
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        verb.precision = Some(number(&mut rest)?.unwrap_or(0));
    }
    if rest.starts_with(['*', '[']) {
        return Err("`*` and `[n]` of a verb are not supported: write the number".to_owned());
    }
    verb.letter = rest.chars().next().unwrap_or('\0');
    let length = if rest.is_empty() { 0 } else { verb.letter.len_utf8() };
    Ok((verb, &rest[length..]))
}

/// Adds a value as a verb has it; those of lists and maps have the verb each.
fn show(value: &Value, verb: &Verb, out: &mut Text) -> Result<(), String> {
    match value {
        Value::List(items) => {
            out.push("[")?;
            for (number, item) in items.iter().enumerate() {
                out.push(if number > 0 { " " } else { "" })?;
                show(item, verb, out)?;
            }
            out.push("]")
        }
        Value::Map(map) => {
            out.push("map[")?;
            for (number, (key, value)) in map.iter().enumerate() {
                out.push(if number > 0 { " " } else { "" })?;
                show(&Value::text(key.as_str()), verb, out)?;
                out.push(":")?;
                show(value, verb, out)?;
            }
            out.push("]")
        }
        Value::Object(object) => {
            out.push("{")?;
            for (number, value) in object.values().enumerate() {
                out.push(if number > 0 { " " } else { "" })?;
                show(value, verb, out)?;
            }
            out.push("}")
        }
        Value::Unset(Kind::List) => out.push("[]"),
        Value::Unset(Kind::Map) => out.push("map[]"),
        _ => {
            let text = scalar(value, verb);
            let width = verb.width.unwrap_or(0);
            let missing = width.saturating_sub(text.chars().count());
            match () {
                () if missing == 0 => out.push(&text),
                () if verb.is_left => {
                    out.push(&text)?;
                    out.push(&" ".repeat(missing))
                }
                () if verb.has_zeros && matches!(value, Value::Int(_) | Value::Float(_)) => {
                    let digits = text.trim_start_matches(['+', '-']);
                    out.push(&text[..text.len() - digits.len()])?;
                    out.push(&"0".repeat(missing))?;
                    out.push(digits)
                }
                () => {
                    out.push(&" ".repeat(missing))?;
                    out.push(&text)
                }
            }
        }
    }
}

fn scalar(value: &Value, verb: &Verb) -> String {
    let letter = verb.letter;
    let signed = |text: String| match text.starts_with('-') {
        false if verb.has_sign => format!("+{text}"),
        false if verb.has_blank => format!(" {text}"),
        _ => text,
    };
    let prefix = |text: &'static str| if verb.has_prefix { text } else { "" };
    match (value, letter) {
        (_, 'T') => value.go_type().to_owned(),
        (Value::Bool(value), 'v' | 't') => value.to_string(),
        (Value::Int(whole), 'v' | 'd') => signed(whole.to_string()),
        (Value::Int(whole), 'x' | 'X' | 'o' | 'b') => {
            let sign = if *whole < 0 { "-" } else { "" };
            let size = whole.unsigned_abs();
            signed(match letter {
                'x' => format!("{sign}{}{size:x}", prefix("0x")),
                'X' => format!("{sign}{}{size:X}", prefix("0X")),
                'o' => format!("{sign}{}{size:o}", prefix("0")),
                _ => format!("{sign}{}{size:b}", prefix("0b")),
            })
        }
        (Value::Int(whole), 'c' | 'q') => {
            let c = u32::try_from(*whole).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
            if letter == 'c' { c.to_string() } else { format!("{c:?}") }
        }
        (Value::Int(whole), 'U') => format!("U+{whole:04X}"),
        (Value::Float(number), 'v' | 'g' | 'G') => signed(float(*number)),
        (Value::Float(number), 'f' | 'F') => {
            signed(format!("{number:.*}", verb.precision.unwrap_or(6)))
        }
        (Value::Float(number), 'e' | 'E') => {
            let text = exponent(&format!("{number:.*e}", verb.precision.unwrap_or(6)));
            signed(if letter == 'E' { text.to_uppercase() } else { text })
        }
        (Value::Text(text), 'v' | 's') => match verb.precision {
            Some(length) => text.chars().take(length).collect(),
            None => text.to_string(),
        },
        (Value::Text(text), 'q') => match verb.has_prefix && !text.contains('`') {
            true => format!("`{text}`"),
            false => go_quoted(text),
        },
        (Value::Text(text), 'x') => hex(text, false),
        (Value::Text(text), 'X') => hex(text, true),
        (Value::Nil | Value::Unset(_), 'v') => "<nil>".to_owned(),
        (Value::Nil | Value::Unset(_), letter) => format!("%!{letter}(<nil>)"),
        (value, letter) => {
            let shown = scalar(value, &Verb::default());
            format!("%!{letter}({}={shown})", value.go_type())
        }
    }
}

/// A number as `%v` of Go has it: the shortest digits, with an exponent from 21 digits on.
fn float(number: f64) -> String {
    let size = number.abs();
    match size == 0.0 || (1e-4..1e21).contains(&size) {
        true => number.to_string(),
        false => exponent(&format!("{number:e}")),
    }
}

/// Gives an exponent a sign and two digits at least.
fn exponent(text: &str) -> String {
    let Some((digits, exponent)) = text.split_once('e') else { return text.to_owned() };
    let (sign, size) = match exponent.strip_prefix('-') {
        Some(size) => ('-', size),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{size:0>2}")
}

fn go_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn hex(text: &str, is_upper: bool) -> String {
    let mut shown = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        shown.push_str(&match is_upper {
            true => format!("{byte:02X}"),
            false => format!("{byte:02x}"),
        });
    }
    shown
}
