//! What the plane does with orders that other hosts took: the same as with its own, in any order and any number of times.
//!
//! A claim is known by the host that took it and its id there. Once it was lifted it never comes into force again, whether
//! the lifting is heard of first or last; a claim that was made meanwhile has another name, and stays. So all hosts that
//! heard the same come to the same.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use portcullis_common::fingerprint::DenyFingerprint;

use super::{
    AnyClaim, Claim, ClaimId, Fingerprints, Plane, RevokeError, Selector, SelectorClaim,
    foreign::{Grave, Name, Origin, Position},
    ledger::Moment,
    room::Room,
    store::Changes,
};
use crate::clock::WallTime;

/// A claim that another host took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteClaim {
    /// Its name.
    pub name: Name,
    /// What it is on.
    pub on: RemoteTarget,
    /// Until when it holds.
    pub until: WallTime,
    /// Why, for people.
    pub reason: String,
    /// Who ordered it there.
    pub actor: String,
    /// Where it is kept, such as an incident's number.
    pub ticket: String,
    /// Whether it is a lockdown.
    pub lockdown: bool,
}

/// What a claim is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteTarget {
    /// A token, by the names that it was told with.
    Token(Fingerprints),
    /// All that a selector matches.
    Selector(Box<Selector>),
}

/// A lifting that another host ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteLift {
    /// The claim.
    pub grave: Grave,
    /// Who had it lifted, and why (JSON).
    pub by: serde_json::Value,
}

/// The claims of a host are these alone, as far as their ids are below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    /// The host.
    pub origin: Origin,
    /// The id.
    pub next: u64,
    /// Those there are.
    pub ids: HashSet<u64>,
}

/// What was heard from other hosts, to be put in force together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Claims.
    pub add: Vec<RemoteClaim>,
    /// Liftings.
    pub lift: Vec<RemoteLift>,
    /// What a host's claims are, as it told all of them.
    pub only: Option<Only>,
    /// How far those hosts' orders are known with this.
    pub reached: Vec<(Origin, Position)>,
}

/// What came of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Selectors that are new: tokens that were seen lately are still to be condemned by them.
    pub selectors: Vec<SelectorClaim>,
    /// Claims that are new.
    pub added: usize,
    /// Claims that were lifted.
    pub lifted: usize,
}

/// A claim that is to go, with what follows from it.
struct Going {
    claim: AnyClaim,
    by: Vec<u8>,
}

impl Plane {
    /// How the fleet knows a claim that an order given here lifts; `None` for one that merely follows from a selector.
    pub(super) fn grave_of(&self, claim: &AnyClaim) -> Option<Grave> {
        let (source, parent) = match claim {
            AnyClaim::Token(c) => (&c.source, c.parent),
            AnyClaim::Selector(c) => (&c.source, None),
        };
        let own = || Name { origin: self.store.origin(), id: claim.id().0 };
        let name = Name::of_source(source).unwrap_or_else(own);
        parent.is_none().then(|| Grave { name, until: claim.until() })
    }

