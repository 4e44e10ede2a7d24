//! The parameter lists of PERSISTENT RESERVE OUT (SPC-4 6.16.3, 6.16.4).

use crate::scsi::cdb::Cdb;
use crate::scsi::nexus::{InitiatorPort, TargetPort};
use crate::scsi::reservation::kind::OutAction;
use crate::scsi::reservation::transport_id;
use crate::scsi::sense::{AdditionalSense, Sense};
use alloc::vec::Vec;

/// Bytes of the basic list and of the head of the list for REGISTER AND MOVE.
const BASIC_BYTES: usize = 24;

/// A parameter list, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameters {
    /// RESERVATION KEY.
    pub(crate) key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub(crate) action_key: u64,
    /// APTPL.
    pub(crate) persistent: bool,
    /// SPEC_I_PT: further ports to register.
    pub(crate) ports: Vec<InitiatorPort>,
    /// REGISTER AND MOVE: where to.
    pub(crate) destination: Option<Destination>,
}

/// Where REGISTER AND MOVE moves the reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) initiator: InitiatorPort,
    pub(crate) target: TargetPort,
    /// UNREG: the sender's registration goes.
    pub(crate) unregister: bool,
}

const LIST_LENGTH: Sense = Sense::illegal(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);

/// Reads the list that goes with `action`.
pub(crate) fn decode(action: OutAction, list: &[u8]) -> Result<Parameters, Sense> {
    // SPC-4 6.16.1: without SPEC_I_PT the list has 24 bytes.
    let (basic, rest) = list.split_at_checked(BASIC_BYTES).ok_or(LIST_LENGTH)?;
    let mut head = [0; 16];
    head.copy_from_slice(&basic[..16]);
    let mut parameters = Parameters {
        key: Cdb(&head).u64(0),
        action_key: Cdb(&head).u64(8),
        persistent: false,
        ports: Vec::new(),
        destination: None,
    };
    if action == OutAction::RegisterAndMove {
        parameters.persistent = basic[17] & 0x01 != 0;
        parameters.destination = Some(decode_destination(basic, rest)?);
        return Ok(parameters);
    }
    let many_ports = basic[20] & 0x08 != 0;
    match action {
        OutAction::Register | OutAction::RegisterAndIgnore => {
            parameters.persistent = basic[20] & 0x01 != 0;
        }
        _ => {}
    }
    if action == OutAction::Register && many_ports {
        parameters.ports = decode_ports(rest)?;
        return Ok(parameters);
    }
    // SPC-4 6.16.3: SPEC_I_PT goes with REGISTER only.
    if action == OutAction::RegisterAndIgnore && many_ports {
        return Err(Sense::parameter_byte(20));
    }
    match rest {
        [] => Ok(parameters),
        _ => Err(LIST_LENGTH),
    }
}

fn decode_destination(basic: &[u8], rest: &[u8]) -> Result<Destination, Sense> {
    let length = u32::from_be_bytes([basic[20], basic[21], basic[22], basic[23]]);
    if u64::from(length) != rest.len() as u64 {
        return Err(LIST_LENGTH);
    }
    match transport_id::decode(rest) {
        Some((initiator, [])) => Ok(Destination {
            initiator,
            target: TargetPort(u16::from_be_bytes([basic[18], basic[19]])),
            unregister: basic[17] & 0x02 != 0,
        }),
        _ => Err(Sense::parameter_byte(24)),
    }
}

fn decode_ports(rest: &[u8]) -> Result<Vec<InitiatorPort>, Sense> {
    let (length, mut ids) = rest.split_at_checked(4).ok_or(LIST_LENGTH)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    if u64::from(length) != ids.len() as u64 {
        return Err(LIST_LENGTH);
    }
    let mut ports = Vec::new();
    // Each identifier takes 24 bytes at least, so the list bounds the loop.
    while !ids.is_empty() {
        let (port, rest) = transport_id::decode(ids).ok_or(Sense::parameter_byte(28))?;
        ports.push(port);
        ids = rest;
    }
    Ok(ports)
}
