//! `RUN --mount`: fields when the file is read, options when its variables are
//! known.
//!
//! BuildKit checks no more than `from=` before a stage is built; so does this,
//! because a mistake in a stage that is not needed fails no build there.
//!
//! Source: moby/buildkit frontend/dockerfile/instructions/commands_runmount.go.

use crate::dockerfile::ast::{Mount, MountField, MountFlag, MountType, Sharing, Span, Word};
use crate::dockerfile::errors::{Error, ErrorKind, did_you_mean};

/// The options there are.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// Splits a flag's value at its commas, as CSV: a field in quotes may hold them.
pub(super) fn fields(value: &Word, flag: Span) -> Result<MountFlag, String> {
    let text = value.as_str();
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let (field, end) =
            field(&text[at..]).map_err(|fault| format!("failed to parse csv mounts: {fault}"))?;
        let (key, option) = match field.split_once('=') {
            Some((key, option)) => (key, Some(option.to_owned())),
            None => (field.as_str(), None),
        };
        let span = value.part(at..at + end).span;
        fields.push(MountField { key: key.to_lowercase(), value: option, text: field, span });
        at += end;
        if at == text.len() {
            return Ok(MountFlag { fields, span: flag });
        }
        at += 1;
    }
}

/// The field that a text begins with, and where it ends.
fn field(text: &str) -> Result<(String, usize), &'static str> {
    if !text.starts_with('"') {
        let end = text.find(',').unwrap_or(text.len());
        let field = &text[..end];
        return match field.contains('"') {
            true => Err("bare \" in non-quoted field"),
            false => Ok((field.to_owned(), end)),
        };
    }
    let mut field = String::new();
    let mut at = 1;
    while let Some(length) = text[at..].find('"') {
        field.push_str(&text[at..at + length]);
        at += length + 1;
        match text.as_bytes().get(at) {
            Some(b'"') => {
                field.push('"');
                at += 1;
            }
            None | Some(b',') => return Ok((field, at)),
            Some(_) => break,
        }
    }
    Err("extraneous or missing \" in quoted-field")
}

/// Refuses variables where the stage must be known before they are.
pub(super) fn check_from(mount: &MountFlag, line: u32) -> Result<(), Error> {
    for field in mount.fields.iter().filter(|field| field.key == "from") {
        let value = field.value.as_deref().unwrap_or_default();
        if value.find('$').is_some_and(|at| at + 1 < value.len()) {
            let message = "'from' doesn't support variable expansion, define alias stage instead";
            return Err(Error::new(ErrorKind::Mount, message, field.span, line)
                .with_hint(format!("add a stage: FROM {value} AS name, and use from=name")));
        }
    }
    Ok(())
}

