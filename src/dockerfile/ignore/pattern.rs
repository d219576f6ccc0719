//! One pattern: checked as Go's `filepath.Match` does, matched as
//! moby/patternmatcher does, which writes a regular expression.
//!
//! The expression can only be made of a handful of parts, so a small automaton
//! stands for it: its cost is states times characters whatever the pattern.
//! Odd patterns keep the meaning that the written expression has there, such as
//! `^` being an anchor, or `[a*]` being a class of `a`, `[`, `^` and `/`,
//! repeated, and then a `]`.

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    cleaned: Vec<u8>,
    kind: PatternKind,
}

#[derive(Debug, Clone)]
enum PatternKind {
    Exact,
    /// All but the trailing `**` is a prefix.
    Prefix,
    /// All but the leading `**` is a suffix.
    Suffix,
    Automaton(Vec<MatchState>),
    /// Accepted by `filepath.Match`, not a regular expression.
    Broken,
}

/// One state; the number after the last accepts.
#[derive(Debug, Clone)]
enum MatchState {
    /// One character, then the next state.
    One(Set),
    /// Any number of characters, then the next state.
    Many(Set),
    /// `(.*/)?`: to the next state but one, or into the next.
    Directories,
    /// Inside `.*/`.
    InDirectories,
    /// `^`
    Begin,
    /// `\b`, `\B`: between a word character and another, or not.
    Boundary(bool),
    /// `\z`
    End,
}

/// A set of characters.
#[derive(Debug, Clone)]
struct Set {
    is_negated: bool,
    ranges: Vec<(char, char)>,
}

impl Set {
    fn of(c: char) -> Self {
        Self { is_negated: false, ranges: vec![(c, c)] }
    }

    fn not(c: char) -> Self {
        Self { is_negated: true, ranges: vec![(c, c)] }
    }

    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|&(low, high)| low <= c && c <= high) != self.is_negated
    }
}

impl Pattern {
    /// Compiles a cleaned pattern; `None` when `filepath.Match` refuses it.
    pub(super) fn new(cleaned: &[u8]) -> Option<Self> {
        if !is_well_formed(cleaned) {
            return None;
        }
        let kind = compile(cleaned);
        Some(Self { cleaned: cleaned.to_vec(), kind })
    }

    pub(super) fn cleaned(&self) -> &[u8] {
        &self.cleaned
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self.kind, PatternKind::Broken)
    }

    /// Whether the pattern matches the whole path.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match &self.kind {
            PatternKind::Exact => path == self.cleaned,
            PatternKind::Prefix => path.starts_with(&self.cleaned[..self.cleaned.len() - 2]),
            PatternKind::Suffix => {
                let suffix = &self.cleaned[2..];
                path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path)
            }
            PatternKind::Automaton(states) => run(states, path, &mut |_, accepts| accepts),
            PatternKind::Broken => false,
        }
    }

    /// Whether some path that starts with `prefix` and goes on may match.
    pub(super) fn can_match_from(&self, prefix: &[u8]) -> bool {
        match &self.kind {
            PatternKind::Exact => {
                self.cleaned.len() > prefix.len() && self.cleaned.starts_with(prefix)
            }
            PatternKind::Prefix => {
                let head = &self.cleaned[..self.cleaned.len() - 2];
                prefix.starts_with(head) || head.starts_with(prefix)
            }
            PatternKind::Suffix => true,
            PatternKind::Automaton(states) => run(states, prefix, &mut |lives, _| lives),
            PatternKind::Broken => false,
        }
    }
}

