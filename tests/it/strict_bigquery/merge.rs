//! `MERGE`, taken apart far enough to check what DuckDB would let pass.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/standard-sql/dml-syntax#merge_statement>.

use freshet::change::types::same_name;

use super::lexer::{Lexed, Token};
use super::schema::{self, Field, Kind, Mode};
use super::storage::quoted;
use super::translate::{Translation, path};
use super::trouble::{Result, Trouble};

/// A statement with its parts in DuckDB's words.
#[derive(Debug)]
pub(super) struct Merge {
    /// Dataset and table.
    pub(super) target: (String, String),
    into: String,
    using: String,
    on: String,
    clauses: Vec<Clause>,
}

#[derive(Debug)]
struct Clause {
    /// `MATCHED AND …`, `NOT MATCHED`.
    when: String,
    does: Action,
}

/// Values are named by the column they go to.
#[derive(Debug)]
enum Action {
    Delete,
    Update(Vec<(String, String)>),
    Insert(Vec<(String, String)>),
}

/// Where a token stands outside all parentheses and CASEs.
fn outside(tokens: &[Lexed]) -> Vec<usize> {
    let mut depth = 0_usize;
    let mut out = Vec::new();
    for (at, lexed) in tokens.iter().enumerate() {
        let token = &lexed.token;
        if token.is(")") || token.is("]") || token.is("END") {
            depth = depth.saturating_sub(1);
        }
        if depth == 0 {
            out.push(at);
        }
        if token.is("(") || token.is("[") || token.is("CASE") {
            depth += 1;
        }
    }
    out
}

/// Cuts tokens at each outer occurrence of a keyword or symbol, which is left out.
fn split<'t>(tokens: &'t [Lexed], at: &str) -> Vec<&'t [Lexed]> {
    let cuts: Vec<_> = outside(tokens).into_iter().filter(|here| tokens[*here].token.is(at)).collect();
    let mut out = Vec::new();
    let mut from = 0;
    for cut in cuts {
        out.push(&tokens[from..cut]);
        from = cut + 1;
    }
    out.push(&tokens[from..]);
    out
}

fn cut<'t>(tokens: &'t [Lexed], at: &str) -> Result<(&'t [Lexed], &'t [Lexed])> {
    let here = outside(tokens).into_iter().find(|here| tokens[*here].token.is(at));
    let here = here.ok_or_else(|| Trouble::invalid_query(format!("Syntax error: Expected keyword {at}")))?;
    Ok((&tokens[..here], &tokens[here + 1..]))
}

impl Merge {
    /// Reads all of it.
    pub(super) fn parse(tokens: &[Lexed], translation: &mut Translation<'_>) -> Result<Self> {
        let rest = &tokens[1..];
        let rest = if rest.first().is_some_and(|lexed| lexed.token.is("INTO")) { &rest[1..] } else { rest };
        let (into, rest) = cut(rest, "USING")?;
        let (using, rest) = cut(rest, "ON")?;
        let mut parts = split(rest, "WHEN").into_iter();
        let on = parts.next().unwrap_or_default();
        let clauses = parts.map(|clause| Clause::parse(clause, translation)).collect::<Result<Vec<_>>>()?;
        let target = path(into).map(|(path, _)| path);
        let Some([_, dataset, table]) = target.as_deref() else {
            return Err(Trouble::invalid_query("MERGE needs the full name of its target"));
        };
        if clauses.is_empty() {
            return Err(Trouble::invalid_query("Syntax error: Expected keyword WHEN"));
        }
        Ok(Self {
            target: (dataset.clone(), table.clone()),
            into: translation.text(into)?,
            using: translation.text(using)?,
            on: translation.text(on)?,
            clauses,
        })
    }

    /// The statement; it gives one row for each action.
    pub(super) fn to_duckdb(&self) -> String {
        let mut out = format!("MERGE INTO {} USING {} ON ({})", self.into, self.using, self.on);
        for clause in &self.clauses {
            out += &format!(" WHEN {} THEN {}", clause.when, clause.does.to_duckdb());
        }
        out + " RETURNING merge_action"
    }

    /// Gives a row if two source rows match one target row, which matters only where matches are acted upon.
    pub(super) fn double_match_query(&self) -> Option<String> {
        let acts_on_matches = self.clauses.iter().any(|clause| clause.when.starts_with("MATCHED"));
        let alias = self.into.split_whitespace().last().unwrap_or_default();
        acts_on_matches.then(|| {
            let (into, using, on) = (&self.into, &self.using, &self.on);
            format!("SELECT 1 FROM {into} JOIN {using} ON ({on}) GROUP BY {alias}.rowid HAVING count(*) > 1 LIMIT 1")
        })
    }

    /// A query without rows whose columns are all values that are written, and the columns they go to.
    pub(super) fn values_query(&self) -> Option<(String, Vec<String>)> {
        let all = self.clauses.iter().flat_map(|clause| match &clause.does {
            Action::Delete => &[][..],
            Action::Update(values) | Action::Insert(values) => values.as_slice(),
        });
        let (columns, values): (Vec<_>, Vec<_>) = all.cloned().unzip();
        let values: Vec<_> = values.iter().enumerate().map(|(at, value)| format!("{value} AS v{at}")).collect();
        let (into, using) = (&self.into, &self.using);
        let sql = format!("SELECT {} FROM {into} CROSS JOIN {using} LIMIT 0", values.join(", "));
        (!columns.is_empty()).then_some((sql, columns))
    }
}

