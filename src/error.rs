//! One error type for the whole program, whose kind says what the caller must do.
//!
//! A message says what happened; its [`Place`] says where (table, file, query, line); `hint` says
//! what the reader can do about it.

use std::fmt;
use std::sync::Arc;

use datafusion::error::DataFusionError;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// No more of a line is shown.
const EXCERPT_CHARACTERS_MAX: usize = 240;
/// No more of a cause is said.
const CAUSE_CHARACTERS_MAX: usize = 2_000;

/// What the caller must do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is wrong with the input: try again later.
    Retry,
    /// One change file cannot be used: set it aside, go on with the others.
    Data,
    /// The configuration or the SQL must be mended; the table stops until then.
    User,
    /// Another owner has the table: stop working on it.
    Fenced,
    /// freshet itself is wrong.
    Bug,
}

/// Where an error happened; every part is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The source's table, as `database.table`.
    pub table: Option<String>,
    /// The change file's location.
    pub file: Option<String>,
    /// Row number in the file, from 0.
    pub row: Option<u64>,
    /// Path of the SQL or configuration file.
    pub query: Option<String>,
    /// Line and column in the query, both from 1.
    pub line_column: Option<(u64, u64)>,
}

/// What went wrong, where, why, and what to do.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: Kind,
    message: String,
    place: Place,
    excerpt: Option<String>,
    hint: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a message that is a full sentence without its final stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            place: Place::default(),
            excerpt: None,
            hint: None,
            source: None,
        }))
    }

    /// See [`Kind::Retry`].
    pub fn retry(message: impl Into<String>) -> Self {
        Self::new(Kind::Retry, message)
    }

    /// See [`Kind::Data`].
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }

    /// See [`Kind::User`].
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(Kind::User, message)
    }

    /// See [`Kind::Fenced`].
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::new(Kind::Fenced, message)
    }

    /// See [`Kind::Bug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
    }

    /// The error of ours that another error carries somewhere in its chain of causes.
    pub fn inside(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        find::<Self>(error).cloned()
    }

    /// What a failure while rows flow means: an error of ours comes back as it was; want of memory or disk is
    /// to be retried; anything else is the data's.
    pub fn of_rows(cause: DataFusionError) -> Self {
        if let Some(ours) = Self::inside(&cause) {
            return ours;
        }
        match cause.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::retry("there is not enough memory for this")
                .hint("raise pipeline_config.memory, or lower batch_bytes or tables_at_once"),
            DataFusionError::Internal(_) => Self::bug("the query engine failed"),
            _ if find::<std::io::Error>(&cause).is_some() => {
                Self::retry("a temporary file cannot be written or read").hint("is the disk full?")
            }
            _ => Self::data("a value cannot be transformed"),
        }
        .because(cause)
    }

    /// Adds what the reader can do; a full sentence without its final stop.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Names the table, unless one is named already.
    #[must_use]
    pub fn in_table(mut self, table: impl fmt::Display) -> Self {
        self.0.place.table.get_or_insert_with(|| table.to_string());
        self
    }

    /// Names the change file, unless one is named already.
    #[must_use]
    pub fn in_file(mut self, file: impl fmt::Display) -> Self {
        self.0.place.file.get_or_insert_with(|| file.to_string());
        self
    }

    /// Names the row of the file, from 0.
    #[must_use]
    pub fn in_row(mut self, row: u64) -> Self {
        self.0.place.row = Some(row);
        self
    }

    /// Names the SQL or configuration file, unless one is named already.
    #[must_use]
    pub fn in_query(mut self, query: impl fmt::Display) -> Self {
        self.0.place.query.get_or_insert_with(|| query.to_string());
        self
    }

    /// Points at a line and column (both from 1) and shows the text of that line.
    #[must_use]
    pub fn at(mut self, line: u64, column: u64, text: &str) -> Self {
        self.0.place.line_column = Some((line, column));
        self.0.excerpt =
            usize::try_from(line).ok().and_then(|line| text.lines().nth(line.saturating_sub(1))).map(excerpt);
        self
    }

    /// What the caller must do.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The same error, to be treated as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Where it happened.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// The message alone, without place, causes and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The hint alone.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The whole report for a person: message, place, excerpt, causes and hint, on several lines.
    pub fn report(&self) -> String {
        let inner = &self.0;
        let mut out = inner.message.clone();
        let place = inner.place.to_string();
        if !place.is_empty() {
            out.push_str(&format!("\n  at {place}"));
        }
        if let (Some(text), Some((line, column))) = (&inner.excerpt, inner.place.line_column) {
            let before = usize::try_from(column).unwrap_or(1).saturating_sub(1);
            let pad: String = text.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            out.push_str(&format!("\n  {line:>4} | {text}\n       | {pad}^"));
        }
        for (n, cause) in causes(self).iter().enumerate() {
            out.push_str(&format!("\n  cause {}: {cause}", n + 1));
        }
        if let Some(hint) = &inner.hint {
            out.push_str(&format!("\nhint: {hint}"));
        }
        out
    }
}

