//! Full feature phase as a host sees it: the window, task management, keepalive, logout, refusals.

use crate::access::Access;
use crate::connection::Arrival;
use crate::effect::CloseReason;
use crate::limits::{
    COMMAND_WINDOW, DATA_OUT_TIME_MAX, KEEPALIVE_AFTER, KEEPALIVE_TIME_MAX, LOGOUT_TIME_MAX,
};
use crate::pdu::async_message::AsyncMessage;
use crate::pdu::data::{DataIn, DataOut, ReadyToTransfer};
use crate::pdu::logout::{LogoutRequest, LogoutResponse};
use crate::pdu::nop::{NopIn, NopOut};
use crate::pdu::reject::Reject;
use crate::pdu::scsi::{Attribute, Residual, ScsiCommand, ScsiResponse};
use crate::pdu::task_management::{Function, TaskManagementRequest, TaskManagementResponse};
use crate::pdu::{self, Header, Numbers, RESERVED_TAG, opcode};
use crate::testing::lab::{Disk, Lab, Received, command, read, write};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

mod text;
mod transfer;

fn lab() -> Lab {
    Lab::new(Access::default())
}

fn response(received: &Received) -> ScsiResponse {
    assert_eq!(pdu::opcode_of(&received.header), opcode::SCSI_RESPONSE);
    ScsiResponse::decode(&received.header).unwrap()
}

fn nop(tag: u32, cmd_sn: u32) -> NopOut {
    NopOut {
        immediate: true,
        lun: [0; 8],
        initiator_task_tag: tag,
        target_transfer_tag: RESERVED_TAG,
        cmd_sn,
        exp_stat_sn: 0,
    }
}

/// Sends a task management function as an immediate request.
fn manage(lab: &mut Lab, host: usize, function: u8, referenced: u32) -> u32 {
    let tag = lab.host(host).next_tag();
    let request = TaskManagementRequest {
        immediate: true,
        function,
        lun: [0; 8],
        initiator_task_tag: tag,
        referenced_task_tag: referenced,
        cmd_sn: lab.host(host).cmd_sn,
        exp_stat_sn: 0,
        ref_cmd_sn: 0,
    };
    lab.give(host, request.encode(), &[]);
    tag
}

fn managed(received: &Received) -> (u32, u8) {
    assert_eq!(
        pdu::opcode_of(&received.header),
        opcode::TASK_MANAGEMENT_RESPONSE
    );
    let response = TaskManagementResponse::decode(&received.header);
    (response.initiator_task_tag, response.response)
}

#[test]
fn commands_outside_the_window_are_ignored() {
    let mut lab = lab();
    let host = lab.ready("");
    let right = lab.host(host).cmd_sn;
    for cmd_sn in [
        right.wrapping_sub(1),
        right + COMMAND_WINDOW,
        right.wrapping_sub(1000),
    ] {
        lab.host(host).cmd_sn = cmd_sn;
        lab.command(host, read(0, 1), &[]);
        assert!(lab.take(host).is_empty());
    }
    lab.host(host).cmd_sn = right;
    lab.command(host, read(0, 1), &[]);
    assert_eq!(lab.take(host).len(), 1);
    assert_eq!(lab.host(host).closed, None);
}

#[test]
fn commands_that_come_early_wait_for_the_missing_one() {
    let mut lab = lab();
    let host = lab.ready("");
    let first = lab.host(host).cmd_sn;
    lab.host(host).cmd_sn = first + 1;
    let late = lab.command(host, read(0, 1), &[]);
    assert!(lab.take(host).is_empty());
    lab.host(host).cmd_sn = first;
    let early = lab.command(host, read(0, 1), &[]);
    let tags: Vec<u32> = lab
        .take(host)
        .iter()
        .map(|received| pdu::initiator_task_tag(&received.header))
        .collect();
    assert_eq!(tags, [early, late]);
    lab.host(host).cmd_sn = first + 5;
    lab.command(host, read(0, 1), &[]);
    for _ in 0..DATA_OUT_TIME_MAX.as_secs() + 2 {
        lab.wait(Duration::from_secs(1));
        lab.give(host, nop(5, 0).encode(), &[]);
    }
    assert_eq!(
        lab.host(host).closed,
        Some(CloseReason::Timeout("a missing CmdSN"))
    );
}

