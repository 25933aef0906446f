//! The scanner against a parser of another making: whole streams, split at once, by lines.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::fingerprint::Key;

const KEY: Key = Key { k0: 11, k1: 22 };

fn config() -> ScanConfig {
    ScanConfig::new(KEY, &["Bearer", "DPoP"], &["X-Api-Key"]).unwrap()
}

/// Takes every token; refuses one of them.
#[derive(Default)]
struct Seen {
    tokens: Vec<DenyFingerprint>,
    refuse: Option<DenyFingerprint>,
}

impl Sink for Seen {
    fn token(&mut self, f: DenyFingerprint) -> bool {
        self.tokens.push(f);
        self.refuse == Some(f)
    }
}

/// Feeds a stream in pieces of these lengths (the last one takes the rest), as the kernel program feeds
/// segments: what a window leaves unread is presented again.
fn run(stream: &[u8], pieces: &[usize], seen: &mut Seen) -> (Scan, Step) {
    run_with(&config(), stream, pieces, seen)
}

fn run_with(config: &ScanConfig, stream: &[u8], pieces: &[usize], seen: &mut impl Sink) -> (Scan, Step) {
    run_from(Scan::new(), config, stream, pieces, seen)
}

fn run_from(
    mut scan: Scan,
    config: &ScanConfig,
    stream: &[u8],
    pieces: &[usize],
    seen: &mut impl Sink,
) -> (Scan, Step) {
    let mut buffer = [0xaa_u8; BUFFER];
    let (mut at, mut available, mut pieces) = (0, 0, pieces.iter());
    loop {
        available = pieces.next().map_or(stream.len(), |n| (available + n).min(stream.len()));
        loop {
            let n = (available - at).min(WINDOW);
            if n == 0 {
                break;
            }
            buffer[FRONT..FRONT + n].copy_from_slice(&stream[at..at + n]);
            let mut c = Cursor {
                end: u32::try_from(n).unwrap(),
                last: u32::from(at + n == available),
                ..Cursor::default()
            };
            let mut steps = 0;
            let step = loop {
                let step = step_in(&mut scan, &mut c, &buffer, config, seen);
                steps += 1;
                assert!(steps <= MAX_STEPS, "the scanner does not get on");
                if step != Step::Again {
                    break step;
                }
            };
            if step != Step::More {
                return (scan, step);
            }
            assert!(c.at <= c.end, "{} > {} mode {} seen {} {step:?}", c.at, c.end, scan.mode, scan.seen);
            assert!(n < WINDOW || c.at > 0, "a full window must be read in part");
            assert!((c.end - c.at) as usize <= MAX_UNREAD, "{} bytes unread", c.end - c.at);
            scan.next_window(&c);
            at += c.at as usize;
            let skip = usize::try_from(scan.skippable()).unwrap().min(available - at);
            scan.skip(skip as u64);
            at += skip;
            if c.last != 0 {
                break;
            }
        }
        if available == stream.len() {
            return (scan, Step::More);
        }
    }
}

fn tokens(stream: &[u8], pieces: &[usize]) -> Vec<DenyFingerprint> {
    let mut seen = Seen::default();
    run(stream, pieces, &mut seen);
    seen.tokens
}

