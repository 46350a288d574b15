use super::*;
use crate::run;
use droveway_drive::{Accepted, Refusal};
use droveway_fleet::status::{RunStatus, VmStatus};
use std::{path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader as AsyncReader},
    net::UnixStream as AsyncStream,
};

/// A run that answers as `decide` says, and the socket that leads to it.
struct Desk {
    path: PathBuf,
    _server: Server,
    _folder: tempfile::TempDir,
    seen: tokio::sync::mpsc::UnboundedReceiver<OperatorRequest>,
}

fn view() -> View {
    let vm =
        VmStatus { name: "web".to_owned(), state: "pre-copy".to_owned(), ..VmStatus::default() };
    View { run: RunStatus { id: "run-1".to_owned(), ..RunStatus::default() }, vms: vec![vm] }
}

fn desk(decide: fn(&OperatorRequest) -> Result<Accepted, Refusal>) -> Desk {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control").join("f.sock");
    let (operators, mut requests) = run::requests();
    let (_, looked) = tokio::sync::watch::channel(Some(view()));
    let (told, seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::listen(path.clone(), operators, looked).unwrap();
    tokio::spawn(async move {
        while let Some((request, answer)) = requests.recv().await {
            let _ = answer.send(decide(&request));
            let _ = told.send(request);
        }
    });
    Desk { path, _server: server, _folder: folder, seen }
}

fn yes(_: &OperatorRequest) -> Result<Accepted, Refusal> {
    let vms = vec!["web".parse().unwrap()];
    Ok(Accepted {
        choice: "so be it".to_owned(),
        vms: vms.clone(),
        past_return: vms,
        replans: true,
    })
}

impl Desk {
    /// What these bytes are answered with, line by line until nothing more comes.
    async fn say(&self, bytes: &[u8]) -> Vec<Answer> {
        let mut stream = AsyncStream::connect(&self.path).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut lines = AsyncReader::new(stream).lines();
        let mut answers = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            answers.push(serde_json::from_str(&line).unwrap());
        }
        answers
    }

    async fn ask(&self, command: Command) -> Answer {
        let asked = Asked { version: VERSION, command };
        let text = serde_json::to_string(&asked).unwrap() + "\n";
        self.say(text.as_bytes()).await.pop().unwrap()
    }
}

fn vm() -> Option<VmId> {
    Some("web".parse().unwrap())
}

#[tokio::test]
async fn requests_reach_the_run_as_they_were_meant() {
    let mut desk = desk(yes);
    let set = |vm, what, value: &str| Command::Set { vm, what, value: value.to_owned() };
    let rate = "400Mbit/s".parse().unwrap();
    let cases = [
        (
            set(vm(), What::Bandwidth, "400Mbit/s"),
            OperatorRequest::SetBandwidth { vm: vm(), limit: RateLimit::At(rate) },
        ),
        (
            set(None, What::Bandwidth, "unlimited"),
            OperatorRequest::SetBandwidth { vm: None, limit: RateLimit::Unlimited },
        ),
        (
            set(None, What::MaxDowntime, "250ms"),
            OperatorRequest::SetMaxDowntime { vm: None, limit: Duration::from_millis(250) },
        ),
        (
            set(vm(), What::Deadline, "90s"),
            OperatorRequest::SetDeadline { vm: vm(), deadline: Some(Duration::from_secs(90)) },
        ),
        (
            set(None, What::Deadline, "none"),
            OperatorRequest::SetDeadline { vm: None, deadline: None },
        ),
        (set(None, What::Urgency, "high"), OperatorRequest::SetUrgency(Urgency::High)),
        (Command::Cancel { vm: None }, OperatorRequest::Cancel { vm: None }),
        (Command::Switch { vm: vm().unwrap() }, OperatorRequest::Switch { vm: vm().unwrap() }),
        (Command::Recover { vm: vm().unwrap() }, OperatorRequest::Recover { vm: vm().unwrap() }),
    ];
    for (command, request) in cases {
        let is_cancel = matches!(command, Command::Cancel { .. });
        let answer = desk.ask(command).await;
        let done = answer.done.expect("accepted");
        assert!(done.starts_with("so be it; the rest is planned again"), "{done}");
        assert_eq!(done.contains("past the point of return: web"), is_cancel, "{done}");
        assert_eq!(desk.seen.recv().await, Some(request));
    }
}

