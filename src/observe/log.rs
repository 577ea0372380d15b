//! Log lines on stderr: plain text on a terminal, one JSON object a line elsewhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that asks for more or fewer lines, such as `FRESHET_LOG=freshet=debug`.
pub const FILTER_VARIABLE: &str = "FRESHET_LOG";

/// Whether stderr is a terminal, where people watch progress instead of log lines.
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Starts logging; a second call changes nothing. Libraries are heard only when they warn. Where `watched`, people
/// at a terminal see progress instead of log lines.
pub fn start(watched: bool) {
    let quiet = watched && is_terminal();
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(if quiet { "error" } else { "error,freshet=info" }));
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in one process (a test) is refused, and the first stays.
    let _ = if is_terminal() {
        registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time()).try_init()
    } else {
        registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init()
    };
}
