//! Datasets and tables, as the REST API makes, shows and changes them.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/rest/v2/tables>.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::PROJECT;
use super::alter::Alter;
use super::changes::Known;
use super::schema::{self, Field, Kind, Mode};
use super::storage;
use super::trouble::{Result, Trouble};
use super::world::World;

/// A dataset: its REST resource, less what the server adds.
#[derive(Debug)]
pub(super) struct Dataset {
    pub(super) location: String,
    body: Value,
}

/// A table or view.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name in DuckDB; another one after each change of the schema.
    pub(super) kept_as: String,
    /// Tells it from an earlier table of the same name.
    pub(super) number: u64,
    pub(super) fields: Vec<Field>,
    /// A view's query, in GoogleSQL.
    pub(super) view: Option<String>,
    /// Whether rows came by native change data capture.
    pub(super) is_fed_by_cdc: bool,
    /// Whether those rows have sequence numbers; None before the first.
    pub(super) has_sequences: Option<bool>,
    /// What such rows said last, by the key as a condition.
    pub(super) changes: BTreeMap<String, Known>,
    /// Counts the changes of its resource.
    etag: u64,
    pub(super) created: DateTime<Utc>,
    body: Value,
}

impl Table {
    fn new(
        kept_as: String,
        number: u64,
        fields: Vec<Field>,
        view: Option<String>,
        created: DateTime<Utc>,
        body: Value,
    ) -> Self {
        Self {
            kept_as,
            number,
            fields,
            view,
            is_fed_by_cdc: false,
            has_sequences: None,
            changes: BTreeMap::new(),
            etag: number,
            created,
            body,
        }
    }

    /// Its `tableConstraints`.
    pub(super) fn constraints(&self) -> &Value {
        &self.body["tableConstraints"]
    }
}

const DATASET_KEYS: [&str; 6] =
    ["datasetReference", "location", "labels", "description", "friendlyName", "defaultEncryptionConfiguration"];
const TABLE_KEYS: [&str; 10] = [
    "tableReference",
    "schema",
    "labels",
    "description",
    "friendlyName",
    "timePartitioning",
    "clustering",
    "tableConstraints",
    "encryptionConfiguration",
    "view",
];

impl World {
    pub(super) fn dataset(&self, name: &str) -> Result<&Dataset> {
        let missing = || Trouble::not_found(format!("Dataset {PROJECT}:{name}"));
        self.datasets.get(name).ok_or_else(missing)
    }

    pub(super) fn table(&self, dataset: &str, name: &str) -> Result<&Table> {
        self.dataset(dataset)?;
        let missing = || Trouble::not_found(format!("Table {PROJECT}:{dataset}.{name}"));
        self.tables.get(&(dataset.to_owned(), name.to_owned())).ok_or_else(missing)
    }

    pub(super) fn table_mut(&mut self, dataset: &str, name: &str) -> Result<&mut Table> {
        self.table(dataset, name)?;
        let table = self.tables.get_mut(&(dataset.to_owned(), name.to_owned()));
        table.ok_or_else(|| Trouble::not_found(format!("Table {dataset}.{name}")))
    }

    pub(super) fn insert_dataset(&mut self, body: Value) -> Result<Value> {
        schema::known_keys(&body, &DATASET_KEYS)?;
        let name = reference(&body["datasetReference"], "datasetId")?;
        let is_good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_good {
            return Err(Trouble::invalid(format!("Invalid dataset ID \"{name}\".")));
        }
        if self.datasets.contains_key(&name) {
            return Err(Trouble::duplicate(format!("Dataset {PROJECT}:{name}")));
        }
        let location = body["location"].as_str().unwrap_or("US").to_owned();
        self.datasets.insert(name.clone(), Dataset { location, body });
        self.show_dataset(&name)
    }

    pub(super) fn patch_dataset(&mut self, name: &str, patch: &Value) -> Result<Value> {
        self.dataset(name)?;
        schema::known_keys(patch, &DATASET_KEYS)?;
        let dataset = self.datasets.get_mut(name).ok_or_else(|| Trouble::not_found(name))?;
        if patch["location"].as_str().is_some_and(|location| !location.eq_ignore_ascii_case(&dataset.location)) {
            return Err(Trouble::invalid("Dataset location cannot be changed"));
        }
        merge(&mut dataset.body, patch);
        self.show_dataset(name)
    }

    pub(super) fn show_dataset(&self, name: &str) -> Result<Value> {
        let dataset = self.dataset(name)?;
        let mut out = json!({
            "kind": "bigquery#dataset", "id": format!("{PROJECT}:{name}"), "type": "DEFAULT",
            "selfLink": format!("https://bigquery.googleapis.com/bigquery/v2/projects/{PROJECT}/datasets/{name}"),
        });
        merge(&mut out, &dataset.body);
        out["datasetReference"] = json!({"datasetId": name, "projectId": PROJECT});
        out["location"] = json!(dataset.location);
        Ok(out)
    }

