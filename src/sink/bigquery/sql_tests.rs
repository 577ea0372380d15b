//! The text of every statement, as BigQuery gets it.

use chrono::DateTime;

use super::*;
use crate::sink::columns::column;

fn id(table: &str) -> TableId {
    TableId { project: "my-project".into(), dataset: "shop".into(), table: table.into() }
}

fn attempt(id: &str, micros: i64) -> Attempt {
    Attempt { id: id.into(), loaded_at: DateTime::from_timestamp_micros(micros).unwrap() }
}

/// Two batches of a table `id, day, value`.
fn check(on_delete: OnDelete, expected: &str, statement: impl Fn(&Merging<'_>) -> String) {
    let merge = MergeAttempt {
        attempt: attempt("m-1", 1_700_000_100_000_000),
        batches: vec!["b-1".into(), "b'2".into()],
        purged_us: 0,
        rows: 0,
        loaded: (
            DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap(),
            DateTime::from_timestamp_micros(1_700_000_060_000_000).unwrap(),
        ),
    };
    let mut log = vec![
        column("id", ColumnType::Int64),
        column("day", ColumnType::Date),
        column("value", ColumnType::String),
        column("_cdc_operation", ColumnType::String),
        column("_cdc_sequence", ColumnType::String),
    ];
    log.extend(columns::added_to_changes());
    let merging = Merging {
        log: &id("orders_changes"),
        final_table: &id("orders"),
        tombstones: &id("orders_tombstones"),
        on_delete,
        key: &log[..1],
        columns: &columns::final_columns(&log, on_delete),
        merge: &merge,
        floor: "",
    };
    assert_eq!(statement(&merging), expected.split_whitespace().collect::<Vec<_>>().join(" "));
}

fn bounds() -> Vec<Bound> {
    let bound = |column: &str, is_key, least: &str, greatest: &str| Bound {
        column: column.into(),
        is_key,
        least: least.into(),
        greatest: greatest.into(),
    };
    vec![bound("id", true, "3", "9"), bound("day", false, "DATE '2024-01-01'", "DATE '2024-01-02'")]
}

#[test]
fn names_and_texts_cannot_leave_their_quotes() {
    assert_eq!(name("a`b\\c"), r"`a\`b\\c`");
    assert_eq!(text("it's \\ a\n\u{1}\"`"), r#"'it\'s \\ a\n\u0001"`'"#);
    assert_eq!(table(&id("or`ders")), r"`my-project`.`shop`.`or\`ders`");
}

#[test]
fn times_are_exact_to_the_microsecond() {
    let moment = DateTime::from_timestamp_micros(1_700_000_000_000_001).unwrap();
    assert_eq!(timestamp(moment), "TIMESTAMP '2023-11-14 22:13:20.000001+00:00'");
}

#[test]
fn rows_are_counted_by_batch_and_partition() {
    assert_eq!(count(&id("orders")), "SELECT COUNT(*) AS `n` FROM `my-project`.`shop`.`orders`");
    assert_eq!(
        count_attempt(&id("orders_changes"), &attempt("b-1", 1_700_000_000_000_000)),
        "SELECT COUNT(*) AS `n` FROM `my-project`.`shop`.`orders_changes` WHERE `_cdc_batch` = 'b-1' \
         AND `_cdc_loaded_at` = TIMESTAMP '2023-11-14 22:13:20.000000+00:00'"
    );
}

#[test]
fn bounds_are_asked_of_all_rows_and_times_come_as_microseconds() {
    check(
        OnDelete::Remove,
        "SELECT COUNT(*) AS `n`, COUNTIF(`_cdc_operation` = 'D') AS `deletes`,
         MIN(`id`) AS `least_0`, MAX(`id`) AS `greatest_0`, COUNTIF(`id` IS NULL) AS `nulls_0`,
         UNIX_MICROS(MIN(`at`)) AS `least_1`, UNIX_MICROS(MAX(`at`)) AS `greatest_1`, COUNTIF(`at` IS NULL) AS `nulls_1`
         FROM `my-project`.`shop`.`orders_changes` WHERE `_cdc_batch` IN ('b-1', 'b\\'2') AND `_cdc_loaded_at`
         BETWEEN TIMESTAMP '2023-11-14 22:13:20.000001+00:00' AND TIMESTAMP '2023-11-14 22:14:20.000000+00:00'",
        |merging| merging.bounds(&[column("id", ColumnType::Int64), column("at", ColumnType::Timestamp)]),
    );
}

#[test]
fn tombstones_are_merged_by_key_guarded_and_bounded_by_key_columns_alone() {
    check(
        OnDelete::Remove,
        "MERGE `my-project`.`shop`.`orders_tombstones` AS _t USING (SELECT `id`, `_cdc_sequence` FROM (SELECT `id`, `_cdc_sequence`, `_cdc_operation` FROM (SELECT `id`, `_cdc_sequence`, `_cdc_operation`,
             ROW_NUMBER() OVER (PARTITION BY `id`
               ORDER BY `_cdc_sequence` DESC, `_cdc_file_id` DESC, `_cdc_batch` DESC) AS `_freshet_rank`
             FROM `my-project`.`shop`.`orders_changes` WHERE `_cdc_batch` IN ('b-1', 'b\\'2') AND `_cdc_loaded_at`
             BETWEEN TIMESTAMP '2023-11-14 22:13:20.000001+00:00' AND TIMESTAMP '2023-11-14 22:14:20.000000+00:00')
           WHERE `_freshet_rank` = 1) WHERE `_cdc_operation` = 'D') AS _s
         ON _t.`id` = _s.`id` AND _t.`id` BETWEEN 3 AND 9
         WHEN MATCHED AND _s.`_cdc_sequence` > _t.`_cdc_sequence` THEN UPDATE SET `_cdc_sequence` = _s.`_cdc_sequence`,
           `_cdc_loaded_at` = TIMESTAMP '2023-11-14 22:15:00.000000+00:00'
         WHEN NOT MATCHED THEN INSERT (`id`, `_cdc_sequence`, `_cdc_loaded_at`)
           VALUES (_s.`id`, _s.`_cdc_sequence`, TIMESTAMP '2023-11-14 22:15:00.000000+00:00')",
        |merging| merging.bury(&bounds()),
    );
}

#[test]
fn under_remove_the_final_merge_consults_tombstones_and_a_delete_takes_its_row() {
    check(
        OnDelete::Remove,
        "MERGE `my-project`.`shop`.`orders` AS _t USING (SELECT _s.* FROM (SELECT `id`, `day`, `value`, `_cdc_sequence`,
           `_cdc_operation` FROM (SELECT `id`, `day`, `value`, `_cdc_sequence`, `_cdc_operation`,
             ROW_NUMBER() OVER (PARTITION BY `id`
               ORDER BY `_cdc_sequence` DESC, `_cdc_file_id` DESC, `_cdc_batch` DESC) AS `_freshet_rank`
             FROM `my-project`.`shop`.`orders_changes` WHERE `_cdc_batch` IN ('b-1', 'b\\'2') AND `_cdc_loaded_at`
             BETWEEN TIMESTAMP '2023-11-14 22:13:20.000001+00:00' AND TIMESTAMP '2023-11-14 22:14:20.000000+00:00')
           WHERE `_freshet_rank` = 1) AS _s
           LEFT JOIN `my-project`.`shop`.`orders_tombstones` AS _d ON _d.`id` = _s.`id` AND _d.`id` BETWEEN 3 AND 9
           WHERE _s.`_cdc_operation` = 'D' OR _d.`_cdc_sequence` IS NULL OR _s.`_cdc_sequence` > _d.`_cdc_sequence`) AS _s
         ON _t.`id` = _s.`id` AND _t.`id` BETWEEN 3 AND 9
           AND (_t.`day` BETWEEN DATE '2024-01-01' AND DATE '2024-01-02' OR _t.`day` IS NULL)
         WHEN MATCHED AND _s.`_cdc_sequence` > _t.`_cdc_sequence` AND _s.`_cdc_operation` = 'D' THEN DELETE
         WHEN MATCHED AND _s.`_cdc_sequence` > _t.`_cdc_sequence` AND _s.`_cdc_operation` != 'D' THEN UPDATE SET
           `day` = _s.`day`, `value` = _s.`value`, `_cdc_sequence` = _s.`_cdc_sequence`,
           `_cdc_loaded_at` = TIMESTAMP '2023-11-14 22:15:00.000000+00:00'
         WHEN NOT MATCHED AND _s.`_cdc_operation` != 'D' THEN INSERT (`id`, `day`, `value`, `_cdc_sequence`,
           `_cdc_loaded_at`) VALUES (_s.`id`, _s.`day`, _s.`value`, _s.`_cdc_sequence`,
           TIMESTAMP '2023-11-14 22:15:00.000000+00:00')",
        |merging| merging.merge(&bounds()),
    );
}

