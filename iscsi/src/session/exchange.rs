//! Text in full feature phase: SendTargets and the few keys that may be declared again (RFC 7143 §6.4).
//!
//! Both directions may take several PDUs; one exchange at a time, a new one replaces the old.

use crate::effect::{Effect, SendData};
use crate::limits::{TEXT_REPLY_BYTES_MAX, TEXT_REQUEST_BYTES_MAX};
use crate::login::negotiation::Place;
use crate::pdu::reject::Reason;
use crate::pdu::text::{TextRequest, TextResponse};
use crate::pdu::{Header, RESERVED_TAG};
use crate::session::{Session, index};
use crate::target::{Announcement, Target, TargetAddress};
use crate::text::{self, Writer};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A sequence of text requests and responses.
#[derive(Debug)]
pub(super) struct Exchange {
    request: TextRequest,
    header: Header,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    sent: usize,
    /// SendTargets waits for the driver's list; the value it asked for.
    wanted: Option<String>,
}

/// The only target transfer tag of text: there is one exchange at a time.
const TRANSFER_TAG: u32 = 0x7E77_0000;

impl Session {
    pub(super) fn on_text(
        &mut self,
        target: Option<&Target>,
        header: &Header,
        data: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let request = TextRequest::decode(header);
        let exchange = if request.target_transfer_tag == RESERVED_TAG {
            self.exchange.insert(Exchange {
                request,
                header: *header,
                incoming: Vec::new(),
                outgoing: Vec::new(),
                sent: 0,
                wanted: None,
            })
        } else {
            match &mut self.exchange {
                Some(exchange)
                    if request.target_transfer_tag == TRANSFER_TAG && exchange.wanted.is_none() =>
                {
                    exchange.request = request;
                    exchange
                }
                _ => {
                    self.send_reject(header, Reason::InvalidField, effects);
                    return;
                }
            }
        };
        if exchange.incoming.len() + data.len() > TEXT_REQUEST_BYTES_MAX {
            self.exchange = None;
            self.send_reject(header, Reason::LongOperation, effects);
            return;
        }
        exchange.incoming.extend_from_slice(data);
        //= RFC 7143 §6.2
        //# A target receiving a Text Request with the C bit set to 1 MUST answer with a Text Response with no data segment.
        if request.text_continues {
            self.send_text(effects);
            return;
        }
        if exchange.incoming.is_empty() {
            self.send_text(effects);
            return;
        }
        let held = core::mem::take(&mut exchange.incoming);
        self.answer_text(target, header, &held, effects);
    }

    /// The driver's list of targets.
    pub(crate) fn listed(&mut self, targets: &[Announcement], effects: &mut Vec<Effect>) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        let Some(wanted) = exchange.wanted.take() else {
            return;
        };
        let header = exchange.header;
        let mut reply = Writer::new(TEXT_REPLY_BYTES_MAX);
        for target in targets {
            let named = wanted == "All" || wanted.to_lowercase() == target.target_name;
            if named && target.access.admits(&self.initiator) {
                self.announce(&target.target_name, &target.portals, &mut reply);
            }
        }
        self.begin_answer(&header, reply, effects);
    }

    fn answer_text(
        &mut self,
        target: Option<&Target>,
        header: &Header,
        held: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let Ok(pairs) = text::decode(held) else {
            self.exchange = None;
            self.send_reject(header, Reason::ProtocolError, effects);
            return;
        };
        let mut reply = Writer::new(TEXT_REPLY_BYTES_MAX);
        for (name, value) in pairs {
            if name != "SendTargets" {
                self.parameters
                    .negotiate(Place::FullFeature, name, value, &mut reply);
                continue;
            }
            match target {
                //= RFC 7143 Appendix C
                //# SendTargets=All MUST be supported on a discovery session, and MUST NOT be supported on an operational session.
                Some(_) if value == "All" => reply.put(name, "Reject"),
                Some(target) => {
                    if value.is_empty() || value.to_lowercase() == target.name() {
                        self.announce(target.name(), target.portals(), &mut reply);
                    }
                }
                None if value.is_empty() => reply.put(name, "Reject"),
                None => {
                    let exchange = self.exchange.as_mut().expect("it is being answered");
                    exchange.wanted = Some(value.to_string());
                    exchange.header = *header;
                    effects.push(Effect::ListTargets);
                    return;
                }
            }
        }
        self.begin_answer(header, reply, effects);
    }

    fn announce(&self, name: &str, portals: &[TargetAddress], reply: &mut Writer) {
        reply.put("TargetName", name);
        //= RFC 7143 §13.8
        //# TargetAddress=domainname[:port][,portal-group-tag], IPv6 addresses in brackets.
        for portal in portals {
            let TargetAddress { address, group } = portal;
            reply.put("TargetAddress", &format!("{address},{}", group.0));
        }
        if portals.is_empty() {
            reply.put("TargetAddress", &format!("{},1", self.local_address));
        }
    }

    fn begin_answer(&mut self, header: &Header, reply: Writer, effects: &mut Vec<Effect>) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        match reply.finish() {
            Ok(outgoing) => {
                exchange.outgoing = outgoing;
                exchange.sent = 0;
                self.send_text(effects);
            }
            Err(_) => {
                self.exchange = None;
                self.send_reject(header, Reason::LongOperation, effects);
            }
        }
    }

    /// Sends the next piece, which may be empty.
    fn send_text(&mut self, effects: &mut Vec<Effect>) {
        let room = index(self.parameters.send_segment_bytes);
        let numbers = self.take_status_numbers();
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        let rest = &exchange.outgoing[exchange.sent..];
        let piece = &rest[..rest.len().min(room)];
        let text_continues = piece.len() < rest.len();
        let request = exchange.request;
        //= RFC 7143 §11.11.1
        //# A Text Response with the F bit set to 1 is allowed only in answer to a request with the F bit, and ends the sequence.
        let is_final = request.is_final && !text_continues;
        let data = if piece.is_empty() {
            SendData::None
        } else {
            SendData::Bytes(piece.to_vec())
        };
        exchange.sent += piece.len();
        let header = TextResponse {
            is_final,
            text_continues,
            initiator_task_tag: request.initiator_task_tag,
            target_transfer_tag: if is_final { RESERVED_TAG } else { TRANSFER_TAG },
            numbers,
        }
        .encode();
        if is_final {
            self.exchange = None;
        }
        self.send(header, data, effects);
    }
}