#[test]
fn the_window_is_deep_and_moves_with_completions() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.disk = Disk::Held;
    for _ in 0..COMMAND_WINDOW {
        lab.command(host, read(0, 1), &[]);
    }
    assert_eq!(lab.held(host), 256);
    lab.command(host, read(0, 1), &[]);
    assert_eq!(lab.held(host), 256);
    lab.complete(host);
    let received = lab.take_one(host);
    let numbers = Numbers::decode(&received.header);
    assert_eq!(numbers.max_cmd_sn, numbers.exp_cmd_sn);
}

#[test]
fn commands_complete_out_of_order_unless_they_are_ordered() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.disk = Disk::Held;
    let first = lab.command(host, read(0, 1), &[]);
    let ordered = ScsiCommand {
        attribute: Attribute::Ordered,
        ..read(0, 1)
    };
    let second = lab.command(host, ordered, &[]);
    let third = lab.command(host, read(0, 1), &[]);
    let urgent = ScsiCommand {
        attribute: Attribute::HeadOfQueue,
        ..read(0, 1)
    };
    let fourth = lab.command(host, urgent, &[]);
    let mut order = Vec::new();
    assert_eq!(lab.held(host), 2);
    while lab.held(host) > 0 {
        lab.complete(host);
        order.push(pdu::initiator_task_tag(&lab.take_one(host).header));
    }
    assert_eq!(order, [first, fourth, second, third]);
}

#[test]
fn an_aborted_task_is_over_before_the_function_is_answered() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.disk = Disk::Held;
    let task = lab.command(host, read(0, 1), &[]);
    let function = manage(&mut lab, host, Function::AbortTask as u8, task);
    assert!(lab.take(host).is_empty());
    lab.complete(host);
    assert_eq!(managed(&lab.take_one(host)), (function, 0));
    let function = manage(&mut lab, host, Function::AbortTask as u8, task);
    assert_eq!(managed(&lab.take_one(host)), (function, 1));
}

#[test]
fn functions_that_do_not_exist_are_refused() {
    let mut lab = lab();
    let host = lab.ready("");
    for (function, response) in [
        (3, 5),
        (8, 4),
        (9, 5),
        (0, 5),
        (2, 0),
        (4, 0),
        (5, 0),
        (6, 0),
    ] {
        manage(&mut lab, host, function, 0);
        assert_eq!(managed(&lab.take_one(host)).1, response, "{function}");
    }
    let request = TaskManagementRequest {
        immediate: true,
        function: 5,
        lun: [0, 1, 0, 0, 0, 0, 0, 0],
        initiator_task_tag: 77,
        referenced_task_tag: RESERVED_TAG,
        cmd_sn: 0,
        exp_stat_sn: 0,
        ref_cmd_sn: 0,
    };
    lab.give(host, request.encode(), &[]);
    assert_eq!(managed(&lab.take_one(host)), (77, 2));
}

#[test]
fn a_reset_waits_for_the_tasks_of_all_sessions() {
    for (function, sense) in [
        (Function::LogicalUnitReset, 0x29),
        (Function::ClearTaskSet, 0x2F),
    ] {
        let mut lab = lab();
        let one = lab.ready("");
        let other = lab.ready("");
        lab.disk = Disk::Held;
        lab.command(one, read(0, 1), &[]);
        lab.command(other, read(0, 1), &[]);
        manage(&mut lab, one, function as u8, RESERVED_TAG);
        lab.complete(one);
        assert!(lab.take(one).is_empty());
        lab.complete(other);
        assert_eq!(managed(&lab.take_one(one)).1, 0);
        assert!(lab.take(other).is_empty());
        lab.command(other, command([0; 16]), &[]);
        let received = lab.take_one(other);
        assert_eq!((response(&received).status, received.data[14]), (2, sense));
    }
}