#[test]
fn under_mark_a_delete_is_an_update_or_insert_of_a_deleted_row() {
    check(
        OnDelete::Mark,
        "MERGE `my-project`.`shop`.`orders` AS _t USING (SELECT `id`, `day`, `value`, `_cdc_sequence`,
           `_cdc_operation` FROM (SELECT `id`, `day`, `value`, `_cdc_sequence`, `_cdc_operation`,
             ROW_NUMBER() OVER (PARTITION BY `id`
               ORDER BY `_cdc_sequence` DESC, `_cdc_file_id` DESC, `_cdc_batch` DESC) AS `_freshet_rank`
             FROM `my-project`.`shop`.`orders_changes` WHERE `_cdc_batch` IN ('b-1', 'b\\'2') AND `_cdc_loaded_at`
             BETWEEN TIMESTAMP '2023-11-14 22:13:20.000001+00:00' AND TIMESTAMP '2023-11-14 22:14:20.000000+00:00')
           WHERE `_freshet_rank` = 1) AS _s
         ON _t.`id` = _s.`id`
         WHEN MATCHED AND _s.`_cdc_sequence` > _t.`_cdc_sequence` THEN UPDATE SET
           `day` = _s.`day`, `value` = _s.`value`, `_cdc_sequence` = _s.`_cdc_sequence`,
           `_cdc_loaded_at` = TIMESTAMP '2023-11-14 22:15:00.000000+00:00', `_cdc_deleted` = (_s.`_cdc_operation` = 'D')
         WHEN NOT MATCHED THEN INSERT (`id`, `day`, `value`, `_cdc_sequence`, `_cdc_loaded_at`, `_cdc_deleted`)
           VALUES (_s.`id`, _s.`day`, _s.`value`, _s.`_cdc_sequence`, TIMESTAMP '2023-11-14 22:15:00.000000+00:00',
           (_s.`_cdc_operation` = 'D'))",
        |merging| merging.merge(&[]),
    );
}

