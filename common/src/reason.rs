//! The one numbered list of reasons and of kernel outcomes.
//!
//! Numbers are part of the pinned layout and of users' dashboards: entries are added at the end, never
//! renumbered, never reused. Answers, logs, metrics and `docs/reasons.md` use [`Reason::code`].

macro_rules! numbered {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $n:literal => $code:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        $vis enum $name { $($(#[doc = $doc])+ $variant = $n,)+ }

        impl $name {
            /// Every entry, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name used in answers, logs, metrics and documentation.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// One sentence for people, as in the documentation.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The entry with this number, if this version knows it.
            pub const fn from_number(n: u8) -> Option<Self> {
                match n { $($n => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

numbered! {
    /// Why a request was answered as it was, by the daemon or by the kernel.
    pub enum Reason {
        /// The policy allowed the request.
        Allowed = 0 => "allowed",
        /// The token, or a selector that matches it, is revoked.
        TokenRevoked = 1 => "token_revoked",
        /// The policy denied the request.
        PolicyDenied = 2 => "policy_denied",
        /// The request carries no token.
        TokenMissing = 3 => "token_missing",
        /// The token is not well formed, or the request carries more than one.
        TokenMalformed = 4 => "token_malformed",
        /// The token is longer than the configured limit.
        TokenTooLong = 5 => "token_too_long",
        /// The token's `exp` has passed.
        TokenExpired = 6 => "token_expired",
        /// The token's `nbf` or `iat` lies in the future.
        TokenNotYetValid = 7 => "token_not_yet_valid",
        /// The token's signature does not verify.
        SignatureInvalid = 8 => "signature_invalid",
        /// No configured key fits the token's `kid` and algorithm.
        KeyUnknown = 9 => "key_unknown",
        /// The token's algorithm is not allowed for its issuer or key.
        AlgorithmRefused = 10 => "algorithm_refused",
        /// The token's issuer is not configured.
        IssuerUnknown = 11 => "issuer_unknown",
        /// The token is meant for another audience.
        AudienceMismatch = 12 => "audience_mismatch",
        /// A required claim is absent or of the wrong type.
        ClaimsInvalid = 13 => "claims_invalid",
        /// The policy gave no decision.
        PolicyUndefined = 14 => "policy_undefined",
        /// The policy failed, or its decision is not one.
        PolicyError = 15 => "policy_error",
        /// The policy did not finish in time.
        PolicyTimeout = 16 => "policy_timeout",
        /// The daemon cannot decide yet or any more.
        NotReady = 17 => "not_ready",
        /// The request to the daemon is not well formed.
        RequestMalformed = 18 => "request_malformed",
        /// The request to the daemon is larger than the configured limit.
        RequestTooLarge = 19 => "request_too_large",
        /// The token is in the kernel's deny map by a policy's token-wide denial.
        TokenCondemned = 20 => "token_condemned",
        /// A rate limit that the policy sets is used up.
        RateLimited = 21 => "rate_limited",
        /// The daemon has more to decide than it can in time.
        Overloaded = 22 => "overloaded",
        /// The daemon failed while it decided.
        InternalError = 23 => "internal_error",
        /// Who asks is none of the gateways whose word is taken.
        PeerUntrusted = 24 => "peer_untrusted",
        /// The keys of the token's issuer have not been fetched yet.
        IssuerNotReady = 25 => "issuer_not_ready",
        /// The keys of the token's issuer could not be fetched for too long.
        KeysStale = 26 => "keys_stale",
        /// The token was issued longer ago than its issuer's tokens may be used.
        TokenTooOld = 27 => "token_too_old",
        /// No API key of this text was issued here.
        ApiKeyUnknown = 28 => "api_key_unknown",
        /// The API key was disabled.
        ApiKeyDisabled = 29 => "api_key_disabled",
        /// The introspection server gave no good answer, or was not asked because it keeps failing.
        IntrospectionFailed = 30 => "introspection_failed",
        /// The introspection server says that the token is not active.
        TokenInactive = 31 => "token_inactive",
        /// Tokens of this issuer must be bound to their sender, and this one is not.
        BindingRequired = 32 => "binding_required",
        /// The token is bound to a key or certificate, and the request does not prove that its sender has it.
        BindingUnproved = 33 => "binding_unproved",
        /// The request's DPoP proof is malformed, for another request or token, or too old.
        ProofInvalid = 34 => "proof_invalid",
        /// The request's DPoP proof was used before.
        ProofReplayed = 35 => "proof_replayed",
        /// The token's status list says that it is not valid any more, or has no entry for it.
        StatusInvalid = 36 => "status_invalid",
        /// The token's status list says that it is suspended.
        StatusSuspended = 37 => "status_suspended",
        /// The token names a status list that cannot be had, or that may not be asked for.
        StatusUnavailable = 38 => "status_unavailable",
    }
}

numbered! {
    /// What a kernel program did with a packet, a head or a token: the index of its counter.
    pub enum Outcome {
        /// TCP segments with payload to a guarded port.
        Segments = 0 => "segments",
        /// HTTP request heads begun.
        Requests = 1 => "requests",
        /// Tokens fingerprinted whole and looked up.
        Tokens = 2 => "tokens",
        /// Requests whose token is revoked.
        Revoked = 3 => "revoked",
        /// Requests whose token a policy condemned.
        Condemned = 4 => "condemned",
        /// Refused requests answered to the client, the server's connection reset.
        Responded = 5 => "responded",
        /// Refused requests whose connection was reset both ways.
        Reset = 6 => "reset",
        /// Refused requests dropped in silence.
        Dropped = 7 => "dropped",
        /// Requests that would have been refused, let through by reaction `observe`.
        Observed = 8 => "observed",
        /// Segments cut before a refused request, so that the requests ahead of it are answered first.
        Cut = 9 => "cut",
        /// Segments that begin a TLS record: nothing in them can be read.
        Opaque = 10 => "opaque",
        /// HTTP/2 prefaces: their requests are not read.
        Http2 = 11 => "http2",
        /// Heads longer than the limit; what lies beyond it was not read.
        HeadTooLong = 12 => "head_too_long",
        /// Tokens longer than the limit; they were not looked up.
        TokenTooLong = 13 => "token_too_long",
        /// Heads that go on in another segment.
        SplitHead = 14 => "split_head",
        /// Segments that do not begin a request (bodies, mostly).
        NotHttp = 15 => "not_http",
        /// Packets whose IP or TCP headers this program does not read (fragments, over-long header chains).
        Unsupported = 16 => "unsupported",
        /// Heads that HTTP parsers read differently.
        Ambiguous = 17 => "ambiguous",
        /// Late packets of a connection that was answered, dropped.
        TombstoneDropped = 18 => "tombstone_dropped",
        /// Late packets of a connection that was answered, answered with a reset.
        TombstoneReset = 19 => "tombstone_reset",
        /// Events that found the ring buffer full.
        EventsLost = 20 => "events_lost",
        /// Answers that could not be built; the packet was dropped instead.
        AnswerFailed = 21 => "answer_failed",
        /// Tokens found in the deny map whose entry no longer counts (expired, or an older generation).
        Lapsed = 22 => "lapsed",
        /// Refused requests held back until the server has answered what came before.
        Held = 23 => "held",
        /// Segments dropped because bytes before them are missing: the sender sends both again in order.
        Gap = 24 => "gap",
        /// Segments dropped because they contradict bytes that were passed before, or could not be compared.
        Contradiction = 25 => "contradiction",
        /// Connections reset because such segments kept coming.
        Contradicted = 26 => "contradicted",
        /// Segments dropped while another of the same connection was being read.
        Busy = 27 => "busy",
        /// Segments with the urgent flag or without the ACK flag, dropped.
        BadFlags = 28 => "bad_flags",
        /// Data in SYN segments, or before a handshake by SYN cookie has ended, dropped: the client sends it again.
        SynData = 29 => "syn_data",
        /// Offers of MPTCP taken out of a SYN.
        MptcpStripped = 30 => "mptcp_stripped",
        /// SYN segments that would join an MPTCP connection, dropped.
        MptcpJoin = 31 => "mptcp_join",
        /// First fragments and header chains that cannot be read, to a guarded port or to one that cannot be told: dropped.
        Fragment = 32 => "fragment",
        /// Segments without a socket on this host, read by themselves and passed (forwarded traffic, mostly).
        NoSocket = 33 => "no_socket",
        /// Segments of connections older than the attachment, read by themselves.
        Unguarded = 34 => "unguarded",
        /// Connections reset because a part of them was not seen, or they are older than the attachment.
        Lost = 35 => "lost",
        /// Requests refused because HTTP parsers read them differently.
        RefusedAmbiguous = 36 => "refused_ambiguous",
        /// Connections refused because they do not speak HTTP/1.
        RefusedNotHttp = 37 => "refused_not_http",
        /// Requests refused because their head is too long.
        RefusedTooLong = 38 => "refused_too_long",
        /// Connections refused because they speak HTTP/2, or were about to.
        RefusedHttp2 = 39 => "refused_http2",
        /// Connections refused because they are opaque.
        RefusedOpaque = 40 => "refused_opaque",
        /// Segments of tunnels (after `101`, or `2xx` to `CONNECT`) and of opaque connections, passed unread.
        Tunnelled = 41 => "tunnelled",
        /// Segments of body passed unread.
        Body = 42 => "body",
        /// Segments of connections whose token was condemned while they lived, dropped.
        Severed = 43 => "severed",
        /// Responses whose head was seen.
        Answered = 44 => "answered",
        /// Connections whose responses could not be followed: refusals on them are resets.
        AnswersLost = 45 => "answers_lost",
        /// Segments that gate dropped because guard had not read them.
        GateDropped = 46 => "gate_dropped",
        /// Segments that gate let through.
        GatePassed = 47 => "gate_passed",
        /// Connections that gate let nothing more through of, for a request was refused there.
        GateRefused = 48 => "gate_refused",
        /// Requests refused because the policy denied their token this method and target.
        Denied = 49 => "denied",
        /// Requests refused because their token's rate limit was reached.
        Limited = 50 => "limited",
        /// Requests passed uncounted because another CPU moved their token's rate limit at the same time.
        LimitRaced = 51 => "limit_raced",
        /// Requests without a verdict that the daemon was shown (learn and hold mode).
        Inquiry = 52 => "inquiry",
        /// Requests without a verdict that it could not be shown: its slots were in use, or an earlier part was gone.
        InquiryLost = 53 => "inquiry_lost",
        /// Requests without a verdict whose head is too long to be shown.
        InquiryTooLong = 54 => "inquiry_too_long",
        /// Segments held back until the daemon has decided (hold mode): the client sends them again.
        Waiting = 55 => "waiting",
        /// Packets dropped by shed before the kernel worked on them.
        Shed = 56 => "shed",
        /// Sources or connections that were refused so often that shed began to drop their packets.
        ShedBegun = 57 => "shed_begun",
        /// Refusals that did not count towards it, for `kernel.shed_never` names their source.
        ShedProxy = 58 => "shed_proxy",
        /// Sources with refusals that carried many tokens: likely proxies that `kernel.shed_never` should name.
        ShedManyTokens = 59 => "shed_many_tokens",
        /// Connections whose HTTP/2 frames are read.
        H2c = 60 => "h2c",
        /// Connections refused because their HTTP/2 frames or header blocks are malformed, or cannot be followed.
        RefusedFrames = 61 => "refused_frames",
        /// HTTP/2 streams that were open beside a refused one and ended with its connection.
        StreamsLost = 62 => "streams_lost",
    }
}

numbered! {
    /// What is counted of each guarded interface and port.
    pub enum Sight {
        /// TCP segments, acknowledgements and handshakes among them.
        Packets = 0 => "packets",
        /// Request heads that began.
        Requests = 1 => "requests",
        /// Refused for a revoked token.
        RefusedRevoked = 2 => "refused_revoked",
        /// Refused for a token that a policy condemned (401 or 403).
        RefusedCondemned = 3 => "refused_condemned",
        /// Refused for a token whose requests are limited (429).
        RefusedLimited = 4 => "refused_limited",
        /// Refused as parsers read it differently, cannot read it, or its connection's beginning is not known.
        RefusedMalformed = 5 => "refused_malformed",
        /// Refused for the length of its head.
        RefusedTooLong = 6 => "refused_too_long",
        /// Segments or connections that began like TLS.
        Opaque = 7 => "opaque",
        /// Segments or connections that began like HTTP/2.
        Http2 = 8 => "http2",
        /// Segments of connections that no state is kept of, read by themselves.
        Unguarded = 9 => "unguarded",
        /// Packets dropped by shed.
        Shed = 10 => "shed",
    }
}

/// Number of counters kept for each interface and port.
pub const SIGHTS: u32 = 16;

const _: () = assert!(Sight::ALL.len() <= SIGHTS as usize);

/// Number of counters a kernel program keeps.
pub const OUTCOMES: u32 = 128;

const _: () = assert!(Outcome::ALL.len() <= OUTCOMES as usize);

impl Reason {
    /// The HTTP status that a refusal with this reason carries where the protocol lets it be told.
    pub const fn status(self) -> u16 {
        match self {
            Self::Allowed => 200,
            Self::PolicyDenied | Self::PolicyUndefined | Self::PeerUntrusted => 403,
            Self::PolicyError
            | Self::PolicyTimeout
            | Self::NotReady
            | Self::Overloaded
            | Self::InternalError
            | Self::IssuerNotReady
            | Self::KeysStale
            | Self::IntrospectionFailed
            | Self::StatusUnavailable => 503,
            Self::RequestMalformed => 400,
            Self::RequestTooLarge => 413,
            Self::RateLimited => 429,
            _ => 401,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_codes_unique() {
        for (i, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
            assert_eq!(Reason::from_number(*r as u8), Some(*r));
            assert!(!r.describe().is_empty());
        }
        for (i, o) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*o as usize, i);
        }
        let mut codes: Vec<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        codes.extend(["segments"]);
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len() + 1);
        assert_eq!(Reason::from_number(255), None);
    }
}
