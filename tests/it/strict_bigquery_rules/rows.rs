//! Rules of values: which Arrow types are taken, and how values come back.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Int32Type, i256};
use serde_json::{Value, json};

use super::client::{Client, batch, field};
use crate::strict_bigquery::Options;

fn shared(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn decimal(value: i128, precision: u8, scale: i8) -> ArrayRef {
    shared(Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale).unwrap())
}

fn big(value: i256, precision: u8, scale: i8) -> ArrayRef {
    shared(Decimal256Array::from(vec![value]).with_precision_and_scale(precision, scale).unwrap())
}

fn texts(value: &str) -> ArrayRef {
    shared(StringArray::from(vec![value]))
}

/// Writes one value to a column of this type; what came of it, and the value as the REST API shows it.
async fn write(client: &mut Client, number: usize, kind: &str, value: ArrayRef) -> (String, Value) {
    let table = format!("t{number}");
    client.make(&table, json!([field("Value", kind, "NULLABLE")])).await;
    let stream = format!("projects/test-project/datasets/shop/tables/{table}/streams/_default");
    let outcome = client.append(&stream, None, &batch(vec![("VALUE", value)])).await;
    let rows = client.query(&format!("SELECT * FROM `test-project`.`shop`.`{table}`")).await;
    (outcome, rows["rows"][0]["f"][0]["v"].clone())
}

