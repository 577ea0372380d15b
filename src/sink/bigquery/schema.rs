//! A table's schema as BigQuery writes it, and its columns as the sinks know them.
//!
//! What is not understood of a field (policy tags, defaults, descriptions) goes back as it came. See
//! <https://cloud.google.com/bigquery/docs/reference/rest/v2/tables#TableFieldSchema>.

use std::collections::BTreeMap;

use gcp_bigquery_client::model::field_type::FieldType;
use gcp_bigquery_client::model::table_field_schema::TableFieldSchema;
use serde_json::Value;

use super::sql::{self, Wider};
use crate::change::types::ColumnType;
use crate::error::{Error, Result};
use crate::sink::Column;
use crate::sink::columns::{self, same};

/// No name of a column is longer.
const NAME_CHARACTERS_MAX: usize = 300;
/// Prefixes that BigQuery keeps for itself, in any case. See
/// <https://cloud.google.com/bigquery/docs/schemas#column_names>.
const RESERVED_PREFIXES: [&str; 8] =
    ["_CHANGE_", "_PARTITION", "_TABLE_", "_FILE_", "_ROW_TIMESTAMP", "__ROOT__", "_COLIDENTIFIER", "_ROW_IDENTIFIER"];
/// Characters that no column may have.
const REFUSED_CHARACTERS: &str = "!\"$()*,./;?@[\\]^`{}~";

/// The fields of a table.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields(Vec<Value>);

impl Fields {
    /// The fields of a table's resource.
    pub(super) fn of(resource: &Value) -> Self {
        Self(resource["schema"]["fields"].as_array().cloned().unwrap_or_default())
    }

    /// The columns whose types the sinks know, as BigQuery spells them.
    pub(super) fn columns(&self) -> Vec<Column> {
        let known = self.0.iter().filter_map(|field| Some(columns::column(name_of(field)?, type_of(field)?)));
        known.collect()
    }

