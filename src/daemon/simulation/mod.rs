//! Simulated hours of bad luck, each from one seed: daemons that die at any step or poll and stand still between any two
//! steps, a source whose files come in any order and more than once, a store, a queue and a sink that lose answers.
//!
//! All of it runs on one thread in time that is told, so that a seed that fails does so again. The auditor compares the
//! final tables with the source's, the log with the files, and asks the ledger. Mistakes are planted to see that they
//! are found.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::time::Instant;
use uuid::Uuid;

use crate::catalog::inflate::Staging;
use crate::catalog::opened::Opener;
use crate::catalog::samples::ROOMY;
use crate::change::{FileId, TableName};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::{Daemon, Pace, tables_at_once};
use crate::error::{Error, Kind};
use crate::ledger::{FileKey, Ledger, Opening, State};
use crate::observe::progress::Lines;
use crate::pipeline::reload::Losses;
use crate::pipeline::report::{Observer, Progress};
use crate::pipeline::tests::fake;
use crate::pipeline::{Lane, Pipeline, memory_of};
use crate::source::Delivery;
use crate::source::sqs::fake::{self as sqs_fake, FakeQueue, event};
use crate::trial::dice::Dice;
use crate::trial::life::Life;

mod audit;
mod disk;
mod model;
mod seeds;
mod sink;
pub(crate) mod store;
mod warehouse;

use model::{Arrival, HOURS, History, Later, Reload};
use store::{Below, LivedStore};
use warehouse::Warehouse;

/// After that nothing goes wrong any more.
const CALM_AFTER: Duration = Duration::from_secs(HOURS.as_secs() + 1_800);
/// By then all must be done.
const DONE_WITHIN: Duration = Duration::from_secs(3 * 3_600);

/// Time as the runtime tells it, and ids that are counted.
#[derive(Debug)]
struct SimulatedClock {
    begun: Instant,
    ids: AtomicU64,
}

impl Clock for SimulatedClock {
    fn now(&self) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(self.begun.elapsed()).unwrap_or_default();
        "2024-05-06T00:00:00Z".parse::<DateTime<Utc>>().unwrap_or_default() + passed
    }

    fn fresh_id(&self) -> Uuid {
        let number = self.ids.fetch_add(1, Ordering::SeqCst);
        // The last byte is what pauses are jittered by.
        Uuid::from_u128(u128::from(number) << 8 | u128::from(number.wrapping_mul(197) & 0xff))
    }
}

/// No chain has more entries but one in which something is begun again and again.
const ENTRIES_MAX: u64 = 1_500;

/// One daemon's clock, which may jump.
#[derive(Debug)]
struct LivedClock {
    right: Arc<SimulatedClock>,
    begun: Instant,
    life: Arc<Life>,
}

impl Clock for LivedClock {
    fn now(&self) -> DateTime<Utc> {
        self.right.now() + self.life.clock_error(self.begun.elapsed())
    }

    fn fresh_id(&self) -> Uuid {
        self.right.fresh_id()
    }
}

/// What befell the daemons of a simulation.
#[derive(Debug, Clone, Copy, Default, Hash)]
struct Fortunes {
    lives: u64,
    deaths: u64,
    deaths_at_polls: u64,
    stood_still: u64,
    wrong_clocks: u64,
}

impl Fortunes {
    fn add(&mut self, life: &Life) {
        let (stood, misled) = life.came_to();
        self.wrong_clocks += u64::from(misled);
        self.lives += 1;
        self.deaths += u64::from(life.died());
        self.deaths_at_polls += u64::from(life.died_at_a_poll());
        self.stood_still += u64::from(stood);
    }
}

/// Everything that outlives a daemon.
struct World {
    config: Arc<Config>,
    clock: Arc<SimulatedClock>,
    files: Arc<InMemory>,
    ledgers: Arc<InMemory>,
    queue: FakeQueue,
    warehouse: Warehouse,
    /// The version of each object, by key and text.
    versions: Mutex<BTreeMap<(String, String), String>>,
    fortunes: Mutex<Fortunes>,
    /// What was asked of the ledger where it was compacted.
    below: Arc<Below>,
    /// What no bad luck excuses.
    wrongs: Arc<Mutex<Vec<String>>>,
    begun: Instant,
}

/// Hears what a daemon tells, and keeps what no bad luck excuses.
struct Witness(Arc<Mutex<Vec<String>>>);

impl Witness {
    fn hear(&self, error: &Error) {
        if error.kind() == Kind::Bug {
            self.0.lock().unwrap().push(error.report());
        }
    }
}

impl Observer for Witness {
    fn tell(&self, progress: &Progress<'_>) {
        if let Progress::TableStopped { error, .. } = progress {
            self.hear(error);
        }
        Lines.tell(progress);
    }
}

