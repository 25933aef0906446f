//! A snapshot: every claim in force at one entry of the log, in the order of their ids.
//!
//! A page that says whose it is, entries with claims, one with the trailer, and where that stands. Made under another
//! name and renamed when it is durable: one with its right name is whole.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    super::{
        ClaimId,
        foreign::{Fleet, Grave},
    },
    catalog::{Answered, Piece, Place},
    record::{Body, Done, Record, records, snapshot_chain},
};
use crate::journal::{
    Chain, Disk, DiskFile, Entry, Identity, MAX_BODY, PAGE, array, check, read_title, title, verify,
    write_entry,
};

const MAGIC: [u8; 16] = *b"portcullis snap1";
const FOOT_MAGIC: [u8; 8] = *b"snapend\n";
const FOOT: usize = 64;
/// A body of about this size is an entry.
const FULL: usize = 64 << 10;

/// What a snapshot says of itself.
#[derive(Clone, Debug)]
pub struct Head {
    pub identity: Identity,
    /// The log's chain up to which it goes.
    pub chain: Chain,
    pub trailer: Trailer,
    /// Orders that may be repeated.
    pub answered: HashMap<[u8; 16], Answered>,
    /// What is kept of a fleet.
    pub fleet: Fleet,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What follows its claims.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Trailer {
    /// Ids below this one are used up.
    pub next: u64,
    pub policy: Option<(String, u64)>,
    /// Fingerprint keys that have been in force.
    #[serde(default)]
    pub keys: BTreeSet<u32>,
    /// How many tokens the orders of selectors condemned at once.
    #[serde(default)]
    pub condemned: BTreeMap<u64, u64>,
    /// Claims in it.
    pub rows: u64,
    /// Where claims stand: id, offset, and the chain before.
    places: Vec<(u64, u64, u64, [u8; 32])>,
    /// Where orders that may be repeated stand: offset, and the chain before.
    answers: (u64, u64, [u8; 32]),
}

impl Head {
    pub fn name(&self) -> String {
        name(self.chain.seq)
    }
}

fn name(seq: u64) -> String {
    format!("snapshot-{seq:016x}")
}

/// The newest snapshot of a directory. What is left over of others is removed.
pub fn newest(disk: &dyn Disk) -> io::Result<Option<(Head, Piece)>> {
    let mut names: Vec<_> = disk.list()?.into_iter().filter(|n| n.starts_with("snapshot-")).collect();
    names.sort();
    let (fresh, mut whole): (Vec<_>, Vec<_>) =
        names.into_iter().partition(|n| n.strip_suffix(".new").is_some());
    let newest = whole.pop().map(|name| open(disk, &name)).transpose()?;
    for name in fresh.into_iter().chain(whole) {
        disk.remove(&name)?;
    }
    Ok(newest)
}

/// Reads what a snapshot says of itself.
pub fn open(disk: &dyn Disk, name: &str) -> io::Result<(Head, Piece)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {what}"));
    let file = disk.open(name)?;
    let bytes = file.size()?;
    let (identity, chain) =
        read_title(&*file, &MAGIC)?.ok_or_else(|| bad("its first page is not a snapshot's"))?;
    let mut foot = [0; FOOT];
    let at = bytes.checked_sub(FOOT as u64).ok_or_else(|| bad("it is too short"))?;
    file.read_at(&mut foot, at)?;
    if foot[..8] != FOOT_MAGIC || foot[56..] != check(&foot[..56]) {
        return Err(bad("its end is missing or damaged"));
    }
    let end = u64::from_le_bytes(array(&foot[8..16]));
    let before = Chain { seq: u64::from_le_bytes(array(&foot[16..24])), hash: array(&foot[24..56]) };
    let mut trailer = None;
    verify(&*file, end, at, before, FULL as u64, |entry, _| {
        if let Some(Ok(Record::Trailer(json))) = records(entry.body).next() {
            trailer = serde_json::from_slice::<Trailer>(json).ok();
        }
        true
    })
    .map_err(|e| bad(&e.to_string()))?;
    let trailer = trailer.ok_or_else(|| bad("it has no trailer"))?;
    let (from, seq, hash) = trailer.answers;
    let (mut answered, mut fleet) = (HashMap::new(), Fleet::default());
    verify(&*file, from, end, Chain { seq, hash }, FULL as u64, |entry, _| {
        for record in records(entry.body) {
            match record {
                Ok(Record::Answered(key, request, until, ids)) => {
                    let claims = ids.iter().map(ClaimId).collect();
                    answered.insert(key, Answered { request, claims, time: entry.time, until });
                }
                Ok(Record::Graves(graves)) => fleet.graves.extend(
                    // As they are remembered, not as they were lifted.
                    Grave::each(graves).map(|g| (g.name, g.until)),
                ),
                Ok(Record::Reached(origin, to)) => drop(fleet.reached.insert(origin, to)),
                _ => {}
            }
        }
        true
    })
    .map_err(|e| bad(&e.to_string()))?;
    let place = |(id, at, seq, hash): &(u64, u64, u64, [u8; 32])| Place {
        id: *id,
        at: *at,
        before: Chain { seq: *seq, hash: *hash },
    };
    let places = trailer.places.iter().map(place).collect();
    Ok((
        Head { identity, chain, trailer, answered, fleet, bytes },
        Piece { file, first: 0, before: snapshot_chain(chain), places, end },
    ))
}

