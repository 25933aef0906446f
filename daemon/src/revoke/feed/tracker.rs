//! How far the orders of other hosts are known: in order, and what came ahead of its turn.

use std::collections::BTreeMap;

use super::{
    super::foreign::{Origin, Position},
    message::Message,
};

/// Messages ahead of their turn that are remembered of one host; beyond them it tells all anew.
const AHEAD: usize = 4096;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The next one, or one that came ahead of its turn: it is to be put in force.
    New,
    /// One that is in force already.
    Duplicate,
}

/// Parts that came ahead: by entry and part, with the entry before and the number of parts.
type Ahead = BTreeMap<(u64, u32), (u64, u32)>;

/// How far each host's orders are known. Its orders are put in force as they come; this settles only what is whole.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    reached: BTreeMap<Origin, Position>,
    ahead: BTreeMap<Origin, Ahead>,
    /// Into how many parts the entry is cut of which some are known: it may be told again cut otherwise, and then none of
    /// it is known.
    cut: BTreeMap<Origin, u32>,
}

impl Tracker {
    /// From what the store keeps.
    pub fn new(reached: BTreeMap<Origin, Position>) -> Self {
        Self { reached, ..Self::default() }
    }

    /// How far a host's orders are known.
    pub fn reached(&self, origin: Origin) -> Position {
        self.reached.get(&origin).copied().unwrap_or_default()
    }

    /// The same of all.
    pub const fn all(&self) -> &BTreeMap<Origin, Position> {
        &self.reached
    }

    /// Hosts of which something came ahead of its turn: what is before it is missing.
    pub fn gaps(&self) -> impl Iterator<Item = Origin> {
        self.ahead.keys().copied()
    }

    /// Notes a message.
    pub fn see(&mut self, m: &Message) -> Seen {
        let at = self.reached.entry(m.origin).or_default();
        if m.entry == at.entry && at.left > 0 && self.cut.get(&m.origin) != Some(&m.parts) {
            at.left = m.parts;
            self.cut.insert(m.origin, m.parts);
        }
        if m.entry < at.entry || (m.entry == at.entry && m.part < m.parts.saturating_sub(at.left)) {
            return Seen::Duplicate;
        }
        let ahead = self.ahead.entry(m.origin).or_default();
        ahead.retain(|(entry, _), (_, parts)| *entry != m.entry || *parts == m.parts);
        if ahead.len() < AHEAD || ahead.contains_key(&(m.entry, m.part)) {
            ahead.insert((m.entry, m.part), (m.prev, m.parts));
        }
        self.go_on(m.origin);
        Seen::New
    }

    /// Notes that a host's orders are known up to an entry.
    pub fn reach(&mut self, origin: Origin, entry: u64) {
        let at = self.reached.entry(origin).or_default();
        if entry > at.whole() {
            *at = Position { entry, left: 0 };
        }
        self.go_on(origin);
    }

    /// Nothing of a host's orders is known any more.
    pub fn begin_anew(&mut self, origin: Origin) {
        self.reached.insert(origin, Position::default());
        self.ahead.remove(&origin);
    }

