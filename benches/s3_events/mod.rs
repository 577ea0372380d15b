//! A bucket in memory, and a queue that tells of each of its objects at a time that was set: S3 and SQS, as far as it takes
//! to receive, read and delete.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::codegen::http::StatusCode;

/// The bucket's name.
pub(crate) const BUCKET: &str = "data";
/// Of one answer, as SQS gives them.
const MESSAGES_MAX: usize = 10;
const BODY_BYTES_MAX: usize = 1 << 20;
const LAST_MODIFIED: &str = "Fri, 21 Nov 2025 00:00:00 GMT";
/// Of each object, as none is ever overwritten.
const E_TAG: &str = "1";
const EVENT_TIME: &str = "2025-11-21T00:00:00.000Z";

/// The bucket and the queue.
#[derive(Debug, Default)]
pub(crate) struct S3Events {
    objects: HashMap<String, Vec<u8>>,
    /// In the order of their times.
    coming: Mutex<VecDeque<(Instant, String)>>,
}

impl S3Events {
    /// Has an object, of which the queue tells from this time on; later than of all before it.
    pub(crate) fn add(&mut self, key: String, content: Vec<u8>, at: Instant) {
        self.coming.get_mut().expect("no panic").push_back((at, key.clone()));
        self.objects.insert(key, content);
    }

    /// Serves both at this port as long as the process runs.
    pub(crate) async fn serve(self, port: u16) {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let routes = axum::Router::new().fallback(answer).with_state(Arc::new(self));
        let routes = tonic::service::Routes::from(routes);
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder().accept_http1(true);
        tokio::spawn(server.serve_with_incoming(routes, incoming));
    }

    async fn receive(&self, asked: &Value) -> Value {
        let wait = Duration::from_secs(asked["WaitTimeSeconds"].as_u64().unwrap_or(0));
        let next = self.coming.lock().expect("no panic").front().map(|(at, _)| *at);
        let end = Instant::now() + wait;
        tokio::time::sleep_until(next.map_or(end, |at| at.min(end))).await;
        let (now, mut coming) = (Instant::now(), self.coming.lock().expect("no panic"));
        let mut messages = Vec::new();
        while messages.len() < MESSAGES_MAX && coming.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = coming.pop_front() else { break };
            let object = json!({"key": key, "size": self.objects[&key].len(), "eTag": E_TAG, "sequencer": "1"});
            let record = json!({
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "eventTime": EVENT_TIME,
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": BUCKET}, "object": object},
            });
            let body = json!({"Records": [record]}).to_string();
            messages.push(json!({
                "MessageId": key,
                "ReceiptHandle": key,
                "Body": body,
                "Attributes": {"SentTimestamp": "1763683200000"},
            }));
        }
        json!({"Messages": messages})
    }
}

async fn answer(State(server): State<Arc<S3Events>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(target) = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()) else {
        return object(&server, parts.uri.path());
    };
    let body = to_bytes(body, BODY_BYTES_MAX).await.expect("a body");
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    let answered = match target.rsplit('.').next().unwrap_or_default() {
        "GetQueueAttributes" => json!({"Attributes": {"VisibilityTimeout": "300"}}),
        "ReceiveMessage" => server.receive(&asked).await,
        // Messages are given once, so that there is nothing to delete, nor to hide.
        _ => {
            let entries = asked["Entries"].as_array().cloned().unwrap_or_default();
            let done: Vec<Value> = entries.iter().map(|entry| json!({"Id": entry["Id"]})).collect();
            json!({"Successful": done, "Failed": []})
        }
    };
    let response = Response::builder().header("content-type", "application/x-amz-json-1.0");
    response.body(Body::from(answered.to_string())).expect("plain headers")
}

fn object(server: &S3Events, path: &str) -> Response {
    let key = path.trim_start_matches('/').strip_prefix(BUCKET).unwrap_or_default().trim_start_matches('/');
    match server.objects.get(key) {
        Some(content) => {
            let object = Response::builder().header("etag", format!("\"{E_TAG}\""));
            object.header("last-modified", LAST_MODIFIED).body(Body::from(content.clone())).expect("plain headers")
        }
        None => Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).expect("no headers"),
    }
}
