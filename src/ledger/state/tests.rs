//! The fold: what chains amount to, and which cannot be.

use super::*;
use crate::change::batch::{Attempt, Purge};
use crate::error::Kind;
use crate::ledger::samples::{announced, file, intent, opened};

fn fold(entries: &[Entry]) -> Result<State> {
    let mut state = State::default();
    for (number, entry) in (1..).zip(entries) {
        state.apply(number, entry)?;
    }
    Ok(state)
}

fn opens() -> Entry {
    Entry::Opened(opened())
}

fn claims(attempt: &str, files: &[&str]) -> Entry {
    Entry::Intent(Box::new(intent(attempt, files)))
}

fn sets_aside(location: &str) -> Entry {
    Entry::SetAside { file: file(location), reason: "zero date".into() }
}

fn merges(attempt: &str, batches: &[&str]) -> Entry {
    let attempt = Attempt { id: attempt.into(), loaded_at: chrono::DateTime::UNIX_EPOCH };
    let loaded = (attempt.loaded_at, attempt.loaded_at);
    let batches = batches.iter().map(|batch| (*batch).into()).collect();
    Entry::MergeIntent(MergeAttempt { attempt, batches, rows: 1, loaded, purged_us: 0 })
}

fn unmerged(state: &State) -> Vec<&str> {
    state.unmerged().map(|(attempt, _)| attempt.id.as_str()).collect()
}

fn state_of(state: &State, location: &str) -> Option<FileState> {
    state.file_state(file(location).id)
}

/// Demands that the last entry, and none before it, is found to damage the chain.
fn refuses(entries: &[Entry], what: &str) {
    let last = entries.len();
    let error = fold(entries).unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().starts_with(&format!("the ledger is damaged at entry {last}: ")), "{error}");
    assert!(error.message().contains(what), "{error}");
    assert!(error.hint_text().is_some());
}

#[test]
fn a_file_is_claimed_then_committed_and_a_lost_one_is_free_again() {
    let state = fold(&[opens(), claims("a", &["f"]), claims("b", &["g"])]).unwrap();
    assert_eq!(state_of(&state, "f"), Some(FileState::Claimed { intent: 2 }));
    assert_eq!(
        state.open_intents().map(|(number, i)| (number, i.attempt.id.as_str())).collect::<Vec<_>>(),
        [(2, "a"), (3, "b")]
    );

    let mut state = state;
    state.apply(4, &Entry::Lost { intent: 3 }).unwrap();
    state.apply(5, &Entry::Committed { intent: 2 }).unwrap();
    assert_eq!(state_of(&state, "f"), Some(FileState::Committed));
    assert_eq!(state_of(&state, "g"), None);
    assert_eq!(state_of(&state, "never seen"), None);
    assert_eq!(state.open_intents().count(), 0);
    assert_eq!((state.outcome(2), state.outcome(3)), (Some(CommitOutcome::Committed), Some(CommitOutcome::Lost)));
    assert_eq!((state.files_committed(), state.rows_committed(), state.head()), (1, 5, 5));

    state.apply(6, &claims("c", &["g"])).unwrap();
    assert_eq!(state_of(&state, "g"), Some(FileState::Claimed { intent: 6 }));
}

#[test]
fn of_several_outcomes_the_first_in_the_chain_counts() {
    let start = [opens(), claims("a", &["f"])];
    let (committed, lost) = (Entry::Committed { intent: 2 }, Entry::Lost { intent: 2 });
    let state = fold(&[&start[..], &[committed.clone(), lost.clone()]].concat()).unwrap();
    assert_eq!((state.outcome(2), state_of(&state, "f")), (Some(CommitOutcome::Committed), Some(FileState::Committed)));
    let state = fold(&[&start[..], &[lost, claims("b", &["f"]), committed]].concat()).unwrap();
    assert_eq!(state.outcome(2), Some(CommitOutcome::Lost));
    assert_eq!(state_of(&state, "f"), Some(FileState::Claimed { intent: 4 }));
    assert_eq!(state.files_committed(), 0);
}

#[test]
fn an_intent_without_rows_is_its_own_commit_and_nothing_to_merge() {
    let mut empty = intent("a", &["f"]);
    empty.prepared.rows = 0;
    let state = fold(&[opens(), Entry::Intent(Box::new(empty))]).unwrap();
    assert_eq!(state_of(&state, "f"), Some(FileState::Committed));
    assert_eq!(state.outcome(2), Some(CommitOutcome::Committed));
    assert_eq!((state.open_intents().count(), state.unmerged().count()), (0, 0));
}

