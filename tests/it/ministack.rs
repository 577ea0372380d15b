//! S3 and SQS on this machine: the `ministack` server that test.sh installs, and what tests do at it besides the
//! program under test.
//!
//! What differs from AWS: a queue needs no policy for S3 to write to it, and a message goes to the dead-letter queue
//! only when somebody asks the first queue for messages.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use freshet::clock::SystemClock;
use freshet::storage::Aws;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};

use crate::python;

const ACCOUNT: &str = "000000000000";
const REGION: &str = "us-east-1";
/// The key and the secret: any will do.
const KEY: &str = "test";
/// Listens before it says where, so that nobody else can have the port; whoever asks too early waits a little.
const CODE: &str = "
import asyncio, socket
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(100)
port = listener.getsockname()[1]
os.environ['GATEWAY_PORT'] = str(port)
from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app
config = Config()
config.bind = [f'fd://{listener.fileno()}']
config.keep_alive_timeout = 75
print('port', port)
asyncio.run(serve(app, config))
";

/// One running server; it ends when this is dropped, or with the process.
struct Server {
    _process: python::Server,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let port = |line: &str| line.strip_prefix("port ")?.trim_end().parse().ok();
        let (process, port) = python::Server::start("ministack", CODE, &[], port);
        Self { _process: process, port }
    }
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

impl Messages {
    /// All are deleted.
    pub(crate) const NONE: Self = Self { visible: 0, in_flight: 0 };
}

impl Ministack {
    /// The server that all tests of this process share.
    pub(crate) fn shared() -> Self {
        static SHARED: LazyLock<Server> = LazyLock::new(Server::start);
        Self::new(SHARED.port, None)
    }

    /// A server of one's own, for tests that take it away; it ends when this is dropped.
    pub(crate) fn own() -> Self {
        let server = Server::start();
        Self::new(server.port, Some(server))
    }

    fn new(port: u16, server: Option<Server>) -> Self {
        Self { port, client: Client::builder().no_proxy().build().expect("a client"), _server: server }
    }

    /// Where it answers, S3 and SQS alike.
    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the program would find in this environment.
    pub(crate) async fn aws(&self) -> Aws {
        let sdk = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(self.endpoint())
            .credentials_provider(Credentials::new(KEY, KEY, None, None, "test"));
        Aws::of(sdk.load().await, |_| None, SystemClock::shared()).unwrap()
    }

    /// What the program needs in its environment to find it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", KEY.into()),
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
