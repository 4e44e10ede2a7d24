//! Login of one connection (RFC 7143 §6.3): names, stages, proof, parameters. Bounded in time, text and keys.
//!
//! The target is asked for after the first whole text; until then nothing is known but names. Every
//! refusal ends the connection. Replies fit one PDU, so the C bit is never needed towards the host.

pub mod chap;
pub mod negotiation;

use crate::access::Access;
use crate::effect::{CloseReason, Effect, Outgoing, SendData};
use crate::framing::Digests;
use crate::limits::{COMMAND_WINDOW, LOGIN_BYTES_MAX, LOGIN_REPLY_BYTES_MAX, LOGIN_REQUESTS_MAX};
use crate::login::chap::Exchange;
use crate::login::negotiation::{Parameters, Place};
use crate::pdu::login::{LoginRequest, LoginResponse, LoginStatus, Stage};
use crate::pdu::{self, Numbers};
use crate::scsi::limits::ISCSI_NAME_BYTES_MAX;
use crate::scsi::nexus::{InitiatorPort, TARGET_PORT, TargetPort};
use crate::text::{self, Writer};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

/// What the first request fixes for the whole login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) isid: [u8; 6],
    pub(crate) tsih: u16,
    pub(crate) initiator_task_tag: u32,
    pub(crate) cid: u16,
    pub(crate) cmd_sn: u32,
}

/// What kind of session is wanted, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) initiator: String,
    /// `None` for discovery.
    pub(crate) target: Option<String>,
}

/// What a request led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered; more will come.
    Continue,
    /// The target is wanted; then `proceed`.
    Bind(String),
    /// Both sides are ready for full feature phase: `accept` or `refuse`.
    Ready,
    /// Answered with a refusal, or not at all.
    Close(CloseReason),
}

type Step = Result<Outcome, LoginStatus>;

/// The machine.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) started: Duration,
    pub(crate) names: Option<Names>,
    pub(crate) parameters: Parameters,
    opening: Option<Opening>,
    requests: usize,
    bytes: usize,
    text: Vec<u8>,
    stage: Option<Stage>,
    request: Option<LoginRequest>,
    reply: Vec<u8>,
    chap: Exchange,
    chap_chosen: bool,
    /// Of the portal that the host came by.
    group: TargetPort,
    group_tag_told: bool,
    declared: bool,
    stat_sn: u32,
}

impl Login {
    pub(crate) fn new(random: &[u8; 32], now: Duration) -> Self {
        Login {
            started: now,
            names: None,
            parameters: Parameters::default(),
            opening: None,
            requests: 0,
            bytes: 0,
            text: Vec::new(),
            stage: None,
            request: None,
            reply: Vec::new(),
            chap: Exchange::new(random),
            chap_chosen: false,
            group: TARGET_PORT,
            group_tag_told: false,
            declared: false,
            stat_sn: 1,
        }
    }

    /// The first request's identifiers.
    pub(crate) fn opening(&self) -> Opening {
        self.opening.expect("login has begun")
    }

    /// The session's port.
    pub(crate) fn port(&self) -> InitiatorPort {
        InitiatorPort {
            name: self
                .names
                .as_ref()
                .expect("names are known")
                .initiator
                .clone(),
            isid: self.opening().isid,
        }
    }

    /// StatSN of the next status, for the session that follows.
    pub(crate) fn next_stat_sn(&self) -> u32 {
        self.stat_sn
    }

    /// Takes a request with its text. `access` is `None` until the target is bound.
    pub(crate) fn on_request(
        &mut self,
        request: LoginRequest,
        segment: &[u8],
        access: Option<&Access>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        self.requests += 1;
        self.bytes += segment.len();
        if self.requests > LOGIN_REQUESTS_MAX {
            return Outcome::Close(CloseReason::LoginLimit("too many requests"));
        }
        if self.bytes > LOGIN_BYTES_MAX {
            return Outcome::Close(CloseReason::LoginLimit("too much text"));
        }
        self.request = Some(request);
        match self.admit(request, segment, access, effects) {
            Ok(outcome) => outcome,
            Err(status) => self.refuse(status, effects),
        }
    }

    /// The target is elsewhere now: the host shall log in there. The connection closes behind it.
    pub(crate) fn redirect(
        &mut self,
        access: &Access,
        address: &str,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let names = self.names.as_ref().expect("names are known");
        if !access.admits(&names.initiator) {
            return self.refuse(LoginStatus::Forbidden, effects);
        }
        let mut reply = Writer::new(LOGIN_REPLY_BYTES_MAX);
        //= RFC 7143 §13.8
        //# If the TargetAddress is returned as the result of a redirect, the comma and portal group tag MUST be omitted.
        reply.put("TargetAddress", address);
        let Ok(text) = reply.finish() else {
            return self.refuse(LoginStatus::ServiceUnavailable, effects);
        };
        let status = LoginStatus::MovedTemporarily;
        self.respond(None, 0, status, text, effects);
        Outcome::Close(CloseReason::LoginRefused(status as u16))
    }

