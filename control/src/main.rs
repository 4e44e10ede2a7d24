//! `holdfast-control`: the node agent and, where configured, a master.
//!
//! Stops on SIGTERM and SIGINT; hosts go on without it. Exits with 1 when the registry fails: the
//! next start checks the whole file.

use clap::Parser;
use holdfast_control::master::{Lead, leading};
use holdfast_control::raft::{Group, Timing};
use holdfast_control::registry::database::{Identities, Registry, StorageError};
use holdfast_control::{agent, limits, service};
use holdfast_core::id::{ClusterId, NodeId};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;

/// Node agent and master of Holdfast.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Directory of the node's identity and, on a master, of the registry; made with mode 0700 when it
    /// is missing.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address of the gRPC interface. Calls are neither encrypted nor authenticated: keep it on
    /// loopback or on a trusted network.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9480")]
    listen: SocketAddr,
    /// Address of the gRPC interface as other masters reach it, when it is not that of --listen.
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<SocketAddr>,
    /// Path of the Unix socket for the volume server.
    #[arg(long, value_name = "SOCKET_PATH")]
    link: PathBuf,
    /// Masters to join, separated by commas; without them this process is the only master.
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    masters: Vec<String>,
    /// Be a master too; so it is also when --masters is left out.
    #[arg(long)]
    master: bool,
    /// Name of this node; the host's when left out.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Failure domain: no two copies of a volume go to the same zone.
    #[arg(long, value_name = "ZONE", default_value = "")]
    zone: String,
    /// Copies whose node is gone for so long are made anew on other nodes: 90s, 10m, 2h. Only the leading
    /// master's counts; give all masters the same.
    #[arg(
        long,
        value_name = "DURATION",
        env = "HOLDFAST_REPLACE_AFTER",
        default_value = "10m"
    )]
    replace_after: Delay,
}

/// A duration on the command line.
#[derive(Clone, Copy)]
struct Delay(Duration);

impl std::str::FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Delay, String> {
        let wrong = || format!("'{text}' is not a duration like 90s, 10m or 2h");
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let seconds = match &text[digits.len()..] {
            "s" => number.checked_mul(1),
            "m" => number.checked_mul(60),
            "h" => number.checked_mul(3600),
            _ => None,
        };
        let seconds = seconds.ok_or_else(wrong)?;
        if seconds == 0 {
            return Err("at least 1s: a node that restarts is not gone".to_owned());
        }
        Ok(Delay(Duration::from_secs(seconds)))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,openraft=off")),
        )
        .with_target(false)
        .init();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    let result = runtime.block_on(serve(options));
    // A commit that was cut off gets this long; the registry is consistent either way.
    runtime.shutdown_timeout(limits::SHUTDOWN_WAIT);
    result
}

/// The registry, when this process is a master, and the node's identity.
fn open(options: &Options) -> Result<(Option<Registry>, agent::cache::Cache), String> {
    let text = |error: holdfast_control::registry::database::StorageError| error.to_string();
    let known = agent::cache::peek(&options.data).map_err(text)?;
    let fresh = Identities {
        // A master among others waits to be taken in by `holdfast master add`.
        cluster: options
            .masters
            .is_empty()
            .then(|| ClusterId(*uuid::Uuid::new_v4().as_bytes())),
        node: known.unwrap_or(NodeId(*uuid::Uuid::new_v4().as_bytes())),
    };
    if !options.master && !options.masters.is_empty() {
        let cache = agent::cache::Cache::open(&options.data, fresh.node).map_err(text)?;
        return Ok((None, cache));
    }
    let (registry, state) = Registry::open(&options.data, fresh).map_err(text)?;
    tracing::info!(cluster = %state.cluster, volumes = state.volumes.len(), "registry open");
    let cache = agent::cache::Cache::open(&options.data, state.node).map_err(text)?;
    Ok((Some(registry), cache))
}

