//! Which claims stand for which token, and what the kernel must therefore hold.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use portcullis_common::{
    fingerprint::DenyFingerprint,
    layout::{DenyValue, FOREVER},
};

use super::{
    ClaimId, Index,
    calendar::Calendar,
    index::{ByFingerprint, SHARDS, Standing},
    keys::{Count, Under, Unnamed},
};
use crate::clock::{BootTime, Clock, WallTime};

/// How much of the deny map each kind of claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that revocations may condemn.
    pub revoked: usize,
    /// Tokens that policies may condemn.
    pub condemned: usize,
}

/// A policy's token-wide denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condemnation {
    /// Until when.
    pub until: WallTime,
    /// By which policy set.
    pub generation: u64,
    /// What the kernel tells clients: an `ANSWER_` constant.
    pub answer: u32,
    /// The decision's id.
    pub decision: u64,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub wall: WallTime,
    pub boot: BootTime,
}

impl Moment {
    pub fn now(clock: &dyn Clock) -> Self {
        Self { wall: clock.wall(), boot: clock.boot() }
    }

    /// What the kernel is told for an expiry.
    fn boot_at(self, at: WallTime) -> u64 {
        if at.0 == i64::MAX {
            return FOREVER;
        }
        let ahead = u64::try_from(at.0.saturating_sub(self.wall.0)).unwrap_or(0).saturating_mul(1_000_000);
        self.boot.0.saturating_add(ahead)
    }
}

/// What the ledger must know of a claim; the rest is in the store alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimHead {
    pub id: ClaimId,
    pub fingerprint: DenyFingerprint,
    pub until: WallTime,
    pub parent: Option<ClaimId>,
    /// Under which key its fingerprint was made.
    pub under: Under,
}

/// A token and what the kernel must hold for it.
pub type KernelEntry = (DenyFingerprint, DenyValue);

/// All claims by token: some 50 bytes for each. Plain data: it neither stores nor enforces.
#[derive(Debug)]
pub struct Ledger {
    /// Revoked tokens; nobody else writes it.
    index: Arc<Index>,
    /// Claims of tokens that have more than one.
    several: ByFingerprint<BTreeMap<ClaimId, WallTime>>,
    /// Claims that follow from a selector's, by that.
    children: HashMap<ClaimId, ByFingerprint<ClaimId>>,
    condemned: ByFingerprint<Condemnation>,
    /// Condemned tokens, in the order in which they are looked over.
    order: VecDeque<DenyFingerprint>,
    calendar: Calendar,
    /// Claims that stand under the other key.
    under_other: Unnamed,
    /// Claims that stand under a key which is not in force.
    nameless: Unnamed,
    claims: usize,
    revoked: usize,
    limits: Limits,
}

impl Ledger {
    pub fn new(limits: Limits, index: Arc<Index>) -> Self {
        Self {
            index,
            several: HashMap::default(),
            children: HashMap::default(),
            condemned: HashMap::default(),
            order: VecDeque::new(),
            calendar: Calendar::default(),
            under_other: Unnamed::default(),
            nameless: Unnamed::default(),
            claims: 0,
            revoked: 0,
            limits,
        }
    }

    /// Whether a token has a claim, in time or not.
    pub fn is_revoked(&self, f: DenyFingerprint) -> bool {
        self.index.standing(f).is_some()
    }

    /// Claims on a token, in time or not.
    pub fn claims_on(&self, f: DenyFingerprint) -> usize {
        match self.index.standing(f) {
            None => 0,
            Some(s) if s.claim != Standing::SEVERAL => 1,
            Some(_) => self.several.get(&f).map_or(0, BTreeMap::len),
        }
    }

    /// The same by their ids.
    pub fn ids_on(&self, f: DenyFingerprint) -> Vec<ClaimId> {
        match self.index.standing(f) {
            None => Vec::new(),
            Some(s) if s.claim != Standing::SEVERAL => vec![s.claim],
            Some(_) => self.several.get(&f).into_iter().flat_map(BTreeMap::keys).copied().collect(),
        }
    }

