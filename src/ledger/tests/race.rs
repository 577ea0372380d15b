//! Writers that race: whatever the order of their requests and whatever fails, the chain holds, compacted or not.

use std::collections::{BTreeMap, HashMap};

use futures::future::join;

use super::*;
use crate::change::FileId;
use crate::clock::StillClock;
use crate::trial::dice::Dice;

/// What a writer was told, to be held against the chain.
#[derive(Debug, Default)]
struct Told {
    taken: Vec<(u64, String)>,
    outcomes: Vec<(u64, CommitOutcome)>,
    finals: Vec<(FileId, FileState)>,
    merges: Vec<(u64, MergeCounts)>,
}

#[tokio::test]
async fn of_two_ledgers_that_claim_one_file_exactly_one_wins() {
    for seed in 0..50 {
        let store = Arc::new(InMemory::new());
        let clock = StillClock::shared();
        let counted = Counted::default();
        let one = ledger(&store, seed, &clock, &counted).await;
        let two = ledger(&store, seed + 1000, &clock, &counted).await;
        let (one, two) = join(one.table(&table(), opening()), two.table(&table(), opening())).await;
        let (mut one, mut two) = (one.unwrap(), two.unwrap());
        let claims = join(one.claim(intent("a", &["f", "g"])), two.claim(intent("b", &["g", "h"]))).await;
        let won = match claims {
            (Ok(Claim::Taken(2)), Ok(Claim::Refused(lost))) | (Ok(Claim::Refused(lost)), Ok(Claim::Taken(2))) => lost,
            other => panic!("seed {seed}: {other:?}"),
        };
        assert_eq!(won, [file("g").id], "seed {seed}");
        assert_eq!(paths(&store).await.len(), 3, "seed {seed}");
    }
}

#[tokio::test]
async fn random_interleavings_of_two_failing_writers_keep_the_invariants() {
    let (mut entries, mut compactions) = (0, 0);
    for seed in 0..150 {
        let store = Arc::new(InMemory::new());
        let clock = StillClock::shared();
        let counted = Counted::default();
        let one = ledger(&store, seed, &clock, &counted).await;
        let two = ledger(&store, seed + 1000, &clock, &counted).await;
        let told = join(write(&one, seed * 2, "one"), write(&two, seed * 2 + 1, "two")).await;
        let chain = entries_of(&counted);
        let holders = audit(&chain, &[told.0, told.1]);
        let mut whole = read_again(&store, &clock).await;
        let keys: Vec<FileKey> = (0..12).map(|n| FileKey::from(&file(&format!("f{n}")))).collect();
        whole.recall(&keys).await.unwrap();
        let state = whole.state();
        assert_eq!(state.head(), u64::try_from(chain.len()).unwrap(), "seed {seed}");
        for key in keys {
            assert_eq!(state.file_state(key.id), holders.get(&key.id).copied(), "seed {seed}");
        }
        entries += chain.len();
        compactions += chain.values().filter(|entry| matches!(entry, Entry::Compacted(_))).count();
    }
    assert!(entries > 150 * 10, "the writers got hardly anywhere: {entries} entries");
    assert!(compactions > 150, "{compactions} compactions");
}

/// The table's chain as one finds it who comes when all is over.
async fn read_again(store: &Arc<InMemory>, clock: &Arc<dyn Clock>) -> TableLedger {
    let ledger = ledger_on(Arc::clone(store) as _, clock).await.unwrap();
    ledger.table(&table(), opening()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn daemons_on_one_folder_take_each_file_once_and_lose_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("ledger").to_str().unwrap().to_owned();
    let clock = StillClock::shared();
    let daemons: Vec<_> = (0..4)
        .map(|daemon| {
            let (place, clock) = (place.clone(), Arc::clone(&clock));
            tokio::spawn(async move {
                let ledger = Ledger::open(&place, SINK, clock).await.unwrap();
                let mut writer = ledger.table(&table(), opening()).await.unwrap();
                let mut taken = 0;
                for n in 0..10 {
                    let claim = intent(&format!("{daemon}-{n}"), &[&format!("f{n}")]);
                    taken += usize::from(matches!(writer.claim(claim).await.unwrap(), Claim::Taken(_)));
                }
                taken
            })
        })
        .collect();
    let taken: Vec<usize> = futures::future::try_join_all(daemons).await.unwrap();
    assert_eq!(taken.iter().sum::<usize>(), 10);
    let ledger = Ledger::look(&place, SINK, clock).await.unwrap().unwrap();
    let state = ledger.peek(&table()).await.unwrap();
    assert_eq!((state.head(), state.open_intents().count()), (11, 10));
    let folder = dir.path().join("ledger/tables/casino_db1/user_actions");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 11, "something was left behind");
}

