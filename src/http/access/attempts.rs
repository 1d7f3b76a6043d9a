//! How often a password may be guessed: a lock-out that cannot be used to lock others out.
//!
//! Whoever guesses spends from the guessed name's share and from their address's. A browser in which the user logged in
//! before shows a cookie that proves it and has a share of its own: a stranger who spends the name's share, from
//! however many addresses, keeps other strangers out for a while, not the user in that browser (OWASP's "device cookies").

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::rate::{Bucket, Rate, lock, make_room};
use super::sha256;
use crate::domain::{Timestamp, UserId};
use crate::http::address::neighbourhood;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// An IPv4 address, or the /64 that an IPv6 address lies in: nobody has just one of those.
    Address(IpAddr),
    /// SHA-256 of the name in lower case, known or not.
    Name(#[serde(with = "hex::serde")] [u8; 32]),
    /// SHA-256 of the proof of an earlier log-in with the same password.
    Device(#[serde(with = "hex::serde")] [u8; 32]),
    /// All browsers of a user that have such a proof.
    Devices(UserId),
    /// Somebody logged in who is asked for the password again.
    User(UserId),
}

impl Share {
    pub fn of_address(address: IpAddr) -> Self {
        Self::Address(neighbourhood(address))
    }

    pub fn of_name(name: &str) -> Self {
        Self::Name(sha256(name.to_lowercase().as_bytes()))
    }

    /// For the log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Name(_) => "name",
            Self::Device(_) => "browser",
            Self::Devices(_) => "browsers of a user",
            Self::User(_) => "user",
        }
    }

    fn rate(&self) -> Rate {
        match self {
            // A whole office may stand behind one.
            Self::Address(_) => Rate::one_in(2, 60),
            Self::Name(_) => Rate::one_in(60, 10),
            Self::Device(_) | Self::User(_) => Rate::one_in(30, 10),
            Self::Devices(_) => Rate::one_in(10, 30),
        }
    }
}

#[derive(Debug)]
struct Spent {
    bucket: Bucket,
    was_dry: bool,
}

/// A share is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dry {
    pub share: Share,
    pub retry_after_s: u32,
    /// It was not before, since it was last whole.
    pub is_news: bool,
}

/// What is left of each share from which something was spent lately; at most [`Attempts::MAX`].
#[derive(Default)]
pub struct Attempts {
    spent: Mutex<HashMap<Share, Spent>>,
}

impl Attempts {
    pub const MAX: usize = 20_000;

    /// Takes one try from each share, or from none.
    pub fn take(&self, shares: &[Share], now: Timestamp) -> Result<(), Dry> {
        let mut spent = lock(&self.spent);
        for (index, share) in shares.iter().enumerate() {
            let entry = entry(&mut spent, *share, now);
            if let Err(retry_after_s) = entry.bucket.take(share.rate(), now) {
                let is_news = !std::mem::replace(&mut entry.was_dry, true);
                give_back(&mut spent, &shares[..index]);
                return Err(Dry { share: *share, retry_after_s, is_news });
            }
        }
        Ok(())
    }

    /// Somebody took `n` of it at another gateway; below 0 = gave back.
    pub fn spend(&self, share: Share, n: f64, now: Timestamp) {
        entry(&mut lock(&self.spent), share, now).bucket.spend(share.rate(), n, now);
    }

    /// The try was no guess: it was right, or nothing was tried after all.
    pub fn give_back(&self, shares: &[Share]) {
        give_back(&mut lock(&self.spent), shares);
    }
}

fn entry(spent: &mut HashMap<Share, Spent>, share: Share, now: Timestamp) -> &mut Spent {
    if !spent.contains_key(&share) && spent.len() >= Attempts::MAX {
        make_room(spent, Attempts::MAX, |share, entry| entry.bucket.left(share.rate(), now));
    }
    spent.entry(share).or_insert_with(|| Spent { bucket: Bucket::full(share.rate()), was_dry: false })
}

fn give_back(spent: &mut HashMap<Share, Spent>, shares: &[Share]) {
    for share in shares {
        if let Some(entry) = spent.get_mut(share) {
            entry.bucket.give_back(share.rate());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(attempts: &Attempts, shares: &[Share], now: Timestamp) -> usize {
        (0..1_000).take_while(|_| attempts.take(shares, now).is_ok()).count()
    }

    #[test]
    fn strangers_spend_the_name_s_share_and_not_the_known_browser_s() {
        let attempts = Attempts::default();
        let name = Share::of_name("Olga");
        let address = |last: u8| Share::of_address(IpAddr::from([192, 0, 2, last]));
        assert_eq!(tries(&attempts, &[address(1), name], Timestamp(0)), 10);
        assert_eq!(tries(&attempts, &[address(2), Share::of_name("olga")], Timestamp(0)), 0, "from wherever");
        assert!(attempts.take(&[Share::Device([1; 32])], Timestamp(0)).is_ok());
        assert_eq!(tries(&attempts, &[address(2), Share::of_name("otto")], Timestamp(0)), 10, "nor another's");
        assert_eq!(tries(&attempts, &[address(1), name], Timestamp(120_000)), 2, "and it comes back");
    }

    #[test]
    fn an_address_cannot_try_many_names_and_what_was_right_costs_nothing() {
        let attempts = Attempts::default();
        let address = Share::of_address("2001:db8::1".parse().expect("an address"));
        assert_eq!(address, Share::of_address("2001:db8::2".parse().expect("an address")), "one /64");
        let names = |from: usize| (from..200).map(|number| Share::of_name(&number.to_string()));
        let tried = names(0).take_while(|name| attempts.take(&[address, *name], Timestamp(0)).is_ok()).count();
        assert_eq!(tried, 60);
        for _ in 0..100 {
            attempts.give_back(&[address]);
            assert!(attempts.take(&[address], Timestamp(0)).is_ok());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let attempts = Attempts::default();
        let olga = [Share::of_name("olga")];
        assert_eq!(tries(&attempts, &olga, Timestamp(0)), 10);
        for number in 0..2 * Attempts::MAX {
            let _ = attempts.take(&[Share::of_name(&number.to_string())], Timestamp(0));
        }
        assert!(lock(&attempts.spent).len() <= Attempts::MAX);
        assert_eq!(tries(&attempts, &olga, Timestamp(0)), 0, "and what was spent most is not forgotten for it");
    }
}
