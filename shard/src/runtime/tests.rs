//! The facade against the real kernel: files, jobs, sockets.

use super::buffer::Buffer;
use super::executor::polled_reads;
use super::file::{File, WriteMode};
use super::slots::Slots;
use super::socket::{listen, local_address};
use super::testing::run;
use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;

#[test]
fn what_was_written_and_synced_is_read_back() {
    let mut path = std::env::current_exe().expect("tests have a path");
    path.set_file_name(format!("holdfast-runtime-test-{}", std::process::id()));
    let mut file = std::fs::File::create(&path).expect("the target directory is writable");
    file.write_all(&vec![1; 64 << 10])
        .expect("space for 64 KiB");
    drop(file);
    let target = path.clone();
    run(move || async move {
        for mode in [WriteMode::Plain, WriteMode::Durable] {
            let file = File::open(&target, mode).await.expect("opens");
            let mut buffer = Buffer::zeroed(8192);
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.bytes_mut().fill(7);
            assert_eq!(file.write(4096, &buffer).await.expect("writes"), 8192);
            file.sync().await.expect("syncs");
            let read = file.read(0, 16384).await.expect("reads");
            assert!(read[..4096].iter().all(|&byte| byte == 1));
            assert!(read[4096..12288].iter().all(|&byte| byte == 7));
            assert_eq!(file.read(60 << 10, 8192).await.expect("reads").len(), 4096);
        }
        assert_eq!(polled_reads(), 0);
    });
    std::fs::remove_file(path).expect("it was made above");
}

#[test]
fn slots_run_every_job_and_no_more_at_once_than_they_have() {
    run(|| async {
        let slots = Slots::new(3);
        let (running, most, ended) = (
            Rc::new(Cell::new(0)),
            Rc::new(Cell::new(0)),
            Rc::new(Cell::new(0)),
        );
        for _ in 0..100 {
            let (running, most, ended) = (Rc::clone(&running), Rc::clone(&most), Rc::clone(&ended));
            slots.run(async move {
                running.set(running.get() + 1);
                most.set(most.get().max(running.get()));
                futures_lite::future::yield_now().await;
                running.set(running.get() - 1);
                ended.set(ended.get() + 1);
            });
        }
        slots.drained().await;
        assert_eq!((running.get(), most.get(), ended.get()), (0, 3, 100));
    });
}

#[test]
fn concatenated_buffers_hold_the_parts_in_order() {
    run(|| async {
        let buffer = Buffer::concat(&[&[1; 4096], &[2; 8192], &[3; 4096]]);
        assert_eq!(
            (buffer.len(), buffer[4095], buffer[4096], buffer[12288]),
            (16384, 1, 2, 3)
        );
    });
}

#[test]
fn both_address_families_are_listened_on_side_by_side() {
    let first = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = local_address(&first).expect("bound");
    let second = listen(
        format!("[::1]:{}", address.port())
            .parse()
            .expect("an address"),
    );
    // A machine without IPv6 refuses the family, not the port.
    if let Err(error) = second {
        assert_ne!(error.kind(), std::io::ErrorKind::AddrInUse);
    }
}
