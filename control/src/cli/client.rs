//! The command line's end of gRPC: one call, with a deadline, and its errors as [`Failure`]s.

use super::{Exit, Failure, PolicyOptions};
use crate::access::Access;
use crate::convert::access_to;
use crate::limits::{CHANGE_WAIT, CREATE_WAIT, MEMBERSHIP_WAIT, STORES_WAIT};
use crate::name::VolumeName;
use crate::proto::control_client::ControlClient;
use crate::proto::members_client::MembersClient;
use crate::proto::{self, Volume};
use crate::service::{ACTOR_KEY, LEADER_KEY, REQUEST_ID_KEY};
use crate::size::Size;
use holdfast_core::id::StoreId;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Time to reach the control process.
const CONNECT: Duration = Duration::from_secs(5);

/// Time for a question, and on top of the server's own limits for a change.
const ANSWER: Duration = Duration::from_secs(10);

/// Referrals to the leader that are followed.
const REFERRALS_MAX: usize = 3;

/// A connection to a control process.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    url: String,
}

impl Client {
    /// Connects to `url`.
    pub(super) fn connect(url: &str) -> Result<Client, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Failure::with(Exit::Error, error.to_string()))?;
        let channel = connect(&runtime, url)?;
        Ok(Client {
            runtime,
            channel,
            url: url.to_owned(),
        })
    }

    pub(super) fn create_volume(
        &mut self,
        name: &VolumeName,
        size: Size,
        store: Option<StoreId>,
        options: &PolicyOptions,
        access: Option<&Access>,
    ) -> Result<Volume, Failure> {
        let policy = options.policy();
        policy
            .check()
            .map_err(|error| Failure::with(Exit::Usage, error.to_string()))?;
        let message = proto::CreateVolumeRequest {
            name: name.to_string(),
            size_bytes: size.0,
            access: access.map(access_to),
            store_id: store.map_or_else(String::new, |store| store.to_string()),
            rf: u32::from(policy.rf),
            durability: policy.durability.to_string(),
            paths: policy.paths.to_string(),
            allow_degraded: options.allow_degraded,
        };
        self.call(
            message,
            STORES_WAIT + CREATE_WAIT + ANSWER,
            |channel, request| async move { ControlClient::new(channel).create_volume(request).await },
        )
    }

    pub(super) fn list_volumes(&mut self) -> Result<proto::ListVolumesReply, Failure> {
        self.call(
            proto::ListVolumesRequest {},
            ANSWER,
            |channel, request| async move { ControlClient::new(channel).list_volumes(request).await },
        )
    }

    pub(super) fn get_volume(&mut self, name: &VolumeName) -> Result<Volume, Failure> {
        let message = proto::GetVolumeRequest {
            name: name.to_string(),
        };
        self.call(message, ANSWER, |channel, request| async move {
            ControlClient::new(channel).get_volume(request).await
        })
    }

    pub(super) fn delete_volume(
        &mut self,
        name: &VolumeName,
    ) -> Result<proto::DeleteVolumeReply, Failure> {
        let message = proto::DeleteVolumeRequest {
            name: name.to_string(),
        };
        self.call(
            message,
            CHANGE_WAIT + ANSWER,
            |channel, request| async move { ControlClient::new(channel).delete_volume(request).await },
        )
    }

    pub(super) fn set_access(
        &mut self,
        name: &VolumeName,
        access: &Access,
    ) -> Result<Volume, Failure> {
        let message = proto::SetVolumeAccessRequest {
            name: name.to_string(),
            access: Some(access_to(access)),
        };
        self.call(
            message,
            CHANGE_WAIT + ANSWER,
            |channel, request| async move {
                ControlClient::new(channel).set_volume_access(request).await
            },
        )
    }

    pub(super) fn list_nodes(&mut self) -> Result<proto::ListNodesReply, Failure> {
        self.call(
            proto::ListNodesRequest {},
            ANSWER,
            |channel, request| async move { ControlClient::new(channel).list_nodes(request).await },
        )
    }

    pub(super) fn list_events(&mut self) -> Result<proto::ListEventsReply, Failure> {
        self.call(
            proto::ListEventsRequest {},
            ANSWER,
            |channel, request| async move { ControlClient::new(channel).list_events(request).await },
        )
    }

    pub(super) fn move_primary(&mut self, name: &VolumeName, to: &str) -> Result<Volume, Failure> {
        let message = proto::MovePrimaryRequest {
            name: name.to_string(),
            node: to.to_owned(),
        };
        self.call(
            message,
            CHANGE_WAIT + ANSWER,
            |channel, request| async move { ControlClient::new(channel).move_primary(request).await },
        )
    }

    pub(super) fn force_promote(
        &mut self,
        name: &VolumeName,
        node: &str,
        accept_data_loss: bool,
    ) -> Result<Volume, Failure> {
        let message = proto::ForcePromoteRequest {
            name: name.to_string(),
            node: node.to_owned(),
            accept_data_loss,
        };
        self.call(
            message,
            CHANGE_WAIT + ANSWER,
            |channel, request| async move { ControlClient::new(channel).force_promote(request).await },
        )
    }

    pub(super) fn list_masters(&mut self) -> Result<proto::ListMastersReply, Failure> {
        let message = proto::ListMastersRequest {};
        self.call(message, ANSWER, |channel, request| async move {
            MembersClient::new(channel).list_masters(request).await
        })
    }

    pub(super) fn add_master(&mut self, address: &str) -> Result<proto::ListMastersReply, Failure> {
        let address = address.to_owned();
        let message = proto::AddMasterRequest { address };
        let deadline = MEMBERSHIP_WAIT * 2 + ANSWER;
        self.call(message, deadline, |channel, request| async move {
            MembersClient::new(channel).add_master(request).await
        })
    }

    pub(super) fn remove_master(
        &mut self,
        master: &str,
    ) -> Result<proto::ListMastersReply, Failure> {
        let master = master.to_owned();
        let message = proto::RemoveMasterRequest { master };
        let deadline = MEMBERSHIP_WAIT * 2 + ANSWER;
        self.call(message, deadline, |channel, request| async move {
            MembersClient::new(channel).remove_master(request).await
        })
    }

    /// One call; a process that does not lead names the one that does, which is asked then.
    fn call<Q: Clone, A, F: Future<Output = Result<Response<A>, Status>>>(
        &mut self,
        message: Q,
        deadline: Duration,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Failure> {
        let mut referrals = 0;
        loop {
            let asked = request(message.clone(), deadline);
            let answer = self.runtime.block_on(call(self.channel.clone(), asked));
            let status = match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            let leader = status.metadata().get(LEADER_KEY);
            let leader = leader.and_then(|url| url.to_str().ok()).map(str::to_owned);
            match leader {
                Some(leader) if referrals < REFERRALS_MAX => {
                    referrals += 1;
                    self.channel = connect(&self.runtime, &leader)?;
                    self.url = leader;
                }
                _ => return Err(self.failure(&status)),
            }
        }
    }

    fn failure(&self, status: &Status) -> Failure {
        use tonic::Code;
        let exit = exit_of(status.code());
        let message = match status.code() {
            // Made by the client's own deadline; the server's limits are shorter.
            Code::Cancelled | Code::DeadlineExceeded => {
                format!("{} did not answer in time", self.url)
            }
            _ => status.message().to_owned(),
        };
        Failure::with(exit, message)
    }
}

