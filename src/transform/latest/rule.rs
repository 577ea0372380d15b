//! Finds `row_number() … = 1` over change files in a plan, and puts the two passes in its place.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::expr::WindowFunctionParams;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, Projection, WindowFunctionDefinition,
    lit,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::Settings;
use super::input::{FileNumbers, added_columns, gather, is_plain, is_sequence, numbers, numbers_of, rebuilt};
use super::keys::KeyColumns;
use super::provider::FirstRows;

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
        // Plans are held for the same where their tables are named the same.
        let name = TableReference::bare(config.alias_generator().next(self.name()));
        found.rewritten(name).map(Transformed::yes)
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
    numbers: FileNumbers,
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

    /// Whether keys and order are of types that can be compared as bytes, and names are told apart without qualifiers, from
    /// each other and from freshet's own.
    fn is_sortable(&self) -> bool {
        let schema = self.input.schema();
        let exprs = self.keys.iter().chain(self.order.iter().map(|(expr, _)| *expr));
        let fields = exprs.map(|expr| Ok(SortField::new(expr.get_type(schema)?)));
        let fields: Result<Vec<SortField>> = fields.collect();
        let names: BTreeSet<&String> = schema.fields().iter().map(|field| field.name()).collect();
        let are_told_apart =
            names.len() == schema.fields().len() && !names.iter().any(|name| name.starts_with("__freshet_"));
        are_told_apart && fields.is_ok_and(|fields| RowConverter::supports_fields(&fields))
    }

    fn rewritten(&self, name: TableReference) -> Result<LogicalPlan> {
        let schema = self.input.schema();
        let first = FirstRows {
            keys: self.first_pass()?,
            columns: KeyColumns {
                keys: self.keys.len(),
                order: self.order.iter().map(|(_, options)| *options).collect(),
            },
            all: self.input.clone(),
            numbers: self.numbers.clone(),
            schema: Arc::new(schema.as_arrow().clone()),
        };
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
        let input = rebuilt(self.input, &|table| table.numbered(&numbers_of(table, &self.numbers)), true)?;
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
}

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