/// Writes a snapshot.
pub struct Writer<'a> {
    disk: &'a dyn Disk,
    file: Arc<dyn DiskFile>,
    name: String,
    at: u64,
    chain: Chain,
    body: Body,
    first: Option<u64>,
    bytes: Vec<u8>,
    piece: Piece,
    rows: u64,
    time: i64,
}

impl<'a> Writer<'a> {
    pub fn new(disk: &'a dyn Disk, identity: Identity, chain: Chain, time: i64) -> io::Result<Self> {
        let name = name(chain.seq);
        let file = disk.create(&format!("{name}.new"))?;
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or(4096)];
        let title = title(&MAGIC, identity, chain);
        page[..title.len()].copy_from_slice(&title);
        file.write_at(&page, 0)?;
        let chain = snapshot_chain(chain);
        let piece = Piece { file: Arc::clone(&file), first: 0, before: chain, places: Vec::new(), end: PAGE };
        let (body, bytes) = (Body::default(), Vec::new());
        Ok(Self { disk, file, name, at: PAGE, chain, body, first: None, bytes, piece, rows: 0, time })
    }

    /// Adds a claim; ids ascend.
    pub fn add(&mut self, id: u64, row: &[u8], by_selector: bool, done: Done) -> io::Result<()> {
        self.first = self.first.or(Some(id));
        self.body.kept(id, row, by_selector, done);
        self.rows += 1;
        if self.body.0.len() >= FULL { self.entry() } else { Ok(()) }
    }

    fn entry(&mut self) -> io::Result<()> {
        if self.body.0.len() > MAX_BODY {
            return Err(io::Error::other("an entry of it would be too long"));
        }
        let before = self.chain;
        self.bytes.clear();
        self.chain = write_entry(&mut self.bytes, before, self.time, &self.body.0);
        self.file.write_at(&self.bytes, self.at)?;
        if let Some(id) = self.first.take() {
            self.piece.note(Place { id, at: self.at, before });
        }
        self.at += self.bytes.len() as u64;
        self.body.0.clear();
        Ok(())
    }

    /// Ends it: durable under its name when this returns.
    pub fn finish(
        mut self,
        next: u64,
        policy: Option<(String, u64)>,
        keys: BTreeSet<u32>,
        condemned: BTreeMap<u64, u64>,
        answered: &HashMap<[u8; 16], Answered>,
        fleet: &Fleet,
    ) -> io::Result<(Head, Piece)> {
        if !self.body.0.is_empty() {
            self.entry()?;
        }
        let answers = (self.at, self.chain.seq, self.chain.hash);
        let mut all: Vec<_> = answered.iter().collect();
        all.sort_unstable_by_key(|(_, a)| a.time);
        for (key, a) in all {
            // An entry has one time: that of its oldest.
            if self.body.0.is_empty() {
                self.time = a.time;
            }
            self.body.answered(*key, a.request, a.until, a.claims.iter().map(|id| id.0));
            if self.body.0.len() >= FULL {
                self.entry()?;
            }
        }
        let reached: Vec<_> = fleet.reached.iter().map(|(origin, to)| (*origin, *to)).collect();
        self.body.fleet(&[], &[], &reached);
        let graves: Vec<_> =
            fleet.graves.iter().map(|(name, until)| Grave { name: *name, until: *until }).collect();
        for some in graves.chunks(FULL / 32) {
            self.body.fleet(&[], some, &[]);
            self.entry()?;
        }
        if !self.body.0.is_empty() {
            self.entry()?;
        }
        self.piece.end = self.at;
        let place = |p: &Place| (p.id, p.at, p.before.seq, p.before.hash);
        let trailer = Trailer {
            next,
            policy,
            keys,
            condemned,
            rows: self.rows,
            places: self.piece.places.iter().map(place).collect(),
            answers,
        };
        let (at, before) = (self.at, self.chain);
        self.body.trailer(&serde_json::to_vec(&trailer)?);
        self.entry()?;
        let mut foot = [0; FOOT];
        foot[..8].copy_from_slice(&FOOT_MAGIC);
        foot[8..16].copy_from_slice(&at.to_le_bytes());
        foot[16..24].copy_from_slice(&before.seq.to_le_bytes());
        foot[24..56].copy_from_slice(&before.hash);
        let sum = check(&foot[..56]);
        foot[56..].copy_from_slice(&sum);
        self.file.write_at(&foot, self.at)?;
        self.file.sync()?;
        // Read before it has its name: what has it must be whole.
        let fresh = format!("{}.new", self.name);
        let made = open(self.disk, &fresh)?;
        self.disk.rename(&fresh, &self.name)?;
        self.disk.sync()?;
        Ok(made)
    }
}

/// Reads every claim of a snapshot.
pub fn each(
    head: &Head,
    piece: &Piece,
    mut take: impl FnMut(u64, &[u8], bool, Done) -> io::Result<()>,
) -> io::Result<()> {
    let mut result = Ok(());
    let all = |entry: &Entry<'_>, _| {
        for record in records(entry.body) {
            if let Ok(Record::Kept { id, row, by_selector, done }) = record
                && result.is_ok()
            {
                result = take(id, row, by_selector, done);
            }
        }
        result.is_ok()
    };
    verify(&*piece.file, PAGE, piece.end, snapshot_chain(head.chain), 1 << 20, all)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
    result
}
