//! What is known, in memory, and what is to be written.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Span;
use crate::clock::WallTime;

/// Locks that entries are spread over.
const SHARDS: usize = 16;
/// Most uses that wait to be written.
const WAITING: usize = 1 << 16;
/// Longest text of a label, in bytes.
const LONGEST: usize = 256;

/// A name: a digest under the fingerprint key.
pub type Id = [u64; 2];

/// Who a name stands for, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The token's fingerprint; none of a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// `jti`, of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
}

impl Label {
    /// Whether its texts can be shown.
    pub fn is_plain(&self) -> bool {
        let texts = [&self.fingerprint, &self.subject, &self.client, &self.token_id];
        let mut texts = texts.into_iter().flatten().chain([&self.issuer]);
        texts.all(|text| !text.chars().any(char::is_control))
    }

    /// With texts cut to what is kept.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let cut = |text: &mut String| text.truncate(text.floor_char_boundary(LONGEST));
        cut(&mut self.issuer);
        [&mut self.subject, &mut self.client, &mut self.token_id].into_iter().flatten().for_each(cut);
        self
    }
}

/// A token, and the subject and client that it is of, as the decision path knows them.
#[derive(Debug)]
pub struct Uses {
    /// The token's name.
    pub token: Id,
    /// Its subject's.
    pub subject: Id,
    /// Who they are.
    pub label: Label,
    /// The hour that was noted last.
    noted: AtomicU32,
}

impl Uses {
    /// Nothing noted yet.
    pub const fn new(token: Id, subject: Id, label: Label) -> Self {
        Self { token, subject, label, noted: AtomicU32::new(0) }
    }
}

/// A use that is to be written.
#[derive(Clone, Debug)]
pub struct Noticed {
    /// Whose.
    pub id: Id,
    /// First and last, as far as it is known.
    pub span: Span,
    /// Who that is.
    pub label: Label,
}

/// What is known.
pub struct Book {
    shards: [Mutex<HashMap<Id, Span>>; SHARDS],
    entries: AtomicU64,
    /// Most entries.
    room: u64,
    waiting: Mutex<HashMap<Id, Noticed>>,
    /// What other hosts are to be told; none where there are none.
    telling: Mutex<Option<HashMap<Id, Noticed>>>,
    /// Since when this host knows less than the others may; none while it hears all of them.
    apart: Mutex<Option<Apart>>,
    /// The hour since which every use is known.
    observed: AtomicU32,
    /// Uses that could not be noted for want of room.
    missed: AtomicU64,
}

/// A host that does not hear all others.
#[derive(Clone, Copy, Debug)]
struct Apart {
    since: Instant,
    /// It did hear them before.
    was_whole: bool,
}

/// For how long a host that is cut off goes on as if nothing was used elsewhere meanwhile: what others use is told every few
/// seconds, and a connection is soon made anew.
const BLIND: Duration = Duration::from_mins(5);

