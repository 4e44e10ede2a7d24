//! Attacks before the full feature phase: text, stages, CHAP.

use std::time::{Duration, Instant};

use super::{SECRET, Scene};
use crate::initiator::Error;
use crate::initiator::chap::{self, Chap};
use crate::initiator::login::{self, Options, login_request};
use crate::initiator::pdu::{Pdu, RESERVED_TAG, opcode};
use crate::initiator::session::Session;
use crate::initiator::wire::Wire;

const TIMEOUT: Duration = Duration::from_secs(5);
/// The target gives a login 15 s; the rest is for two busy CPUs.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of login text after which a target must have given up.
const LOGIN_TEXT_BYTES_MAX: usize = 16 << 20;

/// What became of a hostile login.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Refused with a login status, or a Reject.
    Refused,
    /// The connection was closed.
    Closed,
    /// The target went on with the login.
    WentOn,
}

fn outcome(result: &Result<Option<Pdu>, Error>) -> Result<Outcome, String> {
    match result {
        Ok(Some(pdu)) if pdu.opcode() == opcode::REJECT => Ok(Outcome::Refused),
        Ok(Some(pdu)) if pdu.opcode() == opcode::LOGIN_RESPONSE && pdu.header[36] != 0 => {
            Ok(Outcome::Refused)
        }
        Ok(Some(pdu)) if pdu.opcode() == opcode::LOGIN_RESPONSE => Ok(Outcome::WentOn),
        Ok(Some(pdu)) => Err(format!("answered with opcode {:#04x}", pdu.opcode())),
        Ok(None) => Err("no answer and no end of the connection".into()),
        Err(Error::Closed | Error::Socket(_)) => Ok(Outcome::Closed),
        Err(error) => Err(error.to_string()),
    }
}

fn connect(scene: &Scene) -> Result<Wire, String> {
    Wire::connect(scene.portal, TIMEOUT).map_err(|error| error.to_string())
}

/// A first login request in the security stage with this text behind the names.
fn first_request(options: &Options, extra: &str) -> Pdu {
    let target = options.target.as_deref().unwrap_or_default();
    let mut pdu = login_request(options.isid, 0, None);
    let names = format!(
        "InitiatorName={}\0SessionType=Normal\0TargetName={target}\0{extra}",
        options.initiator
    );
    pdu.data = names.into_bytes();
    pdu
}

/// Sends a PDU and waits for what the target makes of it.
fn ask(wire: &mut Wire, pdu: &Pdu) -> Result<Outcome, String> {
    match wire.send(pdu, TIMEOUT) {
        Ok(()) => outcome(&wire.receive(TIMEOUT)),
        Err(error) => outcome(&Err(error)),
    }
}

/// Every opcode but login, as the first thing said.
pub(super) fn wrong_first_pdu(scene: &Scene) -> Result<String, String> {
    for first in (0..=0x3f).filter(|code| *code != opcode::LOGIN) {
        let mut wire = connect(scene)?;
        let mut pdu = Pdu::new(first);
        pdu.header[1] = 0x80;
        pdu.put_u32(16, 7);
        pdu.put_u32(20, RESERVED_TAG);
        pdu.data = b"x".repeat(64);
        let sent = wire.send(&pdu, TIMEOUT);
        if sent.is_ok() && !wire.closed_within(TIMEOUT) {
            return Err(format!(
                "opcode {first:#04x} before login left the connection open"
            ));
        }
    }
    Ok("63 opcodes, each closed the connection".into())
}

/// Unknown keys in the first request, continued over many PDUs, and in a text request.
pub(super) fn unknown_keys(scene: &Scene) -> Result<String, String> {
    let mut wire = connect(scene)?;
    let mut sent = 0;
    let mut last = Outcome::WentOn;
    while sent < 2048 && last == Outcome::WentOn {
        let keys: String = (sent..sent + 128)
            .map(|n| format!("X-unknown-{n}=value-{n}\0"))
            .collect();
        let mut pdu = first_request(&scene.victim, &keys);
        if sent > 0 {
            pdu.data = keys.into_bytes();
        }
        pdu.header[1] |= 0x40;
        sent += 128;
        last = ask(&mut wire, &pdu)?;
    }
    let mut session = Session::login(&scene.victim).map_err(|error| error.to_string())?;
    let text: String = (0..256).map(|n| format!("X-unknown-{n}=v\0")).collect();
    let answered = match session.text(&text) {
        Ok(keys) => format!("{} keys answered", keys.len()),
        Err(error) => error.to_string(),
    };
    Ok(format!(
        "login: {last:?} after {sent} keys; text: {answered}"
    ))
}

