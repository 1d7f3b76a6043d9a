//! The way of every payment message, whatever its form: configured? proved? not too often? read; then ask the guard, post,
//! or let it be; and always answer.
//!
//! A question of a proved sender is never answered by an error: without a record in time it is answered by the
//! configured fallback, and what cannot be read is recorded, alerts, and is answered so too.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use tokio::sync::Semaphore;

use super::form::{
    Acknowledged, FallbackAnswer, Glance, Message, NotSigned, PaymentForm, Question, Received, Signed, Unfit, Verdict,
};
use super::given::{Asked, Given, GivenAnswers};
use crate::actors::card_guard::{Authorise, FellBack, GuardError, GuardHandle};
use crate::config::{Fallback, FormSettings, Payments};
use crate::domain::Money;
use crate::domain::card::{Posting, Unreadable};
use crate::http::App;
use crate::http::access::rate::{Bucket, Rate};
use crate::http::access::sha256;
use crate::http::error::{Problem, Slug};
use crate::http::wire::{announced_length, read_body};
use crate::metrics::{Count, Reading, Timing};

/// The forms in the order of [`PaymentForm::PLACE`].
pub const SOURCES: [&str; 4] = ["stripe", "own", "marqeta", "lithic"];

/// Messages that could not be recorded yet and are tried again.
const MAX_UNRECORDED: usize = 256;
const RETRIES: u32 = 120;
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// What the payment edge keeps in memory.
pub struct PaymentEdge {
    given: GivenAnswers,
    buckets: [Mutex<Bucket>; SOURCES.len()],
    unrecorded: Arc<Semaphore>,
    pub counters: PaymentCounters,
}

/// What the payment edge counts, by form.
#[derive(Debug, Default)]
pub struct PaymentCounters {
    pub messages: [Count; SOURCES.len()],
    pub rate_limited: [Count; SOURCES.len()],
    pub fallbacks: [Count; SOURCES.len()],
    pub unreadable: [Count; SOURCES.len()],
    pub postings: [Count; SOURCES.len()],
    /// Messages that could not be understood, and not be recorded either.
    pub lost: Count,
    /// From a question's message until its answer.
    pub answers: Timing,
}

impl PaymentCounters {
    /// For [`crate::metrics::Metrics::register`].
    pub fn readings(&self) -> Vec<Reading> {
        let by_source = |name, help, counts: &[Count; SOURCES.len()]| {
            let counts = SOURCES.iter().zip(counts).map(|(source, count)| ((*source).to_owned(), count.get()));
            Reading::counters(name, help, "source", counts)
        };
        vec![
            by_source("payment_messages", "Payment messages with a right signature", &self.messages),
            by_source("payment_rate_limited", "Payment messages over their source's rate", &self.rate_limited),
            by_source("payment_fallbacks", "Questions answered by the configured fallback", &self.fallbacks),
            by_source("payment_unreadable", "Payment messages that could not be understood", &self.unreadable),
            by_source("payment_postings", "Postings taken", &self.postings),
            Reading::timing("payment_answer_seconds", "Time until a question's answer", &self.answers),
            Reading::counter("payment_lost", "Unreadable messages that could not be recorded", self.lost.get()),
        ]
    }
}

impl PaymentEdge {
    pub fn new(payments: &Payments) -> Self {
        let settings = [
            payments.stripe.settings(),
            payments.own.settings(),
            payments.marqeta.settings(),
            payments.lithic.settings(),
        ];
        Self {
            given: GivenAnswers::new(),
            buckets: settings.map(|form| Mutex::new(Bucket::full(rate(form)))),
            unrecorded: Arc::new(Semaphore::new(MAX_UNRECORDED)),
            counters: PaymentCounters::default(),
        }
    }
}

fn rate(form: FormSettings<'_>) -> Rate {
    Rate::new(form.rate_per_s, form.rate_burst)
}