fn config(history: &History, queries: &Path, dice: &mut Dice) -> Config {
    let mut config = Config { queries: queries.to_owned(), ..Config::for_folder("simulated") };
    config.unlisted = None;
    for table in history.finals.keys() {
        fake::list(&mut config, table.clone());
        config.tables.get_mut(table).unwrap().late_horizon = history.horizons.get(table).copied();
    }
    config.pipeline.error_threshold = 1.0;
    config.pipeline.limits.files_max = usize::try_from(1 + dice.below(5)).unwrap();
    config.pipeline.ledger_entries_max = 2 + dice.below(12);
    config.pipeline.merge_every = Duration::from_secs(1 + dice.below(120));
    config
}

impl World {
    fn new(kind: warehouse::Kind, history: &History, queries: &Path, dice: &mut Dice) -> Self {
        let begun = Instant::now();
        Self {
            config: Arc::new(config(history, queries, dice)),
            clock: Arc::new(SimulatedClock { begun, ids: AtomicU64::new(0) }),
            files: Arc::default(),
            ledgers: Arc::default(),
            queue: FakeQueue::patient(None),
            warehouse: Warehouse::new(kind),
            versions: Mutex::default(),
            fortunes: Mutex::default(),
            below: Arc::default(),
            wrongs: Arc::default(),
            begun,
        }
    }

    /// Puts a file, has the queue told of it, and lets happen to it what is planned.
    async fn deliver(self: Arc<Self>, file: Arrival) {
        tokio::time::sleep(file.put_after).await;
        let path = Key::parse(&file.key).unwrap();
        let told = self.put(&file.key, &file.text).await;
        let put_at = Instant::now();
        let mut then = match &file.later {
            Later::Stays => None,
            Later::Overwritten(after, _) | Later::Deleted(after) => Some(put_at + *after),
        };
        let mut tell: Vec<Instant> = file.told_after.iter().map(|after| put_at + *after).collect();
        tell.sort_unstable();
        for at in tell {
            if then.is_some_and(|then| then <= at) {
                self.change_later(&file, &path, then.take().unwrap()).await;
            }
            tokio::time::sleep_until(at).await;
            self.queue.send(std::slice::from_ref(&told));
        }
        if let Some(then) = then {
            self.change_later(&file, &path, then).await;
        }
    }

    /// Puts an object; the event that tells of it.
    async fn put(&self, key: &str, text: &str) -> String {
        let put = self.files.put(&Key::parse(key).unwrap(), text.to_owned().into()).await.unwrap();
        let version = put.e_tag.unwrap();
        let told = event(key, text.len(), &version);
        self.versions.lock().unwrap().insert((key.to_owned(), text.to_owned()), version);
        told
    }

    async fn change_later(&self, file: &Arrival, path: &Key, at: Instant) {
        tokio::time::sleep_until(at).await;
        match &file.later {
            Later::Stays => {}
            Later::Deleted(_) => self.files.delete(path).await.unwrap(),
            Later::Overwritten(_, text) => {
                let told = self.put(&file.key, text).await;
                self.queue.send(&[told]);
            }
        }
    }

    /// All that a life carries files with, and the store of the files; None where the ledger cannot be opened.
    async fn pipeline(&self, life: &Arc<Life>) -> Option<(Pipeline, Arc<dyn ObjectStore>)> {
        let store = |inner: &Arc<InMemory>| -> Arc<dyn ObjectStore> {
            let (inner, life, below) = (Arc::clone(inner), Arc::clone(life), Arc::clone(&self.below));
            Arc::new(LivedStore { inner, life, below })
        };
        let (right, begun) = (Arc::clone(&self.clock), Instant::now());
        let lived: Arc<dyn Clock> = Arc::new(LivedClock { right, begun, life: Arc::clone(life) });
        let clock = || Arc::clone(&lived);
        let ledger = Ledger::on(store(&self.ledgers), "ledger", "simulated", clock()).await.ok()?;
        let files = store(&self.files);
        let pipeline = Pipeline {
            lane: Lane::Present,
            memory: memory_of(&self.config, tables_at_once(&self.config)),
            opener: Opener::new(Arc::clone(&files), Staging::new(ROOMY)),
            config: Arc::clone(&self.config),
            sink: self.warehouse.sink(life, clock()),
            ledger,
            clock: clock(),
            observer: Arc::new(Witness(Arc::clone(&self.wrongs))),
            shutdown: tokio_util::sync::CancellationToken::new(),
        };
        Some((pipeline, files))
    }

