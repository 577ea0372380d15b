//! Moments between steps at which the program must survive being killed or stopped, and how a test brings that about.
//!
//! `FRESHET_FAILPOINT=intent_written:KILL` has the program send itself that signal when it first comes there. Not set,
//! as ever outside tests, a moment costs one look at an empty cell.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// The environment variable that arms one.
pub const VARIABLE: &str = "FRESHET_FAILPOINT";

/// A moment, by the name that the variable has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failpoint(&'static str);

/// Makes a constant of each, and of all the list.
macro_rules! failpoints {
    ($($(#[$doc:meta])* $constant:ident $name:literal)*) => {
        $($(#[$doc])* pub const $constant: Failpoint = Failpoint($name);)*

        /// All of them, in the order in which one comes to them.
        pub const ALL: &[Failpoint] = &[$($constant),*];
    };
}

failpoints! {
    /// A batch's files are open, nothing is written.
    PREPARE_BEGINS "prepare_begins"
    /// The rows are at the sink, unseen; no entry names them.
    PREPARED "prepared"
    /// The intent stands in the ledger; the sink was not told to commit.
    INTENT_WRITTEN "intent_written"
    /// The sink says what became of the rows; no entry does.
    COMMITTED "committed"
    /// The outcome stands in the ledger.
    OUTCOME_WRITTEN "outcome_written"
    /// A merge is to be looked for: an open one, or one of the batches that wait.
    MERGE_BEGINS "merge_begins"
    /// The merge stands in the ledger; the sink knows nothing of it.
    MERGE_INTENT_WRITTEN "merge_intent_written"
    /// The tombstones of a merge are written, its final table is as before.
    TOMBSTONES_WRITTEN "tombstones_written"
    /// The final table is merged into; no entry says so.
    MERGED "merged"
    /// The merge's end stands in the ledger.
    MERGE_OUTCOME_WRITTEN "merge_outcome_written"
    /// The chain in the ledger has grown long; nothing is written of its compaction.
    COMPACTION_BEGINS "compaction_begins"
    /// The compaction stands in the ledger, unmarked: all entries before it are there.
    COMPACTED "compacted"
    /// The compaction is marked; nothing is deleted.
    COMPACTION_MARKED "compaction_marked"
    /// A purge stands in the ledger; the tombstones are as before.
    PURGE_WRITTEN "purge_written"
    /// The tombstones of long ago are dropped; no entry says so.
    PURGED "purged"
    /// The present generation is closed, the one being built is not.
    GENERATION_CLOSED "generation_closed"
    /// Both are closed; the targets are as before.
    RELOAD_CLOSED "reload_closed"
    /// The targets have the new generation; the ledger has the present one.
    SWITCH_BEGINS "switch_begins"
    /// The new generation is the present one in the ledger, unmarked.
    SWITCHED "switched"
    /// All is done, and the source was not told.
    ACKNOWLEDGE_BEGINS "acknowledge_begins"
    /// The source was told.
    ACKNOWLEDGED "acknowledged"
}

/// Those that only a reload comes to.
pub const OF_A_RELOAD: [Failpoint; 4] = [GENERATION_CLOSED, RELOAD_CLOSED, SWITCH_BEGINS, SWITCHED];

/// Those that only a purge comes to.
pub const OF_A_PURGE: [Failpoint; 2] = [PURGE_WRITTEN, PURGED];

/// Those that every run comes to which has enough to do.
pub fn of_a_run() -> impl Iterator<Item = Failpoint> {
    let others = |failpoint: &Failpoint| OF_A_RELOAD.contains(failpoint) || OF_A_PURGE.contains(failpoint);
    ALL.iter().copied().filter(move |failpoint| !others(failpoint))
}

/// The one that is armed, and the signal it sends.
static ARMED: OnceLock<(Failpoint, &'static str)> = OnceLock::new();

/// Whether its signal was sent: only the first time counts.
static SENT: AtomicBool = AtomicBool::new(false);

/// Signals that can be sent.
const SIGNALS: [&str; 2] = ["KILL", "STOP"];

/// Arms what the variable's text names, for as long as the process lives.
///
/// # Errors
/// [`User`](crate::error::Kind::User) where it names none.
pub fn arm(text: &str) -> Result<()> {
    let armed = read(text).ok_or_else(|| {
        let names = names().collect::<Vec<_>>().join(", ");
        Error::user(format!("{VARIABLE} is `{text}`"))
            .hint(format!("expected NAME:KILL or NAME:STOP; names are {names}"))
    })?;
    // Only the first one counts: there is one variable.
    let _ = ARMED.set(armed);
    Ok(())
}

fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|failpoint| failpoint.name())
}

fn read(text: &str) -> Option<(Failpoint, &'static str)> {
    let (name, signal) = text.split_once(':')?;
    let failpoint = ALL.iter().copied().find(|failpoint| failpoint.name() == name)?;
    Some((failpoint, SIGNALS.into_iter().find(|known| *known == signal)?))
}

impl Failpoint {
    /// What the variable calls it.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// Says that it is reached. Where it is armed, nothing more happens on this thread until the signal has come.
    pub fn reached(self) {
        let armed = ARMED.get().filter(|(armed, _)| *armed == self);
        if let Some((_, signal)) = armed.filter(|_| !SENT.swap(true, Ordering::Relaxed)) {
            let sent = Command::new("kill").args(["-s", signal, &this_thread()]).status();
            tracing::warn!(failpoint = self.name(), ?sent, "failpoint reached");
        }
    }
}

/// The thread's own id, where the system gives threads some: the whole process stops all the same, but this thread first.
/// Sent to the process a signal may be taken by another thread, and this one goes on until that comes to run.
fn this_thread() -> String {
    let own = std::fs::read_link("/proc/thread-self").ok();
    let id = own.and_then(|link| link.file_name()?.to_str().map(str::to_owned));
    id.unwrap_or_else(|| std::process::id().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_armed_is_named_and_nothing_else() {
        assert_eq!(read("prepared:KILL"), Some((PREPARED, "KILL")));
        assert_eq!(read("acknowledged:STOP"), Some((ACKNOWLEDGED, "STOP")));
        for wrong in ["", "prepared", "prepared:TERM", "Prepared:KILL", ":KILL"] {
            let error = arm(wrong).unwrap_err();
            assert!(error.hint_text().unwrap().contains("merge_intent_written"), "{wrong}: {error}");
        }
    }

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = names().collect();
        assert_eq!(names.len(), ALL.len());
    }
}
