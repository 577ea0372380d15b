//! The two passes as one operator: before the first row goes out, the rows are chosen from keys and order alone.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, SpillMetrics};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    ReplaceChildrenOptions, SpillManager,
};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::task::JoinSet;

use super::keys::{KeyColumns, KeyReader};
use super::spill::{self, Choosing};
use crate::catalog::row_set::RowSet;

/// The memory that the chosen rows take, for as long as they are read; what went wrong is told to every reader.
type Chosen = Shared<BoxFuture<'static, std::result::Result<Arc<MemoryReservation>, Arc<DataFusionError>>>>;

/// Reads the rows that are first of their key.
pub(super) struct LatestPerKeyExec {
    /// The first pass.
    keys: Arc<dyn ExecutionPlan>,
    /// The second, which reads `rows` alone.
    whole: Arc<dyn ExecutionPlan>,
    columns: KeyColumns,
    rows: Arc<OnceLock<RowSet>>,
    chosen: OnceLock<Chosen>,
    metrics: ExecutionPlanMetricsSet,
    properties: Arc<PlanProperties>,
}

impl LatestPerKeyExec {
    pub(super) fn new(
        keys: Arc<dyn ExecutionPlan>,
        whole: Arc<dyn ExecutionPlan>,
        columns: KeyColumns,
        rows: Arc<OnceLock<RowSet>>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(whole.schema()),
            Partitioning::UnknownPartitioning(whole.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let (chosen, metrics, properties) = (OnceLock::new(), ExecutionPlanMetricsSet::new(), Arc::new(properties));
        Self { keys, whole, columns, rows, chosen, metrics, properties }
    }

    fn key_columns(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        let schema = self.keys.schema();
        let fields = schema.fields().iter().take(self.columns.keys).enumerate();
        fields.map(|(index, field)| Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>).collect()
    }

    /// The first pass; it is run once, whichever partition asks first.
    fn chosen(&self, context: &Arc<TaskContext>) -> Chosen {
        let begin = || {
            let first = FirstPass {
                keys: Arc::clone(&self.keys),
                columns: self.columns.clone(),
                context: Arc::clone(context),
                metrics: self.metrics.clone(),
            };
            let rows = Arc::clone(&self.rows);
            let choose = async move { first.choose(&rows).await.map(Arc::new).map_err(Arc::new) };
            choose.boxed().shared()
        };
        self.chosen.get_or_init(begin).clone()
    }
}

/// All that the first pass needs.
#[derive(Clone)]
struct FirstPass {
    keys: Arc<dyn ExecutionPlan>,
    columns: KeyColumns,
    context: Arc<TaskContext>,
    metrics: ExecutionPlanMetricsSet,
}

impl FirstPass {
    async fn choose(self, chosen: &OnceLock<RowSet>) -> Result<MemoryReservation> {
        let reservation = MemoryConsumer::new("latest per key: rows").register(self.context.memory_pool());
        let rows = Arc::new(Mutex::new((RowSet::default(), reservation)));
        let mut running = JoinSet::new();
        for partition in 0..self.keys.output_partitioning().partition_count() {
            running.spawn(self.clone().choose_in(partition, Arc::clone(&rows)));
        }
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(cause) if cause.is_panic() => resume_unwind(cause.into_panic()),
                Err(cause) => return Err(DataFusionError::External(Box::new(cause))),
            }
        }
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, reservation) = (std::mem::take(&mut rows.0), rows.1.take());
        // The same plan run a second time chooses the same.
        let _ = chosen.set(set);
        Ok(reservation)
    }

    async fn choose_in(self, partition: usize, rows: Arc<Mutex<(RowSet, MemoryReservation)>>) -> Result<()> {
        let consumer = MemoryConsumer::new(format!("latest per key: keys of partition {partition}"));
        let reservation = consumer.with_can_spill(true).register(self.context.memory_pool());
        let spilled = SpillMetrics::new(&self.metrics, partition);
        let files = SpillManager::new(self.context.runtime_env(), spilled, spill::schema());
        let reader = KeyReader::new(&self.columns, &self.keys.schema())?;
        let mut choosing = Choosing::new(reader.winners(), reservation, Arc::new(files));
        let mut batches = self.keys.execute(partition, Arc::clone(&self.context))?;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            choosing.choose(|winners| reader.offer(&batch, winners))?;
        }
        let insert = |ids: &[u64]| {
            let (rows, reservation) = &mut *rows.lock().unwrap_or_else(PoisonError::into_inner);
            ids.iter().for_each(|id| rows.insert(*id));
            reservation.try_resize(rows.bytes())
        };
        let keys = choosing.finish(&insert).await?;
        MetricBuilder::new(&self.metrics).counter("keys", partition).add(keys);
        Ok(())
    }
}

impl fmt::Debug for LatestPerKeyExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatestPerKeyExec").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl DisplayAs for LatestPerKeyExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.keys.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let (keys, rest) = names.split_at(self.columns.keys);
        let order = rest.iter().zip(&self.columns.order).map(|(name, options)| format!("{name} {options}"));
        write!(f, "LatestPerKeyExec: keys=[{}], order=[{}]", keys.join(", "), order.collect::<Vec<_>>().join(", "))
    }
}

impl ExecutionPlan for LatestPerKeyExec {
    fn name(&self) -> &'static str {
        "LatestPerKeyExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.keys, &self.whole]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::KeyPartitioned(self.key_columns()), Distribution::UnspecifiedDistribution]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false, false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![true, false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(whole), Some(keys), true) = (children.pop(), children.pop(), children.is_empty()) else {
            return internal_err!("LatestPerKeyExec has two children");
        };
        Ok(Arc::new(Self::new(keys, whole, self.columns.clone(), Arc::clone(&self.rows))))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (chosen, whole) = (self.chosen(&context), Arc::clone(&self.whole));
        let read = async move {
            let held = chosen.await.map_err(DataFusionError::Shared)?;
            let rows = whole.execute(partition, context)?;
            Ok::<_, DataFusionError>(rows.inspect(move |_| _ = &held))
        };
        let rows = futures::stream::once(read).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
