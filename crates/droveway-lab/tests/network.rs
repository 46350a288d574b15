//! Labs without VMs against the real kernel: rates, sharing, coexistence, and that nothing is left behind.
#![allow(clippy::print_stdout, reason = "a skipped test says so")]

mod support;

use droveway_fleet::scenario::ScenarioClient;
use droveway_host::{Netns, process};
use droveway_lab::{LabError, down, open_wires, running, shape_wires, status, up};
use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{Iperf, Root, laboratory, scenario};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_port_has_the_rate_of_its_wire_and_shares_it_by_flow() {
    let Some(_turn) = laboratory("a_port_has_the_rate_of_its_wire_and_shares_it_by_flow") else {
        return;
    };
    let root = Root::new();
    let lab = root.up(&scenario("rate", "rate: 400Mbit/s"));
    assert!(lab.complete);
    let text = fs::read_to_string(&lab.fleet_file).unwrap();
    assert!(text.contains(&root.netns("rate", "alpha")), "{text}");

    let path = |server, port| Iperf { server, port, lab: root.name("rate"), seconds: 3 };
    let alone = path("beta", 5201).from("alpha", 1).join().unwrap();
    // 941 of 1000 is what TCP's payload gets; below is what a busy machine loses.
    assert!((0.80..0.96).contains(&(alone / 400e6)), "{alone}");

    let one = path("beta", 5201).from("alpha", 1);
    let four = path("beta", 5202).from("alpha", 4);
    thread::sleep(Duration::from_millis(1500));
    let seen = status(&lab).unwrap();
    let (one, four) = (one.join().unwrap(), four.join().unwrap());
    // Fair: a fifth and four fifths. A hash collision of two flows is possible, of all is not.
    assert!((0.1..0.35).contains(&(one / (one + four))), "{one} beside {four}");
    assert!((one + four) / alone > 0.85, "{one} and {four} after {alone}");
    assert!(seen.hosts[0].tx.bits_per_second() > 200_000_000, "{seen:?}");
    assert!(seen.hosts[1].rx.bits_per_second() > 200_000_000, "{seen:?}");
    assert!(seen.processes > 0);

    // Both directions have a wire each.
    let there = path("beta", 5201).from("alpha", 1);
    let back = path("alpha", 5201).from("beta", 1);
    let (there, back) = (there.join().unwrap(), back.join().unwrap());
    assert!(there / alone > 0.75 && back / alone > 0.75, "{there} and {back} after {alone}");

    let route = root.inside("rate", "client", "ip", &["route"]);
    assert!(route.contains("dev nic") && route.contains("congctl cubic"), "{route}");
    let nic = root.inside("rate", "alpha", "tc", &["qdisc", "show", "dev", "nic"]);
    assert!(nic.contains("noqueue"), "the machine's own port is free: {nic}");
    root.down("rate");
    root.assert_nothing_left();
}

/// What moves back between two runs is not held up, and the next run has the wires of the first.
#[test]
fn wires_are_opened_and_shaped_again() {
    let Some(_turn) = laboratory("wires_are_opened_and_shaped_again") else { return };
    let root = Root::new();
    let lab = root.up(&scenario("open", "rate: 100Mbit/s"));
    let name = root.name("open");
    let between = |port| Iperf { server: "beta", port, lab: name.clone(), seconds: 2 };
    let shaped = root.inside("open", "_switch", "tc", &["class", "show", "dev", "x0"]);
    open_wires(&lab).unwrap();
    let open = between(5201).from("alpha", 1).join().unwrap();
    assert!(open > 200e6, "{open}");
    let client = Iperf { server: "client", port: 5203, lab: name.clone(), seconds: 2 };
    let outside = client.from("alpha", 1).join().unwrap();
    assert!(outside < 100e6, "a client keeps its wire: {outside}");
    shape_wires(&lab).unwrap();
    let again = between(5202).from("alpha", 1).join().unwrap();
    assert!((0.75..0.96).contains(&(again / 100e6)), "{again}");
    assert_eq!(root.inside("open", "_switch", "tc", &["class", "show", "dev", "x0"]), shaped);
    assert!(shape_wires(&lab).is_err(), "they are shaped");
    root.down("open");
    root.assert_nothing_left();
}

