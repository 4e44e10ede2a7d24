//! Login as a host sees it: rules of keys, refusals, proofs, bounds.

use crate::access::{Access, Credentials};
use crate::effect::CloseReason;
use crate::limits::LOGIN_TIME_MAX;
use crate::login::chap::Algorithm;
use crate::pdu::login::{LoginResponse, Stage};
use crate::pdu::nop::NopOut;
use crate::target::Entrance;
use crate::testing::lab::{INITIATOR_NAME, Lab, TARGET_NAME, login_header, login_request};
use crate::text::{self, to_hexadecimal};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

const SECRET: &[u8] = b"a secret of the host";
const MUTUAL_SECRET: &[u8] = b"another of the target";

fn guarded() -> Access {
    let chap = Credentials::new("host", SECRET).unwrap();
    let mutual = Credentials::new("target", MUTUAL_SECRET).unwrap();
    Access::new(Vec::new(), Some(chap), Some(mutual)).unwrap()
}

fn names(rest: &str) -> String {
    format!("InitiatorName={INITIATOR_NAME}\0TargetName={TARGET_NAME}\0{rest}")
}

/// Sends one login text and gives status, T bit and reply.
fn say(lab: &mut Lab, host: usize, stages: (Stage, Stage), text: &str) -> (u16, bool, String) {
    lab.give(host, login_header(stages.0, stages.1), text.as_bytes());
    let received = lab.take_one(host);
    let response = LoginResponse::decode(&received.header).unwrap();
    (response.status, response.transit, received.text())
}

const STRAIGHT: (Stage, Stage) = (Stage::Operational, Stage::FullFeature);
const SECURE: (Stage, Stage) = (Stage::Security, Stage::Operational);

#[test]
fn operational_keys_follow_their_rules() {
    for (offer, answer) in [
        ("HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C"),
        ("HeaderDigest=None,CRC32C", "HeaderDigest=None"),
        ("DataDigest=X-odd,CRC32C", "DataDigest=CRC32C"),
        ("HeaderDigest=X-odd", "HeaderDigest=Reject"),
        ("InitialR2T=Yes", "InitialR2T=Yes"),
        ("InitialR2T=No", "InitialR2T=No"),
        ("ImmediateData=No", "ImmediateData=No"),
        ("ImmediateData=maybe", "ImmediateData=Reject"),
        ("MaxConnections=8", "MaxConnections=1"),
        ("MaxBurstLength=16776192", "MaxBurstLength=4194304"),
        ("MaxBurstLength=511", "MaxBurstLength=Reject"),
        ("FirstBurstLength=0x10000", "FirstBurstLength=65536"),
        ("MaxOutstandingR2T=65535", "MaxOutstandingR2T=16"),
        ("DefaultTime2Wait=5", "DefaultTime2Wait=5"),
        ("DefaultTime2Retain=20", "DefaultTime2Retain=0"),
        ("DataPDUInOrder=No", "DataPDUInOrder=Yes"),
        ("DataSequenceInOrder=No", "DataSequenceInOrder=Yes"),
        ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0"),
        ("OFMarker=Yes", "OFMarker=No"),
        ("TaskReporting=FastAbort,RFC3720", "TaskReporting=RFC3720"),
        ("iSCSIProtocolLevel=2", "iSCSIProtocolLevel=1"),
        ("X-com.example.key=1", "X-com.example.key=NotUnderstood"),
        ("AuthMethod=None", "AuthMethod=Reject"),
    ] {
        let mut lab = Lab::new(Access::default());
        let host = lab.connect();
        let (status, transit, reply) = say(&mut lab, host, STRAIGHT, &names(&format!("{offer}\0")));
        assert_eq!((status, transit), (0, true), "{offer}");
        assert!(
            reply.split('\0').any(|pair| pair == answer),
            "{offer}: {reply:?}"
        );
        assert!(reply.contains("MaxRecvDataSegmentLength=262144\0"));
        assert!(reply.contains("TargetPortalGroupTag=1\0"));
    }
}

