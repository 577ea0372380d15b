//! What a transform may be, so that any order, repetition and cutting of its files give the same table.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, Volatility};

use crate::catalog::cdc;
use crate::change::types::same_name;
use crate::config::Mode;
use crate::transform::trace::{LatestPerKey, Traced, Violation, bare};

/// Columns that the sink adds; no output may have their names.
const SINK_COLUMNS: [&str; 4] = ["_cdc_batch", "_cdc_loaded_at", "_cdc_file_id", "_cdc_deleted"];

/// What the configuration leaves open or settles.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The key, as output columns.
    pub key: Option<Vec<String>>,
    /// The mode.
    pub mode: Option<Mode>,
}

/// What a transform turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The mode.
    pub mode: Mode,
    /// The key, as the outputs spell it; empty where none is known.
    pub key: Vec<String>,
    /// The key's source columns.
    pub key_sources: Vec<String>,
}

/// Checks a traced plan against the rules; `names` are its outputs', `source` what SQL sees.
///
/// # Errors
/// The first violation.
pub fn settle(traced: &Traced, names: &[String], wanted: &Wanted, source: &Schema) -> Result<Settled, Violation> {
    for expr in traced.outputs.iter().chain(&traced.filters) {
        check_expression(expr)?;
    }
    check_names(traced, names)?;
    let (key, key_sources) = key(traced, names, wanted, source)?;
    let mode = wanted.mode.unwrap_or(if key.is_empty() { Mode::Append } else { Mode::Merge });
    match mode {
        Mode::Append if traced.latest.is_some() => {
            return Err(Violation::new(
                "mode append keeps every change, but the SQL keeps only the latest of each key",
                &["qualify", "row_number"],
            ));
        }
        Mode::Merge => check_merge(traced, names, &key, &key_sources)?,
        Mode::Append => {}
    }
    Ok(Settled { mode, key, key_sources })
}

/// Only deterministic, row-wise expressions.
pub fn check_expression(expr: &Expr) -> Result<(), Violation> {
    let mut found = None;
    let walked = expr.apply(|expr| {
        found = violation_of(expr);
        Ok(if found.is_some() {
            datafusion::common::tree_node::TreeNodeRecursion::Stop
        } else {
            datafusion::common::tree_node::TreeNodeRecursion::Continue
        })
    });
    match (walked, found) {
        (Err(cause), _) => Err(Violation::new(cause.to_string(), &[])),
        (Ok(_), Some(violation)) => Err(violation),
        (Ok(_), None) => Ok(()),
    }
}

fn violation_of(expr: &Expr) -> Option<Violation> {
    match expr {
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            let name = call.func.name();
            let mut words = vec![name];
            words.extend(call.func.aliases().iter().map(String::as_str));
            words.extend(["current_timestamp", "current_date", "current_time"]);
            let message = format!("`{name}` gives another value each time it is asked: a transform must not use it");
            Some(Violation::new(message, &words))
        }
        Expr::WindowFunction(_) => Some(Violation::new(
            "a window function may only be used as row_number() OVER (…) = 1",
            &["over", "qualify"],
        )),
        Expr::AggregateFunction(call) => Some(Violation::new(
            format!("a transform may not use the aggregate `{}`", call.func.name()),
            &[call.func.name()],
        )),
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => {
            Some(Violation::new("a transform may not ask another query", &["exists", "in", "select"]))
        }
        Expr::Placeholder(_) | Expr::ScalarVariable(..) => {
            Some(Violation::new("a transform has no parameters or variables", &[]))
        }
        Expr::Unnest(_) => Some(Violation::new("a transform may not use unnest", &["unnest"])),
        _ => None,
    }
}

fn check_names(traced: &Traced, names: &[String]) -> Result<(), Violation> {
    let mut seen = BTreeSet::new();
    for (name, output) in names.iter().zip(&traced.outputs) {
        let folded = name.to_lowercase();
        if folded.starts_with("__freshet_") {
            return Err(Violation::new(format!("`{name}` is a name that freshet itself gives"), &[name]));
        }
        if SINK_COLUMNS.contains(&folded.as_str()) {
            return Err(Violation::new(format!("the column `{name}` is added by the sink"), &[name]));
        }
        if folded.starts_with("_cdc_") && source_column(output).is_none_or(|source| source != folded) {
            return Err(Violation::new(format!("`{name}` must be the column of that name, unmodified"), &[name]));
        }
        if !seen.insert(folded) {
            return Err(Violation::new(
                format!("two output columns are named `{name}` (case does not count)"),
                &[name],
            ));
        }
    }
    Ok(())
}

