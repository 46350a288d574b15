//! From an address to a negotiated connection.

use super::{Client, Inner, connection};
use crate::{
    Closed, Frame, FrameDecoder, Greeting, GreetingError, Incoming, QmpAddress, QmpError, bounds,
};
use futures::StreamExt;
use serde_json::json;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{OnceCell, mpsc, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::codec::FramedRead;

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Client {
    /// Connects and negotiates, all within that time. A monitor that isn't there yet (no socket, connection refused) is
    /// tried again, at most [`bounds::CONNECT_ATTEMPTS_MAX`] times; other errors are final. Call it on a tokio runtime.
    pub async fn connect(address: &QmpAddress, within: Duration) -> Result<Client, QmpError> {
        let deadline = Instant::now() + within;
        let mut pause = bounds::CONNECT_PAUSE_MIN;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let attempt_ends = deadline.min(Instant::now() + bounds::CONNECT_ATTEMPT_MAX);
            let error = match timeout_at(attempt_ends, open(address)).await {
                Ok(Ok(Socket::Unix(stream))) => {
                    return negotiate(stream, address.clone(), within, deadline).await;
                }
                Ok(Ok(Socket::Tcp(stream))) => {
                    return negotiate(stream, address.clone(), within, deadline).await;
                }
                Ok(Err(error)) => error,
                Err(_) => io::Error::from(io::ErrorKind::TimedOut),
            };
            let over =
                attempts >= bounds::CONNECT_ATTEMPTS_MAX || Instant::now() + pause >= deadline;
            if over || !is_not_there_yet(&error) {
                return Err(QmpError::Connect {
                    address: address.clone(),
                    attempts,
                    source: error,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(bounds::CONNECT_PAUSE_MAX);
        }
    }

    /// Negotiates over a stream that somebody else opened, say in another network namespace. The address is for messages.
    pub async fn connect_over<S>(
        stream: S,
        address: &QmpAddress,
        within: Duration,
    ) -> Result<Client, QmpError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        negotiate(stream, address.clone(), within, Instant::now() + within).await
    }

    /// A client of a QEMU that is not there any more: its connection has ended, and every command fails as it does when a QEMU
    /// dies. For who has to treat both alike. Within a tokio runtime.
    #[must_use]
    pub fn of_the_gone(address: &QmpAddress) -> Client {
        let (stream, _) = tokio::io::duplex(1);
        let (reader, writer) = tokio::io::split(stream);
        let reader = FramedRead::new(reader, FrameDecoder::default());
        let shared = Arc::new(connection::Shared::new());
        let (closed_sender, closed) = watch::channel(None);
        let (outbox, lines) = mpsc::channel(bounds::IN_BAND_MAX + bounds::OUT_OF_BAND_MAX);
        tokio::spawn(connection::run(reader, writer, lines, Arc::clone(&shared), closed_sender));
        let inner = Inner {
            address: address.clone(),
            greeting: Greeting::default(),
            out_of_band: true,
            shared,
            outbox,
            closed,
            schema: OnceCell::new(),
        };
        Client { inner: Arc::new(inner), timeout: bounds::COMMAND_TIMEOUT }
    }
}

async fn open(address: &QmpAddress) -> io::Result<Socket> {
    match address {
        QmpAddress::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
        QmpAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // Commands are small and each waits for its reply.
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
    }
}

fn is_not_there_yet(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, NotFound,
        TimedOut, WouldBlock,
    };
    // `WouldBlock` is a unix socket whose backlog is full.
    matches!(
        error.kind(),
        ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkUnreachable
            | NotFound
            | TimedOut
            | WouldBlock
    )
}

async fn negotiate<S>(
    stream: S,
    address: QmpAddress,
    within: Duration,
    deadline: Instant,
) -> Result<Client, QmpError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = FramedRead::new(reader, FrameDecoder::default());
    let failed = |address, source| Err(QmpError::Greeting { address, source });
    let greeting = match timeout_at(deadline, read_greeting(&mut reader)).await {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(source)) => return failed(address, source),
        Err(_) => return failed(address, GreetingError::TimedOut { after: within }),
    };
    let out_of_band = greeting.offers_oob();
    let shared = Arc::new(connection::Shared::new());
    let (closed_sender, closed) = watch::channel(None);
    let places = bounds::IN_BAND_MAX + bounds::OUT_OF_BAND_MAX;
    let (outbox, lines) = mpsc::channel(places);
    tokio::spawn(connection::run(reader, writer, lines, Arc::clone(&shared), closed_sender));
    let schema = OnceCell::new();
    let inner = Arc::new(Inner { address, greeting, out_of_band, shared, outbox, closed, schema });
    let left = deadline.saturating_duration_since(Instant::now());
    let client = Client { inner, timeout: left };

    let arguments = if out_of_band { json!({"enable": ["oob"]}) } else { json!({}) };
    match client.execute::<()>("qmp_capabilities", arguments).await {
        Ok(()) => Ok(client.with_timeout(bounds::COMMAND_TIMEOUT)),
        Err(error) => {
            let address = client.address().clone();
            failed(
                address,
                match error {
                    QmpError::Command { description, .. } => GreetingError::Refused { description },
                    QmpError::Disconnected { source, .. } => GreetingError::Closed(source),
                    QmpError::TooLong { bound, .. } => {
                        GreetingError::Closed(Closed::TooLong { bound })
                    }
                    QmpError::Malformed { source, .. } => {
                        GreetingError::Refused { description: source.to_string() }
                    }
                    QmpError::Timeout { .. }
                    | QmpError::Busy { .. }
                    | QmpError::Denied { .. }
                    | QmpError::Connect { .. }
                    | QmpError::Greeting { .. } => GreetingError::TimedOut { after: within },
                },
            )
        }
    }
}

async fn read_greeting<R: AsyncRead + Unpin>(
    reader: &mut FramedRead<R, FrameDecoder>,
) -> Result<Greeting, GreetingError> {
    match reader.next().await {
        Some(Ok(Frame::Message(Incoming::Greeting(greeting)))) => Ok(greeting),
        Some(Ok(Frame::Message(other))) => {
            let excerpt = format!("{other:?}").chars().take(bounds::EXCERPT_BYTES_MAX).collect();
            Err(GreetingError::NotQmp { excerpt })
        }
        Some(Ok(Frame::Malformed { excerpt, .. })) => Err(GreetingError::NotQmp { excerpt }),
        Some(Err(error)) => Err(GreetingError::Closed(connection::closed_by(error))),
        None => Err(GreetingError::Closed(Closed::ByPeer)),
    }
}