impl Clause {
    fn parse(tokens: &[Lexed], translation: &mut Translation<'_>) -> Result<Self> {
        let (when, does) = cut(tokens, "THEN")?;
        let words: Vec<_> = when.iter().take_while(|lexed| !lexed.token.is("AND")).collect();
        let is = |of: &[&str]| words.len() == of.len() && words.iter().zip(of).all(|(word, is)| word.token.is(is));
        let is_known = is(&["MATCHED"]) || is(&["NOT", "MATCHED"]);
        if !is_known {
            return Err(Trouble::invalid_query("the strict server knows WHEN [NOT] MATCHED [AND …] only"));
        }
        let condition = match &when[words.len()..] {
            [] => String::new(),
            [_, condition @ ..] => format!(" AND ({})", translation.text(condition)?),
        };
        let what = if words.len() == 1 { "MATCHED" } else { "NOT MATCHED" };
        Ok(Self { when: format!("{what}{condition}"), does: Action::parse(does, translation)? })
    }
}

impl Action {
    fn parse(tokens: &[Lexed], translation: &mut Translation<'_>) -> Result<Self> {
        let is = |at: usize, what: &str| tokens.get(at).is_some_and(|lexed: &Lexed| lexed.token.is(what));
        if is(0, "DELETE") && tokens.len() == 1 {
            return Ok(Self::Delete);
        }
        if is(0, "UPDATE") && is(1, "SET") {
            let pairs = split(&tokens[2..], ",").into_iter().map(|assignment| {
                let (column, value) = cut(assignment, "=")?;
                Ok((column_name(column)?, translation.text(value)?))
            });
            return Ok(Self::Update(pairs.collect::<Result<_>>()?));
        }
        if !is(0, "INSERT") {
            return Err(Trouble::invalid_query("Syntax error: Expected UPDATE, DELETE or INSERT"));
        }
        let (columns, values) = cut(&tokens[1..], "VALUES")?;
        let columns = split(inside(columns)?, ",").into_iter().map(column_name).collect::<Result<Vec<_>>>()?;
        let values = split(inside(values)?, ",").into_iter().map(|value| translation.text(value));
        let values = values.collect::<Result<Vec<_>>>()?;
        if columns.len() != values.len() {
            return Err(Trouble::invalid_query("Inserted row has wrong column count"));
        }
        Ok(Self::Insert(columns.into_iter().zip(values).collect()))
    }

    fn to_duckdb(&self) -> String {
        match self {
            Self::Delete => "DELETE".to_owned(),
            Self::Update(values) => {
                let set = values.iter().map(|(column, value)| format!("{} = {value}", quoted(column)));
                format!("UPDATE SET {}", set.collect::<Vec<_>>().join(", "))
            }
            Self::Insert(values) => {
                let columns: Vec<_> = values.iter().map(|(column, _)| quoted(column)).collect();
                let values: Vec<_> = values.iter().map(|(_, value)| value.as_str()).collect();
                format!("INSERT ({}) VALUES ({})", columns.join(", "), values.join(", "))
            }
        }
    }
}

fn inside(tokens: &[Lexed]) -> Result<&[Lexed]> {
    match tokens {
        [open, within @ .., close] if open.token.is("(") && close.token.is(")") => Ok(within),
        _ => Err(Trouble::invalid_query("Syntax error: Expected a list in parentheses")),
    }
}

/// A column that is written is named without its table.
fn column_name(tokens: &[Lexed]) -> Result<String> {
    match tokens {
        [Lexed { token: Token::Quoted(name), .. }] => Ok(name.clone()),
        _ => Err(Trouble::invalid_query("the strict server takes a column to be written as one quoted name")),
    }
}

/// BigQuery writes a value only to a column of its type or of a wider one; and no column twice.
pub(super) fn check_types(fields: &[Field], columns: &[String], values: &[Field]) -> Result<()> {
    for (column, value) in columns.iter().zip(values) {
        let field = schema::find(fields, column);
        let field = field.ok_or_else(|| Trouble::invalid_query(format!("Column {column} is not present in table")))?;
        if !is_assignable(field, value) {
            let (from, to) = (value.kind.rest_name(), field.kind.rest_name());
            let what = format!("Value of type {from} cannot be assigned to {column}, which has type {to}");
            return Err(Trouble::invalid_query(what));
        }
    }
    Ok(())
}

fn is_assignable(to: &Field, from: &Field) -> bool {
    if (to.mode == Mode::Repeated) != (from.mode == Mode::Repeated) {
        return false;
    }
    match (&to.kind, &from.kind) {
        (Kind::Struct(to), Kind::Struct(from)) => {
            to.len() == from.len()
                && to.iter().zip(from).all(|(to, from)| same_name(&to.name, &from.name) && is_assignable(to, from))
        }
        (to, from) => to == from || from.widens_to(to),
    }
}
