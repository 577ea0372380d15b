//! Requests to AWS's services that no client here makes: signed with Signature Version 4.
//!
//! See <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use chrono::{DateTime, Utc};
use url::{Position, Url};

/// Whose request it is, of which service in which region.
#[derive(Debug)]
pub struct Signer<'a> {
    /// Who signs.
    pub credentials: Credentials,
    /// The region, such as `eu-west-1`.
    pub region: &'a str,
    /// The service's name in signatures, such as `sts`.
    pub service: &'a str,
}

impl Signer<'_> {
    /// The headers, name and value, of a POST: the host, these, and the signature, which covers all of them.
    ///
    /// # Errors
    /// Where the request has what cannot be signed, such as a header of other letters than ASCII's.
    pub fn post(
        self,
        url: &Url,
        own: &[(&str, &str)],
        body: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Vec<(String, String)>, Box<dyn std::error::Error + Send + Sync>> {
        let identity = self.credentials.into();
        let params = SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name(self.service)
            .time(SystemTime::from(now))
            .settings(SigningSettings::default())
            .build()?
            .into();
        let host = [("host", &url[Position::BeforeHost..Position::AfterPort])];
        let covered = || host.into_iter().chain(own.iter().copied());
        let request = SignableRequest::new("POST", url.as_str(), covered(), SignableBody::Bytes(body))?;
        let (signature, _) = sign(request, &params)?.into_parts();
        Ok(covered().chain(signature.headers()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}
