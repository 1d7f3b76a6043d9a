//! Card guards of several gateways over one store: what one records, each of them knows.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod guard_kit;

use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use cardea::actors::card_guard::{
    Authorise, BUILT_IN_RULES, CardChange, Edit, Edited, GuardHandle, NewCard, NewStation, Parts, RuleOrigin,
};
use cardea::actors::follower::Follower;
use cardea::actors::vehicle::IdempotencyKey;
use cardea::domain::Principal;
use cardea::domain::card::{CardLimits, CardStatus, Outcome, Settlement, Terminal};
use cardea::store::{LocalStore, Order, Store, Table};
use guard_kit::open;

/// One gateway's guard, which follows what the others record.
fn node(store: &Arc<LocalStore>, suspend_after_declines: u32) -> GuardHandle {
    let mut follower = Follower::new(store.clone());
    let parts = guard_kit::parts(store.clone(), guard_kit::nobody(), 5_000);
    let parts = Parts { suspend_after_declines, followed: follower.followed(), ..parts };
    let guard = GuardHandle::start(parts, &Arbiter::current()).unwrap();
    guard.follow(&mut follower);
    actix::spawn(follower.run());
    guard
}

fn ask(id: &str, amount_minor: i64) -> Authorise {
    let mut asked = guard_kit::ask(id);
    asked.purchase.amount.amount_minor = amount_minor;
    asked.purchase.merchant.network_id = Some("N1".into());
    asked
}

fn new_card(limits: CardLimits) -> NewCard {
    NewCard {
        card_id: Some("c1".parse().unwrap()),
        network_ref: "ic_1".parse().unwrap(),
        vehicle_id: Some("WVW-1".parse().unwrap()),
        status: CardStatus::Active,
        limits,
        prompts: Default::default(),
    }
}

async fn edit(guard: &GuardHandle, edit: Edit) -> Edited {
    guard.edit(edit, Principal::gateway(), None).await.unwrap()
}

/// Waits for what comes within the follower's lag.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    for _ in 0..1_500 {
        looks.tick().await;
        if is_so() {
            return;
        }
    }
    panic!("{what} did not come");
}

/// Whoever edits waits until memory knows their record, and so everything before it.
async fn caught_up(guard: &GuardHandle) {
    let station = NewStation {
        station_id: None,
        name: "Pompe Bianche".into(),
        brand: None,
        position: None,
        terminals: Vec::new(),
        postal_code: None,
        city: None,
        country: None,
        time_zone: None,
        is_offline_batch: false,
    };
    edit(guard, Edit::AddStation(station)).await;
}

fn a_day(limit: i64) -> CardLimits {
    CardLimits { per_day_minor: Some(limit), currency: "EUR".into(), ..CardLimits::default() }
}

#[actix::test]
async fn what_one_gateway_decides_is_answered_and_counted_by_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [one, other] = [node(&store, 0), node(&store, 0)];
    edit(&one, Edit::AddCard(new_card(a_day(9_000)))).await;
    let card = "c1".parse().unwrap();
    until("the card", || other.card(&card).is_some()).await;
    let first = one.authorise(ask("a1", 5_000)).await.unwrap();
    assert_eq!(first.settlement, Settlement::Enabled, "{first:?}");
    // What was bought at one counts at the other.
    let whole = |id, minor| {
        let mut whole = ask(id, minor);
        whole.purchase.partial_allowed = false;
        whole
    };
    caught_up(&other).await;
    let beyond = other.authorise(whole("a2", 6_000)).await.unwrap();
    assert_eq!(beyond.outcome, Outcome::Decline, "9000 a day, of which 5000 are gone: {beyond:?}");
    // Asked at the other, whether it knows it already or only the store does.
    assert_eq!(other.authorise(ask("a1", 5_000)).await.unwrap(), first);
    let posting = guard_kit::capture("a1", "p1", 1_000);
    // Only 1000 were captured: told to one, known to the other.
    assert!(!one.post(posting.clone()).await.unwrap().is_repeat);
    assert!(other.post(posting).await.unwrap().is_repeat);
    caught_up(&other).await;
    let within = other.authorise(whole("a3", 7_000)).await.unwrap();
    assert_eq!(within.settlement, Settlement::Enabled, "1000 are gone: {within:?}");
    assert_eq!(store.scan(Table::Decisions, "", None, 100, Order::Ascending).unwrap().rows.len(), 3);
    store.close();
}

