//! Decisions asked for by OPA's data API: any path of `data`, with any input.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use portcullis_common::reason::Reason;
use serde_json::{Value, json};

use super::{
    Allowance, Decider, DecisionId, Ruling,
    attributes::OWN,
    cache::{Hit, Verdict},
    input::add_token,
    known::Known,
    proof::Proof,
    recording::Ruled,
};
use crate::{
    clock::WallTime,
    policy::{Input, Loaded, PolicyError},
    record::{Asked, Asker, Decided, Recorder, Secret},
    telemetry::Door,
    token::Token,
};

/// Separates these cache keys from the others under the fingerprint key.
const DATA_DOMAIN: u64 = 0x6461_7461_6170_6931;

/// Separates the keys of what is read from those of whole bodies.
const READ_DOMAIN: u64 = 0x6461_7461_7265_6164;

/// What OPA says where a client forgot the envelope.
const WARNING: &str =
    r#","warning":{"code":"api_usage_warning","message":"'input' key missing from the request"}"#;

/// How a body holds the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As the member `input` of an object.
    Envelope,
    /// As it is; an empty one holds none.
    Bare,
}

/// A query of the data API.
#[derive(Clone, Copy, Debug)]
pub struct DataQuery<'a> {
    /// The path below `data`.
    pub path: &'a [&'a str],
    /// How `body` holds the input.
    pub form: Form,
    /// JSON.
    pub body: &'a [u8],
    /// Where the token is below the input.
    pub token_path: &'a [String],
    /// Whether a builtin that fails is an error, for this query.
    pub strict: bool,
    /// Whether the answer has a place for the id of its line in the decision log.
    pub named: bool,
    /// Who asks.
    pub by: Asker<'a>,
}

/// What the record is told of a query beside its answer.
#[derive(Default)]
struct Note {
    about: Option<Arc<Decided>>,
    cached: bool,
}

/// An answer of the data API.
#[derive(Clone, Debug, PartialEq)]
pub struct DataAnswer {
    /// The body as it goes out: `{"result": …}`, or `{}` where the value is undefined, which clients take for a
    /// denial.
    pub body: Bytes,
    /// Why, for metrics and logs.
    pub reason: Reason,
    /// How its tightest rate limit stands, for the `RateLimit` headers.
    pub allowance: Option<Allowance>,
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum DataFault {
    /// The body is no input: what is wrong with it.
    Malformed(String),
    /// The evaluation failed.
    Failed(PolicyError),
    /// So did one where a builtin that fails is an error.
    Strict(PolicyError),
}

impl DataAnswer {
    /// No value, for a reason.
    pub const fn undefined(reason: Reason) -> Self {
        Self { body: Bytes::from_static(b"{}"), reason, allowance: None }
    }

    fn new(result: Option<&Value>, reason: Reason, warn: bool) -> Self {
        let warning = if warn { WARNING } else { "" };
        match result {
            Some(value) => {
                Self { body: format!("{{\"result\":{value}{warning}}}").into(), reason, allowance: None }
            }
            None if warn => Self { body: format!("{{{}}}", &warning[1..]).into(), reason, allowance: None },
            None => Self::undefined(reason),
        }
    }

    /// With the id of its line in the decision log, as OPA gives it.
    fn logged(self, id: DecisionId) -> Self {
        // An object, as `new` wrote it.
        let rest = self.body.strip_prefix(b"{").unwrap_or_default();
        let comma: &[u8] = if rest == b"}" { b"" } else { b"," };
        let body = [format!("{{\"decision_id\":\"{id}\"").as_bytes(), comma, rest].concat();
        Self { body: body.into(), ..self }
    }

    /// The value alone; none where it is undefined.
    pub fn value(&self) -> Option<Bytes> {
        // What `new` wrote, without a warning: bare inputs have none.
        let inner = self.body.strip_prefix(b"{\"result\":")?.strip_suffix(b"}")?;
        Some(self.body.slice_ref(inner))
    }
}

/// What kind of value the active policy's decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Boolean,
    Object,
    Unknown,
}

