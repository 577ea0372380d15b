//! One SQL file as a plan: found, resolved, planned once per schema, checked, and bound to a batch's files.

pub mod bind;
pub mod descriptions;
pub mod functions;
mod latest;
pub mod names;
pub mod place;
pub mod planned;
pub mod query;
pub mod rules;
pub mod session;
pub mod syntax;
pub mod trace;

#[cfg(test)]
mod tests;
