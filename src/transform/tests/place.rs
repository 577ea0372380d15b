//! What DataFusion's errors become: whose fault, where, and what to do.

use datafusion::common::DataFusionError;

use crate::error::{Error, Kind};
use crate::transform::place::{at_word, nearest};

#[test]
fn a_failure_while_rows_flow_is_told_by_whose_it_is() {
    let external = DataFusionError::External(Box::new(Error::user("ours").in_file("f")));
    let cases = [
        (DataFusionError::ResourcesExhausted("full".into()), Kind::Retry, "not enough memory"),
        (DataFusionError::IoError(std::io::Error::other("disk")), Kind::Retry, "temporary file"),
        (DataFusionError::Internal("oops".into()), Kind::Bug, "query engine"),
        (DataFusionError::Execution("1/0".into()), Kind::Data, "cannot be transformed"),
        (external, Kind::User, "ours"),
        (DataFusionError::ResourcesExhausted("full".into()).context("while sorting"), Kind::Retry, "not enough memory"),
    ];
    for (cause, kind, message) in cases {
        let shown = cause.to_string();
        let error = Error::of_rows(cause);
        assert_eq!(error.kind(), kind, "{shown}");
        assert!(error.message().contains(message), "{error}");
    }
}

#[test]
fn an_error_of_ours_comes_back_with_all_it_said() {
    let ours = || Error::data("bad").in_table("t").in_file("f").in_row(7).in_query("q").hint("h");
    let wrapped = DataFusionError::External(Box::new(ours().because(std::io::Error::other("deep")))).context("outer");
    let back = Error::of_rows(wrapped);
    assert_eq!(back.report(), ours().because(std::io::Error::other("deep")).report());
    let placed = || Error::user("x").at(2, 3, "one\ntwo");
    assert_eq!(Error::of_rows(DataFusionError::External(Box::new(placed()))).report(), placed().report());
}

#[test]
fn the_first_word_that_is_there_is_pointed_at() {
    let place = |sql: &str, words: &[&str]| at_word(Error::user("x"), sql, words).place().line_column;
    assert_eq!(place("SELECT 'limit' -- limit\nFROM t Limit 5", &["limit"]), Some((2, 8)));
    assert_eq!(place("SELECT 1", &["from", "select"]), Some((1, 1)));
    assert_eq!(place("SELECT 1", &["from"]), None);
    assert_eq!(place("SELECT 'x", &["select"]), None);
}

#[test]
fn the_nearest_name_is_one_that_is_like_it_or_none() {
    let names = ["userId", "amount", "created_at"].map(str::to_owned);
    assert_eq!(nearest("USERID", &names).map(String::as_str), Some("userId"));
    assert_eq!(nearest("amout", &names).map(String::as_str), Some("amount"));
    assert_eq!(nearest("zzz", &names), None);
    assert_eq!(nearest("x", &[]), None);
}
