//! The seeds that CI lives through, and the mistakes that they must find.

use std::io::Write;
use std::ops::Range;

use super::warehouse::Kind;
use super::{Story, simulate};
use crate::trial::planted::Planted;

/// How many seeds CI lives through; with Delta Lake's tables, so many.
const SEEDS: u64 = 300;
const DELTA_SEEDS: u64 = 5;
/// Within so many seeds each planted mistake must be found.
const FOUND_WITHIN: u64 = 50;

/// The seeds to live through: `FRESHET_SEED` asks for one alone, this variable for another number than CI's, or for a
/// range as `300..600`.
fn seeds(variable: &str, of_ci: u64) -> Range<u64> {
    let number = |asked: &str| asked.parse::<u64>().unwrap();
    if let Ok(seed) = std::env::var("FRESHET_SEED") {
        return number(&seed)..number(&seed) + 1;
    }
    match std::env::var(variable).as_deref().map(|asked| asked.split_once("..").ok_or(asked)) {
        Ok(Ok((first, end))) => number(first)..number(end),
        Ok(Err(count)) => 0..number(count),
        Err(_) => 0..of_ci,
    }
}

/// Tells a figure where CI's log shows it: what a test prints as usual is kept back where it passes.
fn tell_figure(figure: &str) {
    std::io::stdout().write_all(format!("{figure}\n").as_bytes()).unwrap();
}

/// Lives through the seeds, one after the other; what they were like together.
fn sum_of(seeds: Range<u64>, kind: Kind) -> Story {
    let mut sum = Story::default();
    for seed in seeds.clone() {
        let story = simulate(seed, kind).unwrap_or_else(|wrong| panic!("{wrong}"));
        sum.add(&story);
    }
    tell_figure(&format!("{kind:?}, seeds {seeds:?}, differences 0: {sum:?}"));
    sum
}

#[test]
fn whatever_befalls_the_daemons_the_tables_are_the_sources() {
    let seeds = seeds("FRESHET_SEEDS", SEEDS);
    let sum = sum_of(seeds.clone(), Kind::InMemory);
    let hazards = sum.hazards;
    for (what, count) in [
        ("deaths", sum.fortunes.deaths),
        ("deaths at a poll", sum.fortunes.deaths_at_polls),
        ("daemons that stood still", sum.fortunes.stood_still),
        ("clocks that jumped", sum.fortunes.wrong_clocks),
        ("lost answers of the sink", hazards.answers_lost),
        ("pending rows that lapsed", hazards.lapsed),
        ("commits repeated", hazards.committed_again),
        ("changes late for a tombstone", hazards.late_for_tombstone),
        ("changes late for a row", hazards.late_for_row),
        ("merges at once", hazards.merges_at_once),
        ("compactions", sum.compactions),
        ("entries written below a compaction", sum.written_below),
        ("entries looked for below a compaction", sum.read_below),
        ("files that vanished", sum.vanished),
        ("files that were overwritten", sum.overwritten),
        ("changes of a key", sum.key_updates),
        ("reloads", sum.reloads),
        ("switches", hazards.switches),
        ("purges", hazards.purges),
        ("tombstones purged", hazards.stones_purged),
        ("files too late for a purge", sum.too_late),
    ] {
        assert!(count >= 30 || seeds.end - seeds.start < SEEDS, "only {count} {what} in the seeds {seeds:?}");
    }
}

/// With Delta Lake's own transactions on a disk, whose every write is a step.
#[test]
fn whatever_befalls_the_daemons_the_delta_tables_are_the_sources() {
    let sum = sum_of(seeds("FRESHET_DELTA_SEEDS", DELTA_SEEDS), Kind::Delta);
    assert!(sum.fortunes.deaths > 0 && sum.hazards.answers_lost > 0, "{sum:?}");
}

#[test]
fn a_seed_replays_alike() {
    for seed in 0..5 {
        let told = || format!("{:?}", simulate(seed, Kind::InMemory).unwrap());
        assert_eq!(told(), told(), "seed {seed}");
    }
}

