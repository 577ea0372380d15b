//! What a message means for this source: the change files it tells of, and what else is in it. Pure.

use std::collections::HashSet;

use super::event::{self, Notice, ObjectEvent};
use super::hand::Fate;
use super::queue::Message;
use crate::change::ChangeFile;
use crate::error::Error;
use crate::source::object::{Object, ObjectRules, Outcome, object_location};

/// Most troubles of one message that are told one by one.
const TROUBLES_MAX: usize = 10;

/// What is in a message.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// The change files, each once.
    pub files: Vec<ChangeFile>,
    /// Why the message cannot be done with: what is not understood, or is another's.
    pub troubles: Vec<Error>,
    /// How many of its events are of no use: objects that were removed, markers, files from before `since`.
    pub ignored: u64,
    /// Whether it is S3's test.
    pub is_test: bool,
}

impl Contents {
    /// Reads a message.
    pub(super) fn of(message: &Message, rules: &ObjectRules) -> Self {
        let mut contents = Self::default();
        match event::read(&message.body) {
            Notice::Test => contents.is_test = true,
            Notice::Unknown(why) => contents.troubles.push(unknown(message, &why)),
            Notice::Objects { created, ignored } => {
                contents.ignored = u64::try_from(ignored).unwrap_or(u64::MAX);
                let mut seen = HashSet::new();
                created.iter().for_each(|event| contents.add(event, message, rules, &mut seen));
            }
        }
        contents.shorten();
        contents
    }

    /// What is to become of the message; None: it is left where it is.
    pub(super) fn fate(&self) -> Option<Fate> {
        match (self.files.is_empty(), self.troubles.is_empty()) {
            (false, true) => Some(Fate::Deliver),
            (false, false) => Some(Fate::DeliverThenLeave),
            (true, true) => Some(Fate::Delete),
            (true, false) => None,
        }
    }

    fn add(
        &mut self,
        event: &ObjectEvent,
        message: &Message,
        rules: &ObjectRules,
        seen: &mut HashSet<crate::change::FileId>,
    ) {
        let object = Object {
            bucket: &event.bucket,
            key: &event.key,
            size: event.size,
            e_tag: event.e_tag.as_deref(),
            modified: event.time,
        };
        match rules.change_file(&object) {
            Ok(Outcome::Change(file)) if seen.insert(file.id()) => self.files.push(*file),
            Ok(Outcome::Change(_)) => {}
            Ok(Outcome::Ignored | Outcome::BeforeSince) => self.ignored += 1,
            Ok(Outcome::Elsewhere) => self.troubles.push(elsewhere(event, message, rules)),
            Err(error) => self.troubles.push(error),
        }
    }

    fn shorten(&mut self) {
        let more = self.troubles.len().saturating_sub(TROUBLES_MAX);
        if more > 0 {
            self.troubles.truncate(TROUBLES_MAX);
            self.troubles.push(Error::data(format!("{more} more objects of the same message cannot be used")));
        }
    }
}

fn unknown(message: &Message, why: &str) -> Error {
    Error::data(format!("the message {} {why}", message.id)).in_file(format!("message {}", message.id)).hint(
        "it is left in the queue, which moves it to its dead-letter queue if it has one; let nothing but S3's events of \
         new objects come to the queue",
    )
}

fn elsewhere(event: &ObjectEvent, message: &Message, rules: &ObjectRules) -> Error {
    let what = format!("the message {} tells of an object that is not below {}", message.id, rules.location());
    Error::data(what).in_file(object_location(&event.bucket, &event.key)).hint(
        "it is left in the queue; give freshet a queue of its own, and give S3's notification the prefix of `files`",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::catalog::layout::Layout;
    use crate::storage::S3Location;

    fn record(bucket: &str, key: &str) -> Value {
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "eventTime": "2024-05-06T07:08:09.123Z",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 7, "eTag": "0123abcd"}}
        })
    }

    fn contents(records: &[Value]) -> Contents {
        let since = "2024-01-01T00:00:00Z".parse().unwrap();
        let location = S3Location::parse("s3://cdc-files/dms").unwrap();
        let rules = ObjectRules::new(location, Layout::known(), Some(since));
        let body = json!({ "Records": records }).to_string();
        let message = Message { id: "m".into(), handle: "h".into(), body, sent: None };
        Contents::of(&message, &rules)
    }

    const FILE: &str = "dms/shop/orders/20240506-070809000.csv";

    #[test]
    fn change_files_are_delivered_each_once_in_a_message() {
        let contents = contents(&[record("cdc-files", FILE), record("cdc-files", FILE)]);
        assert_eq!(contents.files.len(), 1);
        assert_eq!(contents.files[0].location, format!("s3://cdc-files/{FILE}"));
        assert_eq!(contents.files[0].modified_ms, 1_714_979_289_123);
        assert_eq!(contents.fate(), Some(Fate::Deliver));
    }

    #[test]
    fn what_is_of_no_use_is_deleted() {
        let mut old = record("cdc-files", FILE);
        old["eventTime"] = json!("2023-12-31T23:59:59Z");
        let contents = contents(&[old, record("cdc-files", "dms/shop/orders/_SUCCESS")]);
        assert_eq!((contents.files.len(), contents.ignored), (0, 2));
        assert_eq!(contents.fate(), Some(Fate::Delete));
    }

    #[test]
    fn what_belongs_elsewhere_or_fits_no_layout_is_left_and_named() {
        for (bucket, key) in [("other", FILE), ("cdc-files", "elsewhere/x.csv"), ("cdc-files", "dms/notes.txt")] {
            let contents = contents(&[record(bucket, key)]);
            assert_eq!(contents.fate(), None, "{bucket} {key}");
            let error = &contents.troubles[0];
            assert_eq!(error.place().file, Some(format!("s3://{bucket}/{key}")));
            assert!(error.hint_text().is_some(), "{}", error.report());
        }
    }

    #[test]
    fn a_message_with_both_is_delivered_and_then_left() {
        let contents = contents(&[record("cdc-files", "dms/notes.txt"), record("cdc-files", FILE)]);
        assert_eq!((contents.files.len(), contents.troubles.len()), (1, 1));
        assert_eq!(contents.fate(), Some(Fate::DeliverThenLeave));
    }

    #[test]
    fn a_message_full_of_trouble_tells_only_some_of_it() {
        let contents = contents(&vec![record("other", FILE); 500]);
        assert_eq!(contents.troubles.len(), TROUBLES_MAX + 1);
        assert!(contents.troubles[TROUBLES_MAX].message().starts_with("490 more"));
    }
}
