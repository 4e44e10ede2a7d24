//! Attacks on the connection and on the full feature phase.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::Scene;
use crate::initiator::Error;
use crate::initiator::login::{Options, login_request};
use crate::initiator::pdu::{Digests, Pdu, RESERVED_TAG, opcode};
use crate::initiator::scsi::{self, Sectors};
use crate::initiator::session::{Session, TaskManagement};
use crate::initiator::wire::Wire;

const TIMEOUT: Duration = Duration::from_secs(5);
/// How long an attack that only occupies things stays.
const STAY: Duration = Duration::from_secs(4);
/// Sectors of the largest transfer, 4 MiB.
const LARGE_SECTORS: u32 = 8192;
/// The largest length a data segment can claim.
const SEGMENT_CLAIMED: [u8; 3] = [0xff; 3];

fn login(options: &Options) -> Result<Session, String> {
    let mut session = Session::login(options).map_err(|error| format!("login: {error}"))?;
    ready(&mut session)?;
    Ok(session)
}

/// Takes the unit attentions.
pub(super) fn ready(session: &mut Session) -> Result<(), String> {
    for _ in 0..8 {
        let completion = session.execute(scsi::test_unit_ready());
        if completion
            .map_err(|error| error.to_string())?
            .good()
            .is_ok()
        {
            return Ok(());
        }
    }
    Err("the unit does not become ready".into())
}

fn connect(scene: &Scene) -> Result<Wire, String> {
    Wire::connect(scene.portal, TIMEOUT).map_err(|error| error.to_string())
}

/// The target refused the connection, not more: `true` when it closed or rejected.
fn refused(wire: &mut Wire) -> bool {
    match wire.receive(TIMEOUT) {
        Ok(Some(pdu)) if pdu.opcode() == opcode::REJECT => true,
        Ok(Some(pdu)) if pdu.opcode() == opcode::LOGIN_RESPONSE => pdu.header[36] != 0,
        Ok(_) => false,
        Err(error) => matches!(error, Error::Closed | Error::Socket(_)),
    }
}

/// Random bytes instead of PDUs.
pub(super) fn garbage_bytes(scene: &Scene) -> Result<String, String> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut closed = 0;
    for _ in 0..300 {
        let mut wire = connect(scene)?;
        let mut bytes = vec![0; random.usize(1..20_000)];
        random.fill(&mut bytes);
        if random.bool() {
            // A real opcode gets further than a random one.
            bytes[0] = 0x43;
        }
        let sent = wire.send_bytes(&bytes, TIMEOUT);
        closed += u32::from(sent.is_err() || wire.closed_within(Duration::from_millis(20)));
    }
    Ok(format!(
        "300 connections, {closed} closed at once by the target"
    ))
}

/// Data segments that claim 16 MiB, before and after login.
pub(super) fn oversize_segments(scene: &Scene) -> Result<String, String> {
    let mut early = login_request(scene.victim.isid, 0, None).encode(Digests::default());
    early[5..8].copy_from_slice(&SEGMENT_CLAIMED);
    let mut wire = connect(scene)?;
    wire.send_bytes(&early, TIMEOUT)
        .map_err(|error| error.to_string())?;
    if !refused(&mut wire) {
        return Err("a login of 16 MiB was not refused".into());
    }
    let opcodes = [
        opcode::NOP_OUT,
        opcode::SCSI_COMMAND,
        opcode::TEXT,
        opcode::DATA_OUT,
    ];
    for code in opcodes {
        let mut session = login(&scene.victim)?;
        let tag = session.take_tag();
        let mut pdu = session.request(code, 0x80 | 0x20, tag);
        pdu.put_u32(
            20,
            if code == opcode::SCSI_COMMAND {
                16 << 20
            } else {
                RESERVED_TAG
            },
        );
        pdu.header[32..48].copy_from_slice(&scsi::write(ONE, vec![0; 512]).cdb);
        let mut bytes = pdu.encode(Digests::default());
        bytes[5..8].copy_from_slice(&SEGMENT_CLAIMED);
        bytes.resize(64 << 10, 0xee);
        let wire = session.wire();
        if wire.send_bytes(&bytes, TIMEOUT).is_ok() && !refused(wire) {
            return Err(format!("16 MiB behind opcode {code:#04x} were not refused"));
        }
    }
    Ok("refused before login and behind four opcodes".into())
}

