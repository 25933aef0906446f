//! The reader against another implementation of HPACK, and against the HTTP/1 scanner's idea of a token.

use httlib_hpack::{Decoder, Encoder};
use proptest::{prelude::*, sample::Index};

use super::{
    H2, Names,
    huffman::{ACCEPT, FAIL, MACHINE, SYMBOL},
    peer::{END_HEADERS, Shape, Way, block, encode, frame, settings},
    read,
};
use crate::{
    fingerprint::{DenyFingerprint, Key},
    head::{BUFFER, Cursor, FRONT, ODD_ANY, Scan, Sink, Step, WINDOW, step_in},
    layout::ScanConfig,
};

const KEY: Key = Key { k0: 11, k1: 22 };

fn config() -> ScanConfig {
    let mut c = ScanConfig::new(KEY, &["Bearer", "DPoP"], &["X-Api-Key", "via"]).unwrap();
    c.refuse = ODD_ANY;
    c
}

#[derive(Default)]
struct Seen(Vec<DenyFingerprint>, Option<DenyFingerprint>);

impl Sink for Seen {
    fn token(&mut self, f: DenyFingerprint) -> bool {
        self.0.push(f);
        self.1 == Some(f)
    }
}

/// Reads a connection's frames in pieces.
fn pieces(bytes: &[u8], cuts: &[usize], h: &mut H2, seen: &mut Seen) -> Step {
    let (c, mut from) = (config(), 0);
    let names = Names::new(&c);
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        let step = read(h, &bytes[from..cut], &c, &names, seen);
        if step != Step::More {
            return step;
        }
        from = cut;
    }
    Step::More
}

fn whole(bytes: &[u8]) -> (Step, Vec<DenyFingerprint>) {
    let (mut h, mut seen) = (H2::new(), Seen::default());
    let step = pieces(&[&settings(), bytes].concat(), &[], &mut h, &mut seen);
    (step, seen.0)
}

/// What the HTTP/1 scanner makes of the same fields.
fn reference(fields: &[Field]) -> (Step, Vec<DenyFingerprint>) {
    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    for (name, value) in fields.iter().filter(|(name, _)| !name.starts_with(b":")) {
        head.extend([name, &b":"[..], value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    let (c, mut seen, mut scan) = (config(), Seen::default(), Scan::new());
    let mut buffer = [0; BUFFER];
    buffer[FRONT..FRONT + head.len()].copy_from_slice(&head);
    assert!(head.len() <= WINDOW);
    let mut cursor = Cursor { at: 0, end: u32::try_from(head.len()).unwrap(), head: 0, last: 1 };
    loop {
        match step_in(&mut scan, &mut cursor, &buffer, &c, &mut seen) {
            Step::Again => {}
            step => return (step, seen.0),
        }
    }
}

fn token() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9_-]{1,40}",
        "e[yw][a-zA-Z0-9_-]{0,30}\\.[a-zA-Z0-9_-]{0,60}\\.[a-zA-Z0-9_-]{0,40}",
        "e[yw][a-z]{0,9}\\.[a-z]{0,9}\\.[a-z]{0,9}\\.[a-z]{0,9}",
        "[!-~]{1,30}",
        // A few that come again, so that they are found in the table.
        "(one|two|eythree\\.four\\.five)",
    ]
}

fn field() -> impl Strategy<Value = Field> {
    let name = prop_oneof![
        2 => Just("authorization".to_owned()),
        2 => "(x-api-key|x_api_key|via)",
        2 => "(user-agent|cookie|accept|x-a|authorizatio|authorizationx|x-api-keys|:path|:authority)",
        1 => "[a-z0-9_-]{1,60}",
    ];
    let value = prop_oneof![
        4 => token().prop_map(|t| format!("Bearer {t}")),
        2 => token(),
        1 => ("(bearer|DPoP|Basic|Bearerx|)", "[ \t]{0,3}", token(), "[ ,]{0,3}").prop_map(|(a, b, c, d)| a + &b + &c + &d),
        1 => (token(), token()).prop_map(|(a, b)| format!("Bearer {a}, DPoP {b}")),
        1 => "[ -~]{0,80}",
    ];
    (name, value).prop_map(|(n, v)| (n.into_bytes(), v.into_bytes()))
}

