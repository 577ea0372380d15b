//! Log lines on stderr: plain text on a terminal, one JSON object a line elsewhere.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The variable that asks for more or fewer lines, such as `FRESHET_LOG=freshet=debug`.
pub const FILTER_VARIABLE: &str = "FRESHET_LOG";

/// Whether stderr is a terminal, where people watch progress instead of log lines.
pub fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Starts logging, also of panics; a second call changes nothing. Libraries are heard only when they warn. Where `watched`, people
/// at a terminal see progress instead of log lines.
pub fn start(watched: bool) {
    let quiet = watched && is_terminal();
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(if quiet { "error" } else { "error,freshet=info" }));
    let registry = tracing_subscriber::registry().with(filter);
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match tracing::enabled!(tracing::Level::ERROR) {
        true => tell_panic(panic),
        false => otherwise(panic),
    }));
    // A second start in one process (a test) is refused, and the first stays.
    let _ = if is_terminal() {
        registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time()).try_init()
    } else {
        registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init()
    };
}

/// A panic is a line of the log like any other. What it stops is told where it is noticed: most cost a file or a table.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    if is_echo(what, &place) {
        tracing::debug!(place, "a part of the program broke down: {what}");
        return;
    }
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(place, backtrace, "a part of the program broke down: {what}");
}

/// deltalake asks a writer once more whose error, a full disk for one, it has told already.
fn is_echo(what: &str, place: &str) -> bool {
    what == "Already shut down" && place.contains("object_store") && place.contains("buffered.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_writer_that_is_asked_once_more_is_an_echo() {
        let place = "/registry/src/index/object_store-0.13.2/src/buffered.rs:369:41";
        assert!(is_echo("Already shut down", place));
        assert!(!is_echo("Already shut down", "src/sink/delta/merge.rs:1:1") && !is_echo("out of bounds", place));
    }
}
