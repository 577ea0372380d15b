//! What a plan makes each output column of, in terms of the source's columns.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};

use crate::change::TableName;

/// Why a plan is not a transform.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    /// A full sentence without its final stop.
    pub message: String,
    /// Words by which to find the place in the SQL.
    pub words: Vec<String>,
}

impl Violation {
    /// A violation found at the first of these words.
    pub fn new(message: impl Into<String>, words: &[&str]) -> Self {
        Self { message: message.into(), words: words.iter().map(|word| (*word).to_owned()).collect() }
    }
}

/// `row_number() OVER (PARTITION BY … ORDER BY …) = 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatestPerKey {
    /// Over source columns.
    pub partition_by: Vec<Expr>,
    /// Over source columns: expression, and whether ascending.
    pub order_by: Vec<(Expr, bool)>,
}

/// A plan, told in terms of the source's columns.
#[derive(Debug, Clone, Default)]
pub struct Traced {
    /// For every output column, its expression over source columns.
    pub outputs: Vec<Expr>,
    /// Every condition rows must meet, but for latest-per-key.
    pub filters: Vec<Expr>,
    /// The latest-per-key, if there is one.
    pub latest: Option<LatestPerKey>,
}

/// Traces a plan that reads one table row by row.
///
/// # Errors
/// The first thing in the plan that is not row-wise, or a table that is not `table`.
pub fn trace(plan: &LogicalPlan, table: &TableName) -> Result<Traced, Violation> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let own = scan.table_name.table() == table.table
                && scan.table_name.schema().is_none_or(|schema| schema == table.database);
            if !own {
                let other = scan.table_name.to_string();
                let message = format!("a transform reads its own table, not `{other}`");
                return Err(Violation::new(message, &[scan.table_name.table().trim_end_matches("()"), "from"]));
            }
            let names = scan.projected_schema.fields().iter().map(|field| field.name().clone());
            let outputs = names.map(|name| Expr::Column(Column::new_unqualified(name))).collect();
            Ok(Traced { outputs, ..Traced::default() })
        }
        LogicalPlan::SubqueryAlias(alias) => trace(&alias.input, table),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => trace(&sort.input, table),
        LogicalPlan::Projection(projection) => {
            let mut traced = trace(&projection.input, table)?;
            traced.outputs = substitute_all(&projection.expr, projection.input.schema(), &traced.outputs)?;
            Ok(traced)
        }
        LogicalPlan::Window(window) => {
            let mut traced = trace(&window.input, table)?;
            traced.outputs.extend(substitute_all(&window.window_expr, window.input.schema(), &traced.outputs)?);
            Ok(traced)
        }
        LogicalPlan::Filter(filter) => {
            let mut traced = trace(&filter.input, table)?;
            let predicate = substitute(&filter.predicate, filter.input.schema(), &traced.outputs)?;
            add_filter(&mut traced, &predicate)?;
            Ok(traced)
        }
        other => Err(not_row_wise(other)),
    }
}

fn substitute_all(exprs: &[Expr], schema: &DFSchema, inputs: &[Expr]) -> Result<Vec<Expr>, Violation> {
    exprs.iter().map(|expr| substitute(expr, schema, inputs)).collect()
}

/// The expression with every column replaced by what it is made of.
fn substitute(expr: &Expr, schema: &DFSchema, inputs: &[Expr]) -> Result<Expr, Violation> {
    let replaced = expr.clone().transform_up(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let made_of = schema.maybe_index_of_column(column).and_then(|index| inputs.get(index).cloned());
        match made_of {
            Some(made_of) => Ok(Transformed::yes(made_of)),
            None => datafusion::common::plan_err!("column {column} cannot be traced"),
        }
    });
    replaced.map(|replaced| replaced.data).map_err(|cause| Violation::new(cause.to_string(), &[]))
}

/// Takes the alias and, around it, other aliases off.
pub fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        other => other,
    }
}

fn has_window(expr: &Expr) -> bool {
    expr.exists(|expr| Ok(matches!(expr, Expr::WindowFunction(_)))).unwrap_or(true)
}

