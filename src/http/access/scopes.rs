//! What an API key is narrowed to: `vehicles:read`, `commands:write` and the like, beside its role and never beyond it.
//!
//! A scope is looked up by the route's path, so that a route nobody thought of is open to keys without scopes only.

use actix_web::http::Method;
use serde::{Deserialize, Serialize};

use crate::domain::Malformed;

/// Each resource with the first segments of its paths. What lets people in (`api-keys`, `users`, `sessions`, the console)
/// has no scope: a key that could make keys would be narrowed to nothing.
const RESOURCES: [(&str, &str, &[&str]); 7] = [
    ("vehicles:read", "vehicles:write", &["vehicles", "export", "certificates"]),
    ("commands:read", "commands:write", &["commands"]),
    ("rentals:read", "rentals:write", &["usage-requests", "rentals", "confirmations"]),
    ("keys:read", "keys:write", &["keys"]),
    ("cards:read", "cards:write", &["cards", "stations", "card-rules", "decisions"]),
    ("alerts:read", "alerts:write", &["alerts", "notifications"]),
    ("audit:read", "audit:write", &["audit", "system"]),
];

/// What a key without this scope does not get, or why no scope is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// Whoever is admitted: to look at the session in hand, and to end it.
    Nothing,
    Scope(&'static str),
    /// A key without scopes.
    Everything,
}

/// By the route's own path, like `/v1/vehicles/{id}/commands`. To ask for something (`GET`) is to read; anything else
/// writes, and writing includes no reading.
pub fn needed(method: &Method, pattern: &str) -> Needed {
    let mut segments = pattern.trim_start_matches("/v1/").split('/');
    let first = segments.next().unwrap_or_default();
    if pattern == "/v1/session" {
        return Needed::Nothing;
    }
    let subject = if pattern.ends_with("/commands") { "commands" } else { first };
    let resource = RESOURCES.iter().find(|(_, _, paths)| paths.contains(&subject));
    match resource {
        Some((read, write, _)) => Needed::Scope(if method == Method::GET { read } else { write }),
        None => Needed::Everything,
    }
}

/// A key's scopes; at least one, each once, in the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Scopes(Vec<&'static str>);

impl Scopes {
    pub fn all() -> impl Iterator<Item = &'static str> {
        RESOURCES.into_iter().flat_map(|(read, write, _)| [read, write])
    }

    pub fn allow(&self, needed: Needed) -> bool {
        match needed {
            Needed::Nothing => true,
            Needed::Scope(scope) => self.0.contains(&scope),
            Needed::Everything => false,
        }
    }
}

impl TryFrom<Vec<String>> for Scopes {
    type Error = Malformed;

    fn try_from(names: Vec<String>) -> Result<Self, Malformed> {
        if names.is_empty() {
            return Err(Malformed("a key without any scope opens nothing; leave scopes out for all of its role's"));
        }
        if names.iter().any(|name| !Self::all().any(|known| known == name)) {
            return Err(Malformed(
                "scopes are vehicles, commands, rentals, keys, cards, alerts or audit, with :read or :write",
            ));
        }
        Ok(Self(Self::all().filter(|known| names.iter().any(|name| name == known)).collect()))
    }
}

impl From<Scopes> for Vec<String> {
    fn from(scopes: Scopes) -> Self {
        scopes.0.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_or_written_and_what_lets_people_in_has_no_scope() {
        let asked = [
            (Method::GET, "/v1/vehicles/{id}", Needed::Scope("vehicles:read")),
            (Method::POST, "/v1/vehicles/{id}/certificate", Needed::Scope("vehicles:write")),
            (Method::POST, "/v1/vehicles/{id}/commands", Needed::Scope("commands:write")),
            (Method::GET, "/v1/commands", Needed::Scope("commands:read")),
            (Method::POST, "/v1/keys/{id}/actions", Needed::Scope("keys:write")),
            (Method::POST, "/v1/rentals/{id}/end", Needed::Scope("rentals:write")),
            (Method::GET, "/v1/decisions/export", Needed::Scope("cards:read")),
            (Method::DELETE, "/v1/session", Needed::Nothing),
            (Method::POST, "/v1/api-keys", Needed::Everything),
            (Method::POST, "/v1/console/tickets", Needed::Everything),
            (Method::PUT, "/v1/session/password", Needed::Everything),
            (Method::GET, "/v1/what-comes-next", Needed::Everything),
            (Method::GET, "", Needed::Everything),
        ];
        for (method, path, expected) in asked {
            assert_eq!(needed(&method, path), expected, "{method} {path}");
        }
        let scopes = Scopes::try_from(vec!["keys:write".to_owned(), "vehicles:read".to_owned()]).unwrap();
        assert!(scopes.allow(Needed::Scope("keys:write")) && scopes.allow(Needed::Nothing));
        assert!(!scopes.allow(Needed::Scope("keys:read")) && !scopes.allow(Needed::Everything));
        assert_eq!(Vec::from(scopes), ["vehicles:read", "keys:write"]);
        assert!(Scopes::try_from(Vec::new()).is_err() && Scopes::try_from(vec!["all".to_owned()]).is_err());
    }

    /// A new subject needs a place in the table, or stands here as one that no scope opens.
    #[test]
    fn every_operation_has_a_scope_or_is_for_whole_keys() {
        let document = crate::http::openapi::document();
        let mut whole = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let is_for_callers = operation.get("security").is_some() && path.starts_with("/v1/");
                if is_for_callers && needed(&method, path) == Needed::Everything {
                    whole.insert(path.split('/').nth(2).unwrap());
                }
            }
        }
        assert_eq!(Vec::from_iter(whole), ["api-keys", "console", "session", "sessions", "users"]);
    }
}
