//! A sink in memory with the rules of BigQuery's streams and merges: rows are pending until one commit of all their
//! streams, pending rows lapse, and a merge is two guarded steps, tombstones first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use tokio::time::Instant;

use crate::change;
use crate::change::batch::{Attempt, CommitOutcome, MergeAttempt, MergeCounts, Prepared, Purge, Recorded};
use crate::error::{Error, Result};
use crate::pipeline::tests::fake::{Row, rows_of};
use crate::sink::{Rows, Sink, Target};
use crate::trial::life::Life;
use crate::trial::planted::Planted;

/// Pending rows that nobody commits are gone after this.
const LAPSES_AFTER: Duration = Duration::from_secs(45);

/// What happened at the sink that a simulation wants to see happen.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(super) struct Hazards {
    pub(super) answers_lost: u64,
    pub(super) lapsed: u64,
    pub(super) committed_again: u64,
    pub(super) late_for_tombstone: u64,
    pub(super) late_for_row: u64,
    pub(super) merges_at_once: u64,
    pub(super) switches: u64,
    pub(super) late_for_generation: u64,
    pub(super) purges: u64,
    pub(super) stones_purged: u64,
    pub(super) late_for_purge: u64,
}

/// The sink, for all daemons.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Rows that no reader sees, by attempt, and when they were finished.
    pending: BTreeMap<String, (Vec<Row>, Instant)>,
    /// The log: each row's attempt and the row, by table.
    log: BTreeMap<String, Vec<(String, Row)>>,
    committed: BTreeSet<String>,
    finals: BTreeMap<String, BTreeMap<String, Row>>,
    tombstones: BTreeMap<String, BTreeMap<String, String>>,
    merging: BTreeMap<String, u64>,
    /// The generation that a table was switched to.
    generations: BTreeMap<String, u64>,
    /// Up to which time the tombstones of a table and generation are purged.
    purged: BTreeMap<(String, u64), u64>,
    pub(super) hazards: Hazards,
}

impl Tables {
    /// The final rows of a table as `id name`.
    pub(super) fn finals(&self, table: &str) -> BTreeSet<String> {
        let rows = self.finals.get(table).into_iter().flat_map(BTreeMap::values);
        rows.map(|row| format!("{} {}", row["id"], row["name"])).collect()
    }

    /// Every row of a generation in a table's log, or in that of where it was built, as `file operation id`, in order.
    pub(super) fn log(&self, table: &str, generation: u64) -> Vec<String> {
        let (built, sequence) = (format!("{table}__reload_"), format!("{generation:016x}/"));
        let of_table = self.log.iter().filter(|(name, _)| *name == table || name.starts_with(&built));
        let rows = of_table.flat_map(|(_, rows)| rows).filter(|(_, row)| row["_cdc_sequence"].starts_with(&sequence));
        let mut rows: Vec<String> =
            rows.map(|(_, row)| format!("{} {} {}", row["file"], row["_cdc_operation"], row["id"])).collect();
        rows.sort_unstable();
        rows
    }

    fn commit(&mut self, table: &str, attempt: &str) -> CommitOutcome {
        if self.committed.contains(attempt) {
            self.hazards.committed_again += 1;
            let lost = Planted::CommittedIsLost.is_there();
            return if lost { CommitOutcome::Lost } else { CommitOutcome::Committed };
        }
        let lapsed = self.pending.get(attempt).is_some_and(|(_, at)| at.elapsed() > LAPSES_AFTER);
        if lapsed {
            self.pending.remove(attempt);
        }
        let Some((rows, _)) = self.pending.remove(attempt) else {
            self.hazards.lapsed += 1;
            let there = Planted::LapsedIsCommitted.is_there();
            return if there { CommitOutcome::Committed } else { CommitOutcome::Lost };
        };
        self.committed.insert(attempt.to_owned());
        let log = self.log.entry(table.to_owned()).or_default();
        log.extend(rows.into_iter().map(|row| (attempt.to_owned(), row)));
        CommitOutcome::Committed
    }

    /// Puts the first half of the rows into the log and leaves the rest, as a commit stream by stream would.
    fn commit_half(&mut self, table: &str, attempt: &str) {
        let Some((rows, _)) = self.pending.get_mut(attempt) else { return };
        let half = rows.drain(..rows.len() / 2).map(|row| (attempt.to_owned(), row)).collect::<Vec<_>>();
        self.log.entry(table.to_owned()).or_default().extend(half);
    }