/// The other parser: the tokens of a stream of whole requests.
fn reference(mut stream: &[u8]) -> Vec<DenyFingerprint> {
    let mut found = Vec::new();
    while let Some((line, mut rest)) = take_line(stream) {
        if line.is_empty() {
            stream = rest;
            continue;
        }
        let (mut length, mut chunked) = (0, false);
        let mut unfolded: Vec<(String, Vec<u8>)> = Vec::new();
        loop {
            let Some((line, next)) = take_line(rest) else { return found };
            rest = next;
            if line.is_empty() {
                break;
            }
            if line[0] == b' ' || line[0] == b'\t' {
                if let Some((_, value)) = unfolded.last_mut() {
                    value.push(b' ');
                    value.extend_from_slice(line);
                }
                continue;
            }
            let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
            let name = String::from_utf8_lossy(&line[..colon]).trim_end().to_ascii_lowercase();
            unfolded.push((name, line.get(colon + 1..).unwrap_or_default().to_vec()));
        }
        for (name, value) in unfolded {
            let words: Vec<&[u8]> = value
                .split(|b| *b == b' ' || *b == b'\t' || (*b == b',' && name == "authorization"))
                .filter(|w| !w.is_empty())
                .collect();
            match name.as_str() {
                "authorization" => {
                    let mut words = words.iter();
                    while let Some(scheme) = words.next() {
                        if !(scheme.eq_ignore_ascii_case(b"bearer") || scheme.eq_ignore_ascii_case(b"dpop")) {
                            break;
                        }
                        found.extend(words.next().map(|t| KEY.deny(t)));
                    }
                }
                "x-api-key" => found.extend(words.first().map(|t| KEY.deny(t))),
                "content-length" => length = String::from_utf8_lossy(&value).trim().parse().unwrap_or(0),
                "transfer-encoding" => chunked = value.to_ascii_lowercase().ends_with(b"chunked"),
                _ => {}
            }
        }
        if chunked {
            while let Some((line, next)) = take_line(rest) {
                let size = usize::from_str_radix(
                    String::from_utf8_lossy(line).split(';').next().unwrap().trim(),
                    16,
                )
                .unwrap();
                rest = next;
                if size == 0 {
                    while let Some((line, next)) = take_line(rest) {
                        rest = next;
                        if line.is_empty() {
                            break;
                        }
                    }
                    break;
                }
                rest = &rest[size + 2..];
            }
            stream = rest;
        } else {
            stream = &rest[length.min(rest.len())..];
        }
    }
    found
}

fn take_line(s: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = s.iter().position(|b| *b == b'\n')?;
    Some((s[..end].strip_suffix(b"\r").unwrap_or(&s[..end]), &s[end + 1..]))
}

fn token_text() -> impl Strategy<Value = String> {
    let part = "[A-Za-z0-9_-]{0,300}";
    prop_oneof![
        (part, part, part).prop_map(|(a, b, c)| format!("ey{a}.{b}.{c}")),
        (part, part, part).prop_map(|(a, b, c)| format!("{a}.{b}.{c}")),
        proptest::collection::vec("[A-Za-z0-9_-]{0,40}", 4..7).prop_map(|p| format!("ew{}", p.join("."))),
        "[!-+\\--~]{1,80}",
        "[A-Za-z0-9]{1,24}",
    ]
}

fn any_case(text: &'static str) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<bool>(), text.len()).prop_map(move |upper| {
        let flip = |(c, up): (char, bool)| if up { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        text.chars().zip(upper).map(flip).collect()
    })
}

