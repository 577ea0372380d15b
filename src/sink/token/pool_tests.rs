//! AWS's identity exchanged at servers that stand in for Google's.

use aws_credential_types::provider::error::CredentialsError as AwsError;
use axum::http::StatusCode;
use chrono::TimeDelta;

use super::super::aws::tests::signer;
use super::super::fake::{AUDIENCE, Answer, Servers, aws_at, clock, field, keys, sdk, signed_request};
use super::super::{Built, Shared, Source, Tokens};
use super::*;
use crate::clock::StillClock;
use crate::error::Kind;

/// Tokens of a pool, with these answers of AWS's chain.
fn tokens(json: &Value, answers: Vec<Answer>) -> (Arc<StillClock>, Tokens) {
    let clock = clock();
    let pool = Pool::new(json, Some(sdk(answers)), Arc::clone(&clock) as _).unwrap();
    let (source, built) = (Source::Json(json.clone()), Some(Built::Aws(Arc::new(pool))).into());
    (Arc::clone(&clock), Tokens(Some(Arc::new(Shared { source, clock, built }))))
}

async fn bearer(tokens: &Tokens) -> String {
    tokens.bearer().await.map_err(|error| error.report()).unwrap().unwrap()
}

/// Tokens of a service account that is named in the file.
async fn of_account(answers: Vec<Answer>) -> (Servers, Arc<StillClock>, Tokens) {
    let (servers, address) = Servers::start().await;
    let mut json = aws_at(&address);
    json["service_account_impersonation_url"] = format!("http://{address}/iam/sa:generateAccessToken").into();
    json["service_account_impersonation"] = serde_json::json!({"token_lifetime_seconds": 1_800});
    let (clock, tokens) = tokens(&json, answers);
    (servers, clock, tokens)
}

const ACCOUNT: &str = "POST /iam/sa:generateAccessToken";

#[tokio::test]
async fn the_security_token_service_gets_a_request_that_awss_credentials_signed() {
    let (servers, address) = Servers::start().await;
    let (_, tokens) = tokens(&aws_at(&address), vec![Ok(keys("AKONE", Some(60)))]);
    assert_eq!(bearer(&tokens).await, "of-sts");
    assert_eq!(bearer(&tokens).await, "of-sts");
    let [form] = &servers.came("POST /sts")[..] else { panic!("exchanged more than once") };
    assert_eq!(field(form, "audience"), AUDIENCE);
    assert_eq!(field(form, "scope"), CLOUD_SCOPE);
    assert_eq!(field(form, "subject_token_type"), "urn:ietf:params:aws:token-type:aws4_request");
    assert_eq!(field(form, "grant_type"), "urn:ietf:params:oauth:grant-type:token-exchange");
    let signed = signed_request(&field(form, "subject_token"));
    assert_eq!(signer(&signed, "the-secret"), "AKONE/20240506/eu-central-1/sts/aws4_request");
}

#[tokio::test]
async fn a_service_account_is_impersonated_for_as_long_as_the_file_says() {
    let (servers, _, tokens) = of_account(vec![Ok(keys("AKONE", Some(60)))]).await;
    assert_eq!(bearer(&tokens).await, "of-account");
    assert_eq!(field(&servers.came("POST /sts")[0], "scope"), IAM_SCOPE);
    let [asked] = &servers.came(ACCOUNT)[..] else { panic!("asked more than once") };
    let asked: Value = serde_json::from_str(asked).unwrap();
    assert_eq!(asked, serde_json::json!({"scope": [CLOUD_SCOPE], "lifetime": "1800s"}));
}

#[tokio::test]
async fn a_service_accounts_token_is_kept_until_shortly_before_it_expires() {
    let (servers, clock, tokens) = of_account(vec![Ok(keys("AKONE", None))]).await;
    servers.expire("2024-05-06T01:00:00Z");
    assert_eq!(bearer(&tokens).await, "of-account");
    clock.forward(TimeDelta::minutes(55));
    assert_eq!(bearer(&tokens).await, "of-account");
    assert_eq!(servers.came(ACCOUNT).len(), 1);
    clock.forward(TimeDelta::minutes(2));
    servers.expire("2024-05-06T02:00:00Z");
    assert_eq!(bearer(&tokens).await, "of-account");
    assert_eq!(bearer(&tokens).await, "of-account");
    assert_eq!(servers.came(ACCOUNT).len(), 2);
}

