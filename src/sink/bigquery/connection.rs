//! One AppendRows connection: requests go out and answers come in by a task of its own, so that rows are on their
//! way while the next are made.

use futures::stream::poll_fn;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Request};

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
        let (requests, mut waiting) = mpsc::channel(REQUESTS_MAX);
        let (answered, answers) = mpsc::channel(REQUESTS_MAX);
        let outgoing = poll_fn(move |context| waiting.poll_recv(context));
        let request = api.request(outgoing, "write_stream", stream).await?;
        let client = api.rows_client();
        let task = tokio::spawn(async move {
            // Nobody listens any more where this cannot be sent.
            let _ = answered.send(Err(run(client, request, &answered).await)).await;
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
async fn run<S>(
    mut client: super::write::proto::big_query_write_client::BigQueryWriteClient<tonic::transport::Channel>,
    request: Request<S>,
    answered: &mpsc::Sender<Result<AppendRowsResponse, Refusal>>,
) -> Refusal
where
    S: futures::Stream<Item = AppendRowsRequest> + Send + 'static,
{
    let mut answers = match client.append_rows(request).await {
        Ok(response) => response.into_inner(),
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