/// A field's name and value.
type Field = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug)]
struct Block {
    fields: Vec<(Field, Way)>,
    size: Option<u32>,
    shape: Shape,
    between: u8,
}

fn way() -> impl Strategy<Value = Way> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(coded, indexed, best, never)| Way { coded, indexed, best, never })
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let shape = (prop::collection::vec(0..500usize, 0..4), prop::option::of(any::<u8>()), any::<bool>())
        .prop_map(|(cuts, padding, priority)| Shape { cuts, padding, priority });
    let size = prop::option::weighted(0.3, prop_oneof![0..300u32, 0..4097u32]);
    let block = (prop::collection::vec((field(), way()), 0..8), size, shape, any::<u8>())
        .prop_map(|(fields, size, shape, between)| Block { fields, size, shape, between });
    prop::collection::vec(block, 1..12)
}

/// A connection's frames, and what is to be found in them.
fn connection(blocks: &[Block]) -> (Vec<u8>, Step, Vec<DenyFingerprint>) {
    let mut encoder = Encoder::with_dynamic_size(4096);
    let mut decoder = Decoder::with_dynamic_size(4096);
    let (mut bytes, mut tokens, mut stream) = (settings(), Vec::new(), 1);
    for b in blocks {
        match b.between % 6 {
            0 => bytes.extend(frame(0, 0, stream, &vec![0x55; usize::from(b.between) * 40])),
            1 => bytes.extend(frame(6, 0, 0, &[1; 8])),
            2 => bytes.extend(frame(0xfa, 0xff, 77, &[2; 30])),
            3 => bytes.extend(frame(8, 0, stream, &[0, 0, 0, 9])),
            4 => bytes.extend(frame(0, 8, stream, &[1, 2, 3])),
            _ => {}
        }
        let mut fragment = Vec::new();
        if let Some(size) = b.size {
            encoder.update_max_dynamic_size(size, &mut fragment).unwrap();
        }
        let fields: Vec<_> = b.fields.iter().map(|((n, v), w)| (n.clone(), v.clone(), *w)).collect();
        encode(&mut encoder, &fields, &mut fragment);
        bytes.extend(block(stream, &fragment, &b.shape));
        // The other side of that implementation must read what was meant.
        let (mut copy, mut read) = (fragment, Vec::new());
        decoder.decode(&mut copy, &mut read).unwrap();
        let meant: Vec<_> = fields.iter().map(|(n, v, _)| (n.clone(), v.clone())).collect();
        assert_eq!(read.into_iter().map(|(n, v, _)| (n, v)).collect::<Vec<_>>(), meant);
        let (step, found) = reference(&meant);
        tokens.extend(found);
        if step == Step::Odd {
            return (bytes, step, tokens);
        }
        stream += 2;
    }
    (bytes, Step::More, tokens)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tokens_are_those_of_http1_whatever_the_coding_and_the_cuts(
        blocks in blocks(),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        let (bytes, step, tokens) = connection(&blocks);
        let (mut h, mut seen) = (H2::new(), Seen::default());
        let got = pieces(&bytes, &[], &mut h, &mut seen);
        prop_assert_eq!(got, step, "{:?}", &blocks);
        if step == Step::More {
            prop_assert_eq!(&seen.0, &tokens);
        } else {
            // What is odd may be found sooner or later in a head.
            prop_assert!(seen.0.starts_with(&tokens) || tokens.starts_with(&seen.0));
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut h, mut again) = (H2::new(), Seen::default());
        prop_assert_eq!(pieces(&bytes, &cuts, &mut h, &mut again), got);
        prop_assert_eq!(again.0, seen.0);
    }

    #[test]
    fn any_bytes_end_the_same_however_they_are_cut(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        lens in any::<u8>(),
        cuts in prop::collection::vec(any::<Index>(), 0..20),
    ) {
        // Most of them a header block's.
        if bytes.len() > 9 {
            bytes[..9].copy_from_slice(&[0, 0, lens, 1, END_HEADERS, 0, 0, 0, 1]);
        }
        let bytes = [settings(), bytes].concat();
        let (mut h, mut seen) = (H2::new(), Seen::default());
        let got = pieces(&bytes, &[], &mut h, &mut seen);
        let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut h, mut again) = (H2::new(), Seen::default());
        prop_assert_eq!(pieces(&bytes, &cuts, &mut h, &mut again), got);
        prop_assert_eq!(again.0, seen.0);
    }

    #[test]
    fn the_huffman_machine_reads_what_another_wrote(text in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut coded = Vec::new();
        httlib_hpack_huffman(&text, &mut coded);
        prop_assert_eq!(decode(&coded), Some(text));
    }

    #[test]
    fn the_huffman_machine_agrees_with_another_where_both_read(coded in prop::collection::vec(any::<u8>(), 0..12)) {
        // Another decoder, by way of a literal field.
        let mut field = vec![0x00, 1, b'a', 0x80 | u8::try_from(coded.len()).unwrap()];
        field.extend(&coded);
        let mut read = Vec::new();
        let theirs = Decoder::default().decode(&mut field, &mut read).ok().map(|_| read[0].1.clone());
        if let (Some(ours), Some(theirs)) = (decode(&coded), &theirs) {
            prop_assert_eq!(&ours, theirs);
        }
    }
}

