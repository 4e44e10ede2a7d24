//! gRPC end to end, in this process: client, service, master, agent, scripted volume server.

use crate::agent::tests::{Control, Server, report};
use crate::master::Caller;
use crate::proto::control_client::ControlClient;
use crate::proto::{self, VolumeState};
use crate::registry::{NewVolume, Policy, RefusalKind};
use holdfast_core::id::VolumeId;
use holdfast_core::link;
use std::str::FromStr;
use tonic::Code;
use tonic::transport::Channel;

const GIB: u64 = 1 << 30;

async fn serve(control: &Control) -> (ControlClient<Channel>, Channel) {
    let endpoint = Channel::from_shared(control.url.clone()).expect("a URL");
    let channel = endpoint.connect().await.expect("connected");
    (ControlClient::new(channel.clone()), channel)
}

fn wanted(name: &str, size_bytes: u64) -> proto::CreateVolumeRequest {
    proto::CreateVolumeRequest {
        name: name.into(),
        size_bytes,
        access: None,
        store_id: String::new(),
        ..Default::default()
    }
}

/// Confirms one assignment and reports the volume as served.
async fn accept(server: &mut Server) -> link::Assignment {
    let (request, assignment) = server.assignment().await;
    server.reply(request, link::ReplyCode::Ok).await;
    let id = VolumeId::try_from(assignment.volume_id.as_slice()).expect("16 bytes");
    server.report(&[(id, assignment.epoch)]).await;
    assignment
}

#[tokio::test]
async fn a_volume_lives_from_create_to_status() {
    let control = Control::start().await;
    let (mut client, _) = serve(&control).await;
    let mut server = Server::connect(&control, &[]).await;
    let mut second = client.clone();
    let creating = tokio::spawn(async move { second.create_volume(wanted("a", GIB)).await });
    accept(&mut server).await;
    let volume = creating
        .await
        .expect("no panic")
        .expect("created")
        .into_inner();
    assert_eq!(volume.state(), VolumeState::Serving);
    assert_eq!(volume.iqn, "iqn.2026-11.io.holdfast:a");
    assert_eq!(volume.portals, ["127.0.0.1:3260"]);
    assert!(VolumeId::from_str(&volume.id).is_ok());
    let again = client
        .create_volume(wanted("a", GIB))
        .await
        .expect("the same")
        .into_inner();
    assert_eq!(again.id, volume.id);
    let other = client
        .create_volume(wanted("a", 2 * GIB))
        .await
        .expect_err("a conflict");
    assert_eq!(other.code(), Code::AlreadyExists);
    let listed = client
        .list_volumes(proto::ListVolumesRequest {})
        .await
        .expect("listed");
    assert_eq!(listed.into_inner().volumes.len(), 1);
    let nodes = client
        .list_nodes(proto::ListNodesRequest {})
        .await
        .expect("listed");
    let node = &nodes.into_inner().nodes[0];
    assert!(node.connected);
    assert_eq!(node.stores[0].promised_bytes, GIB);
    let events = client
        .list_events(proto::ListEventsRequest {})
        .await
        .expect("listed");
    let events = events.into_inner().events;
    assert!(
        events
            .iter()
            .any(|event| event.what.starts_with("create volume a"))
    );
    control.end().await;
}

/// A server that opened a small store and still opens a large one would get every volume on the small.
#[tokio::test]
async fn a_volume_is_placed_only_when_every_store_is_known() {
    let control = Control::start().await;
    let (client, _) = serve(&control).await;
    let mut server = Server::connect(&control, &[]).await;
    let mut opening = report(&[]);
    opening.stores_opening = 1;
    server.send(0, link::Body::Report(opening)).await;
    control.until(|view| view.stores_opening == 1).await;
    let direct = NewVolume {
        name: "b".parse().expect("a name"),
        size_bytes: GIB,
        access: None,
        store: None,
        policy: Policy::default(),
        allow_degraded: false,
    };
    let caller = Caller {
        who: "test".into(),
        request_id: String::new(),
    };
    let refusal = control.handle.create(direct, caller).await;
    let refusal = refusal.expect_err("no store can be chosen yet");
    assert_eq!(refusal.kind, RefusalKind::Opening);
    assert!(refusal.message.contains("1 of their stores"), "{refusal}");
    let mut waiting = client.clone();
    let creating = tokio::spawn(async move { waiting.create_volume(wanted("a", GIB)).await });
    let mut known = report(&[]);
    let mut large = known.stores[0].clone();
    large.store_id = vec![9; 16];
    large.path = "/large".into();
    large.capacity_bytes *= 2;
    known.stores.push(large);
    server.send(0, link::Body::Report(known.clone())).await;
    let (request, assignment) = server.assignment().await;
    assert_eq!(assignment.store_id, [9; 16]);
    server.reply(request, link::ReplyCode::Ok).await;
    let id = VolumeId::try_from(assignment.volume_id.as_slice()).expect("16 bytes");
    known.volumes = report(&[(id, assignment.epoch)]).volumes;
    known.volumes[0].store_id = vec![9; 16];
    server.send(0, link::Body::Report(known)).await;
    creating.await.expect("no panic").expect("created");
    control.end().await;
}