    /// Tokens that are revoked.
    pub fn revoked(&self) -> usize {
        self.revoked
    }

    pub fn condemned(&self) -> usize {
        self.condemned.len()
    }

    pub fn claims(&self) -> usize {
        self.claims
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn calendar(&mut self) -> &mut Calendar {
        &mut self.calendar
    }

    /// Adds a claim; it is in force for the decision path when this returns.
    pub fn add(&mut self, c: ClaimHead) {
        let standing = match self.index.standing(c.fingerprint) {
            None => {
                self.revoked += 1;
                Standing { until: c.until, claim: c.id }
            }
            Some(s) => {
                let all = self.several.entry(c.fingerprint).or_insert_with(|| [(s.claim, s.until)].into());
                all.insert(c.id, c.until);
                Standing { until: s.until.max(c.until), claim: Standing::SEVERAL }
            }
        };
        self.index.set(c.fingerprint, Some(standing));
        if let Some(parent) = c.parent {
            self.children.entry(parent).or_default().insert(c.fingerprint, c.id);
        }
        match c.under {
            Under::Own => {}
            Under::Other => self.under_other.add(c.id, c.until),
            Under::None(_) => self.nameless.add(c.id, c.until),
        }
        self.calendar.note(c.id, Some(c.fingerprint), c.until);
        self.claims += 1;
    }

    /// Claims in time that have no name under this host's own key: those that stand under the other one, and those that
    /// stand under none in force. Where there are many, `thoroughly` counts them anew.
    pub fn unnamed(&mut self, now: WallTime, thoroughly: bool) -> (Count, Count) {
        (self.under_other.count(now, thoroughly), self.nameless.count(now, thoroughly))
    }

    /// Claims that follow from a selector's.
    pub fn children(&self, parent: ClaimId) -> impl Iterator<Item = (ClaimId, DenyFingerprint)> {
        self.children.get(&parent).into_iter().flatten().map(|(f, id)| (*id, *f))
    }

    /// Whether a claim on this token follows, or followed, from a selector's.
    pub fn is_child(&self, parent: ClaimId, f: DenyFingerprint) -> bool {
        self.children.get(&parent).is_some_and(|all| all.contains_key(&f))
    }

    /// Forgets that claims follow from this one, which is lifted.
    pub fn forget_children(&mut self, parent: ClaimId) {
        self.children.remove(&parent);
    }

    /// Takes a claim out; the others on its token stay. `false` where it is not there.
    pub fn lift(&mut self, id: ClaimId, f: DenyFingerprint) -> bool {
        let Some(standing) = self.index.standing(f) else { return false };
        let left = if standing.claim == id {
            None
        } else if let Some(all) = self.several.get_mut(&f)
            && let Some(was) = all.remove(&id)
        {
            // Looked for only where it was the latest, and as far as there is another one.
            let others = || all.values().copied();
            let still = was < standing.until || others().any(|until| until == standing.until);
            let until = if still { Some(standing.until) } else { others().max() };
            let claim = if all.len() == 1 { all.keys().next().copied() } else { Some(Standing::SEVERAL) };
            until.zip(claim).map(|(until, claim)| Standing { until, claim })
        } else {
            return false;
        };
        if left.is_none_or(|s| s.claim != Standing::SEVERAL) {
            self.several.remove(&f);
        }
        if left.is_none() {
            self.revoked -= 1;
        }
        self.index.set(f, left);
        self.under_other.remove(id);
        self.nameless.remove(id);
        self.claims -= 1;
        true
    }

    /// Notes a policy's condemnation; `false` where the quota is used up.
    pub fn condemn(&mut self, f: DenyFingerprint, c: Condemnation) -> bool {
        if let Some(known) = self.condemned.get_mut(&f) {
            *known = c;
            return true;
        }
        if self.condemned.len() >= self.limits.condemned {
            return false;
        }
        self.condemned.insert(f, c);
        self.order.push_back(f);
        true
    }

    /// Looks over `count` condemnations, each in its turn, and drops those that count for nothing any more; tells
    /// whose.
    pub fn sweep_condemned(&mut self, now: WallTime, generation: u64, count: usize) -> Vec<DenyFingerprint> {
        let mut gone = Vec::new();
        for _ in 0..count.min(self.order.len()) {
            let Some(f) = self.order.pop_front() else { break };
            if self.condemned.get(&f).is_some_and(|c| c.until > now && c.generation == generation) {
                self.order.push_back(f);
            } else {
                self.condemned.remove(&f);
                gone.push(f);
            }
        }
        gone
    }

    /// What the kernel must hold for a token; `None` for nothing.
    pub fn value(&self, f: DenyFingerprint, now: Moment) -> Option<DenyValue> {
        self.value_of(f, self.index.standing(f).map(|s| s.until), now)
    }

    fn value_of(&self, f: DenyFingerprint, until: Option<WallTime>, now: Moment) -> Option<DenyValue> {
        let condemned = self.condemned.get(&f);
        if until.is_none() && condemned.is_none() {
            return None;
        }
        let revoked_until = until.map_or(0, |until| now.boot_at(until));
        Some(DenyValue {
            revoked_until,
            condemned_until: condemned.map_or(0, |c| now.boot_at(c.until)),
            // A generation counts changes of the policy by hand; four thousand million of them do not come.
            generation: condemned.map_or(0, |c| u32::try_from(c.generation).unwrap_or(0)),
            answer: condemned.map_or(0, |c| c.answer),
            decision: condemned.map_or(0, |c| c.decision),
        })
    }

    /// Parts that [`Self::part`] can be asked for.
    pub fn parts(&self) -> usize {
        SHARDS + self.order.len().div_ceil(PART)
    }

    /// A part of all that the kernel must hold: about a thousand entries. Together they are everything; what is
    /// added meanwhile is in a part that is still to come, or was written by itself.
    pub fn part(&self, n: usize, now: Moment) -> Vec<KernelEntry> {
        let entry = |f, until| self.value_of(f, until, now).map(|v| (f, v));
        match n.checked_sub(SHARDS) {
            None => self.index.tokens(n).into_iter().filter_map(|(f, until)| entry(f, Some(until))).collect(),
            Some(n) => {
                let tokens = self.order.iter().skip(n * PART).take(PART);
                tokens.filter(|f| !self.is_revoked(**f)).filter_map(|f| entry(*f, None)).collect()
            }
        }
    }
}

/// Condemned tokens of one part.
const PART: usize = 1024;

#[cfg(test)]
mod tests {
    use super::{
        super::{
            RevokeError,
            room::{MAX_CLAIMS, Room},
        },
        *,
    };

