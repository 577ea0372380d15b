//! Compares what a simulation left with what the source did.

use std::collections::BTreeSet;

use super::model::{Later, Planned, Source, log_rows};
use super::{Story, World, has_rows};
use crate::change::{FileId, TableName};
use crate::ledger::State;

/// What a table has yet to do, for messages.
pub(super) fn open(table: &TableName, state: &State) -> String {
    let (held, unmerged) = (state.held().count(), state.unmerged().count());
    format!("{table}: {held} files held, {unmerged} batches not merged, {} intents open", state.open_intents().count())
}

/// What is wrong, if anything is.
pub(super) async fn audit(world: &World, source: &Source) -> Result<Story, String> {
    let states = world.states().await;
    let mut story = Story { fortunes: *world.fortunes.lock().unwrap(), ..Story::default() };
    let (dead, _) = world.queue.dead_letters();
    if dead > 0 {
        return Err(format!("{dead} messages were given up"));
    }
    for (table, finals) in &source.finals {
        let state = &states[table];
        if !state.set_aside().is_empty() {
            return Err(format!("{table}: files were set aside: {:?}", state.set_aside()));
        }
        let files: Vec<&Planned> = source.files.iter().filter(|file| file.table == *table).collect();
        let (log, uncertain, vanished) = expected(world, state, &files)?;
        story.vanished += vanished;
        let tables = world.tables.lock().unwrap();
        let found = tables.log(&table.to_string());
        if found != log {
            return Err(format!("{table}: the log has {}", difference(&log, &found)));
        }
        let expected: BTreeSet<String> = finals.iter().cloned().chain(uncertain).collect();
        let found = tables.finals(&table.to_string());
        if found != expected {
            let (expected, found) = (expected.into_iter().collect::<Vec<_>>(), found.into_iter().collect::<Vec<_>>());
            return Err(format!("{table}: the final table has {}", difference(&expected, &found)));
        }
        story.trace = story.trace.wrapping_mul(31).wrapping_add(state.head());
    }
    story.hazards = world.tables.lock().unwrap().hazards;
    story.trace = story.trace.wrapping_mul(31).wrapping_add(story.hazards.answers_lost);
    Ok(story)
}

/// The rows that the log must have, the final rows of files that may vanish, and how many of those did.
fn expected(world: &World, state: &State, files: &[&Planned]) -> Result<(Vec<String>, Vec<String>, u64), String> {
    let (mut log, mut finals, mut vanished) = (Vec::new(), Vec::new(), 0);
    for file in files {
        let location = file.location();
        let mut texts = vec![file.text.as_str()];
        texts.extend(match &file.later {
            Later::Overwritten(_, text) => Some(text.as_str()),
            Later::Stays | Later::Deleted(_) => None,
        });
        for text in texts {
            let version = world.versions.lock().unwrap()[&(file.key.clone(), text.to_owned())].clone();
            let id = FileId::new(&location, &version);
            let Some(has_rows) = has_rows(state, id) else {
                return Err(format!("{location} in version {version} is not done"));
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
