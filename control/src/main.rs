//! `holdfast-control`: the node agent and the embedded single master.
//!
//! Stops on SIGTERM and SIGINT; hosts go on without it. Exits with 1 when the registry fails: the
//! next start checks the whole file.

use clap::Parser;
use holdfast_control::registry::database::{Identities, Registry};
use holdfast_control::{agent, master, service};
use holdfast_core::id::{ClusterId, NodeId};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;

/// Node agent and embedded single master of Holdfast.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Directory of the registry; made with mode 0700 when it is missing.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address of the gRPC interface. Calls are neither encrypted nor authenticated: keep it on
    /// loopback or on a trusted network.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9480")]
    listen: SocketAddr,
    /// Path of the Unix socket for the volume server.
    #[arg(long, value_name = "SOCKET_PATH")]
    link: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
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
    runtime.shutdown_timeout(holdfast_control::limits::SHUTDOWN_WAIT);
    result
}

async fn serve(options: Options) -> Result<(), String> {
    let fresh = Identities {
        cluster: Some(ClusterId(*uuid::Uuid::new_v4().as_bytes())),
        node: NodeId(*uuid::Uuid::new_v4().as_bytes()),
    };
    let opened = Registry::open(&options.data, fresh).map_err(|error| error.to_string())?;
    let (registry, state) = opened;
    tracing::info!(cluster = %state.cluster, node = %state.node, volumes = state.volumes.len(), "registry open");
    let host_name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let started = master::Master::start(registry, state, host_name);
    let (master, handle) = started.map_err(|error| error.to_string())?;
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
    let agent = tokio::spawn(agent::serve(listener, handle.clone()));
    let grpc = tokio::spawn(service::serve(incoming, handle, stopped(stopping.clone())));
    tracing::info!(
        "gRPC on {}, control link on {}",
        options.listen,
        options.link.display()
    );
    tell(sd_notify::NotifyState::Ready);
    let heartbeat = sd_notify::watchdog_enabled().map(|patience| tokio::spawn(beat(patience)));
    let result = master.run(stopped(stopping)).await;
    tell(sd_notify::NotifyState::Stopping);
    if let Some(heartbeat) = heartbeat {
        heartbeat.abort();
    }
    // Either a signal or a storage error: nobody is left to decide, so all stop.
    stop.send_replace(true);
    let grpc = grpc.await.map_err(|error| error.to_string())?;
    agent.abort();
    // Only a name; a later start replaces it too.
    let _ = std::fs::remove_file(&options.link);
    result.map_err(|error| format!("the registry failed, the process stops: {error}"))?;
    grpc.map_err(|error| format!("gRPC: {error}"))?;
    tracing::info!("stopped");
    Ok(())
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
