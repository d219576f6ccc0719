//! The data that a template sees.

use super::Mistake;
use crate::dockerfile::ast::Span;
use crate::dockerfile::errors::did_you_mean;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A value. Copies are cheap.
#[derive(Debug, Clone)]
pub(in crate::cli) enum Value {
    /// Nothing.
    Nil,
    /// Go's zero value of a type that can be nil: unset, but of a known kind.
    Unset(Kind),
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number.
    Float(f64),
    /// Text.
    Text(Rc<str>),
    /// A list.
    List(Rc<[Value]>),
    /// What any key may be asked of: labels, annotations.
    Map(Rc<BTreeMap<String, Value>>),
    /// What has the fields it has: any other name is a mistake.
    Object(Rc<Object>),
}

/// Of which type something unset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Kind {
    /// A list.
    List,
    /// A map.
    Map,
    /// An object.
    Object,
}

/// Fields with their values.
#[derive(Debug, Default)]
pub(in crate::cli) struct Object {
    /// Those that are there, in their order.
    fields: Vec<(String, Value)>,
    /// Those that a template may ask for although JSON leaves them out, with their zero values.
    zeros: Vec<(&'static str, Value)>,
}

impl Value {
    /// Makes text.
    pub(in crate::cli) fn text(text: impl Into<Rc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// Makes a row of a list: an object of these fields.
    pub(in crate::cli) fn row<K: Into<String>>(
        fields: impl IntoIterator<Item = (K, Self)>,
    ) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Self::Object(Rc::new(Object { fields, zeros: Vec::new() }))
    }

    /// Makes a value of JSON whose objects are maps, of which any key may be asked.
    pub(in crate::cli) fn of_json(json: &Json) -> Self {
        match json {
            Json::Null => Self::Nil,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i128(), number.as_f64()) {
                (Some(whole), _) => Self::Int(whole),
                (None, Some(number)) => Self::Float(number),
                (None, None) => Self::text(number.to_string()),
            },
            Json::String(text) => Self::text(text.as_str()),
            Json::Array(items) => Self::List(items.iter().map(Self::of_json).collect()),
            Json::Object(map) => {
                let entries = map.iter().map(|(key, value)| (key.clone(), Self::of_json(value)));
                Self::Map(Rc::new(entries.collect()))
            }
        }
    }