/// Writes text in the code, as another implementation does.
fn httlib_hpack_huffman(text: &[u8], out: &mut Vec<u8>) {
    let mut field = Vec::new();
    let flags = Encoder::HUFFMAN_VALUE;
    Encoder::default().encode((b"a".to_vec(), text.to_vec(), flags), &mut field).unwrap();
    // A literal without indexing: 0, the name, the value's length, the value.
    let (mut at, prefix) = (4, field[3] & 0x7f);
    if prefix == 0x7f {
        while field[at] & 0x80 != 0 {
            at += 1;
        }
        at += 1;
    }
    out.extend(&field[at..]);
}

fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let (mut state, mut accept, mut out) = (0usize, true, Vec::new());
    for half in coded.iter().flat_map(|b| [b >> 4, b & 15]) {
        let e = MACHINE[state << 4 | usize::from(half)];
        if e & FAIL != 0 {
            return None;
        }
        if e & SYMBOL != 0 {
            out.push(e.to_le_bytes()[1]);
        }
        accept = e & ACCEPT != 0;
        state = (e & 0xff) as usize;
    }
    accept.then_some(out)
}

#[test]
fn the_huffman_machine_knows_the_examples_of_the_standard() {
    // RFC 7541 §C.4.1, §C.4.3 and §C.6.1.
    assert_eq!(decode(&hex("f1e3c2e5f23a6ba0ab90f4ff")).unwrap(), b"www.example.com");
    assert_eq!(decode(&hex("25a849e95bb8e8b4bf")).unwrap(), b"custom-value");
    assert_eq!(
        decode(&hex("d07abe941054d444a8200595040b8166e082a62d1bff")).unwrap(),
        b"Mon, 21 Oct 2013 20:13:21 GMT"
    );
    for b in 0..=255u8 {
        let mut coded = Vec::new();
        httlib_hpack_huffman(&[b, b], &mut coded);
        assert_eq!(decode(&coded), Some(vec![b, b]), "{b}");
    }
    assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff]), None, "the end symbol");
    assert_eq!(decode(&[0xff]), None, "eight bits of padding");
    assert_eq!(decode(&[0x00]), None, "padding of zeros");
}

fn hex(s: &str) -> Vec<u8> {
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
}

fn headers(stream: u32, fragment: &[u8]) -> Vec<u8> {
    frame(1, END_HEADERS, stream, fragment)
}

/// A literal field, plain.
fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let len = |s: &[u8]| vec![u8::try_from(s.len()).unwrap()];
    [&[first], &len(name)[..], name, &len(value), value].concat()
}

