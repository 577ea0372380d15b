//! How the rows of change files are read: the file's columns cast, the `_cdc_` columns made, updates of a key split.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::{StreamExt, TryStreamExt};

use crate::catalog::cdc::{CDC_COLUMNS, CdcColumns, ControlColumns, Source, WantedColumns, hidden_fields};
use crate::catalog::opened::{OpenedFile, RawRows, ReadRequest};
use crate::catalog::row_set::{RowSet, row_id};
use crate::catalog::shape::{ReadRules, TableShape};
use crate::catalog::split::SplitRules;
use crate::catalog::{casts, cdc};
use crate::change::{FileKind, Half};
use crate::error::{Error, Result};

/// What is the same for all files of the scan.
#[derive(Debug)]
pub(super) struct ScanPlan {
    pub shape: TableShape,
    pub rules: ReadRules,
    pub file_schema: SchemaRef,
    /// Whether columns are carried past the SQL, so that all that a change says of itself is made, wanted or not.
    pub hidden: bool,
}

impl ScanPlan {
    /// How many columns it makes that the files do not have.
    fn made_columns(&self) -> usize {
        if self.hidden { CDC_COLUMNS - 1 } else { CDC_COLUMNS - 1 - hidden_fields().len() }
    }

    /// Which `_cdc_` columns are among the wanted.
    fn cdc_columns(&self, wanted: &[usize]) -> WantedColumns {
        if self.hidden {
            return WantedColumns::ALL;
        }
        let (first, made) = (self.shape.columns.len(), self.made_columns());
        // The order comes after those that are always there.
        let place =
            |index: usize| if index == CDC_COLUMNS - 1 { Some(made) } else { Some(index).filter(|at| *at < made) };
        WantedColumns(std::array::from_fn(|index| place(index).is_some_and(|at| wanted.contains(&(first + at)))))
    }

    /// A filter may reach the reader if it speaks only of columns as the file has them, and no row of the
    /// file stands for two changes.
    pub(super) fn may_push(&self, filter: &Expr) -> bool {
        let plain = |name: &str| {
            let position = self.shape.schema.index_of(name).ok();
            position
                .and_then(|position| self.shape.columns.get(position))
                .is_some_and(|column| column.source.is_some() && column.cast.is_none())
        };
        !self.may_split() && !filter.is_volatile() && filter.column_refs().iter().all(|column| plain(&column.name))
    }

    fn may_split(&self) -> bool {
        ControlColumns::find(&self.file_schema, FileKind::Load, &self.rules.cdc)
            .ok()
            .and_then(|controls| SplitRules::find(&self.file_schema, &self.rules.key, &controls))
            .is_some()
    }

    /// The pushed filters as one expression over the file's schema.
    pub(super) fn predicate(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> DataFusionResult<Option<Arc<dyn PhysicalExpr>>> {
        let pushed = filters.iter().filter(|filter| self.may_push(filter)).cloned();
        let Some(all) = datafusion::logical_expr::utils::conjunction(pushed) else { return Ok(None) };
        let schema = datafusion::common::DFSchema::try_from(self.file_schema.as_ref().clone())?;
        let bare = datafusion::common::tree_node::TreeNode::transform(all, |expr| {
            Ok(match expr {
                Expr::Column(column) => datafusion::common::tree_node::Transformed::yes(Expr::Column(
                    datafusion::common::Column::new_unqualified(column.name),
                )),
                other => datafusion::common::tree_node::Transformed::no(other),
            })
        })?;
        state.create_physical_expr(bare.data, &schema).map(Some)
    }
}

/// A file, or some of its row groups.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub number: u32,
    pub file: Arc<OpenedFile>,
    pub row_groups: Option<Range<usize>>,
}

/// What one partition reads, one after the other.
#[derive(Debug)]
pub(super) struct ScanPartition {
    pub plan: Arc<ScanPlan>,
    pub schema: SchemaRef,
    pub wanted: Vec<usize>,
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    pub chosen: Option<Arc<OnceLock<RowSet>>>,
    pub parts: Vec<Part>,
}

impl PartitionStream for ScanPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, task: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batch_rows = task.session_config().batch_size();
        let parts: Vec<_> = self
            .parts
            .iter()
            .map(|part| FileScan {
                plan: Arc::clone(&self.plan),
                schema: Arc::clone(&self.schema),
                wanted: self.wanted.clone(),
                predicate: self.predicate.clone(),
                chosen: self.chosen.clone(),
                part: part.clone(),
            })
            .collect();
        let rows = futures::stream::iter(parts).flat_map(move |part| part.stream(batch_rows));
        let rows = rows.map_err(datafusion::error::DataFusionError::from);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// The scan of one file.
struct FileScan {
    plan: Arc<ScanPlan>,
    schema: SchemaRef,
    wanted: Vec<usize>,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    chosen: Option<Arc<OnceLock<RowSet>>>,
    part: Part,
}

