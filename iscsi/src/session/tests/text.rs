//! Text in full feature phase: SendTargets, pieces, refusals.

use super::{Access, Lab, Received, Reject, Vec, lab, opcode, pdu};
use crate::access::Credentials;
use crate::pdu::RESERVED_TAG;
use crate::pdu::login::{LoginResponse, Stage};
use crate::pdu::text::{TextRequest, TextResponse};
use crate::scsi::nexus::TargetPort;
use crate::target::{Announcement, TargetAddress};
use crate::testing::lab::{INITIATOR_NAME, TARGET_NAME, login_header};
use alloc::format;
use alloc::string::String;

fn request(transfer_tag: u32) -> TextRequest {
    TextRequest {
        immediate: true,
        is_final: true,
        text_continues: false,
        lun: [0; 8],
        initiator_task_tag: 3,
        target_transfer_tag: transfer_tag,
        cmd_sn: 0,
        exp_stat_sn: 0,
    }
}

fn discovery(lab: &mut Lab, keys: &str) -> usize {
    let host = lab.connect();
    let text = format!("InitiatorName={INITIATOR_NAME}\0SessionType=Discovery\0{keys}");
    lab.give(
        host,
        login_header(Stage::Operational, Stage::FullFeature),
        text.as_bytes(),
    );
    assert_eq!(
        LoginResponse::decode(&lab.take_one(host).header)
            .unwrap()
            .status,
        0
    );
    host
}

fn answer(received: &Received) -> TextResponse {
    assert_eq!(pdu::opcode_of(&received.header), opcode::TEXT_RESPONSE);
    TextResponse::decode(&received.header)
}

fn ask(lab: &mut Lab, host: usize, text: &str) -> String {
    lab.give(host, request(RESERVED_TAG).encode(), text.as_bytes());
    lab.take_one(host).text()
}

#[test]
fn send_targets_tells_what_each_session_may_know() {
    let ours = format!("TargetName={TARGET_NAME}\0TargetAddress=127.0.0.1:3260,1\0");
    let mut lab = lab();
    let host = discovery(&mut lab, "MaxConnections=4\0");
    for (text, expected) in [
        ("SendTargets=All\0", ours.as_str()),
        ("SendTargets=iqn.2026-11.io.holdfast:LAB\0", &ours),
        ("SendTargets=iqn.2026-11.io.holdfast:other\0", ""),
        ("SendTargets=\0", "SendTargets=Reject\0"),
        ("X-odd=1\0", "X-odd=NotUnderstood\0"),
        ("MaxBurstLength=512\0", "MaxBurstLength=Reject\0"),
    ] {
        assert_eq!(ask(&mut lab, host, text), expected, "{text:?}");
    }
    let host = lab.ready("");
    for (text, expected) in [
        ("SendTargets=\0", ours.as_str()),
        ("SendTargets=All\0", "SendTargets=Reject\0"),
        ("SendTargets=iqn.2026-11.io.holdfast:other\0", ""),
    ] {
        assert_eq!(ask(&mut lab, host, text), expected, "{text:?}");
    }
}

#[test]
fn hidden_targets_are_not_told_and_portals_are_told_as_configured() {
    let mut lab = lab();
    let only = |name: &str| Access::new(Vec::from([String::from(name)]), None, None).unwrap();
    let target = |name: &str, access: Access| Announcement {
        target_name: name.into(),
        portals: [("[fd00::1]:3260", 1), ("10.0.0.1:3261", 2)]
            .map(|(address, group)| TargetAddress {
                address: address.into(),
                group: TargetPort(group),
            })
            .into(),
        access,
    };
    lab.announcements = Vec::from([
        target("iqn.a:hidden", only("iqn.b:somebody")),
        target("iqn.a:shown", only(INITIATOR_NAME)),
    ]);
    let host = discovery(&mut lab, "");
    assert_eq!(
        ask(&mut lab, host, "SendTargets=All\0"),
        "TargetName=iqn.a:shown\0TargetAddress=[fd00::1]:3260,1\0TargetAddress=10.0.0.1:3261,2\0"
    );
}