async fn serve(options: Options) -> Result<(), String> {
    let (registry, cache) = open(&options)?;
    tracing::info!(node = %cache.node(), "this node");
    let group = match registry {
        None => None,
        Some(registry) => {
            let address = options.advertise.unwrap_or(options.listen).to_string();
            let started = Group::start(registry, cache.node(), address, Timing::default()).await;
            Some(started.map_err(|error| error.to_string())?)
        }
    };
    let listener = agent::bind(&options.link)
        .map_err(|error| format!("cannot listen on {}: {error}", options.link.display()))?;
    let incoming = TcpIncoming::bind(options.listen)
        .map_err(|error| format!("cannot listen on {}: {error}", options.listen))?
        .with_nodelay(Some(true));
    if !options.listen.ip().is_loopback() {
        tracing::warn!(
            "gRPC on {} is open to its network, without encryption or authentication; secrets of \
             volumes pass over it",
            options.listen
        );
    }
    let (stop, stopping) = watch::channel(false);
    watch_signals(stop.clone())?;
    let (leader, leader_seen) = watch::channel(String::new());
    let (lead_sender, lead) = watch::channel(Lead::Elsewhere(String::new()));
    let agent = agent::start(cache, identity(&options), targets(&options), leader);
    let links = tokio::spawn(agent::serve(listener, agent.handle.clone()));
    let grpc = tokio::spawn(service::serve(
        incoming,
        lead,
        group.clone(),
        stopped(stopping.clone()),
    ));
    tracing::info!(
        "gRPC on {}, control link on {}",
        options.listen,
        options.link.display()
    );
    tell(sd_notify::NotifyState::Ready);
    let heartbeat = sd_notify::watchdog_enabled().map(|patience| tokio::spawn(beat(patience)));
    let result = match group {
        Some(group) => {
            let delay = options.replace_after.0;
            leading::lead(group, lead_sender, delay, stopped(stopping)).await
        }
        None => follow(leader_seen, lead_sender, stopping).await,
    };
    // Either a signal or a storage error: nobody is left to decide, so all stop.
    stop.send_replace(true);
    tell(sd_notify::NotifyState::Stopping);
    if let Some(heartbeat) = heartbeat {
        heartbeat.abort();
    }
    let grpc = grpc.await.map_err(|error| error.to_string())?;
    links.abort();
    drop(agent);
    // Only a name; a later start replaces it too.
    let _ = std::fs::remove_file(&options.link);
    result.map_err(|error| format!("the registry failed, the process stops: {error}"))?;
    grpc.map_err(|error| format!("gRPC: {error}"))?;
    tracing::info!("stopped");
    Ok(())
}

fn identity(options: &Options) -> agent::Identity {
    let host_name = || {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    };
    agent::Identity {
        name: options.node_name.clone().unwrap_or_else(host_name),
        zone: options.zone.clone(),
    }
}

/// Where the agent looks for the leader: the given masters, or this process.
fn targets(options: &Options) -> Vec<String> {
    if !options.masters.is_empty() {
        return options.masters.clone();
    }
    let mut own = options.listen;
    if own.ip().is_unspecified() {
        own.set_ip(match own {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    vec![format!("http://{own}")]
}

/// A process without a master: until it is to stop.
async fn follow(
    seen: watch::Receiver<String>,
    lead: watch::Sender<Lead>,
    stopping: watch::Receiver<bool>,
) -> Result<(), StorageError> {
    tokio::select! {
        () = stopped(stopping) => {}
        () = tell_leader(seen, lead) => {}
    }
    Ok(())
}

/// Callers that come here are sent on to the leader that the agent found.
async fn tell_leader(mut seen: watch::Receiver<String>, lead: watch::Sender<Lead>) {
    loop {
        let leader = seen.borrow_and_update().clone();
        lead.send_replace(Lead::Elsewhere(leader));
        if seen.changed().await.is_err() {
            std::future::pending::<()>().await; // The agent is gone: the process is about to stop.
        }
    }
}

/// Tells the service manager that the one thread of this process turns.
async fn beat(patience: Duration) {
    let mut pause = tokio::time::interval(patience / 3);
    loop {
        pause.tick().await;
        tell(sd_notify::NotifyState::Watchdog);
    }
}

/// Tells the service manager, if there is one.
fn tell(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("the service manager could not be told: {error}");
    }
}

fn watch_signals(stop: watch::Sender<bool>) -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("cannot watch signals: {error}"));
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
        stop.send_replace(true);
    });
    Ok(())
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives as long as the process serves.
    let _ = stop.wait_for(|stopping| *stopping).await;
}
