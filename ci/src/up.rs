//! `cargo up`: a control process and a volume server for each node, on this machine, started, watched and stopped as systemd would.
//!
//! Order: check the machine, build, format missing stores, start control, start the volume servers, make the wanted volumes,
//! say what to type next, write the ready file, keep all running until a signal, stop the volume servers (they drain), then
//! control. Everything it waits for has a bound, and every failure is one sentence with what to do about it.

pub(crate) mod children;
pub(crate) mod command_line;
mod instructions;
pub(crate) mod options;
mod preflight;
mod ready;
pub(crate) mod stores;
pub(crate) mod wanted;

use std::fs::File;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use self::children::{Child, Role};
use self::command_line::CommandLine;
use self::options::{NodePlan, Options, Plan};
use crate::sys::{self, Signals};
use crate::workspace;

/// Control answers within this time after its start.
const CONTROL_BOUND: Duration = Duration::from_secs(30);

/// Stores are open within this time (a full log is read at the speed of the disk).
const STORES_BOUND: Duration = Duration::from_secs(120);

/// Volumes are served within this time after their creation; one that is not is said to be so.
const VOLUMES_BOUND: Duration = Duration::from_secs(20);

/// How often a state is looked at while waiting.
const POLL: Duration = Duration::from_millis(50);

/// How often the children are looked at while serving.
const WATCH: Duration = Duration::from_millis(50);

/// Everything that runs; stopping it is one call.
struct Running {
    signals: Signals,
    command_line: CommandLine,
    nodes: Vec<Node>,
    _lock: File,
}

/// The processes of one node.
struct Node {
    control: Child,
    volume: Child,
}

/// Why waiting ended early.
enum Stop {
    Asked,
    Failed(String),
}

impl From<String> for Stop {
    fn from(sentence: String) -> Self {
        Stop::Failed(sentence)
    }
}

/// Runs until a signal stops it.
pub(crate) fn run(options: Options) -> Result<ExitCode, String> {
    let signals = Signals::take();
    let plan = options.plan()?;
    if let Some(file) = &plan.ready_file {
        ready::remove(file)?;
    }
    for limit in [sys::Limit::LockedBytes, sys::Limit::OpenFiles] {
        sys::raise(limit).map_err(|error| format!("cannot raise a process limit: {error}"))?;
    }
    let lock = preflight::check(&plan)?;
    if plan.build {
        workspace::build()?;
    }
    stores::format_missing(&plan)?;
    let nodes = plan.nodes.iter().map(Node::start_control);
    let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
    let command_line = CommandLine::new(&plan)?;
    let mut running = Running {
        signals,
        command_line,
        nodes,
        _lock: lock,
    };
    let outcome = running.bring_up(&plan).and_then(|()| running.serve(&plan));
    let stopped = running.stop();
    if let Some(file) = &plan.ready_file {
        ready::remove(file)?;
    }
    match outcome {
        Err(Stop::Failed(sentence)) => Err(sentence),
        Ok(()) | Err(Stop::Asked) => stopped.map(|()| ExitCode::SUCCESS),
    }
}

impl Node {
    /// A node whose control process runs; its volume server comes later.
    fn start_control(plan: &NodePlan) -> Result<Node, String> {
        let control = Child::start(Role::Control, plan)?;
        let volume = Child::new(Role::Volume, plan)?;
        Ok(Node { control, volume })
    }

    fn children(&mut self) -> [&mut Child; 2] {
        [&mut self.control, &mut self.volume]
    }
}

impl Running {
    /// From started control processes to a written ready file.
    fn bring_up(&mut self, plan: &Plan) -> Result<(), Stop> {
        for node in &self.nodes {
            println!(
                "{} started, pid {}",
                node.control.name(),
                node.control.pid()
            );
        }
        self.wait("the control process to answer", CONTROL_BOUND, |line| {
            line.nodes().is_ok()
        })?;
        for name in self.command_line.add_masters(plan)? {
            println!("{name} is a master");
        }
        for node in &mut self.nodes {
            node.volume.spawn()?;
            println!("{} started, pid {}", node.volume.name(), node.volume.pid());
        }
        self.wait("the stores to open", STORES_BOUND, |line| {
            line.stores_known(plan)
        })?;
        for warning in self.command_line.store_warnings()? {
            println!("warning: {warning}");
        }
        let made = self.command_line.make_volumes(plan)?;
        for name in &made {
            println!("volume {name} created");
        }
        // A volume that is refused for good must not keep the others from their hosts.
        let until = Instant::now() + VOLUMES_BOUND;
        self.wait("the volumes to be served", 2 * VOLUMES_BOUND, |line| {
            line.volumes_settled() || Instant::now() > until
        })?;
        if let Some(node) = self.nodes.iter().find(|node| !node.volume.accepts()) {
            let last = node.volume.last_words();
            return Err(Stop::Failed(format!(
                "a portal takes no connection; {last}"
            )));
        }
        let volumes = self.command_line.volumes()?;
        instructions::print(plan, &volumes);
        self.write_ready(plan)
    }

    /// Watches the children until a signal; restarts what dies.
    fn serve(&mut self, plan: &Plan) -> Result<(), Stop> {
        loop {
            if self.signals.arrived_within(WATCH) {
                println!("stopping: hosts are logged out, the stores are checkpointed and closed");
                return Err(Stop::Asked);
            }
            let mut changed = false;
            for child in self.nodes.iter_mut().flat_map(Node::children) {
                changed |= child.watch()?;
            }
            if changed {
                self.write_ready(plan)?;
            }
        }
    }

    fn write_ready(&self, plan: &Plan) -> Result<(), Stop> {
        let Some(file) = &plan.ready_file else {
            return Ok(());
        };
        let children: Vec<[&Child; 2]> = self
            .nodes
            .iter()
            .map(|node| [&node.control, &node.volume])
            .collect();
        ready::write(
            file,
            plan,
            self.command_line.volumes_last_known(),
            &children,
        )?;
        Ok(())
    }

    /// Asks `done` again and again; a dead child, a signal or the bound ends it.
    fn wait(
        &mut self,
        what: &str,
        bound: Duration,
        done: impl Fn(&mut CommandLine) -> bool,
    ) -> Result<(), Stop> {
        let started = Instant::now();
        while !done(&mut self.command_line) {
            if self.signals.arrived_within(POLL) {
                return Err(Stop::Asked);
            }
            for child in self.nodes.iter_mut().flat_map(Node::children) {
                if let Some(sentence) = child.died() {
                    return Err(Stop::Failed(sentence));
                }
            }
            if started.elapsed() > bound {
                let logs: Vec<String> = self
                    .nodes
                    .iter_mut()
                    .flat_map(Node::children)
                    .map(|child| child.last_words())
                    .collect();
                let logs = logs.join("; ");
                return Err(Stop::Failed(format!(
                    "waited {} s for {what}, in vain; {logs}",
                    bound.as_secs()
                )));
            }
        }
        Ok(())
    }

    /// The volume servers first, all at once: they drain while control still listens.
    fn stop(&mut self) -> Result<(), String> {
        for node in &self.nodes {
            node.volume.ask_to_stop();
        }
        let mut result = Ok(());
        for node in &mut self.nodes {
            result = result.and(node.volume.stop());
        }
        for node in &mut self.nodes {
            result = result.and(node.control.stop());
        }
        result
    }
}
