//! Compares what a simulation left with what the source did.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::{Arrival, History, Later, Reload, finals_of, key_updates, log_rows};
use super::{Story, World};
use crate::change::{FileId, TableName};
use crate::ledger::{FileState, SetAside, State};

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
        let reload = history.reloads.get(table);
        let files: Vec<&Arrival> = history.files.iter().filter(|file| file.table == *table).collect();
        let load: Vec<(String, &str, FileId)> = reload.into_iter().filter_map(|reload| load(world, reload)).collect();
        let ids = files.iter().flat_map(|file| versions(world, file)).map(|(_, id)| id);
        let ids: Vec<FileId> = ids.chain(load.iter().map(|(_, _, id)| *id)).collect();
        let state = &world.state_with(table, &ids).await;
        let generation = if reload.is_some() { 2 } else { 1 };
        if state.generation() != Some(generation) {
            return Err(format!("{table}: it is of generation {:?}, not of {generation}", state.generation()));
        }
        let all = &files;
        let files: Vec<&Arrival> = all.iter().copied().filter(|file| is_of(file, reload)).collect();
        let horizon = history.horizons.get(table);
        demand_too_late(table, state, horizon.is_some())?;
        story.too_late += state.set_aside().len() as u64;
        let (mut expected_log, uncertain, vanished) = expected(world, state, &files, reload.is_some())?;
        for (location, text, id) in &load {
            if has_rows(state, *id) != Some(true) {
                return Err(format!("{location}, the load, is not done"));
            }
            expected_log.extend(log_rows(location, text));
        }
        expected_log.sort_unstable();
        story.vanished += vanished;
        story.reloads += u64::from(reload.is_some());
        let (log, finals) = (world.warehouse.log(table, generation).await, world.warehouse.finals(table).await);
        if reload.is_some() {
            demand_once(table, &world.warehouse.log(table, 1).await, world, all)?;
        }
        if reload.is_some() && !world.warehouse.keeps_what_was_built() {
            demand_once(table, &log, world, &files)?;
        } else if log != expected_log {
            return Err(format!("{table}: the log has {}", difference(&expected_log, &log)));
        }
        let expected: BTreeSet<String> = match horizon {
            None => certain.iter().cloned().chain(uncertain).collect(),
            Some(_) => finals_of(load.iter().map(|(_, text, _)| *text).chain(carried(world, state, &files))),
        };
        if finals != expected {
            let (expected, found) = (Vec::from_iter(expected), Vec::from_iter(finals));
            return Err(format!("{table}: the final table has {}", difference(&expected, &found)));
        }
        (log, finals, state.head()).hash(&mut trace);
    }
    let below = |count: &AtomicU64| count.load(Ordering::SeqCst);
    story.compactions = below(&world.below.compactions);
    (story.written_below, story.read_below) = (below(&world.below.written), below(&world.below.read));
    story.hazards = world.warehouse.hazards();
    story.overwritten =
        count(history.files.iter().map(|file| usize::from(matches!(file.later, Later::Overwritten(..)))));
    story.key_updates = count(history.files.iter().map(|file| key_updates(&file.text)));
    (story.fortunes, story.hazards, story.compactions, story.written_below, story.read_below).hash(&mut trace);
    story.trace = trace.finish();
    Ok(story)
}

/// The texts of these files that were carried, and not too late.
fn carried<'a>(world: &World, state: &State, files: &[&'a Arrival]) -> Vec<&'a str> {
    let versions = files.iter().flat_map(|file| versions(world, file));
    versions.filter(|(_, id)| has_rows(state, *id) == Some(true)).map(|(text, _)| text).collect()
}

/// Demands that no file was set aside but such as came too late.
fn demand_too_late(table: &TableName, state: &State, forgets: bool) -> Result<(), String> {
    let is_late = |set_aside: &SetAside| {
        let time_us = u64::try_from(set_aside.file.time_ms).unwrap_or(0) * 1_000;
        set_aside.reason.contains("comes too late") && time_us < state.purged_us()
    };
    if state.set_aside().iter().all(|set_aside| forgets && is_late(set_aside)) {
        return Ok(());
    }
    Err(format!("{table}: files were set aside: {:?}", state.set_aside()))
}

/// The load's location, text and identity; None where it has no file.
fn load<'a>(world: &World, reload: &'a Reload) -> Option<(String, &'a str, FileId)> {
    let (key, text) = reload.load.as_ref()?;
    let location = format!("s3://cdc-files/{key}");
    let id = FileId::new(&location, &world.versions.lock().unwrap()[&(key.clone(), text.clone())]);
    Some((location, text, id))
}

/// Whether a file is of the last generation.
fn is_of(file: &Arrival, reload: Option<&Reload>) -> bool {
    reload.is_none_or(|reload| file.moment_ms >= reload.cut_over_ms)
}

/// Demands that no row of the generation before is in the log more often than files have it.
fn demand_once(table: &TableName, log: &[String], world: &World, files: &[&Arrival]) -> Result<(), String> {
    let has = |file: &&Arrival| -> Vec<String> {
        versions(world, file).iter().flat_map(|(text, _)| log_rows(&file.location(), text)).collect()
    };
    let mut rest: Vec<String> = files.iter().flat_map(has).collect();
    for row in log {
        let Some(at) = rest.iter().position(|other| other == row) else {
            return Err(format!("{table}: the log has {row} once too often"));
        };
        rest.swap_remove(at);
    }
    Ok(())
}

fn count(each: impl Iterator<Item = usize>) -> u64 {
    each.sum::<usize>() as u64
}

/// The rows that the log must have, the final rows of files that may vanish, and how many of those did.
fn expected(
    world: &World,
    state: &State,
    files: &[&Arrival],
    reloaded: bool,
) -> Result<(Vec<String>, Vec<String>, u64), String> {
    let (mut log, mut finals, mut vanished) = (Vec::new(), Vec::new(), 0);
    for file in files {
        let location = file.location();
        for (text, id) in versions(world, file) {
            // What vanished before the new generation's files were listed is unknown to it.
            let is_gone = match &file.later {
                Later::Stays => false,
                Later::Deleted(_) => true,
                Later::Overwritten(_, later) => text != later,
            };
            let has_rows = has_rows(state, id).or((reloaded && is_gone).then_some(false));
            let Some(has_rows) = has_rows else {
                return Err(format!("{location} with the text {text:?} is not done"));
            };
            let is_late = state.set_aside().iter().any(|set_aside| set_aside.file.id == id);
            if !has_rows && file.later == Later::Stays && !is_late {
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
