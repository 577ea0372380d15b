//! What a plan reads in the place of the rows that it would have sorted: those that are first of their key.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::exec::LatestPerKeyExec;
use super::keys::KeyColumns;
use crate::catalog::row_set::RowSet;

/// The rows of a plan that are first of their key.
#[derive(Debug)]
pub(super) struct FirstRows {
    /// The first pass: keys, order, and the rows' numbers.
    pub(super) keys: LogicalPlan,
    pub(super) columns: KeyColumns,
    /// The second, which reads the chosen rows alone.
    pub(super) whole: LogicalPlan,
    pub(super) chosen: Arc<OnceLock<RowSet>>,
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
        let mut whole = self.whole.clone();
        if let Some(projection) = projection {
            let schema = Arc::clone(whole.schema());
            let wanted = projection.iter().map(|index| Expr::Column(Column::from(schema.qualified_field(*index))));
            whole = LogicalPlanBuilder::from(whole).project(wanted.collect::<Vec<_>>())?.build()?;
        }
        let keys = state.create_physical_plan(&self.keys).await?;
        let whole = state.create_physical_plan(&whole).await?;
        Ok(Arc::new(LatestPerKeyExec::new(keys, whole, self.columns.clone(), Arc::clone(&self.chosen))))
    }
}
