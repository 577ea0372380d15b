//! Binds a planned transform to the files of a batch, and carries each row's file and number past the SQL.
//!
//! Latest-per-key is left to the merge. Were it applied within a batch, a value that cannot be transformed would go
//! unnoticed in a row that a later one of the same batch replaces, and be an error where the two are cut apart:
//! how files are cut would show.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as DataFusionResult};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, lit};

use crate::catalog::cdc::{HIDDEN_FILE_ID, HIDDEN_ROW};
use crate::error::{Error, Result};

/// The plan over `table` instead of the stand-in it was planned on, with the hidden columns of `table` as
/// its last outputs.
///
/// # Errors
/// [`Bug`](crate::error::Kind::Bug): every plan that keeps the rules can be bound.
pub fn bind(plan: &LogicalPlan, table: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    let bound = plan.clone().transform_up(|node| bind_node(node, &table).map(Transformed::yes));
    bound
        .map(|bound| bound.data)
        .map_err(|cause| Error::bug("the transform cannot be bound to its files").because(cause))
}

fn bind_node(node: LogicalPlan, table: &Arc<dyn TableProvider>) -> DataFusionResult<LogicalPlan> {
    match node {
        LogicalPlan::TableScan(scan) => {
            LogicalPlanBuilder::scan(scan.table_name, provider_as_source(Arc::clone(table)), None)?.build()
        }
        LogicalPlan::Projection(projection) => {
            let mut exprs = projection.expr;
            for hidden in [HIDDEN_FILE_ID, HIDDEN_ROW] {
                let (qualifier, field) = projection.input.schema().qualified_field_with_unqualified_name(hidden)?;
                exprs.push(Expr::Column(Column::from((qualifier, field))));
            }
            Projection::try_new(exprs, projection.input).map(LogicalPlan::Projection)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            SubqueryAlias::try_new(alias.input, alias.alias).map(LogicalPlan::SubqueryAlias)
        }
        LogicalPlan::Window(window) => {
            // The rules allow a window only as `row_number() = 1`: so every row is its key's first.
            let columns = window.input.schema().columns().into_iter().map(Expr::Column);
            let firsts = window.window_expr.iter().map(|expr| lit(1_u64).alias(expr.schema_name().to_string()));
            let exprs: Vec<Expr> = columns.chain(firsts).collect();
            Projection::try_new(exprs, window.input).map(LogicalPlan::Projection)
        }
        other => other.recompute_schema(),
    }
}
