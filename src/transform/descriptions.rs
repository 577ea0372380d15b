//! What output columns mean, as the SQL's own comments say: `amount AS price, -- in KRW, without tax`.
//!
//! A comment describes the column whose name is the last word before it on its line.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace};

use crate::change::types::same_name;
use crate::transform::names;

/// No description is longer; BigQuery takes as much, see
/// <https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#TableFieldSchema>.
const CHARACTERS_MAX: usize = 1_024;

/// The descriptions of those of `outputs` that have one, under the names they have there.
///
/// SQL that cannot be read describes nothing: what is wrong with it is said where it is planned.
pub fn descriptions(sql: &str, outputs: &[String]) -> BTreeMap<String, String> {
    let tokens = names::tokens(sql).unwrap_or_default();
    let mut out = BTreeMap::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Whitespace(Whitespace::SingleLineComment { comment, .. }) = &token.token else { continue };
        let Some(name) = last_word(&tokens[..at], token.span.start.line) else { continue };
        let text = comment.trim();
        if let Some(output) = outputs.iter().find(|output| same_name(output, name)).filter(|_| !text.is_empty()) {
            out.insert(output.clone(), text.chars().take(CHARACTERS_MAX).collect());
        }
    }
    out
}

/// The last word on this line, if nothing but blanks and a comma follows it.
fn last_word(before: &[TokenWithSpan], line: u64) -> Option<&str> {
    let on_line = before.iter().rev().take_while(|token| token.span.start.line == line);
    let mut meaningful = on_line.filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::Comma));
    match &meaningful.next()?.token {
        Token::Word(word) => Some(&word.value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Vec<(String, String)> {
        let outputs = ["id", "price", "userName"].map(str::to_owned);
        descriptions(sql, &outputs).into_iter().collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_comment_describes_the_column_named_last_before_it_on_its_line() {
        let sql = "SELECT id, -- the number\n  amount AS price, --  원화, 세금 제외 \n  username -- who\nFROM t -- not a column";
        assert_eq!(of(sql), pairs(&[("id", "the number"), ("price", "원화, 세금 제외"), ("userName", "who")]));
    }

    #[test]
    fn other_comments_describe_nothing() {
        assert!(
            of("-- id\nSELECT id,\n-- above price\n price + 1, --\n /* userName */ 'id' -- text\nFROM t").is_empty()
        );
        assert!(of("SELECT 'never closed -- id").is_empty());
    }

    #[test]
    fn a_long_comment_is_cut_where_a_target_would_refuse_it() {
        let sql = format!("SELECT id -- {}\n", "가".repeat(2_000));
        assert_eq!(of(&sql)[0].1.chars().count(), CHARACTERS_MAX);
    }
}