    /// A daemon, until it dies or its ledger cannot be opened.
    async fn live(&self, life: Arc<Life>) {
        let Some((pipeline, files)) = self.pipeline(&life).await else { return };
        let clock = Arc::clone(&pipeline.clock);
        let source = Arc::new(self.queue.lived(&life).source(files, clock).await);
        let ended = Box::pin(Daemon::new(pipeline, source, Pace::default()).run()).await;
        match ended {
            // Nobody tells it to end.
            Ok(totals) => self.wrongs.lock().unwrap().push(format!("a daemon ended: {totals:?}")),
            Err(error) if life.is_easy() => self.wrongs.lock().unwrap().push(error.report()),
            Err(error) => Witness(Arc::clone(&self.wrongs)).hear(&error),
        }
    }

    /// One daemon after the other, each dying sooner or later, until nothing goes wrong any more.
    async fn live_on(self: Arc<Self>, mut dice: Dice) {
        loop {
            let calm = self.begun.elapsed() >= CALM_AFTER;
            let life = Arc::new(if calm { Life::easy() } else { Life::hard(&mut dice) });
            let calm_at = self.begun + CALM_AFTER;
            tokio::select! {
                biased;
                () = life.death() => {}
                () = tokio::time::sleep_until(calm_at), if !calm => {}
                _ = life.live(self.live(Arc::clone(&life))) => {}
            }
            self.fortunes.lock().unwrap().add(&life);
            life.end();
            tokio::time::sleep(Duration::from_secs(1 + dice.below(90))).await;
        }
    }

    /// Somebody compacts chains at any moment, as a daemon does that has just carried a batch.
    async fn compact_on(self: Arc<Self>, mut dice: Dice) {
        while self.begun.elapsed() < CALM_AFTER {
            tokio::time::sleep(Duration::from_secs(1 + dice.below(60))).await;
            let life = Arc::new(Life::hard(&mut dice));
            let compact = async {
                let Some((pipeline, _)) = self.pipeline(&life).await else { return };
                for (table, config) in &self.config.tables {
                    let opening = Opening { order: config.order, target: self.config.target_name(table, config) };
                    let Ok(mut chain) = pipeline.ledger.table(table, opening).await else { continue };
                    if let Err(error) = chain.compact_above(1 + life.below(10)).await {
                        Witness(Arc::clone(&self.wrongs)).hear(&error);
                    }
                }
            };
            tokio::select! {
                biased;
                () = life.death() => {}
                _ = life.live(compact) => {}
            }
            life.end();
        }
    }

    /// A table is loaded anew, by people whose commands are killed and who give them again.
    async fn reload(self: Arc<Self>, table: TableName, plan: Reload, mut dice: Dice) {
        tokio::time::sleep(plan.begins_after).await;
        let begin =
            async |pipeline: Pipeline| pipeline.begin_reload(&table, Some(plan.cut_over_ms)).await.map(|_| true);
        self.insist(&mut dice, begin).await;
        tokio::time::sleep(plan.loads_after).await;
        if let Some((key, text)) = &plan.load {
            let told = self.put(key, text).await;
            self.queue.send(&[told]);
        }
        tokio::time::sleep(plan.completed_after).await;
        let completions = (0..plan.people).map(|_| {
            let (world, table, plan) = (Arc::clone(&self), table.clone(), plan.clone());
            let mut dice = dice.others();
            async move {
                let complete = async |pipeline: Pipeline| world.complete(&pipeline, &table, plan.cut_over_ms).await;
                world.insist(&mut dice, complete).await;
            }
        });
        futures::future::join_all(completions.collect::<Vec<_>>()).await;
    }

    /// Gives a command, in one life after the other, until it says that it is done.
    async fn insist(&self, dice: &mut Dice, command: impl AsyncFn(Pipeline) -> crate::error::Result<bool>) {
        loop {
            let calm = self.begun.elapsed() >= CALM_AFTER;
            let life = Arc::new(if calm { Life::easy() } else { Life::hard(dice) });
            let run = async {
                match self.pipeline(&life).await {
                    Some((pipeline, _)) => command(pipeline).await,
                    None => Ok(false),
                }
            };
            let ended = tokio::select! {
                biased;
                () = life.death() => Ok(false),
                ended = life.live(Box::pin(run)) => ended.unwrap_or(Ok(false)),
            };
            self.fortunes.lock().unwrap().add(&life);
            life.end();
            match ended {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => Witness(Arc::clone(&self.wrongs)).hear(&error),
            }
            tokio::time::sleep(Duration::from_secs(1 + dice.below(600))).await;
        }
    }

    /// Completes the reload of a table, as `freshet reload --complete` does.
    async fn complete(&self, pipeline: &Pipeline, table: &TableName, since_ms: i64) -> crate::error::Result<bool> {
        let Some(reload) = pipeline.reload_of(table).await? else { return Ok(true) };
        assert_eq!(reload.cut_over_ms, since_ms);
        let carry = async || {
            let files = sqs_fake::listed(&self.files).await;
            let files = files.into_iter().filter(|file| file.table == *table).collect();
            let delivery = Delivery { files, receipt: "a listing".into() };
            let (report, _) = pipeline.for_reload(&reload).run(&[delivery], vec![table.clone()]).await?;
            Ok(report.tables.values().all(|table| table.stopped.is_none() && table.left.is_empty()))
        };
        // Files vanish as they like.
        pipeline.complete_reload(table, &reload, Losses::Accepted, carry).await
    }

