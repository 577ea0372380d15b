//! Clauses that the parser takes and the planner silently leaves out: in a transform they are refused.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::transform::names;
use crate::transform::trace::Violation;

/// Words that begin such a clause.
const CLAUSES: [&[&str]; 10] = [
    &["tablesample"],
    &["prewhere"],
    &["connect", "by"],
    &["cluster", "by"],
    &["distribute", "by"],
    &["sort", "by"],
    &["for", "update"],
    &["for", "share"],
    &["for", "xml"],
    &["for", "json"],
];

/// Refuses SQL with a clause that would be left out.
///
/// # Errors
/// The clause that was found first.
pub fn check(sql: &str) -> Result<(), Violation> {
    let tokens = names::tokens(sql).unwrap_or_default();
    let words: Vec<String> = tokens.iter().filter_map(word).collect();
    for clause in CLAUSES {
        if words.windows(clause.len()).any(|window| window == clause) {
            return Err(Violation::new(format!("a transform may not use {}", clause.join(" ").to_uppercase()), clause));
        }
    }
    Ok(())
}

/// What a token says, for comparing; white space says nothing.
fn word(token: &TokenWithSpan) -> Option<String> {
    match &token.token {
        Token::Whitespace(_) => None,
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_that_would_be_left_out_are_refused_and_columns_of_such_names_are_not() {
        for refused in
            ["SELECT 1 FROM t TABLESAMPLE BERNOULLI (0)", "SELECT 1 FROM t\nFor  Update", "SELECT 1 FROM t SORT BY x"]
        {
            assert!(check(refused).is_err(), "{refused}");
        }
        for fine in ["SELECT \"tablesample\" FROM t", "SELECT sort, cluster FROM t ORDER BY 1", "SELECT 'for update'"] {
            assert!(check(fine).is_ok(), "{fine}");
        }
    }
}
