//! The latest change of each key, read in two passes: what users write with `row_number() … = 1` is found in plans and
//! rewritten so.
//!
//! The first pass reads keys and order alone and keeps, for each key, the number of one row; the second reads just those
//! rows whole. So neither a sort nor all rows are ever held in memory, and most values are never decoded.

use datafusion::common::config::ConfigExtension;
use datafusion::common::extensions_options;

mod exec;
mod input;
mod keys;
mod provider;
mod rule;
mod spill;
#[cfg(test)]
mod tests;
mod winners;
mod words;

pub(super) use rule::LatestPerKey;

extensions_options! {
    /// Settings of freshet's own, as in `SET freshet.latest_per_key = false`.
    pub struct Settings {
        /// Whether the latest row of each key is found in two passes; else by sorting all rows.
        pub latest_per_key: bool, default = true
    }
}

impl ConfigExtension for Settings {
    const PREFIX: &'static str = "freshet";
}
