//! One life of a simulated daemon. Whatever it does that others can see is a step; between any two it may die, or
//! stand still for longer than others wait. It may also die wherever its first task is polled.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::trial::dice::Dice;

impl Dice {
    /// Others, which fall by themselves from then on.
    pub(crate) fn others(&mut self) -> Self {
        Self::new(self.below(u64::MAX))
    }
}

/// Where a life ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// After so many steps.
    Step(u64),
    /// After so many polls of its first task, whatever that waits for.
    Poll(u64),
}

impl Death {
    fn early(dice: &mut Dice) -> Self {
        if dice.below(3) > 0 { Self::Step(dice.below(400)) } else { Self::Poll(dice.below(200)) }
    }
}

/// A daemon's life.
#[derive(Debug)]
pub(crate) struct Life {
    steps: AtomicU64,
    dies_at: Option<Death>,
    /// At which step it stands still, and for how long.
    stands_at: Option<(u64, Duration)>,
    stands_until: Mutex<Option<Instant>>,
    /// After how long its clock is wrong, and by how much.
    clock_jump: Option<(Duration, TimeDelta)>,
    clock_jumped: AtomicBool,
    dead: CancellationToken,
    /// For what goes wrong in this life; None: nothing does.
    dice: Option<Mutex<Dice>>,
}

impl Life {
    /// A life in which things go wrong, by chance.
    pub(crate) fn hard(dice: &mut Dice) -> Self {
        let dies = dice.below(3) > 0;
        let stands = dice.below(4) == 0;
        let jumps = dice.below(4) == 0;
        let by = TimeDelta::seconds(3_600 - i64::try_from(dice.below(7_200)).unwrap());
        Self {
            dies_at: dies.then(|| Death::early(dice)),
            stands_at: stands.then(|| (dice.below(200), Duration::from_secs(30 + dice.below(600)))),
            clock_jump: jumps.then(|| (Duration::from_secs(dice.below(600)), by)),
            dice: Some(Mutex::new(dice.others())),
            ..Self::easy()
        }
    }

    /// A life in which nothing goes wrong.
    pub(crate) fn easy() -> Self {
        Self {
            steps: AtomicU64::new(0),
            dies_at: None,
            stands_at: None,
            stands_until: Mutex::default(),
            clock_jump: None,
            clock_jumped: AtomicBool::new(false),
            dead: CancellationToken::new(),
            dice: None,
        }
    }

    /// Whether nothing goes wrong in it.
    pub(crate) fn is_easy(&self) -> bool {
        self.dice.is_none()
    }

    /// How wrong its clock is, so long after its beginning.
    pub(crate) fn clock_error(&self, age: Duration) -> TimeDelta {
        let jump = self.clock_jump.filter(|(after, _)| *after <= age);
        self.clock_jumped.fetch_or(jump.is_some(), Ordering::SeqCst);
        jump.map_or(TimeDelta::zero(), |(_, by)| by)
    }

    /// What this comes to; None where it dies at a poll of it.
    pub(crate) async fn live<T>(&self, deeds: impl Future<Output = T>) -> Option<T> {
        let mut deeds = pin!(deeds);
        let mut polls = 0;
        poll_fn(|context| {
            if self.dies_at == Some(Death::Poll(polls)) {
                self.dead.cancel();
                return Poll::Ready(None);
            }
            polls += 1;
            deeds.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Ends when it dies.
    pub(crate) async fn death(&self) {
        self.dead.cancelled().await;
    }

    /// Whatever is left of it does nothing more.
    pub(crate) fn end(&self) {
        self.dead.cancel();
    }

    /// Whether this goes wrong now: once in so many times.
    pub(crate) fn fails(&self, once_in: u64) -> bool {
        self.dice.as_ref().is_some_and(|dice| dice.lock().unwrap().below(once_in) == 0)
    }

    /// A number below `end`; 0 where nothing goes wrong.
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.dice.as_ref().map_or(0, |dice| dice.lock().unwrap().below(end))
    }

    /// Takes some time, as any way does; now and then much.
    pub(crate) async fn travel(&self) {
        let longest = if self.fails(8) { 3_000 } else { 60 };
        tokio::time::sleep(Duration::from_millis(1 + self.below(longest))).await;
        self.step().await;
    }

    /// Has done, or is about to do, what others can see.
    pub(crate) async fn step(&self) {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        if self.dies_at == Some(Death::Step(step)) {
            self.dead.cancel();
        }
        if let Some((_, still)) = self.stands_at.filter(|(at, _)| *at == step) {
            *self.stands_until.lock().unwrap() = Some(Instant::now() + still);
        }
        self.goes_on().await;
    }

    /// Waits while it stands still; for ever once it is dead.
    pub(crate) async fn goes_on(&self) {
        loop {
            if self.dead.is_cancelled() {
                std::future::pending::<()>().await;
            }
            let until = *self.stands_until.lock().unwrap();
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// Whether it died.
    pub(crate) fn died(&self) -> bool {
        self.dead.is_cancelled()
    }

    /// Whether it died at a poll, rather than at a step.
    pub(crate) fn died_at_a_poll(&self) -> bool {
        self.died() && matches!(self.dies_at, Some(Death::Poll(_)))
    }

    /// Whether it stood still, and whether it was told a wrong time.
    pub(crate) fn came_to(&self) -> (bool, bool) {
        (self.stands_until.lock().unwrap().is_some(), self.clock_jumped.load(Ordering::SeqCst))
    }
}
