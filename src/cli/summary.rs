//! What a run did, for people: a line per table, and what did not go well.

use crate::cli::tell;
use crate::error::Error;
use crate::pipeline::RunReport;

/// What the run did, a line per table.
pub(super) fn summary(report: &RunReport, sink: &str, took: std::time::Duration) -> String {
    let mut lines = vec![
        ["table", "files", "changes sent", "inserted", "updated", "deleted", "set aside", "rows now"]
            .map(str::to_owned),
    ];
    let (mut files, mut changes) = (0, 0);
    for (table, done) in &report.tables {
        files += done.files;
        changes += done.changes;
        let rows = done.rows.iter().filter(|(name, _)| !name.ends_with("_tombstones"));
        let rows: Vec<String> = rows.map(|(name, rows)| format!("{name} {rows}")).collect();
        lines.push([
            table.to_string(),
            done.files.to_string(),
            done.changes.to_string(),
            done.merged.inserted.to_string(),
            done.merged.updated.to_string(),
            done.merged.deleted.to_string(),
            done.set_aside.len().to_string(),
            rows.join(", "),
        ]);
    }
    let mut out = aligned(&lines);
    let state = if report.interrupted { "interrupted after" } else { "done:" };
    out.push_str(&format!(
        "{state} {files} files, {changes} changes sent, {} tables in {:.1} s → {sink}\n",
        report.tables.len(),
        took.as_secs_f64()
    ));
    out
}

/// Columns of text under each other; the first and the last to the left, numbers to the right.
pub(super) fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                if column == 0 || column == N - 1 { format!("{cell}{pad}") } else { format!("{pad}{cell}") }
            })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// What did not go well, for people.
pub(super) fn tell_trouble(report: &RunReport, left: &[Error]) {
    for error in left {
        tell(&format!("left: {}", error.report()));
    }
    for (table, files) in &report.unlisted {
        tell(&format!("left: {files} files of {table}, which the configuration does not list under `databases`"));
    }
    let later: usize = report.tables.values().map(|table| table.left.len()).sum();
    if later > 0 {
        tell(&format!(
            "{later} files could not be read now and are left for the next run; the log lines above say why"
        ));
    }
    let set_aside: usize = report.tables.values().map(|table| table.set_aside.len()).sum();
    let stopped = report.tables.values().filter(|table| table.stopped.is_some()).count();
    if set_aside > 0 || stopped > 0 {
        tell(&format!(
            "{set_aside} files were set aside and {stopped} tables stopped; the log lines above say why, and for files \
             `freshet show TABLE` still will later"
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::change::TableName;
    use crate::change::batch::MergeCounts;
    use crate::pipeline::report::TableReport;

    fn report() -> RunReport {
        let done = TableReport {
            files: 12,
            changes: 3_456,
            merged: MergeCounts { inserted: 3_000, updated: 400, deleted: 5 },
            rows: [("shop.orders", 2_995), ("shop.orders_changes", 3_456), ("shop.orders_tombstones", 5)]
                .map(|(name, rows)| (name.to_owned(), rows))
                .to_vec(),
            ..TableReport::default()
        };
        let set_aside = vec![Error::data("broken").in_file("f")];
        let tables = [
            (TableName::new("shop", "orders"), done),
            (TableName::new("가", "나"), TableReport { files: 1, set_aside, ..TableReport::default() }),
        ];
        RunReport { tables: tables.into(), ..RunReport::default() }
    }

    #[test]
    fn a_summary_has_a_line_per_table_and_the_sum_of_all() {
        let expected = "\
table        files  changes sent  inserted  updated  deleted  set aside  rows now
shop.orders     12          3456      3000      400        5          0  shop.orders 2995, shop.orders_changes 3456
가.나              1             0         0        0        0          1
done: 13 files, 3456 changes sent, 2 tables in 1.5 s → delta ./lake
";
        assert_eq!(summary(&report(), "delta ./lake", Duration::from_millis(1_500)), expected);
    }

    #[test]
    fn a_run_that_was_ended_says_so() {
        let report = RunReport { interrupted: true, ..RunReport::default() };
        let got = summary(&report, "s", Duration::ZERO);
        assert!(got.ends_with("interrupted after 0 files, 0 changes sent, 0 tables in 0.0 s → s\n"), "{got}");
    }

    #[test]
    fn cells_stand_under_each_other() {
        let lines = [["a", "b", "c"], ["long", "1", "x"], ["", "123", ""]].map(|line| line.map(str::to_owned));
        assert_eq!(aligned(&lines), "a       b  c\nlong    1  x\n      123\n");
        assert_eq!(aligned::<2>(&[]), "");
    }
}
