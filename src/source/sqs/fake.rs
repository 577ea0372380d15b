//! A queue in memory that does as SQS does with visibility, stale handles and dead letters, and fails when told to. Its
//! time is the runtime's and what a test adds to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectMeta, ObjectStore};
use serde_json::json;
use tokio::time::Instant;

use super::SqsSource;
use super::queue::{Attributes, BATCH_MAX, Message, Queue, Refusal};
use crate::catalog::layout::Layout;
use crate::change::ChangeFile;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::source::object::{Object, ObjectRules, Outcome};
use crate::storage::S3Location;
use crate::trial::life::Life;

/// What can be asked of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Receive,
    Delete,
    Change,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeQueue {
    model: Arc<Mutex<Model>>,
    /// Whose view of the queue this is; None: of somebody who never fails.
    life: Option<Arc<Life>>,
}

#[derive(Debug, Default)]
struct Model {
    messages: Vec<Stored>,
    ahead: Duration,
    /// After so many receipts a message is a dead letter; None: never.
    receives_max: Option<u32>,
    dead_letters: usize,
    most_received: u32,
    /// Whether a request waits for messages as long as it says.
    waits_for_messages: bool,
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
    receives: u32,
}

impl Model {
    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// Turns what was received too often, and could be received once more, into dead letters.
    fn give_up(&mut self) {
        let (now, before) = (self.now(), self.messages.len());
        let most = self.receives_max.unwrap_or(u32::MAX);
        self.messages.retain(|stored| stored.receives < most || stored.visible_at > now);
        self.dead_letters += before - self.messages.len();
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

/// S3's event of a new object in the bucket `cdc-files`.
const EVENT_TIME: &str = "2024-05-06T07:08:09.123Z";

pub(crate) fn event(key: &str, size: usize, e_tag: &str) -> String {
    json!({"Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "eventTime": EVENT_TIME,
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "cdc-files"}, "object": {"key": key, "size": size, "eTag": e_tag}}
    }]})
    .to_string()
}

/// What is taken: the bucket `cdc-files` below `dms`.
pub(super) fn rules() -> ObjectRules {
    ObjectRules::new(S3Location::parse("s3://cdc-files/dms").unwrap(), Layout::known(), None)
}

/// The change files that are there, as a listing gives them.
pub(crate) async fn listed(store: &InMemory) -> Vec<ChangeFile> {
    let modified: DateTime<Utc> = EVENT_TIME.parse().unwrap();
    let found: Vec<ObjectMeta> = store.list(None).try_collect().await.unwrap();
    let file = |meta: ObjectMeta| {
        let (key, e_tag) = (meta.location.as_ref(), meta.e_tag.as_deref());
        let object = Object { bucket: "cdc-files", key, size: meta.size, e_tag, modified };
        match rules().change_file(&object).unwrap() {
            Outcome::Change(file) => Some(*file),
            _ => None,
        }
    };
    found.into_iter().filter_map(file).collect()
}

fn refusal(index: usize, is_final: bool) -> Refusal {
    Refusal { index, is_final, why: if is_final { "ReceiptHandleIsInvalid" } else { "InternalError" }.into() }
}

impl FakeQueue {
    /// One that waits for messages, and gives up those that were received so often, if that is bounded.
    pub(crate) fn patient(receives_max: Option<u32>) -> Self {
        let model = Model { receives_max, waits_for_messages: true, ..Model::default() };
        Self { model: Arc::new(Mutex::new(model)), life: None }
    }

    /// The same queue, as one life sees it.
    pub(crate) fn lived(&self, life: &Arc<Life>) -> Self {
        Self { life: Some(Arc::clone(life)), ..self.clone() }
    }

    async fn step(&self) {
        match &self.life {
            Some(life) => life.step().await,
            None => tokio::task::yield_now().await,
        }
    }

    /// The way back of an answer, on which it may get lost.
    async fn answer<T>(&self, answer: T) -> Result<T> {
        let Some(life) = &self.life else { return Ok(answer) };
        life.step().await;
        if life.fails(30) { Err(Error::retry("the queue's answer was lost")) } else { Ok(answer) }
    }

    /// What it tells of the bucket `cdc-files` below `dms`, whose objects are in `store`.
    pub(crate) async fn source(&self, store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>) -> SqsSource {
        SqsSource::start(Box::new(self.clone()), rules(), store, None, clock).await.unwrap()
    }

    /// The bodies of all messages, and how often each was received.
    pub(crate) fn bodies(&self) -> Vec<(String, u32)> {
        let model = self.model.lock().unwrap();
        model.messages.iter().map(|stored| (stored.body.clone(), stored.receives)).collect()
    }

    /// Messages that were given up, and how often any was received.
    pub(crate) fn dead_letters(&self) -> (usize, u32) {
        let model = self.model.lock().unwrap();
        (model.dead_letters, model.most_received)
    }

    /// Sends messages; their ids.
    pub(crate) fn send(&self, bodies: &[String]) -> Vec<String> {
        let mut model = self.model.lock().unwrap();
        let visible_at = model.now();
        let mut ids = Vec::new();
        for body in bodies {
            model.sent += 1;
            let id = format!("m{}", model.sent);
            ids.push(id.clone());
            model.messages.push(Stored { id, body: body.clone(), handle: None, visible_at, receives: 0 });
        }
        ids
    }

