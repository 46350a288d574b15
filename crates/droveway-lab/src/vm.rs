//! A lab's VMs: how each one's QEMU is started on each host, and the fleet that says so. Pure.

use crate::{
    address::{Addresses, PREFIX_LEN},
    error::LabError,
    layout::{LAB_VARIABLE, Layout},
};
use droveway_fleet::{
    Fleet, FleetVm, Host, Instance, Port, VmId,
    fleet::{Application, FleetSpec, Launch, OutageProbe, PortRange},
    scenario::{MemoryLoad, Scenario, ScenarioVm},
};
use droveway_host::features::Accelerator;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The emulated CPU. Without "enhanced rep movsb" the guest's kernel copies in loops of eight bytes, which emulation does
/// three times as fast as the string instruction (measured: one iperf3 flow out of a guest 426 -> 1471 Mbit/s); five-level
/// paging, protection keys and SMAP cost emulation time at every page walk and copy and protect nothing here.
const TCG_CPU: &str = "max,erms=off,fsrm=off,smap=off,la57=off,pku=off,pks=off";

/// The guest image's kernel.
pub(crate) fn kernel(image: &Path) -> PathBuf {
    image.join("vmlinuz")
}

/// The guest image's file system.
pub(crate) fn initrd(image: &Path) -> PathBuf {
    image.join("initrd.gz")
}

/// What a VM's QEMU needs to know beyond the scenario.
#[derive(Debug)]
pub(crate) struct Machines<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) image: &'a Path,
    pub(crate) accelerator: Accelerator,
    pub(crate) addresses: &'a Addresses,
    pub(crate) iperf_ports: &'a BTreeMap<VmId, Vec<u16>>,
}

impl Machines<'_> {
    /// How the VM of that number is started on a host. Two hosts differ in paths only: source and target of a migration
    /// must be the same machine.
    pub(crate) fn launch(&self, index: usize, vm: &ScenarioVm, host: &str) -> Launch {
        let name = vm.name.as_str();
        let cpu = match self.accelerator {
            Accelerator::Kvm => "host",
            Accelerator::Tcg => TCG_CPU,
        };
        let path = |path: PathBuf| path.display().to_string();
        // 16 bits hold the number of any VM of a lab.
        let [high, low] = u16::try_from(index).unwrap_or(u16::MAX).to_be_bytes();
        let argv = [
            "qemu-system-x86_64".to_owned(),
            "-name".to_owned(),
            format!("{name},debug-threads=on"),
            "-machine".to_owned(),
            format!("q35,accel={}", self.accelerator),
            "-cpu".to_owned(),
            cpu.to_owned(),
            "-smp".to_owned(),
            vm.vcpus.to_string(),
            "-m".to_owned(),
            // The scenario's check made it a multiple of 1 MiB.
            format!("{}M", vm.memory.get() >> 20),
            "-nodefaults".to_owned(),
            "-no-user-config".to_owned(),
            "-display".to_owned(),
            "none".to_owned(),
            "-kernel".to_owned(),
            path(kernel(self.image)),
            "-initrd".to_owned(),
            path(initrd(self.image)),
            "-append".to_owned(),
            self.kernel_command_line(vm),
            "-serial".to_owned(),
            format!("file:{}", path(self.layout.serial(host, name))),
            "-netdev".to_owned(),
            format!("tap,id=net0,ifname=t{index},script=no,downscript=no"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=net0,mac=52:54:00:77:{high:02x}:{low:02x}"),
            "-qmp".to_owned(),
            format!("unix:{},server=on,wait=off", path(self.layout.qmp(host, name))),
        ];
        Launch {
            argv: argv.to_vec(),
            log: path(self.layout.log(host, name)),
            env: BTreeMap::from([(LAB_VARIABLE.to_owned(), self.layout.name.clone())]),
        }
    }

    fn kernel_command_line(&self, vm: &ScenarioVm) -> String {
        let mut words = vec!["console=ttyS0 quiet panic=-1 mitigations=off".to_owned()];
        words.push(format!("dw.name={}", vm.name));
        if let Some(address) = self.addresses.get(vm.name.as_str()) {
            words.push(format!("dw.addr={address}/{PREFIX_LEN}"));
        }
        if let Some(load) = &vm.memory_load {
            words.push(format!("dw.load={}", load_words(load)));
        }
        if !vm.services.is_empty() {
            let names: Vec<&str> = vm.services.iter().map(|service| service.name()).collect();
            words.push(format!("dw.services={}", names.join(",")));
        }
        if let Some(share) = vm.compute_share {
            words.push(format!("dw.share={share}"));
        }
        if let Some(ports) = self.iperf_ports.get(&vm.name).filter(|ports| !ports.is_empty()) {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            words.push(format!("dw.iperf={}", ports.join(",")));
        }
        words.join(" ")
    }

    /// The fleet of the lab: every VM can run on every host.
    pub(crate) fn fleet(
        &self,
        scenario: &Scenario,
        applications: Vec<Application>,
        probes: Vec<OutageProbe>,
    ) -> Result<Fleet, LabError> {
        let spec = &scenario.spec;
        let hosts = spec.hosts.iter().map(|host| {
            let name = host.name.as_str();
            let address = self.addresses.get(name);
            let address =
                address.ok_or_else(|| LabError::Scenario(format!("'{name}' has no address")))?;
            Ok(Host {
                name: host.name.clone(),
                port: Port { interface: "nic".to_owned(), rate: spec.link.rate },
                netns: Some(self.layout.netns(name)),
                migration_address: address.into(),
                migration_ports: PortRange::default(),
            })
        });
        let vms = spec.vms.iter().enumerate().map(|(index, vm)| FleetVm {
            name: vm.name.clone(),
            memory: vm.memory,
            vcpus: vm.vcpus,
            group: vm.group.clone(),
            allow_postcopy: vm.allow_postcopy,
            deadline: vm.deadline,
            max_downtime: vm.max_downtime,
            instances: spec
                .hosts
                .iter()
                .map(|host| {
                    let socket = self.layout.qmp(host.name.as_str(), vm.name.as_str());
                    let instance = Instance {
                        qmp: format!("unix:{}", socket.display()),
                        launch: Some(self.launch(index, vm, host.name.as_str())),
                    };
                    (host.name.clone(), instance)
                })
                .collect(),
        });
        let fleet = FleetSpec {
            // What one lab of this machine teaches holds for the others.
            calibration: "lab".parse().ok(),
            hosts: hosts.collect::<Result<_, LabError>>()?,
            vms: vms.collect(),
            applications,
            probes,
        };
        Ok(Fleet::new(scenario.metadata.name.clone(), fleet))
    }
}

