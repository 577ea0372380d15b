//! What is known of the messages: those in hand, what they deliver, what was told, and counts. Pure bookkeeping.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::contents::Contents;
use super::hand::{Hand, Receipt};
use super::queue::{Message, Refusal};
use super::recent::Recent;
use crate::change::{ChangeFile, FileId};
use crate::error::Error;
use crate::source::Delivery;
use crate::source::object::ObjectRules;

/// What could not be deleted is tried again so often, whatever else happens.
const DELETE_AGAIN: Duration = Duration::from_secs(10);
/// The ids of so many messages that were left are remembered, so that each is told once.
const TOLD_MAX: usize = 10_000;
/// So many files that came and were done are remembered, so that a sweep need not bring them.
const FINISHED_MAX: usize = 200_000;

/// What happened at the queue since the source was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages received, those included that came again.
    pub received: u64,
    /// Messages that came again while they were in hand.
    pub redelivered: u64,
    /// Messages handed on as deliveries.
    pub delivered: u64,
    /// Messages deleted.
    pub deleted: u64,
    /// Messages given back.
    pub given_back: u64,
    /// Messages, each time they came, that were left in the queue: not understood, or another's.
    pub left: u64,
    /// S3's tests.
    pub test_events: u64,
    /// Events of no use: objects that were removed, markers, files from before `since`.
    pub ignored: u64,
    /// How often a message was hidden for longer.
    pub beats: u64,
    /// Messages let go because they were in hand for almost 12 hours.
    pub let_go: u64,
    /// Messages that had been received elsewhere, or were gone, when they were to be deleted.
    pub lost: u64,
    /// Files handed on that were found by listing.
    pub swept: u64,
    /// How long the last message had waited until it was received, in ms.
    pub wait_ms: u64,
    /// Messages in hand now.
    pub in_hand: u64,
}

impl Counts {
    /// Puts them into the log.
    pub(super) fn say(&self) {
        tracing::info!(
            received = self.received,
            redelivered = self.redelivered,
            delivered = self.delivered,
            deleted = self.deleted,
            given_back = self.given_back,
            left = self.left,
            test_events = self.test_events,
            ignored = self.ignored,
            beats = self.beats,
            let_go = self.let_go,
            lost = self.lost,
            swept = self.swept,
            wait_ms = self.wait_ms,
            in_hand = self.in_hand,
            "queue"
        );
    }
}

/// The books.
pub(super) struct State {
    pub hand: Hand,
    /// Deliveries that nobody has asked for yet: what one `receive` brings, or a sweep finds.
    pub ready: VecDeque<Delivery>,
    pub left: Vec<Error>,
    told: Recent<String>,
    finished: Recent<FileId>,
    pub counts: Counts,
}

impl Default for State {
    fn default() -> Self {
        Self {
            hand: Hand::default(),
            ready: VecDeque::new(),
            left: Vec::new(),
            told: Recent::new(TOLD_MAX),
            finished: Recent::new(FINISHED_MAX),
            counts: Counts::default(),
        }
    }
}

impl State {
    /// What happened so far.
    pub(super) fn counts(&self) -> Counts {
        Counts { in_hand: u64::try_from(self.hand.len()).unwrap_or(u64::MAX), ..self.counts }
    }

    /// Notes how long a message had waited until now.
    pub(super) fn note_wait(&mut self, message: &Message, now: DateTime<Utc>) {
        if let Some(sent) = message.sent {
            self.counts.wait_ms = u64::try_from(now.signed_duration_since(sent).num_milliseconds()).unwrap_or(0);
        }
    }

    /// Takes in a message that was received just now and is hidden for so long.
    pub(super) fn take(&mut self, message: Message, rules: &ObjectRules, now: Instant, hidden: Duration) {
        self.counts.received += 1;
        let receipt = Receipt { id: message.id.clone(), handle: message.handle.clone() };
        if self.hand.again(&receipt, now, hidden) {
            self.counts.redelivered += 1;
            return;
        }
        let contents = Contents::of(&message, rules);
        self.counts.ignored += contents.ignored;
        self.counts.test_events += u64::from(contents.is_test);
        let fate = contents.fate();
        self.counts.left += u64::from(fate.is_none());
        if !contents.troubles.is_empty() && self.told.insert(message.id) {
            self.left.extend(contents.troubles);
        }
        let Some(fate) = fate else { return };
        let files = contents.files.iter().map(ChangeFile::id).collect();
        if !contents.files.is_empty() {
            self.counts.delivered += 1;
            self.ready.push_back(Delivery { files: contents.files, receipt: receipt.id.clone() });
        }
        self.hand.take(receipt, fate, files, now, hidden);
    }

    /// Takes in what was found by listing; files in hand or done are left out.
    pub(super) fn offer(&mut self, deliveries: Vec<Delivery>, left: Vec<Error>) {
        let held = self.hand.files();
        let is_known = |file: &ChangeFile| held.contains(&file.id()) || self.finished.contains(&file.id());
        let new = deliveries.into_iter().filter(|delivery| !delivery.files.iter().all(is_known));
        let new: Vec<Delivery> = new.collect();
        self.counts.swept += u64::try_from(new.len()).unwrap_or(0);
        self.ready.extend(new);
        self.left.extend(left);
    }

    /// Notes that these messages are done.
    pub(super) fn finish(&mut self, ids: &[&str]) {
        for id in ids {
            let files = self.hand.files_of(id).to_vec();
            if self.hand.finish(id) {
                files.into_iter().for_each(|file| _ = self.finished.insert(file));
            }
        }
    }

    /// Notes that a receipt was deleted, or that it names nothing any more. A message that was received anew meanwhile
    /// is still to be deleted.
    pub(super) fn deleted(&mut self, receipt: &Receipt, gone: Option<&Refusal>) {
        if !self.hand.forget(receipt) {
            return;
        }
        match gone {
            None => self.counts.deleted += 1,
            Some(refusal) => {
                self.counts.lost += 1;
                tracing::debug!(message = receipt.id, why = refusal.why, "a message had gone before its deletion");
            }
        }
    }

    /// Messages that had to be let go, and those to be hidden for longer.
    pub(super) fn due(&mut self, now: Instant, visibility: Duration) -> (Vec<String>, Vec<(Receipt, Duration)>) {
        let old = self.hand.let_go(now);
        self.counts.let_go += u64::try_from(old.len()).unwrap_or(0);
        (old, self.hand.due(now, visibility))
    }

    /// When something must be done next; None: not before something is taken.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let again = self.hand.has_done().then(|| now + DELETE_AGAIN);
        self.hand.next_due().into_iter().chain(again).min()
    }
}
