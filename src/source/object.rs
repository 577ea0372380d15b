//! What an object in S3 is to a source, whether a listing or an event tells of it.

use chrono::{DateTime, SubsecRound, Utc};
use object_store::path::Path;

use crate::catalog::layout::{Layout, Recognised};
use crate::change::ChangeFile;
use crate::error::{Error, Result};
use crate::storage::S3Location;

/// No eTag of S3 is near this.
const E_TAG_BYTES_MAX: usize = 256;

/// An object as S3 tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    /// The bucket's name.
    pub bucket: &'a str,
    /// Its key, as it is: not URL-encoded.
    pub key: &'a str,
    /// Bytes.
    pub size: u64,
    /// Its eTag, with or without quotes.
    pub e_tag: Option<&'a str>,
    /// When it was last modified.
    pub modified: DateTime<Utc>,
}

/// Which objects are change files of a source.
#[derive(Debug, Clone)]
pub(super) struct ObjectRules {
    location: S3Location,
    layout: Layout,
    since: Option<DateTime<Utc>>,
}

/// What an object turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A change file.
    Change(Box<ChangeFile>),
    /// No change file, and not meant to be one: a folder's marker, a hidden, temporary or checksum file.
    Ignored,
    /// Last modified before the moment from which on files are wanted.
    BeforeSince,
    /// In another bucket or not below the prefix.
    Elsewhere,
}

impl ObjectRules {
    /// The objects at `location` that `layout` recognises and that were last modified at `since` or later. S3 tells
    /// the time in whole seconds, so the second of `since` counts as a whole.
    pub(super) fn new(location: S3Location, layout: Layout, since: Option<DateTime<Utc>>) -> Self {
        Self { location, layout, since: since.map(|since| since.trunc_subsecs(0)) }
    }

    /// Where the objects are.
    pub(super) fn location(&self) -> &S3Location {
        &self.location
    }

    /// What the object is. A change file's `location` is `s3://bucket/key`, its `version` the eTag without quotes, its
    /// `e_tag` that with quotes, as `If-Match` wants it, and its `path` the key. No request is made.
    ///
    /// An empty object that no layout fits holds nothing and is ignored: a listing gives the markers that S3's console
    /// makes for folders without the slash at their end.
    ///
    /// # Errors
    /// [`Data`](crate::error::Kind::Data), naming the object, where no layout fits its key, where it cannot be read
    /// under its key, or where it has no eTag.
    pub(super) fn change_file(&self, object: &Object<'_>) -> Result<Outcome> {
        let Some(below) = object.key.strip_prefix(self.location.prefix()) else { return Ok(Outcome::Elsewhere) };
        if object.bucket != self.location.bucket() {
            return Ok(Outcome::Elsewhere);
        }
        if self.since.is_some_and(|since| object.modified < since) {
            return Ok(Outcome::BeforeSince);
        }
        let location = object_location(object.bucket, object.key);
        let named = match self.layout.recognise(below) {
            Ok(Recognised::Change(named)) => named,
            Ok(Recognised::Ignored) => return Ok(Outcome::Ignored),
            Err(_) if object.size == 0 => return Ok(Outcome::Ignored),
            Err(error) => return Err(error.in_file(location)),
        };
        let path = readable(object.key).map_err(|error| error.in_file(&location))?;
        let version = plain_e_tag(object.e_tag).map_err(|error| error.in_file(&location))?;
        let modified_ms = object.modified.timestamp_millis();
        Ok(Outcome::Change(Box::new(ChangeFile {
            location,
            path: path.into(),
            size: object.size,
            version: version.to_owned(),
            e_tag: Some(format!("\"{version}\"")),
            modified_ms,
            table: named.table,
            kind: named.kind,
            format: named.format,
            gzip: named.gzip,
            time_ms: named.time_ms.unwrap_or(modified_ms),
            time_named: named.time_ms.is_some(),
            rows: None,
        })))
    }
}

