//! Schemas as BigQuery keeps them: read from JSON, shown as JSON and as the Write API sees them.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#TableFieldSchema>.

use chrono::{DateTime, Utc};
use freshet::change::types::same_name;
use googleapis_tonic_google_cloud_bigquery_storage_v1::google::cloud::bigquery::storage::v1 as proto;
use proto::table_field_schema::{Mode as ProtoMode, Type as ProtoType};
use serde_json::{Map, Value, json};

use super::trouble::{Result, Trouble};

/// The type of a column, its mode apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int64,
    Numeric,
    BigNumeric,
    Float64,
    String,
    Bytes,
    Date,
    Time,
    Datetime,
    Timestamp,
    Struct(Vec<Field>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Nullable,
    Required,
    Repeated,
}

/// A column, or a field of a struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    pub(super) description: Option<String>,
    /// Since when it is there.
    pub(super) added: DateTime<Utc>,
    /// The type it had before, and when that changed.
    pub(super) was: Option<(Kind, DateTime<Utc>)>,
}

/// The names of a type: as GoogleSQL has it, as the REST API answers with it.
static TYPES: [(&str, &str, Kind, ProtoType); 11] = [
    ("BOOL", "BOOLEAN", Kind::Bool, ProtoType::Bool),
    ("INT64", "INTEGER", Kind::Int64, ProtoType::Int64),
    ("NUMERIC", "NUMERIC", Kind::Numeric, ProtoType::Numeric),
    ("BIGNUMERIC", "BIGNUMERIC", Kind::BigNumeric, ProtoType::Bignumeric),
    ("FLOAT64", "FLOAT", Kind::Float64, ProtoType::Double),
    ("STRING", "STRING", Kind::String, ProtoType::String),
    ("BYTES", "BYTES", Kind::Bytes, ProtoType::Bytes),
    ("DATE", "DATE", Kind::Date, ProtoType::Date),
    ("TIME", "TIME", Kind::Time, ProtoType::Time),
    ("DATETIME", "DATETIME", Kind::Datetime, ProtoType::Datetime),
    ("TIMESTAMP", "TIMESTAMP", Kind::Timestamp, ProtoType::Timestamp),
];

impl Kind {
    fn parse(name: &str, fields: &Value, now: DateTime<Utc>, at: &str) -> Result<Self> {
        if ["RECORD", "STRUCT"].contains(&name) {
            let fields = parse_below(fields, now, &format!("{at}."))?;
            return Ok(Self::Struct(fields));
        }
        let known = TYPES.iter().find(|(sql, rest, ..)| [sql, rest].contains(&&name));
        known.map(|(_, _, kind, _)| kind.clone()).ok_or_else(|| {
            Trouble::invalid(format!("Invalid value for type: {name} is not a valid value (field {at})"))
        })
    }

    /// Its name in the answers of the REST API.
    pub(super) fn rest_name(&self) -> &'static str {
        TYPES.iter().find(|(_, _, kind, _)| kind == self).map_or("RECORD", |(_, rest, ..)| *rest)
    }

    /// The type of this GoogleSQL name.
    pub(super) fn of_sql(name: &str) -> Option<Self> {
        TYPES.iter().find(|(sql, ..)| *sql == name).map(|(_, _, kind, _)| kind.clone())
    }

    fn to_proto(&self) -> ProtoType {
        TYPES.iter().find(|(_, _, kind, _)| kind == self).map_or(ProtoType::Struct, |(_, _, _, proto)| *proto)
    }

    fn rank(&self) -> Option<u8> {
        [Self::Int64, Self::Numeric, Self::BigNumeric, Self::Float64]
            .iter()
            .position(|kind| kind == self)
            .map(|at| at as u8)
    }

    /// Whether a value of this type may go to a column of the other: INT64 → NUMERIC → BIGNUMERIC → FLOAT64.
    pub(super) fn widens_to(&self, wider: &Self) -> bool {
        matches!((self.rank(), wider.rank()), (Some(from), Some(to)) if from < to)
    }
}

