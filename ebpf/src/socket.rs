//! The server's socket, looked up by a packet's addresses, and the state that is kept with it.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_probe_read_kernel, bpf_sk_fullsock, bpf_sk_release, bpf_sk_storage_get, bpf_skb_load_bytes,
        bpf_skc_lookup_tcp, bpf_skc_to_tcp_request_sock, bpf_tcp_check_syncookie, bpf_tcp_sock,
    },
};
use portcullis_common::{
    h2::H2,
    layout::GuardConfig,
    stream::{Answers, PHASE_NEW, PHASE_PREFACE, Stream},
};

use crate::{
    maps::{ANSWERS, FRAMES, STREAMS, Scratch},
    packet::{Headers, Packet},
    pending,
    strict::{is_frames, is_gate},
};

/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;
/// States of a socket, as `include/net/tcp_states.h` numbers them.
const TIME_WAIT: u32 = 6;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;
const CLOSING: u32 = 11;
const NEW_SYN_RECV: u32 = 12;

/// What a packet is for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// No socket of this host: the packet is forwarded, or the connection is gone.
    Nothing = 0,
    /// A connection that is being set up: it has no socket of its own yet.
    Young = 1,
    /// A connection.
    Connected = 2,
    /// A connection that takes no data any more, or a listener that was not asked properly.
    Over = 3,
    /// A connection by SYN cookie, whose socket this very packet makes. Nothing holds two of them apart whose packets
    /// come at once, so its data is to come again, to the socket.
    Early = 4,
}

/// How far the server's side of a connection is. All fields are set in every kind: the compiler would spill
/// what is undefined, and the verifier refuses that.
#[repr(C)]
pub struct Socket {
    /// Bytes the server was given before.
    pub received: u64,
    /// What was found: a [`Kind`].
    pub kind: u32,
    /// Next sequence number the server expects.
    pub rcv_nxt: u32,
    /// Next sequence number the server will send.
    pub snd_nxt: u32,
    /// Oldest byte of the server's that the client has not acknowledged.
    pub snd_una: u32,
    /// Bytes of the server's that the client has taken, the handshake's one among them.
    pub acked: u64,
}

impl Socket {
    /// Whether this is what was found.
    #[inline(always)]
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u32
    }
}

/// The state that is kept with a connection's socket; null where there is none.
#[derive(Clone, Copy)]
pub struct Kept {
    pub stream: *mut Stream,
    pub answers: *mut Answers,
    /// What is read of its frames, where it speaks HTTP/2.
    pub h2: *mut H2,
}

impl Kept {
    const NONE: Self =
        Self { stream: core::ptr::null_mut(), answers: core::ptr::null_mut(), h2: core::ptr::null_mut() };
}

/// Looks up the socket that a packet is for and reads it into scratch; headers must have been copied. With `STATE`
/// what is kept with the socket is given too, the stream made where there was none. `WAY` is one of strict mode's.
#[inline(always)]
pub fn find<const STATE: bool, const WAY: u32>(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
    config: &GuardConfig,
) -> Kept {
    let mut kept = Kept::NONE;
    let sk = lookup(skb, scratch, p);
    if sk.is_null() {
        return kept;
    }
    // SAFETY: this CPU's scratch; the reference is held until the release below, on every path.
    unsafe {
        let socket = &mut (*scratch).socket;
        let state = (*sk).state;
        if state == NEW_SYN_RECV {
            socket.kind = Kind::Young as u32;
            if STATE {
                request(sk, socket, p, config);
            }
        } else if state == LISTEN {
            if is_gate(WAY) {
                // SYN cookies cannot be checked there. Once its ACK has come the connection has a socket, and data
                // that came with it comes again.
                socket.kind = Kind::Nothing as u32;
            } else if STATE {
                listener(sk, scratch, p);
            } else {
                socket.kind = Kind::Young as u32;
            }
        } else if state == TIME_WAIT || state == CLOSE {
            socket.kind = Kind::Over as u32;
        } else {
            let full = bpf_sk_fullsock(sk);
            if !full.is_null() {
                connected(full, socket);
                if STATE {
                    let closed = matches!(state, CLOSE_WAIT | LAST_ACK | CLOSING);
                    let stream = own_stream(skb, scratch, p, full, u32::from(closed));
                    kept = Kept { stream, answers: answers_of(full, 0), h2: core::ptr::null_mut() };
                    if is_frames(WAY) && !stream.is_null() {
                        kept.h2 = frames_kept(skb, p, full, &*stream);
                    }
                }
            }
        }
        bpf_sk_release(sk.cast());
    }
    kept
}

