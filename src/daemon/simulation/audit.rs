//! Compares what a simulation left with what the source did.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::{Arrival, History, Later, key_updates, log_rows};
use super::{Story, World};
use crate::change::{FileId, TableName};
use crate::ledger::{FileState, State};

/// What a table has yet to do, for messages.
pub(super) fn open(table: &TableName, state: &State) -> String {
    let (held, unmerged) = (state.held().count(), state.unmerged().count());
    format!("{table}: {held} files held, {unmerged} batches not merged, {} intents open", state.open_intents().count())
}

/// What is wrong, if anything is.
pub(super) async fn audit(world: &World, history: &History) -> Result<Story, String> {
    let mut story = Story { fortunes: *world.fortunes.lock().unwrap(), ..Story::default() };
    if let Some(wrong) = world.wrongs.lock().unwrap().first() {
        return Err(wrong.clone());
    }
    let mut trace = DefaultHasher::new();
    for (table, certain) in &history.finals {
        let files: Vec<&Arrival> = history.files.iter().filter(|file| file.table == *table).collect();
        let ids: Vec<FileId> = files.iter().flat_map(|file| versions(world, file)).map(|(_, id)| id).collect();
        let state = &world.state_with(table, &ids).await;
        if !state.set_aside().is_empty() {
            return Err(format!("{table}: files were set aside: {:?}", state.set_aside()));
        }
        let (expected_log, uncertain, vanished) = expected(world, state, &files)?;
        story.vanished += vanished;
        let tables = world.tables.lock().unwrap();
        let (log, finals) = (tables.log(&table.to_string()), tables.finals(&table.to_string()));
        if log != expected_log {
            return Err(format!("{table}: the log has {}", difference(&expected_log, &log)));
        }
        let expected: BTreeSet<String> = certain.iter().cloned().chain(uncertain).collect();
        if finals != expected {
            let (expected, found) = (Vec::from_iter(expected), Vec::from_iter(finals));
            return Err(format!("{table}: the final table has {}", difference(&expected, &found)));
        }
        (log, finals, state.head()).hash(&mut trace);
    }
    let below = |count: &AtomicU64| count.load(Ordering::SeqCst);
    story.compactions = below(&world.below.compactions);
    (story.written_below, story.read_below) = (below(&world.below.written), below(&world.below.read));
    story.hazards = world.tables.lock().unwrap().hazards;
    story.overwritten =
        count(history.files.iter().map(|file| usize::from(matches!(file.later, Later::Overwritten(..)))));
    story.key_updates = count(history.files.iter().map(|file| key_updates(&file.text)));
    (story.fortunes, story.hazards, story.compactions, story.written_below, story.read_below).hash(&mut trace);
    story.trace = trace.finish();
    Ok(story)
}

fn count(each: impl Iterator<Item = usize>) -> u64 {
    each.sum::<usize>() as u64
}

/// The rows that the log must have, the final rows of files that may vanish, and how many of those did.
fn expected(world: &World, state: &State, files: &[&Arrival]) -> Result<(Vec<String>, Vec<String>, u64), String> {
    let (mut log, mut finals, mut vanished) = (Vec::new(), Vec::new(), 0);
    for file in files {
        let location = file.location();
        for (text, id) in versions(world, file) {
            let Some(has_rows) = has_rows(state, id) else {
                return Err(format!("{location} with the text {text:?} is not done"));
            };
            if !has_rows && file.later == Later::Stays {
                return Err(format!("{location} was given up, but nothing happened to it"));
            }
            vanished += u64::from(!has_rows);
            if has_rows {
                log.extend(log_rows(&location, text));
            }
            if has_rows && file.later != Later::Stays {
                finals.extend(text.lines().skip(1).map(|line| {
                    let cells: Vec<&str> = line.split(',').collect();
                    format!("{} {}", cells[1], cells[2])
                }));
            }
        }
    }
    log.sort_unstable();
    Ok((log, finals, vanished))
}

/// What lay at a file's place, one after the other: text and identity.
fn versions<'a>(world: &World, file: &'a Arrival) -> Vec<(&'a str, FileId)> {
    let later = match &file.later {
        Later::Overwritten(_, text) => Some(text.as_str()),
        Later::Stays | Later::Deleted(_) => None,
    };
    let versions = world.versions.lock().unwrap();
    let id = |text: &str| FileId::new(&file.location(), &versions[&(file.key.clone(), text.to_owned())]);
    std::iter::once(file.text.as_str()).chain(later).map(|text| (text, id(text))).collect()
}

/// Whether a file's rows must be in the log, by where it stands; None where nothing is known of it.
fn has_rows(state: &State, file: FileId) -> Option<bool> {
    match state.file_state(file)? {
        FileState::Committed => Some(true),
        FileState::Gone | FileState::Superseded | FileState::SetAside => Some(false),
        FileState::Claimed { .. } => None,
    }
}

/// What one has and the other has not.
fn difference(expected: &[String], found: &[String]) -> String {
    let less = |from: &[String], by: &[String]| {
        let mut rest = from.to_vec();
        for item in by {
            if let Some(at) = rest.iter().position(|other| other == item) {
                rest.remove(at);
            }
        }
        rest
    };
    format!("not {:?}, but {:?}", less(expected, found), less(found, expected))
}
