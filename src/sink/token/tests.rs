//! Tokens from servers that stand in for Google's and AWS's.

use std::process::Command;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use axum::http::StatusCode;
use serde_json::json;

use super::aws::tests::signer;
use super::fake::{AUDIENCE, Servers, aws_at, external, field, header_of, signed_request};
use super::*;
use crate::clock::SystemClock;
use crate::sink::bigquery::fake::config;

/// Tells a test that it runs by itself, and where the server is.
const SERVER: &str = "FRESHET_TEST_TOKEN_SERVER";

/// A folder with one file of this content, and the file's path.
fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

/// Environment variables hold for a whole process, so a test of them runs again by itself in another. Gives the
/// server's address there, and None, after the other process succeeded, here.
async fn alone(test: &'static str, server: &str, variables: Vec<(&'static str, String)>) -> Option<String> {
    if let Ok(server) = std::env::var(SERVER) {
        return Some(server);
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let (_, module) = module_path!().split_once("::").unwrap();
    child.args(["--exact", &format!("{module}::{test}")]);
    let of_aws = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("AWS_"));
    of_aws.chain([FILE_VARIABLE.into(), "GCE_METADATA_HOST".into()]).for_each(|name| {
        child.env_remove(name);
    });
    child.env("HOME", "/nowhere").env("AWS_EC2_METADATA_DISABLED", "true").env(SERVER, server).envs(variables);
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

/// The request that shows AWS's identity where these variables are set; None in the process that shows it.
async fn shown(test: &'static str, variables: impl Fn(&str) -> Vec<(&'static str, String)>) -> Option<Value> {
    let (servers, address) = Servers::start().await;
    if let Some(address) = alone(test, &address, variables(&address)).await {
        assert_eq!(bearer(&Tokens::from_json(aws_at(&address))).await, "of-sts");
        return None;
    }
    let signed = signed_request(&field(&servers.came("POST /sts")[0], "subject_token"));
    Some(signed)
}

#[tokio::test]
async fn an_aws_identity_comes_from_the_environment() {
    let set = [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "the-secret"), ("AWS_REGION", "eu-west-3")];
    let set = |_: &str| set.map(|(name, value)| (name, value.to_owned())).to_vec();
    if let Some(signed) = shown("an_aws_identity_comes_from_the_environment", set).await {
        let day = header_of(&signed, "x-amz-date")[..8].to_owned();
        assert_eq!(signer(&signed, "the-secret"), format!("AKENV/{day}/eu-west-3/sts/aws4_request"));
        assert!(signed["url"].as_str().unwrap().starts_with("https://sts.eu-west-3.amazonaws.com/"));
    }
}

#[tokio::test]
async fn an_aws_identity_comes_from_a_containers_task_role() {
    let set = |address: &str| {
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}/task")),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of-the-task".to_owned()),
            ("AWS_REGION", "eu-west-3".to_owned()),
        ]
    };
    if let Some(signed) = shown("an_aws_identity_comes_from_a_containers_task_role", set).await {
        assert!(signer(&signed, "the-secret").starts_with("AKTASK/"));
        assert_eq!(header_of(&signed, "x-amz-security-token"), "passing");
    }
}

