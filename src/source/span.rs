//! A part of what a source has: the files of some tables and days.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use crate::change::TableName;

/// Which files are wanted; by default all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// Tables as `database.table`, without regard to case; none: all.
    pub tables: Vec<String>,
    /// The first day, in UTC; None: whatever is oldest.
    pub from: Option<NaiveDate>,
    /// The last day, in UTC; None: whatever is newest.
    pub to: Option<NaiveDate>,
}

impl Span {
    /// Whether the table is one of its tables.
    pub fn names(&self, table: &TableName) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|name| table.is_named(name))
    }

    /// Whether it has the file of `table` whose time, in ms since 1970, is this.
    pub fn has(&self, table: &TableName, time_ms: i64) -> bool {
        let begins = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
        let time = DateTime::<Utc>::from_timestamp_millis(time_ms).unwrap_or_default();
        let after = self.to.and_then(|day| day.succ_opt()).map(begins);
        self.names(table)
            && self.from.map(begins).is_none_or(|from| from <= time)
            && after.is_none_or(|after| time < after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Option<NaiveDate> {
        Some(text.parse().unwrap())
    }

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_millis()
    }

    #[test]
    fn days_count_as_a_whole_and_names_without_regard_to_case() {
        let table = TableName::new("Shop", "Orders");
        let span = Span { tables: vec!["shop.orders".into()], from: day("2024-05-06"), to: day("2024-05-07") };
        for (time, expected) in [
            ("2024-05-05T23:59:59.999Z", false),
            ("2024-05-06T00:00:00Z", true),
            ("2024-05-07T23:59:59.999Z", true),
            ("2024-05-08T00:00:00Z", false),
        ] {
            assert_eq!(span.has(&table, at(time)), expected, "{time}");
        }
        assert!(!span.has(&TableName::new("shop", "users"), at("2024-05-06T00:00:00Z")));
    }

    #[test]
    fn what_is_not_said_does_not_bound() {
        assert!(Span::default().has(&TableName::new("a", "b"), i64::MIN));
        let open = Span { to: Some(NaiveDate::MAX), ..Span::default() };
        assert!(open.has(&TableName::new("a", "b"), at("9999-01-01T00:00:00Z")));
    }
}
