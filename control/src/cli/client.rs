//! The command line's end of gRPC: one call, with a deadline, and its errors as [`Failure`]s.
//!
//! With several URLs the first that can be reached is asked, and the next when it does not answer or knows
//! no leader. A change that may have arrived somewhere is not sent again.

use super::{Exit, Failure, PolicyOptions};
use crate::access::Access;
use crate::convert::access_to;
use crate::limits::{CHANGE_WAIT, CREATE_WAIT, MEMBERSHIP_WAIT, STORES_WAIT};
use crate::name::VolumeName;
use crate::proto::control_client::ControlClient;
use crate::proto::members_client::MembersClient;
use crate::proto::operations_client::OperationsClient;
use crate::proto::{self, Volume};
use crate::service::{ACTOR_KEY, LEADER_KEY, REQUEST_ID_KEY};
use crate::size::Size;
use holdfast_core::id::StoreId;
use std::time::{Duration, Instant};
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// Time to reach the control process.
const CONNECT: Duration = Duration::from_secs(5);

/// Time for a question, and on top of the server's own limits for a change.
const ANSWER: Duration = Duration::from_secs(10);

/// Referrals to the leader that are followed in a row.
const REFERRALS_MAX: usize = 3;

/// Time for masters to choose a leader, when none leads.
const LEADER_WAIT: Duration = Duration::from_secs(5);

/// Between two rounds of asking who leads.
const LEADER_PAUSE: Duration = Duration::from_millis(200);

/// Control processes, one of them connected.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    urls: Vec<String>,
    /// Index of the next one to try.
    next: usize,
    channel: Channel,
    url: String,
}

/// What a failed call leads to.
enum After {
    /// This one is said to lead.
    Ask(String),
    /// Nothing was done; another one may know the leader.
    AskOthers,
    GiveUp,
}

