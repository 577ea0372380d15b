//! Datasets and tables: made where they are missing, given the columns they lack.
//!
//! What was seen of a table is kept, so that a batch that needs nothing new asks nothing. It is only ever used to
//! find that nothing is to be done: whatever it does not cover is looked up again first.
//!
//! See <https://cloud.google.com/bigquery/docs/managing-table-schemas>.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gcp_bigquery_client::model::clustering::Clustering;
use gcp_bigquery_client::model::encryption_configuration::EncryptionConfiguration;
use gcp_bigquery_client::model::table::Table;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;
use serde_json::{Value, json};

use super::rest::Created;
use super::schema::{self, Fields};
use super::sql::{self, Layout, Wider};
use super::trouble::Failure;
use super::{BigQuerySink, Part, TableId, jobs, layout, widen};
use crate::config::Create;
use crate::error::{Error, Result};
use crate::sink::columns::{self, United};
use crate::sink::{Column, Target};

/// How often a table is looked at again after another changed it meanwhile.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(100);
/// Of no more tables is anything kept.
const KNOWN_MAX: usize = 4_096;
/// No primary key has more columns. See
/// <https://cloud.google.com/bigquery/docs/primary-foreign-keys>.
const PRIMARY_KEY_MAX: usize = 16;

/// What was last seen of tables and views.
#[derive(Debug, Default)]
pub(super) struct Known {
    columns: Mutex<HashMap<TableId, Vec<Column>>>,
    views: Mutex<HashMap<TableId, String>>,
}

impl Known {
    fn columns(&self, id: &TableId) -> Option<Vec<Column>> {
        self.columns.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn saw_columns(&self, id: &TableId, columns: &[Column]) {
        keep(&self.columns, id, columns.to_vec());
    }

    /// The query of a view, as last seen or made.
    pub(super) fn view(&self, id: &TableId) -> Option<String> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn saw_view(&self, id: &TableId, query: &str) {
        keep(&self.views, id, query.to_owned());
    }

    /// Whatever was seen of the table may be wrong: it is looked at again.
    pub(super) fn forget(&self, id: &TableId) {
        self.columns.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.views.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

fn keep<T>(map: &Mutex<HashMap<TableId, T>>, id: &TableId, value: T) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= KNOWN_MAX && !map.contains_key(id) {
        map.clear();
    }
    map.insert(id.clone(), value);
}

/// Notes a number on a table.
pub(super) async fn label(sink: &BigQuerySink, id: &TableId, label: &str, number: u64) -> Result<()> {
    let failed = |failure: Failure| failure.into_error(format!("the table {id} cannot be labelled"));
    let note = json!({"labels": {label: number.to_string()}});
    sink.rest.patch_table(id, None, &note).await.map_err(failed)?;
    Ok(())
}

/// The number that a table's resource has noted under this label; 0 where it has none.
pub(super) fn labelled(resource: &Value, label: &str) -> u64 {
    resource["labels"][label].as_str().and_then(|noted| noted.parse().ok()).unwrap_or(0)
}

/// Forgets what was seen of the target's tables, after BigQuery said something that does not agree with it.
pub(super) fn forget(sink: &BigQuerySink, target: &Target) {
    for part in [Part::Changes, Part::Final, Part::Tombstones, Part::Live] {
        sink.known.forget(&sink.table(target, part));
    }
}

/// The change log with at least the wanted columns, which hold those that the sink adds; gives all its columns
/// of known types, as BigQuery spells and types them.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where the table must be made, mended or permitted by a person,
/// [`Retry`](crate::error::Kind::Retry) where another time may do.
pub(super) async fn ensure_log(sink: &BigQuerySink, target: &Target, wanted: &[Column]) -> Result<Vec<Column>> {
    ensure(sink, target, Part::Changes, wanted).await
}

/// One of the target's tables with at least the wanted columns.
pub(super) async fn ensure(sink: &BigQuerySink, target: &Target, part: Part, wanted: &[Column]) -> Result<Vec<Column>> {
    let id = sink.table(target, part);
    if let Some(have) = sink.known.columns(&id)
        && lacks(&have, wanted).is_ok_and(|united| united.is_none())
    {
        return Ok(have);
    }
    let wanting = Wanting { sink, target, part, id, wanted };
    for tried in 0..TRIES {
        if let Some(columns) = wanting.once(tried).await? {
            sink.known.saw_columns(&wanting.id, &columns);
            return Ok(columns);
        }
        tokio::time::sleep(PAUSE * tried).await;
    }
    Err(Error::retry(format!("others kept changing the table {}", wanting.id)))
}

/// All columns of a table of known types, looked up now; None where there is no such table.
pub(super) async fn look_up(sink: &BigQuerySink, id: &TableId) -> Result<Option<Vec<Column>>> {
    let found = sink.rest.table(id).await.map_err(|failure| failure.into_error(unreadable(id)))?;
    let Some(resource) = found else {
        sink.known.forget(id);
        return Ok(None);
    };
    let columns = Fields::of(&resource).columns();
    sink.known.saw_columns(id, &columns);
    Ok(Some(columns))
}

/// The table was there once.
pub(super) fn gone(id: &TableId) -> Error {
    Error::user(format!("the table {id} is gone"))
        .hint("restore it from a snapshot or by time travel, or begin the table anew with another `target`")
}

/// How many rows each of the target's tables has; those that are not there are left out.
pub(super) async fn row_counts(sink: &BigQuerySink, target: &Target) -> Result<Vec<(String, u64)>> {
    let mut out = Vec::new();
    for part in Part::of(target) {
        let id = sink.table(target, part);
        // A query of a table that is not there may say as well that one is not allowed to ask.
        let counted = match look_up(sink, &id).await {
            Ok(None) => continue,
            Ok(Some(_)) => jobs::row_count(sink, &id).await,
            Err(error) => Err(error),
        };
        let counted = counted.map_err(|error| error.in_table(&target.source))?;
        out.extend(counted.map(|rows| (id.table, rows)));
    }
    Ok(out)
}

/// All columns, where some are new or wider; None where nothing is to be done.
fn lacks(have: &[Column], wanted: &[Column]) -> Result<Option<United>> {
    let united = columns::unite(have, wanted, schema::check_column)?;
    Ok((united.added || united.widened).then_some(united))
}

fn unreadable(id: &TableId) -> String {
    format!("the table {id} cannot be read")
}

/// A table and what it should have.
struct Wanting<'a> {
    sink: &'a BigQuerySink,
    target: &'a Target,
    part: Part,
    id: TableId,
    wanted: &'a [Column],
}

impl Wanting<'_> {
    /// Does what is to be done next; the table's columns once nothing is.
    async fn once(&self, tried: u32) -> Result<Option<Vec<Column>>> {
        let found = self.sink.rest.table(&self.id).await.map_err(|failure| failure.into_error(unreadable(&self.id)))?;
        let Some(resource) = found else {
            return self.create().await.map(|()| None);
        };
        self.check_kind(&resource)?;
        if let Some(location) = resource["location"].as_str() {
            self.check_location(&self.id.to_string(), location)?;
        }
        let fields = Fields::of(&resource);
        fields.check(self.wanted)?;
        let have = fields.columns();
        let Some(united) = lacks(&have, self.wanted)? else { return Ok(Some(have)) };
        let wider = fields.wider(&united.columns)?;
        if self.sink.config.create == Create::Never {
            return Err(self.ask_for_columns(&have, &united, &wider));
        }
        if wider.is_empty() {
            return self.add(&resource, &fields, &united).await;
        }
        widen::widen(self.sink, &self.id, &resource, &wider, tried).await.map(|()| None)
    }