/// Key names and values at and over every limit, and text that is no text.
pub(super) fn long_keys(scene: &Scene) -> Result<String, String> {
    let cases = [
        ("name of 64", format!("{}=1\0", "K".repeat(64))),
        ("name of 5000", format!("{}=1\0", "K".repeat(5000))),
        ("value of 256", format!("X-a={}\0", "v".repeat(256))),
        ("value of 7000", format!("X-a={}\0", "v".repeat(7000))),
        ("no value", "AuthMethod\0".into()),
        ("no name", "=None\0".into()),
        ("only NULs", "\0".repeat(4000)),
        ("no end", "AuthMethod=None".into()),
        ("twice", "AuthMethod=None\0AuthMethod=None\0".into()),
        ("control characters", "Auth\x01Method=\x7f\x1b\0".into()),
        (
            "huge number",
            format!("MaxBurstLength={}\0", "9".repeat(200)),
        ),
        ("negative number", "MaxRecvDataSegmentLength=-1\0".into()),
        (
            "hexadecimal number",
            "MaxRecvDataSegmentLength=0xffffffffffffffffff\0".into(),
        ),
    ];
    let mut answers = Vec::new();
    for (name, text) in cases {
        let mut wire = connect(scene)?;
        let result = ask(&mut wire, &first_request(&scene.victim, &text))?;
        answers.push(format!("{name}: {result:?}"));
    }
    Ok(answers.join(", "))
}

/// Login text with the C bit set for ever: the target must end it.
pub(super) fn endless_text(scene: &Scene) -> Result<String, String> {
    let mut wire = connect(scene)?;
    let mut pdu = first_request(&scene.victim, "X-endless=");
    pdu.header[1] |= 0x40;
    let mut sent = 0;
    while sent < LOGIN_TEXT_BYTES_MAX {
        match ask(&mut wire, &pdu)? {
            Outcome::WentOn => {}
            end => return Ok(format!("{end:?} after {sent} bytes")),
        }
        pdu.data = vec![b'v'; 8192];
        sent += pdu.data.len();
    }
    Err(format!("the target took {sent} bytes of login text"))
}

/// CHAP answers that must not log in, and the right one, which must.
pub(super) fn chap_nonsense(scene: &Scene) -> Result<String, String> {
    let long = "A".repeat(6000);
    let answers = [
        String::new(),
        "CHAP_N=host\0CHAP_R=\0".into(),
        "CHAP_N=host\0CHAP_R=0x\0".into(),
        "CHAP_N=host\0CHAP_R=0x0\0".into(),
        "CHAP_N=host\0CHAP_R=0xzz\0".into(),
        "CHAP_N=host\0CHAP_R=0b!!!!\0".into(),
        "CHAP_N=host\0".into(),
        format!("CHAP_N=host\0CHAP_R=0b{long}\0"),
        format!("CHAP_N=host\0CHAP_R=0x{long}\0"),
        format!("CHAP_N={long}\0CHAP_R=0x00112233445566778899aabbccddeeff\0"),
        "CHAP_N=host\0CHAP_R=0x00112233445566778899aabbccddeeff\0".into(),
        "CHAP_N=host\0CHAP_R=0x00112233445566778899aabbccddeeff\0CHAP_I=300\0CHAP_C=0x00\0".into(),
    ];
    for algorithm in ["5", "7", "56", "", "5,", "99999999999999999999"] {
        for answer in &answers {
            if chap_login(scene, algorithm, answer)? == Outcome::WentOn {
                return Err(format!("CHAP_A={algorithm} with {answer:?} was let in"));
            }
        }
    }
    reflected_challenge(scene)?;
    let wrong = Chap {
        user: "host".into(),
        secret: "wrong secret here".into(),
        mutual: None,
    };
    let right = Chap {
        secret: SECRET.into(),
        ..wrong.clone()
    };
    let with = |chap| Options {
        chap: Some(chap),
        ..scene.locked.clone()
    };
    if Session::login(&with(wrong)).is_ok() {
        return Err("a wrong secret was let in".into());
    }
    if Session::login(&scene.locked).is_ok() {
        return Err("no CHAP at all was let in".into());
    }
    Session::login(&with(right)).map_err(|error| format!("the right secret: {error}"))?;
    Ok("74 wrong answers refused, the right one let in".into())
}

