//! Counters of each guarded interface and port.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, MapData, PerCpuArray};
use portcullis_common::{
    layout::{INTERFACE_SLOTS, PLACE_SLOTS},
    reason::{SIGHTS, Sight},
};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::KernelError;

/// What was counted at one interface and port since the programs in force were loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The interface; several where their numbers share a slot; `other` for what has no slot of its own.
    pub interface: String,
    /// The port; `None` for those that have no slot of their own.
    pub port: Option<u16>,
    /// Its counters.
    #[serde(flatten)]
    pub sights: Sights,
}

impl Place {
    /// Adds what a second guard refused of what the first one let through.
    pub fn add_refusals(places: &mut [Self], beside: &[Self]) {
        const ADDED: [Sight; 3] = [Sight::RefusedRevoked, Sight::RefusedCondemned, Sight::RefusedLimited];
        for other in beside {
            let same = |p: &&mut Self| p.interface == other.interface && p.port == other.port;
            let Some(place) = places.iter_mut().find(same) else { continue };
            for sight in ADDED {
                if let Some(n) = place.sights.0.get_mut(sight as usize) {
                    *n += other.sights.get(sight);
                }
            }
        }
    }
}

/// One number per [`Sight`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sights([u64; SIGHTS as usize]);

impl Sights {
    /// One of them.
    pub fn get(&self, sight: Sight) -> u64 {
        self.0.get(sight as usize).copied().unwrap_or(0)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Sight, u64)> + '_ {
        Sight::ALL.iter().map(|s| (*s, self.get(*s)))
    }
}

impl Serialize for Sights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (sight, n) in self.iter() {
            map.serialize_entry(sight.code(), &n)?;
        }
        map.end()
    }
}

/// The counters and whose they are.
pub(super) struct Places {
    interfaces: Array<MapData, u32>,
    counters: PerCpuArray<MapData, [u64; SIGHTS as usize]>,
    /// By slot: the interfaces that are counted there, and their numbers. Slot 0 is for all others.
    names: Vec<Vec<(u32, String)>>,
    /// By slot, likewise.
    ports: Vec<Option<u16>>,
}

/// A shared reader of them, which follows the programs in force.
#[derive(Clone, Default)]
pub struct PlacesView(Arc<Mutex<Option<Places>>>);

impl PlacesView {
    /// What was counted so far; nothing before the programs are loaded.
    pub fn read(&self) -> Result<Vec<Place>, KernelError> {
        self.inner().as_ref().map_or_else(|| Ok(Vec::new()), Places::read)
    }

    pub(super) fn put(&self, places: Option<Places>) {
        *self.inner() = places;
    }

    pub(super) fn take(&self) -> Option<Places> {
        self.inner().take()
    }

    /// Counts an interface by itself from now on.
    pub(super) fn add(&self, index: u32, label: &str) -> Result<(), KernelError> {
        self.inner().as_mut().map_or(Ok(()), |places| places.add(index, label))
    }

    fn inner(&self) -> MutexGuard<'_, Option<Places>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    pub(super) fn new(
        interfaces: Array<MapData, u32>,
        counters: PerCpuArray<MapData, [u64; SIGHTS as usize]>,
        ports: Vec<Option<u16>>,
    ) -> Self {
        Self { interfaces, counters, names: vec![Vec::new()], ports }
    }

    /// Counts an interface by itself from now on, as far as there are slots.
    fn add(&mut self, index: u32, label: &str) -> Result<(), KernelError> {
        let place = index & (INTERFACE_SLOTS - 1);
        let same = |(i, _): &(u32, String)| i & (INTERFACE_SLOTS - 1) == place;
        // The same number in another namespace, or another with the same low bits: they are counted together.
        let mut slot = self.names.iter().position(|names| names.iter().any(same));
        // One that went away and came back under another number keeps its counters.
        slot = slot.or_else(|| self.names.iter().position(|names| names.iter().any(|(_, l)| l == label)));
        let slot = match slot {
            Some(slot) => slot,
            None if self.names.len() < PLACE_SLOTS as usize => {
                self.names.push(Vec::new());
                self.names.len() - 1
            }
            None => 0,
        };
        if let Some(names) = self.names.get_mut(slot).filter(|_| slot != 0) {
            names.retain(|(_, l)| l != label);
            names.push((index, label.to_owned()));
        }
        let slot = u32::try_from(slot).unwrap_or(0);
        self.interfaces.set(place, slot, 0).map_err(|e| KernelError::map("count by interface", e))
    }

    /// What was counted, places where nothing came left out.
    fn read(&self) -> Result<Vec<Place>, KernelError> {
        let mut found = Vec::new();
        for (i, names) in (0u32..).zip(&self.names) {
            for (j, port) in (0u32..).zip(&self.ports) {
                let per_cpu = self
                    .counters
                    .get(&(i * PLACE_SLOTS + j), 0)
                    .map_err(|e| KernelError::map("read the counters by interface and port", e))?;
                let mut sights = Sights::default();
                for (at, sum) in sights.0.iter_mut().enumerate() {
                    *sum = per_cpu.iter().filter_map(|c| c.get(at)).sum();
                }
                if sights == Sights::default() && (names.is_empty() || port.is_none()) {
                    continue;
                }
                let labels: Vec<&str> = names.iter().map(|(_, l)| l.as_str()).collect();
                let interface = if names.is_empty() { "other".to_owned() } else { labels.join(", ") };
                found.push(Place { interface, port: *port, sights });
            }
        }
        Ok(found)
    }
}
