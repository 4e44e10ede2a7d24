//! What the storage engine costs: device bytes per user byte (asserted), CPU of the machine per
//! 4 KiB write (printed; `cargo test --release -p holdfast-core --test cost -- --nocapture`).

use holdfast_core::block::{Block, BlockRange};
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::limits::BLOCK_BYTES;
use holdfast_core::lsn::Epoch;
use holdfast_core::store::append::Sharing;
use holdfast_core::store::layout::Layout;
use holdfast_core::store::recovery::{Next, Recovery};
use holdfast_core::store::{Config, Data, Effect, Event, PayloadId, Tag};
use holdfast_core::testing::driver::formatted;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const VOLUME: VolumeId = VolumeId([1; 16]);
const VOLUME_BYTES: u64 = 256 << 20;
const DEPTH: usize = 32;

/// A store whose device does nothing, in order, and counts.
struct Bench {
    store: holdfast_core::store::machine::Store,
    effects: Vec<Effect>,
    queue: VecDeque<Event>,
    device_bytes: u64,
    completed: u64,
    in_machine: Duration,
}

impl Bench {
    fn new() -> Bench {
        let layout = Layout::with_log(512 << 20, 4 << 20, 16).expect("a layout");
        let image = formatted(StoreId([1; 16]), layout);
        let mut recovery = Recovery::new(Config::default(), image.bytes());
        let mut buffers: Vec<Vec<u8>> = Vec::new();
        let store = loop {
            let slices: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
            match recovery.step(&slices) {
                Next::Read(reads) => {
                    buffers = reads
                        .iter()
                        .map(|r| image.read(r.offset, r.bytes))
                        .collect();
                }
                Next::Sync => buffers.clear(),
                Next::Open(store) => break *store,
                Next::Refused(error) => panic!("{error}"),
            }
        };
        let mut bench = Bench {
            store,
            effects: Vec::new(),
            queue: VecDeque::new(),
            device_bytes: 0,
            completed: 0,
            in_machine: Duration::ZERO,
        };
        bench.queue.push_back(Event::Tick);
        bench.queue.push_back(Event::CreateVolume {
            tag: Tag(0),
            id: VOLUME,
            size_blocks: VOLUME_BYTES / BLOCK_BYTES as u64,
            epoch: Epoch(1),
            sharing: Sharing::Alone,
        });
        bench.drain(1);
        bench
    }

    /// Runs until so many requests have completed.
    fn drain(&mut self, completed: u64) {
        while self.completed < completed {
            let event = self.queue.pop_front().expect("something is under way");
            let start = Instant::now();
            self.store.step(Duration::ZERO, event, &mut self.effects);
            self.in_machine += start.elapsed();
            let mut effects = std::mem::take(&mut self.effects);
            effects.drain(..).for_each(|effect| self.perform(effect));
            self.effects = effects;
        }
    }

    fn perform(&mut self, effect: Effect) {
        let result = Ok(());
        let event = match effect {
            Effect::Write { io, data, .. } => {
                self.device_bytes += match data {
                    Data::Bytes(bytes) => bytes.len(),
                    Data::Payload(slice) => slice.blocks as usize * BLOCK_BYTES,
                    Data::Frame { header, payloads } => {
                        let blocks: u32 = payloads.iter().map(|slice| slice.blocks).sum();
                        header.len() + blocks as usize * BLOCK_BYTES
                    }
                } as u64;
                Event::WriteDone { io, result }
            }
            Effect::Copy { io, sources, .. } => {
                self.device_bytes += (sources.len() * BLOCK_BYTES) as u64;
                Event::CopyDone { io, result: Ok(()) }
            }
            Effect::Sync { io } => Event::SyncDone { io, result },
            Effect::Complete { result, .. } => {
                assert_eq!(result, Ok(()));
                self.completed += 1;
                return;
            }
            Effect::Release { .. } => return,
            Effect::Appended { .. }
            | Effect::Durable { .. }
            | Effect::Lost { .. }
            | Effect::Failed { .. } => panic!("{effect:?}"),
        };
        self.queue.push_back(event);
    }

    /// Writes at the depth; gives device bytes per user byte and machine time per write.
    fn run(&mut self, writes: u64, blocks: u32, mut place: impl FnMut() -> u64) -> (f64, f64) {
        let (before, device, time) = (self.completed, self.device_bytes, self.in_machine);
        for number in 0..writes {
            let range = BlockRange {
                first: Block(place()),
                count: blocks,
            };
            let small = u32::try_from(number).expect("few writes");
            self.queue.push_back(Event::Write {
                tag: Tag(number),
                volume: VOLUME,
                range,
                checksums: vec![small; blocks as usize],
                payload: PayloadId(small),
            });
            self.drain((before + number + 1).saturating_sub(DEPTH as u64));
        }
        self.drain(before + writes);
        self.queue.push_back(Event::Checkpoint { tag: Tag(0) });
        self.drain(before + writes + 1);
        let user = writes * u64::from(blocks) * BLOCK_BYTES as u64;
        let ratio = (self.device_bytes - device) as f64 / user as f64;
        let micros = (self.in_machine - time).as_secs_f64() * 1e6 / writes as f64;
        (ratio, micros)
    }
}

#[test]
fn small_random_writes_cost_two_device_bytes_each() {
    let mut bench = Bench::new();
    let mut rng = fastrand::Rng::with_seed(1);
    let blocks = VOLUME_BYTES / BLOCK_BYTES as u64;
    let (first, micros_first) = bench.run(40_000, 1, || rng.u64(..blocks));
    let (ratio, micros) = bench.run(60_000, 1, || rng.u64(..blocks));
    println!(
        "4 KiB random, depth 32, fresh volume: {first:.3} device bytes per byte, {micros_first:.2} us"
    );
    println!(
        "4 KiB random, depth 32: {ratio:.3} device bytes per byte, {micros:.2} us of machine CPU"
    );
    assert!(ratio <= 2.1, "{ratio}");
}

#[test]
fn aligned_chunks_cost_one_device_byte_each() {
    let mut bench = Bench::new();
    let chunks = VOLUME_BYTES >> 16;
    let mut next = 0;
    let (ratio, micros) = bench.run(6_000, 16, || {
        next += 1;
        next % chunks * 16
    });
    println!("64 KiB, depth 32: {ratio:.3} device bytes per byte, {micros:.2} us of machine CPU");
    assert!(ratio <= 1.1, "{ratio}");
}
