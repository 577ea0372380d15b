//! A state as a compaction keeps it, and back.

use std::collections::{BTreeMap, HashMap};

use super::{FileState, RECALLED_MAX, Seen, State};
use crate::change::FileId;
use crate::change::batch::CommitOutcome;
use crate::ledger::entry::{FileKey, Segment, Snapshot, Unfinished};
use crate::ledger::segment::{Finished, Sighting};
use crate::trial::planted::Planted;

impl State {
    /// The state that a compaction with this number says there is.
    pub(in crate::ledger) fn compacted_at(number: u64, snapshot: &Snapshot) -> Self {
        let seen = |file: &Unfinished| (file.id, Seen { state: None, time_ms: file.time_ms, day: file.day });
        let mut files: HashMap<FileId, Seen> = snapshot.unfinished.iter().map(seen).collect();
        for (intent, claimed) in &snapshot.open_intents {
            for file in &claimed.files {
                let seen = files.entry(file.id).or_insert_with(|| Seen::new(FileKey::from(file), file.time_ms));
                seen.state = Some(FileState::Claimed { intent: *intent });
            }
        }
        let of_intents = snapshot.open_intents.iter().map(|(number, intent)| (intent.attempt.id.clone(), *number));
        let of_unmerged = snapshot.unmerged.iter().map(|(number, attempt, _)| (attempt.id.clone(), *number));
        let of_merge = snapshot.standing.open_merge.iter().map(|(number, merge)| (merge.attempt.id.clone(), *number));
        Self {
            head: number,
            compacted: number,
            opened: Some(snapshot.opened.clone()),
            files,
            segments: snapshot.files.clone(),
            sightings: snapshot.sightings.clone(),
            attempts: of_intents.chain(of_unmerged).chain(of_merge).collect(),
            open_intents: snapshot.open_intents.iter().cloned().collect(),
            outcomes: snapshot.lost.iter().map(|number| (*number, CommitOutcome::Lost)).collect(),
            unmerged: snapshot
                .unmerged
                .iter()
                .map(|(number, attempt, rows)| (*number, (attempt.clone(), *rows)))
                .collect(),
            held: snapshot.held.iter().map(|file| (file.id(), file.clone())).collect(),
            standing: snapshot.standing.clone(),
            ..Self::default()
        }
    }

    /// What a compaction is to keep, with these segments; None where nothing opened the chain.
    pub(in crate::ledger) fn snapshot(&self, files: Vec<Segment>, sightings: Vec<Segment>) -> Option<Snapshot> {
        let is_unfinished = |seen: &Seen| matches!(seen.state, None | Some(FileState::Claimed { .. }));
        let mut unfinished: Vec<Unfinished> = (self.files.iter())
            .filter(|(_, seen)| is_unfinished(seen))
            .map(|(id, seen)| Unfinished { id: *id, time_ms: seen.time_ms, day: seen.day })
            .collect();
        unfinished.sort_unstable_by_key(|file| file.id);
        let open_intents = self.open_intents.iter().filter(|_| !Planted::CompactionForgetsIntents.is_there());
        Some(Snapshot {
            opened: self.opened.clone()?,
            files,
            sightings,
            unfinished,
            open_intents: open_intents.map(|(number, intent)| (*number, intent.clone())).collect(),
            lost: self.lost(),
            unmerged: (self.unmerged.iter())
                .map(|(number, (attempt, rows))| (*number, attempt.clone(), *rows))
                .collect(),
            held: self.held.values().cloned().collect(),
            standing: self.standing.clone(),
        })
    }

    /// The numbers of lost intents.
    pub(in crate::ledger) fn lost(&self) -> Vec<u64> {
        let is_lost = |(number, outcome): (&u64, &CommitOutcome)| (*outcome == CommitOutcome::Lost).then_some(*number);
        self.outcomes.iter().filter_map(is_lost).collect()
    }

    /// The segments of files with a final state.
    pub(in crate::ledger) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The segments by which files on a disk are known again.
    pub(in crate::ledger) fn sightings(&self) -> &[Segment] {
        &self.sightings
    }

    /// The files with a final state that no segment has yet, by the day that their names tell.
    pub(in crate::ledger) fn finished(&self) -> BTreeMap<Option<i64>, Vec<Finished>> {
        let mut days: BTreeMap<Option<i64>, Vec<Finished>> = BTreeMap::new();
        if Planted::CompactionForgetsFiles.is_there() {
            return days;
        }
        for (id, seen) in &self.files {
            if let Some(state) = seen.state.filter(|state| !matches!(state, FileState::Claimed { .. })) {
                days.entry(seen.day).or_default().push(Finished { id: *id, state });
            }
        }
        days
    }

    /// The files on a disk that were seen and that no segment has yet.
    pub(in crate::ledger) fn seen_on_disk(&self) -> Vec<Sighting> {
        let sighting = |(location, known): (&String, &super::Version)| {
            Sighting::new(location, known.size, known.modified_ms, &known.version)
        };
        self.locations.iter().filter_map(sighting).collect()
    }

    /// Those of these files of which only the segments may know.
    pub(in crate::ledger) fn unknown(&self, files: &[FileKey]) -> Vec<FileKey> {
        if self.segments.is_empty() {
            return Vec::new();
        }
        let is_unknown = |file: &&FileKey| !self.files.contains_key(&file.id) && !self.recalled.contains_key(&file.id);
        files.iter().filter(is_unknown).copied().collect()
    }

    /// Forgets what was looked up, where that is much. What is asked for next is looked up whole after that.
    pub(in crate::ledger) fn make_room(&mut self) {
        if self.recalled.len() > RECALLED_MAX {
            self.recalled.clear();
        }
    }

    /// Takes note of what the segments say of these files.
    pub(in crate::ledger) fn recall(&mut self, files: &[FileKey], found: &HashMap<FileId, FileState>) {
        self.recalled.extend(files.iter().map(|file| (file.id, found.get(&file.id).copied())));
    }
}
