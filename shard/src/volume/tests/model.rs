//! Random commands against a plain array, with and without cache, and once more after reopening.

use super::{Rig, range};
use crate::runtime::testing::run;
use holdfast_iscsi::request::{BlockRequest, BlockResponse};
use std::rc::Rc;

const BYTES: u64 = 2 << 20;
const SECTOR: u64 = 512;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a small volume")
}

/// One random command on both; the answers and the bytes agree.
async fn step(rig: &Rig, model: &mut [u8], random: &mut Random) {
    let sectors = [1, 2, 7, 8, 16, 40, 300][at(random.below(7))];
    let unit = if random.below(2) == 0 { 8 } else { 1 };
    let slots = (BYTES / SECTOR - sectors) / unit;
    let offset = random.below(slots) * unit * SECTOR;
    let bytes = sectors * SECTOR;
    let area = range(offset, bytes);
    let fill = u8::try_from(random.below(255) + 1).expect("a byte");
    let data: Vec<u8> = (0..bytes)
        .map(|i| fill.wrapping_add(u8::try_from(i / SECTOR % 256).expect("a byte")))
        .collect();
    let old = &mut model[at(offset)..at(offset + bytes)];
    let kind = random.below(9);
    let (request, task) = match kind {
        0 | 1 => {
            old.copy_from_slice(&data);
            (BlockRequest::Write(area), data)
        }
        2 => {
            old.fill(fill);
            (BlockRequest::WriteSame(area), vec![fill; at(SECTOR)])
        }
        3 => {
            old.fill(0);
            (BlockRequest::Unmap(vec![area]), Vec::new())
        }
        4 => {
            old.fill(0);
            (BlockRequest::WriteZeros(area), Vec::new())
        }
        5 if bytes <= 64 << 10 => {
            let mut both = old.to_vec();
            both.extend_from_slice(&data);
            old.copy_from_slice(&data);
            (BlockRequest::CompareAndWrite(area), both)
        }
        6 => (BlockRequest::Compare(area), old.to_vec()),
        7 => {
            for (byte, given) in old.iter_mut().zip(&data) {
                *byte |= given;
            }
            (BlockRequest::OrWrite(area), data)
        }
        _ => {
            let read = rig.read(offset, bytes).await.expect("readable");
            assert!(read == *old, "read at {offset}+{bytes}");
            return;
        }
    };
    let executed = rig.execute(request, &task).await;
    assert_eq!(
        executed.response,
        BlockResponse::Done,
        "kind {kind} at {offset}+{bytes}"
    );
}

async fn agree(rig: &Rig, model: &[u8]) {
    let all = rig.read(0, BYTES).await.expect("readable");
    let difference = all.iter().zip(model).position(|(a, b)| a != b);
    assert_eq!(difference, None);
}

#[test]
fn random_commands_do_what_they_would_to_an_array() {
    run(|| async {
        let fresh = Rig::format(64 << 20, BYTES).await;
        let mut model = vec![0; at(BYTES)];
        let mut random = Random(42);
        let mut disk = fresh.disk;
        for (cache_bytes, round) in [(0, 0), (1 << 20, 1), (256 << 10, 2)] {
            let rig = Rig::open(disk.clone(), cache_bytes).await;
            agree(&rig, &model).await;
            for _ in 0..400 {
                step(&rig, &mut model, &mut random).await;
            }
            agree(&rig, &model).await;
            if round == 1 {
                rig.checkpoint().await;
                agree(&rig, &model).await;
            }
            rig.driver.settled().await;
            disk = rig.disk;
        }
    });
}

#[test]
fn sectors_of_one_block_written_at_the_same_time_all_survive() {
    run(|| async {
        let rig = Rc::new(Rig::format(64 << 20, BYTES).await);
        let slots = crate::runtime::slots::Slots::new(16);
        for sector in 0..64_u64 {
            let rig = Rc::clone(&rig);
            slots.run(async move {
                let byte = u8::try_from(sector + 1).expect("a byte");
                let response = rig.write(sector * SECTOR, &[byte; 512]).await;
                assert_eq!(response, BlockResponse::Done);
            });
        }
        slots.drained().await;
        let all = rig.read(0, 64 * SECTOR).await.expect("readable");
        for (sector, bytes) in all.chunks_exact(512).enumerate() {
            assert!(bytes.iter().all(|&byte| usize::from(byte) == sector + 1));
        }
    });
}

#[test]
fn compares_tell_the_first_different_byte() {
    run(|| async {
        let rig = Rig::format(64 << 20, BYTES).await;
        assert_eq!(rig.write(512, &[1; 8192]).await, BlockResponse::Done);
        let mut wanted = vec![1; 8192];
        wanted[5000] = 2;
        let miscompare = BlockResponse::Miscompare { offset: 5000 };
        let area = range(512, 8192);
        let executed = rig.execute(BlockRequest::Compare(area), &wanted).await;
        assert_eq!(executed.response, miscompare);
        let both = [wanted, vec![3; 8192]].concat();
        let executed = rig
            .execute(BlockRequest::CompareAndWrite(area), &both)
            .await;
        assert_eq!(executed.response, miscompare);
        assert!(
            rig.read(512, 8192)
                .await
                .expect("readable")
                .iter()
                .all(|&byte| byte == 1)
        );
    });
}