#[test]
fn a_long_list_comes_in_pieces_that_the_host_takes() {
    let mut lab = lab();
    lab.announcements = (0..40)
        .map(|number| Announcement {
            target_name: format!("iqn.2026-11.io.holdfast:volume-{number}"),
            portals: Vec::new(),
            access: Access::default(),
        })
        .collect();
    let host = discovery(&mut lab, "MaxRecvDataSegmentLength=512\0");
    lab.give(host, request(RESERVED_TAG).encode(), b"SendTargets=All\0");
    let mut text = String::new();
    loop {
        let received = lab.take_one(host);
        assert!(received.data.len() <= 512);
        text.push_str(&received.text());
        let response = answer(&received);
        assert_eq!(response.is_final, !response.text_continues);
        if response.is_final {
            assert_eq!(response.target_transfer_tag, RESERVED_TAG);
            break;
        }
        lab.give(host, request(response.target_transfer_tag).encode(), &[]);
    }
    assert_eq!(text.matches("TargetName=").count(), 40);
    assert_eq!(text.matches(",1\0").count(), 40);
}

#[test]
fn a_question_may_come_in_pieces_and_pieces_may_be_empty() {
    let mut lab = lab();
    let host = discovery(&mut lab, "");
    let mut tag = RESERVED_TAG;
    for piece in ["", "SendTar", "gets=A"] {
        let mut pdu = request(tag);
        (pdu.is_final, pdu.text_continues) = (false, true);
        lab.give(host, pdu.encode(), piece.as_bytes());
        let received = lab.take_one(host);
        assert!(received.data.is_empty());
        assert!(!answer(&received).is_final);
        tag = answer(&received).target_transfer_tag;
    }
    lab.give(host, request(tag).encode(), b"ll\0");
    assert!(lab.take_one(host).text().contains(TARGET_NAME));
}

#[test]
fn text_that_makes_no_sense_is_rejected() {
    let mut lab = lab();
    let host = discovery(&mut lab, "");
    for (pdu, text, reason) in [
        (request(0x1234), "SendTargets=All\0", 9),
        (request(RESERVED_TAG), "nonsense\0", 4),
    ] {
        lab.give(host, pdu.encode(), text.as_bytes());
        let received = lab.take_one(host);
        assert_eq!(pdu::opcode_of(&received.header), opcode::REJECT);
        assert_eq!(Reject::decode(&received.header).reason, reason);
    }
    let mut endless = request(RESERVED_TAG);
    (endless.is_final, endless.text_continues) = (false, true);
    for _ in 0..8 {
        lab.give(host, endless.encode(), &[b'a'; 8192]);
        endless.target_transfer_tag = answer(&lab.take_one(host)).target_transfer_tag;
    }
    lab.give(host, endless.encode(), b"a");
    assert_eq!(Reject::decode(&lab.take_one(host).header).reason, 0x0A);
}

#[test]
fn discovery_may_ask_for_proof_and_takes_no_commands() {
    let mut lab = lab();
    let host = discovery(&mut lab, "");
    lab.command(host, super::command([0; 16]), &[]);
    assert_eq!(pdu::opcode_of(&lab.take_one(host).header), opcode::REJECT);
    let chap = Credentials::new("host", b"secretsecret").unwrap();
    lab.set_discovery(Access::new(Vec::new(), Some(chap), None).unwrap());
    let host = lab.connect();
    let text = format!("InitiatorName={INITIATOR_NAME}\0SessionType=Discovery\0");
    lab.give(
        host,
        login_header(Stage::Operational, Stage::FullFeature),
        text.as_bytes(),
    );
    assert_eq!(
        LoginResponse::decode(&lab.take_one(host).header)
            .unwrap()
            .status,
        0x0201
    );
}
