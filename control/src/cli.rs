//! The `holdfast` command: its grammar, and what each command does.
//!
//! Standard output carries results only: a table, or with `--json` one JSON document. Messages go to
//! standard error. The exit code says what kind of end it was.

mod client;
mod operations;
mod render;
mod store;

use crate::access::{Access, AccessError, Chap, Secret};

use crate::name::VolumeName;
use crate::registry::{Durability, Paths, Policy};
use crate::size::Size;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use holdfast_core::id::StoreId;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longest secret file that is read; more is an error anyway.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// Volumes, nodes and stores of Holdfast.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true)]
pub struct Cli {
    /// Control processes to talk to, separated by commas; one that does not lead knows who does.
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_CONTROL",
        value_name = "URL",
        value_delimiter = ','
    )]
    #[arg(default_value = "http://127.0.0.1:9480")]
    pub control: Vec<String>,
    /// Print one JSON document instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, look at, change and remove volumes.
    #[command(subcommand, visible_alias = "v")]
    Volume(VolumeCommand),
    /// Look at nodes and their stores, empty and remove them.
    #[command(subcommand, visible_alias = "n")]
    Node(NodeCommand),
    /// Look at, add and remove masters.
    #[command(subcommand)]
    Master(MasterCommand),
    /// Look at what happened lately.
    #[command(subcommand)]
    Event(EventCommand),
    /// Make, look at and check stores that no server has open.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print a script of completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// Verbs of volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume and wait until hosts can log in.
    Create {
        /// Its name: lower-case letters, digits, '.' and '-'.
        name: VolumeName,
        /// Its size, a multiple of 4KiB: 10GiB, 10G (the same), 10TB.
        #[arg(long)]
        size: Size,
        /// Store of the primary; chosen by free space when left out.
        #[arg(long, value_name = "UUID")]
        store_id: Option<StoreId>,
        /// How many copies, and how they are kept.
        #[command(flatten)]
        policy: PolicyOptions,
        /// Who may log in.
        #[command(flatten)]
        access: AccessOptions,
    },
    /// List all volumes.
    #[command(visible_alias = "ls")]
    List,
    /// Show one volume; exit code 5 when it is not serving.
    Status {
        /// Its name.
        name: VolumeName,
    },
    /// Remove a volume with all its data.
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name.
        name: VolumeName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Make another in-sync copy the primary, in order; hosts wait less than a second.
    MovePrimary {
        /// The volume's name.
        name: VolumeName,
        /// Name or id of the node.
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// Last resort: make a copy the primary although it may lack acknowledged writes.
    ForcePromote {
        /// The volume's name.
        name: VolumeName,
        /// Name or id of the node with that copy. All other copies are discarded.
        #[arg(long, value_name = "NODE")]
        node: String,
        /// Yes, writes that hosts were told are durable may be lost.
        #[arg(long, required = true)]
        accept_data_loss: bool,
    },
    /// Change the number of copies, the durability or the size while hosts are served.
    Set {
        /// The volume's name.
        name: VolumeName,
        /// What to change.
        #[command(flatten)]
        options: SetOptions,
    },
    /// Add a copy, or give one up.
    #[command(subcommand)]
    Replica(ReplicaCommand),
    /// Replace who may log in; without options: everybody.
    Access {
        /// The volume's name.
        name: VolumeName,
        /// Who may log in.
        #[command(flatten)]
        access: AccessOptions,
    },
}

/// What of a volume can change while hosts are served.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct SetOptions {
    /// Copies wanted, 1 to 3: missing ones are made and filled, the least useful leave.
    #[arg(long, value_name = "COPIES")]
    pub rf: Option<u8>,
    /// When a write is acknowledged: sync_all, sync_quorum or best_effort. What was acknowledged before
    /// keeps the promise it was given.
    #[arg(long, value_name = "MODE")]
    pub durability: Option<Durability>,
    /// A greater size; waits until hosts can use it. Hosts notice it after a rescan.
    #[arg(long)]
    pub size: Option<Size>,
    /// Raise --rf also when there are too few nodes now; the copies follow when there are.
    #[arg(long, requires = "rf")]
    pub allow_degraded: bool,
}