fn load_words(load: &MemoryLoad) -> String {
    let mut words = format!(
        "workingSet:{},writeRate:{}",
        load.working_set.get(),
        load.write_rate.bytes_per_second()
    );
    if let (Some(share), Some(weight)) = (load.hot_share, load.hot_weight) {
        words += &format!(",hotShare:{share},hotWeight:{weight}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_scenario::scenario;
    use droveway_fleet::document;

    fn fleet_of(vms: &str) -> Fleet {
        let scenario = scenario(vms);
        let layout = Layout::new(Path::new("/run/x"), "demo");
        let machines = Machines {
            layout: &layout,
            image: Path::new("/image"),
            accelerator: Accelerator::Tcg,
            addresses: &Addresses::of_scenario(&scenario.spec),
            iperf_ports: &BTreeMap::from([("two".parse().unwrap(), vec![5201, 5202])]),
        };
        machines.fleet(&scenario, Vec::new(), Vec::new()).unwrap()
    }

    const VMS: &str = "{ name: one, host: alpha, memory: 256MiB }, \
         { name: two, host: beta, memory: 1GiB, vcpus: 2, services: [ memcached, sysbench-cpu ], computeShare: 0.1, \
           memoryLoad: { workingSet: 100MiB, writeRate: 30MiB/s, hotShare: 0.1, hotWeight: 90% } }";

    #[test]
    fn the_fleet_is_one_that_can_be_read() {
        let fleet = fleet_of(VMS);
        let text = fleet.to_yaml().unwrap();
        assert_eq!(document::parse::<FleetSpec>(&text, "fleet.yaml").unwrap(), fleet);
        assert_eq!(fleet.spec.hosts[1].netns.as_deref(), Some("dw-demo_beta"));
        assert_eq!(fleet.spec.hosts[1].migration_address.to_string(), "10.77.0.2");
        let instances = &fleet.spec.vm("one").unwrap().instances;
        assert_eq!(instances["beta"].qmp, "unix:/run/x/demo/beta/one.qmp");
        let launch = instances["beta"].launch.as_ref().unwrap();
        assert_eq!(launch.env["DROVEWAY_LAB"], "demo");
    }

    #[test]
    fn source_and_target_are_the_same_machine() {
        for vm in &fleet_of(VMS).spec.vms {
            let argv = |host| vm.instances[host].launch.as_ref().unwrap().argv.join(" ");
            assert_eq!(argv("alpha").replace("/alpha/", "/beta/"), argv("beta"));
        }
    }

    #[test]
    fn the_guest_is_told_what_it_is() {
        let fleet = fleet_of(VMS);
        let append = |vm| {
            let argv = &fleet.spec.vm(vm).unwrap().instances["alpha"].launch.as_ref().unwrap().argv;
            argv[argv.iter().position(|word| word == "-append").unwrap() + 1].clone()
        };
        let base = "console=ttyS0 quiet panic=-1 mitigations=off";
        assert_eq!(append("one"), format!("{base} dw.name=one dw.addr=10.77.1.1/16"));
        assert_eq!(
            append("two"),
            format!(
                "{base} dw.name=two dw.addr=10.77.1.2/16 dw.load=workingSet:104857600,\
                 writeRate:31457280,hotShare:0.1,hotWeight:0.9 \
                 dw.services=memcached,sysbench-cpu dw.share=0.1 dw.iperf=5201,5202"
            )
        );
    }
}