    /// Refuses a table that cannot take rows with the wanted columns for another reason than their types.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User), naming the column.
    pub(super) fn check(&self, wanted: &[Column]) -> Result<()> {
        for field in &self.0 {
            let name = name_of(field).unwrap_or_default();
            match columns::find(wanted, name) {
                Some(new) if type_of(field).is_none() => return Err(foreign(name, field, new)),
                None if field["mode"] == "REQUIRED" => {
                    return Err(Error::user(format!(
                        "column `{name}` is REQUIRED at the target, but the rows do not have it"
                    ))
                    .hint(format!("ALTER COLUMN `{name}` DROP NOT NULL at the target, or add it to the table's SQL")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The fields with what is new in `united` at the end, and at the end of their STRUCT columns. Types stay: they are
    /// changed by SQL alone, see [`Self::wider`].
    pub(super) fn with(&self, united: &[Column], descriptions: &BTreeMap<String, String>) -> Result<Vec<Value>> {
        let mut out = self.0.clone();
        for column in united {
            match out.iter_mut().find(|field| name_of(field).is_some_and(|name| same(name, &column.name))) {
                Some(field) => grow(field, &column.column_type)?,
                None => out.push(json(&field(column, descriptions))?),
            }
        }
        Ok(out)
    }

    /// The columns whose types are narrower than in `united`, each with its schema to be. Fields that a STRUCT
    /// lacks are not among it: SQL cannot add them. See
    /// <https://cloud.google.com/bigquery/docs/managing-table-schemas#change_a_columns_data_type>.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where a type within an ARRAY would have to change.
    pub(super) fn wider(&self, united: &[Column]) -> Result<Vec<Wider>> {
        let mut out = Vec::new();
        for field in &self.0 {
            let name = name_of(field).unwrap_or_default();
            let Some(column) = columns::find(united, name) else { continue };
            let wanted = &column.column_type;
            if is_narrower_in_array(field, wanted) {
                return Err(fixed(name, field, wanted));
            }
            if is_narrower(field, wanted) {
                out.push(Wider { name: name.to_owned(), schema: column_schema(field, wanted) });
            }
        }
        Ok(out)
    }
}

fn name_of(field: &Value) -> Option<&str> {
    field["name"].as_str()
}

fn type_of(field: &Value) -> Option<ColumnType> {
    let limited = field.get("precision").is_some_and(|precision| !precision.is_null());
    let item = match field["type"].as_str()? {
        "INTEGER" | "INT64" => ColumnType::Int64,
        // With a precision of its own it rounds what it is given.
        "NUMERIC" if !limited => ColumnType::Numeric,
        "BIGNUMERIC" if !limited => ColumnType::BigNumeric,
        "FLOAT" | "FLOAT64" => ColumnType::Float64,
        "BOOLEAN" | "BOOL" => ColumnType::Bool,
        "STRING" => ColumnType::String,
        "BYTES" => ColumnType::Bytes,
        "DATE" => ColumnType::Date,
        "TIME" => ColumnType::Time,
        "DATETIME" => ColumnType::Datetime,
        "TIMESTAMP" => ColumnType::Timestamp,
        "RECORD" | "STRUCT" => {
            let fields = field["fields"].as_array()?;
            let fields = fields.iter().map(|field| Some((name_of(field)?.to_owned(), type_of(field)?)));
            ColumnType::Struct(fields.collect::<Option<_>>()?)
        }
        _ => return None,
    };
    Some(if field["mode"] == "REPEATED" { ColumnType::Array(Box::new(item)) } else { item })
}

/// A number, which JSON has as text or as itself.
fn number(field: &Value, part: &str) -> Option<String> {
    field[part].as_str().map(str::to_owned).or_else(|| Some(field[part].as_u64()?.to_string()))
}

fn foreign(name: &str, field: &Value, new: &Column) -> Error {
    let mut found = field["type"].as_str().unwrap_or("nothing").to_owned();
    if let Some(precision) = number(field, "precision") {
        found += &format!("({precision}, {})", number(field, "scale").unwrap_or("0".to_owned()));
    }
    let now = &new.column_type;
    Error::user(format!("column `{name}` is {found} at the target, but these rows have {now}")).hint(format!(
        "ALTER COLUMN `{name}` SET DATA TYPE {now} at the target, or give it another name with AS in the table's SQL"
    ))
}

/// The type of a column or of an array's elements.
fn single(column_type: &ColumnType) -> &ColumnType {
    match column_type {
        ColumnType::Array(item) => item,
        other => other,
    }
}

/// The fields of a STRUCT, each with what is wanted of it.
fn inner<'f>(
    field: &'f Value,
    wanted: &'f [(String, ColumnType)],
) -> impl Iterator<Item = (&'f Value, &'f ColumnType)> {
    let fields = field["fields"].as_array().map_or(&[][..], Vec::as_slice);
    fields.iter().filter_map(|field| {
        let (_, wanted) = wanted.iter().find(|(name, _)| name_of(field).is_some_and(|known| same(known, name)))?;
        Some((field, wanted))
    })
}

fn is_narrower(field: &Value, wanted: &ColumnType) -> bool {
    match single(wanted) {
        ColumnType::Struct(fields) => inner(field, fields).any(|(field, wanted)| is_narrower(field, wanted)),
        _ => type_of(field).as_ref() != Some(wanted),
    }
}

fn is_narrower_in_array(field: &Value, wanted: &ColumnType) -> bool {
    match wanted {
        ColumnType::Array(_) => is_narrower(field, wanted),
        ColumnType::Struct(fields) => inner(field, fields).any(|(field, wanted)| is_narrower_in_array(field, wanted)),
        _ => false,
    }
}

fn fixed(name: &str, field: &Value, wanted: &ColumnType) -> Error {
    let have = type_of(field).map_or_else(|| "an ARRAY".to_owned(), |have| have.to_string());
    Error::user(format!(
        "column `{name}` is {have} at the target and would have to become {wanted}, but BigQuery changes no type \
         within an ARRAY"
    ))
    .hint(format!("CAST `{name}` in the table's SQL to {have}, or give it another name there with AS"))
}

/// How a field is written in SQL with a wider type; all else stays as it is. Its mode must be said again: a type
/// without NOT NULL is refused for a REQUIRED column. A new field of a STRUCT is left out.
fn column_schema(field: &Value, wanted: &ColumnType) -> String {
    let item = single(wanted);
    let mut out = match item {
        ColumnType::Struct(fields) => {
            let fields = inner(field, fields).map(|(field, wanted)| {
                format!("{} {}", sql::name(name_of(field).unwrap_or_default()), column_schema(field, wanted))
            });
            format!("STRUCT<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        other => match number(field, "maxLength") {
            Some(length) => format!("{other}({length})"),
            None => other.to_string(),
        },
    };
    if item != wanted {
        out = format!("ARRAY<{out}>");
    }
    if field["mode"] == "REQUIRED" {
        out += " NOT NULL";
    }
    out
}

/// Gives a STRUCT the fields that it lacks.
fn grow(field: &mut Value, wanted: &ColumnType) -> Result<()> {
    let ColumnType::Struct(fields) = single(wanted) else { return Ok(()) };
    let Some(have) = field["fields"].as_array_mut() else { return Ok(()) };
    for (name, wanted) in fields {
        match have.iter_mut().find(|known| name_of(known).is_some_and(|known| same(known, name))) {
            Some(known) => grow(known, wanted)?,
            None => have.push(json(&self::field(&columns::column(name, wanted.clone()), &BTreeMap::new()))?),
        }
    }
    Ok(())
}

/// A new field: NULLABLE, as only such can be added.
pub(super) fn field(column: &Column, descriptions: &BTreeMap<String, String>) -> TableFieldSchema {
    let (mode, item) = match &column.column_type {
        ColumnType::Array(item) => ("REPEATED", item.as_ref()),
        other => ("NULLABLE", other),
    };
    let fields = match item {
        ColumnType::Struct(fields) => Some(
            fields.iter().map(|(name, kind)| field(&columns::column(name, kind.clone()), &BTreeMap::new())).collect(),
        ),
        _ => None,
    };
    let described = descriptions.iter().find(|(name, _)| same(name, &column.name));
    TableFieldSchema {
        mode: Some(mode.to_owned()),
        fields,
        description: described.map(|(_, text)| text.chars().take(DESCRIPTION_CHARACTERS_MAX).collect()),
        ..TableFieldSchema::new(&column.name, kind(item))
    }
}

/// No description of a column is longer.
const DESCRIPTION_CHARACTERS_MAX: usize = 1_024;

fn kind(column_type: &ColumnType) -> FieldType {
    match column_type {
        ColumnType::Bool => FieldType::Boolean,
        ColumnType::Int64 => FieldType::Integer,
        ColumnType::Numeric => FieldType::Numeric,
        ColumnType::BigNumeric => FieldType::Bignumeric,
        ColumnType::Float64 => FieldType::Float,
        // No column of unknown type comes this far.
        ColumnType::String | ColumnType::Unknown => FieldType::String,
        ColumnType::Bytes => FieldType::Bytes,
        ColumnType::Date => FieldType::Date,
        ColumnType::Time => FieldType::Time,
        ColumnType::Datetime => FieldType::Datetime,
        ColumnType::Timestamp => FieldType::Timestamp,
        ColumnType::Struct(_) | ColumnType::Array(_) => FieldType::Record,
    }
}

fn json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|cause| Error::bug("a field is no JSON").because(cause))
}

/// Refuses what BigQuery does not take as a column.
///
/// # Errors
/// [`User`](crate::error::Kind::User), saying how the column may be called or cast.
pub(super) fn check_column(name: &str, column_type: &ColumnType) -> Result<()> {
    check_name(name)?;
    let hint = match column_type {
        ColumnType::Unknown => format!("CAST the elements of `{name}` in the table's SQL to their type"),
        ColumnType::Array(item) if matches!(**item, ColumnType::Array(_)) => {
            format!("put the inner arrays of `{name}` into a STRUCT, or make text of them, in the table's SQL")
        }
        ColumnType::Array(item) => return check_column(name, item),
        ColumnType::Struct(fields) if fields.is_empty() => format!("leave `{name}` out in the table's SQL"),
        ColumnType::Struct(fields) => return fields.iter().try_for_each(|(name, field)| check_column(name, field)),
        _ => return Ok(()),
    };
    Err(Error::user(format!("column `{name}` is {column_type}, a type that BigQuery does not have")).hint(hint))
}

fn check_name(name: &str) -> Result<()> {
    let upper = name.to_uppercase();
    let shown: String = name.chars().take(80).collect();
    let refused = if let Some(prefix) = RESERVED_PREFIXES.iter().find(|prefix| upper.starts_with(*prefix)) {
        format!("column `{shown}` begins with {prefix}, which BigQuery keeps for itself")
    } else if name.chars().count() > NAME_CHARACTERS_MAX {
        format!("the name of column `{shown}…` is longer than the {NAME_CHARACTERS_MAX} characters that BigQuery takes")
    } else if let Some(c) = name.chars().find(|c| REFUSED_CHARACTERS.contains(*c) || c.is_control()) {
        format!("the name of column `{}` has a {c:?}, which BigQuery does not take", shown.escape_debug())
    } else if name.trim() != name || name.is_empty() {
        format!("the name of column `{shown}` is empty, or begins or ends with a space, which BigQuery does not take")
    } else {
        return Ok(());
    };
    Err(Error::user(refused).hint("give the column another name with AS in the table's SQL"))
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