fn header() -> impl Strategy<Value = String> {
    let space = "[ \t]{0,3}";
    prop_oneof![
        3 => (any_case("authorization"), space, any_case("bearer"), "[ \t]{1,3}", token_text(), space)
            .prop_map(|(n, a, s, b, t, c)| format!("{n}:{a}{s}{b}{t}{c}\r\n")),
        1 => (token_text(), token_text()).prop_map(|(a, b)| format!("Authorization: DPoP {a}, Bearer {b}\r\n")),
        1 => token_text().prop_map(|t| format!("Authorization: Bearer\r\n {t}\r\n")),
        1 => token_text().prop_map(|t| format!("Authorization : Bearer {t}\r\n")),
        1 => "[A-Za-z0-9+/=]{1,60}".prop_map(|t| format!("Authorization: Basic {t}\r\n")),
        2 => (any_case("x-api-key"), "[!-~]{1,100}").prop_map(|(n, t)| format!("{n}: {t}\r\n")),
        4 => ("[A-Za-z-]{1,40}", "[ -~]{0,200}")
            .prop_filter("no name of interest", |(n, _)| {
                let n = n.to_ascii_lowercase();
                !["authorization", "x-api-key", "content-length", "transfer-encoding"].contains(&n.as_str())
            })
            .prop_map(|(n, v)| format!("{n}: {v}\r\n")),
        1 => "[ -~]{0,60}".prop_map(|v| format!("X-Authorization: Bearer {v}\n")),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        3 => Just(None),
        2 => proptest::collection::vec(any::<u8>(), 0..400).prop_map(|b| Some((false, b))),
        2 => proptest::collection::vec(any::<u8>(), 0..400).prop_map(|b| Some((true, b))),
    ];
    ("[A-Z]{1,12}", "/[!-~]{0,300}", proptest::collection::vec(header(), 0..8), body, 1usize..100).prop_map(
        |(method, target, headers, body, chunk)| {
            let mut r = format!("{method} {target} HTTP/1.1\r\n{}", headers.concat());
            match body {
                None => r.push_str("\r\n"),
                Some((false, b)) => {
                    write!(r, "Content-Length: {}\r\n\r\n", b.len()).unwrap();
                    return [r.into_bytes(), b].concat();
                }
                Some((true, b)) => {
                    r.push_str("Transfer-Encoding: chunked\r\n\r\n");
                    let mut out = r.into_bytes();
                    for c in b.chunks(chunk) {
                        out.extend(format!("{:x};ext=1\r\n", c.len()).bytes());
                        out.extend(c);
                        out.extend(b"\r\n");
                    }
                    out.extend(b"0\r\nAuthorization: Bearer trailer\r\n\r\n");
                    return out;
                }
            }
            r.into_bytes()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn finds_what_the_other_parser_finds_however_the_stream_is_cut(
        requests in proptest::collection::vec(request(), 1..5),
        pieces in proptest::collection::vec(1usize..700, 0..40),
    ) {
        let stream = requests.concat();
        let expected = reference(&stream);
        prop_assert_eq!(&tokens(&stream, &[]), &expected, "whole");
        prop_assert_eq!(&tokens(&stream, &pieces), &expected, "cut");
        let mut seen = Seen::default();
        let (scan, step) = run(&stream, &[], &mut seen);
        prop_assert_eq!(step, Step::More);
        prop_assert!(!scan.in_head());
        prop_assert_eq!(scan.heads as usize, requests.len());
    }

    #[test]
    fn any_bytes_are_read_without_harm(stream in proptest::collection::vec(any::<u8>(), 0..9000), pieces in proptest::collection::vec(1usize..5000, 0..8)) {
        tokens(&stream, &pieces);
    }

    #[test]
    fn http_like_bytes_are_read_without_harm(
        stream in proptest::collection::vec(prop_oneof![
            Just("GET / HTTP/1.1\r\n".to_owned()), Just("Authorization:".to_owned()), Just("Bearer ".to_owned()),
            Just("\r\n".to_owned()), Just("\n".to_owned()), Just(" ".to_owned()), Just("ey".to_owned()), Just(".".to_owned()),
            Just("Content-Length: 5".to_owned()), Just("Transfer-Encoding: chunked".to_owned()), Just("a".to_owned()), "[ -~]{0,40}",
        ], 0..200),
        pieces in proptest::collection::vec(1usize..300, 0..30),
    ) {
        let stream = stream.concat().into_bytes();
        prop_assert_eq!(tokens(&stream, &pieces), tokens(&stream, &[]));
    }
}

#[test]
fn every_cut_in_two_finds_the_same() {
    let jwe = "eyJhbGciOiJSU0Et.bbbbbbbb.cccccccc.dddddddd.eeeeeeee";
    let stream = format!(
        "POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.{}\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nX-API-Key: {jwe}\r\n\r\n",
        "s".repeat(86)
    );
    let expected = reference(stream.as_bytes());
    assert_eq!(expected.len(), 2);
    for cut in 0..=stream.len() {
        assert_eq!(tokens(stream.as_bytes(), &[cut]), expected, "cut at {cut}");
    }
    assert_eq!(tokens(stream.as_bytes(), &vec![1; stream.len()]), expected, "byte by byte");
}

#[test]
fn a_refused_token_stops_the_scan_at_its_head() {
    let live = "GET /a HTTP/1.1\r\nAuthorization: Bearer live\r\n\r\n";
    let stream =
        format!("{live}GET /b HTTP/1.1\r\nAuthorization: Bearer dead\r\n\r\nGET /c HTTP/1.1\r\n\r\n");
    let mut seen = Seen { refuse: Some(KEY.deny(b"dead")), ..Seen::default() };
    let (scan, step) = run(stream.as_bytes(), &[], &mut seen);
    assert_eq!((step, scan.heads), (Step::Refused, 2));
    assert_eq!(seen.tokens, [KEY.deny(b"live"), KEY.deny(b"dead")]);
}

#[test]
fn limits_are_exact() {
    for (len, found) in [
        (1, true),
        (15, true),
        (16, true),
        (17, true),
        (4095, true),
        (4096, true),
        (4097, false),
        (8192, false),
    ] {
        for token in ["t".repeat(len), format!("{:s<len$}", "eyA.eyB.")] {
            if token.len() != len {
                continue;
            }
            let stream = format!("GET / HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n");
            let mut seen = Seen::default();
            let (scan, _) = run(stream.as_bytes(), &[], &mut seen);
            assert_eq!(seen.tokens == [KEY.deny(token.as_bytes())], found, "{len}");
            assert_eq!(scan.long_tokens, u16::from(!found), "{len}");
            assert!(!scan.in_head());
        }
    }
    let filler = format!("X-A: {}\r\n", "x".repeat(200)).repeat(90);
    let (_, step) = run(format!("GET / HTTP/1.1\r\n{filler}").as_bytes(), &[], &mut Seen::default());
    assert_eq!(step, Step::TooLong);
}

#[test]
fn what_is_no_request_is_told_apart() {
    for (bytes, step) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], Step::Opaque),
        (b"\x16\x03 / HTTP/1.1\r\n\r\n", Step::NotHttp),
        (b"\x16\x03\x01\x02\x00\x02\x00\x01\xfc\x03\x03", Step::NotHttp),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Step::Http2),
        (b"{\"json\": \"body\"}\r\n and more of it", Step::NotHttp),
        (b"\x00\x01\x02\x03\x04", Step::NotHttp),
        (b"not a request line\r\n", Step::NotHttp),
        (b"GET /\r\n", Step::NotHttp),
    ] {
        assert_eq!(run(bytes, &[], &mut Seen::default()).1, step, "{bytes:?}");
    }
}

