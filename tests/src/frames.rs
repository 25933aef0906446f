//! Packets by hand: every link, IP and TCP header shape that guard reads.

/// What stands before the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet.
    Ethernet,
    /// Ethernet with one tag.
    Vlan,
    /// Ethernet with two tags.
    QinQ,
}

/// One TCP segment's headers.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Link header.
    pub link: Link,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// IPv4 options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers: type and body, each body padded to eight bytes with the two leading bytes.
    pub extensions: Vec<u8>,
    /// TCP options, a multiple of four bytes.
    pub tcp_options: Vec<u8>,
    /// TCP flags.
    pub flags: u8,
    /// Client port.
    pub source_port: u16,
    /// Server port.
    pub port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// IPv4 fragment field.
    pub fragment: u16,
    /// IPv4 addresses of client and server.
    pub addresses: [[u8; 4]; 2],
    /// Time to live.
    pub ttl: u8,
    /// Urgent pointer.
    pub urgent: u16,
    /// Added to the TCP checksum: anything but 0 makes it wrong.
    pub sum_off: u16,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            link: Link::Ethernet,
            v6: false,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            tcp_options: Vec::new(),
            flags: 0x18,
            source_port: 40000,
            port: crate::guard::PORT,
            seq: 1000,
            ack: 5000,
            fragment: 0x4000,
            addresses: [CLIENT, SERVER],
            ttl: 64,
            urgent: 0,
            sum_off: 0,
        }
    }
}

/// Client address.
pub const CLIENT: [u8; 4] = [192, 0, 2, 1];
/// Server address.
pub const SERVER: [u8; 4] = [192, 0, 2, 2];

fn address6(last: u8) -> [u8; 16] {
    let mut a = [0; 16];
    a[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    a[15] = last;
    a
}

/// The Internet checksum (RFC 1071).
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u32 =
        bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

impl Frame {
    /// Bytes before the IP header.
    pub fn l3(&self) -> usize {
        match self.link {
            Link::Ethernet => 14,
            Link::Vlan => 18,
            Link::QinQ => 22,
        }
    }

    /// Bytes before the TCP header.
    pub fn l4(&self) -> usize {
        self.l3() + if self.v6 { 40 + self.extensions.len() } else { 20 + self.ip_options.len() }
    }

    /// The whole packet, checksums and all.
    pub fn build(&self, payload: &[u8]) -> Vec<u8> {
        let ether: [u8; 2] = if self.v6 { [0x86, 0xdd] } else { [8, 0] };
        let mut f = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        match self.link {
            Link::Ethernet => {}
            Link::Vlan => f.extend([0x81, 0, 0, 5]),
            Link::QinQ => f.extend([0x88, 0xa8, 0, 9, 0x81, 0, 0, 5]),
        }
        f.extend(ether);
        let tcp_len = 20 + self.tcp_options.len() + payload.len();
        let half = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let pseudo = if self.v6 {
            let next = if self.extensions.is_empty() { 6 } else { 60 };
            f.extend([0x60, 0, 0, 0]);
            f.extend(half(self.extensions.len() + tcp_len));
            f.extend([next, 64]);
            f.extend(address6(1));
            f.extend(address6(2));
            f.extend(&self.extensions);
            [&address6(1)[..], &address6(2), &[0, 0], &half(tcp_len), &[0, 0, 0, 6]].concat()
        } else {
            let ihl = u8::try_from(5 + self.ip_options.len() / 4).unwrap_or(15);
            let mut ip = vec![0x40 | ihl, 0];
            ip.extend(half(20 + self.ip_options.len() + tcp_len));
            ip.extend([0, 7]);
            ip.extend(self.fragment.to_be_bytes());
            ip.extend([self.ttl, 6, 0, 0]);
            ip.extend(self.addresses.as_flattened());
            ip.extend(&self.ip_options);
            let sum = checksum(&[&ip]).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
            f.extend(ip);
            [self.addresses.as_flattened(), &[0, 6], &half(tcp_len)].concat()
        };
        let mut tcp = Vec::new();
        tcp.extend(self.source_port.to_be_bytes());
        tcp.extend(self.port.to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([
            u8::try_from((20 + self.tcp_options.len()) / 4).unwrap_or(15) << 4,
            self.flags,
            // A window of 64,240 bytes.
            0xfa,
            0xf0,
            0,
            0,
        ]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(&self.tcp_options);
        tcp.extend(payload);
        let sum = checksum(&[&pseudo, &tcp]).wrapping_add(self.sum_off).to_be_bytes();
        tcp[16..18].copy_from_slice(&sum);
        f.extend(tcp);
        f
    }
}

/// Cuts a plain IPv4 frame into fragments, the first with `first` bytes of what follows the IP header, a multiple of
/// eight.
pub fn fragments(frame: &[u8], first: usize) -> Vec<Vec<u8>> {
    let (head, rest) = frame.split_at(34);
    let (a, b) = rest.split_at(first);
    [(a, 0, 0x2000_u16), (b, first / 8, 0)]
        .into_iter()
        .map(|(part, offset, more)| {
            let mut ip = head[14..].to_vec();
            ip[2..4].copy_from_slice(&u16::try_from(20 + part.len()).unwrap_or(u16::MAX).to_be_bytes());
            let field = more | u16::try_from(offset).unwrap_or(0);
            ip[6..8].copy_from_slice(&field.to_be_bytes());
            ip[10..12].fill(0);
            let sum = checksum(&[&ip]).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
            [&head[..14], &ip, part].concat()
        })
        .collect()
}

/// A destination-options extension header that is followed by `next`: `units` times eight bytes of padding.
pub fn destination_options(next: u8, units: u8) -> Vec<u8> {
    let mut b = vec![0; usize::from(units) * 8];
    b[0] = next;
    b[1] = units - 1;
    b[2] = 1;
    b[3] = units * 8 - 4;
    b
}

/// A request with a token, padded with other headers to about `len` bytes.
pub fn request(token: &str, len: usize) -> Vec<u8> {
    let mut r = format!(
        "GET /v1/orders/7 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nAuthorization: Bearer {token}\r\n"
    );
    let mut i = 0;
    while r.len() + 2 < len {
        let room = len - r.len() - 2;
        i += 1;
        let line = format!("X-Header-{i}: ");
        let fill = room.saturating_sub(line.len() + 2).min(48);
        r.push_str(&line);
        r.push_str(&"x".repeat(fill));
        r.push_str("\r\n");
        if fill == 0 {
            break;
        }
    }
    r.push_str("\r\n");
    r.into_bytes()
}

/// A text shaped as a JWS of `len` bytes; `seed` makes it another one.
pub fn jws(len: usize, seed: u64) -> String {
    let mut state = seed | 1;
    let mut text = |n: usize| -> String {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(letters[usize::try_from(state >> 58).unwrap_or(0)])
            })
            .collect()
    };
    let signature = 86.min(len / 3);
    let head = 36.min(len / 4);
    let body = len.saturating_sub(signature + head + 4);
    format!("ey{}.{}.{}", text(head), text(body), text(signature))
}