/// The key as outputs and as source columns.
fn key(
    traced: &Traced,
    names: &[String],
    wanted: &Wanted,
    source: &Schema,
) -> Result<(Vec<String>, Vec<String>), Violation> {
    let outputs: Vec<usize> = match (&wanted.key, &traced.latest) {
        (Some(key), _) => key.iter().map(|name| output_named(names, name)).collect::<Result<_, _>>()?,
        (None, Some(latest)) => {
            latest.partition_by.iter().map(|expr| output_of(traced, expr)).collect::<Result<_, _>>()?
        }
        (None, None) => Vec::new(),
    };
    let sources = outputs.iter().map(|output| key_source(&traced.outputs[*output], &names[*output], source));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    Ok((outputs.iter().map(|output| names[*output].clone()).collect(), sources))
}

fn output_named(names: &[String], wanted: &str) -> Result<usize, Violation> {
    let exact = names.iter().position(|name| name == wanted);
    exact.or_else(|| names.iter().position(|name| same_name(name, wanted))).ok_or_else(|| {
        Violation::new(format!("the key column `{wanted}` is not among the output columns"), &["select"])
    })
}

fn output_of(traced: &Traced, expr: &Expr) -> Result<usize, Violation> {
    traced.outputs.iter().position(|output| bare(output) == expr && source_column(expr).is_some()).ok_or_else(|| {
        Violation::new(format!("PARTITION BY {expr} must be a column that the SELECT keeps"), &["partition"])
    })
}

fn source_column(expr: &Expr) -> Option<&str> {
    match bare(expr) {
        Expr::Column(column) => Some(&column.name),
        _ => None,
    }
}

/// The source column behind a key column: bare, or through a cast that keeps different values different.
fn key_source(expr: &Expr, name: &str, source: &Schema) -> Result<String, Violation> {
    let from = |inner: &Expr| source.field_with_name(source_column(inner)?).ok().map(|field| field.data_type().clone());
    let through_cast = match bare(expr) {
        Expr::Cast(cast) if from(&cast.expr).is_some_and(|from| injective(&from, cast.field.data_type())) => {
            source_column(&cast.expr)
        }
        other => source_column(other),
    };
    through_cast.map(str::to_owned).ok_or_else(|| {
        let message =
            format!("the key column `{name}` must be a source column as it is, renamed at most, or an integer cast");
        Violation::new(message, &[name])
    })
}

/// Whether the cast keeps different values different, and equal values of every integer type equal. From text,
/// decimals, floats and times it would not: `01` and `1`, 1.2 and 1.7 become one.
fn injective(from: &DataType, to: &DataType) -> bool {
    let text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let integer = from.is_integer() || *from == DataType::Null;
    (integer && (matches!(to, DataType::Int64 | DataType::UInt64) || text(to))) || (text(from) && text(to))
}

fn check_merge(traced: &Traced, names: &[String], key: &[String], sources: &[String]) -> Result<(), Violation> {
    if key.is_empty() {
        return Err(Violation::new("mode merge needs a key", &["select"]));
    }
    for needed in [cdc::OPERATION, cdc::SEQUENCE] {
        if !names.iter().any(|name| name == needed) {
            return Err(Violation::new(format!("the SELECT must keep `{needed}`"), &["select"]));
        }
    }
    let is_key = |name: &str| sources.iter().any(|source| source == name);
    for filter in &traced.filters {
        if let Some(other) = filter.column_refs().iter().find(|column| !is_key(&column.name)) {
            let message = format!("a filter may use only key columns, but this one uses `{}`", other.name);
            return Err(Violation::new(message, &["where", "qualify"]));
        }
    }
    traced.latest.as_ref().map_or(Ok(()), |latest| check_latest(latest, sources))
}

fn check_latest(latest: &LatestPerKey, sources: &[String]) -> Result<(), Violation> {
    let by: BTreeSet<Option<&str>> = latest.partition_by.iter().map(source_column).collect();
    if by != sources.iter().map(|source| Some(source.as_str())).collect() {
        return Err(Violation::new(
            format!("PARTITION BY must be exactly the table's key, {}", sources.join(", ")),
            &["partition"],
        ));
    }
    match latest.order_by.as_slice() {
        [(expr, false)] if source_column(expr) == Some(cdc::SEQUENCE) => Ok(()),
        _ => Err(Violation::new(format!("the latest change is told by ORDER BY {} DESC", cdc::SEQUENCE), &["order"])),
    }
}

/// The output columns' names.
pub fn output_names(schema: &DFSchema) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}
