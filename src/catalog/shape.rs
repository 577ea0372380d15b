//! What SQL sees of files of one schema, and how it comes of what they have.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::catalog::casts;
use crate::catalog::cdc::{CdcRules, find_column, visible_fields};
use crate::change::types::{ColumnType, same_name};
use crate::error::{Error, Result};

/// How the files of a table are read: what the configuration says of its source side.
#[derive(Debug, Clone)]
pub struct ReadRules {
    /// Order, time and generation of its changes.
    pub cdc: CdcRules,
    /// Source columns that are cast before SQL sees them.
    pub overrides: BTreeMap<String, ColumnType>,
    /// Whether SQL sees columns that `overrides` does not name.
    pub auto_schema: bool,
    /// The key's source columns; empty where no key is known, and then no update is split.
    pub key: Vec<String>,
}

/// One column that SQL sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Visible {
    /// Its index in the file's schema; None: the file lacks it, it is NULL.
    pub source: Option<usize>,
    /// The type it is cast to.
    pub cast: Option<ColumnType>,
}

/// What SQL sees of files of one schema.
#[derive(Debug, Clone)]
pub struct TableShape {
    /// The columns that SQL sees: the file's, then those it lacks, then the `_cdc_` columns.
    pub schema: SchemaRef,
    pub(super) columns: Vec<Visible>,
}

impl TableShape {
    /// The shape of files with the schema `file`; `known` names columns of the table that other files have.
    ///
    /// A column the file lacks is NULL, of the type that `schema_override` gives it, else of type NULL: so that
    /// what a file gives does not depend on which other files were seen before.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where an override asks for an impossible cast.
    pub fn new(file: &Schema, known: &[String], rules: &ReadRules) -> Result<Self> {
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (index, field) in file.fields().iter().enumerate() {
            let cast = override_of(&rules.overrides, field.name());
            let is_key = rules.key.iter().any(|key| same_name(key, field.name()));
            if cast.is_none() && !rules.auto_schema && !is_key {
                continue;
            }
            let cast = cast.filter(|to| to.to_arrow() != *field.data_type());
            fields.push(visible_field(field, cast)?);
            columns.push(Visible { source: Some(index), cast: cast.cloned() });
        }
        // As other files spell it, where they have it.
        let lacking = known.iter().filter(|_| rules.auto_schema).chain(rules.overrides.keys());
        for name in lacking {
            let there = fields.iter().any(|field: &Field| same_name(field.name(), name));
            if find_column(file, name).is_none() && !there {
                let data_type = override_of(&rules.overrides, name).map_or(DataType::Null, ColumnType::to_arrow);
                fields.push(Field::new(name, data_type, true));
                columns.push(Visible { source: None, cast: None });
            }
        }
        fields.extend(visible_fields());
        Ok(Self { schema: Arc::new(Schema::new(fields)), columns })
    }
}

fn override_of<'a>(overrides: &'a BTreeMap<String, ColumnType>, name: &str) -> Option<&'a ColumnType> {
    let spelled = overrides.get(name);
    spelled.or_else(|| overrides.iter().find(|(key, _)| same_name(key, name)).map(|(_, to)| to))
}

fn visible_field(field: &Field, cast: Option<&ColumnType>) -> Result<Field> {
    let Some(to) = cast else {
        return Ok(Field::new(field.name(), field.data_type().clone(), true));
    };
    if !casts::possible(field.data_type(), to) {
        return Err(Error::user(format!(
            "schema_override cannot make {to} of column `{}`, which is {}",
            field.name(),
            field.data_type()
        ))
        .hint("leave the override out and convert in the table's SQL"));
    }
    Ok(Field::new(field.name(), to.to_arrow(), true))
}

impl TableShape {
    /// The columns that files lack and that have no type, if there are any.
    pub fn untyped(&self) -> Option<String> {
        let own = self.columns.iter().zip(self.schema.fields());
        let names = own.filter(|(column, field)| column.source.is_none() && *field.data_type() == DataType::Null);
        let names: Vec<String> = names.map(|(_, field)| format!("`{}`", field.name())).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}