impl Decider {
    /// Answers a query. The token below its input is verified and taken out; policies see what it says in
    /// `input.identity`. A token that is revoked gets no allow from any path. A hit on the body parses, copies and
    /// writes nothing: the key covers path and body to the last byte, and the answer was written when the verdict was
    /// made. A body that differs only in what the policy does not read is parsed, and hits then.
    pub async fn data(&self, query: &DataQuery<'_>) -> Result<DataAnswer, DataFault> {
        let mut note = Note::default();
        let answer = self.answered(query, &mut note).await;
        let Some(recorder) = &self.parts.recorder else { return answer };
        let id = self.record_data(recorder, query, &answer, note).filter(|_| query.named);
        answer.map(|answer| match id {
            Some(id) => answer.logged(id),
            None => answer,
        })
    }

    fn record_data(
        &self,
        recorder: &Recorder,
        query: &DataQuery<'_>,
        answer: &Result<DataAnswer, DataFault>,
        note: Note,
    ) -> Option<DecisionId> {
        let (reason, body) = match answer {
            Ok(answer) => (answer.reason, answer.body.clone()),
            Err(DataFault::Failed(e) | DataFault::Strict(e)) => (e.reason(), Bytes::new()),
            // Nothing was decided.
            Err(DataFault::Malformed(_)) => return None,
        };
        let ruled =
            Ruled { allow: reason == Reason::Allowed, reason, status: reason.status(), failed_open: false };
        let asked = || Asked::Data {
            path: query.path.join("/"),
            peer: query.by.peer.to_owned(),
            body: Secret::copy(query.body),
            read: match query.form {
                Form::Envelope => |body, at| again(Form::Envelope, body, at),
                Form::Bare => |body, at| again(Form::Bare, body, at),
            },
            answer: body,
        };
        self.record(recorder, query.by.door, asked, ruled, note.about, note.cached)
    }

    async fn answered(&self, query: &DataQuery<'_>, note: &mut Note) -> Result<DataAnswer, DataFault> {
        if !self.is_ready() {
            return Ok(DataAnswer::undefined(Reason::NotReady));
        }
        let path = query.path;
        let key = self.data_key(query);
        // Decisions alone are ever kept.
        if let Some(hit) = self.hit(key).filter(|_| !query.strict) {
            self.parts.metrics.cache(true);
            *note = Note { about: hit.about(), cached: true };
            return Ok(self.hit_answer(&hit, path));
        }
        let loaded = self.parts.policy.current();
        let is_decision = below(&loaded, path).is_some();
        let overloaded = || {
            if is_decision {
                self.refused(&loaded, path, Reason::Overloaded)
            } else {
                DataAnswer::undefined(Reason::Overloaded)
            }
        };
        // Decisions alone have keys of what they read.
        let is_keyed = is_decision && !query.strict && !loaded.set.reads().reads_all();
        if self.is_overloaded() && !is_keyed {
            return Ok(overloaded());
        }
        let parsed = parse(query)?;
        let read = is_keyed.then(|| self.read_key(&loaded, path, &parsed));
        if let Some(hit) = read.and_then(|key| self.hit(key)) {
            self.parts.metrics.cache(true);
            if let Hit::Verdict(verdict) = &hit {
                self.also(key, verdict);
            }
            *note = Note { about: hit.about(), cached: true };
            return Ok(self.hit_answer(&hit, path));
        }
        if self.is_overloaded() {
            return Ok(overloaded());
        }
        // Where it has a key of what is read, that one alone at first: most bodies are never seen again.
        let key = read.unwrap_or(key);
        let flight = if is_decision && !query.strict { self.flights.join(key).await } else { None };
        if flight.is_none()
            && let Some(hit) = self.hit(key).filter(|_| is_decision && !query.strict)
        {
            self.parts.metrics.cache(true);
            *note = Note { about: hit.about(), cached: true };
            return Ok(self.hit_answer(&hit, path));
        }
        let Parsed { input, token, proof, warn } = parsed;
        let known = self.know(token, &proof.evidence(), &proof.target()).await;
        let complete = |mut input: Value, now: WallTime| {
            add_token(&mut input, &known, now);
            input
        };
        if query.strict {
            let input = complete(input.clone(), self.parts.clock.wall());
            let input = Input::from(input);
            let fault = || loaded.set.builtin_fault(path, &input).map_or(Ok(()), Err);
            if let Err(e) = self.asked(&loaded, fault).await {
                return Err(DataFault::Strict(e));
            }
        }
        if let Some(below) = loaded.set.down_to_decision(path) {
            let input = |now| complete(input.clone(), now);
            // Boxed: few ask, and all would carry its state.
            return Box::pin(self.above(&loaded, path, &below, &known, input, warn, note)).await;
        }
        if !is_decision {
            let input = complete(input, self.parts.clock.wall());
            note.about = self.about(DecisionId::make(), &known, &loaded, None, Duration::ZERO);
            return self.other_path(path, &known, input, warn, |_| ()).await;
        }
        self.parts.metrics.cache(false);
        let verdict = self.written(&loaded, path, &known, warn, |now| complete(input, now)).await;
        note.about.clone_from(&verdict.about);
        let keys = if verdict.whose.confirmation().is_some() { &[][..] } else { &[key] };
        let kept = self.keep(keys, loaded.generation, verdict);
        drop(flight);
        Ok(self.charged_answer(&kept, path))
    }

