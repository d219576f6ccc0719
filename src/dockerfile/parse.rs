#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "the first parser; its successor comes with spans of every word"
)]
use super::ast::*;
use super::errors::{Error, ErrorKind, did_you_mean};

const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

fn err(m: impl Into<String>, span: Span, line: u32) -> Error {
    Error::new(ErrorKind::Arguments, m, span, line)
}

struct Logical {
    text: String,
    span: Span,
    lines: Lines,
    heredocs: Vec<Heredoc>,
    /// The instruction as it stands in the file, from its keyword on.
    raw: String,
}

fn phys(src: &[u8]) -> Vec<(usize, &[u8])> {
    let mut v = vec![];
    let mut at = 0;
    for l in src.split_inclusive(|&b| b == b'\n') {
        v.push((at, l));
        at += l.len();
    }
    v
}

fn end_of(lines: &[(usize, &[u8])], last: usize) -> usize {
    lines[last].0 + lines[last].1.len()
}

fn trim_cont(l: &str, esc: char) -> (String, bool) {
    let t = l.trim_end_matches([' ', '\t']);
    if let Some(r) = t.strip_suffix(esc) {
        if !r.ends_with(esc) {
            return (r.to_string(), false);
        }
    }
    (l.to_string(), true)
}

fn logical(src: &[u8]) -> Result<(Escape, Vec<Logical>), Error> {
    let lines = phys(src);
    let mut esc = '\\';
    let mut i = 0;
    let mut out = vec![];
    let text = |l: &[u8]| String::from_utf8_lossy(l).trim_end_matches(['\r', '\n']).to_string();
    let mut directives = true;
    let mut has_escape = false;
    while i < lines.len() {
        let (off, raw) = lines[i];
        let n = i as u32 + 1;
        let mut t = text(raw);
        if i == 0 {
            t = t.trim_start_matches('\u{feff}').to_string();
        }
        let tt = t.trim().to_string();
        i += 1;
        if tt.starts_with('#') {
            if directives {
                if let Some((k, v)) = tt[1..].split_once('=') {
                    if k.trim().eq_ignore_ascii_case("escape") {
                        let place = Span { start: off, end: off + t.len() };
                        let wrong =
                            |message: String| Error::new(ErrorKind::Directive, message, place, n);
                        if std::mem::replace(&mut has_escape, true) {
                            return Err(wrong(
                                "only one escape parser directive can be used".into(),
                            ));
                        }
                        esc = match v.trim() {
                            "`" => '`',
                            "\\" => '\\',
                            other => {
                                return Err(wrong(format!(
                                    "invalid escape token {other:?}: expected ` or \\"
                                )));
                            }
                        };
                    }
                    if k.trim().eq_ignore_ascii_case("syntax") {
                        let image = v.trim();
                        let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
                        if name.split([':', '@']).next() != Some("dockerfile") {
                            let place = Span { start: off, end: off + t.len() };
                            return Err(Error::new(
                                ErrorKind::Frontend,
                                format!(
                                    "frontend {image:?} is not supported: only docker/dockerfile is"
                                ),
                                place,
                                n,
                            ));
                        }
                    }
                } else {
                    directives = false;
                }
            }
            continue;
        }
        directives = false;
        if tt.is_empty() {
            continue;
        }
        let lead = t.len() - t.trim_start().len();
        let (mut line, mut end) = trim_cont(t.trim_start(), esc);
        let mut last = i - 1;
        while !end && i < lines.len() {
            let c = text(lines[i].1);
            last = i;
            i += 1;
            let ct = c.trim();
            if ct.starts_with('#') || ct.is_empty() {
                continue;
            }
            let (l, e) = trim_cont(&c, esc);
            line.push_str(&l);
            end = e;
        }
        let kw = line.split_whitespace().next().unwrap_or("").to_uppercase();
        let mut heredocs = vec![];
        let word2 = line.split_whitespace().nth(1).unwrap_or("").to_uppercase();
        let can = ["RUN", "COPY", "ADD"].contains(&kw.as_str())
            || (kw == "ONBUILD" && ["RUN", "COPY", "ADD"].contains(&word2.as_str()));
        let exec = line
            .split_whitespace()
            .filter(|w| !w.starts_with("--"))
            .nth(1)
            .is_some_and(|w| w.starts_with('['));
        if can && line.contains("<<") && !(exec && kw == "RUN") {
            for w in split_words(&line) {
                let d = w.trim_start_matches(|c: char| c.is_ascii_digit());
                let Some(r) = d.strip_prefix("<<") else { continue };
                let fd = w[..w.len() - d.len()].parse().unwrap_or(0);
                let (strip, r) = match r.strip_prefix('-') {
                    Some(r) => (true, r),
                    None => (false, r),
                };
                if r.is_empty() || r.contains('<') {
                    continue;
                }
                let expand = !r.contains(['"', '\'']);
                let name: String = r.chars().filter(|c| !['"', '\''].contains(c)).collect();
                if name.is_empty() {
                    continue;
                }
                let mut body = vec![];
                let mut done = false;
                let start = lines.get(i).map_or(src.len(), |l| l.0);
                let bl = i as u32 + 1;
                while i < lines.len() {
                    let l = lines[i].1;
                    last = i;
                    i += 1;
                    let mut c = text(l);
                    if strip {
                        c = c.trim_start_matches('\t').to_string();
                    }
                    if c == name {
                        done = true;
                        break;
                    }
                    body.extend_from_slice(l);
                }
                if !done {
                    return Err(Error::new(
                        ErrorKind::Heredoc,
                        format!("unterminated heredoc {name}"),
                        Span { start: off, end: off + raw.len() },
                        n,
                    ));
                }
                heredocs.push(Heredoc {
                    name,
                    body,
                    expand,
                    strip_tabs: strip,
                    fd,
                    span: Span { start, end: start },
                    line: bl,
                });
            }
        }
        out.push(Logical {
            text: line.trim_end().to_string(),
            span: Span { start: off + lead, end: off + text(raw).len() },
            lines: Lines { first: n, last: last as u32 + 1 },
            raw: String::from_utf8_lossy(&src[off + lead..end_of(&lines, last)]).into_owned(),
            heredocs,
        });
    }
    Ok((if esc == '`' { Escape::Backtick } else { Escape::Backslash }, out))
}

