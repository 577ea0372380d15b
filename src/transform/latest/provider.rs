//! What a plan reads in the place of the rows that it would have sorted: those that are first of their key.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::exec::LatestPerKeyExec;
use super::input::{FileNumbers, numbers_of, rebuilt};
use super::keys::KeyColumns;
use crate::catalog::table::ChangeTable;

/// The rows of a plan that are first of their key.
#[derive(Debug)]
pub(super) struct FirstRows {
    /// The first pass: keys, order, and the rows' numbers.
    pub(super) keys: LogicalPlan,
    pub(super) columns: KeyColumns,
    /// All rows, of which the second pass reads those that were chosen.
    pub(super) all: LogicalPlan,
    pub(super) numbers: FileNumbers,
    pub(super) schema: SchemaRef,
}

#[async_trait]
impl TableProvider for FirstRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // A plan may be kept and run again: each time other rows may be chosen.
        let chosen = Arc::new(OnceLock::new());
        let only = |table: &ChangeTable| table.only(Arc::clone(&chosen), &numbers_of(table, &self.numbers));
        let mut whole = rebuilt(&self.all, &only, false)?;
        if let Some(projection) = projection {
            let schema = Arc::clone(whole.schema());
            let wanted = projection.iter().map(|index| Expr::Column(Column::from(schema.qualified_field(*index))));
            whole = LogicalPlanBuilder::from(whole).project(wanted.collect::<Vec<_>>())?.build()?;
        }
        let keys = state.create_physical_plan(&self.keys).await?;
        let whole = state.create_physical_plan(&whole).await?;
        Ok(Arc::new(LatestPerKeyExec::new(keys, whole, self.columns.clone(), chosen)))
    }
}
