//! `bit` and `bit_to_int` as SQL calls them.

use crate::catalog::samples::{lines, session};
use crate::error::{Error, Kind};
use crate::transform::functions::{DOCUMENTATION, all};
use crate::transform::place;

async fn value(expression: &str) -> Result<String, Error> {
    let session = session(1);
    let frame = session
        .sql(&format!("SELECT {expression} AS x"))
        .await
        .map_err(|cause| place::planning_error(cause, "", &[]))?;
    let rows = frame.collect().await.map_err(Error::of_rows)?;
    Ok(lines(&rows).join(","))
}

#[tokio::test]
async fn every_form_of_a_bit_is_read_and_null_stays_null() {
    for (expression, expected) in [
        ("bit('1')", "true"),
        ("bit(0)", "false"),
        ("bit('b''1''')", "true"),
        ("bit(X'00')", "false"),
        ("bit(true)", "true"),
        ("bit(NULL)", "NULL"),
        ("bit_to_int('b''101''')", "5"),
        ("bit_to_int(X'0000000000000102')", "258"),
        ("bit_to_int(NULL)", "NULL"),
        ("bit(bit_to_int('1'))", "true"),
    ] {
        assert_eq!(value(expression).await.unwrap(), expected, "{expression}");
    }
    let session = session(1);
    let got = session
        .sql("SELECT bit(v) FROM (VALUES ('0'), (NULL), ('1')) AS t (v)")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    assert_eq!(lines(&got), ["false", "NULL", "true"]);
}

#[tokio::test]
async fn what_is_no_bit_is_named_in_the_error() {
    for (expression, kind, message) in [
        ("bit('yes')", Kind::Data, "bit(`yes`)"),
        ("bit(2)", Kind::Data, "bit(`2`)"),
        ("bit_to_int(-1)", Kind::Data, "bit_to_int(`-1`)"),
        ("bit_to_int(X'ffffffffffffffff')", Kind::Data, "up to 63 bits"),
        ("bit(DATE '2023-01-01')", Kind::User, "bit"),
        ("bit()", Kind::User, "bit"),
        ("bit('1', '2')", Kind::User, "bit"),
    ] {
        let error = value(expression).await.unwrap_err();
        assert!(error.message().contains(message), "{expression}: {}", error.report());
        assert!(error.kind() == kind, "{expression}: {}", error.report());
    }
}

#[test]
fn every_function_is_documented() {
    let documented: Vec<&str> = DOCUMENTATION.iter().map(|(call, _, _)| call.split('(').next().unwrap()).collect();
    let registered: Vec<String> = all().iter().map(|function| function.name().to_owned()).collect();
    assert_eq!(documented, registered);
}
