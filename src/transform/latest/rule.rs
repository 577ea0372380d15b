//! Finds `row_number() … = 1` over change files in a plan, and puts the two passes in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use arrow::compute::SortOptions;
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result, ScalarValue, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::expr::WindowFunctionParams;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Projection, SubqueryAlias,
    TableScan, TableScanBuilder, Union, WindowFunctionDefinition, lit,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::Settings;
use super::keys::KeyColumns;
use super::provider::FirstRows;
use crate::catalog::cdc::SEQUENCE;
use crate::catalog::row_set::RowSet;
use crate::catalog::table::ChangeTable;

/// The optimizer's rule.
#[derive(Debug)]
pub(in crate::transform) struct LatestPerKey;

impl OptimizerRule for LatestPerKey {
    fn name(&self) -> &'static str {
        "latest_per_key"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let options = config.options();
        if options.extensions.get::<Settings>().is_none_or(|settings| !settings.latest_per_key) {
            return Ok(Transformed::no(plan));
        }
        let Some(found) = Found::within(&plan) else { return Ok(Transformed::no(plan)) };
        found.rewritten().map(Transformed::yes)
    }
}

/// A filter for the first row of each key.
struct Found<'a> {
    input: &'a LogicalPlan,
    keys: &'a [Expr],
    order: Vec<(&'a Expr, SortOptions)>,
    /// The name of the column with the row's place in the order.
    place: Column,
    /// The columns that the filter sees; None: all.
    columns: Option<&'a [Expr]>,
    /// What else the filter asks for.
    rest: Vec<Expr>,
    /// The number of each file, by its location.
    numbers: BTreeMap<String, u32>,
}

impl<'a> Found<'a> {
    fn within(plan: &'a LogicalPlan) -> Option<Self> {
        let LogicalPlan::Filter(filter) = plan else { return None };
        let (columns, under) = match filter.input.as_ref() {
            // Puts columns aside that only the window needs.
            LogicalPlan::Projection(Projection { expr, input, .. }) => (Some(expr.as_slice()), input.as_ref()),
            other => (None, other),
        };
        let LogicalPlan::Window(window) = under else { return None };
        if columns.is_some_and(|columns| columns.iter().any(|column| !matches!(column, Expr::Column(_)))) {
            return None;
        }
        let [function] = window.window_expr.as_slice() else { return None };
        let params = row_number(function)?;
        let place = Column::from(window.schema.qualified_field(window.schema.fields().len() - 1));
        let (first, rest): (Vec<&Expr>, Vec<&Expr>) =
            split_conjunction(&filter.predicate).into_iter().partition(|condition| is_first(condition, &place));
        let exprs = params.partition_by.iter().chain(params.order_by.iter().map(|sort| &sort.expr));
        if first.is_empty()
            || params.partition_by.is_empty()
            || params.order_by.is_empty()
            || !exprs.clone().all(is_plain)
        {
            return None;
        }
        let options = |asc: bool, nulls_first: bool| SortOptions { descending: !asc, nulls_first };
        let order = params.order_by.iter().map(|sort| (&sort.expr, options(sort.asc, sort.nulls_first)));
        let mut tables = Vec::new();
        gather(&window.input, &mut tables)?;
        let found = Self {
            input: &window.input,
            keys: &params.partition_by,
            order: order.collect(),
            place,
            columns,
            rest: rest.into_iter().cloned().collect(),
            numbers: numbers(&tables)?,
        };
        found.is_sortable().then_some(found)
    }

    /// Whether keys and order are of types that can be compared as bytes, and names are told apart without qualifiers.
    fn is_sortable(&self) -> bool {
        let schema = self.input.schema();
        let exprs = self.keys.iter().chain(self.order.iter().map(|(expr, _)| *expr));
        let fields = exprs.map(|expr| Ok(SortField::new(expr.get_type(schema)?)));
        let fields: Result<Vec<SortField>> = fields.collect();
        let names: BTreeSet<&String> = schema.fields().iter().map(|field| field.name()).collect();
        names.len() == schema.fields().len() && fields.is_ok_and(|fields| RowConverter::supports_fields(&fields))
    }