fn split_words(t: &str) -> Vec<String> {
    let mut v = vec![];
    let mut cur = String::new();
    let mut q = None;
    let mut it = t.chars().peekable();
    let mut any = false;
    while let Some(c) = it.next() {
        match q {
            None if c.is_whitespace() => {
                if any {
                    v.push(std::mem::take(&mut cur));
                    any = false;
                }
            }
            None => {
                any = true;
                if c == '"' || c == '\'' {
                    q = Some(c);
                }
                if c == '\\' {
                    cur.push(c);
                    if let Some(n) = it.next() {
                        cur.push(n);
                    }
                    continue;
                }
                cur.push(c);
            }
            Some(x) => {
                if c == x {
                    q = None;
                }
                if c == '\\' && x == '"' {
                    cur.push(c);
                    if let Some(n) = it.next() {
                        cur.push(n);
                    }
                    continue;
                }
                cur.push(c);
            }
        }
    }
    if any {
        v.push(cur);
    }
    v
}

pub fn parse_instruction(text: &str) -> Result<Instruction, Error> {
    let (_, l) = logical(text.as_bytes())?;
    match l.as_slice() {
        [one] => instr(one, Escape::Backslash),
        _ => Err(err("onbuild trigger should be a single expression", Span::default(), 0)),
    }
}

