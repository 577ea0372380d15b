//! The messages in hand: received, and neither deleted nor given back. Pure bookkeeping; whoever calls says what time
//! it is.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::change::FileId;

/// A message can be hidden for 12 hours from its receipt and no longer, and is let go before that:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html>.
const HIDDEN_MAX: Duration = Duration::from_secs(12 * 3_600);
const HELD_MAX: Duration = Duration::from_secs(11 * 3_600 + 1_800);
/// How much earlier than allowed the last extension ends, as clocks and networks differ.
const HIDDEN_MARGIN: Duration = Duration::from_secs(60);
/// No extension is shorter, however the queue is set up, unless the 12 hours end.
const EXTENSION_MIN: Duration = Duration::from_secs(60);
/// After a failure an extension is tried again so soon, unless the message comes due earlier than that.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MIN: Duration = Duration::from_millis(100);

/// The messages in hand, by their id.
#[derive(Debug, Default)]
pub(super) struct Hand {
    held: BTreeMap<String, Held>,
}

#[derive(Debug)]
struct Held {
    /// The latest receipt handle.
    handle: String,
    received: Instant,
    /// When it must be hidden for longer.
    due: Instant,
    /// How long it is hidden from its receipt, or from the last extension.
    hidden: Duration,
    files: Vec<FileId>,
    state: State,
    /// Whether it was told that it could not be hidden for longer.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Somebody works on its files, then it is deleted.
    Open,
    /// Somebody works on its files, then it is left to the queue, as it told of something else too.
    OpenThenLeft,
    /// It is to be deleted.
    Done,
}

/// A message by its id and its latest receipt handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Receipt {
    /// The message.
    pub id: String,
    /// Its handle.
    pub handle: String,
}

/// What is to become of a message that was just received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its files are delivered, then it is deleted.
    Deliver,
    /// Its files are delivered, then it is left to the queue.
    DeliverThenLeave,
    /// It holds nothing of use and is deleted.
    Delete,
}

impl Hand {
    /// Whether a message is held already; then this receipt of it counts from now on.
    pub(super) fn again(&mut self, receipt: &Receipt, now: Instant, hidden: Duration) -> bool {
        let Some(held) = self.held.get_mut(&receipt.id) else { return false };
        held.handle.clone_from(&receipt.handle);
        held.received = now;
        held.hidden = hidden;
        held.due = now + hidden / 2;
        true
    }

    /// Takes a message that was received just now and is hidden for so long.
    pub(super) fn take(&mut self, receipt: Receipt, fate: Fate, files: Vec<FileId>, now: Instant, hidden: Duration) {
        let state = match fate {
            Fate::Deliver => State::Open,
            Fate::DeliverThenLeave => State::OpenThenLeft,
            Fate::Delete => State::Done,
        };
        let due = now + hidden / 2;
        let held = Held { handle: receipt.handle, received: now, due, hidden, files, state, told: false };
        self.held.insert(receipt.id, held);
    }

    /// Notes that all is done with a message; it is no more hidden for longer. False where it is not held.
    pub(super) fn finish(&mut self, id: &str) -> bool {
        match self.held.get_mut(id).map(|held| (held.state, held)) {
            None => false,
            Some((State::OpenThenLeft, _)) => self.held.remove(id).is_some(),
            Some((_, held)) => {
                held.state = State::Done;
                true
            }
        }
    }

    /// The messages to be deleted.
    pub(super) fn done(&self) -> Vec<Receipt> {
        let done = self.held.iter().filter(|(_, held)| held.state == State::Done);
        done.map(|(id, held)| Receipt { id: id.clone(), handle: held.handle.clone() }).collect()
    }

    /// Forgets a message of which this receipt was deleted or refused for ever; true unless it was received anew
    /// meanwhile, so that it is still to be deleted.
    pub(super) fn forget(&mut self, receipt: &Receipt) -> bool {
        let is_same = self.held.get(&receipt.id).is_none_or(|held| held.handle == receipt.handle);
        if is_same {
            self.held.remove(&receipt.id);
        }
        is_same
    }

