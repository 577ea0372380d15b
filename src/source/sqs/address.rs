//! What the URL of a queue tells: where requests go, and the region they are signed for.

use url::{Host, Url};

use crate::error::{Error, Result};

/// The URL of a queue, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// The whole URL.
    pub url: String,
    /// The region in the name of Amazon's host; None where another host answers.
    pub region: Option<String>,
    /// Where requests go, where that does not follow from the region, as with a VPC's endpoint.
    pub endpoint: Option<String>,
}

impl Address {
    /// Reads a queue's URL, as `https://sqs.eu-west-1.amazonaws.com/111122223333/name`:
    /// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-queue-message-identifiers.html>.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where it is none.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::user("`queue` is not the URL of a queue").hint(
                "write `queue: https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`, as `aws sqs get-queue-url` says it",
            )
        };
        let url = Url::parse(text).map_err(|cause| wrong().because(cause))?;
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_ascii_lowercase(),
            Some(_) => String::new(),
            None => return Err(wrong()),
        };
        let folders = url.path_segments().map_or(0, |parts| parts.filter(|part| !part.is_empty()).count());
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !matches!(url.scheme(), "http" | "https") || folders < 2 || !plain || url.fragment().is_some() {
            return Err(wrong());
        }
        let region = amazon_region(&host);
        let follows = region.as_deref().is_some_and(|region| is_public(&host, region));
        let endpoint = (!follows).then(|| url.origin().ascii_serialization());
        Ok(Self { url: text.to_owned(), region, endpoint })
    }
}

/// The region in the name of one of Amazon's hosts.
fn amazon_region(host: &str) -> Option<String> {
    const ENDS: [&str; 3] = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];
    let name = ENDS.iter().find_map(|end| host.strip_suffix(end))?;
    name.split('.').find(|label| is_region(label)).map(str::to_owned)
}

/// Whether a label is built as regions are: `eu-west-1`, `us-gov-east-1`.
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-');
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let starts = parts.next().is_some_and(|part| part.len() == 2 && letters(part));
    let ends = parts.next_back().is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    let middle: Vec<&str> = parts.collect();
    starts && ends && !middle.is_empty() && middle.iter().all(|part| letters(part))
}

/// Whether the SDK goes to that host, or to its heir, by itself once it knows the region:
/// <https://docs.aws.amazon.com/general/latest/gr/sqs-service.html>.
fn is_public(host: &str, region: &str) -> bool {
    let end = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    host == format!("sqs.{region}.{end}") || host == format!("{region}.queue.{end}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[track_caller]
    fn check(url: &str, region: Option<&str>, endpoint: Option<&str>) {
        let address = Address::parse(url).unwrap();
        assert_eq!((address.region.as_deref(), address.endpoint.as_deref()), (region, endpoint), "{url}");
        assert_eq!(address.url, url);
    }

    #[test]
    fn amazons_own_host_tells_the_region() {
        check("https://sqs.eu-west-1.amazonaws.com/111122223333/cdc", Some("eu-west-1"), None);
        check("https://sqs.us-gov-east-1.amazonaws.com/111122223333/cdc", Some("us-gov-east-1"), None);
        check("https://sqs.cn-north-1.amazonaws.com.cn/111122223333/cdc", Some("cn-north-1"), None);
        check("https://ap-northeast-2.queue.amazonaws.com/111122223333/cdc.fifo", Some("ap-northeast-2"), None);
    }

    #[test]
    fn any_other_host_is_asked_itself() {
        check("http://127.0.0.1:4566/000000000000/cdc", None, Some("http://127.0.0.1:4566"));
        check("http://[::1]:4566/000000000000/cdc", None, Some("http://[::1]:4566"));
        check("https://queue.example.com/000000000000/cdc", None, Some("https://queue.example.com"));
        check(
            "https://vpce-0a1b-c2d3.sqs.eu-west-1.vpce.amazonaws.com/1/cdc",
            Some("eu-west-1"),
            Some("https://vpce-0a1b-c2d3.sqs.eu-west-1.vpce.amazonaws.com"),
        );
        check(
            "https://sqs-fips.us-east-1.amazonaws.com/1/cdc",
            Some("us-east-1"),
            Some("https://sqs-fips.us-east-1.amazonaws.com"),
        );
    }

    #[test]
    fn what_is_no_queue_is_refused_with_a_hint() {
        for text in [
            "",
            "cdc",
            "arn:aws:sqs:eu-west-1:111122223333:cdc",
            "sqs.eu-west-1.amazonaws.com/111122223333/cdc",
            "ftp://sqs.eu-west-1.amazonaws.com/111122223333/cdc",
            "https://sqs.eu-west-1.amazonaws.com/cdc",
            "https://sqs.eu-west-1.amazonaws.com//cdc",
            "https://key:secret@sqs.eu-west-1.amazonaws.com/111122223333/cdc",
            "https://sqs.eu-west-1.amazonaws.com/111122223333/cdc?Action=DeleteQueue",
        ] {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::User, "{text}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("https://sqs.REGION")), "{text}");
            assert!(!error.report().contains("secret"), "{}", error.report());
        }
    }
}
