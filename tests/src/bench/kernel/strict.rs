//! Strict mode beside fast mode, for whole requests on a real connection.

use std::net::TcpListener;

use anyhow::Result;
use portcullis::kernel::{Enforcement, GuardedPort, Kernel, test_support::Which};

use super::{Effort, Pair, SIZES, time};
use crate::{
    bpffs::Bpffs,
    figures::Figures,
    frames::{jws, request},
    guard::settings,
};

pub(super) fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    let bpffs = Bpffs::mount()?;
    let mut settings = settings(&bpffs);
    settings.enforcement = Enforcement::Strict;
    let pair = Pair::to(&TcpListener::bind("127.0.0.1:0")?)?;
    settings.ports = vec![GuardedPort { address: None, port: pair.port }];
    let mut kernel = Kernel::load(settings)?;
    kernel.load_yardsticks()?;
    for (request_len, token_len) in SIZES {
        let packet = pair.frame()?.build(&request(&jws(token_len, 1), request_len));
        let runs = time(&mut kernel, &[(Which::Fast, &packet), (Which::Strict, &packet)], effort)?;
        let name = format!("{request_len}-byte request, {token_len}-byte token");
        figures.add(&format!("{name}: fast mode, on a connection"), runs[0], "ns", "");
        figures.add(&format!("{name}: strict mode, on a connection"), runs[1], "ns", "");
        figures.at_most(&format!("{name}: strict / fast"), runs[1] / runs[0], "", 1.6, "");
    }
    Ok(())
}