const ONE: Sectors = Sectors { first: 0, count: 1 };

/// Additional header segments of every kind of wrongness.
pub(super) fn additional_headers(scene: &Scene) -> Result<String, String> {
    let segments: [Vec<u8>; 5] = [
        vec![0xff; 1020],
        vec![0; 1020],
        vec![0xff, 0xff, 1, 0],
        vec![0, 0, 1, 0, 0, 0, 2, 0],
        vec![0, 5, 2, 0, 0xff, 0xff, 0xff, 0xff],
    ];
    let mut answers = Vec::new();
    for additional in &segments {
        let mut first = login_request(scene.victim.isid, 0, None);
        first.additional.clone_from(additional);
        let mut wire = connect(scene)?;
        wire.send(&first, TIMEOUT)
            .map_err(|error| error.to_string())?;
        let early = refused(&mut wire);
        let mut session = login(&scene.victim)?;
        let tag = session.take_tag();
        let mut command = session.request(opcode::SCSI_COMMAND, 0x80 | 0x40 | 1, tag);
        command.put_u32(20, 512);
        command.header[32..48].copy_from_slice(&scsi::read(ONE).cdb);
        command.additional.clone_from(additional);
        let wire = session.wire();
        let sent = wire.send(&command, TIMEOUT);
        let answer = sent.and_then(|()| wire.receive(TIMEOUT));
        let late = match answer {
            Ok(Some(pdu)) => format!("{:#04x}", pdu.opcode()),
            Ok(None) => return Err("no answer to a command with a strange header".into()),
            Err(_) => "closed".into(),
        };
        let early = if early { "refused" } else { "passed over" };
        answers.push(format!("{early}/{late}"));
    }
    Ok(format!("login/command: {}", answers.join(", ")))
}

/// Commands behind and before the window are not executed, and the session goes on.
pub(super) fn outside_window(scene: &Scene) -> Result<String, String> {
    let mut session = login(&scene.victim)?;
    let (next, max, _) = session.numbers();
    let wrong = [
        max.wrapping_add(1),
        max.wrapping_add(1000),
        next.wrapping_sub(1),
        next ^ (1 << 31),
    ];
    for number in wrong {
        let tag = session.take_tag();
        let mut command = session.request(opcode::SCSI_COMMAND, 0x80 | 1, tag);
        command.put_u32(24, number);
        session
            .wire()
            .send(&command, TIMEOUT)
            .map_err(|error| error.to_string())?;
    }
    // An answer to one of them would be an answer to nothing we know, which ends the session.
    let echo = session
        .ping(b"still there")
        .map_err(|error| format!("ping: {error}"))?;
    if echo != b"still there" {
        return Err("the ping came back changed".into());
    }
    let completion = session
        .execute(scsi::read(ONE))
        .map_err(|error| error.to_string())?;
    completion.good()?;
    Ok("four ignored, the session goes on".into())
}

/// Two commands with the same task tag at the same time.
pub(super) fn duplicate_tag(scene: &Scene) -> Result<String, String> {
    let mut session = login(&scene.victim)?;
    let (next, _, _) = session.numbers();
    let tag = session.take_tag();
    for number in 0..2 {
        let mut command = session.request(opcode::SCSI_COMMAND, 0x80 | 0x20 | 1, tag);
        command.put_u32(20, LARGE_SECTORS * 512);
        command.put_u32(24, next.wrapping_add(number));
        command.header[32..48].copy_from_slice(&large_write_cdb());
        session
            .wire()
            .send(&command, TIMEOUT)
            .map_err(|error| error.to_string())?;
    }
    let seen = answers(session.wire(), Duration::from_millis(500));
    Ok(format!("answered with {seen}"))
}

fn large_write_cdb() -> [u8; 16] {
    let mut cdb = scsi::read(Sectors {
        first: 0,
        count: LARGE_SECTORS,
    })
    .cdb;
    cdb[0] = 0x8a;
    cdb
}