    /// Makes an object of a JSON object, with further fields that have these values where JSON has
    /// none. `of` makes the value of a field.
    pub(in crate::cli) fn object_of(
        map: &Map<String, Json>,
        zeros: &[(&'static str, Self)],
        of: impl Fn(&str, &Json) -> Self,
    ) -> Self {
        let zero = |wanted: &str| zeros.iter().find(|(name, _)| *name == wanted);
        let field = |(name, value): (&String, &Json)| match zero(name) {
            Some((_, zero)) if value.is_null() => (name.clone(), zero.clone()),
            _ => (name.clone(), of(name, value)),
        };
        let fields = map.iter().map(field).collect();
        let is_missing = |(name, _): &&(&'static str, Self)| !map.contains_key(*name);
        let zeros = zeros.iter().filter(is_missing).cloned().collect();
        Self::Object(Rc::new(Object { fields, zeros }))
    }

    /// Makes a map of these entries.
    pub(in crate::cli) fn map(entries: impl IntoIterator<Item = (String, Self)>) -> Self {
        Self::Map(Rc::new(entries.into_iter().collect()))
    }

    /// Returns a field of an object; nothing of anything else, and where there is none.
    pub(in crate::cli) fn get(&self, name: &str) -> Self {
        match self {
            Self::Object(object) => object.get(name).unwrap_or(Self::Nil),
            _ => Self::Nil,
        }
    }

    /// Returns the value as JSON.
    pub(in crate::cli) fn to_json(&self) -> Json {
        match self {
            Self::Nil | Self::Unset(_) => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(whole) => match (i64::try_from(*whole), u64::try_from(*whole)) {
                (Ok(whole), _) => whole.into(),
                (_, Ok(whole)) => whole.into(),
                _ => Json::String(whole.to_string()),
            },
            Self::Float(number) => (*number).into(),
            Self::Text(text) => Json::String(text.to_string()),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(map) => {
                map.iter().map(|(key, value)| (key.clone(), value.to_json())).collect()
            }
            Self::Object(object) => {
                object.fields.iter().map(|(key, value)| (key.clone(), value.to_json())).collect()
            }
        }
    }

    /// Returns whether Go takes it for true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nil | Self::Unset(_) => false,
            Self::Bool(value) => *value,
            Self::Int(whole) => *whole != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Object(_) => true,
        }
    }

    /// Returns what it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) | Self::Unset(Kind::List) => "a list",
            Self::Map(_) | Self::Unset(Kind::Map) => "a map",
            Self::Object(_) | Self::Unset(Kind::Object) => "an object",
        }
    }

    /// Returns the name of its type in Go, which `printf` shows for a verb that does not fit.
    pub(super) fn go_type(&self) -> &'static str {
        match self {
            Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::List(_) | Self::Unset(Kind::List) => "[]string",
            Self::Map(_) | Self::Unset(Kind::Map) => "map[string]string",
            Self::Object(_) | Self::Unset(Kind::Object) => "struct",
        }
    }

    /// Returns a field; `path` is what it is a field of, as the template has it.
    pub(super) fn field(&self, name: &str, path: &str, span: Span) -> Result<Self, Mistake> {
        match self {
            Self::Map(map) => Ok(map.get(name).cloned().unwrap_or(Self::Nil)),
            Self::Unset(Kind::Map) => Ok(Self::Nil),
            Self::Object(object) => object.get(name).ok_or_else(|| {
                let known = object.fields.iter().map(|(name, _)| name.as_str());
                let mut known: Vec<_> =
                    known.chain(object.zeros.iter().map(|(name, _)| *name)).collect();
                known.sort_unstable();
                unknown_field(span, name, known)
            }),
            Self::Nil | Self::Unset(_) => {
                let message = format!("`{path}` is not set here, so it has no field `{name}`");
                Err(Mistake::new(span, message)
                    .labelled(Some(format!("guard it: {{{{with {path}}}}}…{{{{end}}}}"))))
            }
            other => {
                let message = format!("`{path}` is {}: it has no field `{name}`", other.kind());
                Err(Mistake::new(span, message))
            }
        }
    }
}

impl Object {
    /// Finds a field. A template may write the names of JSON documents as Go has them, with a
    /// capital first letter: `.Descriptor.MediaType`.
    fn get(&self, name: &str) -> Option<Value> {
        let known = |wanted: &str| {
            let there = self.fields.iter().find(|(known, _)| known == wanted);
            there.map(|(_, value)| value.clone()).or_else(|| {
                let zero = self.zeros.iter().find(|(known, _)| *known == wanted);
                zero.map(|(_, value)| value.clone())
            })
        };
        known(name).or_else(|| {
            let first = name.chars().next().filter(char::is_ascii_uppercase)?;
            known(&format!("{}{}", first.to_ascii_lowercase(), &name[1..]))
        })
    }

    /// The values that Go prints: those that are there.
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.fields.iter().map(|(_, value)| value)
    }
}

/// The mistake of a field that there is not.
pub(super) fn unknown_field<'k>(
    span: Span,
    name: &str,
    known: impl IntoIterator<Item = &'k str>,
) -> Mistake {
    let known: Vec<&str> = known.into_iter().collect();
    let near = did_you_mean(name, known.iter().copied());
    let message = match known.as_slice() {
        [] => format!("no field `.{name}`: there are none here"),
        known => format!("no field `.{name}`: there are {}", known.join(", ")),
    };
    Mistake::new(span, message).labelled(near.map(|near| format!("did you mean `.{near}`?")))
}
