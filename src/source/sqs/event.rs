//! What the body of a message says of objects in S3. Pure: any bytes may be in it, and none may do harm.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// SQS takes no larger message:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Most records of one message; S3 sends one.
const RECORDS_MAX: usize = 1_000;
/// No key of S3 is longer: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>.
const KEY_BYTES_MAX: usize = 1_024;
/// The major version of S3's own events that is understood.
const MAJOR_VERSION: &str = "2";

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// Objects were created.
    Objects {
        /// Each of them.
        created: Vec<ObjectEvent>,
        /// How many records told of something else, such as objects that were removed.
        ignored: usize,
    },
    /// S3 tries whether it may send to the queue, as it does when the notification is set up.
    Test,
    /// It is no event of S3, or one that is not understood; the text says why, as the end of "the message …".
    Unknown(String),
}

/// An object that was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectEvent {
    /// The bucket's name.
    pub bucket: String,
    /// Its key, as it is: not URL-encoded.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Its eTag, without quotation marks.
    pub e_tag: Option<String>,
    /// When S3 was done with it.
    pub time: DateTime<Utc>,
}

/// Reads a message's body: an event of S3, sent to the queue by S3 itself, through SNS (wrapped or raw) or through
/// EventBridge.
///
/// In S3's own events the key is URL-encoded as in a form,
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>; in those of EventBridge
/// it stands as it is, <https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>. SNS puts the event into
/// the text `Message`,
/// <https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>.
pub(super) fn read(body: &str) -> Notice {
    let told = parse(body).and_then(|message| match message.get("Type").and_then(Value::as_str) {
        Some("Notification") => {
            let wrapped: Wrapped = shape(message)?;
            notice(parse(&wrapped.message)?)
        }
        Some("SubscriptionConfirmation") => Err("asks to confirm a subscription of SNS".to_owned()),
        _ => notice(message),
    });
    told.unwrap_or_else(Notice::Unknown)
}

/// The end of the sentence "the message …".
type Reason = String;

fn parse(text: &str) -> Result<Value, Reason> {
    if text.len() > BODY_BYTES_MAX {
        return Err(format!("has {} bytes, and no event of S3 has more than {BODY_BYTES_MAX}", text.len()));
    }
    serde_json::from_str(text).map_err(|cause| format!("is not JSON: {cause}"))
}

fn shape<T: DeserializeOwned>(value: Value) -> Result<T, Reason> {
    serde_json::from_value(value).map_err(|cause| format!("has not the shape of an event of S3: {cause}"))
}

/// An event that is not wrapped.
fn notice(message: Value) -> Result<Notice, Reason> {
    if message.get("Records").is_some() {
        return records(shape(message)?);
    }
    if message.get("Event").and_then(Value::as_str) == Some("s3:TestEvent") {
        return Ok(Notice::Test);
    }
    if message.get("detail-type").is_some() {
        return bridged(shape(message)?);
    }
    Err("is no event of S3".to_owned())
}

fn records(message: Records) -> Result<Notice, Reason> {
    let count = message.records.len();
    if !(1..=RECORDS_MAX).contains(&count) {
        return Err(format!("has {count} records, and 1 to {RECORDS_MAX} are understood"));
    }
    let created = message.records.into_iter().map(Record::created).filter_map(Result::transpose);
    let created = created.collect::<Result<Vec<_>, _>>()?;
    let ignored = count - created.len();
    Ok(Notice::Objects { created, ignored })
}

fn bridged(message: Bridged) -> Result<Notice, Reason> {
    if message.source != "aws.s3" {
        return Err(format!("is an event of {}, not of aws.s3", Shown(&message.source)));
    }
    if message.detail_type != "Object Created" {
        return Ok(Notice::Objects { created: Vec::new(), ignored: 1 });
    }
    let detail: Detail = shape(message.detail)?;
    let event = ObjectEvent {
        bucket: detail.bucket.name,
        key: key_of(detail.object.key)?,
        size: detail.object.size,
        e_tag: detail.object.e_tag,
        time: message.time,
    };
    Ok(Notice::Objects { created: vec![event], ignored: 0 })
}

/// What SNS puts around an event.
#[derive(Deserialize)]
struct Wrapped {
    #[serde(rename = "Message")]
    message: String,
}

/// S3's own events.
#[derive(Deserialize)]
struct Records {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_version: String,
    event_source: String,
    event_name: String,
    event_time: DateTime<Utc>,
    s3: Value,
}