#[actix::test]
async fn gateways_that_are_asked_the_same_at_the_same_time_give_one_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let nodes = [node(&store, 0), node(&store, 0), node(&store, 0)];
    edit(&nodes[0], Edit::AddCard(new_card(CardLimits::default()))).await;
    for number in 0..50 {
        let id = format!("a{number}");
        let asked = nodes.iter().map(|guard| guard.authorise(ask(&id, 100)));
        let answers = futures_util::future::join_all(asked).await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    assert_eq!(store.scan(Table::Decisions, "", None, 100, Order::Ascending).unwrap().rows.len(), 50);
    store.close();
}

#[actix::test]
async fn edits_at_several_gateways_lose_nothing_and_a_repeat_gets_its_answer_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [one, other] = [node(&store, 0), node(&store, 0)];
    let made = edit(&one, Edit::AddCard(new_card(CardLimits::default()))).await;
    let key = |body: &str| Some(IdempotencyKey { key: "anna/stations/k".into(), body: body.into() });
    let card = "c1".parse().unwrap();
    until("the card", || other.card(&card).is_some()).await;
    // Each changes another part of the same card, again and again, at the same time.
    for round in 1..30 {
        let suspend = Edit::ChangeCard(
            "c1".parse().unwrap(),
            CardChange {
                status: Some(if round % 2 == 0 { CardStatus::Active } else { CardStatus::Suspended }),
                ..CardChange::default()
            },
        );
        let limit =
            Edit::ChangeCard("c1".parse().unwrap(), CardChange { limits: Some(a_day(round)), ..CardChange::default() });
        tokio::join!(edit(&one, suspend), edit(&other, limit));
        until("both changes", || {
            [&one, &other].iter().all(|guard| {
                guard.card(&card).is_some_and(|card| {
                    card.limits.per_day_minor == Some(round) && (card.status == CardStatus::Active) == (round % 2 == 0)
                })
            })
        })
        .await;
    }
    assert!(matches!(made, Edited::Card(_)));
    let station = || {
        Edit::AddStation(NewStation {
            station_id: None,
            name: "Pompe Bianche".into(),
            brand: None,
            position: None,
            terminals: vec![Terminal { network_id: "N9".into(), terminal_id: None }],
            postal_code: None,
            city: None,
            country: None,
            time_zone: None,
            is_offline_batch: false,
        })
    };
    let [first, again] = [&one, &other].map(|guard| guard.edit(station(), Principal::gateway(), key("b")));
    let (first, again) = tokio::join!(first, again);
    assert_eq!(first.unwrap(), again.unwrap(), "one station, whoever made it");
    until("the station", || [&one, &other].iter().all(|guard| guard.stations(None, 9).len() == 1)).await;
    edit(&other, Edit::RemoveCard("c1".parse().unwrap())).await;
    assert!(other.card(&card).is_none(), "whoever edits sees it at once");
    until("the removal", || one.card(&card).is_none()).await;
    store.close();
}

#[actix::test]
async fn rules_that_come_into_force_at_one_gateway_are_in_force_at_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [one, other] = [node(&store, 0), node(&store, 0)];
    let text = BUILT_IN_RULES.lines().map(|line| match line.starts_with("version") {
        true => "version = \"of-tuesday\"",
        false => line,
    });
    let text: String = text.map(|line| format!("{line}\n")).collect();
    edit(&one, Edit::SetRules { text, origin: RuleOrigin::Http }).await;
    assert_eq!(one.rule_version().0.version, "of-tuesday");
    until("the rules", || other.rule_version().0.version == "of-tuesday" && other.rules().version == "of-tuesday")
        .await;
    store.close();
}

#[actix::test]
async fn declines_at_several_gateways_suspend_a_card_once_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let [one, other] = [node(&store, 4), node(&store, 4)];
    let card = "c1".parse().unwrap();
    let limits = CardLimits { per_purchase_minor: Some(1), currency: "EUR".into(), ..CardLimits::default() };
    edit(&one, Edit::AddCard(new_card(limits))).await;
    until("the card", || other.card(&card).is_some()).await;
    for (number, guard) in [&one, &other, &one, &other].into_iter().enumerate() {
        let mut purchase = ask(&format!("a{number}"), 50_000);
        purchase.purchase.partial_allowed = false;
        let declined = guard.authorise(purchase).await.unwrap();
        assert_eq!(declined.outcome, Outcome::Decline, "{declined:?}");
    }
    for guard in [&one, &other] {
        until("the suspension", || guard.card(&card).is_some_and(|card| card.status == CardStatus::Suspended)).await;
    }
    let suspensions = store.read("card/c1", Default::default(), 100).unwrap();
    let suspensions = suspensions.iter().flat_map(|record| &record.events);
    assert_eq!(suspensions.filter(|event| event.get().contains("card_suspended")).count(), 1);
    store.close();
}
