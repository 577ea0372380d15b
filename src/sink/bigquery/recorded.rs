//! What a target's log says of its own past, for a ledger that was lost.

use super::jobs::{self, Step};
use super::trouble::Failure;
use super::{BigQuerySink, purge, sql, switch};
use crate::change::batch::Recording;
use crate::error::{Error, Result};
use crate::sink::part::Part;
use crate::sink::{Attempt, Recorded, Target};

/// Reads the log's batches and files; None where there is no log.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where a row is not as freshet writes it, or the log may not be read,
/// [`Retry`](crate::error::Kind::Retry) where BigQuery cannot tell now.
pub(super) async fn recorded(sink: &BigQuerySink, target: &Target) -> Result<Option<Recorded>> {
    let log = sink.table(target, Part::Changes);
    let message = format!("the files in {log} cannot be read");
    let failed = |failure: Failure| failure.into_error(&message);
    let Some(resource) = sink.rest.table(&log).await.map_err(failed)? else { return Ok(None) };
    let final_table = sink.rest.table(&sink.table(target, Part::Final)).await.map_err(failed)?;
    let has_final = final_table.is_some();
    let generation = match &final_table {
        Some(resource) => switch::noted_generation(resource).max(generation(sink, target).await?),
        None => 0,
    };
    let purged_us = if has_final { purge::purged_us(sink, target).await? } else { 0 };
    let expires = !resource["expirationTime"].is_null() || !resource["timePartitioning"]["expirationMs"].is_null();
    let statement = sql::recorded(&log);
    let prefix = format!("freshet_recorded_{}", sink.clock.fresh_id());
    let step = Step { prefix, sql: &statement, message: message.clone() };
    let (done, mut page) = jobs::read(sink, &step).await?;
    let mut recording = Recording::default();
    loop {
        for row in &page.rows {
            take(&mut recording, row).ok_or_else(|| {
                Error::user(format!("{log} has rows without `_cdc_batch`, `_cdc_loaded_at` or `_cdc_file_id`"))
                    .hint("another program changed the change log; restore it to an earlier time")
            })?;
        }
        if page.next.is_none() {
            return Ok(Some(Recorded { generation, has_final, purged_us, expires, ..recording.recorded() }));
        }
        let next = sink.rest.job_page(done.id(), page.next).await.map_err(failed)?;
        page = next.ok_or_else(|| Error::retry(format!("{message}: the answer is gone")).hint("try again"))?;
    }
}

/// The generation of the newest of the final table's rows; 0 where there is none.
async fn generation(sink: &BigQuerySink, target: &Target) -> Result<u64> {
    let Some(newest) = purge::newest(sink, target, purge::ABOVE_ALL).await? else { return Ok(0) };
    let table = sink.table(target, Part::Final);
    let generation = newest.split('/').next().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    generation.ok_or_else(|| {
        Error::user(format!("{table} has a row with the sequence `{newest}`, which is none"))
            .hint("another program wrote to the table; restore it to an earlier time")
    })
}

/// Takes in a row of the answer; None where it lacks what every row of a log has.
fn take(recording: &mut Recording, row: &[Option<String>]) -> Option<()> {
    let [Some(id), Some(at), Some(file), Some(rows)] = row else { return None };
    let loaded_at = chrono::DateTime::from_timestamp_micros(at.parse().ok()?)?;
    recording.add(Attempt { id: id.clone(), loaded_at }, file.parse().ok()?, rows.parse().ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::change::FileId;
    use crate::error::Kind;
    use crate::sink::bigquery::fake_rest::{Fake, job, refusal, target};

    /// Scripts a log and the job that reads it; gives where its rows are asked for.
    fn read(fake: &Fake, log: Value) -> String {
        let id = "freshet_recorded_00000000-0000-0000-0000-000000000000_1";
        fake.then("GET", "/tables/orders_changes", 200, log)
            .then("GET", "/tables/orders", 404, refusal(404, "notFound", "no"))
            .then("POST", "/jobs", 200, job("RUNNING", None, json!({})))
            .then("GET", &format!("/jobs/{id}"), 200, job("DONE", None, json!({})));
        format!("/queries/{id}")
    }

    fn page(rows: &[[&str; 4]], next: Option<&str>) -> Value {
        let cells = |row: &[&str; 4]| json!({"f": row.map(|cell| json!({"v": cell}))});
        json!({"jobComplete": true, "rows": rows.iter().map(cells).collect::<Vec<_>>(), "pageToken": next})
    }

    #[tokio::test]
    async fn every_page_of_the_answer_is_read() {
        let fake = Fake::start().await;
        let rows = read(&fake, json!({"timePartitioning": {"expirationMs": "1"}}));
        let file = |digit: &str| digit.repeat(32);
        let (first, second) = ([["b", "2000000", &file("1"), "3"]], [["b", "2000000", &file("a"), "4"]]);
        fake.then("GET", &rows, 200, page(&first, Some("next"))).then("GET", &rows, 200, page(&second, None));
        let recorded = recorded(&fake.sink(), &target()).await.unwrap().unwrap();
        assert!(fake.asked().last().unwrap().line.contains("pageToken=next"));
        let attempt = Attempt { id: "b".into(), loaded_at: chrono::DateTime::from_timestamp(2, 0).unwrap() };
        assert_eq!(recorded.batches, [(attempt, 7)]);
        assert_eq!(recorded.files, [FileId([0x11; 16]), FileId([0xaa; 16])]);
        assert!(recorded.expires && !recorded.has_final);
    }

    #[tokio::test]
    async fn a_row_that_freshet_did_not_write_is_told_of() {
        let fake = Fake::start().await;
        let rows = read(&fake, json!({}));
        let answer = page(&[["b", "2000000", "none", "3"]], None);
        fake.then("GET", &rows, 200, answer);
        let error = recorded(&fake.sink(), &target()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains("orders_changes has rows without") && error.hint_text().is_some(), "{error}");
    }
}
