//! The strict BigQuery enforces its rules, each shown once by plain clients.

mod alter;
mod changes;
mod client;
mod faults;
mod jobs;
mod merge;
mod rest;
mod rows;
mod sink;
mod widening;
mod write;
