//! Under which URL a bucket is found: AWS's own endpoints, or a server that the user names.

use aws_config::SdkConfig;
use url::Url;

use crate::error::{Error, Result};

/// What the environment says about endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// A server of the user's own.
    custom: Option<Url>,
    /// Whether the bucket stands in the path; None: as is usual.
    path_style: Option<bool>,
    fips: bool,
    dual_stack: bool,
}

/// A bucket's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// With the bucket in its host where `virtual_hosted`, else without the bucket.
    pub url: String,
    /// Whether the bucket stands in the host.
    pub virtual_hosted: bool,
    /// Whether nothing is encrypted on the way.
    pub plain: bool,
}

impl Endpoints {
    /// Reads `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` (or `endpoint_url` of the profile, see
    /// <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>), `AWS_S3_FORCE_PATH_STYLE` and
    /// `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where a value is none, or two contradict each other.
    pub(super) fn find(sdk: &SdkConfig, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let ignored = flag("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", text)?.unwrap_or_default();
        let of_s3 = text("AWS_ENDPOINT_URL_S3").filter(|_| !ignored);
        let custom = match (of_s3, sdk.endpoint_url()) {
            (Some(url), _) => Some(parse("AWS_ENDPOINT_URL_S3", &url)?),
            (None, Some(url)) => Some(parse("AWS_ENDPOINT_URL", url)?),
            (None, None) => None,
        };
        let path = flag("AWS_S3_FORCE_PATH_STYLE", text)?;
        let host = flag("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", text)?;
        if path.is_some() && path == host {
            return Err(Error::user("AWS_S3_FORCE_PATH_STYLE contradicts AWS_VIRTUAL_HOSTED_STYLE_REQUEST")
                .hint("unset one of them"));
        }
        Ok(Self {
            custom,
            path_style: path.or(host.map(|host| !host)),
            fips: sdk.use_fips().unwrap_or_default(),
            dual_stack: sdk.use_dual_stack().unwrap_or_default(),
        })
    }

    /// Whether the user names a server.
    pub(super) fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    /// Where a bucket is found. Without another wish the bucket stands in the host at AWS, and in the path at a server
    /// of the user's own. At AWS a name with dots fits no certificate as part of a host, so that it stands in the path;
    /// see <https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html>.
    ///
    /// # Errors
    /// [`User`](crate::error::Kind::User) where the bucket cannot stand in the host.
    pub(super) fn place(&self, region: &str, bucket: &str) -> Result<Place> {
        let in_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let (base, usual) = match &self.custom {
            Some(url) => (url.clone(), true),
            None => (self.at_aws(region)?, !bucket.bytes().all(in_host)),
        };
        let plain = base.scheme() == "http";
        if self.path_style.unwrap_or(usual) {
            return Ok(Place { url: without_slash(&base), virtual_hosted: false, plain });
        }
        Ok(Place { url: without_slash(&with_bucket(base, bucket)?), virtual_hosted: true, plain })
    }

    /// S3's own endpoint: <https://docs.aws.amazon.com/general/latest/gr/s3.html>.
    fn at_aws(&self, region: &str) -> Result<Url> {
        let service = if self.fips { "s3-fips" } else { "s3" };
        let stack = if self.dual_stack { ".dualstack" } else { "" };
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Url::parse(&format!("https://{service}{stack}.{region}.{domain}"))
            .map_err(|cause| Error::user(format!("`{region}` is not an AWS region")).because(cause))
    }
}

/// The URL without a slash at its end.
fn without_slash(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// The URL with the bucket before its host, unless it stands there already.
fn with_bucket(mut url: Url, bucket: &str) -> Result<Url> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let first = format!("{bucket}.");
    if !host.to_ascii_lowercase().starts_with(&first.to_ascii_lowercase()) {
        url.set_host(Some(&format!("{first}{host}"))).map_err(|cause| {
            Error::user(format!("the bucket `{bucket}` cannot stand before the endpoint's host"))
                .because(cause)
                .hint("set AWS_S3_FORCE_PATH_STYLE=true, so that it stands in the path")
        })?;
    }
    Ok(url)
}

/// The URL of a server; what stands there is not repeated, as it may hold a password.
fn parse(name: &str, value: &str) -> Result<Url> {
    let wrong = || {
        Error::user(format!("{name} is not the URL of a server"))
            .hint("write http://HOST:PORT or https://HOST, without user, query and fragment")
    };
    let url = Url::parse(value.trim()).map_err(|cause| wrong().because(cause))?;
    let bare =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    let sound = bare && matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    if sound { Ok(url) } else { Err(wrong()) }
}

