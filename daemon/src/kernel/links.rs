//! Network interfaces: which there are, what they are, and word of their coming and going.

use std::{ffi::CStr, io};

use nix::ifaddrs::getifaddrs;
use tokio::io::unix::AsyncFd;

use super::netlink::{DUMP, Netlink, REQUEST, attributes, word};

/// `RTM_GETLINK`, and the multicast groups of changes to links and addresses (`linux/rtnetlink.h`).
const GET_LINK: u16 = 18;
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Size of `struct ifinfomsg`.
const INFO: usize = 16;
/// Attributes (`linux/if_link.h`).
const NAME: u16 = 3;
const MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const PEER_NETNS: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_MASTER_KIND: u16 = 4;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// The network namespace it is in, as the kernel tells them apart: numbers begin anew in each.
    pub namespace: u64,
    /// Why guard does not belong here, where it does not.
    pub misplaced: Option<&'static str>,
}

/// The interfaces of the calling thread's network namespace.
pub fn links() -> io::Result<Vec<Link>> {
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE)?;
    netlink.send(GET_LINK, REQUEST | DUMP, &[0; INFO])?;
    let mut found = Vec::new();
    let mut addressed = Vec::new();
    for a in getifaddrs()? {
        if a.address.is_some_and(|s| is_reachable(&s)) {
            addressed.push(a.interface_name);
        }
    }
    let namespace = netlink.namespace()?;
    netlink.receive(|payload| found.extend(link(payload, &addressed, namespace)))?;
    Ok(found)
}

/// Whether others reach this host by an address; by a link-local one alone they do not.
fn is_reachable(a: &nix::sys::socket::SockaddrStorage) -> bool {
    a.as_sockaddr_in().is_some_and(|a| !a.ip().is_link_local())
        || a.as_sockaddr_in6().is_some_and(|a| !a.ip().is_unicast_link_local())
}

fn link(payload: &[u8], addressed: &[String], namespace: u64) -> Option<Link> {
    let index = word(payload, 4)?;
    let (mut name, mut kind, mut master_kind) = (None, &b""[..], &b""[..]);
    let (mut master, mut elsewhere) = (false, false);
    for (attribute, value) in attributes(payload.get(INFO..)?) {
        match attribute {
            NAME => name = Some(CStr::from_bytes_until_nul(value).ok()?.to_str().ok()?.to_owned()),
            MASTER => master = true,
            PEER_NETNS => elsewhere = true,
            LINK_INFO => {
                for (attribute, value) in attributes(value) {
                    match attribute {
                        INFO_KIND => kind = value,
                        INFO_MASTER_KIND => master_kind = value,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let name = name?;
    let is = |kind: &[u8], text: &[u8]| kind.strip_suffix(b"\0").unwrap_or(kind) == text;
    let misplaced = if !is(kind, b"veth") || !elsewhere {
        None
    } else if master && is(master_kind, b"bridge") {
        Some("it is a container's veth on a bridge")
    } else if !addressed.contains(&name) {
        Some("it is a container's veth: it has no address of this host's")
    } else {
        None
    };
    Some(Link { name, index, namespace, misplaced })
}

/// Whether an interface's name is meant: `*` stands for any characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|i| rest.get(i..).is_some_and(|r| matches(after, r)))),
    }
}

/// Word of interfaces that come, go or change.
pub struct LinkWatch(AsyncFd<Netlink>);

impl LinkWatch {
    /// Listens from now on.
    pub fn start() -> io::Result<Self> {
        let netlink = Netlink::open(libc::NETLINK_ROUTE)?;
        netlink.listen(GROUPS)?;
        // SAFETY: the socket owns its descriptor and gives the same one for as long as it lives.
        unsafe { AsyncFd::register(netlink) }.map(Self).map_err(io::Error::from)
    }

    /// Waits for a change. Cancel-safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let any = ready.get_inner().drain()?;
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, yes) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("veth*", "veth", true),
            ("veth*", "veth12ab", true),
            ("veth*", "eth0", false),
            ("*", "lo", true),
            ("e*0", "enp3s0", true),
            ("e*0", "enp3s1", false),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn loopback_is_found_and_well_placed() {
        let lo = links().unwrap().into_iter().find(|l| l.name == "lo").unwrap();
        assert_eq!((lo.index, lo.misplaced), (1, None));
    }
}
