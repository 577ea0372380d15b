//! How the program is put on trial: moments at which a test may kill it, mistakes that tests plant and must find, and
//! lives in which things go wrong.

#[cfg(test)]
pub(crate) mod dice;
pub mod failpoint;
#[cfg(test)]
pub(crate) mod life;
pub(crate) mod planted;
