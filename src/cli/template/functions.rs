//! Functions of templates: Go's own and docker's.

use super::print;
use super::value::{Kind, Value};
use super::{TEXT_MAX, WORK_MAX};
use crate::dockerfile::errors::did_you_mean;
use std::cmp::Ordering;
use std::rc::Rc;

/// What a template is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Data.
    Data,
    /// The titles of a table's columns, which docker's functions leave as they are.
    Header,
}

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: &'static str,
    /// How many arguments it takes.
    least: usize,
    most: usize,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    // Go's.
    And,
    Or,
    Not,
    Len,
    Index,
    Slice,
    Print,
    Println,
    Printf,
    Html,
    Js,
    Urlquery,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    // Docker's.
    Json,
    Split,
    Join,
    Title,
    Lower,
    Upper,
    Pad,
    Truncate,
}

const ANY: usize = usize::MAX;

const fn function(name: &'static str, least: usize, most: usize, what: What) -> Function {
    Function { name, least, most, what }
}

const FUNCTIONS: &[Function] = &[
    function("and", 1, ANY, What::And),
    function("eq", 2, ANY, What::Eq),
    function("ge", 2, 2, What::Ge),
    function("gt", 2, 2, What::Gt),
    function("html", 0, ANY, What::Html),
    function("index", 1, ANY, What::Index),
    function("join", 2, 2, What::Join),
    function("js", 0, ANY, What::Js),
    function("json", 1, 1, What::Json),
    function("le", 2, 2, What::Le),
    function("len", 1, 1, What::Len),
    function("lower", 1, 1, What::Lower),
    function("lt", 2, 2, What::Lt),
    function("ne", 2, 2, What::Ne),
    function("not", 1, 1, What::Not),
    function("or", 1, ANY, What::Or),
    function("pad", 3, 3, What::Pad),
    function("print", 0, ANY, What::Print),
    function("printf", 1, ANY, What::Printf),
    function("println", 0, ANY, What::Println),
    function("slice", 1, 4, What::Slice),
    function("split", 2, 2, What::Split),
    function("title", 1, 1, What::Title),
    function("truncate", 2, 2, What::Truncate),
    function("upper", 1, 1, What::Upper),
    function("urlquery", 0, ANY, What::Urlquery),
];

/// Finds a function.
///
/// # Errors
///
/// The message and what stands beside the place.
pub(super) fn named(name: &str) -> Result<&'static Function, (String, Option<String>)> {
    FUNCTIONS.iter().find(|function| function.name == name).ok_or_else(|| {
        let names: Vec<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
        let near = did_you_mean(name, names.iter().copied());
        let message = format!("no function `{name}`: there are {}", names.join(", "));
        (message, near.map(|near| format!("did you mean `{near}`?")))
    })
}