    /// Lets go of a message, to be given back; None where it is not held, or is to be deleted.
    pub(super) fn release(&mut self, id: &str) -> Option<Receipt> {
        self.held.get(id).filter(|held| held.state != State::Done)?;
        let held = self.held.remove(id)?;
        Some(Receipt { id: id.to_owned(), handle: held.handle })
    }

    /// Lets go of the messages that cannot be hidden for longer; their ids.
    pub(super) fn let_go(&mut self, now: Instant) -> Vec<String> {
        let is_old = |held: &Held| now.saturating_duration_since(held.received) >= HELD_MAX;
        let old: Vec<String> = self.held.iter().filter(|(_, held)| is_old(held)).map(|(id, _)| id.clone()).collect();
        old.iter().for_each(|id| drop(self.held.remove(id)));
        old
    }

    /// The messages that must now be hidden for longer, and for how long from now: as long as the queue does it, or a
    /// minute.
    pub(super) fn due(&self, now: Instant, visibility: Duration) -> Vec<(Receipt, Duration)> {
        let due = self.held.iter().filter(|(_, held)| held.state != State::Done && held.due <= now);
        due.map(|(id, held)| {
            let age = now.saturating_duration_since(held.received);
            let rest = HIDDEN_MAX.saturating_sub(age).saturating_sub(HIDDEN_MARGIN);
            (Receipt { id: id.clone(), handle: held.handle.clone() }, visibility.max(EXTENSION_MIN).min(rest))
        })
        .collect()
    }

    /// Notes that a message is hidden for so long from now.
    pub(super) fn extended(&mut self, receipt: &Receipt, now: Instant, hidden: Duration) {
        if let Some(held) = self.same(receipt) {
            held.hidden = hidden;
            held.due = now + hidden / 2;
            held.told = false;
        }
    }

    /// Notes that a message could not be hidden for longer, which is tried again soon unless that is final; true where
    /// this is to be told, the first time in a row.
    pub(super) fn not_extended(&mut self, receipt: &Receipt, now: Instant, is_final: bool) -> bool {
        let Some(held) = self.same(receipt) else { return false };
        held.due = match is_final {
            true => held.received + HELD_MAX,
            false => now + AGAIN.min(held.hidden / 4).max(AGAIN_MIN),
        };
        !std::mem::replace(&mut held.told, true)
    }

    fn same(&mut self, receipt: &Receipt) -> Option<&mut Held> {
        self.held.get_mut(&receipt.id).filter(|held| held.handle == receipt.handle)
    }

