//! Whom an event is about (RFC 9493, and the complex subjects of the Shared Signals Framework).

use serde_json::{Map, Value};

/// Most identifiers of one subject (format `aliases`).
pub(super) const MAX_ALIASES: usize = 1000;

/// A user, of one issuer or of each that the transmitter may speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub issuer: Option<String>,
    pub sub: String,
}

/// Whom an event is about, as far as selectors can say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subject {
    pub users: Vec<User>,
    pub sessions: Vec<String>,
    /// `iss` and `jti`.
    pub tokens: Vec<(String, String)>,
    /// One name that may be that of a user or of a session: both are meant.
    pub is_either: bool,
    /// Members of a complex subject that are not understood here.
    pub unread: Vec<String>,
}

/// How subjects are read.
pub(super) struct Reader<'a> {
    /// The transmitter.
    pub transmitter: &'a str,
    /// The issuers that it may speak of.
    pub issuers: &'a [String],
    pub email_is_subject: bool,
}

impl Reader<'_> {
    /// Whether a subject identifier has no more names of one subject than are read.
    pub fn is_readable(id: &Map<String, Value>) -> bool {
        let few = |id: &Map<String, Value>| {
            id.get("identifiers").and_then(Value::as_array).is_none_or(|all| all.len() <= MAX_ALIASES)
        };
        // Members of a complex subject may each have some.
        few(id) && id.values().filter_map(Value::as_object).all(few)
    }

    /// Reads a subject identifier, simple or complex.
    pub fn read(&self, id: &Map<String, Value>) -> Subject {
        let format = id.get("format").and_then(Value::as_str);
        // Drafts of the framework told complex subjects by their members alone.
        let is_complex = format.is_none() && ["user", "session"].iter().any(|m| id.contains_key(*m));
        if format == Some("complex") || is_complex {
            return self.complex(id);
        }
        let mut subject = Subject::default();
        self.simple(id, &mut subject);
        subject
    }

    fn simple(&self, id: &Map<String, Value>, out: &mut Subject) {
        let text = |name: &str| id.get(name).and_then(Value::as_str);
        match id.get("format").and_then(Value::as_str) {
            Some("iss_sub") => {
                if let (Some(iss), Some(sub)) = (text("iss"), text("sub")) {
                    out.users.extend(self.user(iss, sub));
                }
            }
            Some("opaque") => {
                if let Some(id) = text("id") {
                    out.sessions.push(id.to_owned());
                    out.users.push(User { issuer: None, sub: id.to_owned() });
                    out.is_either = true;
                }
            }
            Some("email") if self.email_is_subject => {
                out.users.extend(text("email").map(|email| User { issuer: None, sub: email.to_owned() }));
            }
            Some("jwt_id") => {
                if let (Some(iss), Some(jti)) = (text("iss"), text("jti")) {
                    out.tokens.extend(self.of(iss).into_iter().map(|iss| (iss, jti.to_owned())));
                }
            }
            Some("aliases") => {
                let all = id.get("identifiers").and_then(Value::as_array).into_iter().flatten();
                for alias in all.filter_map(Value::as_object) {
                    // They do not nest (RFC 9493 §3.2.8).
                    if alias.get("format").and_then(Value::as_str) != Some("aliases") {
                        self.simple(alias, out);
                    }
                }
            }
            _ => {}
        }
    }

    /// All members hold of the subject together; what the session or the user says is taken, and the rest makes it
    /// narrower than can be said here. A narrower subject than is revoked is on the safe side.
    fn complex(&self, id: &Map<String, Value>) -> Subject {
        let mut out = Subject::default();
        for (name, value) in id {
            match (name.as_str(), value.as_object()) {
                ("format", _) => {}
                ("user", Some(user)) => {
                    let mut read = Subject::default();
                    self.simple(user, &mut read);
                    out.users.extend(read.users);
                }
                ("session", Some(session)) => {
                    let mut read = Subject::default();
                    self.simple(session, &mut read);
                    // A session that is named like a user is a session all the same.
                    out.sessions.extend(read.users.into_iter().map(|u| u.sub).filter(|_| !read.is_either));
                    out.sessions.extend(read.sessions);
                    out.tokens.extend(read.tokens);
                }
                _ => out.unread.push(name.clone()),
            }
        }
        out
    }

    fn user(&self, iss: &str, sub: &str) -> Vec<User> {
        self.of(iss).into_iter().map(|iss| User { issuer: Some(iss), sub: sub.to_owned() }).collect()
    }

    /// The issuers that are meant by an `iss`: itself, if it is one that the transmitter may speak of; by the
    /// transmitter's own all of them.
    fn of(&self, iss: &str) -> Vec<String> {
        if self.issuers.iter().any(|i| i == iss) {
            vec![iss.to_owned()]
        } else if iss == self.transmitter {
            self.issuers.to_vec()
        } else {
            Vec::new()
        }
    }
}
