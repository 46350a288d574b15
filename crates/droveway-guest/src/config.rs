//! What the lab asks of this guest, read from the kernel command line.
//!
//! Keys start with `dw.`; everything else belongs to the kernel and is skipped. An unknown `dw.` key is an
//! error: lab and image are built together, so it means that one of them is stale.

use std::fmt;
use std::net::Ipv4Addr;

/// The checked command line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) load: Option<Load>,
    pub(crate) iperf_ports: Vec<u16>,
    pub(crate) services: Vec<Service>,
    /// Of a virtual CPU, for each service that computes; `None`: all that it gets.
    pub(crate) share: Option<f64>,
}

/// IPv4 address of the guest's only card, with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) ip: Ipv4Addr,
    pub(crate) prefix: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// How memory is to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) working_set_bytes: u64,
    pub(crate) write_rate_bytes_per_s: u64,
    pub(crate) hot: Option<Hot>,
}

/// The part of the working set that is written more often: its share of the pages, and the probability
/// that a write goes there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Hot {
    pub(crate) share: f64,
    pub(crate) weight: f64,
}

/// A program that a scenario may ask for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Memcached,
    SysbenchMemory,
    SysbenchCpu,
}

impl Service {
    pub(crate) const ALL: [Self; 3] = [Self::Memcached, Self::SysbenchMemory, Self::SysbenchCpu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memcached => "memcached",
            Self::SysbenchMemory => "sysbench-memory",
            Self::SysbenchCpu => "sysbench-cpu",
        }
    }
}

/// Why a command line was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConfigError {
    UnknownKey(String),
    Duplicate(&'static str),
    Missing(&'static str),
    Invalid { key: &'static str, value: String, expected: &'static str },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey(key) => {
                write!(f, "kernel command line: unknown key `{key}` (is the guest image stale?)")
            }
            Self::Duplicate(key) => write!(f, "kernel command line: `{key}` is given twice"),
            Self::Missing(key) => write!(f, "kernel command line: `{key}` is missing"),
            Self::Invalid { key, value, expected } => {
                write!(f, "kernel command line: `{key}={value}`: expected {expected}")
            }
        }
    }
}

const NAME: &str = "dw.name";
const ADDRESS: &str = "dw.addr";
const LOAD: &str = "dw.load";
const IPERF: &str = "dw.iperf";
const SERVICES: &str = "dw.services";
const SHARE: &str = "dw.share";

impl Config {
    pub(crate) fn parse(command_line: &str) -> Result<Self, ConfigError> {
        let mut name = None;
        let mut address = None;
        let mut load = None;
        let mut iperf_ports = None;
        let mut services = None;
        let mut share = None;
        for word in command_line.split_whitespace().filter(|word| word.starts_with("dw.")) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                NAME => set(&mut name, NAME, parse_name(value)?)?,
                ADDRESS => set(&mut address, ADDRESS, parse_address(value)?)?,
                LOAD => set(&mut load, LOAD, parse_load(value)?)?,
                IPERF => set(&mut iperf_ports, IPERF, parse_ports(value)?)?,
                SHARE => set(&mut share, SHARE, parse_share(value)?)?,
                SERVICES => set(&mut services, SERVICES, parse_services(value)?)?,
                _ => return Err(ConfigError::UnknownKey(key.to_owned())),
            }
        }
        Ok(Self {
            name: name.ok_or(ConfigError::Missing(NAME))?,
            address: address.ok_or(ConfigError::Missing(ADDRESS))?,
            load,
            iperf_ports: iperf_ports.unwrap_or_default(),
            services: services.unwrap_or_default(),
            share,
        })
    }
}

fn set<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), ConfigError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(ConfigError::Duplicate(key)),
    }
}

fn parse_name(value: &str) -> Result<String, ConfigError> {
    // The name becomes the host name: 64 bytes is Linux's limit.
    let fits = (1..=64).contains(&value.len());
    if fits && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Ok(value.to_owned());
    }
    Err(invalid(NAME, value, "1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`"))
}

fn parse_address(value: &str) -> Result<Address, ConfigError> {
    let parse = || {
        let (ip, prefix) = value.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
        Some(Address { ip: ip.parse().ok()?, prefix })
    };
    parse()
        .ok_or_else(|| invalid(ADDRESS, value, "an IPv4 address and prefix such as 10.77.0.20/24"))
}

fn parse_load(value: &str) -> Result<Load, ConfigError> {
    const EXPECTED: &str =
        "workingSet:BYTES,writeRate:BYTES_PER_S and optionally hotShare:0..1,hotWeight:0..1 (both)";
    let refused = || invalid(LOAD, value, EXPECTED);
    let mut working_set_bytes = None;
    let mut write_rate_bytes_per_s = None;
    let mut hot_share = None;
    let mut hot_weight = None;
    for field in value.split(',') {
        let (key, text) = field.split_once(':').ok_or_else(refused)?;
        let fresh = match key {
            "workingSet" => {
                working_set_bytes.replace(parse_bytes(text).ok_or_else(refused)?).is_none()
            }
            "writeRate" => {
                write_rate_bytes_per_s.replace(parse_bytes(text).ok_or_else(refused)?).is_none()
            }
            "hotShare" => hot_share.replace(parse_ratio(text).ok_or_else(refused)?).is_none(),
            "hotWeight" => hot_weight.replace(parse_ratio(text).ok_or_else(refused)?).is_none(),
            _ => false,
        };
        if !fresh {
            return Err(refused());
        }
    }
    let hot = match (hot_share, hot_weight) {
        (None, None) => None,
        (Some(share), Some(weight)) => Some(Hot { share, weight }),
        _ => return Err(refused()),
    };
    Ok(Load {
        working_set_bytes: working_set_bytes
            .filter(|bytes| *bytes >= crate::memory_load::PAGE_BYTES)
            .ok_or_else(refused)?,
        write_rate_bytes_per_s: write_rate_bytes_per_s.ok_or_else(refused)?,
        hot,
    })
}

