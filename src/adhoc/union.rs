//! Files of different schemas as one input table: columns by name, types widened where that loses nothing,
//! else text.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Column, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};

use crate::catalog::opened::OpenedFile;
use crate::catalog::shape::{ReadRules, TableShape};
use crate::catalog::table::ChangeTable;
use crate::change::TableName;
use crate::change::types::ColumnType;
use crate::error::{Error, Result};

/// A column of the united input.
struct United {
    name: String,
    data_type: DataType,
}

/// One plan over all groups of files, and what was assumed on the way.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where a column is of a type that no target has.
pub(super) fn unite(
    table: &TableName,
    groups: Vec<(SchemaRef, Vec<Arc<OpenedFile>>)>,
    rules: &ReadRules,
) -> Result<(LogicalPlan, Vec<String>)> {
    let mut known: Vec<String> = Vec::new();
    for field in groups.iter().flat_map(|(schema, _)| schema.fields()) {
        if !known.contains(field.name()) {
            known.push(field.name().clone());
        }
    }
    let shaped = groups
        .into_iter()
        .map(|(schema, files)| Ok((TableShape::new(&schema, &known, rules)?, files)))
        .collect::<Result<Vec<_>>>()?;
    let (columns, notes) = columns(table, shaped.iter().map(|(shape, _)| shape))?;
    let mut union: Option<LogicalPlanBuilder> = None;
    for (shape, files) in shaped {
        let provider = ChangeTable::new(files, shape, rules.clone(), false)?;
        let scan = scan(table, provider, &columns).map_err(bug)?;
        union = Some(match union {
            None => scan,
            Some(union) => union.union(scan.build().map_err(bug)?).map_err(bug)?,
        });
    }
    let union = union.ok_or_else(|| Error::bug("a table of no files"))?;
    Ok((union.build().map_err(bug)?, notes))
}

fn bug(cause: datafusion::error::DataFusionError) -> Error {
    Error::bug("files cannot be united").because(cause)
}

fn scan(table: &TableName, provider: ChangeTable, columns: &[United]) -> datafusion::error::Result<LogicalPlanBuilder> {
    let name = TableReference::partial(table.database.clone(), table.table.clone());
    let scan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::new(provider)), None)?;
    let schema = Arc::clone(scan.schema());
    let projected = columns.iter().map(|column| {
        let found = schema.field_with_unqualified_name(&column.name).ok();
        let input = Expr::Column(Column::new(Some(name.clone()), &column.name));
        match found {
            Some(field) if *field.data_type() == column.data_type => input.alias(&column.name),
            _ => cast(input, column.data_type.clone()).alias(&column.name),
        }
    });
    scan.project(projected.collect::<Vec<_>>())
}

/// The united columns, in the order in which they were first seen, freshet's own last.
fn columns<'a>(table: &TableName, shapes: impl Iterator<Item = &'a TableShape>) -> Result<(Vec<United>, Vec<String>)> {
    let mut columns: Vec<United> = Vec::new();
    let mut notes = Vec::new();
    for shape in shapes {
        for field in shape.schema.fields() {
            match columns.iter_mut().find(|column| column.name == *field.name()) {
                None => columns.push(United { name: field.name().clone(), data_type: field.data_type().clone() }),
                Some(column) if column.data_type == *field.data_type() || *field.data_type() == DataType::Null => {}
                Some(column) => {
                    let widened = wider(column, field.data_type())?;
                    if column.data_type != DataType::Null {
                        notes.push(format!(
                            "{table}: `{}` is {} in some files and {} in others; read as {}",
                            column.name,
                            column.data_type,
                            field.data_type(),
                            if widened == DataType::Utf8 { "text".into() } else { widened.to_string() }
                        ));
                    }
                    column.data_type = widened;
                }
            }
        }
    }
    columns.sort_by_key(|column| column.name.starts_with("_cdc_"));
    Ok((columns, notes))
}

/// The type that holds both without loss; where there is none, text.
fn wider(column: &United, other: &DataType) -> Result<DataType> {
    if column.data_type == DataType::Null {
        return Ok(other.clone());
    }
    let one = ColumnType::from_arrow(&column.data_type)?;
    let united = one.unite(&ColumnType::from_arrow(other)?);
    Ok(united.map_or(DataType::Utf8, |united| united.to_arrow()))
}
