//! Cookies as they come and go, and where a browser's request says it comes from.

use std::borrow::Cow;

use actix_web::HttpRequest;
use actix_web::http::header;

use crate::domain::UserId;

/// A cookie of ours. `__Host-`: no other host and no plain-text page can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    Session,
    /// Tells that this user logged in with a password from this browser before; each has one there.
    Device(UserId),
    /// A log-in at the identity provider that is under way.
    LogIn,
}

impl Cookie {
    fn name(self) -> Cow<'static, str> {
        match self {
            Self::Session => "__Host-cardea-session".into(),
            Self::Device(user) => format!("__Host-cardea-device-{}", user.0.simple()).into(),
            Self::LogIn => "__Host-cardea-log-in".into(),
        }
    }

    /// Its value as the browser sent it.
    pub fn of(self, request: &HttpRequest) -> Option<&str> {
        let headers = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
        let mut pairs = headers.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let own = self.name();
        pairs.find(|(name, _)| *name == own).map(|(_, value)| value)
    }

    /// `Set-Cookie`; a life of 0 removes it.
    pub fn set(self, value: &str, life_s: i64) -> (header::HeaderName, String) {
        // The provider's answer is a navigation from its own site, which sends no Strict cookie along.
        let same_site = if self == Self::LogIn { "Lax" } else { "Strict" };
        let name = self.name();
        let text = format!("{name}={value}; Path=/; Max-Age={life_s}; Secure; HttpOnly; SameSite={same_site}");
        (header::SET_COOKIE, text)
    }
}

/// Where a request says it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No browser, or one that does not say.
    Unsaid,
    /// A page of this gateway.
    Own,
    Foreign,
}

pub fn origin(request: &HttpRequest) -> Origin {
    let mut values = request.headers().get_all(header::ORIGIN);
    let Some(value) = values.next() else { return Origin::Unsaid };
    let said = value.to_str().ok().and_then(|text| text.strip_prefix("https://"));
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let is_own = values.next().is_none() && host.is_some_and(|host| said.is_some_and(|s| s.eq_ignore_ascii_case(host)));
    if is_own { Origin::Own } else { Origin::Foreign }
}
