//! Tuning the TCP sockets of another process from outside: QEMU's migration connections.
//!
//! QEMU leaves Nagle's algorithm on at all four ends. A post-copied guest's page requests are 16 bytes each, and Nagle holds one
//! back until the one before is acknowledged, which rides on data that stands in the queue: two queues' worth of delay for
//! each page. And QEMU's own bandwidth limit pulses, overshoots and does not bind at switchover or in post-copy, where the
//! kernel's pacing of the socket does.
//!
//! And a connection whose path was away tries again only after as long as it has waited, at most two minutes: for the last bytes of a
//! post-copy, which nobody else can send again, that is how long its guest waits after the path is back. Kernels since 6.15 can be told
//! to try more often.
//!
//! `pidfd_getfd` gives a descriptor of the very same socket, so an option set here holds for QEMU. That needs the right to
//! trace the process; without it everything works as before, only slower, and the caller says so.

use crate::{
    process::Process,
    tcp_info::{Connection, TcpDiag, TcpInfoError},
};
use droveway_fleet::{Bandwidth, RateLimit};
use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

/// What is set on a migration's socket. Every field is set on each call, so that nothing of an earlier call stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Small segments leave at once (`TCP_NODELAY`).
    pub no_delay: bool,
    /// The class of the port's queueing discipline that its packets go to (`SO_PRIORITY`); 0: none.
    pub priority: u32,
    /// What it may send (`SO_MAX_PACING_RATE`), payload; binds in every phase.
    pub pacing: RateLimit,
    /// How much may wait unsent in the send buffer (`TCP_NOTSENT_LOWAT`), bytes; `None`: the system's own.
    pub unsent_limit: Option<u32>,
    /// What nobody acknowledges is sent again after so long at the latest (`TCP_RTO_MAX_MS`; a second is the least that it takes, two
    /// minutes are the system's own, `None`). Then it is tried for an hour (`TCP_USER_TIMEOUT`): by its own count the system would
    /// give up after a quarter of a minute. A kernel that cannot do that is left as it is.
    pub again_within: Option<Duration>,
}

/// How long a connection is tried that was told when to send again: longer than anybody waits for a path. The system's own is some
/// 15 minutes.
const TRIES_FOR: Duration = Duration::from_secs(3_600);
/// `TCP_RTO_MAX_MS` (`linux/tcp.h` since 6.15), which the libraries do not name yet.
const TCP_RTO_MAX_MS: libc::c_int = 44;
/// The system's own (`TCP_RTO_MAX_SEC`).
const RTO_MAX_STOCK: Duration = Duration::from_secs(120);

impl Tuning {
    /// As the system makes a socket.
    pub const STOCK: Tuning = Tuning {
        no_delay: false,
        priority: 0,
        pacing: RateLimit::Unlimited,
        unsent_limit: None,
        again_within: None,
    };
}

/// A socket of another process, held open here too: the connection lasts until both have let go of it, so it is not to be kept
/// longer than it is needed.
#[derive(Debug)]
pub struct ForeignSocket {
    socket: TcpStream,
    /// Its own address.
    pub local: SocketAddr,
    /// The other end's.
    pub remote: SocketAddr,
}

/// `SO_MAX_PACING_RATE` without a limit, as the kernel writes it.
const UNPACED: u64 = u64::MAX;

impl ForeignSocket {
    /// Sets all of it.
    ///
    /// # Errors
    /// What the system said at the first option that it refused; those before are set.
    pub fn tune(&self, tuning: &Tuning) -> io::Result<()> {
        self.socket.set_nodelay(tuning.no_delay)?;
        self.set(libc::SOL_SOCKET, libc::SO_PRIORITY, &tuning.priority.to_ne_bytes())?;
        self.pace(tuning.pacing)?;
        // 0 is the system's own (`net.ipv4.tcp_notsent_lowat`).
        let unsent = tuning.unsent_limit.unwrap_or(0);
        self.set(libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &unsent.to_ne_bytes())?;
        self.try_again_within(tuning.again_within)
    }