    fn rewritten(&self) -> Result<LogicalPlan> {
        let chosen = Arc::new(OnceLock::new());
        let schema = self.input.schema();
        let whole = rebuilt(self.input, &|table| self.provider(table, Some(&chosen)), false)?;
        let first = FirstRows {
            keys: self.first_pass()?,
            columns: KeyColumns {
                keys: self.keys.len(),
                order: self.order.iter().map(|(_, options)| *options).collect(),
            },
            whole,
            chosen,
            schema: Arc::new(schema.as_arrow().clone()),
        };
        let name = TableReference::bare(NAME);
        let scan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::new(first)), None)?;
        // As the window named its columns; each row's place is the first.
        let columns = schema.iter().map(|(qualifier, field)| {
            Expr::Column(Column::new(Some(name.clone()), field.name()))
                .alias_qualified(qualifier.cloned(), field.name())
        });
        let place = lit(1_u64).alias_qualified(self.place.relation.clone(), self.place.name.clone());
        let mut rows = scan.project(columns.chain([place]).collect::<Vec<_>>())?;
        if let Some(columns) = self.columns {
            rows = rows.project(columns.to_vec())?;
        }
        match conjunction(self.rest.clone()) {
            Some(rest) => rows.filter(rest)?.build(),
            None => rows.build(),
        }
    }

    /// Keys, order and each row's number.
    fn first_pass(&self) -> Result<LogicalPlan> {
        let input = rebuilt(self.input, &|table| self.provider(table, None), true)?;
        let [order, id] = added_columns(&input);
        // As bytes `_cdc_sequence` need not be made, and is half as long.
        let as_read = |expr: &Expr| if self.is_sequence(expr) { order.clone() } else { expr.clone() };
        let orders = self.order.iter().map(|(expr, _)| as_read(expr));
        let exprs = self.keys.iter().cloned().chain(orders).chain([id]);
        // By names of their own: a column may be both key and order.
        let named = exprs.enumerate().map(|(index, expr)| {
            let name = format!("{index} {}", expr.schema_name());
            expr.alias(name)
        });
        LogicalPlanBuilder::from(input).project(named.collect::<Vec<_>>())?.build()
    }

    fn is_sequence(&self, expr: &Expr) -> bool {
        let Expr::Column(column) = expr else { return false };
        let index = self.input.schema().maybe_index_of_column(column);
        index.is_some_and(|index| is_sequence(self.input, index))
    }

    fn provider(&self, table: &ChangeTable, chosen: Option<&Arc<OnceLock<RowSet>>>) -> Arc<dyn TableProvider> {
        let number = |location: &String| self.numbers.get(location).copied().unwrap_or(u32::MAX);
        let numbers: Vec<u32> = table.files().map(|file| number(&file.file.location)).collect();
        Arc::new(match chosen {
            Some(chosen) => table.only(Arc::clone(chosen), &numbers),
            None => table.numbered(&numbers),
        })
    }
}

/// How plans name what stands in the place of the sorted rows.
const NAME: &str = "latest_per_key";

/// What a row_number() is partitioned and ordered by.
fn row_number(function: &Expr) -> Option<&WindowFunctionParams> {
    let function = match function {
        Expr::Alias(alias) => alias.expr.as_ref(),
        other => other,
    };
    let Expr::WindowFunction(function) = function else { return None };
    let WindowFunctionDefinition::WindowUDF(called) = &function.fun else { return None };
    let params = &function.params;
    let is_bare = params.args.is_empty() && params.filter.is_none() && !params.distinct;
    (called.name() == "row_number" && is_bare).then_some(params)
}

/// Whether a condition holds for the first place alone.
fn is_first(condition: &Expr, place: &Column) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return false };
    let (left, op, right) = match (left.as_ref(), op.swap()) {
        (Expr::Literal(..), Some(swapped)) => (right, swapped, left),
        _ => (left, *op, right),
    };
    let (Expr::Column(column), Expr::Literal(value, _)) = (left.as_ref(), right.as_ref()) else { return false };
    let number = match value {
        ScalarValue::UInt64(Some(number)) => i128::from(*number),
        ScalarValue::Int64(Some(number)) => i128::from(*number),
        _ => return false,
    };
    column == place && matches!((op, number), (Operator::Eq | Operator::LtEq, 1) | (Operator::Lt, 2))
}

/// Whether an expression is a function of its row alone, always the same.
fn is_plain(expr: &Expr) -> bool {
    let is_foreign = |expr: &Expr| {
        let foreign = matches!(
            expr,
            Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::ScalarSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Unnest(_)
        );
        Ok(foreign)
    };
    !expr.is_volatile() && expr.exists(is_foreign).is_ok_and(|found| !found)
}

/// The tables of change files that a plan is made of, if it does no more to their rows than pass them on one by one.
fn gather<'a>(plan: &'a LogicalPlan, tables: &mut Vec<&'a TableScan>) -> Option<()> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source).ok()?;
            provider.downcast_ref::<ChangeTable>()?;
            tables.push(scan);
            (scan.fetch.is_none() && scan.filters.iter().all(is_plain)).then_some(())
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
fn numbers(tables: &[&TableScan]) -> Option<BTreeMap<String, u32>> {
    let mut numbers = BTreeMap::new();
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

/// Whether a column of such a plan is the files' `_cdc_sequence`, as it is.
fn is_sequence(plan: &LogicalPlan, index: usize) -> bool {
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
fn rebuilt(
    plan: &LogicalPlan,
    other: &dyn Fn(&ChangeTable) -> Arc<dyn TableProvider>,
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

fn rebuilt_scan(
    scan: &TableScan,
    other: &dyn Fn(&ChangeTable) -> Arc<dyn TableProvider>,
    numbered: bool,
) -> Result<TableScan> {
    let provider = source_as_provider(&scan.source)?;
    let Some(table) = provider.downcast_ref::<ChangeTable>() else { return Ok(scan.clone()) };
    let known = scan.source.schema().fields().len();
    let mut projection = scan.projection.clone().unwrap_or_else(|| (0..known).collect());
    projection.extend(numbered.then_some([known, known + 1]).into_iter().flatten());
    TableScanBuilder::new(scan.table_name.clone(), provider_as_source(other(table)))
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
fn added_columns(plan: &LogicalPlan) -> [Expr; 2] {
    let count = plan.schema().fields().len();
    [count - 2, count - 1].map(|index| Expr::Column(Column::from(plan.schema().qualified_field(index))))
}
