//! freshet carries change-data-capture files through SQL into tables. See ARCHITECTURE.md.
//!
//! The modules in reading order; each imports only from those above it.

pub mod adhoc;
pub mod batch;
pub mod catalog;
pub mod change;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod ledger;
pub mod observe;
pub mod pipeline;
pub mod sink;
pub mod source;
pub mod transform;
pub mod types;
