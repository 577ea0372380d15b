//! S3 and SQS on this machine: the `ministack` server that test.sh installs, and what tests do at it besides the
//! program under test.
//!
//! What differs from AWS: a queue needs no policy for S3 to write to it, and a message goes to the dead-letter queue
//! only when somebody asks the first queue for messages.
#![allow(dead_code, reason = "helpers for several files of tests")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::binary::REPOSITORY;

const ACCOUNT: &str = "000000000000";
const REGION: &str = "us-east-1";
/// Runs the server until its standard input ends, so that it ends with the tests, however they end.
const PROGRAM: &str = "
import os, sys, threading

def end():
    sys.stdin.buffer.read()
    os._exit(0)

threading.Thread(target=end, daemon=True).start()
sys.argv = ['ministack']
from ministack.app import main
main()
";
const STARTS_MAX: u32 = 5;

/// One running server; it ends when this is dropped, or with the process.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let log = tempfile::NamedTempFile::new().expect("a log file");
        for _ in 0..STARTS_MAX {
            let port = free_port();
            let out = log.reopen().expect("the log file");
            let process = Command::new(python())
                .args(["-c", PROGRAM])
                .env("BIND_HOST", "127.0.0.1")
                .env("GATEWAY_PORT", port.to_string())
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(out)
                .spawn()
                .expect("Python can be started");
            let mut server = Self { process, port };
            if server.answers() {
                return server;
            }
        }
        let said = std::fs::read_to_string(log.path()).unwrap_or_default();
        panic!("ministack does not start; did ./test.sh install it?\n{said}");
    }

    /// Waits until it answers; false where it ended, as when somebody else took the port.
    fn answers(&mut self) -> bool {
        for _ in 0..600 {
            if is_ready(self.port) {
                return true;
            }
            if self.process.try_wait().expect("the server can be asked after").is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_ready(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let asked = stream.write_all(b"GET /_ministack/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = [0; 12];
    asked.is_ok() && stream.read_exact(&mut answer).is_ok() && answer.ends_with(b" 200")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn python() -> PathBuf {
    let made = Path::new(REPOSITORY).join(".venv/bin/python");
    let python = std::env::var_os("FRESHET_PYTHON").map_or(made, PathBuf::from);
    assert!(python.is_file(), "there is no {}: run ./test.sh", python.display());
    python
}

/// A server, as one test sees it. All names it gives are the test's own.
pub(crate) struct Ministack {
    port: u16,
    client: Client,
    /// A server of the test's own; None: the one that all tests of the process share.
    _server: Option<Server>,
}

/// A queue.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) url: String,
    pub(crate) arn: String,
}

/// How many messages a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Messages {
    pub(crate) visible: u64,
    pub(crate) in_flight: u64,
}

impl Ministack {
    /// The server that all tests of this process share.
    pub(crate) fn shared() -> Self {
        static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
        Self { port: SHARED.port, client: Client::new(), _server: None }
    }

    /// A server of one's own, for tests that take it away; it ends when this is dropped.
    pub(crate) fn own() -> Self {
        let server = Server::start();
        Self { port: server.port, client: Client::new(), _server: Some(server) }
    }

    /// Where it answers, S3 and SQS alike.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the program needs in its environment to find it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_REGION", REGION.into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ]
    }

    /// A new bucket, its name beginning with `name`.
    pub(crate) async fn bucket(&self, name: &str) -> String {
        let name = unique(name);
        self.s3(Method::PUT, &name, Vec::new()).await;
        name
    }

    /// A new queue.
    pub(crate) async fn queue(&self, name: &str, visibility_seconds: u32) -> Queue {
        self.queue_with(name, json!({ "VisibilityTimeout": visibility_seconds.to_string() })).await
    }

    /// A new queue and its dead-letter queue, to which messages go that were received `receives_max` times.
    pub(crate) async fn queue_with_dead_letters(
        &self,
        name: &str,
        visibility_seconds: u32,
        receives_max: u32,
    ) -> (Queue, Queue) {
        let dead = self.queue(&format!("{name}-dead"), visibility_seconds).await;
        let redrive = json!({ "deadLetterTargetArn": dead.arn, "maxReceiveCount": receives_max }).to_string();
        let attributes = json!({ "VisibilityTimeout": visibility_seconds.to_string(), "RedrivePolicy": redrive });
        (self.queue_with(name, attributes).await, dead)
    }

    async fn queue_with(&self, name: &str, attributes: Value) -> Queue {
        let name = unique(name);
        self.sqs("CreateQueue", json!({ "QueueName": name, "Attributes": attributes })).await;
        let url = format!("{}/{ACCOUNT}/{name}", self.endpoint());
        Queue { url, arn: format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}") }
    }

    /// Has the bucket tell the queue of new objects whose keys begin and end so; S3's test event comes first.
    pub(crate) async fn notify(&self, bucket: &str, queue: &Queue, prefix: &str, suffix: &str) {
        let rule = |name, value| format!("<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>");
        let configuration = format!(
            "<NotificationConfiguration><QueueConfiguration><Queue>{}</Queue><Event>s3:ObjectCreated:*</Event>\
             <Filter><S3Key>{}{}</S3Key></Filter></QueueConfiguration></NotificationConfiguration>",
            queue.arn,
            rule("prefix", prefix),
            rule("suffix", suffix)
        );
        self.s3(Method::PUT, &format!("{bucket}?notification"), configuration.into_bytes()).await;
    }

    /// Writes an object; its eTag, with the quotation marks around it.
    pub(crate) async fn put(&self, bucket: &str, key: &str, content: impl Into<Vec<u8>>) -> String {
        let answer = self.s3(Method::PUT, &format!("{bucket}/{}", encoded(key)), content.into()).await;
        answer.headers()["etag"].to_str().expect("an eTag").to_owned()
    }

    /// Removes an object.
    pub(crate) async fn remove(&self, bucket: &str, key: &str) {
        self.s3(Method::DELETE, &format!("{bucket}/{}", encoded(key)), Vec::new()).await;
    }

    /// Sends a message of any text.
    pub(crate) async fn send(&self, queue: &Queue, body: &str) {
        self.sqs("SendMessage", json!({ "QueueUrl": queue.url, "MessageBody": body })).await;
    }

    /// Forgets all messages of a queue.
    pub(crate) async fn purge(&self, queue: &Queue) {
        self.sqs("PurgeQueue", json!({ "QueueUrl": queue.url })).await;
    }

    /// How many messages the queue has now.
    pub(crate) async fn messages(&self, queue: &Queue) -> Messages {
        let asked = json!({ "QueueUrl": queue.url, "AttributeNames": ["All"] });
        let answer = self.sqs("GetQueueAttributes", asked).await;
        let count = |name: &str| answer["Attributes"][name].as_str().and_then(|text| text.parse().ok());
        Messages {
            visible: count("ApproximateNumberOfMessages").expect("a number of messages"),
            in_flight: count("ApproximateNumberOfMessagesNotVisible").expect("a number of messages"),
        }
    }

    /// The bodies of up to ten messages that are visible now; they stay in the queue, received once more.
    pub(crate) async fn bodies(&self, queue: &Queue) -> Vec<String> {
        let asked = json!({ "QueueUrl": queue.url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0 });
        let answer = self.sqs("ReceiveMessage", asked).await;
        let messages = answer["Messages"].as_array().cloned().unwrap_or_default();
        messages.iter().map(|message| message["Body"].as_str().expect("a body").to_owned()).collect()
    }

    async fn s3(&self, method: Method, path: &str, body: Vec<u8>) -> Response {
        let request = self.client.request(method, format!("{}/{path}", self.endpoint())).body(body);
        let answer = request.send().await.expect("ministack answers");
        assert!(answer.status().is_success(), "S3 {path}: {}", answer.status());
        answer
    }

    async fn sqs(&self, action: &str, body: Value) -> Value {
        let request = self.client.post(self.endpoint()).header("X-Amz-Target", format!("AmazonSQS.{action}"));
        let request = request.header("Content-Type", "application/x-amz-json-1.0").body(body.to_string());
        let answer = request.send().await.expect("ministack answers");
        let status = answer.status();
        let text = answer.text().await.expect("an answer");
        assert!(status.is_success(), "SQS {action}: {text}");
        serde_json::from_str(&text).expect("an answer in JSON")
    }
}

/// A name that no other test has.
fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A key as it stands in a URL.
fn encoded(key: &str) -> String {
    key.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("text grows"),
        }
        out
    })
}
