//! Identifiers without regard to case: an unquoted word that names a known column, table or alias is
//! respelled as that name, so that line and column of every other word stay what they were.
//!
//! DataFusion would lowercase unquoted words instead, and `SELECT userId` would fail on a column `userId`.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::error::{Error, Result};

/// The SQL's words and marks, with their places.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where a string or quote is never closed.
pub fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>> {
    let dialect = GenericDialect {};
    Tokenizer::new(&dialect, sql).tokenize_with_location().map_err(|cause| {
        Error::user(format!("the SQL cannot be read: {}", cause.message)).at(
            cause.location.line,
            cause.location.column,
            sql,
        )
    })
}

/// Respells every unquoted word that matches exactly one of `known` but for its case. A word that is
/// spelled like a known name, or like an alias of the SQL itself, stays.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where a word matches several names and is spelled like none.
pub fn respell(sql: &str, known: &BTreeSet<String>) -> Result<String> {
    let tokens = tokens(sql)?;
    let meaningful: Vec<&TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let aliases = aliases(&meaningful);
    let mut out = sql.to_owned();
    // From the end, so that earlier offsets stay right whatever a respelling's length is.
    for (index, token) in meaningful.iter().enumerate().rev() {
        let Some(word) = unquoted(token) else { continue };
        if known.contains(word)
            || aliases.contains(word)
            || is_function(&meaningful, index)
            || follows_as(&meaningful, index)
        {
            continue;
        }
        let Some(name) = matching(word, known, &aliases).map_err(|error| ambiguous(error, token, sql))? else {
            continue;
        };
        if !is_keyword(token) || known.contains(&name) {
            let start = offset(sql, token.span.start);
            out.replace_range(start..start + word.len(), &spelled(&name));
        }
    }
    Ok(out)
}

/// A name as it must stand in SQL: bare where that is the same word, else quoted.
fn spelled(name: &str) -> String {
    let bare = name.chars().all(|c| c == '_' || c.is_alphanumeric()) && !name.starts_with(|c: char| c.is_numeric());
    if bare { name.to_owned() } else { quoted(name) }
}

/// A name in double quotes, for any SQL.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn matching(
    word: &str,
    known: &BTreeSet<String>,
    aliases: &BTreeSet<String>,
) -> std::result::Result<Option<String>, Vec<String>> {
    let folded = word.to_lowercase();
    for names in [known, aliases] {
        let found: Vec<&String> = names.iter().filter(|name| name.to_lowercase() == folded).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(Some((*one).clone())),
            many => return Err(many.iter().map(|name| (*name).clone()).collect()),
        }
    }
    Ok(None)
}

fn ambiguous(names: Vec<String>, token: &TokenWithSpan, sql: &str) -> Error {
    Error::user(format!("`{}` may be any of `{}`", token.token, names.join("`, `")))
        .at(token.span.start.line, token.span.start.column, sql)
        .hint(format!("spell it exactly, in double quotes: {}", quoted(&names[0])))
}

fn unquoted(token: &TokenWithSpan) -> Option<&str> {
    match &token.token {
        Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
        _ => None,
    }
}

fn is_keyword(token: &TokenWithSpan) -> bool {
    matches!(&token.token, Token::Word(word) if word.keyword != Keyword::NoKeyword)
}

fn is_word(token: Option<&&TokenWithSpan>, keyword: Keyword) -> bool {
    matches!(token.map(|token| &token.token), Some(Token::Word(word)) if word.keyword == keyword)
}

fn is_function(tokens: &[&TokenWithSpan], index: usize) -> bool {
    let called = matches!(tokens.get(index + 1).map(|token| &token.token), Some(Token::LParen));
    called && !is_word(tokens.get(index.wrapping_sub(1)), Keyword::JOIN)
}

fn follows_as(tokens: &[&TokenWithSpan], index: usize) -> bool {
    index > 0 && is_word(tokens.get(index - 1), Keyword::AS)
}

/// Names that the SQL gives itself: after AS, and before AS in a WITH.
fn aliases(tokens: &[&TokenWithSpan]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        let Some(word) = unquoted(token) else { continue };
        let names_a_query = is_word(tokens.get(index + 1), Keyword::AS)
            && matches!(tokens.get(index + 2).map(|token| &token.token), Some(Token::LParen));
        if names_a_query || (follows_as(tokens, index) && !is_keyword(token)) {
            out.insert(word.to_owned());
        }
    }
    out
}

/// The byte offset of a line and column, both from 1, the column in characters.
fn offset(sql: &str, location: Location) -> usize {
    let line = usize::try_from(location.line).unwrap_or(1);
    let column = usize::try_from(location.column).unwrap_or(1);
    let start: usize = sql.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    start + sql[start..].chars().take(column.saturating_sub(1)).map(char::len_utf8).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, known: &[&str], expected: &str) {
        let known = known.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(respell(sql, &known).unwrap(), expected);
    }

    #[test]
    fn words_take_the_spelling_of_the_source() {
        check("select USERID from T", &["userId", "t"], "select userId from t");
        check("SELECT \"USERID\" FROM t", &["userId", "t"], "SELECT \"USERID\" FROM t");
        check("SELECT 'userid' -- userid\nFROM t", &["userId", "t"], "SELECT 'userid' -- userid\nFROM t");
        check("SELECT 한글, USERid FROM t", &["userId", "t", "한글"], "SELECT 한글, userId FROM t");
    }

    #[test]
    fn an_exact_spelling_wins_and_ambiguity_is_an_error() {
        check("SELECT id, ID FROM t", &["id", "ID", "t"], "SELECT id, ID FROM t");
        let known = ["id", "ID"].iter().map(|name| (*name).to_owned()).collect();
        let error = respell("SELECT\n  Id", &known).unwrap_err();
        assert_eq!(error.place().line_column, Some((2, 3)));
    }

    #[test]
    fn aliases_keep_their_spelling_and_can_be_named_without_regard_to_case() {
        check("SELECT userId AS userid FROM t", &["userId", "t"], "SELECT userId AS userid FROM t");
        check(
            "WITH Best AS (SELECT 1 AS Rn) SELECT rn FROM BEST",
            &["x"],
            "WITH Best AS (SELECT 1 AS Rn) SELECT Rn FROM Best",
        );
    }

    #[test]
    fn functions_and_types_are_left_alone() {
        check(
            "SELECT count(x), CAST(x AS TIMESTAMP) FROM t",
            &["Count", "timestamp", "t", "x"],
            "SELECT count(x), CAST(x AS TIMESTAMP) FROM t",
        );
    }

    #[test]
    fn a_name_that_is_no_bare_word_is_quoted() {
        check("SELECT ÄB FROM t", &["äb", "t"], "SELECT äb FROM t");
        assert_eq!(quoted("a\"b; drop"), "\"a\"\"b; drop\"");
    }
}
