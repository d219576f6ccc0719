//! `--format` of commands that list things: `table`, `json`, a Go template, or `table` with one.
//!
//! A row is a [`Value`] of named fields; the fields that there are, with the titles of their
//! columns, are given once, so that a wrong name is an error even of an empty list.
//!
//! # Not here
//!
//! The language: [`super::template`]. The table that a command prints by itself.

use super::failure::{Class, Failure};
use super::images::write_table;
use super::template::{Escapes, Template, TemplateError, Value};
use std::io::{self, Write};

/// Narrowest column of a table that a template describes, with its gap, as in docker.
const COLUMN_MIN: usize = 10;

/// Fields of a row, with the titles of their columns.
pub(super) type Columns = [(&'static str, &'static str)];

/// A format that cannot be used, or its output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A word that is neither a format nor a template.
    #[error("unknown format `{text}`: expected table, json or a Go template")]
    Unknown {
        /// What was given.
        text: String,
        /// The first of the fields that there are.
        field: &'static str,
    },
    /// A template that is wrong.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl FormatError {
    /// Returns the failure to show.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Template(error) => error.failure(),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Failure::new(Class::Status(0), "")
            }
            Self::Output(error) => Failure::output(error),
            Self::Unknown { field, .. } => Failure::of(Class::Usage, self)
                .with_hint(format!("a template has fields: --format '{{{{.{field}}}}}'")),
        }
    }
}

/// How a list is printed.
#[derive(Debug)]
pub(super) struct ListFormat {
    columns: &'static Columns,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Table,
    Json,
    Lines(Template),
    Columns(Template),
}

impl ListFormat {
    /// Reads a `--format`, of rows that have these fields.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for a template that is wrong or names a field that there is not.
    pub(super) fn parse(text: &str, columns: &'static Columns) -> Result<Self, FormatError> {
        let template = |text: &str| {
            let template = Template::parse(text, Escapes::Read)?;
            let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
            template.check_fields(&names)?;
            Ok::<_, TemplateError>(template)
        };
        let kind = match text.trim() {
            "" | "table" => Kind::Table,
            "json" => Kind::Json,
            whole => {
                match whole.strip_prefix("table ").or_else(|| whole.strip_prefix("table\\t")) {
                    Some(rest) => Kind::Columns(template(rest.trim_start())?),
                    // Docker would print the word for each row, which is never meant.
                    None if !text.contains("{{") => {
                        let field = columns.first().map_or("", |(name, _)| *name);
                        return Err(FormatError::Unknown { text: text.to_owned(), field });
                    }
                    None => Kind::Lines(template(text)?),
                }
            }
        };
        Ok(Self { columns, kind })
    }

    /// Returns whether the command prints its own table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.kind, Kind::Table)
    }

    /// Prints rows: as lines of JSON, as lines of a template, or as the table that a template
    /// describes. Of the command's own table, all columns.
    ///
    /// # Errors
    ///
    /// [`FormatError`] where a template cannot be run on a row, or the output not be written.
    pub(super) fn write(&self, rows: &[Value], out: &mut dyn Write) -> Result<(), FormatError> {
        match &self.kind {
            Kind::Json => {
                for row in rows {
                    writeln!(out, "{}", row.to_json())?;
                }
            }
            Kind::Lines(template) => {
                for row in rows {
                    writeln!(out, "{}", template.render(row)?)?;
                }
            }
            Kind::Columns(template) => {
                let titles = self.columns.iter().map(|(name, title)| (*name, Value::text(*title)));
                let mut lines: Vec<String> =
                    template.header(&Value::row(titles)).into_iter().collect();
                for row in rows {
                    lines.push(template.render(row)?);
                }
                write_columns(&lines, out)?;
            }
            Kind::Table => {
                let titles = self.columns.iter().map(|(_, title)| (*title).to_owned());
                let mut table: Vec<Vec<String>> = vec![titles.collect()];
                for row in rows {
                    let cells = self.columns.iter().map(|(name, _)| match row.get(name) {
                        Value::Text(text) => text.to_string(),
                        Value::Nil => String::new(),
                        other => other.to_json().to_string(),
                    });
                    table.push(cells.collect());
                }
                write_table(&table, out)?;
            }
        }
        Ok(())
    }
}

/// Prints lines whose cells are set apart by tabs.
fn write_columns(lines: &[String], out: &mut dyn Write) -> io::Result<()> {
    let cells: Vec<Vec<&str>> =
        lines.iter().flat_map(|line| line.split('\n')).map(|l| l.split('\t').collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for line in &cells {
        // The last cell ends no column.
        for (column, cell) in line[..line.len() - 1].iter().enumerate() {
            let width = (cell.chars().count() + 3).max(COLUMN_MIN);
            match widths.get_mut(column) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
    }
    for line in &cells {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            text.push_str(cell);
            let width = widths.get(column).copied().unwrap_or(0);
            text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count())));
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &Columns = &[("ID", "IMAGE ID"), ("Size", "SIZE")];

    fn shown(format: &str) -> Result<String, String> {
        let rows = ["a", "a long one"]
            .map(|id| Value::row([("ID", Value::text(id)), ("Size", Value::Int(7))]));
        let mut out = Vec::new();
        ListFormat::parse(format, COLUMNS)
            .and_then(|format| format.write(&rows, &mut out))
            .map_err(|error| error.failure().message)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_list_has_dockers_formats() {
        for (format, expected) in [
            ("json", "{\"ID\":\"a\",\"Size\":7}\n{\"ID\":\"a long one\",\"Size\":7}\n"),
            ("{{.ID}}:{{.Size}}", "a:7\na long one:7\n"),
            (
                "{{.ID}}\\t{{json .}}",
                "a\t{\"ID\":\"a\",\"Size\":7}\na long one\t{\"ID\":\"a long one\",\"Size\":7}\n",
            ),
            ("table {{.ID}}\\t{{.Size}}", "IMAGE ID     SIZE\na            7\na long one   7\n"),
            (
                "table {{.Size}}\t{{upper .ID}}",
                "SIZE      IMAGE ID\n7         A\n7         A LONG ONE\n",
            ),
            ("table", "IMAGE ID     SIZE\na            7\na long one   7\n"),
        ] {
            assert_eq!(shown(format).as_deref(), Ok(expected), "{format}");
        }
        for (format, part) in [
            ("yaml", "unknown format `yaml`: expected table, json or a Go template"),
            ("{{.Nope}}", "there are ID, Size"),
            ("table {{.id}}", "there are ID, Size"),
        ] {
            let message = shown(format).unwrap_err();
            assert!(message.contains(part), "{format}: {message}");
        }
    }
}
