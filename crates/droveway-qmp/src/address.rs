//! Where a monitor listens ([`QmpAddress`]) and where a migration goes ([`MigrationUri`]).
//!
//! Both are written `unix:/path` or `tcp:host:port` (`tcp:[::1]:4444` for IPv6), as QEMU writes them; they are two types
//! because mixing them up would send a guest's memory to a monitor.

use std::{fmt, path::PathBuf, str::FromStr};

/// An address that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read address '{text}': {reason}")]
pub struct AddressError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

enum Parts {
    Unix(PathBuf),
    Tcp(String, u16),
}

fn parse(text: &str) -> Result<Parts, AddressError> {
    let wrong = |reason| AddressError { text: text.to_owned(), reason };
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(wrong("the path is missing: write it like unix:/run/vm.sock"));
        }
        if path.contains('\0') {
            return Err(wrong("a path has no NUL"));
        }
        return Ok(Parts::Unix(PathBuf::from(path)));
    }
    let Some(rest) = text.strip_prefix("tcp:") else {
        return Err(wrong("it starts with neither 'unix:' nor 'tcp:'"));
    };
    let Some((host, port)) = rest.rsplit_once(':') else {
        return Err(wrong("the port is missing: write it like tcp:10.0.0.1:4444"));
    };
    let port = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner,
        None if host.contains(':') => return Err(wrong("an IPv6 host is written in brackets")),
        None => host,
    };
    if host.is_empty() {
        return Err(wrong("the host is missing"));
    }
    if host.chars().any(|c| c.is_whitespace() || c.is_control() || "[],".contains(c)) {
        return Err(wrong("the host has characters that no host has"));
    }
    Ok(Parts::Tcp(host.to_owned(), port))
}

macro_rules! address {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            /// A unix socket.
            Unix(PathBuf),
            /// TCP.
            Tcp {
                /// Name or address, IPv6 without brackets.
                host: String,
                /// Port.
                port: u16,
            },
        }

        impl $name {
            /// A unix socket.
            pub fn unix(path: impl Into<PathBuf>) -> Self {
                $name::Unix(path.into())
            }

            /// TCP.
            pub fn tcp(host: impl Into<String>, port: u16) -> Self {
                $name::Tcp { host: host.into(), port }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $name::Unix(path) => write!(f, "unix:{}", path.display()),
                    $name::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
                    $name::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
                }
            }
        }

        impl FromStr for $name {
            type Err = AddressError;
            fn from_str(text: &str) -> Result<Self, AddressError> {
                Ok(match parse(text)? {
                    Parts::Unix(path) => $name::Unix(path),
                    Parts::Tcp(host, port) => $name::Tcp { host, port },
                })
            }
        }
    };
}

address! {
    /// Where a QMP monitor listens.
    QmpAddress
}
address! {
    /// Where a migration stream goes, or is waited for. Port 0 lets the listening QEMU choose:
    /// [`MigrationInfo::listening`](crate::MigrationInfo::listening) says what it chose.
    MigrationUri
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<QmpAddress, &str>) {
        match (text.parse::<QmpAddress>(), expected) {
            (Ok(got), Ok(expected)) => {
                assert_eq!(got, expected);
                assert_eq!(got.to_string(), text);
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "'{error}' lacks '{part}'");
            }
            (got, expected) => panic!("'{text}': got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn addresses_are_read_and_printed() {
        check("unix:/run/a b.sock", Ok(QmpAddress::unix("/run/a b.sock")));
        check("tcp:10.0.0.1:4444", Ok(QmpAddress::tcp("10.0.0.1", 4444)));
        check("tcp:[fe80::1]:0", Ok(QmpAddress::tcp("fe80::1", 0)));
        check("unix:", Err("the path is missing"));
        check("/run/a.sock", Err("neither 'unix:' nor 'tcp:'"));
        check("tcp:host", Err("the port is missing"));
        check("tcp:host:70000", Err("not a number from 0 to 65535"));
        check("tcp:fe80::1:44", Err("in brackets"));
        check("tcp::44", Err("the host is missing"));
        check("tcp:a,ipv4=on:44", Err("characters that no host has"));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "(unix|tcp)?:?\\PC{0,24}") {
            if let Ok(address) = text.parse::<QmpAddress>() {
                prop_assert_eq!(address.to_string().parse::<QmpAddress>().unwrap(), address);
            }
        }
    }
}
