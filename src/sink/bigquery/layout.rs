//! How a target's tables are partitioned and clustered, so that a merge reads little of them.
//!
//! See <https://cloud.google.com/bigquery/docs/clustered-tables#limitations>.

use super::Part;
use super::sql::Layout;
use crate::change::types::ColumnType;
use crate::error::{Error, Result};
use crate::sink::columns::{self, column};
use crate::sink::{Column, Target};

/// No table is clustered by more columns.
const CLUSTERED_MAX: usize = 4;

/// The layout of one of the target's tables with these columns.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where `partition_by` or `cluster_by` name what cannot be used.
pub(super) fn layout(target: &Target, part: Part, of: &[Column]) -> Result<Layout> {
    match part {
        Part::Changes => {
            let mut cluster_by = vec![columns::BATCH.to_owned()];
            cluster_by.extend(by_key(target, of));
            cluster_by.truncate(CLUSTERED_MAX);
            let partition_by = Some(column(columns::LOADED_AT, ColumnType::Timestamp));
            Ok(Layout { partition_by, cluster_by })
        }
        Part::Tombstones | Part::Live => Ok(Layout { partition_by: None, cluster_by: by_key(target, of) }),
        Part::Final => Ok(Layout { partition_by: partition_by(target, of)?, cluster_by: cluster_by(target, of)? }),
    }
}

/// The key's columns, as far as a table can be clustered by them.
fn by_key(target: &Target, of: &[Column]) -> Vec<String> {
    let found = target.key.iter().filter_map(|name| columns::find(of, name));
    found.filter(|column| can_cluster(column)).map(|column| column.name.clone()).take(CLUSTERED_MAX).collect()
}

fn can_cluster(column: &Column) -> bool {
    use ColumnType as C;
    matches!(
        column.column_type,
        C::Bool | C::Int64 | C::Numeric | C::BigNumeric | C::String | C::Date | C::Datetime | C::Timestamp
    )
}

fn partition_by(target: &Target, of: &[Column]) -> Result<Option<Column>> {
    let Some(name) = &target.storage.partition_by else { return Ok(None) };
    let found = named("partition_by", name, of)?;
    if matches!(found.column_type, ColumnType::Date | ColumnType::Datetime | ColumnType::Timestamp) {
        return Ok(Some(found.clone()));
    }
    Err(Error::user(format!("`partition_by` names `{name}`, which is {}", found.column_type))
        .hint("a table is partitioned by a DATE, DATETIME or TIMESTAMP"))
}

fn cluster_by(target: &Target, of: &[Column]) -> Result<Vec<String>> {
    let Some(names) = &target.storage.cluster_by else { return Ok(by_key(target, of)) };
    if names.len() > CLUSTERED_MAX {
        return Err(Error::user(format!("`cluster_by` names {} columns", names.len()))
            .hint(format!("BigQuery takes {CLUSTERED_MAX} at most: name those that queries filter by")));
    }
    let mut out = Vec::new();
    for name in names {
        let found = named("cluster_by", name, of)?;
        if !can_cluster(found) {
            return Err(Error::user(format!("`cluster_by` names `{name}`, which is {}", found.column_type))
                .hint("a table is clustered by numbers, texts, dates and times other than FLOAT64, BYTES and TIME"));
        }
        out.push(found.name.clone());
    }
    Ok(out)
}

fn named<'a>(option: &str, name: &str, of: &'a [Column]) -> Result<&'a Column> {
    columns::find(of, name).ok_or_else(|| {
        let have: Vec<_> = of.iter().map(|column| column.name.as_str()).collect();
        Error::user(format!("`{option}` names `{name}`, which is no column of the table"))
            .hint(format!("its columns are {}", have.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::bigquery::fake_rest as fake;

    fn all() -> Vec<Column> {
        vec![
            column("Id", ColumnType::Int64),
            column("raw", ColumnType::Bytes),
            column("day", ColumnType::Date),
            column("shop", ColumnType::String),
            column("lane", ColumnType::String),
            column("till", ColumnType::String),
        ]
    }

    fn check(key: &[&str], part: Part, expected: &[&str]) {
        let target = Target { key: key.iter().map(|name| (*name).to_owned()).collect(), ..fake::target() };
        assert_eq!(layout(&target, part, &all()).unwrap().cluster_by, expected);
    }

    #[test]
    fn tables_are_clustered_by_the_key_as_far_as_bigquery_can() {
        check(&["id"], Part::Changes, &["_cdc_batch", "Id"]);
        check(&["id", "raw", "shop"], Part::Final, &["Id", "shop"]);
        check(&["id", "day", "shop", "lane", "till"], Part::Tombstones, &["Id", "day", "shop", "lane"]);
        check(&["id", "day", "shop", "lane", "till"], Part::Changes, &["_cdc_batch", "Id", "day", "shop"]);
        check(&[], Part::Changes, &["_cdc_batch"]);
    }

    #[test]
    fn the_log_is_partitioned_by_the_day_of_loading_and_the_final_table_as_configured() {
        let mut target = fake::target();
        let by = |target: &Target, part| layout(target, part, &all()).unwrap().partition_by.map(|column| column.name);
        assert_eq!(by(&target, Part::Changes).as_deref(), Some("_cdc_loaded_at"));
        assert_eq!(by(&target, Part::Final), None);
        target.storage.partition_by = Some("DAY".into());
        target.storage.cluster_by = Some(vec!["Shop".into()]);
        assert_eq!(by(&target, Part::Final).as_deref(), Some("day"));
        assert_eq!(layout(&target, Part::Final, &all()).unwrap().cluster_by, ["shop"]);
        assert_eq!(by(&target, Part::Tombstones), None);
    }

    #[test]
    fn columns_that_cannot_be_used_are_refused_by_name() {
        let refused = |partition_by: Option<&str>, cluster_by: Option<&[&str]>| {
            let mut target = fake::target();
            target.storage.partition_by = partition_by.map(str::to_owned);
            target.storage.cluster_by = cluster_by.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
            layout(&target, Part::Final, &all()).unwrap_err().report()
        };
        assert!(refused(Some("nix"), None).contains("`nix`, which is no column"));
        assert!(refused(Some("shop"), None).contains("`shop`, which is STRING"));
        assert!(refused(None, Some(&["raw"])).contains("`raw`, which is BYTES"));
        assert!(refused(None, Some(&["id", "day", "shop", "lane", "till"])).contains("names 5 columns"));
    }
}
