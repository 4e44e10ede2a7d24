//! The agent's requests: serve a volume, remove a volume. Idempotent, epoch first.

use super::{Shard, VolumeEntry};
use crate::coordinator::refusal;
use crate::disk::file::FileDisk;
use crate::store::driver::StoreDriver;
use holdfast_core::id::{StoreId, VolumeId};
use holdfast_core::limits::{BLOCK_BYTES, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN};
use holdfast_core::link::{Assignment, Reply, ReplyCode, Role};
use holdfast_core::lsn::Epoch;
use holdfast_core::store::append::Sharing;
use holdfast_core::store::{Event, RequestError};
use std::rc::Rc;
use tracing::info;

pub(super) type Refused = (ReplyCode, String);

impl Shard {
    /// Creates or changes a volume and serves it as the assignment says.
    pub(super) async fn assign(self: &Rc<Self>, assignment: Assignment) -> Reply {
        match self.try_assign(assignment).await {
            Ok(()) => Reply::default(),
            Err((code, message)) => refusal(code, message),
        }
    }

    async fn try_assign(self: &Rc<Self>, assignment: Assignment) -> Result<(), Refused> {
        let id = VolumeId::try_from(assignment.volume_id.as_slice())
            .map_err(|_| invalid("the volume id has not 16 bytes"))?;
        let store = StoreId::try_from(assignment.store_id.as_slice())
            .map_err(|_| invalid("the store id has not 16 bytes"))?;
        let driver = self
            .store(store)
            .ok_or_else(|| (ReplyCode::NotFound, "no store with this id".to_owned()))?;
        if let Some(reason) = driver.failure() {
            return Err((ReplyCode::StoreFailed, reason));
        }
        let entry = self.volumes.borrow().get(&id).cloned();
        let entry = match entry {
            Some(entry) if entry.volume.store().id() != store => {
                return Err(invalid("the volume is on another store of this node"));
            }
            Some(entry) => {
                self.bring_up_to_date(&entry, &assignment).await?;
                entry
            }
            None if assignment.create => self.create(id, driver, &assignment).await?,
            None => {
                let message = "the store does not hold this volume, and it is not new";
                return Err((ReplyCode::NotFound, message.into()));
            }
        };
        if let Some(reason) = entry.refusal() {
            return Err((ReplyCode::StoreFailed, reason.into()));
        }
        self.service
            .serve(&entry, &assignment)
            .map_err(|message| (ReplyCode::Invalid, message))?;
        info!(
            volume = %id, name = assignment.name, epoch = assignment.epoch,
            size_bytes = assignment.size_bytes, target = assignment.iqn, "volume served"
        );
        *entry.assignment.borrow_mut() = Some(assignment);
        Ok(())
    }

    async fn create(
        &self,
        id: VolumeId,
        driver: &Rc<StoreDriver<FileDisk>>,
        assignment: &Assignment,
    ) -> Result<Rc<VolumeEntry>, Refused> {
        let size_blocks = size_blocks(assignment)?;
        // A shared copy belongs to no reign until it joins one: copies that are made at different times
        // have the same, empty history.
        let (sharing, epoch) = match assignment.role() {
            Role::Alone => (Sharing::Alone, Epoch(assignment.epoch)),
            Role::Primary | Role::Secondary => (Sharing::Shared, Epoch(0)),
        };
        let created = driver.ask(|tag| Event::CreateVolume {
            tag,
            id,
            size_blocks,
            epoch,
            sharing,
        });
        created.receive().await.map_err(refused)?;
        let entry = self.add_volume(id, driver);
        if sharing == Sharing::Shared {
            self.assign_role(id, driver, assignment).await?;
        }
        Ok(entry)
    }

    /// Raises epoch and size of a volume that exists.
    async fn bring_up_to_date(
        &self,
        entry: &VolumeEntry,
        assignment: &Assignment,
    ) -> Result<(), Refused> {
        let id = entry.volume.id();
        let driver = entry.volume.store();
        let size_blocks = size_blocks(assignment)?;
        let info = driver
            .machine()
            .volume(id)
            .ok_or_else(|| refused(RequestError::NotFound))?;
        if assignment.role() != Role::Alone || info.sharing == Sharing::Shared {
            self.assign_role(id, driver, assignment).await?;
            if assignment.role() == Role::Primary && size_blocks > info.size_blocks {
                self.grow_shared(entry, size_blocks);
            }
            return Ok(());
        }
        if assignment.epoch < info.epoch.0 {
            let message = format!("{} is in force", info.epoch);
            return Err((ReplyCode::StaleEpoch, message));
        }
        if assignment.epoch > info.epoch.0 {
            let epoch = Epoch(assignment.epoch);
            let set = driver.ask(|tag| Event::BeginEpoch {
                tag,
                volume: id,
                epoch,
                sharing: Sharing::Alone,
            });
            set.receive().await.map_err(refused)?;
        }
        if size_blocks < info.size_blocks {
            return Err(invalid("a volume never shrinks"));
        }
        if size_blocks > info.size_blocks {
            let resized = driver.ask(|tag| Event::ResizeVolume {
                tag,
                id,
                size_blocks,
            });
            resized.receive().await.map_err(refused)?;
        }
        Ok(())
    }

    /// Stops serving a volume and frees its space. An unknown one is gone already.
    pub(super) async fn remove(self: &Rc<Self>, id: VolumeId) -> Reply {
        let Some(entry) = self.volumes.borrow().get(&id).cloned() else {
            return Reply::default();
        };
        self.service.withdraw(id);
        let removed = entry
            .volume
            .store()
            .ask(|tag| Event::RemoveVolume { tag, id });
        match removed.receive().await {
            Ok(()) | Err(RequestError::NotFound) => {
                self.volumes.borrow_mut().remove(&id);
                info!(volume = %id, "volume removed");
                Reply::default()
            }
            Err(error) => {
                let (code, message) = refused(error);
                refusal(code, message)
            }
        }
    }
}

fn size_blocks(assignment: &Assignment) -> Result<u64, Refused> {
    let bytes = assignment.size_bytes;
    if !bytes.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(invalid("the size is not a multiple of 4096"));
    }
    if !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&bytes) {
        return Err(invalid("the size is out of bounds"));
    }
    Ok(bytes / BLOCK_BYTES as u64)
}

pub(super) fn invalid(message: &str) -> Refused {
    (ReplyCode::Invalid, message.into())
}

pub(super) fn refused(error: RequestError) -> Refused {
    let code = match error {
        RequestError::NoSpace | RequestError::TooManyVolumes => ReplyCode::NoSpace,
        RequestError::Busy => ReplyCode::Busy,
        RequestError::NotFound => ReplyCode::NotFound,
        RequestError::StaleEpoch => ReplyCode::StaleEpoch,
        RequestError::StoreFailed => ReplyCode::StoreFailed,
        RequestError::Exists | RequestError::OutOfRange | RequestError::NotShared => {
            ReplyCode::Invalid
        }
    };
    (code, error.to_string())
}