#[tokio::test]
async fn a_service_accounts_token_that_cannot_be_renewed_serves_until_it_expires() {
    let (servers, clock, tokens) = of_account(vec![Ok(keys("AKONE", None))]).await;
    servers.expire("2024-05-06T01:00:00Z");
    assert_eq!(bearer(&tokens).await, "of-account");
    servers.refuse(Some(StatusCode::SERVICE_UNAVAILABLE));
    clock.forward(TimeDelta::minutes(58));
    assert_eq!(bearer(&tokens).await, "of-account");
    assert_eq!(bearer(&tokens).await, "of-account");
    assert_eq!(servers.came(ACCOUNT).len(), 2, "asked again without a pause");
    clock.forward(TimeDelta::minutes(2));
    assert_eq!(tokens.bearer().await.unwrap_err().kind(), Kind::Retry);
}

#[tokio::test]
async fn a_service_account_that_may_not_be_impersonated_is_the_users() {
    let (servers, _, tokens) = of_account(vec![Ok(keys("AKONE", None))]).await;
    servers.refuse_at(ACCOUNT, StatusCode::FORBIDDEN);
    let error = tokens.bearer().await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().ends_with("(HTTP 403): no permission on the account"), "{error}");
    assert!(error.hint_text().unwrap().contains("roles/iam.workloadIdentityUser"));
    assert!(!error.report().contains("of-sts"), "{}", error.report());
}

#[tokio::test]
async fn missing_awss_credentials_are_told_as_they_are_with_the_hint() {
    let (servers, address) = Servers::start().await;
    let (_, missing) = tokens(&aws_at(&address), vec![Err(AwsError::not_loaded_no_source)]);
    let error = missing.bearer().await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.message().starts_with("no AWS credentials were found"), "{error}");
    assert!(error.hint_text().unwrap().contains("AWS_PROFILE"));
    let (_, passing) = tokens(&aws_at(&address), vec![Err(|| AwsError::provider_error("the server is down"))]);
    assert_eq!(passing.bearer().await.unwrap_err().kind(), Kind::Retry);
    assert_eq!(servers.came("POST /sts").len(), 0);
}

#[tokio::test]
async fn credentials_that_google_refuses_as_expired_are_renewed() {
    let (servers, address) = Servers::start().await;
    let answers = vec![Ok(keys("AKONE", Some(0))), Ok(keys("AKTWO", Some(60)))];
    let (clock, sdk) = (clock(), sdk(answers));
    servers.refuse(Some(StatusCode::BAD_REQUEST));
    let pool = || Pool::new(&aws_at(&address), Some(sdk.clone()), Arc::clone(&clock) as _).unwrap();
    assert!(!pool().token().await.unwrap_err().is_transient());
    servers.refuse(None);
    assert_eq!(pool().token().await.unwrap(), "of-sts");
    let signers = servers.came("POST /sts").into_iter();
    let signers: Vec<String> =
        signers.map(|form| signer(&signed_request(&field(&form, "subject_token")), "the-secret")).collect();
    assert!(signers[0].starts_with("AKONE/") && signers[1].starts_with("AKTWO/"), "{signers:?}");
}

#[tokio::test]
async fn a_file_that_lacks_something_is_the_users() {
    for (name, wrong) in [("audience", Value::Null), ("token_url", Value::Null), ("subject_token_type", 1.into())] {
        let mut json = aws_at("127.0.0.1:1");
        json[name] = wrong;
        let error = Pool::new(&json, None, clock()).err().unwrap();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains(name), "{error}");
    }
    let mut json = aws_at("127.0.0.1:1");
    json["service_account_impersonation_url"] = "sa".into();
    let error = Pool::new(&json, None, clock()).err().unwrap();
    assert!(error.message().contains("service_account_impersonation_url"), "{error}");
}