    /// Has an order's liftings told to the fleet, and remembered where the claims are others'.
    pub(super) fn bury<'a>(&self, claims: impl Iterator<Item = &'a AnyClaim>, changes: &mut Changes<'_>) {
        let own = self.store.origin();
        for grave in claims.filter_map(|claim| self.grave_of(claim)) {
            changes.buried.push(grave);
            if grave.name.origin != own {
                changes.graves.push(grave);
            }
        }
    }

    /// Takes what other hosts told. Stored and in force here, in the kernel too, when this returns.
    pub(super) fn take_remote(&mut self, update: Update) -> Result<Taken, RevokeError> {
        let taken = Moment::now(&*self.clock);
        let lifted: HashSet<Name> = update.lift.iter().map(|l| l.grave.name).collect();
        let (mut tokens, mut selectors) = (Vec::new(), Vec::new());
        // Those of claims that are known already: the kernel may not have taken them the first time.
        let mut again: Vec<DenyFingerprint> = Vec::new();
        let (mut seen, mut room) = (HashSet::new(), Room::default());
        for claim in update.add {
            // One that is over is taken too: it is this host's clock that says so, and that may be wrong.
            let dead = lifted.contains(&claim.name) || self.store.is_buried(claim.name);
            if dead || claim.name.origin == self.store.origin() || !seen.insert(claim.name) {
                continue;
            }
            match claim.on {
                RemoteTarget::Token(f) if self.foreign.get(claim.name).is_some() => {
                    again.push(self.settings.keys.name(&f));
                }
                RemoteTarget::Selector(_) if self.foreign.get(claim.name).is_some() => {}
                RemoteTarget::Token(f) => {
                    // However many claims stand on one token here: hosts would not agree any more.
                    if let Err(e @ RevokeError::Full { .. }) =
                        room.take(&self.ledger, self.settings.keys.name(&f))
                    {
                        return Err(e);
                    }
                    tokens.push(claim);
                }
                RemoteTarget::Selector(_) => selectors.push(claim),
            }
        }
        // Ids ascend in the log, and selectors stand behind tokens there.
        let (mut claims, mut names) = (Vec::new(), Vec::new());
        for c in tokens {
            let RemoteTarget::Token(token) = c.on else { continue };
            names.push(c.name);
            claims.push(self.remote_token(token, c, taken));
        }
        let mut by_selector = Vec::new();
        for c in selectors {
            let RemoteTarget::Selector(selector) = c.on else { continue };
            by_selector.push(SelectorClaim {
                id: self.store.next_id(),
                selector: *selector,
                created: taken.wall,
                until: c.until,
                reason: c.reason,
                actor: c.actor,
                ticket: c.ticket,
                source: if c.lockdown { c.name.source_of_lockdown() } else { c.name.source() },
            });
            names.push(c.name);
        }
        let going = self.going(&update.lift, update.only.as_ref())?;
        let (buried, graves) = self.graves(&update.lift, &going);
        let changes = Changes {
            buried,
            add: claims.iter().collect(),
            select: by_selector.iter().collect(),
            lift: going.iter().map(|g| (self.with_children(g.claim.id()), g.by.clone())).collect(),
            graves,
            reached: update.reached,
            ..Changes::default()
        };
        let seq = self.commit(&changes).map_err(RevokeError::Store)?;
        drop(changes);
        let synced = self.since(taken);
        let ids = claims.iter().map(|c| c.id).chain(by_selector.iter().map(|c| c.id));
        for (name, id) in names.into_iter().zip(ids) {
            self.foreign.add(name, id);
        }
        let heads: Vec<_> = claims.iter().map(|c| self.settings.keys.head(c)).collect();
        let revoked: Vec<_> = heads.iter().map(|h| h.fingerprint).collect();
        for head in heads {
            self.ledger.add(head);
        }
        for c in &by_selector {
            self.select_in_force(c);
        }
        let mut written = revoked.clone();
        if self.behind {
            written.extend(again);
        }
        for g in &going {
            written.extend(self.take_out(&g.claim));
        }
        written.sort_unstable_by_key(|f| f.0);
        written.dedup();
        let kernel = self.in_kernel(&written, !by_selector.is_empty());
        if !(claims.is_empty() && by_selector.is_empty() && going.is_empty()) {
            let in_force = kernel.is_ok().then(|| self.since(taken));
            self.store.done(seq, taken.wall, synced, in_force);
        }
        if !revoked.is_empty() {
            self.end_connections(&revoked);
        }
        kernel?;
        let added = claims.len() + by_selector.len();
        Ok(Taken { selectors: by_selector, added, lifted: going.len() })
    }

    /// What is told on of what was lifted, and what is remembered of it.
    fn graves(&self, lifts: &[RemoteLift], going: &[Going]) -> (Vec<Grave>, Vec<Grave>) {
        let own = self.store.origin();
        let lifted: HashSet<Name> = lifts.iter().map(|l| l.grave.name).collect();
        let gone = || going.iter().filter_map(|g| self.grave_of(&g.claim));
        // What others lifted of this host's own it tells on as its own: who has only its orders must hear of that too.
        let buried = gone().filter(|g| g.name.origin == own).collect();
        // Those that a host no longer has do not come back with an older message of it.
        let graves = lifts.iter().map(|l| l.grave).chain(gone().filter(|g| !lifted.contains(&g.name)));
        // Known ones come again where the stream is read anew.
        // One of this host's own that was not given yet is lifted in advance, which nobody can do who saw it: the id is not
        // given any more, and so no host that took the lifting takes a claim for lifted that is not.
        let kept = |g: &Grave| g.name.origin != own || !self.store.was_given(g.name.id);
        let graves = graves.filter(|g| kept(g) && !self.store.is_buried(g.name)).collect();
        (buried, graves)
    }

    fn remote_token(&mut self, token: Fingerprints, c: RemoteClaim, taken: Moment) -> Claim {
        Claim {
            id: self.store.next_id(),
            fingerprint: token.first.fingerprint,
            key_id: token.first.key_id,
            other: token.other,
            created: taken.wall,
            until: c.until,
            reason: c.reason,
            actor: c.actor,
            ticket: c.ticket,
            source: c.name.source(),
            parent: None,
        }
    }

    /// The claims in force that are lifted, each once.
    fn going(&self, lifts: &[RemoteLift], only: Option<&Only>) -> Result<Vec<Going>, RevokeError> {
        let reader = self.store.reader();
        let own = self.store.origin();
        let mut ids: HashMap<ClaimId, (Name, Vec<u8>)> = HashMap::new();
        for lift in lifts {
            let name = lift.grave.name;
            let here = if name.origin == own { Some(ClaimId(name.id)) } else { self.foreign.get(name) };
            if let Some(here) = here {
                ids.insert(here, (name, lift.by.to_string().into_bytes()));
            }
        }
        if let Some(only) = only {
            let by = serde_json::json!({
                "actor": "portcullis", "reason": format!("no longer among the revocations of host {}", only.origin),
            });
            for (id, here) in self.foreign.below(only.origin, only.next) {
                if !only.ids.contains(&id) {
                    let name = Name { origin: only.origin, id };
                    ids.insert(here, (name, by.to_string().into_bytes()));
                }
            }
        }
        let mut all = Vec::new();
        for (id, (name, by)) in ids {
            let found = reader.get(id).map_err(|e| RevokeError::Read(Arc::new(e)))?;
            // Whoever names it must mean it: an id of ours may be that of a claim which is another's, or follows from one.
            let meant = |c: &AnyClaim| self.grave_of(c).is_some_and(|g| g.name == name);
            all.extend(found.filter(meant).map(|claim| Going { claim, by }));
        }
        all.sort_by_key(|g| g.claim.id());
        Ok(all)
    }

    fn with_children(&self, id: ClaimId) -> Vec<ClaimId> {
        std::iter::once(id).chain(self.ledger.children(id).map(|(id, _)| id)).collect()
    }

    /// Takes a claim out of what is in force, and what follows from it; gives the tokens that it was on.
    fn take_out(&mut self, claim: &AnyClaim) -> Vec<DenyFingerprint> {
        self.foreign.remove(claim.id());
        match claim {
            AnyClaim::Token(c) => {
                let name = self.name_of(c);
                self.ledger.lift(c.id, name);
                vec![name]
            }
            AnyClaim::Selector(c) => {
                let children: Vec<_> = self.ledger.children(c.id).collect();
                self.index.selectors.remove(self.settings.namer.of(&c.selector), c.id);
                self.ledger.forget_children(c.id);
                children.into_iter().map(|(id, f)| (self.ledger.lift(id, f), f).1).collect()
            }
        }
    }

    /// Brings the kernel in line: these tokens, and what it had allowed where selectors are new.
    fn in_kernel(&mut self, tokens: &[DenyFingerprint], selectors: bool) -> Result<(), RevokeError> {
        let written = self.write(tokens);
        let forgotten = if selectors || self.unforgotten { self.forget_verdicts() } else { Ok(()) };
        self.unforgotten = forgotten.is_err();
        written.and(forgotten).map_err(|e| RevokeError::Kernel(Arc::new(self.noted(e))))
    }
}
