//! Certificates for tests of TLS.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Result, ensure};

use crate::dir::Dir;

/// Certificates by openssl: an authority, and others' that nobody asked for.
#[derive(Debug)]
pub struct Pki<'a>(pub &'a Dir);

impl Pki<'_> {
    fn openssl(&self, args: &[&str]) -> Result<()> {
        let made = Command::new("openssl").args(args).current_dir(self.0.path("")).output()?;
        ensure!(made.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    }

    /// An authority's certificate and key, `name.pem` and `name.key`.
    pub fn authority(&self, name: &str) -> Result<()> {
        let (key, pem, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let this = ["req", "-x509", "-days", "2", "-subj", &subject, "-keyout", &key, "-out", &pem];
        self.openssl(&[&this[..], &curve].concat())
    }

    /// A certificate of an authority's, under `name`.
    pub fn certificate(&self, name: &str, authority: &str) -> Result<()> {
        self.certificate_for(name, authority, "IP:127.0.0.1")
    }

    /// The same for other addresses, as openssl writes them.
    pub fn certificate_for(&self, name: &str, authority: &str, addresses: &str) -> Result<()> {
        let file = |ending: &str| format!("{name}.{ending}");
        let (key, request, pem) = (file("key"), file("csr"), file("pem"));
        let subject = format!("/CN={name}");
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        self.openssl(&[&["req", "-subj", &subject, "-keyout", &key, "-out", &request][..], &curve].concat())?;
        self.0.write("san.ext", &format!("subjectAltName = {addresses}\n"))?;
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
        let new = format!("{name}.new");
        let sign =
            ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        self.openssl(&[&sign[..], &["-extfile", "san.ext", "-out", &new]].concat())?;
        fs::rename(self.0.path(&new), self.0.path(&pem))?;
        Ok(())
    }

    /// SHA-256 of a certificate, in hex.
    pub fn fingerprint(&self, name: &str) -> Result<String> {
        let der = format!("{name}.der");
        self.openssl(&["x509", "-in", &format!("{name}.pem"), "-outform", "DER", "-out", &der])?;
        Ok(sha256(&fs::read(self.0.path(&der))?))
    }
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
