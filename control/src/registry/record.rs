//! Stored form of the registry's records: JSON, one document per record.
//!
//! Identities are UUID text, secrets hexadecimal. Unknown fields are refused: they would be lost by
//! the next change. A change of any form here needs another [`super::database::FORMAT`].

use super::{Audit, Change, Node, Policy, Replica, Store, Tombstone, Volume};
use crate::access::{Access, Chap, Secret};
use holdfast_core::lsn::Epoch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A stored record cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not the expected JSON.
    #[error("a record is not as this version writes it: {0}")]
    Json(#[from] serde_json::Error),
    /// A field breaks its rule.
    #[error("a record has an illegal {field}: {reason}")]
    Field {
        /// Which.
        field: &'static str,
        /// Why.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeRecord {
    id: String,
    name: String,
    size_bytes: u64,
    epoch: u64,
    set_version: u64,
    primary: String,
    replicas: Vec<ReplicaRecord>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    retired: Vec<String>,
    rf: u8,
    durability: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    durability_was: Option<String>,
    paths: String,
    initiators: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    chap: Option<ChapRecord>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    mutual: Option<ChapRecord>,
    revision: u64,
    deleting: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaRecord {
    store: String,
    in_sync: bool,
    created: bool,
    #[serde(skip_serializing_if = "is_false", default)]
    discard: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChapRecord {
    user: String,
    secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TombstoneRecord {
    id: String,
    name: String,
    at_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreRecord {
    id: String,
    node: String,
    path: String,
    capacity_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeRecord {
    id: String,
    name: String,
    zone: String,
    peer_address: String,
    portals: Vec<String>,
    cordoned: bool,
    draining: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditRecord {
    at_ms: u64,
    who: String,
    request_id: String,
    what: String,
}

/// A record that can be stored.
pub(super) trait Record: Sized {
    fn encode(&self) -> Result<Vec<u8>, RecordError>;
    fn decode(bytes: &[u8]) -> Result<Self, RecordError>;
}

impl Record for Volume {
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let replica = |replica: &Replica| ReplicaRecord {
            store: replica.store.to_string(),
            in_sync: replica.in_sync,
            created: replica.created,
            discard: replica.discard,
        };
        Ok(serde_json::to_vec(&VolumeRecord {
            id: self.id.to_string(),
            name: self.name.to_string(),
            size_bytes: self.size_bytes,
            epoch: self.epoch.0,
            set_version: self.set_version,
            primary: self.primary.to_string(),
            replicas: self.replicas.iter().map(replica).collect(),
            retired: self.retired.iter().map(ToString::to_string).collect(),
            rf: self.policy.rf,
            durability: self.policy.durability.to_string(),
            durability_was: self.durability_was.map(|mode| mode.to_string()),
            paths: self.policy.paths.to_string(),
            initiators: self.access.initiators().to_vec(),
            chap: self.access.chap().map(chap_record),
            mutual: self.access.mutual().map(chap_record),
            revision: self.revision,
            deleting: self.deleting,
        })?)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: VolumeRecord = serde_json::from_slice(bytes)?;
        let chap = record.chap.map(chap_from).transpose()?;
        let mutual = record.mutual.map(chap_from).transpose()?;
        let access = Access::from_parts(record.initiators, chap, mutual);
        let replica = |replica: &ReplicaRecord| -> Result<Replica, RecordError> {
            Ok(Replica {
                store: parse("store", &replica.store)?,
                in_sync: replica.in_sync,
                created: replica.created,
                discard: replica.discard,
            })
        };
        let was = record.durability_was.as_deref();
        let was = was.map(|text| parse("durability_was", text)).transpose()?;
        let retired = record.retired.iter().map(|text| parse("retired", text));
        Ok(Volume {
            id: parse("id", &record.id)?,
            name: parse("name", &record.name)?,
            size_bytes: record.size_bytes,
            epoch: Epoch(record.epoch),
            set_version: record.set_version,
            primary: parse("primary", &record.primary)?,
            replicas: record
                .replicas
                .iter()
                .map(replica)
                .collect::<Result<_, _>>()?,
            retired: retired.collect::<Result<_, _>>()?,
            policy: Policy {
                rf: record.rf,
                durability: parse("durability", &record.durability)?,
                paths: parse("paths", &record.paths)?,
            },
            durability_was: was,
            access: access.map_err(|error| illegal("access", &error))?,
            revision: record.revision,
            deleting: record.deleting,
        })
    }
}

impl Record for Tombstone {
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        Ok(serde_json::to_vec(&TombstoneRecord {
            id: self.id.to_string(),
            name: self.name.clone(),
            at_ms: self.at_ms,
        })?)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: TombstoneRecord = serde_json::from_slice(bytes)?;
        Ok(Tombstone {
            id: parse("id", &record.id)?,
            name: record.name,
            at_ms: record.at_ms,
        })
    }
}

impl Record for Store {
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        Ok(serde_json::to_vec(&StoreRecord {
            id: self.id.to_string(),
            node: self.node.to_string(),
            path: self.path.clone(),
            capacity_bytes: self.capacity_bytes,
        })?)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: StoreRecord = serde_json::from_slice(bytes)?;
        Ok(Store {
            id: parse("id", &record.id)?,
            node: parse("node", &record.node)?,
            path: record.path,
            capacity_bytes: record.capacity_bytes,
        })
    }
}

impl Record for Node {
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        Ok(serde_json::to_vec(&NodeRecord {
            id: self.id.to_string(),
            name: self.name.clone(),
            zone: self.zone.clone(),
            peer_address: self.peer_address.clone(),
            portals: self.portals.clone(),
            cordoned: self.cordoned,
            draining: self.draining,
        })?)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: NodeRecord = serde_json::from_slice(bytes)?;
        Ok(Node {
            id: parse("id", &record.id)?,
            name: record.name,
            zone: record.zone,
            peer_address: record.peer_address,
            portals: record.portals,
            cordoned: record.cordoned,
            draining: record.draining,
        })
    }
}

impl Record for Audit {
    fn encode(&self) -> Result<Vec<u8>, RecordError> {
        Ok(serde_json::to_vec(&AuditRecord {
            at_ms: self.at_ms,
            who: self.who.clone(),
            request_id: self.request_id.clone(),
            what: self.what.clone(),
        })?)
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: AuditRecord = serde_json::from_slice(bytes)?;
        Ok(Audit {
            at_ms: record.at_ms,
            who: record.who,
            request_id: record.request_id,
            what: record.what,
        })
    }
}

/// A change as the masters' log and snapshots have it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredChange {
    PutVolume(Value),
    BuryVolume(Value),
    ForgetTombstone(String),
    PutStore(Value),
    PutNode(Value),
    ForgetNode(String),
}

/// An audit entry as the masters' log and snapshots have it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct StoredAudit(Value);

impl From<&Change> for StoredChange {
    fn from(change: &Change) -> StoredChange {
        match change {
            Change::PutVolume(volume) => StoredChange::PutVolume(document(volume)),
            Change::BuryVolume(stone) => StoredChange::BuryVolume(document(stone)),
            Change::ForgetTombstone(id) => StoredChange::ForgetTombstone(id.to_string()),
            Change::PutStore(store) => StoredChange::PutStore(document(store)),
            Change::PutNode(node) => StoredChange::PutNode(document(node)),
            Change::ForgetNode(id) => StoredChange::ForgetNode(id.to_string()),
        }
    }
}

impl TryFrom<StoredChange> for Change {
    type Error = RecordError;

    fn try_from(stored: StoredChange) -> Result<Change, RecordError> {
        Ok(match stored {
            StoredChange::PutVolume(value) => Change::PutVolume(from_document(&value)?),
            StoredChange::BuryVolume(value) => Change::BuryVolume(from_document(&value)?),
            StoredChange::ForgetTombstone(id) => Change::ForgetTombstone(parse("id", &id)?),
            StoredChange::PutStore(value) => Change::PutStore(from_document(&value)?),
            StoredChange::PutNode(value) => Change::PutNode(from_document(&value)?),
            StoredChange::ForgetNode(id) => Change::ForgetNode(parse("id", &id)?),
        })
    }
}

impl From<&Audit> for StoredAudit {
    fn from(audit: &Audit) -> StoredAudit {
        StoredAudit(document(audit))
    }
}

impl TryFrom<StoredAudit> for Audit {
    type Error = RecordError;

    fn try_from(stored: StoredAudit) -> Result<Audit, RecordError> {
        from_document(&stored.0)
    }
}

fn document(record: &impl Record) -> Value {
    let bytes = record.encode().expect("records are plain text and numbers");
    serde_json::from_slice(&bytes).expect("just encoded as JSON")
}

fn from_document<T: Record>(value: &Value) -> Result<T, RecordError> {
    T::decode(&serde_json::to_vec(value)?)
}

fn chap_record(chap: &Chap) -> ChapRecord {
    let hex = chap
        .secret
        .expose()
        .iter()
        .map(|byte| format!("{byte:02x}"));
    ChapRecord {
        user: chap.user.clone(),
        secret: hex.collect(),
    }
}

fn chap_from(record: ChapRecord) -> Result<Chap, RecordError> {
    let bytes = record.secret.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)
            .ok()
            .filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    let bytes = bytes
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| illegal("secret", &"not hexadecimal"))?;
    let secret = Secret::from_bytes(bytes).map_err(|error| illegal("secret", &error))?;
    Chap::from_parts(record.user, secret).map_err(|error| illegal("user", &error))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    field: &'static str,
    text: &str,
) -> Result<T, RecordError> {
    text.parse().map_err(|error| illegal(field, &error))
}

fn is_false(value: &bool) -> bool {
    !value
}

fn illegal(field: &'static str, reason: &dyn std::fmt::Display) -> RecordError {
    RecordError::Field {
        field,
        reason: reason.to_string(),
    }
}