fn add_filter(traced: &mut Traced, predicate: &Expr) -> Result<(), Violation> {
    for condition in split_conjunction(predicate) {
        if !has_window(condition) {
            traced.filters.push(condition.clone());
            continue;
        }
        let window = first_row_only(condition).ok_or_else(|| {
            Violation::new("a window function may only be used as row_number() OVER (…) = 1", &["over", "qualify"])
        })?;
        let latest = latest_per_key(window);
        if traced.latest.as_ref().is_some_and(|known| *known != latest) {
            return Err(Violation::new("the latest change is chosen twice, by different keys or orders", &["over"]));
        }
        // Of the rows that remain, this window function is 1.
        traced.outputs = traced.outputs.iter().map(|output| without_window(output, window)).collect();
        traced.latest = Some(latest);
    }
    Ok(())
}

fn without_window(expr: &Expr, window: &WindowFunction) -> Expr {
    let one = || Expr::Literal(ScalarValue::UInt64(Some(1)), None);
    let replaced = expr.clone().transform_up(|expr| match &expr {
        Expr::WindowFunction(found) if found.as_ref() == window => Ok(Transformed::yes(one())),
        _ => Ok(Transformed::no(expr)),
    });
    replaced.map_or_else(|_| expr.clone(), |replaced| replaced.data)
}

/// The row_number of `row_number() = 1`, `<= 1`, `< 2`, or either the other way round.
fn first_row_only(condition: &Expr) -> Option<&WindowFunction> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = bare(condition) else { return None };
    let (window, op, bound) = match (integer(right), integer(left)) {
        (Some(bound), None) => (bare(left), *op, bound),
        (None, Some(bound)) => (bare(right), op.swap()?, bound),
        _ => return None,
    };
    let first = matches!((op, bound), (Operator::Eq | Operator::LtEq, 1) | (Operator::Lt, 2));
    let Expr::WindowFunction(window) = window else { return None };
    let row_number =
        matches!(&window.fun, WindowFunctionDefinition::WindowUDF(function) if function.name() == "row_number");
    (first && row_number).then_some(window.as_ref())
}

fn integer(expr: &Expr) -> Option<i64> {
    match bare(expr) {
        Expr::Literal(ScalarValue::Int64(value), _) => *value,
        Expr::Literal(ScalarValue::UInt64(Some(value)), _) => i64::try_from(*value).ok(),
        Expr::Cast(cast) => integer(&cast.expr),
        _ => None,
    }
}

fn latest_per_key(window: &WindowFunction) -> LatestPerKey {
    LatestPerKey {
        partition_by: window.params.partition_by.iter().map(|expr| bare(expr).clone()).collect(),
        order_by: window.params.order_by.iter().map(|sort| (bare(&sort.expr).clone(), sort.asc)).collect(),
    }
}

fn not_row_wise(plan: &LogicalPlan) -> Violation {
    let (what, words): (&str, &[&str]) = match plan {
        LogicalPlan::Aggregate(_) => ("an aggregate or GROUP BY", &["group", "count", "sum", "max", "min", "avg"]),
        LogicalPlan::Distinct(_) => ("DISTINCT", &["distinct"]),
        LogicalPlan::Limit(_) | LogicalPlan::Sort(_) => ("LIMIT", &["limit", "fetch", "offset"]),
        LogicalPlan::Join(_) => ("a join, EXCEPT or INTERSECT", &["join", "except", "intersect", "from"]),
        LogicalPlan::Union(_) => ("a set operation", &["union", "intersect", "except"]),
        LogicalPlan::Subquery(_) => ("a subquery in an expression", &["exists", "in"]),
        LogicalPlan::Unnest(_) => ("unnest", &["unnest"]),
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
            ("rows that come from no table", &["values", "select"])
        }
        LogicalPlan::RecursiveQuery(_) => ("a recursive query", &["recursive"]),
        _ => ("more than a row-wise SELECT", &["select"]),
    };
    Violation::new(format!("a transform may not use {what}"), words)
}
