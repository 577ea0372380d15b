//! Tokens from servers that stand in for Google's and AWS's.

use std::process::Command;
use std::sync::Mutex;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::json;

use super::*;
use crate::error::Kind;
use crate::sink::bigquery::fake;

/// Made for these tests; it opens nothing.
const PRIVATE_KEY: &str = "\
    -----BEGIN PRIVATE KEY-----\n\
    MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQCdLTkd78qhzt2u\n\
    FYo8daHZKbSLYqFWCBL/r9Q52Ue3YH5+/aAErmLW4IW5afoz8Y0HFHzBHn8sDtUv\n\
    uQOOXFqRr2nodHiH2QoerA8U7J+akGa25vQA6Kr3s7yrWQqt8a0pJ0d2A5rlETF0\n\
    zt7jFEz3tm+45u/Bt32NawNDpRy+m3lsB8Mwg+3QJ16CSKVeJVaMnE69r71VTn1A\n\
    zV9qJpSHfl7SlgrIQxu7rHtarux2jGzAzXWnxUMCk0/zUbol1TD1T58/pvNFBNy6\n\
    EEcC4VX4RSstPQojq3tnlHgkK89hlIh343CnNkp5OtdPDHgpPPbKdNIk2PKrkfk1\n\
    9zB5QNZxAgMBAAECggEAIk1/XLA7ugqqyNZ8n+tQUlPOymjRKzSB6PmXyLRJ+ZR+\n\
    pvp1VPA2NA02QhwF9hYuoC/xdjhQqu3lyw+G3if7wDXXWFsq/wL4OW91ryxhPNts\n\
    /1fyQsyEm6DHeWHqecH397ZR20i4ImwZLhQEAu0oSxuu0FzeUJnaNeX4BWhgmJyA\n\
    SaYVXRJViv24WVY6Bw2/WuIlQrTfcC4f7khPxvqxxOTuyFxBr3V9s3BWxJJdXPYZ\n\
    u/SY/AHa5J1gJzVaJoSPFMitfSNL6XyAm+QynAlrXDuiS5FIsHx38o9niHTlLb51\n\
    rdQMlcHH8nSIW+j5XjicSG/93Zg/p08URfEZXHcnkQKBgQDQXreY+llrsO2cQiKe\n\
    mf8VeC6HexlwMds0UHjI1QGhMlozHrSNiBm2Ln09F13t9MmdZqDTrB/GJKcjl01g\n\
    pwdvwK1swB1ntXYM77Q7TEgUnFrn2XAaQ78yrmtcxAZEI7AUUqNkHJGUjut7f7O5\n\
    Xfl/xQKtzxuqjZ/Ppmgxv/7qlQKBgQDBGs1GKoBx9DYQzi3y6XQfYkJ/YgzNvLQq\n\
    F7hn/O2qwx0yNmB+vcTlBlZ0bMjTIiPFT23tTmlHjqVfIGgOCcog5uMy/Bh/kqED\n\
    OSdcqc0CnRnYYZJnovnuyJm9UoAdtdqDNfRHJOuqOTKChCHBsKYqTuC6+YsANZgt\n\
    TRhpvuLhbQKBgQDJzsKArg9HBs/KpB8Fft6X+5MM8kN77z1/mGSzFeIDLlI/6oAy\n\
    B1vnn3T6YxQ87/UItioTeEQ50qvyA4sUjhDcwj708chI9m3EL7BeMg4psBk3Ldeu\n\
    CGk4e8dNzCjJe8sAk9zdi/HPcPBO5yq44HRRtAxZLBp+f7YFFgUaEfqhVQKBgDMC\n\
    gXcngwaXHDEURc8FHEeuDSLZI8i1MGJuIahWh/Gz2OKKurLALmLRacUXd3VOb2SP\n\
    ttoY/HaKl+SpCtOqglpuo1W0gkQw15eiYWN4907ZcRpXq/T0eFE7bGE2ieFPSImg\n\
    lwa0Ggy9Tzpq7P/dSgejDnpVsQI9JhXRZ8GHSyeBAoGAIHs59n0Y3uA/0FrPlrJ6\n\
    17OoDymDztxPEi/TDl3S8IiGtJAwTlsehTRKbffeFncGhMMRDp8Q/cNpOQTPPPIy\n\
    BuFPhE1XyuYhfh+o47J1z5ynn3w5gJj+GzRZuVXRBJQmJGEBCsqbCpGFis//1DAk\n\
    xd+8Z1hXZ+psksvkOGuB+ZI=\n\
    -----END PRIVATE KEY-----\n";