/// Opcodes that come within `time`, counted, and whether the connection was closed.
fn answers(wire: &mut Wire, time: Duration) -> String {
    let started = Instant::now();
    let mut counts = std::collections::BTreeMap::<u8, u32>::new();
    loop {
        match wire.receive(time.saturating_sub(started.elapsed())) {
            Ok(Some(pdu)) => *counts.entry(pdu.opcode()).or_default() += 1,
            Ok(None) => return format!("{counts:x?}, still open"),
            Err(_) => return format!("{counts:x?}, closed"),
        }
    }
}

/// Hosts that change their mind: aborts and LUN resets in the middle of writes.
pub(super) fn changed_minds(scene: &Scene) -> Result<String, String> {
    let mut session = login(&scene.victim)?;
    let (mut aborted, mut completed) = (0, 0);
    let manage = |session: &mut Session, function| {
        session
            .manage(function)
            .map_err(|error| format!("{function:?}: {error}"))
    };
    for _ in 0..20 {
        let mut tags = Vec::new();
        for number in 0..32 {
            let sectors = Sectors {
                first: number * 2048,
                count: 2048,
            };
            let write = scsi::write(sectors, vec![0xab; sectors.byte_count()]);
            tags.push(session.submit(write).map_err(|error| error.to_string())?);
        }
        for tag in tags.iter().step_by(2) {
            // 0: aborted; 1: it had ended already.
            match manage(&mut session, TaskManagement::AbortTask(*tag))? {
                0 => aborted += 1,
                1 => {}
                code => return Err(format!("ABORT TASK answered with {code}")),
            }
        }
        match manage(&mut session, TaskManagement::LunReset)? {
            0 => {}
            code => return Err(format!("LUN RESET answered with {code}")),
        }
        while let Ok(Some(_)) = session.complete(Duration::from_millis(1)) {
            completed += 1;
        }
        assert_eq!(session.outstanding_count(), 0);
        ready(&mut session)?;
    }
    session
        .logout()
        .map_err(|error| format!("logout: {error}"))?;
    Ok(format!(
        "640 writes: {aborted} aborted one by one, {completed} completed, 20 LUN resets"
    ))
}

/// Data-Out for no task, for a read, and with a transfer tag nobody gave.
pub(super) fn unasked_data(scene: &Scene) -> Result<String, String> {
    let mut details = Vec::new();
    for (name, transfer_tag) in [("no R2T", RESERVED_TAG), ("strange R2T", 0x1234)] {
        let mut session = login(&scene.victim)?;
        for number in 0..200 {
            let mut pdu = Pdu::new(opcode::DATA_OUT);
            pdu.header[1] = 0x80;
            pdu.put_u32(16, 0x5000 + number);
            pdu.put_u32(20, transfer_tag);
            pdu.put_u32(40, 0xffff_f000);
            pdu.data = vec![0xdd; 8192];
            if session.wire().send(&pdu, TIMEOUT).is_err() {
                break;
            }
        }
        let seen = answers(session.wire(), Duration::from_millis(500));
        details.push(format!("{name}: {seen}"));
    }
    Ok(details.join("; "))
}

/// Pings that are never read: the target must stop taking them, or close.
pub(super) fn nop_flood(scene: &Scene) -> Result<String, String> {
    let mut session = login(&scene.victim)?;
    let mut pdu = session.request(opcode::NOP_OUT, 0x80, 0x7777);
    pdu.set_immediate();
    pdu.put_u32(20, RESERVED_TAG);
    pdu.data = vec![0x55; 4096];
    let bytes = pdu.encode(Digests::default()).repeat(64);
    let wire = session.wire();
    let mut sent = 0;
    for _ in 0..2_000 {
        let went = wire.send_blindly(&bytes, Duration::from_secs(1));
        sent += went;
        if went < bytes.len() {
            return Ok(format!(
                "the target stopped taking them after {} KiB",
                sent >> 10
            ));
        }
    }
    Err(format!(
        "the target took {} MiB of pings that nobody read",
        sent >> 20
    ))
}