#[test]
fn a_token_in_the_table_is_found_by_its_index_until_it_is_evicted() {
    let token = DenyFingerprint(KEY.deny(b"secret").0);
    let (first, by_index) =
        (headers(1, &literal(0x40, b"authorization", b"Bearer secret")), headers(3, &[0xbe]));
    assert_eq!(whole(&[&first[..], &by_index].concat()), (Step::More, vec![token, token]));
    // Its name alone, with another value.
    let renamed = headers(3, &[&[0x0f, 47, 9][..], b"DPoP abcd"].concat());
    assert_eq!(whole(&[&first[..], &renamed].concat()), (Step::More, vec![token, KEY.deny(b"abcd")]));
    // A table of nothing, then one of the old size: it is empty.
    let emptied = headers(3, &[0x20, 0x3f, 0xe1, 0x1f, 0xbe]);
    assert_eq!(whole(&[&first[..], &emptied].concat()), (Step::Broken, vec![token]));
    // A large field takes all room; one larger than the table too.
    for len in [4096 - 32 - 1 - 57, 4096 - 32 - 1 - 58, 4096 - 32, 5000] {
        let mut fragment = vec![0x40, 1, b'a', 0x7f];
        let mut rest = len - 127;
        while rest >= 128 {
            fragment.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        fragment.push(u8::try_from(rest).unwrap());
        fragment.extend(vec![b'v'; len]);
        let large = headers(3, &fragment);
        // authorization + "Bearer secret" + 32 = 58; what is left of 4096 for the other is 4038.
        let fits = len + 33 <= 4096 - 58;
        let index = if len + 33 > 4096 { 0xbe } else { 0xbf };
        let got = whole(&[&first[..], &large, &headers(5, &[index])].concat());
        let wanted = if fits { (Step::More, vec![token, token]) } else { (Step::Broken, vec![token]) };
        assert_eq!(got, wanted, "{len}");
    }
}

#[test]
fn a_refused_token_stops_the_reading_before_its_block_ends() {
    let c = config();
    let names = Names::new(&c);
    let bytes = [settings(), headers(1, &literal(0x10, b"x-api-key", b"secret"))].concat();
    for end in [bytes.len() - 1, bytes.len()] {
        let (mut h, mut seen) = (H2::new(), Seen(Vec::new(), Some(KEY.deny(b"secret"))));
        let step = read(&mut h, &bytes[..end], &c, &names, &mut seen);
        assert_eq!(step, if end == bytes.len() { Step::Refused } else { Step::More });
    }
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let bearer = literal(0x40, b"authorization", b"Bearer one");
    let two =
        [literal(0, b"authorization", b"Bearer one"), literal(0, b"authorization", b"DPoP two")].concat();
    let open = frame(1, 0, 1, &bearer[..9]);
    let cases: Vec<(&str, Vec<u8>, Step)> = vec![
        ("two credentials", headers(1, &two), Step::Odd),
        ("one from the table twice", [headers(1, &bearer), headers(3, &[0xbe, 0xbe])].concat(), Step::Odd),
        ("a frame inside a block", [open.clone(), frame(6, 0, 0, &[0; 8])].concat(), Step::Broken),
        ("another stream's part", [open.clone(), frame(9, 4, 3, &bearer[9..])].concat(), Step::Broken),
        ("a block begun anew", [open.clone(), frame(1, 4, 1, &bearer)].concat(), Step::Broken),
        ("its own part", [open, frame(9, 4, 1, &bearer[9..])].concat(), Step::More),
        ("a part of nothing", frame(9, 4, 1, &bearer), Step::Broken),
        ("a part behind the end", [headers(1, &bearer), frame(9, 4, 1, &[])].concat(), Step::Broken),
        ("a block that ends in a field", headers(1, &bearer[..9]), Step::Broken),
        ("a promise", frame(5, 4, 1, &[0, 0, 0, 2]), Step::Broken),
        ("a stream of the server's", headers(2, &bearer), Step::Broken),
        ("no stream", headers(0, &bearer), Step::Broken),
        ("data on no stream", frame(0, 0, 0, b"x"), Step::Broken),
        ("a reset of no stream", frame(3, 0, 0, &[0; 4]), Step::Broken),
        ("a reset of another length", frame(3, 0, 1, &[0; 5]), Step::Broken),
        ("settings of a stream", frame(4, 0, 1, &[]), Step::Broken),
        ("settings of another length", frame(4, 0, 0, &[0; 5]), Step::Broken),
        ("a ping of another length", frame(6, 0, 0, &[0; 7]), Step::Broken),
        ("a long unknown frame", frame(0xee, 0, 0, &[0; 16_385]), Step::Broken),
        ("an unknown frame", frame(0xee, 0, 0, &[0; 16_384]), Step::More),
        ("padding of no room", frame(1, 0xc, 1, &[3, 0, 0]), Step::Broken),
        ("padding alone", frame(1, 0xc, 1, &[2, 0, 0]), Step::More),
        ("no room for padding's length", frame(1, 0xc, 1, &[]), Step::Broken),
        ("no room for a priority", frame(1, 0x24, 1, &[0; 4]), Step::Broken),
        ("index 0", headers(1, &[0x80]), Step::Broken),
        ("an index beyond the table", headers(1, &[0xbe]), Step::Broken),
        ("a name beyond the table", headers(1, &[0x7e, 1, b'x']), Step::Broken),
        ("a table over the limit", headers(1, &[0x3f, 0xe2, 0x1f]), Step::Broken),
        ("a table at the limit", headers(1, &[0x3f, 0xe1, 0x1f]), Step::More),
        ("a table's size behind a field", headers(1, &[0x82, 0x20]), Step::Broken),
        ("an endless integer", headers(1, &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]), Step::Broken),
        ("a large name", headers(1, &literal(0, b"Authorization", b"Bearer one")), Step::Broken),
        ("a name with a space", headers(1, &literal(0, b"authorization ", b"Bearer one")), Step::Broken),
        ("no name", headers(1, &literal(0, b"", b"Bearer one")), Step::Broken),
        ("a line feed in a credential", headers(1, &literal(0, b"authorization", b"Bearer\none")), Step::Odd),
        ("a wrong code", headers(1, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), Step::Broken),
        ("wrong padding of a code", headers(1, &[0, 0x81, 0x00, 0]), Step::Broken),
        (
            "a block over the limit",
            headers(1, &[&[0, 1, b'a', 0x7f, 0, 0x7f][..], &[b'v'; 16_384]].concat()),
            Step::TooLong,
        ),
    ];
    for (name, bytes, step) in cases {
        assert_eq!(whole(&bytes).0, step, "{name}");
    }
    let (mut h, mut seen) = (H2::new(), Seen::default());
    assert_eq!(pieces(&headers(1, &bearer), &[], &mut h, &mut seen), Step::Broken, "settings come first");
}

