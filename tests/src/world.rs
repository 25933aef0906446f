//! Everything one test needs, made and removed together.

use std::{
    net::SocketAddr,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Result;

use crate::{
    PREFIX,
    client::{Answer, Client, bearer},
    config::Config,
    daemon::Daemon,
    dir::{self, Dir},
    net::{self, Namespace, Net, SERVER_V4, SERVER_V6, guarded},
    server::{End, Server},
    tokens::Mint,
};

/// A directory, two namespaces and the issuers' keys: a [`World`] before server and daemon.
#[derive(Debug)]
pub struct Ground {
    /// The namespaces.
    pub net: Net,
    /// Signs tokens.
    pub mint: Mint,
    /// The directory.
    pub dir: Dir,
}

impl Ground {
    /// Makes it; what killed runs left is swept first.
    pub fn make() -> Result<Self> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(|| {
            net::sweep();
            dir::sweep();
        });
        let id = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Dir::make(&id)?;
        Ok(Self { net: Net::make(&id)?, mint: Mint::make(&dir)?, dir })
    }
}

/// A guarded server, the daemon beside it, and a client's namespace.
#[derive(Debug)]
pub struct World {
    // Fields drop in order of declaration: processes before what they stand on.
    /// The daemon.
    pub daemon: Daemon,
    /// The server.
    pub server: Server,
    /// The namespaces.
    pub net: Net,
    /// Signs tokens.
    pub mint: Mint,
    /// The directory.
    pub dir: Dir,
    /// What the daemon was started with.
    pub config: Config,
}

impl World {
    /// With the usual configuration.
    pub fn make() -> Result<Self> {
        Self::with(|_, _| Ok(()))
    }

    /// With a configuration that `change` has gone over.
    pub fn with(change: impl FnOnce(&mut Config, &Dir) -> Result<()>) -> Result<Self> {
        let Ground { net, mint, dir } = Ground::make()?;
        let mut config = Config::default();
        change(&mut config, &dir)?;
        let path = dir.write("portcullis.toml", &config.toml(&dir))?;
        let mut addresses = vec![guarded("127.0.0.1"), guarded("::1")];
        addresses.extend([guarded(SERVER_V4), guarded(SERVER_V6)]);
        let server = Server::start(&net.server, &addresses)?;
        let daemon = Daemon::start(&net.server, &path, &dir.path("admin.sock"))?;
        Ok(Self { daemon, server, net, mint, dir, config })
    }

    /// A connection to the server at its IPv4 address.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(&self.net.client, guarded(SERVER_V4))
    }

    /// Asserts that a request with `token` gets the server's own 200.
    #[track_caller]
    pub fn assert_passes(&self, token: &str) {
        self.assert_request_passes(&bearer("/passes", token));
    }

    /// The same for any request.
    #[track_caller]
    pub fn assert_request_passes(&self, request: &[u8]) {
        match self.connect().and_then(|mut client| client.ask(request)) {
            Ok(answer) => assert!(answer.status == 200 && answer.is_servers(), "{answer:?}"),
            Err(e) => panic!("a request that should pass did not: {e:#}"),
        }
    }

    /// Asserts that the kernel answers a request with `token`, and that the server reads none of it.
    #[track_caller]
    pub fn assert_refused(&self, token: &str) {
        self.assert_request_refused(&bearer("/refused", token));
    }

    /// The same for any request.
    #[track_caller]
    pub fn assert_request_refused(&self, request: &[u8]) {
        self.assert_refused_from(&self.net.client, guarded(SERVER_V4), request);
    }

    /// The same from any namespace to any address.
    #[track_caller]
    pub fn assert_refused_from(&self, ns: &Namespace, to: SocketAddr, request: &[u8]) {
        let received = self.assert_unread(|| {
            let mut client = Client::connect(ns, to)?;
            client.send(request)?;
            let (bytes, end) = client.rest()?;
            assert_eq!(end, End::Closed, "the client reads the end, not a reset");
            Ok(bytes)
        });
        whole_refusal(received);
    }

    /// Runs a client that makes one connection, and asserts that the server read nothing on it and was reset.
    #[track_caller]
    pub fn assert_unread<T>(&self, client: impl FnOnce() -> Result<T>) -> T {
        let n = self.server.connections().len();
        let done = client().and_then(|received| Ok((received, self.server.ended(n)?)));
        match done {
            Ok((received, seen)) => {
                assert_eq!((seen.bytes, seen.end), (0, Some(End::Reset)), "{seen:?}");
                received
            }
            Err(e) => panic!("a request that should be refused was not: {e:#}"),
        }
    }
}

/// Asserts that these bytes are one whole 401 of the kernel's with nothing behind it.
#[track_caller]
pub fn whole_refusal(mut bytes: Vec<u8>) -> Answer {
    match Answer::take(&mut bytes) {
        Ok(answer) => {
            assert!(bytes.is_empty(), "behind the answer: {:?}", String::from_utf8_lossy(&bytes));
            assert!(answer.status == 401 && !answer.is_servers(), "{answer:?}");
            answer
        }
        Err(e) => panic!("no whole answer: {e:#}"),
    }
}
