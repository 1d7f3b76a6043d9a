//! What a car remembers of the commands it was given: a repeat gets the first outcome and is not executed again.
//!
//! Bounded: the oldest is forgotten, which is safe because a command's expiry is far nearer than this many commands.

use std::collections::{HashMap, VecDeque};

use cardea::domain::command::{Ack, AckReason, AckStatus};
use cardea::domain::{CommandId, Timestamp};

pub const MAX_COMMANDS: usize = 1024;

#[derive(Debug, Clone, Default)]
pub struct CommandMemory {
    known: HashMap<CommandId, Remembered>,
    order: VecDeque<CommandId>,
}

#[derive(Debug, Clone)]
pub struct Remembered {
    /// `None` = received, no outcome yet.
    pub outcome: Option<Ack>,
    /// How often it was carried out; more than once is a fault that tests look for.
    pub executions: u32,
    /// How often it was received.
    pub receipts: u32,
}

impl CommandMemory {
    /// Notes a receipt; `Some` when the command is known already.
    pub fn receive(&mut self, command_id: CommandId) -> Option<&Remembered> {
        if self.known.contains_key(&command_id) {
            let known = self.known.get_mut(&command_id)?;
            known.receipts += 1;
            return Some(known);
        }
        if self.order.len() >= MAX_COMMANDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(command_id);
        self.known.insert(command_id, Remembered { outcome: None, executions: 0, receipts: 1 });
        None
    }

    pub fn count_execution(&mut self, command_id: CommandId) {
        if let Some(known) = self.known.get_mut(&command_id) {
            known.executions += 1;
        }
    }

    /// Enters what became of it. The first final outcome stays; one that is not final gives way.
    pub fn settle(
        &mut self,
        command_id: CommandId,
        at: Timestamp,
        status: AckStatus,
        reason: Option<AckReason>,
    ) -> Ack {
        let ack = Ack { command_id, at, status, reason };
        match self.known.get_mut(&command_id) {
            Some(Remembered { outcome: Some(first), .. }) if is_final(first.status) => first.clone(),
            Some(known) => {
                known.outcome = Some(ack.clone());
                ack
            }
            None => ack,
        }
    }

    pub fn get(&self, command_id: CommandId) -> Option<&Remembered> {
        self.known.get(&command_id)
    }

    pub fn executions(&self, command_id: CommandId) -> u32 {
        self.get(command_id).map_or(0, |known| known.executions)
    }

    /// The outcomes reached since `since`, oldest first, at most `limit` of the newest.
    pub fn outcomes_since(&self, since: Timestamp, limit: usize) -> Vec<Ack> {
        let recent = self.order.iter().rev().filter_map(|id| self.known.get(id)?.outcome.as_ref());
        let mut outcomes: Vec<Ack> = recent.filter(|ack| ack.at >= since).take(limit).cloned().collect();
        outcomes.reverse();
        outcomes
    }

    pub fn iter(&self) -> impl Iterator<Item = (CommandId, &Remembered)> {
        self.order.iter().filter_map(|id| self.known.get(id).map(|known| (*id, known)))
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

pub fn is_final(status: AckStatus) -> bool {
    match status {
        AckStatus::Executing | AckStatus::PendingSafe => false,
        AckStatus::Succeeded | AckStatus::Failed | AckStatus::Rejected => true,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> CommandId {
        CommandId(Uuid::from_u128(number))
    }

    #[test]
    fn the_first_final_outcome_stays() {
        let mut memory = CommandMemory::default();
        assert!(memory.receive(id(1)).is_none());
        memory.settle(id(1), Timestamp(1), AckStatus::PendingSafe, None);
        memory.settle(id(1), Timestamp(2), AckStatus::Succeeded, None);
        let answer = memory.settle(id(1), Timestamp(3), AckStatus::Failed, Some(AckReason::Hardware));
        assert_eq!((answer.status, answer.at), (AckStatus::Succeeded, Timestamp(2)));
        let again = memory.receive(id(1)).expect("known");
        assert_eq!(again.receipts, 2);
        assert_eq!(again.outcome.as_ref().map(|ack| ack.status), Some(AckStatus::Succeeded));
    }

    #[test]
    fn the_oldest_is_forgotten_and_nothing_grows() {
        let mut memory = CommandMemory::default();
        for number in 0..3 * MAX_COMMANDS as u128 {
            memory.receive(id(number));
        }
        assert_eq!((memory.len(), memory.known.len()), (MAX_COMMANDS, MAX_COMMANDS));
        assert!(memory.get(id(0)).is_none());
    }

    #[test]
    fn only_recent_outcomes_are_told_again_and_in_order() {
        let mut memory = CommandMemory::default();
        for number in 0..10 {
            memory.receive(id(number));
            memory.settle(id(number), Timestamp(number as i64), AckStatus::Succeeded, None);
        }
        let times: Vec<i64> = memory.outcomes_since(Timestamp(4), 3).iter().map(|ack| ack.at.0).collect();
        assert_eq!(times, [7, 8, 9]);
    }
}
