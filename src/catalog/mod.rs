//! Change files as DataFusion tables: their bytes, formats, schemas, layouts and `_cdc_` columns.
//!
//! Files are named explicitly, with size and eTag; nothing here lists or probes a store.

pub mod bits;
pub mod casts;
pub mod cdc;
pub mod content;
pub mod csv;
mod gzip;
pub mod inflate;
pub mod layout;
pub mod opened;
pub mod parquet;
pub mod row_set;
mod scan;
pub mod shape;
pub mod split;
pub mod table;
pub mod version;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