fn excerpt(line: &str) -> String {
    line.chars().take(EXCERPT_CHARACTERS_MAX).collect()
}

/// An error and its causes, the outermost first.
pub fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The first error of a type in a chain of causes.
pub fn find<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref::<T>())
}

/// What to do where TLS is refused.
pub const CERTIFICATE_HINT: &str = "if a proxy stands between, add its root certificate to the system's, or name \
                                    the certificate's file in SSL_CERT_FILE; is the machine's clock right?";

/// Whether an error or one of its causes says this word, in letters of any case.
pub fn says(error: &(dyn std::error::Error + 'static), word: &str) -> bool {
    let is_word = |said: &str| said.eq_ignore_ascii_case(word);
    chain(error).any(|error| error.to_string().split(|letter: char| !letter.is_alphanumeric()).any(is_word))
}

/// The chain of causes, each said once and in one line.
fn causes(error: &Error) -> Vec<String> {
    let mut said = error.message().to_owned();
    let mut out = Vec::new();
    for cause in chain(error).skip(1) {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = text.chars().take(CAUSE_CHARACTERS_MAX).collect();
        if !said.contains(&text) {
            said.push_str(&text);
            out.push(text);
        }
    }
    out
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(table) = &self.table {
            parts.push(format!("table {table}"));
        }
        if let Some(file) = &self.file {
            parts.push(format!("file {file}"));
        }
        if let Some(row) = self.row {
            parts.push(format!("row {row}"));
        }
        match (&self.query, self.line_column) {
            (Some(query), Some((line, column))) => parts.push(format!("{query}:{line}:{column}")),
            (Some(query), None) => parts.push(query.clone()),
            (None, Some((line, column))) => parts.push(format!("line {line}, column {column}")),
            (None, None) => {}
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let place = self.0.place.to_string();
        if place.is_empty() { Ok(()) } else { write!(f, " ({place})") }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::error::ArrowError;

    #[test]
    fn a_report_names_place_causes_and_hint_and_points_at_the_text() {
        let error = Error::user("column `amout` is unknown")
            .in_table("shop.orders")
            .in_query("queries/shop/orders.sql")
            .at(2, 8, "SELECT id,\n       amout")
            .because(std::io::Error::other("deep"))
            .hint("did you mean `amount`?");
        assert_eq!(
            error.report(),
            "column `amout` is unknown\n  at table shop.orders, queries/shop/orders.sql:2:8\n     2 |        amout\n       \
             |        ^\n  cause 1: deep\nhint: did you mean `amount`?"
        );
    }

    #[test]
    fn our_own_error_comes_out_of_any_wrapping() {
        let ours = || Error::data("row 3 is bad").hint("mend it");
        let wrapped = [
            DataFusionError::from(ours()),
            DataFusionError::Context("while reading".into(), Box::new(ours().into())),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(ours()))), None),
            DataFusionError::External(Box::new(DataFusionError::from(ours()))),
            DataFusionError::Shared(std::sync::Arc::new(ours().into())),
        ];
        for error in wrapped {
            let error = Error::of_rows(error);
            assert_eq!((error.kind(), error.message()), (Kind::Data, "row 3 is bad"));
            assert_eq!(error.hint_text(), Some("mend it"));
        }
    }

    #[test]
    fn too_little_memory_is_worth_another_try_and_bad_rows_are_not() {
        let memory = Error::of_rows(DataFusionError::ResourcesExhausted("no".into()));
        assert_eq!(memory.kind(), Kind::Retry);
        assert!(memory.hint_text().unwrap().contains("memory"));
        assert_eq!(Error::of_rows(DataFusionError::Execution("bad cast".into())).kind(), Kind::Data);
    }
}
