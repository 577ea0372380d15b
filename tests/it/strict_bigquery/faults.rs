//! Trouble on demand: a test says which calls go wrong and how.

use std::sync::Mutex;
use std::time::Duration;

/// How a call goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// The connection is cut before the call has any effect.
    LostBefore,
    /// The call takes effect, then the connection is cut.
    LostAfter,
    /// The connection is cut when so many more bytes of it were read; on `Connect` or a REST call.
    CutAfterBytes(usize),
    /// A gRPC error without effect, such as [`tonic::Code::Unavailable`].
    Grpc(tonic::Code),
    /// An HTTP error without effect, such as 429 or 503.
    Http(u16),
    /// The job that is inserted fails without effect, for this reason, such as `backendError`.
    JobFails(&'static str),
    /// The call takes effect, and is answered so much later.
    Slow(Duration),
    /// The call takes effect, and is answered once calls of its method were about so many streams or tables; of gRPC only.
    HeldUntilPaths(usize),
    /// `BatchCommitWriteStreams` answers OK with neither a commit time nor an error, and has no effect.
    NoCommitTime,
}

/// One kind of trouble for some calls.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    on: String,
    skip: usize,
    times: usize,
    what: What,
}

impl Fault {
    /// The next call whose name holds `on` goes wrong. Names are `POST /bigquery/v2/projects/p/jobs`,
    /// `AppendRows projects/p/datasets/d/tables/t/streams/s`, `Connect`, `BatchCommitWriteStreams
    /// projects/p/datasets/d/tables/t`.
    pub(crate) fn on(on: impl Into<String>, what: What) -> Self {
        Self { on: on.into(), skip: 0, times: 1, what }
    }

    /// Spares the first calls.
    #[must_use]
    pub(crate) fn skip(self, calls: usize) -> Self {
        Self { skip: calls, ..self }
    }

    /// Strikes so many calls instead of one.
    #[must_use]
    pub(crate) fn times(self, calls: usize) -> Self {
        Self { times: calls, ..self }
    }
}

/// The faults still to come.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Adds a fault; where several fit a call, the oldest strikes.
    pub(crate) fn push(&self, fault: Fault) {
        self.0.lock().unwrap().push(fault);
    }

    /// From here on nothing goes wrong.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// How many calls are still to go wrong: 0 where every fault has struck.
    pub(crate) fn left(&self) -> usize {
        self.0.lock().unwrap().iter().map(|fault| fault.times).sum()
    }

    /// What befalls this call.
    pub(super) fn strike(&self, call: &str) -> Option<What> {
        let mut faults = self.0.lock().unwrap();
        let mut struck = None;
        for fault in faults.iter_mut().filter(|fault| call.contains(&fault.on)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if struck.is_none() {
                fault.times -= 1;
                struck = Some(fault.what.clone());
            }
        }
        faults.retain(|fault| fault.times > 0);
        struck
    }
}
