//! The catalog through what it gives: bytes, schemas and rows of change files.

mod cdc;
mod content;
mod csv;
mod inflate;
mod opened;
mod predicates;
mod row_groups;
mod table;
