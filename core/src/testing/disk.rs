//! A disk with a volatile cache. Writes that were asked for and not synced may be there after a
//! crash, or not, or in part.

use crate::block::StoreOffset;
use crate::limits::BLOCK_BYTES;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use fastrand::Rng;

/// The bytes of one block.
pub type BlockBytes = [u8; BLOCK_BYTES];

/// The smallest unit that a disk writes as a whole.
const SECTOR_BYTES: usize = 512;

/// A disk image; blocks are shared between clones, so that images are cheap.
#[derive(Clone, Debug)]
pub struct Image {
    blocks: Vec<Option<Rc<BlockBytes>>>,
}

/// One write, whole blocks.
#[derive(Clone, Debug)]
pub struct Write {
    first: usize,
    blocks: Vec<Rc<BlockBytes>>,
    durable: bool,
}

/// How the last write of a crash image is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// Not at all.
    Whole,
    /// Some sectors are old, the others as written.
    Sectors,
    /// Some blocks are old, the others as written.
    Blocks,
    /// The first part is as written, the rest is garbage.
    Garbage,
}

/// The disk that a driver uses.
#[derive(Debug)]
pub struct Disk {
    /// What reads see: everything completed.
    current: Image,
    /// What a sync has covered.
    durable: Image,
    /// Asked for since, in this order; true when completed.
    pending: Vec<(u64, Write, bool)>,
    next: u64,
    /// A completed write is durable.
    write_through: bool,
    /// Blocks written, and syncs done, since it was made.
    pub blocks_written: u64,
    /// Syncs done.
    pub syncs: u64,
}

impl Image {
    /// Zeros.
    pub fn zeros(bytes: u64) -> Self {
        let count = usize::try_from(bytes).expect("test disks are small") / BLOCK_BYTES;
        Image {
            blocks: vec![None; count],
        }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK_BYTES) as u64
    }

    /// Copies out.
    pub fn read(&self, offset: StoreOffset, bytes: usize) -> Vec<u8> {
        let first = index(offset);
        let mut out = vec![0; bytes];
        let blocks = &self.blocks[first..first + bytes / BLOCK_BYTES];
        for (to, block) in out.chunks_exact_mut(BLOCK_BYTES).zip(blocks) {
            if let Some(block) = block {
                to.copy_from_slice(block.as_slice());
            }
        }
        out
    }

    /// One block, when it is not zeros for ever.
    pub fn block(&self, offset: StoreOffset) -> Option<&Rc<BlockBytes>> {
        self.blocks[index(offset)].as_ref()
    }

    /// Flips one bit.
    pub fn flip(&mut self, offset: StoreOffset, bit: usize) {
        let place = &mut self.blocks[index(offset)];
        let mut block = place.as_deref().copied().unwrap_or([0; BLOCK_BYTES]);
        block[bit / 8 % BLOCK_BYTES] ^= 1 << (bit % 8);
        *place = Some(Rc::new(block));
    }

    /// Overwrites.
    pub fn apply(&mut self, write: &Write) {
        for (block, to) in write.blocks.iter().zip(&mut self.blocks[write.first..]) {
            *to = Some(block.clone());
        }
    }

    /// Overwrites in part.
    pub fn apply_torn(&mut self, write: &Write, torn: Torn, rng: &mut Rng) {
        let good = rng.usize(..=write.blocks.len());
        for (at, block) in write.blocks.iter().enumerate() {
            let to = &mut self.blocks[write.first + at];
            let mut bytes = to.as_deref().copied().unwrap_or([0; BLOCK_BYTES]);
            match torn {
                Torn::Whole => bytes = **block,
                Torn::Blocks if rng.bool() => bytes = **block,
                Torn::Blocks => {}
                Torn::Sectors => {
                    for sector in 0..BLOCK_BYTES / SECTOR_BYTES {
                        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                        if rng.bool() {
                            bytes[range.clone()].copy_from_slice(&block[range]);
                        }
                    }
                }
                Torn::Garbage if at < good => bytes = **block,
                Torn::Garbage => {
                    let cut = rng.usize(..BLOCK_BYTES / SECTOR_BYTES) * SECTOR_BYTES;
                    bytes = **block;
                    bytes[cut..].fill_with(|| rng.u8(..));
                }
            }
            *to = Some(Rc::new(bytes));
        }
    }
}