    pub(super) fn list_datasets(&self) -> Result<Value> {
        let datasets = self.datasets.keys().map(|name| self.show_dataset(name)).collect::<Result<Vec<_>>>()?;
        Ok(json!({"kind": "bigquery#datasetList", "datasets": datasets}))
    }

    /// Makes a table, or a view whose `body` has `view.query`.
    pub(super) fn insert_table(&mut self, dataset: &str, body: Value) -> Result<Value> {
        schema::known_keys(&body, &TABLE_KEYS)?;
        let name = reference(&body["tableReference"], "tableId")?;
        let in_dataset = body["tableReference"]["datasetId"].as_str().unwrap_or(dataset);
        let is_good = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_- ".contains(c));
        if !is_good || in_dataset != dataset {
            return Err(Trouble::invalid(format!("Invalid table ID \"{in_dataset}.{name}\" in dataset {dataset}.")));
        }
        if self.table(dataset, &name).is_ok() {
            return Err(Trouble::duplicate(format!("Table {PROJECT}:{dataset}.{name}")));
        }
        self.dataset(dataset)?;
        let now = self.clock.now();
        let table = match body["view"].is_null() {
            true => self.new_table(schema::parse(&body["schema"], now)?, body)?,
            false => self.new_view(body)?,
        };
        self.tables.insert((dataset.to_owned(), name.clone()), table);
        self.show_table(dataset, &name)
    }

    fn new_table(&mut self, fields: Vec<Field>, body: Value) -> Result<Table> {
        check_layout(&fields, &body)?;
        let number = self.fresh_number();
        let kept_as = format!("t{number}");
        self.engine.run(&[storage::create_table(&kept_as, &fields)]).map_err(internal)?;
        let created = self.clock.now();
        Ok(Table::new(kept_as, number, fields, None, created, body))
    }

    /// A view; its query must run.
    pub(super) fn new_view(&mut self, body: Value) -> Result<Table> {
        schema::known_keys(&body["view"], &["query", "useLegacySql"])?;
        if body["view"]["useLegacySql"] != json!(false) {
            return Err(Trouble::invalid("view.useLegacySql must be false: its default is true"));
        }
        let query = body["view"]["query"].as_str().unwrap_or_default().to_owned();
        let fields = self.columns_of(&query)?;
        let (number, created) = (self.fresh_number(), self.clock.now());
        let kept_as = String::new();
        Ok(Table::new(kept_as, number, fields, Some(query), created, body))
    }

    /// Changes what `patch` names; `only_if` is an etag that the table must still have.
    pub(super) fn patch_table(
        &mut self,
        dataset: &str,
        name: &str,
        patch: &Value,
        only_if: Option<&str>,
    ) -> Result<Value> {
        let (number, etag, is_view) = {
            let table = self.table(dataset, name)?;
            (table.number, table.etag, table.view.is_some())
        };
        schema::known_keys(patch, &TABLE_KEYS)?;
        if only_if.is_some_and(|only_if| only_if != etag_text(etag)) {
            return Err(Trouble::new(412, "conditionNotMet", "Precondition Failed"));
        }
        let now = self.clock.now();
        self.take_update(number)?;
        for fixed in ["timePartitioning", "tableReference"] {
            if !patch[fixed].is_null() && patch[fixed] != self.table(dataset, name)?.body[fixed] {
                return Err(Trouble::invalid(format!("{fixed} of a table cannot be changed")));
            }
        }
        if !patch["schema"].is_null() && !is_view {
            let wanted = schema::parse(&patch["schema"], now)?;
            let fields = schema::evolve(&self.table(dataset, name)?.fields, wanted)?;
            self.change_schema(dataset, name, fields)?;
        }
        let fresh = self.fresh_number();
        let table = self.table_mut(dataset, name)?;
        merge(&mut table.body, patch);
        table.etag = fresh;
        self.show_table(dataset, name)
    }

    /// One more change of a table's metadata, by whatever way.
    fn take_update(&mut self, number: u64) -> Result<()> {
        if self.metadata_updates.take(&number.to_string(), self.clock.now()) {
            return Ok(());
        }
        let message = "Exceeded rate limits: too many table update operations for this table.";
        Err(Trouble::new(403, "rateLimitExceeded", message))
    }

    /// Gives columns other types.
    pub(super) fn alter_table(&mut self, alter: &Alter) -> Result<()> {
        let (dataset, name) = &alter.target;
        let table = self.table(dataset, name)?;
        if table.view.is_some() {
            return Err(Trouble::invalid_query(format!("{dataset}.{name} is a VIEW, which has no columns to alter")));
        }
        let fields = alter.apply(&table.fields, self.clock.now())?;
        check_layout(&fields, &table.body)?;
        self.take_update(table.number)?;
        self.change_schema(dataset, name, fields)?;
        let fresh = self.fresh_number();
        self.table_mut(dataset, name)?.etag = fresh;
        Ok(())
    }

