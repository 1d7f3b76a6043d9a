//! The one place where a refusal or a failure becomes an answer: `application/problem+json` (RFC 9457).
//!
//! Callers get a stable slug and a short sentence; the log gets the detail. Nothing here ever shows a secret, a
//! path of this machine or an inner error's text that was not written for callers.

use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actors::vehicle::AskError;
use crate::domain::{Malformed, Refusal, RefusalKind};
use crate::store::{AppendError, ReadError};

/// What goes over the wire, e.g.
/// `{"type":"urn:cardea:problem:invalid","title":"invalid","status":400,"detail":"unknown field `colour`","field":"colour"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// `urn:cardea:problem:<slug>`; stable.
    #[serde(rename = "type")]
    #[schema(example = "urn:cardea:problem:invalid")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    /// The field of the body or query that is wrong, as a path like `lending.windows[0].days`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// The ways a request can end without what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slug {
    Unauthenticated,
    Forbidden,
    NotFound,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    TooLarge,
    HeadersTooLarge,
    UnsupportedMediaType,
    RequestTimeout,
    Conflict,
    CapabilityMissing,
    VehicleBusy,
    NotAvailable,
    ProfileNotAllowed,
    Expired,
    DuplicateKeyReuse,
    TooManyRequests,
    StorageUnavailable,
    NotReady,
    /// It may have happened.
    OutcomeUnknown,
    /// The last one: see the count below.
    Internal,
}

// One that is added and not listed would be counted nowhere.
const _: () = assert!(Slug::Internal as usize + 1 == Slug::ALL.len());

impl Slug {
    /// In the order they are declared in, so that each is its own place.
    pub const ALL: [Self; 22] = [
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::Invalid,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::TooLarge,
        Self::HeadersTooLarge,
        Self::UnsupportedMediaType,
        Self::RequestTimeout,
        Self::Conflict,
        Self::CapabilityMissing,
        Self::VehicleBusy,
        Self::NotAvailable,
        Self::ProfileNotAllowed,
        Self::Expired,
        Self::DuplicateKeyReuse,
        Self::TooManyRequests,
        Self::StorageUnavailable,
        Self::NotReady,
        Self::OutcomeUnknown,
        Self::Internal,
    ];

    /// As it stands at the end of a problem's `type`.
    pub fn name(self) -> &'static str {
        self.parts().0
    }

    /// `(slug, status, title)`.
    fn parts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "no valid credentials"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "not allowed for this caller"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "no such thing"),
            Self::Invalid => ("invalid", StatusCode::BAD_REQUEST, "the request is not valid"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here")
            }
            Self::NotAcceptable => ("not-acceptable", StatusCode::NOT_ACCEPTABLE, "no such representation"),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"),
            Self::HeadersTooLarge => (
                "headers-too-large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's headers are too large",
            ),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is not supported")
            }
            Self::RequestTimeout => ("request-timeout", StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "not possible in the present state"),
            Self::CapabilityMissing => ("capability-missing", StatusCode::CONFLICT, "the vehicle lacks this function"),
            Self::VehicleBusy => ("vehicle-busy", StatusCode::CONFLICT, "too much is pending for the vehicle"),
            Self::NotAvailable => ("not-available", StatusCode::CONFLICT, "the vehicle is not available"),
            Self::ProfileNotAllowed => {
                ("profile-not-allowed", StatusCode::FORBIDDEN, "the vehicle is not lent under this profile")
            }
            Self::Expired => ("expired", StatusCode::GONE, "its time is over"),
            Self::DuplicateKeyReuse => (
                "duplicate-key-reuse",
                StatusCode::UNPROCESSABLE_ENTITY,
                "the idempotency key came before with another request",
            ),
            Self::TooManyRequests => ("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "too many requests"),
            Self::StorageUnavailable => {
                ("storage-unavailable", StatusCode::SERVICE_UNAVAILABLE, "nothing can be promised now")
            }
            Self::NotReady => ("not-ready", StatusCode::SERVICE_UNAVAILABLE, "not ready"),
            Self::OutcomeUnknown => {
                ("outcome-unknown", StatusCode::SERVICE_UNAVAILABLE, "it is not known whether it happened")
            }
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "a fault of the gateway"),
        }
    }
}

/// A request's end without what was asked. Handlers return `Result<HttpResponse, Problem>`.
#[derive(Debug, Clone)]
pub struct Problem {
    pub slug: Slug,
    pub detail: String,
    pub field: Option<String>,
    pub retry_after_s: Option<u32>,
    /// For 405: the methods that are allowed.
    pub allow: Option<String>,
    /// For 401: what to authenticate by, where that is not a bearer token.
    pub challenge: Option<&'static str>,
}

