//! `s3://bucket/prefix` as a bucket and a folder in it.

use std::fmt;

use object_store::path::Path;

use crate::error::{Error, Result};

/// A folder of a bucket: the objects whose keys begin with its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    bucket: String,
    prefix: String,
}

impl S3Location {
    /// How every such location begins.
    pub const SCHEME: &str = "s3://";

    /// Whether a text means a place in S3.
    pub fn is_meant_by(text: &str) -> bool {
        text.starts_with(Self::SCHEME)
    }

    /// Reads `s3://bucket` or `s3://bucket/prefix`. The prefix is taken as it stands, as in AWS's own tools: `%20` in
    /// it is not a space. It names a folder: `s3://bucket/cdc` and `s3://bucket/cdc/` are the same, and
    /// `cdc2/x` lies in neither.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it is no such location.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::user(format!("`{text}` {what}")).hint("write s3://BUCKET/PREFIX, without wildcards, or s3://BUCKET")
        };
        let rest = text.strip_prefix(Self::SCHEME).ok_or_else(|| wrong("is not a location in S3"))?;
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket(bucket) {
            return Err(wrong("names no bucket of S3"));
        }
        if folder.contains(['*', '?']) {
            return Err(wrong("has a wildcard, and in S3 only whole folders can be named"));
        }
        let folder = folder.strip_suffix('/').unwrap_or(folder);
        if folder.starts_with('/') || folder.ends_with('/') {
            return Err(wrong("has an empty name between two slashes"));
        }
        Path::parse(folder).map_err(|cause| wrong("has a folder that cannot be read").because(cause))?;
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        Ok(Self { bucket: bucket.to_owned(), prefix })
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What the keys of all objects there begin with: empty, or ending with `/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/{}", Self::SCHEME, self.bucket, self.prefix)
    }
}

/// Whether a bucket may have this name, those included that were made before the rules of today:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>. Whatever else it is, it stands
/// harmlessly in the URL of a request.
fn is_bucket(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (3..=255).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.') && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[track_caller]
    fn check(text: &str, bucket: &str, prefix: &str) {
        let location = S3Location::parse(text).unwrap();
        assert_eq!((location.bucket(), location.prefix()), (bucket, prefix), "{text}");
        assert_eq!(S3Location::parse(&location.to_string()).unwrap(), location);
    }

    #[test]
    fn a_location_is_a_bucket_and_a_folder() {
        check("s3://cdc-files", "cdc-files", "");
        check("s3://cdc-files/", "cdc-files", "");
        check("s3://cdc-files/dms", "cdc-files", "dms/");
        check("s3://cdc-files/dms/prod/", "cdc-files", "dms/prod/");
        check("s3://Old_Bucket/a b+c%20/주문", "Old_Bucket", "a b+c%20/주문/");
    }

    #[test]
    fn whatever_else_is_refused_with_a_hint() {
        let texts = [
            "s3:/bucket/x",
            "s3://",
            "s3:///x",
            "s3://ab/x",
            "s3://user@bucket/x",
            "s3://bucket:80/x",
            "s3://arn:aws:s3:::x/y",
            "s3://..x/y",
            "s3://bucket//x",
            "s3://bucket/x//",
            "s3://bucket/x//y",
            "s3://bucket/x/../y",
            "s3://bucket/x\u{1}",
            "s3://bucket/*/x",
            "s3://bucket/x?.csv",
            "/folder",
        ];
        for text in texts {
            let error = S3Location::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::User, "{text}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("s3://BUCKET")), "{text}");
        }
    }
}