#[test]
fn the_live_view_applies_newer_changes_by_the_same_guard() {
    check(
        OnDelete::Remove,
        "WITH _c AS (SELECT `id`, `day`, `value`, `_cdc_sequence`, `_cdc_loaded_at`, `_cdc_operation` FROM (SELECT
           `id`, `day`, `value`, `_cdc_sequence`, `_cdc_loaded_at`, `_cdc_operation`,
             ROW_NUMBER() OVER (PARTITION BY `id`
               ORDER BY `_cdc_sequence` DESC, `_cdc_file_id` DESC, `_cdc_batch` DESC) AS `_freshet_rank`
             FROM `my-project`.`shop`.`orders_changes`
             WHERE `_cdc_loaded_at` >= TIMESTAMP '1970-01-01 00:00:00.000000+00:00') WHERE `_freshet_rank` = 1)
         SELECT _f.`id`, _f.`day`, _f.`value`, _f.`_cdc_sequence`, _f.`_cdc_loaded_at` FROM `my-project`.`shop`.`orders` AS _f
           LEFT JOIN _c ON _f.`id` = _c.`id`
           WHERE _c.`_cdc_sequence` IS NULL OR _c.`_cdc_sequence` <= _f.`_cdc_sequence`
         UNION ALL
         SELECT _c.`id`, _c.`day`, _c.`value`, _c.`_cdc_sequence`, _c.`_cdc_loaded_at` FROM _c
           LEFT JOIN `my-project`.`shop`.`orders` AS _f ON _f.`id` = _c.`id`
           LEFT JOIN `my-project`.`shop`.`orders_tombstones` AS _d ON _d.`id` = _c.`id`
           WHERE (_f.`_cdc_sequence` IS NULL OR _c.`_cdc_sequence` > _f.`_cdc_sequence`)
             AND (_d.`_cdc_sequence` IS NULL OR _c.`_cdc_sequence` > _d.`_cdc_sequence`) AND _c.`_cdc_operation` != 'D'",
        |merging| merging.live(DateTime::UNIX_EPOCH),
    );
}

