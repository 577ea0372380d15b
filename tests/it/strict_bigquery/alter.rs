//! `ALTER TABLE … ALTER COLUMN … SET DATA TYPE …`, the only way in which a column's type changes.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/standard-sql/data-definition-language#alter_column_set_data_type_statement>.

use std::iter::Peekable;
use std::slice::Iter;

use chrono::{DateTime, Utc};
use freshet::change::types::same_name;

use super::PROJECT;
use super::lexer::{Lexed, Token};
use super::schema::{self, Field, Kind, Mode};
use super::translate::path;
use super::trouble::{Result, Trouble};

/// A statement.
#[derive(Debug)]
pub(super) struct Alter {
    /// Dataset and table.
    pub(super) target: (String, String),
    /// The columns, as they are to be.
    columns: Vec<Field>,
}

type Tokens<'t> = Peekable<Iter<'t, Lexed>>;

fn unreadable() -> Trouble {
    Trouble::invalid_query("Syntax error: the strict server cannot read this ALTER TABLE")
}

fn eat(tokens: &mut Tokens<'_>, words: &[&str]) -> Result<()> {
    for word in words {
        if !tokens.next().is_some_and(|lexed| lexed.token.is(word)) {
            return Err(unreadable());
        }
    }
    Ok(())
}

/// Takes the next token, if it is this.
fn take(tokens: &mut Tokens<'_>, what: &str) -> bool {
    tokens.next_if(|lexed| lexed.token.is(what)).is_some()
}

impl Alter {
    /// Reads all of it.
    pub(super) fn parse(tokens: &[Lexed], now: DateTime<Utc>) -> Result<Self> {
        let (name, length) = path(tokens.get(2..).unwrap_or_default()).ok_or_else(unreadable)?;
        let [in_project, dataset, table] = name.as_slice() else { return Err(unreadable()) };
        if in_project != PROJECT {
            return Err(Trouble::not_found(format!("Project {in_project}")));
        }
        let mut rest = tokens[2 + length..].iter().peekable();
        let mut columns: Vec<Field> = Vec::new();
        loop {
            eat(&mut rest, &["ALTER", "COLUMN"])?;
            let name = quoted(&mut rest)?;
            eat(&mut rest, &["SET", "DATA", "TYPE"])?;
            if schema::find(&columns, &name).is_some() {
                return Err(Trouble::invalid_query(format!("Column {name} is altered twice")));
            }
            columns.push(column(name, &mut rest, now)?);
            match rest.next() {
                None => return Ok(Self { target: (dataset.clone(), table.clone()), columns }),
                Some(comma) if comma.token.is(",") => {}
                Some(_) => return Err(unreadable()),
            }
        }
    }

    /// The columns of the table after it.
    pub(super) fn apply(&self, fields: &[Field], now: DateTime<Utc>) -> Result<Vec<Field>> {
        let mut out = fields.to_vec();
        for to in &self.columns {
            let field = out.iter_mut().find(|field| same_name(&field.name, &to.name));
            let field = field.ok_or_else(|| Trouble::invalid_query(format!("Column not found: {}", to.name)))?;
            change(field, to, now)?;
        }
        Ok(out)
    }
}

fn quoted(tokens: &mut Tokens<'_>) -> Result<String> {
    match tokens.next().map(|lexed| &lexed.token) {
        Some(Token::Quoted(name)) => Ok(name.clone()),
        _ => Err(unreadable()),
    }
}

/// `INT64 NOT NULL`, `ARRAY<…>`, `STRUCT<name …, …>`
fn column(name: String, tokens: &mut Tokens<'_>, now: DateTime<Utc>) -> Result<Field> {
    let (mut kind, mut mode) = (None, Mode::Nullable);
    if take(tokens, "ARRAY") {
        eat(tokens, &["<"])?;
        kind = Some(column(name.clone(), tokens, now)?.kind);
        mode = Mode::Repeated;
        eat(tokens, &[">"])?;
    } else if take(tokens, "STRUCT") {
        eat(tokens, &["<"])?;
        let mut fields = Vec::new();
        loop {
            let name = quoted(tokens)?;
            fields.push(column(name, tokens, now)?);
            if !take(tokens, ",") {
                break;
            }
        }
        eat(tokens, &[">"])?;
        kind = Some(Kind::Struct(fields));
    } else if let Some(Token::Word(word)) = tokens.next().map(|lexed| &lexed.token) {
        kind = Kind::of_sql(&word.to_uppercase());
    }
    if take(tokens, "NOT") {
        eat(tokens, &["NULL"])?;
        if mode == Mode::Repeated {
            return Err(Trouble::invalid_query("NOT NULL constraint is not allowed for an ARRAY"));
        }
        mode = Mode::Required;
    }
    Ok(Field { mode, ..Field::nullable(&name, kind.ok_or_else(unreadable)?, now) })
}

/// Gives a field another type; a STRUCT keeps its fields, an ARRAY its elements' type.
fn change(field: &mut Field, to: &Field, now: DateTime<Utc>) -> Result<()> {
    if field.mode != to.mode {
        let what = format!("Column `{}` cannot change mode via SET DATA TYPE.", field.name);
        return Err(Trouble::invalid_query(what));
    }
    let refused = unassignable(field, to);
    match (&mut field.kind, &to.kind) {
        (Kind::Struct(fields), Kind::Struct(to)) => {
            let is_alike = |(field, to): (&Field, &Field)| same_name(&field.name, &to.name);
            if fields.len() != to.len() || !fields.iter().zip(to).all(is_alike) {
                return Err(refused);
            }
            if field.mode == Mode::Repeated && !fields.iter().zip(to).all(|(field, to)| is_same(field, to)) {
                return Err(refused);
            }
            fields.iter_mut().zip(to).try_for_each(|(field, to)| change(field, to, now))
        }
        (from, to) if from == to => Ok(()),
        (Kind::BigNumeric, Kind::Float64) => Err(Trouble::invalid(format!(
            "Provided Schema does not match Table. Field {} has changed type from BIGNUMERIC to FLOAT",
            field.name
        ))),
        (from, to) if from.widens_to(to) && field.mode != Mode::Repeated => {
            field.was = Some((from.clone(), now));
            field.kind = to.clone();
            Ok(())
        }
        _ => Err(refused),
    }
}

fn is_same(field: &Field, to: &Field) -> bool {
    field.mode == to.mode
        && match (&field.kind, &to.kind) {
            (Kind::Struct(fields), Kind::Struct(to)) => {
                fields.len() == to.len() && fields.iter().zip(to).all(|(field, to)| is_same(field, to))
            }
            (from, to) => from == to,
        }
}

fn unassignable(from: &Field, to: &Field) -> Trouble {
    let (name, from, to) = (&from.name, from.kind.rest_name(), to.kind.rest_name());
    Trouble::invalid_query(format!(
        "ALTER TABLE ALTER COLUMN SET DATA TYPE requires that the existing column type ({from}) is assignable to the \
         new type ({to}) (column {name})"
    ))
}
