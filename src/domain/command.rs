//! The ledger of orders to one car: what was asked, what is known of its fate.
//!
//! `succeeded` is said only when the car said so. Not knowing is a state of its own, `unknown`, and a late answer or
//! the car's next reported state may still settle it.

use serde::{Deserialize, Serialize};

use super::key::{KeyGrant, RevocationEffect};
use super::{CommandId, Function, KeyId, Malformed, Principal, Timestamp};

/// What is asked of the car. `event_ack` is not here: it answers the car and promises nothing to anybody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Order {
    Lock,
    Unlock,
    Locate,
    EnableFunction { function: Function },
    DisableFunction { function: Function },
    GrantKey { key: KeyGrant },
    RevokeKey { key_id: KeyId, generation: u32, effect: RevocationEffect },
    ReportState,
}

/// What an order is about: a newer one on the same subject supersedes an older one that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Doors,
    Horn,
    Function(Function),
    Key(KeyId),
    Report,
}

impl Order {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Locate => "locate",
            Self::EnableFunction { .. } => "enable_function",
            Self::DisableFunction { .. } => "disable_function",
            Self::GrantKey { .. } => "grant_key",
            Self::RevokeKey { .. } => "revoke_key",
            Self::ReportState => "report_state",
        }
    }

    pub fn subject(&self) -> Subject {
        match self {
            Self::Lock | Self::Unlock => Subject::Doors,
            Self::Locate => Subject::Horn,
            Self::EnableFunction { function } | Self::DisableFunction { function } => Subject::Function(*function),
            Self::GrantKey { key } => Subject::Key(key.key_id),
            Self::RevokeKey { key_id, .. } => Subject::Key(*key_id),
            Self::ReportState => Subject::Report,
        }
    }

    /// The function the car must have for this.
    pub fn needs(&self) -> Option<Function> {
        match self {
            Self::Lock => Some(Function::LockDoors),
            Self::Unlock => Some(Function::UnlockDoors),
            Self::Locate => Some(Function::Locate),
            Self::EnableFunction { function } | Self::DisableFunction { function } => Some(*function),
            Self::GrantKey { .. } | Self::RevokeKey { .. } | Self::ReportState => None,
        }
    }

    /// Would it stop a car on the road? Then it waits for a safe state, here and in the car.
    pub fn endangers_a_moving_car(&self) -> bool {
        match self {
            Self::DisableFunction { function } => {
                matches!(function, Function::Drive | Function::AccessoryPower)
            }
            Self::Lock
            | Self::Unlock
            | Self::Locate
            | Self::EnableFunction { .. }
            | Self::GrantKey { .. }
            // The car itself holds back the driving part of a revocation `at_safe_state`.
            | Self::RevokeKey { .. }
            | Self::ReportState => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    Accepted,
    Queued,
    Sent,
    Delivered,
    Executing,
    PendingSafe,
    Succeeded,
    Failed,
    Rejected,
    Expired,
    Cancelled,
    Superseded,
    Unknown,
}

impl CommandState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Executing => "executing",
            Self::PendingSafe => "pending_safe",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
        }
    }

    /// Nothing more will be done about it. `unknown` is final for a waiting caller, though a late answer may settle it.
    pub fn is_final(self) -> bool {
        match self {
            Self::Accepted | Self::Queued | Self::Sent | Self::Delivered | Self::Executing | Self::PendingSafe => false,
            Self::Succeeded
            | Self::Failed
            | Self::Rejected
            | Self::Expired
            | Self::Cancelled
            | Self::Superseded
            | Self::Unknown => true,
        }
    }
}

/// One order with what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub command_id: CommandId,
    pub order: Order,
    pub by: Principal,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub state: CommandState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It left the gateway at least once: the car may know of it.
    pub was_sent: bool,
    /// At most [`Command::MAX_HISTORY`]; repeated resends are not entered again.
    pub history: Vec<Passage>,
}

/// When a command came into a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    pub state: CommandState,
    pub at: Timestamp,
}

impl Command {
    pub const MAX_HISTORY: usize = 32;

    pub fn new(
        command_id: CommandId,
        order: Order,
        by: Principal,
        issued_at: Timestamp,
        expires_at: Timestamp,
    ) -> Self {
        Self {
            command_id,
            order,
            by,
            issued_at,
            expires_at,
            state: CommandState::Accepted,
            reason: None,
            was_sent: false,
            history: vec![Passage { state: CommandState::Accepted, at: issued_at }],
        }
    }