/// Verbs of a volume's copies.
#[derive(Debug, Subcommand)]
pub enum ReplicaCommand {
    /// Make one copy more; raises rf when there are as many as wanted.
    Add {
        /// The volume's name.
        volume: VolumeName,
        /// Name or id of the node; chosen by free space when left out.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Give the copy on a node up.
    #[command(visible_alias = "rm")]
    Remove {
        /// The volume's name.
        volume: VolumeName,
        /// Name or id of the node.
        node: String,
        /// Also when fewer in-sync copies than rf are left: rf is lowered. Never the last one.
        #[arg(long)]
        force: bool,
    },
}

/// How many copies, and how they are kept.
#[derive(Args, Debug)]
pub struct PolicyOptions {
    /// Copies, each on another node: 1 to 3.
    #[arg(long, value_name = "COPIES", default_value_t = 1)]
    pub rf: u8,
    /// When a write is acknowledged: sync_all (durable on every in-sync copy), sync_quorum (on two of
    /// three), best_effort (on the primary only: the loss of its node may lose acknowledged writes).
    #[arg(long, value_name = "MODE", default_value = "sync_all")]
    pub durability: Durability,
    /// How hosts find the primary: redirect (the other nodes send logins on) or multipath (ALUA).
    #[arg(long, value_name = "PATHS", default_value = "redirect")]
    pub paths: Paths,
    /// Take fewer copies when there are too few nodes.
    #[arg(long)]
    pub allow_degraded: bool,
}

/// Who may log in.
#[derive(Args, Debug)]
pub struct AccessOptions {
    /// Initiator name that may log in, repeatable; all when left out.
    #[arg(long = "initiator", value_name = "IQN")]
    pub initiators: Vec<String>,
    /// CHAP user that hosts must prove to be.
    #[arg(long, value_name = "USER", requires = "chap_secret_file")]
    pub chap_user: Option<String>,
    /// File with its secret of 12 to 255 bytes, '-' for standard input; a last newline does not count.
    #[arg(long, value_name = "FILE", requires = "chap_user")]
    pub chap_secret_file: Option<PathBuf>,
    /// Name under which the target proves itself to hosts.
    #[arg(long, value_name = "USER", requires_all = ["mutual_secret_file", "chap_user"])]
    pub mutual_user: Option<String>,
    /// File with its secret, other than the one of --chap-secret-file.
    #[arg(long, value_name = "FILE", requires = "mutual_user")]
    pub mutual_secret_file: Option<PathBuf>,
}

/// Verbs of nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List all nodes with their stores.
    #[command(visible_alias = "ls")]
    List,
    /// Put no new copies on a node.
    Cordon {
        /// Its name or id.
        node: String,
    },
    /// Take back cordon and drain.
    Uncordon {
        /// Its name or id.
        node: String,
    },
    /// Cordon a node and empty it: primaries move first, then each copy is made on another node. Waits;
    /// exit code 5 when a copy has no place to go.
    Drain {
        /// Its name or id.
        node: String,
        /// Do not wait until it is empty.
        #[arg(long)]
        no_wait: bool,
    },
    /// Forget a node that is stopped and empty.
    #[command(visible_alias = "rm")]
    Remove {
        /// Its name or id.
        node: String,
        /// For a dead node: let go of its copies where other copies have everything.
        #[arg(long)]
        force: bool,
    },
}

/// Verbs of masters.
#[derive(Debug, Subcommand)]
pub enum MasterCommand {
    /// List the masters and who leads.
    List,
    /// Take an empty master into the cluster: a holdfast-control started with --master and --masters.
    /// Wait until it has caught up and votes.
    Add {
        /// Its gRPC address, as the other masters reach it.
        #[arg(value_name = "ADDR:PORT")]
        address: String,
    },
    /// Take a master out of the cluster. Its data stays where it is.
    Remove {
        /// Id of its node, or its address.
        #[arg(value_name = "NODE")]
        master: String,
    },
}

