//! Native change data capture: rows of the default stream that upsert or delete by key, the highest sequence winning.
//!
//! See <https://cloud.google.com/bigquery/docs/change-data-capture>.

use chrono::{DateTime, TimeDelta, Utc};

use super::proto_rows::{Cell, Column};
use super::refusal::{Refusal, Result};
use super::schema::Field;
use super::storage::{self, quoted};
use super::streams::default_of;
use super::world::World;
use super::{proto_rows, streams};

const TYPE: &str = "_CHANGE_TYPE";
const SEQUENCE: &str = "_CHANGE_SEQUENCE_NUMBER";
/// So long a delete is remembered.
const REMEMBERED: TimeDelta = TimeDelta::days(2);
const SECTIONS_MAX: usize = 4;
const SECTION_DIGITS_MAX: usize = 16;

/// What is known of a key.
#[derive(Debug, Clone)]
pub(super) struct Known {
    sequence: Option<Vec<u64>>,
    deleted: Option<DateTime<Utc>>,
}

/// Whether these rows are changes.
pub(super) fn are_changes(columns: &[Column]) -> bool {
    columns.iter().any(|column| column.name == TYPE)
}

/// A sequence number: sections of hex digits, each compared as a number.
fn sequence(text: &str) -> Option<Vec<u64>> {
    let sections: Vec<&str> = text.split('/').collect();
    let is_good = |section: &&str| (1..=SECTION_DIGITS_MAX).contains(&section.len());
    if sections.len() > SECTIONS_MAX || !sections.iter().all(is_good) {
        return None;
    }
    sections.iter().map(|section| u64::from_str_radix(section, 16).ok()).collect()
}

/// A value of a key as DuckDB reads it.
fn literal(cell: &Cell) -> Result<String> {
    match cell {
        Cell::Integer(value) => Ok(value.to_string()),
        Cell::Text(value) => Ok(format!("'{}'", value.replace('\'', "''"))),
        Cell::Bool(value) => Ok(value.to_string()),
        _ => Err(Refusal::invalid("a key is NULL or of a type that the strict server does not take for one")),
    }
}

/// One change.
struct Change {
    is_delete: bool,
    sequence: Option<Vec<u64>>,
    /// The key as a condition.
    key: String,
    cells: Vec<Cell>,
}

impl World {
    /// Applies changes; the rows must be of the table's default stream.
    pub(super) fn append_changes(
        &mut self,
        stream: &str,
        columns: &[Column],
        rows: Vec<Vec<Cell>>,
        fields: &[Field],
    ) -> Result<()> {
        let path = default_of(stream)
            .ok_or_else(|| Refusal::invalid("change data capture is for the default stream alone"))?
            .to_owned();
        let (dataset, name) = streams::table_of(&path)?;
        let key = self.primary_key(&dataset, &name)?;
        let changes: Vec<Change> = rows.into_iter().map(|row| change(columns, row, &key)).collect::<Result<_>>()?;
        let numbered = changes.iter().filter(|change| change.sequence.is_some()).count();
        let table = self.tables.get_mut(&(dataset.clone(), name.clone())).expect("its key was read");
        let mixes = numbered != 0 && numbered != changes.len();
        if mixes || *table.has_sequences.get_or_insert(numbered > 0) != (numbered > 0) {
            return Err(Refusal::invalid("rows with and without a sequence number are mixed"));
        }
        table.is_fed_by_cdc = true;
        for change in changes {
            self.apply((&dataset, &name), columns, change, fields)?;
        }
        Ok(())
    }

    fn primary_key(&self, dataset: &str, name: &str) -> Result<Vec<String>> {
        let table = self.table(dataset, name).map_err(|_| Refusal::invalid("the table is gone"))?;
        let columns = table.constraints()["primaryKey"]["columns"].as_array().cloned().unwrap_or_default();
        let columns: Vec<String> = columns.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        match columns.len() {
            1..=16 => Ok(columns),
            count => Err(Refusal::invalid(format!(
                "change data capture needs a primary key of 1 to 16 columns, not {count}"
            ))),
        }
    }

    fn apply(&mut self, of: (&str, &str), columns: &[Column], change: Change, fields: &[Field]) -> Result<()> {
        let now = self.clock.now();
        let id = (of.0.to_owned(), of.1.to_owned());
        let table = self.tables.get_mut(&id).expect("its key was read");
        let forgotten = |known: &Known| known.deleted.is_some_and(|at| now - at > REMEMBERED);
        let newer = table.changes.get(&change.key).filter(|known| !forgotten(known));
        if newer.is_some_and(|known| known.sequence > change.sequence) {
            return Ok(());
        }
        let deleted = change.is_delete.then_some(now);
        table.changes.insert(change.key.clone(), Known { sequence: change.sequence, deleted });
        let kept_as = table.kept_as.clone();
        let internal = |refused: super::engine::Refused| Refusal::new(tonic::Code::Internal, refused.message);
        self.engine.run(&[format!("DELETE FROM {} WHERE {}", quoted(&kept_as), change.key)]).map_err(internal)?;
        if !change.is_delete {
            let row = proto_rows::record_batch(columns, &[change.cells], fields)?;
            self.engine.insert(&kept_as, &[storage::keep(&row, fields)]).map_err(internal)?;
        }
        Ok(())
    }
}

fn change(columns: &[Column], cells: Vec<Cell>, key: &[String]) -> Result<Change> {
    let cell = |name: &str| columns.iter().position(|column| column.name == name).map(|at| &cells[at]);
    let is_delete = match cell(TYPE) {
        Some(Cell::Text(kind)) if kind == "UPSERT" => false,
        Some(Cell::Text(kind)) if kind == "DELETE" => true,
        other => return Err(Refusal::invalid(format!("{TYPE} is {other:?}, not UPSERT or DELETE"))),
    };
    let sequence = match cell(SEQUENCE) {
        None | Some(Cell::Null) => None,
        Some(Cell::Text(text)) => {
            Some(sequence(text).ok_or_else(|| Refusal::invalid(format!("{SEQUENCE} `{text}` is none")))?)
        }
        Some(other) => return Err(Refusal::invalid(format!("{SEQUENCE} is {other:?}"))),
    };
    let conditions = key.iter().map(|name| {
        let value = literal(cell(name).unwrap_or(&Cell::Null))?;
        Ok(format!("{} = {value}", quoted(name)))
    });
    let key = conditions.collect::<Result<Vec<_>>>()?.join(" AND ");
    Ok(Change { is_delete, sequence, key, cells })
}
