//! Lines of the log: how an event is written, and where the text goes.

use super::HIDDEN;
use super::filter::PROGRAM;
use crate::show;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::{LookupSpan, Scope};

/// Writes an event as a line.
pub(super) struct Line {
    begun: Instant,
}

impl Line {
    /// Counts time from here on.
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now() }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let facts = event.metadata();
        let below = facts.target().strip_prefix(PROGRAM).unwrap_or(facts.target());
        let room = below.trim_start_matches(':').split("::").next().unwrap_or_default();
        let seconds = self.begun.elapsed().as_secs_f64();
        write!(writer, "{seconds:>10.6} {:<5} {room:<9} ", facts.level().as_str())?;
        for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                write!(writer, "{fields}: ")?;
            }
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Where lines go, cleaned of what is not to be in them.
pub(super) struct Cleaned {
    file: Option<Arc<File>>,
}

impl Cleaned {
    /// Writes to `file`, or to stderr without one.
    pub(super) fn to(file: Option<File>) -> Self {
        Self { file: file.map(Arc::new) }
    }
}

impl<'a> MakeWriter<'a> for Cleaned {
    type Writer = CleanedLine;

    fn make_writer(&'a self) -> CleanedLine {
        CleanedLine { file: self.file.clone() }
    }
}

/// The writer of one line, which comes whole.
pub(super) struct CleanedLine {
    file: Option<Arc<File>>,
}

impl Write for CleanedLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = clean(&String::from_utf8_lossy(bytes));
        // In one piece: a file is open for appending, and others write to stderr as well.
        match &self.file {
            Some(file) => (&**file).write_all(line.as_bytes())?,
            None => io::stderr().write_all(line.as_bytes())?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hides what is secret in a line, and escapes what is not text.
fn clean(line: &str) -> String {
    let mut text = without_queries(&show::addresses(line.trim_end_matches('\n')));
    for hidden in &*HIDDEN.lock().unwrap_or_else(PoisonError::into_inner) {
        if text.contains(hidden.as_str()) {
            text = text.replace(hidden.as_str(), show::HIDDEN);
        }
    }
    format!("{}\n", show::text(&text))
}

/// Hides the queries of addresses: a token may be in one.
fn without_queries(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let end = rest[at..]
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
            .map_or(rest.len(), |length| at + length);
        let address = &rest[..end];
        match address[at..].find('?') {
            Some(query) => {
                out.push_str(&address[..=at + query]);
                out.push_str(show::HIDDEN);
            }
            None => out.push_str(address),
        }
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cleaned_of_credentials_secrets_and_controls() {
        HIDDEN.lock().unwrap().push("hunter2-in-the-log".to_owned());
        for (line, cleaned) in [
            ("GET https://me:pw@host/x status=200\n", "GET https://***@host/x status=200\n"),
            ("value=hunter2-in-the-log!\n", "value=***!\n"),
            (
                "to http://h/x?token=a&b \"ftp://h/?c\" end?\n",
                "to http://h/x?*** \"ftp://h/?***\" end?\n",
            ),
            ("a\nb\u{1b}[2J\n", "a\\nb\\x1b[2J\n"),
        ] {
            assert_eq!(clean(line), cleaned);
        }
    }
}
