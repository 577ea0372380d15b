//! Fields to and fro.

use serde_json::json;

use super::*;
use crate::error::Kind;
use crate::sink::columns::column;

fn fields(fields: Value) -> Fields {
    Fields::of(&json!({"schema": {"fields": fields}}))
}

#[test]
fn every_type_comes_back_from_its_field() {
    let point = ColumnType::Struct(vec![("x".into(), ColumnType::Float64), ("y".into(), ColumnType::Bool)]);
    for kind in [
        ColumnType::Bool,
        ColumnType::Int64,
        ColumnType::Numeric,
        ColumnType::BigNumeric,
        ColumnType::Float64,
        ColumnType::String,
        ColumnType::Bytes,
        ColumnType::Date,
        ColumnType::Time,
        ColumnType::Datetime,
        ColumnType::Timestamp,
        ColumnType::Array(Box::new(ColumnType::Int64)),
        ColumnType::Array(Box::new(point.clone())),
        point,
    ] {
        let wanted = column("c", kind);
        let made = json(&field(&wanted, &BTreeMap::new())).unwrap();
        assert_eq!(fields(json!([made])).columns(), [wanted], "{made}");
    }
}

#[test]
fn old_and_new_type_names_are_read() {
    let read = fields(json!([
        {"name": "a", "type": "INT64"}, {"name": "b", "type": "FLOAT64", "mode": "REQUIRED"}, {"name": "c", "type": "BOOL"},
    ]));
    let expected = [("a", ColumnType::Int64), ("b", ColumnType::Float64), ("c", ColumnType::Bool)];
    assert_eq!(read.columns(), expected.map(|(name, kind)| column(name, kind)));
}

#[test]
fn new_columns_are_nullable_and_last_and_nothing_of_the_others_is_lost() {
    let read = fields(json!([
        {"name": "Id", "type": "INTEGER", "mode": "REQUIRED", "policyTags": {"names": ["secret"]}},
        {"name": "where", "type": "GEOGRAPHY"},
    ]));
    let united = [column("id", ColumnType::Int64), column("note", ColumnType::String)];
    let descriptions = BTreeMap::from([("NOTE".to_owned(), "for people".to_owned())]);
    assert_eq!(
        Value::from(read.with(&united, &descriptions).unwrap()),
        json!([
            {"name": "Id", "type": "INTEGER", "mode": "REQUIRED", "policyTags": {"names": ["secret"]}},
            {"name": "where", "type": "GEOGRAPHY"},
            {"name": "note", "type": "STRING", "mode": "NULLABLE", "description": "for people"},
        ])
    );
}

#[test]
fn a_struct_is_given_the_fields_it_lacks() {
    let read = fields(json!([
        {"name": "p", "type": "RECORD", "mode": "REPEATED", "fields": [{"name": "x", "type": "INTEGER", "description": "kept"}]},
    ]));
    let wider = ColumnType::Struct(vec![("x".into(), ColumnType::Int64), ("y".into(), ColumnType::Date)]);
    let united = [column("p", ColumnType::Array(Box::new(wider)))];
    let with = read.with(&united, &BTreeMap::new()).unwrap();
    assert_eq!(with[0]["mode"], "REPEATED");
    assert_eq!(
        with[0]["fields"],
        json!([
            {"name": "x", "type": "INTEGER", "description": "kept"},
            {"name": "y", "type": "DATE", "mode": "NULLABLE"},
        ])
    );
}

