//! Every table and key, with documentation and default. Order here is the order of the reference page.

mod fleet;
mod kernel;
mod standards;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use fleet::{Acknowledge, Fleet};
pub use kernel::{
    AttachMode, EnforcementMode, GateMode, Kernel, KernelMode, MissingMode, OlderMode, OpaqueMode,
    ReactionMode, ShedAttach, ShedMode, UnknownMode,
};
pub use standards::{
    ClientRevokes, PublishedList, Ssf, SsfAction, SsfDelivery, SsfTransmitter, Standards, StandardsClient,
    TokenStatusList, UnavailableMode,
};

use super::{
    section::section,
    values::{Endpoint, Prefix, Span},
};

/// How a gateway tells a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateForm {
    /// Envoy's `x-forwarded-client-cert`.
    Xfcc,
    /// Percent-encoded PEM.
    Pem,
    /// Its SHA-256.
    Thumbprint,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// A front door that can fail open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailOpenDoor {
    /// `/auth` and `/forward-auth`.
    ForwardAuth,
    /// Envoy by gRPC.
    ExtAuthz,
    /// Envoy by HTTP.
    ExtAuthzHttp,
    /// AuthZEN.
    Authzen,
}

/// Where lines of the decision log go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSink {
    /// Nowhere.
    Off,
    /// To a file.
    File,
    /// To standard output.
    Stdout,
    /// To a server.
    Http,
}

/// Claims that describe a person (OpenID Connect Core 5.1, and what Microsoft's tokens call them).
const CLAIMS: [&str; 20] = [
    "name",
    "given_name",
    "family_name",
    "middle_name",
    "nickname",
    "preferred_username",
    "profile",
    "picture",
    "website",
    "email",
    "gender",
    "birthdate",
    "zoneinfo",
    "locale",
    "phone_number",
    "address",
    "upn",
    "unique_name",
    "username",
    "ipaddr",
];

section! {
    /// Where tokens are found and how they are verified. Each issuer is a `[[token.issuer]]` table.
    Token as "token" {
        /// `Authorization` schemes that carry a token, in any letter case; at most eight.
        schemes: Vec<String> = vec!["Bearer".to_owned(), "DPoP".to_owned()],
        /// Headers whose whole value is a token, such as `X-Api-Key`; at most four.
        key_headers: Vec<String> = Vec::new(),
        /// Longest token accepted, in bytes; at most `kernel.max_head`.
        max_bytes: u32 = 4096,
        /// Tolerance for clocks that differ, for `exp`, `nbf` and `iat`.
        leeway: Span = Span::seconds(30),
        /// File that holds the secret fingerprint key; made on first start, mode 0600.
        fingerprint_key: PathBuf = PathBuf::from("/var/lib/portcullis/fingerprint.key"),
        /// File of a second fingerprint key that is in force too, while the key is being changed: the next one before the
        /// change, the one before after it. Neither file is made then. See fleet.md.
        other_fingerprint_key: Option<PathBuf> = None,
        /// The issuers whose tokens are accepted.
        issuer: Vec<Issuer> = Vec::new(),
        /// API keys that this daemon issues.
        api_keys: ApiKeys = ApiKeys::default(),
        /// A server that is asked about opaque tokens.
        introspection: Introspection = Introspection::default(),
        /// Proofs of whose a bound token is.
        binding: Binding = Binding::default(),
        /// Lists of tokens that were taken back.
        status_list: TokenStatusList = TokenStatusList::default(),
    }
}

section! {
    /// API keys that this daemon issues by `portcullis keys`: see tokens.md.
    ApiKeys as "token.api_keys" {
        /// File that holds them, hashed; made where it is not there, mode 0600. Without it there are no API keys.
        file: Option<PathBuf> = None,
        /// What their texts begin with, so that secret scanners find them: up to 15 letters and digits.
        prefix: String = "pk".to_owned(),
        /// `iss` of their identities.
        issuer: String = "portcullis:api-keys".to_owned(),
    }
}