impl FileScan {
    /// Its rows, once what they need of it is known.
    fn stream(mut self, batch_rows: usize) -> futures::stream::BoxStream<'static, Result<RecordBatch>> {
        let rows = async move {
            if self.cdc_columns().need_version() {
                self.part.file = self.part.file.versioned().await?;
            }
            Ok(self.rows(batch_rows))
        };
        futures::stream::once(rows).try_flatten().boxed()
    }

    fn rows(self, batch_rows: usize) -> futures::stream::BoxStream<'static, Result<RecordBatch>> {
        match self.request(batch_rows) {
            Err(error) => {
                let error = error.in_file(&self.part.file.file.location).in_table(&self.part.file.file.table);
                futures::stream::once(async { Err(error) }).boxed()
            }
            Ok((controls, split, request)) => {
                let indices = request.columns.clone();
                let rows = self.part.file.read(request);
                rows.map(move |raw| {
                    self.finish(raw?, &indices, controls, split.as_ref()).map_err(|error| {
                        error.in_file(&self.part.file.file.location).in_table(&self.part.file.file.table)
                    })
                })
                .boxed()
            }
        }
    }

    /// The rows that are wanted; None: all.
    fn chosen(&self) -> Result<Option<&RowSet>> {
        let unknown = || Error::bug("rows are read before it is known which");
        self.chosen.as_ref().map(|chosen| chosen.get().ok_or_else(unknown)).transpose()
    }

    fn cdc_columns(&self) -> WantedColumns {
        self.plan.cdc_columns(&self.wanted)
    }

    /// What to read: the wanted columns and those that the `_cdc_` columns and the split are made from.
    fn request(&self, batch_rows: usize) -> Result<(ControlColumns, Option<SplitRules>, ReadRequest)> {
        let schema = &self.part.file.schema;
        let controls = ControlColumns::find(schema, self.part.file.file.kind, &self.plan.rules.cdc)?;
        let split = SplitRules::find(schema, &self.plan.rules.key, &controls);
        let controls = controls.only_for(self.cdc_columns());
        let rows = self.chosen()?.map(|chosen| chosen.rows(self.part.number));
        let predicate = self.predicate.clone();
        let mut columns: Vec<usize> = self
            .wanted
            .iter()
            .filter_map(|wanted| self.plan.shape.columns.get(*wanted)?.source)
            .chain(controls.indices())
            .collect();
        if let Some(split) = &split {
            columns.extend(split.needed(&columns.clone()));
        }
        columns.sort_unstable();
        columns.dedup();
        let row_groups = self.part.row_groups.clone();
        Ok((controls, split, ReadRequest { columns, predicate, row_groups, rows, batch_rows }))
    }

    fn finish(
        &self,
        raw: RawRows,
        indices: &[usize],
        controls: ControlColumns,
        split: Option<&SplitRules>,
    ) -> Result<RecordBatch> {
        let (batch, rows, deletes) = match split {
            None => (raw.columns, raw.rows, None),
            Some(split) => {
                let split = split.split(raw.columns, indices, raw.rows)?;
                (split.batch, split.rows, split.deletes)
            }
        };
        let source = Source { batch: &batch, indices };
        let cdc = CdcColumns::new(&self.part.file.file, controls, &self.plan.rules.cdc)?;
        let mut made = cdc.make(self.cdc_columns(), &source, &rows, deletes.as_deref())?.to_vec();
        let order = made.pop().flatten();
        made.truncate(self.plan.made_columns());
        made.extend([order, self.row_ids(&rows, deletes.as_deref())]);
        let columns = self
            .wanted
            .iter()
            .zip(self.schema.fields())
            .map(|(wanted, field)| self.column(*wanted, field, &source, &made, &rows))
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let found = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|cause| Error::bug("a scan's columns do not fit its schema").because(cause))?;
        let Some(chosen) = self.chosen()? else { return Ok(found) };
        let is_chosen = each_row(&rows, deletes.as_deref(), |row, half| chosen.contains(self.part.number, row, half));
        let is_chosen = BooleanArray::from(is_chosen.collect::<Vec<_>>());
        filter_record_batch(&found, &is_chosen).map_err(|cause| Error::bug("rows cannot be chosen").because(cause))
    }

    /// The rows' own numbers, where the scan has a column for them.
    fn row_ids(&self, rows: &Int64Array, deletes: Option<&[bool]>) -> Option<ArrayRef> {
        let index = self.plan.shape.columns.len() + self.plan.made_columns() + 1;
        let ids =
            || UInt64Array::from_iter_values(each_row(rows, deletes, |row, half| row_id(self.part.number, row, half)));
        self.wanted.contains(&index).then(|| Arc::new(ids()) as ArrayRef)
    }

    fn column(
        &self,
        wanted: usize,
        field: &Field,
        source: &Source<'_>,
        made: &[Option<ArrayRef>],
        rows: &Int64Array,
    ) -> Result<ArrayRef> {
        let own = &self.plan.shape.columns;
        let Some(visible) = own.get(wanted) else {
            let made = made.get(wanted - own.len()).cloned().flatten();
            return made.ok_or_else(|| Error::bug(format!("there is no column {wanted}")));
        };
        let Some(column) = visible.source.and_then(|index| source.column(index)) else {
            return Ok(new_null_array(field.data_type(), rows.len()));
        };
        let Some(to) = &visible.cast else { return Ok(Arc::clone(column)) };
        casts::override_column(column, to).map_err(|misfit| {
            misfit
                .error
                .in_row(cdc::row_number(rows, misfit.index))
                .hint(format!("column `{}` is {to} by schema_override", field.name()))
        })
    }
}

/// What comes of each row's number and half.
fn each_row<'a, T>(
    rows: &'a Int64Array,
    deletes: Option<&'a [bool]>,
    of: impl Fn(u64, Half) -> T + 'a,
) -> impl Iterator<Item = T> + 'a {
    (0..rows.len()).map(move |index| of(cdc::row_number(rows, index), cdc::half_at(deletes, index)))
}
