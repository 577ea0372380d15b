//! freshet carries change-data-capture files through SQL into tables. See ARCHITECTURE.md.
//!
//! The modules in reading order; each imports only from those above it. The comments keep them in this order.

// Values, without I/O.
pub mod error;
// ↓
pub mod clock;
pub mod trial;
// ↓
pub mod change;

// What the user wrote, files as tables, SQL as plans.
pub mod config;
// ↓
pub mod storage;
// ↓
pub mod catalog;
// ↓
pub mod transform;

// The three that never import each other, and where they meet.
pub mod source;
// ↓
pub mod sink;
// ↓
pub mod ledger;
pub mod pipeline;

// The loop over it.
pub mod daemon;

// What people use.
pub mod adhoc;
pub mod observe;
// ↓
pub mod cli;