/// Runs the automaton; `answer` gets whether a state before the last is alive
/// and whether the last is.
fn run(states: &[MatchState], text: &[u8], answer: &mut dyn FnMut(bool, bool) -> bool) -> bool {
    // Enough for all but freak patterns without a trip to the allocator.
    const INLINE: usize = 4;
    let words = (states.len() + 1).div_ceil(64);
    let mut small = [[0_u64; INLINE]; 2];
    let mut large = [Vec::new(), Vec::new()];
    let [now, next] = if words <= INLINE {
        let [a, b] = &mut small;
        [&mut a[..words], &mut b[..words]]
    } else {
        large[0].resize(words, 0);
        large[1].resize(words, 0);
        let [a, b] = &mut large;
        [&mut a[..], &mut b[..]]
    };
    let (mut now, mut next) = (now, next);
    let mut chars = Chars { rest: text };
    let mut before: Option<char> = None;
    let mut here = chars.next();
    set(now, 0);
    close(states, now, before, here);
    while let Some(c) = here {
        next.fill(0);
        for (index, state) in states.iter().enumerate() {
            if !get(now, index) {
                continue;
            }
            match state {
                MatchState::One(set_) if set_.has(c) => set(next, index + 1),
                MatchState::Many(set_) if set_.has(c) => set(next, index),
                MatchState::InDirectories => {
                    if c != '\n' {
                        set(next, index);
                    }
                    if c == '/' {
                        set(next, index + 1);
                    }
                }
                _ => {}
            }
        }
        std::mem::swap(&mut now, &mut next);
        before = Some(c);
        here = chars.next();
        close(states, now, before, here);
        if now.iter().all(|word| *word == 0) {
            return answer(false, false);
        }
    }
    let lives = (0..states.len()).any(|index| get(now, index));
    answer(lives, get(now, states.len()))
}

/// Follows the steps that consume nothing; all lead forward.
fn close(states: &[MatchState], now: &mut [u64], before: Option<char>, here: Option<char>) {
    for (index, state) in states.iter().enumerate() {
        if !get(now, index) {
            continue;
        }
        match state {
            MatchState::Many(_) => set(now, index + 1),
            MatchState::Directories => {
                set(now, index + 1);
                set(now, index + 2);
            }
            MatchState::Begin if before.is_none() => set(now, index + 1),
            MatchState::End if here.is_none() => set(now, index + 1),
            MatchState::Boundary(wanted) => {
                let is_word =
                    |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
                if (is_word(before) != is_word(here)) == *wanted {
                    set(now, index + 1);
                }
            }
            _ => {}
        }
    }
}

fn set(bits: &mut [u64], index: usize) {
    bits[index / 64] |= 1 << (index % 64);
}

fn get(bits: &[u64], index: usize) -> bool {
    bits[index / 64] & (1 << (index % 64)) != 0
}

/// Characters of bytes; each byte that is not UTF-8 is one U+FFFD.
struct Chars<'a> {
    rest: &'a [u8],
}

impl Iterator for Chars<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let first = *self.rest.first()?;
        if first < 0x80 {
            self.rest = &self.rest[1..];
            return Some(char::from(first));
        }
        let head = &self.rest[..self.rest.len().min(4)];
        let valid = match std::str::from_utf8(head) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or(""),
        };
        if let Some(c) = valid.chars().next() {
            self.rest = &self.rest[c.len_utf8()..];
            Some(c)
        } else {
            self.rest = &self.rest[1..];
            Some(char::REPLACEMENT_CHARACTER)
        }
    }
}

