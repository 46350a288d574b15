//! A scripted monitor: a unix socket on which a test plays QEMU.
#![allow(dead_code, reason = "each test binary uses a part")]

use droveway_qmp::{Client, QmpAddress, QmpError};
use serde_json::{Value, json};
use std::{io, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// Bound on anything a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Monitor {
    pub(crate) dir: TempDir,
    pub(crate) address: QmpAddress,
    listener: UnixListener,
}

impl Monitor {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        Monitor { dir, address: QmpAddress::unix(path), listener }
    }

    pub(crate) async fn accept(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.expect("accept");
        Peer { stream: BufReader::new(stream) }
    }

    /// A negotiated pair of client and peer.
    pub(crate) async fn pair(&self, capabilities: &[&str]) -> (Client, Peer) {
        let serve = async {
            let mut peer = self.accept().await;
            peer.greet(capabilities).await;
            let id = peer.expect("qmp_capabilities").await;
            peer.reply(id, json!({})).await;
            peer
        };
        let (client, peer) = tokio::join!(Client::connect(&self.address, PATIENCE), serve);
        (client.expect("connect"), peer)
    }
}

/// The monitor's end of a connection.
pub(crate) struct Peer {
    stream: BufReader<UnixStream>,
}

impl Peer {
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).await.expect("write");
    }

    pub(crate) async fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    pub(crate) async fn send(&mut self, value: Value) {
        self.send_raw(format!("{value}\r\n").as_bytes()).await;
    }

    pub(crate) async fn greet(&mut self, capabilities: &[&str]) {
        let version = json!({"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "test"});
        self.send(json!({"QMP": {"version": version, "capabilities": capabilities}})).await;
    }

    pub(crate) async fn reply(&mut self, id: u64, value: Value) {
        self.send(json!({"return": value, "id": id})).await;
    }

    pub(crate) async fn event(&mut self, name: &str, data: Value) {
        let timestamp = json!({"seconds": 1_700_000_000, "microseconds": 250_000});
        self.send(json!({"event": name, "data": data, "timestamp": timestamp})).await;
    }

    /// The next command; `None` once the client hung up.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).await.expect("read");
        (read > 0).then(|| serde_json::from_str(&line).expect("the client speaks JSON"))
    }

    /// The id of the next command, which must have that name, in either lane.
    pub(crate) async fn expect(&mut self, command: &str) -> u64 {
        let message = self.next().await.expect("a command");
        let name = message.get("execute").or(message.get("exec-oob"));
        assert_eq!(name.and_then(Value::as_str), Some(command), "{message}");
        message["id"].as_u64().expect("every command has an id")
    }
}

/// The error's text with its causes, as a person would see it.
pub(crate) fn chain(error: &QmpError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
