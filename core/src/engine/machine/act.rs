//! Carries out what replication machines want, and gives them what the store answers.
//!
//! Requests of a machine to the store are named by tags of their own: the highest bit, the kind, the
//! number of the adoption, the volume's key. The successful end of an append needs no look at anything.

use super::{Engine, complete, release};
use crate::engine::{Effect, Role};
use crate::id::VolumeId;
use crate::peer::Message;
use crate::replication::Action;
use crate::replication::following::Done;
use crate::store::append::Sharing;
use crate::store::{self, Event, RequestError, Tag};
use alloc::vec::Vec;

const INTERNAL: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Begin = 1,
    Promise = 2,
    Adopt = 3,
    Append = 4,
    Fill = 5,
    EndResync = 6,
}

const KINDS: [Kind; 6] = [
    Kind::Begin,
    Kind::Promise,
    Kind::Adopt,
    Kind::Append,
    Kind::Fill,
    Kind::EndResync,
];

impl Engine {
    pub(super) fn act(&mut self, volume: VolumeId, action: Action, effects: &mut Vec<Effect>) {
        match action {
            Action::Send {
                stream,
                epoch,
                body,
                payload,
            } => effects.push(Effect::Send {
                stream,
                message: Message::Volume {
                    volume,
                    epoch,
                    body,
                },
                payload,
            }),
            Action::Release { payload } => effects.push(release(payload)),
            Action::Heartbeat { stream } => self.heartbeat(stream, effects),
            Action::Read { fill, range } => effects.push(Effect::ReadFill {
                id: fill,
                volume,
                range,
            }),
            Action::ReadBlocks { read, range } => effects.push(Effect::ReadBlocks {
                id: read,
                volume,
                range,
            }),
            Action::Healed { heal, result } => {
                effects.push(Effect::Healed { id: heal, result });
            }
            Action::Propose {
                epoch,
                set_version,
                in_sync,
                settled,
                reason,
            } => effects.push(Effect::Propose {
                volume,
                epoch,
                set_version,
                in_sync,
                settled,
                reason,
            }),
            Action::Assigned { tag, result } => effects.push(complete(tag, result)),
            Action::Fenced { tag, answer } => effects.push(Effect::Fenced { tag, answer }),
            Action::RoleChanged { role } => effects.push(Effect::RoleChanged { volume, role }),
            Action::MembersChanged => self.members_changed = true,
            of_store => self.ask_store(volume, of_store),
        }
    }

    /// What the own copy has to do.
    fn ask_store(&mut self, volume: VolumeId, action: Action) {
        let Some(entry) = self.replicas.get_mut(&volume) else {
            return;
        };
        let key = entry.key;
        let event = match action {
            Action::Commit { up_to } => Event::Commit { volume, up_to },
            Action::Append {
                reign,
                epoch,
                lsn,
                body,
                payload,
                operation,
            } => {
                entry.replica.note_append(lsn, &body);
                Event::Append {
                    tag: tag_of(Kind::Append, operation, key),
                    volume,
                    reign,
                    epoch,
                    lsn,
                    body,
                    payload,
                }
            }
            Action::Fill {
                reign,
                body,
                payload,
                cursor,
                operation,
            } => Event::Fill {
                tag: tag_of(Kind::Fill, operation, key),
                volume,
                reign,
                body,
                payload,
                cursor,
            },
            Action::EndResync { reign, operation } => Event::EndResync {
                tag: tag_of(Kind::EndResync, operation, key),
                volume,
                reign,
            },
            Action::Adopt {
                epoch,
                adopt,
                resync,
                operation,
            } => {
                entry.replica.note_cut(adopt.keep, adopt.cut);
                Event::Adopt {
                    tag: tag_of(Kind::Adopt, operation, key),
                    volume,
                    epoch,
                    keep: adopt.keep,
                    cut: adopt.cut,
                    reigns: adopt.reigns,
                    resync,
                }
            }
            of_reign => begin_or_promise(volume, key, of_reign),
        };
        self.queue.push(event);
    }

    pub(super) fn on_store_effect(&mut self, effect: store::Effect, effects: &mut Vec<Effect>) {
        match effect {
            store::Effect::Complete { tag, result } if tag.0 & INTERNAL != 0 => {
                self.on_internal(tag, result, effects);
            }
            store::Effect::Appended {
                volume,
                lsn,
                epoch,
                body,
                payload,
            } => {
                self.with(volume, effects, |replica, scope| {
                    replica.on_appended(lsn, epoch, &body, payload, scope);
                });
            }
            store::Effect::Durable { volume, lsn } => {
                self.with(volume, effects, |replica, scope| {
                    replica.on_durable(lsn, scope);
                });
            }
            store::Effect::Failed { reason } => {
                self.failed = true;
                effects.push(Effect::Store(store::Effect::Failed { reason }));
            }
            other => effects.push(Effect::Store(other)),
        }
    }

    fn on_internal(
        &mut self,
        tag: Tag,
        result: Result<(), RequestError>,
        effects: &mut Vec<Effect>,
    ) {
        let (kind, operation, key) = parts_of(tag);
        if kind == Kind::Append && result.is_ok() {
            return;
        }
        let Some(volume) = self.keys.get(&key).copied() else {
            return;
        };
        let done = match kind {
            Kind::Begin => {
                self.with(volume, effects, |replica, scope| {
                    replica.on_begun(result, scope);
                });
                self.forget_alone(volume, effects);
                return;
            }
            Kind::Promise => {
                self.with(volume, effects, |replica, scope| {
                    replica.on_promised(result, scope);
                });
                return;
            }
            Kind::Adopt => Done::Adopt,
            Kind::Append => Done::Append,
            Kind::Fill => Done::Fill,
            Kind::EndResync => Done::EndResync,
        };
        self.with(volume, effects, |replica, scope| {
            replica.on_done(done, operation, result, scope);
        });
    }

    /// A volume that has no other copies any more needs no machine.
    fn forget_alone(&mut self, volume: VolumeId, effects: &mut Vec<Effect>) {
        let info = self.store.volume(volume);
        if info.is_some_and(|info| info.sharing == Sharing::Alone)
            && let Some(entry) = self.replicas.remove(&volume)
        {
            self.keys.remove(&entry.key);
            let role = Role::Alone;
            effects.push(Effect::RoleChanged { volume, role });
        }
    }
}

/// What changes reigns.
fn begin_or_promise(volume: VolumeId, key: u32, action: Action) -> Event {
    match action {
        Action::Begin { epoch, sharing } => Event::BeginEpoch {
            tag: tag_of(Kind::Begin, 0, key),
            volume,
            epoch,
            sharing,
        },
        Action::Promise { epoch } => Event::Promise {
            tag: tag_of(Kind::Promise, 0, key),
            volume,
            epoch,
        },
        _ => unreachable!("not for the store"),
    }
}

fn tag_of(kind: Kind, operation: u16, key: u32) -> Tag {
    Tag(INTERNAL | (kind as u64) << 56 | u64::from(operation) << 32 | u64::from(key))
}

fn parts_of(tag: Tag) -> (Kind, u16, u32) {
    let bytes = tag.0.to_le_bytes();
    let code = bytes[7] & 0x7f;
    let kind = KINDS.iter().find(|kind| **kind as u8 == code);
    (
        *kind.expect("made by tag_of"),
        u16::from_le_bytes([bytes[4], bytes[5]]),
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
    )
}