#[test]
fn refused_logins_say_why() {
    let too_long = format!("{}=1\0", "k".repeat(64));
    let many: String = (0..2048).map(|index| format!("K{index}=1\0")).collect();
    let stranger = "InitiatorName=iqn.a:b\0TargetName=iqn.2026-11.io.holdfast:none\0";
    for (text, status) in [
        (String::from("TargetName=x\0"), 0x0207),
        (format!("InitiatorName={INITIATOR_NAME}\0"), 0x0207),
        (String::from(stranger), 0x0203),
        (names("SessionType=Odd\0"), 0x0209),
        (names("MaxBurstLength=1\0MaxBurstLength=2\0"), 0x0200),
        (names("novalue\0"), 0x0200),
        (names(&too_long), 0x0200),
        (names(&many[..7000]), 0x0200),
    ] {
        let mut lab = Lab::new(Access::default());
        let host = lab.connect();
        let (found, _, reply) = say(&mut lab, host, STRAIGHT, &text);
        assert_eq!(found, status, "{text:?}");
        assert!(reply.is_empty());
        assert_eq!(
            lab.host(host).closed,
            Some(CloseReason::LoginRefused(status))
        );
    }
}

#[test]
fn initiators_off_the_list_are_forbidden() {
    let access = Access::new(Vec::from([String::from("iqn.Other:A")]), None, None).unwrap();
    let mut lab = Lab::new(access);
    let host = lab.connect();
    assert_eq!(lab.log_in(host, "").status, 0x0202);
    let host = lab.connect();
    assert_eq!(lab.log_in_as(host, "iqn.other:a", "").status, 0);
}

#[test]
fn a_target_that_is_elsewhere_sends_its_hosts_there() {
    let only = Access::new(Vec::from([String::from(INITIATOR_NAME)]), None, None);
    let mut lab = Lab::new(only.expect("a name"));
    lab.target
        .set_entrance(Entrance::Elsewhere("10.0.0.2:3260".into()));
    let host = lab.connect();
    let stages = (Stage::Operational, Stage::FullFeature);
    let (status, transit, text) = say(&mut lab, host, stages, &names(""));
    assert_eq!((status, transit), (0x0101, false));
    assert_eq!(text, "TargetAddress=10.0.0.2:3260\0"); // Without a group tag.
    // A host that is not admitted learns nothing.
    let host = lab.connect();
    let stranger = format!("InitiatorName=iqn.b:other\0TargetName={TARGET_NAME}\0");
    let (status, _, text) = say(&mut lab, host, stages, &stranger);
    assert_eq!((status, text.as_str()), (0x0202, ""));
    // It is coming here, and is here.
    lab.target.set_entrance(Entrance::Closed);
    let host = lab.connect();
    assert_eq!(say(&mut lab, host, stages, &names("")).0, 0x0301);
    lab.target.set_entrance(Entrance::Open);
    let host = lab.connect();
    assert_eq!(say(&mut lab, host, stages, &names("")).0, 0);
}

#[test]
fn headers_of_login_are_checked() {
    let right = login_request(Stage::Operational, Stage::FullFeature);
    let mut cases = Vec::new();
    cases.push(("version", 0x0205, {
        let mut r = right;
        r.version_min = 1;
        r
    }));
    cases.push(("unknown session", 0x020A, {
        let mut r = right;
        r.tsih = 9;
        r
    }));
    cases.push(("stage", 0x0200, {
        let mut r = right;
        r.current_stage = None;
        r
    }));
    cases.push(("next stage", 0x0200, {
        let mut r = right;
        r.next_stage = None;
        r
    }));
    cases.push(("backwards", 0x0200, {
        let mut r = right;
        r.next_stage = Some(Stage::Security);
        r
    }));
    cases.push(("T with C", 0x0200, {
        let mut r = right;
        r.text_continues = true;
        r
    }));
    for (what, status, request) in cases {
        let mut lab = Lab::new(Access::default());
        let host = lab.connect();
        lab.give(host, request.encode(), names("").as_bytes());
        let response = LoginResponse::decode(&lab.take_one(host).header).unwrap();
        assert_eq!(response.status, status, "{what}");
    }
}

