//! Where an address is, as MaxMind DB files have it (`GeoLite2` and others of the format): country, network and the like.
//!
//! Guarantees: a file is read whole and checked before it counts; one that is replaced by a bad one stays as it was;
//! an address that is in no file has nothing said of it. Knows addresses; no requests, policies or tokens.

use std::{
    fs, io,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use maxminddb::{MaxMindDbError, Reader};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Longest file, in bytes: twice the largest that are known.
const MAX_BYTES: u64 = 1 << 30;

/// Why a file is not used.
#[derive(Debug, Error)]
pub enum GeoError {
    /// It cannot be read.
    #[error("the geo database `{path}` cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is no such database, or a damaged one.
    #[error("`{path}` is no good MaxMind DB: {message}; fetch it anew")]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// The databases in use.
pub struct Geo {
    files: Vec<PathBuf>,
    databases: ArcSwap<Vec<Database>>,
    version: AtomicU64,
}

/// One that was read. It is not copied when another file of the set is read anew.
struct Database {
    reader: std::sync::Arc<Reader<Vec<u8>>>,
    stamp: Stamp,
}

/// What tells one state of a file from the next.
type Stamp = (Option<SystemTime>, u64);

/// What is taken of an entry, from whichever database has it.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    continent: Option<Coded<'a>>,
    #[serde(borrow)]
    country: Option<Coded<'a>>,
    #[serde(borrow)]
    subdivisions: Option<Vec<Coded<'a>>>,
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<&'a str>,
}

#[derive(Deserialize)]
struct Coded<'a> {
    code: Option<&'a str>,
    iso_code: Option<&'a str>,
}

/// What is known of an address.
#[derive(Default, Serialize)]
struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    continent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subdivision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<String>,
}

impl Geo {
    /// Reads the files. Blocks.
    pub fn open(files: Vec<PathBuf>) -> Result<Self, GeoError> {
        let databases = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { files, databases: ArcSwap::from_pointee(databases), version: AtomicU64::new(1) })
    }

    /// Reads those anew that are other files now; whether there were any. Blocks. After an error all stay as they were.
    pub fn refresh(&self) -> Result<bool, GeoError> {
        let (before, mut any) = (self.databases.load_full(), false);
        let mut after = Vec::with_capacity(self.files.len());
        for (path, database) in self.files.iter().zip(before.iter()) {
            if stamp(path)? == database.stamp {
                after.push(Database { reader: database.reader.clone(), stamp: database.stamp });
            } else {
                any = true;
                after.push(read(path)?);
            }
        }
        if any {
            self.databases.store(after.into());
            self.version.fetch_add(1, Ordering::Release);
        }
        Ok(any)
    }

    /// Grows with each change: what was found before may be another thing now.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What is known of an address: an object, empty where it is in no database, or is none.
    pub fn find(&self, address: &str) -> Value {
        let mut place = Place::default();
        if let Ok(address) = address.parse::<IpAddr>() {
            for database in self.databases.load().iter() {
                // Verified when it was read; what cannot be decoded is of another kind, and says nothing here.
                let entry = database.reader.lookup(address.to_canonical()).and_then(|found| found.decode());
                if let Ok(Some(entry)) = entry {
                    place.take(&entry);
                }
            }
        }
        serde_json::to_value(place).unwrap_or_else(|_| Value::Object(serde_json::Map::new()))
    }

    /// When each was built (seconds since 1970), by file.
    pub fn built(&self) -> Vec<(PathBuf, u64)> {
        let built = |d: &Database| d.reader.metadata().build_epoch;
        self.files.iter().cloned().zip(self.databases.load().iter().map(built)).collect()
    }
}

impl Place {
    /// What an earlier database said stands.
    fn take(&mut self, entry: &Entry<'_>) {
        fn fill(at: &mut Option<String>, text: Option<&str>) {
            if at.is_none() {
                *at = text.map(str::to_owned);
            }
        }
        fill(&mut self.continent, entry.continent.as_ref().and_then(|c| c.code));
        fill(&mut self.country, entry.country.as_ref().and_then(|c| c.iso_code));
        let largest = entry.subdivisions.as_ref().and_then(|all| all.first());
        fill(&mut self.subdivision, largest.and_then(|s| s.iso_code));
        self.asn = self.asn.or(entry.autonomous_system_number);
        fill(&mut self.organization, entry.autonomous_system_organization);
    }
}

fn stamp(path: &PathBuf) -> Result<Stamp, GeoError> {
    let meta = fs::metadata(path).map_err(|source| GeoError::Read { path: path.clone(), source })?;
    Ok((meta.modified().ok(), meta.len()))
}