/// A ledger over the shared store, behind faults of its own; opening it is tried until it succeeds.
async fn ledger(store: &Arc<InMemory>, seed: u64, clock: &Arc<dyn Clock>, counted: &Counted) -> Ledger {
    let faulty = Faulty::random(Arc::clone(store), seed, counted);
    loop {
        match ledger_on(Arc::clone(&faulty) as _, clock).await {
            Ok(ledger) => return ledger,
            Err(error) => assert_eq!(error.kind(), Kind::Retry, "{}", error.report()),
        }
    }
}

/// Takes random steps, now and then after a restart.
async fn write(ledger: &Ledger, seed: u64, name: &str) -> Told {
    let ledger = Ledger { pace: Pace { tries: 2, pause: Duration::ZERO }, ..ledger.clone() };
    let (mut dice, mut told) = (Dice::new(seed + 7), Told::default());
    let mut writer = ledger.table(&table(), opening()).await.unwrap();
    for step in 0..20 {
        if dice.below(8) == 0 {
            writer = ledger.table(&table(), opening()).await.unwrap();
        }
        let id = format!("{name}-{step}");
        if let Err(error) = take_step(&mut writer, &mut dice, &mut told, &id).await {
            assert_eq!(error.kind(), Kind::Retry, "{}", error.report());
        }
    }
    told
}

async fn take_step(writer: &mut TableLedger, dice: &mut Dice, told: &mut Told, id: &str) -> Result<()> {
    let name = format!("f{}", dice.below(12));
    match dice.below(9) {
        8 => _ = writer.compact_above(4).await?,
        0..=2 => {
            let other = format!("f{}", dice.below(12));
            let names = if name == other { vec![name.as_str()] } else { vec![name.as_str(), other.as_str()] };
            let mut claim = intent(id, &names);
            claim.prepared.rows = dice.below(3);
            if let Claim::Taken(number) = writer.claim(claim).await? {
                told.taken.push((number, id.to_owned()));
            }
        }
        3..=5 => {
            let Some((number, _)) = writer.state().open_intents().last() else { return Ok(()) };
            let outcome = if dice.below(3) == 0 { CommitOutcome::Lost } else { CommitOutcome::Committed };
            told.outcomes.push((number, writer.finish(number, outcome).await?));
        }
        6 => {
            let state = match dice.below(3) {
                0 => writer.gone(&file(&name)).await?,
                1 => writer.superseded(&file(&name)).await?,
                _ => writer.set_aside(&file(&name), id).await?,
            };
            if !matches!(state, FileState::Claimed { .. }) {
                told.finals.push((file(&name).id, state));
            }
        }
        _ => {
            if let Some((number, _)) = writer.open_merge(&attempt(id), 2).await? {
                let counts = MergeCounts { inserted: dice.below(9), ..MergeCounts::default() };
                told.merges.push((number, writer.finish_merge(number, counts).await?));
            }
        }
    }
    Ok(())
}

/// The entries that were created and counted, by number.
fn entries_of(counted: &Counted) -> BTreeMap<u64, Entry> {
    let entry = |(number, bytes): (&u64, &bytes::Bytes)| (*number, Envelope::from_bytes(*number, bytes).unwrap().entry);
    counted.lock().unwrap().iter().map(entry).collect()
}

