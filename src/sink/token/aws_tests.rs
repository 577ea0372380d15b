//! Signed requests against a computation of their own, which is held to AWS's published example.

use aws_config::Region;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_lc_rs::{digest, hmac};

use super::super::fake::{AUDIENCE, Answer, Script, aws, clock, header_of, keys, sdk, signed_request};
use super::*;
use crate::clock::StillClock;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// AWS's signature of a canonical request, see
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>; `scope` is
/// `<date>/<region>/<service>/aws4_request`.
fn signature(secret: &str, time: &str, scope: &str, canonical: &str) -> String {
    let mut key = format!("AWS4{secret}").into_bytes();
    let mac = |key: &[u8], data: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes());
    for part in scope.split('/') {
        key = mac(&key, part).as_ref().to_vec();
    }
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    hex(mac(&key, &format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}")).as_ref())
}

/// SHA-256 of no body.
const NO_BODY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Asserts that the signature of a request covers all of its headers and is made with `secret`; gives what it says of
/// its credential.
pub(in super::super) fn signer(signed: &Value, secret: &str) -> String {
    let authorization = header_of(signed, "Authorization");
    let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=").unwrap();
    let (credential, parts) = parts.split_once(", SignedHeaders=").unwrap();
    let (names, have) = parts.split_once(", Signature=").unwrap();
    let headers = signed["headers"].as_array().unwrap();
    assert_eq!(names.split(';').count() + 1, headers.len(), "a header is not signed: {names}");
    let lines: String = names.split(';').map(|name| format!("{name}:{}\n", header_of(signed, name))).collect();
    let url = Url::parse(signed["url"].as_str().unwrap()).unwrap();
    assert_eq!(header_of(signed, "host"), url.host_str().unwrap());
    let (method, path, query) = (signed["method"].as_str().unwrap(), url.path(), url.query().unwrap());
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{NO_BODY}");
    let (_, scope) = credential.split_once('/').unwrap();
    assert_eq!(have, signature(secret, &header_of(signed, "x-amz-date"), scope, &canonical));
    credential.to_owned()
}

/// An identity by these answers of AWS's chain.
fn identity(answers: Vec<Answer>) -> (Arc<StillClock>, AwsIdentity) {
    let clock = clock();
    let source = &aws()["credential_source"];
    let identity = AwsIdentity::new(AUDIENCE, source, Some(sdk(answers)), Arc::clone(&clock) as _).unwrap();
    (clock, identity)
}

async fn shown(identity: &AwsIdentity) -> Value {
    signed_request(&identity.shown().await.map_err(|error| error.report()).unwrap())
}

#[test]
fn the_computation_here_gives_the_signature_of_awss_example() {
    let secret = concat!("wJalrXUtnFEMI/", "K7MDENG+", "bPxRfiCYEXAMPLEKEY");
    let headers = "host:example.amazonaws.com\nx-amz-date:20150830T123600Z\n\nhost;x-amz-date";
    let canonical = format!("POST\n/\nParam1=value1\n{headers}\n{NO_BODY}");
    let have = signature(secret, "20150830T123600Z", "20150830/us-east-1/service/aws4_request", &canonical);
    assert_eq!(have, "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11");
}

#[tokio::test]
async fn passing_credentials_sign_with_their_session_token_and_for_this_pool_alone() {
    let (_, identity) = identity(vec![Ok(keys("AKONE", Some(60)))]);
    let signed = shown(&identity).await;
    assert_eq!(signed["method"], "POST");
    assert_eq!(signed["url"], "https://sts.eu-central-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15");
    assert_eq!(signer(&signed, "the-secret"), "AKONE/20240506/eu-central-1/sts/aws4_request");
    assert_eq!(header_of(&signed, TARGET_HEADER), AUDIENCE);
    assert_eq!(header_of(&signed, "x-amz-security-token"), "the-token/+=");
    assert_eq!(header_of(&signed, "x-amz-date"), "20240506T000000Z");
}

#[tokio::test]
async fn lasting_credentials_have_no_session_token() {
    let (_, identity) = identity(vec![Ok(Credentials::new("AKUSER", "the-secret", None, None, "test"))]);
    let signed = shown(&identity).await;
    assert_eq!(signer(&signed, "the-secret"), "AKUSER/20240506/eu-central-1/sts/aws4_request");
    let names: Vec<&str> = signed["headers"].as_array().unwrap().iter().map(|h| h["key"].as_str().unwrap()).collect();
    assert_eq!(names, ["host", TARGET_HEADER, "x-amz-date", "Authorization"]);
}

