//! Crafted TCP: what a client can do to have the server read other bytes than guard did (Ptacek & Newsham 1998).
//!
//! Each sequence is played with a revoked and with a live token. The revoked one must never be parsed; the live one
//! must be answered, save where a sequence says something else first: then it is refused, and counted.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::bearer,
    frames::{Frame, fragments},
    is_root,
    net::{PORT, at},
    server::Server,
    wire::{self, ACK, DATA, FIN, RST, SYN, Talk, URG, Wire},
};

/// How a sequence connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Plain,
    /// With timestamps.
    Times,
    /// Data with the handshake's last segment.
    Third,
    /// Data in the SYN.
    Early,
    /// A handshake of four: a SYN of the client's again, then its SYN with an ACK, the request in it.
    Split,
}

/// What becomes of its live twin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Live {
    Answered,
    /// It contradicts itself: refused.
    Refused,
}

struct Sequence {
    name: &'static str,
    opening: Opening,
    live: Live,
    play: fn(&mut Talk<'_>, &[u8], usize) -> Result<()>,
}

const fn plain(
    name: &'static str,
    live: Live,
    play: fn(&mut Talk<'_>, &[u8], usize) -> Result<()>,
) -> Sequence {
    Sequence { name, opening: Opening::Plain, live, play }
}

/// The same bytes, but for a part of the token that they begin or end in: as innocent as it looks.
fn decoy(bytes: &[u8]) -> Vec<u8> {
    let mut other = bytes.to_vec();
    let n = other.len().min(20);
    if other.starts_with(b"GET ") {
        let at = other.len() - n;
        other[at..].fill(b'x');
    } else {
        other[..n].fill(b'x');
    }
    other
}

/// The TCP timestamps option.
fn times(value: u32, echo: u32) -> Vec<u8> {
    [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
}

/// The server's timestamp, from its SYN's options.
fn echo(options: &[u8]) -> u32 {
    let at = options.windows(2).position(|w| w == [8, 10]).map_or(0, |i| i + 2);
    options.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn sequences() -> Vec<Sequence> {
    use Live::{Answered, Refused};
    vec![
        plain("whole", Answered, |t, r, _| t.put(0, r)),
        plain("split in two", Answered, |t, r, c| {
            t.put(0, &r[..c])?;
            t.put(c, &r[c..])
        }),
        plain("second half first", Answered, |t, r, c| {
            t.put(c, &r[c..])?;
            t.put(0, &r[..c])
        }),
        plain("bad checksum in the place of the first half", Refused, |t, r, c| {
            t.put_odd(0, &decoy(&r[..c]), |f| f.sum_off = 1)?;
            t.put(0, &r[..c])?;
            t.put(c, &r[c..])
        }),
        plain("bad checksum in the place of the second half", Refused, |t, r, c| {
            t.put(0, &r[..c])?;
            t.put_odd(c, &decoy(&r[c..]), |f| f.sum_off = 1)?;
            t.put(c, &r[c..])
        }),
        plain("partial overlap, old bytes win", Answered, |t, r, c| {
            t.put(0, &r[..c])?;
            t.put(c - 5, &[&decoy(&r[c - 5..c])[..], &r[c..]].concat())
        }),
        plain("overlap over data out of order", Answered, |t, r, c| {
            t.put(c, &r[c..])?;
            t.put(c, &decoy(&r[c..]))?;
            t.put(0, &r[..c])
        }),
        plain("no ACK flag", Answered, |t, r, c| {
            t.put_odd(0, &decoy(&r[..c]), |f| f.flags = 8)?;
            t.put(0, &r[..c])?;
            t.put(c, &r[c..])
        }),
        plain("an ack far outside", Refused, |t, r, c| {
            t.put_odd(0, &decoy(&r[..c]), |f| f.ack = f.ack.wrapping_add(1 << 30))?;
            t.put(0, &r[..c])?;
            t.put(c, &r[c..])
        }),
        Sequence {
            name: "an old timestamp",
            opening: Opening::Times,
            live: Refused,
            play: |t, r, c| {
                t.put_odd(0, &decoy(&r[..c]), |f| f.tcp_options = times(1, 0))?;
                t.put(0, &r[..c])?;
                t.put(c, &r[c..])
            },
        },
        Sequence {
            name: "a split handshake with a simultaneous open's SYN",
            opening: Opening::Split,
            live: Refused,
            play: |t, r, _| t.put(0, r),
        },
        plain("a TCP-MD5 option", Refused, |t, r, c| {
            let option = [&[1, 1, 19, 18][..], &[7; 16]].concat();
            t.put_odd(0, &decoy(&r[..c]), |f| f.tcp_options = option)?;
            t.put(0, &r[..c])?;
            t.put(c, &r[c..])
        }),
        plain("RST outside the window", Answered, |t, r, c| {
            t.put(0, &r[..c])?;
            t.send_at(c + 1_000_000, RST, &[], |_| {})?;
            t.put(c, &r[c..])
        }),
        plain("SYN inside the flow", Answered, |t, r, c| {
            t.put(0, &r[..c])?;
            t.send_at(c, SYN, &[], |_| {})?;
            t.put(c, &r[c..])
        }),
        plain("FIN far ahead", Answered, |t, r, c| {
            t.put(0, &r[..c])?;
            t.send_at(c + 1_000_000, FIN | ACK, &[], |_| {})?;
            t.put(c, &r[c..])
        }),
        plain("FIN with a bad checksum", Answered, |t, r, c| {
            t.put(0, &r[..c])?;
            t.send_at(c, FIN | ACK, &[], |f| f.sum_off = 1)?;
            t.put(c, &r[c..])
        }),
        plain("an urgent byte inside", Answered, |t, r, c| {
            let with = [&r[..c], b"!", &r[c..]].concat();
            t.put_odd(0, &with, |f| {
                f.flags = DATA | URG;
                f.urgent = u16::try_from(c + 1).unwrap_or(1);
            })
        }),
        plain("fragments inside the TCP header", Answered, |t, r, _| {
            let frame = Frame {
                flags: DATA,
                seq: t.start.wrapping_add(1),
                ack: t.next,
                fragment: 0,
                ..t.frame.clone()
            };
            for part in fragments(&frame.build(r), 8) {
                t.send(&part)?;
            }
            Ok(())
        }),
        plain("TTL 1", Refused, |t, r, c| {
            t.put_odd(0, &decoy(&r[..c]), |f| f.ttl = 1)?;
            t.put(0, &r[..c])?;
            t.put(c, &r[c..])
        }),
        plain("outside the window", Answered, |t, r, c| {
            t.put(2_000_000, &decoy(&r[..c]))?;
            t.put(0, &r[..c])?;
            t.put(c, &r[c..])
        }),
        plain("exact retransmissions", Answered, |t, r, c| {
            for _ in 0..2 {
                t.put(0, &r[..c])?;
                t.put(0, &r[..c])?;
                t.put(c, &r[c..])?;
            }
            t.put(0, r)
        }),
        plain("lost behind guard, back in other pieces", Answered, |t, r, c| {
            t.put_odd(0, r, |f| f.sum_off = 1)?;
            t.put(0, &r[..c / 2])?;
            t.put(c / 2, &r[c / 2..])
        }),
        plain("lost behind guard, back in single bytes", Answered, |t, r, _| {
            t.put_odd(0, r, |f| f.sum_off = 1)?;
            for (i, b) in r.iter().enumerate() {
                t.put(i, &[*b])?;
            }
            Ok(())
        }),
        plain("lost behind guard in pieces, back as one", Answered, |t, r, c| {
            t.put_odd(0, &r[..c], |f| f.sum_off = 1)?;
            t.put_odd(c, &r[c..], |f| f.sum_off = 1)?;
            t.put(0, r)
        }),
        plain("first lost behind guard, then overlapping anew", Answered, |t, r, c| {
            t.put_odd(0, &r[..c], |f| f.sum_off = 1)?;
            t.put(0, &r[..c + 9])?;
            t.put(c - 9, &r[c - 9..])
        }),
        Sequence {
            name: "data with the third segment",
            opening: Opening::Third,
            live: Answered,
            play: |t, r, c| t.put(c, &r[c..]),
        },
        Sequence {
            name: "data in the SYN",
            opening: Opening::Early,
            live: Answered,
            play: |t, r, _| t.put(0, r),
        },
    ]
}

/// Plays a sequence to its end; tells whether the client was refused.
fn play(wire: &mut Wire, s: &Sequence, request: &[u8]) -> Result<(bool, usize)> {
    // The forbidden text is cut in the middle of the token.
    let cut = request.len() / 2;
    let mut talk = match s.opening {
        Opening::Plain => wire.connect(PORT, &[])?,
        Opening::Times => {
            let mut talk = wire.connect(PORT, &times(1 << 30, 0))?;
            talk.frame.tcp_options = times((1 << 30) + 1, echo(&talk.synack));
            talk.send_at(0, ACK, &[], |_| {})?;
            talk
        }
        Opening::Third => {
            let mut talk = wire.talk(PORT);
            talk.send_at(0, SYN, &[], |f| f.seq = f.seq.wrapping_sub(1))?;
            talk.await_synack()?;
            talk.put(0, &request[..cut])?;
            talk
        }
        Opening::Split => {
            let mut talk = wire.talk(PORT);
            let syn = |f: &mut Frame| f.seq = f.seq.wrapping_sub(1);
            talk.send_at(0, SYN, &[], syn)?;
            talk.await_synack()?;
            talk.send_at(0, SYN, &[], syn)?;
            talk.send_at(0, SYN | ACK, request, syn)?;
            talk.send_at(0, ACK, &[], |_| {})?;
            talk
        }
        Opening::Early => {
            let mut talk = wire.talk(PORT);
            talk.send_at(0, SYN, request, |f| f.seq = f.seq.wrapping_sub(1))?;
            talk.send_at(0, SYN, &[], |f| f.seq = f.seq.wrapping_sub(1))?;
            talk.handshake()?;
            talk
        }
    };
    (s.play)(&mut talk, request, cut)?;
    talk.carry_through(request, 1400, 1)?;
    Ok((talk.is_refused(), talk.answers()))
}

fn parsed(server: &Server, token: &str) -> usize {
    server.requests().iter().filter(|head| head.contains(token)).count()
}

#[test]
fn no_crafted_sequence_completes_a_revoked_head_and_live_twins_are_answered() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let mut wire = Wire::open(&w.net)?;
    let server = Server::start(&w.net.server, &[at(wire::SERVER, PORT)])?;
    let mut wrong = Vec::new();
    for s in sequences() {
        let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
        w.daemon.revoke(&revoked)?;
        let (refused, answers) = play(&mut wire, &s, &bearer("/crafted", &revoked))?;
        if parsed(&server, &revoked) != 0 {
            wrong.push(format!("{}: a revoked request was parsed", s.name));
        }
        // A decoy that the server took is another request, and is answered as one.
        if !refused && answers == 0 {
            wrong.push(format!("{}: the client of a revoked request was left alone", s.name));
        }
        let (refused, answers) = play(&mut wire, &s, &bearer("/crafted", &live))?;
        let answered = !refused && answers == 1 && parsed(&server, &live) == 1;
        if s.live == Live::Answered && !answered {
            wrong.push(format!(
                "{}: live: refused {refused}, {answers} answers, {} parsed",
                s.name,
                parsed(&server, &live)
            ));
        }
        if s.live == Live::Refused && answers == 0 && !refused {
            wrong.push(format!("{}: live: neither answered nor refused", s.name));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), w.daemon.metrics()?);
    Ok(())
}

#[test]
fn without_guard_the_same_sequences_deliver_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.mode = "off";
        Ok(())
    })?;
    let mut wire = Wire::open(&w.net)?;
    let server = Server::start(&w.net.server, &[at(wire::SERVER, PORT)])?;
    let mut delivered = Vec::new();
    for s in sequences() {
        let token = w.mint.hs256()?;
        play(&mut wire, &s, &bearer("/crafted", &token))?;
        if parsed(&server, &token) != 0 {
            delivered.push(s.name);
        }
    }
    assert!(delivered.len() >= 20, "a test that cannot fail shows nothing: {delivered:?}");
    Ok(())
}