impl Problem {
    pub fn new(slug: Slug, detail: impl Into<String>) -> Self {
        Self { slug, detail: detail.into(), field: None, retry_after_s: None, allow: None, challenge: None }
    }

    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Slug::Invalid, detail) }
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(Slug::NotFound, format!("there is no such {what}"))
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(Slug::Forbidden, detail)
    }

    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// A fault of ours: the log gets `detail`, the caller a sentence.
    pub fn internal(what: &'static str, detail: &dyn std::fmt::Display) -> Self {
        tracing::error!(what, %detail, "request failed");
        Self::new(Slug::Internal, "the gateway could not answer; the operator's log says why")
    }

    pub fn status(&self) -> StatusCode {
        self.slug.parts().1
    }

    pub fn body(&self) -> ProblemBody {
        let (slug, status, title) = self.slug.parts();
        ProblemBody {
            kind: format!("urn:cardea:problem:{slug}"),
            title: title.into(),
            status: status.as_u16(),
            detail: self.detail.clone(),
            field: self.field.clone(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.slug.parts().0, self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut answer = HttpResponse::build(self.status());
        answer.content_type("application/problem+json");
        if self.slug == Slug::Unauthenticated {
            answer.insert_header((header::WWW_AUTHENTICATE, self.challenge.unwrap_or("Bearer realm=\"cardea\"")));
        }
        if let Some(seconds) = self.retry_after_s {
            answer.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        if let Some(allow) = &self.allow {
            answer.insert_header((header::ALLOW, allow.as_str()));
        }
        answer.json(self.body())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let slug = match refusal.kind {
            RefusalKind::NotFound => Slug::NotFound,
            RefusalKind::Forbidden => Slug::Forbidden,
            RefusalKind::Invalid => Slug::Invalid,
            RefusalKind::Conflict => Slug::Conflict,
            RefusalKind::CapabilityMissing => Slug::CapabilityMissing,
            RefusalKind::VehicleBusy => Slug::VehicleBusy,
            RefusalKind::NotAvailable => Slug::NotAvailable,
            RefusalKind::ProfileNotAllowed => Slug::ProfileNotAllowed,
            RefusalKind::Expired => Slug::Expired,
        };
        let mut problem = Self::new(slug, refusal.detail);
        if slug == Slug::VehicleBusy {
            problem.retry_after_s = Some(5);
        }
        if slug == Slug::Invalid {
            // The domain writes `<field>: <what is wrong>`.
            problem.field = problem.detail.split_once(": ").map(|(field, _)| field.to_owned());
        }
        problem
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(refusal) => refusal.into(),
            AskError::KeyReused => key_reused(),
            AskError::Storage(why) => storage(why),
            AskError::Busy => {
                Self::new(Slug::VehicleBusy, "the vehicle has too many requests waiting; nothing happened")
                    .retry_after(1)
            }
            AskError::Unknown => outcome_unknown(),
        }
    }
}

impl From<AppendError> for Problem {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Conflict { .. } | AppendError::Fenced => {
                Self::new(Slug::Conflict, "somebody else changed it meanwhile; read it and try again")
            }
            AppendError::KeyReused => key_reused(),
            AppendError::Full(why) => storage(why),
            AppendError::TooLarge { limit } => {
                Self::new(Slug::TooLarge, format!("what is to be stored is larger than {limit} bytes"))
            }
            AppendError::Unknown(_) => outcome_unknown(),
            // Callers that pass an idempotency key take the answer out before they map the error.
            AppendError::Duplicate { .. } => Self::internal("append", &"a repeat was not answered from its record"),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(why) => {
                tracing::warn!(%why, "the view did not answer");
                Self::new(Slug::StorageUnavailable, "the stored data cannot be read now").retry_after(2)
            }
            ReadError::Damaged(why) => Self::internal("read", &why),
        }
    }
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        Self::new(Slug::Invalid, malformed.0)
    }
}

fn key_reused() -> Problem {
    Problem::new(Slug::DuplicateKeyReuse, "this Idempotency-Key came before with another request; nothing happened")
}

fn storage(why: &'static str) -> Problem {
    tracing::warn!(why, "a promise was refused");
    Problem::new(Slug::StorageUnavailable, "storage is full or busy; nothing happened").retry_after(2)
}

fn outcome_unknown() -> Problem {
    Problem::new(
        Slug::OutcomeUnknown,
        "it may have happened; repeat the request with the same Idempotency-Key to learn what became of it",
    )
    .retry_after(1)
}

/// Unknown paths.
pub async fn no_such_route(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Err(Problem::new(Slug::NotFound, format!("there is nothing at {}", shown(request.path()))))
}

/// A path that exists, but not for this method.
pub fn method_not_allowed(method: &Method, allowed: &[Method]) -> Problem {
    let list: Vec<&str> = allowed.iter().map(Method::as_str).collect();
    Problem {
        allow: Some(list.join(", ")),
        ..Problem::new(Slug::MethodNotAllowed, format!("{} is not allowed here", shown(method.as_str())))
    }
}

/// Text from outside, short and without control characters, fit to be shown back.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