    /// The policy's verdict, with the answer that it gives to a path of the decision.
    async fn written(
        &self,
        loaded: &Loaded,
        path: &[&str],
        known: &Known,
        warn: bool,
        input: impl FnOnce(WallTime) -> Value,
    ) -> Verdict {
        let (mut verdict, value) = self.evaluate(known, None, input).await;
        let reason = verdict.ruling.reason();
        verdict.body = match value {
            Some(value) => {
                let result = shaped(&verdict.ruling, value, below(loaded, path).unwrap_or_default());
                DataAnswer::new(result.as_ref(), reason, warn).body
            }
            None => self.refused(loaded, path, reason).body,
        };
        verdict
    }

    /// A verdict's answer, once its rate limits were asked.
    fn charged_answer(&self, verdict: &Verdict, path: &[&str]) -> DataAnswer {
        verdict.count();
        match self.charge(&verdict.limits) {
            Ok(allowance) => {
                if matches!(verdict.ruling, Ruling::Allow(_)) {
                    self.used(verdict);
                }
                DataAnswer { body: verdict.body.clone(), reason: verdict.ruling.reason(), allowance }
            }
            Err(refusal) => DataAnswer {
                allowance: refusal.allowance,
                ..self.refused(&self.parts.policy.current(), path, refusal.reason)
            },
        }
    }

    fn hit_answer(&self, hit: &Hit, path: &[&str]) -> DataAnswer {
        match hit {
            Hit::Verdict(v) => self.charged_answer(v, path),
            Hit::Revoked(_) => self.refused(&self.parts.policy.current(), path, Reason::TokenRevoked),
        }
    }

    /// The token, what the policy reads of the rest, and whether the answer warns.
    fn read_key(&self, loaded: &Loaded, path: &[&str], parsed: &Parsed) -> [u64; 2] {
        let (kind, credential): (&[u8], _) = match &parsed.token {
            Ok(Some(token)) => (b"token", token.as_bytes()),
            Ok(None) => (b"none", b"".as_slice()),
            Err(reason) => (b"fault", reason.code().as_bytes()),
        };
        let (generation, parts) =
            (loaded.generation.to_le_bytes(), loaded.set.reads().pick(&parsed.input, &OWN));
        let fixed = [&generation[..], kind, credential, &[u8::from(parsed.warn)], &parts];
        let path = path.iter().map(|segment| segment.as_bytes());
        self.parts.key.digest_all(READ_DOMAIN, fixed.into_iter().chain(path))
    }

    fn data_key(&self, query: &DataQuery<'_>) -> [u64; 2] {
        let form: &[u8] = match query.form {
            Form::Envelope => b"envelope",
            Form::Bare => b"bare",
        };
        let texts = query.path.iter().map(|segment| segment.as_bytes()).chain([form, query.body]);
        self.parts.key.digest_all(DATA_DOMAIN, texts)
    }