section! {
    /// One issuer. Exactly one of `jwks_file`, `pem_file`, `hmac_file`, `jwks_url` and `discovery` gives its keys. See
    /// tokens.md.
    Issuer as "token.issuer" {
        /// The exact value of `iss`.
        issuer: String = String::new(),
        /// Accepted values of `aud`; where none is given, `aud` is not asked for.
        audience: Vec<String> = Vec::new(),
        /// Accepted algorithms (`ES256`, `ES384`, `ES512`, `EdDSA`, `RS256` to `RS512`, `PS256` to `PS512`, `HS256` to `HS512`).
        algorithms: Vec<String> = Vec::new(),
        /// JWK set file (RFC 7517).
        jwks_file: Option<PathBuf> = None,
        /// Public key or certificate file (PEM).
        pem_file: Option<PathBuf> = None,
        /// File with the raw secret of HMAC algorithms, at least 32 bytes.
        hmac_file: Option<PathBuf> = None,
        /// `kid` of the key in `pem_file` or `hmac_file`.
        kid: Option<String> = None,
        /// Address of a JWK set. Other hosts than this one are asked by `https` alone.
        jwks_url: Option<String> = None,
        /// Whether the issuer itself says where its keys are, at `<issuer>/.well-known/openid-configuration`.
        discovery: bool = false,
        /// Authorities that the server of the keys is believed from (PEM); the system's where none is given.
        ca_file: Option<PathBuf> = None,
        /// Whether that server may be on another host and asked without TLS: whoever is on the way can then make tokens.
        plain_http: bool = false,
        /// Longest time between two fetches of the keys. The server's `Cache-Control: max-age` may shorten it.
        refresh: Span = Span::seconds(300),
        /// Shortest time between two fetches, also of those that a token with an unknown `kid` asks for.
        refresh_min: Span = Span::seconds(30),
        /// How old keys may become while their server fails. Then the issuer's tokens are denied as `keys_stale`.
        jwks_max_stale: Span = Span::seconds(24 * 3600),
        /// Longest time for one request to that server.
        jwks_timeout: Span = Span::seconds(5),
        /// How long a token waits whose `kid` is unknown while the keys are fetched, at most 2 s; others do not wait.
        jwks_wait: Span = Span(std::time::Duration::from_millis(200)),
        /// Accepted values of the header's `typ`, such as `["at+jwt"]`. Where none is given: `JWT`, `at+jwt`, or no `typ`.
        typ: Vec<String> = Vec::new(),
        /// Tolerance for clocks in place of `token.leeway`.
        leeway: Option<Span> = None,
        /// Longest time since `iat` that its tokens are accepted, whatever their `exp` says; `iat` must then be there.
        max_age: Option<Span> = None,
        /// Claims that must be there and not null.
        required_claims: Vec<String> = Vec::new(),
        /// Whether its tokens must be bound to their sender (`cnf`): see `[token.binding]`.
        require_bound: bool = false,
    }
}

section! {
    /// A server that is asked about opaque tokens (RFC 7662): see tokens.md. Texts that look like a JWT or like an API key
    /// of this daemon's are never sent to it.
    Introspection as "token.introspection" {
        /// Its address; without one nobody is asked. Other hosts than this one are asked by `https` alone.
        url: Option<String> = None,
        /// `iss` of its tokens. An answer that says another is refused.
        issuer: String = String::new(),
        /// Accepted values of `aud`; where none is given, `aud` is not asked for.
        audience: Vec<String> = Vec::new(),
        /// The OAuth client that asks, with `secret_file` by HTTP Basic.
        client_id: Option<String> = None,
        /// File with its secret; without `client_id`, with a token that is sent as `Bearer`. Others may not read it.
        secret_file: Option<PathBuf> = None,
        /// Authorities that the server is believed from (PEM); the system's where none is given.
        ca_file: Option<PathBuf> = None,
        /// Whether it may be on another host and asked without TLS: whoever is on the way then sees the tokens.
        plain_http: bool = false,
        /// Longest time for one request, at most 5 s. Then the token is denied as `introspection_failed`.
        timeout: Span = Span::seconds(1),
        /// Longest time that a good answer is kept, and so how late a token's end there may be seen here; never beyond `exp`.
        ttl: Span = Span::seconds(30),
        /// How long it is kept that a token is not active.
        negative_ttl: Span = Span::seconds(10),
        /// Answers kept.
        entries: u64 = 100_000,
        /// Failures in a row after which the server is left alone for `pause`, and its tokens are denied at once.
        failures: u32 = 5,
        /// For how long. Then one request is let through to see.
        pause: Span = Span::seconds(10),
        /// Whether its tokens must be bound to their sender (`cnf`).
        require_bound: bool = false,
    }
}

