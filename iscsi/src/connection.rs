//! One TCP connection: login, then discovery or full feature phase. Plain data; the driver may move
//! it between shards when login has named the target.
//!
//! A session has one connection (MaxConnections = 1): several portals with multipath in the host
//! give the same throughput, survive the loss of a node, and need no allegiance or task reassignment.
//! ErrorRecoveryLevel is 0: whatever breaks the order of PDUs ends the connection.
//!
//! The driver reads 48 bytes, then up to [`Connection::headers_bytes`], calls `begin`, puts the data
//! segment where `begin` says, calls `finish`, and carries the effects of both out in order. After
//! [`Effect::Close`] it reads nothing more. Time is the driver's, since any fixed moment.

use crate::access::Access;
use crate::effect::{CloseReason, Effect, PeerId, Segment, TaskTag};
use crate::framing::{self, Digests, HEADER_BYTES, header_digest_matches};
use crate::limits::{LOGIN_SEGMENT_BYTES_MAX, LOGIN_TIME_MAX};
use crate::login::{Login, Outcome};
use crate::pdu::login::{LoginRequest, LoginStatus};
use crate::pdu::{self, Header, opcode};
use crate::request::BlockResponse;
use crate::session::{Session, Start};
use crate::target::{Admission, Announcement, Entrance, Target};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

/// Where a connection came in.
#[derive(Clone, Debug)]
pub struct Portal {
    /// Our end of the connection.
    pub local_address: SocketAddr,
    /// Who may ask for the list of targets.
    pub discovery: Access,
}

/// What the driver knows of the target that a login names.
#[derive(Debug)]
pub enum Binding<'a> {
    /// It is served here.
    Served(&'a mut Target),
    /// There is no such target.
    Unknown,
    /// It exists and is not served at this moment.
    Unavailable,
}

/// How a data segment arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Its digest is right, or there is none.
    Intact,
    /// Its digest is wrong.
    DigestError,
}

/// Random bytes that one connection needs: its only CHAP challenge.
pub const RANDOM_BYTES: usize = 32;

/// The protocol machine of one connection.
#[derive(Debug)]
pub struct Connection {
    portal: Portal,
    peer: PeerId,
    machine: Machine,
}

#[derive(Debug)]
enum Machine {
    Login(Box<Entry>),
    Session(Box<Session>),
    Over,
}

/// A login and the request whose text is on its way.
#[derive(Debug)]
struct Entry {
    login: Login,
    request: Option<LoginRequest>,
    /// The session before this one must end first.
    waits: bool,
    closing: bool,
}

impl Connection {
    /// A connection that was just accepted. `random` comes from the operating system's generator.
    pub fn new(portal: Portal, peer: PeerId, random: [u8; RANDOM_BYTES], now: Duration) -> Self {
        Connection {
            portal,
            peer,
            machine: Machine::Login(Box::new(Entry {
                login: Login::new(&random, now),
                request: None,
                waits: false,
                closing: false,
            })),
        }
    }

    /// Digests of what is received next; fixed between `begin` and the next basic header segment.
    pub fn digests(&self) -> Digests {
        match &self.machine {
            Machine::Session(session) => session.digests(),
            Machine::Login(_) | Machine::Over => Digests::default(),
        }
    }

    /// Bytes from the start of a PDU to its data segment, given its first 48 bytes.
    pub fn headers_bytes(&self, basic_header: &[u8; HEADER_BYTES]) -> usize {
        self.digests().headers_bytes(basic_header)
    }

    /// Bytes of task buffers that this connection may hold now, at most
    /// [`SESSION_BUFFER_BYTES_MAX`](crate::limits::SESSION_BUFFER_BYTES_MAX).
    ///
    /// A command beyond it ends with TASK SET FULL, unless the connection holds none: one always fits.
    pub fn set_buffer_room(&mut self, bytes: usize) {
        if let Machine::Session(session) = &mut self.machine {
            session.set_buffer_room(bytes);
        }
    }

