//! A transform planned for files of one schema, checked against the rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::common::Column;
use datafusion::common::config::Dialect;
use datafusion::datasource::empty::EmptyTable;
use datafusion::logical_expr::{Case, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;

use crate::catalog::cdc;
use crate::catalog::opened::OpenedFile;
use crate::catalog::shape::{ReadRules, TableShape};
use crate::catalog::table::ChangeTable;
use crate::change::types::same_name;
use crate::change::{FileKind, TableName};
use crate::config::Order;
use crate::error::{Error, Result};
use crate::transform::query::{self, QueryText};
use crate::transform::rules::{self, Settled, Wanted};
use crate::transform::trace::{self, Violation};
use crate::transform::{bind, names, place, syntax};

/// What is known of a table's transform before any file is seen.
#[derive(Debug, Clone)]
pub struct Transform {
    /// The table.
    pub table: TableName,
    /// Its SQL; None: the standard transform.
    pub query: Option<QueryText>,
    /// What the configuration says of key and mode.
    pub wanted: Wanted,
    /// An expression over the outputs that turns a change into a delete.
    pub delete_when: Option<String>,
    /// How its files are read; the key here is the configured one.
    pub read: ReadRules,
}

/// A transform for files of one schema.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The SQL as it was planned.
    pub sql: String,
    /// Mode and key.
    pub settled: Settled,
    /// The outputs, before any coercion.
    pub outputs: Vec<String>,
    /// Source columns the transform reads rows by, beside what SQL sees.
    read: ReadRules,
    shape: TableShape,
    plan: LogicalPlan,
}

impl Transform {
    /// Plans for files of the schema `file`; `known` names columns that other files of the table have.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) with query, line and column.
    pub async fn plan(&self, session: &SessionContext, file: &Schema, known: &[String]) -> Result<Planned> {
        let planned = match TableShape::new(file, known, &self.read) {
            Ok(shape) => self.plan_shape(session, file, shape).await,
            Err(error) => Err(error),
        };
        planned.map_err(|error| error.in_table(&self.table).in_query(self.query_name()))
    }

    /// The SQL's name in messages.
    pub fn query_name(&self) -> String {
        match &self.query {
            Some(query) => query.path.display().to_string(),
            None => "the standard transform".into(),
        }
    }

    async fn plan_shape(&self, session: &SessionContext, file: &Schema, shape: TableShape) -> Result<Planned> {
        let sql = match &self.query {
            Some(query) => query.sql.clone(),
            None => query::standard(&self.table, file, &shape.schema, self.read.cdc.timestamp_column.as_deref()),
        };
        let columns: Vec<String> = shape.schema.fields().iter().map(|field| field.name().clone()).collect();
        let own = [self.table.database.clone(), self.table.table.clone()];
        let sql = names::respell(&sql, &columns.iter().cloned().chain(own).collect::<BTreeSet<_>>())?;
        syntax::check(&sql).map_err(|violation| refused(violation, &sql))?;
        self.register(session, &shape)?;
        let plan = one_query(session, &sql).await.map_err(|cause| {
            let error = place::planning_error(cause, &sql, &columns);
            match shape.untyped() {
                Some(names) if error.hint_text().is_none() => error.hint(format!(
                    "these columns are not in this file, so they are NULL of no type: {names}. schema_override gives them one"
                )),
                _ => error,
            }
        })?;
        let outputs = rules::output_names(plan.schema());
        let settled = trace::trace(&plan, &self.table)
            .and_then(|traced| rules::settle(&traced, &outputs, &self.wanted, &shape.schema))
            .map_err(|violation| refused(violation, &sql))?;
        let plan = match &self.delete_when {
            Some(condition) => delete_when(session, plan, condition)?,
            None => plan,
        };
        let read = ReadRules { key: settled.key_sources.clone(), ..self.read.clone() };
        Ok(Planned { sql, settled, outputs, read, shape, plan })
    }

    /// Demands that the columns by which changes are ordered exist, among those `known` of the table: a typo in
    /// the configuration is no fault of the files. A single file that lacks one is.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where no file of the table has them.
    pub fn demand_columns(&self, kinds: impl IntoIterator<Item = FileKind>, known: &[String]) -> Result<()> {
        if kinds.into_iter().all(|kind| kind == FileKind::Load) {
            return Ok(());
        }
        let rules = &self.read.cdc;
        let exact = (rules.order == Order::Exact).then_some((cdc::DMS_CHANGE_SEQ, "order: exact"));
        let timestamp = rules.timestamp_column.as_deref().map(|name| (name, "timestamp_column"));
        for (name, key) in timestamp.into_iter().chain(exact) {
            if !known.iter().any(|column| same_name(column, name)) {
                let near =
                    place::nearest(name, known).map_or_else(String::new, |near| format!("did you mean `{near}`? "));
                return Err(Error::user(format!("no file of the table has the column `{name}`, which {key} demands"))
                    .in_table(&self.table)
                    .hint(format!("{near}Mend or remove `{key}` in the configuration")));
            }
        }
        Ok(())
    }

