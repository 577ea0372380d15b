//! The pipeline with a sink and a ledger in memory: faults are scripted, and what counts is what is committed.

mod ahead;
mod carrying;
pub(crate) mod fake;
mod faults;
mod purge;
mod rows;
mod simulation;