    /// The newest change of each key among these batches.
    fn latest(&self, target: &Target, merge: &MergeAttempt) -> Result<BTreeMap<String, Row>> {
        let wanted: BTreeSet<&String> = merge.batches.iter().collect();
        let rows = self.log.get(&target.name.to_string()).into_iter().flatten();
        let rows: Vec<&Row> = rows.filter(|(attempt, _)| wanted.contains(attempt)).map(|(_, row)| row).collect();
        if (rows.len() as u64) < merge.rows {
            return Err(Error::retry(format!("the log shows {} of {} rows", rows.len(), merge.rows)));
        }
        let mut latest: BTreeMap<String, Row> = BTreeMap::new();
        for row in rows {
            let newer = |known: &Row| known["_cdc_sequence"] < row["_cdc_sequence"];
            if latest.get(&row["id"]).is_none_or(newer) {
                latest.insert(row["id"].clone(), row.clone());
            }
        }
        Ok(latest)
    }

    /// Puts the rows and tombstones of one table in the place of another's.
    fn switch(&mut self, from: &str, to: &str, generation: u64) {
        if self.generations.get(to).is_some_and(|known| *known >= generation) {
            return;
        }
        self.generations.insert(to.to_owned(), generation);
        let stones = self.tombstones.get(from).cloned().unwrap_or_default();
        self.tombstones.insert(to.to_owned(), stones);
        let rows = self.finals.get(from).cloned().unwrap_or_default();
        self.finals.insert(to.to_owned(), rows);
        self.hazards.switches += 1;
    }

    fn discard(&mut self, table: &str) {
        self.finals.remove(table);
        self.tombstones.remove(table);
    }

    /// Demands that the table was not switched to a later generation.
    fn demand_generation(&mut self, target: &Target) -> Result<()> {
        let now = self.generations.get(&target.name.to_string()).copied().unwrap_or(1);
        if now <= target.generation {
            return Ok(());
        }
        self.hazards.late_for_generation += 1;
        Err(Error::fenced("the table was switched"))
    }

    /// Demands that no tombstone is gone which this merge needs.
    fn demand_unpurged(&mut self, target: &Target, merge: &MergeAttempt) -> Result<()> {
        let purged = self.purged.get(&(target.name.to_string(), target.generation)).copied().unwrap_or(0);
        if purged <= merge.purged_us {
            return Ok(());
        }
        self.hazards.late_for_purge += 1;
        Err(Error::fenced("the tombstones were purged"))
    }

    fn purge(&mut self, target: &Target, purge: &Purge) {
        let name = target.name.to_string();
        let purged = self.purged.entry((name.clone(), target.generation)).or_default();
        *purged = purge.below_us.max(*purged);
        let floor = change::first_sequence(target.generation, purge.below_us);
        let stones = self.tombstones.entry(name).or_default();
        let before = stones.len();
        stones.retain(|_, sequence| *sequence >= floor);
        self.hazards.stones_purged += (before - stones.len()) as u64;
        self.hazards.purges += 1;
    }

    fn bury(&mut self, table: &str, latest: &BTreeMap<String, Row>) {
        let stones = self.tombstones.entry(table.to_owned()).or_default();
        for (key, row) in latest.iter().filter(|(_, row)| row["_cdc_operation"] == "D") {
            let sequence = &row["_cdc_sequence"];
            if stones.get(key).is_none_or(|known| known < sequence) {
                stones.insert(key.clone(), sequence.clone());
            }
        }
    }

    fn merge(&mut self, table: &str, latest: BTreeMap<String, Row>) -> MergeCounts {
        let stones = self.tombstones.entry(table.to_owned()).or_default();
        let finals = self.finals.entry(table.to_owned()).or_default();
        let mut counts = MergeCounts::default();
        for (key, row) in latest {
            let sequence = &row["_cdc_sequence"];
            let delete = row["_cdc_operation"] == "D";
            if !delete && stones.get(&key).is_some_and(|stone| stone >= sequence) {
                self.hazards.late_for_tombstone += 1;
                if !Planted::TombstoneIgnored.is_there() {
                    continue;
                }
            }
            let known = finals.get(&key);
            if known.is_some_and(|known| known["_cdc_sequence"] > *sequence) {
                self.hazards.late_for_row += 1;
                if !Planted::GuardRemoved.is_there() {
                    continue;
                }
            }
            match (delete, known.is_some()) {
                (true, _) => counts.deleted += u64::from(finals.remove(&key).is_some()),
                (false, there) => {
                    counts.updated += u64::from(there);
                    counts.inserted += u64::from(!there);
                    finals.insert(key, row);
                }
            }
        }
        counts
    }
}

/// A merge under way, as long as this is there.
struct Merging {
    tables: Arc<Mutex<Tables>>,
    table: String,
}

impl Merging {
    fn begin(tables: &Arc<Mutex<Tables>>, table: &str) -> Self {
        let mut locked = tables.lock().unwrap();
        let merging = locked.merging.entry(table.to_owned()).or_default();
        *merging += 1;
        let at_once = *merging > 1;
        locked.hazards.merges_at_once += u64::from(at_once);
        drop(locked);
        Self { tables: Arc::clone(tables), table: table.to_owned() }
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        let mut tables = self.tables.lock().unwrap();
        tables.merging.entry(self.table.clone()).and_modify(|merging| *merging -= 1);
    }
}