    async fn ledger(&self) -> Ledger {
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.ledgers) as _;
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        Ledger::on(store, "ledger", "simulated", clock).await.unwrap()
    }

    /// What the ledger knows of a table, and where each of these files stands.
    async fn state_with(&self, table: &TableName, files: &[FileId]) -> State {
        let config = self.config.table(table).unwrap();
        let opening = Opening { order: config.order, target: self.config.target_name(table, config) };
        let mut chain = self.ledger().await.table(table, opening).await.unwrap();
        let keys: Vec<FileKey> = files.iter().map(|id| FileKey { id: *id, day: None }).collect();
        chain.recall(&keys).await.unwrap();
        chain.state().clone()
    }

    /// What the ledger knows of each table.
    async fn states(&self) -> BTreeMap<TableName, State> {
        let ledger = self.ledger().await;
        let mut states = BTreeMap::new();
        for table in self.config.tables.keys() {
            states.insert(table.clone(), ledger.peek(table).await.unwrap());
        }
        states
    }

    /// Ends where this will never be done: because it takes too long, or because a chain grows without end. Says what is
    /// open.
    async fn endless(&self) -> String {
        loop {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let states = self.states().await;
            let is_long = states.values().any(|state| state.head() > ENTRIES_MAX);
            if is_long || self.begun.elapsed() > DONE_WITHIN {
                let open: Vec<String> = states.iter().map(|(table, state)| audit::open(table, state)).collect();
                let (elapsed, bodies) = (self.begun.elapsed(), self.queue.bodies());
                return format!("not done in {elapsed:?}: queue {bodies:?}, {}", open.join("; "));
            }
        }
    }

    /// Whether nothing is left to be done.
    async fn is_done(&self) -> bool {
        if self.queue.counts() != (0, 0) {
            return false;
        }
        let idle = |state: &State| {
            state.held().next().is_none() && state.unmerged().next().is_none() && state.open_intents().next().is_none()
        };
        self.states().await.values().all(idle)
    }
}

/// What a simulation was like, where it found nothing wrong.
#[derive(Debug, Clone, Copy, Default)]
struct Story {
    fortunes: Fortunes,
    hazards: sink::Hazards,
    compactions: u64,
    written_below: u64,
    read_below: u64,
    vanished: u64,
    overwritten: u64,
    key_updates: u64,
    reloads: u64,
    too_late: u64,
    /// A hash of what the sink has in the end, of each chain's length and of what happened on the way, to see whether a
    /// seed replays alike.
    trace: u64,
}

/// Lives through one seed; what is wrong in the end. With `FRESHET_LOG` all that its daemons log is told.
fn simulate(seed: u64, kind: warehouse::Kind) -> Result<Story, String> {
    if let Ok(filter) = std::env::var("FRESHET_LOG") {
        // Of several simulations the first begins to tell.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let story = runtime.block_on(async {
        let mut dice = Dice::new(seed);
        let history = model::history(&mut dice);
        let queries = fake::queries(history.finals.keys());
        let world = Arc::new(World::new(kind, &history, &queries, &mut dice));
        let story = tokio::select! {
            story = live_through(&world, &history, &mut dice) => story,
            open = world.endless() => Err(open),
        };
        std::fs::remove_dir_all(&queries).unwrap();
        story
    });
    // What daemons left behind does not hold up the end.
    runtime.shutdown_background();
    story.map_err(|wrong| format!("seed {seed}: {wrong}"))
}

/// Lets the files arrive, lives with all that goes wrong and then without, until nothing is left to be done.
async fn live_through(world: &Arc<World>, history: &History, dice: &mut Dice) -> Result<Story, String> {
    let deliveries: Vec<_> =
        history.files.iter().map(|file| tokio::spawn(Arc::clone(world).deliver(file.clone()))).collect();
    for _ in 0..=dice.below(3) {
        tokio::spawn(Arc::clone(world).live_on(dice.others()));
    }
    if dice.below(2) == 0 {
        tokio::spawn(Arc::clone(world).compact_on(dice.others()));
    }
    let reloads = history
        .reloads
        .iter()
        .map(|(table, plan)| Arc::clone(world).reload(table.clone(), plan.clone(), dice.others()));
    futures::future::join_all(reloads.collect::<Vec<_>>()).await;
    for delivery in deliveries {
        delivery.await.unwrap();
    }
    tokio::time::sleep_until(world.begun + CALM_AFTER).await;
    while !world.is_done().await {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    audit::audit(world, history).await
}
