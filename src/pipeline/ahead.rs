//! Opens the files of the next batch while one is carried: fetching and inflating need not be waited for then.
//!
//! Nothing depends on it: a file that could not be opened ahead is opened in its turn, and only then its error is told.

use std::collections::{HashMap, HashSet};

use datafusion::common::runtime::SpawnedTask;
use futures::StreamExt;

use crate::catalog::opened::{OPENED_AT_ONCE, OpenedFile, Opener};
use crate::change::{ChangeFile, FileFormat, FileId};
use crate::config::CsvConfig;

/// Files that are being opened, or wait opened; what is not taken is given up when this is dropped.
pub(super) struct Ahead {
    files: HashSet<FileId>,
    opening: SpawnedTask<HashMap<FileId, OpenedFile>>,
}

impl Ahead {
    /// Begins to open these files, as far as the first that cannot be opened: there may be no room.
    pub(super) fn begin(opener: &Opener, csv: &CsvConfig, mut files: Vec<ChangeFile>) -> Self {
        files.retain(is_worth);
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
                .take_while(|opened| std::future::ready(opened.is_some()))
                .filter_map(std::future::ready)
                .collect()
                .await
        };
        Self { files: ids, opening: SpawnedTask::spawn(opening) }
    }

    /// Whether it is these files that it opens.
    pub(super) fn is_of(&self, files: &[ChangeFile]) -> bool {
        files.iter().any(|file| self.files.contains(&file.id()))
    }

    /// Those that were opened, once none is left to try.
    pub(super) async fn opened(self) -> HashMap<FileId, OpenedFile> {
        self.opening.join().await.unwrap_or_default()
    }
}

/// Of plain Parquet on a disk only the footer is read, which takes no time; until the rest is read it could change.
fn is_worth(file: &ChangeFile) -> bool {
    file.gzip || file.format != FileFormat::Parquet || !file.is_on_disk()
}