fn instr(l: &Logical, esc: Escape) -> Result<Instruction, Error> {
    let (k, mut rest) = match l.text.find(char::is_whitespace) {
        Some(i) => (&l.text[..i], l.text[i..].trim_start()),
        None => (l.text.as_str(), ""),
    };
    let kspan = Span { start: l.span.start, end: l.span.start + k.len() };
    let whole = Span { start: l.span.start, end: l.span.end };
    let locate = |text: &str| {
        let after = k.len().min(l.raw.len());
        let found = l.raw.get(after..).and_then(|rest| {
            rest.match_indices(text).map(|(at, _)| at).find(|&at| {
                let before = rest[..at].chars().next_back();
                let behind = rest[at + text.len()..].chars().next();
                let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '.');
                is_edge(before) && is_edge(behind)
            })
        });
        match found {
            Some(at) if !text.is_empty() => {
                let start = l.span.start + after + at;
                Span { start, end: start + text.len() }
            }
            _ => whole,
        }
    };
    let w = |t: &str| Word { text: t.to_string(), span: locate(t) };
    let fail = |m: String| err(m, whole, l.lines.first);
    let up = k.to_uppercase();
    let mut flags: Vec<(String, Option<String>)> = vec![];
    if ["RUN", "COPY", "ADD", "HEALTHCHECK", "FROM"].contains(&up.as_str()) {
        while rest.starts_with("--") {
            let ws = split_words(rest);
            let f = ws[0].clone();
            rest = rest[f.len()..].trim_start();
            let f: String = f.trim_start_matches("--").to_string();
            let (a, b) = match f.split_once('=') {
                Some((a, b)) => (a.to_string(), Some(b.trim_matches('"').to_string())),
                None => (f, None),
            };
            flags.push((a, b));
        }
    }
    let known: &[&str] = match up.as_str() {
        "RUN" => &["mount", "network", "security", "device"],
        "COPY" => &["from", "chown", "chmod", "link", "parents", "exclude"],
        "ADD" => &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"],
        "HEALTHCHECK" => &["interval", "timeout", "start-period", "start-interval", "retries"],
        _ => &[],
    };
    for (index, (f, _)) in flags.iter().enumerate() {
        if !["mount", "exclude", "device"].contains(&f.as_str())
            && flags[..index].iter().any(|(g, _)| g == f)
        {
            return Err(Error::new(
                ErrorKind::Flag,
                format!("duplicate flag specified: --{f}"),
                whole,
                l.lines.first,
            ));
        }
    }
    for (f, _) in &flags {
        if !known.contains(&f.as_str()) {
            let name = format!("--{f}");
            let mut error = Error::new(
                ErrorKind::Flag,
                format!("unknown flag `{name}` on {up}"),
                locate(&name),
                l.lines.first,
            );
            if let Some(near) = did_you_mean(f, known.iter().copied()) {
                error = error.with_label(format!("did you mean `--{near}`?"));
            }
            let flags: Vec<String> = known.iter().map(|flag| format!("--{flag}")).collect();
            return Err(error.with_hint(format!("{up} accepts {}", flags.join(", "))));
        }
    }
    let flag = |n: &str| flags.iter().find(|f| f.0 == n).and_then(|f| f.1.clone()).map(|v| w(&v));
    let has = |n: &str| {
        flags.iter().find(|f| f.0 == n).map(|f| f.1.as_deref().is_none_or(|v| v == "true"))
    };
    let json = |t: &str| -> Result<Option<Vec<String>>, Error> {
        let t = t.trim();
        if !t.starts_with('[') {
            return Ok(None);
        }
        match serde_json::from_str::<Vec<serde_json::Value>>(t) {
            Ok(v) => v
                .into_iter()
                .map(|x| {
                    x.as_str().map(str::to_owned).ok_or_else(|| {
                        fail("only string type is allowed in JSON format arrays".into())
                    })
                })
                .collect::<Result<Vec<_>, _>>()
                .map(Some),
            Err(_) => Ok(None),
        }
    };
    let cl = |t: &str| -> Result<CommandLine, Error> {
        Ok(match json(t)? {
            Some(v) => CommandLine::Exec(v.iter().map(|x| w(x)).collect()),
            None => CommandLine::Shell(w(t.trim_end())),
        })
    };
    let words = split_words(rest);
    let list = || -> Result<Vec<Word>, Error> {
        Ok(match json(rest)? {
            Some(v) => v,
            None => rest.split_whitespace().map(str::to_owned).collect(),
        }
        .iter()
        .map(|x| w(x))
        .collect())
    };
    let need = |n: usize| {
        if words.len() < n {
            Err(fail(format!(
                "{up} requires at least {n} argument{}",
                if n == 1 { "" } else { "s" }
            )))
        } else {
            Ok(())
        }
    };
    let pairs = || -> Result<Vec<Pair>, Error> {
        need(1)?;
        if !words[0].contains('=') {
            if words.len() < 2 {
                return Err(fail(format!("{up} must have two arguments")));
            }
            let v = rest[words[0].len()..].trim();
            return Ok(vec![Pair { name: w(&words[0]), value: w(v), is_legacy: true }]);
        }
        words
            .iter()
            .map(|p| {
                let (a, b) = p.split_once('=').ok_or_else(|| {
                    fail(format!(
                        "Syntax error - can't find = in {p:?}. Must be of the form: name=value"
                    ))
                })?;
                if a.is_empty() {
                    return Err(fail(format!("{up} names can not be blank")));
                }
                Ok(Pair { name: w(a), value: w(b), is_legacy: false })
            })
            .collect()
    };
    let transfer = || -> Result<Transfer, Error> {
        let mut s: Vec<Word> = match json(rest)? {
            Some(v) => v,
            None => rest.split_whitespace().map(str::to_owned).collect(),
        }
        .iter()
        .map(|x| w(x))
        .collect();
        if s.len() < 2 {
            return Err(fail(format!(
                "{up} requires at least two arguments, but only one was provided. Destination could not be determined"
            )));
        }
        let dest = s.pop().unwrap();
        let mut inline = vec![];
        let mut h = l.heredocs.iter();
        let mut src = vec![];
        for x in s {
            if x.text.contains("<<") && !l.heredocs.is_empty() {
                if let Some(d) = h.next() {
                    inline.push(InlineFile { heredoc: d.clone(), marker: x });
                    continue;
                }
            }
            src.push(x);
        }
        Ok(Transfer { sources: src, inline, dest })
    };
    let dur = |n: &str| -> Result<i64, Error> {
        let Some(v) = flag(n) else { return Ok(0) };
        let t = v.text;
        let mut total = 0f64;
        let mut num = String::new();
        let mut unit = String::new();
        let add = |num: &str, unit: &str| -> Option<f64> {
            let m = match unit {
                "h" => 3.6e12,
                "m" => 6e10,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" => 1e3,
                "ns" => 1.0,
                _ => return None,
            };
            num.parse::<f64>().ok().map(|x| x * m)
        };
        for c in t.chars() {
            if c.is_ascii_digit() || c == '.' {
                if !unit.is_empty() {
                    total +=
                        add(&num, &unit).ok_or_else(|| fail(format!("invalid duration {t}")))?;
                    num.clear();
                    unit.clear();
                }
                num.push(c);
            } else {
                unit.push(c);
            }
        }
        if t != "0" {
            total += add(&num, &unit).ok_or_else(|| fail(format!("invalid duration {t}")))?;
        }
        Ok(total as i64)
    };
    let command = match up.as_str() {
        "RUN" => Command::Run(Run {
            command: cl(rest)?,
            heredocs: l.heredocs.clone(),
            mounts: flags
                .iter()
                .filter(|f| f.0 == "mount")
                .map(|m| MountFlag {
                    fields: m
                        .1
                        .as_deref()
                        .unwrap_or("")
                        .split(',')
                        .map(|f| {
                            let (k, v) = f
                                .split_once('=')
                                .map_or((f, None), |(k, v)| (k, Some(v.to_string())));
                            MountField { key: k.to_lowercase(), value: v, text: f.into() }
                        })
                        .collect(),
                    span: whole,
                })
                .collect(),
            network: match flag("network").as_ref().map(|w| w.text.as_str()) {
                None | Some("default") => Network::Default,
                Some("none") => Network::None,
                Some("host") => Network::Host,
                Some(o) => return Err(fail(format!("invalid network mode {o}"))),
            },
            security: match flag("security").as_ref().map(|w| w.text.as_str()) {
                Some("insecure") => Security::Insecure,
                _ => Security::Sandbox,
            },
            devices: vec![],
        }),
        "CMD" => Command::Cmd(cl(rest)?),
        "ENTRYPOINT" => Command::Entrypoint(cl(rest)?),
        "ENV" => Command::Env(pairs()?),
        "LABEL" => Command::Label(pairs()?),
        "ARG" => {
            need(1)?;
            if words.iter().any(|word| word.is_empty() || word.starts_with('=')) {
                return Err(fail("ARG names can not be blank".into()));
            }
            Command::Arg(
                words
                    .iter()
                    .map(|p| {
                        let (a, b) =
                            p.split_once('=').map_or((p.as_str(), None), |(a, b)| (a, Some(w(b))));
                        ArgDeclaration { name: w(a), default: b, description: None }
                    })
                    .collect(),
            )
        }
        "COPY" => Command::Copy(Copy {
            transfer: transfer()?,
            from: flag("from"),
            chown: flag("chown"),
            chmod: flag("chmod"),
            link: has("link").unwrap_or(false),
            parents: has("parents").unwrap_or(false),
            exclude: flags
                .iter()
                .filter(|f| f.0 == "exclude")
                .map(|f| w(f.1.as_deref().unwrap_or("")))
                .collect(),
        }),
        "ADD" => Command::Add(Add {
            transfer: transfer()?,
            chown: flag("chown"),
            chmod: flag("chmod"),
            link: has("link").unwrap_or(false),
            exclude: flags
                .iter()
                .filter(|f| f.0 == "exclude")
                .map(|f| w(f.1.as_deref().unwrap_or("")))
                .collect(),
            checksum: flag("checksum"),
            keep_git_dir: has("keep-git-dir"),
            unpack: has("unpack"),
        }),
        "WORKDIR" => {
            need(1)?;
            Command::Workdir(w(rest.trim()))
        }
        "USER" => {
            need(1)?;
            Command::User(w(rest.trim()))
        }
        "STOPSIGNAL" => {
            need(1)?;
            Command::Stopsignal(w(rest.trim()))
        }
        "MAINTAINER" => {
            need(1)?;
            Command::Maintainer(w(rest.trim()))
        }
        "EXPOSE" => {
            need(1)?;
            Command::Expose(rest.split_whitespace().map(w).collect())
        }
        "VOLUME" => {
            need(1)?;
            Command::Volume(list()?)
        }
        "SHELL" => Command::Shell(
            json(rest)?
                .ok_or_else(|| fail("SHELL requires the arguments to be in JSON form".into()))?
                .iter()
                .map(|x| w(x))
                .collect(),
        ),
        "ONBUILD" => {
            need(1)?;
            let trigger = words[0].to_uppercase();
            if ["FROM", "ONBUILD", "MAINTAINER"].contains(&trigger.as_str()) {
                return Err(fail(format!("{trigger} isn't allowed as an ONBUILD trigger")));
            }
            let mut expr = rest.to_string();
            for h in &l.heredocs {
                expr.push('\n');
                expr += &String::from_utf8_lossy(&h.body);
                expr += &h.name;
            }
            Command::Onbuild(Onbuild { expression: expr, trigger: None })
        }
        "HEALTHCHECK" => {
            need(1)?;
            let (t, r) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let test = match t.to_uppercase().as_str() {
                "NONE" if !r.trim().is_empty() => {
                    return Err(fail("HEALTHCHECK NONE takes no arguments".into()));
                }
                "NONE" => vec!["NONE".to_string()],
                "CMD" => match json(r)? {
                    Some(v) => {
                        let mut x = vec!["CMD".to_string()];
                        x.extend(v);
                        x
                    }
                    None => vec!["CMD-SHELL".to_string(), r.trim().to_string()],
                },
                o => return Err(fail(format!("Unknown type {o:?} in HEALTHCHECK (try CMD)"))),
            };
            Command::Healthcheck(Healthcheck {
                test,
                interval: dur("interval")?,
                timeout: dur("timeout")?,
                start_period: dur("start-period")?,
                start_interval: dur("start-interval")?,
                retries: match flag("retries") {
                    Some(v) => match v.text.parse::<i32>() {
                        Ok(retries) if retries >= 0 => retries,
                        _ => return Err(fail(format!("--retries cannot be {}", v.text))),
                    },
                    None => 0,
                },
            })
        }
        _ => {
            let mut error = Error::new(
                ErrorKind::UnknownInstruction,
                format!("unknown instruction `{k}`"),
                kspan,
                l.lines.first,
            );
            if let Some(near) = did_you_mean(&up, KEYWORDS.iter().copied()) {
                error = error.with_label(format!("did you mean `{near}`?"));
            }
            return Err(error);
        }
    };
    let _ = esc;
    Ok(Instruction {
        command,
        origin: Origin {
            keyword: Word { text: k.into(), span: kspan },
            original: l.text.clone(),
            span: whole,
            lines: l.lines,
            ..Default::default()
        },
    })
}