impl MountFlag {
    /// Reads the options, whose values `expand` expands.
    ///
    /// # Errors
    ///
    /// What is wrong with an option, at its place; the line is 0 and the
    /// caller's to set.
    pub fn resolve(&self, expand: &dyn Fn(&str) -> Result<String, Error>) -> Result<Mount, Error> {
        let mut mount = Mount::default();
        let mut readonly = None;
        let mut has_sharing = false;
        for field in &self.fields {
            let wrong = |message: String| Error::new(ErrorKind::Mount, message, field.span, 0);
            let key = field.key.as_str();
            let only = |kinds: &[MountType]| match kinds.contains(&mount.kind) {
                true => Ok(()),
                false => {
                    let kind = kind_name(mount.kind);
                    Err(wrong(format!("unexpected key '{key}' for mount type '{kind}'")))
                }
            };
            let Some(value) = &field.value else {
                match key {
                    "readonly" | "ro" => readonly = Some(true),
                    "readwrite" | "rw" => readonly = Some(false),
                    "required" => {
                        only(&[MountType::Secret, MountType::Ssh])?;
                        mount.required = true;
                    }
                    _ => {
                        let message =
                            format!("invalid field '{}' must be a key=value pair", field.text);
                        return Err(wrong(message));
                    }
                }
                continue;
            };
            let value = expand(value)?;
            let bad = || wrong(format!("invalid value for {key}: {value}"));
            let id = |radix| {
                u32::from_str_radix(&value, radix)
                    .ok()
                    .filter(|_| !value.starts_with('+'))
                    .ok_or_else(|| wrong(format!("invalid value {value} for {key}")))
            };
            match key {
                "type" => {
                    mount.kind = kind(&value).ok_or_else(|| unknown_kind(&value, field.span))?;
                }
                "from" => mount.from = value,
                "source" | "src" => mount.source = value,
                "target" | "dst" | "destination" => mount.target = value,
                "readonly" | "ro" => readonly = Some(parse_bool(&value).ok_or_else(bad)?),
                "readwrite" | "rw" => readonly = Some(!parse_bool(&value).ok_or_else(bad)?),
                "required" => {
                    only(&[MountType::Secret, MountType::Ssh])?;
                    mount.required = parse_bool(&value).ok_or_else(bad)?;
                }
                "size" => {
                    only(&[MountType::Tmpfs])?;
                    mount.size = bytes(&value).ok_or_else(bad)?;
                }
                "id" => mount.id = value,
                "sharing" => {
                    has_sharing = true;
                    mount.sharing = Some(match value.to_lowercase().as_str() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        _ => {
                            return Err(wrong(format!("unsupported sharing value {value:?}"))
                                .with_label("expected shared, private or locked"));
                        }
                    });
                }
                "mode" => mount.mode = Some(id(8)?),
                "uid" => mount.uid = Some(id(10)?),
                "gid" => mount.gid = Some(id(10)?),
                "env" => mount.env = Some(value),
                _ => {
                    let error = wrong(format!("unexpected key '{key}' in '{}'", field.text));
                    return Err(match did_you_mean(key, KEYS) {
                        Some(near) => error.with_label(format!("did you mean `{near}`?")),
                        None => error,
                    });
                }
            }
        }
        let is_writable = matches!(mount.kind, MountType::Cache | MountType::Tmpfs);
        mount.readonly = readonly.unwrap_or(!is_writable);
        match fault(&mount, has_sharing) {
            Some(message) => Err(Error::new(ErrorKind::Mount, message, self.span, 0)),
            None => Ok(mount),
        }
    }
}

/// What is wrong with the options as a whole.
fn fault(mount: &Mount, has_sharing: bool) -> Option<String> {
    let kind = kind_name(mount.kind);
    if matches!(mount.kind, MountType::Bind | MountType::Tmpfs) {
        for (name, value) in [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)] {
            if value.is_some() {
                return Some(format!("{name} not allowed for {kind:?} type mounts"));
            }
        }
    }
    if mount.kind == MountType::Secret {
        let message = if !mount.from.is_empty() {
            "secret mount should not have a from"
        } else if has_sharing {
            "secret mount should not define sharing"
        } else if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty() {
            "invalid secret mount. one of source, target required"
        } else if !mount.source.is_empty() && !mount.id.is_empty() {
            "both source and id can't be set"
        } else {
            return None;
        };
        return Some(message.to_owned());
    }
    (has_sharing && mount.kind != MountType::Cache)
        .then(|| format!("invalid cache sharing set for {kind} mount"))
}

fn kind(name: &str) -> Option<MountType> {
    Some(match name.to_lowercase().as_str() {
        "bind" => MountType::Bind,
        "cache" => MountType::Cache,
        "tmpfs" => MountType::Tmpfs,
        "secret" => MountType::Secret,
        "ssh" => MountType::Ssh,
        _ => return None,
    })
}

fn kind_name(kind: MountType) -> &'static str {
    match kind {
        MountType::Bind => "bind",
        MountType::Cache => "cache",
        MountType::Tmpfs => "tmpfs",
        MountType::Secret => "secret",
        MountType::Ssh => "ssh",
    }
}

fn unknown_kind(name: &str, span: Span) -> Error {
    const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
    let error = Error::new(ErrorKind::Mount, format!("unsupported mount type {name:?}"), span, 0);
    match did_you_mean(name, KINDS) {
        Some(near) => error.with_label(format!("did you mean `{near}`?")),
        None => error.with_label("expected bind, cache, tmpfs, secret or ssh"),
    }
}