#[tokio::test]
async fn values_of_the_documented_types_come_back_as_they_were() {
    let mut client = Client::new(Options::default()).await;
    let ten = |power| i256::from_i128(10).checked_pow(power).unwrap();
    let micros = 1_700_000_000_000_001_i64;
    let cases: Vec<(&str, ArrayRef, &str)> = vec![
        ("BOOL", shared(BooleanArray::from(vec![true])), "true"),
        ("INT64", shared(Int8Array::from(vec![-7])), "-7"),
        ("INT64", shared(Int16Array::from(vec![-7])), "-7"),
        ("INT64", shared(Int32Array::from(vec![-7])), "-7"),
        ("INT64", shared(Int64Array::from(vec![i64::MIN])), "-9223372036854775808"),
        ("FLOAT64", shared(Float32Array::from(vec![1.5])), "1.5"),
        ("FLOAT64", shared(Float64Array::from(vec![f64::NAN])), "NaN"),
        ("FLOAT64", shared(Float64Array::from(vec![f64::NEG_INFINITY])), "-Infinity"),
        ("STRING", texts("a'b\\\n\u{0}ü"), "a'b\\\n\u{0}ü"),
        ("BYTES", shared(BinaryArray::from(vec![&b"\x00\xff"[..]])), "AP8="),
        ("DATE", shared(Date32Array::from(vec![-719_162])), "0001-01-01"),
        ("TIME", shared(Time64MicrosecondArray::from(vec![86_399_999_999])), "23:59:59.999999"),
        ("DATETIME", shared(TimestampMicrosecondArray::from(vec![micros])), "2023-11-14T22:13:20.000001"),
        ("TIMESTAMP", shared(TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC")), "1700000000000001"),
        ("NUMERIC", decimal(10_i128.pow(38) - 1, 38, 9), "99999999999999999999999999999.999999999"),
        ("NUMERIC", decimal(-150, 5, 2), "-1.5"),
        (
            "BIGNUMERIC",
            big(ten(76) - i256::ONE, 76, 38),
            "99999999999999999999999999999999999999.99999999999999999999999999999999999999",
        ),
        ("BIGNUMERIC", big(i256::MINUS_ONE, 76, 38), "-0.00000000000000000000000000000000000001"),
        ("BIGNUMERIC", big(i256::from_i128(-15), 39, 1), "-1.5"),
    ];
    for (number, (kind, value, expected)) in cases.into_iter().enumerate() {
        let (outcome, found) = write(&mut client, number, kind, value).await;
        assert_eq!((outcome.as_str(), found), ("appended", json!(expected)), "{kind}");
    }
}

#[tokio::test]
async fn values_of_other_types_are_refused() {
    let mut client = Client::new(Options::default()).await;
    let cases: Vec<(&str, ArrayRef)> = vec![
        ("STRING", shared(LargeStringArray::from(vec!["a"]))),
        ("STRING", shared(StringViewArray::from(vec!["a"]))),
        ("STRING", shared(DictionaryArray::<Int32Type>::from_iter(["a"]))),
        ("BYTES", shared(LargeBinaryArray::from(vec![&b"a"[..]]))),
        ("BYTES", texts("a")),
        ("INT64", shared(UInt64Array::from(vec![1]))),
        ("INT64", shared(UInt32Array::from(vec![1]))),
        ("INT64", texts("1")),
        ("FLOAT64", shared(Int64Array::from(vec![1]))),
        ("NUMERIC", shared(Int64Array::from(vec![1]))),
        ("NUMERIC", decimal(1, 38, 10)),
        ("NUMERIC", decimal(1, 38, 0)),
        ("NUMERIC", big(i256::ONE, 38, 9)),
        ("BIGNUMERIC", decimal(1, 38, 9)),
        ("BIGNUMERIC", big(i256::ONE, 76, 0)),
        ("DATE", shared(Date64Array::from(vec![0]))),
        ("TIME", shared(Time64NanosecondArray::from(vec![0]))),
        ("TIMESTAMP", shared(TimestampMillisecondArray::from(vec![0]).with_timezone("UTC"))),
        ("TIMESTAMP", shared(TimestampNanosecondArray::from(vec![0]).with_timezone("UTC"))),
        ("TIMESTAMP", shared(TimestampMicrosecondArray::from(vec![0]))),
        ("TIMESTAMP", shared(TimestampMicrosecondArray::from(vec![0]).with_timezone("Asia/Seoul"))),
        ("DATETIME", shared(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"))),
        ("STRING", shared(NullArray::new(1))),
    ];
    for (number, (kind, value)) in cases.into_iter().enumerate() {
        let what = format!("{} for {kind}", value.data_type());
        let (outcome, found) = write(&mut client, number, kind, value).await;
        assert_eq!((outcome.as_str(), found), ("InvalidArgument", Value::Null), "{what}");
    }
}

#[tokio::test]
async fn values_out_of_range_are_errors_of_their_rows() {
    let mut client = Client::new(Options::default()).await;
    let ten = i256::from_i128(10).checked_pow(76).unwrap();
    let cases: Vec<(&str, ArrayRef)> = vec![
        ("NUMERIC", shared(Decimal128Array::from(vec![10_i128.pow(38)]).with_data_type(DataType::Decimal128(38, 9)))),
        ("BIGNUMERIC", shared(Decimal256Array::from(vec![ten]).with_data_type(DataType::Decimal256(76, 38)))),
        ("DATE", shared(Date32Array::from(vec![-719_163]))),
        ("DATETIME", shared(TimestampMicrosecondArray::from(vec![253_402_300_800_000_000]))),
        ("TIME", shared(Time64MicrosecondArray::from(vec![86_400_000_000]))),
    ];
    for (number, (kind, value)) in cases.into_iter().enumerate() {
        let (outcome, _) = write(&mut client, number, kind, value).await;
        assert_eq!(outcome, format!("InvalidArgument, row 0: Value of field Value is out of range for {kind}"));
    }
}

fn list(item: DataType, values: ArrayRef, lengths: [usize; 2], nulls: Option<Vec<bool>>) -> ArrayRef {
    let item = Arc::new(Field::new("item", item, true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    shared(ListArray::new(item, offsets, values, nulls.map(NullBuffer::from)))
}

#[tokio::test]
async fn required_repeated_and_nested_columns_have_their_rules() {
    let mut client = Client::new(Options::default()).await;
    let fields = json!([
        field("id", "INT64", "REQUIRED"), field("tags", "STRING", "REPEATED"),
        {"name": "at", "type": "STRUCT", "mode": "NULLABLE", "fields":
            [field("Shop", "STRING", "REQUIRED"), field("till", "INT64", "REPEATED")]},
    ]);
    client.make("t", fields).await;
    let stream = "projects/test-project/datasets/shop/tables/t/streams/_default";
    let ids = |one| shared(Int64Array::from(vec![one, Some(2)]));
    let tags = |values: Vec<Option<&str>>, lengths, nulls| {
        list(DataType::Utf8, shared(StringArray::from(values)), lengths, nulls)
    };
    let shop = |value: Option<&str>| {
        let names = shared(StringArray::from(vec![value, None]));
        let fields = vec![Field::new("shop", DataType::Utf8, true)].into();
        shared(StructArray::new(fields, vec![names], Some(NullBuffer::from(vec![true, false]))))
    };
    let good = tags(vec![Some("a"), Some("b")], [2, 0], None);
    for (columns, expected) in [
        (vec![("tags", good.clone())], "row 0: Required field id is missing, row 1: Required field id is missing"),
        (vec![("id", ids(None))], "row 0: Required field id is NULL (at 0)"),
        (
            vec![("id", ids(Some(1))), ("tags", tags(vec![Some("a")], [1, 0], Some(vec![true, false])))],
            "row 1: Repeated field tags is NULL, must be empty (at 1)",
        ),
        (
            vec![("id", ids(Some(1))), ("tags", tags(vec![Some("a"), None], [1, 1], None))],
            "row 1: Repeated field tags has a NULL element (at 1)",
        ),
        (vec![("id", ids(Some(1))), ("at", shop(None))], "row 0: Required field at.Shop is NULL (at 0)"),
    ] {
        let outcome = client.append(stream, None, &batch(columns)).await;
        assert_eq!(outcome, format!("InvalidArgument, {expected}"));
    }
    let columns = vec![("ID", ids(Some(1))), ("tags", good), ("AT", shop(Some("Seoul")))];
    assert_eq!(client.append(stream, None, &batch(columns)).await, "appended");
    let mut rows = client.server.table_rows("shop.t");
    rows.sort_by_key(|row| row["id"].as_i64());
    assert_eq!(json!(rows[0]), json!({"id": 1, "tags": ["a", "b"], "at": {"Shop": "Seoul", "till": []}}));
    assert_eq!(json!(rows[1]), json!({"id": 2, "tags": [], "at": null}));
}

#[tokio::test]
async fn unknown_columns_and_those_of_change_data_capture_are_refused() {
    let mut client = Client::with_orders(Options::default()).await;
    let stream = client.pending().await;
    let one = || shared(Int64Array::from(vec![1]));
    for (columns, expected) in [
        (vec![("id", one()), ("none", one())], "InvalidArgument SCHEMA_MISMATCH_EXTRA_FIELDS"),
        (vec![("id", one()), ("ID", one())], "InvalidArgument"),
        (vec![("id", one()), ("_CHANGE_TYPE", texts("UPSERT"))], "InvalidArgument"),
        (vec![("id", shared(Int64Array::from(Vec::<i64>::new())))], "InvalidArgument"),
    ] {
        assert_eq!(client.append(&stream, Some(0), &batch(columns)).await, expected);
    }
}

#[tokio::test]
async fn numbers_sort_as_numbers_and_times_show_as_google_shows_them() {
    let mut client = Client::new(Options::default()).await;
    client.make("t", json!([field("n", "BIGNUMERIC", "NULLABLE"), field("at", "TIMESTAMP", "NULLABLE")])).await;
    let values = [-15, 20, -150, 3].map(i256::from_i128);
    let numbers = Decimal256Array::from(values.to_vec()).with_precision_and_scale(39, 1).unwrap();
    let times = TimestampMicrosecondArray::from(vec![0, 1_700_000_000_000_001, -1, 1_700_000_000_000_000]);
    let rows = batch(vec![("n", shared(numbers)), ("at", shared(times.with_timezone("UTC")))]);
    client.load("t", &rows).await;
    let sql = "SELECT MIN(`n`) AS `a`, MAX(`n`) AS `b`, COUNTIF(`n` < BIGNUMERIC '-1.49') AS `c`, \
               MAX(UNIX_MICROS(`at`)) AS `d` FROM `test-project`.`shop`.`t`";
    let found = client.query(sql).await["rows"][0]["f"].clone();
    assert_eq!(found, json!([{"v": "-15"}, {"v": "2"}, {"v": "2"}, {"v": "1700000000000001"}]));
    let sql = "SELECT `at` FROM `test-project`.`shop`.`t` \
               WHERE `at` >= TIMESTAMP '1970-01-01T00:00:00.000000Z' ORDER BY `at`";
    let body = json!({"query": sql, "useLegacySql": false, "location": "EU"});
    let found = client.check("POST", "queries", body, "200").await["rows"].clone();
    assert_eq!(found[0]["f"][0]["v"], "0.0");
    assert_eq!(found[1]["f"][0]["v"], "1.7E9");
    assert_eq!(found[2]["f"][0]["v"], "1.700000000000001E9");
}