fn connect(runtime: &tokio::runtime::Runtime, url: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| {
        let message = format!("'{url}' is no URL like http://127.0.0.1:9480: {error}");
        Failure::with(Exit::Usage, message)
    })?;
    let endpoint = endpoint.connect_timeout(CONNECT);
    let channel = runtime.block_on(endpoint.connect()).map_err(|error| {
        let message = format!(
            "cannot reach the control process at {url}: {}; is holdfast-control running, and is \
                 --control right?",
            innermost(&error)
        );
        Failure::with(Exit::Unavailable, message)
    })?;
    Ok(channel)
}

/// The exit code for an answer of the control process.
fn exit_of(code: tonic::Code) -> Exit {
    use tonic::Code;
    match code {
        Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
        Code::NotFound => Exit::NotFound,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::ResourceExhausted => Exit::Conflict,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Exit::Unavailable,
        _ => Exit::Error,
    }
}

/// The request with its deadline, its id and who sends it.
fn request<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    let mut put = |key: &'static str, value: &str| {
        // A user name that no header can carry is left out.
        if let Ok(value) = value.parse::<MetadataValue<Ascii>>() {
            request
                .metadata_mut()
                .insert(MetadataKey::from_static(key), value);
        }
    };
    put(REQUEST_ID_KEY, &uuid::Uuid::new_v4().to_string());
    put(ACTOR_KEY, &std::env::var("USER").unwrap_or_default());
    request
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::{Exit, exit_of};
    use tonic::Code;

    #[test]
    fn answers_have_their_exit_codes() {
        let cases = [
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::NotFound),
            (Code::AlreadyExists, Exit::Conflict),
            (Code::FailedPrecondition, Exit::Conflict),
            (Code::ResourceExhausted, Exit::Conflict),
            (Code::Unavailable, Exit::Unavailable),
            (Code::DeadlineExceeded, Exit::Unavailable),
            (Code::Internal, Exit::Error),
        ];
        for (code, exit) in cases {
            assert_eq!(exit_of(code), exit, "{code:?}");
        }
    }
}