#[test]
fn a_session_that_goes_away_does_not_hold_up_a_reset() {
    let mut lab = lab();
    let one = lab.ready("");
    let other = lab.ready("");
    lab.disk = Disk::Held;
    lab.command(other, read(0, 1), &[]);
    lab.disconnect(other);
    assert!(!lab.is_over(other));
    manage(
        &mut lab,
        one,
        Function::LogicalUnitReset as u8,
        RESERVED_TAG,
    );
    assert!(lab.take(one).is_empty());
    lab.complete(other);
    assert_eq!(managed(&lab.take_one(one)).1, 0);
    assert!(lab.is_over(other));
}

#[test]
fn a_cold_reset_closes_every_connection() {
    let mut lab = lab();
    let one = lab.ready("");
    let other = lab.ready("");
    manage(&mut lab, one, Function::TargetColdReset as u8, RESERVED_TAG);
    assert_eq!(managed(&lab.take_one(one)).1, 0);
    assert_eq!(lab.host(one).closed, Some(CloseReason::Reset));
    assert_eq!(lab.host(other).closed, Some(CloseReason::Reset));
}

#[test]
fn a_reinstated_session_ends_before_the_new_one_begins() {
    let mut lab = lab();
    let old = lab.connect();
    lab.log_in(old, "");
    lab.command(old, command([0; 16]), &[]);
    lab.disk = Disk::Held;
    lab.command(old, read(0, 1), &[]);
    let new = lab.connect();
    let text = alloc::format!(
        "InitiatorName={}\0TargetName={}\0",
        crate::testing::lab::INITIATOR_NAME,
        crate::testing::lab::TARGET_NAME
    );
    let stages = (
        crate::pdu::login::Stage::Operational,
        crate::pdu::login::Stage::FullFeature,
    );
    lab.give(
        new,
        crate::testing::lab::login_header(stages.0, stages.1),
        text.as_bytes(),
    );
    assert_eq!(lab.host(old).closed, Some(CloseReason::Reinstated));
    assert!(lab.take(new).is_empty());
    lab.complete(old);
    assert_eq!(
        pdu::opcode_of(&lab.take_one(new).header),
        opcode::LOGIN_RESPONSE
    );
    assert_eq!(lab.target.sessions().count(), 1);
}

#[test]
fn pings_come_back_as_they_were_sent() {
    let mut lab = lab();
    let host = lab.ready("MaxRecvDataSegmentLength=512\0");
    for (bytes, echoed) in [
        (0, 0),
        (1, 1),
        (511, 511),
        (512, 512),
        (513, 512),
        (70000, 512),
    ] {
        let data: Vec<u8> = (0..bytes).map(|at: u32| at.to_le_bytes()[0]).collect();
        lab.give(host, nop(5, 0).encode(), &data);
        let received = lab.take_one(host);
        assert_eq!(NopIn::decode(&received.header).initiator_task_tag, 5);
        assert_eq!(received.data, data[..echoed]);
    }
    lab.give(host, nop(RESERVED_TAG, 0).encode(), b"data");
    assert!(lab.take(host).is_empty());
}

#[test]
fn a_silent_host_is_asked_and_then_given_up() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.wait(KEEPALIVE_AFTER);
    let ping = NopIn::decode(&lab.take_one(host).header);
    assert_eq!(ping.initiator_task_tag, RESERVED_TAG);
    let answer = NopOut {
        target_transfer_tag: ping.target_transfer_tag,
        ..nop(RESERVED_TAG, 0)
    };
    lab.give(host, answer.encode(), &[]);
    lab.wait(KEEPALIVE_AFTER);
    assert_eq!(lab.take(host).len(), 1);
    lab.wait(KEEPALIVE_TIME_MAX + Duration::from_secs(1));
    assert_eq!(
        lab.host(host).closed,
        Some(CloseReason::Timeout("answer to NOP-In"))
    );
}

fn log_out(lab: &mut Lab, host: usize, reason: u8, cid: u16) {
    let request = LogoutRequest {
        immediate: true,
        reason,
        initiator_task_tag: 9,
        cid,
        cmd_sn: 0,
        exp_stat_sn: 0,
    };
    lab.give(host, request.encode(), &[]);
}