#[derive(Deserialize)]
struct Entity {
    bucket: Bucket,
    object: Object,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

/// An object, as S3's own events and those of EventBridge spell it.
#[derive(Deserialize)]
struct Object {
    key: String,
    size: u64,
    #[serde(rename = "eTag", alias = "etag")]
    e_tag: Option<String>,
}

/// An event as EventBridge sends it.
#[derive(Deserialize)]
struct Bridged {
    source: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: DateTime<Utc>,
    detail: Value,
}

#[derive(Deserialize)]
struct Detail {
    bucket: Bucket,
    object: Object,
}

impl Record {
    /// The object it says was created; None where it tells of something else.
    fn created(self) -> Result<Option<ObjectEvent>, Reason> {
        if !self.event_source.ends_with(":s3") {
            return Err(format!("has a record of {}, not of aws:s3", Shown(&self.event_source)));
        }
        if self.event_version.split('.').next() != Some(MAJOR_VERSION) {
            let version = Shown(&self.event_version);
            return Err(format!("has events of version {version}, and {MAJOR_VERSION}.x is understood"));
        }
        // Other stores with S3's protocol write `s3:` before it.
        let name = self.event_name.strip_prefix("s3:").unwrap_or(&self.event_name);
        if !name.starts_with("ObjectCreated:") {
            return Ok(None);
        }
        let Entity { bucket, object } = shape(self.s3)?;
        Ok(Some(ObjectEvent {
            bucket: bucket.name,
            key: key_of(decoded(&object.key)?)?,
            size: object.size,
            e_tag: object.e_tag,
            time: self.event_time,
        }))
    }
}

fn key_of(key: String) -> Result<String, Reason> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(key),
        bytes => Err(format!("names a key of {bytes} bytes, and a key has 1 to {KEY_BYTES_MAX}")),
    }
}

