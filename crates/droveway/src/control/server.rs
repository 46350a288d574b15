//! The run's end of the socket.

use super::{Answer, Asked, Command, REQUEST_BYTES_MAX, VERSION};
use crate::{fleet, run};
use droveway_fleet::{Fleet, VmId};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

/// Who watches and steers at once: some terminals. Others wait until one goes.
const CONNECTIONS_MAX: usize = 16;
/// A connection that asks nothing for so long is closed: others may wait for it.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// A reader that does not read is not waited for.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// The run's loop answers at once unless it is stuck.
const LOOP_TIME: Duration = Duration::from_secs(4);

/// Listens while a run lasts; the socket goes with it.
#[derive(Debug)]
pub(crate) struct Server {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

/// What a connection needs of the run.
#[derive(Debug, Clone)]
struct Desk {
    operators: mpsc::Sender<run::Asked>,
    view: watch::Receiver<Option<run::View>>,
}

impl Server {
    /// Listens for this fleet's run. A run that cannot be steered from elsewhere goes on all the same: `Err` says why.
    pub(crate) fn start(
        fleet: &Fleet,
        operators: mpsc::Sender<run::Asked>,
        view: watch::Receiver<Option<run::View>>,
    ) -> io::Result<Self> {
        Server::listen(fleet::control_path(fleet), operators, view)
    }

    /// The caller holds the fleet's lock: a socket that is there is of a run that died.
    pub(super) fn listen(
        path: PathBuf,
        operators: mpsc::Sender<run::Asked>,
        view: watch::Receiver<Option<run::View>>,
    ) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        close_to_others(&path)?;
        let desk = Desk { operators, view };
        let task = tokio::spawn(accept(listener, desk));
        Ok(Server { path, task })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Beside the kernel's word of who is there: nobody else even connects.
fn close_to_others(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

async fn accept(listener: UnixListener, desk: Desk) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or the peer was gone already.
                tracing::warn!("a connection to the control socket failed: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let desk = desk.clone();
        tokio::spawn(async move {
            serve(stream, desk).await;
            drop(permit);
        });
    }
}

/// Whether the one at the other end may steer: the run's own user, or root.
fn may_steer(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn serve(stream: UnixStream, desk: Desk) {
    let allowed = may_steer(&stream);
    let mut stream = BufReader::new(stream);
    if !allowed {
        let answer = Answer::refused(false, "this run listens to its own user and to root");
        write(&mut stream, &answer).await;
        return;
    }
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut stream).take(REQUEST_BYTES_MAX);
        match timeout(IDLE_TIME, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => return,
        }
        let is_whole = line.ends_with(b"\n");
        let answer = if is_whole {
            answer(&line, &desk).await
        } else if line.is_empty() {
            return;
        } else {
            Answer::refused(
                true,
                format!(
                    "a request has at most {REQUEST_BYTES_MAX} bytes, and ends with a line feed"
                ),
            )
        };
        // What follows a request that is too long is no request.
        if !write(&mut stream, &answer).await || !is_whole {
            return;
        }
    }
}

async fn write(stream: &mut BufReader<UnixStream>, answer: &Answer) -> bool {
    let Ok(mut text) = serde_json::to_vec(answer) else { return false };
    text.push(b'\n');
    matches!(timeout(WRITE_TIME, stream.write_all(&text)).await, Ok(Ok(())))
}

/// What a line is answered with.
async fn answer(line: &[u8], desk: &Desk) -> Answer {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    match serde_json::from_slice::<Version>(line) {
        Ok(Version { version: VERSION }) => {}
        Ok(Version { version }) => {
            let reason = format!(
                "this run speaks version {VERSION} of the control language, not {version}: use the \
                 release of droveway that it was started with"
            );
            return Answer::refused(true, reason);
        }
        Err(error) => return Answer::refused(true, format!("not a request: {error}")),
    }
    let command = match serde_json::from_slice::<Asked>(line) {
        Ok(asked) => asked.command,
        Err(error) => return Answer::refused(true, format!("not a request: {error}")),
    };
    let request = match command.operator() {
        Ok(Some(request)) => request,
        Ok(None) => return status(desk),
        Err(reason) => return Answer::refused(true, reason),
    };
    let is_cancel = matches!(command, Command::Cancel { .. });
    let (sender, receiver) = oneshot::channel();
    if timeout(LOOP_TIME, desk.operators.send((request, sender))).await.is_err() {
        return Answer::refused(false, "the run is busy: ask again");
    }
    match timeout(LOOP_TIME, receiver).await {
        Ok(Ok(Ok(accepted))) => {
            let replans = if accepted.replans { "; the rest is planned again" } else { "" };
            let note = past_return(&accepted.past_return, is_cancel);
            Answer { done: Some(format!("{}{replans}{note}", accepted.choice)), ..Answer::new() }
        }
        Ok(Ok(Err(refusal))) => Answer::refused(false, refusal),
        Ok(Err(_)) => Answer::refused(false, "the run has ended"),
        Err(_) => Answer::refused(false, "the run took the request but has not answered"),
    }
}

fn past_return(vms: &[VmId], is_cancel: bool) -> String {
    let names: Vec<_> = vms.iter().map(VmId::as_str).collect();
    if names.is_empty() || !is_cancel {
        return String::new();
    }
    format!(" (past the point of return: {})", names.join(", "))
}

fn status(desk: &Desk) -> Answer {
    let view = desk.view.borrow().clone();
    match view {
        Some(view) => Answer { view: Some(view), ..Answer::new() },
        None => Answer::refused(false, "the run is being prepared: ask again"),
    }
}
