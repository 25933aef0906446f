//! `portcullis detach`

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{Failure, OK, Outcome, print};
use crate::{config, kernel};

/// End enforcement: take the kernel programs, their links and maps away
///
/// The store keeps every revocation; the next `portcullis run` puts them in force again.
///
/// Example: portcullis detach --config /etc/portcullis/portcullis.toml
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The configuration that enforcement was started with
    #[arg(long, short, value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
    config: PathBuf,
}

impl Args {
    pub fn run(self) -> Outcome {
        let c = config::load(&self.config)?;
        if std::os::unix::net::UnixStream::connect(&c.admin.socket).is_ok() {
            let at = c.admin.socket.display();
            return Err(Failure::new(
                super::REFUSED,
                format!(
                    "a daemon is running (it serves {at}): stop it first, or it would go on without its programs"
                ),
            ));
        }
        let interfaces: Vec<_> = c.kernel.interfaces.iter().map(|i| kernel::Interfaces::read(i)).collect();
        kernel::detach_all(&c.kernel.pin_dir, &interfaces)?;
        print("detached: nothing is enforced in the kernel any more")?;
        Ok(OK)
    }
}
