//! The login phase: security with optional CHAP, then the operational keys.
//!
//! It offers what the lanes ask for and takes what the target chose. The declared limits are
//! checked where they are used, in `session`.

use std::net::SocketAddr;
use std::time::Duration;

use super::Error;
use super::chap::{self, Chap};
use super::pdu::{Digests, Pdu, opcode};
use super::wire::Wire;

/// Requests of one login at most: a target that never ends the login is refused.
const REQUESTS_MAX: usize = 16;
/// Identifier and challenge we send when CHAP is mutual.
const OUR_IDENTIFIER: u8 = 0x5a;
const OUR_CHALLENGE: &[u8; 16] = b"holdfast-lane-01";

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// What a lane wants of a session.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) portal: SocketAddr,
    /// Target name; `None` is a discovery session.
    pub(crate) target: Option<String>,
    pub(crate) initiator: String,
    /// Tells sessions of one initiator apart.
    pub(crate) isid: [u8; 6],
    pub(crate) lun: u8,
    pub(crate) chap: Option<Chap>,
    pub(crate) digests: Digests,
    pub(crate) immediate_data: bool,
    pub(crate) initial_r2t: bool,
    /// Bounds connecting, each login step and each wait for room to send.
    pub(crate) timeout: Duration,
}

impl Options {
    /// The common case: no CHAP, no digests, immediate data.
    pub(crate) fn new(portal: SocketAddr, target: &str) -> Self {
        Self {
            portal,
            target: Some(target.into()),
            initiator: "iqn.2026-11.io.holdfast.lane:host".into(),
            isid: [0x80, 0, 0, 0x48, 0x46, 1],
            lun: 0,
            chap: None,
            digests: Digests::default(),
            immediate_data: true,
            initial_r2t: true,
            timeout: Duration::from_secs(10),
        }
    }

    /// The same with another last byte of the ISID: another session of this initiator.
    pub(crate) fn with_session(mut self, number: u8) -> Self {
        self.isid[5] = number;
        self
    }
}

/// What was agreed.
#[derive(Clone, Debug)]
pub(crate) struct Agreed {
    pub(crate) immediate_data: bool,
    pub(crate) initial_r2t: bool,
    /// Longest data segment the target takes.
    pub(crate) send_segment_max: usize,
    pub(crate) first_burst: usize,
    pub(crate) max_burst: usize,
    pub(crate) command_sn: u32,
    pub(crate) command_sn_max: u32,
    pub(crate) status_sn: u32,
}

/// Logs in on a fresh connection.
pub(crate) fn login(wire: &mut Wire, options: &Options) -> Result<Agreed, Error> {
    let mut login = Login::new(options);
    login.security(wire)?;
    let answers = login.operational(wire)?;
    let digest = |key| value(&answers, key) == Some("CRC32C");
    wire.digests = Digests {
        header: digest("HeaderDigest"),
        data: digest("DataDigest"),
    };
    login.agreed(&answers)
}

/// `key=value` pairs as they came.
pub(crate) type Keys = Vec<(String, String)>;

/// The value of a key.
pub(crate) fn value<'a>(keys: &'a Keys, key: &str) -> Option<&'a str> {
    keys.iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.as_str())
}

/// NUL-separated `key=value` text.
pub(crate) fn parse_keys(data: &[u8]) -> Keys {
    String::from_utf8_lossy(data)
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A login request without data; `transit` sets T with the next stage.
pub(crate) fn login_request(isid: [u8; 6], stage: u8, transit: Option<u8>) -> Pdu {
    let mut pdu = Pdu::new(opcode::LOGIN);
    pdu.set_immediate();
    pdu.header[1] = stage << 2;
    if let Some(next) = transit {
        pdu.header[1] |= 0x80 | next;
    }
    pdu.header[8..14].copy_from_slice(&isid);
    pdu.put_u32(16, 1);
    pdu.put_u32(24, 1);
    pdu
}

struct Login<'a> {
    options: &'a Options,
    status_sn_next: u32,
    last: Option<Pdu>,
}

impl<'a> Login<'a> {
    fn new(options: &'a Options) -> Self {
        Self {
            options,
            status_sn_next: 0,
            last: None,
        }
    }

    fn security(&mut self, wire: &mut Wire) -> Result<(), Error> {
        let mut text = vec![format!("InitiatorName={}", self.options.initiator)];
        match &self.options.target {
            Some(target) => {
                text.push("SessionType=Normal".into());
                text.push(format!("TargetName={target}"));
            }
            None => text.push("SessionType=Discovery".into()),
        }
        let Some(chap) = &self.options.chap else {
            text.push("AuthMethod=None".into());
            let (_, moved) = self.exchange(wire, SECURITY, Some(OPERATIONAL), &text)?;
            return require(moved, "the target did not leave the security stage");
        };
        text.push("AuthMethod=CHAP".into());
        let (keys, _) = self.exchange(wire, SECURITY, None, &text)?;
        require(
            value(&keys, "AuthMethod") == Some("CHAP"),
            "the target did not choose CHAP",
        )?;
        let (keys, _) = self.exchange(wire, SECURITY, None, &["CHAP_A=7,5".into()])?;
        let (answer, proof) = answer_challenge(chap, &keys)?;
        let (keys, moved) = self.exchange(wire, SECURITY, Some(OPERATIONAL), &answer)?;
        require(moved, "the target did not leave the security stage")?;
        if let (Some((name, _)), Some(expected)) = (&chap.mutual, proof) {
            let proven = value(&keys, "CHAP_R").and_then(chap::from_hex);
            require(
                value(&keys, "CHAP_N") == Some(name),
                "the target has another CHAP name",
            )?;
            require(
                proven == Some(expected),
                "the target did not prove its secret",
            )?;
        }
        Ok(())
    }