impl Function {
    /// Checks how many arguments it gets.
    pub(super) fn check_count(&self, given: usize) -> Result<(), String> {
        if (self.least..=self.most).contains(&given) {
            return Ok(());
        }
        let expected = match (self.least, self.most) {
            (least, ANY) => format!("at least {least}"),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        Err(format!("`{}` takes {expected} arguments, and gets {given}", self.name))
    }

    /// Returns whether an argument decides the result, so that the others are not looked at.
    pub(super) fn is_decided_by(&self, value: &Value) -> bool {
        match self.what {
            What::And => !value.is_true(),
            What::Or => value.is_true(),
            _ => false,
        }
    }

    /// Runs it. The number of arguments is right.
    pub(super) fn run(&self, arguments: &[Value], mode: Mode) -> Result<Value, String> {
        let nil = Value::Nil;
        let first = arguments.first().unwrap_or(&nil);
        if mode == Mode::Header
            && matches!(
                self.what,
                What::Json
                    | What::Split
                    | What::Join
                    | What::Title
                    | What::Lower
                    | What::Upper
                    | What::Truncate
            )
        {
            return Ok(first.clone());
        }
        let texted = |text: Result<String, String>| text.map(Value::text);
        match self.what {
            // The last one, as none before decided it.
            What::And | What::Or => Ok(arguments.last().cloned().unwrap_or(nil)),
            What::Not => Ok(Value::Bool(!first.is_true())),
            What::Len => length(first).map(|length| Value::Int(length as i128)),
            What::Index => arguments[1..].iter().try_fold(first.clone(), |of, key| at(&of, key)),
            What::Slice => slice(first, &arguments[1..]),
            What::Print => texted(print::print(arguments, TEXT_MAX)),
            What::Println => texted(print::println(arguments, TEXT_MAX)),
            What::Printf => texted(print::printf(text(first)?, &arguments[1..], TEXT_MAX)),
            What::Html => texted(print::print(arguments, TEXT_MAX).map(|text| html(&text))),
            What::Js => texted(print::print(arguments, TEXT_MAX).map(|text| js(&text))),
            What::Urlquery => texted(print::print(arguments, TEXT_MAX).map(|text| query(&text))),
            What::Eq => {
                let mut is_any = false;
                for other in &arguments[1..] {
                    is_any |= is_equal(first, other)?;
                }
                Ok(Value::Bool(is_any))
            }
            What::Ne => Ok(Value::Bool(!is_equal(first, &arguments[1])?)),
            What::Lt => ordered(arguments, Ordering::is_lt),
            What::Le => ordered(arguments, Ordering::is_le),
            What::Gt => ordered(arguments, Ordering::is_gt),
            What::Ge => ordered(arguments, Ordering::is_ge),
            What::Json => Ok(Value::text(first.to_json().to_string())),
            What::Split => split(text(first)?, text(&arguments[1])?),
            What::Join => join(first, text(&arguments[1])?),
            What::Title => Ok(Value::text(title(text(first)?))),
            What::Lower => Ok(Value::text(text(first)?.to_lowercase())),
            What::Upper => Ok(Value::text(text(first)?.to_uppercase())),
            What::Pad => {
                let [before, after] = [number(&arguments[1])?, number(&arguments[2])?];
                match text(first)? {
                    "" => Ok(Value::text("")),
                    padded if before.max(after) <= print::WIDTH_MAX => Ok(Value::text(format!(
                        "{}{padded}{}",
                        " ".repeat(before),
                        " ".repeat(after)
                    ))),
                    _ => Err(format!("at most {} blanks are added", print::WIDTH_MAX)),
                }
            }
            What::Truncate => {
                let (whole, length) = (text(first)?, number(&arguments[1])?);
                let end = whole.char_indices().map(|(place, c)| place + c.len_utf8());
                let end = end.take_while(|end| *end <= length).last().unwrap_or(0);
                Ok(Value::text(&whole[..end]))
            }
        }
    }
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(format!("expected text, not {}", other.kind())),
    }
}

fn number(value: &Value) -> Result<usize, String> {
    match value {
        Value::Int(whole) => {
            usize::try_from(*whole).map_err(|_| format!("{whole} is out of range"))
        }
        other => Err(format!("expected a whole number, not {}", other.kind())),
    }
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::Text(text) => Ok(text.len()),
        Value::List(items) => Ok(items.len()),
        Value::Map(map) => Ok(map.len()),
        Value::Unset(Kind::List | Kind::Map) => Ok(0),
        other => Err(format!("{} has no length", other.kind())),
    }
}

/// `index`: an item of a list, the value of a key.
fn at(of: &Value, key: &Value) -> Result<Value, String> {
    let outside = |length: usize| -> Result<Value, String> {
        Err(match key {
            Value::Int(index) => format!("item {index} is out of range: there are {length}"),
            key => format!("an item has a whole number, not {}", key.kind()),
        })
    };
    match of {
        Value::List(items) => match key {
            Value::Int(index) => match usize::try_from(*index).ok().and_then(|at| items.get(at)) {
                Some(item) => Ok(item.clone()),
                None => outside(items.len()),
            },
            _ => outside(items.len()),
        },
        Value::Text(text) => match key {
            Value::Int(index) => {
                match usize::try_from(*index).ok().and_then(|at| text.as_bytes().get(at)) {
                    Some(byte) => Ok(Value::Int(i128::from(*byte))),
                    None => outside(text.len()),
                }
            }
            _ => outside(text.len()),
        },
        Value::Unset(Kind::List) => outside(0),
        Value::Unset(Kind::Map) => text(key).map(|_| Value::text("")),
        Value::Map(map) => {
            let key = text(key)?;
            // A map of texts has Go's zero value, the empty text, for what is not there.
            let is_of_texts = || map.values().all(|value| matches!(value, Value::Text(_)));
            Ok(match map.get(key) {
                Some(value) => value.clone(),
                None if is_of_texts() => Value::text(""),
                None => Value::Nil,
            })
        }
        other => Err(format!("{} has no items", other.kind())),
    }
}