section! {
    /// Proofs of whose a token with `cnf` is, by DPoP (RFC 9449) or the client's certificate (RFC 8705): see tokens.md.
    Binding as "token.binding" {
        /// Header, in lower case, in which the gateway tells the client's certificate, such as `x-forwarded-client-cert`.
        /// The gateway must take the client's own away. Without it no certificate is believed.
        certificate_header: Option<String> = None,
        /// Its form: `"xfcc"` (Envoy), `"pem"` (percent-encoded, nginx's `$ssl_client_escaped_cert`) or `"thumbprint"`
        /// (SHA-256 in hex or base64url).
        certificate_format: CertificateForm = CertificateForm::Xfcc,
        /// Longest age of a DPoP proof, by its `iat`.
        proof_age: Span = Span::seconds(60),
        /// DPoP proofs remembered at once, each for that time. Without room bound tokens are denied.
        proofs: u64 = 1_000_000,
        /// Whether proofs for `http` addresses count too.
        plain_http: bool = false,
    }
}

section! {
    /// The Rego policies.
    Policy as "policy" {
        /// Directories with `.rego`, `data.json` and `data.yaml` files.
        dirs: Vec<PathBuf> = vec![PathBuf::from("/etc/portcullis/policies")],
        /// Directories of a candidate set, which decides beside the live one without effect: `portcullis policy shadow`
        /// tells what would change, `portcullis policy promote` puts it in force. None is looked for where it is empty.
        candidate_dirs: Vec<PathBuf> = Vec::new(),
        /// Most decisions a second that the candidate makes too.
        candidate_rate: u32 = 500,
        /// Where promoted sets are kept, with the one before for `portcullis policy rollback`; and of each bundle the last
        /// good archive and what it unpacks to.
        state_dir: PathBuf = PathBuf::from("/var/lib/portcullis/policies"),
        /// The rule that gives decisions.
        decision: String = "portcullis/decision".to_owned(),
        /// Load again when a file changes. A set that does not parse, compile or pass its tests is not taken.
        watch: bool = true,
        /// A set whose own tests fail is refused. `false` takes it untested, and is shown in `status`, in the log
        /// and by a metric; then the two engines are not compared by its tests either.
        require_tests: bool = true,
        /// Largest bundle, in bytes as it is sent; unpacked it may be sixteen times as large.
        bundle_max_bytes: u64 = 64 << 20,
        /// Modules are read as Rego v0 (`allow { … }`), but for those with `import rego.v1`: for policies that wait to be
        /// rewritten (`opa fmt --rego-v1`). Such a set runs on the slower interpreter.
        rego_v0: bool = false,
        /// What policies may ask servers.
        http_send: HttpSend = HttpSend::default(),
        /// Bundles, beside the directories.
        bundle: Vec<PolicyBundle> = Vec::new(),
        /// A builtin that fails (`to_number("x")`) fails the decision, which then denies. OPA makes it undefined,
        /// which can switch a denying rule off. Strict sets run on the slower interpreter.
        strict_builtin_errors: bool = false,
    }
}

section! {
    /// Servers that policies may ask by `http.send`. It is off where no host is named, and a set that calls it is then
    /// refused. Changes of this table take a restart.
    HttpSend as "policy.http_send" {
        /// Hosts that may be asked, by `https` and at public addresses alone: `"authz.example.com"`, or with a port
        /// (`"authz.example.com:8443"`; else 443).
        hosts: Vec<String> = Vec::new(),
        /// Hosts of your own network or of this host, which may have addresses that are not public; each with its
        /// port: `"authz.internal:443"`. At this host's own addresses (`"127.0.0.1:9000"`) plain `http` is spoken too.
        private_hosts: Vec<String> = Vec::new(),
        /// The only authorities that are believed (PEM); the system's where none is given.
        ca_file: Option<PathBuf> = None,
        /// Longest time for one request, whatever the policy gives it.
        timeout: Span = Span(std::time::Duration::from_millis(500)),
        /// Longest time that a decision waits for servers, all its requests together. The evaluation has its own.
        budget: Span = Span::seconds(1),
        /// Most requests of one decision.
        max_calls: u32 = 8,
        /// Longest answer, in bytes.
        max_body: u64 = 1 << 20,
        /// Bytes of answers that are kept for other decisions (`cache`, `force_cache`).
        cache_bytes: u64 = 16 << 20,
        /// Most requests under way at once; what comes on top fails at once.
        at_once: u32 = 64,
    }
}