#[test]
fn committed_batches_wait_for_a_merge_until_one_that_names_them_is_done() {
    let mut entries = vec![opens(), claims("a", &["f"]), claims("b", &["g"]), claims("c", &["h"])];
    entries.extend([Entry::Committed { intent: 3 }, Entry::Committed { intent: 2 }, Entry::Lost { intent: 4 }]);
    entries.push(merges("m", &["a"]));
    let mut state = fold(&entries).unwrap();
    assert_eq!(unmerged(&state), ["a", "b"]);
    assert_eq!(state.open_merge().map(|(number, merge)| (number, merge.batches.len())), Some((8, 1)));
    let counts = MergeCounts { inserted: 4, ..MergeCounts::default() };
    state.apply(9, &Entry::Merged { merge: 8, counts }).unwrap();
    state.apply(10, &Entry::Merged { merge: 8, counts: MergeCounts::default() }).unwrap();
    assert_eq!(unmerged(&state), ["b"]);
    assert_eq!((state.open_merge(), state.merge_counts(8)), (None, Some(counts)));
}

#[test]
fn in_mode_append_nothing_waits_for_a_merge() {
    let mut append = intent("a", &["f"]);
    append.rules.mode = crate::config::Mode::Append;
    let state = fold(&[opens(), Entry::Intent(Box::new(append)), Entry::Committed { intent: 2 }]).unwrap();
    assert_eq!(state.unmerged().count(), 0);
}

#[test]
fn final_states_are_counted_and_set_aside_files_listed_with_their_reason() {
    let mut state = fold(&[opens(), sets_aside("f"), sets_aside("f")]).unwrap();
    state.apply(4, &Entry::Superseded { file: file("g") }).unwrap();
    state.apply(5, &Entry::Gone { file: file("h") }).unwrap();
    assert_eq!(state_of(&state, "f"), Some(FileState::SetAside));
    assert_eq!(state_of(&state, "g"), Some(FileState::Superseded));
    assert_eq!(state_of(&state, "h"), Some(FileState::Gone));
    assert_eq!(state.set_aside(), [SetAside { file: file("f"), reason: "zero date".into() }]);
    assert_eq!(state.set_aside_recently(), 1);
}