    fn try_again_within(&self, within: Option<Duration>) -> io::Result<()> {
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let tries_for = within.map_or(0, |_| milliseconds(TRIES_FOR));
        let rto_max = milliseconds(within.unwrap_or(RTO_MAX_STOCK));
        let give_up = |tries_for: u32| {
            self.set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &tries_for.to_ne_bytes())
        };
        // Never short waits without the long patience.
        give_up(tries_for)?;
        match self.set(libc::IPPROTO_TCP, TCP_RTO_MAX_MS, &rto_max.to_ne_bytes()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => give_up(0),
            result => result,
        }
    }

    /// Sets only the pace.
    ///
    /// # Errors
    /// What the system said.
    pub fn pace(&self, limit: RateLimit) -> io::Result<()> {
        let bytes = match limit {
            RateLimit::Unlimited => UNPACED,
            RateLimit::At(rate) => bytes_per_second(rate),
        };
        self.set(libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &bytes.to_ne_bytes())
    }

    /// Sets only the class that its packets go to from now on.
    ///
    /// # Errors
    /// What the system said.
    pub fn prioritize(&self, class: u32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_PRIORITY, &class.to_ne_bytes())
    }

    /// Whether small segments leave at once.
    ///
    /// # Errors
    /// What the system said.
    pub fn no_delay(&self) -> io::Result<bool> {
        self.socket.nodelay()
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: &[u8]) -> io::Result<()> {
        let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
        // SAFETY: the descriptor is open while `self` lives; the kernel reads `length` bytes of `value` and keeps nothing.
        let result = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), level, option, value.as_ptr().cast(), length)
        };
        nix::errno::Errno::result(result).map(drop).map_err(io::Error::from)
    }
}

/// A rate of 0 would stop the socket for good: the least is one byte a second.
fn bytes_per_second(rate: Bandwidth) -> u64 {
    (rate.bits_per_second() / 8).clamp(1, UNPACED - 1)
}

/// Finds the sockets of one process among a namespace's connections.
#[derive(Debug)]
pub struct SocketFinder {
    process: Process,
    diag: TcpDiag,
}

impl SocketFinder {
    /// For a process that lives in the namespace of `diag`; `None` if it is gone.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(pid: u32, diag: TcpDiag) -> io::Result<Option<Self>> {
        Ok(Process::open(pid)?.map(|process| SocketFinder { process, diag }))
    }

    /// A connection of the process from a port of its own to a port of the other side (`None`: any port) that `wanted` picks, with
    /// its descriptor; of several the one that has carried most. As long as there is none this costs one question to the kernel.
    ///
    /// Which was made first nobody can tell: the kernel numbers sockets by processor, and programs use descriptors again.
    ///
    /// # Errors
    /// [`TcpInfoError`].
    pub fn find(
        &mut self,
        local: Option<u16>,
        remote: Option<u16>,
        wanted: impl Fn(&Connection) -> bool,
    ) -> Result<Option<(i32, Connection)>, TcpInfoError> {
        let mut all = self.diag.between(local, remote)?;
        all.retain(&wanted);
        if all.is_empty() {
            return Ok(None);
        }
        all.sort_by_key(|one| std::cmp::Reverse(carried(one)));
        let numbers = descriptors(self.process.pid());
        Ok(all.into_iter().find_map(|one| Some((*numbers.get(&one.inode)?, one))))
    }

    /// The socket behind a descriptor of the process.
    ///
    /// # Errors
    /// What the system said: `EPERM` without the right to trace the process; `ENOTCONN` if the descriptor is not this
    /// connection's any more.
    pub fn take(&self, number: i32, connection: &Connection) -> io::Result<ForeignSocket> {
        let socket = TcpStream::from(self.process.descriptor(number)?);
        let ports = |ends: [&SocketAddr; 2]| ends.map(SocketAddr::port);
        let now = [socket.local_addr()?, socket.peer_addr()?];
        if ports(now.each_ref()) != ports([&connection.local, &connection.remote]) {
            return Err(io::Error::from_raw_os_error(libc::ENOTCONN));
        }
        Ok(ForeignSocket { socket, local: connection.local, remote: connection.remote })
    }
}

/// Payload that its owner has sent, but for what is on its way.
fn carried(one: &Connection) -> u64 {
    one.info.bytes_acked + one.info.bytes_unsent
}

