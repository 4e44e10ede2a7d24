//! Lane `damage`: broken bytes, a full disk and a dead disk never become wrong data.
//!
//! Bits are flipped in the real files of a stopped server: in the log, in chunks, in map pages, in
//! superblocks. Afterwards every block must be what it was, or MEDIUM ERROR where no good copy is
//! left, or the store is refused and says why; the other store of the process serves as ever.
//! The places are found by looking for what the hosts wrote, so nothing of the format is known here
//! but where `holdfast store inspect` says the areas are.

mod device;
mod disk;
mod exhausted;
mod failing;
mod fixture;

use crate::lanes::Context;
use crate::report::Report;

use disk::Disk;
use failing::Medium;
use fixture::{Fixture, Image, Scene};

/// Map pages that are damaged, one after the other.
const PAGES_DAMAGED: usize = 8;

/// Runs all cases.
pub(crate) fn run(context: &Context, report: &mut Report) {
    match Fixture::prepare(context) {
        Ok(fixture) => flips(&fixture, report),
        Err(what) => report.check("flipped bits", Err(what)),
    }
    report.check("full disk", exhausted::run(context));
    report.check("dead disk", failing::run(context, Medium::File));
    report.check("dead block device", failing::run(context, Medium::Device));
    report.check("block device that loses data", device::run(context));
    report.check(
        "store file cut short under a running server",
        failing::run_cut(context),
    );
}

type Case = (&'static str, fn(&Fixture) -> Result<String, String>);

const CASES: &[Case] = &[
    ("no damage at all", no_damage),
    ("log, payload in the middle", log_middle_payload),
    ("log, header in the middle", log_middle_header),
    ("log, end", log_end),
    ("chunk", chunk),
    ("map pages", map_pages),
    ("saved reservations", saved_reservations),
    ("superblock, first copy", |fixture| {
        one_superblock(fixture, 0)
    }),
    ("superblock, second copy", |fixture| {
        one_superblock(fixture, 1)
    }),
    ("both superblocks", both_superblocks),
];

fn flips(fixture: &Fixture, report: &mut Report) {
    for (name, case) in CASES {
        report.check(name, case(fixture));
    }
}

/// The check must not find damage that is not there, or the other cases prove nothing.
fn no_damage(fixture: &Fixture) -> Result<String, String> {
    for image in [Image::Stopped, Image::Killed] {
        let scene = fixture.restore(image)?;
        let checked = scene.store_check()?;
        if checked != 0 {
            return Err(format!("store check of a good store ended with {checked}"));
        }
        let mut running = scene.start()?;
        everything_is_there(&mut running.victim)?;
        everything_is_there(&mut running.other)?;
        running.stop()?;
    }
    Ok("both stores serve everything".into())
}

fn everything_is_there(disk: &mut Disk) -> Result<(), String> {
    disk.connect()?;
    let unreadable = disk.sweep()?;
    if unreadable.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} blocks unreadable, first {}",
        unreadable.len(),
        unreadable[0]
    ))
}

/// The store must be refused with a reason, its volume must not be served, the other must.
fn refused(scene: Scene) -> Result<String, String> {
    let mut running = scene.start()?;
    let reason = running.refusal()?;
    running.victim.must_not_serve()?;
    everything_is_there(&mut running.other)?;
    running.stop()?;
    Ok(format!("refused: {reason}"))
}

fn log_middle_payload(fixture: &Fixture) -> Result<String, String> {
    let scene = fixture.restore(Image::Killed)?;
    scene.flip(fixture.logged_block(LogPlace::Middle)? + 1000)?;
    refused(scene)
}

fn log_middle_header(fixture: &Fixture) -> Result<String, String> {
    let scene = fixture.restore(Image::Killed)?;
    // One write at a time: the block before the payload is the frame's header.
    let header = fixture.logged_block(LogPlace::Middle)? - 4096;
    scene.flip(header + 30)?;
    refused(scene)
}

