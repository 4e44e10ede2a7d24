//! `holdfast-volume`: the data plane of one node.
//!
//! One glommio executor per CPU; each opens its stores, serves their volumes, owns their connections
//! and shares nothing. The main thread becomes the coordinator between the control link and the shards.
mod args;
mod coordinator;
mod disk;
mod limits;
mod link;
mod messages;
mod net;
mod peer;
mod preflight;
mod runtime;
mod shard;
mod store;
mod supervisor;
mod volume;

use crate::limits::{
    COORDINATOR_QUEUE_MAX, SHARD_QUEUE_MAX, TAKEOVER_MAX, TAKEOVER_PAUSE, TRANSFER_PERCENT,
};
use args::Args;
use clap::Parser;
use coordinator::Router;
use messages::Coordinator;
use runtime::executor::{self, ExecutorOptions};
use runtime::{mailbox, signal, socket};
use shard::Start;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tracing::{error, info};

fn main() -> ExitCode {
    executor::register_membarrier();
    let signals = signal::block();
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    match serve(&args, signals) {
        Ok(code) => code,
        Err(reason) => {
            error!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args, signals: signal::EndSignals) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let cpus = preflight::usable_cpus(&args.cpus)?;
    let shards = cpus.len().min(args.store.len());
    let registered_bytes = preflight::check_machine(shards)?;
    let open_files = preflight::raise_open_files();
    let (mut listeners, portals) = listen(args)?;
    let announced = announced(&portals);
    let (mut peer_listener, peer_address) = listen_for_peers(args.peer)?.unzip();
    info!(
        shards,
        ?cpus,
        registered_bytes,
        open_files,
        ?portals,
        "starting"
    );

    let (sender, inbox) = mpsc::sync_channel(COORDINATOR_QUEUE_MAX);
    let coordinator = Coordinator(sender);
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..shards)
        .map(|_| mailbox::bounded(SHARD_QUEUE_MAX))
        .unzip();
    coordinator::watch_signals(signals, coordinator.clone())?;
    let mut executors = Vec::with_capacity(shards);
    let memory = args.memory / shards as u64;
    let dealt = shard::deal(args, shards);
    let stores: Vec<usize> = dealt.iter().map(Vec::len).collect();
    for ((index, stores), messages) in dealt.into_iter().enumerate().zip(receivers) {
        let options = ExecutorOptions {
            name: format!("shard-{index}"),
            // With one CPU for several threads the kernel schedules better than a pin.
            cpu: (cpus.len() > 1).then(|| cpus[index]),
            registered_bytes,
            spin: Duration::from_micros(args.spin),
        };
        let transfer_bytes = memory * TRANSFER_PERCENT / 100;
        let start = Start {
            index,
            stores,
            cache_bytes: memory - transfer_bytes,
            transfer_bytes,
            open_files,
            portals: announced.clone(),
            inbox: messages,
            shards: senders.clone(),
            peer_listener: peer_listener.take(),
            peer_from: args.peer.map(|address| address.ip()),
            coordinator: coordinator.clone(),
        };
        // The first shard accepts for all.
        let listeners = std::mem::take(&mut listeners);
        executors.push(executor::start(options, move || {
            shard::run(start, listeners)
        })?);
    }
    link::start(args.link.clone(), coordinator)?;
    if !Router::new(senders, stores, portals, peer_address.unwrap_or_default()).run(&inbox) {
        return Ok(ExitCode::FAILURE);
    }
    for executor in executors {
        executor.join()?;
    }
    info!("ended in order");
    Ok(ExitCode::SUCCESS)
}

/// Binds all portals; returns them with the addresses to announce.
fn listen(args: &Args) -> Result<(Vec<OwnedFd>, Vec<String>), String> {
    let mut listeners = Vec::with_capacity(args.portal.len());
    let mut bound = Vec::with_capacity(args.portal.len());
    for &portal in &args.portal {
        let listener =
            bind(portal).map_err(|error| format!("cannot listen on {portal}: {error}"))?;
        let address = socket::local_address(&listener)
            .map_err(|error| format!("cannot tell the address of {portal}: {error}"))?;
        bound.push(address.to_string());
        listeners.push(listener);
    }
    if !args.advertise.is_empty() {
        bound = args.advertise.iter().map(ToString::to_string).collect();
    }
    Ok((listeners, bound))
}

/// Binds the address for peers; returns it as it is to be told to them.
fn listen_for_peers(address: Option<SocketAddr>) -> Result<Option<(OwnedFd, String)>, String> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener =
        bind(address).map_err(|error| format!("cannot listen for peers on {address}: {error}"))?;
    let bound = socket::local_address(&listener)
        .map_err(|error| format!("cannot tell the address of {address}: {error}"))?;
    Ok(Some((listener, bound.to_string())))
}

/// The addresses that discovery tells hosts; none when a portal is bound to all addresses, then hosts
/// are told the one they came to.
fn announced(portals: &[String]) -> Vec<String> {
    let wildcard = |portal: &String| {
        let address = portal.parse::<SocketAddr>();
        address.is_ok_and(|address| address.ip().is_unspecified())
    };
    if portals.iter().any(wildcard) {
        return Vec::new();
    }
    portals.to_vec()
}

/// Binds an address, patiently: the kernel holds the sockets of a killed process until its rings are gone.
fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let start = Instant::now();
    loop {
        match socket::listen(address) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < TAKEOVER_MAX =>
            {
                std::thread::sleep(TAKEOVER_PAUSE);
            }
            result => return result,
        }
    }
}