#[test]
fn oddities_are_marked() {
    for (head, odd) in [
        ("Host: a\r\nAccept: b\r\n", 0),
        ("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", ODD_CREDENTIALS),
        ("Authorization: Bearer a\r\nX-Api-Key: b\r\n", 0),
        ("Authorization : Bearer a\r\n", ODD_SPACE_BEFORE_COLON),
        ("Host: a\r\n b\r\n", ODD_FOLD),
        ("Host: a\n", ODD_BARE_LF),
        ("Content-Length: 1\r\nContent-Length: 2\r\n", ODD_LENGTH),
        ("Content-Length: x\r\n", ODD_LENGTH),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", ODD_TRANSFER),
        ("Transfer-Encoding: gzip\r\n", ODD_TRANSFER),
        ("Transfer-Encoding: gzip, chunked\r\n", 0),
        ("Authorization: Bearer a\0b\r\n", ODD_CONTROL),
    ] {
        for cut in 0..head.len() {
            let stream = format!("GET / HTTP/1.1\r\n{head}\r\n");
            let (scan, _) = run(stream.as_bytes(), &[16 + cut], &mut Seen::default());
            assert_eq!(scan.oddities, odd, "{head:?} cut at {cut}");
        }
    }
}

#[test]
fn a_method_begins_with_a_token_character() {
    for b in 0..=255_u8 {
        let stream = [&[b], &b"x / HTTP/1.1\r\n\r\n"[..]].concat();
        let tchar = b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let skipped = b == b'\r' || b == b'\n';
        let (scan, _) = run(&stream, &[], &mut Seen::default());
        assert_eq!(scan.heads == 1, tchar || skipped, "{b:#x}");
    }
}