#[tokio::test]
async fn every_request_is_signed_with_the_credentials_and_at_the_time_of_now() {
    let (clock, identity) = identity(vec![Ok(keys("AKONE", Some(60))), Ok(keys("AKTWO", Some(120)))]);
    assert!(signer(&shown(&identity).await, "the-secret").starts_with("AKONE/20240506/"));
    clock.forward(chrono::TimeDelta::hours(25));
    let later = shown(&identity).await;
    assert!(signer(&later, "the-secret").starts_with("AKTWO/20240507/"));
    assert_eq!(header_of(&later, "x-amz-date"), "20240507T010000Z");
}

#[tokio::test]
async fn what_stands_in_the_way_of_credentials_is_told_by_who_can_mend_it() {
    let refused = async |error: fn() -> CredentialsError| identity(vec![Err(error)]).1.shown().await.unwrap_err();
    let none = refused(CredentialsError::not_loaded_no_source).await;
    assert_eq!(none.kind(), Kind::User);
    assert!(none.message().starts_with("no AWS credentials were found"), "{none}");
    assert!(none.hint_text().unwrap().contains("AWS_PROFILE"));
    let wrong = refused(|| CredentialsError::invalid_configuration("profile x")).await;
    assert_eq!(wrong.kind(), Kind::User);
    assert!(wrong.report().contains("profile x"), "{}", wrong.report());
    let passing = refused(|| CredentialsError::provider_error("the server is down")).await;
    assert_eq!(passing.kind(), Kind::Retry);
    assert!(NoIdentity(passing).is_transient() && !NoIdentity(none).is_transient());
}

#[tokio::test]
async fn without_a_region_the_user_is_told_to_set_one_and_an_impossible_one_is_refused() {
    for (region, told) in [(None, "no AWS region is known"), (Some("example.com/"), "`example.com/` is no AWS region")]
    {
        let script = SharedCredentialsProvider::new(Script::new(vec![Ok(keys("AKONE", None))]));
        let sdk = SdkConfig::builder().credentials_provider(script).region(region.map(Region::new)).build();
        let source = &aws()["credential_source"];
        let identity = AwsIdentity::new(AUDIENCE, source, Some(sdk), clock()).unwrap();
        let error = identity.shown().await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().starts_with(told), "{error}");
        assert!(error.hint_text().unwrap().contains("AWS_REGION"));
    }
}

#[tokio::test]
async fn the_file_may_leave_out_where_aws_says_who_signed_but_not_name_a_plain_place() {
    let with = |url: Option<&str>| {
        let source = json!({"environment_id": "aws1", "regional_cred_verification_url": url});
        AwsIdentity::new(AUDIENCE, &source, Some(sdk(vec![Ok(keys("AKONE", None))])), clock()).unwrap()
    };
    assert!(shown(&with(None)).await["url"].as_str().unwrap().starts_with("https://sts.eu-central-1.amazonaws.com/?"));
    let china = shown(&with(Some("https://sts.{region}.amazonaws.com.cn:8443?Action=GetCallerIdentity"))).await;
    assert_eq!(header_of(&china, "host"), "sts.eu-central-1.amazonaws.com.cn:8443");
    for url in ["http://sts.amazonaws.com?Action=GetCallerIdentity", "sts"] {
        let error = with(Some(url)).shown().await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains("regional_cred_verification_url"), "{error}");
    }
}

#[test]
fn only_the_version_that_there_is_can_be_used() {
    assert!(is_from_aws(&aws()) && !is_from_aws(&json!({"credential_source": {"file": "/aws1"}})));
    let unknown = json!({"environment_id": "aws2"});
    let error = AwsIdentity::new(AUDIENCE, &unknown, None, clock()).unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().contains("`aws2`"), "{error}");
}

#[tokio::test]
async fn nothing_secret_is_shown() {
    let (_, identity) = identity(vec![Ok(keys("AKONE", None))]);
    assert!(!identity.shown().await.unwrap().contains("the-secret"));
    assert_eq!(format!("{identity:?}"), format!("AwsIdentity {{ audience: {AUDIENCE:?}, .. }}"));
}
