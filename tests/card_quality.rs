//! Every kind of purchase story once through the real binary: no honest one is stopped, and each misuse shows in the
//! phase that the table of kinds promises. `./scripts/bench card-quality` does the same with hundreds.

mod kit;

use cardea_simulator::bench::card_quality::{Form, KINDS, Plan, print_table, with_classes};
use kit::Gateway;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SEED: u64 = 20_261_122;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_honest_purchase_is_stopped_and_every_misuse_shows_when_it_can() {
    println!("SEED={SEED}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("card-rules.toml");
    let base = include_str!("../config/card-rules.toml");
    std::fs::write(&rules, with_classes(base, cardea::clock::Clock::start().now())).expect("the rules are written");
    let rules = format!("card_guard.rules={:?}", rules.to_string_lossy());
    let secrets = format!("payments.own.secrets=[{SECRET:?}]");
    // On a busy machine a late answer would only be the fallback.
    let gateway = Gateway::start_with(&[&rules, &secrets, "payments.stripe.deadline_ms=900"]).await;
    let plan = Plan {
        http: gateway.http.clone(),
        ca: gateway.ca(),
        ca_key: gateway.ca().with_file_name("ca.key.pem"),
        mqtt: gateway.mqtt.to_string().parse().expect("an address"),
        admin_key: gateway.admin_key.clone(),
        secret: SECRET.into(),
        form: Form::Own,
        stories: KINDS.len(),
        seed: SEED,
        directory: None,
    };
    let report = plan.run().await.unwrap_or_else(|failure| panic!("the stories were not played: {failure}"));
    print_table(&report);
    assert!(report.unjudged <= report.stories / 10, "the machine is too busy to judge anything");
    let declined = report.honest_declined();
    assert!(declined.is_empty(), "honest purchases were declined: {declined:#?}");
    let doubted = report.honest_doubted();
    assert!(doubted.is_empty(), "honest fills were doubted: {doubted:#?}");
    let too_late = report.shown_too_late();
    assert!(too_late.is_empty(), "misuse did not show when it can: {too_late:#?}");
}
