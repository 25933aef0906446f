//! A second guard beside the first, while two fingerprint keys are in force.
//!
//! The programs hash tokens under one key. So each key has a guard of its own: the same programs with settings, maps and
//! pins of their own, one behind the other at every interface; what either refuses is refused. All entries of the deny map
//! stand in both, for a fingerprint under the other's key is met by no token. The first guard alone asks the daemon, keeps
//! rates, sheds floods and is counted; the second one refuses, and its refusals are counted too.
//!
//! A guard stays where it is pinned when the keys change places: it knows its connections, and goes on without a gap.

use std::{
    collections::{BTreeSet, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use portcullis_common::{fingerprint::DenyFingerprint, layout::DenyValue};

use super::{
    DenyMap, EventSource, Gate, GuardedView, Kernel, KernelError, PlacesView, Settings, ShedSettings,
    Unknown,
    attach::{self, Side},
    links::{links, matches},
    netns, pins,
};

/// Where the guard of a second key is pinned, below the first one's.
pub(super) const BESIDE: &str = "beside";

/// Where each key's guard is pinned.
struct Homes {
    own: PathBuf,
    other: Option<PathBuf>,
}

/// Finds each key's place: the one where its maps are, else a free one. The places of keys that are not in force any more
/// are cleared.
fn homes(s: &Settings) -> Result<Homes, KernelError> {
    let places = places(s);
    let other = s.other.map(|(_, id)| id);
    let mut free = Vec::new();
    let (mut own_home, mut other_home) = (None, None);
    for place in places {
        match pins::key_of(&place)? {
            Some(id) if id == s.key_id => own_home = Some(place),
            Some(id) if Some(id) == other => other_home = Some(place),
            Some(id) if s.former.contains(&id) => {
                clear(&place, s)?;
                tracing::info!(
                    key = format!("{id:08x}"),
                    "guard of a fingerprint key that is in force no more was taken away"
                );
                free.push(place);
            }
            Some(found) => {
                return Err(KernelError::KeyMismatch { path: place, found, expected: s.key_id });
            }
            None => free.push(place),
        }
    }
    let mut free = free.into_iter();
    let own = own_home.or_else(|| free.next());
    let other = other.and_then(|_| other_home.or_else(|| free.next()));
    Ok(Homes { own: own.unwrap_or_else(|| s.pin_dir.clone()), other })
}

fn places(s: &Settings) -> [PathBuf; 2] {
    [s.pin_dir.clone(), s.pin_dir.join(BESIDE)]
}

/// Takes away all that is pinned in a place, and what is attached without a pin.
fn clear(place: &Path, s: &Settings) -> Result<(), KernelError> {
    for pattern in &s.interfaces {
        // Where a namespace is gone, so is all that was in it.
        let _ = netns::within(pattern.namespace.as_ref(), || {
            for link in links().unwrap_or_default().iter().filter(|l| matches(&pattern.name, &l.name)) {
                attach::detach_filter(&link.name, Side::In, place);
                attach::detach_filter(&link.name, Side::Out, place);
            }
        });
    }
    let mut all = pins::list(place)?;
    all.retain(|p| !p.ends_with(BESIDE));
    // Links first: a program must not outlive its map of condemned tokens.
    all.sort_by_key(|p| !pins::is_link(p));
    all.iter().try_for_each(|p| pins::remove(p))?;
    if place.ends_with(BESIDE) {
        // Where something else is in it, it stays.
        let _ = std::fs::remove_dir(place);
    }
    Ok(())
}

/// The same settings for the second guard.
fn second(s: &Settings, pin_dir: PathBuf) -> Option<Settings> {
    let (key, key_id) = s.other?;
    // Where gate reads in guard's place, it does so for either key; as a second door there is one.
    let gate = if s.gate == Gate::Read { Gate::Read } else { Gate::Off };
    let unknown = Unknown::Pass;
    Some(Settings { pin_dir, key, key_id, gate, unknown, shed: ShedSettings::off(), ..s.clone() })
}

impl Kernel {
    /// Loads the programs and fills their settings, once for each key in force; nothing is attached yet, so that the deny
    /// map can be filled before the first packet is judged.
    pub fn load(settings: Settings) -> Result<Self, KernelError> {
        let mut kernel = Self::prepare(settings)?;
        kernel.finish()?;
        Ok(kernel)
    }

    /// What [`Self::load`] does, but that [`Self::finish`] is to follow. Takes as long as the kernel's verifier does. What is
    /// in force of an earlier daemon is left as it is, unless [`Self::changes_guards`].
    pub fn prepare(settings: Settings) -> Result<Self, KernelError> {
        if Self::is_absent() {
            return Err(KernelError::NotBuilt);
        }
        pins::prepare_root(&settings.pin_dir)?;
        let homes = homes(&settings)?;
        let beside = homes.other.and_then(|home| second(&settings, home));
        let beside = beside.map(Self::load_one).transpose()?.map(Box::new);
        let mut own = Self::load_one(Settings { pin_dir: homes.own, ..settings })?;
        own.adopted |= beside.as_ref().is_some_and(|b| b.adopted);
        own.beside = beside;
        Ok(own)
    }

    /// Whether loading takes a guard away that is there, or puts one beside it: whether other keys are in force now.
    pub fn changes_guards(settings: &Settings) -> bool {
        let Ok(found) = places(settings).iter().map(|p| pins::key_of(p)).collect::<Result<Vec<_>, _>>()
        else {
            return true;
        };
        let found: BTreeSet<u32> = found.into_iter().flatten().collect();
        let in_force = settings.other.map(|(_, id)| id).into_iter().chain([settings.key_id]);
        !found.is_empty() && found != in_force.collect()
    }

    /// Has the programs call each other.
    pub fn finish(&mut self) -> Result<(), KernelError> {
        self.both(Self::join_programs)
    }

    /// Does something with each guard, the second one first; all of it, whatever fails.
    fn both(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let first = self.beside.as_mut().map_or(Ok(()), |b| work(b));
        let second = work(self);
        first.and(second)
    }

    /// Puts or replaces entries of the deny map; in force when this returns. After an error some of them may be.
    pub fn refuse(&mut self, entries: &[(DenyFingerprint, DenyValue)]) -> Result<(), KernelError> {
        self.both(|k| k.deny.put_all(entries))
    }

    /// Takes entries out; those that are not there are no error.
    pub fn release(&mut self, tokens: &[DenyFingerprint]) -> Result<(), KernelError> {
        self.both(|k| k.deny.remove_all(tokens))
    }

    /// Hands out every entry in force, some of them twice.
    pub fn each_refused(
        &mut self,
        mut take: impl FnMut(DenyFingerprint, DenyValue),
    ) -> Result<(), KernelError> {
        self.both(|k| k.deny.each(&mut take))
    }

    /// Has deny maps that are not of the size that is wanted made anew beside those in force, to be filled by
    /// [`Self::fill`]; all of them, where that is asked for.
    pub fn resize(&mut self, all: bool) -> Result<(), KernelError> {
        self.both(|k| {
            let (from, to) = (k.deny.capacity(), k.deny.wanted());
            if from != to {
                tracing::info!(from, to, "the deny map is made anew, with another size");
            }
            if from != to || all { k.deny.begin() } else { Ok(()) }
        })
    }

    /// Its deny maps, to be filled by [`DenyMap::fill`], which several threads may.
    pub fn maps(&self) -> Vec<&DenyMap> {
        [&self.deny].into_iter().chain(self.beside.as_ref().map(|b| &b.deny)).collect()
    }

    /// Puts entries that are in force into the maps that are made anew, and into others as ever.
    pub fn fill(&mut self, entries: &[(DenyFingerprint, DenyValue)]) -> Result<(), KernelError> {
        self.maps().into_iter().try_for_each(|map| map.fill(entries))
    }

    /// Puts what was made anew in force: the first guard's before the second one's, for a token that has two names is
    /// refused by the first.
    pub fn swap(&mut self) -> Result<(), KernelError> {
        let own = self.deny.swap();
        own.and(self.beside.as_mut().map_or(Ok(()), |b| b.deny.swap()))
    }

    /// Forgets what was being made anew.
    pub fn give_up(&mut self) {
        let _ = self.both(|k| {
            k.deny.give_up();
            Ok(())
        });
    }

    /// Makes a policy generation the active one: condemnations of all others lapse at once.
    pub fn set_generation(&mut self, generation: u64) -> Result<(), KernelError> {
        self.both(|k| k.set_own_generation(generation))
    }

    /// Ends the connections on which a request with one of these tokens, which the deny map has by now, is under way:
    /// those that speak at their next packet, silent ones soon.
    pub fn end_connections(&mut self, tokens: &[DenyFingerprint]) -> Result<(), KernelError> {
        self.both(|k| k.end_own_connections(tokens.to_vec()))
    }

    /// Looks for connections that were there before guard, and has it read their segments by themselves, or ends
    /// them, as configured. To be called before guard is attached, so that none is taken for a broken one, and after,
    /// so that none is missed.
    pub fn look_for_older(&mut self) -> Result<(), KernelError> {
        self.both(Self::look_for_own_older)
    }

    /// Attaches to every configured interface, in place of an earlier daemon's programs, detaches from those that
    /// are no longer configured, and removes what was replaced.
    pub fn attach(&mut self) -> Result<(), KernelError> {
        // The second one first: it lets go of what the first one alone does. It is left where it fails.
        if let Some(beside) = &mut self.beside {
            beside.attach_own()?;
        }
        self.attach_own()
    }

    /// Attaches to interfaces that appeared, and forgets those that are gone; tells whether anything changed.
    pub fn follow_interfaces(&mut self) -> Result<bool, KernelError> {
        let beside = self.beside.as_mut().map_or(Ok(false), |b| b.follow_own_interfaces());
        let own = self.follow_own_interfaces();
        beside.and_then(|beside| own.map(|own| own || beside))
    }

    /// Has the connections counted that would end with these tokens; `None` where the kernel keeps no state of them.
    pub fn count_connections(
        &self,
        tokens: HashSet<DenyFingerprint>,
        tell: Box<dyn FnOnce(Option<usize>) + Send>,
    ) {
        let Some(beside) = &self.beside else { return self.count_own_connections(tokens, tell) };
        // Each counts those that it sees a token of, and a token has one name here. Who is done last tells.
        let sum = Arc::new(Mutex::new((Some(0), 2, Some(tell))));
        for kernel in [beside, self] {
            let sum = Arc::clone(&sum);
            let add = move |n: Option<usize>| {
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                sum.0 = sum.0.zip(n).map(|(a, b)| a + b);
                sum.1 -= 1;
                if sum.1 == 0
                    && let Some(tell) = sum.2.take()
                {
                    tell(sum.0);
                }
            };
            kernel.count_own_connections(tokens.clone(), Box::new(add));
        }
    }

    /// The second guard's events, where there is one.
    pub fn events_beside(&mut self) -> Result<Option<EventSource>, KernelError> {
        self.beside.as_mut().map(|b| b.events()).transpose()
    }

    /// How the second guard stands.
    pub fn guarded_beside(&self) -> Option<GuardedView> {
        self.beside.as_ref().map(|b| b.guarded())
    }

    /// The second guard's counters by place.
    pub fn places_beside(&self) -> Option<PlacesView> {
        self.beside.as_ref().map(|b| b.places())
    }
}