    /// When the next message must be hidden for longer; None where none must.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.held.values().filter(|held| held.state != State::Done).map(|held| held.due).min()
    }

    /// Whether a message is to be deleted.
    pub(super) fn has_done(&self) -> bool {
        self.held.values().any(|held| held.state == State::Done)
    }

    /// The files of all messages in hand.
    pub(super) fn files(&self) -> HashSet<FileId> {
        self.held.values().flat_map(|held| held.files.iter().copied()).collect()
    }

    /// The files of one message.
    pub(super) fn files_of(&self, id: &str) -> &[FileId] {
        self.held.get(id).map_or(&[], |held| &held.files)
    }

    /// How many messages are in hand.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: Duration = Duration::from_secs(30);

    fn receipt(id: &str, handle: &str) -> Receipt {
        Receipt { id: id.into(), handle: handle.into() }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn holding(fate: Fate) -> (Hand, Instant) {
        let (mut hand, start) = (Hand::default(), Instant::now());
        hand.take(receipt("m", "h1"), fate, vec![FileId([1; 16])], start, HIDDEN);
        (hand, start)
    }

    #[test]
    fn a_message_is_due_after_half_of_the_time_it_is_hidden_and_then_again() {
        let (mut hand, start) = holding(Fate::Deliver);
        assert_eq!(hand.next_due(), Some(start + seconds(15)));
        assert!(hand.due(start + seconds(14), HIDDEN).is_empty());
        assert_eq!(hand.due(start + seconds(15), HIDDEN), [(receipt("m", "h1"), seconds(60))]);
        hand.extended(&receipt("m", "h1"), start + seconds(15), seconds(60));
        assert_eq!(hand.next_due(), Some(start + seconds(45)));
        assert_eq!(hand.due(start + seconds(45), seconds(300))[0].1, seconds(300));
    }

    #[test]
    fn no_extension_goes_beyond_twelve_hours_and_then_the_message_is_let_go() {
        let (mut hand, start) = holding(Fate::Deliver);
        let late = start + seconds(11 * 3_600);
        assert_eq!(hand.due(late, seconds(12 * 3_600))[0].1, seconds(3_600 - 60));
        assert!(hand.let_go(late).is_empty());
        assert_eq!(hand.let_go(start + HELD_MAX), ["m"]);
        assert_eq!((hand.len(), hand.next_due()), (0, None));
    }

    #[test]
    fn a_failure_is_told_once_in_a_row_and_tried_again_soon() {
        let (mut hand, start) = holding(Fate::Deliver);
        let at = start + seconds(15);
        assert!(hand.not_extended(&receipt("m", "h1"), at, false));
        assert_eq!(hand.next_due(), Some(at + seconds(5)));
        assert!(!hand.not_extended(&receipt("m", "h1"), at + seconds(5), false));
        hand.extended(&receipt("m", "h1"), at + seconds(10), seconds(60));
        assert!(hand.not_extended(&receipt("m", "h1"), at + seconds(40), true));
        assert_eq!(hand.next_due(), Some(start + HELD_MAX), "what is refused for ever is not asked for again");
    }

    #[test]
    fn a_new_receipt_replaces_the_old_one_and_its_time() {
        let (mut hand, start) = holding(Fate::Deliver);
        assert!(!hand.again(&receipt("other", "h"), start, HIDDEN));
        assert!(hand.again(&receipt("m", "h2"), start + seconds(40), HIDDEN));
        assert_eq!((hand.len(), hand.next_due()), (1, Some(start + seconds(55))));
        hand.extended(&receipt("m", "h1"), start + seconds(41), seconds(60));
        assert_eq!(hand.next_due(), Some(start + seconds(55)), "an answer about the old receipt says nothing");
        assert!(!hand.not_extended(&receipt("m", "h1"), start + seconds(41), false));
        assert_eq!(hand.release("m"), Some(receipt("m", "h2")));
    }

    #[test]
    fn what_is_done_is_deleted_and_no_more_hidden_for_longer() {
        let (mut hand, start) = holding(Fate::Deliver);
        assert!(hand.finish("m") && !hand.finish("other"));
        assert_eq!(hand.done(), [receipt("m", "h1")]);
        assert!(hand.has_done() && hand.next_due().is_none() && hand.due(start + HELD_MAX, HIDDEN).is_empty());
        assert_eq!(hand.release("m"), None, "what is done is not given back");
        assert!(hand.again(&receipt("m", "h2"), start, HIDDEN));
        assert!(!hand.forget(&receipt("m", "h1")), "the new receipt is still to be deleted");
        assert_eq!(hand.done(), [receipt("m", "h2")]);
        assert!(hand.forget(&receipt("m", "h2")));
        assert_eq!(hand.len(), 0);
    }

    #[test]
    fn a_message_that_tells_of_something_else_too_is_left_and_one_without_use_deleted() {
        let (mut hand, _) = holding(Fate::DeliverThenLeave);
        assert!(hand.finish("m"));
        assert_eq!((hand.len(), hand.has_done()), (0, false));
        let (hand, _) = holding(Fate::Delete);
        assert_eq!((hand.done(), hand.next_due()), (vec![receipt("m", "h1")], None));
    }

    #[test]
    fn the_files_in_hand_are_those_of_its_messages() {
        let (mut hand, start) = holding(Fate::Deliver);
        hand.take(receipt("n", "h"), Fate::Deliver, vec![FileId([1; 16]), FileId([2; 16])], start, HIDDEN);
        assert_eq!(hand.files(), HashSet::from([FileId([1; 16]), FileId([2; 16])]));
        assert_eq!(hand.files_of("n").len(), 2);
        hand.forget(&receipt("n", "h"));
        assert_eq!(hand.files(), HashSet::from([FileId([1; 16])]));
    }
}
