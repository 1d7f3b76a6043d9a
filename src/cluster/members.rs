//! Which gateways live, and which of them acts for what none has taken. Plain data; the caller says what time it is.
//!
//! Nothing is decided here that must be right: two gateways may believe different things for a while, and both may act; the
//! store's claims let one of them through.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::actors::peers::Node;

/// How often each gateway says that it lives.
pub const HELLO_EVERY: Duration = Duration::from_millis(500);
/// Who says nothing for so long is taken for dead.
pub const SILENT: Duration = Duration::from_secs(2);
/// More are not listened to.
const MEMBERS_MAX: usize = 256;

/// What a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub node: String,
    /// Another after each start.
    pub process: Uuid,
    /// Consoles that watch there.
    pub consoles: usize,
    /// It stops, and will say nothing more.
    #[serde(default)]
    pub is_leaving: bool,
}

#[derive(Debug, Clone)]
struct Member {
    process: Uuid,
    heard: Duration,
    consoles: usize,
}

/// The others, as far as they were heard.
#[derive(Debug, Default)]
pub struct Members {
    others: BTreeMap<Node, Member>,
}

impl Members {
    /// True = who lives is not as it was.
    pub fn heard(&mut self, hello: &Hello, now: Duration) -> bool {
        if hello.is_leaving {
            let is_known = self.others.get(hello.node.as_str()).is_some_and(|known| known.process == hello.process);
            return is_known && self.others.remove(hello.node.as_str()).is_some();
        }
        let member = Member { process: hello.process, heard: now, consoles: hello.consoles };
        let is_full = self.others.len() >= MEMBERS_MAX;
        match self.others.get_mut(hello.node.as_str()) {
            Some(known) => {
                let is_new = known.process != hello.process;
                *known = member;
                is_new
            }
            None if is_full => false,
            None => self.others.insert(Arc::from(hello.node.as_str()), member).is_none(),
        }
    }

    /// Forgets who has been silent for too long; true = there was one.
    pub fn sweep(&mut self, now: Duration) -> bool {
        let before = self.others.len();
        self.others.retain(|_, member| now.saturating_sub(member.heard) <= SILENT);
        self.others.len() < before
    }

    /// Does this very process live?
    pub fn lives(&self, node: &str, process: Uuid) -> bool {
        self.others.get(node).is_some_and(|member| member.process == process)
    }

    pub fn len(&self) -> usize {
        self.others.len()
    }

    pub fn consoles(&self) -> usize {
        self.others.values().map(|member| member.consoles).sum()
    }

    /// Somebody watches there already, whatever its last hello said.
    pub fn expect_console(&mut self, node: &str) {
        if let Some(member) = self.others.get_mut(node) {
            member.consoles = member.consoles.max(1);
        }
    }

    /// Of those that live and `own`, is it `own` that acts for `what`? Each gateway gets an equal share, and one that comes or
    /// goes moves only its own (rendezvous hashing).
    pub fn falls_to(&self, own: &str, what: &str) -> bool {
        let ours = weight(own, what);
        self.others.keys().all(|other| (weight(other, what), &**other) < (ours, own))
    }
}

fn weight(node: &str, what: &str) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(node.as_bytes());
    context.update(&[0]);
    context.update(what.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&context.finish().as_ref()[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node: &str, process: u128) -> Hello {
        Hello { node: node.into(), process: Uuid::from_u128(process), consoles: 0, is_leaving: false }
    }

    fn members(names: &[&str]) -> Members {
        let mut members = Members::default();
        for name in names {
            members.heard(&hello(name, 1), Duration::ZERO);
        }
        members
    }

    #[test]
    fn everything_falls_to_exactly_one_and_evenly() {
        let nodes = ["gw-1", "gw-2", "gw-3"];
        let mut shares = [0; 3];
        for n in 0..3_000 {
            let what = format!("V-{n}");
            let takers: Vec<usize> = (0..3)
                .filter(|own| {
                    let others: Vec<&str> = nodes.iter().copied().filter(|node| *node != nodes[*own]).collect();
                    members(&others).falls_to(nodes[*own], &what)
                })
                .collect();
            assert_eq!(takers.len(), 1, "{what} falls to {takers:?}");
            shares[takers[0]] += 1;
        }
        assert!(shares.iter().all(|share| (850..1_150).contains(share)), "{shares:?}");
    }

    #[test]
    fn what_one_leaves_behind_is_all_that_moves() {
        let (both, alone) = (members(&["gw-2", "gw-3"]), members(&["gw-2"]));
        for n in 0..500 {
            let what = format!("V-{n}");
            assert!(!both.falls_to("gw-1", &what) || alone.falls_to("gw-1", &what), "{what} moved away");
        }
    }

    #[test]
    fn the_silent_the_leaving_and_the_started_anew_are_noticed() {
        let mut members = members(&["gw-2"]);
        assert!(members.lives("gw-2", Uuid::from_u128(1)));
        assert!(!members.heard(&hello("gw-2", 1), Duration::from_secs(1)), "nothing is new");
        assert!(!members.sweep(Duration::from_secs(2)));
        assert!(members.heard(&hello("gw-2", 2), Duration::from_secs(2)), "it was started anew");
        assert!(!members.lives("gw-2", Uuid::from_u128(1)), "what the process of before took is nobody's");
        let leaving = Hello { is_leaving: true, ..hello("gw-2", 1) };
        assert!(!members.heard(&leaving, Duration::from_secs(2)), "a word of the process of before, come late");
        assert!(members.sweep(Duration::from_secs(5)));
        assert!(members.falls_to("gw-1", "anything"), "the last one does all");
    }
}