    /// Takes the headers of a PDU: exactly `headers_bytes`, digest included; it is checked here.
    pub fn begin(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        headers: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Segment {
        let digests = self.digests();
        match &mut self.machine {
            Machine::Login(entry) => entry.begin(headers, effects),
            //= RFC 7143 §7.7
            //# A header digest error at ErrorRecoveryLevel 0 ends the connection.
            Machine::Session(_) if digests.header && !header_digest_matches(headers) => {
                effects.push(Effect::Close {
                    reason: CloseReason::Protocol("header digest error"),
                });
                Segment::None
            }
            Machine::Session(session) => session.begin(target, now, headers, effects),
            Machine::Over => Segment::None,
        }
    }

    /// Ends a PDU: its data segment is where `begin` said. `inline` is empty unless it said so.
    pub fn finish(
        &mut self,
        target: Option<&mut Target>,
        now: Duration,
        inline: &[u8],
        arrival: Arrival,
        effects: &mut Vec<Effect>,
    ) {
        match &mut self.machine {
            Machine::Login(entry) => {
                let Some(request) = entry.request.take() else {
                    return;
                };
                let discovery = entry
                    .login
                    .names
                    .as_ref()
                    .is_none_or(|names| names.target.is_none());
                let access = match (&target, discovery) {
                    (_, true) => Some(&self.portal.discovery),
                    (Some(target), false) => Some(target.access()),
                    (None, false) => None,
                };
                let outcome = entry.login.on_request(request, inline, access, effects);
                self.follow(outcome, target, now, effects);
            }
            Machine::Session(session) => session.finish(target, now, inline, arrival, effects),
            Machine::Over => {}
        }
    }

    /// Answer to [`Effect::Bind`]. From now on the target goes with every call.
    pub fn bound(&mut self, binding: Binding<'_>, now: Duration, effects: &mut Vec<Effect>) {
        let Machine::Login(entry) = &mut self.machine else {
            return;
        };
        let target = match binding {
            Binding::Served(target) => target,
            Binding::Unknown => return self.refuse(LoginStatus::NotFound, effects),
            Binding::Unavailable => return self.refuse(LoginStatus::ServiceUnavailable, effects),
        };
        let outcome = match target.entrance() {
            Entrance::Closed => return self.refuse(LoginStatus::ServiceUnavailable, effects),
            Entrance::Elsewhere(address) => entry.login.redirect(target.access(), address, effects),
            Entrance::Open => {
                let group = target.unit().paths().own();
                entry.login.proceed(target.access(), group, effects)
            }
        };
        self.follow(outcome, Some(target), now, effects);
    }

    /// Answer to [`Effect::ListTargets`].
    pub fn listed(&mut self, targets: &[Announcement], _now: Duration, effects: &mut Vec<Effect>) {
        if let Machine::Session(session) = &mut self.machine {
            session.listed(targets, effects);
        }
    }

    /// Answer to [`Effect::Execute`], also after `closed`.
    pub fn completed(
        &mut self,
        target: &mut Target,
        _now: Duration,
        task: TaskTag,
        response: BlockResponse,
        effects: &mut Vec<Effect>,
    ) {
        if let Machine::Session(session) = &mut self.machine {
            session.completed(target, task, response, effects);
        }
    }

    /// Answer to [`Effect::Wake`]: acts on what other sessions of the target posted.
    pub fn attend(&mut self, target: &mut Target, now: Duration, effects: &mut Vec<Effect>) {
        match &mut self.machine {
            Machine::Login(entry) if entry.waits && !entry.closing => {
                entry.waits = false;
                self.follow(Outcome::Ready, Some(target), now, effects);
            }
            Machine::Session(session) => session.attend(target, effects),
            Machine::Login(_) | Machine::Over => {}
        }
    }

    /// Time passes; called at least once a second.
    pub fn tick(&mut self, target: Option<&mut Target>, now: Duration, effects: &mut Vec<Effect>) {
        match &mut self.machine {
            Machine::Login(entry) => {
                if now.saturating_sub(entry.login.started) > LOGIN_TIME_MAX {
                    entry.close(CloseReason::LoginLimit("too slow"), effects);
                }
            }
            Machine::Session(session) => session.tick(target, now, effects),
            Machine::Over => {}
        }
    }

    /// Asks the host to log out; the connection closes when it did, or after a bounded time.
    pub fn shutdown(
        &mut self,
        _target: Option<&mut Target>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        match &mut self.machine {
            Machine::Login(entry) => entry.close(CloseReason::Shutdown, effects),
            Machine::Session(session) => session.shutdown(now, effects),
            Machine::Over => {}
        }
    }

    /// The socket is gone: the session ends, its tasks are aborted.
    pub fn closed(
        &mut self,
        target: Option<&mut Target>,
        _now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        match &mut self.machine {
            Machine::Login(_) => {
                if let Some(target) = target {
                    target.stop_waiting(self.peer);
                }
                self.machine = Machine::Over;
            }
            Machine::Session(session) => session.closed(target, effects),
            Machine::Over => {}
        }
    }

    /// After `closed`: no task is with the driver any more, the machine may be dropped.
    pub fn is_over(&self) -> bool {
        match &self.machine {
            Machine::Login(_) => false,
            Machine::Session(session) => session.is_over(),
            Machine::Over => true,
        }
    }

    /// Whether login has ended and the session lives.
    pub fn is_full_feature(&self) -> bool {
        matches!(self.machine, Machine::Session(_))
    }

    fn refuse(&mut self, status: LoginStatus, effects: &mut Vec<Effect>) {
        if let Machine::Login(entry) = &mut self.machine
            && let Outcome::Close(reason) = entry.login.refuse(status, effects)
        {
            entry.close(reason, effects);
        }
    }

    /// Does what a step of login came to.
    fn follow(
        &mut self,
        outcome: Outcome,
        target: Option<&mut Target>,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Machine::Login(entry) = &mut self.machine else {
            return;
        };
        match outcome {
            Outcome::Continue => {}
            Outcome::Bind(target_name) => effects.push(Effect::Bind { target_name }),
            Outcome::Close(reason) => entry.close(reason, effects),
            Outcome::Ready => self.enter(target, now, effects),
        }
    }

    /// Full feature phase, or a refusal, or waiting for the session that has the port.
    fn enter(&mut self, target: Option<&mut Target>, now: Duration, effects: &mut Vec<Effect>) {
        let Machine::Login(entry) = &mut self.machine else {
            return;
        };
        let opening = entry.login.opening();
        let port = entry.login.port();
        if opening.tsih != 0 {
            //= RFC 7143 §11.13.5
            //# 0206 Too many connections, 020a Session does not exist.
            let known = target.is_some_and(|target| target.has_session(&port, opening.tsih));
            let status = if known {
                LoginStatus::TooManyConnections
            } else {
                LoginStatus::SessionDoesNotExist
            };
            return self.refuse(status, effects);
        }
        let initiator = port.name.clone();
        let admitted = match target.map(|target| target.admit(port, self.peer, effects)) {
            None => None,
            Some(Admission::Admitted(admitted)) => Some(admitted),
            Some(Admission::Wait) => {
                entry.waits = true;
                return;
            }
            Some(Admission::Full) => return self.refuse(LoginStatus::OutOfResources, effects),
        };
        entry.login.accept(
            admitted.map_or(DISCOVERY_TSIH, |admitted| admitted.tsih),
            effects,
        );
        let start = Start {
            admitted,
            initiator,
            local_address: self.portal.local_address,
            cid: opening.cid,
            cmd_sn: opening.cmd_sn,
            stat_sn: entry.login.next_stat_sn(),
            parameters: entry.login.parameters,
        };
        self.machine = Machine::Session(Box::new(Session::new(start, now)));
    }
}

/// TSIH of discovery sessions: nothing of them can be found again, so one value serves all.
const DISCOVERY_TSIH: u16 = 0xFFFF;

impl Entry {
    fn begin(&mut self, headers: &[u8], effects: &mut Vec<Effect>) -> Segment {
        let header: &Header = headers
            .first_chunk::<HEADER_BYTES>()
            .expect("the driver gives whole headers");
        let bytes = framing::data_bytes(header);
        if self.closing {
            return Segment::None;
        }
        //= RFC 7143 §6.3
        //# Nothing but Login Requests is accepted before full feature phase: the connection ends.
        let fault = if pdu::opcode_of(header) != opcode::LOGIN_REQUEST {
            Some("not a login request before the end of login")
        } else if headers.len() > HEADER_BYTES {
            Some("additional header segment in login")
        } else if bytes > LOGIN_SEGMENT_BYTES_MAX {
            Some("login text too long")
        } else if self.waits {
            Some("a login request before the last one was answered")
        } else {
            None
        };
        if let Some(fault) = fault {
            self.close(CloseReason::Protocol(fault), effects);
            return Segment::None;
        }
        self.request = Some(LoginRequest::decode(header));
        if bytes == 0 {
            Segment::None
        } else {
            Segment::Inline { bytes }
        }
    }

    fn close(&mut self, reason: CloseReason, effects: &mut Vec<Effect>) {
        if !self.closing {
            self.closing = true;
            effects.push(Effect::Close { reason });
        }
    }
}
