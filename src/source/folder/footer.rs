//! How many rows a Parquet file's footer tells before it is read.

use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::file::metadata::ParquetMetaDataReader;

use crate::catalog::layout::Named;
use crate::change::FileFormat;

/// A footer above this is not read only to count rows.
const FOOTER_BYTES_MAX: u64 = 1 << 20;
/// The footer's length and the four letters at the end of every Parquet file.
const TAIL_BYTES: u64 = 8;

/// The rows of a listed file, where that can be told without reading them; None where there is no sound footer: reading the
/// file will say why.
pub(super) async fn rows(store: &dyn ObjectStore, meta: &ObjectMeta, named: &Named) -> Option<u64> {
    match named.format {
        FileFormat::Parquet if !named.gzip => footer_rows(store, &meta.location, meta.size).await,
        FileFormat::Parquet | FileFormat::Csv => None,
    }
}

async fn footer_rows(store: &dyn ObjectStore, path: &Path, size: u64) -> Option<u64> {
    let footer_end = size.checked_sub(TAIL_BYTES)?;
    let tail = store.get_range(path, footer_end..size).await.ok()?;
    let (length, letters) = tail.split_first_chunk::<4>()?;
    let length = u64::from(u32::from_le_bytes(*length));
    if letters != b"PAR1" || length > FOOTER_BYTES_MAX {
        return None;
    }
    let footer = store.get_range(path, footer_end.checked_sub(length)?..footer_end).await.ok()?;
    let metadata = ParquetMetaDataReader::decode_metadata(&footer).ok()?;
    u64::try_from(metadata.file_metadata().num_rows()).ok()
}
