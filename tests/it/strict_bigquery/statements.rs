//! The statements that a query job may hold, and what running them does. Each takes effect whole or not at all.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/standard-sql/dml-syntax>.

use std::collections::BTreeSet;

use arrow::array::{AsArray, RecordBatch};
use serde_json::json;

use super::PROJECT;
use super::alter::Alter;
use super::engine::Refused;
use super::lexer::{self, Lexed, Token};
use super::merge::Merge;
use super::results;
use super::schema::Field;
use super::translate::{Translation, path};
use super::trouble::{Result, Trouble};
use super::world::World;

/// How many rows a DML statement changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
}

/// What a statement gave.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Rows(Vec<RecordBatch>),
    Changed(Changed),
    /// A table or view was made or changed.
    Defined,
}

/// A statement that was understood.
#[derive(Debug)]
pub(super) struct Statement {
    /// The tables that it names, as dataset and table.
    pub(super) named: BTreeSet<(String, String)>,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A query, in DuckDB's words.
    Select(String),
    Merge(Merge),
    Alter(Alter),
    /// Its table, and the statement in DuckDB's words.
    Delete((String, String), String),
    Transaction(Transaction),
    View {
        dataset: String,
        name: String,
        description: Option<String>,
        query: String,
    },
}

/// Statements in DuckDB's words that take effect together, and the tables that they change.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    statements: Vec<String>,
    pub(super) changes: Vec<(String, String)>,
}

impl What {
    /// The job's `statementType`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Select(_) => "SELECT",
            Self::Merge(_) => "MERGE",
            Self::Alter(_) => "ALTER_TABLE",
            Self::Delete(..) => "DELETE",
            Self::Transaction(_) => "SCRIPT",
            Self::View { .. } => "CREATE_VIEW",
        }
    }
}

impl World {
    /// Reads a statement; it runs later, on the tables as they are then.
    pub(super) fn understand(&self, sql: &str) -> Result<Statement> {
        let tokens = lexer::tokens(sql)?;
        let mut translation = Translation::new(self, &tokens);
        let is = |at: usize, what: &str| tokens.get(at).is_some_and(|lexed: &Lexed| lexed.token.is(what));
        let what = if is(0, "SELECT") || is(0, "WITH") {
            What::Select(translation.text(&tokens)?)
        } else if is(0, "MERGE") {
            What::Merge(Merge::parse(&tokens, &mut translation)?)
        } else if is(0, "DELETE") && is(1, "FROM") {
            understand_delete(sql, &tokens, &mut translation)?
        } else if is(0, "BEGIN") && is(1, "TRANSACTION") && is(2, ";") {
            What::Transaction(understand_transaction(sql, &tokens[3..], &mut translation)?)
        } else if is(0, "CREATE") && is(1, "OR") && is(2, "REPLACE") && is(3, "VIEW") {
            self.understand_view(sql, &tokens)?
        } else if is(0, "ALTER") && is(1, "TABLE") {
            let alter = Alter::parse(&tokens, self.clock.now())?;
            translation.named.insert(alter.target.clone());
            What::Alter(alter)
        } else {
            return Err(Trouble::invalid_query(format!("the strict server does not know this statement: {sql}")));
        };
        Ok(Statement { named: translation.named, what })
    }

