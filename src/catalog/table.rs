//! An explicit list of change files as one DataFusion table.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};

use crate::catalog::cdc::{hidden_fields, order_field};
use crate::catalog::opened::OpenedFile;
use crate::catalog::row_set::{ROW_ID, RowSet};
use crate::catalog::scan::{Part, ScanPartition, ScanPlan};
use crate::catalog::shape::{ReadRules, TableShape};
use crate::error::{Error, Result};

/// A file, and its number among the files of a query; 0 where rows are not numbered.
type NumberedFile = (u32, Arc<OpenedFile>);

/// Change files of one schema, as a table that can be scanned.
#[derive(Debug, Clone)]
pub struct ChangeTable {
    schema: SchemaRef,
    plan: Arc<ScanPlan>,
    files: Vec<NumberedFile>,
    /// The rows that are wanted, known by the time the scan begins. None: all are.
    chosen: Option<Arc<OnceLock<RowSet>>>,
}

impl ChangeTable {
    /// A table of these files, all of the schema `shape` was made for. `hidden` adds the columns that are
    /// carried past the SQL.
    ///
    /// # Errors
    /// [`Bug`](crate::error::Kind::Bug) where the files differ in schema or there is none.
    pub fn new(files: Vec<Arc<OpenedFile>>, shape: TableShape, rules: ReadRules, hidden: bool) -> Result<Self> {
        let first = files.first().ok_or_else(|| Error::bug("a table of no files"))?;
        let file_schema = Arc::clone(&first.schema);
        if files.iter().any(|file| file.schema != file_schema) {
            return Err(Error::bug("a table of files that differ in schema"));
        }
        let mut schema = shape.schema.as_ref().clone();
        if hidden {
            let fields = schema.fields().iter().cloned().chain(hidden_fields().map(Arc::new));
            schema = Schema::new(fields.collect::<Vec<_>>());
        }
        let plan = ScanPlan { shape, rules, file_schema, hidden };
        let files = files.into_iter().map(|file| (0, file)).collect();
        Ok(Self { schema: Arc::new(schema), plan: Arc::new(plan), files, chosen: None })
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Arc<OpenedFile>> {
        self.files.iter().map(|(_, file)| file)
    }

    /// Whether columns are carried past the SQL.
    pub fn is_hidden(&self) -> bool {
        self.plan.hidden
    }

    /// The same with two more columns, the order as bytes and [`ROW_ID`], its files being numbered so.
    pub fn numbered(&self, numbers: &[u32]) -> Self {
        let added = [order_field(), Field::new(ROW_ID, DataType::UInt64, false)];
        let fields = self.schema.fields().iter().cloned().chain(added.map(Arc::new));
        Self { schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())), ..self.with_numbers(numbers) }
    }

    /// The same, of these rows alone, its files being numbered so. They must be known when it is scanned.
    pub fn only(&self, chosen: Arc<OnceLock<RowSet>>, numbers: &[u32]) -> Self {
        Self { chosen: Some(chosen), ..self.with_numbers(numbers) }
    }

    /// What is read by itself: the files, or stretches of their row groups where there are few files for so many partitions.
    /// Where columns are carried past the SQL only files: of several errors in one its first row's is to be found.
    fn parts(&self, partitions: usize) -> Vec<Part> {
        let is_few = !self.plan.hidden && self.files.len() < partitions * 4;
        let stretches = if is_few { partitions } else { 1 };
        let of_file = |(number, file): &NumberedFile| -> Vec<Part> {
            let (number, file, all) = (*number, Arc::clone(file), file.row_groups());
            let step = all.div_ceil(stretches).max(1);
            if step >= all {
                return vec![Part { number, file, row_groups: None }];
            }
            let stretches = (0..all).step_by(step).map(|first| Some(first..(first + step).min(all)));
            stretches.map(|row_groups| Part { number, file: Arc::clone(&file), row_groups }).collect()
        };
        self.files.iter().flat_map(of_file).collect()
    }

    fn with_numbers(&self, numbers: &[u32]) -> Self {
        let files = self.files.iter().zip(numbers).map(|((_, file), number)| (*number, Arc::clone(file)));
        Self { files: files.collect(), ..self.clone() }
    }
}

#[async_trait]
impl TableProvider for ChangeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|filter| match self.plan.may_push(filter) {
                true => TableProviderFilterPushDown::Inexact,
                false => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&wanted)?);
        let predicate = self.plan.predicate(state, filters)?;
        let parts = self.parts(state.config().target_partitions());
        let count = state.config().target_partitions().clamp(1, parts.len());
        let partitions: Vec<_> = (0..count)
            .map(|partition| {
                Arc::new(ScanPartition {
                    plan: Arc::clone(&self.plan),
                    schema: Arc::clone(&schema),
                    wanted: wanted.clone(),
                    predicate: predicate.clone(),
                    chosen: self.chosen.clone(),
                    parts: parts.iter().skip(partition).step_by(count).cloned().collect(),
                }) as Arc<dyn PartitionStream>
            })
            .collect();
        let exec = StreamingTableExec::try_new(schema, partitions, None, None, false, limit)?;
        Ok(Arc::new(exec))
    }
}
