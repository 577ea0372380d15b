//! Cutting never shows: all files at once, one by one or in any parts give the same final rows, and those of
//! a model that knows no SQL.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;

use super::transform;
use crate::catalog::opened::OpenedFile;
use crate::catalog::samples::{Shelf, batch, ints, parquet, session, texts};
use crate::change::{FileId, Half, SequenceBase};
use crate::transform::planned::Planned;
use crate::trial::dice::Dice;

/// A change as the model keeps it: key, operation, name in capitals.
type Row = (i64, String, Option<String>);

/// Files of random changes, and for each change, by its sequence, file, row and what it says.
struct Given {
    files: Vec<Arc<OpenedFile>>,
    changes: BTreeMap<String, (FileId, i64, Row)>,
}

async fn random_files(dice: &mut Dice) -> Given {
    let shelf = Shelf::default();
    let mut given = Given { files: Vec::new(), changes: BTreeMap::new() };
    for n in 0..1 + dice.below(6) {
        let count = dice.below(12);
        let ids: Vec<i64> = (0..count).map(|_| i64::try_from(dice.below(5)).unwrap()).collect();
        let operations: Vec<&str> = (0..count).map(|_| *dice.pick(&["I", "U", "D"])).collect();
        let names: Vec<Option<&str>> =
            (0..count).map(|_| *dice.pick(&[None, Some("ann"), Some("밥"), Some("")])).collect();
        let time = 1_000 * i64::try_from(dice.below(3)).unwrap(); // equal times are frequent
        let columns = [("Op", texts(operations.clone())), ("id", ints(ids.clone())), ("Name", texts(names.clone()))];
        let file = shelf.open(&format!("{n}.parquet"), time, parquet(&batch(columns), 3)).await;
        let base = SequenceBase::new(&file.file, 1).unwrap();
        for (row, id) in ids.iter().enumerate() {
            let time_us = u64::try_from(time * 1_000).unwrap();
            let sequence = base.best_effort(time_us, row as u64, Half::Whole).to_string();
            let change = (*id, operations[row].to_owned(), names[row].map(str::to_uppercase));
            given.changes.insert(sequence, (file.file.id(), i64::try_from(row).unwrap(), change));
        }
        given.files.push(file);
    }
    given
}

/// The latest change of each key, in the order of the sequence.
fn latest<'a>(changes: impl Iterator<Item = (&'a String, &'a Row)>) -> BTreeMap<i64, (String, Row)> {
    let mut final_rows: BTreeMap<i64, (String, Row)> = BTreeMap::new();
    for (sequence, row) in changes {
        if final_rows.get(&row.0).is_none_or(|(known, _)| known < sequence) {
            final_rows.insert(row.0, (sequence.clone(), row.clone()));
        }
    }
    final_rows
}

/// What the plan makes of these files, by sequence; checks that every row still knows where it is from.
async fn run(planned: &Planned, given: &Given, files: Vec<Arc<OpenedFile>>) -> HashMap<String, Row> {
    let session = session(3);
    let bound = planned.bind(files).unwrap();
    let batches = session.execute_logical_plan(bound).await.unwrap().collect().await.unwrap();
    let mut rows = HashMap::new();
    for batch in &batches {
        for index in 0..batch.num_rows() {
            let sequence = text(batch, "_cdc_sequence", index).unwrap();
            let (file, number, _) = &given.changes[&sequence];
            let id = batch.column_by_name("__freshet_file_id").unwrap().as_binary::<i32>().value(index);
            assert_eq!(id, file.0, "{sequence}");
            let row = batch.column_by_name("__freshet_file_row").unwrap().as_primitive::<Int64Type>().value(index);
            assert_eq!(row, *number, "{sequence}");
            let key = text(batch, "key", index).unwrap().parse().unwrap();
            let row = (key, text(batch, "_cdc_operation", index).unwrap(), text(batch, "NAME", index));
            assert!(rows.insert(sequence, row).is_none(), "a change came out twice");
        }
    }
    rows
}

fn text(batch: &RecordBatch, name: &str, index: usize) -> Option<String> {
    let column = batch.column_by_name(name).unwrap();
    (!column.is_null(index)).then(|| array_value_to_string(column, index).unwrap())
}

/// Every form of the same transform: with latest-per-key or without, filtered by the key or not.
fn forms() -> Vec<(String, bool)> {
    let outputs = "upper(Name) AS \"NAME\", _cdc_operation, _cdc_sequence";
    let window = "row_number() OVER (PARTITION BY id ORDER BY _cdc_sequence DESC)";
    vec![
        (format!("SELECT id AS key, {outputs} FROM orders"), false),
        (format!("SELECT id AS key, {outputs} FROM shop.orders ORDER BY _cdc_row"), false),
        (format!("SELECT id AS key, {outputs} FROM orders WHERE id > 1"), true),
        (format!("SELECT id AS key, {outputs} FROM orders QUALIFY {window} = 1"), false),
        (format!("SELECT id AS key, {outputs} FROM orders WHERE ID > 1 QUALIFY {window} <= 1"), true),
        (
            format!("SELECT id AS key, {outputs} FROM (SELECT *, {window} AS rn FROM orders) WHERE rn = 1 AND id > 1"),
            true,
        ),
        (
            format!(
                "WITH x AS (SELECT *, {window} AS rn FROM orders) SELECT CAST(id AS VARCHAR) AS key, {outputs} FROM x WHERE 2 > rn"
            ),
            false,
        ),
        (
            format!(
                "SELECT key, \"NAME\", _cdc_operation, _cdc_sequence FROM (SELECT *, id AS key, upper(NAME) AS \"NAME\", {window} AS rn FROM orders) t WHERE key > 1 AND t.rn = 1 ORDER BY key"
            ),
            true,
        ),
    ]
}

#[tokio::test]
async fn cutting_never_shows_in_the_final_rows() {
    for seed in 0..8 {
        let dice = &mut Dice::new(seed);
        let given = random_files(dice).await;
        for (sql, filtered) in forms() {
            let planned = transform(Some(&sql), Some(&["key"]));
            let planned = planned.plan(&session(1), &given.files[0].schema, &[]).await;
            let planned = planned.unwrap_or_else(|error| panic!("{sql}\n{}", error.report()));
            let wanted = |row: &Row| !filtered || row.0 > 1;
            let model = given.changes.iter().map(|(sequence, (_, _, row))| (sequence, row));
            let expected = latest(model.filter(|(_, row)| wanted(row)));
            for files_at_once in [usize::MAX, 1, 2] {
                let mut rows = HashMap::new();
                for part in given.files.chunks(files_at_once.min(given.files.len())) {
                    rows.extend(run(&planned, &given, part.to_vec()).await);
                }
                assert_eq!(latest(rows.iter()), expected, "seed {seed}, {files_at_once} files at once: {sql}");
            }
        }
    }
}