/// The stream of a connection. Where its first data came before the socket was there, it goes on from that. `fin` is 1
/// where the client has closed, for that counts as a byte.
#[inline(always)]
unsafe fn own_stream(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
    full: *mut bpf_sock,
    fin: u32,
) -> *mut Stream {
    // SAFETY: the caller's reference to the socket.
    unsafe {
        let stream = stream_of(full, core::ptr::null_mut(), 0);
        if !stream.is_null() {
            return stream;
        }
        let initial = pending::find(skb, scratch, p);
        if initial.is_null() {
            return stream_of(full, core::ptr::null_mut(), CREATE);
        }
        if (*initial).busy != 0 {
            // Another CPU still reads its first data.
            return core::ptr::null_mut();
        }
        // One that another connection of the same name left is none of this one's.
        let s = &(*scratch).socket;
        let own = (*initial).tried_at == s.rcv_nxt.wrapping_sub(s.received as u32).wrapping_sub(fin);
        let initial = if own { initial } else { core::ptr::null_mut() };
        let stream = stream_of(full, initial, CREATE);
        pending::forget(skb, scratch, p);
        stream
    }
}

#[inline(always)]
fn lookup(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> *mut bpf_sock {
    let h = Headers::of(scratch);
    // SAFETY: this CPU's scratch; nothing else refers to it.
    unsafe {
        (*scratch).socket = Socket {
            kind: Kind::Nothing as u32,
            rcv_nxt: p.seq,
            snd_nxt: p.ack,
            snd_una: p.ack,
            received: 0,
            acked: 0,
        };
    }
    // Source, destination, both ports, as they stand in the packet.
    let mut tuple = MaybeUninit::<[u32; 9]>::uninit();
    let words = tuple.as_mut_ptr().cast::<u32>();
    let size = if p.v6 != 0 {
        let (source, destination) = (h.address6(p.l3 + 8), h.address6(p.l3 + 24));
        // SAFETY: eight words hold two addresses, the ninth both ports.
        unsafe {
            words.cast::<[[u32; 2]; 2]>().write(halves(source));
            words.add(4).cast::<[[u32; 2]; 2]>().write(halves(destination));
            words.add(8).write(h.u32(p.l4).to_be());
        }
        36
    } else {
        // SAFETY: two words hold two addresses, the third both ports.
        unsafe {
            words.write(h.u32(p.l3 + 12).to_be());
            words.add(1).write(h.u32(p.l3 + 16).to_be());
            words.add(2).write(h.u32(p.l4).to_be());
        }
        12
    };
    // SAFETY: the tuple outlives the call and `size` bytes of it are set.
    unsafe { bpf_skc_lookup_tcp(skb.cast(), words.cast::<bpf_sock_tuple>(), size, CURRENT_NETNS, 0) }
}

/// An address in words of the tuple's alignment.
#[inline(always)]
fn halves(a: [u64; 2]) -> [[u32; 2]; 2] {
    [[a[0] as u32, (a[0] >> 32) as u32], [a[1] as u32, (a[1] >> 32) as u32]]
}

/// A request socket: what it expects is in no field that BPF shows, so it is read where the running kernel's type
/// information says it is.
#[inline(always)]
unsafe fn request(sk: *mut bpf_sock, socket: &mut Socket, p: &Packet, config: &GuardConfig) {
    // SAFETY: the caller's reference; a failed read leaves what the packet says, which is then not accepted.
    unsafe {
        let request = bpf_skc_to_tcp_request_sock(sk.cast());
        let offset = config.request_rcv_nxt & 1023;
        if request.is_null() || offset == 0 {
            socket.rcv_nxt = p.seq.wrapping_sub(1);
            return;
        }
        let mut rcv_nxt = 0u32;
        let at = request.cast::<u8>().add(offset as usize);
        let read = bpf_probe_read_kernel((&raw mut rcv_nxt).cast(), 4, at.cast::<c_void>());
        socket.rcv_nxt = if read == 0 { rcv_nxt } else { p.seq.wrapping_sub(1) };
    }
}

/// A listener is found for the last packet of a handshake by SYN cookie, which covers the client's sequence
/// number: where it is good, the packet is the first. All else the listener answers with a reset.
#[inline(always)]
unsafe fn listener(sk: *mut bpf_sock, scratch: *mut Scratch, p: &Packet) {
    let h = Headers::of(scratch);
    let (mut ip, mut tcp) = ([0u64; 5], [0u32; 5]);
    let len = if p.v6 != 0 {
        ip = [
            h.word_at(p.l3),
            h.word_at(p.l3 + 8),
            h.word_at(p.l3 + 16),
            h.word_at(p.l3 + 24),
            h.word_at(p.l3 + 32),
        ];
        40
    } else {
        ip[0] = h.word_at(p.l3);
        ip[1] = h.word_at(p.l3 + 8);
        ip[2] = u64::from(h.u32(p.l3 + 16).to_be());
        20
    };
    for (i, w) in tcp.iter_mut().enumerate() {
        *w = h.u32(p.l4 + i as u32 * 4).to_be();
    }
    // SAFETY: the caller's reference, and headers of the lengths that are told.
    unsafe {
        let good =
            bpf_tcp_check_syncookie(sk.cast(), ip.as_mut_ptr().cast(), len, tcp.as_mut_ptr().cast(), 20);
        (*scratch).socket.kind = if good == 0 { Kind::Early as u32 } else { Kind::Over as u32 };
    }
}

/// A connection's own socket.
#[inline(always)]
pub unsafe fn connected(full: *mut bpf_sock, socket: &mut Socket) {
    // SAFETY: the caller's reference; the verifier checks each pointer before it is read.
    unsafe {
        let tcp = bpf_tcp_sock(full);
        if tcp.is_null() {
            return;
        }
        socket.kind = Kind::Connected as u32;
        socket.rcv_nxt = (*tcp).rcv_nxt;
        socket.snd_nxt = (*tcp).snd_nxt;
        socket.snd_una = (*tcp).snd_una;
        socket.received = (*tcp).bytes_received;
        socket.acked = (*tcp).bytes_acked;
    }
}

/// What is kept with the socket that sends a packet, the answers made where there were none; nulls where nothing
/// was read of its connection, but where a server may speak first (`h2c`) there are answers. `Socket::received` is then
/// what the client has taken.
#[inline(always)]
pub fn own(skb: *mut __sk_buff, scratch: *mut Scratch, h2c: bool) -> Kept {
    // SAFETY: the packet holds its socket; the verifier checks each pointer before it is read.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return Kept::NONE;
        }
        let full = bpf_sk_fullsock(sk);
        if full.is_null() {
            return Kept::NONE;
        }
        let tcp = bpf_tcp_sock(full);
        if tcp.is_null() {
            return Kept::NONE;
        }
        let socket = &mut (*scratch).socket;
        socket.kind = Kind::Connected as u32;
        socket.rcv_nxt = (*tcp).rcv_nxt;
        socket.snd_nxt = (*tcp).snd_nxt;
        socket.snd_una = (*tcp).snd_una;
        socket.received = (*tcp).bytes_acked;
        let stream = stream_of(full, core::ptr::null_mut(), 0);
        if stream.is_null() && !h2c {
            return Kept::NONE;
        }
        let mut h2 = core::ptr::null_mut();
        if h2c && !stream.is_null() && (*stream).is_framed() {
            h2 = frames_of(full, 0);
        }
        Kept { stream, answers: answers_of(full, CREATE), h2 }
    }
}