    /// Goes on after the target was bound, by a portal of this group.
    pub(crate) fn proceed(
        &mut self,
        access: &Access,
        group: TargetPort,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        self.group = group;
        match self.answer(access, effects) {
            Ok(outcome) => outcome,
            Err(status) => self.refuse(status, effects),
        }
    }

    /// The last response: full feature phase begins behind it.
    pub(crate) fn accept(&mut self, tsih: u16, effects: &mut Vec<Effect>) {
        let reply = core::mem::take(&mut self.reply);
        self.respond(
            Some(Stage::FullFeature),
            tsih,
            LoginStatus::Success,
            reply,
            effects,
        );
    }

    /// A refusal; the connection closes behind it.
    pub(crate) fn refuse(&mut self, status: LoginStatus, effects: &mut Vec<Effect>) -> Outcome {
        self.respond(None, 0, status, Vec::new(), effects);
        Outcome::Close(CloseReason::LoginRefused(status as u16))
    }

    fn admit(
        &mut self,
        request: LoginRequest,
        segment: &[u8],
        access: Option<&Access>,
        effects: &mut Vec<Effect>,
    ) -> Step {
        self.check_header(&request)?;
        self.text.extend_from_slice(segment);
        if request.text_continues {
            //= RFC 7143 §6.2
            //# A target receiving a Login Request with the C bit set to 1 MUST answer with a Login Response with no data segment.
            self.respond(None, 0, LoginStatus::Success, Vec::new(), effects);
            return Ok(Outcome::Continue);
        }
        if self.names.is_none() {
            let pairs = text::decode(&self.text).map_err(|_| LoginStatus::InitiatorError)?;
            let names = read_names(&pairs)?;
            self.names = Some(names.clone());
            if let Some(target) = names.target {
                return Ok(Outcome::Bind(target));
            }
        }
        self.answer(access.ok_or(LoginStatus::InitiatorError)?, effects)
    }

    fn check_header(&mut self, request: &LoginRequest) -> Result<(), LoginStatus> {
        //= RFC 7143 §11.12.4
        //# Version-min: all Login Requests of a login carry the same; ours is 0.
        if request.version_min > 0 {
            return Err(LoginStatus::UnsupportedVersion);
        }
        let opening = Opening {
            isid: request.isid,
            tsih: request.tsih,
            initiator_task_tag: request.initiator_task_tag,
            cid: request.cid,
            cmd_sn: request.cmd_sn,
        };
        let first = *self.opening.get_or_insert(opening);
        let same = Opening {
            cmd_sn: first.cmd_sn,
            ..opening
        };
        let stage = request.current_stage.ok_or(LoginStatus::InitiatorError)?;
        let forward = !request.transit || request.next_stage.is_some_and(|next| next > stage);
        let in_order = self.stage.is_none_or(|current| current == stage);
        let legal = same == first
            && stage != Stage::FullFeature
            && forward
            && in_order
            //= RFC 7143 §11.12.2
            //# The T bit MUST be 0 when the C bit is set to 1.
            && !(request.transit && request.text_continues);
        if !legal {
            return Err(LoginStatus::InitiatorError);
        }
        self.stage = Some(stage);
        Ok(())
    }

    /// Answers a whole text.
    fn answer(&mut self, access: &Access, effects: &mut Vec<Effect>) -> Step {
        let request = self.request.expect("a request waits for its answer");
        let held = core::mem::take(&mut self.text);
        let pairs = text::decode(&held).map_err(|_| LoginStatus::InitiatorError)?;
        let names = self.names.as_ref().expect("names are known");
        if !access.admits(&names.initiator) {
            return Err(LoginStatus::Forbidden);
        }
        let mut reply = Writer::new(LOGIN_REPLY_BYTES_MAX);
        if names.target.is_some() && !self.group_tag_told {
            //= RFC 7143 §13.9
            //# The target portal group tag MUST be returned in the first Login Response of a normal session.
            reply.put("TargetPortalGroupTag", &self.group.0.to_string());
            self.group_tag_told = true;
        }
        let may_leave = match self.stage {
            Some(Stage::Security) => self.answer_security(access, &pairs, request, &mut reply)?,
            _ => self.answer_operational(access, &pairs, &mut reply)?,
        };
        let reply = reply.finish().map_err(|_| LoginStatus::InitiatorError)?;
        let next = request.next_stage.filter(|_| request.transit && may_leave);
        if next == Some(Stage::FullFeature) {
            self.parameters.settle();
            self.reply = reply;
            return Ok(Outcome::Ready);
        }
        self.respond(next, 0, LoginStatus::Success, reply, effects);
        Ok(Outcome::Continue)
    }

