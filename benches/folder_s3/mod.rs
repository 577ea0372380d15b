//! S3's protocol, as far as it takes to list and read, over a folder whose own folders are the buckets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::net::TcpListener;
use tonic::codegen::http::{StatusCode, header};

/// Of one page, as S3 gives them.
const KEYS_MAX: usize = 1_000;
const MODIFIED: &str = "2025-11-21T00:00:00.000Z";
const LAST_MODIFIED: &str = "Fri, 21 Nov 2025 00:00:00 GMT";

/// Prints its URL, and serves until the process is killed; an object is answered for so much later.
pub(crate) fn serve(folder: &str, delay: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("http://{}", listener.local_addr().expect("it is bound"));
        let routes = axum::Router::new().fallback(answer).with_state(Arc::new((PathBuf::from(folder), delay)));
        let routes = tonic::service::Routes::from(routes);
        let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tonic::transport::Server::builder().accept_http1(true);
        server.serve_with_incoming(routes, incoming).await.expect("it serves");
    });
}

async fn answer(State(served): State<Arc<(PathBuf, Duration)>>, request: Request) -> Response {
    let (folder, delay) = served.as_ref();
    let query = request.uri().query().unwrap_or_default();
    let query: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let path = request.uri().path().trim_matches('/').to_owned();
    if query.contains_key("list-type") {
        return Response::new(Body::from(list(&folder.join(&path), &query)));
    }
    tokio::time::sleep(*delay).await;
    match tokio::fs::read(folder.join(&path)).await {
        Ok(content) => {
            let object = Response::builder().header(header::ETAG, e_tag(content.len() as u64));
            object.header(header::LAST_MODIFIED, LAST_MODIFIED).body(Body::from(content)).expect("plain headers")
        }
        Err(_) => Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).expect("no headers"),
    }
}

fn e_tag(size: u64) -> String {
    format!("\"{size:x}\"")
}

fn list(bucket: &Path, query: &BTreeMap<String, String>) -> String {
    let prefix = query.get("prefix").cloned().unwrap_or_default();
    let (mut keys, mut folders) = (Vec::new(), vec![bucket.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let metadata = entry.metadata().expect("it is there");
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let key = entry.path().strip_prefix(bucket).expect("below it").to_str().expect("UTF-8").to_owned();
            if key.starts_with(&prefix) {
                keys.push((key, metadata.len()));
            }
        }
    }
    keys.sort_unstable();
    let from = query.get("continuation-token").map_or(0, |token| token.parse::<usize>().expect("one of ours"));
    let page = keys.iter().skip(from).take(KEYS_MAX).map(|(key, size)| {
        let e_tag = e_tag(*size).replace('"', "&quot;");
        format!(
            "<Contents><Key>{key}</Key><LastModified>{MODIFIED}</LastModified><ETag>{e_tag}</ETag><Size>{size}</Size></Contents>"
        )
    });
    let page: String = page.collect();
    let next = from + KEYS_MAX;
    let more = match next < keys.len() {
        true => format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>"),
        false => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult>{more}{page}</ListBucketResult>")
}