    /// Where a car's answer leads from here; `None` = it changes nothing (a duplicate, or the fate is known already).
    pub fn after_ack(&self, status: AckStatus) -> Option<CommandState> {
        let next = match status {
            AckStatus::Executing => CommandState::Executing,
            AckStatus::PendingSafe => CommandState::PendingSafe,
            AckStatus::Succeeded => CommandState::Succeeded,
            AckStatus::Failed => CommandState::Failed,
            AckStatus::Rejected => CommandState::Rejected,
        };
        let is_open = !self.state.is_final() || self.state == CommandState::Unknown;
        // A stale "executing" must not reopen what has an outcome, nor an unknown one.
        let moves_on = next != self.state && (next.is_final() || !self.state.is_final());
        (is_open && moves_on && self.was_sent).then_some(next)
    }

    /// It is still to be handed to the car's session.
    pub fn waits_to_be_sent(&self) -> bool {
        match self.state {
            CommandState::Accepted | CommandState::Queued => true,
            CommandState::PendingSafe => !self.was_sent,
            CommandState::Sent
            | CommandState::Delivered
            | CommandState::Executing
            | CommandState::Succeeded
            | CommandState::Failed
            | CommandState::Rejected
            | CommandState::Expired
            | CommandState::Cancelled
            | CommandState::Superseded
            | CommandState::Unknown => false,
        }
    }

    /// What becomes of it when its time is up.
    pub fn at_expiry(&self) -> CommandState {
        if self.was_sent { CommandState::Unknown } else { CommandState::Expired }
    }

    /// Enters a state; called by `apply` only.
    pub(super) fn enter(&mut self, state: CommandState, at: Timestamp, reason: Option<String>) {
        self.state = state;
        self.reason = reason;
        if state == CommandState::Sent {
            self.was_sent = true;
        }
        if self.history.len() < Self::MAX_HISTORY {
            self.history.push(Passage { state, at });
        } else if let Some(last) = self.history.last_mut() {
            *last = Passage { state, at };
        }
    }
}

/// A car's answer to a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    pub command_id: CommandId,
    pub at: Timestamp,
    pub status: AckStatus,
    pub reason: Option<AckReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckStatus {
    Executing,
    PendingSafe,
    Succeeded,
    Failed,
    Rejected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckReason {
    Unsupported,
    Expired,
    NotPermitted,
    Moving,
    IgnitionOn,
    Hardware,
    Duplicate,
}

impl AckReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Expired => "expired",
            Self::NotPermitted => "not_permitted",
            Self::Moving => "moving",
            Self::IgnitionOn => "ignition_on",
            Self::Hardware => "hardware",
            Self::Duplicate => "duplicate",
        }
    }
}

impl std::str::FromStr for AckReason {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        [
            Self::Unsupported,
            Self::Expired,
            Self::NotPermitted,
            Self::Moving,
            Self::IgnitionOn,
            Self::Hardware,
            Self::Duplicate,
        ]
        .into_iter()
        .find(|reason| reason.name() == text)
        .ok_or(Malformed("not a reason of an ack"))
    }
}

/// What goes down the wire to the car.
#[derive(Debug, Clone, PartialEq)]
pub enum ToCar {
    Command {
        command_id: CommandId,
        order: Order,
        issued_at: Timestamp,
        expires_at: Timestamp,
    },
    /// The fact with this number is durable; the car may forget it.
    EventAck {
        boot: u64,
        seq: u64,
        /// The gateway's clock when it said so, for a car to hold its own against.
        at: Option<Timestamp>,
    },
}

/// A fact from the car that must not be lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    pub boot: u64,
    pub seq: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub kind: FactKind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FactKind {
    KeyUsed {
        /// The key that was granted.
        key_id: KeyId,
        /// `None` when it was refused before a function was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        function: Option<Function>,
        outcome: KeyOutcome,
        /// The key that its holder made of it for somebody else, where that one was used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delegated_key_id: Option<KeyId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    Refuelled {
        level_before_percent: f64,
        level_after_percent: f64,
    },
    Ignition {
        on: bool,
    },
    Door {
        name: String,
        open: bool,
    },
    Tamper {
        what: String,
    },
    FuelCard {
        present: bool,
    },
    Boot {
        firmware: String,
        capabilities: Vec<Function>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tank_litres: Option<f64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyOutcome {
    Permitted,
    Refused,
}