#[tokio::test]
async fn a_connection_may_ask_again_and_is_told_how_the_run_stands() {
    let desk = desk(yes);
    let line = "{\"version\":1,\"command\":\"status\"}\n";
    let answers = desk.say(line.repeat(3).as_bytes()).await;
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|answer| answer.view.as_ref() == Some(&view())));
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_its_reason_and_reaches_nobody() {
    let mut desk = desk(yes);
    let long = format!("{{\"version\":1,\"command\":\"{}", "x".repeat(9_000));
    for (line, part) in [
        ("{\"version\":2,\"command\":\"status\"}\n", "version 1"),
        ("hello\n", "not a request"),
        ("{\"version\":1}\n", "not a request"),
        ("{\"version\":1,\"command\":\"destroy\"}\n", "not a request"),
        ("{\"version\":1,\"command\":\"cancel\",\"vm\":\"no such/name\"}\n", "not a request"),
        ("{\"version\":1,\"command\":\"status\"}", "ends with a line feed"),
        (&long, "at most 4096 bytes"),
        (
            "{\"version\":1,\"command\":\"set\",\"vm\":null,\"what\":\"bandwidth\",\"value\":\"0\"}\n",
            "unlimited",
        ),
        (
            "{\"version\":1,\"command\":\"set\",\"vm\":\"web\",\"what\":\"urgency\",\"value\":\"high\"}\n",
            "--all",
        ),
    ] {
        let answers = desk.say(line.as_bytes()).await;
        let refused = answers[0].refused.clone().unwrap_or_else(|| panic!("{line}: {answers:?}"));
        assert!(refused.usage && refused.reason.contains(part), "{line}: {}", refused.reason);
    }
    assert!(desk.seen.try_recv().is_err());
}

#[tokio::test]
async fn a_refusal_of_the_run_is_passed_on() {
    let desk = desk(|_| Err(Refusal::NotMigrating("web".parse().unwrap())));
    let answer = desk.ask(Command::Switch { vm: vm().unwrap() }).await;
    let refused = answer.refused.unwrap();
    assert!(!refused.usage && refused.reason.contains("does not move yet"), "{refused:?}");
}

#[tokio::test]
async fn a_run_that_has_ended_or_is_being_prepared_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.sock");
    let (operators, requests) = run::requests();
    drop(requests);
    let (_sender, looked) = tokio::sync::watch::channel(None);
    let (_told, seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::listen(path.clone(), operators, looked).unwrap();
    let desk = Desk { path: path.clone(), _server: server, _folder: folder, seen };
    let answer = desk.ask(Command::Status).await.refused.unwrap();
    assert!(answer.reason.contains("being prepared"), "{answer:?}");
    let answer = desk.ask(Command::Cancel { vm: None }).await.refused.unwrap();
    assert!(answer.reason.contains("the run has ended"), "{answer:?}");
    drop(desk);
    assert!(!path.exists(), "the socket goes with the run");
}

/// Who connects and says nothing takes no one else's turn for good, and a dead run's socket is no obstacle.
#[tokio::test]
async fn a_stale_socket_is_replaced_and_silent_ones_do_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let (operators, _requests) = run::requests();
    let (_sender, looked) = tokio::sync::watch::channel(Some(view()));
    let (_told, seen) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::listen(path.clone(), operators, looked).unwrap();
    let desk = Desk { path, _server: server, _folder: folder, seen };
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(AsyncStream::connect(&desk.path).await.unwrap());
    }
    assert!(desk.ask(Command::Status).await.view.is_some());
}