/// The pattern's regular expression, as the automaton that stands for it.
fn compile(cleaned: &[u8]) -> PatternKind {
    let pattern: Vec<char> = Chars { rest: cleaned }.collect();
    let mut expression = String::with_capacity(pattern.len() + 8);
    let mut kind = PatternKind::Exact;
    let automaton = || PatternKind::Automaton(Vec::new());
    let mut at = 0;
    let mut is_first = true;
    while at < pattern.len() {
        let c = pattern[at];
        at += 1;
        match c {
            '*' if pattern.get(at) == Some(&'*') => {
                at += 1;
                if pattern.get(at) == Some(&'/') {
                    at += 1;
                }
                if at == pattern.len() {
                    if matches!(kind, PatternKind::Exact) {
                        kind = PatternKind::Prefix;
                    } else {
                        expression.push_str(".*");
                        kind = automaton();
                    }
                } else {
                    expression.push_str("(.*/)?");
                    kind = automaton();
                }
                if is_first {
                    kind = PatternKind::Suffix;
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                kind = automaton();
            }
            '?' => {
                expression.push_str("[^/]");
                kind = automaton();
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                expression.push('\\');
                expression.push(c);
            }
            '\\' => {
                expression.push('\\');
                if let Some(&escaped) = pattern.get(at) {
                    at += 1;
                    expression.push(escaped);
                    kind = automaton();
                }
            }
            '[' | ']' => {
                expression.push(c);
                kind = automaton();
            }
            _ => expression.push(c),
        }
        is_first = false;
    }
    if !matches!(kind, PatternKind::Automaton(_)) {
        // `^` alone would not make it an expression there either.
        return kind;
    }
    match states_of(&expression) {
        Some(states) => PatternKind::Automaton(states),
        None => PatternKind::Broken,
    }
}

/// Reads the written expression; `None` when it is not one.
fn states_of(expression: &str) -> Option<Vec<MatchState>> {
    let chars: Vec<char> = expression.chars().collect();
    let mut states = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        match chars[at] {
            '^' => {
                states.push(MatchState::Begin);
                at += 1;
            }
            '(' => {
                // Only ever `(.*/)?`.
                states.push(MatchState::Directories);
                states.push(MatchState::InDirectories);
                at += "(.*/)?".len();
            }
            '.' => {
                // Only ever `.*` at the end.
                states.push(MatchState::Many(Set::not('\n')));
                at += 2;
            }
            '[' => {
                let set = read_class(&chars, &mut at)?;
                if chars.get(at) == Some(&'*') {
                    at += 1;
                    states.push(MatchState::Many(set));
                } else {
                    states.push(MatchState::One(set));
                }
            }
            '\\' => {
                at += 1;
                match *chars.get(at)? {
                    'b' => states.push(MatchState::Boundary(true)),
                    'B' => states.push(MatchState::Boundary(false)),
                    'A' => states.push(MatchState::Begin),
                    'z' => states.push(MatchState::End),
                    _ => {
                        states.push(MatchState::One(read_escape(&chars, &mut at)?));
                        continue;
                    }
                }
                at += 1;
            }
            c => {
                states.push(MatchState::One(Set::of(c)));
                at += 1;
            }
        }
    }
    Some(states)
}

