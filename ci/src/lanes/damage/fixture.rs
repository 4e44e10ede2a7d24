//! The two images that the cases damage copies of: a server that stopped in order, so that all is
//! in chunks, and one that was killed with writes in its log.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::LogPlace;
use super::disk::Disk;
use crate::initiator::login::Options;
use crate::initiator::scsi::SECTOR_BYTES;
use crate::lanes::Context;
use crate::oracle::{BLOCK_BYTES, BLOCK_SECTORS, Identity, Stamp};
use crate::server::Server;
use crate::tool;

const ARGUMENTS: [&str; 6] = [
    "--volume",
    "spare=1MiB",
    "--stores",
    "2",
    "--store-size",
    "128MiB",
];
const VICTIM_BLOCKS: usize = 8192;
const OTHER_BLOCKS: usize = 2048;
/// The victim's host has this key registered; nothing else holds these bytes.
const RESERVATION_KEY: [u8; 8] = *b"heldfast";
/// Writes of one block each that are in the log of the killed server.
const LOGGED_WRITES: u64 = 64;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Which state a case begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    Stopped,
    Killed,
    /// As [`Image::Killed`], and the last write may be missing.
    KilledLastInDoubt,
}

/// Everything the cases start from.
pub(super) struct Fixture<'a> {
    context: &'a Context,
    scratch: PathBuf,
    /// Name of the victim's store file.
    store: String,
    areas: Areas,
    stopped: [Disk; 2],
    killed: [Disk; 2],
    killed_in_doubt: Disk,
}

/// Offsets in the store file.
#[derive(Clone, Debug)]
struct Areas {
    superblocks: Vec<u64>,
    pages: u64,
    chunks: u64,
}

impl<'a> Fixture<'a> {
    /// Makes both images.
    pub(super) fn prepare(context: &'a Context) -> Result<Self, String> {
        let scratch = context.scratch("damage")?;
        let home = scratch.join("home");
        let server = Server::start(context, &home, &ARGUMENTS)?;
        let stores = stores(&server)?;
        let [victim_store, other_store] = &stores[..] else {
            return Err(format!(
                "two stores were asked for, {} are there",
                stores.len()
            ));
        };
        create(&server, "victim", "32MiB", &victim_store.0)?;
        create(&server, "other", "8MiB", &other_store.0)?;
        let mut victim = new_disk(&server, "victim", 1, VICTIM_BLOCKS)?;
        let mut other = new_disk(&server, "other", 2, OTHER_BLOCKS)?;
        for disk in [&mut victim, &mut other] {
            disk.connect()?;
            write_most(disk)?;
        }
        victim.register(RESERVATION_KEY)?;
        server.stop()?;
        copy_directory(&home, &scratch.join("stopped"))?;
        let stopped = [victim.clone(), other.clone()];

        let server = Server::start(context, &home, &ARGUMENTS)?;
        victim = victim.moved_to(options(&server, "victim")?);
        victim.connect()?;
        for number in 0..LOGGED_WRITES - 1 {
            victim.write(logged_write(number), 1)?;
        }
        let mut in_doubt = victim.clone();
        victim.write(logged_write(LOGGED_WRITES - 1), 1)?;
        in_doubt.doubt_write(logged_write(LOGGED_WRITES - 1), 1);
        kill(server)?;
        copy_directory(&home, &scratch.join("killed"))?;

        let store = victim_store.1.clone();
        let areas = areas(context, &scratch.join("killed").join("data").join(&store))?;
        Ok(Self {
            context,
            scratch,
            store,
            areas,
            stopped,
            killed: [victim, other],
            killed_in_doubt: in_doubt,
        })
    }