    /// `CREATE OR REPLACE VIEW name [OPTIONS (description = '…')] AS query`
    fn understand_view(&self, sql: &str, tokens: &[Lexed]) -> Result<What> {
        let wrong = || Trouble::invalid_query(format!("the strict server cannot read this CREATE VIEW: {sql}"));
        let (path, length) = path(&tokens[4..]).ok_or_else(wrong)?;
        let [project, dataset, name] = path.as_slice() else { return Err(wrong()) };
        if project != PROJECT {
            return Err(Trouble::not_found(format!("Project {project}")));
        }
        let mut at = 4 + length;
        let mut description = None;
        let token = |at: usize| tokens.get(at).map(|lexed| &lexed.token);
        let is = |at: usize, what: &str| token(at).is_some_and(|token| token.is(what));
        if is(at, "OPTIONS") {
            let is_shaped = is(at + 1, "(") && is(at + 2, "description") && is(at + 3, "=") && is(at + 5, ")");
            let Some(Token::Text(text)) = token(at + 4).filter(|_| is_shaped) else { return Err(wrong()) };
            description = Some(text.clone());
            at += 6;
        }
        if !is(at, "AS") {
            return Err(wrong());
        }
        let query = tokens.get(at + 1).map(|lexed| sql[lexed.at..].to_owned()).ok_or_else(wrong)?;
        Ok(What::View { dataset: dataset.clone(), name: name.clone(), description, query })
    }

    /// Runs a statement.
    pub(super) fn run(&mut self, statement: &Statement) -> Result<Outcome> {
        match &statement.what {
            What::Select(sql) => Ok(Outcome::Rows(self.engine.query(sql).map_err(query_error)?)),
            What::Merge(merge) => Ok(Outcome::Changed(self.run_merge(merge)?)),
            What::Alter(alter) => {
                self.alter_table(alter)?;
                Ok(Outcome::Defined)
            }
            What::Delete(target, sql) => {
                self.demand_dml(target)?;
                Ok(Outcome::Changed(count_actions(&self.engine.query(sql).map_err(query_error)?)))
            }
            What::Transaction(transaction) => {
                transaction.changes.iter().try_for_each(|target| self.demand_dml(target))?;
                self.engine.run(&transaction.statements).map_err(query_error)?;
                Ok(Outcome::Defined)
            }
            What::View { dataset, name, description, query } => {
                self.make_view(dataset, name, description.as_deref(), query)?;
                Ok(Outcome::Defined)
            }
        }
    }

    fn make_view(&mut self, dataset: &str, name: &str, description: Option<&str>, query: &str) -> Result<()> {
        self.dataset(dataset)?;
        if self.table(dataset, name).is_ok_and(|table| table.view.is_none()) {
            let what = format!("{dataset}.{name} is not allowed for this operation because it is currently a TABLE.");
            return Err(Trouble::invalid(what));
        }
        let mut body = json!({"view": {"query": query, "useLegacySql": false}});
        if let Some(description) = description {
            body["description"] = json!(description);
        }
        let view = self.new_view(body)?;
        self.tables.insert((dataset.to_owned(), name.to_owned()), view);
        Ok(())
    }

    /// The columns that a query gives.
    pub(super) fn columns_of(&mut self, query: &str) -> Result<Vec<Field>> {
        let statement = self.understand(query)?;
        let What::Select(sql) = &statement.what else {
            return Err(Trouble::invalid_query("a view's query is a SELECT"));
        };
        let none = self.engine.query(&format!("SELECT * FROM ({sql}) AS v LIMIT 0")).map_err(query_error)?;
        let now = self.clock.now();
        Ok(none.first().map(|batch| results::fields(&batch.schema(), now)).unwrap_or_default())
    }

    /// Demands that DML may change a table.
    fn demand_dml(&self, (dataset, name): &(String, String)) -> Result<()> {
        if self.table(dataset, name)?.is_fed_by_cdc {
            let what = format!("DML is not supported over table {dataset}.{name} with CDC data");
            return Err(Trouble::invalid_query(what));
        }
        Ok(())
    }

    fn run_merge(&mut self, merge: &Merge) -> Result<Changed> {
        self.demand_dml(&merge.target)?;
        let fields = self.table(&merge.target.0, &merge.target.1)?.fields.clone();
        if let Some((sql, columns)) = merge.values_query() {
            let values = self.engine.query(&sql).map_err(query_error)?;
            let types = values.first().map(|batch| results::fields(&batch.schema(), self.clock.now()));
            super::merge::check_types(&fields, &columns, &types.unwrap_or_default())?;
        }
        if let Some(sql) = merge.double_match_query() {
            let twice = self.engine.query(&sql).map_err(query_error)?;
            if twice.iter().any(|batch| batch.num_rows() > 0) {
                let what = "UPDATE/MERGE must match at most one source row for each target row";
                return Err(Trouble::invalid_query(what));
            }
        }
        let actions = self.engine.query(&merge.to_duckdb()).map_err(query_error)?;
        Ok(count_actions(&actions))
    }
}

