//! Limits that several gateways keep together: what is spent at one is told to the others, a batch at a time.
//!
//! Whoever moves the batches asks [`Access::drain_spent`] every 100 ms or so and gives what others told to
//! [`Access::spend_elsewhere`]. Until a batch has come, a caller at another gateway has what that one still knows: at most
//! the burst once more at each. It is paid back, since a bucket may be in debt by as much as its burst; over time the limit
//! is one. A batch that is lost is a share that was not spent. On a machine that is alone nothing is noted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::attempts::{Dry, Share};
use super::rate::lock;
use super::{Access, Admission, Holder, KeyHash};
use crate::domain::{Timestamp, UserId};

/// Who spends, as gateways tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spender {
    ApiKey(KeyHash),
    User(UserId),
    /// The identity provider's name for somebody.
    Person(String),
    /// Requests of a neighbourhood, whoever asks.
    Address(IpAddr),
    /// Guesses of passwords.
    Guess(Share),
}

/// `{"of":{"api_key":"…"},"n":3}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    pub of: Spender,
    /// Below 0 = so many were given back.
    pub n: i32,
}

/// What was spent here since it was last told; `None` = nobody is told.
pub struct ToTell(Option<Mutex<HashMap<Spender, i32>>>);

impl ToTell {
    /// In one batch; who comes beyond is not told of.
    const MAX: usize = 50_000;

    pub fn new(is_alone: bool) -> Self {
        Self((!is_alone).then(Mutex::default))
    }

    fn note(&self, n: i32, of: impl FnOnce() -> Spender) {
        let Some(spent) = &self.0 else { return };
        let (of, mut spent) = (of(), lock(spent));
        if spent.len() < Self::MAX || spent.contains_key(&of) {
            let sum = spent.entry(of).or_default();
            *sum = sum.saturating_add(n);
        }
    }

    fn drain(&self) -> Vec<Spent> {
        let Some(spent) = &self.0 else { return Vec::new() };
        let spent = std::mem::take(&mut *lock(spent));
        spent.into_iter().filter(|(_, n)| *n != 0).map(|(of, n)| Spent { of, n }).collect()
    }
}

impl Access {
    /// What was spent here since this was last asked, for the other gateways.
    pub fn drain_spent(&self) -> Vec<Spent> {
        self.to_tell.drain()
    }

    /// What another gateway told.
    pub fn spend_elsewhere(&self, spent: &Spent, now: Timestamp) {
        let n = f64::from(spent.n);
        match &spent.of {
            Spender::ApiKey(key) => self.api_keys.spend(&key.0, n, now),
            Spender::User(id) => self.users.spend(*id, n, now),
            Spender::Person(id) => {
                if let Some(oidc) = &self.oidc {
                    oidc.spend(id, n, now);
                }
            }
            Spender::Address(address) => self.addresses.spend(*address, n, now),
            Spender::Guess(share) => self.attempts.spend(*share, n, now),
        }
    }

    /// Takes one request from the holder's rate.
    pub fn admit(&self, holder: &Holder, now: Timestamp) -> Admission {
        let admission = match holder {
            Holder::ApiKey(key) => self.api_keys.admit_hash(&key.0, now),
            Holder::User(id) => self.users.admit(*id, now),
            Holder::Federated { issuer, id, principal } => match &self.oidc {
                Some(oidc) if oidc.issuer() == issuer => oidc.admit(id, principal, now),
                _ => Admission::Unknown,
            },
        };
        if matches!(admission, Admission::Admitted(_)) {
            self.to_tell.note(1, || match holder {
                Holder::ApiKey(key) => Spender::ApiKey(*key),
                Holder::User(id) => Spender::User(*id),
                Holder::Federated { id, .. } => Spender::Person(id.clone()),
            });
        }
        admission
    }

    /// Takes one request from a neighbourhood's rate; else the seconds after which there is one again.
    pub fn admit_address(&self, address: IpAddr, now: Timestamp) -> Result<(), u32> {
        self.addresses.take(address, now)?;
        self.to_tell.note(1, || Spender::Address(address));
        Ok(())
    }

    /// Takes one try from each share, or from none.
    pub fn guess(&self, shares: &[Share], now: Timestamp) -> Result<(), Dry> {
        self.attempts.take(shares, now)?;
        shares.iter().for_each(|share| self.to_tell.note(1, || Spender::Guess(*share)));
        Ok(())
    }