#[test]
fn the_live_view_under_mark_shows_deleted_rows_as_such() {
    check(
        OnDelete::Mark,
        "WITH _c AS (SELECT `id`, `day`, `value`, `_cdc_sequence`, `_cdc_loaded_at`, `_cdc_operation` FROM (SELECT
           `id`, `day`, `value`, `_cdc_sequence`, `_cdc_loaded_at`, `_cdc_operation`,
             ROW_NUMBER() OVER (PARTITION BY `id`
               ORDER BY `_cdc_sequence` DESC, `_cdc_file_id` DESC, `_cdc_batch` DESC) AS `_freshet_rank`
             FROM `my-project`.`shop`.`orders_changes`
             WHERE `_cdc_loaded_at` >= TIMESTAMP '1970-01-01 00:00:00.000000+00:00') WHERE `_freshet_rank` = 1)
         SELECT _f.`id`, _f.`day`, _f.`value`, _f.`_cdc_sequence`, _f.`_cdc_loaded_at`, _f.`_cdc_deleted`
           FROM `my-project`.`shop`.`orders` AS _f LEFT JOIN _c ON _f.`id` = _c.`id`
           WHERE _c.`_cdc_sequence` IS NULL OR _c.`_cdc_sequence` <= _f.`_cdc_sequence`
         UNION ALL
         SELECT _c.`id`, _c.`day`, _c.`value`, _c.`_cdc_sequence`, _c.`_cdc_loaded_at`,
           (_c.`_cdc_operation` = 'D') AS `_cdc_deleted` FROM _c
           LEFT JOIN `my-project`.`shop`.`orders` AS _f ON _f.`id` = _c.`id`
           WHERE (_f.`_cdc_sequence` IS NULL OR _c.`_cdc_sequence` > _f.`_cdc_sequence`)",
        |merging| merging.live(DateTime::UNIX_EPOCH),
    );
}

#[test]
fn a_view_is_made_or_replaced_with_its_description() {
    assert_eq!(
        create_view(&id("orders_live"), "it's live", "SELECT 1"),
        r"CREATE OR REPLACE VIEW `my-project`.`shop`.`orders_live` OPTIONS (description = 'it\'s live') AS SELECT 1"
    );
}

#[test]
fn what_people_must_do_themselves_is_told_in_ddl() {
    let columns = [column("id", ColumnType::Int64), column("at", ColumnType::Timestamp)];
    let layout = Layout { partition_by: Some(columns[1].clone()), cluster_by: vec!["id".into()] };
    assert_eq!(
        create_table(&id("orders"), &columns, &layout),
        "CREATE TABLE `my-project`.`shop`.`orders` (`id` INT64, `at` TIMESTAMP) PARTITION BY DATE(`at`) CLUSTER BY `id`"
    );
    assert_eq!(
        create_table(&id("orders"), &columns[..1], &Layout::default()),
        "CREATE TABLE `my-project`.`shop`.`orders` (`id` INT64)"
    );
    assert_eq!(
        add_columns(&id("orders"), &columns),
        "ALTER TABLE `my-project`.`shop`.`orders` ADD COLUMN `id` INT64, ADD COLUMN `at` TIMESTAMP"
    );
    assert_eq!(
        create_dataset("p", "shop", "asia-northeast3"),
        "CREATE SCHEMA `p`.`shop` OPTIONS (location = 'asia-northeast3')"
    );
}

#[test]
fn all_columns_are_widened_by_one_statement() {
    let to = |name: &str, schema: &str| Wider { name: name.into(), schema: schema.into() };
    assert_eq!(
        widen_columns(&id("orders"), &[to("id", "NUMERIC NOT NULL"), to("a`b", "BIGNUMERIC")]),
        "ALTER TABLE `my-project`.`shop`.`orders` ALTER COLUMN `id` SET DATA TYPE NUMERIC NOT NULL, \
         ALTER COLUMN `a\\`b` SET DATA TYPE BIGNUMERIC"
    );
}

#[test]
fn tombstones_are_purged_below_a_sequence_from_which_on_the_view_shows_changes() {
    assert_eq!((floor(1, 0), floor(2, 0)), (String::new(), "0000000000000002".to_owned()));
    let floor = floor(2, 5);
    let expected = "DELETE FROM `my-project`.`shop`.`orders_tombstones` WHERE `_cdc_sequence` < \
                    '0000000000000002/0000000000000005/0000000000000000/0000000000000000'";
    assert_eq!(purge(&id("orders_tombstones"), &floor), expected);
    let ranks = ["", "0000000000000002", &floor].map(|floor| {
        let query =
            format!("SELECT 1 FROM `t` WHERE `_cdc_loaded_at` >= TIMESTAMP 'x' AND `_cdc_sequence` >= '{floor}'");
        live_floor(&query).to_owned()
    });
    assert!(ranks.is_sorted() && ranks[2] == floor, "{ranks:?}");
    assert_eq!(live_floor("SELECT 1"), "");
}
