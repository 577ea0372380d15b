//! What an intent keeps of rows prepared for BigQuery: the attempt, and its streams with their rows.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sink::{Attempt, Prepared};

/// What [`Prepared::staged`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staged {
    /// Whose rows they are.
    pub(super) attempt: Attempt,
    /// The finalized streams that hold them.
    pub(super) streams: Vec<StagedStream>,
}

/// A finalized stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StagedStream {
    /// `projects/…/datasets/…/tables/…/streams/…`
    pub(super) name: String,
    /// How many rows it has.
    pub(super) rows: u64,
}

impl Staged {
    /// Reads what was prepared for the table with this path.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it was prepared for another table or by another program.
    pub(super) fn of(prepared: &Prepared, table: &str) -> Result<Self> {
        let staged: Self = serde_json::from_value(prepared.staged.clone()).map_err(|cause| {
            Error::user("the ledger's intent does not name streams of BigQuery")
                .because(cause)
                .hint("use the `ledger` that this table was begun with, or a version of freshet that is not older")
        })?;
        let inside = format!("{table}/streams/");
        if let Some(foreign) = staged.streams.iter().find(|stream| !stream.name.starts_with(&inside)) {
            let message = format!("the ledger's intent names a stream of another table than {table}: {}", foreign.name);
            return Err(Error::user(message).hint("were `project`, `dataset` or `target` changed? Set them back"));
        }
        let rows = staged.streams.iter().map(|stream| stream.rows).try_fold(0_u64, u64::checked_add);
        if rows != Some(prepared.rows) {
            return Err(Error::user(format!(
                "the ledger's intent has {} rows, but its streams {rows:?}",
                prepared.rows
            ))
            .hint("the ledger was changed by another program: restore the entry"));
        }
        Ok(staged)
    }

    /// As the intent keeps it.
    pub(super) fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|cause| Error::bug("names of streams are not JSON").because(cause))
    }

    /// The streams' names.
    pub(super) fn names(&self) -> Vec<String> {
        self.streams.iter().map(|stream| stream.name.clone()).collect()
    }

    /// How many rows all streams have.
    pub(super) fn rows(&self) -> u64 {
        self.streams.iter().map(|stream| stream.rows).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use chrono::DateTime;
    use serde_json::json;

    const TABLE: &str = "projects/p/datasets/d/tables/t_changes";

    fn staged() -> Staged {
        let stream = |name: &str, rows| StagedStream { name: format!("{TABLE}/streams/{name}"), rows };
        let attempt = Attempt { id: "a1".into(), loaded_at: DateTime::UNIX_EPOCH };
        Staged { attempt, streams: vec![stream("s1", 3), stream("s2", 4)] }
    }

    fn prepared(rows: u64, staged: serde_json::Value) -> Prepared {
        Prepared { rows, bytes: 0, columns: vec![], staged }
    }

    #[test]
    fn it_comes_back_from_the_ledger_as_it_went_in() {
        let json = staged().to_json().unwrap();
        let text = serde_json::to_string(&json).unwrap();
        let back = prepared(7, serde_json::from_str(&text).unwrap());
        assert_eq!(Staged::of(&back, TABLE).unwrap(), staged());
    }

    #[test]
    fn its_form_is_kept_because_ledgers_outlive_programs() {
        let expected = json!({
            "attempt": {"id": "a1", "loaded_at": "1970-01-01T00:00:00Z"},
            "streams": [
                {"name": format!("{TABLE}/streams/s1"), "rows": 3},
                {"name": format!("{TABLE}/streams/s2"), "rows": 4},
            ],
        });
        assert_eq!(staged().to_json().unwrap(), expected);
    }

    #[test]
    fn streams_of_another_table_other_counts_and_other_contents_stop_the_table() {
        let other = "projects/p/datasets/d/tables/t";
        let json = staged().to_json().unwrap();
        for (rows, json, table) in [(7, json.clone(), other), (8, json, TABLE), (0, json!({"files": []}), TABLE)] {
            assert_eq!(Staged::of(&prepared(rows, json), table).unwrap_err().kind(), Kind::User);
        }
    }
}