const AUDIENCE: &str = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/aws";
/// Tells a test that it runs by itself, and where the server is.
const SERVER: &str = "FRESHET_TEST_TOKEN_SERVER";

/// A request that came: its method and path, and its body.
type Came = (String, String);

/// Google's and AWS's token servers in one.
#[derive(Clone, Default)]
struct Servers {
    came: Arc<Mutex<Vec<Came>>>,
    /// Answered instead of a token while it is set.
    refusal: Arc<Mutex<Option<StatusCode>>>,
}

impl Servers {
    async fn start() -> (Self, String) {
        let servers = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new().fallback(answer).with_state(servers.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (servers, address)
    }

    /// The bodies that came to this method and path.
    fn came(&self, to: &str) -> Vec<String> {
        self.came.lock().unwrap().iter().filter(|(path, _)| path == to).map(|(_, body)| body.clone()).collect()
    }

    fn refuse(&self, with: Option<StatusCode>) {
        *self.refusal.lock().unwrap() = with;
    }
}

async fn answer(
    State(servers): State<Servers>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, String) {
    let to = format!("{method} {}", uri.path());
    servers.came.lock().unwrap().push((to.clone(), body));
    if let Some(refusal) = *servers.refusal.lock().unwrap() {
        return (refusal, json!({"error": "invalid_grant", "error_description": "the pool is unknown"}).to_string());
    }
    let has = |name: &str, value: &str| headers.get(name).is_some_and(|have| have == value);
    let token = |token: &str| {
        json!({"access_token": token, "expires_in": 3_600, "token_type": "Bearer", "issued_token_type":
               "urn:ietf:params:oauth:token-type:access_token"})
        .to_string()
    };
    let text = match to.as_str() {
        "POST /sts" => token("of-sts"),
        "POST /oauth" => token("of-user"),
        "POST /iam/sa:generateAccessToken" if has("authorization", "Bearer of-sts") => {
            json!({"accessToken": "of-account", "expireTime": "2999-01-01T00:00:00Z"}).to_string()
        }
        "GET /computeMetadata/v1/instance/service-accounts/default/token" if has("metadata-flavor", "Google") => {
            token("of-machine")
        }
        "PUT /aws/token" => "session".into(),
        "GET /aws/zone" if has("x-aws-ec2-metadata-token", "session") => "ap-northeast-2c".into(),
        "GET /aws/role" if has("x-aws-ec2-metadata-token", "session") => "worker".into(),
        "GET /aws/role/worker" if has("x-aws-ec2-metadata-token", "session") => {
            json!({"AccessKeyId": "AKROLE", "SecretAccessKey": "hidden", "Token": "passing"}).to_string()
        }
        _ => return (StatusCode::NOT_FOUND, to),
    };
    (StatusCode::OK, text)
}

/// The configuration of a workload identity pool that takes identities from this source.
fn external(address: &str, source: Value) -> Value {
    json!({
        "type": "external_account",
        "audience": AUDIENCE,
        "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
        "token_url": format!("http://{address}/sts"),
        "credential_source": source,
    })
}

fn aws(address: &str) -> Value {
    json!({
        "environment_id": "aws1",
        "region_url": format!("http://{address}/aws/zone"),
        "url": format!("http://{address}/aws/role"),
        "imdsv2_session_token_url": format!("http://{address}/aws/token"),
        "regional_cred_verification_url":
            "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
    })
}

/// A folder with one file of this content, and the file's path.
fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

/// A field of a form.
fn field(form: &str, name: &str) -> String {
    let found = url::form_urlencoded::parse(form.as_bytes()).find(|(key, _)| key == name);
    found.unwrap_or_else(|| panic!("no {name} in {form}")).1.into_owned()
}

/// Environment variables hold for a whole process, so a test of them runs again by itself in another. Gives the
/// server's address there, and None, after the other process succeeded, here.
async fn alone(test: &'static str, server: &str, variables: Vec<(&'static str, String)>) -> Option<String> {
    if let Ok(server) = std::env::var(SERVER) {
        return Some(server);
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("sink::bigquery::token::tests::{test}")]);
    let own = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"];
    own.into_iter().chain([FILE_VARIABLE, "GCE_METADATA_HOST"]).for_each(|name| {
        child.env_remove(name);
    });
    child.env("HOME", "/nowhere").env(SERVER, server).envs(variables);
    let done = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&done.stderr));
    None
}