/// Gives up the connections that a process of the namespace is making and that `wanted` picks, so that it learns at once that they
/// failed. Returns how many.
///
/// # Errors
/// What the system said: `EPERM` without the right to trace the process.
pub fn break_connecting(
    pid: u32,
    diag: &mut TcpDiag,
    wanted: impl Fn(&Connection) -> bool,
) -> io::Result<usize> {
    let Some(process) = Process::open(pid)? else { return Ok(0) };
    let mut waiting = diag.connecting().map_err(io::Error::other)?;
    waiting.retain(&wanted);
    if waiting.is_empty() {
        return Ok(0);
    }
    let numbers = descriptors(pid);
    let mut broken = 0;
    for one in waiting {
        let Some(number) = numbers.get(&one.inode) else { continue };
        let socket = TcpStream::from(process.descriptor(*number)?);
        // Its own port says that the number is still this socket's.
        if socket.local_addr()?.port() == one.local.port() {
            socket.shutdown(std::net::Shutdown::Both)?;
            broken += 1;
        }
    }
    Ok(broken)
}

/// The descriptors of a process that are sockets, by inode. QEMU duplicates some: the lowest number counts.
fn descriptors(pid: u32) -> BTreeMap<u32, i32> {
    let mut all = BTreeMap::new();
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return all };
    for entry in entries.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let inode = link.to_str().and_then(|text| text.strip_prefix("socket:["));
        let Some(inode) = inode.and_then(|text| text.strip_suffix(']')?.parse().ok()) else {
            continue;
        };
        let lowest = all.entry(inode).or_insert(number);
        *lowest = (*lowest).min(number);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Netns;
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        time::Instant,
    };

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn foreign(of: &TcpStream) -> ForeignSocket {
        let local = of.local_addr().unwrap();
        let diag = TcpDiag::open(&Netns::own()).unwrap();
        let mut finder = SocketFinder::open(std::process::id(), diag).unwrap().unwrap();
        let any = |_: &Connection| true;
        assert_eq!(finder.find(Some(local.port()), Some(1), any).unwrap(), None);
        assert_eq!(finder.find(Some(local.port()), None, |_| false).unwrap(), None);
        let (number, connection) = &finder.find(Some(local.port()), None, any).unwrap().unwrap();
        assert_eq!(*number, of.as_raw_fd());
        let mut other = *connection;
        other.remote.set_port(1);
        assert_eq!(
            finder.take(*number, &other).unwrap_err().raw_os_error(),
            Some(libc::ENOTCONN),
            "a descriptor that another connection has now is left alone"
        );
        finder.take(*number, connection).unwrap()
    }

    /// A migration's stream beside its second connection, whichever was made first and on whatever processor.
    #[test]
    fn of_several_connections_the_one_that_has_carried_most_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        // Later ones carry more, and each its own amount.
        let made = (1..=4_usize).map(|number| (TcpStream::connect(at).unwrap(), number << 12));
        let mut made: Vec<_> = made.collect();
        for (one, bytes) in &mut made {
            one.write_all(&vec![1; *bytes]).unwrap();
        }
        let diag = TcpDiag::open(&Netns::own()).unwrap();
        let mut finder = SocketFinder::open(std::process::id(), diag).unwrap().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        // Until everything is acknowledged, some of it looks like less.
        while made.iter().any(|(one, bytes)| {
            let port = one.local_addr().unwrap().port();
            let found = finder.find(Some(port), Some(at.port()), |_| true).unwrap().unwrap();
            carried(&found.1) < u64::try_from(*bytes).unwrap()
        }) {
            assert!(Instant::now() < until, "it never arrives");
            std::thread::yield_now();
        }
        let mut beside = Vec::new();
        for (one, _) in made.iter().rev() {
            let port = one.local_addr().unwrap().port();
            let wanted = |it: &Connection| !beside.contains(&it.local.port());
            let (_, found) = finder.find(None, Some(at.port()), wanted).unwrap().unwrap();
            assert_eq!(found.local.port(), port);
            beside.push(port);
        }
    }

    #[test]
    fn an_option_set_from_outside_holds_for_the_owner() {
        let (client, _server) = pair();
        let socket = foreign(&client);
        assert_eq!(Some(socket.remote), client.peer_addr().ok());
        assert!(!client.nodelay().unwrap() && !socket.no_delay().unwrap());
        let tuning = Tuning { no_delay: true, unsent_limit: Some(1 << 17), ..Tuning::STOCK };
        socket.tune(&tuning).unwrap();
        assert!(client.nodelay().unwrap());
        socket.tune(&Tuning::STOCK).unwrap();
        assert!(!client.nodelay().unwrap());
    }

    fn get(socket: &TcpStream, option: libc::c_int) -> Option<u32> {
        let (mut value, mut length) = (0_u32, 4);
        // SAFETY: the descriptor is open while `socket` lives; the kernel writes at most `length` bytes to `value`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                option,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        (result == 0).then_some(value)
    }

    /// A kernel that can be told when to send again is told, and not to give up sooner; another one is left as it is.
    #[test]
    fn a_connection_sends_again_soon_and_does_not_give_up_for_it() {
        let (client, _server) = pair();
        let socket = foreign(&client);
        let second = Duration::from_secs(1);
        socket.tune(&Tuning { again_within: Some(second), ..Tuning::STOCK }).unwrap();
        let told = get(&client, TCP_RTO_MAX_MS);
        let tries_for = get(&client, libc::TCP_USER_TIMEOUT);
        match told {
            Some(told) => assert_eq!((told, tries_for), (1_000, Some(3_600_000))),
            None => assert_eq!(tries_for, Some(0)),
        }
        socket.tune(&Tuning::STOCK).unwrap();
        assert_eq!(get(&client, TCP_RTO_MAX_MS), told.map(|_| 120_000));
        assert_eq!(get(&client, libc::TCP_USER_TIMEOUT), Some(0));
    }

    #[test]
    fn a_paced_socket_keeps_its_pace_and_is_freed_again() {
        let (mut client, mut server) = pair();
        let socket = foreign(&client);
        let rate: Bandwidth = "8Mbit/s".parse().unwrap();
        socket.pace(RateLimit::At(rate)).unwrap();
        let send = |client: &mut TcpStream, server: &mut TcpStream, bytes: usize| {
            let began = Instant::now();
            std::thread::scope(|scope| {
                scope.spawn(|| client.write_all(&vec![1; bytes]).unwrap());
                server.read_exact(&mut vec![0; bytes]).unwrap();
            });
            began.elapsed()
        };
        // 1 MB at 1 MB/s: a second, but for the first window that leaves at once.
        let paced = send(&mut client, &mut server, 1_000_000);
        socket.pace(RateLimit::Unlimited).unwrap();
        let free = send(&mut client, &mut server, 1_000_000);
        assert!(paced > Duration::from_millis(500), "{paced:?}");
        assert!(paced > 3 * free, "paced {paced:?}, free {free:?}");
    }

    /// Whoever waits for a connection learns at once that it was given up; the kernel would try for two minutes.
    #[test]
    fn a_connection_that_is_being_made_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        // SAFETY: the descriptor is open while `listener` lives; the call takes numbers only.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        // Nobody accepts: once the queue is full nobody is answered.
        let mut queue = Vec::new();
        while let Ok(one) = TcpStream::connect_timeout(&at, Duration::from_millis(200)) {
            queue.push(one);
            assert!(queue.len() < 16, "the queue never fills");
        }
        let waits = std::thread::spawn(move || TcpStream::connect(at));
        let mut diag = TcpDiag::open(&Netns::own()).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let own = std::process::id();
        while break_connecting(own, &mut diag, |one| one.remote == at).unwrap() == 0 {
            assert!(Instant::now() < until, "it was not found");
            std::thread::yield_now();
        }
        assert!(waits.join().unwrap().is_err());
    }

    #[test]
    fn who_is_gone_has_no_sockets() {
        let diag = TcpDiag::open(&Netns::own()).unwrap();
        assert!(SocketFinder::open(u32::MAX >> 1, diag).unwrap().is_none());
        assert!(descriptors(u32::MAX >> 1).is_empty());
    }
}
