//! The server's socket, looked up by a packet's addresses.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_fullsock, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_sock},
};

use crate::{
    maps::Scratch,
    packet::{Headers, Packet},
};

/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;

/// What a packet is for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// No socket of this host: the packet is forwarded, or the connection is gone.
    Nothing = 0,
    /// A connection that is being set up: no data was accepted on it.
    Young = 1,
    /// A connection.
    Connected = 2,
}

/// How far the server's side of a connection is. All fields are set in every kind: the compiler would spill
/// what is undefined, and the verifier refuses that.
pub struct Socket {
    /// What was found.
    pub kind: Kind,
    /// Next sequence number the server expects.
    pub rcv_nxt: u32,
    /// Next sequence number the server will send.
    pub snd_nxt: u32,
    /// Oldest byte of the server's that the client has not acknowledged.
    pub snd_una: u32,
    /// Bytes the server was given before.
    pub received: u64,
}

/// Looks up the socket that a packet is for.
#[inline(always)]
pub fn find(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> Socket {
    let h = Headers::of(scratch);
    let mut socket =
        Socket { kind: Kind::Nothing, rcv_nxt: p.seq, snd_nxt: p.ack, snd_una: p.ack, received: 0 };
    // Source, destination, both ports, as they stand in the packet.
    let mut tuple = [0u32; 9];
    let size = if p.v6 != 0 {
        let (source, destination) = (h.address6(p.l3 + 8), h.address6(p.l3 + 24));
        // SAFETY: eight words hold two addresses.
        unsafe {
            tuple.as_mut_ptr().cast::<[[u32; 2]; 2]>().write(halves(source));
            tuple.as_mut_ptr().add(4).cast::<[[u32; 2]; 2]>().write(halves(destination));
        }
        tuple[8] = h.u32(p.l4).to_be();
        36
    } else {
        tuple[0] = h.u32(p.l3 + 12).to_be();
        tuple[1] = h.u32(p.l3 + 16).to_be();
        tuple[2] = h.u32(p.l4).to_be();
        12
    };
    // SAFETY: the tuple outlives the call and `size` bytes of it are set; the reference is released below on
    // every path that has one.
    unsafe {
        let tuple = tuple.as_mut_ptr().cast::<bpf_sock_tuple>();
        let sk = bpf_skc_lookup_tcp(skb.cast(), tuple, size, CURRENT_NETNS, 0);
        if sk.is_null() {
            return socket;
        }
        read(sk, &mut socket);
        bpf_sk_release(sk.cast());
    }
    socket
}

/// An address in words of the tuple's alignment.
#[inline(always)]
fn halves(a: [u64; 2]) -> [[u32; 2]; 2] {
    [[a[0] as u32, (a[0] >> 32) as u32], [a[1] as u32, (a[1] >> 32) as u32]]
}

/// Reads a socket that was found.
///
/// # Safety
/// The caller holds a reference to `sk`.
#[inline(always)]
unsafe fn read(sk: *mut bpf_sock, socket: &mut Socket) {
    // SAFETY: the caller's reference; the verifier checks each pointer before it is read.
    unsafe {
        let state = (*sk).state;
        // A request socket (TCP_NEW_SYN_RECV), or the listener itself (TCP_LISTEN, with syncookies).
        if state == 12 || state == 10 {
            socket.kind = Kind::Young;
            return;
        }
        let full = bpf_sk_fullsock(sk);
        if full.is_null() {
            return;
        }
        let tcp = bpf_tcp_sock(full);
        if tcp.is_null() {
            return;
        }
        socket.kind = Kind::Connected;
        socket.rcv_nxt = (*tcp).rcv_nxt;
        socket.snd_nxt = (*tcp).snd_nxt;
        socket.snd_una = (*tcp).snd_una;
        socket.received = (*tcp).bytes_received;
    }
}