fn parse_bytes(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn parse_ratio(text: &str) -> Option<f64> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
}

fn parse_ports(value: &str) -> Result<Vec<u16>, ConfigError> {
    value
        .split(',')
        .map(|port| port.parse().ok().filter(|port| *port != 0))
        .collect::<Option<Vec<u16>>>()
        .ok_or_else(|| invalid(IPERF, value, "TCP ports such as 5201,5202"))
}

fn parse_services(value: &str) -> Result<Vec<Service>, ConfigError> {
    value
        .split(',')
        .map(|name| Service::ALL.into_iter().find(|service| service.name() == name))
        .collect::<Option<Vec<Service>>>()
        .ok_or_else(|| invalid(SERVICES, value, "some of memcached,sysbench-memory,sysbench-cpu"))
}

fn parse_share(value: &str) -> Result<f64, ConfigError> {
    let share = parse_ratio(value).filter(|share| *share > 0.0);
    share.ok_or_else(|| invalid(SHARE, value, "a share above 0, up to 1"))
}

fn invalid(key: &'static str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Invalid { key, value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(command_line: &str, expected: &str) {
        let error = Config::parse(command_line).expect_err("must be refused").to_string();
        assert!(error.contains(expected), "`{command_line}` gave `{error}`, not `{expected}`");
    }

    #[test]
    fn a_full_command_line_is_understood() {
        let config = Config::parse(
            "console=ttyS0 quiet dw.name=web-1 dw.addr=10.77.0.20/24 \
             dw.load=workingSet:104857600,writeRate:31457280,hotShare:0.1,hotWeight:0.9 \
             dw.iperf=5201,5202 dw.services=memcached,sysbench-memory,sysbench-cpu dw.share=0.1\n",
        )
        .expect("valid");
        assert_eq!(
            config,
            Config {
                name: "web-1".to_owned(),
                address: Address { ip: Ipv4Addr::new(10, 77, 0, 20), prefix: 24 },
                load: Some(Load {
                    working_set_bytes: 104_857_600,
                    write_rate_bytes_per_s: 31_457_280,
                    hot: Some(Hot { share: 0.1, weight: 0.9 }),
                }),
                iperf_ports: vec![5201, 5202],
                services: Service::ALL.to_vec(),
                share: Some(0.1),
            }
        );
        assert_eq!(config.address.to_string(), "10.77.0.20/24");
    }

    #[test]
    fn only_name_and_address_are_needed() {
        let config = Config::parse("dw.addr=10.0.2.15/24 root=/dev/x dw.name=t").expect("valid");
        assert_eq!((config.load, config.share), (None, None));
        assert!(config.iperf_ports.is_empty() && config.services.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |rest: &str| format!("dw.name=t dw.addr=10.0.2.15/24 {rest}");
        check_error("", "`dw.name` is missing");
        check_error("dw.name=t", "`dw.addr` is missing");
        check_error(&with("dw.colour=red"), "unknown key `dw.colour`");
        check_error(&with("dw.colour"), "unknown key `dw.colour`");
        check_error(&with("dw.name=u"), "`dw.name` is given twice");
        check_error("dw.name=a/b", "`dw.name=a/b`");
        check_error("dw.name=", "1 to 64");
        check_error("dw.addr=10.0.2.15", "IPv4 address");
        check_error("dw.addr=10.0.2.15/33", "IPv4 address");
        check_error(&with("dw.iperf=0"), "TCP ports");
        check_error(&with("dw.iperf=5201,"), "TCP ports");
        check_error(&with("dw.services=nginx"), "some of memcached");
        check_error(&with("dw.share=0"), "above 0");
        check_error(&with("dw.share=10%"), "above 0");
        check_error(&with("dw.load=workingSet:4096"), "writeRate");
        check_error(&with("dw.load=workingSet:100,writeRate:1"), "workingSet");
        check_error(&with("dw.load=workingSet:100MiB,writeRate:1"), "workingSet");
        check_error(&with("dw.load=workingSet:4096,workingSet:4096,writeRate:1"), "workingSet");
        check_error(&with("dw.load=workingSet:4096,writeRate:1,hotShare:0.1"), "both");
        check_error(&with("dw.load=workingSet:4096,writeRate:1,hotShare:0.1,hotWeight:2"), "0..1");
        check_error(
            &with("dw.load=workingSet:4096,writeRate:1,hotShare:0.1,hotWeight:NaN"),
            "0..1",
        );
    }
}