    /// A fresh copy of an image.
    pub(super) fn restore(&self, image: Image) -> Result<Scene<'_>, String> {
        let (name, victim, other) = match image {
            Image::Stopped => ("stopped", &self.stopped[0], &self.stopped[1]),
            Image::Killed => ("killed", &self.killed[0], &self.killed[1]),
            Image::KilledLastInDoubt => ("killed", &self.killed_in_doubt, &self.killed[1]),
        };
        let home = self.scratch.join("run");
        if home.exists() {
            fs::remove_dir_all(&home).map_err(|error| error.to_string())?;
        }
        copy_directory(&self.scratch.join(name), &home)?;
        Ok(Scene {
            context: self.context,
            store: home.join("data").join(&self.store),
            home,
            victim: victim.clone(),
            other: other.clone(),
        })
    }

    /// Where the payload of one of the logged writes is.
    pub(super) fn logged_block(&self, place: LogPlace) -> Result<u64, String> {
        let first = match place {
            LogPlace::Middle => logged_write(LOGGED_WRITES / 2),
            LogPlace::Last => logged_write(LOGGED_WRITES - 1),
        };
        // The newest version of that block is the one with the largest content.
        self.stamps("killed")?
            .into_iter()
            .filter(|(offset, stamp)| {
                *offset < self.areas.pages && stamp.lba == first * BLOCK_SECTORS
            })
            .max_by_key(|(_, stamp)| stamp.content)
            .map(|(offset, _)| offset)
            .ok_or_else(|| "the log does not hold what was written last".into())
    }

    /// A block of the victim and where its only copy in a chunk is.
    pub(super) fn block_in_chunk(&self) -> Result<(u64, u64), String> {
        self.stamps("stopped")?
            .into_iter()
            .filter(|(offset, _)| *offset >= self.areas.chunks)
            .map(|(offset, stamp)| (stamp.lba / BLOCK_SECTORS, offset))
            .find(|(block, _)| *block >= 100)
            .ok_or_else(|| "no chunk holds anything of the victim".into())
    }

    /// Offsets of map pages in use.
    pub(super) fn pages(&self) -> Result<Vec<u64>, String> {
        let bytes = self.bytes("stopped")?;
        let range = index(self.areas.pages)..index(self.areas.chunks);
        let area = bytes
            .get(range)
            .ok_or("the page area is behind the end of the file")?;
        let offsets = (self.areas.pages..).step_by(BLOCK_BYTES);
        let pages: Vec<u64> = offsets
            .zip(area.chunks_exact(BLOCK_BYTES))
            .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
            .map(|(offset, _)| offset)
            .collect();
        if pages.is_empty() {
            Err("no map page was ever written".into())
        } else {
            Ok(pages)
        }
    }

    /// Offsets of the map pages that hold the saved registration of the victim's host.
    pub(super) fn registration_pages(&self) -> Result<Vec<u64>, String> {
        let bytes = self.bytes("stopped")?;
        let holds = |page: &u64| {
            let page = &bytes[index(*page)..][..BLOCK_BYTES];
            page.windows(RESERVATION_KEY.len())
                .any(|window| window == RESERVATION_KEY)
        };
        let pages: Vec<u64> = self.pages()?.into_iter().filter(holds).collect();
        if pages.is_empty() {
            Err("no map page holds the registration".into())
        } else {
            Ok(pages)
        }
    }

    /// Offsets of the superblock copies.
    pub(super) fn superblocks(&self) -> Vec<u64> {
        self.areas.superblocks.clone()
    }

    /// All intact blocks of the victim in its store file.
    fn stamps(&self, image: &str) -> Result<Vec<(u64, Stamp)>, String> {
        let bytes = self.bytes(image)?;
        let identity = self.stopped[0].identity();
        Ok((0..)
            .step_by(BLOCK_BYTES)
            .zip(bytes.chunks_exact(BLOCK_BYTES))
            .filter_map(|(offset, block)| Some((offset, Stamp::of(&block[..SECTOR_BYTES])?)))
            .filter(|(_, stamp)| stamp.volume == identity.volume && stamp.seed == identity.seed)
            .collect())
    }

    fn bytes(&self, image: &str) -> Result<Vec<u8>, String> {
        let path = self.scratch.join(image).join("data").join(&self.store);
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// A stopped copy that may be damaged.
pub(super) struct Scene<'a> {
    context: &'a Context,
    home: PathBuf,
    store: PathBuf,
    victim: Disk,
    other: Disk,
}

