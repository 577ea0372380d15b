//! Stores made from what was found, without a request, and what a server's refusals become.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::*;
use crate::error::Kind;

fn aws(region: Option<&'static str>, endpoint: Option<&str>) -> Aws {
    let keys = Credentials::new("AKIA", "the-secret", Some("the-token".into()), None, "test");
    let mut sdk =
        SdkConfig::builder().region(region.map(Region::new)).credentials_provider(SharedCredentialsProvider::new(keys));
    sdk.set_endpoint_url(endpoint.map(str::to_owned));
    Aws::of(sdk.build(), |_| None, SystemClock::shared()).unwrap()
}

#[test]
fn a_bucket_is_opened_without_a_request() {
    for endpoint in [None, Some("http://127.0.0.1:1"), Some("https://minio.example")] {
        let store = aws(Some("eu-west-1"), endpoint).bucket("cdc-files").unwrap();
        assert_eq!(store.to_string(), "AmazonS3(cdc-files)");
    }
}

#[test]
fn without_a_region_nothing_is_opened() {
    let error = aws(None, Some("http://127.0.0.1:1")).bucket("cdc-files").unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.hint_text().unwrap().contains("AWS_REGION"), "{}", error.report());
}

#[test]
fn secrets_are_not_shown() {
    let aws = aws(Some("eu-west-1"), None);
    let shown = format!("{aws:?} {:?}", aws.s3("cdc-files").unwrap());
    assert!(shown.contains("eu-west-1") && !shown.contains("the-"), "{shown}");
}

/// A server that gives one answer to one request; its URL.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        assert!(lines.by_ref().any(|line| line.is_empty()), "the request has no end");
        stream.write_all(answer.as_bytes()).unwrap();
    });
    url
}

#[tokio::test]
async fn a_refusal_that_repeats_the_token_does_not_show_it() {
    let url = answering(
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<Error><Code>ExpiredToken</Code><Message>The token has \
         expired.</Message><Token-0>the-token</Token-0></Error>",
    );
    let store = aws(Some("eu-west-1"), Some(&url)).bucket("cdc-files").unwrap();
    let cause = store.get(&Path::from("a.csv")).await.unwrap_err();
    assert_eq!(refusal_code(&cause).as_deref(), Some("ExpiredToken"));
    let error = explained(Error::user("it cannot be read").because(cause));
    assert_eq!(error.kind(), Kind::Retry);
    let shown = format!("{error:?} {}", error.report());
    assert!(shown.contains("The token has expired.") && !shown.contains("the-"), "{shown}");
}

#[tokio::test]
async fn a_bucket_in_another_region_is_told_with_what_to_set() {
    let url = answering("HTTP/1.1 301 Moved Permanently\r\nConnection: close\r\n\r\n");
    let store = aws(Some("eu-west-1"), Some(&url)).bucket("cdc-files").unwrap();
    let cause = store.get(&Path::from("a.csv")).await.unwrap_err();
    let error = explained(Error::retry("it cannot be read").because(cause));
    assert_eq!(error.kind(), Kind::User, "{}", error.report());
    assert!(error.hint_text().unwrap().contains("AWS_REGION"), "{}", error.report());
}