    const NOW: Moment = Moment { wall: WallTime(1_000), boot: BootTime(5) };
    const F: DenyFingerprint = DenyFingerprint([1, 2]);
    const LASTING: Condemnation =
        Condemnation { until: WallTime(9_000), generation: 1, answer: 1, decision: 7 };

    fn ledger(revoked: usize, condemned: usize) -> Ledger {
        Ledger::new(Limits { revoked, condemned }, Arc::default())
    }

    fn claim(id: u64, until: i64) -> ClaimHead {
        ClaimHead { id: ClaimId(id), fingerprint: F, until: WallTime(until), parent: None, under: Under::Own }
    }

    #[test]
    fn lifting_one_claim_leaves_the_others() {
        let mut l = ledger(10, 10);
        for (id, until) in [(1, 2_000), (2, 3_000), (3, 2_500)] {
            l.add(claim(id, until));
        }
        let until = |l: &Ledger| l.value(F, NOW).map(|v| v.revoked_until);
        assert_eq!(until(&l), Some(5 + 2_000 * 1_000_000));
        assert!(l.lift(ClaimId(2), F));
        assert_eq!(until(&l), Some(5 + 1_500 * 1_000_000));
        assert!(l.lift(ClaimId(3), F));
        assert!(!l.lift(ClaimId(3), F), "once is enough");
        assert_eq!(until(&l), Some(5 + 1_000 * 1_000_000));
        assert!(l.lift(ClaimId(1), F));
        assert_eq!(l.value(F, NOW), None);
        assert_eq!((l.revoked(), l.claims(), l.several.len()), (0, 0, 0));
    }