impl Scene<'_> {
    /// Flips one bit of the victim's store file.
    pub(super) fn flip(&self, offset: u64) -> Result<(), String> {
        let mut byte = [0];
        let file = OpenOptions::new().read(true).write(true).open(&self.store);
        let file = file.map_err(|error| error.to_string())?;
        file.read_exact_at(&mut byte, offset)
            .map_err(|error| error.to_string())?;
        byte[0] ^= 0x10;
        file.write_all_at(&byte, offset)
            .map_err(|error| error.to_string())?;
        file.sync_all().map_err(|error| error.to_string())
    }

    /// Exit code of `holdfast store check`.
    pub(super) fn store_check(&self) -> Result<i32, String> {
        self.check(&[]).map(|(code, _)| code)
    }

    /// What `holdfast store check --data` found.
    pub(super) fn store_check_data(&self) -> Result<String, String> {
        match self.check(&["--data"])? {
            (5, text) => Ok(tool::tail(&text, 2)),
            (code, text) => Err(format!("store check --data ended with {code}: {text}")),
        }
    }

    fn check(&self, options: &[&str]) -> Result<(i32, String), String> {
        let mut command = Command::new(self.context.binary("holdfast"));
        command
            .args(["store", "check"])
            .args(options)
            .arg(&self.store);
        let output = tool::run(&mut command, COMMAND_TIMEOUT)?;
        Ok((output.code.unwrap_or(-1), output.text()))
    }

    /// Starts the server on it.
    pub(super) fn start(self) -> Result<Running, String> {
        let server = Server::start(self.context, &self.home, &ARGUMENTS)?;
        let victim = self.victim.moved_to(options(&server, "victim")?);
        let other = self.other.moved_to(options(&server, "other")?);
        let store = self
            .store
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        Ok(Running {
            store: store.into(),
            server,
            victim,
            other,
        })
    }
}

/// The server on a damaged image.
pub(super) struct Running {
    store: String,
    server: Server,
    pub(super) victim: Disk,
    pub(super) other: Disk,
}

impl Running {
    /// Why the victim's store is refused; an error when it is not.
    pub(super) fn refusal(&self) -> Result<String, String> {
        let nodes = self.server.holdfast(&["node", "list"])?;
        let store = find_store(&nodes, &self.store)?;
        match store["reason"].as_str().unwrap_or_default() {
            "" => Err("the store is not refused".into()),
            reason => Ok(reason.into()),
        }
    }

    /// Why the victim volume alone is not served; an error when it is.
    pub(super) fn volume_refusal(&self) -> Result<String, String> {
        let volumes = self.server.holdfast(&["volume", "list"])?;
        let victim = volumes
            .as_array()
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == "victim")
            .ok_or("volume list does not name the victim")?;
        match victim["reason"].as_str().unwrap_or_default() {
            "" => Err(format!("the victim volume is not refused: {victim}")),
            reason => Ok(reason.into()),
        }
    }

    pub(super) fn stop(self) -> Result<(), String> {
        self.server.stop()
    }
}

/// The entry of a store file in `holdfast node list --json`.
pub(super) fn find_store<'a>(nodes: &'a Value, name: &str) -> Result<&'a Value, String> {
    all_stores(nodes)
        .find(|store| {
            store["path"]
                .as_str()
                .is_some_and(|path| path.ends_with(name))
        })
        .ok_or_else(|| format!("node list does not name {name}"))
}

fn all_stores(nodes: &Value) -> impl Iterator<Item = &Value> {
    nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["stores"].as_array())
        .flatten()
}