    fn operational(&mut self, wire: &mut Wire) -> Result<Keys, Error> {
        let yes = |flag: bool| if flag { "Yes" } else { "No" };
        let digest = |flag: bool| if flag { "CRC32C" } else { "None" };
        let mut text = vec![
            format!("HeaderDigest={}", digest(self.options.digests.header)),
            format!("DataDigest={}", digest(self.options.digests.data)),
            "MaxRecvDataSegmentLength=262144".into(),
            "DefaultTime2Wait=2".into(),
            "DefaultTime2Retain=0".into(),
            "ErrorRecoveryLevel=0".into(),
        ];
        if self.options.target.is_some() {
            text.extend([
                format!("InitialR2T={}", yes(self.options.initial_r2t)),
                format!("ImmediateData={}", yes(self.options.immediate_data)),
                "MaxBurstLength=1048576".into(),
                "FirstBurstLength=262144".into(),
                "MaxOutstandingR2T=8".into(),
                "MaxConnections=1".into(),
                "DataPDUInOrder=Yes".into(),
                "DataSequenceInOrder=Yes".into(),
            ]);
        }
        let (mut keys, mut moved) = self.exchange(wire, OPERATIONAL, Some(FULL_FEATURE), &text)?;
        for _ in 0..REQUESTS_MAX {
            if moved {
                return Ok(keys);
            }
            // The target may declare keys of its own and end the stage in a later answer.
            let (more, now) = self.exchange(wire, OPERATIONAL, Some(FULL_FEATURE), &[])?;
            keys.extend(more);
            moved = now;
        }
        Err(Error::Protocol("the target does not end the login".into()))
    }

    /// One request and its whole answer: the keys, and whether the stage ended.
    fn exchange(
        &mut self,
        wire: &mut Wire,
        stage: u8,
        transit: Option<u8>,
        text: &[String],
    ) -> Result<(Keys, bool), Error> {
        let mut data = Vec::new();
        for pair in text {
            data.extend_from_slice(pair.as_bytes());
            data.push(0);
        }
        let mut request = login_request(self.options.isid, stage, transit);
        request.data = data;
        let mut answer = Vec::new();
        for _ in 0..REQUESTS_MAX {
            request.put_u32(28, self.status_sn_next);
            wire.send(&request, self.options.timeout)?;
            let response = self.response(wire)?;
            answer.extend_from_slice(&response.data);
            let flags = response.header[1];
            self.last = Some(response);
            if flags & 0x40 == 0 {
                return Ok((parse_keys(&answer), flags & 0x80 != 0));
            }
            request = login_request(self.options.isid, stage, None);
        }
        Err(Error::Protocol("a login answer without end".into()))
    }

    fn response(&mut self, wire: &mut Wire) -> Result<Pdu, Error> {
        let Some(response) = wire.receive(self.options.timeout)? else {
            return Err(Error::TimedOut("waiting for a login response"));
        };
        if response.opcode() == opcode::REJECT {
            return Err(Error::Rejected {
                reason: response.header[2],
            });
        }
        if response.opcode() != opcode::LOGIN_RESPONSE {
            let what = format!(
                "opcode {:#04x} instead of a login response",
                response.opcode()
            );
            return Err(Error::Protocol(what));
        }
        let (class, detail) = (response.header[36], response.header[37]);
        if class != 0 {
            return Err(Error::Login { class, detail });
        }
        self.status_sn_next = response.u32_at(24).wrapping_add(1);
        Ok(response)
    }

    fn agreed(&self, keys: &Keys) -> Result<Agreed, Error> {
        let last = self
            .last
            .as_ref()
            .expect("a login has at least one response");
        let number = |key: &str, default: usize| match value(keys, key) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| Error::Protocol(format!("{key}={text} is no number"))),
        };
        let flag = |key: &str, default: bool| value(keys, key).map_or(default, |v| v == "Yes");
        Ok(Agreed {
            immediate_data: flag("ImmediateData", true),
            initial_r2t: flag("InitialR2T", true),
            send_segment_max: number("MaxRecvDataSegmentLength", 8192)?,
            first_burst: number("FirstBurstLength", 65536)?,
            max_burst: number("MaxBurstLength", 262_144)?,
            command_sn: 1,
            command_sn_max: last.u32_at(32),
            status_sn: last.u32_at(24),
        })
    }
}

/// Our answer to the target's challenge, and what it must prove when CHAP is mutual.
fn answer_challenge(chap: &Chap, keys: &Keys) -> Result<(Vec<String>, Option<Vec<u8>>), Error> {
    let missing = |key: &str| Error::Protocol(format!("the target sent no usable {key}"));
    let algorithm = value(keys, "CHAP_A").ok_or_else(|| missing("CHAP_A"))?;
    let identifier: u8 = value(keys, "CHAP_I")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| missing("CHAP_I"))?;
    let challenge = value(keys, "CHAP_C")
        .and_then(chap::from_hex)
        .ok_or_else(|| missing("CHAP_C"))?;
    let response = chap::digest(algorithm, identifier, &chap.secret, &challenge)
        .ok_or_else(|| missing("CHAP_A"))?;
    let mut answer = vec![
        format!("CHAP_N={}", chap.user),
        format!("CHAP_R={}", chap::to_hex(&response)),
    ];
    let proof = chap.mutual.as_ref().and_then(|(_, secret)| {
        answer.push(format!("CHAP_I={OUR_IDENTIFIER}"));
        answer.push(format!("CHAP_C={}", chap::to_hex(OUR_CHALLENGE)));
        chap::digest(algorithm, OUR_IDENTIFIER, secret, OUR_CHALLENGE)
    });
    Ok((answer, proof))
}

fn require(holds: bool, what: &str) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::Protocol(what.into()))
    }
}
