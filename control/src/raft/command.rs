//! What is agreed on: changes of the registry with their audit entry, and what they take for granted.
//!
//! A command is judged when it is applied, by every master against the same state, and then carried
//! out whole or not at all.

use crate::registry::record::{RecordError, StoredAudit, StoredChange};
use crate::registry::{Audit, Change, State, Volume};
use holdfast_core::id::VolumeId;
use holdfast_core::lsn::Epoch;
use serde::{Deserialize, Serialize};

/// A set of changes to be made together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredCommand", into = "StoredCommand")]
pub struct Command {
    /// The changes.
    pub changes: Vec<Change>,
    /// Who, why.
    pub audit: Audit,
    /// What must hold when they are made.
    pub expects: Vec<Expect>,
}

/// A condition for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No other command took effect after the one at this index of the log.
    NothingSince(u64),
    /// The volume is as it was; `None`: there is none of this id.
    Volume(VolumeId, Option<VolumeVersion>),
}

/// What tells one state of a volume from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeVersion {
    /// Its reign.
    pub epoch: u64,
    /// The version of its in-sync set.
    pub set_version: u64,
    /// Its revision.
    pub revision: u64,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It held no command.
    Nothing,
    /// Its changes are made.
    Applied,
    /// What it expected does not hold; nothing was changed.
    Refused(String),
}

impl Command {
    /// Why the command cannot be carried out on `state`, whose newest command is at `version`.
    pub fn check(&self, state: &State, version: u64) -> Result<(), String> {
        for expect in &self.expects {
            expect.check(state, version)?;
        }
        self.changes
            .iter()
            .try_for_each(|change| check(change, state))
    }
}

impl Expect {
    fn check(&self, state: &State, version: u64) -> Result<(), String> {
        match self {
            Expect::NothingSince(index) if version > *index => Err(format!(
                "the registry changed meanwhile (entry {version} came after {index})"
            )),
            Expect::NothingSince(_) => Ok(()),
            Expect::Volume(id, expected) => {
                let found = state.volumes.get(id).map(VolumeVersion::of);
                if found == *expected {
                    return Ok(());
                }
                Err(format!(
                    "volume {id} changed meanwhile ({found:?} instead of {expected:?})"
                ))
            }
        }
    }
}

impl VolumeVersion {
    /// The version of `volume`.
    pub fn of(volume: &Volume) -> VolumeVersion {
        VolumeVersion {
            epoch: volume.epoch.0,
            set_version: volume.set_version,
            revision: volume.revision,
        }
    }
}

/// Rules of the registry that no command may break, whatever it expects.
fn check(change: &Change, state: &State) -> Result<(), String> {
    let Change::PutVolume(volume) = change else {
        return Ok(());
    };
    let id = volume.id;
    if state.tombstones.contains_key(&id) {
        return Err(format!("volume {id} was removed"));
    }
    if let Some(before) = state.volumes.get(&id) {
        let reign = |volume: &Volume| (volume.epoch, volume.set_version);
        if reign(volume) < reign(before) {
            let (Epoch(epoch), set_version) = reign(before);
            return Err(format!(
                "volume {id} has reached epoch {epoch}, set version {set_version}"
            ));
        }
        if before.name != volume.name {
            return Err(format!("volume {id} keeps the name '{}'", before.name));
        }
        return Ok(());
    }
    match state.volume(&volume.name) {
        Ok(other) => Err(format!(
            "the name '{}' belongs to volume {}",
            volume.name, other.id
        )),
        Err(_) => Ok(()),
    }
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCommand {
    changes: Vec<StoredChange>,
    audit: StoredAudit,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    expects: Vec<StoredExpect>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredExpect {
    NothingSince(u64),
    Volume(String, Option<VolumeVersion>),
}

impl From<Command> for StoredCommand {
    fn from(command: Command) -> StoredCommand {
        let expects = command.expects.iter().map(|expect| match expect {
            Expect::NothingSince(index) => StoredExpect::NothingSince(*index),
            Expect::Volume(id, version) => StoredExpect::Volume(id.to_string(), *version),
        });
        StoredCommand {
            changes: command.changes.iter().map(StoredChange::from).collect(),
            audit: StoredAudit::from(&command.audit),
            expects: expects.collect(),
        }
    }
}

impl TryFrom<StoredCommand> for Command {
    type Error = RecordError;

    fn try_from(stored: StoredCommand) -> Result<Command, RecordError> {
        let expects = stored.expects.into_iter().map(|expect| match expect {
            StoredExpect::NothingSince(index) => Ok(Expect::NothingSince(index)),
            StoredExpect::Volume(id, version) => {
                let id = id.parse().map_err(|_| RecordError::Field {
                    field: "expected volume",
                    reason: "not a UUID".into(),
                })?;
                Ok(Expect::Volume(id, version))
            }
        });
        let changes = stored.changes.into_iter().map(Change::try_from);
        Ok(Command {
            expects: expects.collect::<Result<_, RecordError>>()?,
            changes: changes.collect::<Result<_, RecordError>>()?,
            audit: Audit::try_from(stored.audit)?,
        })
    }
}

#[cfg(test)]
mod tests;