/// Plants a mistake and demands that it is found.
fn finds(planted: Planted, kind: Kind) {
    Planted::plant(Some(planted));
    // A mistake may also show by a check of the code's own.
    let found = (0..FOUND_WITHIN).find(|seed| !matches!(std::panic::catch_unwind(|| simulate(*seed, kind)), Ok(Ok(_))));
    Planted::plant(None);
    tell_figure(&format!("{planted:?} is found by seed {found:?}"));
    assert!(found.is_some(), "{planted:?} is not found in {FOUND_WITHIN} seeds");
}

#[test]
fn an_unchecked_claim_is_found_in_delta_tables() {
    finds(Planted::ClaimUnchecked, Kind::Delta);
}

/// A test for each mistake, so that they run side by side.
macro_rules! each_is_found {
    ($($name:ident $planted:ident)*) => {
        $(#[test]
        fn $name() {
            finds(Planted::$planted, Kind::InMemory);
        })*
    };
}

each_is_found! {
    a_hash_without_the_version_is_found HashWithoutVersion
    an_acknowledgment_before_the_commit_is_found AcknowledgeBeforeCommit
    a_commit_before_the_intent_is_found IntentSkipped
    an_open_intent_run_again_is_found OpenIntentRerun
    an_unchecked_claim_is_found ClaimUnchecked
    an_unchecked_nonce_is_found NonceUnchecked
    a_merge_that_counts_for_all_is_found MergeCountsForAll
    held_files_that_are_forgotten_are_found HeldForgotten
    an_unseen_compaction_is_found CompactionUnseen
    a_compaction_without_open_intents_is_found CompactionForgetsIntents
    a_compaction_without_finished_files_is_found CompactionForgetsFiles
    an_unchecked_purge_is_found PurgeUnchecked
    a_purge_that_is_too_early_is_found PurgeTooEarly
    a_key_update_that_is_not_split_is_found KeyUpdateWhole
    a_cut_over_that_is_ignored_is_found CutOverIgnored
    what_is_begun_in_a_closed_generation_is_found ClosedIgnored
    a_removed_guard_is_found GuardRemoved
    an_ignored_tombstone_is_found TombstoneIgnored
    a_commit_in_parts_is_found CommitInParts
    lapsed_rows_called_committed_are_found LapsedIsCommitted
    committed_rows_called_lost_are_found CommittedIsLost
}

impl Story {
    fn add(&mut self, other: &Self) {
        let (fortunes, hazards) = (&mut self.fortunes, &mut self.hazards);
        fortunes.lives += other.fortunes.lives;
        fortunes.deaths += other.fortunes.deaths;
        fortunes.deaths_at_polls += other.fortunes.deaths_at_polls;
        fortunes.stood_still += other.fortunes.stood_still;
        fortunes.wrong_clocks += other.fortunes.wrong_clocks;
        hazards.answers_lost += other.hazards.answers_lost;
        hazards.lapsed += other.hazards.lapsed;
        hazards.committed_again += other.hazards.committed_again;
        hazards.late_for_tombstone += other.hazards.late_for_tombstone;
        hazards.late_for_row += other.hazards.late_for_row;
        hazards.merges_at_once += other.hazards.merges_at_once;
        hazards.switches += other.hazards.switches;
        hazards.purges += other.hazards.purges;
        hazards.stones_purged += other.hazards.stones_purged;
        hazards.late_for_purge += other.hazards.late_for_purge;
        hazards.late_for_generation += other.hazards.late_for_generation;
        self.compactions += other.compactions;
        self.written_below += other.written_below;
        self.read_below += other.read_below;
        self.vanished += other.vanished;
        self.overwritten += other.overwritten;
        self.key_updates += other.key_updates;
        self.reloads += other.reloads;
        self.too_late += other.too_late;
    }
}
