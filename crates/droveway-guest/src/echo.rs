//! UDP echo on port 7007: what a client sends comes back unchanged at once. Clients measure outages by it,
//! so it must answer even when the guest's CPU is busy.

use std::net::{Ipv4Addr, UdpSocket};

use crate::console;

const PORT: u16 = 7007;

/// The highest priority of the normal scheduling class; being late here would be read as an outage.
const NICE: libc::c_int = -20;

/// The largest datagram IPv4 can carry.
const DATAGRAM_MAX: usize = 65_535;

pub(crate) fn start() -> Result<(), String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))
        .map_err(|error| format!("cannot bind the UDP echo to port {PORT}: {error}"))?;
    std::thread::Builder::new()
        .name("udp-echo".to_owned())
        .spawn(move || serve(&socket))
        .map_err(|error| format!("cannot start the UDP echo: {error}"))?;
    Ok(())
}

fn serve(socket: &UdpSocket) {
    // SAFETY: takes plain numbers; on Linux, "who" 0 is the calling thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        console::say(&format!(
            "UDP echo runs at normal priority: {}",
            std::io::Error::last_os_error()
        ));
    }
    let mut datagram = vec![0; DATAGRAM_MAX];
    loop {
        // Errors here belong to one datagram (a client whose port is closed): the next may do better.
        if let Ok((length, client)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..length], client);
        }
    }
}