/// Id and file name of each store, by name.
pub(super) fn stores(server: &Server) -> Result<Vec<(String, String)>, String> {
    let nodes = server.holdfast(&["node", "list"])?;
    let mut stores: Vec<(String, String)> = all_stores(&nodes)
        .filter_map(|store| {
            let name = Path::new(store["path"].as_str()?).file_name()?.to_str()?;
            Some((store["id"].as_str()?.to_owned(), name.to_owned()))
        })
        .collect();
    stores.sort_by(|left, right| left.1.cmp(&right.1));
    Ok(stores)
}

pub(super) fn create(server: &Server, name: &str, size: &str, store: &str) -> Result<(), String> {
    server
        .holdfast(&[
            "volume",
            "create",
            name,
            "--size",
            size,
            "--store-id",
            store,
        ])
        .map(drop)
}

/// How to log in to a volume; `volume list` names the target of one that is not served, too.
pub(super) fn options(server: &Server, volume: &str) -> Result<Options, String> {
    let portal = server.portal()?;
    let portal = portal
        .parse()
        .map_err(|error| format!("portal {portal}: {error}"))?;
    let volumes = server.holdfast(&["volume", "list"])?;
    let target = volumes
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["name"] == volume)
        .and_then(|entry| entry["iqn"].as_str())
        .ok_or_else(|| format!("volume list does not name {volume}"))?;
    Ok(Options::new(portal, target))
}

pub(super) fn new_disk(
    server: &Server,
    volume: &str,
    number: u64,
    block_count: usize,
) -> Result<Disk, String> {
    let identity = Identity {
        volume: number,
        seed: 0x00da_4a6e,
    };
    Ok(Disk::new(options(server, volume)?, identity, block_count))
}

/// All but the last sixteenth, in writes from one block to two chunks.
pub(super) fn write_most(disk: &mut Disk) -> Result<(), String> {
    let end = disk.block_count() / 16 * 15;
    let mut first = 0;
    for count in [1, 16, 3, 32, 8, 5].into_iter().cycle() {
        if first + count > end {
            return Ok(());
        }
        disk.write(first, count)?;
        first += count;
    }
    unreachable!("the cycle has no end");
}

/// Which block the numbered write of the killed image goes to.
fn logged_write(number: u64) -> u64 {
    200 + number * 17
}

/// SIGKILL for all three processes; returns when they are gone.
pub(super) fn kill(server: Server) -> Result<(), String> {
    let pids = server.pids()?;
    drop(server);
    let started = Instant::now();
    while pids
        .iter()
        .any(|pid| Path::new(&format!("/proc/{pid}")).exists())
    {
        if started.elapsed() > Duration::from_secs(10) {
            return Err("killed processes are still there".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn areas(context: &Context, store: &Path) -> Result<Areas, String> {
    let mut command = Command::new(context.binary("holdfast"));
    command.args(["--json", "store", "inspect"]).arg(store);
    let text = tool::run_ok(&mut command, COMMAND_TIMEOUT)?;
    let inspected: Value = serde_json::from_str(&text)
        .map_err(|error| format!("store inspect --json gave no JSON: {error}"))?;
    let area = |name: &str| {
        let offset = inspected["areas"][name]["offset"].as_u64();
        offset.ok_or_else(|| format!("store inspect does not say where the {name} are"))
    };
    let superblocks = inspected["superblocks"].as_array().into_iter().flatten();
    let superblocks = superblocks
        .filter_map(|copy| copy["offset"].as_u64())
        .collect();
    Ok(Areas {
        superblocks,
        pages: area("pages")?,
        chunks: area("chunks")?,
    })
}

/// Copies regular files and directories with their modes, leaves out sockets.
fn copy_directory(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("copying {}: {error}", from.display());
    fs::create_dir_all(to).map_err(failed)?;
    let mode = fs::metadata(from).map_err(failed)?.permissions();
    fs::set_permissions(to, mode).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).map_err(failed)?;
        }
    }
    Ok(())
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("64-bit machines only")
}