/// Verbs of events.
#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// List the last events, oldest first.
    #[command(visible_alias = "ls")]
    List,
}

/// Verbs of stores.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Make an empty store in a file or on a block device.
    Format {
        /// The file, made when it is missing, or the device.
        path: PathBuf,
        /// Size of the store; for a device, all of it when left out.
        #[arg(long)]
        size: Option<Size>,
        /// Size of the write-ahead log, whole segments of 4MiB, at least 32MiB; left out: an eighth of the store, 32MiB to
        /// 1GiB. A longer one takes longer bursts of small writes, and longer to read after a crash.
        #[arg(long)]
        log: Option<Size>,
        /// Destroy what is there; needs --yes too.
        #[arg(long)]
        overwrite: bool,
        /// Yes, destroy it.
        #[arg(long)]
        yes: bool,
    },
    /// Show superblocks, log, space and volumes.
    Inspect {
        /// The file or device.
        path: PathBuf,
    },
    /// Check a store without changing it; exit code 5 when it is damaged.
    Check {
        /// The file or device.
        path: PathBuf,
        /// Also read all data and verify its checksums.
        #[arg(long)]
        data: bool,
    },
}

/// How a command ended, if not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Any other error.
    Error = 1,
    /// The command line, or a value in it.
    Usage = 2,
    /// No such volume or store.
    NotFound = 3,
    /// It exists, it is in use, or there is no room.
    Conflict = 4,
    /// Not serving, or damaged.
    Degraded = 5,
    /// The control process or the volume server does not answer.
    Unavailable = 6,
}

/// A message for people and the kind of end.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub exit: Exit,
    /// The message; empty when the output says it all.
    pub message: String,
}

impl Failure {
    fn with(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
        }
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                // Nobody is left to be told when standard error is closed.
                let _ = writeln!(std::io::stderr(), "holdfast: {}", failure.message);
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "holdfast", &mut script);
            print(&script)
        }
        Command::Store(command) => store::run(command, cli.json),
        Command::Volume(command) => volume(cli, command),
        Command::Node(command) => operations::node(cli, command),
        Command::Master(command) => master(cli, command),
        Command::Event(EventCommand::List) => {
            let reply = client::Client::connect(&cli.control)?.list_events()?;
            print_text(&render::events(&reply, cli.json))
        }
    }
}

fn master(cli: &Cli, command: &MasterCommand) -> Result<(), Failure> {
    let mut client = client::Client::connect(&cli.control)?;
    let reply = match command {
        MasterCommand::List => client.list_masters()?,
        MasterCommand::Add { address } => client.add_master(address)?,
        MasterCommand::Remove { master } => client.remove_master(master)?,
    };
    print_text(&render::masters(&reply, cli.json))
}

fn volume(cli: &Cli, command: &VolumeCommand) -> Result<(), Failure> {
    let connect = || client::Client::connect(&cli.control);
    match command {
        VolumeCommand::Create {
            name,
            size,
            store_id,
            policy,
            access,
        } => {
            let access = access.read()?;
            let given = Some(access).filter(|access| !access.is_open());
            let mut client = connect()?;
            let volume = client.create_volume(name, *size, *store_id, policy, given.as_ref())?;
            warn(&volume.may_lose);
            print_text(&render::volume(&volume, cli.json))
        }
        VolumeCommand::List => print_text(&render::volumes(&connect()?.list_volumes()?, cli.json)),
        VolumeCommand::Status { name } => {
            let volume = connect()?.get_volume(name)?;
            print_text(&render::volume(&volume, cli.json))?;
            warn(&volume.may_lose);
            if volume.health() != crate::proto::VolumeHealth::Unavailable {
                return Ok(());
            }
            let message = format!("volume '{name}' is not serving: {}", volume.health_reason);
            Err(Failure::with(Exit::Degraded, message))
        }
        VolumeCommand::Delete { name, yes } => {
            confirm_delete(name, *yes)?;
            let reply = connect()?.delete_volume(name)?;
            print_text(&render::deleted(name.as_str(), &reply, cli.json))?;
            if !reply.pending {
                return Ok(());
            }
            let message = format!(
                "deletion of '{name}' is registered and its space is not free yet: {}",
                reply.reason
            );
            Err(Failure::with(Exit::Unavailable, message))
        }
        VolumeCommand::MovePrimary { name, to } => {
            let volume = connect()?.move_primary(name, to)?;
            print_text(&render::volume(&volume, cli.json))
        }
        VolumeCommand::ForcePromote {
            name,
            node,
            accept_data_loss,
        } => {
            let volume = connect()?.force_promote(name, node, *accept_data_loss)?;
            print_text(&render::volume(&volume, cli.json))
        }
        VolumeCommand::Set { name, options } => operations::set(cli, name, options),
        VolumeCommand::Replica(command) => operations::replica(cli, command),
        VolumeCommand::Access { name, access } => {
            let access = access.read()?;
            let volume = connect()?.set_access(name, &access)?;
            print_text(&render::volume(&volume, cli.json))
        }
    }
}