/// The sink, seen from one life.
pub(super) struct LivedSink {
    pub(super) tables: Arc<Mutex<Tables>>,
    pub(super) life: Arc<Life>,
}

impl LivedSink {
    /// The way to the sink: it may be long, or lead nowhere.
    async fn go(&self) -> Result<()> {
        self.life.travel().await;
        if self.life.fails(10) {
            tokio::time::sleep(Duration::from_secs(self.life.below(40))).await;
            self.life.step().await;
        }
        if self.life.fails(150) {
            return Err(Error::user("the sink must be mended"));
        }
        if self.life.fails(25) { Err(Error::retry("the sink is not to be reached")) } else { Ok(()) }
    }

    /// The way back: the answer may get lost.
    async fn back<T>(&self, answer: T) -> Result<T> {
        self.life.travel().await;
        if self.life.fails(12) {
            self.tables.lock().unwrap().hazards.answers_lost += 1;
            return Err(Error::retry("the answer was lost"));
        }
        Ok(answer)
    }
}

#[async_trait]
impl Sink for LivedSink {
    fn describe(&self) -> String {
        "simulated".into()
    }

    async fn prepare(&self, _: &Target, attempt: &Attempt, rows: Rows, _: &SessionContext) -> Result<Prepared> {
        self.go().await?;
        let batches: Vec<_> = rows.stream.try_collect().await.map_err(Error::of_rows)?;
        let found: Vec<Row> = batches.iter().flat_map(rows_of).collect();
        let count = found.len() as u64;
        self.tables.lock().unwrap().pending.insert(attempt.id.clone(), (found, Instant::now()));
        let staged = serde_json::json!({ "attempt": attempt.id });
        self.back(Prepared { rows: count, bytes: 0, columns: rows.columns, staged }).await
    }

    async fn commit(&self, target: &Target, _: u64, prepared: &Prepared) -> Result<CommitOutcome> {
        self.go().await?;
        let attempt = prepared.staged["attempt"].as_str().unwrap();
        let table = target.name.to_string();
        if Planted::CommitInParts.is_there() {
            self.tables.lock().unwrap().commit_half(&table, attempt);
            self.life.step().await;
        }
        let outcome = self.tables.lock().unwrap().commit(&table, attempt);
        self.back(outcome).await
    }

    async fn merge(&self, target: &Target, merge: &MergeAttempt, _: &SessionContext) -> Result<MergeCounts> {
        self.go().await?;
        let table = target.name.to_string();
        let _merging = Merging::begin(&self.tables, &table);
        let latest = self.tables.lock().unwrap().latest(target, merge)?;
        self.tables.lock().unwrap().demand_generation(target)?;
        self.tables.lock().unwrap().demand_unpurged(target, merge)?;
        self.tables.lock().unwrap().bury(&table, &latest);
        self.go().await?;
        self.tables.lock().unwrap().demand_generation(target)?;
        self.tables.lock().unwrap().demand_unpurged(target, merge)?;
        let counts = self.tables.lock().unwrap().merge(&table, latest);
        self.back(counts).await
    }

    fn merges_here(&self) -> bool {
        false
    }

    async fn newest(&self, target: &Target, below: &str, _: &SessionContext) -> Result<Option<String>> {
        self.go().await?;
        let newest = {
            let tables = self.tables.lock().unwrap();
            let rows = tables.finals.get(&target.name.to_string()).into_iter().flat_map(BTreeMap::values);
            rows.map(|row| row["_cdc_sequence"].clone()).filter(|sequence| sequence.as_str() < below).max()
        };
        self.back(newest).await
    }

    async fn purge(&self, target: &Target, purge: &Purge, _: &SessionContext) -> Result<()> {
        self.go().await?;
        self.tables.lock().unwrap().purge(target, purge);
        self.back(()).await
    }

    async fn fit(&self, _: &Target, _: &Target, _: &SessionContext) -> Result<()> {
        self.go().await?;
        self.back(()).await
    }

    async fn switch(&self, built: &Target, _: &str, target: &Target, _: &SessionContext) -> Result<()> {
        self.go().await?;
        let (from, to) = (built.name.to_string(), target.name.to_string());
        self.tables.lock().unwrap().switch(&from, &to, built.generation);
        self.back(()).await
    }

    async fn discard(&self, built: &Target) -> Result<()> {
        self.go().await?;
        self.tables.lock().unwrap().discard(&built.name.to_string());
        self.back(()).await
    }

    async fn recorded(&self, _: &Target, _: &SessionContext) -> Result<Option<Recorded>> {
        Ok(None)
    }

    async fn row_counts(&self, _: &Target) -> Result<Vec<(String, u64)>> {
        Ok(Vec::new())
    }
}
