//! Change files as DMS writes them, of any number and size, the same on each run.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::shapes::{Keys, Stretch, user_actions};

/// What is to be written.
#[derive(Debug, Clone)]
pub(crate) struct ChangeFiles {
    pub(crate) files: u64,
    pub(crate) file_rows: u64,
    pub(crate) group_rows: u64,
    pub(crate) keys: Keys,
    /// Whether each file is gzipped whole.
    pub(crate) gzip: bool,
}

impl ChangeFiles {
    /// Writes them to `casino/user_actions` below the folder; gives their bytes.
    pub(crate) fn write(&self, folder: &Path) -> u64 {
        let table = folder.join("casino/user_actions");
        std::fs::create_dir_all(&table).expect("a folder");
        let ending = if self.gzip { "parquet.gz" } else { "parquet" };
        let path = |number: u64| table.join(format!("20251121-{number:09}.{ending}"));
        (0..self.files).map(|number| self.write_file(number, path(number))).sum()
    }

    fn write_file(&self, number: u64, path: PathBuf) -> u64 {
        let file = File::create(&path).expect("a file");
        if self.gzip {
            let encoder = GzEncoder::new(file, flate2::Compression::new(6));
            self.write_rows(number, encoder).finish().expect("the disk takes all");
        } else {
            self.write_rows(number, file);
        }
        std::fs::metadata(path).expect("it was just written").len()
    }

    fn write_rows<W: Write + Send>(&self, number: u64, out: W) -> W {
        let rows = |first: u64, count: u64| user_actions(Stretch { first, count }, self.keys);
        let group = usize::try_from(self.group_rows).expect("a number");
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(group))
            .set_compression(Compression::SNAPPY)
            .build();
        let (first, end) = (number * self.file_rows, (number + 1) * self.file_rows);
        let mut writer = ArrowWriter::try_new(out, rows(first, 0).schema(), Some(properties)).expect("a plain schema");
        for first in (first..end).step_by(group) {
            writer.write(&rows(first, self.group_rows.min(end - first))).expect("the disk takes all");
        }
        writer.into_inner().expect("the disk takes all")
    }
}

/// The number that a variable of the environment names.
pub(crate) fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().expect("a number"))
}