fn read(path: &PathBuf) -> Result<Database, GeoError> {
    // Before the content: a file that is replaced meanwhile is read again.
    let stamp = stamp(path)?;
    let unreadable = |source| GeoError::Read { path: path.clone(), source };
    if stamp.1 > MAX_BYTES {
        return Err(unreadable(io::Error::other("it is larger than a gigabyte")));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let bad = |e: MaxMindDbError| GeoError::Bad { path: path.clone(), message: e.to_string() };
    let reader = Reader::from_source(bytes).map_err(bad)?;
    reader.verify().map_err(bad)?;
    Ok(Database { reader: reader.into(), stamp })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A database of IPv4 networks, written as the format's specification has it (24-bit records).
    pub(crate) fn database(entries: &[(&str, Value)]) -> Vec<u8> {
        // A node's two records: another node, an entry, or nothing.
        #[derive(Clone, Copy)]
        enum To {
            Nothing,
            Node(usize),
            Data(usize),
        }
        let (mut nodes, mut data) = (vec![[To::Nothing; 2]], Vec::new());
        for (network, value) in entries {
            let (address, length) = network.split_once('/').unwrap();
            let bits = u32::from(address.parse::<std::net::Ipv4Addr>().unwrap());
            let length: u32 = length.parse().unwrap();
            let mut at = 0;
            for n in 0..length {
                let side = (bits >> (31 - n) & 1) as usize;
                if n + 1 == length {
                    nodes[at][side] = To::Data(data.len());
                } else if let To::Node(next) = nodes[at][side] {
                    at = next;
                } else {
                    nodes.push([To::Nothing; 2]);
                    nodes[at][side] = To::Node(nodes.len() - 1);
                    at = nodes.len() - 1;
                }
            }
            encode(value, &mut data);
        }
        let mut file = Vec::new();
        for record in nodes.iter().flatten() {
            let value = match record {
                To::Nothing => nodes.len(),
                To::Node(n) => *n,
                To::Data(offset) => nodes.len() + 16 + offset,
            };
            file.extend(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
        }
        file.extend([0; 16]);
        file.extend(data);
        file.extend(b"\xab\xcd\xefMaxMind.com");
        let metadata = json!({
            "binary_format_major_version": 2, "binary_format_minor_version": 0, "build_epoch": 1_700_000_000_u64,
            "database_type": "Test", "description": {"en": "Test"}, "ip_version": 4, "languages": ["en"],
            "node_count": nodes.len(), "record_size": 24,
        });
        encode(&metadata, &mut file);
        file
    }

    fn encode(value: &Value, out: &mut Vec<u8>) {
        let head = |kind: u8, size: usize, out: &mut Vec<u8>| {
            assert!(size < 285);
            let (short, extra) = if size < 29 { (size, None) } else { (29, Some(size - 29)) };
            let short = u8::try_from(short).unwrap();
            if kind < 8 {
                out.push(kind << 5 | short);
            } else {
                out.extend([short, kind - 7]);
            }
            out.extend(extra.map(|n| u8::try_from(n).unwrap()));
        };
        match value {
            Value::Object(members) => {
                head(7, members.len(), out);
                for (name, value) in members {
                    encode(&json!(name), out);
                    let begun = out.len();
                    encode(value, out);
                    // These have 16 bits.
                    if name.ends_with("version") || name == "record_size" {
                        out[begun] = 5 << 5 | (out[begun] & 31);
                    }
                }
            }
            Value::Array(items) => {
                head(11, items.len(), out);
                for item in items {
                    encode(item, out);
                }
            }
            Value::String(text) => {
                head(2, text.len(), out);
                out.extend(text.as_bytes());
            }
            Value::Number(n) => {
                let bytes = n.as_u64().unwrap().to_be_bytes();
                // The metadata's build time has 64 bits, the rest 32; leading zeros are left out.
                let from = bytes.iter().position(|b| *b != 0).unwrap_or(8);
                let (kind, most) = if n.as_u64() > Some(1 << 30) { (9, 8) } else { (6, 4) };
                assert!(8 - from <= most);
                head(kind, 8 - from, out);
                out.extend(&bytes[from..]);
            }
            other => panic!("{other}"),
        }
    }

    fn countries() -> Vec<u8> {
        let of = |country: &str, continent: &str| json!({"country": {"iso_code": country}, "continent": {"code": continent}});
        let mut berlin = of("DE", "EU");
        berlin["subdivisions"] = json!([{"iso_code": "BE"}]);
        database(&[("192.0.2.0/25", berlin), ("198.51.100.0/24", of("US", "NA"))])
    }

    #[test]
    fn an_address_is_looked_up_in_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("country.mmdb"), dir.path().join("asn.mmdb"));
        fs::write(&a, countries()).unwrap();
        let network = json!({"autonomous_system_number": 64500, "autonomous_system_organization": "Example"});
        fs::write(&b, database(&[("192.0.2.0/24", network)])).unwrap();
        let geo = Geo::open(vec![a, b]).unwrap();
        let berlin = json!({"country": "DE", "continent": "EU", "subdivision": "BE", "asn": 64500, "organization": "Example"});
        assert_eq!(geo.find("192.0.2.7"), berlin);
        assert_eq!(geo.find("::ffff:192.0.2.7"), berlin);
        assert_eq!(geo.find("192.0.2.200"), json!({"asn": 64500, "organization": "Example"}));
        assert_eq!(geo.find("198.51.100.1"), json!({"country": "US", "continent": "NA"}));
        for nowhere in ["203.0.113.1", "2001:db8::1", "", "x", "192.0.2.7:80"] {
            assert_eq!(geo.find(nowhere), json!({}), "{nowhere}");
        }
        assert_eq!(geo.built()[0].1, 1_700_000_000);
    }

    #[test]
    fn a_new_file_counts_and_a_bad_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("country.mmdb");
        let put = |bytes: &[u8]| {
            fs::write(dir.path().join("new"), bytes).unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
        };
        put(&countries());
        let geo = Geo::open(vec![path.clone()]).unwrap();
        assert!(!geo.refresh().unwrap());
        for bad in [&b"no database"[..], &countries()[..200], &[]] {
            put(bad);
            assert!(matches!(geo.refresh(), Err(GeoError::Bad { .. })), "{}", bad.len());
            assert_eq!((geo.version(), &geo.find("192.0.2.7")["country"]), (1, &json!("DE")));
        }
        put(&database(&[("192.0.2.0/24", json!({"country": {"iso_code": "FR"}}))]));
        assert!(geo.refresh().unwrap());
        assert_eq!((geo.version(), geo.find("192.0.2.7")), (2, json!({"country": "FR"})));
        fs::remove_file(&path).unwrap();
        assert!(matches!(geo.refresh(), Err(GeoError::Read { .. })));
        assert!(Geo::open(vec![path]).is_err());
    }
}
