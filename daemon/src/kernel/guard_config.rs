//! The kernel programs' settings, laid out.

use portcullis_common::layout::{
    ANSWER_MAX, ANSWERS, Answer as Laid, GuardConfig, ScanConfig, ScanConfigError,
};

use super::{Answer, Enforcement, KernelError, Settings, btf};
use portcullis_common::head::ODD_ANY;

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
    let mut answers = [Laid { len: 0, sum: 0, bytes: [0; ANSWER_MAX] }; ANSWERS];
    for (slot, answer) in answers.iter_mut().zip(s.answers.in_order()) {
        *slot = laid(answer);
    }
    Ok(GuardConfig {
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
