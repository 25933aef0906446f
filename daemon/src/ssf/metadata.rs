//! Where a transmitter's API is: its metadata, and the hosts that may be asked with its token.

use serde_json::{Map, Value};

use crate::fetch::{FetchError, Url};

/// A transmitter's metadata, as far as they are used.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    pub keys: Option<Url>,
    pub configuration: Option<Url>,
    pub status: Option<Url>,
    pub verification: Option<Url>,
    pub methods: Option<Vec<String>>,
    pub critical: Vec<String>,
}

/// Where the metadata of an issuer are.
pub(super) fn address(issuer: &str) -> Result<Url, FetchError> {
    let url: Url = issuer.parse()?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.join(&format!("/.well-known/ssf-configuration{path}"))
}

impl Metadata {
    /// Reads a document. Addresses on hosts that `may_be_asked` refuses are an error, for the token would go there.
    pub fn read(
        document: &Map<String, Value>,
        issuer: &str,
        may_be_asked: impl Fn(&Url) -> bool,
    ) -> Result<Self, String> {
        if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err("its `issuer` is not the configured one to the letter".to_owned());
        }
        let url = |name: &str| -> Result<Option<Url>, String> {
            let Some(value) = document.get(name) else { return Ok(None) };
            let text = value.as_str().ok_or_else(|| format!("its `{name}` is no text"))?;
            text.parse().map(Some).map_err(|e: FetchError| format!("of its `{name}`, {e}"))
        };
        let asked = |name: &str| -> Result<Option<Url>, String> {
            match url(name)? {
                Some(url) if !may_be_asked(&url) => {
                    Err(format!("its `{name}` is on another host, `{}`: name that in `hosts`", url.host()))
                }
                found => Ok(found),
            }
        };
        let texts = |name: &str| -> Option<Vec<String>> {
            let all = document.get(name)?.as_array()?;
            Some(all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        };
        Ok(Self {
            keys: url("jwks_uri")?,
            configuration: asked("configuration_endpoint")?,
            status: asked("status_endpoint")?,
            verification: asked("verification_endpoint")?,
            methods: texts("delivery_methods_supported"),
            critical: texts("critical_subject_members").unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_lie_between_host_and_path() {
        for (issuer, expected) in [
            ("https://tr.test", "https://tr.test/.well-known/ssf-configuration"),
            ("https://tr.test/", "https://tr.test/.well-known/ssf-configuration"),
            ("https://tr.test:8443/issuer1/", "https://tr.test:8443/.well-known/ssf-configuration/issuer1"),
        ] {
            assert_eq!(address(issuer).unwrap().whole(), expected);
        }
        assert!(address("ftp://x").is_err());
    }

    #[test]
    fn the_token_goes_to_known_hosts_alone() {
        let read = |status: &str| {
            let document = json!({
                "issuer": "https://tr.test", "jwks_uri": "https://cdn.test/keys", "status_endpoint": status,
                "critical_subject_members": ["tenant", 1],
            });
            Metadata::read(document.as_object().unwrap(), "https://tr.test", |url| url.host() == "tr.test")
        };
        let good = read("https://tr.test/status").unwrap();
        assert_eq!(good.critical, ["tenant"]);
        assert_eq!(good.keys.unwrap().host(), "cdn.test", "keys are asked for without the token");
        assert!(read("https://evil.test/status").unwrap_err().contains("`hosts`"));
        let other = json!({"issuer": "https://tr.test/"});
        assert!(Metadata::read(other.as_object().unwrap(), "https://tr.test", |_| true).is_err());
    }
}
