//! GoogleSQL cut into tokens, escapes resolved.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical>.

use super::trouble::{Result, Trouble};

/// A token of GoogleSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or unquoted name, as it was written.
    Word(String),
    /// A name in backticks.
    Quoted(String),
    /// A STRING literal.
    Text(String),
    /// A BYTES literal.
    Bytes(Vec<u8>),
    Number(String),
    Symbol(&'static str),
}

/// A token and where its text begins.
#[derive(Debug, Clone)]
pub(super) struct Lexed {
    pub(super) token: Token,
    pub(super) at: usize,
}

impl Token {
    /// Whether it is this keyword or symbol.
    pub(super) fn is(&self, what: &str) -> bool {
        match self {
            Self::Word(word) => word.eq_ignore_ascii_case(what),
            Self::Symbol(symbol) => *symbol == what,
            _ => false,
        }
    }
}

const SYMBOLS: [&str; 19] =
    ["<=", ">=", "!=", "<>", "||", "(", ")", "[", "]", ",", ".", ";", "=", "<", ">", "+", "-", "*", "/"];

/// All tokens of a statement.
pub(super) fn tokens(sql: &str) -> Result<Vec<Lexed>> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let (token, length) = if c.is_whitespace() {
            (None, c.len_utf8())
        } else if rest.starts_with("--") || c == '#' {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else {
            let (token, length) = token(rest)?;
            (Some(token), length)
        };
        out.extend(token.map(|token| Lexed { token, at }));
        at += length;
    }
    Ok(out)
}

fn token(rest: &str) -> Result<(Token, usize)> {
    let lower: String = rest.chars().take(2).collect::<String>().to_lowercase();
    let c = rest.chars().next().unwrap_or_default();
    if c == '`' {
        let (name, length) = escaped(rest, '`')?;
        return Ok((Token::Quoted(text(name)?), length));
    }
    if c == '\'' || c == '"' {
        let (value, length) = escaped(rest, c)?;
        return Ok((Token::Text(text(value)?), length));
    }
    if lower == "b'" || lower == "b\"" {
        let (value, length) = escaped(&rest[1..], if lower == "b'" { '\'' } else { '"' })?;
        return Ok((Token::Bytes(value), length + 1));
    }
    if c.is_ascii_digit() {
        return Ok(number(rest));
    }
    if c.is_ascii_alphabetic() || c == '_' {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        return Ok((Token::Word(rest[..end].to_owned()), end));
    }
    let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
    let symbol = symbol.ok_or_else(|| Trouble::invalid_query(format!("Syntax error: Unexpected \"{c}\"")))?;
    Ok((Token::Symbol(symbol), symbol.len()))
}

fn number(rest: &str) -> (Token, usize) {
    let mut end = 0;
    for (at, c) in rest.char_indices() {
        let is_sign_of_exponent = "+-".contains(c) && rest[..at].ends_with(['e', 'E']);
        if !c.is_ascii_alphanumeric() && c != '.' && !is_sign_of_exponent {
            break;
        }
        end = at + 1;
    }
    (Token::Number(rest[..end].to_owned()), end)
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Trouble::invalid_query("Syntax error: Illegal escape sequence"))
}

/// The value between quotes, and its length with them. Triple quotes are not known.
fn escaped(rest: &str, quote: char) -> Result<(Vec<u8>, usize)> {
    let unclosed = || Trouble::invalid_query("Syntax error: Unclosed string literal or identifier");
    let mut out = Vec::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                let (_, escape) = chars.next().ok_or_else(unclosed)?;
                let digits = match escape {
                    'x' | 'X' => 2,
                    'u' => 4,
                    'U' => 8,
                    _ => 0,
                };
                let digits: String = chars.by_ref().take(digits).map(|(_, digit)| digit).collect();
                unescape(escape, &digits, &mut out)?;
            }
            '\n' | '\r' => return Err(unclosed()),
            c if c == quote => return Ok((out, at + 1)),
            c => out.extend(c.to_string().as_bytes()),
        }
    }
    Err(unclosed())
}

fn unescape(escape: char, digits: &str, out: &mut Vec<u8>) -> Result<()> {
    let illegal = || Trouble::invalid_query(format!("Syntax error: Illegal escape sequence: \\{escape}{digits}"));
    let c = match escape {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '\\' | '?' | '"' | '\'' | '`' => escape,
        'x' | 'X' => {
            out.push(u8::from_str_radix(digits, 16).map_err(|_| illegal())?);
            return Ok(());
        }
        'u' | 'U' => u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).ok_or_else(illegal)?,
        _ => return Err(illegal()),
    };
    out.extend(c.to_string().as_bytes());
    Ok(())
}