section! {
    /// A bundle as `opa build` makes it, from a file or a server. It comes into force with the directories and the
    /// other bundles, whole and only if the set passes its tests; the last one that did is used at the next start, should
    /// the server not answer. Changes of these tables take a restart.
    PolicyBundle as "policy.bundle" {
        /// Its name: letters, digits and dashes.
        name: String = String::new(),
        /// The archive's address: `https`, or `http` on this host.
        url: Option<String> = None,
        /// The archive's file, in place of `url`; read again on `portcullis reload`.
        file: Option<PathBuf> = None,
        /// The key that it must be signed with (PEM, or a secret for `HS256` and its like). Without one, signatures are
        /// not asked for.
        key_file: Option<PathBuf> = None,
        /// The signature's algorithm; `RS256` where none is given. It takes a `key_file`, as the next two do.
        key_algorithm: Option<String> = None,
        /// The name that signatures give the key, where they give one.
        key_id: Option<String> = None,
        /// The scope that signatures must have.
        scope: Option<String> = None,
        /// File with the bearer token for the server.
        bearer_file: Option<PathBuf> = None,
        /// The only authorities that are believed (PEM); the system's where none is given.
        ca_file: Option<PathBuf> = None,
        /// Plain `http` may be spoken to other hosts.
        plain_http: bool = false,
        /// Shortest time from one request to the next.
        poll_min: Span = Span::seconds(60),
        /// Longest; the time is taken at random between the two.
        poll_max: Span = Span::seconds(120),
        /// How long the server may hold a request until there is something new (long polling), where it does that.
        long_poll: Span = Span::seconds(0),
    }
}

section! {
    /// How decisions are made and kept.
    Decide as "decide" {
        /// Verdicts kept in memory.
        cache_entries: u64 = 100_000,
        /// How long a verdict is kept whose policy gives no `ttl`; 0 s keeps none.
        default_ttl: Span = Span::seconds(0),
        /// The same of a verdict that denies; without it, as long as one that allows.
        deny_ttl: Option<Span> = None,
        /// Longest time a verdict is kept, whatever the policy says.
        max_ttl: Span = Span::seconds(300),
        /// Keys of rate limits kept at once, about 40 bytes each. A request of another key is denied while none of
        /// them has lapsed.
        limit_entries: u64 = 1_000_000,
        /// Request headers that policies may read, in lower case. Those that they do read are part of the cache key.
        headers: Vec<String> = Vec::new(),
        /// How long requests may wait for their turn before those that are not in the verdict cache are refused as
        /// `overloaded`; 0 s refuses none.
        max_lag: Span = Span(std::time::Duration::from_millis(100)),
    }
}

section! {
    /// The durable store of revocations.
    Revocation as "revocation" {
        /// The store's directory. A file of an earlier version under this name, or with `.redb` behind it, is taken over.
        store: PathBuf = PathBuf::from("/var/lib/portcullis/revocations"),
        /// How long a revocation holds that names no time: longer than any token lives.
        default_ttl: Span = Span::seconds(30 * 24 * 3600),
        /// How long the audit log is kept: the store's files that no revocation in force needs any more.
        audit_keep: Span = Span::seconds(31_557_600),
        /// How many bytes of these are kept at most.
        audit_max_bytes: u64 = 4 << 30,
    }
}

section! {
    /// Who this host is, for policies (`data.portcullis.host`, `data.portcullis.region`) and in every line of the
    /// decision log.
    Host as "host" {
        /// Its name; the kernel's host name where none is given.
        name: Option<String> = None,
        /// Where it stands, such as `"eu-west"`; policies find nothing where none is given.
        region: Option<String> = None,
        /// MaxMind DB files (`GeoLite2-Country.mmdb`, `…-City`, `…-ASN` and others of the format) that say where
        /// clients' addresses are, for policies (`input.request.geo`). A replaced file is read by itself.
        geo_databases: Vec<PathBuf> = Vec::new(),
        /// Labels of the operator's own, such as `{ rack = "7" }`.
        labels: BTreeMap<String, String> = BTreeMap::new(),
    }
}

section! {
    /// When tokens and subjects were used first and last, for policies on dormant ones (`input.usage`).
    Usage as "usage" {
        /// The file; without it nothing is noted, and nothing is dormant.
        file: Option<PathBuf> = None,
        /// Most entries: one for a token and one for its subject and client, about 60 bytes of memory each. Those used
        /// longest ago make room for others.
        max_entries: u64 = 500_000,
        /// How long an entry stays that is not used.
        keep: Span = Span::seconds(31_557_600),
    }
}

