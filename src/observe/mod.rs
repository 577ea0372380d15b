//! What people and machines see of a run: progress on a terminal, JSON lines elsewhere.

pub mod log;
pub mod progress;