#[test]
fn logout_ends_what_it_names() {
    for (reason, cid, answer, closes) in [
        (0, 0, 0, true),
        (1, 0, 0, true),
        (1, 5, 1, false),
        (2, 0, 2, false),
        (3, 0, 3, false),
    ] {
        let mut lab = lab();
        let host = lab.ready("");
        log_out(&mut lab, host, reason, cid);
        assert_eq!(
            LogoutResponse::decode(&lab.take_one(host).header).response,
            answer
        );
        assert_eq!(lab.host(host).closed.is_some(), closes);
        assert_eq!(lab.target.sessions().count(), usize::from(!closes));
    }
}

#[test]
fn logout_waits_for_tasks_and_silences_them() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.disk = Disk::Held;
    lab.command(host, read(0, 1), &[]);
    log_out(&mut lab, host, 0, 0);
    assert!(lab.take(host).is_empty());
    lab.complete(host);
    assert_eq!(
        pdu::opcode_of(&lab.take_one(host).header),
        opcode::LOGOUT_RESPONSE
    );
    assert_eq!(lab.host(host).closed, Some(CloseReason::Logout));
    assert!(lab.is_over(host));
}

#[test]
fn a_shutdown_asks_for_logout_and_does_not_wait_for_ever() {
    let mut lab = lab();
    let polite = lab.ready("");
    let rude = lab.ready("");
    for host in [polite, rude] {
        lab.shutdown(host);
        let message = AsyncMessage::decode(&lab.take_one(host).header);
        assert_eq!((message.event, message.parameters[2]), (1, 3));
    }
    log_out(&mut lab, polite, 0, 0);
    assert_eq!(lab.host(polite).closed, Some(CloseReason::Logout));
    lab.wait(LOGOUT_TIME_MAX);
    assert_eq!(lab.host(rude).closed, Some(CloseReason::Shutdown));
}

#[test]
fn requests_that_are_refused_come_back_with_their_header() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.disk = Disk::Held;
    let busy = lab.command(host, read(0, 1), &[]);
    let with = |first: u8, tag: u32| {
        let mut header: Header = [0; 48];
        header[0] = first | 0x40;
        header[1] = 0x80;
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        header
    };
    for (header, reason) in [
        (with(opcode::SNACK_REQUEST, 1), 3),
        (with(opcode::LOGIN_REQUEST, 1), 4),
        (with(0x1C, 1), 5),
        (with(opcode::SCSI_COMMAND, busy), 7),
        (with(opcode::SCSI_COMMAND, RESERVED_TAG), 9),
    ] {
        lab.give(host, header, &[]);
        let received = lab.take_one(host);
        assert_eq!(pdu::opcode_of(&received.header), opcode::REJECT);
        assert_eq!(Reject::decode(&received.header).reason, reason);
        assert_eq!(received.data, header);
    }
    assert_eq!(lab.host(host).closed, None);
}

#[test]
fn too_many_immediate_commands_are_refused() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.disk = Disk::Held;
    for turn in 0..20 {
        lab.command(
            host,
            ScsiCommand {
                immediate: true,
                ..read(0, 1)
            },
            &[],
        );
        assert_eq!(lab.take(host).len(), usize::from(turn >= 16));
    }
    assert_eq!(lab.held(host), 16);
}

#[test]
fn a_damaged_request_ends_the_connection() {
    let mut lab = lab();
    let host = lab.ready("DataDigest=CRC32C\0");
    lab.give_as(host, nop(5, 0).encode(), b"data", Arrival::DigestError);
    let received = lab.take_one(host);
    assert_eq!(Reject::decode(&received.header).reason, 2);
    assert!(matches!(
        lab.host(host).closed,
        Some(CloseReason::Protocol(_))
    ));
}

#[test]
fn a_segment_longer_than_declared_ends_the_connection() {
    let mut lab = lab();
    let host = lab.ready("");
    lab.give(host, nop(5, 0).encode(), &vec![0; (256 << 10) + 1]);
    assert!(matches!(
        lab.host(host).closed,
        Some(CloseReason::Protocol(_))
    ));
}
