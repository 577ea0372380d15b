//! The HTTP client for services that are asked without a client of their own.

use std::time::Duration;

use url::Url;

use crate::error::{Error, Result};

const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A client of the server at `url`, which waits so long for an answer and goes nowhere else.
///
/// # Errors
/// [`Bug`](crate::error::Kind::Bug): there is one on every machine.
pub fn http_client(url: &Url, answer_max: Duration) -> Result<reqwest::Client> {
    let client = reqwest::Client::builder()
        .user_agent(concat!("freshet/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_MAX)
        .timeout(answer_max)
        .redirect(reqwest::redirect::Policy::none());
    // Plain http is a server for tests nearby, which no proxy can reach.
    let client = if url.scheme() == "http" { client.no_proxy() } else { client };
    client.build().map_err(|cause| Error::bug("there is no HTTP client").because(cause))
}
