//! Passwords: which are fit, their Argon2id hashes, and how many are hashed at once.

use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::random;
use crate::http::error::{Problem, Slug};
use crate::http::wire::off_thread;

/// 12 characters or more are asked for and nothing else of them (NIST SP 800-63B); the most bounds the work.
const LENGTH: std::ops::RangeInclusive<usize> = 12..=128;
const MAX_BYTES: usize = 512;
/// Each takes 19 MiB and a core for some 30 ms.
const STRANGERS_AT_ONCE: usize = 2;
const KNOWN_AT_ONCE: usize = 1;
const WAIT: Duration = Duration::from_secs(5);

/// Is it a password that `name` may have?
pub fn check(field: &str, password: &str, name: &str) -> Result<(), Problem> {
    let is_fit = LENGTH.contains(&password.chars().count()) && password.len() <= MAX_BYTES;
    if !is_fit {
        return Err(Problem::invalid(field, "12 to 128 characters"));
    }
    if password.to_lowercase().contains(&name.to_lowercase()) {
        return Err(Problem::invalid(field, "it contains the user's name"));
    }
    Ok(())
}

/// Who wants something hashed. Those who have shown already who they are do not queue behind those who guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Stranger,
    Known,
}

/// Could it be a password at all? What is longer is not worth the work.
pub fn check_length(field: &str, password: &str) -> Result<(), Problem> {
    if password.len() <= MAX_BYTES { Ok(()) } else { Err(Problem::invalid(field, "12 to 128 characters")) }
}

pub struct Passwords {
    strangers: Arc<Semaphore>,
    known: Arc<Semaphore>,
    /// Compared with where there is no user, so that an unknown name takes as long as a wrong password.
    decoy: String,
}

impl Passwords {
    pub fn new() -> Result<Self, String> {
        let decoy = hash_of("nobody's").ok_or("passwords cannot be hashed: no randomness")?;
        Ok(Self {
            strangers: Arc::new(Semaphore::new(STRANGERS_AT_ONCE)),
            known: Arc::new(Semaphore::new(KNOWN_AT_ONCE)),
            decoy,
        })
    }

    /// Goes into the work itself: a caller who leaves does not make room while it goes on.
    async fn permit(&self, asker: Asker) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = match asker {
            Asker::Stranger => &self.strangers,
            Asker::Known => &self.known,
        };
        match tokio::time::timeout(WAIT, Arc::clone(permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(closed)) => Err(Problem::internal("passwords", &closed)),
            Err(_) => Err(Problem::new(Slug::TooManyRequests, "too many are logging in at once").retry_after(5)),
        }
    }

    /// The hash as a PHC string, `$argon2id$v=19$…`.
    pub async fn hash(&self, password: String, asker: Asker) -> Result<String, Problem> {
        let permit = self.permit(asker).await?;
        let work = move || {
            let hash = hash_of(&password);
            drop(permit);
            hash
        };
        let hash = off_thread(work).await?;
        hash.ok_or_else(|| Problem::internal("passwords", &"the system has no randomness"))
    }

    /// Is it the password that `known` is the hash of? Without one surely not, after the same time.
    pub async fn is_right(&self, password: String, known: Option<String>, asker: Asker) -> Result<bool, Problem> {
        let permit = self.permit(asker).await?;
        let is_known = known.is_some();
        let hash = known.unwrap_or_else(|| self.decoy.clone());
        let is_right = off_thread(move || {
            let hash = PasswordHash::new(&hash).ok()?;
            let is_right = hasher()?.verify_password(password.as_bytes(), &hash).is_ok();
            drop(permit);
            Some(is_right)
        });
        let is_right =
            is_right.await?.ok_or_else(|| Problem::internal("passwords", &"a stored hash cannot be read"))?;
        Ok(is_right && is_known)
    }
}

/// The first choice of OWASP's password storage cheat sheet: 19 MiB, two passes, one lane.
fn hasher() -> Option<Argon2<'static>> {
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19 * 1024, 2, 1, None).ok()?))
}

fn hash_of(password: &str) -> Option<String> {
    let salt = SaltString::encode_b64(&random::<16>()?).ok()?;
    Some(hasher()?.hash_password(password.as_bytes(), &salt).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn a_password_is_known_by_its_hash_only() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash("correct horse battery".into(), Asker::Known).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash("correct horse battery".into(), Asker::Known).await.unwrap(), "salted");
        let is_right = |password: &str, known: Option<&String>| {
            let (password, known) = (password.to_owned(), known.cloned());
            let passwords = &passwords;
            async move { passwords.is_right(password, known, Asker::Stranger).await.unwrap() }
        };
        assert!(is_right("correct horse battery", Some(&hash)).await);
        assert!(!is_right("correct horse batterz", Some(&hash)).await);
        assert!(!is_right("nobody's", None).await, "the decoy opens nothing");
        assert!(check_length("password", &"x".repeat(MAX_BYTES + 1)).is_err());
        assert!(passwords.is_right("x".into(), Some("$argon2id$".into()), Asker::Known).await.is_err());
    }

    #[test]
    fn what_a_password_must_be() {
        for (password, is_fit) in [
            ("correct horse", true),
            ("elevenchars", false),
            ("xxOLGAxxxxxxx", false),
            (&"ä".repeat(128), true),
            (&"x".repeat(129), false),
            (&"😀".repeat(128), true),
        ] {
            assert_eq!(check("password", password, "olga").is_ok(), is_fit, "{password}");
        }
    }
}
