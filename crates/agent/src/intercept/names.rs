//! Addresses of the real host, asked of the name server: on this machine the name leads to ourselves.
//!
//! A query and its answer as in RFC 1035, for IPv4 addresses over UDP. Every other name is the system's business.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use domain::clock::Rng;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

/// Where name servers are listed. Before the usual file stands the one behind a resolver of this machine, which would
/// read the hosts file.
const LISTS: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
/// How long one server may take, and how often all are asked.
const ANSWER: Duration = Duration::from_secs(2);
const ROUNDS: u32 = 2;
/// Addresses are kept at least and at most for so long.
const KEPT: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(10)];
/// No answer over UDP is larger.
const LARGEST: usize = 4096;

type Addresses = Vec<Ipv4Addr>;

/// A resolver for connections; clones share what they know.
#[derive(Clone)]
pub(super) struct Names(Arc<Shared>);

struct Shared {
    host: String,
    rng: Arc<dyn Rng>,
    known: Mutex<Option<(Addresses, Instant)>>,
}

impl Names {
    pub(super) fn new(host: &str, rng: Arc<dyn Rng>) -> Self {
        Self(Arc::new(Shared { host: host.to_owned(), rng, known: Mutex::default() }))
    }

    /// Where the real host is.
    ///
    /// # Errors
    /// When no name server says, or says that it is this machine.
    pub(super) async fn real(&self) -> io::Result<Addresses> {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((addresses, _)) = known.as_ref().filter(|(_, until)| Instant::now() < *until) {
            return Ok(addresses.clone());
        }
        match self.ask().await {
            Ok((addresses, life)) => {
                let until = Instant::now() + life.clamp(KEPT[0], KEPT[1]);
                *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((addresses.clone(), until));
                Ok(addresses)
            }
            // Old addresses are better than none.
            Err(error) => known.map(|(addresses, _)| addresses).ok_or(error),
        }
    }

    /// None of the addresses answered: the next one asks again.
    pub(super) fn doubt(&self) {
        if let Some((_, until)) = &mut *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) {
            *until = Instant::now();
        }
    }

    async fn ask(&self) -> io::Result<(Addresses, Duration)> {
        let list = LISTS.iter().find_map(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        for _ in 0..ROUNDS {
            for server in servers(&list) {
                let id = u16::from_le_bytes([
                    self.0.rng.next_u64().to_le_bytes()[0],
                    self.0.rng.next_u64().to_le_bytes()[0],
                ]);
                let Ok(Ok(answer)) = timeout(ANSWER, exchange(server, question(id, &self.0.host))).await else {
                    continue;
                };
                if let Some((addresses, life)) = read(id, &answer) {
                    return Ok((addresses, life));
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, format!("no name server knows where {} is", self.0.host)))
    }
}

impl tower::Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.clone();
        async move {
            let addresses: Vec<SocketAddr> = if name.as_str().eq_ignore_ascii_case(&names.0.host) {
                names.real().await?.into_iter().map(|address| (address, 0).into()).collect()
            } else {
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect()
            };
            Ok(addresses.into_iter())
        }
        .boxed()
    }
}

/// The servers of a resolv.conf(5).
fn servers(list: &str) -> Vec<SocketAddr> {
    let addresses = list.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    addresses.filter_map(|address| address.trim().parse::<IpAddr>().ok()).map(|address| (address, 53).into()).collect()
}

async fn exchange(server: SocketAddr, question: Vec<u8>) -> io::Result<Vec<u8>> {
    let any: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { "[::]:0".parse().unwrap_or(server) };
    let socket = UdpSocket::bind(any).await?;
    // Answers of anybody else are not received.
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut answer = vec![0; LARGEST];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

/// One question, recursion desired: the IPv4 addresses of a name.
fn question(id: u16, host: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The addresses in an answer, and how long they are good. `None`: it answers something else, or names this machine.
fn read(id: u16, answer: &[u8]) -> Option<(Addresses, Duration)> {
    let u16_at = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let flags = u16_at(2)?;
    if u16_at(0)? != id || flags & 0x8000 == 0 || flags & 0x000f != 0 {
        return None;
    }
    let mut at = 12;
    for _ in 0..u16_at(4)? {
        at = behind_name(answer, at)? + 4;
    }
    let (mut addresses, mut life) = (Vec::new(), u32::MAX);
    for _ in 0..u16_at(6)? {
        at = behind_name(answer, at)?;
        let (kind, length) = (u16_at(at)?, usize::from(u16_at(at + 8)?));
        life = life.min(u32::from_be_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        let data = answer.get(at + 10..at + 10 + length)?;
        if let (1, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            addresses.push(Ipv4Addr::from(octets));
        }
        at += 10 + length;
    }
    let real = |address: &Ipv4Addr| !address.is_loopback() && !address.is_unspecified();
    (!addresses.is_empty() && addresses.iter().all(real)).then(|| (addresses, Duration::from_secs(life.into())))
}

/// Names end with an empty label or with a pointer to one that was there before.
fn behind_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer to [`question`]: an alias, and these addresses.
    fn answer(id: u16, addresses: &[[u8; 4]]) -> Vec<u8> {
        let mut message = question(id, "a.example.test");
        message[2..4].copy_from_slice(&[0x81, 0x80]);
        message[7] = u8::try_from(addresses.len() + 1).unwrap();
        message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 1, 0, 0, 4, 1, b'b', 0xc0, 14]);
        for address in addresses {
            message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            message.extend(address);
        }
        message
    }

    #[test]
    fn an_answer_is_read() {
        let expected = (vec![Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 4)], Duration::from_secs(60));
        let message = answer(7, &[[10, 1, 2, 3], [10, 1, 2, 4]]);
        assert_eq!(read(7, &message), Some(expected));
        assert_eq!(read(8, &message), None, "of another question");
        for length in 0..message.len() {
            assert_eq!(read(7, &message[..length]), None, "cut off");
        }
        assert_eq!(read(7, &question(7, "a.example.test")), None, "an echo");
        assert_eq!(read(7, &answer(7, &[])), None);
        assert_eq!(read(7, &answer(7, &[[10, 1, 2, 3], [127, 0, 0, 1]])), None, "this machine");
    }

    proptest! {
        #[test]
        fn no_answer_does_harm(mut message: Vec<u8>, at in 0_usize..64, byte: u8) {
            read(7, &message);
            message = answer(7, &[[10, 1, 2, 3]]);
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
            read(7, &message);
        }
    }

    #[test]
    fn servers_are_those_of_the_list() {
        let list =
            "# one\nsearch a b\nnameserver 10.0.0.2\nnameserver fd00::2\nnameserver fe80::1%eth0\noptions edns0\n";
        assert_eq!(servers(list), ["10.0.0.2:53".parse().unwrap(), "[fd00::2]:53".parse().unwrap()]);
    }
}
