//! Between which values the rows of a merge lie, so that BigQuery reads no more of the final table than can match.
//!
//! Only key columns bound, and columns declared `immutable`: a row of the target that matches a row of the source
//! has the same key, and so, by that declaration, the same value of the column; also a delete carries its row's
//! last image. A column that is NULL in any row of the source bounds nothing.
//! See <https://cloud.google.com/bigquery/docs/using-dml-with-partitioned-tables>.

use super::jobs::JobRows;
use super::sql::{self, Bound};
use crate::change::types::ColumnType;
use crate::error::{Error, Result};
use crate::sink::columns;
use crate::sink::{Column, Target};

/// Longer texts bound nothing: statements stay short.
const TEXT_CHARACTERS_MAX: usize = 200;

/// What the rows of a merge are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) rows: u64,
    /// How many of them are deletes.
    pub(super) deletes: u64,
    pub(super) bounds: Vec<Bound>,
}

/// The columns whose bounds are asked for, of those the log has: the key's, then the immutable ones.
pub(super) fn candidates(target: &Target, log: &[Column]) -> Vec<Column> {
    let mut out: Vec<Column> = Vec::new();
    for name in target.key.iter().chain(&target.storage.immutable) {
        if let Some(column) = columns::find(log, name)
            && has_order(&column.column_type)
            && columns::find(&out, name).is_none()
        {
            out.push(column.clone());
        }
    }
    out
}

fn has_order(column_type: &ColumnType) -> bool {
    use ColumnType as C;
    matches!(column_type, C::Int64 | C::Numeric | C::Date | C::Datetime | C::Timestamp | C::String)
}

/// Reads the answer to [`Merging::bounds`](super::sql::Merging::bounds).
///
/// # Errors
/// [`Bug`](crate::error::Kind::Bug) where it is not of that form.
pub(super) fn read(target: &Target, of: &[Column], rows: &JobRows) -> Result<Extent> {
    let wrong = || Error::bug("BigQuery's answer about the bounds of a merge cannot be read");
    let [row] = rows.as_slice() else { return Err(wrong()) };
    let number = |at: usize| row.get(at)?.as_deref()?.parse::<u64>().ok();
    let mut bounds = Vec::new();
    for (at, column) in of.iter().enumerate() {
        let first = 2 + 3 * at;
        let nulls = number(first + 2).ok_or_else(wrong)?;
        if let (0, Some(Some(least)), Some(Some(greatest))) = (nulls, row.get(first), row.get(first + 1))
            && let (Some(least), Some(greatest)) = (literal(column, least), literal(column, greatest))
        {
            let is_key = target.key.iter().any(|name| columns::same(name, &column.name));
            bounds.push(Bound { column: column.name.clone(), is_key, least, greatest });
        }
    }
    Ok(Extent { rows: number(0).ok_or_else(wrong)?, deletes: number(1).ok_or_else(wrong)?, bounds })
}

