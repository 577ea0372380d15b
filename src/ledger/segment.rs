//! Segments: what the ledger knows of files for ever, as sorted records in objects that are never changed.
//!
//! A segment of files has, for each, its id and its final state: 17 bytes. It holds the files of one day by the time in
//! their names, so that a claim reads the segments of its files' days only. A segment of sightings tells, by place, size
//! and time of modification, which content a file on a disk had: 32 bytes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::entry::{FileKey, MEND_DAMAGE, Segment};
use super::state::{FileState, State};
use super::store::{Created, Store};
use crate::change::{FileId, disk_version};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// Most records of one segment, which is read whole: of a day with more, a file is looked for in few of them.
const RECORDS_MAX: usize = 1 << 14;
/// Bytes of segments that are kept in memory, of all tables.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// A name's time of day may be read another way one day, in another zone, so that the days beside count, too.
const DAYS_BESIDE: u64 = 1;
const NOTHING_LOST: &str = "nothing is lost; another time will do";
/// Bytes of a record's key.
const KEY_BYTES: usize = 16;

/// A file with a final state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) id: FileId,
    pub(super) state: FileState,
}

/// A file on a disk as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sighting {
    key: [u8; KEY_BYTES],
    content: [u8; KEY_BYTES],
}

impl Sighting {
    /// None where the version is none of a file of this size on a disk.
    pub(super) fn new(location: &str, size: u64, modified_ms: i64, version: &str) -> Option<Self> {
        let content: FileId = version.split_once('-')?.1.parse().ok()?;
        let is_of_disk = disk_version(size, content) == version;
        is_of_disk.then(|| Self { key: Self::key(location, size, modified_ms), content: content.0 })
    }

    fn key(location: &str, size: u64, modified_ms: i64) -> [u8; KEY_BYTES] {
        FileId::new(location, &format!("{size} {modified_ms}")).0
    }
}

/// Records with values of `V` bytes.
#[derive(Debug, Clone)]
struct Records<const V: usize>(Bytes);

impl<const V: usize> Records<V> {
    const WIDTH: usize = KEY_BYTES + V;

    fn encode(records: &[([u8; KEY_BYTES], [u8; V])]) -> Bytes {
        let mut bytes = Vec::with_capacity(records.len() * Self::WIDTH);
        for (key, value) in records {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        bytes.into()
    }

    fn count(&self) -> usize {
        self.0.len() / Self::WIDTH
    }

    fn record(&self, at: usize) -> Option<(&[u8], [u8; V])> {
        let record = self.0.get(at * Self::WIDTH..(at + 1) * Self::WIDTH)?;
        let (key, value) = record.split_at(KEY_BYTES);
        Some((key, value.try_into().ok()?))
    }

    fn get(&self, key: &[u8; KEY_BYTES]) -> Option<[u8; V]> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            let (found, value) = self.record(middle)?;
            match found.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(value),
            }
        }
        None
    }

    fn take_into(&self, records: &mut BTreeMap<[u8; KEY_BYTES], [u8; V]>) {
        for (key, value) in (0..self.count()).filter_map(|at| self.record(at)) {
            if let Ok(key) = key.try_into() {
                records.insert(key, value);
            }
        }
    }
}

/// The segments that were read last, of all tables.
#[derive(Debug, Default)]
pub(super) struct Cache {
    read: Mutex<VecDeque<(String, Bytes)>>,
}

impl Cache {
    fn get(&self, key: &str) -> Option<Bytes> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let at = read.iter().position(|(name, _)| name == key)?;
        let found = read.remove(at)?;
        let bytes = found.1.clone();
        read.push_front(found);
        Some(bytes)
    }

    fn put(&self, key: String, bytes: Bytes) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.push_front((key, bytes));
        while read.len() > 1 && read.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > CACHE_BYTES_MAX {
            read.pop_back();
        }
    }
}

/// The segments of one table.
#[derive(Debug, Clone)]
pub(super) struct Segments {
    store: Store,
    folder: String,
    cache: Arc<Cache>,
    clock: Arc<dyn Clock>,
}