#[test]
fn request_lines_that_lenient_servers_take_are_read() {
    for (line, odd) in [
        ("GET / HTTP/1.1\r\n", 0),
        ("GET / HTTP/1.0\r\n", 0),
        ("GET / HTTP/1.1  \r\n", 0),
        ("GET / HTTP/1.1   \r\n", ODD_VERSION),
        ("GET / HTTP/1.1            \r\n", ODD_VERSION),
        ("GET / HTTP/1.1\t\r\n", ODD_VERSION),
        ("GET / HTTP/1.10\r\n", ODD_VERSION),
        ("GET / HTTP/1.01\r\n", ODD_VERSION),
        ("GET / HTTP/1.1\r\r\n", ODD_VERSION | ODD_CONTROL),
    ] {
        for cut in 0..line.len() {
            let stream = format!("{line}Authorization: Bearer dead\r\n\r\n");
            let mut seen = Seen::default();
            let (scan, _) = run(stream.as_bytes(), &[cut], &mut seen);
            assert_eq!(seen.tokens, [KEY.deny(b"dead")], "{line:?} cut at {cut}");
            assert_eq!(scan.oddities, odd, "{line:?} cut at {cut}");
        }
    }
    let mut seen = Seen::default();
    run(b"GET / HTTP/1.1\r\nAuthorization: Bearer\x0cdead\r\n\r\n", &[], &mut seen);
    assert_eq!(seen.tokens, [KEY.deny(b"dead")], "a form feed is white space to some");
}

/// How a stream ends under a strict configuration, and whether it ends so at every cut.
fn strictly(stream: &[u8]) -> Step {
    let run = |pieces: &[usize]| {
        let mut config = config();
        config.refuse = ODD_ANY;
        run_with(&config, stream, pieces, &mut Seen::default()).1
    };
    let whole = run(&[]);
    for cut in 1..stream.len() {
        assert_eq!(run(&[cut]), whole, "{:?} cut at {cut}", String::from_utf8_lossy(stream));
    }
    assert_eq!(run(&vec![1; stream.len()]), whole, "{:?} byte by byte", String::from_utf8_lossy(stream));
    whole
}

