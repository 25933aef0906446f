//! Handing decisions to the record, and making the input of one again later.

use std::{sync::Arc, time::Duration};

use portcullis_common::reason::Reason;
use serde_json::Value;

use super::{
    Decider, DecisionId, FailOpen, Request, Ruling,
    data::take_token,
    input::{add_place, complete, request_members, seconds, status_code},
    known::Known,
    proof::Proof,
    request::Path,
};
use crate::{
    policy::Loaded,
    record::{Asked, Asker, Decided, Event, Recorder, Secret, Texts},
    telemetry::Door,
    token::strict_object,
};

/// How a decision came out.
#[derive(Clone, Copy)]
pub(super) struct Ruled {
    pub allow: bool,
    pub reason: Reason,
    pub status: u16,
    /// Whether the door lets it pass although there is no decision.
    pub failed_open: bool,
}

impl Decider {
    /// What a verdict is decided on, where anybody records it.
    pub(super) fn about(
        &self,
        id: DecisionId,
        known: &Known,
        loaded: &Loaded,
        value: Option<&Value>,
        took: Duration,
    ) -> Option<Arc<Decided>> {
        self.parts.recorder.as_ref()?;
        Some(Arc::new(Decided {
            id: id.0,
            token_status: status_code(known),
            identity: known.status.as_ref().ok().cloned().zip(known.claims()),
            fingerprint: known.fingerprint(),
            value: value.cloned(),
            generation: loaded.generation,
            evaluated: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
            usage: known.usage.clone(),
            place: known.place.clone(),
        }))
    }

    pub(super) fn record_request(
        &self,
        recorder: &Recorder,
        by: Asker<'_>,
        request: &Request<'_>,
        ruling: &Ruling,
        about: Option<Arc<Decided>>,
        cached: bool,
    ) -> Option<DecisionId> {
        self.record_ruling(recorder, by.door, || asked_about(by, request), ruling, about, cached)
    }

    pub(super) fn record_ruling(
        &self,
        recorder: &Recorder,
        door: Door,
        asked: impl FnOnce() -> Asked,
        ruling: &Ruling,
        about: Option<Arc<Decided>>,
        cached: bool,
    ) -> Option<DecisionId> {
        let ruled = match ruling {
            Ruling::Allow(permit) => {
                Ruled { allow: true, reason: Reason::Allowed, status: permit.status(), failed_open: false }
            }
            Ruling::Deny(refusal) => Ruled {
                allow: false,
                reason: refusal.reason,
                status: refusal.status,
                failed_open: recorder.fail_open.contains(&door) && refusal.fail_open(FailOpen).is_some(),
            },
        };
        self.record(recorder, door, asked, ruled, about, cached)
    }

    /// Copies what is asked only where it is recorded. The id of its line, where it has one.
    pub(super) fn record(
        &self,
        recorder: &Recorder,
        door: Door,
        asked: impl FnOnce() -> Asked,
        ruled: Ruled,
        about: Option<Arc<Decided>>,
        cached: bool,
    ) -> Option<DecisionId> {
        let time = self.parts.clock.wall();
        let wanted = recorder.wanted(ruled.allow, time)?;
        // What was evaluated for it has its id already: condemnations and kernel events carry it.
        let id = about.as_ref().filter(|_| !cached).map_or_else(DecisionId::make, |d| DecisionId(d.id));
        let Ruled { allow, reason, status, failed_open } = ruled;
        let (asked, decided, sampled) = (asked(), about, wanted.sampled());
        let event = Event {
            id: id.0,
            time,
            door,
            asked,
            allow,
            reason,
            status,
            decided,
            cached,
            failed_open,
            sampled,
        };
        recorder.note(event, wanted);
        wanted.is_log().then_some(id)
    }
}

/// A request's texts, taken down.
pub(super) fn asked_about(by: Asker<'_>, r: &Request<'_>) -> Asked {
    // Taken apart, so that an attribute that is added later is not forgotten here.
    let Request { method, path, query, host, headers, source, foreign, evidence: _ } = r;
    let fixed = [by.peer, *method, path.as_str(), *query, *host, *source];
    let headers = headers.iter().flat_map(|(name, value)| [*name, *value]);
    let foreign = foreign.and_then(|members| serde_json::to_vec(members).ok()).map(Secret::from);
    Asked::Request { texts: Texts::pack(fixed.into_iter().chain(headers)), foreign }
}

/// The input that a decision was asked about, made again as the policy saw it. The paths say where tokens stand in
/// inputs of the data API and of AuthZEN.
pub fn recorded_input(event: &Event, data_token: &[String], document_token: &[String]) -> Option<Value> {
    let mut input = match &event.asked {
        Asked::Request { texts, foreign } => {
            let texts = texts.unpack();
            let (&[_, method, path, query, host, source], headers) = texts.split_first_chunk::<6>()?;
            let headers = headers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            let path = Path::new(path).ok()?;
            let foreign = foreign.as_ref().and_then(|json| serde_json::from_slice(json.bytes()).ok());
            request_members(&Request {
                method,
                path,
                query,
                host,
                headers,
                source,
                foreign: foreign.as_ref(),
                evidence: crate::token::Evidence::default(),
            })
        }
        Asked::Data { body, read, .. } => read(body.bytes(), data_token)?,
        Asked::Document { text, read, .. } => {
            let mut input = read(text.bytes())?;
            drop(Proof::take(&mut input, document_token));
            let _ = take_token(&mut input, document_token);
            input
        }
    };
    if let Some(decided) = &event.decided {
        let usage = decided.usage.as_ref();
        let identity = match &decided.identity {
            Some((identity, claims)) => Some((&**identity, strict_object(claims.as_bytes())?)),
            None => None,
        };
        complete(&mut input, decided.token_status, identity, usage, event.time);
        add_place(&mut input, decided.place.as_ref());
    } else if let Some(members) = input.as_object_mut() {
        // Nothing was looked at: these are the caller's words, if they are there.
        for name in super::attributes::OWN {
            members.remove(name);
        }
        members.insert("time".to_owned(), seconds(event.time));
    }
    Some(input)
}
