//! Credentials of NATS: user and password, an nkey's seed, or a `.creds` file with both a JWT and a seed.
//!
//! Files are read for each connection, so that what was renewed is used. Challenges are signed by aws-lc-rs, as all else
//! here.

use std::path::{Path, PathBuf};

use async_nats::Auth;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use crate::fetch::one_line;

/// How this host says who it is.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// File with the seed of an nkey.
    pub nkey_file: Option<PathBuf>,
    /// File with a JWT and the seed of its nkey.
    pub credentials_file: Option<PathBuf>,
    /// User and the file of the password.
    pub user: Option<(String, PathBuf)>,
    /// File with a token.
    pub token_file: Option<PathBuf>,
}

impl Credentials {
    /// Whether there are any.
    pub const fn are_some(&self) -> bool {
        self.nkey_file.is_some()
            || self.credentials_file.is_some()
            || self.user.is_some()
            || self.token_file.is_some()
    }

    /// The answer to a server's challenge.
    pub fn answer(&self, nonce: &[u8]) -> Result<Auth, String> {
        let mut auth = Auth::new();
        let line = |path: &Path| one_line(path, str::trim).map_err(|e| e.to_string());
        if let Some((user, file)) = &self.user {
            auth.username = Some(user.clone());
            auth.password = Some(line(file)?.to_string());
        }
        if let Some(file) = &self.token_file {
            auth.token = Some(line(file)?.to_string());
        }
        if let Some(file) = &self.nkey_file {
            let key = Seed::read(&line(file)?)
                .ok_or_else(|| format!("{} holds no seed of an nkey", file.display()))?;
            auth.nkey = Some(key.public());
            auth.signature = Some(key.sign(nonce));
        }
        if let Some(file) = &self.credentials_file {
            let (jwt, key) = credentials(file)?;
            auth.jwt = Some(jwt);
            auth.signature = Some(key.sign(nonce));
        }
        Ok(auth)
    }
}

/// The JWT and the seed of a file as `nsc` writes it: each between two lines of dashes.
fn credentials(file: &Path) -> Result<(String, Seed), String> {
    use std::os::unix::fs::PermissionsExt as _;

    let unreadable = |e: std::io::Error| format!("{} cannot be read: {e}", file.display());
    if std::fs::metadata(file).map_err(unreadable)?.permissions().mode() & 0o007 != 0 {
        return Err(format!("{} can be read by others: `chmod o= {0}`", file.display()));
    }
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(unreadable)?);
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("---") {
            inside = line.contains("BEGIN");
        } else if inside && !line.is_empty() {
            found.push(line);
        }
    }
    let [jwt, seed] = found[..] else { return Err(format!("{} is no file of credentials", file.display())) };
    let seed = Seed::read(seed).ok_or_else(|| format!("{} holds no seed of an nkey", file.display()))?;
    Ok((jwt.to_owned(), seed))
}

/// An nkey: an Ed25519 key with a checked name.
struct Seed {
    pair: Ed25519KeyPair,
    kind: u8,
}

/// The first byte of a seed, above the three bits that it shares with the key's kind.
const SEED: u8 = 18 << 3;

impl Seed {
    /// Reads the base32 text of a seed.
    fn read(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(unbase32(text)?);
        let (body, sum) = bytes.split_last_chunk::<2>()?;
        if u16::from_le_bytes(*sum) != crc16(body) || body.len() != 34 || body[0] & 0xf8 != SEED {
            return None;
        }
        let kind = (body[0] & 7) << 5 | body[1] >> 3;
        let pair = Ed25519KeyPair::from_seed_unchecked(&body[2..]).ok()?;
        Some(Self { pair, kind })
    }

    /// The public key's text.
    fn public(&self) -> String {
        let mut bytes = vec![self.kind];
        bytes.extend(self.pair.public_key().as_ref());
        let sum = crc16(&bytes);
        bytes.extend(sum.to_le_bytes());
        base32(&bytes)
    }

    fn sign(&self, nonce: &[u8]) -> Vec<u8> {
        self.pair.sign(nonce).as_ref().to_vec()
    }
}

const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn unbase32(text: &str) -> Option<Vec<u8>> {
    let (mut all, mut bits, mut have) = (Vec::new(), 0u32, 0);
    for c in text.bytes() {
        let digit = DIGITS.iter().position(|d| *d == c)?;
        bits = (bits << 5 | u32::try_from(digit).ok()?) & 0xfff;
        have += 5;
        if have >= 8 {
            have -= 8;
            all.push((bits >> have & 0xff) as u8);
        }
    }
    Some(all)
}

fn base32(bytes: &[u8]) -> String {
    let (mut text, mut bits, mut have) = (String::new(), 0u32, 0);
    for b in bytes {
        bits = (bits << 8 | u32::from(*b)) & 0xffff;
        have += 8;
        while have >= 5 {
            have -= 5;
            text.push(char::from(DIGITS[(bits >> have & 31) as usize]));
        }
    }
    if have > 0 {
        text.push(char::from(DIGITS[(bits << (5 - have) & 31) as usize]));
    }
    text
}

/// CRC-16 with the polynomial 0x1021 from 0 (XMODEM), as nkeys use it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, b| {
        (0..8).fold(
            crc ^ u16::from(*b) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_and_the_sum_are_as_others_have_them() {
        // RFC 4648, section 10.
        assert_eq!((base32(b"foobar"), base32(b"fooba")), ("MZXW6YTBOI".into(), "MZXW6YTB".into()));
        assert_eq!(unbase32("MZXW6YTBOI").unwrap(), b"foobar");
        assert_eq!(unbase32("mz"), None);
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_seed_is_read_and_signs_and_no_other_text_is_one() {
        let seed = b"0123456789abcdef0123456789abcdef";
        // A user's.
        let mut bytes = vec![SEED | 0xa0 >> 5, (0xa0 & 0x1f) << 3];
        bytes.extend(seed);
        bytes.extend(crc16(&bytes).to_le_bytes());
        let text = base32(&bytes);
        assert!(text.starts_with("SU"), "{text}");
        let key = Seed::read(&text).unwrap();
        assert!(key.public().starts_with('U') && key.public().len() == 56);
        assert_eq!(key.sign(b"nonce").len(), 64);
        assert!(Seed::read(&text.replace("SU", "SA")).is_none());
        assert!(Seed::read(&key.public()).is_none(), "a public key is no seed");
    }
}