#[test]
fn strict_scans_refuse_what_parsers_read_differently() {
    let head = |h: &str| format!("GET / HTTP/1.1\r\n{h}\r\n").into_bytes();
    for fine in [
        "Host: a\r\nAuthorization: Bearer a\r\n",
        "X-Tab:\ta\tb\r\n",
        "Upgrade: websocket\r\n",
        "Content-Length: 0 \r\n",
        "X-High: \u{e9}\u{a0}\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-Trailer: a\r\n",
    ] {
        assert_eq!(strictly(&head(fine)), Step::More, "{fine:?}");
    }
    for odd in [
        "Host: a\n",
        "Host: a\rAuthorization: Bearer b\r\n",
        "Host: a\r\n b\r\n",
        "Host: a\0b\r\n",
        "Host: a\x0bb\r\n",
        "Host\x0b: a\r\n",
        "Content-Length: 5 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Authorization: Bearer\u{a0}dead\r\n",
        "Authorization: Bearer dead\u{a0}\r\n",
        "Authorization: \u{85}Bearer dead\r\n",
        "Authorization: Bearer a, Bearer b\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1_0\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n",
        "Transfer-Encoding: chunked\r\n\r\n5;\rx\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\n",
    ] {
        assert_eq!(strictly(&head(odd)), Step::Odd, "{odd:?}");
    }
    assert_eq!(strictly(b"GET / HTTP/1.10\r\n\r\n"), Step::Odd);
    assert_eq!(strictly(b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Step::Odd);
    for no in [&b" GET / HTTP/1.1\r\n\r\n"[..], b"GET\x0c/ HTTP/1.1\r\n\r\n", b"GET\xa0/\xa0HTTP/1.1\r\n\r\n"]
    {
        assert_eq!(strictly(no), Step::NotHttp);
    }
    let long = format!("GET / HTTP/1.1\r\nX-Api-Key: {}\r\n\r\n", "k".repeat(4097));
    let mut config = config();
    config.refuse = ODD_ANY;
    assert_eq!(run_with(&config, long.as_bytes(), &[], &mut Seen::default()).1, Step::Odd);
}

#[test]
fn underscores_are_dashes_in_key_headers() {
    let found = tokens(b"GET / HTTP/1.1\r\nX_API_Key: dead\r\nx-api_key: no\r\n\r\n", &[]);
    assert_eq!(found, [KEY.deny(b"dead")], "as a CGI server reads it; mixed spellings are not configured");
}

/// Notes the ends of heads.
#[derive(Default)]
struct Heads<const ANSWERS: bool>(Vec<(u32, u32)>);

impl<const ANSWERS: bool> Sink for Heads<ANSWERS> {
    const ANSWERS: bool = ANSWERS;

    fn token(&mut self, _: DenyFingerprint) -> bool {
        false
    }

    fn head(&mut self, traits: u32, status: u32) -> bool {
        self.0.push((traits, status));
        false
    }
}

#[test]
fn requests_are_told_by_their_traits() {
    let stream = b"HEAD / HTTP/1.1\r\n\r\nCONNECT a:1 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nUpgrade: foo, H2C\r\n\r\nGET / HTTP/1.1\r\nupgrade: websocket\r\n\r\nHEADS / HTTP/1.1\r\n\r\n";
    for cut in 0..stream.len() {
        let mut heads = Heads::<false>::default();
        run_with(&config(), stream, &[cut], &mut heads);
        let traits: Vec<u32> = heads.0.iter().map(|h| h.0).collect();
        assert_eq!(traits, [HEAD, CONNECT, UPGRADE | H2C, UPGRADE, 0], "cut at {cut}");
    }
}

#[test]
fn responses_are_followed_to_their_ends() {
    let stream = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No\r\nTransfer-Encoding: x\r\n\r\nHTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nHTTP/1.0 200 OK\r\n\r\nall that follows";
    for cut in 0..stream.len() {
        let mut heads = Heads::<true>::default();
        let (scan, step) = run_with(&ScanConfig::answers().unwrap(), stream, &[cut], &mut heads);
        let statuses: Vec<u32> = heads.0.iter().map(|h| h.1).collect();
        assert_eq!((&statuses[..], step), (&[100, 200, 204, 200, 200][..], Step::More), "cut at {cut}");
        assert!(!scan.at_boundary(), "the last one ends with the connection");
    }
}

#[test]
fn a_proxy_header_may_come_first() {
    let request = b"GET / HTTP/1.1\r\nAuthorization: Bearer dead\r\n\r\n";
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[7; 12]].concat();
    for (preamble, found) in [
        (&b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"[..], true),
        (b"PROXY UNKNOWN\r\n", true),
        (&v2, true),
        (b"", false),
        (b"PROXI TCP4\r\n", false),
    ] {
        let stream = [preamble, &request[..]].concat();
        for cut in 0..stream.len() {
            let mut config = config();
            config.refuse = ODD_ANY;
            let mut seen = Seen::default();
            let scan = Scan { preamble: 1, ..Scan::new() };
            run_from(scan, &config, &stream, &[cut], &mut seen);
            assert_eq!(seen.tokens.len(), usize::from(found), "{preamble:?} cut at {cut}");
        }
    }
}
