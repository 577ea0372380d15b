//! The program as its users see it: the real binary on real files, its tables compared with what was computed apart.
//!
//! Every test works in a folder of its own. What needs Python fails, rather than being skipped, where it is missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of this is tests")]

mod bigquery_sink;
mod binary;
mod bqemulator;
mod change_files;
mod daemon;
mod delta_table;
mod logged_run;
mod mariadb;
mod ministack;
mod python;
mod scene;
mod strict_bigquery;
mod until;
mod warehouse;

mod backfill;
mod bad_files;
mod bad_sql;
mod bigquery_emulator;
mod chaos;
mod dms;
mod formats;
#[cfg(target_os = "linux")]
mod full_disk;
mod gzip;
mod kills;
mod load;
mod oracle;
mod production;
mod purge;
mod query;
mod readme;
mod rebuild;
mod reload;
mod s3;
mod sqs;
mod strict_bigquery_rules;
mod tidy;
mod verbs;