#[test]
fn a_fifo_port_without_offloads_is_built() {
    let Some(_turn) = laboratory("a_fifo_port_without_offloads_is_built") else { return };
    let root = Root::new();
    root.up(&scenario("fifo", "rate: 100Mbit/s, discipline: fifo, queue: 64KiB, offloads: off"));
    let rate = Iperf { server: "client", port: 5201, lab: root.name("fifo"), seconds: 2 }
        .from("alpha", 1)
        .join()
        .unwrap();
    assert!((0.75..0.96).contains(&(rate / 100e6)), "{rate}");
    let offloads = root.inside("fifo", "alpha", "ethtool", &["-k", "nic"]);
    assert!(offloads.contains("tcp-segmentation-offload: off"), "{offloads}");
    root.down("fifo");
    root.assert_nothing_left();
}

#[test]
fn two_labs_with_the_same_machines_coexist() {
    let Some(_turn) = laboratory("two_labs_with_the_same_machines_coexist") else { return };
    let root = Root::new();
    root.up(&scenario("one", "rate: 1Gbit/s"));
    root.up(&scenario("one-two", "rate: 1Gbit/s"));
    let names = |labs: Vec<droveway_lab::LabInfo>| -> Vec<String> {
        labs.into_iter().map(|lab| lab.name).collect()
    };
    let both = [root.name("one"), root.name("one-two")];
    assert_eq!(names(running(&root.options().state_root)), both);

    let again = up(&root.named(&scenario("one", "rate: 1Gbit/s")), &root.options(), &mut |_| {});
    let error = again.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().ends_with(&format!("droveway lab down {}", both[0])), "{error}");

    root.down("one");
    assert_eq!(names(running(&root.options().state_root)), both[1..]);
    assert!(root.inside("one-two", "beta", "ip", &["-br", "addr"]).contains("10.77.0.2/16"));

    // Twice is as good as once, and says so.
    let mut said = Vec::new();
    let name = root.name("one");
    let removed = down(Some(&name), &root.options(), &mut |line| said.push(line.to_owned()));
    assert_eq!(removed.unwrap(), Vec::<String>::new());
    assert!(said[0].starts_with("nothing to do: there is no lab"), "{said:?}");
    assert_eq!(down(None, &root.options(), &mut |_| {}).unwrap().len(), 1);
    root.assert_nothing_left();
    assert_eq!(down(None, &root.options(), &mut |_| {}).unwrap().len(), 0);
}

#[test]
#[expect(clippy::zombie_processes, reason = "removing the lab ends and reaps them")]
fn what_a_crash_left_is_found() {
    let Some(_turn) = laboratory("what_a_crash_left_is_found") else { return };
    let root = Root::new();
    // As if `up` had died between its first namespace and its second, after a controller had started a QEMU elsewhere.
    let dir = root.options().state_root.join(root.name("crash"));
    let leave = || {
        fs::create_dir_all(&dir).unwrap();
        let netns = root.netns("crash", "alpha");
        let manifest = format!(
            r#"{{"name":"{}","started":"","complete":false,"namespaces":["{netns}","{}"]}}"#,
            root.name("crash"),
            root.netns("crash", "beta"),
        );
        fs::write(dir.join("lab.json"), manifest).unwrap();
        let added = Command::new("ip").args(["netns", "add", &netns]).status().unwrap();
        assert!(added.success());
        let inside = Netns::named(&netns).unwrap().command("sleep").arg("61").spawn().unwrap();
        let outside = Command::new("sh")
            .args(["-c", "trap '' TERM; while :; do sleep 1; done"])
            .env("DROVEWAY_LAB", root.name("crash"))
            .spawn()
            .unwrap();
        [inside.id(), outside.id()]
    };
    let pids = leave();
    root.down("crash");
    for pid in pids {
        assert!(process::arguments(pid).is_empty(), "process {pid} is gone");
    }
    root.assert_nothing_left();

    leave();
    let mut said = Vec::new();
    let scenario = root.named(&scenario("crash", "rate: 1Gbit/s"));
    let lab = up(&scenario, &root.options(), &mut |line| said.push(line.to_owned())).unwrap();
    assert!(lab.complete && said[0].starts_with("removed what an interrupted build"), "{said:?}");
    root.down("crash");
    root.assert_nothing_left();
}

