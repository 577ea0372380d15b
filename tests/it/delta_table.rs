//! Reads a Delta table by its log and its Parquet files, apart from the program.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Columns that may differ between tables that are equal.
const PER_ATTEMPT: [&str; 2] = ["_cdc_batch", "_cdc_loaded_at"];

/// The rows of a table in these columns, `1|NULL|text`, in order.
pub(crate) fn rows(table: &Path, columns: &[&str]) -> Vec<String> {
    let mut rows: Vec<String> = batches(table)
        .iter()
        .flat_map(|batch| {
            (0..batch.num_rows()).map(|row| {
                let cells = columns.iter().map(|name| cell(batch.column_by_name(name), row));
                cells.collect::<Vec<_>>().join("|")
            })
        })
        .collect();
    rows.sort_unstable();
    rows
}

/// The rows with all columns that equal tables agree on, `name=cell|…`, in order. NULLs are left out, so that a file
/// written before a column was added equals one written after.
pub(crate) fn whole_rows(table: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches(table) {
        let schema = batch.schema();
        let names: BTreeSet<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        for row in 0..batch.num_rows() {
            let cells = names.iter().filter(|name| !PER_ATTEMPT.contains(name)).filter_map(|name| {
                let column = batch.column_by_name(name)?;
                column.is_valid(row).then(|| format!("{name}={}", cell(Some(column), row)))
            });
            rows.push(cells.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort_unstable();
    rows
}

/// One cell as text; decimals without the zeros that only their scale adds.
fn cell(column: Option<&ArrayRef>, row: usize) -> String {
    let Some(column) = column.filter(|column| column.is_valid(row)) else { return "NULL".into() };
    let text = array_value_to_string(column, row).unwrap();
    match column.data_type() {
        DataType::Decimal128(..) | DataType::Decimal256(..) if text.contains('.') => {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => text,
    }
}

/// All rows of the table's newest version.
pub(crate) fn batches(table: &Path) -> Vec<RecordBatch> {
    let files = files(table);
    let open = |name: &String| {
        let file = File::open(table.join(name)).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap()
    };
    files.iter().flat_map(open).map(Result::unwrap).collect()
}

/// The Parquet files of the newest version.
fn files(table: &Path) -> BTreeSet<String> {
    let log = table.join("_delta_log");
    let entries = std::fs::read_dir(&log).unwrap_or_else(|cause| panic!("{}: {cause}", log.display()));
    let mut commits: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    commits.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    commits.sort_unstable();
    let mut files = BTreeSet::new();
    for commit in commits {
        for line in std::fs::read_to_string(commit).unwrap().lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(path) = action["add"]["path"].as_str() {
                files.insert(path.to_owned());
            }
            if let Some(path) = action["remove"]["path"].as_str() {
                files.remove(path);
            }
        }
    }
    files
}