#[test]
fn another_connection_of_a_session_is_refused() {
    let mut lab = Lab::new(Access::default());
    let first = lab.connect();
    let tsih = lab.log_in(first, "").tsih;
    let second = lab.connect();
    let mut request = login_request(Stage::Operational, Stage::FullFeature);
    request.tsih = tsih;
    lab.give(second, request.encode(), names("").as_bytes());
    let response = LoginResponse::decode(&lab.take_one(second).header).unwrap();
    assert_eq!(response.status, 0x0206);
    assert_eq!(lab.host(first).closed, None);
}

#[test]
fn text_may_come_in_pieces() {
    let mut lab = Lab::new(Access::default());
    let host = lab.connect();
    let text = names("HeaderDigest=CRC32C\0");
    let (head, tail) = text.split_at(20);
    let mut request = login_request(Stage::Operational, Stage::Operational);
    request.text_continues = true;
    lab.give(host, request.encode(), head.as_bytes());
    assert!(lab.take_one(host).data.is_empty());
    let (status, transit, reply) = say(&mut lab, host, STRAIGHT, tail);
    assert_eq!((status, transit), (0, true));
    assert!(reply.contains("HeaderDigest=CRC32C\0"));
    assert!(lab.digests(host).header);
}

#[test]
fn login_is_bounded_in_requests_text_and_time() {
    let mut lab = Lab::new(Access::default());
    let mut request = login_request(Stage::Operational, Stage::Operational);
    request.text_continues = true;
    let text = [b'a'; 8192];
    for data in [&text[..], &[]] {
        let host = lab.connect();
        for _ in 0..100 {
            lab.give(host, request.encode(), data);
        }
        assert!(matches!(
            lab.host(host).closed,
            Some(CloseReason::LoginLimit(_))
        ));
        assert!(lab.take(host).len() <= 64);
    }
    let host = lab.connect();
    lab.wait(LOGIN_TIME_MAX + Duration::from_secs(2));
    assert_eq!(
        lab.host(host).closed,
        Some(CloseReason::LoginLimit("too slow"))
    );
    let host = lab.connect();
    lab.give(host, request.encode(), &[b'a'; 8193]);
    assert!(matches!(
        lab.host(host).closed,
        Some(CloseReason::Protocol(_))
    ));
}

#[test]
fn nothing_but_login_is_heard_before_its_end() {
    let mut lab = Lab::new(Access::default());
    let host = lab.connect();
    let nop = NopOut {
        immediate: true,
        lun: [0; 8],
        initiator_task_tag: 1,
        target_transfer_tag: u32::MAX,
        cmd_sn: 0,
        exp_stat_sn: 0,
    };
    lab.give(host, nop.encode(), &[]);
    assert!(matches!(
        lab.host(host).closed,
        Some(CloseReason::Protocol(_))
    ));
    assert!(lab.take(host).is_empty());
}

/// Runs CHAP up to the challenge; gives algorithm, identifier and challenge.
fn challenged(lab: &mut Lab, host: usize, offer: &str) -> (String, u8, Vec<u8>) {
    let (status, transit, reply) = say(lab, host, SECURE, &names("AuthMethod=None,CHAP\0"));
    assert_eq!((status, transit), (0, false));
    assert!(reply.contains("AuthMethod=CHAP\0"));
    let (status, _, reply) = say(lab, host, SECURE, &format!("CHAP_A={offer}\0"));
    assert_eq!(status, 0);
    let pairs = text::decode(reply.as_bytes()).unwrap();
    let value = |name: &str| pairs.iter().find(|pair| pair.0 == name).unwrap().1;
    let identifier = value("CHAP_I").parse().unwrap();
    (
        value("CHAP_A").into(),
        identifier,
        text::binary(value("CHAP_C")).unwrap(),
    )
}