async fn bearer(tokens: &Tokens) -> String {
    tokens.bearer().await.map_err(|error| error.report()).unwrap().unwrap()
}

#[tokio::test]
async fn an_identity_from_a_file_is_exchanged_once_and_the_token_kept() {
    let (servers, address) = Servers::start().await;
    let (_folder, path) = file("a.jwt.token");
    let tokens = Tokens::from_json(external(&address, json!({"file": path})));
    assert_eq!(bearer(&tokens).await, "of-sts");
    assert_eq!(bearer(&tokens.clone()).await, "of-sts");
    let [form] = &servers.came("POST /sts")[..] else { panic!("exchanged more than once") };
    assert_eq!(field(form, "subject_token"), "a.jwt.token");
    assert_eq!(field(form, "audience"), AUDIENCE);
    assert_eq!(field(form, "scope"), CLOUD_SCOPE);
}

#[tokio::test]
async fn a_service_account_is_impersonated_where_the_configuration_names_one() {
    let (servers, address) = Servers::start().await;
    let (_folder, path) = file("a.jwt.token");
    let mut json = external(&address, json!({"file": path}));
    json["service_account_impersonation_url"] = format!("http://{address}/iam/sa:generateAccessToken").into();
    assert_eq!(bearer(&Tokens::from_json(json)).await, "of-account");
    assert!(servers.came("POST /iam/sa:generateAccessToken")[0].contains(CLOUD_SCOPE));
}

#[tokio::test]
async fn an_aws_identity_from_the_environment_is_a_signed_request_to_awss_own_sts() {
    let (servers, address) = Servers::start().await;
    let key = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_REGION", "ap-northeast-2")];
    let key = key.map(|(name, value)| (name, value.to_owned())).to_vec();
    let test = "an_aws_identity_from_the_environment_is_a_signed_request_to_awss_own_sts";
    if let Some(address) = alone(test, &address, key).await {
        let mut source = aws(&address);
        source.as_object_mut().unwrap().remove("imdsv2_session_token_url");
        assert_eq!(bearer(&Tokens::from_json(external(&address, source))).await, "of-sts");
        return;
    }
    let subject = field(&servers.came("POST /sts")[0], "subject_token");
    assert!(!subject.contains("hidden"));
    let signed = signed_request(&subject);
    assert_eq!(signed["method"], "POST");
    let url = signed["url"].as_str().unwrap();
    assert!(url.starts_with("https://sts.ap-northeast-2.amazonaws.com/?Action=GetCallerIdentity"), "{url}");
    assert_eq!(header_of(&signed, "x-goog-cloud-target-resource"), AUDIENCE);
    assert!(header_of(&signed, "Authorization").starts_with("AWS4-HMAC-SHA256 Credential=AKENV/"));
}

#[tokio::test]
async fn an_aws_identity_comes_from_the_machines_role_where_the_environment_has_none() {
    let (servers, address) = Servers::start().await;
    let test = "an_aws_identity_comes_from_the_machines_role_where_the_environment_has_none";
    if let Some(address) = alone(test, &address, vec![]).await {
        assert_eq!(bearer(&Tokens::from_json(external(&address, aws(&address)))).await, "of-sts");
        return;
    }
    let signed = signed_request(&field(&servers.came("POST /sts")[0], "subject_token"));
    assert!(signed["url"].as_str().unwrap().starts_with("https://sts.ap-northeast-2.amazonaws.com/"));
    assert!(header_of(&signed, "Authorization").contains("Credential=AKROLE/"));
    assert_eq!(header_of(&signed, "x-amz-security-token"), "passing");
}

/// What a subject token of AWS's kind says.
fn signed_request(subject: &str) -> Value {
    let text = url::form_urlencoded::parse(subject.as_bytes()).next().unwrap().0.into_owned();
    serde_json::from_str(&text).unwrap()
}

