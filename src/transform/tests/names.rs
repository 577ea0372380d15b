//! Words respelled in whole queries, and places that stay what they were.

use std::collections::BTreeSet;

use crate::transform::names::{quoted, respell, tokens};

fn known(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn check(sql: &str, names: &[&str], expected: &str) {
    let got = respell(sql, &known(names)).unwrap();
    assert_eq!(got, expected);
    assert_eq!(respell(&got, &known(names)).unwrap(), got, "respelling twice changes nothing more");
}

#[test]
fn words_are_respelled_wherever_they_stand() {
    let names = ["userId", "casino_db1", "user_actions", "actionType"];
    check(
        "select T.USERID from Casino_DB1.User_Actions T\nwhere t.ACTIONTYPE in ('USERID')",
        &names,
        "select T.userId from casino_db1.user_actions T\nwhere t.actionType in ('USERID')",
    );
    check(
        "SELECT a.userid, /* USERID */ \"USERID\" -- USERID\n, USERID",
        &names,
        "SELECT a.userId, /* USERID */ \"USERID\" -- USERID\n, userId",
    );
    check("SELECT count (USERID), USERID::text", &names, "SELECT count (userId), userId::text");
    check("SELECT 한, '가나다', USERID,\n한글.USERID", &names, "SELECT 한, '가나다', userId,\n한글.userId");
    check("SELECT $$USERID$$, e'USERID', USERID", &names, "SELECT $$USERID$$, e'USERID', userId");
}

#[test]
fn columns_named_like_keywords_are_respelled_too() {
    check("SELECT TIMESTAMP, Date FROM T", &["timestamp", "date", "t"], "SELECT timestamp, date FROM t");
    check(
        "SELECT * FROM T WHERE ORDER_ID = 1 ORDER BY ORDER_ID",
        &["order_id", "t"],
        "SELECT * FROM t WHERE order_id = 1 ORDER BY order_id",
    );
}

#[test]
fn a_string_that_is_never_closed_is_told_with_its_place() {
    let error = tokens("SELECT\n  'x").unwrap_err();
    assert_eq!(error.place().line_column.map(|place| place.0), Some(2), "{}", error.report());
}

#[test]
fn a_quoted_name_is_one_token_whatever_is_in_it() {
    for name in ["a\"b; drop", "select", "한 글", "", "a\nb", "--", "/*"] {
        let all = tokens(&format!("SELECT {} FROM t", quoted(name))).unwrap();
        let words: Vec<String> = all
            .iter()
            .filter_map(|token| match &token.token {
                datafusion::sql::sqlparser::tokenizer::Token::Word(word) => Some(word.value.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(words, ["SELECT", name, "FROM", "t"]);
    }
}