    fn check_kind(&self, resource: &Value) -> Result<()> {
        match resource["type"].as_str() {
            None | Some("TABLE") => Ok(()),
            Some(other) => Err(Error::user(format!("{} is a {other}, not a table", self.id))
                .hint("give the table another name under `target`")),
        }
    }

    fn check_location(&self, what: &str, location: &str) -> Result<()> {
        let wanted = &self.sink.config.location;
        if location.is_empty() || location.eq_ignore_ascii_case(wanted) {
            return Ok(());
        }
        Err(Error::user(format!("{what} is in {location}, but `location` says {wanted}"))
            .hint(format!("write `location: {location}`, or name another dataset: a dataset cannot be moved")))
    }

    /// Gives the table the columns it lacks, if it still stands as it was read.
    async fn add(&self, resource: &Value, fields: &Fields, united: &United) -> Result<Option<Vec<Column>>> {
        let change = json!({"schema": {"fields": fields.with(&united.columns, &self.target.descriptions)?}});
        let etag = resource["etag"].as_str();
        let changed = self.sink.rest.patch_table(&self.id, etag, &change).await;
        let changed = changed.map_err(|failure| {
            failure.into_error(format!("the table {} cannot be given the columns it lacks", self.id))
        })?;
        // What BigQuery answers is what it took; only if that covers what is wanted, nothing is left to do.
        let columns = changed.map(|resource| Fields::of(&resource).columns());
        Ok(columns.filter(|columns| lacks(columns, self.wanted).is_ok_and(|united| united.is_none())))
    }

    fn ask_for_columns(&self, have: &[Column], united: &United, wider: &[Wider]) -> Error {
        let is_changed = |column: &&Column| !have.contains(column);
        let names: Vec<_> = united.columns.iter().filter(is_changed).map(|column| sql::name(&column.name)).collect();
        let new = united.columns.iter().filter(|column| columns::find(have, &column.name).is_none());
        let new: Vec<_> = new.cloned().collect();
        let mut ways = Vec::new();
        if !wider.is_empty() {
            ways.push(sql::widen_columns(&self.id, wider));
        }
        if !new.is_empty() {
            ways.push(sql::add_columns(&self.id, &new));
        }
        if ways.is_empty() {
            // See <https://cloud.google.com/bigquery/docs/managing-table-schemas#add_a_nested_column_to_a_record_column>.
            ways.push("add the fields that its STRUCT lacks under Edit schema in the Google Cloud console".to_owned());
        }
        Error::user(format!("the table {} cannot hold {} as the rows have it", self.id, names.join(", ")))
            .hint(format!("{}; or write `create: auto`", ways.join("; ")))
    }

