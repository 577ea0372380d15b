//! Amazon's queue, by its SDK.

use std::time::Duration;

use async_trait::async_trait;
use aws_config::{Region, SdkConfig};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    Message as SdkMessage, MessageSystemAttributeName, QueueAttributeName,
};
use chrono::{DateTime, Utc};

use super::address::Address;
use super::queue::{Attributes, BATCH_MAX, Message, Queue, Refusal};
use super::trouble::Trouble;
use crate::error::{Error, Result};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// More than the longest poll, which is 20 s.
const ANSWER_MAX: Duration = Duration::from_secs(35);
/// What a queue has where nobody says otherwise:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html>.
const VISIBILITY_DEFAULT_SECONDS: u64 = 30;

/// A queue of SQS.
pub(super) struct AmazonQueue {
    client: Client,
    url: String,
    trouble: Trouble,
}

impl AmazonQueue {
    /// The queue at `address`, which is in the region that its URL names, else in the one configured. Nothing is asked
    /// yet.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where no region is known.
    pub(super) fn new(address: &Address, sdk: &SdkConfig) -> Result<Self> {
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_MAX).operation_attempt_timeout(ANSWER_MAX);
        let mut config = aws_sdk_sqs::config::Builder::from(sdk).timeout_config(timeouts.build());
        if let Some(region) = &address.region {
            config = config.region(Region::new(region.clone()));
        } else if sdk.region().is_none() {
            return Err(Error::user(format!("the region of the queue {} is not known", address.url))
                .hint("set AWS_REGION, or the region of the profile"));
        }
        // An endpoint that the environment names goes before the one in the URL.
        if let (Some(endpoint), None) = (&address.endpoint, sdk.endpoint_url()) {
            config = config.endpoint_url(endpoint);
        }
        let trouble = Trouble::new(&address.url);
        Ok(Self { client: Client::from_conf(config.build()), url: address.url.clone(), trouble })
    }
}

#[async_trait]
impl Queue for AmazonQueue {
    async fn attributes(&self) -> Result<Attributes> {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let request = request
            .attribute_names(QueueAttributeName::VisibilityTimeout)
            .attribute_names(QueueAttributeName::RedrivePolicy);
        let answer = request.send().await.map_err(|cause| self.trouble.error("GetQueueAttributes", cause))?;
        let attribute = |name| answer.attributes().and_then(|attributes| attributes.get(&name));
        let seconds = attribute(QueueAttributeName::VisibilityTimeout).and_then(|text| text.parse().ok());
        Ok(Attributes {
            visibility: Duration::from_secs(seconds.unwrap_or(VISIBILITY_DEFAULT_SECONDS)),
            has_dead_letter_queue: attribute(QueueAttributeName::RedrivePolicy).is_some(),
        })
    }

    async fn receive(&self, wait: Duration, visibility: Duration) -> Result<Vec<Message>> {
        let request = self.client.receive_message().queue_url(&self.url);
        let request = request
            .max_number_of_messages(i32::try_from(BATCH_MAX).unwrap_or(1))
            .wait_time_seconds(seconds(wait))
            .visibility_timeout(seconds(visibility))
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        let answer = request.send().await.map_err(|cause| self.trouble.error("ReceiveMessage", cause))?;
        Ok(answer.messages.unwrap_or_default().into_iter().filter_map(message).collect())
    }

    async fn delete(&self, handles: &[String]) -> Result<Vec<Refusal>> {
        let entries = handles.iter().enumerate().map(|(index, handle)| {
            DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(handle).build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>().map_err(unbuilt)?;
        let request = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = request.send().await.map_err(|cause| self.trouble.error("DeleteMessage", cause))?;
        Ok(answer.failed.iter().filter_map(refusal).collect())
    }

    async fn change_visibility(&self, handles: &[(String, Duration)]) -> Result<Vec<Refusal>> {
        let entries = handles.iter().enumerate().map(|(index, (handle, visibility))| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(handle)
                .visibility_timeout(seconds(*visibility))
                .build()
        });
        let entries = entries.collect::<Result<Vec<_>, _>>().map_err(unbuilt)?;
        let request = self.client.change_message_visibility_batch().queue_url(&self.url).set_entries(Some(entries));
        let answer = request.send().await.map_err(|cause| self.trouble.error("ChangeMessageVisibility", cause))?;
        Ok(answer.failed.iter().filter_map(refusal).collect())
    }
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// A message; None where it lacks what every message has.
fn message(message: SdkMessage) -> Option<Message> {
    let attribute = |name| message.attributes.as_ref().and_then(|attributes| attributes.get(&name));
    let sent = attribute(MessageSystemAttributeName::SentTimestamp).and_then(|text| text.parse().ok());
    Some(Message {
        sent: sent.and_then(DateTime::<Utc>::from_timestamp_millis),
        id: message.message_id?,
        handle: message.receipt_handle?,
        body: message.body.unwrap_or_default(),
    })
}

/// What became of one entry; None where it names none of ours.
fn refusal(entry: &BatchResultErrorEntry) -> Option<Refusal> {
    let index = entry.id().parse().ok()?;
    let why = format!("{}: {}", entry.code(), entry.message().unwrap_or_default());
    Some(Refusal { index, is_final: entry.sender_fault(), why })
}

fn unbuilt(cause: aws_sdk_sqs::error::BuildError) -> Error {
    Error::bug("a request to the queue cannot be built").because(cause)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_message_tells_when_it_was_sent() {
        let attributes = HashMap::from([(MessageSystemAttributeName::SentTimestamp, "1714979289123".to_owned())]);
        let given =
            SdkMessage::builder().message_id("m").receipt_handle("h").body("b").set_attributes(Some(attributes));
        let message = message(given.build()).unwrap();
        assert_eq!((message.id.as_str(), message.handle.as_str(), message.body.as_str()), ("m", "h", "b"));
        assert_eq!(message.sent.unwrap().to_rfc3339(), "2024-05-06T07:08:09.123+00:00");
    }

    #[test]
    fn a_message_without_a_handle_cannot_be_held() {
        assert_eq!(message(SdkMessage::builder().message_id("m").body("b").build()), None);
        let bare = message(SdkMessage::builder().message_id("m").receipt_handle("h").build()).unwrap();
        assert_eq!((bare.body.as_str(), bare.sent), ("", None));
    }

    #[test]
    fn a_refusal_names_the_entry_and_whether_it_is_for_ever() {
        let entry = BatchResultErrorEntry::builder().id("7").code("ReceiptHandleIsInvalid").sender_fault(true);
        let expected = Refusal { index: 7, is_final: true, why: "ReceiptHandleIsInvalid: gone".into() };
        assert_eq!(refusal(&entry.message("gone").build().unwrap()), Some(expected));
        let foreign = BatchResultErrorEntry::builder().id("x").code("InternalError").sender_fault(false).build();
        assert_eq!(refusal(&foreign.unwrap()), None);
    }
}