/// Source: Go, `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `64m`, `1.5 GiB`: bytes, in powers of 1024.
///
/// Source: docker/go-units, `RAMInBytes`.
fn bytes(text: &str) -> Option<i64> {
    let digits = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().ok()?;
    let unit = unit.to_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some(first) => "kmgtp".find(first)? as i32 + 1,
    };
    let rest = unit.get(1..).unwrap_or_default();
    if !(rest.is_empty() || power > 0 && (rest == "b" || rest == "ib")) || number < 0.0 {
        return None;
    }
    Some((number * 1024f64.powi(power)) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Mount, String> {
        let value = Word { text: text.to_owned(), span: Span { start: 8, end: 8 + text.len() } };
        let flag = fields(&value, Span { start: 0, end: 8 + text.len() })?;
        check_from(&flag, 1).map_err(|error| error.message)?;
        flag.resolve(&|text| Ok(text.replace("$V", "v"))).map_err(|error| error.message)
    }

    #[test]
    fn options_are_read_as_buildkit_reads_them() {
        let bind = Mount { readonly: true, ..Mount::default() };
        let target =
            |kind, readonly| Mount { kind, readonly, target: "/t".to_owned(), ..Mount::default() };
        for (text, want) in [
            ("target=/t", Mount { target: "/t".to_owned(), ..bind.clone() }),
            ("DST=/$V,rw", Mount { target: "/v".to_owned(), readonly: false, ..bind.clone() }),
            (
                "\"target=/a,\"\"b\",ro=0",
                Mount { target: "/a,\"b".to_owned(), readonly: false, ..bind.clone() },
            ),
            (
                "type=Cache,target=/t,sharing=LOCKED,mode=0755,uid=1",
                Mount {
                    sharing: Some(Sharing::Locked),
                    mode: Some(0o755),
                    uid: Some(1),
                    ..target(MountType::Cache, false)
                },
            ),
            (
                "type=tmpfs,target=/t,size=1.5k",
                Mount { size: 1536, ..target(MountType::Tmpfs, false) },
            ),
            (
                "type=secret,target=/t,required,env=A",
                Mount {
                    required: true,
                    env: Some("A".to_owned()),
                    ..target(MountType::Secret, true)
                },
            ),
            ("type=ssh,target=/t,required=false", target(MountType::Ssh, true)),
            ("from=a$,target=/t", Mount { from: "a$".to_owned(), ..target(MountType::Bind, true) }),
        ] {
            assert_eq!(parse(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (text, want) in [
            ("", "invalid field '' must be a key=value pair"),
            ("type=frob", "unsupported mount type \"frob\""),
            ("frob=1", "unexpected key 'frob' in 'frob=1'"),
            ("target", "invalid field 'target' must be a key=value pair"),
            ("ro=maybe", "invalid value for ro: maybe"),
            ("size=1", "unexpected key 'size' for mount type 'bind'"),
            ("type=tmpfs,size=1q", "invalid value for size: 1q"),
            ("type=cache,mode=9", "invalid value 9 for mode"),
            ("type=cache,sharing=x", "unsupported sharing value \"x\""),
            ("mode=1", "mode not allowed for \"bind\" type mounts"),
            ("sharing=shared", "invalid cache sharing set for bind mount"),
            ("required", "unexpected key 'required' for mount type 'bind'"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,src=b", "both source and id can't be set"),
            ("type=secret,id=a,from=b", "secret mount should not have a from"),
            ("a\"b", "failed to parse csv mounts: bare \" in non-quoted field"),
            ("\"a\"b", "failed to parse csv mounts: extraneous or missing \" in quoted-field"),
            ("from=$V", "'from' doesn't support variable expansion, define alias stage instead"),
        ] {
            assert_eq!(parse(text), Err(want.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, want) in [
            ("0", Some(0)),
            ("10b", Some(10)),
            ("1K", Some(1024)),
            ("1 MiB", Some(1 << 20)),
            ("2gb", Some(2 << 30)),
            ("1bb", None),
            ("k", None),
            ("-1", None),
            ("1kx", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