    /// The try was no guess: it was right, or nothing was tried after all.
    pub fn was_no_guess(&self, shares: &[Share]) {
        self.attempts.give_back(shares);
        shares.iter().for_each(|share| self.to_tell.note(-1, || Spender::Guess(*share)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::domain::{ApiKeyId, Role};
    use crate::http::access::api_keys::ApiKey;
    use crate::http::access::sha256;

    const PER_S: u32 = 10;
    const BURST: u32 = 20;

    fn node(is_alone: bool) -> Access {
        let mut config = Config::default();
        (config.http.rate_per_s, config.http.rate_burst) = (PER_S, BURST);
        (config.http.address_rate_per_s, config.http.address_rate_burst) = (PER_S, BURST);
        if !is_alone {
            config.cluster.servers = vec!["tls://nats.example.org:4222".into()];
        }
        let access = Access::new(&config).unwrap();
        access.api_keys.insert(&ApiKey {
            api_key_id: ApiKeyId(uuid::Uuid::from_u128(1)),
            name: "n".into(),
            role: Role::Operator,
            subject: "s".into(),
            sha256: hex::encode(sha256(b"ck_x")),
            created_at: Timestamp(0),
            scopes: None,
            expires_at: None,
            last_used_at: None,
        });
        access
    }

    /// Over the wire's form, as the gateways do.
    fn tell(from: &Access, to: &Access, now: Timestamp) {
        let batch = serde_json::to_vec(&from.drain_spent()).unwrap();
        let batch: Vec<Spent> = serde_json::from_slice(&batch).unwrap();
        batch.iter().for_each(|spent| to.spend_elsewhere(spent, now));
    }

    /// How often a caller gets through that asks every 2 ms for 10 s, each time at the next gateway; batches go every 100 ms.
    fn got_through(nodes: &[&Access], mut asks: impl FnMut(&Access, Timestamp) -> bool) -> usize {
        let mut through = 0;
        for turn in 0..5_000 {
            let now = Timestamp(1_000_000 + turn * 2);
            through += usize::from(asks(nodes[turn as usize % nodes.len()], now));
            if turn % 50 == 49 {
                for from in nodes {
                    let batch = from.drain_spent();
                    let others = nodes.iter().filter(|node| !std::ptr::eq(**node, *from));
                    others.for_each(|node| batch.iter().for_each(|spent| node.spend_elsewhere(spent, now)));
                }
            }
        }
        through
    }

    /// The limit in 10 s is 20 at once and 100 more; each batch is late by 100 ms at most.
    #[test]
    fn a_caller_that_alternates_between_gateways_has_the_limit_once() {
        let limit = (BURST + 10 * PER_S) as usize;
        let holder = Holder::ApiKey(KeyHash(sha256(b"ck_x")));
        let by_key = |node: &Access, now| matches!(node.admit(&holder, now), Admission::Admitted(_));
        let address = IpAddr::from([192, 0, 2, 1]);
        let by_address = |node: &Access, now| node.admit_address(address, now).is_ok();
        let alone = node(true);
        assert_eq!(got_through(&[&alone], by_key), limit - 1, "the last one would come at 10 s");
        assert!(alone.drain_spent().is_empty());
        let apart = [node(true), node(true)];
        assert!(got_through(&[&apart[0], &apart[1]], by_key) >= 2 * limit - 3, "what it was without the batches");
        for count in 2..=3 {
            let nodes: Vec<Access> = (0..count).map(|_| node(false)).collect();
            let nodes: Vec<&Access> = nodes.iter().collect();
            for through in [got_through(&nodes, by_key), got_through(&nodes, by_address)] {
                println!("{count} gateways: {through} of {limit}");
                // Once the burst at each before the first batch, and then no more than at one.
                assert!((limit - 10..=limit + BURST as usize).contains(&through), "{count} gateways: {through}");
            }
        }
    }

    #[test]
    fn guesses_at_one_gateway_are_spent_at_the_other_and_right_ones_given_back() {
        let [one, other] = [node(false), node(false)];
        let now = Timestamp(1_000);
        let name = [Share::of_name("olga")];
        assert_eq!((0..100).filter(|_| one.guess(&name, now).is_ok()).count(), 10);
        tell(&one, &other, now);
        assert!(other.guess(&name, now).is_err());
        one.was_no_guess(&name);
        tell(&one, &other, now);
        assert!(other.guess(&name, now).is_ok());
        assert!(other.guess(&name, now).is_err());
    }

    #[test]
    fn a_debt_is_no_more_than_the_burst_and_what_is_not_known_is_not_spent() {
        let [one, other] = [node(false), node(false)];
        let spent = |of, n| Spent { of, n };
        let address = Spender::Address([192, 0, 2, 1].into());
        one.spend_elsewhere(&spent(address.clone(), i32::MAX), Timestamp(0));
        let at = |s: i64| one.admit_address([192, 0, 2, 1].into(), Timestamp(s * 1_000)).is_ok();
        assert_eq!([at(1), at(2), at(3)], [false, false, true]);
        other.spend_elsewhere(&spent(address, i32::MIN), Timestamp(0));
        assert_eq!((0..100).filter(|_| other.admit_address([192, 0, 2, 1].into(), Timestamp(0)).is_ok()).count(), 20);
        for of in [Spender::ApiKey(KeyHash([9; 32])), Spender::Person("nobody".into())] {
            one.spend_elsewhere(&spent(of, 1), Timestamp(0));
        }
    }
}
