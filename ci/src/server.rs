//! A running `cargo up` for the lanes: started as a person would start it, on free ports, in a directory of its own.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lanes::Context;
use crate::{sys, tool, workspace};

/// From start to a written ready file, formatting included.
const READY_BOUND: Duration = Duration::from_secs(180);

/// Time for one `holdfast` command.
const COMMAND_BOUND: Duration = Duration::from_secs(60);

/// From SIGTERM to the end.
const STOP_BOUND: Duration = Duration::from_secs(90);

/// One instance; dropping it kills it at once.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    ready_file: PathBuf,
    output: PathBuf,
    control: String,
}

impl Server {
    /// Starts `cargo up --no-build` on `dir` and waits until it is ready.
    ///
    /// `--portal` and `--control` get free ports of 127.0.0.1 and `--stores` is 1 unless `args` names them.
    pub(crate) fn start(context: &Context, dir: &Path, args: &[&str]) -> Result<Self, String> {
        Self::start_with(context, dir, args, &[])
    }

    /// As [`Self::start`], with more environment for all processes.
    pub(crate) fn start_with(
        context: &Context,
        dir: &Path,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self, String> {
        context.build()?;
        let mut server = Self::spawn(dir, args, environment)?;
        server.wait_ready()?;
        Ok(server)
    }

    /// As [`Self::start`], and gives what it said when it ended with a failure instead of becoming ready.
    pub(crate) fn start_refused(
        context: &Context,
        dir: &Path,
        args: &[&str],
    ) -> Result<String, String> {
        context.build()?;
        let mut server = Self::spawn(dir, args, &[])?;
        match server.wait_ready() {
            Ok(()) => Err("it became ready".to_owned()),
            Err(_) => match server.process.try_wait() {
                Ok(Some(status)) if !status.success() => Ok(server.said()),
                other => Err(format!("it neither failed nor became ready: {other:?}")),
            },
        }
    }

    /// `ADDR:PORT` of the first portal, as hosts are told.
    pub(crate) fn portal(&self) -> Result<String, String> {
        self.portals()?
            .into_iter()
            .next()
            .ok_or_else(|| "no portal is announced".to_owned())
    }

    /// All portals of the first volume.
    pub(crate) fn portals(&self) -> Result<Vec<String>, String> {
        let ready = self.ready()?;
        let portals = ready["volumes"][0]["portals"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(portals
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect())
    }

    /// URL of the control process.
    pub(crate) fn control(&self) -> &str {
        &self.control
    }

    /// Target name of a volume.
    pub(crate) fn iqn(&self, name: &str) -> Result<String, String> {
        let status = self.holdfast(&["volume", "status", name])?;
        let iqn = status["iqn"]
            .as_str()
            .ok_or_else(|| format!("volume {name} has no target"))?;
        Ok(iqn.to_owned())
    }

    /// `iscsi://PORTAL/IQN/0` of a volume through the first portal.
    pub(crate) fn url(&self, name: &str) -> Result<String, String> {
        Ok(format!("iscsi://{}/{}/0", self.portal()?, self.iqn(name)?))
    }

    /// Process ids of control and volume server.
    pub(crate) fn pids(&self) -> Result<Vec<u32>, String> {
        Ok(vec![self.pid("control")?, self.pid("volume")?])
    }

    /// Process id of `control` or `volume`, as the ready file says now.
    pub(crate) fn pid(&self, role: &str) -> Result<u32, String> {
        let ready = self.ready()?;
        let processes = ready["processes"].as_array().cloned().unwrap_or_default();
        processes
            .iter()
            .find(|process| process["role"] == role)
            .and_then(|process| process["pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .ok_or_else(|| format!("the ready file names no {role} process"))
    }

    /// Process id of `control` or `volume` of one node of several, as the ready file says now.
    pub(crate) fn pid_of(&self, node: &str, role: &str) -> Result<u32, String> {
        let node = self.node(node)?;
        let processes = node["processes"].as_array().cloned().unwrap_or_default();
        processes
            .iter()
            .find(|process| process["role"] == role)
            .and_then(|process| process["pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .ok_or_else(|| format!("the ready file names no {role} process of {}", node["name"]))
    }

    /// Address of a node.
    pub(crate) fn address_of(&self, node: &str) -> Result<String, String> {
        let node = self.node(node)?;
        let address = node["address"].as_str();
        address
            .map(str::to_owned)
            .ok_or_else(|| format!("the ready file gives no address of {}", node["name"]))
    }

    fn node(&self, name: &str) -> Result<Value, String> {
        let ready = self.ready()?;
        let nodes = ready["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.into_iter().find(|node| node["name"] == name);
        found.ok_or_else(|| format!("the ready file names no {name}"))
    }

    /// Waits until `role` has another process id than `old`.
    pub(crate) fn wait_restarted(&self, role: &str, old: u32) -> Result<u32, String> {
        let started = Instant::now();
        loop {
            match self.pid(role) {
                Ok(pid) if pid != old => return Ok(pid),
                _ if started.elapsed() > Duration::from_secs(30) => {
                    return Err(format!(
                        "{role} was not restarted within 30 s; {}",
                        self.said()
                    ));
                }
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// The ready file as it is now.
    pub(crate) fn ready(&self) -> Result<Value, String> {
        let text = fs::read_to_string(&self.ready_file)
            .map_err(|error| format!("no ready file: {error}; {}", self.said()))?;
        serde_json::from_str(&text).map_err(|error| format!("the ready file is no JSON: {error}"))
    }

    /// Runs `holdfast --control URL --json ...`; it must succeed.
    pub(crate) fn holdfast(&self, words: &[&str]) -> Result<Value, String> {
        let output = self.holdfast_raw(words)?;
        if !output.success() {
            let said = tool::tail(&output.text(), 5);
            return Err(format!(
                "holdfast {}: code {:?}: {said}",
                words.join(" "),
                output.code
            ));
        }
        if output.stdout.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&output.stdout)
            .map_err(|error| format!("holdfast {} gave no JSON: {error}", words.join(" ")))
    }

    /// As [`Self::holdfast`], whatever the exit code.
    pub(crate) fn holdfast_raw(&self, words: &[&str]) -> Result<tool::Output, String> {
        let mut command = Command::new(workspace::binary("holdfast")?);
        command
            .args(["--control", &self.control, "--json"])
            .args(words);
        tool::run(&mut command, COMMAND_BOUND)
    }

    /// The last lines that `cargo up` printed.
    pub(crate) fn said(&self) -> String {
        tool::tail(&fs::read_to_string(&self.output).unwrap_or_default(), 6)
    }

    /// Everything that `cargo up` printed.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// SIGTERM; it must end by itself, cleanly.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        sys::signal(self.process.id(), libc::SIGTERM)?;
        let asked = Instant::now();
        while asked.elapsed() < STOP_BOUND {
            match self.process.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    return Err(format!("cargo up ended with {status}; {}", self.said()));
                }
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(format!("cannot wait for cargo up: {error}")),
            }
        }
        Err(format!(
            "cargo up did not stop within {} s; {}",
            STOP_BOUND.as_secs(),
            self.said()
        ))
    }

    fn spawn(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Result<Self, String> {
        fs::create_dir_all(dir)
            .map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        let program = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
        let ready_file = dir.join("ready.json");
        let output = dir.join("up.log");
        let data = dir.join("data");
        let mut words: Vec<OsString> = vec!["up".into(), "--no-build".into()];
        words.extend(["--ready-file".into(), ready_file.clone().into_os_string()]);
        let ports = free_ports(2)?;
        for (flag, value) in [
            ("--portal", format!("127.0.0.1:{}", ports[0])),
            ("--control", format!("127.0.0.1:{}", ports[1])),
            ("--stores", "1".to_owned()),
            ("--data", data.to_string_lossy().into_owned()),
        ] {
            if !args.contains(&flag) {
                words.extend([flag.into(), value.into()]);
            }
        }
        words.extend(args.iter().map(OsString::from));
        let control = words
            .iter()
            .position(|word| word == "--control")
            .and_then(|at| words.get(at + 1))
            .map(|address| format!("http://{}", address.to_string_lossy()))
            .unwrap_or_default();
        let _ = fs::remove_file(&ready_file);
        let log = File::create(&output)
            .map_err(|error| format!("cannot make {}: {error}", output.display()))?;
        let errors = log
            .try_clone()
            .map_err(|error| format!("cannot share a log: {error}"))?;
        let mut command = Command::new(program);
        command
            .args(words)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        sys::tie_to_parent(&mut command);
        let process = command
            .spawn()
            .map_err(|error| format!("cannot start cargo up: {error}"))?;
        Ok(Self {
            process,
            ready_file,
            output,
            control,
        })
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let started = Instant::now();
        while started.elapsed() < READY_BOUND {
            if self.ready_file.exists() {
                return Ok(());
            }
            match self.process.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(10)),
                Ok(Some(status)) => {
                    return Err(format!("cargo up ended with {status}: {}", self.said()));
                }
                Err(error) => return Err(format!("cannot wait for cargo up: {error}")),
            }
        }
        Err(format!(
            "not ready within {} s: {}",
            READY_BOUND.as_secs(),
            self.said()
        ))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its children die with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ports that nobody listens on at this moment.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("no free port: {error}"))?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("no free port: {error}"))
}
