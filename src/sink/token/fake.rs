//! Servers that stand in for Google's and AWS's, with a clock and credentials, for tests of tokens.

use std::sync::{Arc, Mutex};

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Providing;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::clock::StillClock;

pub(super) const AUDIENCE: &str =
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/aws";

/// A request that came: its method and path, and its body.
type Came = (String, String);

/// To which method and path, if not to all, and how.
type Refusal = (Option<&'static str>, StatusCode);

/// Google's and AWS's token servers in one.
#[derive(Clone, Default)]
pub(super) struct Servers {
    came: Arc<Mutex<Vec<Came>>>,
    /// Answered instead of a token while it is set.
    refusal: Arc<Mutex<Option<Refusal>>>,
    /// When a service account's token expires, if not in centuries.
    expiry: Arc<Mutex<Option<&'static str>>>,
}

impl Servers {
    pub(super) async fn start() -> (Self, String) {
        let servers = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(answer).with_state(servers.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (servers, address)
    }

    /// The bodies that came to this method and path.
    pub(super) fn came(&self, to: &str) -> Vec<String> {
        self.came.lock().unwrap().iter().filter(|(path, _)| path == to).map(|(_, body)| body.clone()).collect()
    }

    pub(super) fn refuse(&self, with: Option<StatusCode>) {
        *self.refusal.lock().unwrap() = with.map(|with| (None, with));
    }

    /// Refuses what comes to this method and path.
    pub(super) fn refuse_at(&self, to: &'static str, with: StatusCode) {
        *self.refusal.lock().unwrap() = Some((Some(to), with));
    }

    pub(super) fn expire(&self, at: &'static str) {
        *self.expiry.lock().unwrap() = Some(at);
    }
}

async fn answer(
    State(servers): State<Servers>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    let to = format!("{method} {}", uri.path());
    servers.came.lock().unwrap().push((to.clone(), body));
    // AWS's metadata server says with its token for how many seconds it is good.
    let with = |status, text| (status, [("x-aws-ec2-metadata-token-ttl-seconds", "21600")], text);
    if let Some((at, refusal)) = *servers.refusal.lock().unwrap()
        && at.is_none_or(|at| at == to)
    {
        let said = match to.contains("/iam/") {
            true => json!({"error": {"code": refusal.as_u16(), "message": "no permission on the account"}}),
            false => json!({"error": "invalid_grant", "error_description": "the pool is unknown"}),
        };
        return with(refusal, said.to_string());
    }
    match servers.token(&to, &headers) {
        Some(text) => with(StatusCode::OK, text),
        None => with(StatusCode::NOT_FOUND, to),
    }
}

impl Servers {
    /// What answers a request to this method and path.
    fn token(&self, to: &str, headers: &HeaderMap) -> Option<String> {
        let has = |name: &str, value: &str| headers.get(name).is_some_and(|have| have == value);
        let token = |token: &str| {
            json!({"access_token": token, "expires_in": 3_600, "token_type": "Bearer", "issued_token_type":
                   "urn:ietf:params:oauth:token-type:access_token"})
            .to_string()
        };
        Some(match to {
            "POST /sts" => token("of-sts"),
            "POST /oauth" => token("of-user"),
            "POST /iam/sa:generateAccessToken" if has("authorization", "Bearer of-sts") => {
                let expiry = self.expiry.lock().unwrap().unwrap_or("2999-01-01T00:00:00Z");
                json!({"accessToken": "of-account", "expireTime": expiry}).to_string()
            }
            "GET /computeMetadata/v1/instance/service-accounts/default/token" if has("metadata-flavor", "Google") => {
                token("of-machine")
            }
            "GET /task" if has("authorization", "of-the-task") => role("AKTASK"),
            "POST /aws-sts" | "POST /aws-sts/" => {
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult>\
                <AssumedRoleUser><AssumedRoleId>r:p</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/pod/p\
                </Arn></AssumedRoleUser><Credentials><AccessKeyId>AKPOD</AccessKeyId><SecretAccessKey>the-secret\
                </SecretAccessKey><SessionToken>passing</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>\
                </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                    .into()
            }
            "PUT /latest/api/token" => "session".into(),
            path if path.starts_with("GET /latest/meta-data/") && has("x-aws-ec2-metadata-token", "session") => {
                match path.trim_start_matches("GET /latest/meta-data/") {
                    "placement/region" => "ap-northeast-2".into(),
                    "iam/security-credentials/" => "worker".into(),
                    "iam/security-credentials/worker" => role("AKROLE"),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }
}

/// A role's credentials as AWS's metadata servers give them.
fn role(key_id: &str) -> String {
    json!({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": key_id, "SecretAccessKey": "the-secret",
           "Token": "passing", "Expiration": "2999-01-01T00:00:00Z", "LastUpdated": "2024-01-01T00:00:00Z"})
    .to_string()
}

/// The configuration of a workload identity pool that takes identities from this source.
pub(super) fn external(address: &str, source: Value) -> Value {
    json!({
        "type": "external_account",
        "audience": AUDIENCE,
        "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
        "token_url": format!("http://{address}/sts"),
        "credential_source": source,
    })
}

/// The configuration of one that takes them from AWS.
pub(super) fn aws_at(address: &str) -> Value {
    external(
        address,
        json!({
            "environment_id": "aws1",
            "region_url": "http://169.254.169.254/latest/meta-data/placement/availability-zone",
            "url": "http://169.254.169.254/latest/meta-data/iam/security-credentials",
            "regional_cred_verification_url":
                "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
        }),
    )
}

/// The same, with a server that nobody asks.
pub(super) fn aws() -> Value {
    aws_at("127.0.0.1:1")
}

/// When every test begins: 2024-05-06.
const START: DateTime<Utc> = DateTime::from_timestamp(1_714_953_600, 0).unwrap();

/// A clock that stands at [`START`].
pub(super) fn clock() -> Arc<StillClock> {
    Arc::new(StillClock::at(START))
}

pub(super) type Answer = Result<Credentials, fn() -> CredentialsError>;

/// AWS's chain: answers in turn, the last one again and again.
#[derive(Debug)]
pub(super) struct Script(Mutex<Vec<Answer>>);

impl Script {
    pub(super) fn new(answers: Vec<Answer>) -> Self {
        Self(Mutex::new(answers))
    }
}

impl ProvideCredentials for Script {
    fn provide_credentials<'a>(&'a self) -> Providing<'a>
    where
        Self: 'a,
    {
        let mut script = self.0.lock().unwrap();
        let next = if script.len() > 1 { script.remove(0) } else { script[0].clone() };
        Providing::ready(next.map_err(|error| error()))
    }
}

/// What AWS's chain found in eu-central-1.
pub(super) fn sdk(answers: Vec<Answer>) -> SdkConfig {
    let provider = SharedCredentialsProvider::new(Script::new(answers));
    SdkConfig::builder().credentials_provider(provider).region(Region::new("eu-central-1")).build()
}

/// Passing credentials that expire so many minutes after the clock's start.
pub(super) fn keys(id: &str, minutes: Option<i64>) -> Credentials {
    let expiry = minutes.map(|minutes| (START + TimeDelta::minutes(minutes)).into());
    Credentials::new(id, "the-secret", Some("the-token/+=".into()), expiry, "test")
}

/// A field of a form.
pub(super) fn field(form: &str, name: &str) -> String {
    let found = url::form_urlencoded::parse(form.as_bytes()).find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("no {name} in {form}")).1.into_owned()
}

/// What a subject token of AWS's kind says.
pub(super) fn signed_request(subject: &str) -> Value {
    let text = url::form_urlencoded::parse(subject.as_bytes()).next().unwrap().0.into_owned();
    serde_json::from_str(&text).unwrap()
}

pub(super) fn header_of(signed: &Value, name: &str) -> String {
    let headers = signed["headers"].as_array().unwrap();
    headers.iter().find(|header| header["key"] == name).unwrap()["value"].as_str().unwrap().to_owned()
}
