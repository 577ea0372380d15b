//! What may stand below the window: change files, whose rows are passed on one by one. Its tables can be exchanged.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, Result};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{
    Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, TableScan, TableScanBuilder, Union,
    Volatility,
};

use crate::catalog::cdc::SEQUENCE;
use crate::catalog::table::ChangeTable;

/// Each file's number, by its location: in the order of locations.
pub(super) type FileNumbers = BTreeMap<String, u32>;

/// Whether an expression is a function of its row alone, always the same.
pub(super) fn is_plain(expr: &Expr) -> bool {
    let is_foreign = |expr: &Expr| {
        Ok(match expr {
            // A plan may be kept, and run again when it has another value.
            Expr::ScalarFunction(called) => called.func.signature().volatility != Volatility::Immutable,
            Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::ScalarSubquery(_)
            | Expr::SetComparison(_)
            | Expr::OuterReferenceColumn(..)
            | Expr::Unnest(_)
            | Expr::Placeholder(_) => true,
            _ => false,
        })
    };
    !expr.is_volatile() && expr.exists(is_foreign).is_ok_and(|found| !found)
}

/// The tables of change files that a plan is made of, if it does no more to their rows than pass them on one by one.
pub(super) fn gather<'a>(plan: &'a LogicalPlan, tables: &mut Vec<&'a TableScan>) -> Option<()> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source).ok()?;
            let is_plain_table = !provider.downcast_ref::<ChangeTable>()?.is_hidden();
            tables.push(scan);
            (is_plain_table && scan.fetch.is_none() && scan.filters.iter().all(is_plain)).then_some(())
        }
        LogicalPlan::Filter(filter) => is_plain(&filter.predicate).then(|| gather(&filter.input, tables))?,
        LogicalPlan::Projection(projection) => {
            projection.expr.iter().all(is_plain).then(|| gather(&projection.input, tables))?
        }
        LogicalPlan::SubqueryAlias(alias) => gather(&alias.input, tables),
        LogicalPlan::Union(union) => union.inputs.iter().try_for_each(|input| gather(input, tables)),
        _ => None,
    }
}

/// Each file's number, in the order of their locations. None where a file is in two of the tables.
pub(super) fn numbers(tables: &[&TableScan]) -> Option<FileNumbers> {
    let mut numbers = FileNumbers::new();
    for scan in tables {
        let provider = source_as_provider(&scan.source).ok()?;
        for file in provider.downcast_ref::<ChangeTable>()?.files() {
            if numbers.insert(file.file.location.clone(), 0).is_some() {
                return None;
            }
        }
    }
    for (number, of_file) in (0_u32..).zip(numbers.values_mut()) {
        *of_file = number;
    }
    Some(numbers)
}

/// The numbers of a table's files.
pub(super) fn numbers_of(table: &ChangeTable, numbers: &FileNumbers) -> Vec<u32> {
    table.files().map(|file| numbers.get(&file.file.location).copied().unwrap_or(u32::MAX)).collect()
}

/// Whether a column of such a plan is the files' `_cdc_sequence`, as it is.
pub(super) fn is_sequence(plan: &LogicalPlan, index: usize) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => scan.projected_schema.field(index).name() == SEQUENCE,
        LogicalPlan::Filter(filter) => is_sequence(&filter.input, index),
        LogicalPlan::SubqueryAlias(alias) => is_sequence(&alias.input, index),
        LogicalPlan::Union(union) => union.inputs.iter().all(|input| is_sequence(input, index)),
        LogicalPlan::Projection(projection) => {
            let Expr::Column(column) = projection.expr[index].clone().unalias() else { return false };
            let index = projection.input.schema().maybe_index_of_column(&column);
            index.is_some_and(|index| is_sequence(&projection.input, index))
        }
        _ => false,
    }
}

/// The plan over other tables; with the columns that numbered tables have more than others as its last, where they are.
pub(super) fn rebuilt(
    plan: &LogicalPlan,
    other: &dyn Fn(&ChangeTable) -> ChangeTable,
    numbered: bool,
) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::TableScan(scan) => LogicalPlan::TableScan(rebuilt_scan(scan, other, numbered)?),
        LogicalPlan::Filter(filter) => {
            let input = rebuilt(&filter.input, other, numbered)?;
            LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?)
        }
        LogicalPlan::Projection(projection) => {
            let input = rebuilt(&projection.input, other, numbered)?;
            let added = numbered.then(|| added_columns(&input));
            let exprs = projection.expr.iter().cloned().chain(added.into_iter().flatten()).collect();
            LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let input = rebuilt(&alias.input, other, numbered)?;
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), alias.alias.clone())?)
        }
        LogicalPlan::Union(union) => {
            let inputs = union.inputs.iter().map(|input| rebuilt(input, other, numbered).map(Arc::new));
            let united = LogicalPlan::Union(Union::try_new(inputs.collect::<Result<_>>()?)?);
            renamed(united, union)?
        }
        other => other.clone(),
    })
}

fn rebuilt_scan(scan: &TableScan, other: &dyn Fn(&ChangeTable) -> ChangeTable, numbered: bool) -> Result<TableScan> {
    let provider = source_as_provider(&scan.source)?;
    let Some(table) = provider.downcast_ref::<ChangeTable>() else { return Ok(scan.clone()) };
    let known = scan.source.schema().fields().len();
    let mut projection = scan.projection.clone().unwrap_or_else(|| (0..known).collect());
    projection.extend(numbered.then_some([known, known + 1]).into_iter().flatten());
    TableScanBuilder::new(scan.table_name.clone(), provider_as_source(Arc::new(other(table))))
        .with_projection(Some(projection))
        .with_filters(scan.filters.clone())
        .build()
}

/// The columns by the names they had before.
fn renamed(plan: LogicalPlan, before: &Union) -> Result<LogicalPlan> {
    let schema = Arc::clone(plan.schema());
    let columns = schema.iter().enumerate().map(|(index, found)| {
        let column = Expr::Column(Column::from(found));
        if index >= before.schema.fields().len() {
            return column;
        }
        let (qualifier, field) = before.schema.qualified_field(index);
        column.alias_qualified(qualifier.cloned(), field.name())
    });
    LogicalPlanBuilder::from(plan).project(columns.collect::<Vec<_>>())?.build()
}

/// The order as bytes and each row's number: the last two columns of a plan over numbered tables.
pub(super) fn added_columns(plan: &LogicalPlan) -> [Expr; 2] {
    let count = plan.schema().fields().len();
    [count - 2, count - 1].map(|index| Expr::Column(Column::from(plan.schema().qualified_field(index))))
}