impl Mode {
    fn parse(value: &Value) -> Result<Self> {
        match value.as_str() {
            None if value.is_null() => Ok(Self::Nullable),
            Some("NULLABLE") => Ok(Self::Nullable),
            Some("REQUIRED") => Ok(Self::Required),
            Some("REPEATED") => Ok(Self::Repeated),
            _ => Err(Trouble::invalid(format!("Invalid value for mode: {value}"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nullable => "NULLABLE",
            Self::Required => "REQUIRED",
            Self::Repeated => "REPEATED",
        }
    }
}

impl Field {
    /// A column that can be NULL.
    pub(super) fn nullable(name: &str, kind: Kind, now: DateTime<Utc>) -> Self {
        Self { name: name.to_owned(), kind, mode: Mode::Nullable, description: None, added: now, was: None }
    }

    fn parse(value: &Value, now: DateTime<Utc>, above: &str) -> Result<Self> {
        known_keys(value, &["name", "type", "mode", "fields", "description"])?;
        let name = value["name"].as_str().unwrap_or_default();
        check_name(name)?;
        let at = format!("{above}{name}");
        let kind = Kind::parse(value["type"].as_str().unwrap_or_default(), &value["fields"], now, &at)?;
        let description = value["description"].as_str().map(str::to_owned);
        Ok(Self { name: name.to_owned(), kind, mode: Mode::parse(&value["mode"])?, description, added: now, was: None })
    }

    fn to_json(&self) -> Value {
        let mut out = json!({"name": self.name, "type": self.kind.rest_name(), "mode": self.mode.name()});
        if let Kind::Struct(fields) = &self.kind {
            out["fields"] = fields.iter().map(Self::to_json).collect();
        }
        if let Some(description) = &self.description {
            out["description"] = json!(description);
        }
        out
    }

    fn to_proto(&self) -> proto::TableFieldSchema {
        let mode = match self.mode {
            Mode::Nullable => ProtoMode::Nullable,
            Mode::Required => ProtoMode::Required,
            Mode::Repeated => ProtoMode::Repeated,
        };
        let fields = match &self.kind {
            Kind::Struct(fields) => fields.iter().map(Self::to_proto).collect(),
            _ => Vec::new(),
        };
        proto::TableFieldSchema {
            name: self.name.clone(),
            r#type: self.kind.to_proto().into(),
            mode: mode.into(),
            fields,
            description: self.description.clone().unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// The field of that name, case apart.
pub(super) fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|field| same_name(&field.name, name))
}

/// Refuses what this server does not know, so that nothing is silently dropped.
pub(super) fn known_keys(value: &Value, known: &[&str]) -> Result<()> {
    let empty = Map::new();
    let mut named = value.as_object().unwrap_or(&empty).iter().filter(|(_, value)| !value.is_null());
    match named.find(|(key, _)| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some((key, _)) => Err(Trouble::invalid(format!("the strict server does not know `{key}` here: {value}"))),
    }
}

/// See <https://cloud.google.com/bigquery/docs/schemas#column_names>.
fn check_name(name: &str) -> Result<()> {
    const RESERVED: [&str; 7] =
        ["_CHANGE_", "_PARTITION", "_TABLE_", "_FILE_", "_ROW_TIMESTAMP", "__ROOT__", "_COLIDENTIFIER"];
    const FORBIDDEN: &str = "!\"$()*,./;?@[\\]^`{}~";
    let upper = name.to_uppercase();
    let is_bad = name.is_empty()
        || name.chars().count() > 300
        || name.chars().any(|c| FORBIDDEN.contains(c) || c.is_control())
        || RESERVED.iter().any(|prefix| upper.starts_with(prefix));
    match is_bad {
        false => Ok(()),
        true => Err(Trouble::invalid(format!("Invalid field name \"{name}\". The name or its prefix is not allowed."))),
    }
}

fn parse_below(fields: &Value, now: DateTime<Utc>, above: &str) -> Result<Vec<Field>> {
    let fields = fields.as_array().filter(|fields| !fields.is_empty());
    let fields = fields.ok_or_else(|| Trouble::invalid(format!("Field {above} has no sub-fields")))?;
    let fields: Vec<_> = fields.iter().map(|field| Field::parse(field, now, above)).collect::<Result<_>>()?;
    for (at, field) in fields.iter().enumerate() {
        if find(&fields[..at], &field.name).is_some() {
            return Err(Trouble::invalid(format!("Duplicate field name {above}{}", field.name)));
        }
    }
    Ok(fields)
}

/// The columns of a table's `schema`.
pub(super) fn parse(schema: &Value, now: DateTime<Utc>) -> Result<Vec<Field>> {
    known_keys(schema, &["fields"])?;
    parse_below(&schema["fields"], now, "")
}

/// A table's `schema`, as the REST API shows it.
pub(super) fn to_json(fields: &[Field]) -> Value {
    json!({"fields": fields.iter().map(Field::to_json).collect::<Vec<_>>()})
}

/// The same for the Write API.
pub(super) fn to_proto(fields: &[Field]) -> proto::TableSchema {
    proto::TableSchema { fields: fields.iter().map(Field::to_proto).collect() }
}

/// What the Write API sees: columns and types as they were at `moment`.
pub(super) fn as_of(fields: &[Field], moment: DateTime<Utc>) -> Vec<Field> {
    let there = fields.iter().filter(|field| field.added <= moment);
    let mut out: Vec<_> = there.cloned().collect();
    for field in &mut out {
        match (&field.was, &field.kind) {
            (Some((was, changed)), _) if *changed > moment => field.kind = was.clone(),
            (_, Kind::Struct(fields)) => field.kind = Kind::Struct(as_of(fields, moment)),
            _ => {}
        }
    }
    out
}

/// The schema that a table has after an update: nothing dropped, no type changed, what is new comes last.
///
/// See <https://cloud.google.com/bigquery/docs/managing-table-schemas>.
pub(super) fn evolve(old: &[Field], new: Vec<Field>) -> Result<Vec<Field>> {
    let mismatch = |what: String| Trouble::invalid(format!("Provided Schema does not match Table. {what}"));
    let mut out = Vec::new();
    for (at, field) in new.into_iter().enumerate() {
        match find(old, &field.name) {
            Some(_) if at >= old.len() || !same_name(&old[at].name, &field.name) => {
                return Err(mismatch(format!("Field {} is not where it was.", field.name)));
            }
            Some(known) => out.push(evolve_field(known, field)?),
            None if at < old.len() => return Err(mismatch(format!("Field {} is missing in new schema", old[at].name))),
            None if field.mode == Mode::Required => {
                let what = format!("Cannot add required fields to an existing schema. (field: {})", field.name);
                return Err(mismatch(what));
            }
            None => out.push(field),
        }
    }
    match old.get(out.len()) {
        Some(missing) => Err(mismatch(format!("Field {} is missing in new schema", missing.name))),
        None => Ok(out),
    }
}

fn evolve_field(old: &Field, new: Field) -> Result<Field> {
    let mismatch = |what, from, to| {
        let message = format!("Field {} has changed {what} from {from} to {to}", old.name);
        Trouble::invalid(format!("Provided Schema does not match Table. {message}"))
    };
    if old.mode != new.mode && (old.mode, new.mode) != (Mode::Required, Mode::Nullable) {
        return Err(mismatch("mode", old.mode.name(), new.mode.name()));
    }
    let mut out = Field { mode: new.mode, description: new.description.clone(), ..old.clone() };
    match (&old.kind, new.kind) {
        (Kind::Struct(from), Kind::Struct(to)) => out.kind = Kind::Struct(evolve(from, to)?),
        (from, to) if *from == to => {}
        (from, to) => return Err(mismatch("type", from.rest_name(), to.rest_name())),
    }
    Ok(out)
}