/// The hour of a time.
pub fn hour(now: WallTime) -> u32 {
    u32::try_from(now.seconds().max(0) / 3600).unwrap_or(u32::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// With what the file holds, and room for so many.
    pub fn new(known: impl IntoIterator<Item = (Id, Span)>, observed: u32, room: u64) -> Self {
        let book = Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            entries: AtomicU64::new(0),
            room: room.max(1),
            waiting: Mutex::default(),
            telling: Mutex::default(),
            apart: Mutex::default(),
            observed: AtomicU32::new(observed),
            missed: AtomicU64::new(0),
        };
        for (id, span) in known {
            if locked(book.shard(id)).insert(id, span).is_none() {
                book.entries.fetch_add(1, Ordering::Relaxed);
            }
        }
        book
    }

    #[allow(clippy::cast_possible_truncation, reason = "fewer than 16")]
    fn shard(&self, id: Id) -> &Mutex<HashMap<Id, Span>> {
        &self.shards[(id[0] % SHARDS as u64) as usize]
    }

    /// Notes that an allowed request used a token.
    pub fn used(&self, uses: &Uses, now: WallTime) {
        let hour = hour(now);
        if uses.noted.swap(hour, Ordering::Relaxed) == hour {
            return;
        }
        self.note(uses.token, hour, || uses.label.clone());
        self.note(uses.subject, hour, || Label { fingerprint: None, token_id: None, ..uses.label.clone() });
    }

    fn note(&self, id: Id, hour: u32, label: impl FnOnce() -> Label) {
        let Some(span) = self.merge(id, Span::at(hour)) else { return };
        let noticed = Noticed { id, span, label: label() };
        if let Some(telling) = &mut *locked(&self.telling)
            && telling.len() < WAITING
        {
            // Where there are too many, others ask for them when they next have to.
            telling.insert(id, noticed.clone());
        }
        self.to_write(noticed, hour);
    }

    fn to_write(&self, noticed: Noticed, hour: u32) {
        let mut waiting = locked(&self.waiting);
        if waiting.len() >= WAITING && !waiting.contains_key(&noticed.id) {
            drop(waiting);
            self.miss(hour);
            return;
        }
        waiting.insert(noticed.id, noticed);
    }

    /// From here on other hosts are told what is noted, and until they were heard what is not known here may be known there.
    pub fn share(&self) {
        *locked(&self.telling) = Some(HashMap::new());
        *locked(&self.apart) = Some(Apart { since: Instant::now(), was_whole: false });
    }

    /// What other hosts are to be told. Told twice it is the same.
    pub fn to_tell(&self) -> Vec<Noticed> {
        locked(&self.telling).as_mut().map(std::mem::take).unwrap_or_default().into_values().collect()
    }

    /// Notes what another host knows of a name.
    pub fn hear(&self, told: Noticed) {
        if let Some(span) = self.merge(told.id, told.span) {
            self.to_write(Noticed { span, ..told }, span.last);
        }
    }

    /// Adds to what is known of a name, and gives what that comes to; nothing where it was known or has no room.
    fn merge(&self, id: Id, told: Span) -> Option<Span> {
        let mut shard = locked(self.shard(id));
        if let Some(span) = shard.get_mut(&id) {
            let merged = span.merged(told);
            return (std::mem::replace(span, merged) != merged).then_some(merged);
        }
        // Room is made by whoever writes; what comes meanwhile is not known, and said to be so.
        if self.entries.fetch_add(1, Ordering::Relaxed) >= self.room.saturating_add(self.room / 8) {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            drop(shard);
            self.miss(told.last);
            return None;
        }
        shard.insert(id, told);
        Some(told)
    }

    /// Says whether all that live hosts know is known here.
    pub fn set_whole(&self, whole: bool) {
        let mut apart = locked(&self.apart);
        *apart = match *apart {
            _ if whole => None,
            None => Some(Apart { since: Instant::now(), was_whole: true }),
            known => known,
        };
    }

    /// Whether uses elsewhere may be unknown here that count.
    fn is_blind(&self) -> bool {
        locked(&self.apart).is_some_and(|apart| !apart.was_whole || apart.since.elapsed() > BLIND)
    }

    /// A use went unnoted: until this hour's end not all are known.
    fn miss(&self, hour: u32) {
        self.missed.fetch_add(1, Ordering::Relaxed);
        self.observed_from(hour.saturating_add(1));
    }

    /// What was noted and not yet written.
    pub(super) fn take(&self) -> Vec<Noticed> {
        std::mem::take(&mut *locked(&self.waiting)).into_values().collect()
    }

    /// First and last use of a name.
    pub fn span(&self, id: Id) -> Option<Span> {
        locked(self.shard(id)).get(&id).copied()
    }

    /// The hour since which every use is known.
    pub fn observed(&self) -> u32 {
        self.observed.load(Ordering::Relaxed)
    }

    /// Every use is known from this hour on at the earliest.
    pub(super) fn observed_from(&self, hour: u32) {
        self.observed.fetch_max(hour, Ordering::Relaxed);
    }

    /// Names known, and uses that could not be noted.
    pub fn counts(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }

    /// Whether something has to go.
    pub(super) fn is_full(&self) -> bool {
        self.entries.load(Ordering::Relaxed) > self.room
    }

    /// Takes out what was used last before an hour, and where that leaves more than there is room for, what was used
    /// longest ago. What is not known any more counts as not observed. Gives the names that went.
    pub(super) fn prune(&self, before: u32) -> Vec<Id> {
        let mut limit = before;
        let count = self.entries.load(Ordering::Relaxed);
        if count > self.room {
            let mut lasts: Vec<u32> = self
                .shards
                .iter()
                .flat_map(|s| locked(s).values().map(|span| span.last).collect::<Vec<_>>())
                .collect();
            let excess =
                usize::try_from(count - self.room).unwrap_or(usize::MAX).min(lasts.len().saturating_sub(1));
            let (_, last, _) = lasts.select_nth_unstable(excess);
            // All of that hour go with it, or the same few would be looked for again and again.
            limit = limit.max(last.saturating_add(u32::from(excess > 0)));
        }
        let mut gone = Vec::new();
        for shard in &self.shards {
            locked(shard).retain(|id, span| {
                let stays = span.last >= limit;
                if !stays {
                    gone.push(*id);
                }
                stays
            });
        }
        if !gone.is_empty() {
            self.entries.fetch_sub(gone.len() as u64, Ordering::Relaxed);
            self.observed_from(limit);
        }
        gone
    }

    /// What policies are told of a token: `input.usage`. Members are absent for what is not known.
    pub fn told(&self, uses: &Uses, now: WallTime) -> Value {
        let seconds = |hour: u32| u64::from(hour) * 3600;
        let put = |into: &mut Map<String, Value>, id: Id| {
            if let Some(span) = self.span(id) {
                into.insert("first_used".to_owned(), seconds(span.first).into());
                into.insert("last_used".to_owned(), seconds(span.last).into());
            }
        };
        let mut told = Map::new();
        let since = if self.is_blind() { self.observed().max(hour(now)) } else { self.observed() };
        told.insert("observed_since".to_owned(), seconds(since).into());
        put(&mut told, uses.token);
        let mut subject = Map::new();
        put(&mut subject, uses.subject);
        told.insert("subject".to_owned(), json!(subject));
        Value::Object(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(n: u64) -> Uses {
        Uses::new([n, 1], [n, 2], Label { fingerprint: Some(n.to_string()), ..Label::default() })
    }

    fn at(hour: i64) -> WallTime {
        WallTime::from_seconds(hour * 3600 + 17)
    }

    #[test]
    fn a_use_is_noted_once_an_hour_and_told_to_the_hour() {
        let (book, u) = (Book::new([], 5, 100), uses(1));
        assert_eq!(book.told(&u, WallTime(0)), json!({"observed_since": 18000, "subject": {}}));
        for hour in [10, 10, 12, 12] {
            book.used(&u, at(hour));
        }
        let used = json!({"first_used": 36000, "last_used": 43200});
        assert_eq!(
            book.told(&u, WallTime(0)),
            json!({"observed_since": 18000, "first_used": 36000, "last_used": 43200, "subject": used})
        );
        let mut taken = book.take();
        taken.sort_by_key(|n| n.id);
        assert_eq!(taken.len(), 2);
        assert_eq!(taken[0].span, Span { first: 10, last: 12 });
        assert_eq!(
            (taken[0].label.fingerprint.is_some(), taken[1].label.fingerprint.is_some()),
            (true, false)
        );
        book.used(&u, at(12));
        assert!(book.take().is_empty(), "noted already");
    }

    #[test]
    fn what_has_to_go_is_not_called_unused() {
        let book = Book::new([], 0, 10);
        for n in 0..10 {
            book.used(&uses(n), at(100 + i64::try_from(n).unwrap()));
        }
        // Room for ten names, twenty noted (eleven of them, as there is an eighth more).
        assert!(book.counts().1 > 0);
        let gone = book.prune(0);
        assert!(!gone.is_empty() && book.counts().0 <= 10);
        for n in 0..10 {
            let hour = 100 + u32::try_from(n).unwrap();
            let known = book.span([n, 1]).is_some();
            assert!(
                known || book.observed() > hour,
                "a use in {hour} is neither known nor before {}",
                book.observed()
            );
        }
    }

    #[test]
    fn old_entries_go_by_age() {
        let book = Book::new([([1, 1], Span::at(5)), ([2, 1], Span::at(50))], 0, 100);
        assert_eq!(book.prune(40), [[1, 1]]);
        assert_eq!((book.observed(), book.counts().0), (40, 1));
        assert!(book.prune(40).is_empty());
    }

    #[test]
    fn hosts_that_tell_each_other_come_to_the_same() {
        let books: Vec<_> = (0..2).map(|_| Book::new([], 0, 100)).collect();
        books.iter().for_each(Book::share);
        for (book, hour) in [(0, 7), (1, 5), (0, 9)] {
            books[book].used(&uses(1), at(hour));
        }
        let told: Vec<_> = books.iter().map(Book::to_tell).collect();
        for _ in 0..2 {
            for (to, from) in [(0, 1), (1, 0)] {
                told[from].iter().cloned().for_each(|noticed| books[to].hear(noticed));
            }
        }
        for book in &books {
            assert_eq!(book.span([1, 1]), Some(Span { first: 5, last: 9 }));
            assert!(book.to_tell().is_empty(), "what was heard is not told on");
            assert_eq!(book.take().iter().map(|n| n.span.last).max(), Some(9), "but kept");
        }
    }

    #[test]
    fn who_has_not_heard_the_others_knows_of_nobody_that_he_is_dormant() {
        let (book, u) = (Book::new([], 5, 100), uses(1));
        let since = |book: &Book| book.told(&u, at(100))["observed_since"].clone();
        assert_eq!(since(&book), 5 * 3600);
        book.share();
        assert_eq!(since(&book), 100 * 3600, "from the start");
        book.set_whole(true);
        assert_eq!(since(&book), 5 * 3600);
        book.set_whole(false);
        assert_eq!(since(&book), 5 * 3600, "a connection may be lost for a moment");
        *locked(&book.apart) =
            Some(Apart { since: Instant::now().checked_sub(2 * BLIND).unwrap(), was_whole: true });
        assert_eq!(since(&book), 100 * 3600);
    }
}