#[test]
fn wider_types_are_written_with_all_that_stays_and_without_what_is_new() {
    let read = fields(json!([
        {"name": "Id", "type": "INTEGER", "mode": "REQUIRED"},
        {"name": "same", "type": "NUMERIC"},
        {"name": "s", "type": "RECORD", "fields": [
            {"name": "N", "type": "INTEGER", "mode": "REQUIRED"},
            {"name": "code", "type": "STRING", "maxLength": "3"},
            {"name": "tags", "type": "STRING", "mode": "REPEATED"},
        ]},
        {"name": "p", "type": "RECORD", "fields": [{"name": "x", "type": "INTEGER"}]},
    ]));
    let inner = |name: &str, kind: ColumnType| (name.to_owned(), kind);
    let united = [
        column("id", ColumnType::BigNumeric),
        column("same", ColumnType::Numeric),
        column(
            "s",
            ColumnType::Struct(vec![
                inner("n", ColumnType::Numeric),
                inner("code", ColumnType::String),
                inner("tags", ColumnType::Array(Box::new(ColumnType::String))),
                inner("new", ColumnType::Date),
            ]),
        ),
        column("p", ColumnType::Struct(vec![inner("x", ColumnType::Int64), inner("y", ColumnType::Int64)])),
        column("new", ColumnType::Numeric),
    ];
    let wider: Vec<_> = read.wider(&united).unwrap().into_iter().map(|to| (to.name, to.schema)).collect();
    let expected =
        [("Id", "BIGNUMERIC NOT NULL"), ("s", "STRUCT<`N` NUMERIC NOT NULL, `code` STRING(3), `tags` ARRAY<STRING>>")];
    assert_eq!(wider, expected.map(|(name, schema)| (name.to_owned(), schema.to_owned())));
}

#[test]
fn a_type_within_an_array_is_never_widened_and_the_error_says_so() {
    let array = |item| ColumnType::Array(Box::new(item));
    let of = |kind| ColumnType::Struct(vec![("x".into(), kind)]);
    for (field, wanted) in [
        (json!({"name": "c", "type": "INTEGER", "mode": "REPEATED"}), array(ColumnType::Numeric)),
        (
            json!({"name": "c", "type": "RECORD", "mode": "REPEATED", "fields": [{"name": "x", "type": "INTEGER"}]}),
            array(of(ColumnType::Numeric)),
        ),
        (
            json!({"name": "c", "type": "RECORD", "fields": [{"name": "x", "type": "INTEGER", "mode": "REPEATED"}]}),
            of(array(ColumnType::Numeric)),
        ),
    ] {
        let error = fields(json!([field])).wider(&[column("C", wanted)]).unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains("column `c` is") && error.message().contains("ARRAY"), "{error}");
        assert!(error.hint_text().unwrap().contains("CAST `c`"), "{error:?}");
    }
}

#[test]
fn a_column_that_would_change_values_is_refused_with_both_types() {
    let read = fields(json!([{"name": "price", "type": "NUMERIC", "precision": "10", "scale": "2"}]));
    let error = read.check(&[column("PRICE", ColumnType::Numeric)]).unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert_eq!(error.message(), "column `price` is NUMERIC(10, 2) at the target, but these rows have NUMERIC");
    assert!(error.hint_text().unwrap().contains("ALTER COLUMN `price`"));
    assert!(read.columns().is_empty());
    read.check(&[column("other", ColumnType::Numeric)]).unwrap();
}

#[test]
fn a_required_column_that_rows_lack_is_refused_before_they_are() {
    let read = fields(json!([{"name": "shop", "type": "STRING", "mode": "REQUIRED"}]));
    let error = read.check(&[column("id", ColumnType::Int64)]).unwrap_err();
    assert!(error.message().contains("`shop` is REQUIRED"), "{error}");
    read.check(&[column("Shop", ColumnType::String)]).unwrap();
}

#[test]
fn names_that_bigquery_does_not_take_are_refused_with_a_way_out() {
    let long = "x".repeat(301);
    for name in ["_partition_day", "_CHANGE_TYPE", "__ROOT__x", "a.b", "price($)", "a`b", "tab\t", " a", "", &long] {
        let error = check_column(name, &ColumnType::String).unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.hint_text().unwrap().contains("AS"), "{name}");
    }
    for name in ["id", "_cdc_sequence", "이름", "größe in %", "a-b", &"x".repeat(300)] {
        check_column(name, &ColumnType::String).unwrap();
    }
}

#[test]
fn types_that_bigquery_does_not_have_are_refused_with_a_way_out() {
    let array = |item| ColumnType::Array(Box::new(item));
    let bad_field = ColumnType::Struct(vec![("a.b".into(), ColumnType::Int64)]);
    for refused in [array(array(ColumnType::Int64)), array(ColumnType::Unknown), ColumnType::Struct(vec![]), bad_field]
    {
        let error = check_column("c", &refused).unwrap_err();
        assert!(error.hint_text().unwrap().contains("SQL"), "{error:?}");
    }
    check_column("c", &array(ColumnType::Time)).unwrap();
}
