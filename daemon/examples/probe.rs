use portcullis::kernel::*;
fn main() {
    let s = Settings {
        pin_dir: "/tmp/pcbpf/p".into(),
        interfaces: vec![],
        attach: Attach::Auto,
        ports: vec![GuardedPort { address: None, port: 8080 }],
        schemes: vec!["Bearer".into()],
        key_headers: vec!["X-Api-Key".into()],
        reaction: Reaction::Respond,
        answer: Answer::new("401 Unauthorized", None, "", "").unwrap(),
        max_entries: 1 << 16,
        key: portcullis_common::fingerprint::Key { k0: 1, k1: 2 },
        key_id: 7,
    };
    match Kernel::load(&s) {
        Ok(mut k) => {
            println!("ok insns {:?}", k.verified_instructions());
            let key = s.key;
            for (hl, tl) in [(200usize, 300usize), (200, 1100), (200, 40)] {
                let tok: String =
                    std::iter::repeat("eyJhbGciOiJFUzI1NiJ9").flat_map(|s| s.chars()).take(tl).collect();
                let tok = format!("{}.{}.{}", &tok[..tl / 3], &tok[..tl / 3], &tok[..tl - 2 * (tl / 3) - 2]);
                let mut req = format!(
                    "GET /v1/orders/7 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nAuthorization: Bearer {tok}\r\n"
                );
                while req.len() < hl + tl - 20 {
                    req.push_str("X-Filler: abcdefgh\r\n");
                }
                req.push_str("\r\n");
                let p = frame(8080, req.as_bytes());
                let o = frame(81, req.as_bytes());
                let r = k.test_run(&p, 200000).unwrap();
                let r2 = k.test_run(&o, 200000).unwrap();
                k.deny
                    .put(
                        key.deny(tok.as_bytes()),
                        portcullis_common::layout::DenyValue {
                            revoked_until: 0,
                            condemned_until: 0,
                            generation: 0,
                        },
                    )
                    .unwrap();
                let r3 = k.test_run(&p, 200000).unwrap();
                println!(
                    "req {} token {tl}: {:?} act {}  hit-lapsed {:?} open {:?}",
                    req.len(),
                    r.time,
                    r.action,
                    r3.time,
                    r2.time
                );
                k.deny
                    .put(
                        key.deny(tok.as_bytes()),
                        portcullis_common::layout::DenyValue {
                            revoked_until: u64::MAX,
                            condemned_until: 0,
                            generation: 0,
                        },
                    )
                    .unwrap();
                let r3 = k.test_run(&p, 1).unwrap();
                println!("refused: {:?} act {} len {}", r3.time, r3.action, r3.packet.len());
            }
            let c = k.counters().unwrap().read().unwrap();
            for (o, n) in c.iter() {
                if n > 0 {
                    print!("{}={n} ", o.code());
                }
            }
            println!();
        }
        Err(e) => println!("ERR {e}"),
    }
}
fn frame(port: u16, body: &[u8]) -> Vec<u8> {
    let mut f = vec![0u8; 12];
    f.extend([8, 0]);
    let tot = (40 + body.len()) as u16;
    f.extend([0x45, 0]);
    f.extend(tot.to_be_bytes());
    f.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    f.extend(40000u16.to_be_bytes());
    f.extend(port.to_be_bytes());
    f.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    f.extend(body);
    f
}
