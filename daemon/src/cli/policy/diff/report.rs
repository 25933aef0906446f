//! What a comparison came to: counts by cause and by token, and examples.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::{Value, json};

use super::lines::{Recorded, Skip};
use crate::{
    policy::{Difference, Kind, PolicySet},
    record::{Changed, Redaction},
};

/// Tokens shown to people.
const TOKENS: usize = 20;

/// Differences of one cause.
#[derive(Default)]
struct Group {
    count: u64,
    weight: u64,
    tokens: BTreeSet<String>,
    rules: BTreeSet<String>,
    examples: Vec<Value>,
}

/// The whole.
pub struct Report {
    sets: [(String, bool); 2],
    decided: u64,
    weight: u64,
    unlike_recorded: u64,
    skipped: BTreeMap<Skip, u64>,
    places: BTreeMap<String, u64>,
    groups: BTreeMap<Difference, Group>,
    tokens: BTreeMap<String, BTreeMap<Kind, u64>>,
}

impl Report {
    pub fn new(sets: [&PolicySet; 2]) -> Self {
        Self {
            sets: sets.map(|set| (set.hash().to_owned(), !set.reads().volatile.is_empty())),
            decided: 0,
            weight: 0,
            unlike_recorded: 0,
            skipped: BTreeMap::new(),
            places: BTreeMap::new(),
            groups: BTreeMap::new(),
            tokens: BTreeMap::new(),
        }
    }

    /// A line that was not decided again.
    pub fn skipped(&mut self, why: Skip, places: Vec<String>) {
        *self.skipped.entry(why).or_default() += 1;
        for place in places {
            *self.places.entry(place).or_default() += 1;
        }
    }

    /// One that was.
    pub fn decided(&mut self, recorded: &Recorded, difference: Option<&Difference>) {
        self.decided += 1;
        self.weight += recorded.weight;
        // Where the sets agree the old one's answer is not at hand: it is compared where it matters.
        if let (Some(then), Some(difference)) = (recorded.allow, difference)
            && then != difference.old.allow
        {
            self.unlike_recorded += 1;
        }
    }

    /// A difference; `rules` is asked only for examples.
    pub fn add(
        &mut self,
        recorded: &Recorded,
        difference: Difference,
        answers: [Value; 2],
        examples: usize,
        redaction: &Redaction,
        rules: impl FnOnce() -> Vec<String>,
    ) {
        if let Some(token) = &recorded.token {
            *self.tokens.entry(token.clone()).or_default().entry(difference.kind).or_default() += 1;
        }
        let group = self.groups.entry(difference).or_default();
        group.count += 1;
        group.weight += recorded.weight;
        group.tokens.extend(recorded.token.clone());
        // The rules of the first few say where the sets part.
        if group.count <= 10 {
            group.rules.extend(rules());
        }
        if group.examples.len() < examples {
            let [old, new] = answers;
            let mut example = json!({"input": recorded.input, "old": old, "new": new});
            for member in ["input", "old", "new"] {
                redaction.apply(&mut example[member], &format!("/{member}"), &mut Changed::default());
            }
            group.examples.push(example);
        }
    }

    pub fn has_changes(&self) -> bool {
        !self.groups.is_empty()
    }

    fn count(&self, kind: Kind) -> u64 {
        self.groups.iter().filter(|(d, _)| d.kind == kind).map(|(_, g)| g.count).sum()
    }

    pub fn json(&self) -> Value {
        let skipped: BTreeMap<_, _> = self.skipped.iter().map(|(why, n)| (why.code(), n)).collect();
        let changes: Vec<Value> = self
            .sorted()
            .map(|(d, g)| {
                json!({
                    "kind": d.kind, "old": d.old, "new": d.new, "members": d.members, "count": g.count,
                    "estimated": g.weight, "tokens": g.tokens.len(), "rules": g.rules, "examples": g.examples,
                })
            })
            .collect();
        let tokens: BTreeMap<_, BTreeMap<_, _>> = self
            .tokens
            .iter()
            .map(|(token, kinds)| (token, kinds.iter().map(|(kind, n)| (kind.code(), n)).collect()))
            .collect();
        json!({
            "old": self.sets[0].0, "new": self.sets[1].0,
            "decided": self.decided, "estimated": self.weight,
            "newly_denied": self.count(Kind::NewlyDenied), "newly_allowed": self.count(Kind::NewlyAllowed),
            "changed": self.count(Kind::Changed),
            "unlike_recorded": self.unlike_recorded,
            "not_decided": skipped, "taken_out": self.places,
            "volatile": self.sets.iter().any(|(_, volatile)| *volatile),
            "changes": changes, "tokens": tokens,
        })
    }

    /// The groups, the largest first.
    fn sorted(&self) -> impl Iterator<Item = (&Difference, &Group)> {
        let mut all: Vec<_> = self.groups.iter().collect();
        all.sort_by_key(|(d, g)| (d.kind, std::cmp::Reverse(g.count)));
        all.into_iter()
    }

    pub fn human(&self) -> String {
        let short = |n: usize| self.sets[n].0.get(..12).unwrap_or_default();
        let mut text = format!("{} -> {}: {} decisions made again", short(0), short(1), self.decided);
        if self.weight != self.decided {
            let _ = write!(text, ", which stand for {}", self.weight);
        }
        for kind in Kind::ALL {
            let _ = write!(text, "\n{:<14} {}", kind.code().replace('_', " "), self.count(kind));
        }
        let not: u64 = self.skipped.values().sum();
        if not > 0 {
            let _ = write!(text, "\nnot decided    {not}");
        }
        for (why, n) in &self.skipped {
            let _ = write!(text, "\n  {n} {}", why.describe());
        }
        for (place, n) in &self.places {
            let _ = write!(text, "\n    {place} in {n}");
        }
        if self.unlike_recorded > 0 {
            let _ = write!(
                text,
                "\nnote: in {} of the changes the old set does not decide as was recorded: another set did",
                self.unlike_recorded
            );
        }
        if self.sets.iter().any(|(_, volatile)| *volatile) {
            text.push_str(
                "\nnote: a set reads a clock or randomness beside `input.time`: it was asked as of now",
            );
        }
        for (d, group) in self.sorted() {
            let _ = write!(
                text,
                "\n\n{} × {}: {} -> {}",
                group.count,
                d.kind.code().replace('_', " "),
                d.old,
                d.new
            );
            if d.kind == Kind::Changed {
                let _ = write!(text, "\n  members: {}", d.members.join(", "));
            }
            let _ = write!(text, "\n  tokens: {}", group.tokens.len());
            for rule in &group.rules {
                let _ = write!(text, "\n  rule: {rule}");
            }
            for example in &group.examples {
                let _ = write!(
                    text,
                    "\n  input: {}\n    old: {}\n    new: {}",
                    example["input"], example["old"], example["new"]
                );
            }
        }
        let mut tokens: Vec<_> =
            self.tokens.iter().map(|(t, kinds)| (kinds.values().sum::<u64>(), t, kinds)).collect();
        tokens.sort_by_key(|(n, ..)| std::cmp::Reverse(*n));
        if !tokens.is_empty() {
            let _ = write!(text, "\n\nby token, {} in all:", tokens.len());
        }
        for (_, token, kinds) in tokens.into_iter().take(TOKENS) {
            let kinds: Vec<String> =
                kinds.iter().map(|(k, n)| format!("{n} {}", k.code().replace('_', " "))).collect();
            let _ = write!(text, "\n  {token}  {}", kinds.join(", "));
        }
        text
    }
}