/// What is read of a connection's frames, made where its first bytes may be HTTP/2's preface.
#[inline(always)]
unsafe fn frames_kept(skb: *mut __sk_buff, p: &Packet, full: *mut bpf_sock, stream: &Stream) -> *mut H2 {
    if stream.phase != PHASE_NEW && !stream.is_framed() {
        return core::ptr::null_mut();
    }
    let mut flags = 0;
    if stream.phase == PHASE_PREFACE {
        flags = CREATE;
    } else if stream.phase == PHASE_NEW {
        let mut first = [0u8; 4];
        // SAFETY: four bytes into a local of four.
        let loaded = unsafe { bpf_skb_load_bytes(skb.cast(), p.payload, (&raw mut first).cast(), 4) };
        if p.len >= 4 && loaded == 0 && u32::from_ne_bytes(first) == u32::from_ne_bytes(*b"PRI ") {
            flags = CREATE;
        }
    }
    // SAFETY: the caller's reference to the socket.
    unsafe { frames_of(full, flags) }
}

/// `BPF_SK_STORAGE_GET_F_CREATE`.
pub const CREATE: u64 = 1;

/// The stream kept with a socket. With [`CREATE`] it is made where there is none, from `initial` where that is
/// not null. What is kept outlives the reference to the socket: it is freed a grace period after it.
#[inline(always)]
pub unsafe fn stream_of(sk: *mut bpf_sock, initial: *mut Stream, flags: u64) -> *mut Stream {
    // SAFETY: the caller's reference to the socket.
    unsafe {
        bpf_sk_storage_get((&raw const STREAMS).cast_mut().cast(), sk.cast(), initial.cast(), flags).cast()
    }
}

/// The answers kept with a socket, likewise.
#[inline(always)]
pub unsafe fn answers_of(sk: *mut bpf_sock, flags: u64) -> *mut Answers {
    // SAFETY: the caller's reference to the socket.
    unsafe {
        bpf_sk_storage_get((&raw const ANSWERS).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), flags)
            .cast()
    }
}

/// What is read of its frames, likewise.
#[inline(always)]
pub unsafe fn frames_of(sk: *mut bpf_sock, flags: u64) -> *mut H2 {
    // SAFETY: the caller's reference to the socket.
    unsafe {
        bpf_sk_storage_get((&raw const FRAMES).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), flags)
            .cast()
    }
}