    /// Goes on with what came ahead, as far as nothing is missing.
    fn go_on(&mut self, origin: Origin) {
        let Some(ahead) = self.ahead.get_mut(&origin) else { return };
        let at = self.reached.entry(origin).or_default();
        while let Some(((entry, part), (prev, parts))) = ahead.first_key_value().map(|(k, v)| (*k, *v)) {
            let next_part = entry == at.entry && at.left > 0 && part == parts.saturating_sub(at.left);
            let next_entry = entry > at.entry && at.left == 0 && part == 0 && prev <= at.entry;
            let old = entry < at.entry || (entry == at.entry && part < parts.saturating_sub(at.left));
            if next_part || next_entry {
                *at = Position { entry, left: parts - part - 1 };
                self.cut.insert(origin, parts);
            } else if !old {
                break;
            }
            ahead.pop_first();
        }
        if ahead.is_empty() {
            self.ahead.remove(&origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::message::write, *};

    const A: Origin = Origin([1; 16]);

    fn message(entry: u64, prev: u64, part: usize) -> Message {
        let texts = write(A, "00000001", entry, prev, &[], 4096);
        let text = String::from_utf8(texts[0].clone()).unwrap();
        let text = text.replace(
            "\"part\":0,\"parts\":1",
            &format!("\"part\":{part},\"parts\":{}", if entry == 5 { 3 } else { 1 }),
        );
        super::super::message::read(text.as_bytes(), &A.to_string()).unwrap()
    }

    #[test]
    fn any_order_comes_to_the_same_end() {
        let all = [(2, 0, 0), (5, 2, 0), (5, 2, 1), (5, 2, 2), (9, 5, 0)];
        // Every order of five.
        let mut order = [0, 1, 2, 3, 4];
        let mut count = 0;
        permute(&mut order, 5, &mut |order| {
            let mut t = Tracker::default();
            for n in order {
                let (entry, prev, part) = all[*n];
                let m = message(entry, prev, part);
                let before = t.reached(A);
                assert_eq!(t.see(&m), Seen::New, "{order:?} {before:?}");
                let _ = t.see(&m);
            }
            assert_eq!(t.reached(A), Position { entry: 9, left: 0 }, "{order:?}");
            assert_eq!(t.gaps().count(), 0);
            for (entry, prev, part) in all {
                assert_eq!(t.see(&message(entry, prev, part)), Seen::Duplicate);
            }
            count += 1;
        });
        assert_eq!(count, 120);
    }

    fn permute(order: &mut [usize; 5], n: usize, each: &mut impl FnMut(&[usize; 5])) {
        if n == 1 {
            return each(order);
        }
        for i in 0..n {
            permute(order, n - 1, each);
            order.swap(if n.is_multiple_of(2) { i } else { 0 }, n - 1);
        }
    }

    /// A part of an entry that is cut into so many.
    fn cut(entry: u64, part: u32, parts: u32) -> Message {
        let mut message = message(entry, 0, 0);
        (message.part, message.parts) = (part, parts);
        message
    }

    #[test]
    fn an_entry_that_is_told_again_cut_otherwise_is_known_when_all_of_it_came() {
        let mut t = Tracker::default();
        for part in 0..4 {
            t.see(&cut(1, part, 9));
        }
        for part in 0..8 {
            assert_eq!(t.reached(A).whole(), 0, "{part}");
            assert_eq!(t.see(&cut(1, part, 8)), Seen::New, "{part}");
        }
        assert_eq!(t.reached(A), Position { entry: 1, left: 0 });
        // Where the rest of it goes on after a restart, how it was cut is not known any more.
        let mut t = Tracker::new(BTreeMap::from([(A, Position { entry: 1, left: 5 })]));
        for part in 3..8 {
            t.see(&cut(1, part, 8));
        }
        assert_eq!(t.reached(A).whole(), 0);
        // Parts that came ahead of both.
        let mut t = Tracker::default();
        t.see(&cut(1, 1, 3));
        for part in [1, 0] {
            t.see(&cut(1, part, 2));
        }
        assert_eq!(t.reached(A), Position { entry: 1, left: 0 });
    }

    #[test]
    fn a_gap_is_seen_until_it_is_filled_or_told_anew() {
        let mut t = Tracker::default();
        t.see(&message(9, 5, 0));
        assert_eq!((t.reached(A), t.gaps().count()), (Position::default(), 1));
        t.reach(A, 6);
        assert_eq!((t.reached(A), t.gaps().count()), (Position { entry: 9, left: 0 }, 0));
        t.reach(A, 7);
        assert_eq!(t.reached(A).entry, 9, "never back");
        t.see(&message(5, 2, 1));
        assert_eq!(t.gaps().count(), 0, "long known");
    }
}