/// How an object is named in messages and in `_cdc_file`.
pub(super) fn object_location(bucket: &str, key: &str) -> String {
    format!("{}{bucket}/{key}", S3Location::SCHEME)
}

/// The path under which an object's key is asked for, which must be that key and no other.
fn readable(key: &str) -> Result<Path> {
    let wrong = || {
        Error::data("the object's key cannot be asked for").hint(
            "copy the object to a key without control characters, without `//`, `.` and `..` between slashes, and \
             without a slash at its beginning",
        )
    };
    let path = Path::parse(key).map_err(|cause| wrong().because(cause))?;
    if path.as_ref() == key { Ok(path) } else { Err(wrong()) }
}

/// An eTag without its quotes: characters of the grammar of HTTP alone, as it goes into a header,
/// <https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3>.
fn plain_e_tag(e_tag: Option<&str>) -> Result<&str> {
    let e_tag = e_tag.unwrap_or_default();
    let plain = e_tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(e_tag);
    let sound =
        (1..=E_TAG_BYTES_MAX).contains(&plain.len()) && plain.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
    if sound {
        return Ok(plain);
    }
    Err(Error::data("the object has no eTag that tells its versions apart")
        .hint("use a store that gives each object an eTag, as S3 does"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{FileFormat, FileKind, TableName};
    use crate::error::Kind;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn rules(location: &str, since: Option<&str>) -> ObjectRules {
        ObjectRules::new(S3Location::parse(location).unwrap(), Layout::known(), since.map(time))
    }

    fn object(key: &str) -> Object<'_> {
        let e_tag = Some("0123456789abcdef0123456789abcdef");
        Object { bucket: "cdc-files", key, size: 7, e_tag, modified: time("2024-05-06T07:08:09Z") }
    }

    #[track_caller]
    fn change_file(object: &Object<'_>) -> ChangeFile {
        match rules("s3://cdc-files/dms", None).change_file(object).unwrap() {
            Outcome::Change(file) => *file,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_change_file_tells_where_it_is_which_version_and_what_its_key_says() {
        let key = "dms/shop/orders/20230315-143022985.csv.gz";
        let file = change_file(&object(key));
        assert_eq!(file.location, format!("s3://cdc-files/{key}"));
        assert_eq!((file.path.as_str(), file.size, file.rows), (key, 7, None));
        assert_eq!(file.version, "0123456789abcdef0123456789abcdef");
        assert_eq!(file.e_tag.as_deref(), Some("\"0123456789abcdef0123456789abcdef\""));
        assert_eq!((file.kind, file.format, file.gzip), (FileKind::Cdc, FileFormat::Csv, true));
        assert_eq!((file.table, file.time_ms), (TableName::new("shop", "orders"), 1_678_890_622_985));
        let load = change_file(&object("dms/shop/orders/LOAD00000001.parquet"));
        assert_eq!((load.time_ms, load.modified_ms), (1_714_979_289_000, 1_714_979_289_000));
    }

    #[test]
    fn the_quotes_of_an_e_tag_do_not_matter() {
        let plain = object("dms/shop/orders/LOAD00000001.csv");
        let quoted = Object { e_tag: Some("\"0123456789abcdef0123456789abcdef\""), ..plain };
        assert_eq!(change_file(&quoted), change_file(&plain));
        let in_parts = Object { e_tag: Some("d41d8cd98f00b204e9800998ecf8427e-38"), ..plain };
        assert_eq!(change_file(&in_parts).version, "d41d8cd98f00b204e9800998ecf8427e-38");
    }

    #[test]
    fn an_e_tag_that_could_not_go_into_a_header_is_refused() {
        let long = "a".repeat(E_TAG_BYTES_MAX + 1);
        for e_tag in [None, Some(""), Some("\"\""), Some("a\r\nHost: x"), Some("a\"b"), Some("é"), Some(&long)] {
            let object = Object { e_tag, ..object("dms/shop/orders/LOAD00000001.csv") };
            let error = rules("s3://cdc-files/dms", None).change_file(&object).unwrap_err();
            assert_eq!(error.kind(), Kind::Data, "{e_tag:?}");
            assert_eq!(error.place().file.as_deref(), Some("s3://cdc-files/dms/shop/orders/LOAD00000001.csv"));
        }
    }

    #[test]
    fn a_key_is_asked_for_as_it_is() {
        for name in
            ["a b", "a+b", "50%", "%41", "%2F", "주문", "it's \"x\"", "a#b?c*", "[x]{y}", "c:d~", "back\\slash", "é&=;"]
        {
            let key = format!("dms/s {name}/t {name}/20230101-000000001.csv");
            let file = change_file(&object(&key));
            assert_eq!((file.path.as_str(), file.table.table), (key.as_str(), format!("t {name}")));
            assert_eq!(Path::parse(&file.path).unwrap().as_ref(), key);
        }
    }

    #[test]
    fn a_key_that_can_only_be_asked_for_as_another_is_refused() {
        for key in
            ["/shop/orders/LOAD00000001.csv", "x//shop/orders/LOAD00000001.csv", "./shop/orders/LOAD00000001.csv"]
        {
            let error = rules("s3://cdc-files", None).change_file(&object(key)).unwrap_err();
            assert_eq!(error.kind(), Kind::Data, "{key}");
            assert_eq!(error.place().file, Some(format!("s3://cdc-files/{key}")));
            assert!(error.hint_text().is_some(), "{error}");
        }
    }

    #[track_caller]
    fn check(object: &Object<'_>, expected: &Outcome) {
        assert_eq!(
            rules("s3://cdc-files/dms", Some("2024-05-06T07:08:09.700Z")).change_file(object).unwrap(),
            *expected
        );
    }

    #[test]
    fn what_is_elsewhere_or_older_or_no_change_file_is_told_apart() {
        let file = object("dms/shop/orders/LOAD00000001.csv");
        check(&Object { bucket: "other", ..file }, &Outcome::Elsewhere);
        check(&object("dms2/shop/orders/LOAD00000001.csv"), &Outcome::Elsewhere);
        check(&object("dms"), &Outcome::Elsewhere);
        check(&Object { modified: time("2024-05-06T07:08:08.999Z"), ..file }, &Outcome::BeforeSince);
        check(&Object { modified: time("2024-05-06T07:08:08Z"), ..object("dms/unknown.txt") }, &Outcome::BeforeSince);
        for marker in ["dms/", "dms/shop/", "dms/shop/orders/_SUCCESS", "dms/shop/orders/x.csv.tmp"] {
            check(&object(marker), &Outcome::Ignored);
        }
        check(&Object { size: 0, ..object("dms/shop/orders") }, &Outcome::Ignored);
    }

    #[test]
    fn the_second_of_the_first_wanted_moment_counts_as_a_whole() {
        let rules = rules("s3://cdc-files/dms", Some("2024-05-06T07:08:09.700Z"));
        let outcome = rules.change_file(&object("dms/shop/orders/LOAD00000001.csv")).unwrap();
        assert!(matches!(outcome, Outcome::Change(_)), "{outcome:?}");
    }

    #[test]
    fn an_empty_change_file_is_one_and_a_key_that_no_layout_fits_is_an_error() {
        let empty = Object { size: 0, ..object("dms/shop/orders/LOAD00000001.csv") };
        assert_eq!(change_file(&empty).size, 0);
        let error = rules("s3://cdc-files/dms", None).change_file(&object("dms/shop/notes.txt")).unwrap_err();
        assert_eq!(
            (error.kind(), error.place().file.as_deref()),
            (Kind::Data, Some("s3://cdc-files/dms/shop/notes.txt"))
        );
    }
}
