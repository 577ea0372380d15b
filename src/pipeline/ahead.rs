//! Opens the files of the next batch while one is carried: fetching and inflating need not be waited for then.
//!
//! Nothing depends on it: a file that could not be opened ahead is opened in its turn, and only then its error is told.

use std::collections::HashMap;

use datafusion::common::runtime::SpawnedTask;
use futures::StreamExt;

use crate::catalog::opened::{OPENED_AT_ONCE, OpenedFile, Opener};
use crate::change::{ChangeFile, FileId};
use crate::config::CsvConfig;

/// Files that are being opened, or wait opened; what is not taken is given up when this is dropped.
pub(super) struct Ahead {
    files: Vec<FileId>,
    opening: SpawnedTask<HashMap<FileId, OpenedFile>>,
}

impl Ahead {
    /// Begins to open these files.
    pub(super) fn begin(opener: &Opener, csv: &CsvConfig, files: Vec<ChangeFile>) -> Self {
        let ids = files.iter().map(ChangeFile::id).collect();
        let (opener, csv) = (opener.ahead(), csv.clone());
        let opening = async move {
            let one = |file: ChangeFile| async {
                let id = file.id();
                opener.open(file, &csv).await.ok().map(|opened| (id, opened))
            };
            futures::stream::iter(files)
                .map(one)
                .buffered(OPENED_AT_ONCE)
                .filter_map(std::future::ready)
                .collect()
                .await
        };
        Self { files: ids, opening: SpawnedTask::spawn(opening) }
    }

    /// Whether it is these files that it opens.
    pub(super) fn is_of(&self, files: &[ChangeFile]) -> bool {
        files.first().is_some_and(|first| self.files.contains(&first.id()))
    }

    /// Those that could be opened, once each was tried.
    pub(super) async fn opened(self) -> HashMap<FileId, OpenedFile> {
        self.opening.join().await.unwrap_or_default()
    }
}
