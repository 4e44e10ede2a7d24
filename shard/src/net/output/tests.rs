//! PDUs over a socket pair: the bytes on the wire, whatever the reader's pace.

use super::{Data, Output, write};
use crate::limits::QUEUED_BYTES_MAX;
use crate::runtime::buffer::ReadBytes;
use crate::runtime::socket::split;
use crate::runtime::task;
use crate::runtime::testing::run;
use crate::volume::rope::{Rope, Source};
use holdfast_core::checksum::crc32c;
use holdfast_iscsi::framing::Digests;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;

const PDUS: usize = 64;
const DATA_BYTES: usize = 300_001;

fn header(index: usize) -> [u8; 48] {
    [u8::try_from(index).expect("few PDUs"); 48]
}

fn payload() -> Vec<u8> {
    (0..DATA_BYTES)
        .map(|at| u8::try_from(at % 251).expect("below 251"))
        .collect()
}

#[test]
fn a_slow_reader_gets_every_byte_in_order_with_digests_and_padding() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut host = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let (ours, _) = listener.accept().expect("accepts");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        host.read_to_end(&mut all).expect("reads to the end");
        all
    });
    run(move || async move {
        let (_reader, writer, ender) = split(ours.into()).expect("descriptors");
        let output = Rc::new(Output::default());
        task::spawn(write(Rc::clone(&output), writer, Rc::new(ender)));
        let mut rope = Rope::default();
        let data = ReadBytes::Memory(payload().into());
        rope.push(Source::Read(data), 0, DATA_BYTES);
        let digests = Digests {
            header: true,
            data: true,
        };
        for index in 0..PDUS {
            output.push(
                &header(index),
                Data::Rope(&rope, 1, DATA_BYTES - 1),
                digests,
            );
            output.push(&header(index), Data::Bytes(vec![9; 5]), Digests::default());
            while output.queued() > QUEUED_BYTES_MAX {
                output.drained.rung().await;
            }
        }
        output.end();
        output.flushed().await;
    });
    let mut expected = Vec::new();
    for index in 0..PDUS {
        let mut data = payload()[1..].to_vec();
        data.resize(data.len().next_multiple_of(4), 0);
        expected.extend_from_slice(&header(index));
        expected.extend_from_slice(&crc32c(&header(index)).to_le_bytes());
        expected.extend_from_slice(&data);
        expected.extend_from_slice(&crc32c(&data).to_le_bytes());
        expected.extend_from_slice(&header(index));
        expected.extend_from_slice(&[9, 9, 9, 9, 9, 0, 0, 0]);
    }
    let received = reader.join().expect("the reader ends");
    assert_eq!(received.len(), expected.len());
    assert!(received == expected);
}
