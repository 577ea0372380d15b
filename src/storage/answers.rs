//! What S3 says when it refuses, without what must not be told: with `SignatureDoesNotMatch` it repeats the signed
//! headers, and with `ExpiredToken` the token itself. Object stores put the whole answer into their errors.

use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// How long S3 may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// No more of a value is told.
const VALUE_CHARACTERS_MAX: usize = 500;
/// What is told of a refusal: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
const TOLD: [&str; 9] =
    ["Code", "Message", "BucketName", "Key", "Region", "Endpoint", "Condition", "StorageClass", "RequestId"];

/// Makes clients that wait for answers within bounds and tell of refusals what may be told.
#[derive(Debug)]
pub(super) struct PlainAnswers;

impl HttpConnector for PlainAnswers {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client { inner: ReqwestConnector::default().connect(options)? }))
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.inner.execute(request)).await;
        let response = answer.map_err(|elapsed| HttpError::new(HttpErrorKind::Timeout, elapsed))??;
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = body.bytes().await?;
        Ok(HttpResponse::from_parts(parts, told(&String::from_utf8_lossy(&bytes)).into()))
    }
}

/// The parts of a refusal that may be told, in the same form. Of an answer in another form, such as a proxy's page,
/// nothing is told: its status remains.
fn told(body: &str) -> String {
    let parts = TOLD.iter().filter_map(|name| {
        let value: String = element(body, name)?.chars().take(VALUE_CHARACTERS_MAX).collect();
        Some(format!("<{name}>{value}</{name}>"))
    });
    let parts: String = parts.collect();
    if parts.is_empty() { parts } else { format!("<Error>{parts}</Error>") }
}

/// What stands in the first element of a name.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_what_it_means_and_loses_what_is_secret() {
        let body = "<?xml version=\"1.0\"?>\n<Error><Code>ExpiredToken</Code><Message>The provided token has expired.\
                    </Message><Token-0>SECRET</Token-0><AWSAccessKeyId>AKIA</AWSAccessKeyId><CanonicalRequest>GET\n\
                    x-amz-security-token:SECRET</CanonicalRequest><RequestId>4442587FB7D0A2F9</RequestId></Error>";
        assert_eq!(
            told(body),
            "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>\
             <RequestId>4442587FB7D0A2F9</RequestId></Error>"
        );
    }

    #[test]
    fn long_values_are_cut_and_other_forms_not_told() {
        let body = format!("<Error><Code>X</Code><Message>{}</Message></Error>", "é".repeat(10_000));
        assert!(told(&body).chars().count() < 600);
        assert_eq!(told("<html>SECRET</html>"), "");
        assert_eq!(told(""), "");
        assert_eq!(told("<Code>X"), "");
    }
}