/// A value, as BigQuery wrote it, as a literal; None where it is better not used.
fn literal(column: &Column, value: &str) -> Option<String> {
    let digits = |c: char| c.is_ascii_digit() || matches!(c, '-' | '.' | ':' | 'T' | ' ');
    let plain = !value.is_empty() && value.chars().all(digits);
    match column.column_type {
        // The least integer has no literal of its own: it would be the negation of one that does not exist.
        ColumnType::Int64 => value.parse::<i64>().ok().filter(|value| *value > i64::MIN).map(|value| value.to_string()),
        ColumnType::Numeric => plain.then(|| format!("NUMERIC '{value}'")),
        ColumnType::Date => plain.then(|| format!("DATE '{value}'")),
        ColumnType::Datetime => plain.then(|| format!("DATETIME '{value}'")),
        ColumnType::Timestamp => {
            let moment = chrono::DateTime::from_timestamp_micros(value.parse().ok()?)?;
            Some(sql::timestamp(moment))
        }
        ColumnType::String => (value.chars().count() <= TEXT_CHARACTERS_MAX).then(|| sql::text(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::bigquery::fake_rest as fake;
    use crate::sink::columns::column;

    fn target(immutable: &[&str]) -> Target {
        let mut target = fake::target();
        target.storage.immutable = immutable.iter().map(|name| (*name).to_owned()).collect();
        target
    }

    fn row(values: &[Option<&str>]) -> JobRows {
        vec![values.iter().map(|value| value.map(str::to_owned)).collect()]
    }

    /// The bounds of one column `c` that is immutable.
    fn check(
        kind: ColumnType,
        least: Option<&str>,
        greatest: Option<&str>,
        nulls: &str,
        expected: Option<(&str, &str)>,
    ) {
        let read =
            read(&target(&["c"]), &[column("c", kind)], &row(&[Some("5"), Some("2"), least, greatest, Some(nulls)]));
        let extent = read.unwrap();
        assert_eq!((extent.rows, extent.deletes), (5, 2));
        let found = extent.bounds.first().map(|bound| (bound.least.as_str(), bound.greatest.as_str()));
        assert_eq!(found, expected);
    }

    #[test]
    fn values_become_literals_without_loss() {
        check(ColumnType::Int64, Some("-3"), Some("9223372036854775807"), "0", Some(("-3", "9223372036854775807")));
        check(ColumnType::Numeric, Some("-1.5"), Some("2"), "0", Some(("NUMERIC '-1.5'", "NUMERIC '2'")));
        check(
            ColumnType::Date,
            Some("2024-01-01"),
            Some("2024-02-01"),
            "0",
            Some(("DATE '2024-01-01'", "DATE '2024-02-01'")),
        );
        check(
            ColumnType::Timestamp,
            Some("-1"),
            Some("1700000000000001"),
            "0",
            Some(("TIMESTAMP '1969-12-31 23:59:59.999999+00:00'", "TIMESTAMP '2023-11-14 22:13:20.000001+00:00'")),
        );
        check(
            ColumnType::Datetime,
            Some("2024-01-01T00:00:00"),
            Some("2024-01-01T00:00:00.000001"),
            "0",
            Some(("DATETIME '2024-01-01T00:00:00'", "DATETIME '2024-01-01T00:00:00.000001'")),
        );
        check(ColumnType::String, Some(""), Some("o'hara"), "0", Some(("''", r"'o\'hara'")));
    }

    #[test]
    fn a_column_that_is_null_in_any_row_bounds_nothing() {
        check(ColumnType::Int64, Some("1"), Some("2"), "1", None);
        check(ColumnType::Int64, None, None, "5", None);
        check(ColumnType::Int64, None, None, "0", None);
    }

    #[test]
    fn values_that_are_better_not_used_bound_nothing() {
        check(ColumnType::Int64, Some("-9223372036854775808"), Some("2"), "0", None);
        check(ColumnType::Numeric, Some("1'"), Some("2"), "0", None);
        check(ColumnType::String, Some("a"), Some(&"x".repeat(201)), "0", None);
        check(ColumnType::Timestamp, Some("x"), Some("1"), "0", None);
    }

    #[test]
    fn only_key_and_immutable_columns_are_asked_for_and_only_those_with_an_order() {
        let log = [
            column("Id", ColumnType::Int64),
            column("price", ColumnType::Int64),
            column("share", ColumnType::Float64),
            column("day", ColumnType::Date),
        ];
        let names: Vec<_> =
            candidates(&target(&["DAY", "share", "id", "nix"]), &log).into_iter().map(|column| column.name).collect();
        assert_eq!(names, ["Id", "day"]);
    }

    #[test]
    fn key_columns_are_told_from_others() {
        let of = [column("ID", ColumnType::Int64), column("day", ColumnType::Date)];
        let answer = row(&[
            Some("1"),
            Some("0"),
            Some("1"),
            Some("1"),
            Some("0"),
            Some("2024-01-01"),
            Some("2024-01-01"),
            Some("0"),
        ]);
        let is_key: Vec<_> = read(&target(&["day"]), &of, &answer).unwrap().bounds.iter().map(|b| b.is_key).collect();
        assert_eq!(is_key, [true, false]);
    }

    #[test]
    fn an_answer_of_another_form_is_no_extent() {
        let of = [column("id", ColumnType::Int64)];
        for answer in [vec![], row(&[Some("1"), Some("0")]), row(&[None, Some("0"), None, None, Some("0")])] {
            assert!(read(&target(&[]), &of, &answer).is_err());
        }
    }
}