    /// Makes the table known to the session, without rows.
    fn register(&self, session: &SessionContext, shape: &TableShape) -> Result<()> {
        let bug = |cause| Error::bug("the table cannot be registered").because(cause);
        let catalog = session.catalog("freshet").ok_or_else(|| Error::bug("the session has no catalog"))?;
        let schema = Arc::new(MemorySchemaProvider::new());
        schema
            .register_table(self.table.table.clone(), Arc::new(EmptyTable::new(Arc::clone(&shape.schema))))
            .map_err(bug)?;
        catalog.register_schema(&self.table.database, schema).map_err(bug)?;
        Ok(())
    }

    /// Differs where the SQL or what the configuration says of the table differs.
    pub fn fingerprint(&self) -> String {
        let sql = self.query.as_ref().map_or("standard", |query| &query.sql);
        // Not what the ledger says: of which generation changes are, and which are too late.
        let mut read = self.read.clone();
        (read.cdc.generation, read.cdc.purged_us) = (0, 0);
        let text = format!("{sql}\0{:?}\0{:?}\0{read:?}", self.wanted, self.delete_when);
        blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
    }
}

impl Planned {
    /// The plan over these files, all of the schema it was planned for; its last outputs are the hidden
    /// columns [`HIDDEN_FILE_ID`](cdc::HIDDEN_FILE_ID) and [`HIDDEN_ROW`](cdc::HIDDEN_ROW).
    ///
    /// # Errors
    /// [`Bug`](crate::error::Kind::Bug) where the files are of another schema.
    pub fn bind(&self, files: Vec<Arc<OpenedFile>>) -> Result<LogicalPlan> {
        let table = ChangeTable::new(files, self.shape.clone(), self.read.clone(), true)?;
        bind::bind(&self.plan, Arc::new(table))
    }

    /// The plan as it was planned, over no rows.
    pub fn logical_plan(&self) -> &LogicalPlan {
        &self.plan
    }
}

/// Plans one query, and only a query.
async fn one_query(session: &SessionContext, sql: &str) -> datafusion::error::Result<LogicalPlan> {
    let state = session.state();
    let statement = state.sql_to_statement(sql, &Dialect::Generic)?;
    let is_query =
        matches!(&statement, Statement::Statement(inner) if matches!(inner.as_ref(), ast::Statement::Query(_)));
    if !is_query {
        return datafusion::common::plan_err!("a transform must be a SELECT");
    }
    state.statement_to_plan(statement).await
}

fn refused(violation: Violation, sql: &str) -> Error {
    let words: Vec<&str> = violation.words.iter().map(String::as_str).collect();
    place::at_word(Error::user(violation.message), sql, &words)
        .hint("a transform gives each change by itself, so that the order and cutting of files never show; `freshet query` takes any SQL")
}

/// Turns changes for which the condition is true into deletes.
fn delete_when(session: &SessionContext, plan: LogicalPlan, condition: &str) -> Result<LogicalPlan> {
    let fail = |error: Error| error.in_query("delete_when");
    let outputs = rules::output_names(plan.schema());
    let condition = names::respell(condition, &outputs.iter().cloned().collect()).map_err(fail)?;
    let bare = unqualified(&plan)?;
    let expr = session
        .state()
        .create_logical_expr(&condition, bare.schema())
        .map_err(|cause| fail(place::planning_error(cause, &condition, &outputs)))?;
    rules::check_expression(&expr).map_err(|violation| fail(refused(violation, &condition)))?;
    let gives =
        expr.get_type(bare.schema()).map_err(|cause| fail(place::planning_error(cause, &condition, &outputs)))?;
    if !matches!(gives, DataType::Boolean | DataType::Null) {
        return Err(fail(Error::user(format!("`{condition}` gives {gives}, not true or false")))
            .hint("compare with something: delete_when: \"status = 'gone'\""));
    }
    if !outputs.iter().any(|name| name == cdc::OPERATION) {
        return Err(fail(Error::user(format!("delete_when needs `{}` among the output columns", cdc::OPERATION))));
    }
    let projected: Vec<Expr> = outputs
        .iter()
        .map(|name| match name.as_str() {
            cdc::OPERATION => when_true(expr.clone()),
            _ => column(name),
        })
        .collect();
    let built = LogicalPlanBuilder::from(bare).project(projected).and_then(LogicalPlanBuilder::build);
    built.map_err(|cause| fail(place::planning_error(cause, &condition, &outputs)))
}

fn column(name: &str) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

/// `CASE WHEN condition THEN 'D' ELSE _cdc_operation END`; a condition that is NULL deletes nothing.
fn when_true(condition: Expr) -> Expr {
    let arms = vec![(Box::new(condition), Box::new(lit("D")))];
    Expr::Case(Case::new(None, arms, Some(Box::new(column(cdc::OPERATION))))).alias(cdc::OPERATION)
}

/// The same rows under bare column names, so that a condition can name them.
fn unqualified(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let columns = plan.schema().columns().into_iter().map(|column| {
        let name = column.name.clone();
        Expr::Column(column).alias(name)
    });
    LogicalPlanBuilder::from(plan.clone())
        .project(columns.collect::<Vec<_>>())
        .and_then(LogicalPlanBuilder::build)
        .map_err(|cause| Error::bug("outputs cannot be renamed").because(cause))
}
