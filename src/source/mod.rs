//! Where change files come from: a source delivers them and is told last that they are done.

use async_trait::async_trait;

use crate::change::ChangeFile;
use crate::error::{Error, Result};

pub mod folder;

/// Change files that arrived together, and how to acknowledge them.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The files; of one table or several.
    pub files: Vec<ChangeFile>,
    /// The source's own name for the delivery.
    pub receipt: String,
}

/// What one call of [`Source::receive`] brought.
#[derive(Debug, Default)]
pub struct Received {
    /// Deliveries that must be acknowledged or given back.
    pub deliveries: Vec<Delivery>,
    /// What could not be understood and is left where it is; each error names its file.
    pub left: Vec<Error>,
}

/// A place that delivers change files, at least once and in no order.
#[async_trait]
pub trait Source: Send + Sync {
    /// The next deliveries; none where nothing is there now.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry) where the source cannot be reached now,
    /// [`User`](crate::error::Kind::User) where it never will be.
    async fn receive(&self) -> Result<Received>;

    /// Tells the source that every file of these deliveries is done. Called only after their commit.
    ///
    /// # Errors
    /// [`Retry`](crate::error::Kind::Retry): the deliveries will come again, which is harmless.
    async fn acknowledge(&self, deliveries: &[Delivery]) -> Result<()>;
}
