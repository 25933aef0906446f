//! The kernel programs' settings, laid out.

use portcullis_common::layout::{
    ANSWER_MALFORMED, ANSWER_MAX, ANSWER_TOO_LONG, ANSWERS, Answer as Laid, GOAWAY_LEN, GOAWAY_STREAM,
    GuardConfig, ScanConfig, ScanConfigError,
};

use super::{Answer, Enforcement, KernelError, Settings, btf};
use portcullis_common::{h2::Names, head::ODD_ANY};

/// Lays the settings out as the programs read them.
pub(super) fn guard_config(s: &Settings) -> Result<GuardConfig, KernelError> {
    let schemes: Vec<&str> = s.schemes.iter().map(String::as_str).collect();
    let headers: Vec<&str> = s.key_headers.iter().map(String::as_str).collect();
    let mut scan = ScanConfig::new(s.key, &schemes, &headers).map_err(names)?;
    scan.max_head = s.max_head;
    // A token that fits in a head is looked up.
    scan.max_token = s.max_head;
    if s.enforcement == Enforcement::Strict {
        scan.refuse = ODD_ANY;
    }
    let mut answers = [Laid { len: 0, sum: 0, bytes: [0; ANSWER_MAX] }; 2 * ANSWERS];
    for (slot, answer) in answers.iter_mut().zip(s.answers.in_order()) {
        *slot = laid(answer);
    }
    for (which, slot) in (0u32..).zip(answers.iter_mut().skip(ANSWERS)) {
        *slot = goaway(which);
    }
    Ok(GuardConfig {
        names: Names::new(&scan),
        scan,
        answers_scan: ScanConfig::answers().map_err(names)?,
        reaction: s.reaction.number(),
        opaque: s.opaque.number(),
        unknown: s.unknown.number(),
        request_rcv_nxt: request_rcv_nxt(),
        answers,
    })
}

fn names(e: ScanConfigError) -> KernelError {
    KernelError::Names(match e {
        ScanConfigError::TooMany => {
            "guard has room for eight `token.schemes` and four `token.key_headers`: name fewer"
        }
        ScanConfigError::TooLong => {
            "guard reads schemes of up to 15 and header names of up to 31 characters: name shorter ones"
        }
    })
}

/// What a client that speaks HTTP/2 is told: an empty `SETTINGS` frame, which must be the first of a server's and may come
/// at any time, then `GOAWAY` (RFC 9113 §6.5, §6.8) with a text for people. The last stream's number is the kernel's to
/// write.
fn goaway(which: u32) -> Laid {
    // ENHANCE_YOUR_CALM makes no client try again at once, which NO_ERROR does; PROTOCOL_ERROR says whose fault it is.
    let (code, text) = match which {
        ANSWER_MALFORMED => (0x1, "malformed or unsupported HTTP/2"),
        ANSWER_TOO_LONG => (0xb, "header block too long"),
        _ => (0xb, "token refused"),
    };
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    bytes.extend([0, 0, 0, 7, 0, 0, 0, 0, 0]);
    debug_assert_eq!(bytes.len(), GOAWAY_STREAM as usize);
    bytes.extend([0, 0, 0, 0, 0, 0, 0, code]);
    bytes.extend(text.bytes());
    bytes.resize(GOAWAY_LEN, b' ');
    if let Some(len) = bytes.get_mut(11) {
        *len = u8::try_from(GOAWAY_LEN - 18).unwrap_or(0);
    }
    laid(&Answer::raw(bytes))
}

fn laid(answer: &Answer) -> Laid {
    let bytes = answer.bytes();
    let mut laid = Laid {
        len: u32::try_from(bytes.len().min(ANSWER_MAX - 4)).unwrap_or(0),
        sum: answer.sum(),
        bytes: [0; ANSWER_MAX],
    };
    for (slot, b) in laid.bytes.iter_mut().zip(bytes) {
        *slot = *b;
    }
    laid
}

/// Where the running kernel keeps what a request socket expects. Without it, data that comes with the handshake is
/// dropped, and comes again.
fn request_rcv_nxt() -> u32 {
    btf::offset("tcp_request_sock", "rcv_nxt").unwrap_or_else(|| {
        tracing::warn!(
            "the kernel's type information does not show tcp_request_sock.rcv_nxt: connections whose first data \
             comes with the handshake wait for a retransmission"
        );
        0
    })
}