    async fn create(&self) -> Result<()> {
        let united = columns::unite(&[], self.wanted, schema::check_column)?.columns;
        let layout = layout::layout(self.target, self.part, &united)?;
        if self.sink.config.create == Create::Never {
            return Err(self.ask_for_table(&united, &layout).await);
        }
        self.ensure_dataset().await?;
        let failed = |failure: Failure| failure.into_error(format!("the table {} cannot be made", self.id));
        let created = self.sink.rest.create_table(self.resource(&united, &layout)).await.map_err(failed)?;
        if created == Created::Made {
            tracing::info!(table = %self.id, "table made");
            self.declare_key(&united).await;
        }
        Ok(())
    }

    async fn ask_for_table(&self, columns: &[Column], layout: &Layout) -> Error {
        let config = &self.sink.config;
        let create_table = sql::create_table(&self.id, columns, layout);
        match self.sink.rest.dataset_location(&self.id.dataset).await {
            Ok(None) => {
                let create = sql::create_dataset(&self.id.project, &self.id.dataset, &config.location);
                Error::user(format!("the dataset {}.{} is missing", self.id.project, self.id.dataset))
                    .hint(format!("{create}; {create_table}; or write `create: auto`"))
            }
            _ => Error::user(format!("the table {} is missing", self.id))
                .hint(format!("{create_table}; or write `create: auto`")),
        }
    }

    fn resource(&self, columns: &[Column], layout: &Layout) -> Table {
        let config = &self.sink.config;
        let fields = columns.iter().map(|column| schema::field(column, &self.target.descriptions)).collect();
        let labels: HashMap<_, _> = config.labels.clone().into_iter().collect();
        Table {
            description: Some(self.description()),
            labels: (!labels.is_empty()).then_some(labels),
            encryption_configuration: config
                .kms_key
                .as_ref()
                .map(|key| EncryptionConfiguration { kms_key_name: Some(key.clone()) }),
            time_partitioning: layout
                .partition_by
                .as_ref()
                .map(|column| TimePartitioning::per_day().field(&column.name)),
            clustering: (!layout.cluster_by.is_empty()).then(|| Clustering { fields: Some(layout.cluster_by.clone()) }),
            ..Table::new(&self.id.project, &self.id.dataset, &self.id.table, TableSchema::new(fields))
        }
    }

    fn description(&self) -> String {
        let source = &self.target.source;
        match self.part {
            Part::Changes => format!("Every change of {source}, written by freshet"),
            Part::Tombstones => format!("Deleted keys of {source}, written by freshet"),
            Part::Final | Part::Live => {
                let described = self.target.storage.description.clone();
                described.unwrap_or_else(|| format!("{source}, merged by freshet"))
            }
        }
    }

    /// Tells BigQuery the final table's key, which helps it plan joins. Nothing rests on it.
    async fn declare_key(&self, columns: &[Column]) {
        let names = self.target.key.iter().filter_map(|name| columns::find(columns, name));
        let names: Vec<_> = names.map(|column| &column.name).collect();
        if self.part != Part::Final || names.is_empty() || names.len() > PRIMARY_KEY_MAX {
            return;
        }
        let change = json!({"tableConstraints": {"primaryKey": {"columns": names}}});
        if let Err(failure) = self.sink.rest.patch_table(&self.id, None, &change).await {
            tracing::debug!(table = %self.id, ?failure, "the primary key is not declared");
        }
    }

    async fn ensure_dataset(&self) -> Result<()> {
        let (sink, name) = (self.sink, &self.id.dataset);
        let shown = format!("the dataset {}.{name}", self.id.project);
        let failed = |done: &str| {
            let message = format!("{shown} cannot be {done}");
            move |failure: Failure| failure.into_error(message)
        };
        if let Some(location) = sink.rest.dataset_location(name).await.map_err(failed("read"))? {
            return self.check_location(&shown, &location);
        }
        let mut dataset = json!({
            "datasetReference": {"projectId": self.id.project, "datasetId": name},
            "location": sink.config.location,
            "labels": sink.config.labels,
            "description": format!("Tables of {}, written by freshet", self.target.source.database),
        });
        if let Some(key) = &sink.config.kms_key {
            dataset["defaultEncryptionConfiguration"] = json!({"kmsKeyName": key});
        }
        sink.rest.create_dataset(&dataset).await.map_err(failed("made"))
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