fn header_of(signed: &Value, name: &str) -> String {
    let headers = signed["headers"].as_array().unwrap();
    headers.iter().find(|header| header["key"] == name).unwrap()["value"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_file_that_the_environment_names_is_found_and_its_users_scopes_are_left_alone() {
    let (servers, address) = Servers::start().await;
    let user = json!({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r",
                      "token_uri": format!("http://{address}/oauth")});
    let (_folder, path) = file(&user.to_string());
    let test = "the_file_that_the_environment_names_is_found_and_its_users_scopes_are_left_alone";
    if alone(test, &address, vec![(FILE_VARIABLE, path.display().to_string())]).await.is_some() {
        assert_eq!(bearer(&Tokens::find(&fake::config(None)).unwrap()).await, "of-user");
        return;
    }
    let asked: Value = serde_json::from_str(&servers.came("POST /oauth")[0]).unwrap();
    assert_eq!((&asked["refresh_token"], &asked["scopes"], &asked["scope"]), (&json!("r"), &Value::Null, &Value::Null));
}

#[tokio::test]
async fn without_a_file_the_metadata_server_is_asked() {
    let (_, address) = Servers::start().await;
    let host = vec![("GCE_METADATA_HOST", address.clone())];
    if alone("without_a_file_the_metadata_server_is_asked", &address, host).await.is_some() {
        assert_eq!(bearer(&Tokens::find(&fake::config(None)).unwrap()).await, "of-machine");
    }
}

#[tokio::test]
async fn a_service_account_signs_its_own_token_for_bigquery() {
    let tokens = Tokens::from_json(json!({"type": "service_account", "client_email": "sa@p.iam.gserviceaccount.com",
        "private_key_id": "k", "private_key": PRIVATE_KEY, "project_id": "p"}));
    let token = bearer(&tokens).await;
    assert_eq!(token.split('.').count(), 3, "not a JWT");
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_the_users_and_is_not_told() {
    let tokens = Tokens::from_json(json!({"type": "service_account", "client_email": "sa", "private_key_id": "k",
        "private_key": "hidden", "project_id": "p"}));
    let error = tokens.bearer().await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.hint_text().unwrap().contains(FILE_VARIABLE));
    assert!(!format!("{error:?} {} {tokens:?}", error.report()).contains("hidden"), "{}", error.report());
}

#[tokio::test]
async fn refused_credentials_are_the_users_and_are_tried_afresh_once_mended() {
    let (servers, address) = Servers::start().await;
    let (_folder, path) = file("a.jwt.token");
    let tokens = Tokens::from_json(external(&address, json!({"file": path})));
    servers.refuse(Some(StatusCode::BAD_REQUEST));
    let error = tokens.bearer().await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.report().contains("the pool is unknown"), "{}", error.report());
    assert!(!error.report().contains("a.jwt.token"));
    servers.refuse(None);
    assert_eq!(bearer(&tokens).await, "of-sts");
}

#[tokio::test]
async fn a_token_server_that_is_down_is_worth_another_try() {
    let (servers, address) = Servers::start().await;
    let (_folder, path) = file("a.jwt.token");
    servers.refuse(Some(StatusCode::SERVICE_UNAVAILABLE));
    let tokens = Tokens::from_json(external(&address, json!({"file": path})));
    assert_eq!(tokens.bearer().await.unwrap_err().kind(), Kind::Retry);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let tokens = Tokens::from_json(external(&closed, json!({"file": path})));
    assert_eq!(tokens.bearer().await.unwrap_err().kind(), Kind::Retry);
}

#[tokio::test]
async fn the_content_of_an_identity_file_is_never_told() {
    let (_, address) = Servers::start().await;
    let (_folder, path) = file(&json!({"token": "hidden"}).to_string());
    let source = json!({"file": path, "format": {"type": "json", "subject_token_field_name": "id_token"}});
    let error = Tokens::from_json(external(&address, source)).bearer().await.unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert!(error.report().contains("id_token") && !error.report().contains("hidden"), "{}", error.report());
}

#[tokio::test]
async fn emulators_get_no_token_and_a_token_goes_over_no_plain_endpoint() {
    let plain = Some("http://127.0.0.1:1".to_owned());
    let tokens = Tokens::find(&fake::config(plain.clone())).unwrap();
    assert_eq!(tokens.bearer().await.unwrap(), None);
    for other in [None, Some("https://bigquery.googleapis.com".to_owned())] {
        let mut config = fake::config(other);
        config.grpc_endpoint.clone_from(&plain);
        assert_eq!(Tokens::find(&config).unwrap_err().kind(), Kind::User);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let (folder, path) = file("{\"private_key\": hidden");
    let missing = folder.path().join("missing");
    for path in [path, missing] {
        let error = Tokens::new(Source::File(path.clone())).bearer().await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        assert!(!error.report().contains("hidden"), "{}", error.report());
    }
    for json in [json!({"type": "gdch_service_account"}), json!({})] {
        assert_eq!(Tokens::from_json(json).bearer().await.unwrap_err().kind(), Kind::User);
    }
}