#[tokio::test]
async fn requests_that_cannot_be_are_refused_with_their_code() {
    let control = Control::start().await;
    let (mut client, _) = serve(&control).await;
    let cases = [
        (wanted("A", GIB), Code::InvalidArgument),
        (wanted("a", GIB + 1), Code::InvalidArgument),
        (wanted("a", GIB), Code::Unavailable),
    ];
    for (request, code) in cases {
        let status = client.create_volume(request).await.expect_err("refused");
        assert_eq!(status.code(), code, "{status}");
    }
    let name = || "a".to_owned();
    let get = client
        .get_volume(proto::GetVolumeRequest { name: name() })
        .await;
    let delete = client
        .delete_volume(proto::DeleteVolumeRequest { name: name() })
        .await;
    let access = proto::SetVolumeAccessRequest {
        name: name(),
        access: None,
    };
    let access = client.set_volume_access(access).await;
    assert_eq!(get.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(delete.expect_err("unknown").code(), Code::NotFound);
    assert_eq!(access.expect_err("unknown").code(), Code::NotFound);
    control.end().await;
}

#[tokio::test]
async fn a_volume_for_which_there_is_no_room_leaves_nothing_behind() {
    let control = Control::start().await;
    let (mut client, _) = serve(&control).await;
    let mut server = Server::connect(&control, &[]).await;
    let mut second = client.clone();
    let creating = tokio::spawn(async move { second.create_volume(wanted("a", GIB)).await });
    let (request, _) = server.assignment().await;
    server.reply(request, link::ReplyCode::NoSpace).await;
    let status = creating.await.expect("no panic").expect_err("refused");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "as scripted");
    server.confirm_removal().await;
    control.until(|view| view.volumes.is_empty()).await;
    let gone = client.get_volume(proto::GetVolumeRequest { name: "a".into() });
    assert_eq!(gone.await.expect_err("undone").code(), Code::NotFound);
    control.end().await;
}

#[tokio::test]
async fn access_reaches_the_volume_server_and_secrets_do_not_come_back() {
    let control = Control::start().await;
    let (mut client, _) = serve(&control).await;
    let mut server = Server::connect(&control, &[]).await;
    let mut second = client.clone();
    let creating = tokio::spawn(async move { second.create_volume(wanted("a", GIB)).await });
    accept(&mut server).await;
    creating.await.expect("no panic").expect("created");
    let request = |secret: &[u8]| proto::SetVolumeAccessRequest {
        name: "a".into(),
        access: Some(proto::Access {
            initiators: vec!["iqn.x:1".into()],
            chap: Some(proto::Chap {
                user: "h".into(),
                secret: secret.to_vec(),
            }),
            mutual: None,
        }),
    };
    let short = client
        .set_volume_access(request(b"short"))
        .await
        .expect_err("refused");
    assert_eq!(short.code(), Code::InvalidArgument);
    let changing =
        tokio::spawn(async move { client.set_volume_access(request(b"twelve bytes")).await });
    let assignment = accept(&mut server).await;
    let access = assignment.access.expect("always given");
    assert_eq!(access.chap_secret, b"twelve bytes");
    assert!(!assignment.create);
    let volume = changing
        .await
        .expect("no panic")
        .expect("changed")
        .into_inner();
    assert_eq!(volume.chap_user, "h");
    assert!(!format!("{volume:?}").contains("twelve"));
    control.end().await;
}

#[tokio::test]
async fn health_says_serving() {
    let control = Control::start().await;
    let (_, channel) = serve(&control).await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest {
        service: "holdfast.v1.Control".into(),
    };
    let answer = health.check(request).await.expect("answered").into_inner();
    assert_eq!(
        answer.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    control.end().await;
}