/// Holds the chain, and what its writers were told, against the protocol; knows nothing of the fold. Where each file
/// stands by its books.
fn audit(chain: &BTreeMap<u64, Entry>, told: &[Told]) -> HashMap<FileId, FileState> {
    assert!(chain.keys().copied().eq(1..=u64::try_from(chain.len()).unwrap()), "a gap");
    let mut outcomes: HashMap<u64, CommitOutcome> = HashMap::new();
    let mut holders: HashMap<FileId, FileState> = HashMap::new();
    let mut merges: HashMap<u64, Option<MergeCounts>> = HashMap::new();
    let mut merged: Vec<&String> = Vec::new();
    for (number, entry) in chain {
        match entry {
            Entry::Opened(_) => assert_eq!(*number, 1),
            Entry::Intent(intent) => {
                for file in &intent.files {
                    let before = holders.insert(file.id, FileState::Claimed { intent: *number });
                    assert_eq!(before, None, "entry {number} claims what is held");
                }
                if intent.prepared.rows == 0 {
                    end(chain, &mut holders, &mut outcomes, *number, CommitOutcome::Committed);
                }
            }
            Entry::Committed { intent } => end(chain, &mut holders, &mut outcomes, *intent, CommitOutcome::Committed),
            Entry::Lost { intent } => end(chain, &mut holders, &mut outcomes, *intent, CommitOutcome::Lost),
            Entry::SetAside { file, .. } => assert_eq!(holders.insert(file.id, FileState::SetAside), None),
            Entry::TooLate { .. } => panic!("entry {number} was written by nobody"),
            Entry::Superseded { file } => assert_eq!(holders.insert(file.id, FileState::Superseded), None),
            Entry::Gone { file } => assert_eq!(holders.insert(file.id, FileState::Gone), None),
            Entry::Held { .. } | Entry::Compacted(_) => {}
            Entry::Reload(_) | Entry::Closed | Entry::Abandoned { .. } | Entry::Purge(_) | Entry::Purged { .. } => {
                panic!("entry {number} was written by nobody")
            }
            Entry::MergeIntent(merge) => {
                assert!(merges.values().all(Option::is_some), "entry {number} begins a second merge");
                assert!(merge.batches.iter().all(|batch| !merged.contains(&batch)), "entry {number} merges again");
                merged.extend(&merge.batches);
                merges.insert(*number, None);
            }
            Entry::Merged { merge, counts } => assert_eq!(merges.insert(*merge, Some(*counts)), Some(None)),
        }
    }
    for told in told {
        for (number, attempt) in &told.taken {
            let Some(Entry::Intent(intent)) = chain.get(number) else { panic!("entry {number} is no intent") };
            assert_eq!(&intent.attempt.id, attempt);
        }
        assert!(told.outcomes.iter().all(|(number, outcome)| outcomes.get(number) == Some(outcome)), "{told:?}");
        assert!(told.finals.iter().all(|(file, state)| holders.get(file) == Some(state)), "{told:?}");
        assert!(told.merges.iter().all(|(number, _)| matches!(merges.get(number), Some(Some(_)))), "{told:?}");
    }
    holders
}

/// Ends an intent in the auditor's books; a right writer never ends one twice.
fn end(
    chain: &BTreeMap<u64, Entry>,
    holders: &mut HashMap<FileId, FileState>,
    outcomes: &mut HashMap<u64, CommitOutcome>,
    number: u64,
    outcome: CommitOutcome,
) {
    let Some(Entry::Intent(intent)) = chain.get(&number) else { panic!("entry {number} is no intent") };
    assert_eq!(outcomes.insert(number, outcome), None, "intent {number} is ended twice");
    for file in &intent.files {
        match outcome {
            CommitOutcome::Committed => holders.insert(file.id, FileState::Committed),
            CommitOutcome::Lost => holders.remove(&file.id),
        };
    }
}