section! {
    /// The decision log: one JSON object a decision, in OPA's format. See decision-log.md.
    DecisionLog as "decision_log" {
        /// Where lines go: `"off"`, `"file"`, `"stdout"` or `"http"`. It is off unless it is asked for: lines hold
        /// what people did, and take room.
        sink: LogSink = LogSink::Off,
        /// The file, mode 0600.
        file: PathBuf = PathBuf::from("/var/log/portcullis/decisions.log"),
        /// Bytes after which the next file is begun.
        max_bytes: u64 = 256 << 20,
        /// Age after which the next file is begun.
        max_age: Span = Span::seconds(24 * 3600),
        /// Earlier files kept, as `decisions.log.1` (the newest) and so on.
        keep: u32 = 7,
        /// Where `"http"` sends batches: `POST` of a JSON array of lines, compressed by gzip, as OPA sends them. Plain
        /// `http` is spoken to this host alone.
        url: String = String::new(),
        /// A file with the token for its `Authorization: Bearer`, read for each batch.
        bearer_file: Option<PathBuf> = None,
        /// The only authorities (PEM) that its server is believed by; the system's where none are given.
        ca_file: Option<PathBuf> = None,
        /// Bytes of lines after which a batch is sent.
        batch_bytes: u64 = 1 << 20,
        /// Time after which a batch is sent whatever it holds.
        batch_time: Span = Span::seconds(5),
        /// How long a batch is tried again (no connection, 408, 425, 429, 5xx). Eight more wait meanwhile.
        retry_for: Span = Span::seconds(300),
        /// How long one try may take.
        timeout: Span = Span::seconds(30),
        /// Bytes of memory for decisions that wait to be written. What finds no room is dropped and counted: no
        /// decision waits.
        buffer_bytes: u64 = 16 << 20,
        /// One of so many allows is written, with the number in its line. Denials always are.
        sample_allows: u32 = 1,
        /// Headers of `decide.headers` that lines may hold. All others are taken out.
        headers: Vec<String> = Vec::new(),
        /// Claims that are taken out of `input.identity`: those of OpenID Connect that describe a person. `sub` stays,
        /// unless it is named here.
        erase_claims: Vec<String> = CLAIMS.map(str::to_owned).to_vec(),
        /// Refusals by the kernel are written too, as lines of a kind of their own.
        kernel: bool = false,
    }
}

section! {
    /// The front doors. Every listener serves all of them, by HTTP/1 and HTTP/2: see gateways.md.
    Serve as "serve" {
        /// Where to listen in plain text: addresses, and Unix sockets as `"unix:/path"`. Whoever reaches them can
        /// ask; keep them on loopback or a private network.
        listen: Vec<Endpoint> = vec![Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 8181)))],
        /// Networks of the gateways (`"10.0.0.0/8"`, or an address). Where any are named, forward-auth and `ext_authz`
        /// refuse all other peers as `peer_untrusted`: what they say of a client's request is not believed. Unix
        /// sockets and mutual TLS have their own ways to tell who asks, and are always believed.
        gateways: Vec<Prefix> = Vec::new(),
        /// Further listeners, with TLS.
        tls: Vec<ServeTls> = Vec::new(),
        /// Mode of the Unix sockets' files, in octal digits.
        socket_mode: String = "0660".to_owned(),
        /// Their group, such as that of the gateway; the daemon's own where none is given.
        socket_group: Option<String> = None,
        /// Where the token sits in the input of `/v1/data`, as a path below `input`.
        token_path: String = "input.token".to_owned(),
        /// Where the token sits in an AuthZEN evaluation.
        authzen_token: String = "context.token".to_owned(),
        /// Longest request body, in bytes.
        max_body: u32 = 256 * 1024,
        /// Front doors that let requests pass when a decision cannot be made (policy failure, overload, not ready):
        /// `"forward_auth"`, `"ext_authz"`, `"ext_authz_http"`, `"authzen"`. A metric counts them. OPA's API is not
        /// among them: what an absent answer means is its client's to say.
        fail_open: Vec<FailOpenDoor> = Vec::new(),
        /// The decision that OPA's `POST /` asks for, as a path below `data`.
        default_decision: String = "system/main".to_owned(),
        /// Directory where policies and data are kept that OPA's API writes (`PUT`, `PATCH`, `DELETE`). Without it the
        /// API is read-only: whoever reaches the front doors could change what is decided.
        opa_writes: Option<PathBuf> = None,
        /// Whether gRPC `ext_authz` also gives policies the input that OPA's Envoy plugin does (`input.attributes`,
        /// `parsed_path`, `parsed_query`, `parsed_body`), so that Rego written for it runs unchanged. It holds the request
        /// whole, the `authorization` header among it, and makes a check some microseconds dearer.
        envoy_input: bool = false,
        /// Below which path Envoy's HTTP form of `ext_authz` is answered; empty switches it off.
        ext_authz_prefix: String = "/ext_authz".to_owned(),
    }
}