/// What `\` and the character at `at` mean in RE2's language.
fn read_escape(chars: &[char], at: &mut usize) -> Option<Set> {
    let c = *chars.get(*at)?;
    *at += 1;
    let perl = |is_negated, ranges: &[(char, char)]| Set { is_negated, ranges: ranges.to_vec() };
    let space = [('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
    let word = [('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
    Some(match c {
        'd' | 'D' => perl(c == 'D', &[('0', '9')]),
        's' | 'S' => perl(c == 'S', &space),
        'w' | 'W' => perl(c == 'W', &word),
        'a' => Set::of('\x07'),
        'f' => Set::of('\x0c'),
        'n' => Set::of('\n'),
        'r' => Set::of('\r'),
        't' => Set::of('\t'),
        'v' => Set::of('\x0b'),
        '0'..='7' => {
            // A single digit but zero would be a back-reference.
            let mut code = c.to_digit(8)?;
            if c != '0' && !chars.get(*at).is_some_and(|d| d.is_digit(8)) {
                return None;
            }
            for _ in 0..2 {
                let Some(digit) = chars.get(*at).and_then(|d| d.to_digit(8)) else { break };
                code = code * 8 + digit;
                *at += 1;
            }
            Set::of(char::from_u32(code)?)
        }
        'x' => {
            let mut digits = String::new();
            if chars.get(*at) == Some(&'{') || chars.get(*at) == Some(&'\\') {
                // `{` arrives escaped, which is not a number.
                return None;
            }
            for _ in 0..2 {
                digits.push(*chars.get(*at)?);
                *at += 1;
            }
            Set::of(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?)
        }
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Set::of(c),
        _ => return None,
    })
}

/// Reads a class from its `[`.
fn read_class(chars: &[char], at: &mut usize) -> Option<Set> {
    *at += 1;
    let mut set = Set { is_negated: false, ranges: Vec::new() };
    if chars.get(*at) == Some(&'^') {
        set.is_negated = true;
        *at += 1;
    }
    let mut is_first = true;
    loop {
        let c = *chars.get(*at)?;
        if c == ']' && !is_first {
            *at += 1;
            return Some(set);
        }
        // A `-` may stand first or last only.
        if c == '-' && !is_first && chars.get(*at + 1).is_some_and(|next| *next != ']') {
            return None;
        }
        is_first = false;
        let posix_end = (c == '[' && chars.get(*at + 1) == Some(&':'))
            .then(|| chars[*at..].windows(2).position(|pair| pair == [':', ']']))
            .flatten()
            .filter(|end| *end > 1);
        if let Some(end) = posix_end {
            let name: String = chars[*at + 2..*at + end].iter().collect();
            let (name, is_negated) = match name.strip_prefix('^') {
                Some(rest) => (rest, true),
                None => (name.as_str(), false),
            };
            add_all(&mut set, posix_class(name)?, is_negated);
            *at += end + 2;
            continue;
        }
        if c == '\\' && chars.get(*at + 1).is_some_and(|c| "dDsSwW".contains(*c)) {
            *at += 1;
            let class = read_escape(chars, at)?;
            add_all(&mut set, &class.ranges, class.is_negated);
            continue;
        }
        let low = read_class_char(chars, at)?;
        let mut high = low;
        if chars.get(*at) == Some(&'-') && chars.get(*at + 1).is_some_and(|c| *c != ']') {
            *at += 1;
            high = read_class_char(chars, at)?;
            if high < low {
                return None;
            }
        }
        set.ranges.push((low, high));
    }
}

fn read_class_char(chars: &[char], at: &mut usize) -> Option<char> {
    let c = *chars.get(*at)?;
    *at += 1;
    if c != '\\' {
        return Some(c);
    }
    let set = read_escape(chars, at)?;
    match set.ranges[..] {
        [(low, high)] if low == high && !set.is_negated => Some(low),
        _ => None,
    }
}

/// Adds ranges, or all characters outside of them.
fn add_all(set: &mut Set, ranges: &[(char, char)], is_negated: bool) {
    if !is_negated {
        set.ranges.extend_from_slice(ranges);
        return;
    }
    let mut low = '\0';
    for &(start, end) in ranges {
        if let Some(before) = (start > low).then(|| char::from_u32(u32::from(start) - 1)).flatten()
        {
            set.ranges.push((low, before));
        }
        low = char::from_u32(u32::from(end) + 1).unwrap_or(char::MAX);
    }
    set.ranges.push((low, char::MAX));
}

/// Ranges in ascending order of a class named as in `[[:name:]]`.
fn posix_class(name: &str) -> Option<&'static [(char, char)]> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => &[('0', '9')],
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

/// Whether Go's `filepath.Match` takes the pattern: classes are closed, not
/// empty, their ranges whole; no escape at the end.
fn is_well_formed(pattern: &[u8]) -> bool {
    /// One character of a class, or its escape; something must follow.
    fn member(rest: &mut &[u8]) -> bool {
        match rest.first() {
            None | Some(b'-' | b']') => return false,
            Some(b'\\') => *rest = &rest[1..],
            Some(_) => {}
        }
        let before = rest.len();
        let mut chars = Chars { rest };
        let Some(c) = chars.next() else { return false };
        *rest = chars.rest;
        let is_invalid = c == char::REPLACEMENT_CHARACTER && before - rest.len() == 1;
        !is_invalid && !rest.is_empty()
    }
    let mut rest = pattern;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'\\' => match rest.split_first() {
                Some((_, tail)) => rest = tail,
                None => return false,
            },
            b'[' => {
                rest = rest.strip_prefix(b"^").unwrap_or(rest);
                let mut members = 0;
                loop {
                    if members > 0 && rest.first() == Some(&b']') {
                        rest = &rest[1..];
                        break;
                    }
                    if !member(&mut rest) {
                        return false;
                    }
                    if rest.first() == Some(&b'-') {
                        rest = &rest[1..];
                        if !member(&mut rest) {
                            return false;
                        }
                    }
                    members += 1;
                }
            }
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_classes_mean_what_the_written_expression_means() {
        for (pattern, path, want) in [
            ("[a*]", "a[]", true),
            ("[a*]", "]", true),
            ("[a*]", "a", false),
            ("[a?]", "a]", true),
            ("\\d", "7", true),
            ("\\d", "d", false),
            ("[[:alpha:]]x", "ax", true),
            ("[^a]", "/", true),
            ("a]", "a]", true),
        ] {
            let compiled = Pattern::new(pattern.as_bytes()).unwrap();
            assert_eq!(compiled.matches(path.as_bytes()), want, "{pattern} {path}");
        }
        assert!(Pattern::new(b"\\q").unwrap().is_broken());
    }
}