impl Segments {
    pub(super) fn new(store: Store, folder: String, cache: Arc<Cache>, clock: Arc<dyn Clock>) -> Self {
        Self { store, folder, cache, clock }
    }

    /// The states of those of these files that the segments have; None where one is gone.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where a segment is damaged.
    pub(super) async fn find(
        &self,
        segments: &[Segment],
        files: &[FileKey],
    ) -> Result<Option<HashMap<FileId, FileState>>> {
        let mut found = HashMap::new();
        for segment in segments {
            let wanted: Vec<&FileKey> = files.iter().filter(|file| may_hold(segment, file)).collect();
            if wanted.is_empty() {
                continue;
            }
            let Some(records) = self.read::<1>(segment).await? else { return Ok(None) };
            for file in wanted {
                if let Some(value) = records.get(&file.id.0) {
                    found.insert(file.id, state_of(value).ok_or_else(|| self.damaged(segment, "of an unknown state"))?);
                }
            }
        }
        Ok(Some(found))
    }

    /// What is known of files on a disk; None where a segment is gone.
    pub(super) async fn sightings(&self, segments: &[Segment]) -> Result<Option<Sightings>> {
        let mut all = Vec::with_capacity(segments.len());
        for segment in segments {
            let Some(records) = self.read::<KEY_BYTES>(segment).await? else { return Ok(None) };
            all.push(records);
        }
        Ok(Some(Sightings(all)))
    }