/// Undoes the encoding of a form: `+` is a space, `%XX` a byte. A key that nobody encoded so is refused rather than
/// guessed at.
fn decoded(key: &str) -> Result<String, Reason> {
    let wrong = || format!("names the key {}, which is not URL-encoded as S3 does it", Shown(key));
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = rest.next().and_then(hex_digit).ok_or_else(wrong)?;
                let low = rest.next().and_then(hex_digit).ok_or_else(wrong)?;
                high << 4 | low
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// A text from outside in a message of ours: its beginning, quoted.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARACTERS_MAX: usize = 100;
        let beginning: String = self.0.chars().take(CHARACTERS_MAX).collect();
        write!(f, "`{}`", beginning.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(name: &str, key: &str) -> Value {
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1",
            "eventTime": "2024-05-06T07:08:09.123Z", "eventName": name, "userIdentity": {"principalId": "x"},
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "c",
                "bucket": {"name": "cdc-files", "arn": "arn:aws:s3:::cdc-files"},
                "object": {"key": key, "size": 7, "eTag": "0123abcd", "sequencer": "0055AED6DCD90281E5"}
            }
        })
    }

    fn event(key: &str) -> ObjectEvent {
        ObjectEvent {
            bucket: "cdc-files".into(),
            key: key.into(),
            size: 7,
            e_tag: Some("0123abcd".into()),
            time: "2024-05-06T07:08:09.123Z".parse().unwrap(),
        }
    }

    fn bridge(detail_type: &str) -> Value {
        json!({
            "version": "0", "id": "17793124", "detail-type": detail_type, "source": "aws.s3", "account": "111122223333",
            "time": "2024-05-06T07:08:09Z", "region": "eu-west-1", "resources": ["arn:aws:s3:::cdc-files"],
            "detail": {
                "version": "0", "bucket": {"name": "cdc-files"},
                "object": {"key": "a+b%2Fc d", "size": 7, "etag": "0123abcd", "version-id": "IYV3", "sequencer": "61"},
                "request-id": "N4N7", "requester": "123456789012", "reason": "PutObject"
            }
        })
    }

    #[track_caller]
    fn check(body: &Value, expected: &[ObjectEvent], ignored_expected: usize) {
        match read(&body.to_string()) {
            Notice::Objects { created, ignored } => {
                assert_eq!((created.as_slice(), ignored), (expected, ignored_expected));
            }
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn unknown(body: &str, reason: &str) {
        match read(body) {
            Notice::Unknown(why) => assert!(why.contains(reason), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_record_is_read_and_only_created_objects_count() {
        let records = [
            record("ObjectCreated:Put", "dms/a.csv"),
            record("ObjectRemoved:Delete", "dms/b.csv"),
            record("ObjectCreated:CompleteMultipartUpload", "dms/c.csv"),
            record("s3:ObjectCreated:Copy", "dms/d.csv"),
            record("ObjectRestore:Completed", "dms/e.csv"),
        ];
        check(&json!({"Records": records}), &[event("dms/a.csv"), event("dms/c.csv"), event("dms/d.csv")], 2);
    }

    #[test]
    fn a_key_is_decoded_as_a_form_is() {
        for (written, meant) in [
            ("dms/a+b%2Bc%3D%C3%A9.csv", "dms/a b+c=é.csv"),
            ("dms%2Fa.csv", "dms/a.csv"),
            ("%ec%a3%bc%EB%AC%B8/100%25/%252F", "주문/100%/%2F"),
            ("plain", "plain"),
        ] {
            check(&json!({"Records": [record("ObjectCreated:Put", written)]}), &[event(meant)], 0);
        }
    }

    #[test]
    fn a_key_that_is_not_encoded_is_refused_and_not_guessed_at() {
        for key in ["50%", "50%2", "%zz", "%C3", "%+1", "%é0"] {
            let body = json!({"Records": [record("ObjectCreated:Put", key)]}).to_string();
            unknown(&body, "is not URL-encoded as S3 does it");
        }
        unknown(&json!({"Records": [record("ObjectCreated:Put", "")]}).to_string(), "a key of 0 bytes");
        let long = "a".repeat(KEY_BYTES_MAX + 1);
        unknown(&json!({"Records": [record("ObjectCreated:Put", &long)]}).to_string(), "a key of 1025 bytes");
    }

    #[test]
    fn sns_may_stand_between() {
        let inner = json!({"Records": [record("ObjectCreated:Put", "a+b")]});
        let wrapped = |message: &Value| {
            json!({"Type": "Notification", "MessageId": "x", "TopicArn": "arn", "Subject": "Amazon S3 Notification",
                "Message": message.to_string(), "Timestamp": "2024-05-06T07:08:09.999Z"})
        };
        check(&wrapped(&inner), &[event("a b")], 0);
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "cdc-files"});
        assert_eq!(read(&wrapped(&test).to_string()), Notice::Test);
        unknown(&wrapped(&wrapped(&inner)).to_string(), "is no event of S3");
        unknown(&json!({"Type": "Notification", "Message": "hello"}).to_string(), "is not JSON");
        unknown(&json!({"Type": "Notification", "Message": inner}).to_string(), "shape");
        unknown(&json!({"Type": "SubscriptionConfirmation"}).to_string(), "subscription");
    }

    #[test]
    fn keys_from_event_bridge_stand_as_they_are() {
        let expected =
            ObjectEvent { key: "a+b%2Fc d".into(), time: "2024-05-06T07:08:09Z".parse().unwrap(), ..event("") };
        check(&bridge("Object Created"), &[expected], 0);
        check(&bridge("Object Deleted"), &[], 1);
        let mut other = bridge("Object Created");
        other["source"] = json!("my.app");
        unknown(&other.to_string(), "`my.app`");
    }

    #[test]
    fn s3s_own_test_is_known_as_such() {
        let body = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2024-05-06T07:08:09.123Z",
            "Bucket": "cdc-files", "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9"});
        assert_eq!(read(&body.to_string()), Notice::Test);
    }

    #[test]
    fn whatever_else_is_unknown_and_says_why() {
        for (body, reason) in [
            ("", "is not JSON"),
            ("hello", "is not JSON"),
            ("null", "is no event"),
            ("[]", "is no event"),
            ("\"Records\"", "is no event"),
            ("{\"Records\": []}", "has 0 records"),
            ("{\"Records\": {}}", "shape"),
            ("{\"Records\": [1]}", "shape"),
            ("{\"Event\": \"s3:Other\"}", "is no event"),
            ("{\"detail-type\": \"Object Created\"}", "shape"),
        ] {
            unknown(body, reason);
        }
        for (field, value, reason) in [
            ("eventVersion", json!("3.0"), "version `3.0`"),
            ("eventVersion", json!("21.0"), "version `21.0`"),
            ("eventSource", json!("aws:dynamodb"), "`aws:dynamodb`"),
            ("eventTime", json!("yesterday"), "shape"),
            ("eventName", json!(null), "shape"),
            ("s3", json!({}), "shape"),
            ("s3", json!({"bucket": {"name": "b"}, "object": {"key": "k", "size": -1}}), "shape"),
            ("s3", json!({"bucket": {"name": "b"}, "object": {"key": "k"}}), "shape"),
        ] {
            let mut bad = record("ObjectCreated:Put", "k");
            bad[field] = value;
            unknown(&json!({"Records": [record("ObjectCreated:Put", "k"), bad]}).to_string(), reason);
        }
    }

    #[test]
    fn minor_versions_and_missing_extras_do_not_matter() {
        for version in ["2.0", "2.6", "2.99"] {
            let mut record = record("ObjectCreated:Put", "k");
            record["eventVersion"] = json!(version);
            record["s3"]["object"] = json!({"key": "k", "size": 7});
            let expected = ObjectEvent { e_tag: None, ..event("k") };
            check(&json!({"Records": [record]}), &[expected], 0);
        }
    }

    #[test]
    fn what_is_huge_or_deep_does_no_harm() {
        unknown(&" ".repeat(BODY_BYTES_MAX + 1), "bytes");
        unknown(&"[".repeat(BODY_BYTES_MAX), "is not JSON");
        unknown(&format!("{{\"Records\": {}1{}}}", "[".repeat(1_000), "]".repeat(1_000)), "is not JSON");
        let many = vec![record("ObjectCreated:Put", "k"); RECORDS_MAX + 1];
        unknown(&json!({"Records": many}).to_string(), "has 1001 records");
    }

    #[test]
    fn a_foreign_text_is_shown_in_part_and_without_control_characters() {
        let mut bad = record("ObjectCreated:Put", "k");
        bad["eventSource"] = json!(format!("\u{1b}[2J\n{}", "x".repeat(10_000)));
        let Notice::Unknown(why) = read(&json!({"Records": [bad]}).to_string()) else { panic!("it is known") };
        assert!(why.len() < 300 && !why.contains(['\u{1b}', '\n']), "{why}");
    }
}