    /// Says whether the security stage may end.
    fn answer_security(
        &mut self,
        access: &Access,
        pairs: &[text::Pair<'_>],
        request: LoginRequest,
        reply: &mut Writer,
    ) -> Result<bool, LoginStatus> {
        for (name, value) in pairs {
            match *name {
                "AuthMethod" => self.choose_method(access, value, reply)?,
                name if is_chap(name) => {
                    if !self.chap_chosen {
                        return Err(LoginStatus::AuthenticationFailure);
                    }
                }
                "InitiatorName" | "TargetName" | "SessionType" | "InitiatorAlias" => {}
                name if text::key::find(name).is_some() => reply.put(name, "Reject"),
                name => reply.put(name, "NotUnderstood"),
            }
        }
        if self.chap_chosen {
            self.chap
                .step(access, pairs, reply)
                .map_err(|_| LoginStatus::AuthenticationFailure)?;
        } else if access.chap().is_some() && request.transit {
            // The host wants to leave without having offered a proof.
            return Err(LoginStatus::AuthenticationFailure);
        }
        Ok(self.is_admitted(access))
    }

    fn choose_method(
        &mut self,
        access: &Access,
        offer: &str,
        reply: &mut Writer,
    ) -> Result<(), LoginStatus> {
        if self.chap_chosen {
            return Err(LoginStatus::InitiatorError);
        }
        let wanted = if access.chap().is_some() {
            "CHAP"
        } else {
            "None"
        };
        if !offer.split(',').any(|method| method == wanted) {
            return Err(LoginStatus::AuthenticationFailure);
        }
        self.chap_chosen = access.chap().is_some();
        reply.put("AuthMethod", wanted);
        Ok(())
    }

    fn answer_operational(
        &mut self,
        access: &Access,
        pairs: &[text::Pair<'_>],
        reply: &mut Writer,
    ) -> Result<bool, LoginStatus> {
        //= RFC 7143 §6.3.2
        //# If the target requires authentication and the initiator skips the security stage, it is refused with an authentication failure.
        if !self.is_admitted(access) {
            return Err(LoginStatus::AuthenticationFailure);
        }
        let discovery = self
            .names
            .as_ref()
            .is_some_and(|names| names.target.is_none());
        let place = if discovery {
            Place::DiscoveryLogin
        } else {
            Place::NormalLogin
        };
        for (name, value) in pairs {
            if *name == "AuthMethod" || is_chap(name) {
                reply.put(name, "Reject");
            } else {
                self.parameters.negotiate(place, name, value, reply);
            }
        }
        if !self.declared {
            negotiation::declare(reply);
            self.declared = true;
        }
        Ok(true)
    }

    fn is_admitted(&self, access: &Access) -> bool {
        access.chap().is_none() || self.chap.is_proven()
    }

    fn respond(
        &mut self,
        next: Option<Stage>,
        tsih: u16,
        status: LoginStatus,
        text: Vec<u8>,
        effects: &mut Vec<Effect>,
    ) {
        let opening = self.opening.unwrap_or(Opening {
            isid: [0; 6],
            tsih: 0,
            initiator_task_tag: self.request.map_or(0, |request| request.initiator_task_tag),
            cid: 0,
            cmd_sn: 0,
        });
        let current = self.stage.unwrap_or(Stage::Security);
        let mut header = LoginResponse {
            transit: next.is_some(),
            text_continues: false,
            current_stage: current,
            next_stage: next.unwrap_or(current),
            isid: opening.isid,
            tsih: if tsih == 0 { opening.tsih } else { tsih },
            initiator_task_tag: opening.initiator_task_tag,
            numbers: Numbers {
                stat_sn: self.stat_sn,
                exp_cmd_sn: opening.cmd_sn,
                max_cmd_sn: opening.cmd_sn.wrapping_add(COMMAND_WINDOW - 1),
            },
            status: status as u16,
        }
        .encode();
        self.stat_sn = self.stat_sn.wrapping_add(1);
        if let Some(next) = next {
            self.stage = Some(next);
        }
        pdu::put_data_bytes(&mut header, text.len());
        let data = if text.is_empty() {
            SendData::None
        } else {
            SendData::Bytes(text)
        };
        effects.push(Effect::Send(Outgoing {
            header,
            data,
            digests: Digests::default(),
        }));
    }
}

fn is_chap(name: &str) -> bool {
    matches!(name, "CHAP_A" | "CHAP_I" | "CHAP_C" | "CHAP_N" | "CHAP_R")
}

fn read_names(pairs: &[text::Pair<'_>]) -> Result<Names, LoginStatus> {
    let value = |name: &str| {
        pairs
            .iter()
            .find(|(key, _)| *key == name)
            .map(|pair| pair.1)
    };
    let named = |name: &str| match value(name) {
        Some(value) if !value.is_empty() && value.len() <= ISCSI_NAME_BYTES_MAX => {
            //= RFC 7143 §4.2.7.1
            //# iSCSI names are compared after normalisation to lower case.
            Ok(value.to_lowercase())
        }
        Some(_) => Err(LoginStatus::InitiatorError),
        //= RFC 7143 §11.13.5
        //# 0207 Missing parameter: the initiator did not send a required parameter.
        None => Err(LoginStatus::MissingParameter),
    };
    let initiator = named("InitiatorName")?;
    let target = match value("SessionType") {
        Some("Discovery") => None,
        Some("Normal") | None => Some(named("TargetName")?),
        Some(_) => return Err(LoginStatus::SessionTypeNotSupported),
    };
    Ok(Names { initiator, target })
}

#[cfg(test)]
mod tests;