fn flag(name: &str, text: impl Fn(&str) -> Option<String>) -> Result<Option<bool>> {
    let Some(value) = text(name) else { return Ok(None) };
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(Some(true)),
        "false" | "0" => Ok(Some(false)),
        _ => {
            Err(Error::user(format!("{name} is neither `true` nor `false`")).hint(format!("mend {name}, or unset it")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn find(variables: &[(&str, &str)]) -> Result<Endpoints> {
        let found =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let mut sdk = SdkConfig::builder();
        sdk.set_endpoint_url(found("AWS_ENDPOINT_URL"));
        Endpoints::find(&sdk.build(), found)
    }

    #[track_caller]
    fn check(variables: &[(&str, &str)], bucket: &str, url: &str, virtual_hosted: bool) {
        let place = find(variables).unwrap().place("eu-west-1", bucket).unwrap();
        let plain = url.starts_with("http:");
        assert_eq!(place, Place { url: url.into(), virtual_hosted, plain }, "{variables:?}");
    }

    #[test]
    fn a_bucket_of_aws_stands_in_the_host_where_it_can() {
        check(&[], "cdc-files", "https://cdc-files.s3.eu-west-1.amazonaws.com", true);
        check(&[], "cdc.files", "https://s3.eu-west-1.amazonaws.com", false);
        check(&[], "Old_Files", "https://s3.eu-west-1.amazonaws.com", false);
        let path = [("AWS_S3_FORCE_PATH_STYLE", "true")];
        check(&path, "cdc-files", "https://s3.eu-west-1.amazonaws.com", false);
    }

    #[test]
    fn a_bucket_of_another_server_stands_in_the_path_unless_wished_otherwise() {
        let server = ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/");
        check(&[server], "files", "http://127.0.0.1:9000", false);
        check(&[server, ("AWS_ENDPOINT_URL_S3", "https://s3.example")], "files", "https://s3.example", false);
        let named = ("AWS_ENDPOINT_URL", "https://minio.example:9000");
        for host in [("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "TRUE"), ("AWS_S3_FORCE_PATH_STYLE", "0")] {
            check(&[named, host], "files", "https://files.minio.example:9000", true);
            let with_it = ("AWS_ENDPOINT_URL", "https://files.minio.example:9000");
            check(&[with_it, host], "files", "https://files.minio.example:9000", true);
        }
        check(&[named, ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false")], "files", "https://minio.example:9000", false);
    }

    #[test]
    fn an_endpoint_of_s3_alone_can_be_switched_off_with_all_others() {
        let off = [("AWS_ENDPOINT_URL_S3", "https://s3.example"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")];
        check(&off, "cdc-files", "https://cdc-files.s3.eu-west-1.amazonaws.com", true);
        assert!(!find(&off).unwrap().is_custom() && find(&off[..1]).unwrap().is_custom());
    }

    #[test]
    fn china_fips_and_dual_stack_have_endpoints_of_their_own() {
        let url = |endpoints: &Endpoints, region| endpoints.place(region, "files").unwrap().url;
        assert_eq!(url(&Endpoints::default(), "cn-north-1"), "https://files.s3.cn-north-1.amazonaws.com.cn");
        let both = Endpoints { fips: true, dual_stack: true, ..Endpoints::default() };
        assert_eq!(url(&both, "us-east-1"), "https://files.s3-fips.dualstack.us-east-1.amazonaws.com");
        assert_eq!(Endpoints::default().place("a b/c", "files").unwrap_err().kind(), Kind::User);
    }

    #[test]
    fn a_bucket_cannot_stand_before_an_address() {
        let address = [("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"), ("AWS_S3_FORCE_PATH_STYLE", "false")];
        let error = find(&address).unwrap().place("eu-west-1", "files").unwrap_err();
        assert!(error.hint_text().unwrap().contains("AWS_S3_FORCE_PATH_STYLE=true"), "{}", error.report());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_without_being_repeated() {
        for variables in [
            &[("AWS_ENDPOINT_URL", "ftp://host")][..],
            &[("AWS_ENDPOINT_URL", "secret")],
            &[("AWS_ENDPOINT_URL_S3", "https://user:secret@host")],
            &[("AWS_ENDPOINT_URL_S3", "https://host?secret")],
            &[("AWS_S3_FORCE_PATH_STYLE", "secret")],
            &[("AWS_S3_FORCE_PATH_STYLE", "true"), ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")],
        ] {
            let error = find(variables).unwrap_err();
            assert_eq!(error.kind(), Kind::User, "{variables:?}");
            assert!(error.hint_text().is_some() && !error.report().contains("secret"), "{}", error.report());
        }
    }
}