/// One message of one form on its way.
struct Reception<'a, F> {
    app: &'a App,
    form: F,
    settings: FormSettings<'a>,
    body: web::Bytes,
    body_sha256: String,
    /// Looked at on need: most answers do without.
    glance: OnceCell<Glance>,
    /// The message's id beside its body.
    message_id: Option<String>,
}

pub async fn receive<F: PaymentForm>(
    app: &App,
    request: &HttpRequest,
    payload: web::Payload,
    form: F,
) -> Result<HttpResponse, Problem> {
    let settings = F::settings(&app.config.payments);
    let begun = app.clock.elapsed();
    if settings.secrets.is_empty() {
        return Err(Problem::new(Slug::NotFound, format!("payments of the form {} are not configured", F::SOURCE)));
    }
    let body = read_body(payload, announced_length(request), settings.max_body_bytes).await?;
    let now = app.clock.now();
    let signed =
        form.verify(request.headers(), &body, settings, now).map_err(|error| refuse_unsigned::<F>(app, error))?;
    let counters = &app.payments.counters;
    admit::<F>(app, settings)?;
    counters.messages[F::PLACE].inc();
    let body_sha256 = hex::encode(sha256(&body));
    let received =
        Received { body: &body, body_sha256: &body_sha256, signed: &signed, now, tolerance_s: settings.tolerance_s };
    let message = form.read(&received);
    let Signed { message_id, .. } = signed;
    let reception = Reception { app, form, settings, body, body_sha256, glance: OnceCell::new(), message_id };
    match message {
        Err(unfit) => reception.unreadable(unfit).await,
        Ok(Message::Nothing { id }) => {
            app.guard.counters().other_messages.inc();
            reception.note_repeat(id.as_deref());
            Ok(reception.form.acknowledge(reception.repeated(), None))
        }
        Ok(Message::Postings(postings)) => reception.post(postings).await,
        Ok(Message::Question(question)) => {
            let answer = reception.ask(*question).await;
            counters.answers.record(app.clock.elapsed().saturating_sub(begun));
            Ok(answer)
        }
    }
}

fn refuse_unsigned<F: PaymentForm>(app: &App, error: NotSigned) -> Problem {
    app.guard.counters().bad_signatures.inc();
    tracing::warn!(source = F::SOURCE, %error, "a payment message was refused");
    let unauthenticated = |detail: &str| Problem::new(Slug::Unauthenticated, detail);
    match error {
        NotSigned::Missing(header) => unauthenticated(&format!("the header {header} is needed")),
        NotSigned::Malformed(header, detail) => Problem::invalid(header, detail),
        NotSigned::Wrong => unauthenticated("the signature or password does not fit"),
        NotSigned::OutOfTime => unauthenticated("the message's time is too far from now; check the clocks"),
    }
}

/// Only proved messages count, so that a stranger cannot use up what is the network's.
fn admit<F: PaymentForm>(app: &App, settings: FormSettings<'_>) -> Result<(), Problem> {
    let mut bucket = app.payments.buckets[F::PLACE].lock().unwrap_or_else(PoisonError::into_inner);
    bucket.take(rate(settings), app.clock.now()).map_err(|retry_after_s| {
        app.payments.counters.rate_limited[F::PLACE].inc();
        let detail = format!("messages of the form {} come too often; nothing happened", F::SOURCE);
        Problem::new(Slug::TooManyRequests, detail).retry_after(retry_after_s)
    })
}