/// `DELETE FROM t WHERE …`
fn understand_delete(sql: &str, tokens: &[Lexed], translation: &mut Translation<'_>) -> Result<What> {
    let wrong = || Trouble::invalid_query(format!("the strict server cannot read this DELETE: {sql}"));
    let (path, length) = path(&tokens[2..]).ok_or_else(wrong)?;
    if !tokens.get(2 + length).is_some_and(|lexed| lexed.token.is("WHERE")) {
        return Err(Trouble::invalid_query("Syntax error: DELETE must have a WHERE clause"));
    }
    let [_, dataset, table] = path.as_slice() else { return Err(wrong()) };
    // A row for each that is gone.
    let deletes = format!("DELETE FROM {} RETURNING 'DELETE'", translation.text(&tokens[2..])?);
    Ok(What::Delete((dataset.clone(), table.clone()), deletes))
}

/// `DELETE FROM t WHERE TRUE; INSERT INTO t (…) SELECT …; COMMIT TRANSACTION`, of any number of the two.
fn understand_transaction(sql: &str, tokens: &[Lexed], translation: &mut Translation<'_>) -> Result<Transaction> {
    let wrong = || Trouble::invalid_query(format!("the strict server cannot read this transaction: {sql}"));
    let mut transaction = Transaction::default();
    let mut statements: Vec<&[Lexed]> = tokens.split(|lexed| lexed.token.is(";")).collect();
    let last = statements.pop().ok_or_else(wrong)?;
    if last.len() != 2 || !last[0].token.is("COMMIT") || !last[1].token.is("TRANSACTION") {
        return Err(wrong());
    }
    for statement in statements {
        let is = |at: usize, what: &str| statement.get(at).is_some_and(|lexed| lexed.token.is(what));
        let verb = match (is(0, "DELETE") && is(1, "FROM"), is(0, "INSERT") && is(1, "INTO")) {
            (true, _) => "DELETE FROM",
            (_, true) => "INSERT INTO",
            _ => return Err(wrong()),
        };
        let (path, length) = path(&statement[2..]).ok_or_else(wrong)?;
        if verb == "DELETE FROM" && !(is(2 + length, "WHERE") && is(3 + length, "TRUE")) {
            return Err(Trouble::invalid_query("Syntax error: DELETE must have a WHERE clause"));
        }
        let [_, dataset, table] = path.as_slice() else { return Err(wrong()) };
        transaction.changes.push((dataset.clone(), table.clone()));
        transaction.statements.push(format!("{verb} {}", translation.text(&statement[2..])?));
    }
    Ok(transaction)
}

fn count_actions(actions: &[RecordBatch]) -> Changed {
    let mut changed = Changed::default();
    for action in actions.iter().flat_map(|batch| batch.column(0).as_string::<i32>()) {
        match action {
            Some("INSERT") => changed.inserted += 1,
            Some("UPDATE") => changed.updated += 1,
            Some("DELETE") => changed.deleted += 1,
            other => panic!("DuckDB's merge did {other:?}"),
        }
    }
    changed
}

/// What DuckDB says against a statement, in BigQuery's words where those matter.
fn query_error(refused: Refused) -> Trouble {
    match refused.message.split_once("NOT NULL constraint failed: ") {
        Some((_, column)) => {
            let column = column.rsplit('.').next().unwrap_or_default();
            Trouble::invalid_query(format!("Required field {column} cannot be null"))
        }
        None => Trouble::invalid_query(refused.message),
    }
}