/// Goes through the security stage with this algorithm list and this answer.
fn chap_login(scene: &Scene, algorithm: &str, answer: &str) -> Result<Outcome, String> {
    let mut wire = connect(scene)?;
    if ask(
        &mut wire,
        &first_request(&scene.locked, "AuthMethod=CHAP\0"),
    )? != Outcome::WentOn
    {
        return Err("the offer of CHAP was refused".into());
    }
    let mut choice = login_request(scene.locked.isid, 0, None);
    choice.data = format!("CHAP_A={algorithm}\0").into_bytes();
    let chosen = ask(&mut wire, &choice)?;
    if chosen != Outcome::WentOn {
        return Ok(chosen);
    }
    let mut last = login_request(scene.locked.isid, 0, Some(1));
    last.data = answer.as_bytes().to_vec();
    wire.send(&last, TIMEOUT)
        .map_err(|error| error.to_string())?;
    let response = wire.receive(TIMEOUT);
    // Without the transit bit we were not let in, whatever else was said.
    match (&response, outcome(&response)?) {
        (Ok(Some(pdu)), Outcome::WentOn) if pdu.header[1] & 0x80 == 0 => Ok(Outcome::Refused),
        (_, end) => Ok(end),
    }
}

/// Sends the target's own challenge back to learn the answer from it.
fn reflected_challenge(scene: &Scene) -> Result<(), String> {
    let mut wire = connect(scene)?;
    ask(
        &mut wire,
        &first_request(&scene.locked, "AuthMethod=CHAP\0"),
    )?;
    let mut choice = login_request(scene.locked.isid, 0, None);
    choice.data = b"CHAP_A=5\0".to_vec();
    wire.send(&choice, TIMEOUT)
        .map_err(|error| error.to_string())?;
    let Ok(Some(challenge)) = wire.receive(TIMEOUT) else {
        return Err("no challenge".into());
    };
    let keys = login::parse_keys(&challenge.data);
    let get = |key| login::value(&keys, key).unwrap_or_default().to_owned();
    let (identifier, challenge) = (get("CHAP_I"), get("CHAP_C"));
    let guess = chap::to_hex(&[0; 16]);
    let mut last = login_request(scene.locked.isid, 0, Some(1));
    last.data = format!("CHAP_N=host\0CHAP_R={guess}\0CHAP_I={identifier}\0CHAP_C={challenge}\0")
        .into_bytes();
    wire.send(&last, TIMEOUT)
        .map_err(|error| error.to_string())?;
    match wire.receive(TIMEOUT) {
        Ok(Some(pdu)) if login::value(&login::parse_keys(&pdu.data), "CHAP_R").is_some() => {
            Err("the target answered its own challenge".into())
        }
        _ => Ok(()),
    }
}

/// The same session name logs in over and over; each time the old session ends.
pub(super) fn reinstatement(scene: &Scene) -> Result<String, String> {
    let mut previous: Option<Session> = None;
    for number in 0..200 {
        let session = Session::login(&scene.victim)
            .map_err(|error| format!("login {number} of one session name: {error}"))?;
        if let Some(mut old) = previous.replace(session)
            && !old.wire().closed_within(TIMEOUT)
        {
            return Err(format!(
                "session {number} lives on beside the one that replaced it"
            ));
        }
    }
    Ok("each login ended the one before".into())
}

/// Logins that stop in the middle of a header, in the middle of data, and between requests.
pub(super) fn half_open(scene: &Scene) -> Result<String, String> {
    let whole = first_request(&scene.victim, "AuthMethod=None\0").encode(Default::default());
    let started = Instant::now();
    let mut wires = Vec::new();
    for number in 0..300 {
        let mut wire = connect(scene)?;
        let cut = [0, 20, 48, 60, whole.len()][number % 5];
        wire.send_bytes(&whole[..cut], TIMEOUT)
            .map_err(|error| error.to_string())?;
        wires.push(wire);
    }
    let mut open = 0;
    for wire in &mut wires {
        let left = LOGIN_TIME_MAX.saturating_sub(started.elapsed());
        if !wire.closed_within(left.max(Duration::from_millis(1))) {
            open += 1;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    if open > 0 {
        return Err(format!("{open} of 300 are still open after {seconds:.0} s"));
    }
    Ok(format!(
        "all 300 closed by the target within {seconds:.0} s"
    ))
}