/// Which of the writes in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogPlace {
    Middle,
    Last,
}

/// The last frame looks like a write that the power cut tore: it is cut, and the rest serves.
fn log_end(fixture: &Fixture) -> Result<String, String> {
    let scene = fixture.restore(Image::KilledLastInDoubt)?;
    scene.flip(fixture.logged_block(LogPlace::Last)? + 1000)?;
    let mut running = scene.start()?;
    everything_is_there(&mut running.victim)?;
    everything_is_there(&mut running.other)?;
    running.stop()?;
    Ok("cut, all before it is there".into())
}

fn chunk(fixture: &Fixture) -> Result<String, String> {
    let scene = fixture.restore(Image::Stopped)?;
    let (block, offset) = fixture.block_in_chunk()?;
    scene.flip(offset + 77)?;
    let found = scene.store_check_data()?;
    let mut running = scene.start()?;
    running.victim.connect()?;
    let unreadable = running.victim.sweep()?;
    if unreadable != [block] {
        return Err(format!(
            "block {block} was damaged, blocks {unreadable:?} are unreadable"
        ));
    }
    running.victim.write(block, 1)?;
    everything_is_there(&mut running.victim)?;
    everything_is_there(&mut running.other)?;
    running.stop()?;
    Ok(format!(
        "MEDIUM ERROR for block {block} alone, mended by writing it; store check says {found}"
    ))
}

/// Any page may be damaged: each block is right or unreadable. What must not be lost is there twice.
fn map_pages(fixture: &Fixture) -> Result<String, String> {
    let mut pages = fixture.pages()?;
    let registration = fixture.registration_pages()?;
    pages.retain(|page| !registration.contains(page));
    let step = (pages.len() / PAGES_DAMAGED).max(1);
    let mut outcomes = Vec::new();
    for page in pages.iter().step_by(step) {
        let scene = fixture.restore(Image::Stopped)?;
        scene.flip(page + 1234)?;
        let mut running = scene.start()?;
        if let Ok(reason) = running.refusal() {
            return Err(format!("page at {page}: the store was refused: {reason}"));
        }
        running.victim.connect()?;
        let outcome = format!("{} unreadable", running.victim.sweep()?.len());
        everything_is_there(&mut running.other)?;
        running.stop()?;
        outcomes.push(outcome);
    }
    if outcomes.iter().all(|outcome| outcome == "0 unreadable") {
        return Err("no damaged page was ever noticed".into());
    }
    Ok(format!(
        "{} pages found, {}",
        pages.len(),
        outcomes.join(", ")
    ))
}

/// Without its saved reservations a volume must not be served; its store and the other serve on.
fn saved_reservations(fixture: &Fixture) -> Result<String, String> {
    let scene = fixture.restore(Image::Stopped)?;
    for page in fixture.registration_pages()? {
        scene.flip(page + 1234)?;
    }
    let mut running = scene.start()?;
    if let Ok(reason) = running.refusal() {
        return Err(format!("the whole store was refused: {reason}"));
    }
    running.victim.must_not_serve()?;
    let reason = running.volume_refusal()?;
    everything_is_there(&mut running.other)?;
    running.stop()?;
    Ok(format!("the volume alone is refused: {reason}"))
}

fn one_superblock(fixture: &Fixture, copy: usize) -> Result<String, String> {
    for image in [Image::Stopped, Image::Killed] {
        let scene = fixture.restore(image)?;
        scene.flip(fixture.superblocks()[copy] + 100)?;
        let mut running = scene.start()?;
        everything_is_there(&mut running.victim)?;
        everything_is_there(&mut running.other)?;
        running.stop()?;
    }
    Ok("serves".into())
}

fn both_superblocks(fixture: &Fixture) -> Result<String, String> {
    let scene = fixture.restore(Image::Killed)?;
    for offset in fixture.superblocks() {
        scene.flip(offset + 100)?;
    }
    refused(scene)
}