    /// The segments of files with these in addition, for the compaction of this number; None where one is gone.
    pub(super) async fn with_files(
        &self,
        segments: &[Segment],
        finished: BTreeMap<Option<i64>, Vec<Finished>>,
        number: u64,
    ) -> Result<Option<Vec<Segment>>> {
        let mut all = segments.to_vec();
        for (day, files) in finished {
            let records = files.iter().filter_map(|file| Some((file.id.0, value_of(file.state)?))).collect();
            match self.grow::<1>(all, day, records, number).await? {
                Some(grown) => all = grown,
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// The segments of sightings with these in addition, as [`with_files`](Self::with_files).
    pub(super) async fn with_sightings(
        &self,
        segments: &[Segment],
        seen: Vec<Sighting>,
        number: u64,
    ) -> Result<Option<Vec<Segment>>> {
        let records = seen.into_iter().map(|sighting| (sighting.key, sighting.content)).collect();
        self.grow::<KEY_BYTES>(segments.to_vec(), None, records, number).await
    }

    /// Reads these segments, of files and of sightings; false where one is gone.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where one is damaged.
    pub(super) async fn check(&self, files: &[Segment], sightings: &[Segment]) -> Result<bool> {
        for segment in files {
            if self.read::<1>(segment).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(self.sightings(sightings).await?.is_some())
    }

    /// Deletes every segment that was made for this compaction or an earlier one, and that the state does not name.
    pub(super) async fn delete_unnamed(&self, state: &State, number: u64) -> Result<()> {
        let named = state.segments().iter().chain(state.sightings());
        let kept: HashSet<&str> = named.map(|segment| segment.name.as_str()).collect();
        let is_past = |name: &String| {
            let made_for = name.get(..20).and_then(|digits| digits.parse::<u64>().ok());
            !kept.contains(name.as_str()) && made_for.is_some_and(|made_for| made_for <= number)
        };
        let names = self.store.list(&self.folder).await?.objects;
        let keys = names.into_iter().filter(is_past).map(|name| self.key(&name)).collect();
        self.store.delete(keys).await
    }

    /// Adds records to the segments of a day. Segments that are not much larger are taken up in the new one, so that
    /// there are few, and none is written often.
    async fn grow<const V: usize>(
        &self,
        segments: Vec<Segment>,
        day: Option<i64>,
        mut records: BTreeMap<[u8; KEY_BYTES], [u8; V]>,
        number: u64,
    ) -> Result<Option<Vec<Segment>>> {
        if records.is_empty() {
            return Ok(Some(segments));
        }
        let (mut of_day, mut all): (Vec<Segment>, Vec<Segment>) =
            segments.into_iter().partition(|segment| segment.day == day);
        of_day.sort_by_key(|segment| segment.records);
        for segment in of_day {
            let (has, grows_by) = (segment.records, records.len() as u64);
            if has > 2 * grows_by || has.saturating_add(grows_by) > RECORDS_MAX as u64 {
                all.push(segment);
                continue;
            }
            let Some(found) = self.read::<V>(&segment).await? else { return Ok(None) };
            found.take_into(&mut records);
        }
        let records: Vec<_> = records.into_iter().collect();
        for chunk in records.chunks(RECORDS_MAX) {
            all.push(self.write(day, chunk, number).await?);
        }
        all.sort_by(|one, two| (one.day, &one.name).cmp(&(two.day, &two.name)));
        Ok(Some(all))
    }

    async fn write<const V: usize>(
        &self,
        day: Option<i64>,
        records: &[([u8; KEY_BYTES], [u8; V])],
        number: u64,
    ) -> Result<Segment> {
        let bytes = Records::<V>::encode(records);
        let name = format!("{number:020}-{}", self.clock.fresh_id());
        let end = |record: Option<&([u8; KEY_BYTES], [u8; V])>| FileId(record.map(|(key, _)| *key).unwrap_or_default());
        let segment = Segment {
            day,
            records: records.len() as u64,
            first: end(records.first()),
            last: end(records.last()),
            hash: blake3::hash(&bytes).to_hex().to_string(),
            name,
        };
        match self.store.create(&self.key(&segment.name), bytes).await? {
            Created::Yes => Ok(segment),
            Created::Exists => {
                Err(Error::retry("a segment of the ledger was said to exist, and is new").hint(NOTHING_LOST))
            }
            Created::Unknown(error) => Err(error),
        }
    }

    /// The records of a segment; None where it is gone.
    async fn read<const V: usize>(&self, segment: &Segment) -> Result<Option<Records<V>>> {
        let key = self.key(&segment.name);
        if let Some(bytes) = self.cache.get(&key) {
            return Ok(Some(Records(bytes)));
        }
        let Some(bytes) = self.store.read(&key).await? else { return Ok(None) };
        let records = Records::<V>(bytes.clone());
        let is_whole = records.count() as u64 == segment.records && bytes.len() % Records::<V>::WIDTH == 0;
        if !is_whole || blake3::hash(&bytes).to_hex().as_str() != segment.hash {
            return Err(self.damaged(segment, "not what was written"));
        }
        self.cache.put(key, bytes);
        Ok(Some(records))
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    fn damaged(&self, segment: &Segment, what: &str) -> Error {
        Error::user(format!(
            "the ledger is damaged: {} in {} is {what}",
            self.key(&segment.name),
            self.store.describe()
        ))
        .hint(MEND_DAMAGE)
    }
}

/// What is known of files on a disk.
#[derive(Debug)]
pub struct Sightings(Vec<Records<KEY_BYTES>>);

impl Sightings {
    /// The version of the file that lay there with this size and was modified then (ms since 1970).
    pub fn version(&self, location: &str, size: u64, modified_ms: i64) -> Option<String> {
        let key = Sighting::key(location, size, modified_ms);
        let content = self.0.iter().find_map(|records| records.get(&key))?;
        Some(disk_version(size, FileId(content)))
    }
}

/// Whether the segment may have the file. Where either's name tells no time, any day will do: what names tell depends on
/// the layout that is configured.
fn may_hold(segment: &Segment, file: &FileKey) -> bool {
    let is_day = match (segment.day, file.day) {
        (Some(day), Some(of_file)) => day.abs_diff(of_file) <= DAYS_BESIDE,
        _ => true,
    };
    is_day && segment.first <= file.id && file.id <= segment.last
}

fn value_of(state: FileState) -> Option<[u8; 1]> {
    match state {
        FileState::Claimed { .. } => None,
        FileState::Committed => Some([1]),
        FileState::SetAside => Some([2]),
        FileState::Superseded => Some([3]),
        FileState::Gone => Some([4]),
    }
}

fn state_of(value: [u8; 1]) -> Option<FileState> {
    match value {
        [1] => Some(FileState::Committed),
        [2] => Some(FileState::SetAside),
        [3] => Some(FileState::Superseded),
        [4] => Some(FileState::Gone),
        _ => None,
    }
}