    fn change_schema(&mut self, dataset: &str, name: &str, fields: Vec<Field>) -> Result<()> {
        let kept_as = format!("t{}", self.fresh_number());
        let table = self.table(dataset, name)?;
        let statements = storage::rebuild((&table.kept_as, &table.fields), (&kept_as, &fields));
        self.engine.run(&statements).map_err(internal)?;
        let table = self.table_mut(dataset, name)?;
        (table.kept_as, table.fields) = (kept_as, fields);
        Ok(())
    }

    pub(super) fn delete_table(&mut self, dataset: &str, name: &str) -> Result<Value> {
        let table = self.table(dataset, name)?;
        if table.view.is_none() {
            let statement = format!("DROP TABLE {}", storage::quoted(&table.kept_as));
            self.engine.run(&[statement]).map_err(internal)?;
        }
        self.tables.remove(&(dataset.to_owned(), name.to_owned()));
        Ok(Value::Null)
    }

    pub(super) fn show_table(&self, dataset: &str, name: &str) -> Result<Value> {
        let table = self.table(dataset, name)?;
        let mut out = json!({
            "kind": "bigquery#table", "id": format!("{PROJECT}:{dataset}.{name}"), "etag": etag_text(table.etag),
            "type": if table.view.is_some() { "VIEW" } else { "TABLE" },
            "creationTime": table.created.timestamp_millis().to_string(),
            "location": self.dataset(dataset)?.location,
        });
        merge(&mut out, &table.body);
        out["tableReference"] = json!({"projectId": PROJECT, "datasetId": dataset, "tableId": name});
        out["schema"] = schema::to_json(&table.fields);
        Ok(out)
    }

    pub(super) fn list_tables(&self, dataset: &str) -> Result<Value> {
        self.dataset(dataset)?;
        let mut tables = Vec::new();
        for (_, name) in self.tables.keys().filter(|(of, _)| of == dataset) {
            let mut table = self.show_table(dataset, name)?;
            table.as_object_mut().map(|table| table.remove("schema"));
            tables.push(table);
        }
        Ok(json!({"kind": "bigquery#tableList", "totalItems": tables.len(), "tables": tables}))
    }
}

/// The id in a reference, whose project must be the one there is.
fn reference(reference: &Value, id: &str) -> Result<String> {
    if reference["projectId"].as_str().is_some_and(|named| named != PROJECT) {
        return Err(Trouble::invalid(format!("projectId in {reference} is not that of the path")));
    }
    let id = reference[id].as_str().ok_or_else(|| Trouble::invalid(format!("Required parameter is missing: {id}")))?;
    Ok(id.to_owned())
}

/// What `patch` names is set; objects are merged, null removes.
fn merge(body: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten().filter(|(key, _)| *key != "schema") {
        match (value, &mut body[key]) {
            (Value::Object(_), Value::Object(_)) => merge(&mut body[key], value),
            (Value::Null, _) => drop(body.as_object_mut().map(|body| body.remove(key))),
            (value, known) => *known = value.clone(),
        }
    }
}

fn etag_text(etag: u64) -> String {
    format!("\"{etag}\"")
}

/// What the engine refuses although it was checked.
pub(super) fn internal(refused: super::engine::Refused) -> Trouble {
    Trouble::new(500, "internalError", refused.message)
}

/// See <https://cloud.google.com/bigquery/docs/clustered-tables#limitations> and
/// <https://cloud.google.com/bigquery/docs/partitioned-tables>.
fn check_layout(fields: &[Field], body: &Value) -> Result<()> {
    let no_field = |name| {
        Trouble::invalid(format!(
            "The field specified for partitioning or clustering cannot be found in the schema: {name}"
        ))
    };
    if !body["timePartitioning"].is_null() {
        schema::known_keys(&body["timePartitioning"], &["type", "field", "expirationMs"])?;
        let is_span =
            ["HOUR", "DAY", "MONTH", "YEAR"].contains(&body["timePartitioning"]["type"].as_str().unwrap_or(""));
        let name = body["timePartitioning"]["field"].as_str().unwrap_or_default();
        let field = schema::find(fields, name).ok_or_else(|| no_field(name))?;
        let is_time =
            matches!(field.kind, Kind::Timestamp | Kind::Date | Kind::Datetime) && field.mode != Mode::Repeated;
        if !is_span || !is_time {
            return Err(Trouble::invalid(format!("{name} cannot be what the table is partitioned by: {body}")));
        }
    }
    let clustering = body["clustering"]["fields"].as_array().map_or(&[][..], Vec::as_slice);
    if clustering.len() > 4 {
        return Err(Trouble::invalid("Too many clustering fields, only 4 are allowed"));
    }
    for name in clustering.iter().map(|name| name.as_str().unwrap_or_default()) {
        let field = schema::find(fields, name).ok_or_else(|| no_field(name))?;
        let unfit = matches!(field.kind, Kind::Bytes | Kind::Float64 | Kind::Time | Kind::Struct(_));
        if unfit || field.mode == Mode::Repeated {
            return Err(Trouble::invalid(format!(
                "Clustering by {name} of type {} is not possible",
                field.kind.rest_name()
            )));
        }
    }
    Ok(())
}