/// Writes of 4 MiB whose data never comes.
pub(super) fn unanswered_r2t(scene: &Scene) -> Result<String, String> {
    let mut sessions = Vec::new();
    let mut commands = 0;
    for number in 0..8 {
        let options = Options {
            immediate_data: false,
            ..scene.victim.clone()
        };
        let mut session = login(&options.with_session(number + 10))?;
        let (next, max, _) = session.numbers();
        for offset in 0..=max.wrapping_sub(next) {
            let tag = session.take_tag();
            let mut command = session.request(opcode::SCSI_COMMAND, 0x80 | 0x20 | 1, tag);
            command.put_u32(20, LARGE_SECTORS * 512);
            command.put_u32(24, next.wrapping_add(offset));
            command.header[32..48].copy_from_slice(&large_write_cdb());
            session
                .wire()
                .send(&command, TIMEOUT)
                .map_err(|error| error.to_string())?;
            commands += 1;
        }
        sessions.push(session);
    }
    thread::sleep(STAY);
    let seen = answers(sessions[0].wire(), Duration::from_millis(100));
    Ok(format!(
        "8 sessions, {commands} writes of 4 MiB; the first session saw {seen}"
    ))
}

/// Hosts that ask for much and read nothing.
pub(super) fn slow_readers(scene: &Scene) -> Result<String, String> {
    let mut writer = login(&scene.victim)?;
    for number in 0..16u8 {
        let sectors = Sectors {
            first: u64::from(number) * u64::from(LARGE_SECTORS),
            count: LARGE_SECTORS,
        };
        let data = vec![number + 1; sectors.byte_count()];
        let completion = writer.execute(scsi::write(sectors, data));
        completion.map_err(|error| error.to_string())?.good()?;
    }
    let mut sessions = Vec::new();
    let mut commands = 0;
    for number in 0..16 {
        let mut session = login(&scene.victim.clone().with_session(number + 30))?;
        let (next, max, _) = session.numbers();
        let mut bytes = Vec::new();
        for offset in 0..=max.wrapping_sub(next) {
            let tag = session.take_tag();
            let mut command = session.request(opcode::SCSI_COMMAND, 0x80 | 0x40 | 1, tag);
            let first = u64::from(offset % 16) * u64::from(LARGE_SECTORS);
            command.put_u32(20, LARGE_SECTORS * 512);
            command.put_u32(24, next.wrapping_add(offset));
            command.header[32..48].copy_from_slice(
                &scsi::read(Sectors {
                    first,
                    count: LARGE_SECTORS,
                })
                .cdb,
            );
            bytes.extend_from_slice(&command.encode(Digests::default()));
            commands += 1;
        }
        session.wire().send_blindly(&bytes, Duration::from_secs(1));
        sessions.push(session);
    }
    thread::sleep(STAY);
    Ok(format!(
        "16 sessions asked for {} GiB and read nothing",
        commands * 4 / 1024
    ))
}

/// Connections that are opened and dropped as fast as it goes.
pub(super) fn dropped_connections(scene: &Scene) -> Result<String, String> {
    for _ in 0..2_000 {
        drop(connect(scene)?);
    }
    Ok("all were accepted".into())
}

/// Ten thousand idle connections; a new host must be able to log in when they are gone.
pub(super) fn ten_thousand(scene: &Scene) -> Result<String, String> {
    let mut open = Vec::with_capacity(10_000);
    let mut refused = 0;
    for _ in 0..10_000 {
        match TcpStream::connect_timeout(&scene.portal, Duration::from_secs(2)) {
            Ok(stream) => open.push(stream),
            Err(_) => refused += 1,
        }
        if refused > 20 {
            break;
        }
    }
    let beside = match Session::login(&scene.victim) {
        Ok(_) => "a new host logged in beside them".into(),
        Err(error) => format!("a new host beside them: {error}"),
    };
    thread::sleep(STAY);
    let count = open.len();
    drop(open);
    let started = Instant::now();
    while let Err(error) = Session::login(&scene.victim) {
        if started.elapsed() > Duration::from_secs(20) {
            return Err(format!("no new host can log in afterwards: {error}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(format!("{count} opened, {refused} refused; {beside}"))
}
