//! GoogleSQL as DuckDB understands it. Only what freshet says is known: every other word is refused.

use std::collections::BTreeSet;

use super::PROJECT;
use super::lexer::{Lexed, Token};
use super::schema::Kind;
use super::storage::{self, quoted};
use super::trouble::{Result, Trouble};
use super::world::World;

/// Words that mean the same in both.
const KEYWORDS: [&str; 48] = [
    "ALL",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "EXISTS",
    "FALSE",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "QUALIFY",
    "RIGHT",
    "SELECT",
    "THEN",
    "TRUE",
    "UNION",
    "UNNEST",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
    "CROSS",
    "LAST",
    "NULLS",
];

/// Functions, and what they are called in DuckDB.
const FUNCTIONS: [(&str, &str); 16] = [
    ("ABS", "abs"),
    ("CAST", "CAST"),
    ("COALESCE", "coalesce"),
    ("COUNT", "count"),
    ("COUNTIF", "count_if"),
    ("FORMAT", "format"),
    ("FROM_BASE64", "from_base64"),
    ("IF", "if"),
    ("LENGTH", "length"),
    ("MAX", "max"),
    ("MIN", "min"),
    ("ROW_NUMBER", "row_number"),
    ("SUM", "sum"),
    ("TIMESTAMP_MICROS", "make_timestamptz"),
    ("TO_HEX", "hex"),
    ("UNIX_MICROS", "epoch_us"),
];

/// Keywords that may stand before a parenthesis.
fn is_keyword(word: &str) -> bool {
    KEYWORDS.iter().any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// Translates pieces of one statement.
pub(super) struct Translation<'w> {
    world: &'w World,
    /// The tables and views that were named, as dataset and table.
    pub(super) named: BTreeSet<(String, String)>,
    aliases: BTreeSet<String>,
}

impl<'w> Translation<'w> {
    /// For a statement of these tokens.
    pub(super) fn new(world: &'w World, statement: &[Lexed]) -> Self {
        let mut out = Self { world, named: BTreeSet::new(), aliases: BTreeSet::new() };
        out.find_aliases(statement);
        out
    }

    /// Unquoted names must be given in the statement itself, by `AS x` or `x AS (`.
    fn find_aliases(&mut self, statement: &[Lexed]) {
        for pair in statement.windows(2) {
            match (&pair[0].token, &pair[1].token) {
                (of, Token::Word(alias)) if of.is("AS") => drop(self.aliases.insert(alias.clone())),
                (Token::Word(alias), of) if of.is("AS") => drop(self.aliases.insert(alias.clone())),
                _ => {}
            }
        }
    }

    /// The DuckDB text of some tokens of the statement.
    pub(super) fn text(&mut self, tokens: &[Lexed]) -> Result<String> {
        let mut out: Vec<String> = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if let Some((path, length)) = path(&tokens[at..]) {
                out.push(self.table(&path)?);
                at += length;
                continue;
            }
            let previous = at.checked_sub(1).and_then(|before| tokens.get(before)).map(|lexed| &lexed.token);
            let next = tokens.get(at + 1).map(|lexed| &lexed.token);
            let (text, length) = self.one(previous, &tokens[at].token, next)?;
            out.push(text);
            at += length;
        }
        Ok(out.join(" "))
    }

    /// A token, which may make one with the next.
    fn one(&self, previous: Option<&Token>, token: &Token, next: Option<&Token>) -> Result<(String, usize)> {
        let text = match token {
            Token::Symbol(";") => {
                return Err(Trouble::invalid_query("the strict server takes one statement at a time"));
            }
            Token::Symbol(symbol) => (*symbol).to_owned(),
            Token::Quoted(name) => quoted(name),
            Token::Number(number) => number_text(number)?,
            Token::Text(text) => literal(text),
            Token::Bytes(bytes) => blob(bytes),
            Token::Word(word) => return self.word(previous, word, next),
        };
        Ok((text, 1))
    }

    fn word(&self, previous: Option<&Token>, word: &str, next: Option<&Token>) -> Result<(String, usize)> {
        let upper = word.to_uppercase();
        if let (Some(kind), Some(Token::Text(value))) = (Kind::of_sql(&upper), next) {
            return Ok((typed_literal(&kind, value)?, 2));
        }
        let is_open = next.is_some_and(|next| next.is("("));
        let after = |what: &str| previous.is_some_and(|previous| previous.is(what));
        if upper == "EXCEPT" && after("*") {
            return Ok(("EXCLUDE".into(), 1));
        }
        if let Some((_, function)) = FUNCTIONS.iter().find(|(name, _)| is_open && *name == upper) {
            return Ok(((*function).to_owned(), 1));
        }
        if let Some(kind) = Kind::of_sql(&upper).filter(|_| after("AS") && next.is_some_and(|next| next.is(")"))) {
            let cast = storage::cast_type(&kind);
            let cast = cast.ok_or_else(|| Trouble::invalid_query("the strict server cannot cast to BIGNUMERIC"))?;
            return Ok((cast, 1));
        }
        if is_keyword(&upper) {
            return Ok((upper, 1));
        }
        match self.aliases.contains(word) {
            true if !is_open || after("AS") => Ok((quoted(word), 1)),
            _ => Err(Trouble::invalid_query(format!("the strict server does not know `{word}` in a statement"))),
        }
    }

    /// What a table's full name stands for: the table, or a view's query.
    fn table(&mut self, path: &[String]) -> Result<String> {
        let [project, dataset, table] = path else {
            return Err(Trouble::invalid_query(format!("Table \"{}\" must be named in full", path.join("."))));
        };
        if project != PROJECT {
            return Err(Trouble::not_found(format!("Project {project}")));
        }
        self.named.insert((dataset.clone(), table.clone()));
        let found = self.world.table(dataset, table)?;
        let Some(query) = &found.view else { return Ok(quoted(&found.kept_as)) };
        let tokens = super::lexer::tokens(query)?;
        let mut inner = Translation::new(self.world, &tokens);
        let text = inner.text(&tokens)?;
        self.named.append(&mut inner.named);
        Ok(format!("({text})"))
    }
}