    /// Lets time pass.
    pub(super) fn advance(&self, time: Duration) {
        self.model.lock().unwrap().ahead += time;
    }

    /// Its own time.
    pub(super) fn now(&self) -> Instant {
        self.model.lock().unwrap().now()
    }

    /// How many messages can be received now, and how many are hidden.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let model = self.model.lock().unwrap();
        let now = model.now();
        let visible = model.messages.iter().filter(|message| message.visible_at <= now).count();
        (visible, model.messages.len() - visible)
    }

    /// Whether a request is to wait on: there is nothing for it yet.
    fn waits_for_messages(&self) -> bool {
        let waits = self.model.lock().unwrap().waits_for_messages;
        waits && self.counts().0 == 0
    }

    /// Receives as somebody else would.
    pub(super) async fn receive_elsewhere(&self) -> Vec<Message> {
        self.receive(Duration::ZERO, Duration::from_secs(30)).await.unwrap()
    }

    /// Lets the next requests of this kind fail so.
    pub(super) fn fail(&self, action: Action, errors: Vec<Error>) {
        self.model.lock().unwrap().failures.insert(action, errors);
    }

    /// Lets so many of the next requests refuse all their entries for now.
    pub(super) fn refuse(&self, action: Action, requests: u32) {
        self.model.lock().unwrap().refusals.insert(action, requests);
    }

    /// How many requests of this kind came.
    pub(super) fn requests(&self, action: Action) -> u32 {
        self.model.lock().unwrap().requests.get(&action).copied().unwrap_or_default()
    }

    /// How long each request was ready to wait for messages.
    pub(super) fn waits(&self) -> Vec<Duration> {
        self.model.lock().unwrap().waits.clone()
    }
}

#[async_trait]
impl Queue for FakeQueue {
    async fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes { visibility: Duration::from_secs(30), has_dead_letter_queue: true })
    }

    /// Where nothing is there it answers at once, as after a long wait, unless it is to wait.
    async fn receive(&self, wait: Duration, visibility: Duration) -> Result<Vec<Message>> {
        self.step().await;
        let until = Instant::now() + wait;
        while self.waits_for_messages() && Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Some(life) = &self.life {
                life.goes_on().await;
            }
        }
        let received = self.model.lock().unwrap().receive(wait, visibility)?;
        self.answer(received).await
    }

    async fn delete(&self, handles: &[String]) -> Result<Vec<Refusal>> {
        self.step().await;
        let refusals = self.model.lock().unwrap().delete(handles)?;
        self.answer(refusals).await
    }

    async fn change_visibility(&self, handles: &[(String, Duration)]) -> Result<Vec<Refusal>> {
        self.step().await;
        let refusals = self.model.lock().unwrap().change_visibility(handles)?;
        self.answer(refusals).await
    }
}

impl Model {
    fn receive(&mut self, wait: Duration, visibility: Duration) -> Result<Vec<Message>> {
        self.give_up();
        self.waits.push(wait);
        self.begin(Action::Receive, 1)?;
        let now = self.now();
        let mut handles = self.handles;
        let mut received = Vec::new();
        for stored in self.messages.iter_mut().filter(|stored| stored.visible_at <= now).take(BATCH_MAX) {
            handles += 1;
            stored.handle = Some(format!("h{handles}"));
            stored.visible_at = now + visibility;
            stored.receives += 1;
            received.push(Message {
                id: stored.id.clone(),
                handle: format!("h{handles}"),
                body: stored.body.clone(),
                sent: None,
            });
        }
        self.handles = handles;
        self.most_received =
            self.messages.iter().map(|stored| stored.receives).max().unwrap_or(0).max(self.most_received);
        Ok(received)
    }

    fn delete(&mut self, handles: &[String]) -> Result<Vec<Refusal>> {
        self.begin(Action::Delete, handles.len())?;
        if self.refuses(Action::Delete) {
            return Ok((0..handles.len()).map(|index| refusal(index, false)).collect());
        }
        let mut refusals = Vec::new();
        for (index, handle) in handles.iter().enumerate() {
            let before = self.messages.len();
            self.messages.retain(|stored| stored.handle.as_ref() != Some(handle));
            if self.messages.len() == before {
                refusals.push(refusal(index, true));
            }
        }
        Ok(refusals)
    }

    fn change_visibility(&mut self, handles: &[(String, Duration)]) -> Result<Vec<Refusal>> {
        self.begin(Action::Change, handles.len())?;
        if self.refuses(Action::Change) {
            return Ok((0..handles.len()).map(|index| refusal(index, false)).collect());
        }
        let now = self.now();
        let mut refusals = Vec::new();
        for (index, (handle, visibility)) in handles.iter().enumerate() {
            let in_flight = |stored: &&mut Stored| stored.handle.as_ref() == Some(handle) && stored.visible_at > now;
            match self.messages.iter_mut().find(in_flight) {
                Some(stored) => stored.visible_at = now + *visibility,
                None => refusals.push(refusal(index, true)),
            }
        }
        Ok(refusals)
    }
}
