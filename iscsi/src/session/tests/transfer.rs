//! Data in both directions: bursts, what breaks them, residuals.

use super::{
    Arrival, CloseReason, DATA_OUT_TIME_MAX, DataIn, DataOut, Duration, Lab, RESERVED_TAG,
    ReadyToTransfer, Received, Residual, ScsiCommand, Vec, lab, opcode, pdu, read, response, vec,
    write,
};

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

fn data_out(tag: u32, transfer_tag: u32, data_sn: u32, offset: u32) -> DataOut {
    DataOut {
        is_final: false,
        lun: [0; 8],
        initiator_task_tag: tag,
        target_transfer_tag: transfer_tag,
        exp_stat_sn: 0,
        data_sn,
        buffer_offset: offset,
    }
}

fn asked(received: &Received) -> ReadyToTransfer {
    assert_eq!(pdu::opcode_of(&received.header), opcode::R2T);
    ReadyToTransfer::decode(&received.header)
}

/// Sends one burst in PDUs of at most 512 bytes.
fn burst(lab: &mut Lab, host: usize, r2t: ReadyToTransfer, data: &[u8]) {
    let start = r2t.buffer_offset;
    let wanted = &data[start as usize..(start + r2t.desired_bytes) as usize];
    for (at, piece) in (0..).zip(wanted.chunks(512)) {
        let mut pdu = data_out(
            r2t.initiator_task_tag,
            r2t.target_transfer_tag,
            at,
            start + at * 512,
        );
        pdu.is_final = (at as usize + 1) * 512 >= wanted.len();
        lab.give(host, pdu.encode(), piece);
    }
}

#[test]
fn a_write_takes_immediate_data_and_asks_for_the_rest() {
    for (outstanding, at_once) in [(1, 1), (2, 2), (16, 3)] {
        let mut lab = lab();
        let host = lab.ready(&alloc::format!(
            "MaxOutstandingR2T={outstanding}\0MaxBurstLength=1024\0FirstBurstLength=512\0"
        ));
        let data = pattern(512 + 3 * 1024);
        lab.command(host, write(8, 7), &data[..512]);
        let mut bursts: Vec<ReadyToTransfer> = lab.take(host).iter().map(asked).collect();
        assert_eq!(bursts.len(), at_once);
        for turn in 0..3 {
            let r2t = bursts[turn];
            assert_eq!(
                (r2t.r2t_sn as usize, r2t.buffer_offset as usize),
                (turn, 512 + turn * 1024)
            );
            burst(&mut lab, host, r2t, &data);
            let received = lab.take(host);
            if turn < 2 {
                bursts.extend(received.iter().map(asked));
            } else {
                assert_eq!(response(&received[0]).status, 0);
                assert_eq!(response(&received[0]).exp_data_sn, 3);
            }
        }
        assert_eq!(lab.bytes()[8 * 512..15 * 512], data);
    }
}

#[test]
fn unsolicited_data_is_taken_up_to_the_first_burst() {
    let mut lab = lab();
    let host = lab.ready("InitialR2T=No\0FirstBurstLength=1024\0");
    let data = pattern(1536);
    let tag = lab.command(
        host,
        ScsiCommand {
            is_final: false,
            ..write(0, 3)
        },
        &data[..512],
    );
    assert!(lab.take(host).is_empty());
    let mut unsolicited = data_out(tag, RESERVED_TAG, 0, 512);
    unsolicited.is_final = true;
    lab.give(host, unsolicited.encode(), &data[512..1024]);
    let r2t = asked(&lab.take_one(host));
    assert_eq!((r2t.buffer_offset, r2t.desired_bytes), (1024, 512));
    burst(&mut lab, host, r2t, &data);
    assert_eq!(response(&lab.take_one(host)).status, 0);
    assert_eq!(lab.bytes()[..1536], data);
}

#[test]
fn data_that_nobody_asked_for_is_not_written() {
    // Keys, F bit of the command, bytes of immediate data.
    for (keys, is_final, bytes) in [
        ("ImmediateData=No\0", true, 512),
        ("InitialR2T=Yes\0", false, 0),
        ("FirstBurstLength=512\0", true, 1024),
    ] {
        let mut lab = lab();
        let host = lab.ready(keys);
        let tag = lab.command(
            host,
            ScsiCommand {
                is_final,
                ..write(0, 2)
            },
            &vec![7; bytes],
        );
        if !is_final {
            let mut rest = data_out(tag, RESERVED_TAG, 0, 0);
            rest.is_final = true;
            lab.give(host, rest.encode(), &[7; 512]);
        }
        let received = lab.take_one(host);
        assert_eq!(
            (response(&received).status, received.data[4] & 0xF),
            (2, 0xB),
            "{keys:?}"
        );
        assert_eq!(lab.bytes()[0], 0);
    }
}

