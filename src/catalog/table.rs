//! An explicit list of change files as one DataFusion table.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt};

use crate::catalog::cdc::{
    CDC_COLUMNS, CdcColumns, CdcRules, ControlColumns, Source, WantedColumns, find_column, hidden_fields, order_field,
    visible_fields,
};
use crate::catalog::opened::{OpenedFile, RawRows, ReadRequest};
use crate::catalog::row_set::{ROW_ID, RowSet, row_id};
use crate::catalog::split::SplitRules;
use crate::catalog::{casts, cdc};
use crate::change::types::{ColumnType, same_name};
use crate::change::{FileKind, Half};
use crate::error::{Error, Result};

/// How the files of a table are read: what the configuration says of its source side.
#[derive(Debug, Clone)]
pub struct ReadRules {
    /// Order, time and generation of its changes.
    pub cdc: CdcRules,
    /// Source columns that are cast before SQL sees them.
    pub overrides: BTreeMap<String, ColumnType>,
    /// Whether SQL sees columns that `overrides` does not name.
    pub auto_schema: bool,
    /// The key's source columns; empty where no key is known, and then no update is split.
    pub key: Vec<String>,
}

/// One column that SQL sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Visible {
    /// Its index in the file's schema; None: the file lacks it, it is NULL.
    source: Option<usize>,
    /// The type it is cast to.
    cast: Option<ColumnType>,
}

/// What SQL sees of files of one schema.
#[derive(Debug, Clone)]
pub struct TableShape {
    /// The columns that SQL sees: the file's, then those it lacks, then the `_cdc_` columns.
    pub schema: SchemaRef,
    columns: Vec<Visible>,
}

impl TableShape {
    /// The shape of files with the schema `file`; `known` names columns of the table that other files have.
    ///
    /// A column the file lacks is NULL, of the type that `schema_override` gives it, else of type NULL: so that
    /// what a file gives does not depend on which other files were seen before.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where an override asks for an impossible cast.
    pub fn new(file: &Schema, known: &[String], rules: &ReadRules) -> Result<Self> {
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (index, field) in file.fields().iter().enumerate() {
            let cast = override_of(&rules.overrides, field.name());
            let is_key = rules.key.iter().any(|key| same_name(key, field.name()));
            if cast.is_none() && !rules.auto_schema && !is_key {
                continue;
            }
            let cast = cast.filter(|to| to.to_arrow() != *field.data_type());
            fields.push(visible_field(field, cast)?);
            columns.push(Visible { source: Some(index), cast: cast.cloned() });
        }
        // As other files spell it, where they have it.
        let lacking = known.iter().filter(|_| rules.auto_schema).chain(rules.overrides.keys());
        for name in lacking {
            let there = fields.iter().any(|field: &Field| same_name(field.name(), name));
            if find_column(file, name).is_none() && !there {
                let data_type = override_of(&rules.overrides, name).map_or(DataType::Null, ColumnType::to_arrow);
                fields.push(Field::new(name, data_type, true));
                columns.push(Visible { source: None, cast: None });
            }
        }
        fields.extend(visible_fields());
        Ok(Self { schema: Arc::new(Schema::new(fields)), columns })
    }
}

fn override_of<'a>(overrides: &'a BTreeMap<String, ColumnType>, name: &str) -> Option<&'a ColumnType> {
    let spelled = overrides.get(name);
    spelled.or_else(|| overrides.iter().find(|(key, _)| same_name(key, name)).map(|(_, to)| to))
}

fn visible_field(field: &Field, cast: Option<&ColumnType>) -> Result<Field> {
    let Some(to) = cast else {
        return Ok(Field::new(field.name(), field.data_type().clone(), true));
    };
    if !casts::possible(field.data_type(), to) {
        return Err(Error::user(format!(
            "schema_override cannot make {to} of column `{}`, which is {}",
            field.name(),
            field.data_type()
        ))
        .hint("leave the override out and convert in the table's SQL"));
    }
    Ok(Field::new(field.name(), to.to_arrow(), true))
}

impl TableShape {
    /// The columns that files lack and that have no type, if there are any.
    pub fn untyped(&self) -> Option<String> {
        let own = self.columns.iter().zip(self.schema.fields());
        let names = own.filter(|(column, field)| column.source.is_none() && *field.data_type() == DataType::Null);
        let names: Vec<String> = names.map(|(_, field)| format!("`{}`", field.name())).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// Change files of one schema, as a table that can be scanned.
#[derive(Debug, Clone)]
pub struct ChangeTable {
    schema: SchemaRef,
    plan: Arc<ScanPlan>,
    /// Each with its number among the files of a query; 0 where rows are not numbered.
    files: Vec<(u32, Arc<OpenedFile>)>,
    /// The rows that are wanted, known by the time the scan begins. None: all are.
    chosen: Option<Arc<OnceLock<RowSet>>>,
}

/// What is the same for all files of the scan.
#[derive(Debug)]
struct ScanPlan {
    shape: TableShape,
    rules: ReadRules,
    file_schema: SchemaRef,
    /// Whether columns are carried past the SQL, so that all that a change says of itself is made, wanted or not.
    hidden: bool,
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
        let of_file = |(number, file): &(u32, Arc<OpenedFile>)| -> Vec<Part> {
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

/// What comes of each row's number and half.
fn each_row<'a, T>(
    rows: &'a Int64Array,
    deletes: Option<&'a [bool]>,
    of: impl Fn(u64, Half) -> T + 'a,
) -> impl Iterator<Item = T> + 'a {
    (0..rows.len()).map(move |index| of(cdc::row_number(rows, index), cdc::half_at(deletes, index)))
}

impl ScanPlan {
    /// How many columns it makes that the files do not have.
    fn made_columns(&self) -> usize {
        if self.hidden { CDC_COLUMNS - 1 } else { CDC_COLUMNS - 1 - hidden_fields().len() }
    }

    /// A filter may reach the reader if it speaks only of columns as the file has them, and no row of the
    /// file stands for two changes.
    fn may_push(&self, filter: &Expr) -> bool {
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
    fn predicate(&self, state: &dyn Session, filters: &[Expr]) -> DataFusionResult<Option<Arc<dyn PhysicalExpr>>> {
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
struct Part {
    number: u32,
    file: Arc<OpenedFile>,
    row_groups: Option<Range<usize>>,
}

/// What one partition reads, one after the other.
#[derive(Debug)]
struct ScanPartition {
    plan: Arc<ScanPlan>,
    schema: SchemaRef,
    wanted: Vec<usize>,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    chosen: Option<Arc<OnceLock<RowSet>>>,
    parts: Vec<Part>,
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
    fn stream(self, batch_rows: usize) -> futures::stream::BoxStream<'static, Result<RecordBatch>> {
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

    /// Which `_cdc_` columns are wanted.
    fn cdc_columns(&self) -> WantedColumns {
        if self.plan.hidden {
            return WantedColumns::ALL;
        }
        let (first, made) = (self.plan.shape.columns.len(), self.plan.made_columns());
        // The order comes after those that are always there.
        let place =
            |index: usize| if index == CDC_COLUMNS - 1 { Some(made) } else { Some(index).filter(|at| *at < made) };
        WantedColumns(std::array::from_fn(|index| place(index).is_some_and(|at| self.wanted.contains(&(first + at)))))
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
