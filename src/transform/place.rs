//! Where in the SQL text an error is: from DataFusion's diagnostics, the parser's message, or the words.

use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::error::Error;
use crate::transform::names;

/// What DataFusion says of a query, as an error that names the place and a way out.
///
/// `columns` are the names the reader could have meant.
pub fn planning_error(cause: DataFusionError, sql: &str, columns: &[String]) -> Error {
    let mut span = None;
    if let Some(diagnostic) = cause.diagnostic() {
        span = diagnostic.span.map(|span| (span.start.line, span.start.column));
    }
    if let Some(ours) = Error::inside(&cause) {
        return ours;
    }
    let error = match cause.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, .. } => return unknown_column(&field.name, sql, columns, span),
            other => Error::user(other.to_string()),
        },
        DataFusionError::SQL(parse, _) => {
            let text = parse.to_string();
            span = span.or_else(|| location_in(&text)).or_else(|| text.ends_with("found: EOF").then(|| end_of(sql)));
            Error::user(format!("the SQL cannot be read: {}", strip_location(&text)))
        }
        other => Error::user(first_line(&other.message())),
    };
    point(error, span, sql)
}

/// Marks an error as "no such column", so that a caller may look for the column elsewhere.
fn unknown_column(name: &str, sql: &str, columns: &[String], span: Option<(u64, u64)>) -> Error {
    let error = Error::user(format!("{UNKNOWN_COLUMN} `{name}`"));
    let near = nearest(name, columns);
    let hint = match near {
        Some(near) => {
            format!("did you mean `{near}`? A column that no file has yet can be declared under schema_override")
        }
        None => format!("the table has {}", listed(columns)),
    };
    point(error, span.or_else(|| word_place(sql, name)), sql).hint(hint)
}

/// How the message of an unknown column begins.
pub const UNKNOWN_COLUMN: &str = "there is no column";

fn point(error: Error, span: Option<(u64, u64)>, sql: &str) -> Error {
    match span {
        Some((line, column)) => error.at(line, column, sql),
        None => error,
    }
}

/// An error at the first unquoted occurrence of one of these words.
pub fn at_word(error: Error, sql: &str, words: &[&str]) -> Error {
    point(error, words.iter().find_map(|word| word_place(sql, word)), sql)
}

fn word_place(sql: &str, wanted: &str) -> Option<(u64, u64)> {
    let tokens = names::tokens(sql).ok()?;
    tokens
        .iter()
        .find(|token| matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(wanted)))
        .map(|token| (token.span.start.line, token.span.start.column))
}

/// `… at Line: 3, Column: 5` as the parser writes it.
fn location_in(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.rsplit_once("Line: ")?;
    let (line, rest) = rest.split_once(", Column: ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((line.trim().parse().ok()?, digits.parse().ok()?))
}

/// Where the text ends.
fn end_of(sql: &str) -> (u64, u64) {
    let sql = sql.trim_end();
    let line = sql.lines().count().max(1);
    let column = sql.lines().last().map_or(0, |last| last.chars().count()) + 1;
    (u64::try_from(line).unwrap_or(1), u64::try_from(column).unwrap_or(1))
}

fn strip_location(text: &str) -> String {
    let text = text.trim_start_matches("sql parser error: ");
    text.rsplit_once(" at Line: ").map_or(text, |(before, _)| before).to_owned()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The name most like this one, if any is like it.
pub fn nearest<'a>(name: &str, names: &'a [String]) -> Option<&'a String> {
    let likeness = |other: &str| strsim::jaro_winkler(&other.to_lowercase(), &name.to_lowercase());
    names.iter().filter(|other| likeness(other) > 0.8).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// What to do about a `name` that is none of these tables.
pub fn table_hint(name: &str, tables: &[String]) -> String {
    match nearest(name, tables) {
        Some(near) => format!("did you mean {near}?"),
        None if tables.is_empty() => "there is none at all".to_owned(),
        None => format!("there are {}", tables.join(", ")),
    }
}

fn listed(columns: &[String]) -> String {
    let shown: Vec<_> = columns.iter().take(20).map(|name| format!("`{name}`")).collect();
    let more = columns.len().saturating_sub(shown.len());
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}
