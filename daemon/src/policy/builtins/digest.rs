//! `crypto.*` digests and MACs, in hexadecimal as OPA gives them.

use aws_lc_rs::{constant_time, digest, hmac};
use regorus::Value;

use super::{Answer, args::text};
use crate::hex::encode as hex;

fn hashed(algorithm: &'static digest::Algorithm, args: &[Value]) -> Answer {
    Ok(Value::from(hex(digest::digest(algorithm, text(args, 0)?.as_bytes()).as_ref())))
}

fn mac(algorithm: hmac::Algorithm, args: &[Value]) -> Answer {
    let (message, key) = (text(args, 0)?, text(args, 1)?);
    let key = hmac::Key::new(algorithm, key.as_bytes());
    Ok(Value::from(hex(hmac::sign(&key, message.as_bytes()).as_ref())))
}

/// `crypto.md5(text)`
pub fn md5(args: &[Value]) -> Answer {
    Ok(Value::from(hex(&md5_of(text(args, 0)?.as_bytes()))))
}

/// `crypto.sha1(text)`
pub fn sha1(args: &[Value]) -> Answer {
    hashed(&digest::SHA1_FOR_LEGACY_USE_ONLY, args)
}

/// `crypto.sha256(text)`
pub fn sha256(args: &[Value]) -> Answer {
    hashed(&digest::SHA256, args)
}

/// `crypto.hmac.md5(text, key)`
pub fn hmac_md5(args: &[Value]) -> Answer {
    const BLOCK: usize = 64;
    let (message, key) = (text(args, 0)?, text(args, 1)?);
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..16].copy_from_slice(&md5_of(key.as_bytes()));
    } else {
        block[..key.len()].copy_from_slice(key.as_bytes());
    }
    let inner = md5_of(&[&block.map(|b| b ^ 0x36)[..], message.as_bytes()].concat());
    Ok(Value::from(hex(&md5_of(&[&block.map(|b| b ^ 0x5c)[..], &inner[..]].concat()))))
}

/// `crypto.hmac.sha1(text, key)`
pub fn hmac_sha1(args: &[Value]) -> Answer {
    mac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, args)
}

/// `crypto.hmac.sha256(text, key)`
pub fn hmac_sha256(args: &[Value]) -> Answer {
    mac(hmac::HMAC_SHA256, args)
}

/// `crypto.hmac.sha512(text, key)`
pub fn hmac_sha512(args: &[Value]) -> Answer {
    mac(hmac::HMAC_SHA512, args)
}

/// `crypto.hmac.equal(mac1, mac2)`
pub fn hmac_equal(args: &[Value]) -> Answer {
    let (a, b) = (text(args, 0)?, text(args, 1)?);
    Ok(Value::from(constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()))
}

/// MD5 (RFC 1321). The crypto backend has none, for good reason; policies compare old checksums with it.
fn md5_of(message: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64) + if padded.len() % 64 > 56 { 64 } else { 0 }, 0);
    let length = (message.len() as u64).wrapping_mul(8).to_le_bytes();
    let at = padded.len() - 8;
    padded[at..].copy_from_slice(&length);
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.as_chunks::<64>().0 {
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        let [mut a, mut b, mut c, mut d] = state;
        for i in 0..64_usize {
            let (mixed, word) = match i / 16 {
                0 => ((b & c) | (!b & d), i),
                1 => ((d & b) | (!d & c), 5 * i + 1),
                2 => (b ^ c ^ d, 3 * i + 5),
                _ => (c ^ (b | !d), 7 * i),
            };
            // The table of RFC 1321 §3.4: the integer part of 2^32 |sin(i + 1)|.
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "it is below 2^32 and positive"
            )]
            let constant = (((i + 1) as f64).sin().abs() * 4_294_967_296.0) as u32;
            let sum = a.wrapping_add(mixed).wrapping_add(constant).wrapping_add(words[word % 16]);
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(SHIFTS[i / 16][i % 4]));
        }
        for (s, v) in state.iter_mut().zip([a, b, c, d]) {
            *s = s.wrapping_add(v);
        }
    }
    let mut out = [0; 16];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_that_of_rfc_1321() {
        for (text, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57edf4a22be3c955ac49da2e2107b67a",
            ),
            (
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
                "d174ab98d277d9f5a5611c2c9f419d9f",
            ),
        ] {
            assert_eq!(hex(&md5_of(text.as_bytes())), digest, "{text}");
        }
        // RFC 2202, case 2.
        let mac = hmac_md5(&[Value::from("what do ya want for nothing?"), Value::from("Jefe")]).unwrap();
        assert_eq!(mac, Value::from("750c783e6ab0b503eaa86e310a5db738"));
    }
}