/// A name of three parts, quoted apart or together, and how many tokens it has. Names of columns hold no dots.
pub(super) fn path(tokens: &[Lexed]) -> Option<(Vec<String>, usize)> {
    let at = |at: usize| tokens.get(at).map(|lexed| &lexed.token);
    let dot = |n: usize| at(n).is_some_and(|token| token.is("."));
    match (at(0), at(2), at(4)) {
        (Some(Token::Quoted(name)), ..) if name.contains('.') => {
            Some((name.split('.').map(str::to_owned).collect(), 1))
        }
        (Some(Token::Quoted(one)), Some(Token::Quoted(two)), Some(Token::Quoted(three))) if dot(1) && dot(3) => {
            Some((vec![one.clone(), two.clone(), three.clone()], 5))
        }
        _ => None,
    }
}

/// Integers stay; what has a point or an exponent is FLOAT64.
fn number_text(number: &str) -> Result<String> {
    let wrong = || Trouble::invalid_query(format!("Invalid numeric literal: {number}"));
    if number.parse::<u64>().is_ok_and(|value| value <= 1 << 63) {
        return Ok(number.to_owned());
    }
    let is_float = number.contains(['.', 'e', 'E']) && number.parse::<f64>().is_ok();
    if is_float { Ok(format!("{number}::DOUBLE")) } else { Err(wrong()) }
}

/// Typed, so that DuckDB casts it no more readily than BigQuery would.
fn literal(text: &str) -> String {
    format!("'{}'::VARCHAR", text.replace('\'', "''"))
}

fn blob(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("\\x{byte:02X}")).collect();
    format!("'{hex}'::BLOB")
}

fn typed_literal(kind: &Kind, value: &str) -> Result<String> {
    let quoted = format!("'{}'", value.replace('\'', "''"));
    Ok(match kind {
        Kind::Timestamp => format!("TIMESTAMPTZ {quoted}"),
        Kind::Datetime => format!("TIMESTAMP {quoted}"),
        Kind::Date => format!("DATE {quoted}"),
        Kind::Time => format!("TIME {quoted}"),
        Kind::Numeric => format!("CAST({quoted} AS DECIMAL(38, 9))"),
        Kind::BigNumeric => big_literal(value)?,
        _ => return Err(Trouble::invalid_query(format!("Syntax error: Unexpected string literal {quoted}"))),
    })
}

/// `BIGNUMERIC '-1.5'` is the integer below and what is above it.
fn big_literal(value: &str) -> Result<String> {
    let wrong = || Trouble::invalid_query(format!("Invalid BIGNUMERIC literal: {value}"));
    let (sign, digits) = value.strip_prefix('-').map_or((1, value), |digits| (-1, digits));
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: i128 = whole.parse().map_err(|_| wrong())?;
    let rest: i128 = format!("{rest:0<38}").parse().map_err(|_| wrong())?;
    let (below, above) = match (sign, rest) {
        (1, _) => (whole, rest),
        (_, 0) => (-whole, 0),
        _ => (-whole - 1, 10_i128.pow(38) - rest),
    };
    Ok(storage::big(&format!("{below}::HUGEINT"), &format!("{above}::HUGEINT")))
}