#[test]
fn data_out_of_order_ends_the_command_and_is_not_written() {
    // What is wrong: DataSN, offset, length, F bit.
    for (what, data_sn, offset, bytes, is_final) in [
        ("DataSN", 1, 0, 1024, true),
        ("offset", 0, 512, 512, true),
        ("too long", 0, 0, 1536, true),
        ("too short", 0, 0, 512, true),
    ] {
        let mut lab = lab();
        let host = lab.ready("ImmediateData=No\0");
        let tag = lab.command(host, write(0, 2), &[]);
        let r2t = asked(&lab.take_one(host));
        let mut piece = data_out(tag, r2t.target_transfer_tag, data_sn, offset);
        piece.is_final = is_final;
        lab.give(host, piece.encode(), &vec![7; bytes]);
        let received = lab.take_one(host);
        assert_eq!(response(&received).status, 2, "{what}");
        assert_eq!(lab.bytes()[..1024], [0; 1024], "{what}");
        lab.give(host, piece.encode(), &vec![7; bytes]);
        assert!(lab.take(host).is_empty(), "late data is thrown away");
    }
}

#[test]
fn damaged_data_ends_the_command() {
    let mut lab = lab();
    let host = lab.ready("ImmediateData=No\0DataDigest=CRC32C\0");
    let tag = lab.command(host, write(0, 1), &[]);
    let r2t = asked(&lab.take_one(host));
    let mut piece = data_out(tag, r2t.target_transfer_tag, 0, 0);
    piece.is_final = true;
    lab.give_as(host, piece.encode(), &[7; 512], Arrival::DigestError);
    let received = lab.take(host);
    assert_eq!(pdu::opcode_of(&received[0].header), opcode::REJECT);
    assert_eq!(
        (response(&received[1]).status, received[1].data[14]),
        (2, 0x47)
    );
    assert_eq!(lab.bytes()[0], 0);
}

#[test]
fn data_that_never_comes_ends_the_connection() {
    let mut lab = lab();
    let host = lab.ready("ImmediateData=No\0");
    lab.command(host, write(0, 2), &[]);
    lab.take(host);
    for _ in 0..DATA_OUT_TIME_MAX.as_secs() + 2 {
        lab.wait(Duration::from_secs(1));
        lab.give(host, super::nop(5, 0).encode(), &[]);
    }
    assert_eq!(
        lab.host(host).closed,
        Some(CloseReason::Timeout("data of a write"))
    );
    assert!(lab.is_over(host));
}

#[test]
fn data_in_is_cut_to_what_the_host_takes() {
    let mut lab = lab();
    let host = lab.ready("MaxRecvDataSegmentLength=512\0MaxBurstLength=1024\0");
    let data = pattern(2560);
    lab.bytes()[..2560].copy_from_slice(&data);
    lab.command(host, read(0, 5), &[]);
    let received = lab.take(host);
    assert_eq!(received.len(), 5);
    let mut bytes = Vec::new();
    for (at, piece) in (0..).zip(&received) {
        let data_in = DataIn::decode(&piece.header);
        assert_eq!((data_in.data_sn, data_in.buffer_offset), (at, at * 512));
        assert_eq!(data_in.is_final, at % 2 == 1 || at == 4);
        assert_eq!(data_in.status, (at == 4).then_some((0, Residual::None)));
        bytes.extend_from_slice(&piece.data);
    }
    assert_eq!(bytes, data);
}

#[test]
fn residuals_are_exact() {
    // Direction bits, bytes expected by the host, blocks of the READ, residual, bytes sent.
    for (is_read, is_write, expected, residual, sent) in [
        (true, false, 1024, Residual::None, 1024),
        (true, false, 4096, Residual::Underflow(3072), 1024),
        (true, false, 512, Residual::Overflow(512), 512),
        (true, false, 0, Residual::Overflow(1024), 0),
        (false, false, 0, Residual::Overflow(1024), 0),
        (false, true, 1024, Residual::Underflow(1024), 0),
    ] {
        let mut lab = lab();
        let host = lab.ready("");
        let command = ScsiCommand {
            read: is_read,
            write: is_write,
            expected_bytes: expected,
            ..read(0, 2)
        };
        lab.command(host, command, &[]);
        let received = lab.take_one(host);
        assert_eq!(received.data.len(), sent);
        let found = match DataIn::decode(&received.header).status {
            Some((_, residual)) if sent > 0 => residual,
            _ => response(&received).residual,
        };
        assert_eq!(found, residual, "{command:?}");
    }
}

#[test]
fn a_write_takes_no_more_than_its_command_says() {
    let mut lab = lab();
    let host = lab.ready("");
    let command = ScsiCommand {
        expected_bytes: 2048,
        ..write(0, 2)
    };
    lab.command(host, command, &[9; 2048]);
    let answer = response(&lab.take_one(host));
    assert_eq!(
        (answer.status, answer.residual),
        (0, Residual::Underflow(1024))
    );
    assert_eq!(lab.bytes()[1023..1025], [9, 0]);
}

#[test]
fn a_command_that_moves_data_both_ways_is_refused() {
    let mut lab = lab();
    let host = lab.ready("");
    let command = ScsiCommand {
        read: true,
        ..write(0, 1)
    };
    lab.command(host, command, &[9; 512]);
    assert_eq!(response(&lab.take_one(host)).status, 2);
    assert_eq!(lab.bytes()[0], 0);
}