fn slice(of: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = length(of)?;
    let bounds = bounds.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let (start, end) = match bounds.as_slice() {
        [] => (0, length),
        [start] => (*start, length),
        [start, end, ..] => (*start, *end),
    };
    let outside = || format!("{start} to {end} is out of range: there are {length}");
    match of {
        Value::Text(text) => text.get(start..end).map(Value::text).ok_or_else(outside),
        Value::List(items) => {
            let part = items.get(start..end).ok_or_else(outside)?;
            Ok(Value::List(part.iter().cloned().collect()))
        }
        Value::Unset(Kind::List) if end == 0 => Ok(of.clone()),
        other => Err(format!("{} cannot be sliced", other.kind())),
    }
}

fn is_equal(one: &Value, other: &Value) -> Result<bool, String> {
    let is_nil = |value: &Value| matches!(value, Value::Nil | Value::Unset(_));
    match (one, other) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Nil, other) | (other, Value::Nil) => Ok(is_nil(other)),
        _ => compare(one, other).map(Ordering::is_eq),
    }
}

fn compare(one: &Value, other: &Value) -> Result<Ordering, String> {
    match (one, other) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => {
            a.partial_cmp(b).ok_or_else(|| "these numbers cannot be compared".to_owned())
        }
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        _ => Err(format!("{} and {} cannot be compared", one.kind(), other.kind())),
    }
}

fn ordered(arguments: &[Value], is: fn(Ordering) -> bool) -> Result<Value, String> {
    compare(&arguments[0], &arguments[1]).map(|ordering| Value::Bool(is(ordering)))
}

fn split(whole: &str, by: &str) -> Result<Value, String> {
    let parts = match by {
        "" => whole.chars().count(),
        by => whole.matches(by).count() + 1,
    };
    // Each item costs more memory than its text.
    if parts as u64 * 64 > WORK_MAX {
        return Err("the text has too many parts".to_owned());
    }
    let items: Rc<[Value]> = match by {
        // Go splits after each character then.
        "" => whole.chars().map(|c| Value::text(c.to_string())).collect(),
        by => whole.split(by).map(Value::text).collect(),
    };
    Ok(Value::List(items))
}

fn join(items: &Value, by: &str) -> Result<Value, String> {
    let items: &[Value] = match items {
        Value::List(items) => items,
        Value::Unset(Kind::List) => &[],
        other => return Err(format!("expected a list, not {}", other.kind())),
    };
    let mut joined = String::new();
    for (number, item) in items.iter().enumerate() {
        let item = print::plain(item, TEXT_MAX)?;
        if joined.len() + by.len() + item.len() > TEXT_MAX {
            return Err(print::too_long());
        }
        joined.push_str(if number > 0 { by } else { "" });
        joined.push_str(&item);
    }
    Ok(Value::text(joined))
}

/// Gives each word a capital letter.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut is_start = true;
    for c in text.chars() {
        match is_start {
            true => titled.extend(c.to_uppercase()),
            false => titled.push(c),
        }
        is_start = !(c.is_alphanumeric() || matches!(c, '_' | '\''));
    }
    titled
}

fn html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\0' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn js(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => escaped.extend(['\\', c]),
            '<' | '>' | '&' | '=' => escaped.push_str(&format!("\\u{:04X}", u32::from(c))),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if c.is_control() => escaped.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

fn query(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
