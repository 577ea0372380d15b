//! A queue in memory that does as SQS does with visibility, counts of receipts and stale handles, and fails when told
//! to. Its time is the real one and what a test adds to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::queue::{Attributes, BATCH_MAX, Message, Queue, Refusal};
use crate::error::{Error, Result};

/// What can be asked of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Receive,
    Delete,
    Change,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FakeQueue(Arc<Mutex<Model>>);

#[derive(Debug, Default)]
struct Model {
    messages: Vec<Stored>,
    ahead: Duration,
    handles: u32,
    sent: u32,
    failures: HashMap<Action, Vec<Error>>,
    /// The next requests of this kind have all their entries refused, but not for ever.
    refusals: HashMap<Action, u32>,
    requests: HashMap<Action, u32>,
    /// The longest any request asked to wait.
    waits: Vec<Duration>,
}

#[derive(Debug)]
struct Stored {
    id: String,
    body: String,
    handle: Option<String>,
    visible_at: Instant,
}

impl Model {
    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn begin(&mut self, action: Action, entries: usize) -> Result<()> {
        assert!((1..=BATCH_MAX).contains(&entries), "{action:?} of {entries} messages");
        *self.requests.entry(action).or_default() += 1;
        match self.failures.get_mut(&action).and_then(Vec::pop) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn refuses(&mut self, action: Action) -> bool {
        let left = self.refusals.entry(action).or_default();
        let refuses = *left > 0;
        *left = left.saturating_sub(1);
        refuses
    }
}

fn refusal(index: usize, is_final: bool) -> Refusal {
    Refusal { index, is_final, why: if is_final { "ReceiptHandleIsInvalid" } else { "InternalError" }.into() }
}

impl FakeQueue {
    /// Sends messages; their ids.
    pub(super) fn send(&self, bodies: &[String]) -> Vec<String> {
        let mut model = self.0.lock().unwrap();
        let visible_at = model.now();
        let mut ids = Vec::new();
        for body in bodies {
            model.sent += 1;
            let id = format!("m{}", model.sent);
            ids.push(id.clone());
            model.messages.push(Stored { id, body: body.clone(), handle: None, visible_at });
        }
        ids
    }

    /// Lets time pass.
    pub(super) fn advance(&self, time: Duration) {
        self.0.lock().unwrap().ahead += time;
    }

    /// Its own time.
    pub(super) fn now(&self) -> Instant {
        self.0.lock().unwrap().now()
    }

    /// How many messages can be received now, and how many are hidden.
    pub(super) fn counts(&self) -> (usize, usize) {
        let model = self.0.lock().unwrap();
        let now = model.now();
        let visible = model.messages.iter().filter(|message| message.visible_at <= now).count();
        (visible, model.messages.len() - visible)
    }

    /// Receives as somebody else would.
    pub(super) async fn receive_elsewhere(&self) -> Vec<Message> {
        self.receive(Duration::ZERO, Duration::from_secs(30)).await.unwrap()
    }

    /// Lets the next requests of this kind fail so.
    pub(super) fn fail(&self, action: Action, errors: Vec<Error>) {
        self.0.lock().unwrap().failures.insert(action, errors);
    }

    /// Lets so many of the next requests refuse all their entries for now.
    pub(super) fn refuse(&self, action: Action, requests: u32) {
        self.0.lock().unwrap().refusals.insert(action, requests);
    }

    /// How many requests of this kind came.
    pub(super) fn requests(&self, action: Action) -> u32 {
        self.0.lock().unwrap().requests.get(&action).copied().unwrap_or_default()
    }

    /// How long each request was ready to wait for messages.
    pub(super) fn waits(&self) -> Vec<Duration> {
        self.0.lock().unwrap().waits.clone()
    }
}

#[async_trait]
impl Queue for FakeQueue {
    async fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes { visibility: Duration::from_secs(30), has_dead_letter_queue: true })
    }

    /// Where nothing is there it answers at once, as after a long wait.
    async fn receive(&self, wait: Duration, visibility: Duration) -> Result<Vec<Message>> {
        tokio::task::yield_now().await;
        let mut model = self.0.lock().unwrap();
        model.waits.push(wait);
        model.begin(Action::Receive, 1)?;
        let now = model.now();
        let mut handles = model.handles;
        let mut received = Vec::new();
        for stored in model.messages.iter_mut().filter(|stored| stored.visible_at <= now).take(BATCH_MAX) {
            handles += 1;
            stored.handle = Some(format!("h{handles}"));
            stored.visible_at = now + visibility;
            received.push(Message {
                id: stored.id.clone(),
                handle: format!("h{handles}"),
                body: stored.body.clone(),
                sent: None,
            });
        }
        model.handles = handles;
        Ok(received)
    }

    async fn delete(&self, handles: &[String]) -> Result<Vec<Refusal>> {
        tokio::task::yield_now().await;
        let mut model = self.0.lock().unwrap();
        model.begin(Action::Delete, handles.len())?;
        if model.refuses(Action::Delete) {
            return Ok((0..handles.len()).map(|index| refusal(index, false)).collect());
        }
        let mut refusals = Vec::new();
        for (index, handle) in handles.iter().enumerate() {
            let before = model.messages.len();
            model.messages.retain(|stored| stored.handle.as_ref() != Some(handle));
            if model.messages.len() == before {
                refusals.push(refusal(index, true));
            }
        }
        Ok(refusals)
    }

    async fn change_visibility(&self, handles: &[(String, Duration)]) -> Result<Vec<Refusal>> {
        tokio::task::yield_now().await;
        let mut model = self.0.lock().unwrap();
        model.begin(Action::Change, handles.len())?;
        if model.refuses(Action::Change) {
            return Ok((0..handles.len()).map(|index| refusal(index, false)).collect());
        }
        let now = model.now();
        let mut refusals = Vec::new();
        for (index, (handle, visibility)) in handles.iter().enumerate() {
            let in_flight = |stored: &&mut Stored| stored.handle.as_ref() == Some(handle) && stored.visible_at > now;
            match model.messages.iter_mut().find(in_flight) {
                Some(stored) => stored.visible_at = now + *visibility,
                None => refusals.push(refusal(index, true)),
            }
        }
        Ok(refusals)
    }
}