impl<F: PaymentForm> Reception<'_, F> {
    fn glance(&self) -> &Glance {
        self.glance.get_or_init(|| self.form.glance(&self.body))
    }

    /// What an answer repeats.
    fn repeated(&self) -> &Glance {
        match F::REPEATS {
            true => self.glance(),
            false => self.glance.get_or_init(Glance::default),
        }
    }

    /// Notes a message's id. What a repeat gets is decided by what it says: a question is answered by its record, a
    /// posting is taken once.
    fn note_repeat(&self, id: Option<&str>) {
        // A proof is good for the tolerance before and after its time.
        let window_ms = i64::try_from(self.settings.tolerance_s).unwrap_or(i64::MAX / 4_000).saturating_mul(2_000);
        let Some(id) = self.message_id.as_deref().or(id) else { return };
        if self.app.guard.is_repeat(&format!("{}/{id}", F::SOURCE), window_ms) {
            self.app.guard.counters().repeated_messages.inc();
        }
    }

    async fn ask(&self, question: Question) -> HttpResponse {
        let Question { purchase, source_event, mut already_minor } = question;
        self.note_repeat(Some(&source_event));
        let payments = &self.app.payments;
        let authorization_id = purchase.authorization_id.clone();
        if !F::SAYS_WHAT_IS_HELD && already_minor > 0 {
            already_minor = payments.given.granted_minor(F::SOURCE, &authorization_id).max(already_minor);
        }
        let asked = Asked::new(F::SOURCE, &purchase.authorization_id, already_minor, &source_event);
        let (amount, partial_allowed) = (purchase.amount.clone(), purchase.partial_allowed);
        let given = match payments.given.fallback(&asked) {
            Some(answer) => Given::Fallback(answer),
            None => {
                let fell = FellBack {
                    purchase: purchase.clone(),
                    source_event: source_event.clone(),
                    body_sha256: self.body_sha256.clone(),
                    already_minor,
                    at: self.app.clock.now(),
                    is_approved: false,
                    cap_minor: None,
                    why: "",
                };
                let body_sha256 = self.body_sha256.clone();
                let ask = Authorise { purchase, source_event, body_sha256, already_minor };
                match self.app.guard.authorise(ask).await {
                    Ok(decided) => {
                        let (given, is_new) = payments.given.settle(asked, Given::Recorded(decided.clone()));
                        if is_new && !F::SAYS_WHAT_IS_HELD {
                            let verdict = Verdict::recorded(&decided, amount.amount_minor, partial_allowed);
                            let granted = verdict.amount_minor.unwrap_or(amount.amount_minor);
                            let granted = if verdict.approved { granted } else { 0 };
                            payments.given.grant(F::SOURCE, authorization_id, granted);
                        }
                        given
                    }
                    Err(error) => self.fall_back(asked, fell, &error, &amount, partial_allowed),
                }
            }
        };
        let verdict = match &given {
            Given::Recorded(decided) => Verdict::recorded(decided, amount.amount_minor, partial_allowed),
            Given::Fallback(answer) => Verdict::fallback(*answer),
        };
        self.form.answer(&self.app.config.payments, &verdict, self.repeated())
    }

    fn fall_back(
        &self,
        asked: Asked,
        fell: FellBack,
        error: &GuardError,
        amount: &Money,
        partial_allowed: bool,
    ) -> Given {
        let why = match error {
            GuardError::Unknown => "late",
            GuardError::Busy => "busy",
            GuardError::Refused(_) | GuardError::KeyReused => "refused",
            GuardError::Storage(_) | GuardError::Partly { .. } | GuardError::Read(_) => "storage",
        };
        let answer = fallback(self.settings, Some(amount), partial_allowed, why);
        let (given, is_new) = self.app.payments.given.settle(asked, Given::Fallback(answer));
        if is_new {
            self.app.payments.counters.fallbacks[F::PLACE].inc();
            tracing::warn!(source = F::SOURCE, authorization = %fell.purchase.authorization_id, %error, approved = answer.approved,
                "no decision was recorded in time; the network was answered by the fallback");
            let (is_approved, cap_minor) = (answer.approved, answer.amount_minor);
            self.app.guard.fell_back(FellBack { is_approved, cap_minor, why, ..fell });
        }
        given
    }

    /// The network sends again what is not acknowledged, so that here the truth is better than a fallback.
    async fn post(&self, postings: Vec<Posting>) -> Result<HttpResponse, Problem> {
        let mut acknowledged = None;
        if let Some(first) = postings.first() {
            self.note_repeat(Some(&first.source_event));
        }
        for posting in postings {
            let posting_id = posting.posting_id.clone();
            let is_repeat = self.app.guard.post(posting).await?.is_repeat;
            self.app.payments.counters.postings[F::PLACE].inc();
            acknowledged = Some(Acknowledged { posting_id, is_repeat });
        }
        Ok(self.form.acknowledge(self.repeated(), acknowledged.as_ref()))
    }

    /// Recorded, and an alert, before the answer where that is possible in time; else as soon as it is.
    async fn unreadable(&self, unfit: Unfit) -> Result<HttpResponse, Problem> {
        let app = self.app;
        app.guard.counters().bad_messages.inc();
        app.payments.counters.unreadable[F::PLACE].inc();
        tracing::warn!(source = F::SOURCE, %unfit, body_sha256 = self.body_sha256,
            "a payment message cannot be understood");
        let message = Unreadable {
            source: F::SOURCE.to_owned(),
            body_sha256: self.body_sha256.clone(),
            detail: unfit.to_string(),
            card_ref: self.glance().card_ref.clone(),
        };
        let within = Duration::from_millis(app.config.payments.stripe.deadline_ms);
        let recorded = tokio::time::timeout(within, app.guard.unreadable(message.clone())).await;
        let is_recorded = matches!(recorded, Ok(Ok(())));
        if !is_recorded {
            self.record_later(message);
        }
        if let Some(problem) = self.form.refuse(&unfit) {
            return Err(problem);
        }
        if unfit.asks {
            app.payments.counters.fallbacks[F::PLACE].inc();
            let Glance { amount, partial_allowed, .. } = self.glance();
            let answer = fallback(self.settings, amount.as_ref(), *partial_allowed, "unreadable");
            return Ok(self.form.answer(&app.config.payments, &Verdict::fallback(answer), self.glance()));
        }
        if !is_recorded {
            return Err(
                Problem::new(Slug::StorageUnavailable, "nothing could be recorded; send it again").retry_after(2)
            );
        }
        Ok(self.form.acknowledge(self.glance(), None))
    }

    fn record_later(&self, message: Unreadable) {
        let Ok(turn) = Arc::clone(&self.app.payments.unrecorded).try_acquire_owned() else {
            self.app.payments.counters.lost.inc();
            return;
        };
        let (guard, edge) = (self.app.guard.clone(), Arc::clone(&self.app.payments));
        actix_web::rt::spawn(async move {
            if !record_in_time(&guard, message).await {
                edge.counters.lost.inc();
            }
            drop(turn);
        });
    }
}

async fn record_in_time(guard: &GuardHandle, message: Unreadable) -> bool {
    for _ in 0..RETRIES {
        tokio::time::sleep(RETRY_EVERY).await;
        if guard.unreadable(message.clone()).await.is_ok() {
            return true;
        }
    }
    false
}

/// What is configured for when there is no decision. An approval never goes beyond `approve_up_to_minor`, and an amount
/// that is not known may be beyond it.
fn fallback(
    settings: FormSettings<'_>,
    asked: Option<&Money>,
    partial_allowed: bool,
    why: &'static str,
) -> FallbackAnswer {
    let cap = settings.approve_up_to_minor;
    let (approved, amount_minor) = match (settings.fallback, asked) {
        (Fallback::Decline, _) | (Fallback::Approve, None) => (false, None),
        (Fallback::Approve, Some(asked)) if asked.amount_minor <= cap => (true, None),
        (Fallback::Approve, Some(_)) if partial_allowed => (true, Some(cap)),
        (Fallback::Approve, Some(_)) => (false, None),
    };
    FallbackAnswer { approved, amount_minor, why }
}
