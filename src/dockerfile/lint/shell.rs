//! As much of the shell's language as the checks of RUN need: where one command ends and the next
//! begins, and which words it has.
//!
//! Quotes and escapes are taken away, variables stay as they are, and what stands in `$(…)` is part
//! of its word. A text that no shell would take gives some commands; the build will say more.

/// What ends a command and begins the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// A new line, `;`, `&`, `&&`, `||`, a bracket, or the beginning.
    Other,
    /// `|`: the command reads what the one before writes.
    Pipe,
}

/// A command with its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Simple {
    /// What stands before it.
    pub(super) joint: Joint,
    /// The program, then its arguments; never empty.
    pub(super) words: Vec<String>,
    /// Where its first word begins, in bytes of the text.
    pub(super) start: usize,
}

impl Simple {
    /// The program without its directory.
    pub(super) fn program(&self) -> &str {
        let word = self.words.first().map_or("", String::as_str);
        word.rsplit('/').next().unwrap_or(word)
    }

    /// Its arguments.
    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The first argument that is not an option: `update` of `apt-get -q update`.
    pub(super) fn subcommand(&self) -> &str {
        let found = self.arguments().iter().find(|word| !word.starts_with('-'));
        found.map_or("", String::as_str)
    }
}

/// Words that come before a command and are none.
const PREFIXES: [&str; 14] = [
    "if", "then", "else", "elif", "do", "while", "until", "!", "{", "time", "exec", "sudo",
    "command", "env",
];

/// Splits a text into commands.
pub(super) fn commands(text: &str) -> Vec<Simple> {
    let mut splitter = Splitter {
        commands: Vec::new(),
        words: Vec::new(),
        word: None,
        start: 0,
        joint: Joint::Other,
    };
    let mut quote = None;
    let mut depth = 0usize;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|&(_, c)| c);
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), c) => splitter.push(at, c),
            (_, '\\') => {
                if let Some((_, escaped)) = chars.next()
                    && escaped != '\n'
                {
                    splitter.push(at, escaped);
                }
            }
            (Some(_), c) => splitter.push(at, c),
            (None, '\'' | '"') => {
                quote = Some(c);
                splitter.begin(at);
            }
            (None, '(') if depth > 0 || splitter.is_at_dollar() => {
                depth += 1;
                splitter.push(at, c);
            }
            (None, ')') if depth > 0 => {
                depth -= 1;
                splitter.push(at, c);
            }
            (None, c) if depth > 0 => splitter.push(at, c),
            (None, '|') if next == Some('|') => {
                chars.next();
                splitter.end_command(Joint::Other);
            }
            (None, '|') => {
                // `|&` is a pipe as well.
                if next == Some('&') {
                    chars.next();
                }
                splitter.end_command(Joint::Pipe);
            }
            // `2>&1` and `&>` are not ends.
            (None, '&') if splitter.is_at_redirection() || next == Some('>') => {
                splitter.push(at, c);
            }
            (None, '&' | ';' | '\n' | '(' | ')') => splitter.end_command(Joint::Other),
            (None, '#') if splitter.word.is_none() => {
                while chars.peek().is_some_and(|&(_, c)| c != '\n') {
                    chars.next();
                }
            }
            (None, c) if c.is_whitespace() => splitter.end_word(),
            (None, c) => splitter.push(at, c),
        }
    }
    splitter.end_command(Joint::Other);
    splitter.commands
}

struct Splitter {
    commands: Vec<Simple>,
    words: Vec<(usize, String)>,
    /// The word being read and where it began.
    word: Option<String>,
    start: usize,
    joint: Joint,
}

impl Splitter {
    fn begin(&mut self, at: usize) {
        if self.word.is_none() {
            self.word = Some(String::new());
            self.start = at;
        }
    }

    fn push(&mut self, at: usize, c: char) {
        self.begin(at);
        if let Some(word) = &mut self.word {
            word.push(c);
        }
    }

    fn is_at_dollar(&self) -> bool {
        self.word.as_ref().is_some_and(|word| word.ends_with('$'))
    }

    fn is_at_redirection(&self) -> bool {
        self.word.as_ref().is_some_and(|word| word.ends_with('>'))
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take() {
            self.words.push((self.start, word));
        }
    }

    fn end_command(&mut self, next: Joint) {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        let is_prefix = |word: &str| PREFIXES.contains(&word) || is_assignment(word);
        let skipped = words.iter().take_while(|(_, word)| is_prefix(word)).count();
        // Assignments alone are the command.
        let skipped = if skipped == words.len() { 0 } else { skipped };
        let mut words = words.into_iter().skip(skipped);
        if let Some((start, first)) = words.next() {
            let mut all = vec![first];
            all.extend(words.map(|(_, word)| word));
            self.commands.push(Simple { joint: self.joint, words: all, start });
        }
        self.joint = next;
    }
}

/// Whether a word is `NAME=value`.
pub(super) fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn splits(text: &str, want: &[&[&str]]) {
        let got: Vec<Vec<String>> = commands(text).into_iter().map(|c| c.words).collect();
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn commands_end_where_the_shell_ends_them() {
        splits("a b && c || d; e & f\ng", &[&["a", "b"], &["c"], &["d"], &["e"], &["f"], &["g"]]);
        splits("echo 'a && b' \"c; d\" e\\;f", &[&["echo", "a && b", "c; d", "e;f"]]);
        splits("x $(a; b | c) y", &[&["x", "$(a; b | c)", "y"]]);
        splits("a >o 2>&1 # && b\nc", &[&["a", ">o", "2>&1"], &["c"]]);
        splits("(cd x && y)", &[&["cd", "x"], &["y"]]);
        splits("A=1 B=2 sudo make; C=3", &[&["make"], &["C=3"]]);
        splits("if a; then b; fi", &[&["a"], &["b"], &["fi"]]);
        splits("a \\\n  b", &[&["a", "b"]]);
        splits("", &[]);
        splits("'open", &[&["open"]]);
    }

    #[test]
    fn pipes_are_known_and_places_too() {
        let found = commands("set -e; curl x | sh");
        assert_eq!((found[1].program(), found[1].joint), ("curl", Joint::Other));
        assert_eq!((found[2].program(), found[2].joint, found[2].start), ("sh", Joint::Pipe, 17));
        let found = commands("/usr/bin/apt-get -q update");
        assert_eq!((found[0].program(), found[0].subcommand()), ("apt-get", "update"));
    }
}