impl Write {
    /// Durable when it is done.
    pub fn durably(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Cuts `bytes` into blocks.
    pub fn of_bytes(offset: StoreOffset, bytes: &[u8]) -> Self {
        let block = |bytes: &[u8]| Rc::new(bytes.try_into().expect("whole blocks"));
        Write {
            first: index(offset),
            blocks: bytes.chunks_exact(BLOCK_BYTES).map(block).collect(),
            durable: false,
        }
    }

    /// Blocks that exist already.
    pub fn of_blocks(offset: StoreOffset, blocks: Vec<Rc<BlockBytes>>) -> Self {
        Write {
            first: index(offset),
            blocks,
            durable: false,
        }
    }

    /// Puts more blocks behind.
    pub fn extend(&mut self, blocks: &[Rc<BlockBytes>]) {
        self.blocks.extend_from_slice(blocks);
    }
}

impl Disk {
    /// A disk that holds `image`, all of it durable.
    pub fn new(image: Image, write_through: bool) -> Self {
        Disk {
            current: image.clone(),
            durable: image,
            pending: Vec::new(),
            next: 0,
            write_through,
            blocks_written: 0,
            syncs: 0,
        }
    }

    /// Whether completed writes are durable.
    pub fn is_write_through(&self) -> bool {
        self.write_through
    }

    /// What reads see.
    pub fn current(&self) -> &Image {
        &self.current
    }

    /// What reads see, to be damaged.
    pub fn current_mut(&mut self) -> &mut Image {
        &mut self.current
    }

    /// A write begins; it may reach the disk from now on.
    pub fn begin(&mut self, write: Write) -> u64 {
        self.blocks_written += write.blocks.len() as u64;
        self.next += 1;
        self.pending.push((self.next, write, false));
        self.next
    }

    /// That write is done: reads see it.
    pub fn complete(&mut self, id: u64) {
        let pending = self.pending.iter_mut().find(|(other, ..)| *other == id);
        let (_, write, done) = pending.expect("a write that was begun");
        *done = true;
        self.current.apply(write);
        if self.write_through || write.durable {
            self.durable.apply(write);
            self.pending.retain(|(other, ..)| *other != id);
        }
    }

    /// The writes that are done now; a sync that begins now covers them.
    pub fn completed(&self) -> Vec<u64> {
        let done = self.pending.iter().filter(|(.., done)| *done);
        done.map(|(id, ..)| *id).collect()
    }

    /// A sync that covers these is done.
    pub fn sync(&mut self, covered: &[u64]) {
        self.syncs += 1;
        let durable = &mut self.durable;
        self.pending.retain(|(id, write, _)| {
            let covers = covered.contains(id);
            if covers {
                durable.apply(write);
            }
            !covers
        });
    }

    /// Writes that a crash now may lose.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The image after a crash now that kept the pending writes for which `keep` holds, and damaged
    /// the last of them.
    pub fn crash(&self, keep: impl Fn(usize) -> bool, torn: Torn, rng: &mut Rng) -> Image {
        let mut image = self.durable.clone();
        let last = (0..self.pending.len()).rev().find(|at| keep(*at));
        for (at, (_, write, _)) in self.pending.iter().enumerate() {
            if !keep(at) {
                continue;
            }
            if Some(at) == last {
                image.apply_torn(write, torn, rng);
            } else {
                image.apply(write);
            }
        }
        image
    }
}

fn index(offset: StoreOffset) -> usize {
    let bytes = usize::try_from(offset.0).expect("test disks are small");
    assert!(bytes.is_multiple_of(BLOCK_BYTES));
    bytes / BLOCK_BYTES
}