impl Client {
    /// Connects to the first of `urls` that can be reached.
    pub(super) fn connect(urls: &[String]) -> Result<Client, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Failure::with(Exit::Error, error.to_string()))?;
        let (at, channel) = first_reachable(&runtime, urls, 0)?;
        Ok(Client {
            runtime,
            urls: urls.to_vec(),
            next: at + 1,
            channel,
            url: urls[at].clone(),
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
        self.ask(proto::ListVolumesRequest {}, |channel, request| async move { ControlClient::new(channel).list_volumes(request).await },
        )
    }

    pub(super) fn get_volume(&mut self, name: &VolumeName) -> Result<Volume, Failure> {
        let message = proto::GetVolumeRequest {
            name: name.to_string(),
        };
        self.ask(message, |channel, request| async move {
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
        self.ask(proto::ListNodesRequest {}, |channel, request| async move {
            ControlClient::new(channel).list_nodes(request).await
        })
    }

    pub(super) fn list_events(&mut self) -> Result<proto::ListEventsReply, Failure> {
        self.ask(proto::ListEventsRequest {}, |channel, request| async move {
            ControlClient::new(channel).list_events(request).await
        })
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
        self.ask(message, |channel, request| async move {
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

    pub(super) fn add_replica(&mut self, name: &VolumeName, node: &str) -> Result<Volume, Failure> {
        let message = proto::AddReplicaRequest {
            name: name.to_string(),
            node: node.to_owned(),
        };
        self.call(
            message,
            CHANGE_WAIT + ANSWER,
            |channel, request| async move { OperationsClient::new(channel).add_replica(request).await },
        )
    }

    pub(super) fn remove_replica(
        &mut self,
        name: &VolumeName,
        node: &str,
        force: bool,
    ) -> Result<Volume, Failure> {
        let message = proto::RemoveReplicaRequest {
            name: name.to_string(),
            node: node.to_owned(),
            force,
        };
        self.call(
            message,
            CHANGE_WAIT + ANSWER,
            |channel, request| async move {
                OperationsClient::new(channel).remove_replica(request).await
            },
        )
    }

    pub(super) fn set_volume(
        &mut self,
        message: proto::SetVolumeRequest,
    ) -> Result<Volume, Failure> {
        // Size, copies and durability one after the other.
        self.call(
            message,
            CHANGE_WAIT * 3 + ANSWER,
            |channel, request| async move { OperationsClient::new(channel).set_volume(request).await },
        )
    }

    pub(super) fn change_node(
        &mut self,
        node: &str,
        change: proto::NodeChange,
        force: bool,
    ) -> Result<proto::ListNodesReply, Failure> {
        let message = proto::ChangeNodeRequest {
            node: node.to_owned(),
            change: change.into(),
            force,
        };
        self.call(message, ANSWER, |channel, request| async move {
            OperationsClient::new(channel).change_node(request).await
        })
    }

    /// A call that changes nothing.
    fn ask<Q: Clone, A, F: Future<Output = Result<Response<A>, Status>>>(
        &mut self,
        message: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Failure> {
        self.attempts(message, ANSWER, true, call)
    }

    /// A call that may change something.
    fn call<Q: Clone, A, F: Future<Output = Result<Response<A>, Status>>>(
        &mut self,
        message: Q,
        deadline: Duration,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Failure> {
        self.attempts(message, deadline, false, call)
    }

    /// One call; a process that does not lead names the one that does, which is asked then.
    fn attempts<Q: Clone, A, F: Future<Output = Result<Response<A>, Status>>>(
        &mut self,
        message: Q,
        deadline: Duration,
        repeatable: bool,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Failure> {
        let began = Instant::now();
        let (mut referrals, mut asked) = (0, 1);
        loop {
            let sent = request(message.clone(), deadline);
            let answer = self.runtime.block_on(call(self.channel.clone(), sent));
            let status = match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            match after(&status, repeatable) {
                After::Ask(leader) if referrals < REFERRALS_MAX => {
                    referrals += 1;
                    if let Ok(channel) = connect(&self.runtime, &leader) {
                        self.channel = channel;
                        self.url = leader;
                        continue;
                    }
                }
                After::Ask(_) | After::AskOthers => {}
                After::GiveUp => return Err(self.failure(&status)),
            }
            if asked >= self.urls.len() {
                if began.elapsed() > LEADER_WAIT {
                    return Err(self.failure(&status));
                }
                std::thread::sleep(LEADER_PAUSE);
                asked = 0;
            }
            (asked, referrals) = (asked + 1, 0);
            let (at, channel) = first_reachable(&self.runtime, &self.urls, self.next)?;
            (self.next, self.channel, self.url) = (at + 1, channel, self.urls[at].clone());
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

/// What a failed call leads to. One that may have arrived is repeated only when it is `repeatable`.
fn after(status: &Status, repeatable: bool) -> After {
    let leader = status.metadata().get(LEADER_KEY);
    match leader.map(|url| url.to_str().unwrap_or_default()) {
        Some("") => After::AskOthers,
        Some(leader) => After::Ask(leader.to_owned()),
        None if repeatable && status.code() == tonic::Code::Unavailable => After::AskOthers,
        None => After::GiveUp,
    }
}

/// Connects to the first of `urls` that can be reached, beginning with `from`; the last error if none can.
fn first_reachable(
    runtime: &tokio::runtime::Runtime,
    urls: &[String],
    from: usize,
) -> Result<(usize, Channel), Failure> {
    let mut failure = Failure::with(Exit::Usage, "--control needs a URL");
    for at in (from..from + urls.len()).map(|at| at % urls.len()) {
        match connect(runtime, &urls[at]) {
            Ok(channel) => return Ok((at, channel)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn connect(runtime: &tokio::runtime::Runtime, url: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| {
        let message = format!("'{url}' is no URL like http://127.0.0.1:9480: {error}");
        Failure::with(Exit::Usage, message)
    })?;
    // One that stands still is noticed, so that another can be asked.
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2));
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
    use super::{After, Exit, LEADER_KEY, after, exit_of};
    use tonic::{Code, Status};

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

    #[test]
    fn change_that_may_have_arrived_is_not_sent_again() {
        let lost = Status::unavailable("connection reset");
        assert!(matches!(after(&lost, false), After::GiveUp));
        assert!(matches!(after(&lost, true), After::AskOthers));
        let mut no_leader = Status::unavailable("no master leads");
        no_leader
            .metadata_mut()
            .insert(LEADER_KEY, "".parse().unwrap());
        assert!(matches!(after(&no_leader, false), After::AskOthers));
        let mut referral = no_leader.clone();
        referral
            .metadata_mut()
            .insert(LEADER_KEY, "http://h:1".parse().unwrap());
        assert!(matches!(after(&referral, false), After::Ask(url) if url == "http://h:1"));
        assert!(matches!(
            after(&Status::not_found("x"), true),
            After::GiveUp
        ));
    }
}