pub fn parse(source: &[u8]) -> Result<Dockerfile, Vec<Error>> {
    let (escape, ls) = logical(source).map_err(|e| vec![e])?;
    let mut file = Dockerfile { escape, ..Dockerfile::default() };
    let mut errors = vec![];
    if ls.is_empty() {
        return Err(vec![Error::new(
            ErrorKind::Empty,
            "file with no instructions",
            Span::default(),
            0,
        )]);
    }
    for l in &ls {
        let first = l.text.split_whitespace().next().unwrap_or("");
        if first.eq_ignore_ascii_case("FROM") {
            let mut p = split_words(&l.text);
            p.remove(0);
            let mut platform = None;
            while p.first().is_some_and(|x| x.starts_with("--")) {
                let f = p.remove(0);
                if let Some(v) = f.strip_prefix("--platform=") {
                    platform = Some(Word { text: v.into(), span: l.span });
                }
            }
            let w = |t: &str| {
                let at = l.raw.get(4..).and_then(|rest| rest.find(t)).map(|at| at + 4);
                let span = at.map_or(l.span, |at| Span {
                    start: l.span.start + at,
                    end: l.span.start + at + t.len(),
                });
                Word { text: t.to_string(), span }
            };
            match p.as_slice() {
                [b] => file.stages.push(Stage {
                    base: w(b),
                    name: None,
                    as_keyword: None,
                    name_as_typed: None,
                    platform,
                    from: Origin {
                        original: l.text.clone(),
                        lines: l.lines,
                        span: l.span,
                        ..Default::default()
                    },
                    instructions: vec![],
                }),
                [b, a, n] if a.eq_ignore_ascii_case("as") => file.stages.push(Stage {
                    base: w(b),
                    name: Some(w(&n.to_lowercase())),
                    as_keyword: Some(w(a)),
                    name_as_typed: Some(n.clone()),
                    platform,
                    from: Origin {
                        original: l.text.clone(),
                        lines: l.lines,
                        span: l.span,
                        ..Default::default()
                    },
                    instructions: vec![],
                }),
                _ => errors.push(err(
                    "FROM requires either one or three arguments",
                    l.span,
                    l.lines.first,
                )),
            }
            continue;
        }
        match instr(l, escape) {
            Err(e) => errors.push(e),
            Ok(i) => {
                if let Some(s) = file.stages.last_mut() {
                    s.instructions.push(i);
                } else if matches!(i.command, Command::Arg(_)) {
                    file.global_args.push(i);
                } else {
                    errors.push(Error::new(
                        ErrorKind::OutsideStage,
                        "no build stage in current context: expected FROM first",
                        l.span,
                        l.lines.first,
                    ));
                }
            }
        }
    }
    if errors.is_empty() && file.stages.is_empty() {
        errors.push(Error::new(
            ErrorKind::Empty,
            "dockerfile contains no stages to build",
            Span::default(),
            0,
        ));
    }
    if errors.is_empty() { Ok(file) } else { Err(errors) }
}
impl MountFlag {
    pub fn resolve(&self, expand: &dyn Fn(&str) -> Result<String, Error>) -> Result<Mount, Error> {
        let mut m = Mount::default();
        let mut ro = None;
        for f in &self.fields {
            let v = expand(f.value.as_deref().unwrap_or(""))?;
            let num = |v: &str| {
                v.parse::<u32>().map_err(|_| err(format!("invalid value {v}"), self.span, 0))
            };
            let b = |f: &MountField| f.value.as_deref().is_none_or(|v| v == "true" || v == "1");
            match f.key.as_str() {
                "type" => {
                    m.kind = match v.as_str() {
                        "bind" => MountType::Bind,
                        "cache" => MountType::Cache,
                        "tmpfs" => MountType::Tmpfs,
                        "secret" => MountType::Secret,
                        "ssh" => MountType::Ssh,
                        o => {
                            return Err(err(format!("unsupported mount type {o:?}"), self.span, 0));
                        }
                    }
                }
                "target" | "dst" | "destination" => m.target = v,
                "source" | "src" => m.source = v,
                "from" => m.from = v,
                "id" => m.id = v,
                "rw" | "readwrite" => ro = Some(!b(f)),
                "ro" | "readonly" => ro = Some(b(f)),
                "env" => m.env = Some(v),
                "required" => m.required = b(f),
                "sharing" => {
                    m.sharing = Some(match v.as_str() {
                        "shared" => Sharing::Shared,
                        "private" => Sharing::Private,
                        "locked" => Sharing::Locked,
                        o => {
                            return Err(err(
                                format!("unsupported sharing value {o:?}"),
                                self.span,
                                0,
                            ));
                        }
                    })
                }
                "mode" => {
                    m.mode = Some(
                        u32::from_str_radix(&v, 8)
                            .map_err(|_| err("invalid mode", self.span, 0))?,
                    )
                }
                "uid" => m.uid = Some(num(&v)?),
                "gid" => m.gid = Some(num(&v)?),
                "size" => {
                    m.size =
                        v.trim_end_matches(|c: char| c.is_alphabetic()).parse::<i64>().unwrap_or(0)
                            * match v.to_lowercase().chars().last() {
                                Some('k') => 1 << 10,
                                Some('m') => 1 << 20,
                                Some('g') => 1 << 30,
                                _ => 1,
                            }
                }
                o => {
                    return Err(err(format!("unexpected key {o:?} in {:?}", f.text), self.span, 0));
                }
            }
        }
        m.readonly = ro.unwrap_or(m.kind == MountType::Bind);
        Ok(m)
    }
}