    #[test]
    fn policies_cannot_crowd_out_revocations() {
        let mut l = ledger(1, 1);
        let c = Condemnation { until: WallTime(9), ..LASTING };
        assert!(l.condemn(DenyFingerprint([7, 7]), c));
        assert!(!l.condemn(DenyFingerprint([8, 8]), c), "the quota is one");
        let other = DenyFingerprint([9, 9]);
        assert!(Room::default().take(&l, F).is_ok());
        l.add(claim(1, 2_000));
        assert!(matches!(Room::default().take(&l, other), Err(RevokeError::Full { limit: 1 })));
        assert!(
            Room::default().take(&l, F).is_ok(),
            "another claim on a token that is revoked takes no room"
        );
    }

    #[test]
    fn a_token_has_so_many_claims_and_no_more_and_a_thousand_of_them_cost_little() {
        let mut l = ledger(2, 0);
        let (mut room, other) = (Room::default(), DenyFingerprint([9, 9]));
        for id in 1..=MAX_CLAIMS as u64 {
            room.take(&l, F).unwrap();
            if id % 2 == 0 {
                room = Room::default();
                l.add(claim(id - 1, 9));
                l.add(claim(id, 9));
            }
        }
        assert!(matches!(room.take(&l, F), Err(RevokeError::TooMany { limit: MAX_CLAIMS })));
        // All of several orders, or none.
        let order = |fingerprint| {
            let text = String::new;
            let (reason, actor, ticket, source) = (text(), text(), text(), text());
            let token = super::super::Fingerprints::of(fingerprint, 7);
            super::super::Order { token, until: WallTime(9), reason, actor, ticket, source, parent: None }
        };
        assert!(room.take_all(&l, &[order(other), order(F)], 7.into()).is_err());
        assert!(
            room.take_all(&l, &[order(DenyFingerprint([8, 8])), order(DenyFingerprint([8, 8]))], 7.into())
                .is_ok()
        );
        assert!(matches!(room.take(&l, other), Err(RevokeError::Full { .. })), "what was taken counts");
        for id in 1..=MAX_CLAIMS as u64 {
            assert!(l.lift(ClaimId(id), F));
        }
        assert_eq!((l.claims_on(F), l.claims()), (0, 0));
    }

    #[test]
    fn a_condemnation_of_an_older_generation_is_swept() {
        let mut l = ledger(1, 3);
        l.add(claim(1, 2_000));
        let old = LASTING;
        let (a, b) = (DenyFingerprint([3, 3]), DenyFingerprint([4, 4]));
        assert!(
            l.condemn(F, old) && l.condemn(a, Condemnation { generation: 2, ..old }) && l.condemn(b, old)
        );
        assert_eq!(l.sweep_condemned(WallTime(0), 2, 2), [F]);
        assert_eq!(l.value(F, NOW).map(|v| (v.condemned_until, v.generation)), Some((0, 0)));
        assert_eq!(l.sweep_condemned(WallTime(0), 2, 2), [b], "each in its turn");
        assert_eq!(l.condemned(), 1);
    }

    #[test]
    fn the_parts_are_everything_once() {
        let mut l = ledger(5_000, 5_000);
        for n in 0..4_000u64 {
            let fingerprint = DenyFingerprint([n, n << 20]);
            let (id, until) = (ClaimId(n + 1), WallTime(9_000));
            l.add(ClaimHead { id, fingerprint, until, parent: None, under: Under::Own });
        }
        for n in 3_000..7_000u64 {
            let c = LASTING;
            assert!(l.condemn(DenyFingerprint([n, n << 20]), c));
        }
        let mut all: Vec<_> = (0..l.parts()).flat_map(|n| l.part(n, NOW)).collect();
        assert_eq!(all.len(), 7_000);
        all.sort_by_key(|(f, _)| f.0);
        for (n, (f, value)) in all.into_iter().enumerate() {
            assert_eq!(f.0[0], n as u64);
            assert_eq!((value.revoked_until > 0, value.condemned_until > 0), (n < 4_000, n >= 3_000));
        }
    }
}
