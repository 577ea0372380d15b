//! Every kind of answer to a commit, and what it means.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::DateTime;
use tonic::{Code, Status};

use super::*;
use crate::error::Kind;
use crate::sink::Attempt;
use crate::sink::bigquery::fake::{Fake, Kept, TABLE};
use crate::sink::bigquery::staged::StagedStream;
use StorageErrorCode as S;

type Answer = Result<BatchCommitWriteStreamsResponse, Status>;

fn name(stream: usize) -> String {
    format!("{TABLE}/streams/s{stream}")
}

/// An answer without a commit time that says this of streams.
fn says(errors: &[(usize, S)]) -> Answer {
    let error = |(stream, code): &(usize, S)| StorageError {
        code: (*code).into(),
        entity: name(*stream),
        error_message: "so it is".into(),
    };
    Ok(BatchCommitWriteStreamsResponse { stream_errors: errors.iter().map(error).collect(), commit_time: None })
}

/// A status that says this of stream 0.
fn status(code: Code, storage: S) -> Answer {
    let error = StorageError { code: storage.into(), entity: name(0), error_message: "so it is".into() };
    let mut status =
        crate::sink::bigquery::write::rpc::Status { details: vec![Default::default()], ..Default::default() };
    status.details[0].type_url = "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into();
    status.details[0].value = prost::Message::encode_to_vec(&error);
    Err(Status::with_details(code, "no", prost::Message::encode_to_vec(&status).into()))
}

/// A server at which one or two streams of two rows stand prepared, and what the table has of the batch.
struct Scene {
    streams: usize,
    /// Streams that the server has; whether each says that it is committed.
    kept: Vec<(usize, bool)>,
    answers: Vec<Answer>,
    /// Rows that the table has.
    rows: u64,
}

impl Scene {
    fn of(answers: Vec<Answer>) -> Self {
        Self { streams: 1, kept: vec![(0, false)], answers, rows: 0 }
    }

    fn two(answers: Vec<Answer>) -> Self {
        Self { streams: 2, kept: vec![(0, false), (1, false)], answers, rows: 0 }
    }

    fn gone(mut self) -> Self {
        self.kept.clear();
        self
    }

    fn committed(mut self, streams: &[usize]) -> Self {
        self.kept = streams.iter().map(|stream| (*stream, true)).collect();
        self
    }

    fn rows(mut self, rows: u64) -> Self {
        self.rows = rows;
        self
    }

    /// What comes of the commit; how many commits and counts it took.
    async fn settle(self) -> (Result<CommitOutcome>, usize, usize) {
        let (fake, api) = Fake::start(&[]);
        for (stream, committed) in &self.kept {
            fake.state().streams.insert(name(*stream), Kept { committed: *committed, ..Kept::default() });
        }
        fake.state().row_count = Some(2);
        fake.state().commits.extend(self.answers);
        let streams = (0..self.streams).map(|stream| StagedStream { name: name(stream), rows: 2 });
        let attempt = Attempt { id: "a1".into(), loaded_at: DateTime::UNIX_EPOCH };
        let staged = Staged { attempt, streams: streams.collect() };
        let counts = AtomicUsize::new(0);
        let count = || {
            counts.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok(self.rows))
        };
        let outcome = settle(&api, TABLE, &staged, count).await;
        (outcome, fake.calls("commit"), counts.load(Ordering::Relaxed))
    }

    /// Checks the outcome, and how many commits and counts it took.
    async fn becomes(self, expected: CommitOutcome, commits: usize, counts: usize) {
        let (outcome, made, counted) = self.settle().await;
        assert_eq!((outcome.unwrap(), made, counted), (expected, commits, counts));
    }

    async fn fails(self, kind: Kind) -> Error {
        let error = self.settle().await.0.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", error.report());
        error
    }
}

use CommitOutcome::{Committed, Lost};

#[tokio::test]
async fn a_commit_time_is_success() {
    Scene::of(vec![]).becomes(Committed, 1, 0).await;
    Scene::two(vec![]).becomes(Committed, 1, 0).await;
}

#[tokio::test]
async fn streams_committed_before_are_success() {
    Scene::of(vec![says(&[(0, S::StreamAlreadyCommitted)])]).becomes(Committed, 1, 0).await;
    let both = says(&[(0, S::StreamAlreadyCommitted), (1, S::StreamAlreadyCommitted)]);
    Scene::two(vec![both]).becomes(Committed, 1, 0).await;
    Scene::of(vec![status(Code::FailedPrecondition, S::StreamAlreadyCommitted)]).becomes(Committed, 1, 0).await;
}

#[tokio::test]
async fn an_answer_that_says_nothing_is_asked_again_and_not_for_ever() {
    Scene::of(vec![says(&[]), says(&[])]).becomes(Committed, 3, 0).await;
    Scene::of(vec![says(&[]); 99]).fails(Kind::Retry).await;
}

#[tokio::test]
async fn an_answer_about_one_of_two_streams_is_looked_into() {
    let one = || says(&[(0, S::StreamAlreadyCommitted)]);
    Scene::two(vec![one(); 99]).fails(Kind::Retry).await;
    Scene::two(vec![one(); 99]).committed(&[0, 1]).becomes(Committed, 1, 0).await;
    Scene::two(vec![one(); 99]).rows(4).becomes(Committed, 1, 1).await;
    let mixed = says(&[(0, S::StreamAlreadyCommitted), (1, S::StreamNotFound)]);
    Scene::two(vec![mixed; 99]).committed(&[0]).fails(Kind::Retry).await;
}