#[test]
fn streams_are_open_until_they_are_reset_and_older_tokens_are_not_forgotten() {
    let c = config();
    let names = Names::new(&c);
    let (mut h, mut seen) = (H2::new(), Seen::default());
    let mut go = |h: &mut H2, bytes: &[u8]| assert_eq!(read(h, bytes, &c, &names, &mut seen), Step::More);
    go(&mut h, &settings());
    go(&mut h, &headers(1, &literal(0, b"x-api-key", b"first")));
    go(&mut h, &headers(3, &literal(0, b"x-api-key", b"second")));
    go(&mut h, &frame(3, 0, 3, &[0; 4]));
    for n in 2..66 {
        go(&mut h, &headers(n * 2 + 1, &[0x82]));
    }
    let open: Vec<_> = (0..super::SLOTS + super::OLDER)
        .map(|i| *h.open(i))
        .filter(|o| o.stream != 0 && o.has_token != 0)
        .map(|o| DenyFingerprint(o.token))
        .collect();
    assert_eq!(open, [KEY.deny(b"first")], "one that was open when its slot was needed");
    assert_eq!(h.last, 131);
}

#[test]
fn names_of_the_static_table_mean_what_the_configuration_says() {
    let c = config();
    let names = Names::new(&c);
    assert_eq!(names.of(23), (13, 1));
    assert_eq!(names.of(60), (3, 2));
    assert_eq!(names.of(20), (27, 0));
    // The lengths are those that another implementation's table has: a field named by its index and put into the
    // table must push out another's token at the very byte.
    for index in 1..=61u32 {
        let mut out = Vec::new();
        let mut field = vec![u8::try_from(index).unwrap() | 0x80];
        Decoder::default().decode(&mut field, &mut out).unwrap();
        assert_eq!(names.of(index).0 as usize, out[0].0.len(), "{index}");
    }
}
