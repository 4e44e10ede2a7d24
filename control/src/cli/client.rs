//! The command line's end of gRPC: one call, with a deadline, and its errors as [`Failure`]s.

use super::{Exit, Failure};
use crate::access::Access;
use crate::convert::access_to;
use crate::limits::{CHANGE_WAIT, CREATE_WAIT, STORES_WAIT};
use crate::name::VolumeName;
use crate::proto::control_client::ControlClient;
use crate::proto::{self, Volume};
use crate::service::{ACTOR_KEY, REQUEST_ID_KEY};
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

/// A connection to a control process.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    service: ControlClient<Channel>,
    url: String,
}

impl Client {
    /// Connects to `url`.
    pub(super) fn connect(url: &str) -> Result<Client, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| Failure::with(Exit::Error, error.to_string()))?;
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
        Ok(Client {
            runtime,
            service: ControlClient::new(channel),
            url: url.to_owned(),
        })
    }

    pub(super) fn create_volume(
        &mut self,
        name: &VolumeName,
        size: Size,
        store: Option<StoreId>,
        access: Option<&Access>,
    ) -> Result<Volume, Failure> {
        let message = proto::CreateVolumeRequest {
            name: name.to_string(),
            size_bytes: size.0,
            access: access.map(access_to),
            store_id: store.map_or_else(String::new, |store| store.to_string()),
        };
        let call = self
            .service
            .create_volume(request(message, STORES_WAIT + CREATE_WAIT + ANSWER));
        self.runtime
            .block_on(call)
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    pub(super) fn list_volumes(&mut self) -> Result<proto::ListVolumesReply, Failure> {
        let call = self
            .service
            .list_volumes(request(proto::ListVolumesRequest {}, ANSWER));
        self.runtime
            .block_on(call)
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    pub(super) fn get_volume(&mut self, name: &VolumeName) -> Result<Volume, Failure> {
        let message = proto::GetVolumeRequest {
            name: name.to_string(),
        };
        let call = self.service.get_volume(request(message, ANSWER));
        self.runtime
            .block_on(call)
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    pub(super) fn delete_volume(
        &mut self,
        name: &VolumeName,
    ) -> Result<proto::DeleteVolumeReply, Failure> {
        let message = proto::DeleteVolumeRequest {
            name: name.to_string(),
        };
        let call = self
            .service
            .delete_volume(request(message, CHANGE_WAIT + ANSWER));
        self.runtime
            .block_on(call)
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
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
        let call = self
            .service
            .set_volume_access(request(message, CHANGE_WAIT + ANSWER));
        self.runtime
            .block_on(call)
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    pub(super) fn list_nodes(&mut self) -> Result<proto::ListNodesReply, Failure> {
        let call = self
            .service
            .list_nodes(request(proto::ListNodesRequest {}, ANSWER));
        self.runtime
            .block_on(call)
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    pub(super) fn list_events(&mut self) -> Result<proto::ListEventsReply, Failure> {
        let call = self
            .service
            .list_events(request(proto::ListEventsRequest {}, ANSWER));
        self.runtime
            .block_on(call)
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
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