    /// The daemon's own denial, in the shape that the policy's decisions have: clients that expect a boolean
    /// must not be given an object, which many languages take for true. No value where the shape is not known.
    fn refused(&self, loaded: &Loaded, path: &[&str], reason: Reason) -> DataAnswer {
        let value = match self.shape(loaded) {
            Shape::Boolean => Value::Bool(false),
            Shape::Object => json!({"allow": false, "reason": reason.code(), "status": reason.status()}),
            Shape::Unknown => return DataAnswer::undefined(reason),
        };
        let denied = shaped(&Ruling::deny(reason), value, below(loaded, path).unwrap_or_default());
        DataAnswer::new(denied.as_ref(), reason, false)
    }

    /// The shape of the active policy's decisions: that of its answer to an input that says no more than that
    /// the token is revoked. Found once for a generation.
    fn shape(&self, loaded: &Loaded) -> Shape {
        const SHAPES: [Shape; 4] = [Shape::Unknown, Shape::Boolean, Shape::Object, Shape::Unknown];
        let known = self.shape.load(Ordering::Relaxed);
        if known >> 2 == loaded.generation && known & 3 != 0 {
            return SHAPES[(known & 3) as usize];
        }
        let asked = json!({"token_status": Reason::TokenRevoked.code()});
        let found = match loaded.set.eval_decision_value(&Input::from(asked)) {
            Ok((_, Value::Bool(_))) => 1,
            Ok((_, Value::Object(_))) => 2,
            Ok(_) => 3,
            // It may have been for want of time: the next denial asks again.
            Err(_) => return Shape::Unknown,
        };
        self.shape.store(loaded.generation << 2 | found, Ordering::Relaxed);
        SHAPES[(found & 3) as usize]
    }

    /// A path that the decision lies below: what is there, with the decision in it as it is answered by itself, limits
    /// charged, `block` obeyed and its use noted. Clients that ask for a whole package do not go round them.
    #[allow(clippy::too_many_arguments, reason = "one caller, which names each")]
    async fn above(
        &self,
        loaded: &Loaded,
        path: &[&str],
        below: &[&str],
        known: &Known,
        input: impl Fn(WallTime) -> Value,
        warn: bool,
        note: &mut Note,
    ) -> Result<DataAnswer, DataFault> {
        let decision = [path, below].concat();
        let verdict = self.written(loaded, &decision, known, false, &input).await;
        note.about.clone_from(&verdict.about);
        let decided = self.charged_answer(&verdict, &decision);
        let inner = decided.value().and_then(|value| serde_json::from_slice(&value).ok());
        let place = |document: &mut Value| put(document, below, inner);
        let answer = self.other_path(path, known, input(self.parts.clock.wall()), warn, place).await?;
        Ok(match answer.reason {
            Reason::Allowed => DataAnswer { body: answer.body, ..decided },
            _ => answer,
        })
    }

    /// A path that is no decision: its value says nothing that this daemon could turn into a denial, so a
    /// revoked token gets no value at all. `amend` sees what there is before it is answered.
    async fn other_path(
        &self,
        path: &[&str],
        known: &Known,
        input: Value,
        warn: bool,
        amend: impl FnOnce(&mut Value),
    ) -> Result<DataAnswer, DataFault> {
        if self.refuses(known) {
            return Ok(DataAnswer::undefined(Reason::TokenRevoked));
        }
        let (loaded, input) = (self.parts.policy.current(), Input::from(input));
        let value = self.asked(&loaded, || loaded.set.eval_path(path, &input)).await;
        // Asked again: a revocation that was acknowledged meanwhile counts.
        if self.refuses(known) {
            return Ok(DataAnswer::undefined(Reason::TokenRevoked));
        }
        match value {
            Ok(Some(mut value)) => {
                amend(&mut value);
                Ok(DataAnswer::new(Some(&value), Reason::Allowed, warn))
            }
            Ok(None) => Ok(DataAnswer::new(None, Reason::PolicyUndefined, warn)),
            Err(e) => {
                tracing::warn!(error = %e, path = path.join("/"), "the policy failed: no value");
                Err(DataFault::Failed(e))
            }
        }
    }
}