#[test]
fn chap_takes_the_strongest_and_proves_both_sides() {
    for (offer, chosen, algorithm) in [
        ("5", "5", Algorithm::Md5),
        ("5,6", "6", Algorithm::Sha1),
        ("5,7,6", "7", Algorithm::Sha256),
        ("5,6,7,8", "8", Algorithm::Sha3),
    ] {
        let mut lab = Lab::new(guarded());
        let host = lab.connect();
        let (number, identifier, challenge) = challenged(&mut lab, host, offer);
        assert_eq!(number, chosen);
        let response = to_hexadecimal(&algorithm.response(identifier, SECRET, &challenge));
        let ours = to_hexadecimal(b"challenge of the host");
        let text = format!("CHAP_N=host\0CHAP_R={response}\0CHAP_I=9\0CHAP_C={ours}\0");
        let (status, transit, reply) = say(&mut lab, host, SECURE, &text);
        assert_eq!((status, transit), (0, true));
        let proof = algorithm.response(9, MUTUAL_SECRET, b"challenge of the host");
        assert!(reply.contains(&format!(
            "CHAP_N=target\0CHAP_R={}\0",
            to_hexadecimal(&proof)
        )));
        assert_eq!(say(&mut lab, host, STRAIGHT, "").0, 0);
    }
}

#[test]
fn wrong_proofs_are_refused_alike() {
    // Each row: CHAP_A offer, and what is sent instead of the right answer.
    let reflected = "reflected";
    for (offer, wrong) in [
        ("56", ""),
        ("", ""),
        ("5", "CHAP_N=host\0CHAP_R=0x00\0"),
        ("5", "CHAP_N=other\0CHAP_R=right\0"),
        ("5", "CHAP_R=right\0"),
        ("5", "CHAP_N=host\0"),
        ("5", "CHAP_N=host\0CHAP_R=right\0CHAP_I=1\0"),
        ("5", "CHAP_N=host\0CHAP_R=right\0CHAP_I=256\0CHAP_C=0x01\0"),
        ("5", "CHAP_N=host\0CHAP_R=right\0CHAP_I=1\0CHAP_C=zz\0"),
        ("5", reflected),
    ] {
        let mut lab = Lab::new(guarded());
        let host = lab.connect();
        if wrong.is_empty() {
            say(&mut lab, host, SECURE, &names("AuthMethod=CHAP\0"));
            let (status, _, _) = say(&mut lab, host, SECURE, &format!("CHAP_A={offer}\0"));
            assert_eq!(status, 0x0201, "{offer}");
            continue;
        }
        let (_, identifier, challenge) = challenged(&mut lab, host, offer);
        let right = to_hexadecimal(&Algorithm::Md5.response(identifier, SECRET, &challenge));
        let text = if wrong == reflected {
            let ours = to_hexadecimal(&challenge);
            format!("CHAP_N=host\0CHAP_R={right}\0CHAP_I=1\0CHAP_C={ours}\0")
        } else {
            wrong.replace("right", &right)
        };
        let (status, _, reply) = say(&mut lab, host, SECURE, &text);
        assert_eq!((status, reply.as_str()), (0x0201, ""), "{wrong:?}");
    }
}

#[test]
fn a_guarded_target_cannot_be_entered_without_proof() {
    for (stages, text) in [
        (STRAIGHT, names("")),
        (SECURE, names("AuthMethod=None\0")),
        (SECURE, names("")),
        ((Stage::Security, Stage::FullFeature), names("")),
        (SECURE, names("CHAP_A=5\0")),
    ] {
        let mut lab = Lab::new(guarded());
        let host = lab.connect();
        assert_eq!(say(&mut lab, host, stages, &text).0, 0x0201, "{text:?}");
    }
}

#[test]
fn a_login_of_the_same_port_ends_the_old_session_first() {
    let mut lab = Lab::new(Access::default());
    let old = lab.connect();
    assert_eq!(lab.log_in(old, "").status, 0);
    let new = lab.connect();
    assert_eq!(lab.log_in(new, "").status, 0);
    assert_eq!(lab.host(old).closed, Some(CloseReason::Reinstated));
    assert_eq!(lab.target.sessions().count(), 1);
}