/// The process that the tests below kill: `up` in a program of its own.
#[test]
fn builder() {
    let Ok(root) = std::env::var("DROVEWAY_TEST_ROOT") else { return };
    let scenario = droveway_fleet::document::parse(
        &fs::read_to_string(format!("{root}/scenario")).unwrap(),
        "scenario",
    );
    let options = support::options(root.as_ref());
    let code = match up(&scenario.unwrap(), &options, &mut |_| {}) {
        Ok(_) => 0,
        Err(LabError::Interrupted) => 130,
        Err(error) => panic!("{error}"),
    };
    std::process::exit(code);
}

fn start_builder(root: &Root, name: &str) -> std::process::Child {
    // Many classes to make, so that there is time to be killed.
    let mut scenario = root.named(&scenario(name, "rate: 1Gbit/s"));
    let more = (0..12).map(|i| ScenarioClient { name: format!("c{i}").parse().unwrap() });
    scenario.spec.clients.extend(more);
    fs::write(root.path().join("scenario"), scenario.to_yaml().unwrap()).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "builder", "--nocapture"])
        .env("DROVEWAY_TEST_ROOT", root.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Waits until the lab's manifest, the first thing there is of it, exists.
fn wait_for_manifest(root: &Root, name: &str) {
    let manifest = root.options().state_root.join(root.name(name)).join("lab.json");
    let deadline = Instant::now() + SOON;
    while !manifest.exists() {
        assert!(Instant::now() < deadline, "no manifest");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_build_is_removed_whenever_it_was_killed() {
    let Some(_turn) = laboratory("a_killed_build_is_removed_whenever_it_was_killed") else {
        return;
    };
    let root = Root::new();
    for millis in [0, 20, 80, 200] {
        let mut builder = start_builder(&root, "killed");
        wait_for_manifest(&root, "killed");
        thread::sleep(Duration::from_millis(millis));
        builder.kill().unwrap();
        builder.wait().unwrap();
        root.down("killed");
        root.assert_nothing_left();
    }
}

#[test]
fn an_interrupted_build_removes_itself() {
    let Some(_turn) = laboratory("an_interrupted_build_removes_itself") else { return };
    let root = Root::new();
    let mut builder = start_builder(&root, "interrupted");
    wait_for_manifest(&root, "interrupted");
    thread::sleep(Duration::from_millis(30));
    // As the terminal does: the tools that it runs hear it too.
    let group = nix::unistd::Pid::from_raw(i32::try_from(builder.id()).unwrap());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(builder.wait().unwrap().code(), Some(130));
    root.assert_nothing_left();
    assert!(running(&root.options().state_root).is_empty());
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    let Some(_turn) = laboratory("what_is_missing_is_said_in_one_line") else { return };
    let root = Root::new();
    let mut wanting = root.named(&scenario("wanting", "rate: 1Gbit/s"));
    let vm = "{ name: one, host: alpha, memory: 128MiB }";
    let text = wanting.to_yaml().unwrap().replace("vms: []", &format!("vms: [ {vm} ]"));
    wanting = droveway_fleet::document::parse(&text, "scenario").unwrap();
    let error = up(&wanting, &root.options(), &mut |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert_eq!(error.to_string().lines().count(), 1);
    assert!(error.to_string().starts_with("guest image not found: "), "{error}");
    assert_eq!(down(Some("../x"), &root.options(), &mut |_| {}).unwrap_err().exit_code(), 2);
    root.assert_nothing_left();
}
