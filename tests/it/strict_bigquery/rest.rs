//! The REST API: transport, faults and log around the rules.
//!
//! See <https://cloud.google.com/bigquery/docs/reference/rest>.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use tonic::codegen::http::{HeaderMap, StatusCode, header};

use super::connection::Cut;
use super::faults::What;
use super::jobs::Page;
use super::log;
use super::trouble::{Result, Trouble};
use super::world::World;
use super::{PROJECT, Shared};

const BODY_BYTES_MAX: usize = 16 << 20;

/// One call, read whole.
struct Call {
    method: String,
    /// The path's parts below `/bigquery/v2`, unescaped.
    path: Vec<String>,
    query: BTreeMap<String, String>,
    if_match: Option<String>,
    body: Value,
    /// Why the job that this call inserts is to fail.
    job_fails: Option<&'static str>,
}

/// Whether there are credentials.
pub(super) fn is_authorized(headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.is_some_and(|given| given.strip_prefix("Bearer ").is_some_and(|token| !token.is_empty()))
}

/// Answers any call.
pub(super) async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let cut = request.extensions().get::<Cut>().cloned().expect("every connection can be cut");
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let name = format!("{} {path}", parts.method);
    let mut noted = log::Request::new(parts.method.as_str(), &path);
    noted.is_authorized = is_authorized(&parts.headers);
    let fault = shared.faults.strike(&name);
    if let Some(What::CutAfterBytes(bytes)) = fault {
        cut.after_bytes(bytes);
    }
    let bytes = to_bytes(body, BODY_BYTES_MAX).await.unwrap_or_default();
    noted.body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let is_unreadable = !bytes.is_empty() && noted.body.is_null();
    let if_match = parts.headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let call = Call {
        method: parts.method.to_string(),
        path: segments(parts.uri.path()),
        query: url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect(),
        if_match,
        body: noted.body.clone(),
        job_fails: match fault {
            Some(What::JobFails(reason)) => Some(reason),
            _ => None,
        },
    };
    let number = shared.log.arrived(noted);
    match fault {
        Some(What::LostBefore) => return lose(&shared, &cut, number),
        Some(What::Http(code)) => return send(&shared, number, Err(fault_trouble(code))),
        Some(What::Grpc(_) | What::NoCommitTime) => return send(&shared, number, Err(fault_trouble(503))),
        _ if is_unreadable => return send(&shared, number, Err(Trouble::invalid("Parse Error: the body is no JSON"))),
        _ => {}
    }
    let answer = shared.with_world(move |world| route(world, &call)).await;
    match fault {
        Some(What::LostAfter) => return lose(&shared, &cut, number),
        Some(What::Slow(by)) => tokio::time::sleep(by).await,
        _ => {}
    }
    send(&shared, number, answer)
}

fn fault_trouble(code: u16) -> Trouble {
    let reason = match code {
        403 | 429 => "rateLimitExceeded",
        400..=499 => "invalid",
        _ => "backendError",
    };
    Trouble::new(code, reason, "a fault that the test asked for")
}

fn lose(shared: &Shared, cut: &Cut, number: usize) -> Response {
    cut.now();
    shared.log.answered(number, "lost");
    Response::new(Body::empty())
}

fn send(shared: &Shared, number: usize, answer: Result<Value>) -> Response {
    let (code, body, outcome) = match answer {
        Ok(Value::Null) => (204, String::new(), "204".to_owned()),
        Ok(body) => (200, body.to_string(), "200".to_owned()),
        Err(trouble) => (trouble.code, trouble.to_body().to_string(), format!("{} {}", trouble.code, trouble.reason)),
    };
    shared.log.answered(number, outcome);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The parts of a path below `/bigquery/v2`; none where it is another.
fn segments(path: &str) -> Vec<String> {
    let below = path.strip_prefix("/bigquery/v2/").unwrap_or_default();
    below.split('/').map(unescaped).collect()
}

fn unescaped(part: &str) -> String {
    let mut out = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match digits.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                out.push(escaped);
                rest = &after[2..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn route(world: &mut World, call: &Call) -> Result<Value> {
    let path: Vec<_> = call.path.iter().map(String::as_str).collect();
    let unknown =
        || Trouble::new(404, "notFound", format!("the strict server has no {} {}", call.method, path.join("/")));
    let ["projects", project, below @ ..] = path.as_slice() else { return Err(unknown()) };
    if *project != PROJECT {
        return Err(Trouble::new(403, "accessDenied", format!("Access Denied: Project {project}")));
    }
    let location = call.query.get("location").map(String::as_str);
    match (call.method.as_str(), below) {
        ("GET", ["datasets"]) => world.list_datasets(),
        ("POST", ["datasets"]) => world.insert_dataset(call.body.clone()),
        ("GET", ["datasets", dataset]) => world.show_dataset(dataset),
        ("PATCH", ["datasets", dataset]) => world.patch_dataset(dataset, &call.body),
        ("GET", ["datasets", dataset, "tables"]) => world.list_tables(dataset),
        ("POST", ["datasets", dataset, "tables"]) => world.insert_table(dataset, call.body.clone()),
        ("GET", ["datasets", dataset, "tables", table]) => world.show_table(dataset, table),
        ("PATCH", ["datasets", dataset, "tables", table]) => {
            world.patch_table(dataset, table, &call.body, call.if_match.as_deref())
        }
        ("DELETE", ["datasets", dataset, "tables", table]) => world.delete_table(dataset, table),
        ("POST", ["jobs"]) => world.insert_job(&call.body, call.job_fails),
        ("GET", ["jobs", id]) => {
            world.poll_job(id, location)?;
            world.show_job(id)
        }
        ("POST", ["queries"]) => world.query(&call.body),
        ("GET", ["queries", id]) => {
            let page = call.page()?;
            world.poll_job(id, location)?;
            world.results(id, page)
        }
        _ => Err(unknown()),
    }
}

impl Call {
    fn page(&self) -> Result<Page> {
        let number = |key: &str| match self.query.get(key) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Trouble::invalid(format!("Invalid value for {key}: {text}"))),
            },
        };
        let start = number("pageToken")?.or(number("startIndex")?).unwrap_or(0);
        Ok(Page {
            int64_timestamps: self.query.get("formatOptions.useInt64Timestamp").is_some_and(|value| value == "true"),
            start: usize::try_from(start).unwrap_or(usize::MAX),
            most: number("maxResults")?,
        })
    }
}