#[tokio::test]
async fn an_invalid_state_is_looked_into_and_never_means_lost() {
    let invalid = || says(&[(0, S::InvalidStreamState)]);
    // Not finalized: it is, and the next commit works.
    Scene::of(vec![invalid()]).becomes(Committed, 2, 1).await;
    Scene::of(vec![invalid(); 99]).committed(&[0]).becomes(Committed, 1, 0).await;
    Scene::of(vec![invalid(); 99]).rows(2).becomes(Committed, 1, 1).await;
    Scene::of(vec![invalid(); 99]).fails(Kind::Retry).await;
    Scene::of(vec![invalid(); 99]).gone().fails(Kind::Retry).await;
    let as_status = || status(Code::FailedPrecondition, S::InvalidStreamState);
    Scene::of(vec![as_status(); 99]).rows(2).becomes(Committed, 1, 1).await;
    Scene::of(vec![Err(Status::failed_precondition("not finalized"))]).becomes(Committed, 2, 1).await;
}

#[tokio::test]
async fn streams_that_are_gone_are_lost_only_if_the_table_has_none_of_their_rows() {
    let gone = || says(&[(0, S::StreamNotFound)]);
    Scene::of(vec![gone()]).gone().becomes(Lost, 1, 1).await;
    Scene::of(vec![gone()]).gone().rows(2).becomes(Committed, 1, 1).await;
    Scene::of(vec![Err(Status::not_found("no such stream"))]).gone().becomes(Lost, 1, 1).await;
    Scene::of(vec![status(Code::NotFound, S::StreamNotFound)]).gone().becomes(Lost, 1, 1).await;
    let both = says(&[(0, S::StreamNotFound), (1, S::StreamNotFound)]);
    Scene::two(vec![both]).gone().becomes(Lost, 1, 1).await;
}

#[tokio::test]
async fn where_one_of_two_streams_is_said_to_be_gone_both_are_looked_for() {
    let tries = 4;
    let of_one = [says(&[(1, S::StreamNotFound)]), status(Code::NotFound, S::StreamNotFound)];
    for answer in of_one {
        let again = || Scene::two(vec![answer.clone(); 99]);
        again().gone().becomes(Lost, tries, tries + 1).await;
        again().gone().rows(4).becomes(Committed, 1, 1).await;
        // One of them is there, and may be committed yet.
        again().fails(Kind::Retry).await;
        again().committed(&[0]).fails(Kind::Retry).await;
    }
    Scene::two(vec![says(&[(1, S::StreamNotFound)])]).becomes(Committed, 2, 1).await;
}

#[tokio::test]
async fn some_of_the_rows_of_a_lost_stream_stop_the_table() {
    let gone = says(&[(0, S::StreamNotFound)]);
    let error = Scene::of(vec![gone]).gone().rows(1).fails(Kind::User).await;
    assert!(error.message().contains("1 of its 2 rows"), "{error}");
    assert!(error.hint_text().unwrap().contains("_cdc_batch"));
}

#[tokio::test]
async fn a_stream_that_is_there_after_all_is_not_lost() {
    let gone = || says(&[(0, S::StreamNotFound)]);
    Scene::of(vec![gone()]).fails(Kind::Retry).await;
    Scene::of(vec![gone()]).committed(&[0]).becomes(Committed, 1, 0).await;
    let both = || says(&[(0, S::StreamNotFound), (1, S::StreamNotFound)]);
    Scene::two(vec![both()]).committed(&[1]).fails(Kind::Retry).await;
    Scene::two(vec![both()]).committed(&[0, 1]).becomes(Committed, 1, 0).await;
}

#[tokio::test]
async fn what_passes_is_tried_again_later_and_what_does_not_stops_the_table() {
    Scene::of(vec![Err(Status::unavailable("busy"))]).fails(Kind::Retry).await;
    Scene::of(vec![Err(Status::deadline_exceeded("late"))]).fails(Kind::Retry).await;
    Scene::of(vec![Err(Status::permission_denied("no"))]).fails(Kind::User).await;
    Scene::of(vec![says(&[(0, S::KmsServiceError)])]).fails(Kind::Retry).await;
    let error = Scene::of(vec![says(&[(0, S::KmsPermissionDenied)])]).fails(Kind::User).await;
    assert!(error.hint_text().unwrap().contains("cloudkms"));
}

#[tokio::test]
async fn a_stream_with_other_rows_than_the_intent_says_stops_the_table() {
    let (fake, api) = Fake::start(&[]);
    fake.state().streams.insert(name(0), Kept::default());
    fake.state().row_count = Some(3);
    fake.state().commits.push_back(says(&[(0, S::InvalidStreamState)]));
    let attempt = Attempt { id: "a1".into(), loaded_at: DateTime::UNIX_EPOCH };
    let staged = Staged { attempt, streams: vec![StagedStream { name: name(0), rows: 2 }] };
    let error = settle(&api, TABLE, &staged, || std::future::ready(Ok(0))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
}