/// The way from the decision down to what a path asks for: nothing where that is the decision; none where it is not within.
fn below<'p>(loaded: &Loaded, path: &'p [&'p str]) -> Option<&'p [&'p str]> {
    (0..=path.len()).find(|n| loaded.set.is_decision(&path[..*n])).map(|n| &path[n..])
}

/// A ruling in the shape the policy gives: its own words for an allow, and for a denial too, unless it is the
/// daemon that denies. Of that what stands `below`.
fn shaped(ruling: &Ruling, value: Value, below: &[&str]) -> Option<Value> {
    let denied = matches!(ruling, Ruling::Deny(_));
    let mut value = match value {
        Value::Object(mut members) => {
            if denied {
                members.insert("allow".to_owned(), Value::Bool(false));
            }
            Value::Object(members)
        }
        _ => Value::Bool(!denied),
    };
    let mut at = &mut value;
    for step in below {
        at = match at {
            Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
            other => other.get_mut(*step)?,
        };
    }
    Some(at.take())
}

/// Puts the decision, as it is answered, where it lies in a document; takes away what lies there where it has no value.
fn put(document: &mut Value, below: &[&str], decision: Option<Value>) {
    let Some((last, parents)) = below.split_last() else { return };
    let mut at = document;
    for name in parents {
        let Some(next) = at.get_mut(name) else { return };
        at = next;
    }
    let Some(members) = at.as_object_mut() else { return };
    match decision {
        Some(value) => {
            members.insert((*last).to_owned(), value);
        }
        None => {
            members.remove(*last);
        }
    }
}

/// The input of a body that was parsed before, without its token.
fn again(form: Form, body: &[u8], token_path: &[String]) -> Option<Value> {
    let by = Asker { door: Door::Data, peer: "" };
    parse(&DataQuery { path: &[], form, body, token_path, strict: false, named: false, by })
        .ok()
        .map(|parsed| parsed.input)
}

/// A token, none, or why it cannot be read.
pub(super) type Credential = Result<Option<Token>, Reason>;

/// A body, read.
struct Parsed {
    /// The input without its token.
    input: Value,
    token: Credential,
    proof: Proof,
    /// Whether the envelope has no input.
    warn: bool,
}

fn parse(query: &DataQuery<'_>) -> Result<Parsed, DataFault> {
    let nothing = || Value::Object(serde_json::Map::new());
    let malformed = |e: serde_json::Error| DataFault::Malformed(e.to_string());
    let empty = query.body.iter().all(u8::is_ascii_whitespace);
    let (mut input, warn) = match query.form {
        Form::Bare if empty => (nothing(), false),
        Form::Bare => (serde_json::from_slice(query.body).map_err(malformed)?, false),
        Form::Envelope if empty => (nothing(), true),
        Form::Envelope => match serde_json::from_slice(query.body).map_err(malformed)? {
            Value::Object(mut members) => {
                let input = members.remove("input");
                let warn = input.is_none();
                (input.unwrap_or_else(nothing), warn)
            }
            _ => {
                return Err(DataFault::Malformed(
                    "the body is not an object with a member `input`".to_owned(),
                ));
            }
        },
    };
    let proof = Proof::take(&mut input, query.token_path);
    let token = take_token(&mut input, query.token_path);
    Ok(Parsed { input, token, proof, warn })
}

/// Takes the token out of an input.
pub(super) fn take_token(input: &mut Value, path: &[String]) -> Credential {
    let Some((last, parents)) = path.split_last() else { return Ok(None) };
    let mut at = input;
    for name in parents {
        match at.get_mut(name) {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    let taken = at.as_object_mut().and_then(|m| m.remove(last));
    match taken {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(s)) if s.len() > portcullis_common::head::MAX_TOKEN as usize => {
            Err(Reason::TokenTooLong)
        }
        Some(Value::String(s)) => Ok(Some(Token::new(s))),
        Some(_) => Err(Reason::TokenMalformed),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(form: Form, body: &str, token_path: &[&str]) -> Result<Parsed, DataFault> {
        let token_path: Vec<String> = token_path.iter().map(|s| (*s).to_owned()).collect();
        parse(&DataQuery {
            path: &[],
            form,
            body: body.as_bytes(),
            token_path: &token_path,
            strict: false,
            named: false,
            by: Asker { door: Door::Data, peer: "" },
        })
    }

    #[test]
    fn the_token_is_taken_out_of_the_input() {
        let input = json!({"auth": {"token": "secret"}, "x": 1});
        for (form, body) in
            [(Form::Envelope, json!({"input": input}).to_string()), (Form::Bare, input.to_string())]
        {
            let read = read(form, &body, &["auth", "token"]).unwrap();
            assert_eq!((read.input, read.warn), (json!({"auth": {}, "x": 1}), false));
            assert_eq!(read.token.unwrap().unwrap().as_str(), "secret");
        }
    }

    #[test]
    fn what_is_no_input_is_refused_and_what_is_none_is_warned_of() {
        for bad in ["[]", "{", "1", "\u{0}", r#"{"input": @}"#] {
            assert!(matches!(read(Form::Envelope, bad, &[]), Err(DataFault::Malformed(_))), "{bad}");
        }
        for (body, warn) in
            [("", true), ("{}", true), (r#"{"input": {}}"#, false), (r#"{"input": 1}"#, false)]
        {
            assert_eq!(read(Form::Envelope, body, &[]).unwrap().warn, warn, "{body}");
        }
        assert!(!read(Form::Bare, "", &[]).unwrap().warn);
        assert_eq!(read(Form::Bare, "[7]", &["token"]).unwrap().input, json!([7]));
        let read = read(Form::Envelope, r#"{"input": {"token": 7}}"#, &["token"]).unwrap();
        assert_eq!(read.token.err(), Some(Reason::TokenMalformed));
    }

    #[test]
    fn a_denial_keeps_the_shape_of_the_policy_and_never_allows() {
        let revoked = Ruling::deny(Reason::TokenRevoked);
        let object = json!({"allow": true, "reason": "token_revoked"});
        assert_eq!(shaped(&revoked, object.clone(), &[]).unwrap()["allow"], json!(false));
        assert_eq!(shaped(&revoked, object.clone(), &["reason"]), Some(json!("token_revoked")));
        assert_eq!(shaped(&revoked, object.clone(), &["allow"]), Some(json!(false)));
        assert_eq!(shaped(&revoked, object.clone(), &["ttl"]), None);
        assert_eq!(shaped(&revoked, object, &["allow", "x"]), None);
        assert_eq!(shaped(&revoked, json!(true), &[]), Some(json!(false)));
        let limits = json!({"limit": [{"key": "k"}]});
        assert_eq!(shaped(&revoked, limits.clone(), &["limit", "0", "key"]), Some(json!("k")));
        assert_eq!(shaped(&revoked, limits, &["limit", "key"]), None);
    }

    #[test]
    fn what_is_undefined_is_an_empty_object() {
        let none = DataAnswer::new(None, Reason::PolicyUndefined, false);
        assert_eq!((&none.body[..], none.value()), (&b"{}"[..], None));
        let one = DataAnswer::new(Some(&json!({"a": 1})), Reason::Allowed, false);
        assert_eq!(
            (&one.body[..], one.value().unwrap()),
            (&br#"{"result":{"a":1}}"#[..], Bytes::from(r#"{"a":1}"#))
        );
        for result in [None, Some(&json!(1))] {
            let warned: Value =
                serde_json::from_slice(&DataAnswer::new(result, Reason::Allowed, true).body).unwrap();
            assert_eq!(warned["warning"]["code"], "api_usage_warning");
        }
    }

    #[test]
    fn documents_are_read_as_they_stand_and_not_within_texts() {
        // With serde_json's `raw_value`, which a dependency may switch on, the member is read as JSON itself, to any depth.
        let text = r#"{"$serde_json::private::RawValue": "[1]"}"#;
        let read: Value = serde_json::from_str(text).unwrap();
        assert!(read.is_object(), "{read}");
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(serde_json::from_str::<Value>(&deep).is_err());
        // And numbers come to the same when they are written and read again.
        for number in ["0.09698132768381157", "1.7976931348623157e308", "0.1"] {
            let once: Value = serde_json::from_str(number).unwrap();
            assert_eq!(once.to_string(), number.replace("e308", "e+308"), "{once}");
            assert_eq!(serde_json::from_str::<Value>(&once.to_string()).unwrap(), once);
        }
    }
}
