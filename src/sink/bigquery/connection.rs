//! One AppendRows connection: requests go out and answers come in by a task of its own, so that rows are on their
//! way while the next are made.

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Status, Streaming};

use super::frames;
use super::status::Refusal;
use super::write::WriteApi;
use super::write::proto::{AppendRowsRequest, AppendRowsResponse};
use crate::error::Result;

/// Requests, or answers, that may wait.
pub(super) const REQUESTS_MAX: usize = 64;

/// A connection; it ends when dropped.
pub(super) struct Connection {
    requests: mpsc::Sender<AppendRowsRequest>,
    answers: mpsc::Receiver<Result<AppendRowsResponse, Refusal>>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Begins a connection for the stream of that name; whether it stands is told by its first answer.
    ///
    /// # Errors
    /// Where no token can be had.
    pub(super) async fn open(api: &WriteApi, stream: &str) -> Result<Self> {
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        let (answered, answers) = mpsc::channel(REQUESTS_MAX);
        let (channel, headers) = api.row_channel(stream).await?;
        let opening = frames::append_rows(channel, headers, waiting, api.compression);
        let task = tokio::spawn(async move {
            // Nobody listens any more where this cannot be sent.
            let _ = answered.send(Err(run(opening, &answered).await)).await;
        });
        Ok(Self { requests, answers, task })
    }

    /// Hands over a request, if there is room.
    pub(super) fn send(&self, request: AppendRowsRequest) -> bool {
        // A connection that has ended says so by its last answer.
        !matches!(self.requests.try_send(request), Err(mpsc::error::TrySendError::Full(_)))
    }

    /// The next answer, or why there will be none.
    pub(super) async fn answer(&mut self) -> Result<AppendRowsResponse, Refusal> {
        self.answers.recv().await.unwrap_or_else(|| Err(ended()))
    }

    /// The next answer, if one is there.
    pub(super) fn answered(&mut self) -> Option<Result<AppendRowsResponse, Refusal>> {
        match self.answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Err(ended())),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes answers on until there are no more; gives why.
async fn run(
    opening: impl Future<Output = Result<Streaming<AppendRowsResponse>, Status>>,
    answered: &mpsc::Sender<Result<AppendRowsResponse, Refusal>>,
) -> Refusal {
    let mut answers = match opening.await {
        Ok(answers) => answers,
        Err(status) => return status.into(),
    };
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                if answered.send(Ok(answer)).await.is_err() {
                    return ended();
                }
            }
            Ok(None) => return ended(),
            Err(status) => return status.into(),
        }
    }
}

fn ended() -> Refusal {
    Refusal::new(Code::Unavailable, "the connection ended")
}