/// Asks on a terminal; elsewhere `--yes` must be given.
fn confirm_delete(name: &VolumeName, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let message = format!("deleting '{name}' destroys its data; add --yes");
        return Err(Failure::with(Exit::Usage, message));
    }
    let error = |error: std::io::Error| Failure::with(Exit::Error, error.to_string());
    let mut stderr = std::io::stderr();
    write!(
        stderr,
        "Delete volume '{name}' with all its data? Type its name: "
    )
    .map_err(error)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(error)?;
    if answer.trim() == name.as_str() {
        return Ok(());
    }
    Err(Failure::with(Exit::Error, "not deleted"))
}

impl PolicyOptions {
    fn policy(&self) -> Policy {
        Policy {
            rf: self.rf,
            durability: self.durability,
            paths: self.paths,
        }
    }
}

impl AccessOptions {
    /// Reads the secrets and checks the rule as a whole.
    fn read(&self) -> Result<Access, Failure> {
        let stdin = |file: &Option<PathBuf>| file.as_deref() == Some(Path::new("-"));
        if stdin(&self.chap_secret_file) && stdin(&self.mutual_secret_file) {
            let message = "only one secret can come from standard input";
            return Err(Failure::with(Exit::Usage, message));
        }
        let chap = read_chap(self.chap_user.as_ref(), self.chap_secret_file.as_deref())?;
        let mutual = read_chap(
            self.mutual_user.as_ref(),
            self.mutual_secret_file.as_deref(),
        )?;
        Access::from_parts(self.initiators.clone(), chap, mutual).map_err(refused)
    }
}

fn read_chap(user: Option<&String>, file: Option<&Path>) -> Result<Option<Chap>, Failure> {
    let (Some(user), Some(file)) = (user, file) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        let stdin = std::io::stdin();
        stdin.take(SECRET_FILE_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file)
            .and_then(|opened| opened.take(SECRET_FILE_BYTES_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|error| {
        let message = format!("cannot read the secret in {}: {error}", file.display());
        Failure::with(Exit::Error, message)
    })?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let secret = Secret::from_bytes(bytes).map_err(refused)?;
    Chap::from_parts(user.clone(), secret)
        .map(Some)
        .map_err(refused)
}

fn refused(error: AccessError) -> Failure {
    Failure::with(Exit::Usage, error.to_string())
}

/// Says on standard error what may be lost.
fn warn(may_lose: &str) {
    if !may_lose.is_empty() {
        say(&format!("warning: {may_lose}"));
    }
}

fn say(message: &str) {
    // Nobody is left to be told when standard error is closed.
    let _ = writeln!(std::io::stderr(), "holdfast: {message}");
}

fn print_text(text: &str) -> Result<(), Failure> {
    print(text.as_bytes())
}

/// Writes to standard output; a reader that has gone away is no error.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let message = format!("cannot write the result: {error}");
            Err(Failure::with(Exit::Error, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