#[test]
fn only_the_last_hundred_files_count_as_recent() {
    let mut state = fold(&[opens(), sets_aside("bad1"), sets_aside("bad2")]).unwrap();
    let names: Vec<String> = (0..98).map(|n| format!("good{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    state.apply(4, &claims("a", &names)).unwrap();
    assert_eq!(state.set_aside_recently(), 2);
    state.apply(5, &Entry::Committed { intent: 4 }).unwrap();
    assert_eq!(state.set_aside_recently(), 2);
    state.apply(6, &Entry::Gone { file: file("g") }).unwrap();
    assert_eq!(state.set_aside_recently(), 1);
    assert_eq!(state.set_aside().len(), 2);
}

#[test]
fn columns_are_united_in_the_order_of_first_sight_and_the_newest_commit_names_the_transform() {
    let mut second = intent("b", &["g"]);
    second.source_columns = vec!["amount".into(), "id".into(), "note".into()];
    let mut state = fold(&[opens(), claims("a", &["f"]), Entry::Intent(Box::new(second))]).unwrap();
    assert_eq!(state.source_columns(), ["id", "amount", "note"]);
    assert_eq!(state.last_transform(), None);
    state.apply(4, &Entry::Committed { intent: 3 }).unwrap();
    state.apply(5, &Entry::Committed { intent: 2 }).unwrap();
    assert_eq!(state.last_transform(), Some("fingerprint of b"));
}

#[test]
fn a_file_is_known_again_by_place_size_and_time_and_keeps_the_time_of_its_first_sight() {
    let mut state = fold(&[opens(), claims("a", &["f"]), Entry::Lost { intent: 2 }]).unwrap();
    assert_eq!(state.known_file("f", 10, 20), Some("v1"));
    let mut touched = intent("b", &["f"]);
    touched.files[0].modified_ms = 21;
    touched.files[0].time_ms = 99;
    state.apply(4, &Entry::Intent(Box::new(touched))).unwrap();
    assert_eq!(state.known_file("f", 10, 20), None);
    assert_eq!(state.known_file("f", 10, 21), Some("v1"));
    assert_eq!(state.known_file("f", 11, 21), None);
    assert_eq!(state.first_time_ms(file("f").id), Some(30));
}

#[test]
fn hostile_chains_are_refused_by_the_number_of_the_entry() {
    let start = [opens(), claims("a", &["f"])];
    let after = |entry: Entry| [&start[..], &[entry]].concat();
    refuses(&[claims("a", &["f"])], "does not begin");
    refuses(&[opens(), opens()], "second time");
    refuses(&after(Entry::Committed { intent: 9 }), "intent 9");
    refuses(&after(Entry::Lost { intent: 1 }), "intent 1");
    refuses(&after(claims("b", &["g", "f"])), "the file f");
    refuses(&after(claims("b", &["g", "g"])), "the file g");
    refuses(&after(claims("a", &["g"])), "attempt `a`");
    refuses(&after(claims("b", &[])), "no file");
    refuses(&after(sets_aside("f")), "Claimed");
    refuses(&after(merges("m", &["a"])), "batch `a`");
    refuses(&after(merges("m", &[])), "no batch");
    refuses(&after(Entry::Merged { merge: 2, counts: MergeCounts::default() }), "merge 2");
    let mut other = intent("b", &["g"]);
    other.generation = 2;
    refuses(&after(Entry::Intent(Box::new(other))), "generation 2");
    let committed = after(Entry::Committed { intent: 2 });
    refuses(&[&committed[..], &[claims("b", &["f"])]].concat(), "the file f");
    refuses(&[&committed[..], &[Entry::Gone { file: file("f") }]].concat(), "Committed");
    refuses(&[&committed[..], &[merges("m", &["a", "a"])]].concat(), "batch `a`");
    refuses(&[&committed[..], &[merges("a", &["a"])]].concat(), "attempt `a`");
    refuses(&[&committed[..], &[merges("m", &["a"]), merges("n", &["a"])]].concat(), "merge 4 is open");
}

#[test]
fn a_gap_is_refused_and_a_refused_entry_changes_nothing() {
    let mut state = fold(&[opens()]).unwrap();
    let before = state.clone();
    for number in [0, 1, 3, u64::MAX] {
        let error = state.apply(number, &claims("a", &["f"])).unwrap_err();
        assert!(error.message().contains(&format!("entry {number}: it follows entry 1")), "{error}");
    }
    state.apply(2, &Entry::Lost { intent: 1 }).unwrap_err();
    assert_eq!(state, before);
    state.apply(2, &claims("a", &["f"])).unwrap();
}

#[test]
fn a_held_file_waits_until_its_rows_are_committed_and_again_where_they_are_lost() {
    let held = |state: &State| state.held().map(|file| file.location.clone()).collect::<Vec<_>>();
    let mut late = announced("f");
    late.time_ms = 99;
    let mut entries = vec![opens(), Entry::Held { files: vec![announced("f"), announced("g")] }];
    let waiting = fold(&entries).unwrap();
    assert_eq!(waiting.held().count(), 2);
    assert_eq!(state_of(&waiting, "f"), None, "it may be claimed");
    entries.push(Entry::Held { files: vec![late] });
    assert!(fold(&entries).unwrap().held().all(|file| file.time_ms == 30), "the first sight of a file counts");
    entries.push(claims("a", &["f"]));
    assert_eq!(held(&fold(&entries).unwrap()), ["g"]);
    entries.push(Entry::Lost { intent: 4 });
    assert_eq!(fold(&entries).unwrap().held().count(), 2, "its rows are lost, and no source has it any more");
    entries.push(claims("b", &["f"]));
    entries.push(Entry::Committed { intent: 6 });
    entries.push(sets_aside("g"));
    let done = fold(&entries).unwrap();
    assert_eq!((done.held().count(), done.is_held(announced("f").id())), (0, false));
    entries.push(Entry::Held { files: vec![announced("f")] });
    assert_eq!(fold(&entries).unwrap().held().count(), 0, "what is done needs not wait");
    refuses(&[opens(), Entry::Held { files: Vec::new() }], "holds no file");
}

#[test]
fn a_file_held_while_an_intent_claims_it_waits_if_that_is_lost() {
    let held = Entry::Held { files: vec![announced("f")] };
    let mut lost = fold(&[opens(), claims("a", &["f"]), held]).unwrap();
    let mut committed = lost.clone();
    assert_eq!(lost.held().count(), 0, "it may not be claimed yet");
    lost.apply(4, &Entry::Lost { intent: 2 }).unwrap();
    assert_eq!(lost.held().count(), 1, "its source was told that it is done");
    committed.apply(4, &Entry::Committed { intent: 2 }).unwrap();
    assert_eq!((committed.held().count(), committed.is_held(announced("f").id())), (0, false));
}

#[test]
fn a_chain_that_breaks_a_purge_is_damaged() {
    let purges = |below_us| Entry::Purge(Purge { id: "p".into(), below_us });
    let begun = [opens(), claims("a", &["f"]), purges(500)];
    let with = |entries: &[Entry]| [&begun[..], entries].concat();
    refuses(&with(&[claims("b", &["g"])]), "held against");
    refuses(&with(&[purges(600)]), "purge 3 is open");
    refuses(&with(&[Entry::Purged { purge: 9 }]), "ends purge 9");
    refuses(&with(&[Entry::Purged { purge: 3 }, purges(500)]), "what is purged");
    let mut merge = vec![opens(), claims("a", &["f"]), Entry::Committed { intent: 2 }, merges("m", &["a"])];
    if let Some(Entry::MergeIntent(merge)) = merge.last_mut() {
        merge.purged_us = 1;
    }
    refuses(&merge, "a purge that does not exist");
}
