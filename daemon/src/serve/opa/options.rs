//! What the query of a request to OPA's API asks for.

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::answer::{Fault, Timings};
use crate::{
    percent,
    serve::doors::{Answer, json},
};

/// Options, as OPA names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `input`, of a `GET`.
    pub input: Option<String>,
    /// `strict-builtin-errors`
    pub strict: bool,
    pretty: bool,
    metrics: bool,
}

impl Options {
    /// Reads them; what is not known is passed over, as OPA does.
    pub(super) fn read(query: &str) -> Result<Self, Fault> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let on = !matches!(value, "false" | "0" | "f");
            match name {
                "input" => {
                    let text = percent::decoded(&value.replace('+', " "));
                    options.input = Some(text.ok_or_else(|| {
                        Fault::parameter("parameter `input` is not UTF-8 behind its escapes")
                    })?);
                }
                "strict-builtin-errors" => options.strict = on,
                "pretty" => options.pretty = on,
                "metrics" | "instrument" => options.metrics |= on,
                "explain" if !matches!(value, "off" | "") => {
                    return Err(Fault::parameter(
                        "`explain` is not available here; `portcullis decide` explains a decision",
                    ));
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// An answer with what was asked for beside the result.
    pub(super) fn dress(&self, body: Bytes, timings: &Timings) -> Answer {
        if !self.metrics && !self.pretty {
            return json(StatusCode::OK, body);
        }
        let Ok(Value::Object(mut members)) = serde_json::from_slice(&body) else {
            return json(StatusCode::OK, body);
        };
        if self.metrics {
            members.insert("metrics".to_owned(), timings.shown());
        }
        self.dress_bare(Value::Object(members).to_string().into())
    }

    /// A value alone.
    pub(super) fn dress_bare(&self, body: Bytes) -> Answer {
        let pretty = self
            .pretty
            .then(|| serde_json::from_slice::<Value>(&body).and_then(|v| serde_json::to_string_pretty(&v)))
            .and_then(Result::ok);
        json(StatusCode::OK, pretty.map_or(body, |text| (text + "\n").into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_opa_reads_them() {
        let o = Options::read("pretty&metrics=true&input=%7B%22a%22%3A+1%7D&strict-builtin-errors=1&other=x")
            .unwrap();
        assert_eq!((o.pretty, o.metrics, o.strict), (true, true, true));
        assert_eq!(o.input.as_deref(), Some(r#"{"a": 1}"#));
        assert_eq!(Options::read("pretty=false&explain=off&instrument=0").unwrap(), Options::default());
        for bad in ["input=%ff", "input=%2", "explain=full"] {
            assert!(Options::read(bad).is_err(), "{bad}");
        }
    }
}
