//! The NATS servers that the cluster's tests stand on: they keep what they acknowledged, and they say how they sync.

mod kit;

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, Stream};
use futures_util::StreamExt;
use kit::nats::{NatsCluster, installed};
use serde_json::Value;

async fn stream(nats: &NatsCluster) -> (jetstream::Context, Stream) {
    let context = jetstream::new(nats.client().await);
    let config =
        Config { name: "KIT".into(), subjects: vec!["kit.>".into()], num_replicas: nats.len(), ..Config::default() };
    let stream = context.create_stream(config).await.expect("a stream");
    (context, stream)
}

/// Publishes until it is acknowledged, as a leader's death takes some seconds.
async fn publish(context: &jetstream::Context, number: u64) -> u64 {
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..600 {
        looks.tick().await;
        if let Ok(acknowledged) = context.publish("kit.numbers", number.to_string().into()).await
            && let Ok(acknowledged) = acknowledged.await
        {
            return acknowledged.sequence;
        }
    }
    panic!("{number} was never acknowledged")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_three_servers_acknowledged_outlives_their_leader_and_its_return() {
    let Some(mut nats) = NatsCluster::start(3).await else { return };
    let (context, stream) = stream(&nats).await;
    let mut sequences = Vec::new();
    for number in 0..50 {
        sequences.push(publish(&context, number).await);
    }
    let leader = nats.until_led("KIT").await;
    nats.kill(leader);
    for number in 50..100 {
        sequences.push(publish(&context, number).await);
    }
    assert_ne!(nats.until_led("KIT").await, leader);
    nats.restart(leader).await;
    // Two of three must be there, so that the one that came back has to have caught up.
    nats.kill((leader + 1) % 3);
    for number in 100..110 {
        sequences.push(publish(&context, number).await);
    }
    for (number, sequence) in (0..110).zip(sequences) {
        let kept = stream.get_raw_message(sequence).await.expect("it was acknowledged");
        assert_eq!(kept.payload, number.to_string().as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_missed_and_resumes() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    let (context, _) = stream(&nats).await;
    publish(&context, 0).await;
    let leader = nats.until_led("KIT").await;
    nats.stop(leader);
    publish(&context, 1).await;
    kit::until("another leads", async || nats.leader("KIT").await.is_some_and(|now| now != leader)).await;
    nats.resume(leader);
    publish(&context, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_leader_is_replaced_and_has_what_it_missed_when_it_is_back() {
    let name = "an_isolated_leader_is_replaced_and_has_what_it_missed_when_it_is_back";
    if installed().is_none() || kit::namespaces::has_run_inside(name) || !kit::namespaces::is_inside() {
        return;
    }
    let Some(mut nats) = NatsCluster::start_apart().await else { return };
    let (context, stream) = stream(&nats).await;
    publish(&context, 0).await;
    let leader = nats.until_led("KIT").await;
    // It panics if the server can still be reached.
    nats.isolate(leader).await;
    let missed = publish(&context, 1).await;
    assert_ne!(nats.until_led("KIT").await, leader);
    nats.rejoin(leader);
    nats.ready().await;
    // Two of three must be there, so that the one that came back has to have caught up.
    nats.kill((leader + 1) % 3);
    publish(&context, 2).await;
    assert_eq!(stream.get_raw_message(missed).await.expect("it was acknowledged").payload, "1");
}

/// What the servers tell the system account of their JetStream's settings.
async fn told(nats: &NatsCluster) -> Vec<Value> {
    let client = nats.system_client().await;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.expect("subscribed");
    client.publish_with_reply("$SYS.REQ.SERVER.PING.JSZ", inbox, "".into()).await.expect("asked");
    let mut all = Vec::new();
    while all.len() < nats.len() {
        let answer = tokio::time::timeout(kit::PATIENCE, answers.next()).await.expect("in time").expect("an answer");
        all.push(serde_json::from_slice(&answer.payload).expect("JSON"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_say_whether_they_sync_each_write() {
    let Some(nats) = NatsCluster::start(3).await else { return };
    for answer in told(&nats).await {
        assert_eq!(answer["data"]["config"]["sync_always"], true, "{answer}");
    }
    let Some(nats) = NatsCluster::start_unsynced(1).await else { return };
    for answer in told(&nats).await {
        assert_ne!(answer["data"]["config"]["sync_always"], true, "{answer}");
    }
}