#[tokio::test]
async fn an_aws_identity_comes_from_a_pods_service_account() {
    let (_folder, path) = file("a.pods.token");
    let set = |address: &str| {
        vec![
            ("AWS_WEB_IDENTITY_TOKEN_FILE", path.display().to_string()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod".to_owned()),
            ("AWS_ENDPOINT_URL_STS", format!("http://{address}/aws-sts")),
            ("AWS_REGION", "eu-west-3".to_owned()),
        ]
    };
    if let Some(signed) = shown("an_aws_identity_comes_from_a_pods_service_account", set).await {
        assert!(signer(&signed, "the-secret").starts_with("AKPOD/"));
        assert_eq!(header_of(&signed, "x-amz-security-token"), "passing");
    }
}

#[tokio::test]
async fn an_aws_identity_comes_from_a_profile() {
    let profile =
        "[profile work]\nregion = eu-west-3\naws_access_key_id = AKPROFILE\naws_secret_access_key = the-secret\n";
    let (_folder, path) = file(profile);
    let path = path.display().to_string();
    let set = |_: &str| vec![("AWS_CONFIG_FILE", path.clone()), ("AWS_PROFILE", "work".to_owned())];
    if let Some(signed) = shown("an_aws_identity_comes_from_a_profile", set).await {
        assert!(signer(&signed, "the-secret").starts_with("AKPROFILE/"));
        assert!(signer(&signed, "the-secret").contains("/eu-west-3/"));
    }
}

#[tokio::test]
async fn an_aws_identity_and_its_region_come_from_the_instance_where_nothing_else_is_set() {
    let set = |address: &str| {
        let server = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{address}"));
        vec![("AWS_EC2_METADATA_DISABLED", "false".to_owned()), server]
    };
    let test = "an_aws_identity_and_its_region_come_from_the_instance_where_nothing_else_is_set";
    if let Some(signed) = shown(test, set).await {
        let signer = signer(&signed, "the-secret");
        assert!(signer.starts_with("AKROLE/") && signer.contains("/ap-northeast-2/"), "{signer}");
    }
}

#[tokio::test]
async fn without_any_aws_credentials_the_user_is_told_where_they_are_looked_for() {
    let (_, address) = Servers::start().await;
    let test = "without_any_aws_credentials_the_user_is_told_where_they_are_looked_for";
    if let Some(address) = alone(test, &address, vec![("AWS_REGION", "eu-west-3".to_owned())]).await {
        let error = Tokens::from_json(aws_at(&address)).bearer().await.unwrap_err();
        assert_eq!(error.kind(), Kind::User, "{}", error.report());
        assert!(error.message().starts_with("no AWS credentials were found"), "{error}");
        assert!(error.hint_text().unwrap().contains("a container's task role"));
    }
}

#[tokio::test]
async fn the_file_that_the_environment_names_is_found_and_its_users_scopes_are_left_alone() {
    let (servers, address) = Servers::start().await;
    let user = json!({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r",
                      "token_uri": format!("http://{address}/oauth")});
    let (_folder, path) = file(&user.to_string());
    let test = "the_file_that_the_environment_names_is_found_and_its_users_scopes_are_left_alone";
    if alone(test, &address, vec![(FILE_VARIABLE, path.display().to_string())]).await.is_some() {
        assert_eq!(bearer(&Tokens::find(&config(None), SystemClock::shared()).unwrap()).await, "of-user");
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
        assert_eq!(bearer(&Tokens::find(&config(None), SystemClock::shared()).unwrap()).await, "of-machine");
    }
}

/// A new key of RSA, as PEM. No key is written down here, as even one that opens nothing looks like a leak.
fn private_key() -> String {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let kind = ["PRIVATE", "KEY"].join(" ");
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", base64(der.as_ref()))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four = |three: &[u8]| {
        let at = |index: usize| u32::from(three.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let letter = |index: usize| char::from(LETTERS[(bits >> (18 - 6 * index) & 63) as usize]);
        (0..4).map(move |index| if index > three.len() { '=' } else { letter(index) }).collect::<String>()
    };
    bytes.chunks(3).map(four).collect::<Vec<_>>().chunks(16).map(|line| line.concat()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_service_account_signs_its_own_token_for_bigquery() {
    let tokens = Tokens::from_json(json!({"type": "service_account", "client_email": "sa@p.iam.gserviceaccount.com",
        "private_key_id": "k", "private_key": private_key(), "project_id": "p"}));
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
    let tokens = Tokens::find(&config(plain.clone()), SystemClock::shared()).unwrap();
    assert_eq!(tokens.bearer().await.unwrap(), None);
    for other in [None, Some("https://bigquery.googleapis.com".to_owned())] {
        let mut mixed = config(other);
        mixed.grpc_endpoint.clone_from(&plain);
        assert_eq!(Tokens::find(&mixed, SystemClock::shared()).unwrap_err().kind(), Kind::User);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named() {
    let (folder, path) = file("{\"private_key\": hidden");
    let missing = folder.path().join("missing");
    for path in [path, missing] {
        let error = Tokens::new(Source::File(path.clone()), SystemClock::shared()).bearer().await.unwrap_err();
        assert_eq!(error.kind(), Kind::User);
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        assert!(!error.report().contains("hidden"), "{}", error.report());
    }
    for json in [json!({"type": "gdch_service_account"}), json!({})] {
        assert_eq!(Tokens::from_json(json).bearer().await.unwrap_err().kind(), Kind::User);
    }
}
