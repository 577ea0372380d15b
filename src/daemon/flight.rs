//! Which deliveries wait for which files: what is in hand, and when a delivery is done. Pure.

use std::collections::BTreeMap;

use crate::change::{ChangeFile, FileId};
use crate::source::Delivery;

/// Deliveries that are neither acknowledged nor given back.
#[derive(Debug, Default)]
pub(super) struct Flight {
    deliveries: BTreeMap<String, Waiting>,
    /// The receipts of the deliveries that wait for each file.
    files: BTreeMap<FileId, Vec<String>>,
}

/// A delivery, and how many of its files are not done yet.
#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    open: usize,
}

impl Flight {
    /// Takes a delivery in hand; returns its files that were not in hand before.
    pub(super) fn add(&mut self, delivery: Delivery) -> Vec<ChangeFile> {
        if self.deliveries.contains_key(&delivery.receipt) {
            return Vec::new();
        }
        let mut new = Vec::new();
        let mut open = 0;
        for file in &delivery.files {
            let waiting = self.files.entry(file.id()).or_default();
            if waiting.last() == Some(&delivery.receipt) {
                // The delivery names one file twice.
                continue;
            }
            if waiting.is_empty() {
                new.push(file.clone());
            }
            waiting.push(delivery.receipt.clone());
            open += 1;
        }
        self.deliveries.insert(delivery.receipt.clone(), Waiting { delivery, open });
        new
    }

    /// These files are done; returns the deliveries that wait for no other.
    pub(super) fn done(&mut self, files: impl IntoIterator<Item = FileId>) -> Vec<Delivery> {
        let mut complete = Vec::new();
        for receipt in files.into_iter().filter_map(|file| self.files.remove(&file)).flatten() {
            if let Some(waiting) = self.deliveries.get_mut(&receipt) {
                waiting.open = waiting.open.saturating_sub(1);
                if waiting.open == 0 {
                    complete.extend(self.deliveries.remove(&receipt).map(|waiting| waiting.delivery));
                }
            }
        }
        complete
    }

    /// These files will not be done here; returns the deliveries that wait for any of them. Their other files may
    /// well be done all the same, but nothing waits for that any more.
    pub(super) fn drop_files(&mut self, files: impl IntoIterator<Item = FileId>) -> Vec<Delivery> {
        let receipts: Vec<String> = files.into_iter().filter_map(|file| self.files.remove(&file)).flatten().collect();
        let dropped: Vec<Delivery> =
            receipts.iter().filter_map(|receipt| self.deliveries.remove(receipt)).map(|it| it.delivery).collect();
        for (file, delivery) in dropped.iter().flat_map(|delivery| delivery.files.iter().map(move |it| (it, delivery)))
        {
            if let Some(waiting) = self.files.get_mut(&file.id()) {
                waiting.retain(|receipt| *receipt != delivery.receipt);
                if waiting.is_empty() {
                    self.files.remove(&file.id());
                }
            }
        }
        dropped
    }

    /// Everything in hand, which then is in hand no more.
    pub(super) fn take_all(&mut self) -> Vec<Delivery> {
        self.files.clear();
        std::mem::take(&mut self.deliveries).into_values().map(|waiting| waiting.delivery).collect()
    }

    /// How many files are in hand.
    pub(super) fn files(&self) -> usize {
        self.files.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(receipt: &str, files: &[&str]) -> Delivery {
        Delivery { files: files.iter().map(|name| ChangeFile::sample(name)).collect(), receipt: receipt.into() }
    }

    fn names(files: &[ChangeFile]) -> Vec<&str> {
        files.iter().map(|file| file.location.as_str()).collect()
    }

    fn receipts(deliveries: &[Delivery]) -> Vec<&str> {
        let mut receipts: Vec<&str> = deliveries.iter().map(|delivery| delivery.receipt.as_str()).collect();
        receipts.sort_unstable();
        receipts
    }

    #[test]
    fn a_delivery_is_done_with_the_last_of_its_files() {
        let mut flight = Flight::default();
        assert_eq!(names(&flight.add(delivery("1", &["a", "b"]))), ["a", "b"]);
        assert!(flight.done([ChangeFile::sample("a").id()]).is_empty());
        assert_eq!(receipts(&flight.done([ChangeFile::sample("b").id()])), ["1"]);
        assert_eq!(flight.files(), 0);
        assert!(flight.done([ChangeFile::sample("b").id()]).is_empty());
    }

    #[test]
    fn a_file_in_two_deliveries_is_carried_once_and_ends_both() {
        let mut flight = Flight::default();
        flight.add(delivery("1", &["a"]));
        assert_eq!(names(&flight.add(delivery("2", &["a", "b"]))), ["b"]);
        assert_eq!(receipts(&flight.done([ChangeFile::sample("a").id()])), ["1"]);
        assert_eq!(receipts(&flight.done([ChangeFile::sample("b").id()])), ["2"]);
    }

    #[test]
    fn a_file_named_twice_in_one_delivery_counts_once() {
        let mut flight = Flight::default();
        assert_eq!(names(&flight.add(delivery("1", &["a", "a"]))), ["a"]);
        assert_eq!(receipts(&flight.done([ChangeFile::sample("a").id()])), ["1"]);
    }

    #[test]
    fn what_is_dropped_takes_its_deliveries_along_and_no_others() {
        let mut flight = Flight::default();
        flight.add(delivery("1", &["a", "b"]));
        flight.add(delivery("2", &["b", "c"]));
        assert_eq!(receipts(&flight.drop_files([ChangeFile::sample("a").id()])), ["1"]);
        assert_eq!(flight.files(), 2, "the second delivery still waits for b and c");
        assert!(flight.done([ChangeFile::sample("b").id()]).is_empty());
        assert_eq!(receipts(&flight.done([ChangeFile::sample("c").id()])), ["2"]);
        assert_eq!(names(&flight.add(delivery("1", &["a"]))), ["a"], "it may come again");
    }

    #[test]
    fn at_the_end_everything_in_hand_is_handed_out() {
        let mut flight = Flight::default();
        flight.add(delivery("1", &["a"]));
        flight.add(delivery("2", &["b"]));
        assert_eq!(receipts(&flight.take_all()), ["1", "2"]);
        assert_eq!(flight.files(), 0);
    }
}