section! {
    /// Listeners of the front doors with TLS. Renewed files are read by themselves.
    ServeTls as "serve.tls" {
        /// Addresses to listen on.
        listen: Vec<SocketAddr> = Vec::new(),
        /// Certificates in PEM, the listener's own first.
        certificate: PathBuf = PathBuf::new(),
        /// Its private key in PEM, which others on the host may not read.
        key: PathBuf = PathBuf::new(),
        /// Authorities in PEM, one of which must have signed a client's certificate. Without it none is asked for.
        client_ca: Option<PathBuf> = None,
    }
}

section! {
    /// The admin API, on a Unix socket of mode 0600; and over TLS, where that is configured: see revocation.md.
    Admin as "admin" {
        /// The socket's path.
        socket: PathBuf = PathBuf::from("/run/portcullis/admin.sock"),
        /// Listeners for those who are not on the host: `[[admin.tls]]` tables with the keys of `[[serve.tls]]`. Callers
        /// show a certificate, or a bearer token of an issuer that is configured.
        tls: Vec<ServeTls> = Vec::new(),
        /// The rule of the policy set that says which of their requests are allowed, such as `"admin/allow"`: it must be
        /// `true`. Its input has `request`, `identity` (what the token says), `certificate` and `source`.
        decision: String = String::new(),
    }
}

section! {
    /// Metrics and health.
    Observe as "observe" {
        /// Address of `/metrics`, `/health` and `/ready`.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9187)),
    }
}

section! {
    /// Traces: a span for each decision, in the trace that the gateway's `traceparent` names (for gRPC, that of its own
    /// call), sent to an OpenTelemetry collector by OTLP over HTTP, in JSON.
    Trace as "trace" {
        /// The collector's address for traces, such as `"http://127.0.0.1:4318/v1/traces"`; none sends nothing.
        endpoint: Option<String> = None,
        /// Of requests without a `traceparent`, the share that is traced, from 0 to 1. With one, the gateway's word counts.
        sample: f64 = 0.0,
        /// `service.name`.
        service: String = "portcullis".to_owned(),
        /// File with a bearer token for the collector.
        bearer_file: Option<PathBuf> = None,
        /// The only authorities that are believed (PEM); the system's where none is given.
        ca_file: Option<PathBuf> = None,
        /// Plain `http` may be spoken to other hosts.
        plain_http: bool = false,
    }
}

section! {
    /// Log lines, on standard error.
    Log as "log" {
        /// `"auto"` is for people on a terminal and JSON otherwise.
        format: LogFormat = LogFormat::Auto,
        /// A filter such as `"info"` or `"portcullis=debug,warn"`.
        level: String = "info".to_owned(),
    }
}

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[kernel]`
    pub kernel: Kernel,
    /// `[token]`
    pub token: Token,
    /// `[policy]`
    pub policy: Policy,
    /// `[decide]`
    pub decide: Decide,
    /// `[revocation]`
    pub revocation: Revocation,
    /// `[host]`
    pub host: Host,
    /// `[usage]`
    pub usage: Usage,
    /// `[decision_log]`
    pub decision_log: DecisionLog,
    /// `[serve]`
    pub serve: Serve,
    /// `[admin]`
    pub admin: Admin,
    /// `[observe]`
    pub observe: Observe,
    /// `[log]`
    pub log: Log,
    /// `[trace]`
    pub trace: Trace,
    /// `[standards]`
    pub standards: Standards,
    /// `[ssf]`
    pub ssf: Ssf,
    /// `[fleet]`
    pub fleet: Fleet,
}
